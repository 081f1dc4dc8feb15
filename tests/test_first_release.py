"""A mart of the first release, with the one kept beside it, is built over and read.

`marts/first_release.tar.xz` has build 2 of the sample as published, and build 1 as kept, both written by
the first release with DuckDB 2.0.0.
"""

import tarfile
from pathlib import Path

import pytest
from conftest import CHECKOUT, mart_command, query

from mart_helpers.kept import kept_builds, previous_path

LOG = """
select build_id, stage, duckdb_version, rows_read, rows_loaded, rows_quarantined, revenue_loaded, seconds
from build_log
order by build_id
"""
INPUTS = "select build_id, file, sha256, rows_loaded from build_inputs order by all"


@pytest.fixture
def database(home: Path) -> Path:
    (home / "data").mkdir()
    with tarfile.open(CHECKOUT / "tests" / "marts" / "first_release.tar.xz") as archive:
        archive.extractall(home / "data", filter="data")
    return (home / "data" / "mart.duckdb").rename(home / "data" / "mini_data_mart.duckdb")


def test_it_is_built_over_with_its_history_and_taken_back(home: Path, database: Path):
    kept = database.with_name("mart.duckdb.previous-1").rename(previous_path(database, 1))
    log, inputs, first = query(database, LOG), query(database, INPUTS), database.read_bytes()
    built = mart_command("build", "--allow-restated", cwd=home)  # the sample is another one since
    assert built.returncode == 0, built.stderr
    *before, this = query(database, LOG)
    assert before == log
    assert [row[0] for row in log] == [1, 2]
    assert this[:2] == (3, 3)
    assert query(database, INPUTS)[: len(inputs)] == inputs
    assert kept_builds(database) == [2, 1]
    assert previous_path(database, 2).read_bytes() == first
    for command in (["explore"], ["quality"], ["diff"], ["rollback"]):
        done = mart_command(*command, cwd=home)
        assert done.returncode == 0, (command, done.stderr)
    assert database.read_bytes() == first
    assert kept.exists()
    for reader in ("explore", "quality"):
        done = mart_command(reader, cwd=home)
        assert done.returncode == 1
        assert "If an older 01_build made this mart, build it again" in done.stderr
