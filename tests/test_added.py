"""Columns, dimensions and facts that one adds in 01_build are in everything that comes after it."""

import csv
import json
import re
from contextlib import closing
from pathlib import Path

import duckdb
import plain
import pytest
from conftest import query
from matplotlib.patches import FancyArrowPatch
from test_charts import figure_of

from mart_helpers.books import describe_mart
from mart_helpers.charts import draw_star
from mart_helpers.diff import described
from mart_helpers.run import run_notebook
from mart_helpers.session import Session, open_published
from mart_helpers.trace import trace

EDITS = {  # of cells of 01_build: what is added goes in front of, or behind, what is there
    "create table contract.dim_customer (\n": """\
create table contract.dim_store (
    store_no integer primary key,
    store_name varchar check (store_name <> 'Unknown')
);
comment on table contract.dim_store is 'one row per store';
comment on column contract.dim_store.store_name is 'name over the door';

create table contract.dim_customer (
""",
    "    customer_id varchar primary key,": "    customer_id integer primary key,",
    "    customer_id varchar references contract.dim_customer (customer_id),\n": """\
    customer_id integer references contract.dim_customer (customer_id),
    ship_to_id integer references contract.dim_customer (customer_id),
    ship_date date,
    store_no integer not null references contract.dim_store (store_no),
    channel varchar not null check (channel in ('shop', 'web')),
""",
    "comment on table contract.fact_sales is": """\
create table contract.fact_stocktake (
    count_id bigint primary key,
    count_date date not null,
    product_id varchar not null references contract.dim_product (product_id),
    units integer not null
);

comment on table contract.fact_sales is""",
    'loader.load("fact_sales", from_seed=stage < 2)': """\
loader.load("dim_store", from_seed=False)
loader.load("fact_sales", from_seed=stage < 2)
loader.load("fact_stocktake", from_seed=False)""",
    "    null::varchar as customer_id,": "    null::integer as customer_id,",
    "-- one row per sale line\ncreate table fact_sales as": """\
create table dim_store as
select -1 as store_key, null::integer as store_no, 'Unknown' as store_name
union all
select
    row_number() over (order by rowid)::integer as store_key,
    store_no,
    store_name
from staging.dim_store
order by store_key;

create table fact_stocktake as
select
    inventory.count_id,
    dim_date.date_key,
    dim_product.product_key,
    inventory.units
from staging.fact_stocktake as inventory
inner join dim_date on inventory.count_date = dim_date.date
inner join dim_product on inventory.product_id = dim_product.product_id
order by inventory.count_id;

-- one row per sale line
create table fact_sales as""",
    "    coalesce(customers.customer_key, -1) as customer_key,\n    dim_product": """\
    coalesce(customers.customer_key, -1) as customer_key,
    coalesce(ship_to.customer_key, -1) as ship_to_customer_key,
    coalesce(ship_date.date_key, -1) as ship_date_key,
    dim_store.store_key,
    sales.channel,
    dim_product""",
    "create schema checks;\n": """\
create schema checks;

create view checks.few_units as
select count_id, units
from fact_stocktake
where units > 20;

comment on view checks.few_units is 'warn: no count is above 20';
""",
    "left join staging.customers_of_sales as customers": """\
inner join dim_store on sales.store_no = dim_store.store_no
left join staging.customers_of_sales as ship_to
    on sales.ship_to_id = ship_to.customer_id
    and sales.sale_date between ship_to.sales_from and ship_to.sales_to
left join dim_date as ship_date on sales.ship_date = ship_date.date
left join staging.customers_of_sales as customers""",
}


def edit_build(notebook: Path) -> None:
    document = json.loads(notebook.read_text())
    for old, new in EDITS.items():
        (cell,) = (each for each in document["cells"] if old in "".join(each["source"]))
        cell["source"] = "".join(cell["source"]).replace(old, new)
    notebook.write_text(json.dumps(document))


def write_inputs(folder: Path) -> None:
    """The sample with whole numbers for customers, and with the columns and tables that are added."""
    customers = (folder / "dim_customer.csv").read_text()
    (folder / "dim_customer.csv").write_text(re.sub("^C0*", "", customers, flags=re.MULTILINE))
    sales = list(csv.DictReader((folder / "fact_sales.csv").open()))[:300]
    for number, sale in enumerate(sales):
        sale["customer_id"] = sale["customer_id"].lstrip("C0")
        sale["ship_to_id"] = str(1 + number % 20) if number % 2 else ""
        sale["ship_date"] = sale["sale_date"] if number % 3 else ""
        sale["store_no"], sale["channel"] = str(7 + number % 2), ("shop", "web")[number % 2]
    with (folder / "fact_sales.csv").open("w") as file:
        writer = csv.DictWriter(file, sales[0].keys())
        writer.writeheader()
        writer.writerows(sales)
    (folder / "dim_store.csv").write_text("store_no,store_name\n7,Harbour\n8,Market\n")
    counts = [f"{n},2023-0{n}-01,P01,{n * 10}" for n in range(1, 4)]
    counts += ["4,2026-05-31,P02,0"]  # in a year in which nothing was sold
    (folder / "fact_stocktake.csv").write_text(
        "\n".join(["count_id,count_date,product_id,units", *counts]) + "\n"
    )


@pytest.fixture(scope="module")
def project(shared_home: Path) -> Path:
    """A project whose 01_build declares and makes more, built and exported."""
    edit_build(shared_home / "notebooks" / "01_build.ipynb")
    write_inputs(shared_home / "inputs")
    for name, values in (
        ("01_build", {}),
        ("02_explore", {}),
        ("03_export", {"end_date": "2023-02-01"}),
    ):
        run_notebook(name, values, shared_home)
    return shared_home


def rows(project: Path, table: str) -> list[dict[str, str]]:
    with (project / "data" / "CSV-export" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def mart(project: Path) -> Path:
    return project / "data" / "mini_data_mart.duckdb"


def test_added_columns_and_tables_are_exported_in_the_range(project):
    assert rows(project, "dim_store") == [
        {"store_key": "-1", "store_no": "", "store_name": "Unknown"},
        {"store_key": "1", "store_no": "7", "store_name": "Harbour"},
        {"store_key": "2", "store_no": "8", "store_name": "Market"},
    ]
    assert [row["count_id"] for row in rows(project, "fact_stocktake")] == ["1", "2"]
    sales, wide = rows(project, "fact_sales"), rows(project, "sales")
    expected = query(mart(project), "select count(*) from fact_sales where date_key <= 20230201")
    assert [(len(sales),)] == [(len(wide),)] == expected
    columns = [name for name, *_ in query(mart(project), "describe fact_sales")]
    assert [*sales[0]] == columns
    assert {"channel", "ship_to_customer_key", "store_key", "ship_date_key"} < {*sales[0]} < {*wide[0]}
    assert {"signup_date", "list_price", "is_weekend"} < {*wide[0]}


def test_the_calendar_has_the_days_of_every_fact(project):
    rows = "select count(*), (select max(year) from dim_date) from fact_stocktake"
    assert query(mart(project), rows) == [(4, 2026)]


def test_added_tables_can_be_named_for_an_export(project):
    run_notebook("03_export", {"tables": "fact_stocktake,dim_store", "data_dir": "other"}, project)
    files = {path.stem for path in (project / "other" / "CSV-export").glob("*.csv")}
    assert files == {"fact_stocktake", "dim_store"}


def test_keys_of_every_role_have_checks(project):
    checks = "select view_name from duckdb_views() where schema_name = 'checks'"
    assert {
        "fact_sales_ship_to_customer_key_is_in_dim_customer",
        "fact_sales_ship_date_key_is_in_dim_date",
        "fact_sales_store_key_is_in_dim_store",
        "fact_stocktake_product_key_is_in_dim_product",
    } <= {name for (name,) in query(mart(project), checks)}


def test_a_failed_check_on_numeric_keys_names_file_and_line(project):
    run_notebook("04_quality", {}, project)
    report = json.loads((project / "data" / "quality" / "quality_report.json").read_text())
    (failure,) = (each for each in report["failures"] if each["check_name"] == "few_units")
    (row,) = failure["sample"]
    assert row == {"count_id": 3, "units": 30, "file": "fact_stocktake.csv", "line": 4}


def test_added_tables_and_columns_are_described(project):
    text = describe_mart(mart(project))
    for line in (
        "dim_store: 3 rows. one row per store",
        "  store_key   integer  surrogate key of dim_store; -1 is the unknown member",
        "  store_name  varchar  name over the door",
        "  ship_date_key         integer        refers to dim_date",
    ):
        assert line in text


def test_arrows_lead_from_added_keys_to_their_dimensions(project):
    path = mart(project)
    with closing(Session(open_published(path), path, {})) as session:
        figure = figure_of(draw_star, session)
    arrows = [each for each in figure.axes[0].patches if isinstance(each, FancyArrowPatch)]
    assert len(arrows) == 10, "six of fact_sales, two of each other fact"


def test_a_trace_shows_the_dimension_rows_of_every_role(project):
    text = trace(mart(project), "fact_sales", "S000002", project / "inputs")
    titles = re.findall(r"^  (dim_\w+, \w+)", text, flags=re.MULTILINE)
    assert titles == [
        *("dim_date, date_key", "dim_customer, customer_key", "dim_customer, ship_to_customer_key"),
        *("dim_date, ship_date_key", "dim_store, store_key", "dim_product, product_key"),
    ]
    text = trace(mart(project), "fact_stocktake", "2", project / "inputs")
    assert "inputs/fact_stocktake.csv, line 3\n    2,2023-02-01,P01,20" in text


def test_a_customer_more_changes_no_sale(project, tmp_path):
    earlier = tmp_path / "earlier.duckdb"
    earlier.write_bytes(mart(project).read_bytes())
    customers = project / "inputs" / "dim_customer.csv"
    customers.write_text(customers.read_text() + "0,First of all,Cafe,Bonn,Germany,2021-01-01\n")
    run_notebook("01_build", {}, project)
    told = described(earlier, mart(project)).splitlines()
    # the counts come first; new rows are listed below them
    lines = {line.split()[0]: line.split()[1:] for line in reversed(told) if "_" in line}
    members = plain.rows_loaded("dim_customer") + 1
    assert lines["dim_customer"] == [f"{members}", f"{members + 1}", "1", "0", "0"]
    ((sales,),) = query(earlier, "select count(*)::varchar from fact_sales")
    assert lines["fact_sales"][:5] == [sales, sales, "0", "0", "0"]
    assert lines["fact_stocktake"] == ["4", "4", "0", "0", "0"]
    keys = "select customer_id, customer_key from dim_customer where customer_id is not null order by 2"
    assert query(mart(project), keys) == [*query(earlier, keys), (0, members)]


def test_a_mart_without_customers_can_be_explored(project, tmp_path):
    nobody = tmp_path / "nobody.duckdb"
    nobody.write_bytes(mart(project).read_bytes())
    with duckdb.connect(str(nobody)) as connection:
        connection.execute("update fact_sales set customer_key = -1, ship_to_customer_key = -1")
        connection.execute("delete from dim_customer where customer_key <> -1")
    run_notebook("02_explore", {"database": str(nobody)}, project)
