"""The benchmarks measure what they say, and notice when two things are not comparable."""

import subprocess
import sys
from pathlib import Path

import pytest
from account import lines, taken
from bench import Disagreement, verify
from conftest import CHECKOUT
from making import DAMAGE, Extracts, Mart
from measuring import CommandFailed, measure
from rows import Bench, Row, Task, sample_rows

MB = 1_000_000
HOLD = "import sys, time; held = bytearray(int(sys.argv[1]) * 1_000_000); time.sleep(2)"


def holding(megabytes: int) -> list[str]:
    return [sys.executable, "-c", HOLD, str(megabytes)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def clean(scratch: Path) -> Mart:
    mart = Mart(Extracts(scratch, 100 * len(DAMAGE)))
    mart.make()
    return mart


@pytest.fixture(scope="module")
def damaged(scratch: Path) -> Mart:
    mart = Mart(Extracts(scratch, 100 * len(DAMAGE), "damaged"))
    mart.make()
    return mart


def task(mart: Mart) -> Task:
    return Task([], mart.extracts.folder, star=mart.database)


def test_pytest_collects_nothing_from_the_benchmarks():
    collecting = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/benchmarks"]
    result = subprocess.run(collecting, cwd=CHECKOUT, capture_output=True, text=True)
    assert "no tests collected" in result.stdout
    assert "error" not in result.stdout


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
    pair = (
        f"import subprocess; a, b = [subprocess.Popen({holding(100)}) for _ in 'ab']; a.wait(); b.wait()"
    )
    assert 200 * MB < measured_peak([sys.executable, "-c", pair]) < 300 * MB


def test_a_peak_between_two_looks_is_known():
    assert 1000 * MB < measured_peak(holding(1000), seconds_between_looks=60) < 1050 * MB


def test_the_time_is_that_of_the_whole_run():
    assert 2 < measure(holding(1), CHECKOUT, {}).seconds < 10


def test_a_command_that_fails_is_not_measured_but_quoted():
    with pytest.raises(CommandFailed, match=r"ended with 3:\nout of paper"):
        measure([sys.executable, "-c", "print('out of paper'); exit(3)"], CHECKOUT, {})


def test_every_kind_of_damage_ends_in_quarantine_with_its_line(damaged):
    assert damaged.extracts.bad_rows == len(DAMAGE)
    verify(Row("damaged", "", task(damaged), bad_rows=len(DAMAGE)))


def test_a_row_that_is_missing_from_quarantine_is_noticed(damaged):
    with pytest.raises(Disagreement, match="17 rows are bad"):
        verify(Row("damaged", "", task(damaged), bad_rows=len(DAMAGE) + 1))


def test_a_star_that_is_ours_is_accepted(clean):
    verify(Row("peer", "", task(clean), task(clean), is_peer=True))


def test_a_star_with_other_rows_or_revenue_is_noticed(clean, damaged):
    with pytest.raises(Disagreement, match=r"fact_sales.*revenue"):
        verify(Row("peer", "", task(clean), task(damaged), "peer", is_peer=True))


def test_the_account_of_a_run_leaves_no_time_out(scratch):
    account = taken(sample_rows(Bench(scratch, 1))[0].ours)
    spent = {name: sum(parts.values()) for name, parts in account.parts.items()}
    assert min(spent.values()) > 0
    assert sum(spent.values()) == pytest.approx(account.seconds, abs=0.01)
    assert account.parts["01_build"]["Load: good rows in, bad rows aside"] > 0
    first, *others = lines("all of it", account, longest=account.seconds)
    assert first.startswith("all of it ")
    assert first.endswith("█" * 40)
    assert "█" * 40 not in "".join(others)
