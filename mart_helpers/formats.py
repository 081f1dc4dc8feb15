"""Reads files other than CSV (sheets of workbooks, JSON and SQLite) as rows of text.

Each is read from start to end and converted to blocks of CSV, which are counted and loaded like those of
a CSV file. The place of a row is not a line but the row of a sheet, the line of an .ndjson file, or the
number of a record.
"""

import csv
import io
import json
import os
import re
import sqlite3
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.etree import ElementTree

import duckdb

from mart_helpers.errors import InputError
from mart_helpers.records import Block
from mart_helpers.texts import file_literal, one_line, quoted

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

Row = tuple[int, list[str]]

_BLOCK_CHARACTERS = 1 << 18

_LONGEST_ROW = 8 << 20

_MOST_UNPACKED = 500_000_000

_PIECE = 1 << 20


def tables_in(path: Path) -> list[str]:
    """The sheets of a workbook, or the tables and views of an SQLite file. Raises InputError."""
    if path.suffix == ".xlsx":
        with _workbook(path, path.name) as book:
            return book.sheet_names
    with _sqlite(path, path.name) as connection:
        found = connection.execute(
            "select name from sqlite_master where type in ('table', 'view') "
            "and name not like 'sqlite_%' order by name"
        )
        return [name for (name,) in found]


@dataclass(eq=False)
class Sheet:
    """A sheet of an Excel workbook; its first row that is not empty is the header."""

    path: Path
    name: str
    sheet: str
    _kept: "tuple[os.stat_result, CalamineSheet] | None" = None

    @cached_property
    def columns(self) -> list[str]:
        return next(self._filled(), (0, []))[1]

    def rows(self) -> Iterator[Row]:
        rows = self._filled()
        next(rows, None)
        yield from rows
        self._kept = None

    @property
    def letters(self) -> list[str]:
        """The letters of the columns."""
        from xlsxwriter.utility import xl_col_to_name

        sheet = self._opened()
        return [xl_col_to_name(column) for column in range(sheet.start[1], sheet.end[1] + 1)]

    def _opened(self) -> "CalamineSheet":
        """The sheet in memory, read again if the file has changed."""
        state = self.path.stat()
        if not self._kept or self._kept[0] != state:
            with _workbook(self.path, self.name) as book:
                self._kept = state, book.get_sheet_by_name(self.sheet)
        return self._kept[1]

    def _filled(self) -> Iterator[Row]:
        from xlsxwriter.utility import xl_cell_to_rowcol, xl_rowcol_to_cell

        errors, sheet = {}, self._opened()
        for cell, error in _odd_cells(self.path, self.name, self.sheet):
            row, column = xl_cell_to_rowcol(cell)
            errors.setdefault(row, {})[column] = error
        if merged := sheet.merged_cell_ranges:
            first, last = (xl_rowcol_to_cell(*corner) for corner in merged[0])
            raise InputError(
                f"{self.name}: the cells {first}:{last} are merged. Unmerge them, and fill in what each "
                "holds."
            )
        left = (sheet.start or (0, 0))[1]
        for number, values in enumerate(sheet.iter_rows(), 1):
            texts = [*map(_text, values)]
            for column, error in errors.get(number - 1, {}).items():
                texts[column - left] = error
            if any(texts):
                yield number, texts


_ODD_CELL = re.compile(
    rb'<c r="([A-Z]+[0-9]+)"(?:[^>]*\bt="e"[^>]*>(?:<f[^>]*/>|<f[^>]*>[^<]*</f>)?<v>([^<]*)</v>'
    rb"|[^>]*>(?:<f[^>]*/>|<f[^>]*>[^<]*</f>)(?:<v\s*/>|<v></v>)?</c>)"
)

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"

_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def _odd_cells(path: Path, name: str, sheet: str) -> Iterator[tuple[str, str]]:
    """The cells of a sheet with an error like `#N/A`, which reads as empty, and the error.

    Raises InputError for a formula without a value, which also reads as empty.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(each.file_size for each in packed.infolist())
            if size > _MOST_UNPACKED:
                raise InputError(
                    f"{name}: unpacks to {size / 1e6:,.0f} MB, but a workbook may have at most "
                    f"{_MOST_UNPACKED / 1e6:,.0f} MB. Save its sheets as CSV (UTF-8)."
                )
            sheets = ElementTree.fromstring(packed.read("xl/workbook.xml")).iter(f"{_MAIN}sheet")
            relation = next(each.get(_RELATION) for each in sheets if each.get("name") == sheet)
            targets = ElementTree.fromstring(packed.read("xl/_rels/workbook.xml.rels"))
            target = next(each.get("Target") for each in targets if each.get("Id") == relation)
            with packed.open(target[1:] if target[0] == "/" else f"xl/{target}") as stream:
                rest = b""
                while data := stream.read(1 << 20):
                    whole, _, rest = (rest + data).rpartition(b"<c ")
                    yield from _errors_in(whole, name)
                    rest = b"<c " + rest
                yield from _errors_in(rest, name)
    except (OSError, zipfile.BadZipFile, KeyError, StopIteration, ElementTree.ParseError) as error:
        raise _no_workbook(name, error) from error


def _errors_in(xml: bytes, name: str) -> Iterator[tuple[str, str]]:
    for cell, error in _ODD_CELL.findall(xml):
        if not error:
            raise InputError(
                f"{name}: cell {cell.decode()} has a formula without a value. Open the file in Excel "
                "and save it."
            )
        yield cell.decode(), error.decode()


@contextmanager
def _workbook(path: Path, name: str) -> "Iterator[CalamineWorkbook]":
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with CalamineWorkbook.from_path(path) as book:
            yield book
    except (CalamineError, OSError) as error:
        raise _no_workbook(name, error) from error


def _no_workbook(name: str, error: Exception) -> InputError:
    return InputError(
        f"{name}: cannot be read as an Excel workbook (.xlsx): it is damaged, or has a password "
        f"({one_line(str(error))}). Save it again, or save its sheets as CSV (UTF-8)."
    )


def _text(value: Any) -> str:
    """A value as text: numbers with 15 digits, like Excel and SQLite; midnight is left out."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return format(Decimal(format(value, ".15g")), "f")
    if isinstance(value, datetime):
        return value.isoformat(" ") if value.time() != time() else value.date().isoformat()
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return value.isoformat() if isinstance(value, date | time) else str(value)


@dataclass(eq=False)
class Json:
    """A file of JSON objects: an array, or one per line (.ndjson). The columns are all names in them."""

    path: Path
    name: str

    @cached_property
    def columns(self) -> list[str]:
        return [*dict.fromkeys(key for _, record in self._records() for key in record)]

    def rows(self) -> Iterator[Row]:
        known = {*self.columns}
        for place, record in self._records():
            if not known.issuperset(record):
                raise InputError(f"{self.name}: changed while it was read. Run the build again.")
            texts = [_json_text(record.get(name)) for name in self.columns]
            if any(texts):
                yield place, texts

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        read, unit, what = _array, "record", "an array of JSON objects"
        if self.path.suffix == ".ndjson":
            read, unit, what = _lines, "line", "one JSON object a line"
        try:
            for number, record in read(self.path):
                if not isinstance(record, dict):
                    raise ValueError(f"{unit} {number} is not an object")
                yield number, record
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}: is not UTF-8. Save it as UTF-8.") from error
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{self.name}: is not {what}: {one_line(str(error))}. Make a new extract."
            ) from error
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror}).") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("an object has a name twice")
    return record


# numbers keep the text that the file has
_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=str, parse_int=str, parse_constant=str)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, 1):
            if text.strip():
                try:
                    yield line, _DECODER.decode(text)
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {line}: {error.msg}") from error


def _array(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        file.seek(-min(_PIECE, path.stat().st_size), os.SEEK_END)
        if not file.read().rstrip().endswith(b"]"):  # DuckDB reads an array that is cut behind a comma
            raise ValueError("it does not end with ]")
    try:
        with duckdb.connect() as connection:
            found = connection.execute(
                f"select json from read_json_objects({file_literal(path)}, format = 'array', "
                f"maximum_object_size = {_LONGEST_ROW})"
            )
            for number, (text,) in enumerate(iter(found.fetchone, None), 1):
                yield number, _DECODER.decode(text)
    except duckdb.Error as error:
        at = re.search(r"in record/value (\d+): (.*)", str(error))  # counted from 2
        raise ValueError(
            f"record {int(at[1]) - 1}: {at[2].rstrip('. ')}" if at else str(error)
        ) from error


def _json_text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return _text(value)


@dataclass(eq=False)
class SqliteTable:
    """A table or view of an SQLite file, opened read-only; the place of a row is its number."""

    path: Path
    name: str
    table: str

    @cached_property
    def columns(self) -> list[str]:
        with _sqlite(self.path, self.name) as connection:
            found = connection.execute(f"select * from {quoted(self.table)} limit 0")
            return [name for name, *_ in found.description]

    def rows(self) -> Iterator[Row]:
        with _sqlite(self.path, self.name) as connection:
            connection.text_factory = lambda text: text.decode(errors="surrogateescape")
            found = connection.execute(f"select * from {quoted(self.table)}")
            for number, values in enumerate(found, 1):
                if any(texts := [*map(_text, values)]):
                    yield number, texts


@contextmanager
def _sqlite(path: Path, name: str) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise InputError(
            f"{name}: cannot be read as an SQLite file ({error}). Make a new copy."
        ) from error


#: Reads one table from the file at `path`, which messages call `name`: the names of its `columns`, and
#: its `rows` that are not empty, each with a place and a text for each column (empty for no value).
#: Raises InputError if it cannot be read.
Reader = Sheet | Json | SqliteTable


def written(reader: Reader) -> Iterator[Block]:
    """The rows of a reader as blocks of CSV without a header. Raises InputError for a NUL character."""
    rows, number, size = [], 1, 0
    for place, values in reader.rows():
        joined = "".join(values)
        if "\0" in joined or len(joined) > _LONGEST_ROW:
            problem = "holds a NUL character" if "\0" in joined else "is longer than 8 MB"
            raise InputError(f"{reader.name}: row {place} {problem}. Correct it.")
        rows.append((place, 1 + joined.count("\n"), values))
        size += len(joined)
        if size > _BLOCK_CHARACTERS:
            yield _block(rows, number)
            rows, number, size = [], number + len(rows), 0
    if rows:
        yield _block(rows, number)


def _block(rows: Sequence[tuple[int, int, list[str]]], number: int) -> Block:
    """A block of rows, each with its place and how many lines it takes; the first has this `number`."""
    places, lengths, values = zip(*rows, strict=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(values)
    ends = [*accumulate(lengths)]
    spans = None if len(places) == ends[-1] else [*zip([0, *ends], ends, strict=False)]
    # the CSV reader reports lone surrogates as invalid text
    data = text.getvalue().encode(errors="surrogatepass")
    return Block(data, places[0], number, len(places), spans, places)
