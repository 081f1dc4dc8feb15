"""`--notify` hands a summary of the run to a command, and lets nothing that comes of it matter."""

import json
import os
import time
from pathlib import Path
from shutil import copytree

import pytest
from conftest import query

from mart_helpers import outcome
from mart_helpers.cli import main
from mart_helpers.outcome import hand_on

KEEP = "cat > summary.json"


@pytest.fixture(scope="module")
def ran(shared_home: Path, all_home: Path) -> Path:
    """A home in which `all` has run; its summary is in `summary.json`."""
    return copytree(all_home, shared_home, dirs_exist_ok=True)


@pytest.fixture
def summary_of(ran, monkeypatch):
    """Runs a command in that home: its exit status, and the summary that it hands on."""
    monkeypatch.chdir(ran)

    def run(*words: str) -> tuple[int, dict]:
        status = main([*words, "--notify", "cat > next.json"])
        return status, json.loads((ran / "next.json").read_text())

    return run


def test_the_summary_says_what_ran_what_was_found_and_where_it_is(ran):
    summary = json.loads((ran / "summary.json").read_text())
    report = json.loads((ran / "data/quality/quality_report.json").read_text())
    assert (summary["format_version"], summary["command"], summary["exit_status"]) == (1, "all", 0)
    names = ["01_build", "04_quality", "02_explore", "03_export", "05_dashboard"]
    assert [each["notebook"] for each in summary["notebooks"]] == names
    assert {each["result"] for each in summary["notebooks"]} == {"done"}
    assert summary["seconds"] >= sum(each["seconds"] for each in summary["notebooks"])
    assert summary["verdict"] == report["status"]
    assert summary["checks"]["counts"] == report["counts"]
    build = "select build_id, rows_loaded, rows_quarantined from build_log"
    ((number, loaded, aside),) = query(Path(summary["database"]), build)
    told = summary["build"]
    assert (told["build_id"], told["rows_loaded"], told["rows_quarantined"]) == (number, loaded, aside)
    assert [Path(page).name for page in summary["pages"]] == ["dashboard.html"]
    places = [summary[name] for name in ("database", "executed", "quality")]
    for path in places + summary["exports"] + summary["pages"]:
        assert Path(path).is_absolute()
        assert Path(path).exists()
    assert len(summary["exports"]) == 2
    assert f"{loaded:,} loaded" in " ".join(summary["lines"])


def test_the_changes_are_those_that_the_build_shows(ran, summary_of):
    first = json.loads((ran / "summary.json").read_text())
    facts = {each["table_name"]: each for each in first["changes"]}["fact_sales"]
    ((rows,),) = query(Path(first["database"]), "select count(*) from fact_sales")
    assert (facts["rows_before"], facts["rows_after"], facts["added"]) == (0, rows, rows)
    assert first["is_changed"]
    status, again = summary_of("build")
    assert (status, again["is_changed"]) == (0, False)
    assert all(each["added"] == each["removed"] == each["changed"] == 0 for each in again["changes"])
    assert again["verdict"] in ("pass", "warn")
    assert again["checks"] is again["quality"] is None, "04_quality did not run"
    assert again["headline"].startswith("rows: ")


def test_a_failure_is_told_and_nothing_of_an_earlier_run_is_taken_for_its_own(summary_of, capfd):
    status, summary = summary_of("all", "--inputs-dir", "nowhere")
    assert status == summary["exit_status"] == 1
    results = [each["result"] for each in summary["notebooks"]]
    assert results == ["stopped", "not run", "not run", "not run", "not run"]
    assert summary["verdict"] == "fail"
    assert summary["headline"] == summary["error"].splitlines()[0]
    assert "there is no such folder" in summary["error"]
    assert f"mart: {summary['error']}\n" in capfd.readouterr().err
    gone = ("build", "changes", "is_changed", "checks", "quality")
    assert [summary[name] for name in gone] == [None] * 5
    assert summary["pages"] == summary["exports"] == summary["lines"] == []


def test_checks_that_stop_a_run_are_named(summary_of):
    status, summary = summary_of("quality", "--as-of-date", "2040-01-01", "--fail-on", "warn")
    assert (status, summary["verdict"]) == (1, "fail")
    assert "last_sale_is_recent" in [each["check_name"] for each in summary["checks"]["failures"]]


def test_a_command_that_fails_is_told_and_changes_no_exit_status(ran, monkeypatch, capfd):
    monkeypatch.chdir(ran)
    notify = ["--notify", "echo heard; exit 7"]
    assert main(["quality", *notify]) == 0
    said = capfd.readouterr()
    assert said.err.endswith("heard\nmart: --notify: `echo heard; exit 7` ended with status 7\n")
    assert "heard" not in said.out
    assert main(["build", "--inputs-dir", "nowhere", *notify]) == 1
    assert "ended with status 7\n" in capfd.readouterr().err


def test_a_command_that_hangs_is_ended_with_all_that_it_has_started(tmp_path, monkeypatch):
    monkeypatch.setattr(outcome, "NOTIFY_SECONDS", 5)
    children = tmp_path / "children"
    hangs = f"sleep 600 & echo $! > {children}; cat > /dev/null; wait"
    assert hand_on(hangs, {"lines": ["x" * 1_000_000]}) == "did not end in 5 seconds, and was stopped"
    until = time.monotonic() + 60
    while Path(f"/proc/{children.read_text().strip()}/exe").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_command_need_not_read_nor_exist(capfd):
    large = {"lines": ["x" * 1_000_000]}
    assert hand_on("true", large) == ""
    assert hand_on("kill -9 $$", large) == "ended with status -9"
    assert hand_on("no-such-command-here", large) == "ended with status 127"


def test_a_summary_that_cannot_be_made_is_told_and_changes_no_exit_status(ran, monkeypatch, capfd):
    monkeypatch.chdir(ran)
    broken = "rm -rf data/runs/*"
    monkeypatch.setattr(outcome.Outcome, "lines", lambda self: os.system(broken) or "")
    assert main(["quality", "--notify", KEEP]) == 0
    assert f"mart: --notify: `{KEEP}` was not called: " in capfd.readouterr().err
