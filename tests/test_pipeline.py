from pathlib import Path

import pytest
from conftest import mart_command, query

STAR = ("dim_customer", "dim_product", "dim_date", "fact_sales")


def database(home: Path) -> Path:
    return home / "data" / "mini_data_mart.duckdb"


def build(home: Path, *arguments: str) -> None:
    result = mart_command("build", *arguments, cwd=home)
    assert result.returncode == 0, result.stderr


def rows(home: Path) -> dict[str, int]:
    return {table: query(database(home), f"select count(*) from {table}")[0][0] for table in STAR}


def revenue(home: Path) -> float:
    return query(database(home), "select sum(net_amount) from fact_sales")[0][0]


@pytest.mark.parametrize(("stage", "sales", "days"), [(1, 20, 366), (2, 2000, 731), (3, 2000, 731)])
def test_every_stage_builds_the_same_star_from_its_own_rows(home, stage, sales, days):
    build(home, "--stage", str(stage))
    expected = {"dim_customer": 25, "dim_product": 13, "dim_date": days + 1, "fact_sales": sales}
    assert rows(home) == expected
    assert query(database(home), "select stage from build_log") == [(stage,)]


def test_stages_2_and_3_agree_on_the_sample(home):
    build(home, "--stage", "2")
    second = [query(database(home), f"from {table} order by 1") for table in STAR]
    build(home, "--stage", "3")
    assert [query(database(home), f"from {table} order by 1") for table in STAR] == second


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


def test_the_amounts_of_a_sale_follow_from_its_price_quantity_and_discount(home):
    build(home)
    wrong = query(
        database(home),
        "select count(*) from fact_sales where gross_amount <> quantity * unit_price "
        "or discount_amount <> round(gross_amount * discount, 4) "
        "or net_amount <> gross_amount - discount_amount",
    )
    assert wrong == [(0,)]
    types = query(
        database(home),
        "select distinct data_type from duckdb_columns() where column_name like '%_amount'",
    )
    assert types == [("DECIMAL(18,4)",)]


def test_each_dimension_has_the_unknown_member_and_dim_date_whole_years(home):
    build(home)
    for table in ("customer", "product", "date"):
        assert query(database(home), f"select count(*) from dim_{table} where {table}_key = -1") == [
            (1,)
        ]
    days = query(
        database(home), "select min(date)::varchar, max(date)::varchar, count(date) from dim_date"
    )
    assert days == [("2023-01-01", "2024-12-31", 731)]


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
    assert rows(home)["fact_sales"] == 2000
    assert query(
        database(home), "select file, line, column_name, value from quarantine order by line"
    ) == [
        ("fact_sales.csv", 2002, "sale_date", "2024-13-01"),
        ("fact_sales.csv", 2003, "customer_id", "C999"),
    ]
