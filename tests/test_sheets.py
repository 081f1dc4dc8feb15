"""The workbook of an export: what its cells are, how it looks, and what is refused."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pytest
from openpyxl.cell import Cell
from openpyxl.worksheet.worksheet import Worksheet

from mart_helpers.errors import StateError
from mart_helpers.export import export_tables
from mart_helpers.session import Session, open_published
from mart_helpers.sheets import sheet_names

Export = Callable[..., openpyxl.Workbook]


@pytest.fixture
def mart(tmp_path: Path) -> Iterator[Session]:
    """A session, confined as that of 03_export, on a mart that has nothing but its log."""
    database = tmp_path / "sales 2024.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute("create table build_log as select 1 as build_id")
    session = Session(open_published(database, [tmp_path]), database, {})
    yield session
    session.close()


@pytest.fixture
def export(mart: Session, tmp_path: Path) -> Export:
    """Writes a workbook of these relations, and reads it."""

    def write(relations: dict[str, str]) -> openpyxl.Workbook:
        export_tables(mart, relations, "xlsx", str(tmp_path))
        return openpyxl.load_workbook(tmp_path / "Excel-export" / "sales 2024.xlsx")

    return write


def sheet_of(export: Export, select: str) -> Worksheet:
    return export({"things": f"({select})"})["things"]


def cell_of(export: Export, value: str, name: str = "thing") -> Cell:
    """The cell of one value, written in SQL."""
    return sheet_of(export, f"select {value} as {name}")["A2"]


# --- what the cells are ---


@pytest.mark.parametrize(
    ("sql", "value", "number_format"),
    [
        ("1234567", 1234567, "#,##0"),
        ("1234.5000::decimal(18, 4)", 1234.5, "#,##0.00##"),
        ("0.125::decimal(9, 6)", 0.125, "#,##0.00####"),
        ("3::decimal(9, 1)", 3.0, "#,##0.0"),
        ("3::decimal(9, 0)", 3.0, "#,##0"),
        ("1 / 3", 1 / 3, "General"),
        ("date '2024-02-29'", datetime(2024, 2, 29), "yyyy-mm-dd"),
        (
            "timestamp '2024-02-29 12:34:56'",
            datetime(2024, 2, 29, 12, 34, 56),
            "yyyy-mm-dd hh:mm:ss.000",
        ),
        ("true", True, "General"),
        ("'007'", "007", "@"),
        ("'=1+1'", "=1+1", "@"),
        ("'https://example.com'", "https://example.com", "@"),
    ],
)
def test_a_value_is_a_cell_of_its_type(export: Export, sql: str, value: Any, number_format: str) -> None:
    cell = cell_of(export, sql)
    assert (cell.value, type(cell.value)) == (value, type(value))
    assert cell.number_format == number_format
    assert cell.hyperlink is None
    assert cell.data_type != "f"


@pytest.mark.parametrize("name", ["date_key", "build_id", "year", "fiscal_YEAR"])
def test_numbers_that_name_things_have_no_separators(export: Export, name: str) -> None:
    cell = cell_of(export, "20240131", name)
    assert (cell.value, cell.number_format) == (20240131, "0")


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("1234567890123456", "1234567890123456"),
        ("99999999999999.9999::decimal(18, 4)", "99999999999999.9999"),
        ("date '1900-02-28'", "1900-02-28"),  # LibreOffice would show the 27th
        ("timestamp '1900-01-01 12:00:00'", "1900-01-01 12:00:00"),
        ("timestamp '2024-01-01 00:00:00.000001'", "2024-01-01 00:00:00.000001"),
        ("timestamptz '2024-01-01 00:00:00+00'::varchar", "2024-01-01 00:00:00+00"),
        ("'infinity'::date", "infinity"),
        ("'-infinity'::timestamp", "-infinity"),
        ("date '12024-01-01'", "12024-01-01"),
        ("'nan'::double", "nan"),
        ("'-inf'::double", "-inf"),
        ("time '12:00'", "12:00:00"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_what_no_cell_gives_back_is_text(export: Export, sql: str, text: str) -> None:
    assert cell_of(export, sql).value == text


def test_the_first_day_that_programs_agree_on_is_a_date(export: Export) -> None:
    assert cell_of(export, "date '1900-03-01'").value == datetime(1900, 3, 1)


def test_empty_text_is_a_cell_and_null_is_none(export: Export) -> None:
    sheet = sheet_of(export, "select * from (values (1, ''), (2, null)) t(n, word)")
    assert (sheet["B2"].data_type, sheet["B2"].value) == ("s", "")
    assert sheet["B3"].value is None


def test_rows_keep_the_order_of_their_relation(export: Export) -> None:
    sheet = sheet_of(export, "select range as n from range(5000) order by n % 7, n desc")
    expected = sorted(range(5000), key=lambda n: (n % 7, -n))
    assert [cell.value for cell in sheet["A"][1:]] == expected


# --- how it looks ---


def test_the_header_is_bold_and_filled_stays_in_view_and_filters(export: Export) -> None:
    sheet = sheet_of(export, "select 1 as a, 'x' as b from range(3)")
    assert [cell.value for cell in sheet[1]] == ["a", "b"]
    assert all(cell.font.bold and cell.fill.fill_type == "solid" for cell in sheet[1])
    assert not any(cell.font.bold for cell in sheet[2])
    assert sheet.freeze_panes == "A2"
    assert sheet.auto_filter.ref == "A1:B4"
    assert [cell.alignment.horizontal for cell in sheet[1]] == ["right", "left"]


def test_columns_are_as_wide_as_what_they_hold_up_to_a_limit(export: Export) -> None:
    select = "select 'x' as a, repeat('x', 30) as b, repeat('x', 3000) as c, 1 as long_name_of_a_column"
    widths = [column.width for column in sheet_of(export, select).column_dimensions.values()]
    assert [round(width) for width in widths] == [6, 33, 51, 26]


def test_there_is_a_sheet_a_table_in_their_order(export: Export) -> None:
    assert export({"sales": "(select 1)", "builds": "build_log"}).sheetnames == ["sales", "builds"]


def test_without_rows_there_is_a_header(export: Export) -> None:
    sheet = sheet_of(export, "select 1 as a where false")
    assert (sheet["A1"].value, sheet.max_row) == ("a", 1)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (["dim_date"], ["dim_date"]),
        (["x" * 32, "x" * 33], ["x" * 31, "x" * 29 + "_2"]),
        (["a/b", "a:b", "A?B"], ["a_b", "a_b_2", "A_B_3"]),
        (["*", "?", "'", "''"], ["_", "__2", "__3", "__"]),
        (["Sales", "sales"], ["Sales", "sales_2"]),
        (["History"], ["History_2"]),
        (["😀" * 20], ["😀" * 15]),
        (["a\x01b"], ["a_b"]),
    ],
)
def test_sheets_have_names_that_excel_takes(tables: list[str], expected: list[str]) -> None:
    assert sheet_names(tables) == expected


# --- what is refused ---


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (
            "select range as n from range(1_048_576)",
            "things has 1,048,576 rows, and a sheet of Excel holds 1,048,575 .*Leave xlsx out",
        ),
        (
            "select '' as note union all select repeat('x', 32_768)",
            "things has a text of 32,768 characters in note, and a cell of Excel holds 32,767",
        ),
        ("select repeat('😀', 16_384) as note", "things has a text of 32,768 characters in note"),
    ],
)
def test_what_excel_cannot_hold_is_refused_before_anything_is_written(
    mart: Session, tmp_path: Path, select: str, message: str
) -> None:
    relations = {"build_log": "build_log", "things": f"({select})"}
    with pytest.raises(StateError, match=message):
        export_tables(mart, relations, "csv,xlsx", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_text_as_long_as_a_cell_holds_is_kept(export: Export) -> None:
    assert cell_of(export, "repeat('é', 32_767)").value == "é" * 32_767


def test_a_workbook_that_fails_leaves_the_one_before_and_no_temporary_files(
    mart: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    export_tables(mart, {"things": "build_log"}, "xlsx", str(tmp_path))
    workbook = tmp_path / "Excel-export" / "sales 2024.xlsx"
    before = workbook.read_bytes()
    # rows are measured with all threads and written with one: this breaks when some are written
    late = "n > 4_000 and current_setting('threads') = 1"
    breaks = f"(select if({late}, error('it broke'), n) as n from range(300_000) t(n))"
    mart.connection.execute("set threads = 2")
    with pytest.raises(StateError, match=r"cannot be exported to .*Excel-export.*it broke"):
        export_tables(mart, {"fine": "build_log", "breaks": breaks}, "xlsx", str(tmp_path))
    assert workbook.read_bytes() == before
    assert sorted(os.listdir(workbook.parent)) == ["manifest.json", "sales 2024.xlsx"]
    assert os.listdir(scratch) == []


def test_xlsxwriter_is_imported_only_when_it_is_asked_for() -> None:
    script = "import sys, mart_helpers.export; print('xlsxwriter' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert ended.stdout == "False\n"
