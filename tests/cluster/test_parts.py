"""What a cluster is sent of a select, what DuckDB makes of it, and what is refused."""

# ruff: noqa: E501 (a select on one line is easier to compare)

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import free_port, mart
from forks import CHECKOUT

from mart_helpers.checks import run_checks
from mart_helpers.cluster import server as cluster_server
from mart_helpers.cluster.server import Cluster
from mart_helpers.derived import derive_checks
from mart_helpers.errors import QueryError, UsageError
from mart_helpers.lake import lake_of
from mart_helpers.mart import create_candidate, publish
from mart_helpers.session import Session, open_published

FACT = """
    create table dim_day as
    select i as day_key, (date '2023-11-30' + i::integer) as day from range(400) as days (i);
    create table dim_thing as select * from (values (1, 'é'), (2, 'ß'), (3, null)) as t (thing_key, name);
    create table fact_sales as
    select
        'S' || i as sale_id,
        (i * 7) % 400 as day_key,
        1 + i % 3 as thing_key,
        (i % 11 - 3)::integer as quantity,
        (i * 0.0001)::decimal(18, 4) as amount,
        (i * 0.00000001)::decimal(18, 8) as rate,
        i * 0.1::double as weight,
        9007199254740993 + i as big,
        timestamp '2024-03-10 01:30:00' + to_minutes(i) as sold_at
    from range(1000) as rows (i);
    create view sales as
    with things as (select * from dim_thing),
    days as (select * from dim_day)
    select fact_sales.*, days.* exclude (day_key), things.* exclude (thing_key), amount * 2 as twice
    from fact_sales
    inner join days on fact_sales.day_key = days.day_key
    inner join things on fact_sales.thing_key = things.thing_key;
    create view busy as select thing_key, count(*) as n from fact_sales group by all;
    create view steps as
    with recursive r as (select 1 as i union all select i + 1 from r where i < 3) select i from r;
    create view hidden_things as select 1 as n from fact_sales;
    create view listed as select list_value(*columns(['day_key', 'quantity'])) as v from sales;
    create view gone as from dim_day limit 0;
    create schema other;
    create view other.sales as select 5 as five;
    create macro total(sales) as sum(sales.amount);
    create macro rounded(sales) as round(total(sales), 1);
    create macro doubled(number) as number * 2;
    create macro shown(word) as list_transform([word], lambda each: upper(each))[1]
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("parts") / "mart.duckdb"
    with closing(create_candidate(database, lake=lake_of(database))) as session:
        session.connection.execute(FACT)
        derive_checks(session)
        publish(session, run_checks(session))
    return database


@pytest.fixture(scope="module")
def duckdb_alone(database: Path) -> Iterator[Session]:
    copy = database.with_name("copy.duckdb")
    shutil.copyfile(database, copy)
    lake_of(copy).symlink_to(lake_of(database), target_is_directory=True)
    with closing(open_published(copy, [database.parent])) as connection:
        yield Session(connection, copy, {"word": "é"})


@pytest.fixture(scope="module")
def on_cluster(database: Path, server: str) -> Iterator[Session]:
    opened = open_published(database, [database.parent])
    with closing(Cluster(opened, database, server)) as connection:
        yield Session(connection, database, {"word": "é"})


# Each fails if the rule that it names is left out.
SELECTS = {
    "days between dates": "select max(day - date '2024-01-01') as days from sales",
    "borders of quarters": "select min(day), max(day) from sales where date_diff('quarter', date '2023-12-31', day) = 1",
    "quarters in a join": "select count(*) from sales join dim_thing on date_diff('quarter', date '2023-12-31', day) = dim_thing.thing_key",
    "months later": "select count(distinct (day + to_months(1))::date) as days from sales",
    "a constant interval": "select count(*) from sales where day < date '2024-03-31' - interval 1 month",
    "a time that has passed": "select count(*) from sales where sold_at - day > interval 100 days",
    "a time made by a function": "select count(*) from sales where sold_at - day > to_days(100)",
    "one interval or the other": "select count(distinct day + case when quantity > 0 then to_days(1) else to_months(1) end) from sales",
    "the type of a sum": "select thing_key, sum(quantity) as units from fact_sales group by all order by all",
    "all decimals of a product": "select sum(rate * big) as product from fact_sales where sale_id = 'S999'",
    "averages of whole numbers": "select avg(big), avg(quantity) filter (where quantity > 9) from fact_sales",
    "medians of decimals": "select median(amount), median(-amount) from fact_sales where sale_id < 'S4'",
    "divisions and text": "select format('{:.3f}', sum(amount) / count(*)) as mean from fact_sales",
    "words by DuckDB": "select upper(name) as name, count(*) from sales group by all order by all",
    "a word twice": "select max(format('{}{}', name, name)) as twice from sales",
    "words in conditions": "select count(*) from sales where lower(name) || quantity = 'ß3'",
    "a macro with a lambda": "select shown(name) as name, rounded(s) as t from sales as s group by all order by all",
    "one row a word": """
        select word, count(distinct sale_id) as sales
        from (select *, unnest([name, 'all', name]) as word from sales) as words
        group by all order by all
    """,
    "an alias within": "select thing_key + 1 as next, next * 2 as more, count(*) from sales group by all order by all",
    "columns by name": "select count(distinct columns(['name', 'quantity'])) from sales",
    "groups of columns by name": "select columns(['name', 'quantity']), count(*) from sales group by all order by all",
    "a parameter and a variable": "select count(*), getvariable('since') as s from sales where name = $word and day > s",
    "a null of a type": "select max(day + getvariable('nothing')) as day from sales",
    "whether there are rows": "select exists (from sales where quantity > 7) as some, exists (from sales where big < 0) as none",
    "the first rows": "select sale_id, twice from sales order by quantity desc, sale_id limit 3",
    "rows in order of all": "select name, quantity from sales order by all limit 3",
    "a running sum": "select name, sum(sum(amount)) over (order by name nulls first) as so_far from sales group by name order by 2",
    "a window with a filter": "select name, sum(count(*)) filter (where name > 'a') over () as n from sales group by name order by all",
    "a window beside all groups": "select name, count(*) as n, rank() over (order by count(*)) as place from sales group by all order by all",
    "sums of a rollup": "select name, grouping(name) as g, sum(quantity) from sales group by rollup (name) having count(*) > 1 order by all",
    "conditions on groups": "select name, count(*) as n from sales group by name having sum(quantity) / count(*) > 1.991 order by all",
    "groups of groups": "select n, count(*) from (select day, count(*) as n from sales group by day) group by n order by n",
    "the largest groups": "select sum(n) from (select day, count(*) as n from sales group by day order by n desc, day limit 3)",
    "all groups but the largest": "select sum(n) from (select day, count(*) as n from sales group by day order by n desc, day offset 3)",
    "some groups": "select sum(n) from (select day, count(*) as n from sales group by day qualify row_number() over (order by day) < 9)",
    "groups with others": "select sum(a.n) from (select day, count(*) as n from sales group by day) as a join dim_day on dim_day.day = a.day",
    "groups beside a list": "select x, sum(n) from (select day, count(*) as n from sales group by day) as g, unnest([1, 2]) as u (x) group by x order by x",
    "sums of a pivot": "select sum(a) from (from (select name, thing_key, count(*) as n from sales group by all) pivot (sum(n) for thing_key in (1 as a, 2 as b)))",
    "words made of groups": "select max(m) from (select name, format('{}', count(*)) as m from sales group by name)",
    "words made of windows": "select max(w) from (select format('{}', lag(n) over (order by name)) as w from (select name, count(*) as n from sales group by name))",
    "a CTE twice": "with t as (select name, sum(quantity) as q from sales group by name) select sum(a.q), count(*) from t as a join t as b on a.q = b.q",
    "names of CTEs": "with Things as (select quantity as q from sales), days (d) as (select max(q) from things) select d from days",
    "a small select within": "select count(*) from sales where name in (select list_sort(list(name))[1] from dim_thing)",
    "rows that have no partner": "select count(*) from dim_day where not exists (from fact_sales where fact_sales.day_key = dim_day.day_key)",
    "borders of months": "select max(date_diff('month', date '2023-12-31', day)) as months from sales",
    "times": "select min(sold_at), max(sold_at) from fact_sales",
    "text of fractions": "select max((weight * 10000000000)::varchar) as w from fact_sales",
    "whole numbers by rounding": "select sum(rate::integer), sum((amount * 10)::integer) as n from fact_sales where sale_id < 'S3'",
    "a null without a type": "select count(*) from sales where getvariable('never_set') is null",
    "a condition on values that others lack": "select max(strptime(sale_id, 'S%d')) as day from sales where sale_id in ('S1', 'S2')",
    "groups alone": "select name from sales group by name order by all",
    "one group of all": "select sum(quantity) from sales group by all",
    "groups in order of a sum": "select name from sales group by name order by sum(big) desc",
    "the largest group": "select name, count(*) as n from sales group by name qualify row_number() over (order by sum(big) desc) = 1",
    "the second group": "select name, count(*) from sales group by name order by all limit 1 offset 1",
    "distinct counts": "select distinct count(*) as n from sales group by day order by all",
    "sums of a cube": "select name, thing_key, count(*) from sales group by cube (name, thing_key) order by all",
    "a difference from a small select": "select name, count(*) - (select count(*) from dim_thing) as n from sales group by name order by all",
    "a small select about each row": "select count(*) from sales where exists (from dim_day as d where d.day_key = sales.quantity)",
    "means of groups": "select max(m) from (select name, sum(amount) / count(*) as m from sales group by name)",
    "columns that nothing asks for": "select name, count(*) from (select *, random() as chance from sales) group by name order by all",
    "nulls of numbers by DuckDB": "select format('<{}>', q) as q, count(*) from (select nullif(quantity, 5) as q from fact_sales) group by all order by all",
    "nulls of text by DuckDB": "select coalesce(upper(w), 'none') as w, count(*) from (select nullif(coalesce(name, ''), 'ß') as w from sales) group by all order by all",
    "nulls of dates by DuckDB": "select coalesce(strftime(d, '%y'), 'none') as d, count(*) from (select case when quantity > 5 then day when quantity > 3 then date '1970-01-01' end as d from sales) group by all order by all",
    "nulls of booleans by DuckDB": "select format('<{}>', b) as b, count(*) from (select nullif(quantity > 5, quantity = 0) as b from fact_sales) group by all order by all",
    "a list of columns": "select list_value(*columns(['day_key', 'quantity'])) as v, count(*) from sales group by all order by all",
    "a list of columns in a view": "select v, count(*) from listed group by all order by all",
    "a join in parentheses": "select count(*) from (sales join other.sales as o on quantity = five)",
    "a join in parentheses, the small table first": "select count(*), max(sales.five) from (other.sales join main.fact_sales on quantity = five)",
    "sums of groups up to each row": "select day_key, (select sum(n) from (select thing_key, count(*) as n from fact_sales group by all) as g where g.thing_key < dim_day.day_key) as n from dim_day order by all limit 5",
    "columns by name of a join": "select count(distinct columns(['name', 'quantity'])) from fact_sales join dim_thing using (thing_key)",
    "a view as DuckDB writes it": "select sum(n) from (select thing_key, n from busy) as b",
    "a view that hides another": "select sum(n) as n from hidden_things",
    "a small view that would be refused": "select count(*) from sales join steps on quantity = i",
    "a table without rows": "select count(*), count(gone.day) from fact_sales left join gone using (day_key)",
    "a macro in parentheses": "select sum(doubled(quantity + 1)) as n from sales",
    "a schema by name": "select count(*) from main.fact_sales",
    "a table of another schema": "select max(five) as five, count(*) from fact_sales join other.sales on quantity = five",
    "tables of all schemas": "select count(*) from main.fact_sales as f join main.dim_thing as t on f.thing_key = t.thing_key",
    "names in quotes": 'select count(*) from "FACT_SALES" join other."sales" as s on quantity = s.five',
    "a union": "select 'a' as x, count(*) from sales union all select 'b', count(*) from sales where quantity > 1 order by all",
    "a pivot": "with t as (select name, thing_key, count(*) as n from sales group by all) from t pivot (sum(n)::decimal(9, 2) for thing_key in (1, 2)) order by all",
    "distinct rows": "select distinct name, quantity > 0 as is_sold from sales order by all",
}


@pytest.mark.parametrize("name", SELECTS)
def test_a_select_gives_the_same(duckdb_alone, on_cluster, name):
    answers, sent = [], len(on_cluster.connection.sent)
    for session in (duckdb_alone, on_cluster):
        session.execute(
            "create or replace temp view hidden_things as select sum(quantity) as n from fact_sales"
        )
        session.execute("set variable since = date '2024-02-01'; set variable nothing = null::integer")
        values = {"word": "é"} if "$" in SELECTS[name] else None
        found = session.connection.execute(SELECTS[name], values)
        answers.append(([column[:2] for column in found.description], found.fetchall()))
    assert answers[0] == answers[1]
    assert {"fact_sales" in each.text for each in on_cluster.connection.sent[sent:]} == {True}


@pytest.mark.parametrize("name", ["mart.main.fact_sales", '"FACT_SALES"'])
def test_a_table_is_known_by_each_of_its_names(on_cluster, name):
    sent = len(on_cluster.connection.sent)
    on_cluster.execute(f"select count(*) from {name}")
    assert len(on_cluster.connection.sent) == sent + 1


@pytest.mark.parametrize(
    ("select", "reason"),
    [
        ("select * from sales", "rows of a large table themselves"),
        ("select string_agg(name, ', ') from sales", "GROUP_CONCAT|string_agg|STRING_AGG|LISTAGG"),
        ("select sum(weight) from fact_sales", "SUM"),
        ("select avg(amount) from fact_sales", "AVG"),
        ("select count(*) from fact_sales tablesample 10 percent", "tablesample"),
        ("select name, count(*) from sales group by grouping sets ((name), ())", "grouping sets"),
        ("select w, max(n) from (select unnest([name, 'all']) as w, row_number() over (order by big) as n from sales) group by w", "beside windows"),
        ("update dim_thing set name = t.name from (select max(name) as name from sales) as t", "update"),
        ("delete from dim_thing using sales where dim_thing.name = sales.name", "delete"),
        ("merge into dim_thing using fact_sales using (thing_key) when matched then delete", "merge"),
        ("select count(*) from sales join dim_thing on upper(sales.name) = dim_thing.name", "in the condition of a join"),
        ("select count(*) from fact_sales asof join dim_day on fact_sales.day_key >= dim_day.day_key", "join"),
        ("select count(*) from sales where random() < 0.5", "may differ from row to row"),
        ("select w, count(*) from (select unnest(['a', 'b']) as w from sales) group by w", "of a constant"),
        ("with recursive r as (select 1 as i union all select i + 1 from r where i < 3) select count(*) from r, sales", "recursive CTE"),
        (
            "select count(*) from (select ntile(3) over (order by big) as third from sales) group by third",
            "NTILE",
        ),
    ],
)  # fmt: skip
def test_what_would_not_be_the_same_is_refused_before_anything_is_sent(on_cluster, select, reason):
    sent = len(on_cluster.connection.sent)
    with pytest.raises(QueryError, match=rf"The cluster cannot compute .*({reason}).* in: "):
        on_cluster.execute(select)
    assert len(on_cluster.connection.sent) == sent


def test_groups_as_fine_as_the_fact_do_not_come_to_this_machine(on_cluster, monkeypatch):
    monkeypatch.setattr(cluster_server, "MOST_ROWS", 100)
    for select in (
        "select count(distinct sale_id) as sales from sales",
        "select sale_id, count(*) from sales group by sale_id having count(*) > 1",
        "select exists (from sales where quantity > -9)",
        "select distinct name from sales",
    ):
        on_cluster.execute(select)
    assert on_cluster.connection.sent[-1].rows == 3
    with pytest.raises(
        QueryError, match="more than 100 rows to this machine for: select sale_id, count"
    ):
        on_cluster.execute("select sale_id, count(*) from sales group by sale_id")
    assert on_cluster.connection.sent[-1].rows == 101


def test_groups_of_groups_stay_on_the_cluster(duckdb_alone, on_cluster, monkeypatch):
    monkeypatch.setattr(cluster_server, "MOST_ROWS", 100)
    select = """
        with words as (select *, lower(name) as word from sales),
        sales_of_day as (select day, word, quantity, sum(amount) as amount from words group by all),
        before as (select *, lag(day) over (partition by quantity order by day, word) as last from sales_of_day)
        select quantity, last is null as is_first, count(*), sum(amount) from before group by all order by all
    """
    answers = [each.connection.execute(select).fetchall() for each in (duckdb_alone, on_cluster)]
    assert answers[0] == answers[1]
    assert len(answers[0]) == on_cluster.connection.sent[-1].rows == 22


def test_what_spark_computes_alike_is_sent_in_one_part(on_cluster):
    sent = len(on_cluster.connection.sent)
    on_cluster.execute("""
        select
            max(day - date '2024-01-01' + 1), max(weight * 2), sum(quantity::decimal(18, 4)), sum((quantity > 1)::integer), max(quantity::varchar),
            max(day::varchar), max(day::timestamp), max(sold_at::date), max(name::varchar)
        from sales
    """)
    assert len(on_cluster.connection.sent) == sent + 1


def test_values_by_duckdb_are_joined_by_equalities(on_cluster):
    sent = len(on_cluster.connection.sent)
    on_cluster.execute("select count(distinct format('{}{}{}', name, quantity, day)) from sales")
    on_cluster.execute(
        "select count(distinct format('{}', w)) from (select shown(name) as w from sales)"
    )
    texts = [each.text for each in on_cluster.connection.sent[sent:]]
    assert len(texts) == 5
    assert [text for text in texts if "DISTINCT FROM" in text] == []


def test_the_server_keeps_no_small_table(on_cluster):
    on_cluster.execute("select name, count(*) from sales group by name")
    kept = on_cluster.connection._spark.catalog.listTables()
    assert [each.name for each in kept] == ["fact_sales"]


def test_rows_of_a_part_fill_tables_variables_and_files(on_cluster, duckdb_alone, database):
    answers = []
    for session in (duckdb_alone, on_cluster):
        session.execute(
            "create or replace temp table t as select name, sum(quantity) as q from sales group by all"
        )
        session.execute(
            "-- one more\ninsert into t by name select 0 as q, max(name) as name from sales;"
        )
        session.execute("set variable latest = (select max(day) from sales)")
        session.execute("create or replace temp view v as select * from sales; ")
        session.execute("describe sales")
        session.execute(
            f"copy (select max(amount) as most from sales) to '{database.parent}/most.csv' (header false)"
        )
        found = session.connection.execute("select *, getvariable('latest') from t order by all")
        answers.append((found.fetchall(), (database.parent / "most.csv").read_text()))
    assert answers[0] == answers[1]
    assert len(answers[0][0]) == 4


def test_a_mart_without_a_lake_is_refused(tmp_path, sail):
    with closing(create_candidate(tmp_path / "m.duckdb")) as session:
        session.connection.execute("create table dim_day (day_key integer)")
        derive_checks(session)
        publish(session, run_checks(session).assign(status="pass"))
    with (
        closing(open_published(tmp_path / "m.duckdb")) as connection,
        pytest.raises(UsageError, match=r"has no lake.*Build it with --lake"),
    ):
        Cluster(connection, tmp_path / "m.duckdb", sail)


def test_a_server_that_does_not_answer_is_named(clean):
    address = f"sc://127.0.0.1:{free_port()}"
    done = mart("explore", "--cluster", address, cwd=clean.parents[1])
    assert done.returncode == 1
    assert f"cluster: {address} cannot be reached" in done.stderr


def test_a_refused_cell_is_named_with_its_reason(clean, sail, tmp_path):
    home = shutil.copytree(clean.parents[1], tmp_path / "home", symlinks=True)
    path = home / "notebooks" / "02_explore.ipynb"
    path.write_text(
        path.read_text().replace(
            '"from sales\\n",\n    "having', '"from sales where random() < 1\\n",\n    "having'
        )
    )
    done = mart("explore", "--cluster", sail, cwd=home)
    assert done.returncode == 1
    assert "02_explore, cell" in done.stderr
    assert "The cluster cannot compute `RANDOM()`, which may differ from row to row" in done.stderr


def test_without_the_parameter_nothing_of_it_is_needed_and_with_it_the_package_is_named(clean, tmp_path):
    missing = "raise ModuleNotFoundError(\"No module named 'pyspark'\", name='pyspark')"
    (tmp_path / "pyspark.py").write_text(missing)
    command = [sys.executable, "-m", "mart", "explore", "--no-html"]
    settings = {"cwd": clean.parents[1], "capture_output": True, "text": True}
    settings["env"] = os.environ | {"PYTHONPATH": str(tmp_path)}
    runs = [subprocess.run([*command, *more], **settings) for more in ([], ["--cluster", "sc://h:1"])]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[1].returncode == 1
    assert "cluster: a package is missing (pyspark)" in runs[1].stderr
    hint = "pip install --no-deps --require-hashes -r requirements-cluster.lock"
    assert hint in runs[1].stderr
    assert hint in (CHECKOUT / "docs" / "cluster.md").read_text("utf-8")


def test_the_commands_of_the_page_work(clean, sail, tmp_path):
    page = (CHECKOUT / "docs" / "cluster.md").read_text("utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", "")
    home = shutil.copytree(clean.parents[1], tmp_path / "home", ignore=shutil.ignore_patterns("data"))
    for line in filter(None, blocks.splitlines()):
        match shlex.split(line):
            case ["mart", *words]:
                words = [sail if word.startswith("sc://") else word for word in words]
                words = [word.replace("/shared", str(tmp_path)) for word in words]
                done = mart(*words, cwd=home)
                assert done.returncode == 0, (line, done.stderr)
            case ["pip", "install", *_, what] if "==" in what:
                name, _, pin = what.partition("==")
                assert version(name) == pin
            case ["pip", "install", *_, lock]:
                assert (CHECKOUT / lock).exists()
            case [server, *_]:  # they run as long as the tests do
                assert server in ("sail", "spark-class", "spark-submit")
