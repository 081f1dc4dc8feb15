"""The files behind mappings, each as a table of text: `source.<name>` is the file or folder `<name>`.

A file is read when a statement first names its table. Next to the columns of its header, all text and
null where empty, the table has the `line` on which a row begins, and if it is a folder its `file`.
Records that cannot be read are not shown there; they go to quarantine with each table that is made of
the file. Within this room file and line are one number, the place of a row.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Column, Table
from mart_helpers.quarantine import Loaded
from mart_helpers.reading import Reading
from mart_helpers.session import Session
from mart_helpers.sources import (
    ROW_FAULT,
    Part,
    Source,
    find_files,
    open_as_it_is,
    records_of,
    state_of,
)
from mart_helpers.staging import SUSPECT, create_staging, staging_of
from mart_helpers.texts import literal, quoted

SCHEMA = "source"

#: Where a row stands: the position of its file among those of its folder, and its line.
PLACE = Column(" origin", "BIGINT", False, None)

_LINE_BITS = 40

_NAMED = re.compile(rf'(?:\bfrom|\bjoin|,)\s+"?{SCHEMA}"?\s*\.\s*("(?:[^"]|"")+"|\w+)', re.IGNORECASE)

#: Whether a record is read all the same: a row with too few fields is one that a mapping may leave out.
IS_READ = f"(json_extract_string({SUSPECT}, '$[0]') is not null)"

_COMMENT = re.compile(r"--[^\n]*")


class Raw(NamedTuple):
    """A file or folder that was read: its `sources`, how many `records` each has, and its columns."""

    name: str
    sources: Sequence[Source]
    states: list[object]
    is_folder: bool
    table: Table
    records: Counter[str]
    loaded: Sequence[Loaded]

    @property
    def staged(self) -> str:
        """The table with all records, those that cannot be read among them, as SQL names it."""
        return staging_of(self.table.name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the header, or of all headers."""
        return self.table.column_names[1:]

    def faulty_sql(self, where: str = "true") -> str:
        """A query for place and `ROW_FAULT` of records that are no sound rows, `IS_READ` or not."""
        return (
            f"select {quoted(PLACE.name)}, json_extract_string({SUSPECT}, '$[#-1]') as {ROW_FAULT} "
            f"from {self.staged} where {SUSPECT} is not null and {where}"
        )

    def place_sql(self, file: str, line: str) -> str:
        """SQL for the place of a row whose file and line are given in SQL."""
        if not self.is_folder:
            return f"{line}::bigint"
        names = ", ".join(literal(source.name) for source in self.sources)
        return f"((list_position([{names}], {file}) - 1)::bigint << {_LINE_BITS}) + {line}::bigint"

    def located(self, place: int) -> str:
        """A place in words."""
        source = self.sources[place >> _LINE_BITS]
        return f"{source.name} line {place & (1 << _LINE_BITS) - 1}"

    def origins(
        self, connection: duckdb.DuckDBPyConnection, places: Sequence[int]
    ) -> Iterator[tuple[int, Source, int]]:
        """These places, each with source and number of its record, in the order of the records."""
        found = connection.execute(
            f"select rowid, {quoted(PLACE.name)} from {self.staged} "
            f"where {quoted(PLACE.name)} in (select unnest($places::bigint[])) order by rowid",
            {"places": list(places)},
        )
        place_of = dict(found.fetchall())
        for batch in self.loaded:
            behind = batch.first_row + batch.rows
            row_ids = [row_id for row_id in place_of if batch.first_row <= row_id < behind]
            for row_id, source, number in batch.origins(row_ids):
                yield place_of[row_id], source, number

    def left_out(self, connection: duckdb.DuckDBPyConnection, staged: str) -> Counter[str]:
        """How many records of each source have no row in `staged`, whose rows know their places."""
        place = quoted(PLACE.name)
        found = connection.execute(
            f"select {place} >> {_LINE_BITS}, count(*) from {self.staged} "
            f"anti join {staged} using ({place}) group by all"
        )
        return Counter({self.sources[file].name: rows for file, rows in found.fetchall()})


def keep_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """Have a mart whose mappings name files keep the columns of these, so that its views can be read."""
    mart, mappings = connection.execute(_MAPPINGS).fetchone()
    views = connection.execute(f"select view_name from duckdb_views() where database_name = '{SCHEMA}'")
    for (name,) in views.fetchall() if mappings else ():
        table = f"{quoted(mart)}.{SCHEMA}.{quoted(name)}"
        connection.execute(f"create schema if not exists {quoted(mart)}.{SCHEMA}")
        connection.execute(
            f"create or replace table {table} as from {SCHEMA}.main.{quoted(name)} limit 0"
        )
        connection.execute(
            f"comment on table {table} is 'columns of a file that mappings read; no rows'"
        )


_MAPPINGS = """
select current_database(), count(*)
from duckdb_views()
where database_name = current_database() and schema_name = 'mapping'
"""


class MadeRows(NamedTuple):
    """The rows of a staging table that a mapping has made, as `Loaded` has those of a file."""

    connection: duckdb.DuckDBPyConnection
    raw: Raw
    staged: str
    rows: int
    first_row: int = 0

    def origins(self, row_ids: Sequence[int]) -> Iterator[tuple[int, Source, int]]:
        """These `row_ids`, each with source and number of its record, in the order of the records."""
        found = self.connection.execute(
            f"select {quoted(PLACE.name)}, rowid from {self.staged} "
            "where rowid in (select unnest($row_ids::bigint[]))",
            {"row_ids": list(row_ids)},
        )
        row_of = dict(found.fetchall())
        for place, source, number in self.raw.origins(self.connection, [*row_of]):
            yield row_of[place], source, number


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
        """The file or folder called `name`, read anew if it has changed.

        Raises InputError if there is none, or it is unsound.
        """
        raw = self._read.get(name.lower())
        if not raw or [*map(state_of, raw.sources)] != raw.states:
            raw = self._read[name.lower()] = self._open(name)
        return raw

    def _open(self, name: str) -> Raw:
        paths = find_files(self._inputs_dir, name)
        sources = [*map(open_as_it_is, paths)]
        states = [state_of(source) for source in sources]
        columns = {field.lower(): field for source in reversed(sources) for field in source.fields}
        sources = [
            source._replace(fields=tuple(columns[field.lower()] for field in source.fields))
            for source in sources
        ]
        ordered = dict.fromkeys(field for source in sources for field in source.fields)
        table = Table(
            f" text of {name}",
            (PLACE, *(Column(field, "VARCHAR", False, None) for field in ordered)),
            (),
            (),
            (),
            (),
        )
        is_folder = paths[0].path.parent != self._inputs_dir
        create_staging(self._session.connection, table)
        reading = _TextReading(self._session, table, sources)
        for source in sources:  # each by itself: a batch is of one file
            reading.read_all([source])
        raw = Raw(name, sources, states, is_folder, table, reading.records(sources), reading.loaded)
        self._show(raw)
        return raw

    def _show(self, raw: Raw) -> None:
        """Make the view `source.<name>` of what can be read."""
        place = quoted(PLACE.name)
        where = f"{place} as line"
        if raw.is_folder:
            names = ", ".join(literal(source.name) for source in raw.sources)
            where = (
                f"list_extract([{names}], ({place} >> {_LINE_BITS}) + 1) as file, "
                f"{place} & {(1 << _LINE_BITS) - 1} as line"
            )
        columns = ", ".join(map(quoted, raw.columns))
        self._session.connection.execute(
            f"create or replace view {SCHEMA}.main.{quoted(raw.name)} as "
            f"select {where}, {columns} from {raw.staged} where {SUSPECT} is null or {IS_READ}"
        )


class _TextReading(Reading):
    """Reading records as they are, each with its place."""

    def __init__(self, session: Session, table: Table, sources: Sequence[Source]) -> None:
        super().__init__(session, table)
        self._sources = sources

    def _fill_rows(self, rows: str, batch: Sequence[Part]) -> None:
        fields = batch[0].source.fields
        names = ", ".join(map(quoted, (PLACE.name, *fields)))
        texts = ", ".join(f"nullif({quoted(field)}, '')" for field in fields)
        told = ", ".join(["'read'", *("null" for _ in fields), ROW_FAULT])
        first = self._places(batch)[0]
        self._connection.execute(
            f"insert into {self._staged} ({names}, {SUSPECT}) "
            f"select {first - 1} + row_number() over (), {texts}, case when {ROW_FAULT} is not null "
            f"then to_json([{told}])::varchar end from ({rows})"
        )

    def _complete(self, batch: Sequence[Part], loaded: Loaded) -> None:
        super()._complete(batch, loaded)
        places = self._places(batch)
        unread = [places[ordinal] for ordinal in loaded.unread]
        if not unread and isinstance(places, range):
            return
        is_unread = {*loaded.unread}
        read = [place for ordinal, place in enumerate(places) if ordinal not in is_unread]
        self._connection.execute(
            f"update {self._staged} set {quoted(PLACE.name)} = "
            f"list_extract($places::bigint[], rowid - {loaded.first_row} + 1) "
            f"where rowid >= {loaded.first_row}",
            {"places": read + unread},
        )

    def _places(self, batch: Sequence[Part]) -> Sequence[int]:
        """The places of the records of a batch."""
        file = next(n for n, each in enumerate(self._sources) if each is batch[0].source)
        lines = [
            part.block.lines() if part.block else range(part.first, part.first + part.count)
            for part in batch
        ]
        first = (file << _LINE_BITS) + lines[0][0]
        steps = pairwise(lines)
        if all(isinstance(each, range) for each in lines) and all(a[-1] + 1 == b[0] for a, b in steps):
            return range(first, first + records_of(batch))
        return [(file << _LINE_BITS) + line for line in chain.from_iterable(lines)]
