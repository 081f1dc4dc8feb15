"""A kernel without sockets: a process that executes cells by the IPython of a Jupyter kernel.

A Jupyter kernel takes a second to start, and imports everything anew. This one is forked from a process
that has imported it already, and sends what cells show through a pipe, in Jupyter's own messages; the
cells cannot tell the difference. Where forking is not safe, the process is started afresh.
"""

import gc
import json
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread

START_METHOD = "fork" if sys.platform == "linux" else "spawn"

DONE = "done"

# What every notebook needs. None of it starts a thread of ours or opens a file, so that a process can
# fork afterwards.
_IMPORTED_ONCE = (
    "mart_helpers.mart",
    "mart_helpers.shell",
    # what others of these import at the first use
    "IPython.core.completer",
    "IPython.core.completerlib",
)

_JUPYSQL = "sql.magic"

Message = tuple[str, dict]


class KernelStopped(Exception):
    """The kernel's process has ended in the middle of a cell; the text says how."""


class Kernel:
    """Executes cells, one after the other, in the process at the other end of the pipe."""

    def __init__(self, pipe: Connection, process: BaseProcess) -> None:
        self._pipe = pipe
        self._process = process

    def run(self, source: str) -> Iterator[Message]:
        """The messages of one cell as they come: the type of each, and its content. The last is DONE.

        DONE tells the `execution_count`; of a cell that failed also `ename`, `evalue` and `exit_status`,
        which is None where the error is none of ours. Raises KernelStopped.
        """
        kind = None
        try:
            self._pipe.send(source)
            while kind != DONE:
                # a number that JSON has not becomes a text, as in Jupyter
                kind, content = json.loads(self._pipe.recv_bytes(), parse_constant=str.lower)
                yield kind, content
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise KernelStopped(_end(self._process.exitcode)) from error

    def printed(self, source: str) -> list[str]:
        """The lines that the source prints; none where it fails, or the kernel stops."""
        try:
            *messages, (_, done) = self.run(source)
        except KernelStopped:
            return []
        texts = [content["text"] for kind, content in messages if kind == "stream"]
        return [] if "ename" in done else "".join(texts).splitlines()


@contextmanager
def started(
    with_jupysql: bool, modules: Sequence[str] = (), meanwhile: Sequence[str] = ()
) -> Iterator[Kernel]:
    """A new kernel in the project's home. It ends with the block, or when this process does.

    Without JupySQL, its `%%sql` runs the statements of a cell, and understands no options. It has
    imported `modules`; `meanwhile` those are imported here that the kernel after it will need.
    """
    context = get_context(START_METHOD)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=[theirs, with_jupysql])
    forks = START_METHOD == "fork"
    with _uninterrupted():
        if forks:
            _import_once([*_IMPORTED_ONCE, *modules, *([_JUPYSQL] if with_jupysql else [])])
        with warnings.catch_warnings():
            # of numpy's threads, which are prepared for it
            warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
            process.start()
    theirs.close()
    importing = Thread(target=_import_once, args=[meanwhile if forks else ()])
    importing.start()
    try:
        yield Kernel(ours, process)
    finally:
        process.kill()
        process.join()
        ours.close()
        importing.join()  # a process must not fork in the middle of it


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an interrupt wait for the end of the block: amid an import it would leave half a module."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _import_once(modules: Sequence[str]) -> None:
    """Import what takes long, once for all kernels that are forked from here.

    There is hardly any garbage among modules. To look for it costs a fifth of the time of importing
    them, and as much again when the process ends. What cannot be imported is left to the cell that asks
    for it.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        for module in modules:
            with suppress(Exception):
                import_module(module)
        gc.freeze()
    finally:
        if collects:
            gc.enable()


def _serve(pipe: Connection, with_jupysql: bool) -> None:
    """What the new process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends us
    from mart_helpers.shell import serve

    serve(pipe, with_jupysql)


def _end(exitcode: int) -> str:
    if exitcode == -9:
        return "it was killed, as the system does when memory runs out"
    return f"it ended by signal {-exitcode}" if exitcode < 0 else f"it ended with status {exitcode}"
