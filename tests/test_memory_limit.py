"""How much memory a build takes, and that the disk takes the rest."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SALES_HEADER, code_cells, mart_command, query
from kernels import started

from mart_helpers.errors import QueryError
from mart_helpers.loading import Loader
from mart_helpers.mart import create_candidate

SALES = 250_000
SORTED = (
    "create table staging.sorted as "
    "select md5(range::varchar) as hash from range(1_000_000) order by hash"
)


def built(inputs: Path, database: Path, limit: str) -> bool:
    """Whether the build of `database` used the disk for what did not fit in memory."""
    options = ("--inputs-dir", inputs, "--database", database, "--data-dir", database.parent)
    command = [sys.executable, "-m", "mart", "build", *options, "--memory-limit", limit]
    beside = database.with_name(f"{database.name}.candidate.tmp")
    build = subprocess.Popen(command, stderr=subprocess.PIPE)
    spilt = False
    while build.poll() is None:
        spilt = spilt or any(beside.glob("*.tmp"))
        time.sleep(0.01)
    assert build.returncode == 0, build.stderr.read()
    return spilt


def test_a_build_with_little_memory_uses_the_disk_and_makes_the_same_mart(home, tmp_path):
    assert mart_command("generate", "--sales", SALES, "--out", tmp_path / "in").returncode == 0
    marts = {limit: tmp_path / limit / "mart.duckdb" for limit in ("50MB", "70%")}
    spilt = {limit: built(tmp_path / "in", database, limit) for limit, database in marts.items()}
    assert spilt == {"50MB": True, "70%": False}
    contents = [query(database, "from fact_sales order by sale_id") for database in marts.values()]
    assert contents[0] == contents[1]
    for database in marts.values():
        assert sorted(path.name for path in database.parent.iterdir()) == [
            "mart.duckdb",
            "mart.duckdb.lock",
            "runs",
        ]


def test_what_a_session_has_put_on_the_disk_ends_with_it(tmp_path):
    session = create_candidate(tmp_path / "mart.duckdb", memory_limit="50MB")
    session.execute(SORTED)
    beside = tmp_path / "mart.duckdb.candidate.tmp"
    assert any(beside.iterdir())
    session.close()
    assert not beside.exists()


def test_what_fits_nowhere_is_refused_with_a_way_out(tmp_path):
    session = create_candidate(tmp_path / "mart.duckdb", memory_limit="50MB")
    session.execute("set max_temp_directory_size = '1MB'")
    with pytest.raises(QueryError, match="Give a build more with memory_limit") as refusal:
        session.execute(SORTED)
    assert "Possible solutions" not in str(refusal.value)
    session.close()


def test_a_file_is_not_blamed_for_a_lack_of_memory(tmp_path, candidate):
    rows = [f"S{number},2024-01-01,C1,P1,1,2.00,0,{'x' * 400_000}" for number in range(180)]
    (tmp_path / "fact_sales.csv").write_text("\n".join([f"{SALES_HEADER},note", *rows]))
    candidate.execute("set memory_limit = '20MB'")
    with pytest.raises(QueryError, match="Give a build more with memory_limit"):
        Loader(candidate, tmp_path, 1).load("fact_sales", from_seed=False)


def test_the_limit_of_the_parameters_cell_holds_for_the_build(home):
    parameters, set_up, *_ = code_cells("01_build")
    asked = "mart.execute(\"select current_setting('memory_limit') as memory\").memory[0]"
    with started(home) as kernel:
        ran = kernel.run_cells([parameters, "memory_limit = '100MB'", set_up, asked])
    assert ran.text.strip() == "'95.3 MiB'"
