"""Text becomes a value strictly or not at all, also where no rule of the contract would notice."""

from datetime import date

import duckdb
import pytest

from mart_helpers.contract import cast_sql, read_contract
from mart_helpers.errors import StateError

BEYOND = [
    "infinity",
    "-infinity",
    "epoch",
    "10000-01-01",
    "-0001-01-01",
    "0044-03-15 (BC)",
    "02024-1-02",
]


def test_a_day_beyond_four_digits_of_year_is_none():
    assert [text for text in BEYOND if value(text, "DATE") is not None] == []
    for text in ("0001-01-01", "9999-12-31", "9999-12-31 23:59"):
        assert value(text, "DATE") == date.fromisoformat(text[:10])


GOOD = {
    "UINTEGER": ["7", " 7 ", "7.0", "+7"],
    "UTINYINT": ["255"],
    "DOUBLE": [" 2.5 ", "5.", ".5", "-0.25", "1e-05"],
    "FLOAT": ["2.5"],
    "TIMESTAMP": ["2024-01-05 10:00", "2024-01-05T10:00:00.123456", " 2024-01-05 ",
        "2024-01-05 10:00:00"],
    "TIME": ["10:00", "10:00:00.5", " 23:59:59 "],
    "BOOLEAN": ["true", "FALSE", " True "],
    "UUID": ["6F9619FF-8B86-D011-B42D-00CF4FC964FF", " 6f9619ff-8b86-d011-b42d-00cf4fc964ff "],
}  # fmt: skip

BAD = {
    "UINTEGER": ["2.5", "0.4", "1e2", "1_000", "0x10", "-1", "4294967296", ""],
    "UBIGINT": ["1.9", "1e3", "0b11"],
    "UTINYINT": ["256"],
    "DOUBLE": ["nan", "inf", "-Infinity", "1e3", "1_000", "1,5", ".", "0x1F", "1e400", "9" * 400],
    "FLOAT": ["nan", "inf", "1e3"],
    "TIMESTAMP": [
        "epoch", "infinity", "now", "2024-1-5", "2024-01-05 10:00:00+02:00", "2024-01-05T10:00:00Z",
        "2024-01-05 24:00:00", "2024-01-05 10:00:00.1234567", "2024-02-30 10:00", "10000-01-01 00:00:00",
    ],
    "TIME": ["24:00:00", "10", "10:00:00+02", "10:60", "10:00:00.123456789", "1:00"],
    "BOOLEAN": ["yes", "Y", "1", "0", "f", "t", "no", "on"],
    "UUID": ["6f9619ff8b86d011b42d00cf4fc964ff", "{6f9619ff-8b86-d011-b42d-00cf4fc964ff}", "6f9619ff"],
}  # fmt: skip


def test_text_in_the_form_of_a_type_is_a_value_and_any_other_is_none():
    good = {(name, text) for name, texts in GOOD.items() for text in texts}
    for name, text in good | {(name, text) for name, texts in BAD.items() for text in texts}:
        assert (value(text, name) is not None) == ((name, text) in good), (name, text)


def test_a_type_without_a_strict_form_is_refused_where_it_is_declared(candidate, subtests):
    for type_name in ["timestamptz", "interval", "enum ('a', 'b')", "varchar[]"]:
        with subtests.test(type_name):
            candidate.connection.execute(
                "create or replace table contract.dim_thing "
                f"(thing_id varchar primary key, extra {type_name})"
            )
            with pytest.raises(
                StateError, match=r"dim_thing: extra is declared as .* Declare it as one of deci"
            ):
                read_contract(candidate.connection, "dim_thing")


def value(text: str, type_name: str) -> object:
    with duckdb.connect() as connection:
        sql = f"select {cast_sql('text', type_name)} from (select $text as text)"
        return connection.execute(sql, {"text": text}).fetchone()[0]
