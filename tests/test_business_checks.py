"""The checks that 01_build writes as views, on the mart of the sample and on copies with one fault."""

from pathlib import Path

import duckdb
import pandas as pd
import pytest
from conftest import mart_command

from mart_helpers.checks import explain_failures, run_checks, stop_on_failures
from mart_helpers.errors import CheckFailed
from mart_helpers.session import Session, open_published

LATEST = "where build_id = (select max(build_id) from build_log)"
FAULTS = {
    "fact_sales_has_every_loaded_row": (
        f"update build_inputs set rows_loaded = rows_loaded + 1 {LATEST}",
        1,
    ),
    "fact_sales_has_all_loaded_revenue": (
        "update build_log set revenue_loaded = revenue_loaded + 0.0001",
        1,
    ),
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
    "no_sale_in_the_future": ("update build_log set built_at = timestamp '2024-12-30'", None),
    "no_long_gap_without_sales": ("delete from fact_sales where date_key // 100 = 202406", 1),
    "no_sale_before_signup": (
        "update dim_customer set signup_date = date '2024-12-24' where customer_id = 'C001'",
        None,
    ),
    "no_discount_without_customer": (
        "update fact_sales set discount = 0.21 where sale_id in (select sale_id from fact_sales "
        "where customer_key = -1 order by sale_id limit 3)",
        3,
    ),
    "few_sales_without_customer": ("update fact_sales set customer_key = -1 where quantity > 5", 1),
    "unit_price_is_near_list_price": (
        "update fact_sales set unit_price = 100 * unit_price where sale_id in ('S000001', 'S000002')",
        2,
    ),
    "unit_price_is_not_negative": (
        "update dim_product set list_price = null; "
        "update fact_sales set unit_price = -unit_price where sale_id = 'S000001'",
        1,
    ),
}
# what else a fault breaks, because one thing has two consequences
ALSO = {
    "dim_date_has_no_gap": {"fact_sales_has_every_loaded_row", "fact_sales_has_all_loaded_revenue"},
    "no_long_gap_without_sales": {
        "fact_sales_has_every_loaded_row",
        "fact_sales_has_all_loaded_revenue",
    },
}


@pytest.fixture(scope="module")
def sample(shared_home: Path) -> Path:
    assert mart_command("build", cwd=shared_home).returncode == 0
    return shared_home / "data" / "mini_data_mart.duckdb"


class Copies:
    """Copies of the sample mart, each with a fault, and read as 04_quality reads them."""

    def __init__(self, sample: Path, folder: Path) -> None:
        self._sample, self._folder, self.sessions = sample, folder, []

    def with_fault(self, statements: str) -> Session:
        path = self._folder / f"{len(self.sessions)}.duckdb"
        path.write_bytes(self._sample.read_bytes())
        with duckdb.connect(str(path)) as connection:
            connection.execute(statements)
        self.sessions.append(Session(open_published(path), path, {}))
        return self.sessions[-1]


@pytest.fixture
def copies(sample: Path, tmp_path: Path) -> Copies:
    made = Copies(sample, tmp_path)
    yield made
    for session in made.sessions:
        session.close()


def failed(results: pd.DataFrame) -> dict[str, int]:
    bad = results[results["status"] != "pass"]
    return dict(zip(bad["check_name"], bad["bad_rows"], strict=True))


def test_the_sample_passes_every_check(copies):
    results = run_checks(copies.with_fault("select 1"))
    assert failed(results) == {}
    assert len(results) == 38
    assert set(FAULTS) < set(results["check_name"])


@pytest.mark.parametrize("check", FAULTS)
def test_a_fault_fails_its_check_and_no_other(copies, check):
    statements, bad_rows = FAULTS[check]
    found = failed(run_checks(copies.with_fault(statements)))
    assert set(found) == {check} | ALSO.get(check, set())
    assert found[check] > 0 if bad_rows is None else found[check] == bad_rows


def test_the_last_sale_has_to_be_recent_where_a_day_is_named(copies):
    session = copies.with_fault("select 1")
    for as_of_date, failures in (("2025-01-07", {}), ("2025-01-08", {"last_sale_is_recent": 1})):
        session.connection.execute(f"set variable as_of_date = date '{as_of_date}'")
        session.connection.execute("set variable max_age_days = 7")
        assert failed(run_checks(session)) == failures


def earlier_builds(rows: list[int], stage: int = 3) -> str:
    """Statements for a log with so many `rows` in the builds before this one, which has 2,000."""
    values = ", ".join(f"({number}, {stage}, {count}, 0)" for number, count in enumerate(rows, 1))
    return (
        "update build_inputs set build_id = 100; "
        "update build_log set build_id = 100, rows_loaded = 2000; "
        f"insert into build_log (build_id, stage, rows_loaded, revenue_loaded) values {values}; "
        "update build_log set revenue_loaded = (select max(revenue_loaded) from build_log)"
    )


@pytest.mark.parametrize(
    ("words", "log", "is_refused"),
    [
        ("as ever", earlier_builds([2000] * 5), False),
        ("almost half as much is within the tolerance", earlier_builds([3999] * 5), False),
        ("half as much is not", earlier_builds([4000] * 5), True),
        ("half as much again is within it", earlier_builds([1334] * 5), False),
        ("more is not", earlier_builds([1333] * 5), True),
        ("one odd build does not move the median", earlier_builds([2000, 2000, 9, 2000, 90000]), False),
        ("four earlier builds are too few", earlier_builds([9000] * 4), False),
        ("builds of another stage do not count", earlier_builds([9000] * 9, stage=1), False),
        (
            "rises are let pass by choice",
            earlier_builds([1333] * 5) + "; update build_log set drops_only = true",
            False,
        ),
        (
            "falls are not",
            earlier_builds([4001] * 5) + "; update build_log set drops_only = true",
            True,
        ),
        (
            "the tolerance is that of the build",
            earlier_builds([4001] * 5) + "; update build_log set volume_tolerance = 0.6",
            False,
        ),
    ],
)
def test_a_build_is_measured_by_earlier_ones(copies, words, log, is_refused):
    found = failed(run_checks(copies.with_fault(log)))
    assert found == ({"build_is_near_earlier_builds": 1} if is_refused else {})


def test_only_the_days_asked_for_are_checked(copies):
    session = copies.with_fault(
        "update fact_sales set customer_key = 999 where sale_id in ('S000001', 'S002000'); "
        "update dim_product set list_price = null; "
        "update fact_sales set unit_price = -1 where sale_id = 'S000001'"
    )
    reference = "fact_sales_customer_key_is_in_dim_customer"
    assert failed(run_checks(session))[reference] == 2
    assert failed(run_checks(session, "2023-01-02"))[reference] == 1
    assert failed(run_checks(session, "", "2023-01-01"))[reference] == 1
    assert reference not in failed(run_checks(session, "2024-01-01", "2024-01-31"))


def test_checks_of_single_sales_keep_to_the_days_asked_for(copies):
    session = copies.with_fault(
        "update fact_sales set unit_price = -unit_price, discount = 0.5, customer_key = -1 "
        "where sale_id = 'S000002'"
    )
    of_sales = {
        "unit_price_is_near_list_price",
        "unit_price_is_not_negative",
        "no_discount_without_customer",
    }
    assert of_sales <= failed(run_checks(session, "2023-01-02", "2023-01-02")).keys()
    assert not of_sales & failed(run_checks(session, "2023-01-03")).keys()


def test_a_failure_shows_rows_with_natural_keys_file_and_line(copies):
    session = copies.with_fault(
        "update fact_sales set unit_price = 100 * unit_price where sale_id = 'S000002'; "
        "update fact_sales set product_key = 99 where sale_id = 'S000005'"
    )
    results = run_checks(session)
    reference, price = explain_failures(session, results, "inputs")
    assert (price.check_name, price.bad_rows) == ("unit_price_is_near_list_price", 1)
    ((sale, day, product, *_, file, line),) = price.sample.itertuples(index=False)
    assert (sale, day, product, file, line) == ("S000002", 20230102, "P02", "fact_sales.csv", 3)
    assert price.query == "select * from checks.unit_price_is_near_list_price"
    assert reference.sample["customer_id"].notna().all()
    assert list(reference.sample["line"]) == [6]
    assert "S000002" in repr(explain_failures(session, results, "inputs"))
    assert "<td>S000002</td>" in explain_failures(session, results, "inputs")._repr_html_()


def test_a_file_that_has_changed_since_the_build_gives_no_line(copies, tmp_path):
    session = copies.with_fault("update fact_sales set unit_price = 9999 where sale_id = 'S000002'")
    (tmp_path / "fact_sales.csv").write_text("another")
    (price,) = explain_failures(session, run_checks(session), str(tmp_path))
    assert "line" not in price.sample


def test_a_failed_error_stops_and_a_failed_warning_does_by_choice(copies):
    session = copies.with_fault("update fact_sales set unit_price = 9999 where sale_id = 'S000002'")
    results = run_checks(session)
    stop_on_failures(session, results, "error")
    with pytest.raises(CheckFailed, match=r"fact_sales\.csv +3"):
        stop_on_failures(session, results, "warn", "inputs")


def test_many_failures_still_fit_on_one_screen(copies):
    session = copies.with_fault(
        "update fact_sales set customer_key = 999, product_key = 999, date_key = 1, quantity = null, "
        "discount = 7, sale_id = 'S1'"
    )
    with pytest.raises(CheckFailed) as stop:
        stop_on_failures(session, run_checks(session), "warn")
    assert "6 of 38 checks failed" in str(stop.value)
    assert len(str(stop.value).splitlines()) < 45


def test_a_mart_without_any_check_is_not_vouched_for(copies):
    session = copies.with_fault("drop schema checks cascade")
    with pytest.raises(CheckFailed, match="There are no checks, so nothing vouches for the mart"):
        stop_on_failures(session, run_checks(session), "error")
    assert session.checks_failed
