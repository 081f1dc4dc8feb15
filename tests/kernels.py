"""A notebook's cells in a real kernel that the test keeps open, as a person at JupyterLab does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import CHECKOUT, code_cells
from golden import without_ports
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager


@dataclass(frozen=True)
class Ran:
    """What one cell, or the last of several, gave: its text, and the error's class, message, lines."""

    text: str
    ename: str = ""
    evalue: str = ""
    shown: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return bool(self.ename)


class Kernel:
    """A kernel, and the ways to run cells in it."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.connect()

    def connect(self) -> None:
        """Talk to the kernel that runs now, when it is ready."""
        self._client: BlockingKernelClient = self.manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=120)

    def disconnect(self) -> None:
        self._client.stop_channels()

    def run(self, source: str, timeout: int = 120) -> Ran:
        """Run one cell: all text that it shows (streams, values and errors), in order."""
        outputs: list[dict] = []
        reply = self._client.execute_interactive(source, output_hook=outputs.append, timeout=timeout)
        text = "".join(_text(each["msg_type"], each["content"]) for each in outputs)
        if reply["content"]["status"] == "ok":
            return Ran(text)
        shown = [each["content"]["traceback"] for each in outputs if each["msg_type"] == "error"]
        return Ran(text, reply["content"]["ename"], reply["content"]["evalue"], tuple(*shown[-1:]))

    def restart(self) -> None:
        """Kill the kernel and start another in its place, as *Restart Kernel* does."""
        self.disconnect()
        self.manager.restart_kernel(now=True)
        self.connect()

    def run_all(self, notebook: str, **values: object) -> Ran:
        """Run a notebook's code cells in order to the first error, `values` behind its parameters."""
        parameters, *steps = code_cells(notebook)
        return self.run_cells(
            [parameters, *(f"{name} = {value!r}" for name, value in values.items()), *steps]
        )

    def run_cells(self, sources: list[str]) -> Ran:
        """Run cells in order to the first error; the text is that of all."""
        text = ""
        for source in sources:
            ran = self.run(source)
            text += ran.text
            if ran.failed:
                return Ran(text, ran.ename, ran.evalue, ran.shown)
        return Ran(text)


@contextmanager
def started(home: Path, folder: str = "") -> Iterator[Kernel]:
    """A kernel of this interpreter in a `folder` of the project's `home`; it ends with the block."""
    environment = os.environ | {
        "MART_HOME": str(home),
        "PYTHONPATH": str(CHECKOUT),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    with TemporaryDirectory() as sockets:
        manager = without_ports(KernelManager, Path(sockets))
        manager.start_kernel(cwd=str(home / folder), env=environment)
        try:
            kernel = Kernel(manager)
            yield kernel
            kernel.disconnect()
        finally:
            manager.shutdown_kernel(now=True)


def _text(kind: str, content: dict) -> str:
    match kind:
        case "stream":
            return content["text"]
        case "execute_result" | "display_data":
            return content["data"].get("text/plain", "") + "\n"
        case "error":
            return f"{content['ename']}: {content['evalue']}\n"
    return ""
