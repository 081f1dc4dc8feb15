import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from conftest import mart_command, publish_checked, query
from forks import FORKS, start_server

from mart_helpers import files
from mart_helpers.checks import run_checks
from mart_helpers.derived import derive_checks
from mart_helpers.diff import compare_files, described
from mart_helpers.errors import QueryError, StateError, UsageError
from mart_helpers.kept import earlier_mart, kept_builds, previous_path, rollback
from mart_helpers.mart import create_candidate, publish
from mart_helpers.past import check_past
from mart_helpers.reset import generated, remove
from mart_helpers.session import confine


def build(database: Path, keep: int = 2) -> None:
    """Publish a mart that holds nothing but its books."""
    session = create_candidate(database)
    publish_checked(session, keep)
    session.close()


def published(database: Path) -> int:
    return query(database, "select max(build_id) from build_log")[0][0]


@pytest.fixture(scope="module")
def four_builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a mart was built four times; no test changes it."""
    folder = tmp_path_factory.mktemp("four")
    for _ in range(4):
        build(folder / "mart.duckdb")
    return folder


@pytest.fixture
def database(four_builds: Path, tmp_path: Path) -> Path:
    shutil.copytree(four_builds, tmp_path, dirs_exist_ok=True)
    return tmp_path / "mart.duckdb"


def test_the_newest_of_the_replaced_marts_are_kept(database):
    assert published(database) == 4
    assert kept_builds(database) == [3, 2]
    assert [published(previous_path(database, number)) for number in (3, 2)] == [3, 2]
    build(database, keep=3)
    assert kept_builds(database) == [4, 3, 2]
    build(database, keep=1)
    assert kept_builds(database) == [5]
    build(database, keep=0)
    assert kept_builds(database) == []


def test_rollback_goes_back_one_build_at_a_time_and_keeps_what_it_replaces(database):
    before = previous_path(database, 3).read_bytes()
    assert rollback(database) == published(database) == 3
    assert database.read_bytes() == before
    assert kept_builds(database) == [4, 2]
    assert rollback(database) == published(database) == 2
    assert kept_builds(database) == [4, 3]
    with pytest.raises(StateError, match=r"Newer ones are kept: 4, 3\. Give the number of one"):
        rollback(database)
    assert rollback(database, 4) == published(database) == 4
    assert kept_builds(database) == [3, 2]


def test_a_build_that_is_not_kept_cannot_be_taken_back(database):
    present = database.read_bytes()
    for number in (1, 99):
        with pytest.raises(UsageError, match=f"found build {number}, expected a kept one: 3, 2"):
            rollback(database, number)
    with pytest.raises(UsageError, match="build 4 is already published"):
        rollback(database, 4)
    assert database.read_bytes() == present


def test_without_a_kept_mart_there_is_nothing_to_go_back_to(tmp_path):
    with pytest.raises(StateError, match=r"There is no mart at .*, and none is kept"):
        rollback(tmp_path / "mart.duckdb")
    build(tmp_path / "mart.duckdb")
    with pytest.raises(StateError, match="No earlier mart is kept"):
        rollback(tmp_path / "mart.duckdb")


def test_an_earlier_mart_is_named_by_its_build_its_file_or_not_at_all(database, tmp_path):
    assert earlier_mart(database) == previous_path(database, 3)
    assert earlier_mart(database, "2") == previous_path(database, 2)
    assert earlier_mart(database, str(tmp_path / "other.duckdb")) == tmp_path / "other.duckdb"
    with pytest.raises(UsageError, match="expected a kept one: 3, 2"):
        earlier_mart(database, "9")


def test_builds_after_a_rollback_take_numbers_that_no_mart_has(database):
    result = mart_command("rollback", "--database", database)
    assert result.stdout == f"{database} is build 3 again. Kept beside it: build 4, 2.\n"
    build(database, keep=3)
    log = query(database, "select build_id from build_log order by build_id")
    assert log == [(1,), (2,), (3,), (5,)]
    assert kept_builds(database) == [4, 3, 2]


# What is there is never destroyed


def leave_log(database: Path) -> None:
    """Let a program that has the mart open to write be killed: its changes are left in `<mart>.wal`."""
    script = (
        "import duckdb, os, sys; mart = duckdb.connect(sys.argv[1]); "
        "mart.execute('create table scratch as select 7 as n'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, database], check=False)
    assert database.with_name(f"{database.name}.wal").exists()


def test_a_build_over_a_mart_with_a_left_log_is_whole_and_keeps_the_log_with_its_mart(database):
    leave_log(database)
    build(database)
    assert published(database) == 5
    assert not database.with_name(f"{database.name}.wal").exists()
    assert query(previous_path(database, 4), "select n from scratch") == [(7,)]
    rollback(database)
    assert published(database) == 4
    assert query(database, "select n from scratch") == [(7,)]
    assert published(previous_path(database, 5)) == 5
    rollback(database, 3)
    assert query(previous_path(database, 4), "select n from scratch") == [(7,)]
    build(database, keep=0)
    assert {path.name for path in database.parent.iterdir()} == {database.name, f"{database.name}.lock"}


def test_a_rollback_leaves_the_log_of_a_killed_program_with_its_mart(database):
    leave_log(database)
    assert rollback(database) == published(database) == 3
    assert query(previous_path(database, 4), "select n from scratch") == [(7,)]


def test_reset_removes_what_a_build_keeps_and_sets_aside(database, tmp_path):
    leave_log(database)
    build(database)
    leave_log(database)
    database.write_bytes(b"damaged")
    rollback(database)
    for path in generated(database, tmp_path / "data"):
        remove(path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_mart_is_set_aside_and_not_lost(database):
    database.write_bytes(b"no mart at all")
    assert rollback(database) == published(database) == 3
    assert database.with_name("mart.duckdb.damaged-1").read_bytes() == b"no mart at all"
    database.write_bytes(b"nor this")
    rollback(database, 2)
    assert database.with_name("mart.duckdb.damaged-2").read_bytes() == b"nor this"


def take_back_as_nobody(database: Path) -> str:
    os.setuid(65534)
    try:
        return f"taken back: {rollback(database)}"
    except StateError as error:
        return str(error)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root becomes nobody")
def test_a_mart_that_may_not_be_read_is_not_taken_for_damaged():
    with TemporaryDirectory() as name:
        database = Path(name) / "mart.duckdb"
        build(database)
        build(database)
        database.parent.chmod(0o777)
        database.with_name("mart.duckdb.lock").chmod(0o666)
        database.chmod(0o600)
        marts = [database, previous_path(database, 1)]
        before = [mart.read_bytes() for mart in marts]
        start_server()
        with ProcessPoolExecutor(1, FORKS) as pool:
            said = pool.submit(take_back_as_nobody, database).result()
        assert "cannot be opened now" in said
        assert "Permission denied" in said
        assert "rollback" not in said
        assert [mart.read_bytes() for mart in marts] == before


def test_a_mart_that_is_open_elsewhere_is_not_taken_for_damaged(database):
    script = "import duckdb, sys; mart = duckdb.connect(sys.argv[1]); print(); sys.stdin.read()"
    command = [sys.executable, "-c", script, database]
    before = sorted(path.name for path in database.parent.iterdir())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(StateError, match="is open for writing in another program") as refused:
            rollback(database)
        writer.stdin.close()
    assert "rollback" not in str(refused.value)
    assert sorted(path.name for path in database.parent.iterdir()) == before
    assert published(database) == 4


def publish_as_nobody_where_no_folder_opens(database: Path) -> str:
    os.setuid(65534)
    session = create_candidate(database)
    derive_checks(session)
    results = run_checks(session)
    database.parent.chmod(0o300)
    try:
        publish(session, results)
    except StateError as error:
        return str(error)
    finally:
        session.close()
    return "published"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root becomes nobody")
def test_a_folder_that_cannot_be_synchronised_does_not_unsay_what_is_published():
    with TemporaryDirectory() as name:
        database = Path(name) / "mart.duckdb"
        os.chown(name, 65534, 65534)
        start_server()
        with ProcessPoolExecutor(1, FORKS) as pool:
            said = pool.submit(publish_as_nobody_where_no_folder_opens, database).result()
        assert "is replaced as it should be" in said
        assert "cannot be synchronised" in said
        assert published(database) == 1


def test_a_drive_that_knows_no_full_synchronisation_gets_the_usual_one(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(files, "F_FULLFSYNC", 9999)
    monkeypatch.setattr(files, "fcntl", fcntl.fcntl, raising=False)
    files.sync(tmp_path)


def test_a_folder_that_bears_the_name_of_a_kept_mart_is_in_nobodys_way(database):
    database.with_name("mart.duckdb.previous-9").mkdir()
    assert kept_builds(database) == [3, 2]
    assert rollback(database) == 3
    build(database)
    assert published(database) == 5


def test_names_that_sql_would_have_to_quote_are_in_nobodys_way(tmp_path):
    database = tmp_path / "mart.duckdb"
    for _ in range(2):
        session = create_candidate(database)
        session.execute("""
            create schema "of 2024";
            create table "of 2024"."Sales; drop table build_log; --" as select 1 as "a b";
            create table "dim_Sales by month" ("Sales by month_key" integer, "a "" b" integer)
        """)
        session.execute("""insert into "dim_Sales by month" values (1, 2)""")
        derive_checks(session)
        check_past(session, allow_restated=False)
        publish_checked(session)
        session.close()
    assert "dim_Sales by month" in described(earlier_mart(database), database)
    assert rollback(database) == published(database) == 1


def test_a_strangers_mart_reaches_no_files(database, tmp_path):
    (tmp_path / "secret.csv").write_text("word\nsesame\n")
    view = f"create view fact_secrets as from read_csv('{tmp_path}/secret.csv')"
    with duckdb.connect(str(database)) as connection:
        connection.execute(view)
    with pytest.raises(QueryError, match="file system operations are disabled"):
        compare_files(earlier_mart(database), database)
    session = create_candidate(database)
    confine(session.connection, [])  # as open_candidate does
    with pytest.raises(QueryError, match="file system operations are disabled"):
        check_past(session, allow_restated=False)
    session.close()
