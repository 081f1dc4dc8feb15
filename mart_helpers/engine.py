"""A papermill engine that runs the cells of a notebook in a process forked from this one.

A Jupyter kernel takes a second to start and then imports everything again. The forked process already
has the imports. It uses the shell of a Jupyter kernel and sends Jupyter's messages, but through a pipe,
so neither cells nor papermill notice the difference. If the system cannot fork safely, papermill's own
engine runs instead. `papermill --engine mart` finds this engine by its entry point.
"""

import gc
import json
import os
import platform
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, reload
from io import TextIOWrapper
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from tempfile import TemporaryFile
from threading import RLock, Thread

from jupyter_client.session import Session
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NBClientEngine, NotebookExecutionManager
from papermill.iorw import write_ipynb

from mart_helpers.parameters import is_run, tags

CAN_FORK = sys.platform == "linux"

# What notebooks need besides the helpers that their cells import. None of these open our files.
_IMPORTED_BY_ALL = (
    "ipykernel.zmqshell",
    "pandas",
    "sql.magic",
    "mart_helpers.mart",
)

# JupySQL imports these for `%sqlplot` and for Spark's own frames, which takes as long as all else.
_HIDDEN = ("matplotlib.pyplot", "pyspark")

_HELPERS = re.compile(r"^(?:from|import) +(mart_helpers\.\w+)", re.MULTILINE)

_OPTIONS = ("log_output", "stdout_file", "stderr_file", "on_cell_start")


class MartEngine(Engine):
    """Runs each notebook in its own forked process, which ends with the notebook."""

    @classmethod
    def execute_notebook(
        cls, nb: NotebookNode, kernel_name: str, output_path: str | None = None, **options: object
    ) -> NotebookNode:
        """The executed notebook, which papermill then writes; after an interrupt this method writes it.

        It is written once rather than after each cell, since each write validates the whole notebook.
        """
        try:
            return super().execute_notebook(nb, kernel_name, output_path=None, **options)
        except BaseException:
            write_ipynb(nb, output_path)
            raise

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, **options: object
    ) -> None:
        """Run the cells, and call `on_cell_start` (a hook of nbclient) before each."""
        if not CAN_FORK or options.get("execution_timeout"):
            NBClientEngine.execute_managed_notebook(nb_man, kernel_name, **options)
            return
        given = {name: options[name] for name in _OPTIONS if options.get(name)}
        _Client(nb_man, record_timing=False, **given).execute()


class _Client(PapermillNotebookClient):
    """papermill's notebook client, with a forked process in place of a kernel."""

    def execute(self) -> NotebookNode:
        self.nb.metadata["language_info"] = {
            "name": "python",
            "version": platform.python_version(),
            "pygments_lexer": "ipython3",
        }
        _import_for(self.nb.cells)
        with _forked() as (self._pipe, self._process):
            self.papermill_execute_cells()
        return self.nb

    def execute_cell(self, cell: NotebookNode, cell_index: int) -> NotebookNode:
        """Run the cell and store its outputs in it. Raises CellExecutionError if it fails."""
        if self.on_cell_start:
            self.on_cell_start(cell=cell, cell_index=cell_index)
        if not is_run(cell):
            return cell
        self.clear_before_next_output = False
        try:
            has_failed = self._run(cell, cell_index)
            may_fail = "raises-exception" in tags(cell)
        except (EOFError, ConnectionError):
            self._process.join()
            end, has_failed, may_fail = _end(self._process.exitcode), True, False
            cell.outputs.append(new_output("error", **end))
        if has_failed and not may_fail:
            raise CellExecutionError.from_cell_and_msg(cell, {})
        return cell

    def _run(self, cell: NotebookNode, cell_index: int) -> bool:
        """Run the cell; True if it fails. Raises EOFError or ConnectionError if the process ends."""
        self._pipe.send(cell.source)
        while True:
            message = json.loads(self._pipe.recv_bytes().decode(errors="replace"))
            if message["msg_type"] == "execute_reply":
                return message["content"]["status"] == "error"
            self.process_message(message, cell, cell_index)

    def output(self, outs: list, msg: dict, display_id: str | None, cell_index: int) -> NotebookNode:
        """The output that the message adds; consecutive texts of one stream become one output."""
        last, content = outs[-1] if outs else {}, msg["content"]
        if last.get("name") == content.get("name", "") and not self.clear_before_next_output:
            last["text"] += content["text"]
            return last
        return super().output(outs, msg, display_id, cell_index)


def _end(exitcode: int) -> dict[str, object]:
    """The error of the cell during which the process ended."""
    reason = f"by signal {-exitcode}" if exitcode < 0 else f"with status {exitcode}"
    if exitcode == -signal.SIGKILL:
        reason += "; the system kills processes that way if memory runs out"
    text = f"the process that runs the cells ended {reason}"
    return {"ename": "DeadKernelError", "evalue": text, "traceback": [f"DeadKernelError: {text}"]}


def _import_for(cells: list[NotebookNode]) -> None:
    """Import what the cells need, so that this process and those forked from it have it.

    If an import fails here, the cell that needs it reports the error.
    """
    helpers = [name for cell in cells if is_run(cell) for name in _HELPERS.findall(cell.source)]
    hidden = [name for name in _HIDDEN if sys.modules.setdefault(name, None) is None]
    for name in (*_IMPORTED_BY_ALL, *helpers):
        with suppress(Exception):
            import_module(name)
    for name in hidden:
        del sys.modules[name]


@contextmanager
def _forked() -> Iterator[tuple[Connection, BaseProcess]]:
    """The pipe to a process that runs cells, and the process; it ends with the block or with us."""
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=[theirs])
    try:
        # block interrupts until the new process is ready to ignore them
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with warnings.catch_warnings():  # about threads; those of numpy and DuckDB survive a fork
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield ours, process
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(pipe: Connection) -> None:
    """Run the cells that come through the pipe; answer each with messages, its error last."""
    gc.freeze()  # the imports contain no garbage, so never scan them again
    signal.signal(signal.SIGINT, lambda *_: None)  # the parent gets it too, and ends this process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Thread(target=_end_with_parent, daemon=True).start()
    from ipykernel.compiler import XCachingCompiler
    from ipykernel.zmqshell import ZMQInteractiveShell
    from traitlets.config import Config

    session = _Messages(pipe)
    sys.stdout, sys.stderr = streams = _Stream(1, "stdout", session), _Stream(2, "stderr", session)
    # a shell without its application reads neither profiles nor the user's start-up files
    config = Config({"HistoryManager": {"enabled": False}})
    shell = ZMQInteractiveShell.instance(config=config, compiler_class=XCachingCompiler)
    shell.displayhook.session = shell.display_pub.session = session
    shell.enable_gui = lambda *_: None
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    if "matplotlib" in sys.modules:  # too late to prevent the import
        shell.run_line_magic("matplotlib", "inline")
    while True:
        source = pipe.recv()
        if "%sqlplot" in source:  # this time with pyplot
            reload(import_module("sql.plot"))
        session.send(None, "execute_input", {"code": source, "execution_count": shell.execution_count})
        result = shell.run_cell(source, store_history=True)
        for stream in streams:
            stream.flush()
        is_good = result.success and not shell._last_traceback  # for example an error in a `repr`
        session.send(None, "execute_reply", {"status": "ok" if is_good else "error"})


def _end_with_parent() -> None:
    wait([parent_process().sentinel])
    os._exit(1)


class _Messages(Session):
    """Sends messages through a pipe. Threads of a cell take turns; processes that it forks send none."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe, self.turn = pipe, RLock()

    def send(
        self,
        stream: None,
        msg_or_type: dict | str,
        content: dict | None = None,
        *_: object,
        **__: object,
    ) -> None:
        message = msg_or_type if isinstance(msg_or_type, dict) else self.msg(msg_or_type, content)
        with self.turn:
            if os.getpid() == self.pid:
                self._pipe.send_bytes(self.pack(message))


class _Stream(TextIOWrapper):
    """Collects what is printed or written to the file descriptor, and sends it on each `flush`."""

    def __init__(self, descriptor: int, name: str, session: _Messages) -> None:
        # in this mode each write is appended, so processes that write at the same time lose nothing
        file = TemporaryFile("a+b", buffering=0)  # noqa: SIM115 (open as long as the stream)
        super().__init__(file, "utf-8", "backslashreplace", write_through=True)
        os.dup2(file.fileno(), descriptor)
        self._name, self._session, self._sent = name, session, 0

    def flush(self) -> None:
        """Send what was written since the last flush."""
        super().flush()
        with self._session.turn:
            if os.getpid() == self._session.pid:
                written = os.pread(
                    self.fileno(), os.fstat(self.fileno()).st_size - self._sent, self._sent
                )
                self._sent += len(written)
                if written:
                    content = {"name": self._name, "text": written.decode(errors="replace")}
                    self._session.send(None, "stream", content)
