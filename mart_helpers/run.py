"""Runs notebooks with papermill and our own engine, and keeps the executed copies."""

import os
import re
import shutil
import sys
from collections import ChainMap
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mart_helpers import errors
from mart_helpers.errors import MartError, QueryError, StateError
from mart_helpers.parameters import (
    home,
    is_run,
    notebook_cells,
    notebook_parameters,
    notebook_path,
    shown,
    tags,
)
from mart_helpers.session import Session

if TYPE_CHECKING:
    from papermill.exceptions import PapermillExecutionError

RUN_FOLDER = re.compile(r"\d{8}T\d{6}Z-[a-z]+(-\d+)?")

KEPT_RUNS = 20

MAY_RUN_STILL = 24 * 60 * 60  # seconds since the folder of a run was last written to

HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)


class NotebookFailed(MartError):
    """A cell failed; the text is its MartError, or names notebook, cell, heading and executed copy."""

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
) -> Path:
    """Run `notebooks/<name>.ipynb`, and return the path of the executed copy in `folder`.

    `values` replace parameters of the notebook; `on_cell` is called as each code cell starts. The copy
    is written after a failure or an interrupt, too. Raises NotebookFailed with one message if a cell
    fails, StateError if the notebook cannot be read or the copy cannot be written.
    """
    # JupyterLab installs markup formats that take a second to load and that nothing here needs.
    for unneeded in ("isoduration", "rfc3986_validator", "rfc3987_syntax"):
        sys.modules.setdefault(unneeded, None)
    # Imported here, since this takes a second and most commands run no notebooks. The engine comes last,
    # because papermill imports it too.
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import execute_notebook

    from mart_helpers.engine import MartEngine

    papermill_engines.register("mart", MartEngine)
    source, executed = notebook_path(name), folder.absolute() / f"{name}.ipynb"
    cells = sum(map(is_run, notebook_cells(source))) + bool(values)
    watch = _Watch(Progress(name, 0, cells, ""), on_cell)
    # absolute, since cells run elsewhere
    os.environ |= {"MART_HOME": str(home().absolute()), "MART_EXECUTED": str(executed)}
    try:
        execute_notebook(
            _literal(source),
            _literal(executed),
            values,
            engine_name="mart",
            progress_bar=False,
            cwd=home(),
            on_cell_start=watch,
        )
    except PapermillExecutionError as error:
        raise watch.failure(error, executed) from error
    except DeadKernelError as error:  # papermill's own engine
        raise _failed(watch.at, str(error), executed) from error
    except OSError as error:
        raise StateError(f"{shown(executed)} cannot be written: {error.strerror or error}.") from error
    return executed


def summary_of(executed: Path) -> list[str]:
    """The lines that the cells tagged `summary` show in an executed notebook.

    For a table, the lines are its rows without the header.
    """
    cells = [cell for cell in notebook_cells(executed) if "summary" in tags(cell)]
    return [line for cell in cells for output in cell.get("outputs", []) for line in _lines(output)]


def table_of(executed: Path, tag: str) -> list[dict[str, str]]:
    """The rows (texts by column) of the first table that the cell tagged `tag` shows.

    Empty if the executed notebook has no such cell, or if the cell shows no table.
    """
    from bs4 import BeautifulSoup

    cells = [cell for cell in notebook_cells(executed) if tag in tags(cell)]
    shown = [output.get("data", {}).get("text/html", "") for c in cells for output in c["outputs"]]
    table = BeautifulSoup("".join(chain(*shown)), "html.parser").table
    rows = [[each.get_text() for each in row(["th", "td"])] for row in table("tr")] if table else [[]]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def _lines(output: dict) -> list[str]:
    data = output.get("data", {})
    lines = "".join(output.get("text") or data.get("text/plain", "")).splitlines()
    is_table = 'class="dataframe"' in "".join(data.get("text/html", ""))
    return [line.strip() for line in lines[1:]] if is_table else lines


def new_run_folder(runs_dir: Path, command: str) -> Path:
    """A new folder `<UTC timestamp>-<command>` in `runs_dir`.

    Of the older folders it keeps the latest 20 and those of the last day, which may still be in use.

    Raises StateError if `runs_dir` cannot be written.
    """
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{command}"
    try:
        folder = _made(runs_dir, name)
    except OSError as error:
        raise StateError(
            f"{shown(runs_dir)}: {error.strerror}. "
            "Executed notebooks are written there. Make it writable, or give another --data-dir."
        ) from error
    now = folder.stat().st_mtime
    for old in run_folders(runs_dir)[:-KEPT_RUNS]:
        with suppress(OSError):  # another run has removed it
            if now - old.stat().st_mtime > MAY_RUN_STILL:
                shutil.rmtree(old, ignore_errors=True)
    return folder


def run_folders(runs_dir: Path) -> list[Path]:
    """The folders that runs made in `runs_dir`, oldest first; nothing else is listed."""
    if not runs_dir.is_dir():
        return []
    ours = (each for each in runs_dir.iterdir() if RUN_FOLDER.fullmatch(each.name))
    return sorted(each for each in ours if each.is_dir() and not each.is_symlink())


class _Watch:
    """Follows papermill from cell to cell, so that a failure names its cell."""

    def __init__(self, at: Progress, on_cell: Callable[[Progress], None]) -> None:
        self.at, self._on_cell = at, on_cell
        self._started: dict[int, tuple[Progress, dict]] = {}

    def __call__(self, cell: dict, cell_index: int) -> None:
        if cell["cell_type"] == "markdown":
            heading = (HEADING.findall(cell["source"]) or [self.at.heading])[-1]
            self.at = self.at._replace(heading=heading)
        if is_run(cell):
            self.at = self.at._replace(cell=self.at.cell + 1)
            self._started[cell_index] = self.at, cell
            self._on_cell(self.at)

    def failure(self, error: "PapermillExecutionError", executed: Path) -> NotebookFailed:
        """The error of a cell: a MartError unchanged, any other error and QueryError with its place."""
        said = f"{error.ename}: {error.evalue}"
        ours = getattr(errors, error.ename, None)
        if ours and ours is not QueryError and error.traceback == [said]:
            return NotebookFailed(error.evalue, ours.exit_status)
        at, cell = self._started[error.cell_index]
        if not error.traceback:  # IPython only printed the error, as it does for an unknown magic
            said = "".join(
                each["text"] for each in cell["outputs"] if each.get("name") == "stderr"
            ).strip()
        return _failed(at, said, executed)


def _failed(at: Progress, said: str, executed: Path) -> NotebookFailed:
    heading = f" ({at.heading})" if at.heading else ""
    kept = f"The executed copy is {shown(executed)}"
    return NotebookFailed(f"{at.notebook}, cell {at.cell}{heading}: {said}\n{kept}")


def _literal(path: Path) -> str:
    """The path with its braces escaped, since papermill would replace names in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _made(runs_dir: Path, name: str) -> Path:
    """A new folder, even if two runs start within one second."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = runs_dir / (f"{name}-{number}" if number > 1 else name)
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


_MAGIC = "%%sql"


def answer_questions(mart: Session, notebook: str, tables: str = "", **values: object) -> list[str]:
    """Run the `%%sql` cells of `notebooks/<notebook>.ipynb` in this session; returns the tables made.

    A cell that names its result, as in `%%sql top_products =<<`, makes a temporary table of that name,
    if `tables` (names separated by commas) lists it or is empty. Views and variables of other cells are
    made as well; queries that only show rows are not run. `values` replace parameters of that notebook;
    the others keep the values of its parameters cell. Raises StateError if the notebook cannot be read,
    QueryError if a statement fails.
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
