import csv
import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from datetime import date, datetime
from pathlib import Path

import pytest
import xlsxwriter
from conftest import CHECKOUT, declare_contract, load
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mart_helpers.errors import InputError
from mart_helpers.mart import create_candidate
from mart_helpers.session import Session

TABLES = ("dim_customer", "dim_product", "fact_sales")
NUMBERS = {"unit_cost", "list_price", "quantity", "unit_price"}


def rows_of(table: str) -> list[list[str]]:
    with (CHECKOUT / "inputs" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def as_number(text: str) -> object:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text or None


def typed(table: str) -> tuple[list[str], list[list[object]]]:
    """The rows of a sample table with numbers as numbers."""
    header, *rows = rows_of(table)
    return header, [
        [
            as_number(text) if name in NUMBERS else text or None
            for name, text in zip(header, row, strict=True)
        ]
        for row in rows
    ]


def write_sheets(path: Path, *tables: str) -> None:
    """A workbook with a sheet for each table, its days as serial dates."""
    with xlsxwriter.Workbook(path) as book:
        day = book.add_format({"num_format": "dd.mm.yyyy"})
        for table in tables:
            sheet = book.add_worksheet(table)
            header, rows = typed(table)
            sheet.write_row(0, 0, header)
            for number, row in enumerate(rows, 1):
                for column, (name, value) in enumerate(zip(header, row, strict=True)):
                    if name.endswith("_date") and is_day(value):
                        sheet.write_datetime(number, column, datetime.fromisoformat(value), day)
                    elif isinstance(value, str):
                        sheet.write_string(number, column, value)
                    else:
                        sheet.write(number, column, value)


def is_day(text: str | None) -> bool:
    try:
        return date.fromisoformat(text or "").year > 1900
    except ValueError:
        return False


def in_sheets(folder: Path) -> None:
    for table in TABLES:
        write_sheets(folder / f"{table}.xlsx", table)


def in_one_workbook(folder: Path) -> None:
    write_sheets(folder / "company.xlsx", *TABLES)


def in_json(folder: Path) -> None:
    for table in TABLES:
        header, rows = typed(table)
        records = [dict(zip(header, row, strict=True)) for row in rows]
        (folder / f"{table}.json").write_text(json.dumps(records, ensure_ascii=False), "utf-8")


def in_lines_of_json(folder: Path) -> None:
    for table in TABLES:
        header, rows = typed(table)
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
        (folder / f"{table}.ndjson").write_text("\n".join(lines) + "\n", "utf-8")


def in_sqlite(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "company.sqlite")) as database:
        for table in TABLES:
            header, rows = typed(table)
            database.execute(f"create table {table} ({', '.join(header)})")
            marks = ", ".join("?" for _ in header)
            database.executemany(f"insert into {table} values ({marks})", rows)
        database.commit()


def outcome(candidate: Session) -> tuple[list, list, list]:
    """What was loaded, and what is said of the rest, but for the wording of files and raw rows."""
    ask = candidate.connection.execute
    return (
        [ask(f"from staging.{table}").fetchall() for table in TABLES],
        ask(
            "select table_name, column_name, value, "
            "regexp_replace(reason, '( of line [0-9]+)?( .cell [A-Z]+[0-9]+.)?$', '') "
            "from quarantine order by all"
        ).fetchall(),
        ask("select table_name, rows_read, rows_loaded, rows_quarantined from build_inputs").fetchall(),
    )


@pytest.fixture(scope="module")
def of_csv(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, list, list]:
    session = create_candidate(tmp_path_factory.mktemp("csv") / "mart.duckdb")
    declare_contract(session)
    load(session, CHECKOUT / "inputs")
    yield outcome(session)
    session.close()


def test_the_same_rows_in_each_format_load_the_same(candidate, tmp_path, of_csv, subtests):
    for write in [in_sheets, in_one_workbook, in_json, in_lines_of_json, in_sqlite]:
        with subtests.test(write.__name__):
            folder = tmp_path / write.__name__
            folder.mkdir()
            write(folder)
            load(candidate, folder)
            assert outcome(candidate) == of_csv


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The products of the sample in each format, as bytes."""
    folder = tmp_path_factory.mktemp("whole")
    for write in (in_sheets, in_json, in_lines_of_json, in_sqlite):
        write(folder)
    (folder / "company.sqlite").rename(folder / "dim_product.sqlite")
    return {path.suffix: path.read_bytes() for path in folder.glob("dim_product.*")}


@settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_file_is_refused_or_each_row_of_it_accounted_for(
    candidate, whole_files, tmp_path_factory, data
):
    suffix = data.draw(st.sampled_from(sorted(whole_files)))
    damaged = bytearray(whole_files[suffix])
    at = data.draw(st.integers(0, len(damaged) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "lose", "double"]))
    if change == "flip":
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    elif change == "cut":
        del damaged[at:]
    else:
        behind = at + data.draw(st.integers(1, 40))
        damaged[at:behind] = b"" if change == "lose" else damaged[at:behind] * 2
    folder = tmp_path_factory.mktemp("damaged")
    (folder / f"dim_product{suffix}").write_bytes(damaged)
    try:
        load(candidate, folder, "dim_product")
    except InputError:
        event(f"{suffix} refused")
        return
    event(f"{suffix} read")
    read, loaded, bad = candidate.connection.execute(
        "select rows_read, rows_loaded, rows_quarantined from build_inputs"
    ).fetchone()
    (staged,) = candidate.connection.execute("select count(*) from staging.dim_product").fetchone()
    (lines,) = candidate.connection.execute("select count(distinct line) from quarantine").fetchone()
    assert (loaded, bad) == (staged, lines)
    assert read == loaded + bad


def test_cells_are_read_as_excel_shows_their_values(candidate, tmp_path, subtests):
    for is_1904 in [False, True]:
        with subtests.test(is_1904):
            path = tmp_path / "dim_product.xlsx"
            with xlsxwriter.Workbook(path, {"date_1904": is_1904}) as book:
                sheet = book.add_worksheet("a sheet of any name")
                sheet.write_row(2, 1, [*rows_of("dim_product")[0], "seen"])
                sheet.write_row(4, 1, [42, "Pen", "00123", 16.65 * 0.9, 1e13])
                sheet.write_datetime(
                    4, 6, datetime(2024, 1, 31), book.add_format({"num_format": "d.m.yy"})
                )
                sheet.set_row(4, None, None, {"hidden": True})
                sheet.write_row(7, 1, ["P1", "Pad", "", "2.5", "3"])
                sheet.write_formula(7, 4, "=1/0", None, "#DIV/0!")
            load(candidate, tmp_path, "dim_product")
            ask = candidate.connection.execute
            assert ask(
                "select columns(* exclude (file_day))::varchar from staging.dim_product"
            ).fetchall() == [("42", "Pen", "00123", "14.9850", "10000000000000.0000")]
            ((line, column, value, reason),) = ask(
                "select line, column_name, value, reason from quarantine"
            ).fetchall()
            assert (line, column, value) == (8, "unit_cost", "#DIV/0!")
            assert reason.endswith("(cell E8)")
            assert ask("select ignored_columns from build_inputs").fetchone() == ("seen",)


def test_dates_of_a_sheet_are_days_in_either_epoch(candidate, tmp_path):
    for epoch in (False, True):
        with xlsxwriter.Workbook(tmp_path / "dim_customer.xlsx", {"date_1904": epoch}) as book:
            sheet = book.add_worksheet()
            sheet.write_row(
                0, 0, ["customer_id", "customer_name", "segment", "city", "country", "signup_date"]
            )
            sheet.write(1, 0, "C1")
            sheet.write_datetime(1, 5, datetime(2024, 1, 31), book.add_format({"num_format": "d.m.yy"}))
        load(candidate, tmp_path, "dim_customer")
        (found,) = candidate.connection.execute("from staging.dim_customer").fetchall()
        assert found[5] == date(2024, 1, 31)


def test_a_sheet_whose_cells_cannot_be_told_is_refused_by_cell(candidate, tmp_path, subtests):
    for write, message in [
        (lambda sheet: sheet.merge_range("B2:B3", "Pen"), r"the cells B2:B3 are merged"),
        (
            lambda sheet: sheet.write_formula("C2", "=B2", None, ""),
            r"cell C2 has a formula without a value",
        ),
        (lambda sheet: None, "a header and no rows"),
    ]:
        with subtests.test(message):
            with xlsxwriter.Workbook(tmp_path / "dim_product.xlsx") as book:
                sheet = book.add_worksheet()
                sheet.write_row(0, 0, rows_of("dim_product")[0])
                write(sheet)
            with pytest.raises(InputError, match=message):
                load(candidate, tmp_path, "dim_product")


def test_a_file_that_is_not_of_its_kind_is_refused(candidate, tmp_path, subtests):
    for name, data, message in [
        ("dim_product.xlsx", b"PK\x03\x04 no zip", "cannot be read as an Excel workbook"),
        ("dim_product.json", b'{"product_id": 1}', "array of JSON objects: it does not end with ]"),
        ("dim_product.json", b'[{"product_id": "P1"},', "it does not end with ]"),
        ("dim_product.json", b'[{"product_id": "P1"}, {"product_id"}]', "record 2: "),
        ("dim_product.json", b'[{"product_id": "P1", "product_id": "P2"}]', "has a name twice"),
        ("dim_product.json", b'[{"product_id": "P1"}] []', "unexpected character. Make"),
        ("dim_product.json", b"[]", "is empty"),
        ("dim_product.ndjson", b'{"product_id": "P1"}\n[1]\n', "line 2 is not an object"),
        ("dim_product.ndjson", b'{"product_id": "\xff"}\n', "is not UTF-8"),
        ("dim_product.sqlite", b"no database at all, but text", "cannot be read as an SQLite file"),
    ]:  # fmt: skip
        with subtests.test(message):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(InputError, match=message):
                load(candidate, tmp_path, "dim_product")
        (tmp_path / name).unlink()


def test_a_workbook_that_unpacks_too_large_is_refused(candidate, tmp_path):
    write_sheets(tmp_path / "dim_product.xlsx", "dim_product")
    with (
        zipfile.ZipFile(tmp_path / "dim_product.xlsx", "a", zipfile.ZIP_DEFLATED) as packed,
        packed.open("xl/media/bomb.bin", "w") as bomb,
    ):
        for _ in range(501):
            bomb.write(bytes(1_000_000))
    with pytest.raises(InputError, match="unpacks to 501 MB"):
        load(candidate, tmp_path, "dim_product")


def test_two_sources_of_one_table_are_refused(candidate, tmp_path):
    write_sheets(tmp_path / "company.xlsx", "dim_product")
    shutil.copy(CHECKOUT / "inputs" / "dim_product.csv", tmp_path)
    with pytest.raises(InputError, match=r"dim_product\.csv and company\.xlsx, sheet dim_product"):
        load(candidate, tmp_path, "dim_product")


def test_a_workbook_of_several_sheets_does_not_leave_it_to_guesses(candidate, tmp_path):
    with xlsxwriter.Workbook(tmp_path / "dim_product.xlsx") as book:
        for name in ("old", "new"):
            book.add_worksheet(name)
    with pytest.raises(InputError, match=r"which sheet should be read\? It has old, new"):
        load(candidate, tmp_path, "dim_product")


def test_numbers_of_json_and_sqlite_stay_as_they_are_written(candidate, tmp_path):
    record = '{"product_id": 1e3, "product_name": "a\\nb", "category": null, "unit_cost": 0.10, '
    (tmp_path / "dim_product.json").write_text(f'[{record}"list_price": 1}}]')
    load(candidate, tmp_path, "dim_product")
    found = candidate.connection.execute(
        "select columns(* exclude (file_day))::varchar from staging.dim_product"
    ).fetchall()
    assert found == [("1e3", "a\nb", None, "0.1000", "1.0000")]


def test_an_sqlite_file_is_not_written_to(candidate, tmp_path):
    in_sqlite(tmp_path)
    before = (tmp_path / "company.sqlite").read_bytes()
    load(candidate, tmp_path)
    assert (tmp_path / "company.sqlite").read_bytes() == before
    assert [path.name for path in tmp_path.glob("company*")] == ["company.sqlite"]


def test_a_sheet_and_a_csv_of_one_folder_are_read_together(candidate, tmp_path):
    (tmp_path / "dim_product").mkdir()
    write_sheets(tmp_path / "dim_product" / "2.xlsx", "dim_product")
    header, first, *_ = (CHECKOUT / "inputs" / "dim_product.csv").read_text("utf-8").splitlines()
    (tmp_path / "dim_product" / "1.csv").write_text(f"{header}\n{first}\n", "utf-8")
    load(candidate, tmp_path, "dim_product")
    ask = candidate.connection.execute
    assert ask("select file, rows_read, rows_quarantined from build_inputs order by all").fetchall() == [
        ("dim_product/1.csv", 1, 0),
        ("dim_product/2.xlsx", 8, 1),
    ]
    assert ask("select line from quarantine where column_name = 'product_id'").fetchall() == [(2,)]


def test_a_nul_character_in_json_is_refused(candidate, tmp_path):
    names = ", ".join(f'"{name}": "\\u0000"' for name in rows_of("dim_product")[0])
    (tmp_path / "dim_product.ndjson").write_text(f"{{{names}}}")
    with pytest.raises(InputError, match="row 1 holds a NUL character"):
        load(candidate, tmp_path, "dim_product")
