"""Writes tables as typed sheets of one Excel workbook, without losing a digit, day or character."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import duckdb
import pandas as pd
from duckdb.sqltypes import DuckDBPyType
from xlsxwriter import Workbook
from xlsxwriter.chart import Chart
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.worksheet import Worksheet

from mart_helpers.errors import StateError
from mart_helpers.texts import PERCENTAGE, in_words, quoted

SUMMARY = "Summary"

# Excel's limits: rows (with the header) and columns of a sheet; the length of a text and of the name of
# a sheet, both in UTF-16 units.
SHEET_ROWS, SHEET_COLUMNS, CELL_TEXT, SHEET_NAME = 1_048_576, 16_384, 32_767, 31

# Excel treats 1900 as a leap year and other programs do not, so they agree only on days from here on.
_FIRST_DAY, _LAST_DAY = "1900-03-01", "9999-12-31"

_DIGITS = 15  # Excel keeps no more digits of a number that is typed or edited

_WHOLE = re.compile("u?(tiny|small|big|huge)?int(eger)?")

# The kind of cell for each type, and the format that shows the whole value; other types become text.
_CELLS = {
    **dict.fromkeys(("float", "double"), ("double", "General")),
    "boolean": ("boolean", "General"),
    "date": ("date", "yyyy-mm-dd"),
    **dict.fromkeys(
        ("timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"),  # without a zone
        ("timestamp", "yyyy-mm-dd hh:mm:ss.000"),
    ),
}

# Whole numbers that are names, not amounts: nobody writes the year 2,024.
_NAMING = ("_key", "_id", "year")

_MONEY = (2, 3, 4)  # decimals of amounts and prices; shares have more of them

_LEFT, _RIGHT = {"align": "left", "indent": 1}, {"align": "right"}

_HEADER = {"bold": True, "bg_color": "#EEF1F5", "bottom": 1, "bottom_color": "#9AA5B1"}

_WIDEST = 50

_COLOURS = {"pass": "#00634A", "warn": "#8A5300", "fail": "#A93400"}

_PALE = {"color": "#E1E5E9"}

_FORBIDDEN_IN_NAMES = re.compile(r"[\[\]:*?/\\\x00-\x1f]|^'|'$")

# XML cannot hold these characters. Excel writes them as `_x0001_`, and a `_` that looks like the start
# of such a code as `_x005F_`.
_UNWRITABLE = r"[\x00-\x08\x0b-\x1f\ufffe\uffff]"

_ESCAPED = re.compile(f"_(?=x[0-9a-fA-F]{{4}}(?:_|{_UNWRITABLE}))|{_UNWRITABLE}")


class Column(NamedTuple):
    """A column of a sheet: the kind of its cells, their number format, and its width in characters."""

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


def plan_sheet(
    connection: duckdb.DuckDBPyConnection, table: str, relation: str, name: str, currency: str = ""
) -> Sheet:
    """The plan of a sheet for the rows of a relation, with columns as wide as their contents.

    Amounts are shown in the `currency`, if one is given. Raises StateError if the table is too large for
    Excel; DuckDB's errors are passed on.
    """
    described = connection.execute(f"from {quoted(relation)} limit 0").description
    measures = ", ".join(
        # an emoji takes two UTF-16 units
        f"max(length({text})), max(if(strlen({text}) > {CELL_TEXT}, length({text}) "
        f"+ length(regexp_replace({text}, '[^\\x{{10000}}-\\x{{10FFFF}}]', '', 'g')), 0))"
        for text in (f"{quoted(column)}::varchar" for column, *_ in described)
    )
    sql = f"select count(*), {measures} from {quoted(relation)}"
    rows, *found = connection.execute(sql).fetchone()
    headers = [column for column, *_ in described]
    _refuse_too_large(table, rows, dict(zip(headers, found[1::2], strict=True)))
    columns = []
    for (column, type_, *_), longest in zip(described, found[::2], strict=True):
        kind, number_format = _kind(column, type_, currency)
        columns.append(Column(column, kind, number_format, _width(column, number_format, longest or 0)))
    return Sheet(table, relation, name, rows, tuple(columns))


def sheet_names(tables: Sequence[str]) -> list[str]:
    """A name for each table that Excel accepts: 31 characters, none forbidden, unique in any case."""
    names: dict[str, str] = {"history": "", SUMMARY.lower(): ""}  # Excel reserves the first one
    for table in tables:
        for suffix in ("", *(f"_{number}" for number in range(2, len(tables) + 3))):
            start = table.encode("utf-16-le")[: 2 * (SHEET_NAME - len(suffix))]
            name = _FORBIDDEN_IN_NAMES.sub("_", start.decode("utf-16-le", "ignore") + suffix)
            if name.lower() not in names:
                names[name.lower()] = name
                break
    return list(names.values())[2:]


@contextmanager
def open_workbook(path: Path) -> Iterator[Workbook]:
    """A workbook to write sheets to, complete at `path` after the block; if the block raises, no file.

    Memory holds one row at a time; until the end the rows are in a folder next to the file.
    """
    folder = path.with_name(f"{path.name}.rows")
    folder.mkdir()
    try:
        workbook = Workbook(str(path), {"constant_memory": True, "tmpdir": str(folder)})
        workbook.use_zip64()
        workbook.set_properties({"created": datetime(2000, 1, 1)})  # not the clock's
        yield workbook
        workbook.close()
    except FileCreateError as error:
        raise error.args[0] from None
    finally:
        rmtree(folder, ignore_errors=True)


def write_sheet(connection: duckdb.DuckDBPyConnection, workbook: Workbook, sheet: Sheet) -> None:
    """Write the rows of a planned sheet in the order of its relation, below a frozen header.

    Nothing else may use the connection meanwhile. DuckDB's errors are passed on.
    """
    page = workbook.add_worksheet(sheet.name, _ExactWorksheet)
    page.freeze_panes(1, 0)
    page.repeat_rows(0)
    page.set_landscape()
    page.fit_to_pages(1, 0)
    page.autofilter(0, 0, sheet.rows, len(sheet.columns) - 1)
    page.ignore_errors({"number_stored_as_text": f"A1:XFD{SHEET_ROWS}"})
    for position, column in enumerate(sheet.columns):
        aligned = _RIGHT if column.kind in ("whole", "decimal", "double") else _LEFT
        cells = workbook.add_format({"num_format": column.number_format, **aligned})
        page.set_column(position, position, column.width, cells)
        page.write_string(0, position, column.name, workbook.add_format({**_HEADER, **aligned}))
    connection.execute(f"select columns(*)::varchar from {quoted(sheet.relation)}")
    for row, texts in enumerate(iter(connection.fetchone, None), start=1):
        for position, (column, text) in enumerate(zip(sheet.columns, texts, strict=True)):
            if text is not None:
                value = _typed(column.kind, text)
                write = page.write_string if value is text else page.write
                write(row, position, value)


def write_summary(
    workbook: Workbook, lines: Sequence[str], status: str, figures: pd.DataFrame, drawn: Sheet | None
) -> None:
    """Write the first sheet: lines below a title, the figures, and a chart of the `drawn` sheet.

    The `status` (pass, warn or fail) sets the colour of the second line. A figure or column whose name
    ends in `_pct` is a percentage. The chart has a line for each column of amounts, over the first.
    """
    page = workbook.add_worksheet(SUMMARY, _ExactWorksheet)
    page.hide_gridlines(2)
    page.set_landscape()
    page.fit_to_pages(1, 1)
    page.set_column(0, 0, 22)
    page.set_column(1, 4, 15)
    looks = [{"bold": True, "font_size": 18}, {"bold": True, "font_color": _COLOURS[status]}]
    for row, line in enumerate(lines):
        look = looks[row] if row < len(looks) else {"font_color": "#5B6470"}
        page.write_string(row, 0, line, workbook.add_format(look))
    top = len(lines) + 1
    for column, name in enumerate(figures.columns):
        look = workbook.add_format(_HEADER | (_RIGHT if column else _LEFT))
        page.write_string(top, column, in_words(name.removesuffix(PERCENTAGE)), look)
    for row, (name, *values) in enumerate(figures.itertuples(index=False), start=top + 1):
        page.write_string(row, 0, in_words(name), workbook.add_format(_LEFT))
        for column, value in enumerate(values, start=1):
            is_share = PERCENTAGE in (name[-4:], figures.columns[column][-4:])
            shown = "0.0%" if is_share else "#,##0" if value % 1 == 0 else "#,##0.00"
            if value == value:
                look = workbook.add_format({"num_format": shown, **_RIGHT})
                page.write_number(row, column, value / 100 if is_share else value, look)
    if drawn and drawn.rows:
        page.insert_chart(top, len(figures.columns) + 1, _chart(workbook, drawn))


def _chart(workbook: Workbook, drawn: Sheet) -> Chart:
    chart = workbook.add_chart({"type": "line"})
    amounts = [at for at, column in enumerate(drawn.columns) if at and column.kind == "decimal"]
    for column, colour in zip(amounts, ("#0072B2", "#A9B3B9", "#E69F00"), strict=False):
        chart.add_series(
            {
                "name": in_words(drawn.columns[column].name),
                "categories": [drawn.name, 1, 0, drawn.rows, 0],
                "values": [drawn.name, 1, column, drawn.rows, column],
                "line": {"color": colour, "width": 2.25},
            }
        )
    chart.set_title({"name": in_words(drawn.table).capitalize(), "name_font": {"size": 12}})
    chart.set_y_axis({"num_format": "#,##0", "major_gridlines": {"visible": True, "line": _PALE}})
    chart.set_x_axis({"num_format": "yyyy-mm-dd", "num_font": {"rotation": -45}})
    chart.set_legend({"position": "top"})
    chart.set_size({"width": 640, "height": 320})
    return chart


class _ExactWorksheet(Worksheet):
    """A sheet that keeps every text, even if XlsxWriter 3.3.1 would read it as its own markup."""

    @staticmethod
    def _escape_control_characters(text: str | int) -> str:
        return _ESCAPED.sub(lambda found: f"_x{ord(found[0]):04X}_", str(text))

    def _xml_rich_inline_string(self, text: str, attributes: list[tuple[str, Any]]) -> None:
        # XlsxWriter reads `<r>…</r>` as text in several styles, which nothing here writes
        self._xml_inline_string(text, True, attributes)


class _Exact(float):
    """A float that XlsxWriter writes with all its digits: its default of 16 can be too few."""

    def __format__(self, spec: str) -> str:
        return repr(self)


def _typed(kind: str, text: str) -> bool | int | float | date | str:
    """The value that DuckDB writes as `text`, or `text` itself if no cell can hold that value."""
    match kind:
        case "boolean":
            return text == "true"
        case "date" if _has_day(text, len("2024-01-31")):
            return date.fromisoformat(text)
        case "timestamp" if _has_day(text, len("2024-01-31 23:59:59.999")):
            return datetime.fromisoformat(text)
        case "double" if text.lstrip("-") not in ("nan", "inf"):
            return _Exact(text)
        case "whole" | "decimal" if len(text) <= _DIGITS or _is_short(Decimal(text)):
            return int(text) if kind == "whole" else _Exact(text)
    return text


def _is_short(number: Decimal) -> bool:
    return number == Decimal(f"{number:.{_DIGITS}G}")


def _has_day(text: str, longest: int) -> bool:
    """Whether Excel can hold the day or time: in its range, finite, and not more precise than a cell."""
    return text[4] == "-" and _FIRST_DAY <= text[:10] <= _LAST_DAY and len(text) <= longest


def _kind(name: str, type_: DuckDBPyType, currency: str) -> tuple[str, str]:
    """The kind of a column's cells, and their number format: two decimals for money, otherwise all."""
    if name.endswith(PERCENTAGE) and type_.id in ("float", "double"):
        return "double", '0.0" %"'
    if _WHOLE.fullmatch(type_.id):
        return "whole", "0" if name.lower().endswith(_NAMING) else "#,##0"
    if type_.id == "decimal":
        scale = dict(type_.children)["scale"]
        if scale in _MONEY:
            unit = currency.replace('"', "")
            return "decimal", "#,##0.00" + (f'" {unit}"' if unit else "")
        decimals = "." + "0" * min(scale, 2) + "#" * (scale - 2) if scale else ""
        return "decimal", "#,##0" + decimals
    return _CELLS.get(type_.id, ("text", "@"))


def _refuse_too_large(table: str, rows: int, lengths: dict[str, int | None]) -> None:
    found = []
    if rows >= SHEET_ROWS:
        found.append(f"{rows:,} rows, and an Excel sheet holds {SHEET_ROWS - 1:,} below its header")
    if len(lengths) > SHEET_COLUMNS:
        found.append(f"{len(lengths):,} columns, and an Excel sheet holds {SHEET_COLUMNS:,}")
    found += [
        f"a text of {length:,} characters in {column}, and an Excel cell holds {CELL_TEXT:,}"
        for column, length in lengths.items()
        if (length or 0) > CELL_TEXT
    ]
    if found:
        raise StateError(
            f"{table} has {'; '.join(found)}. Nothing was written. Leave xlsx out of formats (csv, "
            "json, ndjson and parquet hold any size), or export fewer days: start_date, end_date."
        )


def _width(name: str, number_format: str, longest: int) -> int:
    if number_format.startswith("#,"):
        longest += longest // 4  # the separators of thousands
    if number_format == "General" or name.endswith(PERCENTAGE):
        longest = min(longest, 12)  # shows as many decimals as fit
    header = len(name) + 4  # bold, and the button of the filter
    return min(max(header, longest + 2), _WIDEST)
