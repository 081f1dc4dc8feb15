"""Columns may have any name that SQL can quote, also those that queries of the helpers use."""

from contextlib import closing
from pathlib import Path

import pytest
from conftest import publish_checked, query

from mart_helpers.checks import explain_failures, run_checks, stop_on_failures
from mart_helpers.derived import derive_checks
from mart_helpers.export import export_tables, star_in_range
from mart_helpers.loading import Loader
from mart_helpers.mart import create_candidate, publish
from mart_helpers.past import check_past
from mart_helpers.session import Session
from mart_helpers.trace import trace

AMOUNTS = (
    *("month", "day", "year", "key", "value", "change", "before", "after", "row", "amount", "loaded"),
    *("n", "unit price", "line", "file", "reason", "position", "row_id", "place", "known", "child"),
    *("c0", "d0", "bad", "facts", "was", "now", "newest", "usual_rows", "select", 'a"b', "é", "1st"),
)
SUMS = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in AMOUNTS)
CONTRACT = f"""
create schema contract;
create table contract.dim_place (
    "order" varchar primary key, "group" varchar unique, "table" varchar check ("table" <> 'no')
);
comment on table contract.dim_place is 'inferred: one row per place';
create table contract.fact_visit (
    "rows" integer,
    "suspect" varchar,
    "when" date not null,
    "from" varchar references contract.dim_place ("order"),
    {SUMS.replace('",', '" decimal(18, 2),')} decimal(18, 2),
    primary key ("rows", "suspect")
);
"""
STAR = f"""
create table dim_date as
select strftime(date '2024-01-01' + d::integer, '%Y%m%d')::integer as date_key,
    date '2024-01-01' + d::integer as date
from range(366) as days (d);
create table dim_place as
select -1 as place_key, null as "order", null as "group", 'no' as "table"
union all
select row_number() over (order by rowid), "order", "group", "table" from staging.dim_place;
create table fact_visit as
select "rows", "suspect", strftime("when", '%Y%m%d')::integer as date_key,
    coalesce(place_key, -1) as from_place_key, {SUMS}
from staging.fact_visit as visits
left join dim_place on visits."from" = dim_place."order";
"""


def build(folder: Path, price: int, name: str) -> Session:
    header = ["rows", "suspect", "when", "from", *(name.replace('"', '""') for name in AMOUNTS)]
    numbers = ",".join(str(price) for _ in AMOUNTS)
    visits = [
        f"{n},s,2024-0{1 + n % 5}-01,{place},{numbers}" for n, place in enumerate(["P1", "P2", ""] * 5)
    ]
    visits += [f"9,s,2024-09-01,P1,{numbers}", f"10,s,x,P1,{numbers}"]
    (folder / "fact_visit.csv").write_text(
        "\n".join([",".join(f'"{each}"' for each in header), *visits])
    )
    (folder / "dim_place.csv").write_text(f"order,group,table\nP1,a,{name}\nP9,a,b\nP8,c,no\n")
    session = create_candidate(folder / "mart.duckdb", {})
    session.connection.execute(CONTRACT)
    for table in ("dim_place", "fact_visit"):
        Loader(session, folder, 1.0).load(table, from_seed=False)
    session.connection.execute(STAR)
    return session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    with closing(build(folder, 1, "Hall")) as session:
        publish_checked(session)
    return folder


def test_odd_names_are_loaded_checked_and_told(folder):
    found = query(folder / "mart.duckdb", "select line, column_name from quarantine order by all")
    assert found == [(3, "group"), (4, "table"), (17, "rows, suspect"), (18, "when")]
    with closing(build(folder, 2, "Barn")) as session:
        derive_checks(session)
        told = check_past(session, allow_restated=True)
        session.connection.execute('insert into fact_visit ("rows", "suspect") values (3, \'s\')')
        results = run_checks(session)
        assert not (results["status"] == "broken").any(), results["finding"].dropna().tolist()
        failures = {each.check_name: each for each in explain_failures(session, results, str(folder))}
        sample = failures["fact_visit_rows_and_suspect_is_unique"].sample
        assert sample[["rows", "line"]].values.tolist() == [[3, 5]]
        session.connection.execute("delete from fact_visit where date_key is null")
        results = run_checks(session)
        stop_on_failures(session, results, "error")
        changed = told.tables.set_index("table_name").loc["fact_visit", ["added", "removed", "changed"]]
        assert changed.tolist() == [0, 0, 15]
        assert {*told.values["column_name"]} == {*AMOUNTS, "table"}
        publish(session, results)
    assert 'rows "7", suspect "s"' in trace(folder / "mart.duckdb", "fact_visit", "7,s", folder)
    past = query(folder / "mart.duckdb", "select what_changed from checks.past_of_fact_visit limit 1")
    assert past[0][0].count("1.00 → 2.00") == len(AMOUNTS)


def names_of_joined(candidate, *columns: str) -> tuple[str, str]:
    """The status and the finding of the check on a view that joins tables with these columns."""
    fact, day, shop = columns
    candidate.connection.execute(
        f"create table dim_date as select 1 as date_key, 5 as {day};"
        f"create table dim_shop as select 1 as shop_key, 'old' as {shop};"
        f"create table fact_visit as select 1 as date_key, 1 as shop_key, 'May' as {fact};"
        "create macro takings(visits) as 7;"
        "create view visits as select fact_visit.*, dim_date.* exclude (dim_date.date_key), "
        "dim_shop.* exclude (dim_shop.shop_key), 7 as takings from fact_visit "
        "inner join dim_date on fact_visit.date_key = dim_date.date_key "
        "inner join dim_shop on fact_visit.shop_key = dim_shop.shop_key"
    )
    derive_checks(candidate)
    results = run_checks(candidate).set_index("check_name")
    return tuple(results.loc["visits_has_each_name_once", ["status", "finding"]])


def test_a_name_that_two_joined_dimensions_have_is_told(candidate):
    found = "visits has two columns called season: the second is season_1"
    assert names_of_joined(candidate, "weather", "season", "season") == ("warn", found)


def test_a_column_of_a_fact_that_hides_one_of_a_dimension_stops_the_build(candidate):
    found = (
        "visits has two columns called month: the second is month_1, and queries get that of "
        "fact_visit. Rename it in the cell that makes it"
    )
    assert names_of_joined(candidate, "month", "month", "season") == ("fail", found)


@pytest.mark.parametrize("columns", [("takings", "month", "season"), ("size", "month", "takings")])
def test_a_column_that_hides_a_metric_stops_the_build(candidate, columns):
    status, found = names_of_joined(candidate, *columns)
    assert (status, "queries get that of " in found) == ("fail", True)


def test_odd_names_are_exported(folder):
    from mart_helpers.session import open_published

    path = folder / "mart.duckdb"
    with closing(Session(open_published(path, [folder]), path, {})) as session:
        relations = star_in_range(session, "2024-01-01", "2024-12-31")
        formats = "csv,json,ndjson,parquet,xlsx"
        exported = export_tables(session, relations, formats, str(folder), "2024-01-01", "2024-12-31")
    assert exported["rows"].gt(0).all()
    header = (folder / "CSV-export" / "fact_visit.csv").read_text().splitlines()[0]
    assert all(name.replace('"', '""') in header for name in AMOUNTS)
