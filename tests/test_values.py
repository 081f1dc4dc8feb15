"""Text becomes a value strictly or not at all, also where no rule of the contract would notice."""

from datetime import date

import duckdb
import pytest

from mart_helpers.contract import cast_sql

BEYOND = [
    "infinity",
    "-infinity",
    "epoch",
    "10000-01-01",
    "-0001-01-01",
    "0044-03-15 (BC)",
    "02024-1-02",
]


@pytest.mark.parametrize("text", BEYOND)
def test_a_day_beyond_four_digits_of_year_is_none(text):
    assert value(text, "DATE") is None


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31", "9999-12-31 23:59"])
def test_the_first_and_the_last_day_of_four_digits_are_days(text):
    assert value(text, "DATE") == date.fromisoformat(text[:10])


def value(text: str, type_name: str) -> object:
    with duckdb.connect() as connection:
        sql = f"select {cast_sql('text', type_name)} from (select $text as text)"
        return connection.execute(sql, {"text": text}).fetchone()[0]
