import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from conftest import mart_command, query

from mart_helpers.books import account_of

STAR = ("dim_customer", "dim_product", "dim_date", "fact_sales")


def build(home: Path, *arguments: str | Path) -> None:
    result = mart_command("build", *arguments, cwd=home)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def marts(shared_home: Path) -> dict[int, Path]:
    """A mart of each stage, built from the sample."""
    made = {stage: shared_home / "data" / f"stage_{stage}.duckdb" for stage in (1, 2, 3)}
    for stage, path in made.items():
        build(shared_home, "--stage", str(stage), "--database", path)
    return made


def database(home: Path) -> Path:
    return home / "data" / "mini_data_mart.duckdb"


def revenue(home: Path) -> float:
    return query(database(home), "select sum(net_amount) from fact_sales")[0][0]


@pytest.mark.parametrize(("stage", "sales", "days"), [(1, 20, 366), (2, 2000, 731), (3, 2000, 731)])
def test_every_stage_builds_the_same_star_from_its_own_rows(marts, stage, sales, days):
    expected = {"dim_customer": 25, "dim_product": 13, "dim_date": days + 1, "fact_sales": sales}
    for table, rows in expected.items():
        assert query(marts[stage], f"select count(*) from {table}") == [(rows,)]
    assert query(marts[stage], "select stage from build_log") == [(stage,)]


@pytest.mark.parametrize("table", STAR)
def test_stages_2_and_3_agree_on_the_sample(marts, table):
    assert query(marts[2], f"from {table} order by 1") == query(marts[3], f"from {table} order by 1")


def test_the_mart_changes_only_when_it_is_built_again(home):
    build(home)
    before = revenue(home)
    sales = home / "inputs" / "fact_sales.csv"
    sales.write_text(sales.read_text() + "X1,2024-12-31,C001,P01,1,1000.00,0\n")
    assert mart_command("explore", cwd=home).returncode == 0
    assert revenue(home) == before
    build(home)
    assert revenue(home) == before + 1000
    log = query(database(home), "select build_id, rows_loaded from build_log order by build_id")
    assert log == [(1, 2036), (2, 2037)]


def test_a_build_tells_of_columns_that_it_lacks_or_ignores_and_of_warnings(home):
    sales = home / "inputs" / "fact_sales.csv"
    rows = sales.read_text() + "X1,2024-12-31,C001,P01,1,1000.00,0\n"
    sales.write_text(rows.replace("discount", "disc", 1))
    told = mart_command("build", cwd=home).stdout.splitlines()
    assert told[:3] == [
        "rows      2,037 read, 2,037 loaded, 0 in quarantine",
        "          fact_sales.csv: has no column discount, so its default is taken",
        "          fact_sales.csv: column disc is not known, and ignored",
    ]
    assert told[3:5] == [
        "checks    38 of 39 passed",
        "          warn: unit_price_is_near_list_price, 1 bad",
    ]


def test_of_many_kinds_of_mistakes_five_are_shown_and_the_others_counted(home):
    sales = home / "inputs" / "fact_sales.csv"
    good = ["X", "2024-01-01", "C001", "P01", "1", "18.50", "0"]
    bad = {1: "soon", 2: "C999", 3: "P99", 4: "one", 5: "€ 2", 6: "5 %"}
    rows = [
        [f"X{at}", *(value if at == n else each for n, each in enumerate(good[1:], 1))]
        for at, value in bad.items()
    ]
    sales.write_text(sales.read_text() + "".join(",".join(row) + "\n" for row in rows))
    told = mart_command("build", cwd=home).stdout.splitlines()
    assert told[0] == "rows      2,042 read, 2,036 loaded, 6 in quarantine"
    assert [line.split()[0] for line in told[1:7]] == ["1"] * 5 + ["and"]
    assert told[6] == "          and 1 more, in the table quarantine"
    refused = mart_command("build", "--max-rejected-share", "0.001", cwd=home)
    assert "\n  and 1 more\n" in refused.stderr


def test_who_explores_no_sales_is_told_so(home):
    build(home)
    for words, told in (
        (["--segment", "Caffe"], "explore   No sale passes the filters."),
        (["--start-date", "2031-01-01"], "explore   No sale that passes the filters lies between"),
        (["--segment", "Cafe"], "explore   9"),
    ):
        done = mart_command("explore", *words, cwd=home)
        assert (done.returncode, done.stdout.startswith(told)) == (0, True), done.stdout


def test_the_amounts_of_a_sale_follow_from_its_price_quantity_and_discount(marts):
    wrong = query(
        marts[3],
        "select count(*) from fact_sales where gross_amount <> quantity * unit_price "
        "or discount_amount <> round(gross_amount * discount, 4) "
        "or net_amount <> gross_amount - discount_amount",
    )
    assert wrong == [(0,)]


AMOUNTS = """\
B1,2024-06-01,C001,P01,1000000,5000.00,0.2
B2,2024-06-01,C001,P01,-99999999999999,1.0,0.999999
B3,2024-06-01,C001,P01,1,99999.9999,0.999999
B4,2024-06-01,C001,P01,1,100000.0001,0.333333
X1,2024-06-01,C001,P01,99999999999999,1,999.999999
X2,2024-06-01,C001,P01,9223372036854775807,99999999999999,0.5
"""


def test_the_largest_amounts_are_exact_and_too_large_ones_set_aside(home):
    sales = home / "inputs" / "fact_sales.csv"
    sales.write_text(sales.read_text() + AMOUNTS)
    result = mart_command("all", cwd=home)
    assert result.returncode == 0, result.stderr
    amounts = query(
        database(home),
        "select discount_amount::varchar, net_amount::varchar from fact_sales "
        "where sale_id like 'B%' order by sale_id",
    )
    assert amounts == [
        ("1000000000.0000", "4000000000.0000"),
        ("-99999899999999.0000", "-100000000.0000"),
        ("99999.8999", "0.1000"),
        ("33333.3000", "66666.7001"),
    ]
    assert query(database(home), "select count(*) from quarantine") == [(2,)]


def test_money_is_decimal_in_every_table_of_the_star(marts):
    types = query(
        marts[3],
        "select distinct data_type from duckdb_columns() where schema_name = 'main' "
        "and (column_name like '%_amount' or column_name like '%_price' or column_name like '%_cost')",
    )
    assert types == [("DECIMAL(18,4)",)]


@pytest.mark.parametrize("thing", ["customer", "product", "date"])
def test_each_dimension_has_the_unknown_member(marts, thing):
    assert query(marts[3], f"select count(*) from dim_{thing} where {thing}_key = -1") == [(1,)]


def test_dim_date_has_every_day_of_the_years_with_sales(marts):
    days = query(marts[3], "select min(date)::varchar, max(date)::varchar, count(date) from dim_date")
    assert days == [("2023-01-01", "2024-12-31", 731)]


def test_papermill_runs_a_notebook_from_any_folder(home, tmp_path):
    build(home, "--stage", "1")
    notebook = home / "notebooks" / "02_explore.ipynb"
    run = [sys.executable, "-m", "papermill", notebook, "out.ipynb", "-p", "start_date", "2024-02-01"]
    result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "2024-01" not in (tmp_path / "out.ipynb").read_text().partition("monthly_revenue")[2]


def test_a_refused_build_leaves_the_published_mart_as_it_was(home):
    build(home)
    published = database(home).read_bytes()
    sales = home / "inputs" / "fact_sales.csv"
    sales.write_text(sales.read_text().replace(",unit_price,", ",price,"))
    result = mart_command("build", cwd=home)
    assert result.returncode == 1
    assert 'fact_sales.csv: missing column "unit_price"' in result.stderr
    assert "Traceback" not in result.stderr
    assert database(home).read_bytes() == published


def test_bad_rows_are_quarantined_and_the_rest_is_published(home):
    sales = home / "inputs" / "fact_sales.csv"
    sales.write_text(
        sales.read_text() + "X1,2024-13-01,C001,P01,1,1.00,0\nX2,2024-12-31,C999,P01,1,1,0\n"
    )
    build(home)
    assert query(database(home), "select count(*) from fact_sales") == [(2000,)]
    assert query(
        database(home), "select file, line, column_name, value from quarantine order by line"
    ) == [
        ("fact_sales.csv", 2002, "sale_date", "2024-13-01"),
        ("fact_sales.csv", 2003, "customer_id", "C999"),
    ]


def test_a_quality_run_names_the_checks_that_did_not_pass(home):
    sales = home / "inputs" / "fact_sales.csv"
    sales.write_text(sales.read_text() + "X1,2024-12-31,C001,P01,1,9999,0\n")
    build(home)
    result = mart_command("quality", cwd=home)
    assert result.returncode == 0, result.stderr
    assert "checks    38 of 39 passed\n" in result.stdout
    assert "warn: unit_price_is_near_list_price, 1 bad\n" in result.stdout
    assert mart_command("quality", "--fail-on", "never", cwd=home).returncode == 0
    stopped = mart_command("quality", "--fail-on", "warn", cwd=home)
    assert stopped.returncode == 1
    assert "X1" in stopped.stderr
    assert "fact_sales.csv  2002" in stopped.stderr


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
