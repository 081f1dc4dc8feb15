"""Every value of the star, and of a table full of traps, comes back from every format of an export."""

import csv
import json
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pytest
from openpyxl.utils.escape import unescape
from test_explore import ANSWERS

from mart_helpers.export import export_tables
from mart_helpers.run import answer_questions
from mart_helpers.session import Session, open_published

Rows = list[tuple[Any, ...]]

TRAPS = {
    "words varchar": [
        'say "hi"', '"', '""', "two\nlines", "windows\r\nlines", "old mac\rlines", "a, b; c\td|",
        " around ", "=1+1", "+1", "-2", "@x", "{=1}", "{{ braces }} $dollar", "#comment", "#N/A",
        "https://example.com", "mailto:a@b.c", "internal:A1", "007", "1e3", "1234567890123456", "TRUE",
        "2024-01-01", "null", "NULL", "NaN", "", " ", None, "😀 é 中文", "\u202eשלום\u202c", "\ufeffbom",
        "\u2028", "\x01\x08\x0b\x1f\x7f\x85", "\ufffe\uffff", "_x0041_", "_x005F_", "_x0041_x0042_",
        "_x0041\x01", "_X0041_", "<r>rich</r>", "&lt;<b>&amp;", "x" * 32_767, "😀" * 16_383, "'quoted'",
        "back\\slash \\n \\N",
    ],
    "whole bigint": [0, -1, 10**15 - 1, -(10**15), 10**15 + 1, 2**53 + 1, 2**63 - 1, -(2**63), 10**18],
    "huge hugeint": [10**38 - 1, -(2**100), 7],
    "amount decimal(18, 4)": [
        *map(Decimal, ("-0.0001", "12.5000", "-1234567.8900", "99999999999.9999", "0.1", "0")),
        *map(Decimal, ("100000000000.0001", "-99999999999999.9999", "99999999999999.0000")),
    ],
    "share decimal(38, 20)": [Decimal("0.12345678901234567890"), Decimal("0.5"), Decimal("1E-20")],
    "measure double": [0.1, 0.1 + 0.2, 1 / 3, -1e300, 5e-324, 1e22, 2.0**53],
    "day date": [
        *(date(1, 1, 1), date(1899, 12, 31), date(1900, 1, 1), date(1900, 2, 28), date(1900, 3, 1)),
        *(date(2024, 2, 29), date(2100, 12, 31), date(9999, 12, 31)),
    ],
    "moment timestamp": [
        *(datetime(1900, 1, 1, 1, 2, 3), datetime(2024, 1, 1), datetime(2024, 1, 1, 23, 59, 59)),
        *(datetime(2024, 1, 1, 12, 34, 56, 789_000), datetime(2024, 1, 1, 12, 34, 56, 789_123)),
    ],
    "flag boolean": [True, False, None],
}  # fmt: skip
STAR = ["dim_customer", "dim_date", "dim_product", "fact_sales"]
TABLES = [*STAR, "sales", *ANSWERS, "build_log", "traps"]
PARSERS: dict[str, Callable[[str], Any]] = {  # of the others, Decimal
    "varchar": str,
    "float": float,
    "double": float,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "timestamp": datetime.fromisoformat,
    "boolean": lambda text: {"true": True, "false": False}[text],
}


@pytest.fixture(scope="module")
def session(shared_mart: Path) -> Iterator[Session]:
    """As that of 03_export: confined, with the answers of 02_explore; there is a table of traps too."""
    with duckdb.connect(str(shared_mart)) as connection:
        connection.execute(f"create table traps ({', '.join(TRAPS)})")
        values = ", ".join("?" for _ in TRAPS)
        connection.executemany(
            f"insert into traps values ({values})", list(zip_longest(*TRAPS.values()))
        )
    session = Session(open_published(shared_mart, [shared_mart.parent]), shared_mart, {})
    answer_questions(session, "02_explore", start_date="2024-01-01")
    yield session
    session.close()


def csv_texts(folder: Path, table: str) -> Rows:
    """The fields; this reader does not tell a missing value from empty text."""
    csv.field_size_limit(10**6)
    with (folder / "CSV-export" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return [tuple(text or None for text in row) for row in csv.reader(file)][1:]


def json_texts(text: str) -> Any:
    return json.loads(text, parse_float=str, parse_int=str)


def array_texts(folder: Path, table: str) -> Rows:
    text = (folder / "JSON-export" / f"{table}.json").read_text(encoding="utf-8")
    return [tuple(row.values()) for row in json_texts(text)]


def line_texts(folder: Path, table: str) -> Rows:
    lines = (folder / "NDJSON-export" / f"{table}.ndjson").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return [tuple(json_texts(line).values()) for line in lines]


def cell_texts(folder: Path, table: str) -> Rows:
    sheet = workbook(folder / "Excel-export" / "mini_data_mart.xlsx")[table]
    return [tuple(map(cell_text, row)) for row in sheet.iter_rows(min_row=2, values_only=True)]


@cache
def workbook(path: Path) -> openpyxl.Workbook:
    return openpyxl.load_workbook(path)


def cell_text(value: Any) -> str | bool | None:
    if isinstance(value, str):
        return unescape(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool) else repr(value)


def parsed(text: str | bool | None, kind: str) -> Any:
    """The value that a file writes as text, by the type of its column; a boolean may be one already."""
    return text if text is None or isinstance(text, bool) else PARSERS.get(kind, Decimal)(text)


@pytest.mark.parametrize(
    ("name", "read"),
    [("csv", csv_texts), ("json", array_texts), ("ndjson", line_texts), ("xlsx", cell_texts)],
)
def test_every_value_comes_back_from_the(
    session: Session, shared_mart: Path, name: str, read: Callable
) -> None:
    export_tables(session, dict(zip(TABLES, TABLES, strict=True)), name, str(shared_mart.parent))
    for table in TABLES:
        expected = session.connection.execute(f"from {table}").fetchall()
        kinds = [column[1].id for column in session.connection.description]
        if name == "csv":
            expected = [tuple(None if value == "" else value for value in row) for row in expected]
        found = [tuple(map(parsed, row, kinds)) for row in read(shared_mart.parent, table)]
        assert found == expected, table


def test_every_value_and_type_comes_back_from_the_parquet(session: Session, shared_mart: Path) -> None:
    export_tables(session, dict(zip(TABLES, TABLES, strict=True)), "parquet", str(shared_mart.parent))
    for table in TABLES:
        path = shared_mart.parent / "Parquet-export" / f"{table}.parquet"
        with duckdb.connect() as connection:
            found = connection.execute("from read_parquet($path)", {"path": str(path)}).fetchall()
            types = [str(kind) for _, kind, *_ in connection.description]
        assert found == session.connection.execute(f"from {table}").fetchall(), table
        expected = [str(kind) for _, kind, *_ in session.connection.description]
        # Parquet has no whole numbers of 128 bits
        assert types == ["DECIMAL(38,0)" if kind == "HUGEINT" else kind for kind in expected], table
