"""Finds the files of a declared table, recognises their format and reads their headers.

A source returns its records in blocks, counted without the reader that loads them, and the places of
given records. DuckDB reads several blocks at once as rows of text.
"""

import csv
import io
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Table
from mart_helpers.errors import InputError
from mart_helpers.formats import Json, Reader, Sheet, SqliteTable, tables_in, written
from mart_helpers.parameters import shown
from mart_helpers.records import Block, Located, data_blocks, read_head, records_at
from mart_helpers.texts import file_literal, literal, one_line, quoted, visible

SEED_ROWS = "seed rows"

#: The fault of a row as a whole. Names are trimmed, so no column of an extract can have this name.
ROW_FAULT = quoted(" row fault")

_SURPLUS, _IGNORED = " surplus", " ignored "

_NO_FIELD, _UNREAD = "\x01no field\x01", "\x01"

FEWER_FIELDS, MORE_FIELDS = (
    f"the row has {which} fields than the header" for which in ("fewer", "more")
)

_ENDINGS = (".csv", ".csv.gz", ".parquet", ".xlsx", ".json", ".ndjson", ".sqlite")

_OF_MANY_TABLES = {".xlsx": "sheet", ".sqlite": "table"}

_DELIMITERS = (",", ";", "\t", "|")

_MOST_LINES_ABOVE = 30

_PACKED = (".zip", ".7z", ".bz2", ".xz", ".zst", ".tar", ".tgz")


class CsvFile(NamedTuple):
    """A CSV file, plain or gzipped, or another file that its `reader` converts to CSV.

    DuckDB accepts a row with one empty field too many. So it reads one more field than the header has,
    and fills missing fields with a text that no file contains: the last fields then show whether the row
    has as many fields as the header.
    """

    path: Path
    name: str
    delimiter: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]
    reader: Reader | None = None
    state: tuple[int, ...] = ()

    def rows_sql(self, path: Path, line_end: str, *, parallel: bool) -> str:
        """A query, like that of other sources, for records in the file `path`, which has no header."""
        columns = ", ".join(f"{literal(field)}: 'varchar'" for field in (*self.fields, _SURPLUS))
        # ignored columns are read too, since invalid UTF-8 is an error there as well
        looked_at = [*(field for field in self.fields if field.startswith(_IGNORED)), self.fields[-1]]
        is_short = " or ".join(f"{quoted(field)} is null" for field in looked_at)
        surplus, mark = quoted(_SURPLUS), literal(_UNREAD)
        return (
            f"select {', '.join(map(quoted, self.fields))}, "
            f"case when starts_with({surplus}, {mark}) then {surplus}[{len(_UNREAD) + 1}:] "
            f"when {is_short} then {literal(FEWER_FIELDS)} "
            f"when {surplus} is not null then {literal(MORE_FIELDS)} "
            f"end as {ROW_FAULT} "
            f"from read_csv({file_literal(path)}, columns = {{{columns}}}, auto_detect = false, "
            f"delim = '{self.delimiter}', quote = '\"', escape = '\"', header = false, "
            f"nullstr = '{_NO_FIELD}', null_padding = true, "
            f"new_line = {literal(line_end)}, hive_partitioning = false, parallel = {parallel})"
        )

    @property
    def cells(self) -> tuple[list[str] | None, list[str] | None]:
        """The fields of a sheet and the letters of their columns; nothing for other files."""
        is_sheet = isinstance(self.reader, Sheet)
        return ([*self.fields], self.reader.letters) if is_sheet else (None, None)

    def unread(self, reason: str) -> bytes:
        """A line for `rows_sql` in place of a record that cannot be read."""
        fields = [*(_NO_FIELD for _ in self.fields), f'"{_UNREAD}{reason}"']
        return f"{self.delimiter.join(fields)}\n".encode()

    def blocks(self) -> Iterator[Block]:
        return written(self.reader) if self.reader else data_blocks(*self[:3])

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        return records_at(self.blocks(), self.name, numbers)


class Relation(NamedTuple):
    """Rows that DuckDB can query: seed rows, or a Parquet file; the number of a row is its line.

    `rows` is SQL for them in the session of `connection`, or in any session; seed rows have no `path`.
    """

    path: Path | None
    name: str
    rows: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    connection: duckdb.DuckDBPyConnection | None = None
    state: tuple[int, ...] = ()
    cells = (None, None)

    @property
    def rows_sql(self) -> str:
        """A query for all rows in their order: the `fields` as text, and `ROW_FAULT` or null."""
        pairs = zip(self.columns, self.fields, strict=True)
        texts = [f"{quoted(column)}::varchar as {quoted(field)}" for column, field in pairs]
        return f"select {', '.join(texts)}, null::varchar as {ROW_FAULT} from {self.rows}"

    def blocks(self) -> Iterator[Block]:
        with self._session() as session:
            (rows,) = session.execute(f"select count(*) from {self.rows}").fetchone()
        yield Block(b"", 1, 1, rows, None)  # records without text

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        texts = ", ".join(f"coalesce(row.{quoted(name)}::varchar, '')" for name in self.columns)
        raw = f"array_to_string([{texts}], ',')" if self.path else "row::varchar"
        with self._session() as session:
            rows = session.execute(
                f"select number, number, {raw} "
                f"from (select row_number() over () as number, row from {self.rows} as row) "
                "where number in (select unnest($numbers)) order by number",
                {"numbers": list(numbers)},
            )
            yield from (Located(*row) for row in iter(rows.fetchone, None))

    def _session(self) -> duckdb.DuckDBPyConnection:
        return self.connection.cursor() if self.connection else duckdb.connect()


#: Where the rows of a table come from; messages call it `name`. Its `fields` are its columns in order:
#: the contract's names if they match after trimming and lower-casing, placeholders for `ignored` ones.
#: `blocks` returns its records, counted without the reader that loads them; `places` returns the places
#: of records by their numbers, which count from 1 and ascend. `state` is that of its file when opened.
Source = CsvFile | Relation


def seed_rows(connection: duckdb.DuckDBPyConnection, table: str) -> Relation:
    """The rows of `seed.<table>`, which a cell of the notebook makes."""
    columns = tuple(connection.table(f"seed.{quoted(table)}").columns)
    return Relation(None, SEED_ROWS, f"seed.{quoted(table)}", columns, columns, (), connection)


def find_sources(inputs_dir: Path, table: Table) -> list[Source]:
    """The source of `table` in `inputs_dir`: one file, or the files of one folder by their names.

    An optional table may have none. Raises InputError if there is none or more than one, if a file
    cannot be read as its format, or if a header does not fit the contract.
    """
    found = find_files(inputs_dir, table.name, is_optional=table.is_optional)
    return [open_source(file, table) for file in found]


class Found(NamedTuple):
    """A file that was found, its name in messages, and its sheet or table to read, if any."""

    path: Path
    name: str
    table: str = ""

    @property
    def reader(self) -> Reader | None:
        """The reader of the file if it is neither CSV nor Parquet."""
        if self.path.suffix in (".json", ".ndjson"):
            return Json(self.path, self.name)
        kind = {".xlsx": Sheet, ".sqlite": SqliteTable}.get(self.path.suffix)
        return kind and kind(self.path, self.name, self.table or self._only_table())

    def _only_table(self) -> str:
        """The only sheet or table of the file, or the one with the name of the file."""
        tables, what = tables_in(self.path), _OF_MANY_TABLES[self.path.suffix]
        named = [table for table in tables if table.lower() == self.path.stem.lower()]
        if len(named or tables) != 1:
            raise InputError(
                f"{self.name}: which {what} should be read? It has {one_line(', '.join(tables))}. Name "
                f"one {self.path.stem}, or rename the file."
            )
        return (named or tables)[0]


def find_files(inputs_dir: Path, stem: str, *, is_optional: bool = False) -> list[Found]:
    """The file called `stem`, or the files of the folder of that name.

    It may also be the sheet of that name in a workbook, or the table in an SQLite file. Raises
    InputError if there is more than one or none; an optional one may be missing, unless a file has
    nearly the right name.
    """
    if not inputs_dir.is_dir():
        problem = "is a file, not a folder" if inputs_dir.exists() else "there is no such folder"
        raise InputError(f"{shown(inputs_dir)}: {problem}. Name the folder of the extracts.")
    paths = [inputs_dir / f"{stem}{ending}" for ending in ("", *_ENDINGS)]
    found = [Found(path, path.name) for path in paths if os.path.lexists(path)]
    found += _tables_called(inputs_dir, stem)
    if not found:
        names = (path.name for path in sorted(inputs_dir.iterdir()))
        near = [name for name in names if name.lower().partition(".")[0] == stem.lower()]
        if is_optional and not near:
            return []
        raise _missing_file(inputs_dir, stem, near)
    _refuse_two(stem, inputs_dir, [each.name for each in found])
    if found[0].name == stem:
        return [Found(path, f"{stem}/{path.name}") for path in _drops(found[0].path)]
    return found


def _tables_called(inputs_dir: Path, stem: str) -> list[Found]:
    """The sheets and tables of that name in files with other names."""
    return [
        Found(path, f"{path.name}, {_OF_MANY_TABLES[path.suffix]} {table}", table)
        for path in sorted(inputs_dir.iterdir())
        if path.suffix in _OF_MANY_TABLES and path.stem != stem and path.name[0] not in "._~"
        for table in tables_in(path)
        if table.lower() == stem.lower()
    ]


def open_source(file: Found, table: Table | None = None) -> Source:
    """The file as a source of a declared table, or with all its columns as `fields` under their names.

    These names are trimmed; an empty or repeated one gets the number of its column. Raises InputError if
    the file cannot be read as its format, or if its header does not fit the contract.
    """
    path, name = file.path, file.name
    _refuse_what_is_no_file(path, name)
    state = _state_of(path)
    delimiter, reader = ",", file.reader
    if path.suffix == ".parquet":
        # the names of its folders add no columns
        rows = f"read_parquet({file_literal(path)}, hive_partitioning = false)"
        columns = _parquet_columns(rows, name)
    elif reader:
        columns = reader.columns
        if not columns:
            raise InputError(f"{name} is empty. It needs a row of names and rows below it.")
    else:
        columns, delimiter = _csv_columns(path, name, table)
    fields, ignored = _matched(name, columns, table) if table else (_told_apart(columns), ())
    if path.suffix == ".parquet":
        return Relation(path, name, rows, columns, fields, ignored, state=state)
    return CsvFile(path, name, delimiter, fields, ignored, reader, state)


def _told_apart(columns: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, changed so that no two are equal in SQL or equal to those of a place."""
    names: list[str] = []
    taken = {"file", "line"}
    for number, column in enumerate(columns, 1):
        name = column.strip() or f"column {number}"
        while name.lower() in taken:
            name = f"{name} {number}"
        taken.add(name.lower())
        names.append(name)
    return tuple(names)


def file_days(sources: Sequence[Source]) -> dict[str, date]:
    """The day of each file of a folder, by the name of its source; empty for a single file.

    Raises InputError for a file whose name does not end in a day, and for two files of the same day.
    """
    days: dict[str, date] = {}
    for name in (source.name for source in sources if "/" in source.name):
        folder, _, file = name.rpartition("/")
        ends = re.search(r"(?<![0-9])[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", file.partition(".")[0])
        try:
            day = date.fromisoformat(ends[0] if ends else "")
        except ValueError as error:
            raise InputError(
                f"{name}: its name does not end in the day from which its rows are valid, as in "
                '2024-02-01.csv. Rename it, or remove "history:" from the contract: the '
                "files of the folder are then parts of one extract."
            ) from error
        if day in days.values():
            raise InputError(
                f"{folder} holds two files of {day}, including {file}. Remove the wrong one."
            )
        days[name] = day
    return days


def has_changed(source: Source) -> bool:
    """Whether the source's file was replaced or written to since it was opened."""
    return source.path is not None and _state_of(source.path) != source.state


def refuse_changed(sources: Iterable[Source]) -> None:
    """Raise InputError for a source that has changed since it was opened."""
    for source in sources:
        if has_changed(source):
            raise InputError(f"{source.name}: changed while it was read. Run the build again.")


def _state_of(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _missing_file(inputs_dir: Path, stem: str, near: Sequence[str]) -> InputError:
    """The error for a table without a file; it mentions files with nearly the right name."""
    endings = ", ".join(_ENDINGS[1:])
    but = way_out = ""
    if near:
        but = f", but {one_line(', '.join(near))}"
        way_out = (
            f"{'Unpack' if near[0].lower().endswith(_PACKED) else 'Rename'} it, if that is the extract."
        )
    return InputError(
        f"{shown(inputs_dir)} holds no {stem}.csv (nor {endings}, nor a folder, a sheet or an SQLite "
        f"table {stem}){but}. {way_out or 'Put the extract there, or name its folder with inputs_dir.'}"
    )


def _refuse_two(what: str, folder: Path, found: Sequence[str]) -> None:
    if len(found) > 1:
        raise InputError(
            f"{shown(folder)} holds two sources for {what}: {' and '.join(found)}. Remove the wrong one."
        )


def _drops(folder: Path) -> list[Path]:
    """The files of a folder, sorted by name, without hidden ones and those that begin with `_`."""
    if not folder.is_dir():
        raise InputError(f"{shown(folder)} is not a folder. Give the file its ending, such as .csv.")
    drops = sorted(path for path in folder.iterdir() if path.name[0] not in "._")
    if not drops:
        raise InputError(f"{shown(folder)} is empty. Put the extracts there.")
    stems: dict[str, Path] = {}
    for path in drops:
        if os.fsencode(path.name) != path.name.encode(errors="replace"):
            raise InputError(f"{visible(shown(path))}: its name is not UTF-8. Rename it.")
        ending = next((ending for ending in reversed(_ENDINGS) if path.name.endswith(ending)), "")
        if not ending:
            raise InputError(
                f"{shown(path)} does not end in one of {', '.join(_ENDINGS)}. Rename it, or move it "
                "out of the folder."
            )
        stem = path.name.removesuffix(ending)
        _refuse_two(stem, folder, [stems[stem].name, path.name] if stem in stems else [path.name])
        stems[stem] = path
    return drops


def _refuse_what_is_no_file(path: Path, name: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{name}: is a link to a missing file. Correct the link.") from error
    except OSError as error:
        raise InputError(
            f"{name}: cannot be read ({error.strerror}). Correct its path or permissions."
        ) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{name}: is {kind}, not a file. Put the extract there.")


def _csv_columns(path: Path, name: str, table: Table | None) -> tuple[list[str], str]:
    """The names in the header of a CSV file, and its delimiter."""
    head = read_head(path, name)
    text = re.sub(r"\A([ \t]*\r?\n)+", "", head)
    columns, delimiter = _header(text, table)
    if table and not table.required_names <= {*map(_folded, columns)}:
        blank_lines = head[: len(head) - len(text)].count("\n")
        lines = text.split("\n", _MOST_LINES_ABOVE)
        for number, line in enumerate(lines[1:-1], blank_lines + 2):
            if table.required_names <= {*map(_folded, _header(line, table)[0])}:
                raise InputError(
                    f"{name}: the header is on line {number}, below lines that begin "
                    f'"{one_line(lines[0].strip())}". Remove the lines above it.'
                )
        if '"' in lines[0]:
            # an unclosed quote turns everything after it into one field
            deque(data_blocks(path, name, delimiter), maxlen=0)
    return columns, delimiter


def _header(text: str, table: Table | None) -> tuple[list[str], str]:
    """The names in the first line of `text`, and the delimiter with which most of them are known."""
    names = {mark: _names(text, mark) for mark in _DELIMITERS}
    known = {*table.column_names} if table else ()
    delimiter = max(
        _DELIMITERS,
        key=lambda mark: len({*map(_folded, names[mark])} & known) if table else len(names[mark]),
    )
    return names[delimiter], delimiter


def _names(text: str, delimiter: str) -> list[str]:
    first = text[: text.find("\n") + 1] or text
    lines = io.StringIO(text, newline="") if '"' in first else [first]
    try:
        return next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # a field is too long for the module; show it as found
        return [text]


def _folded(name: str) -> str:
    return name.strip().lower()


def _matched(
    source: str, columns: Sequence[str], table: Table
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fields and ignored columns of a source whose header has `columns`."""
    names = [_folded(name) for name in columns]
    known = [name for name in names if name in table.column_names]
    for name in known:
        if known.count(name) > 1:
            raise InputError(
                f'{source}: column "{name}" appears twice in the header. Remove or rename one of them.'
            )
    missing = [f'"{name}"' for name in table.column_names if name in table.required_names - {*names}]
    if missing:
        raise InputError(
            f"{source}: missing column {', '.join(missing)} (found: {one_line(', '.join(names))}). "
            "Add what is missing, or rename it in the file."
        )
    fields = [name if name in known else f"{_IGNORED}{n}" for n, name in enumerate(names)]
    return tuple(fields), tuple(name for name in names if name not in known)


def _parquet_columns(rows: str, name: str) -> tuple[str, ...]:
    try:
        with duckdb.connect() as session:
            described = session.execute(f"describe from {rows}").fetchall()
    except duckdb.Error as error:
        raise InputError(f"{name}: is not a complete Parquet file. Make a new extract.") from error
    return tuple(column for column, *_ in described)
