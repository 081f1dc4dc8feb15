from pathlib import Path

import duckdb
import plain
import pytest
from conftest import mart_command
from golden import assert_as_kept

from mart_helpers.diff import Comparison, compare_files, described
from mart_helpers.tables import as_text
from mart_helpers.texts import quoted

SALES = plain.rows_loaded("fact_sales")


@pytest.fixture
def changed(sample_mart: Path, tmp_path: Path) -> "Changed":
    return Changed(sample_mart, tmp_path / "changed.duckdb")


class Changed:
    """A copy of the sample mart, changed by SQL and compared with it."""

    def __init__(self, sample: Path, path: Path) -> None:
        self.sample = sample
        self.path = path
        self.path.write_bytes(sample.read_bytes())

    def by(self, *statements: str) -> Comparison:
        with duckdb.connect(str(self.path)) as connection:
            for statement in statements:
                connection.execute(statement)
        return compare_files(self.sample, self.path)


def counts(found: Comparison, table: str) -> tuple:
    row = found.tables.set_index("table_name").loc[table]
    return tuple(row[["added", "removed", "changed"]])


def values(found: Comparison) -> list[tuple]:
    return [tuple(row) for row in found.values.itertuples(index=False)]


CHANGES = {
    "nothing": "select 1",
    "a dimension that is dated in one mart only, and a member who has moved": """
        update dim_customer set valid_from = '2023-01-01' where customer_key <> -1;
        insert into dim_customer select * replace (99 as customer_key, 'Leipzig' as city,
            date '2024-07-01' as valid_from) from dim_customer where customer_id = 'C001';
        update dim_customer set valid_to = '2024-06-30', is_current = false where customer_key = 1
    """,
    "two sales gone, one new, one of 3.00 more": """
        delete from fact_sales where sale_id in ('S000010', 'S000011');
        insert into fact_sales select * replace ('X1' as sale_id, 5.5 as net_amount)
        from fact_sales where sale_id = 'S002480';
        update fact_sales set net_amount = net_amount + 3, quantity = 77 where sale_id = 'S000500'
    """,
    "surrogate keys given anew, which are no change": """
        update dim_customer set customer_key = customer_key + 1000 where customer_key > 0;
        update fact_sales set customer_key = customer_key + 1000 where customer_key > 0
    """,
    "a sale that passes to another customer": """
        update fact_sales set customer_key = -1 where sale_id = 'S000001'
    """,
    "a sale that moves to another month": """
        update fact_sales set date_key = 20241231 where sale_id = 'S000001'
    """,
    "two changes that leave count and revenue of a month alone": """
        update fact_sales set net_amount = net_amount + 1 where sale_id = 'S000001';
        update fact_sales set net_amount = net_amount - 1 where sale_id = 'S000002'
    """,
    "rows of dimensions": """
        update dim_customer set segment = 'Café' where customer_id = 'C003';
        update dim_customer set city = 'Nowhere' where customer_key = -1;
        delete from dim_product where product_id = 'P08'
    """,
    "every sale, of which twenty are shown": "update fact_sales set unit_price = unit_price + 1",
    "tables that only one mart has": """
        create table fact_returns as from fact_sales limit 7;
        drop table dim_date;
        delete from fact_sales
    """,
    "a column that only one mart has": """
        alter table fact_sales add column channel varchar default 'web'
    """,
}


def test_what_is_told_of_changes_is_as_it_was_written_down(sample_mart, tmp_path):
    """In golden/diff.txt, which KEEP=1 writes anew."""
    texts = []
    for words, statements in CHANGES.items():
        changed = Changed(sample_mart, tmp_path / "changed.duckdb")
        changed.by(statements)
        _, _, told = described(changed.sample, changed.path).partition("\n")  # the first line has paths
        texts.append(f"=== {words}\n{told}\n")
    assert_as_kept("diff.txt", "\n".join(texts))


def test_the_command_rounds_as_the_notebook_does(changed):
    found = changed.by(
        "update fact_sales set net_amount = net_amount + 1 "
        "where sale_id = (select min(sale_id) from fact_sales where date_key // 100 = 202402)"
    )
    assert round(found.months["before"][0] % 0.01, 6) == 0.005, "else nothing is rounded"
    *_, before, after, _ = as_text(found.months).splitlines()[-1].split()
    line = next(
        line for line in described(changed.sample, changed.path).splitlines() if "2024-02" in line
    )
    assert line.split() == ["fact_sales", "revenue", "2024-02", before, after, "+1.00"]


def test_the_build_and_the_command_show_what_a_build_changes(sample_mart, home):
    mart = home / "data" / "mini_data_mart.duckdb"
    mart.parent.mkdir()
    mart.write_bytes(sample_mart.read_bytes())
    assert mart_command("diff", cwd=home).returncode == 1
    sales = home / "inputs" / "fact_sales.csv"
    sales.write_text(sales.read_text() + "X1,2024-12-31,C001,P01,1,1000.00,0\n")
    mart_command("build", cwd=home)
    executed = max((home / "data" / "runs").glob("*/01_build.ipynb")).read_text()
    assert "<td>1,000</td>" in executed
    result = mart_command("diff", cwd=home)
    assert result.returncode == 0, result.stderr
    assert "previous-1 (build 1) → data/mini_data_mart.duckdb (build 2)" in result.stdout
    fact = next(line for line in result.stdout.splitlines() if "fact_sales" in line)
    assert fact.split() == [
        *("fact_sales", f"{SALES:,}", f"{SALES + 1:,}", "1", "0", "0", "+1,000.00", "+0.00", "+0.00")
    ]
    assert "2024-12" in result.stdout
    same = mart_command("diff", "--before", mart, cwd=home)
    assert same.stdout.endswith("Every row of the one is in the other.\n")


# --- marts of any shape ---


def made(path: Path, statements: str) -> Path:
    """A mart file that the statements fill."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table build_log as select 1 as build_id; create schema contract")
        connection.execute(statements)
    return path


ORDERS = """
create table contract."fact_row" ("rows" varchar primary key, "month" integer);
create table "fact_row" as select * from (values ('a', 1), ('b', 2)) as t("rows", "month");
create table "dim_Sales ""by"" month; 2024" as select 1 as "net ""amount", 'x' as "it's";
"""
ODD = 'dim_Sales "by" month; 2024'


def test_tables_and_columns_may_have_any_names(tmp_path):
    before, after = (made(tmp_path / name, ORDERS) for name in ("before.duckdb", "after.duckdb"))
    with duckdb.connect(str(after)) as connection:
        connection.execute("update fact_row set month = 3 where rows = 'b'")
        connection.execute(f"update {quoted(ODD)} set \"it's\" = 'y'")
    found = compare_files(before, after)
    assert counts(found, "fact_row") == (0, 0, 1)
    assert values(found) == [("fact_row", "b", "month", "2", "3")]
    assert counts(found, ODD) == (1, 1, 0), "it has no key"


def test_a_dimension_restates_by_a_column_of_any_name(changed, tmp_path):
    changed.by("alter table dim_product rename category to year")
    moved = "update dim_product set year = 'Sweets' where product_id = 'P01'"
    found = Changed(changed.path, tmp_path / "moved.duckdb").by(moved).restated
    assert {*found["column_name"]} == {"year"}
    assert {*found["value"]} == {"Coffee", "Sweets"}


def test_a_table_without_a_key_is_compared_by_whole_rows(tmp_path):
    visits = "create table fact_visits as select range % {} as n from range(30)"
    before = made(tmp_path / "before.duckdb", visits.format(3))
    after = made(tmp_path / "after.duckdb", visits.format(2))
    assert counts(compare_files(before, before), "fact_visits") == (0, 0, 0)
    assert counts(compare_files(before, after), "fact_visits") == (10, 10, 0)


def test_a_renamed_or_retyped_key_makes_another_table(tmp_path):
    star = """
    create table contract.dim_product ({key} primary key);
    create table dim_product as select 1 as product_key, '5'::{type} as {name}, 'Tea' as product_name;
    create table contract.fact_sales (sale_id varchar primary key);
    create table fact_sales as
    select 'S1' as sale_id, 1 as product_key, 2.5::decimal(9, 2) as net_amount;
    """
    kinds = [("product_id", "varchar"), ("sku", "varchar"), ("product_id", "integer")]
    marts = [
        made(tmp_path / f"{name}_{type}.duckdb", star.format(key=f"{name} {type}", name=name, type=type))
        for name, type in kinds
    ]
    for other in marts[1:]:
        found = compare_files(marts[0], other)
        assert counts(found, "dim_product") == (1, 1, 0)
        assert counts(found, "fact_sales") == (0, 0, 0)
        assert len(found.values) == 0


CALENDAR = """
create table contract.dim_date ("date" date primary key);
create table contract.fact_sales (sale_id varchar primary key);
create table dim_date as select 20240101 as date_key, date '2024-01-01' as date;
create table fact_sales as select 'S1' as sale_id, 20240101 as date_key, {} as quantity;
"""


def test_a_fact_is_compared_by_month_where_the_calendar_is_an_input_too(tmp_path):
    before, after = (made(tmp_path / f"{n}.duckdb", CALENDAR.format(n)) for n in (1, 2))
    assert values(compare_files(before, after)) == [("fact_sales", "S1", "quantity", "1", "2")]


ROLES = """
create table contract.dim_customer (customer_id varchar primary key);
create table contract.fact_sales (sale_id varchar primary key);
create table dim_customer as select * from (values ({keys})) as t(customer_key, customer_id);
create table fact_sales as
select 'S1' as sale_id, {bill} as customer_key, {ship} as ship_to_customer_key;
"""


def test_keys_of_every_role_are_compared_by_what_they_stand_for(tmp_path):
    before = made(tmp_path / "a.duckdb", ROLES.format(keys="1, 'A'), (2, 'B'", bill=1, ship=2))
    renumbered = made(tmp_path / "b.duckdb", ROLES.format(keys="2, 'A'), (3, 'B'", bill=2, ship=3))
    other = made(tmp_path / "c.duckdb", ROLES.format(keys="1, 'A'), (2, 'B'", bill=1, ship=1))
    assert counts(compare_files(before, renumbered), "fact_sales") == (0, 0, 0)
    assert values(compare_files(before, other)) == [
        ("fact_sales", "S1", "ship_to_customer_id", "B", "A")
    ]


def test_control_characters_of_a_mart_are_shown_and_not_obeyed(tmp_path):
    plain = made(tmp_path / "plain.duckdb", "select 1")
    statements = 'create table "dim_\x1b[31m" as select 1 as a'
    strange = made(tmp_path / "strange\x07.duckdb", statements)
    text = described(plain, strange)
    assert "strange\\x07.duckdb" in text
    assert "dim_\\x1b[31m  0            1" in text
    assert text.replace("\n", "").isprintable()
