"""A mart whose facts are loaded and made on a cluster is the mart that DuckDB makes alone."""

import csv
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import duckdb
import pytest
from conftest import child, documented, free_port, mart
from forks import CHECKOUT

from mart_helpers.cluster import build as build_on_cluster
from mart_helpers.cluster.build import Builder
from mart_helpers.cluster.plan import refuse_other_rows
from mart_helpers.cluster.tasks import perform, versions_here
from mart_helpers.errors import InputError, QueryError, StateError
from mart_helpers.lake import builds_in, lake_of
from mart_helpers.loading import Loader
from mart_helpers.mart import create_candidate
from mart_helpers.session import Session, open_published

SALES = CHECKOUT / "inputs" / "fact_sales.csv"

MONTHS = ("2024-09", "2024-10", "2024-11", "2024-12")


def monthly(folder: Path) -> Path:
    """The sample's dimensions, and the sales of a few months in one file each."""
    (folder / "fact_sales").mkdir(parents=True)
    for name in ("dim_customer.csv", "dim_product.csv"):
        (folder / name).write_bytes((CHECKOUT / "inputs" / name).read_bytes())
    with SALES.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    for month in MONTHS:
        write(folder, month, [header, *(row for row in rows if row[1].startswith(month))])
    return folder


def write(folder: Path, month: str, rows: list[list[str]]) -> None:
    with (folder / "fact_sales" / f"{month}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def rows_of(folder: Path, month: str) -> list[list[str]]:
    with (folder / "fact_sales" / f"{month}.csv").open(encoding="utf-8", newline="") as file:
        return [*csv.reader(file)]


def damage(folder: Path) -> None:
    """Bad lines, and keys that repeat within a file, across files, and across a bad line."""
    first, second, third, last = (rows_of(folder, month) for month in MONTHS)
    twice, bad_first, orphan_first = first[2], third[3], third[4]
    second += [twice, ["S9", "2024-10-01", "two\nlines", *twice[3:]], [*bad_first[:5], "oops", "0"]]
    second += [[*orphan_first[:3], "P999", *orphan_first[4:]], twice[:4]]
    last += [twice, twice, [*twice[:4], "2.5", *twice[5:]], ["", *twice[1:]]]
    for month, rows in zip(MONTHS, (first, second, third, last), strict=True):
        write(folder, month, rows)


def command(inputs: Path, database: Path, server: str = "") -> list[str]:
    """The words after `mart` that build `database`, with its data beside it."""
    words = ["build", "--inputs-dir", inputs, "--database", database, "--data-dir", database.parent]
    on_cluster = ["--lake", database.with_name("lake"), "--cluster", server] if server else []
    return [str(word) for word in [*words, *on_cluster]]


def build(inputs: Path, database: Path, server: str = "") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mart", *command(inputs, database, server)]
    return subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True)  # as slow as it may be


def contents(database: Path) -> dict[str, list]:
    """The rows of every table and view, checks included, apart from what tells the time."""
    names = """
        select schema_name, table_name from duckdb_tables() where database_name = current_database()
        union all
        select schema_name, view_name from duckdb_views()
        where database_name = current_database() and not internal
    """
    with closing(open_published(database)) as connection:
        return {
            f"{schema}.{name}": sorted(
                map(
                    repr, connection.execute(f'select {_same(name)} from "{schema}"."{name}"').fetchall()
                )
            )
            for schema, name in connection.execute(names).fetchall()
        }


def _same(table: str) -> str:
    return "* exclude (built_at, seconds)" if table == "build_log" else "*"


def outputs(database: Path) -> list[str]:
    """What the cells of the last build show."""
    [*_, run] = sorted((database.parent / "runs").glob("*-build"))
    cells = json.loads((run / "01_build.ipynb").read_text(encoding="utf-8"))["cells"]
    found = [each for cell in cells for each in cell.get("outputs", [])]
    return ["".join(each.get("text", each.get("data", {}).get("text/plain", ""))) for each in found]


@pytest.fixture(scope="module")
def extracts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = monthly(tmp_path_factory.mktemp("damaged"))
    damage(inputs)
    return inputs


@pytest.fixture(scope="module")
def alone(extracts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mart that DuckDB makes of the damaged extracts, in a second build."""
    database = tmp_path_factory.mktemp("alone") / "mart.duckdb"
    for _ in range(2):
        built = build(extracts, database)
        assert built.returncode == 0, built.stderr
    return database


def test_the_mart_and_the_outputs_are_the_same(server, extracts, alone, tmp_path):
    database = tmp_path / "mart.duckdb"
    for _ in range(2):
        built = build(extracts, database, server)
        assert built.returncode == 0, built.stderr
    ours, theirs = contents(alone), contents(database)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert len(ours["main.quarantine"]) == 11
    assert outputs(alone) == outputs(database)
    assert len(builds_in(lake_of(database))) == 2
    assert not [*lake_of(database).glob("*/work")]
    [*_, log] = sorted(tmp_path.glob("runs/*/01_build.sent.sql"))
    assert "for: load fact_sales\n-- 4 files, each one task" in log.read_text(encoding="utf-8")


def test_a_file_that_came_twice_is_refused_in_the_same_words(sail, tmp_path):
    inputs = monthly(tmp_path / "inputs")
    for month in MONTHS[1:]:
        write(inputs, f"{month}-again", rows_of(inputs, month))
    ours, theirs = (
        build(inputs, tmp_path / where / "mart.duckdb", sail if where == "cluster" else "")
        for where in ("alone", "cluster")
    )
    assert (ours.returncode, theirs.returncode) == (1, 1)
    [words] = [line for line in ours.stderr.splitlines() if "more than max_rejected_share" in line]
    assert words in theirs.stderr
    assert not (tmp_path / "cluster" / "mart.duckdb").exists()


def test_a_killed_build_leaves_facts_that_the_next_one_removes(sail, extracts, tmp_path):
    database = tmp_path / "mart.duckdb"
    words = [sys.executable, "-m", "mart", *command(extracts, database, sail)]
    with subprocess.Popen(words, cwd=CHECKOUT, start_new_session=True) as process:
        until(process, lambda: [*tmp_path.glob("lake/*/work/staging/*/*.parquet")])
        os.killpg(process.pid, signal.SIGKILL)
    [left] = builds_in(lake_of(database))
    assert not database.exists()
    built = build(extracts, database, sail)
    assert built.returncode == 0, built.stderr
    [folder] = builds_in(lake_of(database))
    assert folder != left


def test_a_killed_executor_changes_nothing(spark, extracts, alone, tmp_path):
    database = tmp_path / "mart.duckdb"
    words = [sys.executable, "-m", "mart", *command(extracts, database, spark)]
    with subprocess.Popen(words, cwd=CHECKOUT) as process:
        until(process, lambda: [*tmp_path.glob("lake/*/work/entries/*/*.parquet")])
        os.kill(executors()[0], signal.SIGKILL)
    assert process.returncode == 0
    ours, theirs = contents(alone), contents(database)
    assert ours["main.fact_sales"] == theirs["main.fact_sales"]
    assert ours["main.quarantine"] == theirs["main.quarantine"]


def test_a_killed_server_ends_the_build_with_a_message(extracts, tmp_path):
    port = free_port()
    database, lake = tmp_path / "mart.duckdb", tmp_path / "lake"
    with child(documented("sail spark server", p50051=port), port, tmp_path / "sail") as server:
        words = [sys.executable, "-m", "mart", *command(extracts, database, f"sc://127.0.0.1:{port}")]
        with subprocess.Popen(words, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True) as process:
            until(process, lambda: [*lake.glob("*/work/entries/*/*.parquet")])
            server.kill()
            said = process.stderr.read()
    assert process.returncode == 1
    assert "\nmart: The cluster could not load fact_sales: " in said
    assert not database.exists()


def executors() -> list[int]:
    """The processes of Spark that do the work for the workers of these tests."""
    parents, found = {}, []
    for process in (each for each in Path("/proc").iterdir() if each.name.isdigit()):
        with suppress(OSError):
            stat = (process / "stat").read_text()
            parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])
            if b"CoarseGrainedExecutorBackend" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return [each for each in found if os.getpid() in _ancestors(each, parents)]


def _ancestors(process: int, parents: dict[int, int]) -> Iterator[int]:
    while process := parents.get(process, 0):
        yield process


def until(process: subprocess.Popen, holds: Callable[[], object]) -> None:
    while process.poll() is None and not holds():
        time.sleep(0.02)
    assert process.returncode is None, "it ended before"


def test_a_cluster_without_a_lake_is_refused(tmp_path):
    words = ["build", "--database", tmp_path / "mart.duckdb", "--cluster", "sc://127.0.0.1:1"]
    refused = mart(*words, cwd=CHECKOUT)
    assert refused.returncode == 2
    assert "a cluster keeps facts in a lake" in refused.stderr


def planned(select: str) -> str:
    """The large table of a select over `big`, beside the small table `dim`."""
    with closing(duckdb.connect()) as connection:
        connection.execute("create table big (id integer, k integer); create table more as from big")
        connection.execute("create table dim (k integer, name varchar); pragma disable_optimizer")
        connection.execute("create macro total(rows) as sum(rows.id)")
        plan = connection.execute(f"explain (format json) {select}").fetchall()[0][1]
    return refuse_other_rows("fact_x", json.loads(plan)[0], {"big", "more"})


@pytest.mark.parametrize(
    "select",
    [
        "select id, name from big left join dim using (k) where id > (select max(k) from dim)",
        "with chosen as (from big where k in (from dim select k)) from dim join chosen using (k)",
    ],
)
def test_a_select_row_by_row_can_be_made_file_by_file(select):
    assert planned(select) == "big"


@pytest.mark.parametrize(
    ("select", "construct"),
    [
        ("select k, total(big) from big group by k", "a group by or distinct"),
        ("select max(id) from big", "an aggregate"),
        ("select row_number() over (order by id) from big", "a window function"),
        ("select id from big limit 3", "a limit"),
        ("select id from big union all select k from dim", "a union"),
        ("select name, id from dim left join big using (k)", "a join"),
        ("select name from dim where k in (select k from big)", "a join"),
        (
            "with one as (from big) select a.id from one as a join one as b on a.id = b.k",
            "several large",
        ),
        ("select big.id from big join more using (id)", "several large tables"),
    ],
)
def test_a_select_that_needs_other_rows_is_refused_by_its_construct(select, construct):
    with pytest.raises(QueryError, match=construct):
        planned(select)


def test_a_worker_with_other_versions_is_refused():
    python, duckdb_version, code = versions_here()
    kind, words = json.loads(perform(lambda: 1, [python, duckdb_version, "mart_helpers 00000000"]))
    assert kind == "StateError"
    assert code in words
    assert "mart_helpers 00000000" in words
    assert json.loads(perform(lambda: 1, versions_here())) == ["", 1]


@pytest.fixture
def builder(sail, tmp_path) -> Iterator[Session]:
    """A build on a cluster, with a loaded fact of two files that has two keys and no dimension."""
    inputs = tmp_path / "inputs" / "fact_x"
    inputs.mkdir(parents=True)
    (inputs / "1.csv").write_text(
        "id,part,code,day\nA,1,x,2024-01-01\nA,2,y,2024-01-02\nB,1,,2024-01-01\n"
    )
    with gzip.open(inputs / "2.csv.gz", "wt") as file:
        file.write("id,part,code,day\nA,2,z,2024-01-02\nC,1,z,2024-01-03\nD,1,x,2024-01-04\nE,1,,bad\n")
    with closing(create_candidate(tmp_path / "mart.duckdb", lake=tmp_path / "lake")) as session:
        session.connection.execute(
            "create schema contract; create table contract.fact_x (id varchar, part integer, "
            "code varchar unique, day date not null, primary key (id, part))"
        )
        session.cluster = Builder(session, sail)
        yield session


def test_composite_and_further_keys_repeat_across_files_as_on_one_machine(builder, tmp_path):
    Loader(builder, tmp_path / "inputs", 1).load("fact_x", from_seed=False)
    told = builder.connection.execute(
        "select file, line, reason from quarantine order by all"
    ).fetchall()
    files = builder.connection.execute("select * exclude (build_id) from build_inputs order by file")
    ours = [*told, *files.fetchall(), *builder.connection.execute("from staging.fact_x").fetchall()]
    builder.connection.execute("drop view staging.fact_x")
    # an open session would keep this process waiting for its server, which is gone by then
    builder.cluster.leave()
    builder.cluster = None
    Loader(builder, tmp_path / "inputs", 1).load("fact_x", from_seed=False)
    told = builder.connection.execute(
        "select file, line, reason from quarantine order by all"
    ).fetchall()
    files = builder.connection.execute("select * exclude (build_id) from build_inputs order by file")
    assert ours == [
        *told,
        *files.fetchall(),
        *builder.connection.execute("select * from staging.fact_x").fetchall(),
    ]
    assert len(told) == 3


def test_a_table_with_too_many_repeated_keys_is_refused_from_a_sample(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(build_on_cluster, "SAMPLE", 2)
    folder = tmp_path / "inputs" / "fact_x"
    for path in folder.iterdir():
        path.unlink()
    rows = "".join(f"I{n},1,,2024-01-01\n" for n in range(30))
    for name in ("1.csv", "2.csv"):
        (folder / name).write_text(f"id,part,code,day\n{rows}")
    with pytest.raises(InputError, match=r"(?s)fact_x: 30 of its 60 rows are bad.*repeat those of line"):
        Loader(builder, tmp_path / "inputs", 0.1).load("fact_x", from_seed=False)


def test_a_fact_of_rows_that_are_not_made_one_by_one_is_refused(builder, tmp_path):
    Loader(builder, tmp_path / "inputs", 1).load("fact_x", from_seed=False)
    with pytest.raises(QueryError, match=r"fact_x cannot be made .* because of a group by or distinct"):
        builder.execute(
            "create table fact_x as select id, count(*) as parts from staging.fact_x group by id"
        )
    with pytest.raises(QueryError, match="rows of a large table themselves"):
        builder.execute("create table every_x as from staging.fact_x")
    builder.execute("create table fact_x as select id, day from staging.fact_x where part = 1")
    with pytest.raises(QueryError, match="fact_x already exists"):
        builder.execute("create table fact_x as select id from staging.fact_x")
    builder.execute("comment on table fact_x is 'one row per first part'")
    assert builder.execute("select id from fact_x order by id limit 5")["id"].tolist() == ["A", "B", "C"]


@pytest.mark.parametrize(
    "select",
    [
        "select count(fact_x.id) as n from staging.fact_x",
        'select count(*) as n from "STAGING"."fact_x"',
        "select count(id) as n from staging.main.fact_x",
        "select sum(n) as n from staging.parts",
    ],
)
def test_a_loaded_table_is_known_by_each_of_its_names(builder, tmp_path, select):
    Loader(builder, tmp_path / "inputs", 1).load("fact_x", from_seed=False)
    builder.execute(
        "create view staging.parts as select id, count(*) as n from staging.fact_x group by id"
    )
    sent = len(builder.cluster.sent)
    assert builder.execute(select)["n"].tolist() == [4]
    assert len(builder.cluster.sent) == sent + 1


@pytest.mark.parametrize(
    ("contract", "reason"),
    [
        ("create view mapping.fact_x as select 1 as id", "mapping.fact_x makes its rows"),
        (
            "drop table contract.fact_x; create table contract.fact_x "
            "(id varchar primary key, code varchar references contract.fact_x (id))",
            "contract.fact_x refers to itself",
        ),
        (
            "drop table contract.fact_x; create table contract.dim_y (y varchar primary key); "
            "comment on table contract.dim_y is 'inferred: one row per y'; create table contract.fact_x "
            "(id varchar primary key, code varchar references contract.dim_y (y))",
            "members of dim_y would have to be inferred",
        ),
    ],
)
def test_what_needs_all_files_at_once_is_refused(builder, tmp_path, contract, reason):
    builder.connection.execute(contract)
    with pytest.raises(StateError, match=rf"fact_x cannot be loaded .* because {re.escape(reason)}"):
        Loader(builder, tmp_path / "inputs", 1).load("fact_x", from_seed=False)


def test_a_worker_without_the_project_is_named(extracts, tmp_path, monkeypatch):
    words = "raise ModuleNotFoundError(\"No module named 'mart_helpers'\", name='mart_helpers')"
    (tmp_path / "mart_helpers.py").write_text(words)
    port = free_port()
    with ExitStack() as running:
        with monkeypatch.context() as of_server:
            of_server.setenv("PYTHONPATH", str(tmp_path))
            command = documented("sail spark server", p50051=port)
            running.enter_context(child(command, port, tmp_path / "sail"))
        refused = build(extracts, tmp_path / "mart.duckdb", f"sc://127.0.0.1:{port}")
    assert refused.returncode == 1
    assert "mart: A worker lacks this project. Install it on all machines." in refused.stderr
