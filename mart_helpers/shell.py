"""What runs in the process of a kernel: IPython's shell, and the way of what it shows to the parent.

The shell of a Jupyter kernel is IPython's with other ways out, through sockets. To import it, and the
library of sockets, takes longer than many a notebook's cells; this one's ways out lead into a pipe.
"""

import codecs
import gc
import json
import os
import struct
import sys
from base64 import b64encode
from contextlib import suppress
from datetime import date
from io import TextIOWrapper
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from tempfile import gettempdir, mkstemp
from threading import RLock, Thread

from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from mart_helpers.errors import MartError
from mart_helpers.kernel import DONE
from mart_helpers.parameters import home
from mart_helpers.plain_sql import PlainSql

_INLINE_PICTURES = "module://matplotlib_inline.backend_inline"

# What Jupyter tells programs that a cell starts: that colours are seen, and that nobody turns pages.
_ENVIRONMENT = {
    "TERM": "xterm-color",
    "CLICOLOR": "1",
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
}


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
    config = {"HistoryManager": {"enabled": False}, "IPKernelApp": {}}
    shell = ZMQInteractiveShell.instance(config=Config(config))
    shell.wire = shell.display_pub.wire = shell.displayhook.wire = wire
    if not with_jupysql:
        shell.register_magics(PlainSql)
    while True:
        result = shell.run_cell(pipe.recv(), store_history=True)
        for stream in streams:
            stream.flush()
        error = result.error_before_exec or result.error_in_exec
        shown = wire.taken_error()
        failure = _described(error) if error else shown
        wire.send(DONE, {"execution_count": shell.execution_count - 1, **failure})


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


class _Wire:
    """The way to the parent, for messages as Jupyter has them: a type and its content.

    A cell may start threads, which take turns by `turn`, and fork: such processes only write to streams.
    """

    def __init__(self, pipe: Connection) -> None:
        self.turn = RLock()
        self.process = os.getpid()
        self._pipe = pipe
        self._error: dict[str, object] = {}

    def send(self, kind: str, content: dict) -> None:
        if kind == "error":
            self._error = {"ename": content["ename"], "evalue": content["evalue"], "exit_status": None}
        if os.getpid() == self.process:
            with self.turn:
                self._pipe.send_bytes(json.dumps([kind, content], default=_in_json).encode())

    def show(self, kind: str, content: dict) -> None:
        """Send what a cell shows, behind what it has printed before."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.send(kind, content)

    def taken_error(self) -> dict[str, object]:
        """The error that was shown since, which need not be raised: that of a `repr`, for one."""
        taken, self._error = self._error, {}
        return taken


def _in_json(value: object) -> object:
    """What Jupyter makes of values that JSON does not know."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value.isoformat() if isinstance(value, date) else list(value)


class _Results(DisplayHook):
    """What the last line of a cell gives."""

    wire: _Wire

    def start_displayhook(self) -> None:
        self._content = {"data": {}, "metadata": {}}

    def write_output_prompt(self) -> None:
        self._content["execution_count"] = self.prompt_count

    def write_format_data(self, format_dict: dict, md_dict: dict | None = None) -> None:
        self._content |= {"data": format_dict, "metadata": md_dict}

    def finish_displayhook(self) -> None:
        if self._content["data"]:
            self.wire.show("execute_result", self._content)


class _Displays(DisplayPublisher):
    """What a cell displays."""

    wire: _Wire

    def publish(
        self,
        data: dict,
        metadata: dict | None = None,
        *,
        transient: dict | None = None,
        update: bool = False,
        **_: object,
    ) -> None:
        self._validate_data(data, metadata)
        content = {"data": data, "metadata": metadata or {}, "transient": transient or {}}
        self.wire.show("update_display_data" if update else "display_data", content)

    def clear_output(self, wait: bool = False) -> None:
        self.wire.show("clear_output", {"wait": wait})


class _Compiler(CachingCompiler):
    """Names the code of a cell as Jupyter does: as a file of this process, which is not there."""

    def get_code_name(self, raw_code: str, code: str, number: int) -> str:
        folder = os.path.join(gettempdir(), f"ipykernel_{os.getpid()}")
        return os.path.join(folder, f"{_murmur2(raw_code.encode())}.py")


def _murmur2(data: bytes, seed: int = 0xC70F6907) -> int:
    """MurmurHash2 of 32 bits, with the seed of Jupyter's kernel; https://github.com/aappleby/smhasher."""
    mixer, most = 0x5BD1E995, 0xFFFFFFFF
    whole = len(data) & ~3
    mixed = seed ^ len(data)
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        word = word * mixer & most
        word = (word ^ word >> 24) * mixer & most
        mixed = mixed * mixer & most ^ word
    if rest := data[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * mixer & most
    mixed = (mixed ^ mixed >> 13) * mixer & most
    return mixed ^ mixed >> 15


class ZMQInteractiveShell(InteractiveShell):
    """IPython's shell as it is in a notebook. By this name of its class programs know one."""

    compiler_class = Type(_Compiler)
    displayhook_class = Type(_Results)
    display_pub_class = Type(_Displays)
    wire: _Wire

    def init_environment(self) -> None:
        os.environ.update(_ENVIRONMENT)

    def init_virtualenv(self) -> None:
        """Nothing: this is the Python of the project."""

    def init_hooks(self) -> None:
        super().init_hooks()
        self.set_hook("show_in_pager", lambda *_, **__: None, 0)  # nobody sees a pager

    def enable_gui(self, gui: str | None = None) -> None:
        """Nothing: there are no windows."""

    def ask_exit(self) -> None:
        """Nothing: the parent ends us."""

    def set_next_input(self, s: str, replace: bool = False) -> None:
        """Nothing: the next cell is there already."""

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        error = {"traceback": stb, "ename": etype.__name__, "evalue": str(evalue)}
        self.wire.show("error", error)


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
                self._wire.send("stream", {"name": self._name, "text": text})
