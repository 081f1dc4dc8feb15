"""The files behind mappings, each as a table of text: `source.<name>` is the file or folder `<name>`.

A file is read when a statement first names its table. The table has the columns of the header, all text
(null if empty), the `line` on which a row begins, and for a folder also its `file`. Records that cannot
be read are left out; they go to quarantine with each table that is made from the file. This module
stores file and line as one number, the place of a row.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Column, Table
from mart_helpers.session import Session, current_database
from mart_helpers.sources import (
    FEWER_FIELDS,
    MORE_FIELDS,
    ROW_FAULT,
    Source,
    find_files,
    has_changed,
    open_source,
)
from mart_helpers.staging import SUSPECT, Part, Reading, Run, create_staging, origins, staging_of
from mart_helpers.texts import literal, quoted

SCHEMA = "source"

#: The place of a row: the position of its file in the folder, and its line.
PLACE = Column(" origin", "BIGINT", False, None)

#: The column of places in SQL.
ORIGIN = quoted(PLACE.name)

_LINE_BITS = 40

_NAMED = re.compile(rf'(?:\bfrom|\bjoin|,)\s+"?{SCHEMA}"?\s*\.\s*("(?:[^"]|"")+"|\w+)', re.IGNORECASE)

#: Whether a faulty record is read all the same: a mapping may leave out a row with too few fields.
IS_READ = f"({SUSPECT} in ({literal(FEWER_FIELDS)}, {literal(MORE_FIELDS)}))"

_COMMENT = re.compile(r"--[^\n]*")


class Raw(NamedTuple):
    """A file or folder that was read: its `sources`, how many `records` each has, and its columns."""

    name: str
    sources: Sequence[Source]
    is_folder: bool
    table: Table
    records: Counter[str]
    runs: Sequence[Run]

    @property
    def staged(self) -> str:
        """The SQL name of the table with all records, including those that cannot be read."""
        return staging_of(self.table.name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the header, or of all headers."""
        return self.table.column_names[1:]

    def faulty_sql(self, where: str = "true") -> str:
        """A query for the place and `ROW_FAULT` of faulty records, whether or not `IS_READ`."""
        return (
            f"select {ORIGIN}, {SUSPECT} as {ROW_FAULT} "
            f"from {self.staged} where {SUSPECT} is not null and {where}"
        )

    def place_sql(self, file: str, line: str) -> str:
        """SQL for the place of a row, from SQL for its file and its line."""
        if not self.is_folder:
            return f"{line}::bigint"
        names = ", ".join(literal(source.name) for source in self.sources)
        return f"((list_position([{names}], {file}) - 1)::bigint << {_LINE_BITS}) + {line}::bigint"

    def located(self, place: int) -> str:
        """A place in words."""
        source = self.sources[place >> _LINE_BITS]
        return f"{source.name} line {place & (1 << _LINE_BITS) - 1}"

    def records_sql(self, staged: str) -> str:
        """A query for the rows of the table `staged` and their records, joined by place."""
        return (
            f"select made.rowid as row_id, raw.rowid as record from {staged} as made "
            f"inner join {self.staged} as raw using ({ORIGIN})"
        )

    def numbers(
        self, connection: duckdb.DuckDBPyConnection, source: Source, places: Sequence[int]
    ) -> dict[int, int]:
        """The record numbers in a source of those places that are in it."""
        found = connection.execute(
            f"select rowid, {ORIGIN} from {self.staged} "
            f"where {ORIGIN} in (select unnest($places::bigint[])) order by rowid",
            {"places": list(places)},
        ).fetchall()
        records = zip(found, origins(self.runs, (row for row, _ in found)), strict=True)
        return {place: number for (_, place), (origin, number) in records if origin is source}

    def left_out(self, connection: duckdb.DuckDBPyConnection, staged: str) -> Counter[str]:
        """How many records of each source have no row at their place in `staged`."""
        found = connection.execute(
            f"select {ORIGIN} >> {_LINE_BITS}, count(*) from {self.staged} "
            f"anti join {staged} using ({ORIGIN}) group by all"
        )
        return Counter({self.sources[file].name: rows for file, rows in found.fetchall()})


def keep_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """Keep the columns of the files that were read in the mart, so that views of them stay readable."""
    views = connection.execute(f"select view_name from duckdb_views() where database_name = '{SCHEMA}'")
    for (name,) in views.fetchall():
        table = f"{quoted(current_database(connection))}.{SCHEMA}.{quoted(name)}"
        connection.execute(f"""
            create schema if not exists {quoted(current_database(connection))}.{SCHEMA};
            create or replace table {table} as from {SCHEMA}.main.{quoted(name)} limit 0;
            comment on table {table} is 'columns of a file that mappings read; no rows'
        """)


class RawFiles:
    """Reads the files of `inputs_dir` as tables of text, for a session."""

    def __init__(self, session: Session, inputs_dir: Path) -> None:
        self._session, self._inputs_dir = session, inputs_dir
        self._read: dict[str, Raw] = {}

    def read_named(self, sql: str) -> None:
        """Read the files whose tables a statement names."""
        for name in _NAMED.findall(_COMMENT.sub("", sql)):
            self[name[1:-1].replace('""', '"') if name[0] == '"' else name]

    def __getitem__(self, name: str) -> Raw:
        """The file or folder called `name`, read again if it has changed.

        Raises InputError if there is none or it has a fault.
        """
        raw = self._read.get(name.lower())
        if not raw or any(map(has_changed, raw.sources)):
            raw = self._read[name.lower()] = self._open(name)
        return raw

    def _open(self, name: str) -> Raw:
        paths = find_files(self._inputs_dir, name)
        sources = [*map(open_source, paths)]
        columns = {field.lower(): field for source in reversed(sources) for field in source.fields}
        sources = [
            source._replace(fields=tuple(columns[field.lower()] for field in source.fields))
            for source in sources
        ]
        ordered = dict.fromkeys(field for source in sources for field in source.fields)
        names = [PLACE, *(Column(field, "VARCHAR", False, None) for field in ordered)]
        table = Table(f" text of {name}", tuple(names))
        is_folder = paths[0].path.parent != self._inputs_dir
        create_staging(self._session.connection, table)
        reading = Reading(self._session, table, lambda *rows: self._fill(table, sources, *rows))
        for source in sources:  # one by one, since a batch comes from one file
            reading.read_all([source])
        raw = Raw(name, sources, is_folder, table, reading.records(sources), reading.runs)
        self._show(raw)
        return raw

    def _fill(self, table: Table, sources: list[Source], rows: str, batch: Sequence[Part]) -> int:
        """Add the rows unchanged, each with its place and the fault of the row as a whole."""
        source, fields = batch[0][0], batch[0][0].fields
        texts = ", ".join(f"nullif({quoted(field)}, '')" for field in fields)
        file = next(n for n, each in enumerate(sources) if each is source)
        lines = [line for _, block in batch for line in block.lines()]
        place, listed = f"{(file << _LINE_BITS) + lines[0] - 1} + row_number() over ()", {}
        if lines[-1] - lines[0] >= len(lines):  # some lines are no rows
            place = f"{file << _LINE_BITS} + list_extract($lines::bigint[], row_number() over ())"
            listed = {"lines": lines}
        added = self._session.connection.execute(
            f"insert into {staging_of(table.name)} "
            f"({', '.join(map(quoted, (PLACE.name, *fields)))}, {SUSPECT}) "
            f"select {place}, {texts}, {ROW_FAULT} from ({rows})",
            listed,
        )
        return added.fetchone()[0]

    def _show(self, raw: Raw) -> None:
        """Make the view `source.<name>` of the readable records."""
        where = f"{ORIGIN} as line"
        if raw.is_folder:
            names = ", ".join(literal(source.name) for source in raw.sources)
            where = (
                f"list_extract([{names}], ({ORIGIN} >> {_LINE_BITS}) + 1) as file, "
                f"{ORIGIN} & {(1 << _LINE_BITS) - 1} as line"
            )
        columns = ", ".join(map(quoted, raw.columns))
        self._session.connection.execute(
            f"create or replace view {SCHEMA}.main.{quoted(raw.name)} as "
            f"select {where}, {columns} from {raw.staged} where {SUSPECT} is null or {IS_READ}"
        )
