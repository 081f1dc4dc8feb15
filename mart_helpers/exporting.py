"""Tables of the mart as files for other programs, each folder with a manifest of what is in it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pandas as pd

from mart_helpers.errors import StateError, UsageError
from mart_helpers.files import whole_files
from mart_helpers.parameters import did_you_mean
from mart_helpers.project import resolve, shown
from mart_helpers.session import Session

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Format:
    """A kind of file: its folder in `data_dir`, its ending, and its options for DuckDB's `copy`."""

    folder: str
    ending: str
    options: str


FORMATS = {
    "csv": Format("CSV-export", "csv", "format csv, header true"),
    "json": Format("JSON-export", "json", "format json, array true"),
}


@dataclass(frozen=True)
class ExportedFile:
    """What a manifest says of one file; `rows` does not count the header."""

    file: str
    table: str
    rows: int
    bytes: int
    sha256: str


def export_tables(
    session: Session,
    relations: Mapping[str, str],
    formats: str,
    data_dir: str,
    start_date: str = "",
    end_date: str = "",
) -> pd.DataFrame:
    """Write the rows of each relation (a table or view) under the table name it is given for.

    `formats` are names of FORMATS with commas between them. The files are
    `<data_dir>/CSV-export/<table>.csv` (RFC 4180, UTF-8, a header; null is an empty field, empty text
    is `""`) and `<data_dir>/JSON-export/<table>.json` (an array of objects; a decimal is a number with
    all its digits), rows in the order of the relation. Text is written as it is: what a spreadsheet
    would take for a formula is not disarmed.

    Beside them, `manifest.json`: `format_version` 1, `build_id`, `start_date` and `end_date` as they
    were asked for (null: open), and `files`, each with file, table, rows, bytes and sha256. Files
    that the manifest before named and this one does not are removed; others are left alone. In a
    folder, no file is replaced before all are written, and the manifest comes last. The folder of a
    format not asked for stays as it is.

    The answer has one row a file: file (relative to `data_dir`), rows, bytes, sha256. Raises
    UsageError for an unknown format, StateError where a table cannot be read or written.
    """
    kinds = [FORMATS[name] for name in _format_names(formats)]
    about = {
        "format_version": MANIFEST_VERSION,
        "build_id": _build_id(session.connection),
        "start_date": start_date or None,
        "end_date": end_date or None,
    }
    exported = [
        {**asdict(each), "file": f"{kind.folder}/{each.file}"}
        for kind in kinds
        for each in _export_folder(session, relations, kind, resolve(data_dir), about)
    ]
    return pd.DataFrame(exported, columns=["file", "rows", "bytes", "sha256"])


def export_folders(data_dir: str | Path, formats: str) -> Iterator[Path]:
    """The folders that an export of these formats writes to. Raises UsageError for an unknown format.

    They are made up only as they are asked for: by then `open_mart` has checked the parameters.
    """
    yield from (resolve(data_dir) / FORMATS[name].folder for name in _format_names(formats))


def _format_names(formats: str) -> list[str]:
    names = [name.strip().lower() for name in formats.split(",")]
    for name in names:
        if name not in FORMATS:
            raise UsageError(
                f'formats: found "{name}", expected some of {", ".join(FORMATS)}, '
                f"separated by commas.{did_you_mean(name, FORMATS)}"
            )
    return list(dict.fromkeys(names))


def _build_id(connection: duckdb.DuckDBPyConnection) -> int | None:
    return connection.execute("select max(build_id) from build_log").fetchone()[0]


def _export_folder(
    session: Session,
    relations: Mapping[str, str],
    kind: Format,
    data_dir: Path,
    about: dict[str, object],
) -> list[ExportedFile]:
    manifest = data_dir / kind.folder / MANIFEST
    targets = [manifest.with_name(f"{table}.{kind.ending}") for table in relations]
    with whole_files([*targets, manifest]) as (*parts, manifest_part):
        exported = [
            _export_file(session.connection, table, relation, kind, part)
            for (table, relation), part in zip(relations.items(), parts, strict=True)
        ]
        files = [asdict(each) for each in sorted(exported, key=lambda each: each.file)]
        text = json.dumps({**about, "files": files}, indent=2, ensure_ascii=False, sort_keys=True)
        manifest_part.write_text(text + "\n", encoding="utf-8")
        # before the new manifest is in place: what it does not name, no later export would remove
        for name in named_in(manifest) - {target.name for target in targets}:
            manifest.with_name(name).unlink(missing_ok=True)
    return exported


def _export_file(
    connection: duckdb.DuckDBPyConnection, table: str, relation: str, kind: Format, part: Path
) -> ExportedFile:
    path = str(part).replace("'", "''")
    try:
        with _single_threaded(connection):
            # `part` is a temporary file already
            rows = connection.execute(
                f"copy (from {relation}) to '{path}' ({kind.options}, use_tmp_file false)"
            ).fetchone()[0]
    except duckdb.Error as error:
        raise StateError(
            f"{relation} cannot be exported to {shown(part.parent)}. Mend the name or the view, or make "
            f"room in the folder. DuckDB says: {error}"
        ) from error
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportedFile(f"{table}.{kind.ending}", table, rows, part.stat().st_size, digest)


@contextmanager
def _single_threaded(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One thread in the block, and none that writes in the background.

    Several threads hold rows back to keep their order: 10 million sales as JSON took 0.2 GB and 7.5 s
    with one, 1.1 GB and 9 s with two. Writers in the background let about every hundredth `copy` that
    fails hang for ever (DuckDB 2.0.0).
    """
    settings = "select current_setting('threads'), current_setting('async_threads')"
    threads, async_threads = connection.execute(settings).fetchone()
    _set_threads(connection, 1, 0)
    try:
        yield
    finally:
        _set_threads(connection, threads, async_threads)


def _set_threads(connection: duckdb.DuckDBPyConnection, threads: int, async_threads: int) -> None:
    connection.execute(f"set threads = {threads}")
    connection.execute(f"set async_threads = {async_threads}")


def named_in(manifest: Path) -> set[str]:
    """Files that an earlier export has left in the folder; none where its manifest is not one."""
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        names = {each["file"] for each in files}
        # a path would lead out of the folder, and is none of ours
        return {name for name in names if Path(name).name == name}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
