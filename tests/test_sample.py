"""The sample tells what it is meant to tell; see the head of `mart_helpers/lab/sample.py`."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import plain
from conftest import query, sql_of

from mart_helpers.lab.sample import write_sample


def test_the_inputs_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    made = write_sample(tmp_path)
    assert len(made) == 14
    for path in made:
        assert path.read_bytes() == (plain.INPUTS / path.relative_to(tmp_path)).read_bytes()


def test_the_seed_rows_are_rows_of_the_inputs() -> None:
    with duckdb.connect() as connection:
        connection.execute("create schema seed")
        for cell in sql_of("01_build", "create table seed."):
            connection.execute(cell)
        for table in plain.TABLES:
            rows = connection.execute(f"from seed.{table}").fetchall()
            good = {tuple(each_text(row.values())) for row in plain.lines(table)}
            assert {tuple(each_text(row)) for row in rows} <= good
            assert len(rows) == (20 if table == "fact_sales" else plain.rows_loaded(table))


def each_text(values: Iterable[object]) -> Iterator[str]:
    """The values as they are written, with no more decimals than they need."""
    for value in map(str, values):
        is_number = re.fullmatch(r"-?\d+\.\d+", value)
        yield "" if value == "None" else value.rstrip("0").rstrip(".") if is_number else value


def test_a_dozen_sales_and_a_customer_are_set_aside_each_for_a_fault_of_its_own(sample_mart) -> None:
    quarantine = "select table_name, column_name, value from quarantine order by all"
    assert query(sample_mart, quarantine) == [
        ("dim_customer", "signup_date", "2024-06-31"),
        ("fact_sales", "customer_id", "C099"),
        ("fact_sales", "discount", "1.5"),
        ("fact_sales", "discount", "5 %"),
        ("fact_sales", "product_id", "P99"),
        ("fact_sales", "quantity", "2.5"),
        ("fact_sales", "quantity", "two"),
        ("fact_sales", "sale_date", "17.01.2023"),
        ("fact_sales", "sale_date", "2024-02-30"),
        ("fact_sales", "sale_id", "S001688"),
        ("fact_sales", "sale_id", None),
        ("fact_sales", "unit_price", "16,65"),
        ("fact_sales", "unit_price", "n/a"),
        ("fact_sales", "unit_price", None),
    ]
