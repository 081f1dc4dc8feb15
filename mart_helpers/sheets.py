"""Tables as the sheets of one Excel workbook, typed, and with no digit, day or character lost."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
from duckdb.sqltypes import DuckDBPyType
from xlsxwriter import Workbook
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.worksheet import Worksheet

from mart_helpers.errors import StateError
from mart_helpers.texts import quoted

# The most that Excel holds: rows of a sheet (the header is one) and its columns; a text and the name of
# a sheet, both in units of UTF-16.
SHEET_ROWS, SHEET_COLUMNS, CELL_TEXT, SHEET_NAME = 1_048_576, 16_384, 32_767, 31

# Excel takes 1900 for a leap year, other programs do not: they agree on days from here on alone.
_FIRST_DAY, _LAST_DAY = "1900-03-01", "9999-12-31"

# Excel shows and keeps 15 digits of what is typed or edited.
_DIGITS = 15

# Without these, the bytes would depend on the clock.
_PROPERTIES = {"created": datetime(2000, 1, 1)}

_ROWS_AT_A_TIME = 2_000

_WIDEST = 50

_WHOLE = {
    *("tinyint", "smallint", "integer", "bigint", "hugeint"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint"),
}

_TIMESTAMPS = {"timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"}  # without a zone

_NUMBERS = {"whole", "decimal", "double"}

# numbers that are names of things, not amounts: nobody writes the year 2,024
_NAMING = ("_key", "_id", "year")

_LEFT, _RIGHT = {"align": "left", "indent": 1}, {"align": "right"}

_HEADER = {"bold": True, "bg_color": "#EEF1F5", "bottom": 1, "bottom_color": "#9AA5B1"}

_FORBIDDEN_IN_NAMES = re.compile(r"[\[\]:*?/\\\x00-\x1f]|^'|'$")

# XML has no such characters. Excel writes them as `_x0001_`, and a `_` that looks like the start of that
# as `_x005F_`.
_UNWRITABLE = r"[\x00-\x08\x0b-\x1f\ufffe\uffff]"

_ESCAPED = re.compile(f"_(?=x[0-9a-fA-F]{{4}}(?:_|{_UNWRITABLE}))|{_UNWRITABLE}")


class Column(NamedTuple):
    """A column of a sheet: what its cells are, as Excel shows them, and its width in characters."""

    name: str
    kind: str  # whole, decimal, double, date, timestamp, boolean or text
    number_format: str
    width: int


class Sheet(NamedTuple):
    """A table as it will be written; `rows` does not count the header."""

    table: str
    relation: str
    name: str
    rows: int
    columns: tuple[Column, ...]


def plan_sheet(connection: duckdb.DuckDBPyConnection, table: str, relation: str, name: str) -> Sheet:
    """The sheet that the rows of a relation will make, its columns as wide as what they hold.

    Raises StateError for a table that Excel cannot hold; DuckDB's errors are left as they are.
    """
    described = connection.execute(f"from {relation} limit 0").description
    kinds = {column: _kind(column, kind) for column, kind, *_ in described}
    measures = ", ".join(
        f"max(length({text})), max({_utf16_length(text) if kind == 'text' else 0})"
        for text, kind in ((f"{quoted(column)}::varchar", kind) for column, (kind, _) in kinds.items())
    )
    rows, *found = connection.execute(f"select count(*), {measures} from {relation}").fetchone()
    _check_size(table, rows, len(kinds), dict(zip(kinds, found[1::2], strict=True)))
    columns = [
        Column(column, kind, number_format, _width(column, number_format, longest or 0))
        for (column, (kind, number_format)), longest in zip(kinds.items(), found[::2], strict=True)
    ]
    return Sheet(table, relation, name, rows, tuple(columns))


def sheet_names(tables: Sequence[str]) -> list[str]:
    """A name a table that Excel takes: 31 characters, some forbidden, and no two alike in any case."""
    names: list[str] = []
    taken = {"history"}  # Excel keeps this one for itself
    for table in tables:
        names.append(next(name for name in _candidates(table) if name.lower() not in taken))
        taken.add(names[-1].lower())
    return names


@contextmanager
def open_workbook(path: Path) -> Iterator[Workbook]:
    """A workbook to write sheets to, complete at `path` when the block is done; none where it raises.

    Memory holds one row; until the end the rows are in the system's temporary folder.
    """
    with TemporaryDirectory(prefix="sheets-", ignore_cleanup_errors=True) as folder:
        workbook = Workbook(str(path), {"constant_memory": True, "tmpdir": folder})
        workbook.use_zip64()
        workbook.set_properties(_PROPERTIES)
        yield workbook
        try:
            workbook.close()
        except FileCreateError as error:
            raise error.args[0] from None


def write_sheet(connection: duckdb.DuckDBPyConnection, workbook: Workbook, sheet: Sheet) -> None:
    """Write the rows of a planned sheet in the order of its relation, below a header that stays in view.

    The connection must not be used otherwise meanwhile. Raises DuckDB's errors as they are.
    """
    page = workbook.add_worksheet(sheet.name, _ExactWorksheet)
    page.freeze_panes(1, 0)
    page.repeat_rows(0)
    page.set_landscape()
    page.fit_to_pages(1, 0)
    page.autofilter(0, 0, sheet.rows, len(sheet.columns) - 1)
    page.ignore_errors({"number_stored_as_text": f"A1:XFD{SHEET_ROWS}"})
    for position, column in enumerate(sheet.columns):
        aligned = _RIGHT if column.kind in _NUMBERS else _LEFT
        cells = workbook.add_format({"num_format": column.number_format, **aligned})
        page.set_column(position, position, column.width, cells)
        page.write_string(0, position, column.name, workbook.add_format({**_HEADER, **aligned}))
    kinds = [column.kind for column in sheet.columns]
    connection.execute(f"select columns(*)::varchar from {sheet.relation}")
    for row, texts in enumerate(_fetched(connection), start=1):
        for position, (kind, text) in enumerate(zip(kinds, texts, strict=True)):
            if text is not None:
                _write_cell(page, row, position, _typed(kind, text))


class _ExactWorksheet(Worksheet):
    """A sheet that gives every text back, also where XlsxWriter 3.3.1 takes it for markup of its own."""

    @staticmethod
    def _escape_control_characters(text: str | int) -> str:
        return _ESCAPED.sub(lambda found: f"_x{ord(found[0]):04X}_", str(text))

    def _xml_rich_inline_string(self, text: str, attributes: list[tuple[str, Any]]) -> None:
        # it takes `<r>…</r>` for text in several styles, which nothing here writes
        self._xml_inline_string(text, True, attributes)


class _Exact(float):
    """A float that XlsxWriter writes with all its digits: 16, which it asks for, can be too few."""

    def __format__(self, spec: str) -> str:
        return repr(self)


def _fetched(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str | None, ...]]:
    while rows := connection.fetchmany(_ROWS_AT_A_TIME):
        yield from rows


def _write_cell(page: Worksheet, row: int, column: int, value: bool | int | float | date | str) -> None:
    if isinstance(value, str):
        page.write_string(row, column, value)
    elif isinstance(value, bool):
        page.write_boolean(row, column, value)
    elif isinstance(value, date):
        page.write_datetime(row, column, value)
    else:
        page.write_number(row, column, value)


def _typed(kind: str, text: str) -> bool | int | float | date | str:
    """The value that DuckDB writes as `text`, or the text where no cell of Excel holds that value."""
    if kind == "text":
        return text
    if kind == "boolean":
        return text == "true"
    if kind == "date":
        return date.fromisoformat(text) if _has_day(text, 10) else text
    if kind == "timestamp":  # to the millisecond
        return datetime.fromisoformat(text) if _has_day(text, 23) else text
    if kind == "double":
        return text if text.lstrip("-") in ("nan", "inf") else _Exact(text)
    if len(text) > _DIGITS and Decimal(text) != Decimal(f"{Decimal(text):.{_DIGITS}G}"):
        return text
    return int(text) if kind == "whole" else _Exact(text)


def _has_day(text: str, longest: int) -> bool:
    """Whether the day is one of Excel's: neither too early nor too late, nor infinite, nor too fine."""
    return text[4] == "-" and _FIRST_DAY <= text[:10] <= _LAST_DAY and len(text) <= longest


def _kind(name: str, kind: DuckDBPyType) -> tuple[str, str]:
    """What the cells of a column are, and the number format that shows all of it."""
    if kind.id in _WHOLE:
        return "whole", "0" if name.lower().endswith(_NAMING) else "#,##0"
    if kind.id == "decimal":
        scale = dict(kind.children)["scale"]
        decimals = "." + "0" * min(scale, 2) + "#" * (scale - 2) if scale else ""
        return "decimal", "#,##0" + decimals
    if kind.id in ("float", "double"):
        return "double", "General"
    if kind.id == "boolean":
        return "boolean", "General"
    if kind.id == "date":
        return "date", "yyyy-mm-dd"
    if kind.id in _TIMESTAMPS:
        return "timestamp", "yyyy-mm-dd hh:mm:ss.000"
    return "text", "@"


def _check_size(table: str, rows: int, columns: int, lengths: dict[str, int | None]) -> None:
    found = []
    if rows >= SHEET_ROWS:
        found.append(f"{rows:,} rows, and a sheet of Excel holds {SHEET_ROWS - 1:,} below its header")
    if columns > SHEET_COLUMNS:
        found.append(f"{columns:,} columns, and a sheet of Excel holds {SHEET_COLUMNS:,}")
    found += [
        f"a text of {length:,} characters in {column}, and a cell of Excel holds {CELL_TEXT:,}"
        for column, length in lengths.items()
        if (length or 0) > CELL_TEXT
    ]
    if found:
        raise StateError(
            f"{table} has {'; '.join(found)}. Nothing was written. Leave xlsx out of formats (csv, "
            "json, ndjson and parquet hold any size), or export fewer days: start_date, end_date."
        )


def _utf16_length(text: str) -> str:
    """SQL for the length of `text` in units of UTF-16 (an emoji takes two), 0 where it is short."""
    beyond = f"length(regexp_replace({text}, '[^\\x{{10000}}-\\x{{10FFFF}}]', '', 'g'))"
    return f"case when strlen({text}) > {CELL_TEXT} then length({text}) + {beyond} else 0 end"


def _width(name: str, number_format: str, longest: int) -> int:
    if number_format.startswith("#,"):
        longest += longest // 4  # the separators of thousands
    if number_format == "General":
        longest = min(longest, 12)  # shows as many decimals as there is room
    header = len(name) + 4  # bold, and the button of the filter
    return min(max(header, longest + 2), _WIDEST)


def _candidates(table: str) -> Iterator[str]:
    for number in count(1):
        suffix = f"_{number}" if number > 1 else ""
        units = 2 * (SHEET_NAME - len(suffix))
        start = table.encode("utf-16-le")[:units].decode("utf-16-le", "ignore")
        yield _FORBIDDEN_IN_NAMES.sub("_", start + suffix)
