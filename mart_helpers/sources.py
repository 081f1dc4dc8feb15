"""The files behind a declared table: found, recognised, and their header understood.

A source gives its records in parts, which are counted without the reader that loads them, and tells
where some of them stand. DuckDB reads a batch of parts as rows of text.
"""

import codecs
import csv
import io
import os
import re
import shutil
import stat
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import duckdb

from mart_helpers.contract import Table
from mart_helpers.errors import InputError
from mart_helpers.formats import Json, Reader, Sheet, SqliteTable, tables_in, written
from mart_helpers.parameters import shown
from mart_helpers.records import Block, Located, data_blocks, opened, records_at
from mart_helpers.texts import literal, one_line, quoted, visible

T = TypeVar("T")

SEED_ROWS = "seed rows"

#: What is wrong with a row as a whole; no column of an extract can have this name, as names are trimmed.
ROW_FAULT = quoted(" row fault")

_NO_FAULT = f"null::varchar as {ROW_FAULT}"

_SURPLUS, _IGNORED = " surplus", " ignored "

_NO_FIELD = "\x01no field\x01"

_ENDINGS = (".csv", ".csv.gz", ".parquet", ".xlsx", ".json", ".ndjson", ".sqlite")

_OF_MANY_TABLES = {".xlsx": "sheet", ".sqlite": "table"}

_DELIMITERS = (",", ";", "\t", "|")


class Source(Protocol):
    """Where the rows of a table come from; messages call it `name`.

    `fields` are its columns in order: the contract's names where they match after trimming and
    lower-casing, placeholders for those that are `ignored`.
    """

    name: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]

    def is_like(self, other: "Source") -> bool:
        """Whether the records of both may be read together: they are written alike."""

    def parts(self) -> Iterator["Part"]:
        """All records in their order, counted without the reader that loads them."""

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        """The records with these `numbers`, from 1 and ascending."""


class Part(NamedTuple):
    """Records of a source next to each other: `count` of them from the number `first` on.

    `block` holds those of a CSV file.
    """

    source: Source
    first: int
    count: int
    block: Block | None = None

    @property
    def size(self) -> int:
        """The bytes of the block."""
        return len(self.block.text) if self.block else 0


def find_sources(inputs_dir: Path, table: Table) -> list[Source]:
    """The source of `table` in `inputs_dir`: one file, or the files of one folder by their names.

    Raises InputError if there is none or more than one, if something is no readable file of its kind,
    or if a header does not fit the contract.
    """
    return [_understood(file, table) for file in find_files(inputs_dir, table.name)]


class Found(NamedTuple):
    """A file that was found, what messages call it, and the sheet or table of it that is meant."""

    path: Path
    name: str
    table: str = ""

    @property
    def reader(self) -> Reader | None:
        """What reads the file if it is neither CSV nor Parquet."""
        if self.path.suffix in (".json", ".ndjson"):
            return Json(self.path, self.name)
        kind = {".xlsx": Sheet, ".sqlite": SqliteTable}.get(self.path.suffix)
        return kind and kind(self.path, self.name, self.table or self._only_table())

    def _only_table(self) -> str:
        """The one sheet or table of the file, or the one that is called as the file is."""
        tables, what = tables_in(self.path), _OF_MANY_TABLES[self.path.suffix]
        named = [table for table in tables if table.lower() == self.path.stem.lower()]
        if len(named or tables) != 1:
            raise InputError(
                f"{self.name}: which {what} of it is meant? It has {one_line(', '.join(tables))}. Name "
                f"one {self.path.stem}, or give the file another name."
            )
        return (named or tables)[0]


def find_files(inputs_dir: Path, stem: str) -> list[Found]:
    """The file called `stem`, or the files of the folder of that name.

    Or it is the sheet of that name in a workbook, or the table in an SQLite file. Raises InputError if
    there is none or more than one.
    """
    if not inputs_dir.is_dir():
        problem = "is a file, not a folder" if inputs_dir.exists() else "there is no such folder"
        raise InputError(f"{shown(inputs_dir)}: {problem}. Name the folder of the extracts.")
    paths = [inputs_dir / f"{stem}{ending}" for ending in ("", *_ENDINGS)]
    found = [Found(path, path.name) for path in paths if os.path.lexists(path)]
    found += _tables_called(inputs_dir, stem)
    if not found:
        raise _missing_file(inputs_dir, stem)
    _refuse_two(stem, inputs_dir, [each.name for each in found])
    if found[0].name == stem:
        return [Found(path, f"{stem}/{path.name}") for path in _drops(found[0].path)]
    return found


def _tables_called(inputs_dir: Path, stem: str) -> list[Found]:
    """The sheets and tables of that name in files of other names."""
    return [
        Found(path, f"{path.name}, {_OF_MANY_TABLES[path.suffix]} {table}", table)
        for path in sorted(inputs_dir.iterdir())
        if path.suffix in _OF_MANY_TABLES and path.stem != stem and path.name[0] not in "._~"
        for table in tables_in(path)
        if table.lower() == stem.lower()
    ]


def open_as_it_is(file: Found) -> Source:
    """The file as a source whose `fields` are all its columns, named as in its header.

    Names are trimmed; one that is empty or stands there before gets the number of its column. Raises
    InputError if it is no readable file of its kind.
    """
    path, name = file.path, file.name
    _refuse_what_is_no_file(path, name)
    if path.suffix == ".parquet":
        columns = _parquet_columns(path, name)
        return ParquetFile(path, name, columns, _told_apart(columns), ())
    if reader := file.reader:
        return CsvFile(path, name, ",", _told_apart(_columns_of(reader)), (), reader)
    header = _below_blank_lines(_read_head(path, name))
    names = {mark: _names(header, mark) for mark in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda mark: len(names[mark]))
    return CsvFile(path, name, delimiter, _told_apart(names[delimiter]), ())


def _told_apart(columns: Sequence[str]) -> tuple[str, ...]:
    """Names of columns without two that SQL takes for the same, nor those of a place."""
    names: list[str] = []
    taken = {"file", "line"}
    for number, column in enumerate(columns, 1):
        name = column.strip() or f"column {number}"
        while name.lower() in taken:
            name = f"{name} {number}"
        taken.add(name.lower())
        names.append(name)
    return tuple(names)


def file_days(sources: Sequence[Source], table: Table) -> dict[str, date]:
    """The day of each file of a folder, by the name of its source; nothing for a single file.

    Raises InputError for a file whose name does not end in a day, and for two of the same day.
    """
    days: dict[str, date] = {}
    for source in sources:
        folder, _, file = source.name.rpartition("/")
        if folder:
            day = _day_in(source, file)
            if day in days.values():
                raise InputError(
                    f"{folder} holds two files of {day}, of which {file} is one. Leave the one that "
                    "counts."
                )
            days[source.name] = day
    return days


def _day_in(source: Source, file: str) -> date:
    found = re.fullmatch(r"(?:.*[^0-9])?([0-9]{4}-[0-9]{2}-[0-9]{2})", file.partition(".")[0])
    with suppress(ValueError):
        if found:
            return date.fromisoformat(found[1])
    raise InputError(
        f"{source.name}: its name does not end in the day from which on its rows are so, as in "
        '2024-02-01.csv. Rename it; or take "history:" out of the contract, and the files of the folder '
        "are parts of one extract."
    )


class SeedRows(NamedTuple):
    """The rows of `seed.<table>`, which a cell of the notebook has made."""

    connection: duckdb.DuckDBPyConnection
    table: str
    name: str = SEED_ROWS
    ignored: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.connection.table(f"seed.{quoted(self.table)}").columns)

    @property
    def rows_sql(self) -> str:
        """A query for all rows in their order: the `fields`, as text, and `ROW_FAULT` or null."""
        return f"select {_as_text(self.fields, self.fields)}, {_NO_FAULT} from seed.{quoted(self.table)}"

    def is_like(self, other: Source) -> bool:
        return False

    def parts(self) -> Iterator[Part]:
        (rows,) = self.connection.execute(f"select count(*) from seed.{quoted(self.table)}").fetchone()
        yield Part(self, 1, rows)

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        rows = self.connection.execute(
            f"select t::varchar from seed.{quoted(self.table)} as t"
        ).fetchall()
        return (Located(number, number, rows[number - 1][0]) for number in numbers)


class CsvFile(NamedTuple):
    """A CSV file, plain or gzipped, or what its `reader` makes one of.

    DuckDB takes a row with an empty field too many for a whole one. So it reads a field more than the
    header has, and fills fields that are not there with a text that no file holds: what the last fields
    hold tells whether the row had as many as the header.
    """

    path: Path
    name: str
    delimiter: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]
    reader: Reader | None = None

    def rows_sql(self, path: Path, line_end: str, options: str) -> str:
        """A query, as that of other sources, for records that stand at `path` without a header."""
        columns = ", ".join(f"{literal(field)}: 'varchar'" for field in (*self.fields, _SURPLUS))
        # all that is ignored is looked at too: bytes that are no UTF-8 are an error there as well
        looked_at = [*(field for field in self.fields if field.startswith(_IGNORED)), self.fields[-1]]
        is_short = " or ".join(f"{quoted(field)} is null" for field in looked_at)
        return (
            f"select {', '.join(map(quoted, self.fields))}, "
            f"case when {is_short} then 'the row has fewer fields than the header' "
            f"when {quoted(_SURPLUS)} is not null then 'the row has more fields than the header' "
            f"end as {ROW_FAULT} "
            f"from read_csv({_file(path)}, columns = {{{columns}}}, auto_detect = false, "
            f"delim = '{self.delimiter}', quote = '\"', escape = '\"', header = false, "
            f"nullstr = '{_NO_FIELD}', null_padding = true, "
            f"new_line = {literal(line_end)}, hive_partitioning = false, {options})"
        )

    def is_like(self, other: Source) -> bool:
        return isinstance(other, CsvFile) and other[2:] == self[2:]

    def parts(self) -> Iterator[Part]:
        for block in self._blocks():
            yield Part(self, block.number, block.count, block)

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        return records_at(self._blocks(), self.name, numbers)

    def _blocks(self) -> Iterator[Block]:
        return written(self.reader) if self.reader else data_blocks(*self[:3])


class ParquetFile(NamedTuple):
    """A Parquet file; its `columns` are named as in the file. The line of a row is its number."""

    path: Path
    name: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def rows_sql(self) -> str:
        texts = _as_text(self.columns, self.fields)
        return f"select {texts}, {_NO_FAULT} from {_parquet_rows(self.path)}"

    def is_like(self, other: Source) -> bool:
        return False

    def parts(self) -> Iterator[Part]:
        with duckdb.connect() as session:
            sql = f"select num_rows from parquet_file_metadata({_file(self.path)})"
            (records,) = session.execute(sql).fetchone()
        yield Part(self, 1, records)

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        with duckdb.connect() as session:
            rows = session.execute(
                "select file_row_number + 1, columns(* exclude file_row_number)::varchar "
                f"from {_parquet_rows(self.path, 'file_row_number = true')} "
                "where file_row_number + 1 in (select unnest($numbers)) order by file_row_number",
                {"numbers": list(numbers)},
            )
            for number, *values in iter(rows.fetchone, None):
                yield Located(number, number, ",".join("" if v is None else v for v in values))


def batches(
    sources: Iterable[Source], most: Callable[[], int] = lambda: FEW_RECORDS
) -> Iterator[list[Part]]:
    """The parts of the sources in their order, as many together as are read at once.

    `most` says how many records those may be, one part aside; it is asked anew for each batch.
    """
    batch: list[Part] = []
    records = size = 0
    for part in chain.from_iterable(source.parts() for source in sources):
        records, size = records + part.count, size + part.size
        fits = records <= most() and size <= _BATCH_BYTES
        if batch and not (fits and part.source.is_like(batch[-1].source)):
            yield batch
            batch, records, size = [], part.count, part.size
        batch.append(part)
    if batch:
        yield batch


def read_batch(
    connection: duckdb.DuckDBPyConnection, batch: Sequence[Part], folder: Path, run: Callable[[str], T]
) -> tuple[T, dict[int, str]]:
    """What `run` makes of a query for the rows of `batch`, and the records that DuckDB rejects.

    Those are known by their ordinals from 0 in the batch, ascending; each has the reason. The records
    stand in the `folder` for as long as they are read. Of more than `FEW_RECORDS` DuckDB raises
    InvalidInputException for the first that it rejects.
    """
    source = batch[0].source
    if not isinstance(source, CsvFile):
        return run(source.rows_sql), {}
    connection.execute(_FORGET_REJECTS)
    folder.mkdir(exist_ok=True)
    path = folder / "rows.csv"
    try:
        with path.open("wb") as file:
            file.writelines(part.block.marked() for part in batch)
        line_end = r"\r\n" if batch[-1].block.text.endswith(b"\r\n") else r"\n"
        result = run(source.rows_sql(path, line_end, _read_options(batch)))
    finally:
        shutil.rmtree(folder)
    return result, _rejected(connection, batch) if records_of(batch) <= FEW_RECORDS else {}


def _rejected(connection: duckdb.DuckDBPyConnection, batch: Sequence[Part]) -> dict[int, str]:
    errors = connection.execute(_REJECTS).fetchall()
    connection.execute(_FORGET_REJECTS)
    ends: list[int] = []
    begin = 0
    for part in batch if errors else ():
        ends += (begin + end for end in part.block.ends())
        begin += part.size
    rejected: dict[int, str] = {}
    for offset, reason in errors:
        rejected.setdefault(bisect_right(ends, offset), reason)
    begin = 0
    for part in batch if NOT_UTF8 in rejected.values() else ():
        indexes = [at - begin for at in rejected if begin <= at < begin + part.count]
        stray = (found.number for found in part.block.located(indexes) if "\r" in found.raw)
        rejected |= {begin + number - part.first: _STRAY_CR for number in stray}
        begin += part.count
    return rejected


def _read_options(batch: Sequence[Part]) -> str:
    """How DuckDB reads a batch: quickly where it is large, each reject told where it is small."""
    if records_of(batch) <= FEW_RECORDS:
        # on several threads DuckDB loses rejects; each takes it some kilobytes
        return "parallel = false, store_rejects = true, rejects_limit = 0"
    # on several threads DuckDB refuses fields that hold line ends
    return f"parallel = {all(part.block.is_plain for part in batch)}"


def records_of(batch: Sequence[Part]) -> int:
    """How many records a batch has."""
    return sum(part.count for part in batch)


def halves(batch: Sequence[Part]) -> list[Sequence[Part]]:
    """The first and the second half of a batch of CSV records; nothing if it is one record."""
    if len(batch) > 1:
        return [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    source, _, count, block = batch[0]
    if block is None or count < 2:
        return []
    blocks = block.part(0, count // 2), block.part(count // 2, count)
    return [[Part(source, half.number, half.count, half)] for half in blocks]


def located(batch: Sequence[Part], ordinals: Iterable[int]) -> Iterator[tuple[Source, int]]:
    """Source and number of records of a batch, whose `ordinals` ascend from 0."""
    parts, behind = iter(batch), 0
    for ordinal in ordinals:
        while ordinal >= behind:
            part = next(parts)
            behind += part.count
        yield part.source, part.first + part.count - (behind - ordinal)


def read_ordinals(ordinals: Iterable[int], rejected: Sequence[int]) -> Iterator[int]:
    """The ordinals among all records of those that have these `ordinals` among the ones not rejected.

    All ascend.
    """
    before = 0
    for ordinal in ordinals:
        while before < len(rejected) and rejected[before] <= ordinal + before:
            before += 1
        yield ordinal + before


def state_of(source: Source) -> tuple[int, ...] | None:
    """What differs if the file behind a source is another one, or was written to; None for seed rows."""
    if isinstance(source, SeedRows):
        return None
    found = source.path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def refuse_changed(sources: Iterable[Source], states: Iterable[object]) -> None:
    """Raise InputError for a source whose file is no longer in the state that `state_of` saw."""
    for source, before in zip(sources, states, strict=True):
        if state_of(source) != before:
            raise InputError(f"{source.name}: changed while it was read. Run the build again.")


# DuckDB takes some kilobytes for each record that it rejects: so few may all be rejected
FEW_RECORDS, _BATCH_BYTES = 60_000, 64 << 20

NOT_UTF8 = "the row is not UTF-8 text (Windows-1252? Save the file as UTF-8)"

_STRAY_CR = "a CR stands within the row, outside quotes: remove it, or quote its field"

_FORGET_REJECTS = "drop table if exists reject_errors; drop table if exists reject_scans"

# `line_byte_position` may name the newline before the record, or even the record before, so it serves
# only where DuckDB gives nothing else.
_REJECTS = f"""
select
    case error_type when 'LINE SIZE OVER MAXIMUM' then line_byte_position else byte_position - 1 end
        as offset_in_file,
    case error_type
        when 'TOO MANY COLUMNS' then 'the row has more fields than the header'
        when 'UNQUOTED VALUE' then 'text stands outside the quotes of its field'
        when 'INVALID ENCODING' then {literal(NOT_UTF8)}
        when 'LINE SIZE OVER MAXIMUM' then 'the row is longer than 2 MB'
        else error_message
    end as reason
from reject_errors
order by offset_in_file, column_idx
"""


def _missing_file(inputs_dir: Path, table: str) -> InputError:
    """The error for a table without a file; one with nearly the right name is named."""
    near = [
        path.name
        for path in inputs_dir.iterdir()
        if path.name.lower().partition(".")[0] == table.lower()
    ]
    message = (
        f"{shown(inputs_dir)} holds no {table}.csv (nor {', '.join(_ENDINGS[1:])}, nor a folder, a "
        f"sheet or an SQLite table {table})"
    )
    if near:
        way_out = "Unpack" if near[0].lower().endswith(_PACKED) else "Rename"
        return InputError(
            f"{message}, but {one_line(', '.join(sorted(near)))}. {way_out} it, if that is the extract."
        )
    return InputError(f"{message}. Put the extract there, or name its folder with inputs_dir.")


def _refuse_two(what: str, folder: Path, found: Sequence[str]) -> None:
    if len(found) > 1:
        raise InputError(
            f"{shown(folder)} holds two sources for {what}: {' and '.join(found)}. Leave the one that "
            "counts."
        )


def _drops(folder: Path) -> list[Path]:
    """The files of a folder by name, without hidden ones and those that begin with `_`."""
    if not folder.is_dir():
        raise InputError(f"{shown(folder)} is no folder. Give the file its ending, such as .csv.")
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
                f"{shown(path)} is none of {', '.join(_ENDINGS)}. Rename it, or move it out of the "
                "folder."
            )
        stem = path.name.removesuffix(ending)
        _refuse_two(stem, folder, [stems[stem].name, path.name] if stem in stems else [path.name])
        stems[stem] = path
    return drops


def _understood(file: Found, table: Table) -> Source:
    path, name = file.path, file.name
    _refuse_what_is_no_file(path, name)
    if path.suffix == ".parquet":
        columns = _parquet_columns(path, name)
        return ParquetFile(path, name, columns, *_matched(name, columns, table))
    if reader := file.reader:
        return CsvFile(path, name, ",", *_matched(name, _columns_of(reader), table), reader)
    head = _read_head(path, name)
    header = _below_blank_lines(head)
    blank_lines = head[: len(head) - len(header)].count("\n")
    names, delimiter = _header(header, table)
    if not table.required_names <= {*map(_folded, names)}:
        _refuse_lines_above(name, header, blank_lines, table)
        if '"' in header.partition("\n")[0]:
            # a quote that nothing closes makes one field of all that follows
            deque(data_blocks(path, name, delimiter), maxlen=0)
    return CsvFile(path, name, delimiter, *_matched(name, names, table))


def _below_blank_lines(text: str) -> str:
    return re.sub(r"\A([ \t]*\r?\n)+", "", text)


def _refuse_what_is_no_file(path: Path, name: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{name}: is a link to a file that is not there. Mend the link.") from error
    except OSError as error:
        raise InputError(
            f"{name}: cannot be read ({error.strerror}). Mend its path or its rights."
        ) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{name}: is {kind}, where a file should be. Put the extract there.")


def _columns_of(reader: Reader) -> list[str]:
    columns = reader.columns
    if not columns:
        raise InputError(f"{reader.name} is empty. It needs a row of names and rows below it.")
    return columns


def _header(text: str, table: Table) -> tuple[list[str], str]:
    """The names in the first line of `text`, and the delimiter by which most of them are known."""
    names = {mark: _names(text, mark) for mark in _DELIMITERS}
    known = {*table.column_names}
    delimiter = max(_DELIMITERS, key=lambda mark: len({*map(_folded, names[mark])} & known))
    return names[delimiter], delimiter


def _names(text: str, delimiter: str) -> list[str]:
    first = text[: text.find("\n") + 1] or text
    lines = io.StringIO(text, newline="") if '"' in first else [first]
    try:
        return next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # a field beyond the module's limit: shown as what was found
        return [text]


def _folded(name: str) -> str:
    return name.strip().lower()


def _refuse_lines_above(name: str, header: str, blank_lines: int, table: Table) -> None:
    """Refuse a file that has other lines above its header, such as a title or `sep=;`."""
    lines = header.split("\n", _MOST_LINES_ABOVE)
    for number, line in enumerate(lines[1:-1], blank_lines + 2):
        if table.required_names <= {*map(_folded, _header(line, table)[0])}:
            raise InputError(
                f"{name}: the header stands on line {number}, below others that begin "
                f'"{one_line(lines[0].strip())}". Remove the lines above it.'
            )


def _matched(
    source: str, columns: Sequence[str], table: Table
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fields and ignored columns of a source whose header has `columns`."""
    names = [_folded(name) for name in columns]
    known = [name for name in names if name in table.column_names]
    for name in known:
        if known.count(name) > 1:
            raise InputError(
                f'{source}: column "{name}" stands twice in the header. Remove or rename one of them.'
            )
    missing = [f'"{name}"' for name in table.column_names if name in table.required_names - {*names}]
    if missing:
        raise InputError(
            f"{source}: missing column {', '.join(missing)} (found: {one_line(', '.join(names))}). "
            "Add what is missing, or rename it in the file."
        )
    fields = [name if name in known else f"{_IGNORED}{n}" for n, name in enumerate(names)]
    return tuple(fields), tuple(name for name in names if name not in known)


def _parquet_columns(path: Path, name: str) -> tuple[str, ...]:
    try:
        with duckdb.connect() as session:
            rows = session.execute(f"describe from {_parquet_rows(path)}").fetchall()
    except duckdb.Error as error:
        raise InputError(f"{name}: is no whole Parquet file. Make a new extract.") from error
    return tuple(row[0] for row in rows)


def _parquet_rows(path: Path, *options: str) -> str:
    """SQL for the rows of a Parquet file as it stands, whatever its folders are called."""
    return f"read_parquet({', '.join([_file(path), 'hive_partitioning = false', *options])})"


def _as_text(columns: Sequence[str], fields: Sequence[str]) -> str:
    pairs = zip(columns, fields, strict=True)
    return ", ".join(f"{quoted(column)}::varchar as {quoted(field)}" for column, field in pairs)


def _file(path: Path) -> str:
    """The one file at `path` for DuckDB's readers, to which `*`, `?` and `[` make a pattern."""
    return literal(re.sub(r"([*?\[])", r"[\1]", str(path)))


_HEAD_BYTES = 1 << 20

_MOST_LINES_ABOVE = 30

_GZIP = b"\x1f\x8b"

_PACKED = (".zip", ".7z", ".bz2", ".xz", ".zst", ".tar", ".tgz")

#: How files of other kinds begin, by the way out. What begins with letters only is told from a header
#: by a byte that no text has. UTF-16 and UTF-32 without a mark show by their NULs, as in RFC 4627.
_KINDS = {
    "Save it as UTF-8": {
        "UTF-32 text": rb"\xff\xfe\0\0|\0\0\xfe\xff|[\t\n\r -~]\0\0\0|\0\0\0[\t\n\r -~]",
        "UTF-16 text": rb"\xff\xfe|\xfe\xff|([\t\n\r -~]\0){2}|(\0[\t\n\r -~]){2}",
    },
    "Unpack it; a workbook is named .xlsx": {"a zip archive or an Excel workbook": rb"PK\x03\x04"},
    "Save it as .xlsx": {"an old Excel workbook": rb"\xd0\xcf\x11\xe0"},
    "Unpack it; gzip is the one packing that is read": {
        "a bzip2 file": rb"BZh[1-9]1AY&SY",
        "an xz file": rb"\xfd7zXZ\0",
        "a Zstandard file": rb"\x28\xb5\x2f\xfd",
        "a gzip file": rb"\x1f\x8b",
        "a tar archive": rb".{257}ustar[\0 ]",
    },
    "Name it .sqlite": {"a SQLite database": rb"SQLite format 3\0"},
    "Name it .json, or .ndjson": {"JSON": rb"(\xef\xbb\xbf)?\s*[{\[]"},
    "Save its rows as CSV or Parquet": {
        "a DuckDB database": rb".{8}DUCK.{2}\0\0",
    },
    "Name it .parquet, without gzip around it": {"a Parquet file": rb"PAR1[\0-\x1f]"},
    "Fetch the extract again, as CSV": {
        "a PDF document": rb"%PDF",
        "a picture": rb"\x89PNG|\xff\xd8\xff",
        "HTML or XML, often an error page in place of the extract": rb"(\xef\xbb\xbf)?\s*<",
        "a Git LFS pointer in place of the file (run git lfs pull)": rb"version https://git-lfs",
    },
}


def _read_head(path: Path, name: str) -> str:
    """The first megabyte of a CSV file, plain or gzipped, as text; its header is sound UTF-8."""
    with opened(path, name) as stream:
        _refuse_wrong_packing(path, name)
        head = stream.read(_HEAD_BYTES)
    _refuse_other_kinds(name, head, around="gzip around " if path.suffix == ".gz" else "")
    header_end = head.find(b"\n", len(head) - len(head.lstrip()))
    _refuse_other_encodings(path, name, head if header_end < 0 else head[:header_end])
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise InputError(f"{name} is empty. It needs a header row and rows below it.")
    if "\r" in text.lstrip("\r\n").partition("\n")[0].rstrip("\r"):
        raise InputError(
            f"{name}: its lines end with CR alone, or CR stands in the header. Convert its line ends to "
            "LF, for example with mac2unix."
        )
    return text


def _refuse_wrong_packing(path: Path, name: str) -> None:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if path.suffix != ".gz" and head.startswith(_GZIP):
        raise InputError(f"{name}: holds gzip bytes. If that is right, name it .csv.gz.")
    if path.suffix == ".gz" and head and not head.startswith(_GZIP):
        _refuse_other_kinds(name, head)
        raise InputError(f"{name}: holds no gzip bytes. If that is right, name it .csv.")


def _refuse_other_kinds(name: str, head: bytes, around: str = "") -> None:
    for way_out, kinds in _KINDS.items():
        for kind, beginning in kinds.items():
            if re.match(beginning, head, re.DOTALL):
                raise InputError(f"{name}: is {around}{kind}. {way_out}.")


def _refuse_other_encodings(path: Path, name: str, header: bytes) -> None:
    if b"\0" in header:
        raise InputError(
            f"{name}: its header holds NUL bytes: it is UTF-16, or no text. Save it as CSV (UTF-8)."
        )
    try:
        header.decode()
    except UnicodeDecodeError as error:
        refuse_eight_bit(path, name)
        raise InputError(
            f"{name}: its header is damaged: the byte {error.object[error.start]:#04x} is no UTF-8, "
            "other text in the file is. Mend the header, or make a new extract."
        ) from error


#: Encodings of one byte a character, as Python and iconv call them.
_EIGHT_BIT = {"cp1252": "WINDOWS-1252", "mac_roman": "MACINTOSH", "cp850": "CP850"}

_AROUND_BYTES = 30


def refuse_eight_bit(path: Path, name: str, *, block_bytes: int = _HEAD_BYTES) -> None:
    """Refuse a CSV file that has text beyond ASCII, none of which is UTF-8.

    Such a file is in another encoding as a whole; if some of it is UTF-8, single bytes are damaged. It
    is read once, by blocks. Raises InputError with the first line that shows it, and what that would
    read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    line, first = 1, None
    with opened(path, name) as stream:
        while block := stream.read(block_bytes):
            if not decoder.decode(block).isascii():
                return
            if first is None and not block.isascii():
                at = re.search(rb"[\x80-\xff]", block).start()
                first = line + block.count(b"\n", 0, at), _around(block, at)
            line += block.count(b"\n")
    if first:
        readings = {iconv: _decoded(first[1], codec) for codec, iconv in _EIGHT_BIT.items()}
        likely = next(iconv for iconv, text in readings.items() if text)
        texts = ", ".join(f'"{text}" in {iconv}' for iconv, text in readings.items() if text)
        raise InputError(
            f"{name}: is not UTF-8 but an 8-bit encoding. Line {first[0]} shows it first, and reads "
            f"{texts}. Save it as UTF-8, for example with iconv -f {likely} -t UTF-8, or with the "
            "encoding that reads right."
        )


def _around(block: bytes, at: int) -> bytes:
    """What stands around a byte of a block, on its line."""
    before = re.split(rb"[\r\n]", block[max(at - _AROUND_BYTES, 0) : at])[-1]
    return before + re.split(rb"[\r\n]", block[at : at + _AROUND_BYTES])[0]


def _decoded(text: bytes, codec: str) -> str | None:
    try:
        return one_line(text.decode(codec))
    except UnicodeDecodeError:
        return None
