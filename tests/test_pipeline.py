"""From files to the published mart, by the notebooks as they are: stages, amounts, refusals, words."""

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import plain
import pytest
from conftest import make_home, mart_command, put_mart, query

from mart_helpers.books import account_of
from mart_helpers.cli import main
from mart_helpers.run import run_notebook

READ, LOADED, GOOD_SALES = plain.rows_read(), plain.rows_loaded(), plain.rows_loaded("fact_sales")
LAST_LINE = 1 + plain.rows_read("fact_sales")

STAR = ("dim_customer", "dim_product", "dim_date", "fact_sales")

# B are the largest amounts, X too large ones; Q bad rows; W is worth a warning.
LINES = """\
B1,2024-06-01,C001,P01,1000000,5000.00,0.2
B2,2024-06-01,C001,P01,-99999999999999,1.0,0.999999
B3,2024-06-01,C001,P01,1,99999.9999,0.999999
B4,2024-06-01,C001,P01,1,100000.0001,0.333333
X1,2024-06-01,C001,P01,99999999999999,1,999.999999
X2,2024-06-01,C001,P01,9223372036854775807,99999999999999,0.5
Q1,2024-13-01,C001,P01,1,1.00,0
Q2,2024-12-31,C999,P01,1,1,0
Q3,2024-12-31,C001,P99,1,1,0
Q4,2024-12-31,C001,P01,one,1,0
Q5,2024-12-31,C001,P01,1,€ 2,0
Q6,2024-12-31,C001,P01,1,1,5 %
W1,2024-12-31,C001,P01,1,9999,0
"""


def database(home: Path) -> Path:
    return home / "data" / "mini_data_mart.duckdb"


@pytest.fixture(scope="module")
def marts(sample_mart: Path, shared_home: Path) -> dict[int, Path]:
    """A mart of each stage, built from the sample."""
    made = {stage: shared_home / "data" / f"stage_{stage}.duckdb" for stage in (1, 2)}
    for stage, path in made.items():
        run_notebook("01_build", {"stage": stage, "database": str(path)}, shared_home)
    return made | {3: sample_mart}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home whose sales have the further LINES and a column more, and what `build` printed there."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = make_home(tmp_path_factory.mktemp("edited") / "home", monkeypatch)
        sales = home / "inputs" / "fact_sales.csv"
        header, rest = (sales.read_text() + LINES).split("\n", 1)
        sales.write_text("\n".join([f"{header},note", rest.replace("\n", ",\n")]))
        done = mart_command("build", cwd=home)
        assert done.returncode == 0, done.stderr
        yield home, done.stdout


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_builds_the_same_star_from_its_own_rows(marts, stage):
    expected = {table: plain.rows_loaded(table) + 1 for table in ("dim_customer", "dim_product")}
    expected |= {"dim_date": 732, "fact_sales": 20 if stage == 1 else plain.rows_loaded("fact_sales")}
    for table, rows in expected.items():
        assert query(marts[stage], f"select count(*) from {table}") == [(rows,)]
        rows = query(marts[3], f"from {table} order by all")
        if stage > 1 or not table.startswith("fact_"):
            assert query(marts[stage], f"from {table} order by all") == rows
    assert query(marts[stage], "select stage from build_log") == [(stage,)]


def test_stage_1_builds_a_mart_of_its_own_unless_one_is_named(home, sample_mart, marts):
    usual = put_mart(sample_mart, home)
    before, own = usual.read_bytes(), home / "data" / "stage_1.duckdb"
    run_notebook("01_build", {"stage": 1}, home)  # as somebody runs it in JupyterLab
    assert query(own, "select build_id, stage from build_log") == [(1, 1)]
    again = mart_command("build", "--stage", 1, cwd=home)
    assert "data/stage_1.duckdb (" in again.stdout, again.stderr
    assert query(own, "select max(build_id) from build_log") == [(2,)]
    assert usual.read_bytes() == before
    assert query(marts[1], "select stage from build_log") == [(1,)], "one was named"
    assert {"data/stage_1.duckdb"} <= set(mart_command("reset", cwd=home).stdout.split())
    assert not own.exists()


def test_every_column_of_the_books_has_a_comment(marts):
    bare = "select column_name from duckdb_columns() where comment is null and table_name in "
    assert query(marts[3], f"{bare} ('build_log', 'build_inputs', 'quarantine')") == []


def test_each_dimension_has_the_unknown_member_and_the_calendar_every_day(marts):
    for thing in ("customer", "product", "date"):
        assert query(marts[3], f"select count(*) from dim_{thing} where {thing}_key = -1") == [(1,)]
    days = query(marts[3], "select min(date)::varchar, max(date)::varchar, count(date) from dim_date")
    assert days == [("2023-01-01", "2024-12-31", 731)]


def test_the_amounts_of_a_sale_follow_from_its_price_quantity_and_discount(marts):
    wrong = query(
        marts[3],
        "select count(*) from fact_sales where gross_amount <> quantity * unit_price "
        "or discount_amount <> round(gross_amount * discount, 4) "
        "or net_amount <> gross_amount - discount_amount",
    )
    assert wrong == [(0,)]
    types = query(
        marts[3],
        "select distinct data_type from duckdb_columns() where schema_name = 'main' "
        "and (column_name like '%_amount' or column_name like '%_price' or column_name like '%_cost') "
        "and table_name <> 'build_log'",
    )
    assert types == [("DECIMAL(18,4)",)]


def test_the_largest_amounts_are_exact_and_too_large_ones_set_aside(edited):
    amounts = query(
        database(edited[0]),
        "select discount_amount::varchar, net_amount::varchar from fact_sales "
        "where sale_id like 'B%' order by sale_id",
    )
    assert amounts == [
        ("1000000000.0000", "4000000000.0000"),
        ("-99999899999999.0000", "-100000000.0000"),
        ("99999.8999", "0.1000"),
        ("33333.3000", "66666.7001"),
    ]
    aside = query(database(edited[0]), "select count(*) from quarantine where raw_row like 'X%'")
    assert aside == [(2,)]


def test_bad_rows_are_quarantined_and_the_rest_is_published(edited, sample_mart):
    assert query(database(edited[0]), "select count(*) from fact_sales") == [(GOOD_SALES + 5,)]
    found = "select line, column_name, value from quarantine where raw_row like 'Q%' order by line"
    assert query(database(edited[0]), found) == [
        (LAST_LINE + 7, "sale_date", "2024-13-01"),
        (LAST_LINE + 8, "customer_id", "C999"),
        (LAST_LINE + 9, "product_id", "P99"),
        (LAST_LINE + 10, "quantity", "one"),
        (LAST_LINE + 11, "unit_price", "€ 2"),
        (LAST_LINE + 12, "discount", "5 %"),
    ]
    log = "select rows_read, rows_loaded, rows_quarantined, rows_of_unknown_amount from build_log"
    (undamaged,) = query(sample_mart, log)
    assert undamaged[:3] == (READ, LOADED, READ - LOADED)
    more = (13, 5, 8, 5)
    assert query(database(edited[0]), log) == [tuple(map(sum, zip(undamaged, more, strict=True)))]


def test_a_build_tells_its_rows_the_commonest_reasons_odd_columns_and_warnings(edited):
    home, printed = edited
    told = printed[printed.index("rows  ") :].splitlines()
    assert told[0].split(maxsplit=1)[1] == (
        f"{READ + 13:,} read, {LOADED + 5:,} loaded, {READ - LOADED + 8} in quarantine"
    )
    assert " in rows that can be read, and " in told[1]
    assert told[1].endswith(" rows of unknown amount")
    counts = [int(line.split()[0]) for line in told[2:7]]
    assert counts == sorted(counts, reverse=True)
    assert told[7].strip() == "and 7 more, in the table quarantine"
    assert told[8].strip() == "fact_sales.csv: column note is not known, and ignored"
    assert "checks    4 warnings: " in printed
    assert "warn: unit_price_is_near_list_price has 6 bad rows\n" in printed
    stopped = mart_command("quality", "--fail-on", "warn", cwd=home)
    assert stopped.returncode == 1
    assert f"fact_sales.csv  {LAST_LINE + 1}" in stopped.stderr
    assert mart_command("quality", "--fail-on", "never", cwd=home).returncode == 0


def test_nothing_is_published_that_warns_where_warnings_stop(edited):
    home, _ = edited
    before = database(home).read_bytes()
    stopped = mart_command("build", "--as-of-date", "2025-02-01", "--fail-on", "warn", cwd=home)
    assert stopped.returncode == 1
    aside = plain.rows_set_aside("fact_sales") + 8
    assert re.search(
        rf"mart: 5 warnings: {aside} rows .* of fact_sales are in quarantine", stopped.stderr
    )
    assert "the last sale is of 2024-12-31, 32 days before 2025-02-01" in stopped.stderr
    assert "Nothing is published" in stopped.stderr
    assert database(home).read_bytes() == before


def test_all_publishes_nothing_that_it_then_fails(home, monkeypatch):
    monkeypatch.chdir(home)
    strict = ["--fail-on", "warn", "--inputs-dir", "clean"]
    assert main(["generate", "--sales", "300", "--out", "clean"]) == 0
    for command in ("build", "quality"):  # of `all`, those that write what it may not change
        assert main([command, *strict]) == 0
    published, report = database(home), home / "data" / "quality" / "quality_report.json"
    assert json.loads(report.read_text())["status"] == "pass"
    before = published.read_bytes(), report.read_bytes()
    assert main(["all", *strict, "--as-of-date", "2040-01-01"]) == 1, "too old"
    with (home / "clean" / "fact_sales.csv").open("a") as sales:
        sales.write("X1,someday,C00001,P00001,1,2.00,0\n")
    assert main(["all", *strict]) == 1, "a row in quarantine"
    assert (published.read_bytes(), report.read_bytes()) == before


def test_papermill_runs_a_notebook_from_any_folder(marts, tmp_path, shared_home):
    notebook = shared_home / "notebooks" / "04_quality.ipynb"
    values = ["-p", "data_dir", str(tmp_path), "-p", "database", marts[1]]
    run = [sys.executable, "-m", "papermill", notebook, "out.ipynb", *values]
    result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.ipynb").exists()
    report = json.loads((tmp_path / "quality" / "quality_report.json").read_text())
    assert {"table_name": "fact_sales", "rows": 20} in report["row_counts"]


def test_of_many_unknown_columns_eight_are_named_and_the_others_counted():
    names = ", ".join(f"extra_{number}" for number in range(400))
    with duckdb.connect() as connection:
        connection.execute("""
            create table build_log as
            select 1 as build_id, 5 as rows_read, 5 as rows_loaded, 0 as rows_quarantined
        """)
        connection.execute(
            "create table build_inputs as select 1 as build_id, 'a.csv' as file, "
            "$names as ignored_columns, '' as defaulted_columns",
            {"names": names},
        )
        assert account_of(connection)[1:] == [
            "a.csv: column extra_0, extra_1, extra_2, extra_3, extra_4, extra_5, extra_6, extra_7 "
            "and 392 more is not known, and ignored"
        ]
