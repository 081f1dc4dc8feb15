"""Runs a notebook from start to end, and keeps what was executed."""

import re
import shutil
from collections import ChainMap
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mart_helpers.errors import MartError, StateError
from mart_helpers.executed import ExecutedNotebook, tags
from mart_helpers.kernel import Kernel, KernelStopped, started
from mart_helpers.parameters import (
    notebook_cells,
    notebook_parameters,
    notebook_path,
    read_notebook,
    shown,
)
from mart_helpers.plain_sql import is_plain
from mart_helpers.session import Session

RUN_FOLDER = re.compile(r"\d{8}T\d{6}Z-[a-z]+(-\d+)?")

KEPT_RUNS = 20

_HELPERS = re.compile(r"^(?:from|import) +(mart_helpers\.\w+)", re.MULTILINE)

HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)


class NotebookFailed(MartError):
    """A cell raised; the text is the error's own, or names the notebook, the cell and the error."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Progress(NamedTuple):
    """Where a run is: code cell `cell` of `cells`, counted from 1, below `heading`."""

    notebook: str
    cell: int
    cells: int
    heading: str


def run_notebook(
    name: str,
    values: dict[str, object],
    folder: Path,
    on_cell: Callable[[Progress], None] = lambda progress: None,
    next_name: str | None = None,
    on_end: Callable[[Kernel], None] | None = None,
) -> Path:
    """Path of the executed copy of `notebooks/<name>.ipynb`, written into `folder`.

    `values` replace parameters of the notebook, `on_cell` is called as each code cell starts. The
    copy is there after a failure too. While it runs, what the notebook `next_name` needs is imported.
    `on_end` is called with the kernel in which all cells have run. Raises NotebookFailed with one
    message when a cell fails.
    """
    executed = folder.absolute() / f"{name}.ipynb"
    notebook = ExecutedNotebook(read_notebook(notebook_path(name)), values)
    upcoming = read_notebook(notebook_path(next_name))["cells"] if next_name else []
    needed, needed_next = _helpers(notebook.cells), _helpers(upcoming)
    try:
        with started(not is_plain(notebook.code), needed, needed_next) as kernel:
            _run_cells(name, notebook, kernel, on_cell, executed)
            if on_end:
                on_end(kernel)
    finally:
        _save(notebook, executed)
    return executed


def new_run_folder(runs_dir: Path, command: str) -> Path:
    """A new folder `<UTC timestamp>-<command>` in `runs_dir`; only the latest 20 of them stay.

    Raises StateError where `runs_dir` cannot be written.
    """
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{command}"
    try:
        folder = _made(runs_dir, name)
    except OSError as error:
        raise StateError(
            f"{shown(runs_dir)}: {error.strerror}. "
            "Executed notebooks go there: make it writable, or give another --data-dir."
        ) from error
    for old in run_folders(runs_dir)[:-KEPT_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def run_folders(runs_dir: Path) -> list[Path]:
    """Folders in `runs_dir` that runs have made, oldest first; other things are not listed."""
    if not runs_dir.is_dir():
        return []
    ours = (each for each in runs_dir.iterdir() if RUN_FOLDER.fullmatch(each.name))
    return sorted(each for each in ours if each.is_dir() and not each.is_symlink())


def _helpers(cells: list[dict]) -> list[str]:
    """The modules of this package that the cells import."""
    code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return [module for source in code for module in _HELPERS.findall(source)]


def _run_cells(
    name: str,
    notebook: ExecutedNotebook,
    kernel: Kernel,
    on_cell: Callable[[Progress], None],
    executed: Path,
) -> None:
    at = Progress(name, 0, sum(map(_is_run, notebook.cells)), "")
    for cell in notebook.cells:
        if cell["cell_type"] == "markdown":
            at = at._replace(heading=(HEADING.findall(cell["source"]) or [at.heading])[-1])
        if not _is_run(cell):
            continue
        at = at._replace(cell=at.cell + 1)
        on_cell(at)
        try:
            done = notebook.run(cell, kernel)
        except KernelStopped as error:
            stopped = {"ename": "the kernel stopped", "evalue": str(error)}
            raise _failure(at, stopped, executed) from error
        if "ename" in done and "raises-exception" not in tags(cell):
            raise _failure(at, done, executed)


def _is_run(cell: dict) -> bool:
    """Whether the cell is executed; Jupyter's own tools know the tag as well."""
    is_code = cell["cell_type"] == "code" and bool(cell["source"].strip())
    return is_code and "skip-execution" not in tags(cell)


def _failure(at: Progress, failure: dict, executed: Path) -> NotebookFailed:
    if failure.get("exit_status") is not None:
        return NotebookFailed(failure["evalue"], failure["exit_status"])
    heading = f" ({at.heading})" if at.heading else ""
    return NotebookFailed(
        f"{at.notebook}, cell {at.cell}{heading}: {failure['ename']}: {failure['evalue']}\n"
        f"What was executed is in {shown(executed)}"
    )


def _save(notebook: ExecutedNotebook, executed: Path) -> None:
    try:
        notebook.save(executed)
    except OSError as error:
        raise StateError(f"{shown(executed)} cannot be written: {error.strerror}.") from error


def _made(runs_dir: Path, name: str) -> Path:
    """A folder that was not there before: two runs may start within one second."""
    folder, number = runs_dir / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not runs_dir.is_dir():
                raise
        number += 1
        folder = runs_dir / f"{name}-{number}"


_MAGIC = "%%sql"


def answer_questions(mart: Session, notebook: str, tables: str = "", **values: object) -> list[str]:
    """Run the `%%sql` cells of `notebooks/<notebook>.ipynb` in this session; the names of its answers.

    A cell that names its rows, `%%sql monthly_revenue =<<`, gives a temporary table of that name, if it
    is among `tables`, names with commas between them, or if those are empty. Views and variables that
    other cells make are there afterwards as well; what they only show is not asked for. `values` stand
    for parameters of that notebook, whose other parameters are as its parameters cell says. Raises
    UsageError for a notebook that cannot be read, QueryError where a statement fails.
    """
    path = notebook_path(notebook)
    defaults = {each.name: each.default for each in notebook_parameters(path)}
    asked = Session(mart.connection, mart.database, ChainMap(values, defaults))
    wanted = {name.strip().lower() for name in tables.split(",")} if tables else None
    names = []
    for cell in notebook_cells(path):
        head, _, sql = "".join(cell["source"]).partition("\n")
        if cell["cell_type"] != "code" or not head.startswith(_MAGIC):
            continue
        name = head.removeprefix(_MAGIC).strip(" =<")
        if not name:
            asked.execute(sql, shows=False)
            continue
        names.append(name)
        if wanted is None or name.lower() in wanted:
            asked.execute(f"create or replace temp table {name} as {sql}")
    return names
