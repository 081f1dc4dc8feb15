from pathlib import Path

import pytest
from conftest import mart_command, publish_checked, query

from mart_helpers.errors import StateError, UsageError
from mart_helpers.mart import (
    create_candidate,
    earlier_mart,
    kept_builds,
    previous_path,
    rollback,
)


def build(database: Path, keep: int = 2) -> None:
    """Publish a mart that holds nothing but its books."""
    session = create_candidate(database)
    publish_checked(session, keep)
    session.close()


def published(database: Path) -> int:
    return query(database, "select max(build_id) from build_log")[0][0]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "mart.duckdb"
    for _ in range(4):
        build(path)
    return path


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
    assert rollback(database) == published(database) == 3
    assert kept_builds(database) == [4, 2]
    assert rollback(database) == published(database) == 2
    assert kept_builds(database) == [4, 3]
    with pytest.raises(StateError, match="Kept, and newer, is build 4, 3: give its number"):
        rollback(database)
    assert rollback(database, 4) == published(database) == 4
    assert kept_builds(database) == [3, 2]


def test_a_rollback_publishes_the_very_bytes_that_were_published(database):
    before = previous_path(database, 3).read_bytes()
    rollback(database)
    assert database.read_bytes() == before


def test_a_build_that_is_not_kept_cannot_be_taken_back(database):
    present = database.read_bytes()
    for number in (1, 99):
        with pytest.raises(UsageError, match=f"found build {number}, expected one of those kept: 3, 2"):
            rollback(database, number)
    with pytest.raises(UsageError, match="build 4 is the one that is published"):
        rollback(database, 4)
    assert database.read_bytes() == present


def test_without_a_kept_mart_there_is_nothing_to_go_back_to(tmp_path):
    with pytest.raises(StateError, match=r"There is no mart at .*, and none is kept"):
        rollback(tmp_path / "mart.duckdb")
    build(tmp_path / "mart.duckdb")
    with pytest.raises(StateError, match="no earlier mart is kept"):
        rollback(tmp_path / "mart.duckdb")


def test_a_damaged_mart_can_be_left_for_a_kept_one(database):
    database.write_bytes(b"no mart at all")
    assert rollback(database) == published(database) == 3


def test_an_earlier_mart_is_named_by_its_build_its_file_or_not_at_all(database, tmp_path):
    assert earlier_mart(database) == previous_path(database, 3)
    assert earlier_mart(database, "2") == previous_path(database, 2)
    assert earlier_mart(database, str(tmp_path / "other.duckdb")) == tmp_path / "other.duckdb"
    with pytest.raises(UsageError, match="expected one of those kept: 3, 2"):
        earlier_mart(database, "9")


def test_builds_after_a_rollback_take_numbers_that_no_mart_has(home):
    for _ in range(3):
        assert mart_command("build", "--stage", "1", cwd=home).returncode == 0
    result = mart_command("rollback", cwd=home)
    assert result.stdout == "data/mini_data_mart.duckdb is build 2 again. Kept beside it: build 3, 1.\n"
    words = ("build", "--stage", "1", "--keep-previous", "3")
    assert mart_command(*words, cwd=home).returncode == 0
    database = home / "data" / "mini_data_mart.duckdb"
    log = query(database, "select build_id from build_log order by build_id")
    assert log == [(1,), (2,), (4,)]
    assert kept_builds(database) == [3, 2, 1]
