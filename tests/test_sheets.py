"""The workbook of an export: what its cells are, how it looks, and what is refused."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from zipfile import ZipFile

import duckdb
import openpyxl
import pytest
from openpyxl.worksheet.worksheet import Worksheet

from mart_helpers.errors import StateError
from mart_helpers.export import export_tables
from mart_helpers.session import Session, open_published
from mart_helpers.sheets import sheet_names


@pytest.fixture(scope="module")
def mart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session, confined as that of 03_export, on a mart that has nothing but its log."""
    database = tmp_path_factory.mktemp("marts") / "sales 2024.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute("create table build_log as select 1 as build_id")
    session = Session(open_published(database, [tmp_path_factory.getbasetemp()]), database, {})
    yield session
    session.close()


@pytest.fixture
def sheet_of(mart, tmp_path) -> Callable[[str], Worksheet]:
    """Writes the rows of a query into a workbook, and reads its sheet."""

    def write(select: str) -> Worksheet:
        mart.connection.execute(f"create or replace temp view things as {select}")
        export_tables(mart, {"builds": "build_log", "things": "things"}, "xlsx", str(tmp_path))
        workbook = openpyxl.load_workbook(tmp_path / "Excel-export" / "sales 2024.xlsx")
        assert workbook.sheetnames == ["builds", "things"]
        return workbook["things"]

    return write


# --- what the cells are ---

CELLS = [
    ("1234567", 1234567, "#,##0"),
    ("1234.5000::decimal(18, 4)", 1234.5, "#,##0.00"),
    ("0.125::decimal(9, 6)", 0.125, "#,##0.00####"),
    ("3::decimal(9, 1)", 3.0, "#,##0.0"),
    ("3::decimal(9, 0)", 3.0, "#,##0"),
    ("1 / 3", 1 / 3, "General"),
    ("date '2024-02-29'", datetime(2024, 2, 29), "yyyy-mm-dd"),
    ("date '1900-03-01'", datetime(1900, 3, 1), "yyyy-mm-dd"),  # programs agree from this day on
    ("timestamp '2024-02-29 12:34:56'", datetime(2024, 2, 29, 12, 34, 56), "yyyy-mm-dd hh:mm:ss.000"),
    ("true", True, "General"),
    ("'007'", "007", "@"),
    ("'=1+1'", "=1+1", "@"),
    ("'https://example.com'", "https://example.com", "@"),
    ("''", "", "@"),
    ("repeat('é', 32_767)", "é" * 32_767, "@"),
]


def test_a_value_is_a_cell_of_its_type(sheet_of):
    selected = ", ".join(f"{sql} as c{n}" for n, (sql, _, _) in enumerate(CELLS))
    cells = sheet_of(f"select {selected}")[2]
    assert [(cell.value, cell.number_format) for cell in cells] == [
        (value, number_format) for _, value, number_format in CELLS
    ]
    assert [type(cell.value) for cell in cells] == [type(value) for _, value, _ in CELLS]
    assert not any(cell.hyperlink or cell.data_type == "f" for cell in cells)


def test_numbers_that_name_things_have_no_separators(sheet_of):
    cells = sheet_of("select 20240131 as date_key, 2024 as build_id, 2024 as fiscal_YEAR")[2]
    assert [(cell.value, cell.number_format) for cell in cells] == [
        *((20240131, "0"), (2024, "0"), (2024, "0"))
    ]


def test_percentages_and_amounts_in_a_currency_are_shown_as_such(mart, tmp_path):
    mart.connection.execute(
        "create or replace temp view money as "
        "select 12.5::decimal(18, 4) as price, 41.3 / 1 as margin_pct"
    )
    export_tables(mart, {"money": "money"}, "xlsx", str(tmp_path), currency='"EUR"')
    workbook = openpyxl.load_workbook(tmp_path / "Excel-export" / "sales 2024.xlsx")
    assert [(cell.value, cell.number_format) for cell in workbook["money"][2]] == [
        (12.5, '#,##0.00" EUR"'),
        (41.3, '0.0" %"'),
    ]


def test_a_summary_comes_first_with_figures_verdict_and_chart(mart, tmp_path):
    mart.connection.execute("""
        create or replace temp view figures as
        from (
            values ('revenue', 1234.5, null, 25.0), ('orders', 12, null, 20.0),
                ('margin_pct', 41.3, null, null)
        ) as figures (figure, this_period, nothing, change_pct)
    """)
    mart.connection.execute("""
        create or replace temp view course as
        select
            date '2024-01-01' + range::integer as day, range as sales,
            range::decimal(18, 2) as revenue
        from range(3)
    """)
    tables = {name: name for name in ("course", "figures")}
    export_tables(mart, tables, "xlsx", str(tmp_path), currency="EUR", summary=("figures", "course"))
    path = tmp_path / "Excel-export" / "sales 2024.xlsx"
    workbook = openpyxl.load_workbook(path)
    assert workbook.sheetnames == ["Summary", "course", "figures"]
    title, verdict, _, currency, *_, head, revenue, orders, margin = workbook["Summary"].iter_rows()
    assert [row[0].value for row in (title, verdict, currency)] == [
        "Sales 2024",
        "There is no quality report of this build.",
        "Amounts in EUR",
    ]
    assert [cell.value for cell in head] == ["figure", "this period", "change"]
    assert [cell.value for cell in revenue] == ["revenue", 1234.5, 0.25]
    assert [cell.number_format for cell in revenue[1:]] == ["#,##0.00", "0.0%"]
    assert [cell.value for cell in orders] == ["orders", 12, 0.2]
    assert orders[1].number_format == "#,##0"
    assert [cell.value for cell in margin] == ["margin, %", 0.413, None]
    with ZipFile(path) as parts:
        chart = parts.read("xl/charts/chart1.xml").decode()
    assert re.findall("<c:f>(.*?)</c:f>", chart) == ["course!$A$2:$A$4", "course!$C$2:$C$4"]


TEXTS = {
    "1234567890123456": "1234567890123456",
    "99999999999999.9999": "99999999999999.9999::decimal(18, 4)",
    "1900-02-28": "date '1900-02-28'",  # LibreOffice would show the 27th
    "1900-01-01 12:00:00": "timestamp '1900-01-01 12:00:00'",
    "2024-01-01 00:00:00.000001": "timestamp '2024-01-01 00:00:00.000001'",
    "infinity": "'infinity'::date",
    "-infinity": "'-infinity'::timestamp",
    "12024-01-01": "date '12024-01-01'",
    "nan": "'nan'::double",
    "-inf": "'-inf'::double",
    "12:00:00": "time '12:00'",
    "[1, 2]": "[1, 2]",
}


def test_what_no_cell_gives_back_is_text(sheet_of):
    selected = ", ".join(f"{sql} as c{n}" for n, sql in enumerate(TEXTS.values()))
    assert [cell.value for cell in sheet_of(f"select {selected}")[2]] == list(TEXTS)


def test_rows_keep_their_order_and_null_is_no_cell(sheet_of):
    sheet = sheet_of("select nullif(range, 9) as n from range(5000) order by range % 7, range desc")
    expected = sorted(range(5000), key=lambda n: (n % 7, -n))
    assert [cell.value for cell in sheet["A"][1:]] == [None if n == 9 else n for n in expected]


# --- how it looks ---


def test_the_header_is_bold_and_filled_stays_in_view_and_filters(sheet_of):
    sheet = sheet_of("select 1 as a, 'x' as b from range(3)")
    assert [cell.value for cell in sheet[1]] == ["a", "b"]
    assert all(cell.font.bold and cell.fill.fill_type == "solid" for cell in sheet[1])
    assert not any(cell.font.bold for cell in sheet[2])
    assert sheet.freeze_panes == "A2"
    assert sheet.auto_filter.ref == "A1:B4"
    assert [cell.alignment.horizontal for cell in sheet[1]] == ["right", "left"]


def test_columns_are_as_wide_as_what_they_hold_up_to_a_limit(sheet_of):
    sheet = sheet_of(
        "select 'x' as a, repeat('x', 30) as b, repeat('x', 3000) as c, 1 as long_name_of_a_column"
    )
    widths = [column.width for column in sheet.column_dimensions.values()]
    assert [round(width) for width in widths] == [6, 33, 51, 26]


def test_sheets_have_names_that_excel_takes(subtests):
    for tables, expected in [
        (["dim_date"], ["dim_date"]),
        (["x" * 32, "x" * 33], ["x" * 31, "x" * 29 + "_2"]),
        (["a/b", "a:b", "A?B"], ["a_b", "a_b_2", "A_B_3"]),
        (["*", "?", "'", "''"], ["_", "__2", "__3", "__"]),
        (["History", "😀" * 20], ["History_2", "😀" * 15]),
    ]:
        with subtests.test(str(tables)):
            assert sheet_names(tables) == expected


# --- what is refused ---


def test_what_excel_cannot_hold_is_refused_before_anything_is_written(mart, tmp_path, subtests):
    for select, message in [
        ("select range as n from range(1_048_576)",
            "things has 1,048,576 rows, and an Excel sheet holds 1,048,575 .*Leave xlsx out"),
        ("select '' as note union all select repeat('😀', 16_384)",
            "things has a text of 32,768 characters in note, and an Excel cell holds 32,767"),
    ]:  # fmt: skip
        with subtests.test(select):
            mart.connection.execute(f"create or replace temp view large as {select}")
            relations = {"build_log": "build_log", "things": "large"}
            with pytest.raises(StateError, match=message):
                export_tables(mart, relations, "csv,xlsx", str(tmp_path / "data"))
            assert not (tmp_path / "data").exists()
