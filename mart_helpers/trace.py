"""Traces a row of the mart to its lines in the inputs and its entries in quarantine.

The mart does not store lines, so this searches the sources for the key and applies mappings again.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
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
from mart_helpers.session import open_published, unreadable
from mart_helpers.sources import SEED_ROWS, CsvFile, Source, find_sources
from mart_helpers.star import VALID_FROM, star_references, star_types, surrogate_key
from mart_helpers.texts import aligned, did_you_mean, literal, one_line, quoted, row_text_sql

_MOST = 20  # shown of each kind; the others are counted

Key = tuple[str, ...]  # a text for each column of the natural key, as its type writes it


class _Inputs(NamedTuple):
    """What the latest build read for a table, and the sources there are now.

    `read` has bytes and SHA-256 of each file. `trouble` says why the sources cannot be read.
    """

    connection: duckdb.DuckDBPyConnection
    table: Table
    folder: Path
    build: int
    read: dict[str, tuple[int, str]]
    sources: Sequence[Source]
    mapping: Mapping | None
    trouble: str

    @property
    def is_seed(self) -> bool:
        return [*self.read] == [SEED_ROWS]

    def records(self, source: Source, keys: Collection[Key]) -> Iterator[tuple[Key, Located]]:
        """The records of a source that have one of the keys, each with its key, in their order."""
        if isinstance(source, CsvFile) and not self.mapping:
            yield from self._lines(source, keys)
            return
        typed = zip(self.table.key, self.table.key_types, strict=True)
        texts = [f"{cast_sql(id_sql(quoted(name)), kind)}::varchar" for name, kind in typed]
        wanted = (f"[{', '.join(map(literal, key))}]" for key in keys)
        matches = f"key in ({', '.join(wanted)})"
        if self.mapping:
            found = self.mapping.matching(source, texts, matches)
        else:
            key = f"row_number() over () as number, [{', '.join(texts)}] as key"
            numbered = f"select {key} from ({source.rows_sql})"
            with duckdb.connect() as session:
                rows = session.execute(f"from ({numbered}) where {matches} order by number")
                found = [(number, tuple(key)) for number, key in rows.fetchall()]
        places = source.places(number for number, _ in found) if found else ()
        yield from ((key, place) for (_, key), place in zip(found, places, strict=True))

    def _lines(self, source: CsvFile, keys: Collection[Key]) -> Iterator[tuple[Key, Located]]:
        # quotes in a field are doubled
        words = {max(re.split('["\n]', ",".join(key).replace(",", "\n")), key=len) for key in keys}
        for block in source.blocks():
            if any(word.encode() in block.text for word in words):
                records = block.located(range(block.count))
                records = [each for each in records if any(word in each.raw for word in words)]
                found = [_key_in(each.raw, self.table, keys, source) for each in records]
                found = _typed(self.connection, self.table, found)
                yield from (pair for pair in zip(found, records, strict=True) if pair[0] in keys)


def trace(database: Path, table_name: str, key: str, inputs_dir: Path) -> str:
    """Where the row of `table_name` with the natural key `key` comes from, as plain text.

    Four parts: the row in the mart with the dimension rows it refers to; its lines in the sources that
    are in `inputs_dir` now; its entries in `quarantine`; and whether those files are still as the latest
    build read them. Of each at most 20 are shown, the others are counted. Raises UsageError for a table
    that is not declared and an empty key, StateError where the key is nowhere or there is no mart.
    """
    with open_published(database) as connection:
        try:
            table = _declared(connection, table_name)
            (wanted,) = _typed(connection, table, [_given(table, key)])
            with _opened(connection, table, inputs_dir) as inputs:
                return _traced(f"{shown(database)}, build {inputs.build}", inputs, wanted)
        except duckdb.Error as error:
            raise unreadable(database, error) from error


def origins(
    connection: duckdb.DuckDBPyConnection, table_name: str, keys: Collection[Key], inputs_dir: Path
) -> dict[Key, tuple[str, int]]:
    """File and physical line of the first record of each of the `keys` of an input, given as texts.

    Only files that have not changed since the latest build are searched. Keys that are not found there,
    like those of seed rows, are left out.
    """
    found: dict[Key, tuple[str, int]] = {}
    with _opened(connection, read_contract(connection, table_name), inputs_dir) as inputs:
        for source in inputs.sources:
            if source.name in inputs.read and _is_same(source.path, *inputs.read[source.name]):
                for key, place in inputs.records(source, {*keys}):
                    found.setdefault(key, (source.name, place.line))
                    if len(found) == len({*keys}):
                        return found
    return found


def _declared(connection: duckdb.DuckDBPyConnection, name: str) -> Table:
    declared = declared_tables(connection)
    if name in declared:
        return read_contract(connection, name)
    is_ours = name in star_types(connection)
    hint = " but made by 01_build." if is_ours else f".{did_you_mean(name, declared)}"
    raise UsageError(
        f'TABLE: found "{name}", which is not a declared input{hint} '
        f"Expected one of {', '.join(declared)}."
    )


def _given(table: Table, text: str) -> Key:
    """The key that the user typed; several columns are separated by commas."""
    texts = next(csv.reader([text]), []) if table.key[1:] else [text]
    key = tuple(each.strip() for each in texts)
    if len(key) != len(table.key) or not all(key):
        raise UsageError(
            f'KEY: found "{_shown(text.strip())}", expected {_key_words(table)} of {table.name}.'
        )
    return key


def _key_words(table: Table) -> str:
    return f"a {table.key[0]}" if len(table.key) == 1 else ",".join(table.key)


def _typed(connection: duckdb.DuckDBPyConnection, table: Table, keys: list[Key]) -> list[Key]:
    """Keys in the form of their declared types: the whole numbers 012 and 12.0 become 12."""
    if {*table.key_types} == {"VARCHAR"}:
        return keys
    texts = [
        f"coalesce({cast_sql(f'key[{place}]', kind)}::varchar, key[{place}])"
        for place, kind in enumerate(table.key_types, start=1)
    ]
    rows = f"select {', '.join(texts)} from (select unnest($keys::varchar[][]) as key)"
    return connection.execute(rows, {"keys": [list(key) for key in keys]}).fetchall()


@contextmanager
def _opened(connection: duckdb.DuckDBPyConnection, table: Table, inputs_dir: Path) -> Iterator[_Inputs]:
    """The sources of a table; none where the build used seed rows."""
    stage, build = connection.execute(
        "select max_by(stage, build_id), coalesce(max(build_id), 0) from build_log"
    ).fetchone()
    files = connection.execute(
        "select file, bytes, sha256 from build_inputs "
        "where build_id = ? and table_name = ? order by file",
        [build, table.name],
    )
    read = {file: (size, sha256) for file, size, sha256 in files.fetchall()}
    dated = inputs_dir / "history"  # stage 4 has a folder of its own
    inputs_dir = dated if stage == 4 and dated.is_dir() else inputs_dir
    sources, mapping, trouble = (), None, ""
    with ExitStack() as stack:
        try:
            if [*read] != [SEED_ROWS]:
                mapping = stack.enter_context(mapping_read_again(connection, table, inputs_dir))
                sources = mapping.raw.sources if mapping else find_sources(inputs_dir, table)
        except InputError as error:
            trouble = str(error)
        yield _Inputs(connection, table, inputs_dir, build, read, sources, mapping, trouble)


def _traced(mart: str, inputs: _Inputs, key: Key) -> str:
    rows = _in_mart(inputs, key)
    lines, places, trouble = _in_inputs(inputs, key)
    entries = _in_quarantine(inputs, key, places)
    if not rows + lines + entries:
        raise _unknown_key(mart, inputs, key, trouble)
    if inputs.is_seed:
        trouble = f"none: build {inputs.build} took this table from the seed rows of 01_build"
    found = _part("inputs", lines, trouble or "no row has this key")
    states = [] if inputs.is_seed else [f"  {state}" for state in _file_states(inputs)]
    parts = [
        f"{inputs.table.name}, {_named(inputs.table, key)}",
        _part(f"mart: {mart}", rows, "no row has this key"),
        f"{found}\n  {trouble}" if trouble and lines else found,
        _part("quarantine", entries, "nothing was set aside"),
        "\n".join([f"since build {inputs.build}", *states]) if states else "",
    ]
    return "\n\n".join(filter(None, parts))


def _part(title: str, texts: list[str], otherwise: str) -> str:
    more = [f"  and {len(texts) - _MOST:,} more"] if len(texts) > _MOST else []
    return "\n".join([title, *(texts[:_MOST] or [f"  {otherwise}"]), *more])


def _in_mart(inputs: _Inputs, key: Key) -> list[str]:
    """The rows of the mart with the key, each with the dimension rows it refers to."""
    connection, name, columns = inputs.connection, inputs.table.name, inputs.table.key
    if not {*columns} <= {*star_types(connection).get(name, ())}:
        return []
    texts = []
    for row in _rows(connection, name, dict(zip(columns, key, strict=True))):
        lines = [_listed(row.items(), "  ")]
        for column, dimension in star_references(connection)[name].items():
            own = surrogate_key(dimension)
            for member in _rows(connection, dimension, {own: row[column]}):
                title = f"  {_shown(f'{dimension}, {column} {member.pop(own)}')}"
                extract = _extract_of(connection, dimension, member.get(VALID_FROM))
                lines += [f"{title}{extract}", _listed(member.items(), "    ")]
        texts.append("\n".join(lines))
    return texts


def _rows(
    connection: duckdb.DuckDBPyConnection, table: str, values: dict[str, str | None]
) -> list[dict[str, str | None]]:
    """The rows with these values, all of them as texts."""
    where = " and ".join(f"{quoted(column)}::varchar = ?" for column in values)
    sql = f"select columns(*)::varchar from main.{quoted(table)} where {where} order by all"
    found = connection.execute(sql, [*values.values()])
    names = [name for name, *_ in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _extract_of(connection: duckdb.DuckDBPyConnection, dimension: str, day: str | None) -> str:
    """Names the dated extract in which a version of a member begins; empty if no file has the day."""
    found = connection.execute(
        "select max_by(file, build_id) from build_inputs where table_name = ? and contains(file, ?)",
        [dimension, day],
    ).fetchone()
    return f", from {found[0]} on" if found[0] else ""


def _in_inputs(inputs: _Inputs, key: Key) -> tuple[list[str], set[tuple[str, int]], str]:
    """The records with the key in all sources, their files and lines, and why a source is unreadable."""
    texts: list[str] = []
    found: set[tuple[str, int]] = set()
    trouble = inputs.trouble
    for source in inputs.sources:
        file = shown(inputs.folder / source.name)
        try:
            for _, place in inputs.records(source, {key}):
                texts.append(f"  {_place(file, place.line)}\n    {_shown(place.raw)}")
                found.add((source.name, place.line))
        except (InputError, duckdb.Error) as error:
            trouble = f"{file} cannot be read: {_shown(str(error))}"
    return texts, found, trouble


def _in_quarantine(inputs: _Inputs, key: Key, places: set[tuple[str, int]]) -> list[str]:
    """The entries of records with the key, in the order of the files.

    If a mapping makes the key, the `places` of the records identify them.
    """
    source_of = {source.name: source for source in inputs.sources}
    entries = inputs.connection.execute(
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
            "table": inputs.table.name,
            "column": ", ".join(inputs.table.key),
            "key": ", ".join(key),
            "places": [f"{line} {file}" for file, line in places],
            "parts": [text.replace('"', "") for text in key],
        },
    )
    texts = []
    for is_key, file, line, *values, raw in entries.fetchall():
        is_whole = (
            values[0] is None
        )  # quotes may be the fault, so which of them are the key's is unknown
        is_searched = not inputs.mapping or is_whole
        found = is_searched and _key_in(raw, inputs.table, {key}, source_of.get(file)) == key
        plain = tuple(text.replace('"', "") for text in key)
        found |= is_whole and _key_in(raw.replace('"', ""), inputs.table, {plain}) == plain
        if is_key or (file, line) in places or found:
            named = zip(("column", "value", "reason", "row"), (*values, raw), strict=True)
            texts.append(f"  {_place(file, line)}\n{_listed(named, '    ')}")
    return texts


def _key_in(raw: str, table: Table, keys: Collection[Key], source: Source | None = None) -> Key:
    """The key in the text of a record; empty if it is none of `keys` and has no certain place.

    If the file is unknown, or record and header differ in their number of fields, any fields count.
    """
    if raw.startswith("{'"):  # not from a text file
        named = dict(re.findall(r"'([^']*)': ('[^']*'|[^,}]*)", raw))
        return tuple(named.get(name, "").strip("'") for name in table.key)
    delimiter = source.delimiter if isinstance(source, CsvFile) else ","
    reader = csv.reader(io.StringIO(raw, newline=""), delimiter=delimiter, skipinitialspace=True)
    texts = [text.strip() for text in next(reader, [])]
    if source and len(texts) == len(source.fields) and {*table.key} <= {*source.fields}:
        return tuple(texts[source.fields.index(name)] for name in table.key)
    return next((key for key in keys if {*key} <= {*texts}), ("",) * len(table.key))


def _file_states(inputs: _Inputs) -> Iterator[str]:
    """A sentence for each file that the latest build read, and for each file that is new since."""
    build = f"build {inputs.build}"
    path_of = {source.name: source.path for source in inputs.sources}
    for name, before in inputs.read.items():
        path = path_of.get(name, inputs.folder / name)
        try:
            state = f"is as {build} read it."
            if not _is_same(path, *before):
                state = (
                    f"is not the file of {build}: the file has changed since, "
                    "or --inputs-dir is the wrong folder."
                )
        except FileNotFoundError:
            state = (
                f"is gone since {build}: rebuild, "
                "or give --inputs-dir the folder that it was built from."
            )
        except OSError as error:
            state = f"cannot be read ({error.strerror}), and may have changed."
        yield f"{shown(path)} {state}"
    for name in path_of:
        if name not in inputs.read:
            yield f"{shown(inputs.folder / name)} was not part of {build}."


def _is_same(path: Path, size: int, sha256: str) -> bool:
    return path.stat().st_size == size and sha256_of(path) == sha256


def _unknown_key(mart: str, inputs: _Inputs, key: Key, trouble: str) -> StateError:
    table, near, text = inputs.table, "", ", ".join(key)
    files = [shown(inputs.folder / source.name) for source in inputs.sources]
    files[3:] = [f"{len(files) - 3:,} more"] if len(files) > 3 else []
    searched = "the seed rows of 01_build" if inputs.is_seed else ", ".join(files)
    columns = star_types(inputs.connection).get(table.name, ())
    if {*table.key} <= {*columns} and len(text) <= 60:
        slips = "damerau_levenshtein(lower(key_text), lower($key))"
        found = inputs.connection.execute(
            f"select key_text from (select {row_text_sql(table.key)} as key_text "
            f"from main.{quoted(table.name)}) where {slips} <= {1 if len(text) < 6 else 2} "
            f"or ends_with(lower(key_text), lower($key)) order by {slips}, key_text limit 1",
            {"key": text},
        ).fetchone()
        near = f" Did you mean {_shown(found[0])}?" if found else ""
    return StateError(
        f"{table.name}: {_named(table, key)} is neither in the mart ({mart}), nor in "
        f"{searched or shown(inputs.folder)}, nor in quarantine.{near} "
        f"Give {_key_words(table)} as the source writes it."
        f"{f' The inputs could not be searched: {trouble}' if trouble else ''}"
    )


def _named(table: Table, key: Key) -> str:
    return ", ".join(f'{name} "{_shown(text)}"' for name, text in zip(table.key, key, strict=True))


def _listed(pairs: Iterable[tuple[str, str | None]], indent: str) -> str:
    return aligned([(name, "(empty)" if value is None else value) for name, value in pairs], indent)


def _place(file: str, line: int) -> str:
    has_lines = file != SEED_ROWS and file.endswith((".csv", ".csv.gz", ".ndjson"))
    kind = "line" if has_lines else "record" if file.endswith(".json") else "row"
    return f"{file}, {kind} {line}"


def _shown(text: str) -> str:
    return one_line(text, limit=10_000)
