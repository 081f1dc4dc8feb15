"""The sample tells what it is meant to tell; see the head of `mart_helpers/lab/sample.py`."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import plain
import pytest
from conftest import query, sql_of

from mart_helpers.cli import main
from mart_helpers.lab.sample import (
    BAD_CUSTOMER,
    CUSTOMERS,
    PRODUCTS,
    customer_rows,
    product_rows,
    sale_rows,
    write_sample,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def sales(folder: Path) -> duckdb.DuckDBPyConnection:
    """A connection with the view `sales` of all that can be read, with amounts."""
    connection = duckdb.connect()
    connection.execute(f"""
        create table raw_sales as
        from read_csv('{folder}/fact_sales.csv', all_varchar = true);

        create view typed_sales as
        select
            sale_id,
            customer_id,
            product_id,
            try_cast(sale_date as date) as day,
            date_trunc('month', day) as month,
            try_cast(quantity as integer) as quantity,
            try_cast(unit_price as decimal(18, 4)) as price,
            try_cast(discount as decimal(9, 6)) as discount
        from raw_sales;

        create view sales as
        select
            typed_sales.*,
            product_name,
            list_price,
            country,
            quantity * price * (1 - discount) as revenue,
            quantity * price * (1 - discount) - quantity * unit_cost as margin
        from typed_sales
        inner join '{folder}/dim_product.csv' using (product_id)
        left join '{folder}/dim_customer.csv' using (customer_id);
    """)
    return connection


def value(sales: duckdb.DuckDBPyConnection, sql: str) -> object:
    return sales.execute(f"select {sql}").fetchone()[0]


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


def test_it_is_small_enough_for_seed_rows_and_covers_two_years(sales) -> None:
    assert (len(customer_rows()), len(product_rows())) == (len(CUSTOMERS), len(PRODUCTS)) == (16, 8)
    assert 2_000 <= len(sale_rows()) <= 2_500
    assert value(sales, "count(distinct month) from sales") == 24
    assert value(sales, "count(distinct product_id) from sales") == 8


def test_everybody_buys_but_the_bad_customer(folder: Path) -> None:
    buyers = {row["customer_id"] for row in sale_rows()} - {""}
    assert buyers == {row["customer_id"] for row in customer_rows()}
    assert BAD_CUSTOMER[0] not in (folder / "fact_sales.csv").read_text()


def test_customers_come_leave_and_come_back(sales) -> None:
    months = dict(
        sales.execute("""
            select customer_id, list(distinct strftime(month, '%Y-%m'))
            from sales
            where month is not null
            group by all
        """).fetchall()
    )
    last, returns, never = max(months["C002"]), months["C005"], {"2023-05", "2023-06", "2023-09"}
    assert last == "2024-03"
    assert never.isdisjoint(returns)
    assert {"2023-04", "2023-10"} <= set(returns)
    assert min(months["C014"]) == "2024-02"
    assert max(months["C016"]) == "2024-06", "who came for the campaign went with it"


def test_returns_are_few_and_one_product_has_most_of_them(sales) -> None:
    assert 0.01 < value(sales, "avg((quantity < 0)::int) from sales") < 0.04
    rates = "product_name, avg((quantity < 0)::int) as rate from sales group by all order by rate desc"
    assert value(sales, rates) == "Pour Over Kettle"
    back = "count(*) from sales as r where r.quantity < 0 and not exists (from sales as s where "
    same = "(s.customer_id, s.product_id) = (r.customer_id, r.product_id)"
    assert value(sales, f"{back} {same} and s.quantity >= -r.quantity and s.day < r.day)") == 0


def test_the_price_of_coffee_rose_with_the_year(sales) -> None:
    ratio = "median(price / list_price)::double from sales where product_id = 'P01' and"
    assert value(sales, f"{ratio} year(day) = 2023") == pytest.approx(0.9, abs=0.001)
    assert value(sales, f"{ratio} year(day) = 2024") == pytest.approx(1, abs=0.001)


def test_the_campaign_sold_more_and_earned_less(sales) -> None:
    month = "sum({}) from sales where month = date '2024-{:02}-01'"
    revenue, margin = (
        [value(sales, month.format(what, number)) for number in (4, 5)] for what in ("revenue", "margin")
    )
    assert revenue[1] > 1.1 * float(revenue[0])
    assert margin[1] < margin[0]


def test_a_month_is_far_below_the_others_since_two_countries_got_nothing(sales) -> None:
    months = sales.execute(
        "select month::date::varchar, sum(revenue) from sales where year(month) = 2024 group by all "
        "order by sum(revenue)"
    ).fetchall()
    assert months[0][0] == "2024-08-01"
    assert months[0][1] < 0.7 * float(months[1][1])
    of_august = sales.execute(
        "select distinct country from sales where month = date '2024-08-01' and quantity > 0"
    ).fetchall()
    assert {"Netherlands", "Switzerland"}.isdisjoint(country for (country,) in of_august)


def test_a_build_sets_a_dozen_sales_and_a_customer_aside_and_ends_in_warnings(
    home, folder, capsys
) -> None:
    assert main(["build", "--inputs-dir", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "14 in quarantine" in told
    assert "warn: no_discount_without_customer has 2 bad rows" in told
    assert "warn: unit_price_is_near_list_price has 1 bad row" in told
    assert "error" not in told
    quarantine = "select table_name, column_name, value from quarantine order by all"
    assert query(home / "data" / "mini_data_mart.duckdb", quarantine) == [
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
