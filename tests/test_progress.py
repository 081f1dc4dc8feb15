"""How a run is followed: on one line of a terminal, and as lines of a log."""

import os
import pty
import re
import sys

import pytest

from mart_helpers.outcome import reported
from mart_helpers.run import Progress

CELLS = [
    Progress("02_explore", 1, 3, ""),
    Progress("02_explore", 2, 3, "Sales"),
    Progress("02_explore", 3, 3, "Sales"),
]


def follow(*, verbose: bool = False, fails: bool = False) -> None:
    with reported("02_explore", verbose) as on_cell:
        for cell in CELLS:
            on_cell(cell)
        if fails:
            raise ValueError("bad")


def without_seconds(text: str) -> list[str]:
    return re.sub(r"\d+\.\d+ s", "N s", text).splitlines()


def test_a_log_has_a_line_a_step_with_time_notebook_heading_and_seconds(capsys):
    follow()
    lines = without_seconds(capsys.readouterr().err)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  02_explore  ", line) for line in lines)
    steps = [line.split("  ", 1)[1] for line in lines]
    assert steps == ["02_explore  N s", "02_explore  Sales  N s", "02_explore  done in N s"]


def test_a_verbose_log_has_a_line_a_cell(capsys):
    follow(verbose=True)
    steps = [line.split("  ", 1)[1] for line in without_seconds(capsys.readouterr().err)]
    assert steps == [
        "02_explore  1/3  N s",
        "02_explore  2/3  Sales  N s",
        "02_explore  3/3  Sales  N s",
        "02_explore  done in N s",
    ]


def test_a_run_that_fails_says_in_which_step_it_stopped(capsys):
    with pytest.raises(ValueError, match="bad"):
        follow(fails=True)
    steps = [line.split("  ", 1)[1] for line in without_seconds(capsys.readouterr().err)]
    assert steps[1:] == ["02_explore  Sales  N s", "02_explore  stopped after N s"]


def test_a_terminal_sees_one_line_that_follows_the_cells(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        follow()
        seen = ""
        while not seen.endswith(" s\r\n"):  # a terminal gives what has come by now
            seen += os.read(ours, 4096).decode()
    os.close(ours)
    assert without_seconds(seen.replace("\r\x1b[2K", "\n").replace("\r\n", "\n")) == [
        "",
        "02_explore  starting",
        "02_explore  1/3  ",
        "02_explore  2/3  Sales",
        "02_explore  3/3  Sales",
        "02_explore  done in N s",
    ]
