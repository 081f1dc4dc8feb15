"""Where a row of the mart comes from: its lines in the inputs, and what of it was set aside.

The mart remembers no lines, so they are found again: a source is read once for the key column alone.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Table, cast_sql, declared_tables, id_sql, read_contract
from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.files import sha256_of
from mart_helpers.parameters import shown
from mart_helpers.records import REJECTED_AT, Located
from mart_helpers.session import current_database, has_table, open_published
from mart_helpers.sources import SEED_ROWS, CsvFile, Source, find_sources, read_rows
from mart_helpers.texts import aligned, did_you_mean

_MOST = 20  # of each kind are shown; the others are counted

_LONGEST_TEXT = 10_000

_LONGEST_KEY_TO_MEND = 60

_EMPTY = "(empty)"

Row = dict[str, str | None]


class _Wanted(NamedTuple):
    """The key looked for, among those of a declared table."""

    table: Table
    key: str

    @property
    def words(self) -> str:
        return f'{self.table.key} "{_plain(self.key)}"'

    def matches_sql(self, text: str) -> str:
        """SQL for whether the text expression `text` is the key `$key`, read as its declared type."""
        (kind,) = (column.type for column in self.table.columns if column.name == self.table.key)
        if kind == "VARCHAR":
            return f"{text} = $key"
        return f"({text} = $key or {cast_sql(text, kind)} = {cast_sql('$key::varchar', kind)})"


class _Input(NamedTuple):
    """An input file as the latest build read it."""

    file: str
    bytes: int
    sha256: str


class _Build(NamedTuple):
    """The latest build, and what it read for the table."""

    number: int
    inputs: tuple[_Input, ...]

    @property
    def is_from_seed(self) -> bool:
        return [each.file for each in self.inputs] == [SEED_ROWS]


class _Found(NamedTuple):
    """Texts to show, of `total` that there are."""

    texts: Sequence[str]
    total: int


def trace(database: Path, table_name: str, key: str, inputs_dir: Path) -> str:
    """Where the row of `table_name` with the natural key `key` comes from, as plain text.

    Four parts: the row in the mart with the dimension rows it points to; its lines in the sources that
    are in `inputs_dir` now; its entries in `quarantine`; and whether those files are still as the latest
    build read them. Of each at most 20 are shown, the others are counted. Raises UsageError for a table
    that is not declared and an empty key, StateError where the key is nowhere or there is no mart.
    """
    with open_published(database) as connection:
        try:
            wanted = _wanted(connection, database, table_name, key)
            return _traced(connection, database, wanted, inputs_dir)
        except duckdb.Error as error:
            raise StateError(
                f"{shown(database)}: cannot be traced in; `python -m mart build` makes it anew. "
                f"DuckDB says: {error}"
            ) from error


def origins(
    connection: duckdb.DuckDBPyConnection, table_name: str, keys: list[str], inputs_dir: Path
) -> dict[str, tuple[str, int]]:
    """File and physical line of the first record of each of the `keys` of an input.

    Only files that are as the latest build read them are looked into. Keys that are not found there, as
    those of seed rows, are left out.
    """
    table = read_contract(connection, table_name)
    build = _latest_build(connection, table)
    read = {each.file: each for each in build.inputs}
    found: dict[str, tuple[str, int]] = {}
    for source in _sources(inputs_dir, table, build)[0]:
        if source.name in read and _is_same(inputs_dir / source.name, read[source.name]):
            found = _first_places(source, table, keys) | found
    return found


def _first_places(source: Source, table: Table, keys: list[str]) -> dict[str, tuple[str, int]]:
    sql = """
        with keys as (select row_number() over () - 1 as ordinal, {key} as key_text from ({rows}))
        select key_text, min(ordinal) from keys where list_contains($keys, key_text) group by key_text
    """
    with duckdb.connect() as session:
        found = read_rows(
            source,
            lambda rows: session.execute(
                sql.format(key=id_sql(table.key), rows=rows), {"keys": keys}
            ).fetchall(),
        )
        places, _ = source.locate([ordinal for _, ordinal in found], _rejected_at(session))
    return {key: (source.name, place.line) for (key, _), place in zip(found, places, strict=True)}


def _wanted(connection: duckdb.DuckDBPyConnection, database: Path, table_name: str, key: str) -> _Wanted:
    declared = declared_tables(connection)
    if not declared:
        raise StateError(
            f"{shown(database)}: declares no inputs, so 01_build did not make it. "
            "Give --database the mart."
        )
    if table_name not in declared:
        is_ours = has_table(connection, current_database(connection), table_name)
        raise UsageError(
            f'TABLE: found "{table_name}", which is no declared input'
            f"{' but made by 01_build.' if is_ours else f'.{did_you_mean(table_name, declared)}'} "
            f"Expected one of {', '.join(declared)}."
        )
    table = read_contract(connection, table_name)
    key = key.strip()
    if not key:
        raise UsageError(f'KEY: found "", expected a {table.key} of {table_name}.')
    return _Wanted(table, key)


def _traced(
    connection: duckdb.DuckDBPyConnection, database: Path, wanted: _Wanted, inputs_dir: Path
) -> str:
    build = _latest_build(connection, wanted.table)
    mart = f"{shown(database)}, build {build.number}"
    sources, trouble = _sources(inputs_dir, wanted.table, build)
    rows = _in_mart(connection, wanted)
    lines, unread = _in_inputs(sources, wanted, inputs_dir)
    trouble = trouble or unread
    entries = _in_quarantine(connection, wanted, sources)
    if not rows.total + lines.total + entries.total:
        _refuse_unknown_key(connection, wanted, mart, _names_of(build, sources, inputs_dir), trouble)
    parts = [
        f"{wanted.table.name}, {wanted.words}",
        _part(f"mart: {mart}", rows, "no row has this key"),
        _inputs_part(build, lines, trouble),
        _part("quarantine", entries, "nothing was set aside"),
        *_states_part(build, sources, inputs_dir),
    ]
    return "\n\n".join(parts)


def _part(title: str, found: _Found, otherwise: str) -> str:
    texts = list(found.texts) or [f"  {otherwise}"]
    if found.total > len(found.texts):
        texts.append(f"  and {found.total - len(found.texts):,} more")
    return "\n".join([title, *texts])


def _inputs_part(build: _Build, lines: _Found, trouble: str) -> str:
    if build.is_from_seed:
        return f"inputs\n  none: build {build.number} took this table from the seed rows of 01_build"
    if trouble and not lines.total:
        return f"inputs\n  {trouble}"
    found = _part("inputs", lines, "no row has this key")
    return f"{found}\n  {trouble}" if trouble else found


def _states_part(build: _Build, sources: list[Source], inputs_dir: Path) -> list[str]:
    """What became of the files since the build; seed rows have none."""
    if build.is_from_seed:
        return []
    states = [f"  {state}" for state in _file_states(build, sources, inputs_dir)]
    return ["\n".join([f"since build {build.number}", *states])]


def _latest_build(connection: duckdb.DuckDBPyConnection, table: Table) -> _Build:
    (number,) = connection.execute("select coalesce(max(build_id), 0) from build_inputs").fetchone()
    inputs = connection.execute(
        "select file, bytes, sha256 from build_inputs "
        "where build_id = ? and table_name = ? order by file",
        [number, table.name],
    )
    return _Build(number, tuple(_Input(*row) for row in inputs.fetchall()))


def _sources(inputs_dir: Path, table: Table, build: _Build) -> tuple[list[Source], str]:
    """The sources there are now, or why they cannot be taken; none where the build used seed rows."""
    if build.is_from_seed:
        return [], ""
    try:
        return find_sources(inputs_dir, table), ""
    except InputError as error:
        return [], str(error)


def _in_mart(connection: duckdb.DuckDBPyConnection, wanted: _Wanted) -> _Found:
    """The rows of the mart with the key, each with the dimension rows that it points to."""
    name, key = wanted.table.name, wanted.table.key
    if key not in _columns(connection, name):
        return _Found([], 0)
    where = wanted.matches_sql(f'"{key}"::varchar')
    rows = _rows(connection, name, where, {"key": wanted.key})
    count = f'select count(*) from main."{name}" where {where}'
    (total,) = connection.execute(count, {"key": wanted.key}).fetchone()
    return _Found([_with_dimensions(connection, name, row) for row in rows], total)


def _with_dimensions(connection: duckdb.DuckDBPyConnection, table: str, row: Row) -> str:
    """A row's values, and below them those of each `dim_<thing>` that a `<thing>_key` points to."""
    texts = [_listed(row.items(), "  ")]
    for column, value in row.items():
        dimension = f"dim_{column.removesuffix('_key')}"
        if not column.endswith("_key") or dimension == table:
            continue
        if column in _columns(connection, dimension):
            where = f'"{column}"::varchar = $value'
            for member in _rows(connection, dimension, where, {"value": value}):
                del member[column]
                texts.append(f"  {dimension}, {column} {value}\n{_listed(member.items(), '    ')}")
    return "\n".join(texts)


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """Names of the columns of a table of the star; none where there is no such table."""
    rows = connection.execute(
        "select column_name from duckdb_columns() where database_name = current_database() "
        "and schema_name = 'main' and table_name = ? order by column_index",
        [table],
    )
    return [name for (name,) in rows.fetchall()]


def _rows(
    connection: duckdb.DuckDBPyConnection, table: str, where: str, values: dict[str, str | None]
) -> list[Row]:
    names = _columns(connection, table)
    texts = ", ".join(f'"{name}"::varchar' for name in names)
    sql = f'select {texts} from main."{table}" where {where} order by all limit {_MOST}'
    return [dict(zip(names, row, strict=True)) for row in connection.execute(sql, values).fetchall()]


def _in_inputs(sources: list[Source], wanted: _Wanted, inputs_dir: Path) -> tuple[_Found, str]:
    """The records with the key in all sources, and what kept a source from being read, if anything."""
    texts: list[str] = []
    total, trouble = 0, ""
    for source in sources:
        try:
            places, count = _places(source, wanted)
        except (InputError, duckdb.Error) as error:
            trouble = f"{shown(inputs_dir / source.name)} cannot be read: {_plain(str(error))}"
            continue
        total += count
        file = shown(inputs_dir / source.name)
        texts += [f"  {_place(file, place.line)}\n    {_plain(place.raw)}" for place in places]
    return _Found(texts[:_MOST], total), trouble


def _places(source: Source, wanted: _Wanted) -> tuple[list[Located], int]:
    """The first records of a source that have the key, in its order, and how many have it.

    Records that the reader refuses count too: their fields are told apart as well as may be.
    """
    with duckdb.connect() as session:
        # all is fetched, though it is one row: until a read has ended, DuckDB shows no rejects of it
        ((total, ordinals),) = read_rows(
            source,
            lambda rows: session.execute(_ordinals_sql(rows, wanted), {"key": wanted.key}).fetchall(),
        )
        rejected_at = _rejected_at(session)
    if not total and not rejected_at:
        return [], 0
    rows, refused = source.locate(ordinals or [], rejected_at)
    named = {place.number: place for place in refused if _has_key(place.raw, wanted, source)}
    places = sorted([*rows, *named.values()], key=lambda place: place.number)
    return places[:_MOST], total + len(named)


def _ordinals_sql(rows_sql: str, wanted: _Wanted) -> str:
    # of a key that millions of rows repeat only the first are kept
    return f"""
        with keys as (
            select row_number() over () - 1 as ordinal, {id_sql(wanted.table.key)} as key_text
            from ({rows_sql})
        )
        select count(*), min(ordinal, {_MOST}) from keys where {wanted.matches_sql("key_text")}
    """


def _rejected_at(session: duckdb.DuckDBPyConnection) -> list[int]:
    """Offsets of the records that the read refused; without them rows cannot be counted off."""
    has_rejects = "select 1 from duckdb_tables() where table_name = 'reject_errors'"
    if not session.execute(has_rejects).fetchone():
        return []
    rows = session.execute(f"select distinct {REJECTED_AT} as place from reject_errors order by place")
    return [offset for (offset,) in rows.fetchall()]


def _in_quarantine(
    connection: duckdb.DuckDBPyConnection, wanted: _Wanted, sources: list[Source]
) -> _Found:
    """The entries of records with the key, in the order of the files, which is that of the table."""
    source_of = {source.name: source for source in sources}
    entries = connection.execute(
        """
        select column_name is not distinct from $column and value = $key, file, line, column_name,
            value, reason, raw_row
        from quarantine
        where table_name = $table and (
            (column_name = $column and value = $key)
            or contains(replace(raw_row, '"', ''), replace($key, '"', ''))
        )
        """,
        {"table": wanted.table.name, "column": wanted.table.key, "key": wanted.key},
    )
    texts: list[str] = []
    total = 0
    for is_key, file, line, *values, raw in iter(entries.fetchone, None):
        # its quotes may be what is wrong with a row as a whole: nobody knows which belong to the key
        is_whole = values[0] is None
        if is_key or _has_key(raw, wanted, source_of.get(file), quotes_count=not is_whole):
            total += 1
            if total <= _MOST:
                named = zip(("column", "value", "reason", "row"), (*values, raw), strict=True)
                texts.append(f"  {_place(file, line)}\n{_listed(named, '    ')}")
    return _Found(texts, total)


def _has_key(raw: str, wanted: _Wanted, source: Source | None, *, quotes_count: bool = True) -> bool:
    """Whether a raw record has the key in its key field.

    Where the file is not there to say which field that is, or the record has another number of fields
    than its header, any field will do. Where quotes do not count, a key is the same without them.
    """
    name = wanted.table.key
    if raw.startswith("{'"):  # a seed row
        return bool(re.search(rf"'{name}': '?{re.escape(wanted.key)}'?[,}}]", raw))
    delimiter = source.delimiter if isinstance(source, CsvFile) else ","
    try:
        reader = csv.reader(io.StringIO(raw, newline=""), delimiter=delimiter, skipinitialspace=True)
        texts = [text.strip() for text in next(reader, [])]
    except csv.Error:
        return False
    if source and len(texts) == len(source.fields):
        texts = [texts[source.fields.index(name)]]
    if quotes_count:
        return wanted.key in texts
    return wanted.key.replace('"', "") in [text.replace('"', "") for text in texts]


def _file_states(build: _Build, sources: list[Source], inputs_dir: Path) -> Iterable[str]:
    """A sentence for each file that the latest build read, and for each that was not there yet."""
    for each in build.inputs:
        yield _file_state(inputs_dir / each.file, each, build.number)
    known = {each.file for each in build.inputs}
    for source in sources:
        if source.name not in known:
            path = inputs_dir / source.name
            yield f"{shown(path)} was not part of build {build.number}."


def _file_state(path: Path, before: _Input, build: int) -> str:
    if not path.is_file():
        advice = "rebuild, or give --inputs-dir the folder that it was built from"
        return f"{shown(path)} is gone since build {build}: {advice}."
    try:
        is_same = _is_same(path, before)
    except OSError as error:
        return f"{shown(path)} cannot be read ({error.strerror}), and may have changed."
    if is_same:
        return f"{shown(path)} is as build {build} read it."
    return (
        f"{shown(path)} is not the file of build {build}: it has changed since, or another "
        "--inputs-dir was meant."
    )


def _is_same(path: Path, before: _Input) -> bool:
    return path.stat().st_size == before.bytes and sha256_of(path) == before.sha256


def _names_of(build: _Build, sources: list[Source], inputs_dir: Path) -> str:
    if build.is_from_seed:
        return "the seed rows of 01_build"
    names = [shown(inputs_dir / source.name) for source in islice(sources, 3)]
    more = [f"{len(sources) - 3:,} more"] if len(sources) > 3 else []
    return ", ".join(names + more) or shown(inputs_dir)


def _refuse_unknown_key(
    connection: duckdb.DuckDBPyConnection, wanted: _Wanted, mart: str, inputs: str, trouble: str
) -> None:
    near = _near_keys(connection, wanted)
    advice = f" Did you mean {' or '.join(near)}?" if near else ""
    raise StateError(
        f"{wanted.table.name}: {wanted.words} is neither in the mart ({mart}), nor in {inputs}, nor in "
        f"quarantine.{advice} Give a {wanted.table.key} as the source writes it."
        f"{f' The inputs could not be searched: {trouble}' if trouble else ''}"
    )


def _near_keys(connection: duckdb.DuckDBPyConnection, wanted: _Wanted) -> list[str]:
    """At most three keys of the mart that differ by a slip of typing, or end as the wanted one does."""
    name, key = wanted.table.name, wanted.table.key
    if key not in _columns(connection, name) or len(wanted.key) > _LONGEST_KEY_TO_MEND:
        return []
    rows = connection.execute(
        f"""
        with keys as (
            select
                "{key}"::varchar as key_text,
                damerau_levenshtein(lower(left("{key}"::varchar, $longest)), lower($key)) as slips
            from main."{name}"
        )
        select key_text from keys
        where slips <= $most_slips or ends_with(lower(key_text), lower($key))
        order by slips, key_text
        limit 3
        """,
        {
            "key": wanted.key,
            "longest": 2 * _LONGEST_KEY_TO_MEND,
            "most_slips": min(2, max(1, len(wanted.key) // 3)),
        },
    )
    return [_plain(text) for (text,) in rows.fetchall()]


def _listed(pairs: Iterable[tuple[str, str | None]], indent: str) -> str:
    rows = [(name, _EMPTY if value is None else _plain(value)) for name, value in pairs]
    return aligned(rows, indent)


def _place(file: str, line: int) -> str:
    kind = "row" if file == SEED_ROWS or file.endswith(".parquet") else "line"
    return f"{file}, {kind} {line}"


def _plain(text: str) -> str:
    """`text` on one line, with escapes for what a terminal would obey and not show."""
    cut = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
