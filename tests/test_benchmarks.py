"""The benchmarks measure what they say, and notice when two things are not comparable."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from bench import Disagreement, Result, verify
from conftest import CHECKOUT
from extracts import DAMAGE, Extracts
from measuring import CommandFailed, Run, measure
from rows import NOTEBOOKS, Bench, Row, Task

from mart_helpers.cli import ALL

MB = 1_000_000
HOLD = "held = bytearray({} * 1_000_000); print(flush=True); input()"
# Two of them at a time, for as long as it takes to look.
PAIR = """
import subprocess, sys, time
pipes = {{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}}
pair = [subprocess.Popen([sys.executable, "-c", {!r}], **pipes) for _ in "ab"]
for each in pair: each.stdout.readline()
time.sleep(2)
for each in pair: each.communicate(b"\\n")
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Extracts:
    extracts = Extracts(tmp_path_factory.mktemp("bench"), 100 * len(DAMAGE))
    extracts.make_mart()
    return extracts


@pytest.fixture(scope="module")
def damaged(clean: Extracts) -> Extracts:
    extracts = Extracts(clean.scratch, clean.sales, "damaged")
    extracts.make_mart()
    return extracts


def task(extracts: Extracts) -> Task:
    return Task([], extracts.folder, star=extracts.mart)


def measured_peak(command: list[str], seconds_between_looks: float = 0.05) -> int:
    """The peak of a command, measured by a process as small as that of `make bench`."""
    code = (
        "import measuring; from pathlib import Path; "
        f"measuring.SECONDS_BETWEEN_LOOKS = {seconds_between_looks}; "
        f"print(measuring.measure({command!r}, Path.cwd(), {{}}).peak)"
    )
    folder = CHECKOUT / "tests" / "benchmarks"
    return int(subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True).stdout)


def test_the_peak_is_that_of_all_processes_together():
    pair = PAIR.format(HOLD.format(100))
    assert 200 * MB < measured_peak([sys.executable, "-c", pair]) < 300 * MB


def test_a_peak_between_two_looks_is_known():
    once = [sys.executable, "-c", "held = bytearray(500_000_000)"]
    assert 500 * MB < measured_peak(once, seconds_between_looks=60) < 550 * MB


def test_a_command_that_fails_is_not_measured_but_quoted():
    with pytest.raises(CommandFailed, match=r"ended with 3:\nout of paper"):
        measure([sys.executable, "-c", "print('out of paper'); exit(3)"], CHECKOUT, {})


def test_every_kind_of_damage_ends_in_quarantine_with_its_line(damaged):
    assert damaged.bad_rows == len(DAMAGE)
    verify(Row("damaged", "", task(damaged), bad_rows=len(DAMAGE)))


def test_a_row_that_is_missing_from_quarantine_is_noticed(damaged):
    with pytest.raises(Disagreement, match="17 rows are bad"):
        verify(Row("damaged", "", task(damaged), bad_rows=len(DAMAGE) + 1))


def test_a_star_that_is_ours_is_accepted_and_one_with_other_revenue_is_not(clean, damaged):
    verify(Row("peer", "", task(clean), {"pandas": task(clean)}))
    with pytest.raises(Disagreement, match=r"fact_sales.*revenue"):
        verify(Row("peer", "", task(clean), {"pandas": task(damaged)}))


def test_both_ways_run_the_same_notebooks():
    assert NOTEBOOKS == ALL


def test_the_quickest_of_the_others_counts():
    others = {name: Task([], Path()) for name in ("slow", "fast")}
    row = Row("load", "", Task([], Path()), others, at_most=2)
    result = Result(row, [Run(6, MB)], {"slow": [Run(4, MB)], "fast": [Run(2, MB)]})
    assert (result.quickest, result.ratio, result.is_met) == ("fast", 3, False)


def test_the_floor_passes_over_the_bad_rows_that_do_not_fit_the_types(damaged):
    (row,) = (row for row in Bench(damaged.scratch).rows() if row.name == "build-damaged")
    counts = set()
    for other in row.others.values():
        floor, work, _, database, *how = other.command[1:]
        other.prepare()
        measure([sys.executable, floor, work, str(damaged.fact_sales), database, *how], CHECKOUT, {})
        with duckdb.connect(database, read_only=True) as connection:
            counts |= set(connection.execute("select count(*) from fact_sales").fetchall())
    ((loaded,),) = counts
    assert damaged.sales - len(DAMAGE) <= loaded < damaged.sales


def test_a_check_that_warns_every_night_is_counted_as_a_false_alarm(home: Path):
    path = home / "notebooks" / "01_build.ipynb"
    notebook = json.loads(path.read_text())
    (cell,) = (each for each in notebook["cells"] if "checks" in each["metadata"].get("tags", []))
    loud = "create view checks.loud as select 1 as x; comment on view checks.loud is 'warn: never'"
    cell["source"] = [f'mart.execute("{loud}")\n', *cell["source"]]
    path.write_text(json.dumps(notebook))
    script = CHECKOUT / "tests" / "benchmarks" / "false_alarms.py"
    command = [sys.executable, script, "--histories", "1", "--nights", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith(
        "clean nights that warn: 2 of 2 (100.00%)\n      2  loud\nclosed months"
    )
    assert "loud" not in done.stdout.partition("closed months")[2]
    assert done.returncode == 1
