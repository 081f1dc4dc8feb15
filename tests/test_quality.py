"""The checks on a mart with planted faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from checked_marts import BREAKS, RETURNS, MakeMart, made_of
from conftest import sql_of

from mart_helpers.checks import derive_checks, run_checks, stop_on_failures
from mart_helpers.errors import CheckFailed
from mart_helpers.session import Session, current_database, has_table

STAR = """
create schema contract;
create table contract.dim_product (product_id varchar primary key, product_name varchar);
create table contract.fact_sales (
    sale_id varchar primary key,
    product_id varchar not null references contract.dim_product (product_id),
    quantity bigint not null,
    discount decimal(9, 6) not null default 0 check (discount between 0 and 1)
);
create table dim_product (product_key integer, product_id varchar, product_name varchar);
create table fact_sales (
    sale_id varchar, product_key integer, quantity bigint, discount decimal(9, 6)
);
create table build_log (build_id integer, built_at timestamp);
insert into dim_product values (-1, null, 'Unknown'), (1, 'P1', 'Tea'), (2, 'P2', null);
insert into fact_sales values ('S1', 1, 5, 0), ('S2', 2, -1, 0.25), ('S3', -1, 1, 1);
"""


@pytest.fixture
def make_mart(tmp_path: Path) -> Iterator[MakeMart]:
    with made_of(STAR, tmp_path) as make:
        yield make


def not_passed(session: Session) -> list[tuple]:
    """Name, severity, status and bad rows of the checks that did not pass."""
    results = run_checks(session)
    columns = ["check_name", "severity", "status", "bad_rows"]
    return list(results.loc[results["status"] != "pass", columns].itertuples(index=False, name=None))


# --- the checks ---


def test_a_sound_mart_passes_every_check(make_mart: MakeMart) -> None:
    mart = make_mart()
    results = run_checks(mart)
    assert set(results["status"]) == {"pass"}
    assert results["check_name"].to_list() == [
        "dim_product_has_rows",
        "dim_product_product_id_is_not_null",
        "dim_product_product_id_is_unique",
        "dim_product_product_key_is_not_null",
        "dim_product_product_key_is_unique",
        "fact_sales_discount_is_not_null",
        "fact_sales_has_rows",
        "fact_sales_product_key_is_in_dim_product",
        "fact_sales_quantity_is_not_null",
        "fact_sales_rule_1_on_discount",
        "fact_sales_sale_id_is_not_null",
        "fact_sales_sale_id_is_unique",
    ]
    stop_on_failures(mart, results, "warn")


@pytest.mark.parametrize(
    ("planted", "check", "bad_rows"),
    [
        (
            "insert into fact_sales values ('S4', 99, 1, 0), ('S5', null, 1, 0)",
            "fact_sales_product_key_is_in_dim_product",
            2,
        ),
        (
            "insert into fact_sales values ('S1', 1, 1, 0), ('S1', 1, 1, 0), ('S2', 1, 1, 0)",
            "fact_sales_sale_id_is_unique",
            2,
        ),
        (
            "insert into dim_product values (1, 'P3', 'Second with key 1')",
            "dim_product_product_key_is_unique",
            1,
        ),
        (
            "insert into dim_product values (3, 'P1', 'Second P1')",
            "dim_product_product_id_is_unique",
            1,
        ),
        (
            "insert into fact_sales values (null, 1, 1, 0), (null, 1, 1, 0)",
            "fact_sales_sale_id_is_not_null",
            2,
        ),
        (
            "insert into dim_product values (null, 'P3', 'No key')",
            "dim_product_product_key_is_not_null",
            1,
        ),
        (
            "insert into dim_product values (3, null, 'No id')",
            "dim_product_product_id_is_not_null",
            1,
        ),
        (
            "insert into fact_sales values ('S4', 1, null, 0)",
            "fact_sales_quantity_is_not_null",
            1,
        ),
        (
            "insert into fact_sales values ('S4', 1, 1, 1.5), ('S5', 1, 1, -0.1)",
            "fact_sales_rule_1_on_discount",
            2,
        ),
        ("delete from fact_sales", "fact_sales_has_rows", 1),
    ],
)
def test_a_planted_fault_fails_its_check_and_no_other(
    make_mart: MakeMart, planted: str, check: str, bad_rows: int
) -> None:
    assert not_passed(make_mart(planted)) == [(check, "error", "fail", bad_rows)]


def test_a_check_of_ones_own_is_run_like_the_others(make_mart: MakeMart) -> None:
    assert not_passed(make_mart(RETURNS)) == [("few_returns", "warn", "fail", 1)]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_checks_may_be_derived_within_a_transaction(candidate: Session, end: str) -> None:
    candidate.execute("create table dim_thing (thing_key integer)")
    candidate.execute("start transaction")
    candidate.connection.execute("from range(9)").fetchone()  # a result that is not yet fetched
    derive_checks(candidate)
    assert not has_table(candidate.connection, "published", "nothing")
    candidate.execute(end)
    assert len(run_checks(candidate)) == (3 if end == "commit" else 0)


def test_a_broken_check_ends_no_transaction(candidate: Session) -> None:
    candidate.execute("start transaction")
    candidate.execute("create schema checks; create table dim_thing (thing_key integer)")
    candidate.execute("create view checks.things as from dim_thing; drop table dim_thing")
    assert [row.status for row in run_checks(candidate).itertuples()] == ["broken"]
    candidate.execute("create table dim_other (other_key integer)")
    candidate.execute("rollback")
    assert not has_table(candidate.connection, current_database(candidate.connection), "dim_other")


def test_a_check_that_cannot_run_is_broken_and_never_a_pass(make_mart: MakeMart) -> None:
    mart = make_mart(BREAKS)
    results = run_checks(mart)
    assert results.loc[0, ["check_name", "status"]].to_list() == ["needs_scratch", "broken"]
    with pytest.raises(CheckFailed, match=r"needs_scratch .*cannot run.*scratch"):
        stop_on_failures(mart, results, "warn")


@pytest.mark.parametrize(
    ("faults", "fail_on", "stops"),
    [
        (RETURNS, "error", False),
        (RETURNS, "warn", True),
        (RETURNS, "never", False),
        ("delete from fact_sales", "error", True),
        ("delete from fact_sales", "warn", True),
        ("delete from fact_sales", "never", False),
    ],
)
def test_fail_on_says_from_which_severity_on_a_run_stops(
    make_mart: MakeMart, faults: str, fail_on: str, stops: bool
) -> None:
    mart = make_mart(faults)
    results = run_checks(mart)
    if not stops:
        stop_on_failures(mart, results, fail_on)
        return
    with pytest.raises(CheckFailed, match=r"^1 of 1[23] checks failed"):
        stop_on_failures(mart, results, fail_on)


def test_the_failure_names_check_count_and_rows(make_mart: MakeMart) -> None:
    mart = make_mart("insert into fact_sales values ('S4', 4711, 1, 0)")
    with pytest.raises(CheckFailed, match=r"(?s)is_in_dim_product .*: 1 bad. .*S4 .*4711"):
        stop_on_failures(mart, run_checks(mart), "error")


# --- what is in quarantine ---


def test_rows_that_repeat_keys_of_another_file_have_one_reason(candidate: Session) -> None:
    candidate.connection.execute(
        "insert into quarantine by name select 'fact_sales' as table_name, 'fact_sales/2.csv' as file, "
        "line, 'sale_id \"S' || line || '\" repeats that of line ' || line || ' in fact_sales/1.csv' "
        "as reason from range(2, 102) lines (line)"
    )
    (statement,) = sql_of("04_quality", "with reasons")
    (found,) = candidate.connection.execute(statement).fetchall()
    assert found[2:] == ("sale_id … repeats that of another line in fact_sales/1.csv", 100, [2, 3, 4])


def test_what_is_in_quarantine_is_listed_file_by_file(candidate: Session) -> None:
    candidate.connection.execute(
        "insert into quarantine by name select 'fact_sales' as table_name, "
        "format('fact_sales/{:02}.csv', month) as file, 2 as line, 'quantity is missing' as reason "
        "from range(30) months (month)"
    )
    (statement,) = sql_of("04_quality", "with reasons")
    files = [file for _, file, *_ in candidate.connection.execute(statement).fetchall()]
    assert files == [f"fact_sales/{month:02}.csv" for month in range(30)]
