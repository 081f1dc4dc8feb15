"""The checks: those that are derived, those that 01_build writes, and what is said when one fails."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import duckdb
import pandas as pd
import plain
import pytest
from checked_marts import BREAKS, RETURNS, MakeMart, custom_check, made_of
from conftest import sql_of

from mart_helpers.checks import explain_failures, run_checks, stop_on_failures
from mart_helpers.derived import derive_checks
from mart_helpers.errors import CheckFailed, StateError
from mart_helpers.session import Session, current_database, has_table, open_published
from mart_helpers.verdict import NOT_PASSED, headline, overall, verdict_lines

STAR = """
create schema contract;
create table contract.dim_product (
    product_id varchar primary key, product_name varchar check (product_name <> 'Unknown')
);
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

LATEST = "where build_id = (select max(build_id) from build_log)"
ROWS, AMOUNTS = "fact_sales_has_every_loaded_row", "fact_sales_has_all_loaded_amounts"


@pytest.fixture
def make_mart(tmp_path: Path) -> Iterator[MakeMart]:
    with made_of(STAR, tmp_path) as make:
        yield make


@pytest.fixture
def with_fault(sample_mart: Path, tmp_path: Path) -> Iterator[Callable[[str], Session]]:
    """Makes a copy of the sample's mart, changed after its build, and opens it; one at a time."""
    path, opened = tmp_path / "mart.duckdb", ExitStack()

    def make(statements: str) -> Session:
        opened.close()
        path.write_bytes(sample_mart.read_bytes())
        with duckdb.connect(str(path)) as connection:
            connection.execute(statements)
        return opened.enter_context(closing(Session(open_published(path), path, {})))

    with opened:
        yield make


def failed(results: pd.DataFrame) -> dict[str, int]:
    bad = results[results["status"].isin(NOT_PASSED)]
    return dict(zip(bad["check_name"], bad["bad_rows"], strict=True))


# Derived from the names of the star and the contract


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
        "dim_product_rule_1_on_product_name",
        "fact_sales_discount_is_not_null",
        "fact_sales_has_rows",
        "fact_sales_product_key_is_in_dim_product",
        "fact_sales_quantity_is_not_null",
        "fact_sales_rule_1_on_discount",
        "fact_sales_sale_id_is_not_null",
        "fact_sales_sale_id_is_unique",
    ]
    stop_on_failures(mart, results, "warn")


PLANTED = {
    "fact_sales_product_key_is_in_dim_product":
        ("insert into fact_sales values ('S4', 99, 1, 0), ('S5', null, 1, 0)", 2),
    "fact_sales_sale_id_is_unique":
        ("insert into fact_sales values ('S1', 1, 1, 0), ('S1', 1, 1, 0), ('S2', 1, 1, 0)", 2),
    "dim_product_product_key_is_unique": ("insert into dim_product values (1, 'P3', 'Second')", 1),
    "dim_product_product_id_is_not_null": ("insert into dim_product values (3, null, 'No id')", 1),
    "fact_sales_rule_1_on_discount":
        ("insert into fact_sales values ('S4', 1, 1, 1.5), ('S5', 1, 1, -0.1)", 2),
    # only the unknown member may be called so
    "dim_product_rule_1_on_product_name": ("insert into dim_product values (3, 'P3', 'Unknown')", 1),
    "fact_sales_has_rows": ("delete from fact_sales", 1),
}  # fmt: skip


def test_a_planted_fault_fails_its_check_and_no_other(make_mart: MakeMart) -> None:
    for check, (planted, bad_rows) in PLANTED.items():
        results = run_checks(make_mart(planted))
        assert failed(results) == {check: bad_rows}
        assert results.loc[0, ["severity", "status"]].to_list() == ["error", "fail"], check


def test_checks_may_be_derived_within_a_transaction(candidate: Session) -> None:
    for end, checks in (("rollback", 0), ("commit", 3)):
        candidate.execute("start transaction")
        candidate.execute("create table dim_thing (thing_key integer)")
        candidate.connection.execute("from range(9)").fetchone()  # a result that is not yet fetched
        derive_checks(candidate)
        assert not has_table(candidate.connection, "published", "nothing")
        candidate.execute(end)
        names = run_checks(candidate)["check_name"]
        assert names.str.startswith("dim_thing").sum() == checks, end


def test_a_column_named_as_a_reference_has_to_fit_a_dimension(candidate: Session) -> None:
    candidate.execute("create table contract.dim_store (store_id integer primary key, door_key varchar)")
    candidate.execute(
        "create table dim_store (store_key integer, store_durable_key integer, door_key text)"
    )
    candidate.execute("create table fact_visit (visit_key integer, main_store_key integer)")
    derive_checks(candidate)
    candidate.execute("alter table fact_visit add column shop_key integer")
    with pytest.raises(StateError, match=r"fact_visit.shop_key refers to no dimension: .* no dim_shop"):
        derive_checks(candidate)


def test_names_that_sql_would_have_to_quote_are_checked_too(candidate: Session) -> None:
    candidate.execute(
        'create table "dim_Point of Sale" ("Point of Sale" date, "Point of Sale_key" integer)'
    )
    candidate.execute("""insert into "dim_Point of Sale" values ('2024-01-01', 1), ('2024-01-03', 1)""")
    derive_checks(candidate)
    assert failed(run_checks(candidate)) == {
        "dim_Point of Sale_Point of Sale_key_is_unique": 1,
        "dim_Point of Sale_has_no_gap": 1,
    }


# Derived from the books, and written in 01_build

LOADED, SALES = plain.rows_loaded(), plain.rows_loaded("fact_sales")
LAST_DAY = sum(f"{sale['date']}" == "2024-12-31" for sale in plain.sales())

# What the sample has to tell by itself.
SLIPS = {
    "dim_customer_has_no_row_in_quarantine": plain.rows_set_aside("dim_customer"),
    "fact_sales_has_no_row_in_quarantine": plain.rows_set_aside("fact_sales"),
    "no_discount_without_customer": 2,
    "unit_price_is_near_list_price": 1,
}

FAULTS = {
    ROWS: (f"update build_inputs set rows_loaded = rows_loaded + 1 {LATEST}", 1),
    AMOUNTS: ("update fact_sales set net_amount = net_amount + 0.0001 where sale_id = 'S000001'", 1),
    "quarantine_has_every_rejected_row": (
        "update build_inputs set rows_quarantined = 2 where table_name = 'dim_product'; "
        "insert into quarantine values ('dim_product', 'dim_product.csv', 7, 'a', 'b', 'c', 'd'), "
        "('dim_product', 'dim_product.csv', 7, 'e', 'f', 'g', 'h')",
        1,
    ),
    "dim_date_has_no_gap": (
        "delete from dim_date where date_key in (20231231, 20240101); delete from fact_sales "
        "where date_key in (20231231, 20240101)",
        1,
    ),
    "no_sale_in_the_future": (
        "update fact_sales set date_key = 99991231 where sale_id = 'S002001'; "
        "insert into dim_date by name select 99991231 as date_key, date '9999-12-31' as date",
        1,
    ),
    "no_long_gap_without_sales": ("delete from fact_sales where date_key // 100 = 202406", 1),
    "no_sale_before_signup": (
        "update dim_customer set signup_date = date '2024-12-24' where customer_id = 'C001'",
        sum(s["customer_id"] == "C001" and f"{s['date']}" < "2024-12-24" for s in plain.sales()),
    ),
    "no_discount_without_customer": (
        "update fact_sales set discount = 0.21 where sale_id in (select sale_id from fact_sales "
        "where customer_key = -1 order by sale_id limit 3)",
        3,
    ),
    "few_sales_without_customer": ("update fact_sales set customer_key = -1 where quantity > 5", 1),
    "dim_customer_has_the_loaded_members": (
        "update dim_customer set customer_id = 'X' where customer_id = 'C001'",
        1,
    ),
    "dim_product_has_every_loaded_row": (
        "insert into dim_product by name select 99 as product_key, 'X' as product_id",
        1,
    ),
    "unit_price_is_near_list_price": (
        "update dim_product set list_price = null where product_id = 'P02'; "
        "update fact_sales set unit_price = if(sale_id = 'S000002', 100, -1) * unit_price "
        "where sale_id in ('S000001', 'S000002')",
        2,
    ),
}
# what else a fault breaks, because one thing has two consequences
ALSO = {
    ROWS: {"dim_customer_has_every_loaded_row", "dim_product_has_every_loaded_row"},
    "dim_product_has_every_loaded_row": {"dim_product_has_the_loaded_members"},
    "dim_date_has_no_gap": {ROWS, AMOUNTS},
    "no_sale_in_the_future": {
        *("dim_date_has_no_gap", "no_long_gap_without_sales"),
        "fact_sales_newest_month_is_not_half_empty",
    },
    "no_long_gap_without_sales": {ROWS, AMOUNTS},
    "quarantine_has_every_rejected_row": {"dim_product_has_no_row_in_quarantine"},
    "no_discount_without_customer": {AMOUNTS},
    "unit_price_is_near_list_price": {AMOUNTS},
}


def test_the_sample_passes_every_check_but_those_that_warn(with_fault):
    results = run_checks(with_fault("select 1"))
    assert failed(results) == SLIPS
    assert len(results) == 67
    assert set(FAULTS) < set(results["check_name"])


def test_a_fault_in_the_sample_fails_its_check_and_no_other(with_fault):
    for check, (statements, bad_rows) in FAULTS.items():
        found = failed(run_checks(with_fault(statements)))
        assert set(found) == {check, *SLIPS} | ALSO.get(check, set()), check
        assert found[check] == bad_rows + SLIPS.get(check, 0), check


def test_the_members_that_a_build_lost_or_made_up_are_named(candidate: Session) -> None:
    candidate.execute(
        "create table staging.dim_product as select 'P' || n as product_id from range(9) t (n)"
    )
    candidate.execute(
        "create table dim_product as select n::integer as product_key, 'P' || n as product_id "
        "from range(1, 10) t (n) union all select -1, null"
    )
    derive_checks(candidate)
    (found,) = candidate.connection.execute("from checks.dim_product_has_the_loaded_members").fetchall()
    assert found == (9, 9, ["P0"], ["P9"])


def test_the_last_sale_has_to_be_recent_if_a_day_is_named(with_fault):
    session = with_fault("select 1")
    session.connection.execute("set variable max_age_days = 7")
    for day, status in (("null", "skipped"), ("'2025-01-07'", "pass"), ("'2025-01-08'", "warn")):
        session.connection.execute(f"set variable as_of_date = {day}::date")
        results = run_checks(session).set_index("check_name")
        assert results.loc["last_sale_is_recent", "status"] == status


def test_a_sale_is_in_the_future_by_the_day_asked_for_or_else_by_the_local_day(with_fault):
    check = "no_sale_in_the_future"
    session = with_fault("select 1")
    session.connection.execute("set variable as_of_date = date '2024-12-30'")
    assert failed(run_checks(session)) == {check: LAST_DAY, **SLIPS}
    tomorrow = "(epoch_ms(epoch_ms(now()) + 14 * 3600000))::date"  # where the day begins first, perhaps
    reader = with_fault(f"update dim_date set date = {tomorrow} where date_key = 20241231")
    reader.close()
    count = f"import duckdb, sys; print(duckdb.connect(sys.argv[1]).sql('from checks.{check}').shape[0])"
    sales = [
        subprocess.run(
            [sys.executable, "-c", count, reader.database],
            env={**os.environ, "TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for zone in ("Etc/GMT-14", "Etc/GMT+12")
    ]
    assert sales == ["0", str(LAST_DAY)]


def earlier_builds(rows: list[int], stage: int = 3) -> str:
    """Statements for a log with so many `rows` in the builds before this one, which has LOADED."""
    values = ", ".join(f"({number}, {stage}, {count}, 1)" for number, count in enumerate(rows, 1))
    return (
        "update build_inputs set build_id = 100; update build_log set build_id = 100; "
        f"insert into build_log (build_id, stage, rows_loaded, revenue_loaded) values {values}; "
        "update build_log set revenue_loaded = (select max(revenue_loaded) from build_log)"
    )


HALVED, RISEN = earlier_builds([2 * LOADED] * 5), earlier_builds([2 * LOADED // 3] * 5)
DROPS_ONLY = "; update build_log set drops_only = true"
MEASURED = {
    "almost half as much is within the tolerance": (earlier_builds([2 * LOADED - 1] * 5), "pass"),
    "half as much is not": (HALVED, "fail"),
    "half as much again is not": (RISEN, "fail"),
    "one odd build moves no median": (earlier_builds([LOADED, LOADED, 9, LOADED, 9**9]), "pass"),
    "four earlier builds are too few": (earlier_builds([9000] * 4), "skipped"),
    "builds of another stage do not count": (earlier_builds([9000] * 9, stage=1), "skipped"),
    "rises are let pass by choice": (RISEN + DROPS_ONLY, "pass"),
    "falls are not": (HALVED + DROPS_ONLY, "fail"),
    "the tolerance is the build's": (HALVED + "; update build_log set volume_tolerance = 0.6", "pass"),
    "a build that was not measured is not near": (
        earlier_builds([LOADED] * 5) + f"; update build_log set revenue_loaded = null {LATEST}",
        "fail",
    ),
}


def test_a_build_is_measured_by_earlier_ones(with_fault):
    for words, (log, status) in MEASURED.items():
        results = run_checks(with_fault(log)).set_index("check_name")
        assert results.loc["build_is_near_earlier_builds", "status"] == status, words
        assert set(failed(results.reset_index())) <= {"build_is_near_earlier_builds", *SLIPS}, words


# What is said of them


def test_only_the_days_asked_for_are_checked(with_fault):
    session = with_fault(
        "update fact_sales set customer_key = 999 where sale_id in ('S000001', 'S002001'); "
        "update fact_sales set unit_price = -1 where sale_id = 'S000002'"
    )
    reference, price = "fact_sales_customer_key_is_in_dim_customer", "unit_price_is_near_list_price"
    assert failed(run_checks(session))[reference] == 2
    assert failed(run_checks(session, "2023-01-03"))[reference] == 1
    assert failed(run_checks(session, "", "2023-01-02"))[reference] == 1
    assert price in failed(run_checks(session, "2023-01-03", "2023-01-03"))
    assert not {reference, price} & failed(run_checks(session, "2024-01-01", "2024-01-31")).keys()


def test_rows_belong_to_days_by_whatever_name_the_contract_or_the_star_gives_them(make_mart: MakeMart):
    checks = (
        "create table contract.fact_orders (order_id varchar primary key, ordered_on date, due_on date);"
        "create table dim_date as select 20240101 as date_key;"
        + custom_check("declared", "warn: -", "select date '2024-01-01' + n as ordered_on from days")
        + custom_check("by_key", "warn: -", "select 20240101 + n as ship_date_key from days")
        + custom_check("of_no_day", "warn: -", "select date '2024-01-01' + n as some_day from days")
    )
    mart = make_mart(f"create table days as select range::integer as n from range(10); {checks}")
    results = run_checks(mart, "2024-01-03", "2024-01-04").set_index("check_name")["bad_rows"]
    assert list(results[["declared", "by_key", "of_no_day"]]) == [2, 2, 10]


def test_a_failure_shows_rows_with_natural_keys_file_and_line(with_fault, tmp_path):
    session = with_fault(
        "update fact_sales set unit_price = 100 * unit_price where sale_id = 'S000002'; "
        "update fact_sales set product_key = 99 where sale_id = 'S000005'"
    )
    results = run_checks(session)
    failures = explain_failures(session, results, "inputs")
    by_name = {failure.check_name: failure for failure in failures}
    reference = by_name["fact_sales_product_key_is_in_dim_product"]
    price = by_name["unit_price_is_near_list_price"]
    assert price.bad_rows == 1 + SLIPS["unit_price_is_near_list_price"]
    sale, day, product, *_, file, line = next(price.sample.itertuples(index=False))
    assert (sale, day, product, file, line) == ("S000002", 20230103, "P01", "fact_sales.csv", 3)
    assert price.query == "select * from checks.unit_price_is_near_list_price"
    assert reference.sample["customer_id"].notna().all()
    assert list(reference.sample["line"]) == [6]
    assert "S000002" in repr(failures)
    assert ">S000002</td>" in failures._repr_html_()
    (tmp_path / "fact_sales.csv").write_text("another than the build has read")
    elsewhere = {each.check_name: each for each in explain_failures(session, results, str(tmp_path))}
    assert "line" not in elsewhere[price.check_name].sample


def test_fail_on_says_from_which_severity_on_a_run_stops(make_mart: MakeMart) -> None:
    for faults, stopping in ((RETURNS, ["warn"]), ("delete from fact_sales", ["error", "warn"])):
        mart = make_mart(faults)
        results = run_checks(mart)
        for fail_on in ("error", "warn", "never"):
            if fail_on in stopping:
                with pytest.raises(CheckFailed, match=r"^1 (error|warning): .*; 1[23] passed"):
                    stop_on_failures(mart, results, fail_on)
            else:
                stop_on_failures(mart, results, fail_on)


def test_the_message_names_check_count_and_rows_and_fits_on_one_screen(with_fault):
    session = with_fault(
        "update fact_sales set customer_key = 4711, product_key = 999, date_key = 1, quantity = null, "
        "discount = 7, sale_id = 'S1'"
    )
    with pytest.raises(CheckFailed) as stop:
        stop_on_failures(session, run_checks(session), "warn")
    message = str(stop.value)
    assert message.startswith(
        f"7 errors: fact_sales_customer_key_is_in_dim_customer has {SALES:,} bad rows and 6 more; "
    )
    expected = "Expected: every customer_key of fact_sales is in dim_customer"
    assert f"{SALES:,} bad rows. {expected}" in message
    assert "4711" in message
    assert len(message.splitlines()) < 45


def test_a_check_that_cannot_run_is_broken_and_never_a_pass(make_mart: MakeMart) -> None:
    mart = make_mart(BREAKS)
    results = run_checks(mart)
    assert results.loc[0, ["check_name", "severity", "status"]].to_list() == [
        "needs_scratch",
        "warn",
        "broken",
    ]
    with pytest.raises(CheckFailed, match=r"^1 broken check: needs_scratch cannot run: .*scratch"):
        stop_on_failures(mart, results, "error")


def test_a_broken_check_ends_no_transaction(candidate: Session) -> None:
    candidate.execute("start transaction")
    candidate.execute("create schema checks; create table dim_thing (thing_key integer)")
    candidate.execute("create view checks.things as from dim_thing; drop table dim_thing")
    assert [row.status for row in run_checks(candidate).itertuples()] == ["broken"]
    candidate.execute("create table dim_other (other_key integer)")
    candidate.execute("rollback")
    assert not has_table(candidate.connection, current_database(candidate.connection), "dim_other")


def test_a_mart_without_any_check_is_not_vouched_for(with_fault):
    session = with_fault("drop schema checks cascade")
    with pytest.raises(CheckFailed, match="There are no checks, so the mart is unchecked"):
        stop_on_failures(session, run_checks(session), "error")
    stop_on_failures(session, run_checks(session), "never")


# What the results come to

ASKED = custom_check("asked", "warn: nothing", "select 'nobody asked' as skipped_because, null as n")


def test_a_check_that_says_why_it_is_skipped_has_neither_passed_nor_stops(make_mart: MakeMart) -> None:
    mart = make_mart(ASKED)
    results = run_checks(mart)
    (skipped,) = results[results["status"] == "skipped"].itertuples()
    assert skipped.bad_rows is pd.NA
    assert skipped.finding == "asked, because nobody asked"
    checks = results.to_dict("records")
    assert verdict_lines(checks) == ["13 checks passed, 1 skipped", f"skipped: {skipped.finding}"]
    stop_on_failures(mart, results, "warn")
    assert explain_failures(mart, results) == []


def test_a_bad_row_counts_beside_one_that_says_skipped(make_mart: MakeMart) -> None:
    bad = custom_check(
        "asked", "warn: -", "from (values ('nobody', 1), (null, 2)) _ (skipped_because, n)"
    )
    mart = make_mart(bad)
    (failure,) = explain_failures(mart, run_checks(mart))
    assert (failure.status, failure.bad_rows) == ("warn", 1)
    assert failure.sample.to_dict("list") == {"n": [2]}
    assert mart.connection.execute(failure.query).fetchall() == [(2,)]


def test_a_check_may_say_in_words_what_it_found(make_mart: MakeMart) -> None:
    mart = make_mart(
        custom_check("newest", "warn: -", "select unnest([1, 2]) as n, 'May is short' as found_in_words")
    )
    results = run_checks(mart)
    assert headline(results.to_dict("records")) == "1 warning: May is short; 13 passed"
    (failure,) = explain_failures(mart, results)
    assert (failure.bad_rows, list(failure.sample)) == (2, ["n"])


def test_the_worst_result_is_told_first_and_decides() -> None:
    found = {"pass": None, "skipped": "s", "warn": "w", "fail": "f", "broken": "b"}
    checks = [{"status": status, "finding": finding} for status, finding in found.items()]
    come_to = [overall(each["status"] for each in checks[:number]) for number in range(6)]
    assert come_to == ["fail", "pass", "pass", "warn", "fail", "fail"]
    assert headline([]) == "There are no checks, so the mart is unchecked"
    told = "1 broken check: b; 1 error: f; 2 warnings: w and 1 more; 1 passed, 1 skipped"
    assert headline([*checks, checks[2]]) == told


def test_a_row_in_quarantine_is_a_warning_from_the_first_one_on(with_fault):
    row = "insert into quarantine values ('fact_sales', 'f.csv', {}, 'a', 'b', 'c', 'd')"
    for lines, said in (
        ([3], "1 row (under 0.1 %) of fact_sales is"),
        ([3, 3, 5, 7], "3 rows (0.1 %) of fact_sales are"),
    ):
        session = with_fault(";".join(["delete from quarantine", *(row.format(line) for line in lines)]))
        results = run_checks(session).set_index("check_name")
        assert results.loc["dim_customer_has_no_row_in_quarantine", "status"] == "pass"
        warned = results.loc["fact_sales_has_no_row_in_quarantine"]
        assert warned.status == "warn"
        assert warned.finding == f"{said} in quarantine"


# What is in quarantine, as 04_quality lists it


def test_quarantine_is_listed_by_reason_file_by_file(candidate: Session) -> None:
    candidate.connection.execute(
        "insert into quarantine by name select 'fact_sales' as table_name, 'fact_sales/2.csv' as file, "
        "line, 'sale_id \"S' || line || '\" repeats that of line ' || line || ' in fact_sales/1.csv' "
        "as reason from range(2, 102) lines (line)"
    )
    candidate.connection.execute(
        "insert into quarantine by name select 'dim_product' as table_name, "
        "format('dim_product/{:02}.csv', month) as file, 2 as line, 'unit_cost is missing' as reason "
        "from range(30) months (month)"
    )
    view, listed = sql_of("04_quality", "create or replace temp view bad_values", "from bad_values")
    candidate.connection.execute(view)
    *products, sales = candidate.connection.execute(listed).fetchall()
    assert sales[2:] == ("sale_id … repeats that of another line in fact_sales/1.csv", 100, [2, 3, 4])
    assert [file for _, file, *_ in products] == [f"dim_product/{month:02}.csv" for month in range(30)]
