"""Where a row of the mart comes from: its lines in the inputs, and what of it was set aside.

The mart remembers no lines, so they are found again: a source is read once for the key column alone,
or put through its mapping once more.
"""

import csv
import io
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Table, cast_sql, declared_tables, id_sql, read_contract
from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.files import sha256_of
from mart_helpers.mapping import Mapping, mapping_read_again
from mart_helpers.parameters import shown
from mart_helpers.records import Located
from mart_helpers.session import open_published
from mart_helpers.sources import (
    SEED_ROWS,
    CsvFile,
    Part,
    Source,
    batches,
    find_sources,
    halves,
    located,
    read_batch,
    read_ordinals,
)
from mart_helpers.star import VALID_FROM, star_columns, star_references, surrogate_key
from mart_helpers.texts import aligned, did_you_mean, literal, one_line, quoted, row_text_sql

_MOST = 20  # of each kind are shown; the others are counted

_LONGEST_KEY_TO_MEND = 60


Inputs = dict[str, tuple[int, str]]  # the files that the latest build read: their bytes and SHA-256


class _Inputs(NamedTuple):
    """The sources there are now, or the `trouble` why they cannot be taken; the mapping if any."""

    sources: Sequence[Source]
    trouble: str = ""
    mapping: Mapping | None = None

    def matching(
        self, source: Source, texts: Sequence[str], matches: str
    ) -> tuple[list[tuple[int, tuple[str, ...]]], list[int]]:
        """Number and `key`, these `texts`, of the records that match; the numbers of those not read."""
        if self.mapping:
            return self.mapping.matching(source, texts, matches)
        return _matching(source, texts, matches)


class _Wanted(NamedTuple):
    """The key that is looked for in a declared table, and what the latest build read for that.

    The key has a text for each of its columns.
    """

    connection: duckdb.DuckDBPyConnection
    database: Path
    table: Table
    key: tuple[str, ...]
    build: int
    inputs: Inputs
    inputs_dir: Path

    @property
    def words(self) -> str:
        pairs = zip(self.table.key, self.key, strict=True)
        return ", ".join(f'{name} "{_shown(text)}"' for name, text in pairs)

    @property
    def mart(self) -> str:
        return f"{shown(self.database)}, build {self.build}"

    @property
    def is_from_seed(self) -> bool:
        return [*self.inputs] == [SEED_ROWS]

    def matches_sql(self, texts: Sequence[str]) -> str:
        """SQL for whether these text expressions are the key, read as values of the declared types."""
        conditions = []
        for text, kind, wanted in zip(texts, self.table.key_types, map(literal, self.key), strict=True):
            is_same = f" or {cast_sql(text, kind)} = {cast_sql(wanted, kind)}"
            conditions.append(f"({text} = {wanted}{'' if kind == 'VARCHAR' else is_same})")
        return " and ".join(conditions)


def trace(database: Path, table_name: str, key: str, inputs_dir: Path) -> str:
    """Where the row of `table_name` with the natural key `key` comes from, as plain text.

    Four parts: the row in the mart with the dimension rows it refers to; its lines in the sources that
    are in `inputs_dir` now; its entries in `quarantine`; and whether those files are still as the latest
    build read them. Of each at most 20 are shown, the others are counted. Raises UsageError for a table
    that is not declared and an empty key, StateError where the key is nowhere or there is no mart.
    """
    with open_published(database) as connection:
        try:
            folder = _read_from(connection, inputs_dir)
            wanted = _wanted(connection, database, table_name, key, folder)
            with _opened(connection, folder, wanted.table, wanted.inputs) as inputs:
                return _traced(wanted, inputs)
        except duckdb.Error as error:
            raise StateError(
                f"{shown(database)}: cannot be traced in; `mart build` makes it anew. "
                f"DuckDB says: {error}"
            ) from error


def origins(
    connection: duckdb.DuckDBPyConnection,
    table_name: str,
    keys: list[tuple[str, ...]],
    inputs_dir: Path,
) -> dict[tuple[str, ...], tuple[str, int]]:
    """File and physical line of the first record of each of the `keys` of an input, given as texts.

    Only files that are as the latest build read them are looked into. Keys that are not found there, as
    those of seed rows, are left out.
    """
    table = read_contract(connection, table_name)
    inputs_dir = _read_from(connection, inputs_dir)
    _, inputs = _latest_build(connection, table)
    found: dict[tuple[str, ...], tuple[str, int]] = {}
    with _opened(connection, inputs_dir, table, inputs) as opened:
        for source in opened.sources:
            if source.name in inputs and _is_same(source.path, *inputs[source.name]):
                found = _first_places(opened, source, table, keys) | found
    return found


def _first_places(
    inputs: _Inputs, source: Source, table: Table, keys: list[tuple[str, ...]]
) -> dict[tuple[str, ...], tuple[str, int]]:
    texts = [
        f"{cast_sql(id_sql(quoted(name)), kind)}::varchar"
        for name, kind in zip(table.key, table.key_types, strict=True)
    ]
    found: dict[tuple[str, ...], int] = {}
    wanted = ", ".join(f"[{', '.join(map(literal, key))}]" for key in keys)
    for number, key in inputs.matching(source, texts, f"key in ({wanted})")[0]:
        found.setdefault(key, number)
    places = source.places(found.values())
    return {key: (source.name, place.line) for key, place in zip(found, places, strict=True)}


def _matching(
    source: Source, texts: Sequence[str], matches: str
) -> tuple[list[tuple[int, tuple[str, ...]]], list[int]]:
    """Number and `key`, these `texts`, of the records that match; the numbers of those not read."""
    found: list[tuple[int, tuple[str, ...]]] = []
    unread: list[int] = []
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as session:

        def read(batch: Sequence[Part]) -> None:
            (rows, total), rejected = read_batch(session, batch, Path(folder, "rows"), select)
            if total + len(rejected) != sum(part.count for part in batch):
                for half in halves(batch):
                    read(half)
                if halves(batch):
                    return
                rows, rejected = [], {0: ""}
            ordinals = read_ordinals((ordinal for ordinal, _ in rows), [*rejected])
            numbers = (number for _, number in located(batch, ordinals))
            found.extend(zip(numbers, (tuple(key) for _, key in rows), strict=True))
            unread.extend(number for _, number in located(batch, rejected))

        def select(rows: str) -> tuple[list[tuple[int, list[str]]], int]:
            session.execute(
                "create or replace temp table keys as "
                f"select row_number() over () - 1 as ordinal, [{', '.join(texts)}] as key from ({rows})"
            )
            (total,) = session.execute("select count(*) from keys").fetchone()
            sql = f"select ordinal, key from keys where {matches} order by ordinal"
            return session.execute(sql).fetchall(), total

        for batch in batches([source]):
            read(batch)
    return found, unread


def _wanted(
    connection: duckdb.DuckDBPyConnection, database: Path, table_name: str, key: str, inputs_dir: Path
) -> _Wanted:
    declared = declared_tables(connection)
    if not declared:
        raise StateError(
            f"{shown(database)}: declares no inputs, so 01_build did not make it. "
            "Give --database the mart."
        )
    if table_name not in declared:
        is_ours = table_name in star_columns(connection)
        raise UsageError(
            f'TABLE: found "{table_name}", which is no declared input'
            f"{' but made by 01_build.' if is_ours else f'.{did_you_mean(table_name, declared)}'} "
            f"Expected one of {', '.join(declared)}."
        )
    table = read_contract(connection, table_name)
    parts = (
        tuple(text.strip() for text in next(csv.reader([key]), [])) if table.key[1:] else (key.strip(),)
    )
    if len(parts) != len(table.key) or not all(parts):
        raise UsageError(
            f'KEY: found "{_shown(key.strip())}", expected {_key_words(table)} of {table.name}.'
        )
    return _Wanted(connection, database, table, parts, *_latest_build(connection, table), inputs_dir)


def _key_words(table: Table) -> str:
    """What a key of the table is given as: `a sale_id`; of several columns, `order_id,line_no`."""
    return f"a {table.key[0]}" if len(table.key) == 1 else ",".join(table.key)


def _read_from(connection: duckdb.DuckDBPyConnection, inputs_dir: Path) -> Path:
    """The folder that the latest build read: stage 4 has one of its own in `inputs_dir`."""
    (stage,) = connection.execute("select max_by(stage, build_id) from build_log").fetchone()
    dated = inputs_dir / "history"
    return dated if stage == 4 and dated.is_dir() else inputs_dir


def _latest_build(connection: duckdb.DuckDBPyConnection, table: Table) -> tuple[int, Inputs]:
    """The number of the latest build, and what it read for the table."""
    (number,) = connection.execute("select coalesce(max(build_id), 0) from build_inputs").fetchone()
    found = connection.execute(
        "select file, bytes, sha256 from build_inputs "
        "where build_id = ? and table_name = ? order by file",
        [number, table.name],
    )
    return number, {file: (size, sha256) for file, size, sha256 in found.fetchall()}


@contextmanager
def _opened(
    connection: duckdb.DuckDBPyConnection, inputs_dir: Path, table: Table, inputs: Inputs
) -> Iterator[_Inputs]:
    """The sources of a table; none where the build used seed rows."""
    with ExitStack() as stack:
        try:
            if [*inputs] == [SEED_ROWS]:
                found = _Inputs([])
            elif mapping := stack.enter_context(mapping_read_again(connection, table, inputs_dir)):
                found = _Inputs(mapping.raw.sources, mapping=mapping)
            else:
                found = _Inputs(find_sources(inputs_dir, table))
        except InputError as error:
            found = _Inputs([], str(error))
        yield found


def _traced(wanted: _Wanted, inputs: _Inputs) -> str:
    sources, trouble = inputs.sources, inputs.trouble
    rows, total_rows = _in_mart(wanted)
    lines, total_lines, unread, places = _in_inputs(wanted, inputs)
    entries, total_entries = _in_quarantine(wanted, inputs, places)
    if not total_rows + total_lines + total_entries:
        raise _unknown_key(wanted, sources, trouble or unread)
    parts = [
        f"{wanted.table.name}, {wanted.words}",
        _part(f"mart: {wanted.mart}", rows, total_rows, "no row has this key"),
    ]
    if wanted.is_from_seed:
        whence = f"none: build {wanted.build} took this table from the seed rows of 01_build"
        parts.append(f"inputs\n  {whence}")
    else:
        trouble = trouble or unread
        found = _part("inputs", lines, total_lines, trouble or "no row has this key")
        parts.append(f"{found}\n  {trouble}" if trouble and total_lines else found)
    parts.append(_part("quarantine", entries, total_entries, "nothing was set aside"))
    if not wanted.is_from_seed:
        states = [f"  {state}" for state in _file_states(wanted, sources)]
        parts.append("\n".join([f"since build {wanted.build}", *states]))
    return "\n\n".join(parts)


def _part(title: str, texts: list[str], total: int, otherwise: str) -> str:
    more = [f"  and {total - len(texts):,} more"] if total > len(texts) else []
    return "\n".join([title, *(texts or [f"  {otherwise}"]), *more])


def _extract_of(connection: duckdb.DuckDBPyConnection, dimension: str, day: str | None) -> str:
    """Words on the dated extract that a version of a member begins with; none if no file has the day."""
    found = connection.execute(
        "select file from build_inputs where table_name = ? and contains(file, ?) "
        "order by build_id desc limit 1",
        [dimension, day],
    ).fetchone()
    return f", from {found[0]} on" if found else ""


def _in_mart(wanted: _Wanted) -> tuple[list[str], int]:
    """The first rows of the mart with the key, each with the dimension rows it refers to; how many."""
    connection, name, key = wanted.connection, wanted.table.name, wanted.table.key
    if not {*key} <= {*star_columns(connection).get(name, ())}:
        return [], 0
    where = wanted.matches_sql([f"{quoted(column)}::varchar" for column in key])
    (total,) = connection.execute(f"select count(*) from main.{quoted(name)} where {where}").fetchone()
    references = star_references(connection)[name]
    texts = []
    for row in _rows(connection, name, where):
        lines = [_listed(row.items(), "  ")]
        for column, dimension in references.items():
            own = surrogate_key(dimension)
            refers = f"{quoted(own)}::varchar = {literal(row[column] or '')}"
            for member in _rows(connection, dimension, refers):
                del member[own]
                extract = _extract_of(connection, dimension, member.get(VALID_FROM))
                title = f"  {_shown(f'{dimension}, {column} {row[column]}')}{extract}"
                lines += [title, _listed(member.items(), "    ")]
        texts.append("\n".join(lines))
    return texts, total


def _rows(connection: duckdb.DuckDBPyConnection, table: str, where: str) -> list[dict[str, str | None]]:
    sql = (
        f"select columns(*)::varchar from main.{quoted(table)} where {where} order by all limit {_MOST}"
    )
    found = connection.execute(sql)
    names = [name for name, *_ in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _in_inputs(wanted: _Wanted, inputs: _Inputs) -> tuple[list[str], int, str, set[tuple[str, int]]]:
    """The first records with the key in all sources, how many there are, and what kept one unread.

    Also file and line of the first ones.
    """
    texts: list[str] = []
    found: set[tuple[str, int]] = set()
    total, trouble = 0, ""
    for source in inputs.sources:
        file = shown(wanted.inputs_dir / source.name)
        try:
            places, count = _places(source, wanted, inputs)
        except (InputError, duckdb.Error) as error:
            trouble = f"{file} cannot be read: {_shown(str(error))}"
            continue
        total += count
        texts += [f"  {_place(file, place.line)}\n    {_shown(place.raw)}" for place in places]
        found |= {(source.name, place.line) for place in places}
    return texts[:_MOST], total, trouble, found


def _places(source: Source, wanted: _Wanted, inputs: _Inputs) -> tuple[list[Located], int]:
    """The first records of a source that have the key, in its order, and how many have it.

    Records that the reader refuses count too: their fields are told apart as well as may be.
    """
    texts = [id_sql(quoted(name)) for name in wanted.table.key]
    matches = wanted.matches_sql([f"key[{place}]" for place in range(1, len(texts) + 1)])
    rows, unread = inputs.matching(source, texts, matches)
    refused = source.places(unread) if unread else ()
    named = [place for place in refused if _has_key(place.raw, wanted, source)]
    numbers = [number for number, _ in rows[:_MOST]]
    places = [*(source.places(numbers) if numbers else ()), *named]
    return sorted(places, key=lambda place: place.number)[:_MOST], len(rows) + len(named)


def _in_quarantine(
    wanted: _Wanted, inputs: _Inputs, places: set[tuple[str, int]]
) -> tuple[list[str], int]:
    """The first entries of records with the key, in the order of the files, and how many there are.

    If the key is made by a mapping, the entries are known by the `places` of their records.
    """
    source_of = {source.name: source for source in inputs.sources}
    entries = wanted.connection.execute(
        """
        select column_name is not distinct from $column and value = $key, file, line, column_name,
            value, reason, raw_row
        from quarantine
        where table_name = $table and (
            (column_name = $column and value = $key)
            or list_contains($places::varchar[], concat_ws(' ', line, file))
            or list_bool_and(
                list_transform($parts, lambda part: contains(replace(raw_row, '"', ''), part))
            )
        )
        """,
        {
            "table": wanted.table.name,
            "column": ", ".join(wanted.table.key),
            "key": ", ".join(wanted.key),
            "places": [f"{line} {file}" for file, line in places] if inputs.mapping else [],
            "parts": [text.replace('"', "") for text in wanted.key],
        },
    )
    texts: list[str] = []
    total = 0
    for is_key, file, line, *values, raw in iter(entries.fetchone, None):
        # its quotes may be what is wrong with a row as a whole: nobody knows which belong to the key
        is_whole = values[0] is None
        is_theirs = is_key or (file, line) in places
        may_have_it = is_whole or not inputs.mapping
        if is_theirs or (
            may_have_it and _has_key(raw, wanted, source_of.get(file), quotes_count=not is_whole)
        ):
            total += 1
            if total <= _MOST:
                named = zip(("column", "value", "reason", "row"), (*values, raw), strict=True)
                texts.append(f"  {_place(file, line)}\n{_listed(named, '    ')}")
    return texts, total


def _has_key(raw: str, wanted: _Wanted, source: Source | None, *, quotes_count: bool = True) -> bool:
    """Whether a raw record has the key in its key field.

    Where the file is not there to say which field that is, or the record has another number of fields
    than its header, any field will do. Where quotes do not count, a key is the same without them.
    """
    if raw.startswith("{'"):  # a seed row
        pairs = zip(wanted.table.key, wanted.key, strict=True)
        patterns = (rf"'{re.escape(name)}': '?{re.escape(text)}'?[,}}]" for name, text in pairs)
        return all(re.search(pattern, raw) for pattern in patterns)
    delimiter = source.delimiter if isinstance(source, CsvFile) else ","
    try:
        reader = csv.reader(io.StringIO(raw, newline=""), delimiter=delimiter, skipinitialspace=True)
        texts = [text.strip() for text in next(reader, [])]
    except csv.Error:
        return False
    key = [*wanted.key]
    if not quotes_count:
        key, texts = ([text.replace('"', "") for text in each] for each in (key, texts))
    if source and len(texts) == len(source.fields) and {*wanted.table.key} <= {*source.fields}:
        return key == [texts[source.fields.index(name)] for name in wanted.table.key]
    return {*key} <= {*texts}


def _file_states(wanted: _Wanted, sources: list[Source]) -> Iterable[str]:
    """A sentence for each file that the latest build read, and for each that was not there yet."""
    build = f"build {wanted.build}"
    path_of = {source.name: source.path for source in sources}
    for name, before in wanted.inputs.items():
        path = path_of.get(name, wanted.inputs_dir / name)
        try:
            state = (
                f"is as {build} read it."
                if _is_same(path, *before)
                else f"is not the file of {build}: it has changed since, or another --inputs-dir was "
                "meant."
            )
        except FileNotFoundError:
            advice = "rebuild, or give --inputs-dir the folder that it was built from"
            state = f"is gone since {build}: {advice}."
        except OSError as error:
            state = f"cannot be read ({error.strerror}), and may have changed."
        yield f"{shown(path)} {state}"
    for source in sources:
        if source.name not in wanted.inputs:
            yield f"{shown(wanted.inputs_dir / source.name)} was not part of {build}."


def _is_same(path: Path, size: int, sha256: str) -> bool:
    return path.stat().st_size == size and sha256_of(path) == sha256


def _unknown_key(wanted: _Wanted, sources: list[Source], trouble: str) -> StateError:
    files = [shown(wanted.inputs_dir / source.name) for source in sources]
    if wanted.is_from_seed:
        files = ["the seed rows of 01_build"]
    elif len(files) > 3:
        files[3:] = [f"{len(files) - 3:,} more"]
    near = _near_keys(wanted)
    advice = f" Did you mean {' or '.join(near)}?" if near else ""
    return StateError(
        f"{wanted.table.name}: {wanted.words} is neither in the mart ({wanted.mart}), nor in "
        f"{', '.join(files) or shown(wanted.inputs_dir)}, nor in quarantine.{advice} "
        f"Give {_key_words(wanted.table)} as the source writes it."
        f"{f' The inputs could not be searched: {trouble}' if trouble else ''}"
    )


def _near_keys(wanted: _Wanted) -> list[str]:
    """At most three keys of the mart that differ by a slip of typing, or end as the wanted one does."""
    name, key, text = wanted.table.name, wanted.table.key, ", ".join(wanted.key)
    columns = star_columns(wanted.connection).get(name, ())
    if not {*key} <= {*columns} or len(text) > _LONGEST_KEY_TO_MEND:
        return []
    most_slips = min(2, max(1, len(text) // 3))
    rows = wanted.connection.execute(
        f"""
        with keys as (
            select
                {row_text_sql(key)} as key_text,
                damerau_levenshtein(lower(left(key_text, {2 * len(text)})), lower($key)) as slips
            from main.{quoted(name)}
        )
        select key_text from keys
        where slips <= {most_slips} or ends_with(lower(key_text), lower($key))
        order by slips, key_text
        limit 3
        """,
        {"key": text},
    )
    return [_shown(text) for (text,) in rows.fetchall()]


def _listed(pairs: Iterable[tuple[str, str | None]], indent: str) -> str:
    return aligned([(name, "(empty)" if value is None else value) for name, value in pairs], indent)


def _place(file: str, line: int) -> str:
    has_lines = file != SEED_ROWS and file.endswith((".csv", ".csv.gz", ".ndjson"))
    kind = "line" if has_lines else "record" if file.endswith(".json") else "row"
    return f"{file}, {kind} {line}"


def _shown(text: str) -> str:
    return one_line(text, limit=10_000)
