"""Versions of customers from dated extracts, against an oracle that goes through them day by day."""

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest
from conftest import load, mart_command, query, sql_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mart_helpers.contract import read_contract
from mart_helpers.diff import compare_files
from mart_helpers.errors import InputError, StateError
from mart_helpers.history import check_history
from mart_helpers.session import Session
from mart_helpers.trace import trace

FIRST_DAY, DAYS = date(2024, 1, 1), 20
OPEN_END = date(9999, 12, 31)
HEADER = "customer_id,customer_name,segment,city,country,signup_date\n"
SALES_HEADER = "sale_id,sale_date,customer_id,product_id,quantity,unit_price,discount\n"


@dataclass(frozen=True)
class Told:
    """What a file says of a customer; `is_good` is false where the row cannot be read."""

    name: str
    segment: str
    city: str
    country: str
    is_good: bool = True

    @property
    def kept(self) -> tuple[str | None, ...]:
        return tuple(text or None for text in (self.segment, self.city, self.country))

    def line(self, customer: str) -> str:
        signup = "" if self.is_good else "soon"
        return f"{customer},{self.name},{self.segment},{self.city},{self.country},{signup}\n"


Files = dict[date, dict[str, Told]]
Version = tuple  # customer, name, segment, city, country, valid_from, valid_to


def write(folder: Path, files: Files, sales: list[tuple[date, str]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "dim_customer").mkdir(parents=True)
    for day, told in files.items():
        lines = [row.line(customer) for customer, row in told.items()]
        (folder / "dim_customer" / f"{day}.csv").write_text(HEADER + "".join(lines))
    (folder / "dim_product.csv").write_text(
        "product_id,product_name,category,unit_cost,list_price\nP1,Tea,Tea,1,2\n"
    )
    lines = [f"S{n:03},{day},{customer},P1,1,2,0\n" for n, (day, customer) in enumerate(sales)]
    (folder / "fact_sales.csv").write_text(SALES_HEADER + "".join(lines))


MADE = (
    "set variable history",
    "create view staging.customer_states",
    "create table staging.customer_versions",
    "create table staging.customers_of_sales",
    "create macro gross_amount",
    "create macro discount_amount",
    "create macro net_amount",
    "create table dim_customer",
    "create table dim_product",
    "create table dim_date",
    "create table fact_sales",
)


def forget(session: Session) -> None:
    """Drop what an earlier build of the same candidate has made."""
    for name in ("fact_sales", "dim_customer", "dim_product", "dim_date"):
        session.connection.execute(f"drop table if exists {name}")
    session.connection.execute("""
        drop view if exists staging.customer_states;
        drop table if exists staging.customer_versions;
        drop table if exists staging.customers_of_sales;
        drop macro if exists gross_amount;
        drop macro if exists discount_amount;
        drop macro if exists net_amount;
    """)


def build(session: Session, folder: Path) -> None:
    """The star of the extracts in `folder`, by the cells of 01_build."""
    forget(session)
    load(session, folder)
    for cell in sql_of("01_build", *MADE):
        session.connection.execute(cell)
    session.connection.execute("create schema if not exists checks")
    check_history(session, allow_restated=False)


def fetch(session: Session, sql: str) -> list[tuple]:
    return session.connection.execute(sql).fetchall()


def bad_rows(session: Session, check: str) -> list[tuple]:
    return fetch(session, f'from checks."{check}"')


MET = """
select sale_id, customer_id, customer_name, segment, city, country, valid_from, valid_to
from fact_sales
inner join dim_customer using (customer_key)
order by sale_id
"""

VERSIONS = """
select customer_id, customer_name, segment, city, country, valid_from, valid_to
from dim_customer
where customer_key <> -1
order by customer_id, valid_from
"""


def by_day(files: Files, customer: str) -> dict[date, tuple[str | None, ...]]:
    """What is so of the customer on each day from the first file on; nothing where it is missing."""
    so: dict[date, tuple[str | None, ...]] = {}
    last_read, now = None, None
    for number in range(DAYS + 1):
        day = FIRST_DAY + timedelta(days=number)
        if any(row.is_good for row in files.get(day, {}).values()):
            row = files[day].get(customer)
            if row and row.is_good:
                last_read = row.kept
            now = last_read if row else None
        if now:
            so[day] = now
    return so


def versions_of(files: Files, customer: str) -> list[Version]:
    so = by_day(files, customer)
    if not so:
        return []
    names = [told[customer].name for day, told in sorted(files.items())
             if customer in told and told[customer].is_good]  # fmt: skip
    runs: list[list[date]] = []
    for day in sorted(so):
        is_next = runs and runs[-1][-1] + timedelta(days=1) == day and so[runs[-1][-1]] == so[day]
        runs[-1].append(day) if is_next else runs.append([day])
    last = FIRST_DAY + timedelta(days=DAYS)
    return [
        (customer, names[-1] or None, *so[run[0]], run[0], OPEN_END if run[-1] == last else run[-1])
        for run in runs
    ]


def met_by(files: Files, day: date, customer: str) -> Version:
    """The version of the last day up to this one on which there was one; else the first."""
    known = versions_of(files, customer)
    begun = [version for version in known if version[-2] <= day]
    return max(begun, key=lambda version: version[-2]) if begun else known[0]


TOLD = st.builds(
    Told,
    name=st.sampled_from(["Ann", "Anna", ""]),
    segment=st.sampled_from(["Cafe", "Cafe", "Shop", ""]),
    city=st.sampled_from(["Graz", "Graz", "Lyon", ""]),
    country=st.sampled_from(["Austria", "Austria", ""]),
    is_good=st.sampled_from([True, True, True, False]),
)
CUSTOMERS = ["C1", "C2", "C3"]
FILES = st.dictionaries(
    st.integers(1, DAYS - 2).map(lambda n: FIRST_DAY + timedelta(days=n)),
    st.dictionaries(st.sampled_from(CUSTOMERS), TOLD, min_size=1),
    min_size=1,
    max_size=6,
).filter(lambda files: any(row.is_good for told in files.values() for row in told.values()))
SALE_DAYS = st.lists(st.integers(0, DAYS), min_size=1, max_size=8)


@settings(
    max_examples=12,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(files=FILES, sale_days=SALE_DAYS, repeated=st.integers(0, 5))
def test_versions_and_sales_are_those_of_a_day_by_day_oracle(
    candidate, tmp_path, files, sale_days, repeated
):
    known = [customer for customer in CUSTOMERS if versions_of(files, customer)]
    sales = [
        (FIRST_DAY + timedelta(days=n), known[place % len(known)]) for place, n in enumerate(sale_days)
    ]
    expected = [version for customer in known for version in versions_of(files, customer)]
    met = [(f"S{n:03}", *met_by(files, day, customer)) for n, (day, customer) in enumerate(sales)]

    write(tmp_path / "in", files, sales)
    build(candidate, tmp_path / "in")

    assert fetch(candidate, VERSIONS) == expected
    assert fetch(candidate, MET) == met
    keys = fetch(
        candidate,
        "select valid_from, customer_id from dim_customer where customer_key > 0 order by customer_key",
    )
    assert keys == sorted(keys)
    outside = [not each[-2] <= day <= each[-1] for each, (day, _) in zip(met, sales, strict=True)]
    assert len(bad_rows(candidate, "fact_sales_customer_key_is_valid_on_its_day")) == sum(outside)
    for check in (
        "dim_customer_has_no_overlap",
        "dim_customer_has_each_loaded_state",
        "dim_customer_differs_by_history_alone",
        "fact_sales_customer_key_is_the_version_of_its_day",
    ):
        assert bad_rows(candidate, check) == [], check

    star = [fetch(candidate, f"from {table} order by all") for table in ("dim_customer", "fact_sales")]
    day = sorted(files)[repeated % len(files)]
    if day + timedelta(days=1) not in files and all(row.is_good for row in files[day].values()):
        # a file that only repeats, and the files in another order of arrival
        again = {day + timedelta(days=1): files[day], **dict(reversed(files.items()))}
        write(tmp_path / "in", again, sales)
        build(candidate, tmp_path / "in")
        for table, rows in zip(("dim_customer", "fact_sales"), star, strict=True):
            assert fetch(candidate, f"from {table} order by all") == rows


def test_a_late_file_gives_the_mart_that_it_would_have_given_in_time(home):
    folder = home / "inputs" / "history"
    late = folder / "dim_customer" / "2024-04-01.csv"
    text = late.read_text()
    late.unlink()
    mart = {name: home / "data" / f"{name}.duckdb" for name in ("late", "fresh")}
    assert mart_command("build", "--stage", "4", "--database", mart["late"], cwd=home).returncode == 0
    late.write_text(text)
    for path in mart.values():
        told = mart_command("build", "--stage", "4", "--database", path, cwd=home)
        assert told.returncode == 0, told.stderr
        if path == mart["late"]:
            assert "restates revenue of 2024 (Cafe -207.10, Retail +207.10)" in told.stdout
    for table in ("dim_customer", "fact_sales"):
        rows = [query(path, f"from {table}") for path in mart.values()]
        assert rows[0] == rows[1]
    changes = compare_files(mart["late"].with_name("late.duckdb.previous-1"), mart["late"])
    assert changes.rows[["what_changed", "key"]].values.tolist() == [
        ["gone", "C018, 2024-07-01"],
        ["gone", "C020, 2024-07-01"],
        ["new", "C018, 2024-04-01"],
        ["new", "C020, 2024-04-01"],
    ]
    text = trace(mart["late"], "fact_sales", "S000500", home / "inputs")
    assert "inputs/history/fact_sales.csv, line " in text
    assert "dim_customer, customer_key 25, from dim_customer/2024-01-01.csv on" in text


def test_an_extract_cut_in_half_stops_the_build_unless_that_is_allowed(candidate, tmp_path):
    told = Told("Ann", "Cafe", "Graz", "Austria")
    whole, half = dict.fromkeys(CUSTOMERS, told), {"C1": told}
    write(tmp_path / "in", {date(2024, 1, 1): whole, date(2024, 1, 2): half}, [(FIRST_DAY, "C1")])
    build(candidate, tmp_path / "in")
    check = "dim_customer_loses_few_members_at_once"
    words = "the extract of 2024-01-02 lacks 2 of 3 members"
    assert bad_rows(candidate, check) == [(date(2024, 1, 2), 2, 3, words)]
    severity = f"select comment from duckdb_views() where view_name = '{check}'"
    assert fetch(candidate, severity)[0][0].startswith("error: ")
    check_history(candidate, allow_restated=True)
    assert fetch(candidate, severity)[0][0].startswith("warn: ")


def test_a_dated_file_without_a_day_of_its_own_is_refused(candidate, tmp_path, subtests):
    for names, problem in [
        (["2024-01-01.csv", "newest.csv"], "dim_customer/newest.csv: its name does not end in the day"),
        (["2024-02-30.csv"], "dim_customer/2024-02-30.csv: its name does not end in the day"),
        (["a-2024-01-01.csv", "b-2024-01-01.csv"], "dim_customer holds two files of 2024-01-01"),
    ]:
        with subtests.test(problem):
            (tmp_path / names[0] / "dim_customer").mkdir(parents=True)
            for name in names:
                (tmp_path / names[0] / "dim_customer" / name).write_text(HEADER + "C1,Ann,,,,\n")
            with pytest.raises(InputError, match=problem):
                load(candidate, tmp_path / names[0], "dim_customer")


def test_history_is_declared_of_columns_of_a_dimension_that_are_no_key(candidate):
    for column in ("fact_sales.discount", "dim_customer.customer_id"):
        candidate.connection.execute(f"comment on column contract.{column} is 'history: x'")
        with pytest.raises(StateError, match="history:"):
            read_contract(candidate.connection, column.partition(".")[0])


DATED_PRODUCTS = """
create table dim_product as
select
    row_number() over (order by valid_from, place, product_id)::integer as product_key,
    dense_rank() over (order by first_file_day, place, product_id)::integer as product_durable_key,
    product_id,
    unit_cost,
    valid_from,
    valid_to
from staging.product_versions
"""


def test_the_cells_of_stage_4_give_each_sale_the_product_cost_of_its_day(candidate, tmp_path):
    folder, ann = tmp_path / "in", Told("Ann", "Cafe", "Graz", "Austria")
    days = [date(2024, 1, 31), date(2024, 2, 1)]
    write(folder, {date(2024, 1, 1): {"C1": ann}}, [(day, "C1") for day in days])
    header, row = (folder / "dim_product.csv").read_text().splitlines()
    (folder / "dim_product.csv").unlink()
    (folder / "dim_product").mkdir()
    for day, cost in (("2024-01-01", "1"), ("2024-02-01", "1.5")):
        text = f"{header}\n{row.replace(',1,2', f',{cost},2')}\n"
        (folder / "dim_product" / f"{day}.csv").write_text(text)
    candidate.connection.execute("comment on column contract.dim_product.unit_cost is 'history: cost'")
    load(candidate, folder)
    by_id = "dim_product on sales.product_id = dim_product.product_id"
    on_its_day = "sales.sale_date between dim_product.sales_from and dim_product.sales_to"
    for cell in sql_of("01_build", *MADE):
        if "create table dim_product" in cell:
            cell = DATED_PRODUCTS
        cell = cell.replace(by_id, f"staging.products_of_sales as {by_id} and {on_its_day}")
        candidate.connection.execute(cell)
        if "set variable history" in cell or "staging.customer" in cell.partition(" as")[0]:
            copy = cell.replace("customer", "product").replace("('history')", "('costs')")
            candidate.connection.execute(copy.replace("variable history", "variable costs"))
    candidate.connection.execute("create schema if not exists checks")
    check_history(candidate, allow_restated=False)
    costs = "select unit_cost::varchar from fact_sales join dim_product using (product_key) order by all"
    assert fetch(candidate, costs) == [("1.0000",), ("1.5000",)]
    assert bad_rows(candidate, "fact_sales_product_key_is_the_version_of_its_day") == []
