"""Exports tables of the mart as files for other programs; each folder has a manifest of its files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import pandas as pd

from mart_helpers.books import build_facts
from mart_helpers.errors import StateError
from mart_helpers.files import sha256_of, whole_files
from mart_helpers.parameters import listed, resolve, shown
from mart_helpers.session import Session, current_database, last_build
from mart_helpers.sheets import (
    Sheet,
    open_workbook,
    plan_sheet,
    sheet_names,
    write_sheet,
    write_summary,
)
from mart_helpers.star import day_of, star_references
from mart_helpers.texts import in_words, literal, one_line, quoted
from mart_helpers.verdict import vouched

MANIFEST = "manifest.json"


class Format(NamedTuple):
    """A file format: its folder in `data_dir`, and its options for DuckDB's `copy`.

    The format without options is the workbook: one file for all tables, not written by DuckDB.
    """

    folder: str
    options: str = ""


FORMATS = {  # by the endings of their files
    "csv": Format("CSV-export", "format csv, header true"),
    "json": Format("JSON-export", "format json, array true"),
    "ndjson": Format("NDJSON-export", "format json, array false"),
    "parquet": Format("Parquet-export", "format parquet, compression zstd"),
    "xlsx": Format("Excel-export"),
}


def export_tables(
    session: Session,
    relations: Mapping[str, str],
    formats: str,
    data_dir: str,
    start_date: str = "",
    end_date: str = "",
    tables: str = "",
    currency: str = "",
    summary: Sequence[str] = (),
) -> pd.DataFrame:
    """Write each relation (a table or view) to files named after its table.

    `formats` lists names of FORMATS, separated by commas; `tables` lists the tables to write (empty:
    all). docs/command_line.md describes the files in `data_dir`; rows keep the order of the relation.
    CSV does not escape text that a spreadsheet would read as a formula. In Parquet a HUGEINT, the type
    of sums of whole numbers, becomes `decimal(38, 0)`. In a workbook a null has no cell, and an empty
    text has an empty cell; amounts have two decimals and the `currency`. Its first sheet is a summary:
    the build, the verdict of its quality report, and of the tables named in `summary` the first as
    figures, the second as a chart.

    `manifest.json` in each folder holds `format_version` 1, `build_id`, the requested `start_date` and
    `end_date` (null: open), and `files`: for each table its file, table, rows (without the header),
    bytes and sha256, and in a workbook its sheet. Files that only the previous manifest names are
    removed; other files stay. A folder gets all of its new files or none, the manifest last. The folders
    of other formats stay as they are.

    Returns one row per file: file (relative to `data_dir`), rows, bytes, and the first 12 digits of its
    sha256. Raises UsageError for an unknown format or table, StateError if a table cannot be read or
    written. A table that does not fit into a sheet is refused before any file is written.
    """
    endings = listed("formats", formats, FORMATS)
    if tables:
        relations = {name: relations[name] for name in listed("tables", tables, relations)}
    connection, folder = session.local, resolve(data_dir)
    about = {
        "format_version": 1,
        "build_id": last_build(connection, current_database(connection)) or None,
        "start_date": start_date or None,
        "end_date": end_date or None,
    }
    lines = [f"Sales from {start_date or 'the first'} to {end_date or 'the last'}"]
    lines += [f"Amounts in {currency}"] * bool(currency)
    written: list[dict] = []
    with _one_thread(connection):
        sheets = []  # planned before anything is written, since a table may be too large
        for (table, relation), name in zip(relations.items(), sheet_names(list(relations)), strict=True):
            if "xlsx" in endings:
                with _in_words(relation, folder):
                    sheets.append(plan_sheet(connection, table, relation, name, currency))
        for ending in endings:
            own, options = FORMATS[ending]
            names = [f"{stem}.{ending}" for stem in (relations if options else [session.database.stem])]
            with _whole_export(folder / own, names, about) as (parts, entries):
                if options:
                    for name, part, (table, relation) in zip(
                        names, parts, relations.items(), strict=True
                    ):
                        rows = _copy(connection, relation, part, options)
                        entries.append({"file": name, "table": table, "rows": rows})
                else:
                    _write_workbook(session, sheets, parts[0], summary, folder, lines)
                    entries += [
                        {"file": names[0], "table": each.table, "rows": each.rows, "sheet": each.name}
                        for each in sheets
                    ]
            written += [{**entry, "file": f"{own}/{entry['file']}"} for entry in entries]
    entries = pd.DataFrame(written, columns=["file", "rows", "bytes", "sha256"])
    files = entries.groupby("file", sort=False, as_index=False)  # the sheets of a workbook are one file
    exported = files.agg({"rows": "sum", "bytes": "first", "sha256": "first"})
    return exported.assign(sha256=exported["sha256"].str[:12])


def star_in_range(session: Session, start_date: str, end_date: str) -> dict[str, str]:
    """Each table of the star with its relation to export from `start_date` to `end_date` (ISO or empty).

    A dimension is exported as it is. A fact that refers to `dim_date` gets a temporary view
    `<fact>_in_range`; `day_of` decides which of its days counts. Rows without a known day are exported
    only if the range is open.
    """
    relations = {}
    for table, references in star_references(session.connection).items():
        relations[table] = table
        day = day_of(references)
        if table.startswith("fact_") and day:
            first, last = start_date.replace("-", "") or "0", end_date.replace("-", "") or "99991231"
            where = f" where {quoted(day)} between {first} and {last}" if start_date or end_date else ""
            relations[table] = f"{table}_in_range"
            session.connection.execute(
                f"create or replace temp view {quoted(relations[table])} as from {quoted(table)}{where}"
            )
    return relations


def export_folders(data_dir: str | Path, formats: str) -> Iterator[Path]:
    """The folders that an export of these formats writes to. Raises UsageError for an unknown format.

    This is a generator, so that `open_mart` can check the other parameters first.
    """
    yield from (resolve(data_dir) / FORMATS[name].folder for name in listed("formats", formats, FORMATS))


def named_in(manifest: Path) -> set[str]:
    """Names of the files that an export left next to its `manifest`; none if the manifest is damaged."""
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        names = {each["file"] for each in files}
        # a path would lead out of the folder, so we did not write it
        return {name for name in names if Path(name).name == name}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


@contextmanager
def _whole_export(
    folder: Path, names: Sequence[str], about: Mapping[str, object]
) -> Iterator[tuple[Sequence[Path], list[dict]]]:
    """Temporary files to write, and a list for the entries of the manifest, without bytes and hashes."""
    if odd := [name for name in names if Path(name).name != name]:
        raise StateError(
            f'"{one_line(Path(odd[0]).stem)}" cannot be the name of a file. Rename it in 01_build, or '
            "name the tables to export: tables."
        )
    manifest, entries = folder / MANIFEST, []
    files = [*(folder / name for name in names), manifest]
    with whole_files(files, lambda: [folder / name for name in named_in(manifest)]) as parts:
        yield parts[:-1], entries
        part_of = dict(zip(names, parts, strict=False))
        for entry in entries:
            part = part_of[entry["file"]]
            entry |= {"bytes": part.stat().st_size, "sha256": sha256_of(part)}
        text = {**about, "files": sorted(entries, key=lambda entry: entry["table"])}
        parts[-1].write_text(
            json.dumps(text, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
        )


def _copy(connection: duckdb.DuckDBPyConnection, relation: str, part: Path, options: str) -> int:
    """Write a relation to a file; returns its rows."""
    with _in_words(relation, part.parent):
        columns = "*"
        if "parquet" in options:  # Parquet has no 128-bit integers and would store floats
            described = connection.execute(f"from {quoted(relation)} limit 0").description
            huge = [quoted(name) for name, type_, *_ in described if "hugeint" in type_.id]
            casts = ", ".join(f"{name}::decimal(38, 0) as {name}" for name in huge)
            columns = f"* replace ({casts})" if huge else "*"
        # `part` is a temporary file already
        copy = f"copy (select {columns} from {quoted(relation)}) to {literal(part)}"
        return connection.execute(f"{copy} ({options}, use_tmp_file false)").fetchone()[0]


def _write_workbook(
    session: Session,
    sheets: Sequence[Sheet],
    part: Path,
    summary: Sequence[str],
    data_dir: Path,
    lines: Sequence[str],
) -> None:
    connection = session.local
    with open_workbook(part) as workbook:
        if summary:
            build = build_facts(connection)
            status, verdict = vouched(data_dir / "quality" / "quality_report.json", build)
            built = (build["built_at"] or "").replace("T", " ")[:16]
            when = f" of {built} (UTC)" * bool(built)
            title = in_words(session.database.stem).capitalize()
            lines = [title, verdict, *lines, f"Build {build['build_id']}{when}"]
            figures, drawn = (next((s for s in sheets if s.table == each), None) for each in summary)
            query = f"from {quoted(figures.relation)}" if figures else "select 0 as nothing where false"
            told = connection.execute(query).df().dropna(axis="columns", how="all")
            write_summary(workbook, lines, status, told, drawn)
        for sheet in sheets:
            with _in_words(sheet.relation, part.parent):
                write_sheet(connection, workbook, sheet)


@contextmanager
def _in_words(relation: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise StateError(
            f"{relation} cannot be exported to {shown(folder)}. Correct the name or the view, or free "
            f"space in the folder. DuckDB says: {error}"
        ) from error


@contextmanager
def _one_thread(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Use one thread within the block.

    After joins, several threads put some rows out of order. One thread costs little: for 10 million rows
    as CSV it takes 5.7 s of processor time and 0.2 GB of memory, two take 6.6 s and 0.6 GB.
    """
    (usual,) = connection.execute("select current_setting('threads')").fetchone()
    connection.execute("set threads = 1")
    try:
        yield
    finally:
        connection.execute(f"set threads = {usual}")
