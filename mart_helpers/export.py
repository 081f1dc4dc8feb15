"""Tables of the mart as files for other programs, each folder with a manifest of what is in it."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb

from mart_helpers.errors import StateError
from mart_helpers.files import hashed_meanwhile, join_files, second_part, sha256_of, whole_files
from mart_helpers.frames import Rows
from mart_helpers.parameters import listed, resolve, shown
from mart_helpers.session import Session
from mart_helpers.texts import quoted

if TYPE_CHECKING:
    from mart_helpers.sheets import Sheet

MANIFEST = "manifest.json"

MANIFEST_VERSION = 1

_SHOWN_DIGITS = 12

_MANY_ROWS = 200_000

_KEEPING_ORDER = {"SEQ_SCAN", "FILTER", "PROJECTION"}


class Format(NamedTuple):
    """A kind of file: its folder in `data_dir`, its ending, and its options for DuckDB's `copy`.

    A kind without options is no matter of DuckDB, but one workbook for all tables. Of one with a `seam`,
    two files make one: the end of the first, what stands there instead, and the beginning of the second.
    """

    folder: str
    ending: str
    options: str = ""
    seam: tuple[bytes, bytes, bytes] | None = None


FORMATS = {
    "csv": Format("CSV-export", "csv", "format csv, header true"),
    "json": Format("JSON-export", "json", "format json, array true", (b"\n]\n", b",\n", b"[\n")),
    "ndjson": Format("NDJSON-export", "ndjson", "format json, array false", (b"", b"", b"")),
    "parquet": Format("Parquet-export", "parquet", "format parquet, compression zstd"),
    "xlsx": Format("Excel-export", "xlsx"),
}


class ExportedFile(NamedTuple):
    """What a manifest says of a table and its file; `rows` does not count the header.

    Several tables are in one workbook: each has the `sheet` of its name.
    """

    file: str
    table: str
    rows: int
    bytes: int
    sha256: str
    sheet: str | None = None

    def as_entry(self) -> dict[str, object]:
        """What the manifest holds: `sheet` only where there is one."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def export_tables(
    session: Session,
    relations: Mapping[str, str],
    formats: str,
    data_dir: str,
    start_date: str = "",
    end_date: str = "",
    tables: str = "",
) -> Rows:
    """Write the rows of each relation (a table or view) under the table name it is given for.

    `formats` are names of FORMATS with commas between them, `tables` likewise those to write, if not
    all. The files, below `data_dir`, with rows in the order of the relation:

    - `CSV-export/<table>.csv`: RFC 4180, UTF-8, a header; null is an empty field, empty text is `""`.
      Text is written as it is: what a spreadsheet would take for a formula is not disarmed.
    - `JSON-export/<table>.json`: an array of objects; a decimal is a number with all its digits.
    - `NDJSON-export/<table>.ndjson`: the same objects, one a line.
    - `Parquet-export/<table>.parquet`: the types of the mart, compressed with zstd;
      a HUGEINT, as sums of whole numbers are, is a `decimal(38, 0)`.
    - `Excel-export/<mart>.xlsx`: one workbook for the mart, a sheet a table. Dates, numbers and
      booleans are real ones, and text is text, also `007` and `=1+1`. What a cell would not give back
      is text as well: a whole number or decimal of more than 15 digits, a day before 1900-03-01 (from
      then on programs agree on them), a time finer than milliseconds. Null is no cell; empty text is a
      cell with an empty text, which looks the same, and for which ISBLANK is false.

    Beside them, `manifest.json`: `format_version` 1, `build_id`, `start_date` and `end_date` as they
    were asked for (null: open), and `files`, for each table its file, table, rows, bytes and sha256,
    and in a workbook its sheet. Files that the manifest before named and this one does not are removed;
    others are left alone. In a folder, no file is replaced before all are written, and the manifest
    comes last. The folder of a format not asked for stays as it is.

    The answer has one row a file: file (relative to `data_dir`), rows, bytes, and the first 12 digits
    of its sha256. Raises UsageError for an unknown format or table, StateError where a table cannot be
    read or written. A table that does not fit into a sheet is refused before anything is written in any
    format.
    """
    kinds = [FORMATS[name] for name in listed("formats", formats, FORMATS)]
    if tables:
        relations = {name: relations[name] for name in listed("tables", tables, relations)}
    about = {
        "format_version": MANIFEST_VERSION,
        "build_id": _build_id(session.connection),
        "start_date": start_date or None,
        "end_date": end_date or None,
    }
    folder = resolve(data_dir)
    sheets = _plan_sheets(session.connection, relations, folder) if FORMATS["xlsx"] in kinds else []
    written: dict[str, tuple] = {}
    for kind in kinds:
        for each in _export_folder(session, relations, sheets, kind, folder / kind.folder, about):
            file = f"{kind.folder}/{each.file}"
            _, rows_before, *_ = written.get(file, (file, 0))  # of other sheets
            written[file] = file, rows_before + each.rows, each.bytes, each.sha256[:_SHOWN_DIGITS]
    return Rows(["file", "rows", "bytes", "sha256"], list(written.values()))


def export_folders(data_dir: str | Path, formats: str) -> Iterator[Path]:
    """The folders that an export of these formats writes to. Raises UsageError for an unknown format.

    They are made up only as they are asked for: by then `open_mart` has checked the parameters.
    """
    yield from (resolve(data_dir) / FORMATS[name].folder for name in listed("formats", formats, FORMATS))


def _build_id(connection: duckdb.DuckDBPyConnection) -> int | None:
    return connection.execute("select max(build_id) from build_log").fetchone()[0]


def _export_folder(
    session: Session,
    relations: Mapping[str, str],
    sheets: list["Sheet"],
    kind: Format,
    folder: Path,
    about: dict[str, object],
) -> list[ExportedFile]:
    tables = relations if kind.options else [session.database.stem]
    targets = [folder / f"{name}.{kind.ending}" for name in tables]
    manifest = folder / MANIFEST
    with whole_files([*targets, manifest]) as (*parts, manifest_part):
        if kind.options:
            exported = _copy_tables(session.connection, relations, kind, parts)
        else:
            exported = _write_workbook(session.connection, sheets, targets[0].name, parts[0])
        files = [each.as_entry() for each in sorted(exported, key=lambda each: each.table)]
        text = json.dumps({**about, "files": files}, indent=2, ensure_ascii=False, sort_keys=True)
        manifest_part.write_text(text + "\n", encoding="utf-8")
        # before the new manifest is in place: what it does not name, no later export would remove
        for name in named_in(manifest) - {target.name for target in targets}:
            manifest.with_name(name).unlink(missing_ok=True)
    return exported


def _copy_tables(
    connection: duckdb.DuckDBPyConnection, relations: Mapping[str, str], kind: Format, parts: list[Path]
) -> list[ExportedFile]:
    """Copy each relation into its file, which is hashed as it grows."""
    exported = []
    for (table, relation), part in zip(relations.items(), parts, strict=True):
        with _in_words(relation, part.parent), hashed_meanwhile(part) as found:
            rows = _copy(connection, _select(connection, relation, kind), kind, part)
        exported.append(ExportedFile(f"{table}.{kind.ending}", table, rows, *found.result()))
    return exported


def _copy(connection: duckdb.DuckDBPyConnection, select: str, kind: Format, part: Path) -> int:
    """Copy the rows of the query into a file, and say how many those were."""
    is_scan = _is_scan(connection, select)
    with _foreground(connection, threads=None if is_scan and not kind.seam else 1):
        if is_scan and kind.seam:
            rows = connection.execute(f"select count(*) from ({select})").fetchone()[0]
            if rows > _MANY_ROWS and (twin := _twin(connection, select)):
                return _copy_halves(connection, twin, select, rows // 2, kind, part)
        return _copied(connection, select, kind, part)


def _copy_halves(
    connection: duckdb.DuckDBPyConnection,
    twin: duckdb.DuckDBPyConnection,
    select: str,
    half: int,
    kind: Format,
    part: Path,
) -> int:
    """Copy the rows of a scan by two sessions, each on a thread of its own."""
    with second_part(part) as rest, ThreadPoolExecutor(1) as pool:
        second = pool.submit(_copied, twin, f"{select} offset {half}", kind, rest)
        rows = _copied(connection, f"{select} limit {half}", kind, part) + second.result()
        join_files(part, rest, *kind.seam)
    return rows


def _copied(connection: duckdb.DuckDBPyConnection, select: str, kind: Format, part: Path) -> int:
    path = str(part).replace("'", "''")
    # `part` is a temporary file already
    copy = f"copy ({select}) to '{path}' ({kind.options}, use_tmp_file false)"
    return connection.execute(copy).fetchone()[0]


def _twin(connection: duckdb.DuckDBPyConnection, select: str) -> duckdb.DuckDBPyConnection | None:
    """A second session with the variables and temporary views of this one; None if that cannot be."""
    twin = connection.cursor()
    try:
        for name, value, type_ in connection.execute("from duckdb_variables()").fetchall():
            twin.execute(f"set variable {quoted(name)} = $value::{type_}", {"value": value})
        for (view,) in connection.execute(_TEMPORARY_VIEWS).fetchall():
            twin.execute(view)
        twin.execute(f"{select} limit 0")
    except duckdb.Error:
        return None
    return twin


def _select(connection: duckdb.DuckDBPyConnection, relation: str, kind: Format) -> str:
    """The rows of the relation; for Parquet, sums of whole numbers (HUGEINT) as decimals.

    Parquet has no whole numbers of 128 bits: DuckDB 2.0.0 would make binary floats of them.
    """
    if kind is not FORMATS["parquet"]:
        return f"from {relation}"
    columns = connection.execute(f"from {relation} limit 0").description
    huge = [quoted(name) for name, type, *_ in columns if type.id in ("hugeint", "uhugeint")]
    casts = ", ".join(f"{name}::decimal(38, 0) as {name}" for name in huge)
    return f"select * replace ({casts}) from {relation}" if huge else f"from {relation}"


def _plan_sheets(
    connection: duckdb.DuckDBPyConnection, relations: Mapping[str, str], folder: Path
) -> list["Sheet"]:
    from mart_helpers.sheets import plan_sheet, sheet_names

    sheets = []
    for (table, relation), name in zip(relations.items(), sheet_names(list(relations)), strict=True):
        with _in_words(relation, folder):
            sheets.append(plan_sheet(connection, table, relation, name))
    return sheets


def _write_workbook(
    connection: duckdb.DuckDBPyConnection, sheets: list["Sheet"], file: str, part: Path
) -> list[ExportedFile]:
    from mart_helpers.sheets import open_workbook, write_sheet

    with open_workbook(part) as workbook, _foreground(connection, threads=1):
        for sheet in sheets:
            with _in_words(sheet.relation, part.parent):
                write_sheet(connection, workbook, sheet)
    found = part.stat().st_size, sha256_of(part)
    return [ExportedFile(file, sheet.table, sheet.rows, *found, sheet.name) for sheet in sheets]


_TEMPORARY_VIEWS = "select sql from duckdb_views() where temporary and not internal order by view_oid"


@contextmanager
def _in_words(relation: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise StateError(
            f"{relation} cannot be exported to {shown(folder)}. Mend the name or the view, or make "
            f"room in the folder. DuckDB says: {error}"
        ) from error


def _is_scan(connection: duckdb.DuckDBPyConnection, select: str) -> bool:
    """Whether a query reads one table and no more. Only then do several threads keep the order of rows.

    Behind joins now and then a row is out of its place (DuckDB 2.0.0), and so each export another file.
    """
    steps = json.loads(connection.execute(f"explain (format json) {select}").fetchone()[1])
    while steps:
        (step,) = steps
        if step["name"] not in _KEEPING_ORDER:
            return False
        steps = step["children"]
    return True


@contextmanager
def _foreground(connection: duckdb.DuckDBPyConnection, threads: int | None) -> Iterator[None]:
    """So many threads in the block, if they are given, and none that writes in the background.

    Several threads hold rows back to keep their order: 10 million sales as JSON took 0.2 GB and 7.5 s
    with one, 1.1 GB and 9 s with two; so two sessions write a half each. Writers in the background let
    about every hundredth `copy` that fails hang for ever (DuckDB 2.0.0).
    """
    settings = "select current_setting('threads'), current_setting('async_threads')"
    usual, usual_async = connection.execute(settings).fetchone()
    _set_threads(connection, threads or usual, 0)
    try:
        yield
    finally:
        _set_threads(connection, usual, usual_async)


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
