"""Removes what the notebooks have generated, and nothing else."""

import re
import shutil
from itertools import chain
from pathlib import Path

from mart_helpers.errors import StateError
from mart_helpers.export import FORMATS, MANIFEST, named_in
from mart_helpers.lake import builds_in, lake_of
from mart_helpers.parameters import FIRST_MART, USUAL_MART, shown
from mart_helpers.report import HISTORY, REPORTS, VIOLATIONS, violations_in
from mart_helpers.run import run_folders
from mart_helpers.session import is_mart

# Endings after the mart's name: DuckDB's log and spill folder, an unpublished build, kept builds, lock.
_BESIDE = re.compile(r"(\.candidate)?(\.wal|\.tmp|\.rows)?|\.(previous|damaged)-[0-9]+(\.wal)?|\.lock")

# What a killed run leaves: unfinished files, and the rows of a workbook.
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part(\.rows)?")

# How files begin that could also be the user's own.
_PAGE, _HISTORY = b'<meta name="generator" content="Mini Data Mart">', b"build_id,built_at,check_name,"


def generated(database: Path, data_dir: Path) -> list[Path]:
    """Files of the mart at `database`, and the files that its notebooks wrote in `data_dir`.

    A folder with nothing else in it is listed as a whole. Raises StateError if `database` is not a mart.
    """
    if database.exists() and not is_mart(database):
        raise StateError(
            f"{shown(database)}: not a mart of ours, so nothing was removed. "
            "Give the path of the mart: --database data/mini_data_mart.duckdb"
        )
    first = database.with_name(Path(FIRST_MART).name)
    marts = (
        [database, first] if database.name == Path(USUAL_MART).name and is_mart(first) else [database]
    )
    mart = [
        each
        for each in (database.parent.iterdir() if database.parent.is_dir() else ())
        if any(_is_of(one, _UNFINISHED.sub(r"\1", each.name)) for one in marts)
        and (each.suffix in (".tmp", ".rows") or not each.is_dir())
    ]
    exports = [data_dir / kind.folder / MANIFEST for kind in FORMATS.values()]
    quality, runs = data_dir / "quality", data_dir / "runs"
    bad_rows = [] if quality.is_symlink() else _ours(quality / VIOLATIONS, violations_in(quality))
    has_only_ours = bad_rows == [quality / VIOLATIONS]
    written = [
        *[_ours(each.parent, named_in(each) | {MANIFEST}) for each in exports],
        _ours(data_dir / "pages", set()),
        _ours(data_dir / "exercises", {"mart.duckdb", "mart.duckdb.lock"}),
        [] if has_only_ours else bad_rows,
        _ours(quality, {*REPORTS, VIOLATIONS} if has_only_ours else {*REPORTS}),
        _ours(runs, {each.name for each in run_folders(runs)}),
    ]
    lakes = chain.from_iterable(map(_lake_files, map(lake_of, marts)))
    return [*sorted(mart), *lakes, *chain.from_iterable(written)]


def remove(path: Path) -> None:
    """Remove a file, a link (not what it points to), or a folder with everything in it.

    Raises StateError if it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(
            f"{shown(path)}: {error.strerror}. Make it writable, or remove it yourself."
        ) from error


def _lake_files(lake: Path) -> list[Path]:
    """The build folders and the link in a lake, or the lake itself if nothing else is in it."""
    builds = builds_in(lake)
    if lake.is_symlink():
        return [*builds, lake]
    return [lake] if builds and len(builds) == len([*lake.iterdir()]) else builds


def _is_of(database: Path, name: str) -> bool:
    return name.startswith(database.name) and bool(_BESIDE.fullmatch(name.removeprefix(database.name)))


def _ours(folder: Path, names: set[str]) -> list[Path]:
    """Files of these names in the folder, with its pages and unfinished files; none if it is a link.

    If nothing else is in the folder, the folder itself.
    """
    entries = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    ours = [each for each in entries if _is_ours(each, names)]
    return [folder] if ours and len(ours) == len(entries) else ours


def _is_ours(path: Path, names: set[str]) -> bool:
    if path.suffix == ".html" and path.is_file():
        return _PAGE in _beginning(path)
    if path.name == HISTORY and path.is_file():
        return _beginning(path).startswith(_HISTORY)
    return path.name in names or bool(_UNFINISHED.fullmatch(path.name))


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1000)
