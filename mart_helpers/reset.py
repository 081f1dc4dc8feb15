"""Removes what the notebooks have generated, and nothing else."""

import re
import shutil
from itertools import chain
from pathlib import Path

from mart_helpers.errors import StateError
from mart_helpers.export import FORMATS, MANIFEST, named_in
from mart_helpers.pages import page_names
from mart_helpers.parameters import shown
from mart_helpers.report import REPORTS, VIOLATIONS, violations_in
from mart_helpers.run import run_folders
from mart_helpers.session import is_mart

# Beside the mart: DuckDB's log and overflow, unpublished builds, the marts before, the lock of a build.
SIBLING = re.compile(r"\.wal|\.tmp|\.candidate.*|\.previous.*|\.lock")


def generated(database: Path, data_dir: Path) -> list[Path]:
    """Files of the mart at `database`, and what its notebooks have written in `data_dir`.

    A folder is named as a whole where nothing else is in it. Raises StateError where `database` is
    something else than a mart.
    """
    if database.exists() and not is_mart(database):
        raise StateError(
            f"{shown(database)}: not a mart of ours, so nothing was removed. "
            "Give the path of the mart: --database data/mini_data_mart.duckdb"
        )
    beside = [
        each
        for each in _entries(database.parent)
        if each.name.startswith(database.name)
        and SIBLING.fullmatch(each.name.removeprefix(database.name))
    ]
    mart = [database] if database.is_file() or database.is_symlink() else []
    exports = [data_dir / kind.folder / MANIFEST for kind in FORMATS.values()]
    written = [
        *[_ours(each.parent, named_in(each) | {MANIFEST}) for each in exports],
        _ours(data_dir / "pages", page_names()),
        _reports(data_dir / "quality"),
        _ours(data_dir / "runs", {each.name for each in run_folders(data_dir / "runs")}),
    ]
    return [*sorted(mart + beside), *chain.from_iterable(written)]


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; of a link, the link alone.

    Raises StateError where it cannot be removed.
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


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _reports(folder: Path) -> list[Path]:
    """The quality reports in the folder, and the bad rows below it."""
    if folder.is_symlink():
        return []
    rows = _ours(folder / VIOLATIONS, violations_in(folder))
    if rows == [folder / VIOLATIONS]:
        return _ours(folder, {*REPORTS, VIOLATIONS})
    return [*rows, *_ours(folder, set(REPORTS))]


def _ours(folder: Path, names: set[str]) -> list[Path]:
    """What of `names` is in the folder; the folder itself where that is all it holds."""
    entries = _entries(folder) if not folder.is_symlink() else []
    ours = sorted(each for each in entries if each.name in names)
    return [folder] if ours and len(ours) == len(entries) else ours
