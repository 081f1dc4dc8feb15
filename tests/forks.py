"""Processes forked from one that has imported everything, so that each begins its work at once."""

import os
import subprocess
import sys
from multiprocessing import forkserver, get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
FORKS = get_context("forkserver")
_HELPERS = (CHECKOUT / "mart_helpers").glob("[a-z]*.py")
_LIBRARIES = ("conftest", "papermill.execute", "ipykernel.zmqshell", "matplotlib.pyplot", "sql.magic")
FORKS.set_forkserver_preload(
    [*_LIBRARIES, *(f"mart_helpers.{path.stem}" for path in _HELPERS if path.stem != "app")]
)
STREAMS = ("stdout", "stderr")


def start_server() -> None:
    """Start the process that FORKS forks from; it finds by PYTHONPATH what it is to import."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")]))
        forkserver.ensure_running()


def mart_command(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """What `python -m mart ARGUMENTS` prints, as text, and its exit status."""
    start_server()
    words = list(map(str, arguments))
    with TemporaryDirectory() as name:
        said = [Path(name, stream) for stream in STREAMS]
        process = FORKS.Process(target=_run, args=[words, cwd or Path.cwd(), dict(os.environ), said])
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, 300)
        texts = [path.read_text(encoding="utf-8") for path in said]
    return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _run(words: list[str], cwd: Path, environment: dict[str, str], said: list[Path]) -> None:
    """Be the process of that command."""
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mart", *words]
    import mart

    mart.run("python -m mart")
