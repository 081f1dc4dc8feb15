import json
import os
import sys
import time
from pathlib import Path

import pytest

from mart_helpers.errors import StateError
from mart_helpers.run import (
    KEPT_RUNS,
    NotebookFailed,
    Progress,
    new_run_folder,
    run_folders,
    run_notebook,
)

PARAMETERS = 'stage: int = 3  # one of 1, 2, 3: rows\nname: str = ""  # any text'


def write_notebook(path: Path, *cells: str) -> None:
    """Write a notebook: cells that start with `#` and a blank are prose, the first code cell is
    the parameters cell, and those that end in `# summary` have that tag."""
    code = [cell for cell in cells if not cell.startswith("# ")]
    entries = [
        {"cell_type": "code", "execution_count": None, "outputs": []}
        if cell in code
        else {"cell_type": "markdown"}
        for cell in cells
    ]
    for entry, cell in zip(entries, cells, strict=True):
        tags = {"tags": ["parameters"]} if code and cell is code[0] else {}
        tags |= {"tags": ["summary"]} if cell.endswith("# summary") else {}
        entry |= {"source": cell, "metadata": tags}
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": entries, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
    path.write_text(json.dumps(notebook), encoding="utf-8")


def output_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(text for output in outputs for text in output.get("text", []))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project of its own; braces and a dollar in its path, which libraries take as templates."""
    folder = tmp_path / "a {mart} for $HOME"
    folder.mkdir()
    monkeypatch.setenv("MART_HOME", str(folder))
    return folder


def test_a_run_passes_the_values_reports_each_cell_and_keeps_what_was_executed(home, monkeypatch):
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("MART_HOME", home.name)
    write_notebook(
        home / "notebooks" / "01_build.ipynb",
        "# Build the mart",
        PARAMETERS,
        "# Prose\n\n## Load the sales ##\n\nmore prose",
        "import os, sys\nprint(stage, name, os.getcwd(), sys.executable, os.environ['MART_HOME'])",
        " ",
        "import mart_helpers",
    )
    seen = []
    folder = new_run_folder(home / "data" / "runs", "build")
    executed = run_notebook("01_build", {"stage": 2, "name": 'a "b" {c}'}, folder, seen.append)
    assert executed == folder / "01_build.ipynb"
    assert output_of(executed).strip() == f'2 a "b" {{c}} {home} {sys.executable} {home}'
    assert seen == [
        Progress("01_build", 1, 4, "Build the mart"),
        Progress("01_build", 2, 4, "Build the mart"),
        Progress("01_build", 3, 4, "Load the sales"),
        Progress("01_build", 4, 4, "Load the sales"),
    ]


def test_a_failing_cell_gives_one_message_and_the_executed_notebook(home, subtests):
    for cell, message, status in [
        ("from mart_helpers.errors import CheckFailed\nraise CheckFailed('2 bad rows\\nof 7')",
            "2 bad rows\nof 7", 1),
        ("from mart_helpers.errors import UsageError\nraise UsageError('no such day')", "no such day",
            2),
        ("from mart_helpers.errors import QueryError\nraise QueryError('no such table')",
            "01_build, cell 2 (Load): QueryError: no such table\nThe executed copy is data/runs/", 1),
        ("1 / 0", "01_build, cell 2 (Load): ZeroDivisionError: division by zero", 1),
        ("%%nosuchmagic\nx", "01_build, cell 2 (Load): UsageError: Cell magic `%%nosuchmagic`", 1),
        ("import os; os._exit(7)", "01_build, cell 2 (Load): DeadKernelError: the process that", 1),
        ("import os; os.kill(os.getpid(), 9)", "01_build, cell 2 (Load): DeadKernelError: the", 1),
    ]:  # fmt: skip
        with subtests.test(message):
            write_notebook(
                home / "notebooks" / "01_build.ipynb", PARAMETERS, "# Load", cell, "never = 1"
            )
            folder = new_run_folder(home / "data" / "runs", "build")
            with pytest.raises(NotebookFailed) as failure:
                run_notebook("01_build", {}, folder)
            text = str(failure.value)
            assert text.startswith(message)
            assert failure.value.exit_status == status
            assert "Traceback" not in text
            executed = folder / "01_build.ipynb"
            assert executed.exists()
            has_place = message.startswith("01_build, cell 2")
            assert has_place == (text != message)
            assert has_place == (f"The executed copy is data/runs/{folder.name}/01_build.ipynb" in text)


def test_the_latest_runs_stay_and_other_folders_are_left_alone(tmp_path):
    runs = tmp_path / "runs"
    mine = runs / "20200101T000000Z-my-notes"
    mine.mkdir(parents=True)
    old = [runs / f"20200101T0000{second:02}Z-build" for second in range(30)]
    for folder in old:
        folder.mkdir()
        (folder / "01_build.ipynb").write_text("{}")
        os.utime(folder, (0, 0))
    new = new_run_folder(runs, "all")
    assert run_folders(runs) == [*old[-KEPT_RUNS + 1 :], new]
    assert mine.exists()


def test_no_run_sweeps_its_own_folder_after_a_clock_was_set_back_nor_that_of_a_long_one(tmp_path):
    later = [tmp_path / f"20990101T0000{second:02}Z-build" for second in range(30)]
    for folder in later:
        folder.mkdir()
        os.utime(folder, (4_000_000_000, 4_000_000_000))
    own = new_run_folder(tmp_path, "all")
    assert own.exists(), "it is the first by its name"
    for _ in range(2 * KEPT_RUNS):
        new_run_folder(tmp_path, "explore")
    assert own.exists(), "it is still at work"


def test_two_runs_within_one_second_get_a_folder_each(tmp_path):
    folders = {new_run_folder(tmp_path, "build") for _ in range(5)}
    assert len(folders) == 5
    assert set(run_folders(tmp_path)) == folders


def test_runs_that_cannot_be_kept_are_refused(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StateError, match="--data-dir"):
        new_run_folder(tmp_path / "data" / "runs", "build")


def test_no_kernel_is_left_behind(home):
    write_notebook(home / "notebooks" / "n.ipynb", PARAMETERS, "import os\nprint(os.getpid())\n1 / 0")
    folder = new_run_folder(home / "runs", "build")
    with pytest.raises(NotebookFailed):
        run_notebook("n", {}, folder)
    assert is_gone(int(output_of(folder / "n.ipynb").split()[0]))


def is_gone(pid: int, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
