import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from conftest import CHECKOUT, mart_command, publish_checked, query

from mart_helpers.books import describe_mart
from mart_helpers.checks import run_checks
from mart_helpers.diff import compare_files
from mart_helpers.errors import QueryError, StateError, UsageError
from mart_helpers.kept import previous_path, rollback
from mart_helpers.lake import builds_in, lake_of
from mart_helpers.mart import create_candidate
from mart_helpers.reset import generated, remove
from mart_helpers.session import Session, open_published
from mart_helpers.trace import trace

FACT = """
    create table dim_day (day_key integer, day date);
    insert into dim_day values (1, '2024-01-01');
    create table fact_sales (
        sale_id varchar primary key,
        day_key integer not null,
        quantity hugeint check (quantity <> 0),
        amount decimal(18, 4)
    );
    insert into fact_sales
    select 'S' || i, 1, 1 + i::hugeint * 100000000000000000000, i * 0.0001
    from range({rows}) as rows (i);
    comment on table fact_sales is 'one row per sale';
    comment on column fact_sales.amount is 'in currency';
    create view totals as select count(*) as sales, sum(amount) as amount from fact_sales
"""


def build(database: Path, rows: int = 10, *, keep: int = 2, lake: Path | None = None) -> None:
    """Publish a mart with one fact, in a lake beside it unless another is named."""
    with closing(create_candidate(database, lake=lake or lake_of(database))) as session:
        session.connection.execute(FACT.format(rows=rows))
        publish_checked(session, keep)


def facts(database: Path) -> int:
    """How many rows the fact of a mart has, as a reader sees it."""
    with open_published(database) as connection:
        return connection.execute("select sales from totals").fetchone()[0]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "mart.duckdb"


def test_facts_are_in_parquet_files_and_the_mart_looks_as_without_a_lake(database, tmp_path):
    build(database)
    with closing(create_candidate(tmp_path / "plain.duckdb")) as session:
        session.connection.execute(FACT.format(rows=10))
        publish_checked(session)
    [folder] = builds_in(lake_of(database))
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.parquet")] == [
        "fact_sales/0.parquet"
    ]
    compared = compare_files(tmp_path / "plain.duckdb", database)
    assert list(compared.tables["table_name"]) == ["dim_day", "fact_sales"]
    assert not compared.tables[["added", "removed", "changed"]].any(axis=None)
    lines = [describe_mart(path).split("\n\n")[2:] for path in (tmp_path / "plain.duckdb", database)]
    assert lines[0] == lines[1], "types, comments and rows"


def test_the_file_of_a_mart_does_not_grow_with_its_facts(database):
    build(database, 10)
    small = database.stat().st_size
    build(database, 300_000)
    assert facts(database) == 300_000
    assert database.stat().st_size < small + 500_000


READER = """
import sys
from pathlib import Path
from mart_helpers.session import open_published
with open_published(Path(sys.argv[1])) as mart:
    print("open", flush=True)
    input()
    print(mart.execute("select sales from totals").fetchone()[0])
"""


def test_a_reader_of_the_old_mart_finishes_on_the_files_of_its_build(database):
    build(database, 3)
    command = [sys.executable, "-c", READER, database]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as reader:
        assert reader.stdout.readline() == "open\n"
        build(database, 7, keep=0)
        assert reader.communicate("\n")[0] == "3\n"
    assert facts(database) == 7


def test_a_rollback_brings_back_the_facts_and_a_diff_compares_them(database):
    build(database, 3)
    build(database, 7)
    tables = compare_files(previous_path(database, 1), database).tables.set_index("table_name")
    assert [*tables.loc["fact_sales", ["rows_before", "rows_after", "added"]]] == [3, 7, 4]
    assert rollback(database) == 1
    assert facts(database) == 3
    assert rollback(database, 2) == 2
    assert facts(database) == 7


def test_a_kept_mart_whose_facts_are_damaged_is_not_taken_back(database):
    build(database, 3)
    [old] = builds_in(lake_of(database))
    build(database, 7)
    published = database.read_bytes()
    file = old / "fact_sales" / "0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StateError):
        rollback(database)
    shutil.rmtree(old)
    with pytest.raises(StateError, match=r"mart.duckdb.previous-1 cannot be read without its facts"):
        rollback(database)
    assert database.read_bytes() == published


def test_the_next_build_removes_the_facts_of_marts_that_are_no_longer_kept(database):
    for rows in (1, 2, 3):
        build(database, rows, keep=1)
    kept = builds_in(lake_of(database))
    assert [each.name.split("_")[1] for each in kept] == ["1", "2", "3"], "for readers of build 1"
    create_candidate(database).close()
    assert builds_in(lake_of(database)) == kept[1:]
    build(database, 4, keep=0)
    create_candidate(database).close()
    assert [each.name.split("_")[1] for each in builds_in(lake_of(database))] == ["4"]


def test_nothing_is_removed_beside_a_damaged_mart(database):
    build(database, 1, keep=1)
    build(database, 2, keep=1)
    database.write_bytes(b"no mart at all")
    rollback(database)
    build(database, 3, keep=0)
    create_candidate(database).close()
    assert len(builds_in(lake_of(database))) == 3


KILLED = """
import os, sys
from pathlib import Path
from conftest import publish_checked
from test_lake import FACT
from mart_helpers import mart
from mart_helpers.lake import lake_of
mart.sync = lambda path: os.kill(os.getpid(), 9)
session = mart.create_candidate(Path(sys.argv[1]), lake=lake_of(Path(sys.argv[1])))
session.connection.execute(FACT.format(rows=5))
publish_checked(session)
"""


def test_what_a_killed_build_has_left_is_removed_by_the_next(database):
    build(database, 3)
    folders = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, database], env=os.environ | {"PYTHONPATH": folders}
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(builds_in(lake_of(database))) == 2
    assert facts(database) == 3
    create_candidate(database).close()
    assert len(builds_in(lake_of(database))) == 1
    assert facts(database) == 3


def test_a_mart_may_be_moved_with_its_lake_and_says_what_is_missing_without_it(database, tmp_path):
    build(database, 3, lake=tmp_path / "far" / "lake")
    assert lake_of(database).readlink() == tmp_path / "far" / "lake"
    laptop = tmp_path / "laptop" / "sales [1].duckdb"
    laptop.parent.mkdir()
    shutil.copy(database, laptop)
    with (
        closing(Session(open_published(laptop), laptop, {})) as session,
        pytest.raises(QueryError, match="Put its lake next to it, as a folder or a link"),
    ):
        session.execute("from totals")
    shutil.copytree(lake_of(database), lake_of(laptop))
    shutil.rmtree(tmp_path / "far")
    assert facts(laptop) == 3


def test_a_reader_reaches_no_files_but_those_of_the_lake_beside_the_mart(database, tmp_path):
    build(database, 3)
    lake_of(database).rename(tmp_path / "elsewhere.lake")
    with duckdb.connect(str(database)) as connection:
        ((name,),) = connection.execute(
            "select regexp_extract(sql, 'build_\\w+') from duckdb_views() where view_name = 'fact_sales'"
        ).fetchall()
        connection.execute(
            "create or replace view fact_sales as from read_parquet("
            f"if(true, '{tmp_path}/elsewhere.lake', getvariable('{name}')) || '/{name}/*/*.parquet')"
        )
    with (
        closing(Session(open_published(database), database, {})) as session,
        pytest.raises(QueryError, match="can use only files below the folders"),
    ):
        session.execute("from fact_sales")


def test_a_lake_belongs_to_one_mart(database, tmp_path):
    build(database, 3, lake=tmp_path / "lake")
    with pytest.raises(UsageError, match="holds the facts of another mart"):
        create_candidate(tmp_path / "other.duckdb", lake=tmp_path / "lake")
    with pytest.raises(UsageError, match=r"facts of .* are in .*lake. Name that folder"):
        create_candidate(database, lake=tmp_path / "another")
    build(database, 4, lake=tmp_path / "lake")
    assert facts(database) == 4


def test_a_fact_that_a_view_asks_for_more_than_its_rows_is_not_published(database):
    build(database, 3)
    published = database.read_bytes()
    with closing(create_candidate(database, lake=lake_of(database))) as session:
        session.connection.execute(FACT.format(rows=4))
        session.connection.execute("create view places as select rowid as place from fact_sales")
        with pytest.raises(StateError, match="places uses something of a fact that"):
            publish_checked(session)
    assert database.read_bytes() == published
    assert facts(database) == 3


@pytest.mark.parametrize(
    "value", ["170141183460469231731687303715884105727::hugeint", "interval 1 microsecond"]
)
def test_a_value_that_parquet_does_not_hold_is_not_published_as_another(database, value):
    with closing(create_candidate(database, lake=lake_of(database))) as session:
        session.connection.execute(f"create table fact_sums as select {value} as one")
        with pytest.raises(StateError, match="fact_sums cannot be kept as Parquet files"):
            publish_checked(session)
    assert not database.exists()


def test_reset_removes_the_facts_and_the_link_but_nothing_else(database, tmp_path):
    build(database, 3, lake=tmp_path / "lake")
    (tmp_path / "lake" / "notes.txt").write_text("mine")
    for path in generated(database, tmp_path / "data"):
        remove(path)
    assert not os.path.lexists(lake_of(database))
    assert [path.name for path in (tmp_path / "lake").iterdir()] == ["notes.txt"]
    build(database, 3)
    for path in generated(database, tmp_path / "data"):
        remove(path)
    assert not lake_of(database).exists()


def test_the_notebooks_give_the_same_results_with_a_lake(home, sample_mart, tmp_path):
    assert mart_command("build", "--lake", tmp_path / "lake", cwd=home).returncode == 0
    database = home / "data" / "mini_data_mart.duckdb"
    [folder] = builds_in(tmp_path / "lake")
    assert "fact_sales" in [path.name for path in folder.iterdir()]
    differences = compare_files(sample_mart, database).tables[["added", "removed", "changed"]]
    assert not differences.any(axis=None)
    one, other = (
        run_checks(Session(open_published(path), path, {})) for path in (sample_mart, database)
    )
    assert one.equals(other)
    traced, expected = (
        [line for line in trace(path, "fact_sales", "S000322", home / "inputs").splitlines()]
        for path in (database, sample_mart)
    )
    assert traced[2] != expected[2], "the path of the mart"
    assert traced[3:] == expected[3:]
    sales = query(database, "select count(*) from fact_sales")
    assert sales == query(sample_mart, "select count(*) from fact_sales"), "other clients, too"
