"""Runs a notebook from start to end with papermill, and keeps what was executed."""

import asyncio
import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager, KernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from traitlets import default

from mart_helpers import errors
from mart_helpers.errors import MartError, StateError
from mart_helpers.parameters import notebook_cells, notebook_path
from mart_helpers.project import home, shown

RUN_FOLDER = re.compile(r"\d{8}T\d{6}Z-[a-z]+(-\d+)?")
KEPT_RUNS = 20
_NO_HISTORY = ["--HistoryManager.hist_file=:memory:"]
_WARM_UP = [
    f"--IPKernelApp.exec_lines=__import__('{module}')"
    for module in ("mart_helpers.notebook", "mart_helpers.charts", "sql.magic")
]
HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)


class NotebookFailed(MartError):
    """A cell raised; the text is the error's own, or names the notebook, the cell and the error."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


@dataclass(frozen=True)
class Progress:
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
    """Path of the executed copy of `notebooks/<name>.ipynb`, written into `folder`.

    `values` replace parameters of the notebook, `on_cell` is called as each code cell starts. The
    copy is there after a failure too. Raises NotebookFailed with one message when a cell fails.
    """
    executed = folder.absolute() / f"{name}.ipynb"
    watch = _Watch(name, values, on_cell)
    kernel = _OwnKernel()
    try:
        kernel.begin()
        _execute(kernel, name, values, executed, watch)
    except RuntimeError as error:
        raise _failure(watch.at, "the kernel stopped", str(error), executed) from error
    except OSError as error:
        raise StateError(f"{shown(executed)} cannot be written: {error.strerror}.") from error
    finally:
        _end(kernel)
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


def _execute(
    kernel: "_OwnKernel",
    name: str,
    values: dict[str, object],
    executed: Path,
    watch: "_Watch",
) -> None:
    papermill = _papermill()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            papermill.execute_notebook(
                _literal(notebook_path(name).absolute()),
                _literal(executed),
                parameters=values,
                kernel_name="python3",
                language="python",
                km=kernel,
                cwd=home(),
                progress_bar=False,
                on_cell_start=watch,
            )
        except papermill.PapermillExecutionError as error:
            raise _failure(watch.at, error.ename, error.evalue, executed) from error


class _OwnKernel(AsyncKernelManager):
    """Starts a kernel with the running interpreter, whatever is registered as `python3`."""

    connected: KernelClient | None = None

    def __init__(self) -> None:
        super().__init__()
        self._own_spec = _kernel_spec()

    @property
    def kernel_spec(self) -> KernelSpec:
        """How the kernel is started, in place of what Jupyter's folders say."""
        return self._own_spec

    def begin(self) -> None:
        """Start the kernel, which comes up and imports what every notebook does while we go on."""
        start = run_sync(self.start_kernel)
        start(extra_arguments=[*_NO_HISTORY, *_WARM_UP], cwd=str(home()))

    def client(self, **options: object) -> KernelClient:
        """A client of this kernel, kept so that it can be closed."""
        self.connected = super().client(**options)
        return self.connected

    @default("transport_encryption")
    def _transport_encryption_default(self) -> str:
        """Encrypt what passes to and from the kernel, which else warns that nobody does."""
        return "auto" if zmq.has("curve") else "disabled"


def _kernel_spec() -> KernelSpec:
    """An ipykernel of this interpreter that finds this package and this home."""
    package = str(Path(__file__).absolute().parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "MART_HOME": str(home().absolute()),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else a warning about frozen modules
    }
    # the values are templates, in which `$$` is a dollar sign
    escaped = {name: value.replace("$", "$$") for name, value in environment.items()}
    return KernelSpec(**get_kernel_dict(), env=escaped)


@run_sync
async def _end(kernel: _OwnKernel) -> None:
    """End the kernel at once, also one that is just starting; a polite goodbye only costs time."""
    # an interrupt leaves tasks behind that would complain that the kernel is gone
    unfinished = asyncio.all_tasks() - {asyncio.current_task()}
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    if kernel.connected:
        kernel.connected.stop_channels()
    if kernel.has_kernel:
        await kernel.shutdown_kernel(now=True)


class _Watch:
    """Called by nbclient before each cell: keeps where the run is, and passes it on."""

    def __init__(
        self, name: str, values: dict[str, object], on_cell: Callable[[Progress], None]
    ) -> None:
        cells = notebook_cells(notebook_path(name))
        code = [each for each in cells if _is_run(each["cell_type"], "".join(each["source"]))]
        # papermill adds a cell that assigns the values
        self.at = Progress(name, 0, len(code) + bool(values), "")
        self.on_cell = on_cell

    def __call__(self, cell: dict, cell_index: int) -> None:
        if cell["cell_type"] == "markdown":
            headings = HEADING.findall(cell["source"])
            self.at = replace(self.at, heading=headings[-1]) if headings else self.at
        elif _is_run(cell["cell_type"], cell["source"]):
            self.at = replace(self.at, cell=self.at.cell + 1)
            self.on_cell(self.at)


def _is_run(cell_type: str, source: str) -> bool:
    return cell_type == "code" and bool(source.strip())


def _papermill() -> ModuleType:
    """The papermill module, without a grammar that jsonschema compiles for 2 s and no one needs."""
    grammar = "rfc3987_syntax"
    hidden = grammar not in sys.modules
    if hidden:
        sys.modules[grammar] = None
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    if hidden:
        del sys.modules[grammar]
    return papermill


def _literal(path: Path) -> str:
    """`path` for papermill, which takes braces in a path as a template."""
    return str(path).replace("{", "{{").replace("}", "}}")


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


def _failure(at: Progress, ename: str, evalue: str, executed: Path) -> NotebookFailed:
    ours = getattr(errors, ename, None)
    if isinstance(ours, type) and issubclass(ours, MartError):
        return NotebookFailed(evalue, ours.exit_status)
    heading = f" ({at.heading})" if at.heading else ""
    said = evalue or _last_stderr(executed)
    return NotebookFailed(
        f"{at.notebook}, cell {at.cell}{heading}: {ename}: {said}\n"
        f"What was executed is in {shown(executed)}"
    )


def _last_stderr(executed: Path) -> str:
    """What the failing cell wrote to stderr: IPython prints some errors instead of raising them."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = ["".join(each["text"]) for each in outputs if each.get("name") == "stderr"]
    return texts[-1].strip() if texts else ""
