"""What runs in the process of a kernel: IPython's shell, and the way of what it shows to the parent."""

import codecs
import gc
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from tempfile import mkstemp
from threading import RLock, Thread

from ipykernel.compiler import XCachingCompiler
from ipykernel.zmqshell import ZMQInteractiveShell
from jupyter_client.session import Session
from traitlets.config import Config

from mart_helpers.errors import MartError
from mart_helpers.kernel import DONE
from mart_helpers.plain_sql import PlainSql
from mart_helpers.project import home

_INLINE_PICTURES = "module://matplotlib_inline.backend_inline"


def serve(pipe: Connection, with_jupysql: bool) -> None:
    """Execute the cells that come through the pipe, for as long as the parent lives.

    Without JupySQL, `%%sql` is that of `plain_sql`.
    """
    gc.freeze()  # there is no garbage in what was imported: never look there again
    Thread(target=_end_with_parent, daemon=True).start()
    _settle()
    wire = _Wire(pipe)
    sys.stdout, sys.stderr = streams = _Stream(1, "stdout", wire), _Stream(2, "stderr", wire)
    # the shell alone reads no profile and no start-up files of a user
    config = Config({"HistoryManager": {"enabled": False}})
    shell = ZMQInteractiveShell.instance(config=config, compiler_class=XCachingCompiler)
    shell.display_pub.session = shell.displayhook.session = wire
    if not with_jupysql:
        shell.register_magics(PlainSql)
    while True:
        result = shell.run_cell(pipe.recv(), store_history=True)
        for stream in streams:
            stream.flush()
        error = result.error_before_exec or result.error_in_exec
        shown = wire.taken_error()
        failure = _described(error) if error else shown
        wire.send(None, DONE, {"execution_count": shell.execution_count - 1, **failure})


def _end_with_parent() -> None:
    wait([parent_process().sentinel])
    os._exit(1)


def _settle() -> None:
    """Be where a notebook expects to be, and find what it expects to find."""
    os.environ["MART_HOME"] = str(home().absolute())
    os.chdir(home())
    sys.path.insert(0, "")
    backend = os.environ.setdefault("MPLBACKEND", _INLINE_PICTURES)
    if matplotlib := sys.modules.get("matplotlib"):  # which was imported before it could read that
        matplotlib.rcParams["backend"] = backend


def _described(error: BaseException) -> dict[str, object]:
    ours = error.exit_status if isinstance(error, MartError) else None
    return {"ename": type(error).__name__, "evalue": str(error), "exit_status": ours}


class _Wire(Session):
    """What the shell takes for its connection to front ends.

    A cell may start threads, which take turns by `turn`, and fork: such processes only write to streams.
    """

    def __init__(self, pipe: Connection) -> None:
        super().__init__(key=b"")
        self.turn = RLock()
        self.process = os.getpid()
        self._pipe = pipe
        self._error: dict[str, object] = {}

    def send(
        self, stream: object, message: dict | str, content: object = None, *_: object, **__: object
    ) -> None:
        """Send a message, given as a whole or as its type and content; there is one stream only."""
        if not isinstance(message, str):
            message, content = message["header"]["msg_type"], message["content"]
        if message == "error":
            self._error = {"ename": content["ename"], "evalue": content["evalue"], "exit_status": None}
        if os.getpid() == self.process:
            with self.turn:
                self._pipe.send_bytes(self.pack([message, content]))

    def taken_error(self) -> dict[str, object]:
        """The error that was shown since, which need not be raised: that of a `repr`, for one."""
        taken, self._error = self._error, {}
        return taken


class _Stream(TextIOWrapper):
    """What is printed, and what is written to the descriptor by other code; sent on each `flush`."""

    def __init__(self, descriptor: int, name: str, wire: _Wire) -> None:
        own, path = mkstemp()
        target = open(path, "ab", buffering=0)  # noqa: SIM115
        super().__init__(target, "utf-8", "backslashreplace", write_through=True)
        os.dup2(self.fileno(), descriptor)
        self._written = open(own, "rb", buffering=0)  # noqa: SIM115
        with suppress(PermissionError):  # Windows keeps it
            os.unlink(path)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._name, self._wire = name, wire

    def flush(self) -> None:
        """Send what was written since the last time."""
        super().flush()
        if os.getpid() != self._wire.process:
            return  # what was written here is sent with the rest
        with self._wire.turn:
            if text := self._decoder.decode(self._written.read()):
                self._wire.send(None, "stream", {"name": self._name, "text": text})
