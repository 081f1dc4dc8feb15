"""Clusters to test with: each server is a child process that ends with the tests."""

import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from forks import CHECKOUT

# far from UTC, which Spark's times are in
os.environ["TZ"] = "America/New_York"
time.tzset()

PATIENCE = (
    900  # seconds for a command or the start of a server, on a machine that does other things, too
)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def documented(start: str, **ports: int) -> list[str]:
    """The words of the command in docs/cluster.md that begins so, with other ports."""
    text = (CHECKOUT / "docs" / "cluster.md").read_text("utf-8").replace("\\\n", "")
    words = next(line for line in text.splitlines() if line.startswith(start))
    for usual, port in ports.items():
        words = words.replace(usual.removeprefix("p"), str(port))
    return shlex.split(words)


@contextmanager
def child(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen]:
    """A server that answers at `port`; it is killed after the block, or with this process."""
    places = {"SPARK_LOCAL_DIRS": str(log.parent), "SPARK_WORKER_DIR": str(log.parent / "work")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (
        log.open("w") as said,
        subprocess.Popen(
            command,
            env=os.environ | places | {"PATH": path, "PYSPARK_PYTHON": sys.executable},
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,
        ) as process,
    ):
        try:
            for _ in range(5 * PATIENCE):
                with socket.socket() as client:
                    if process.poll() is None and client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.2)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="session")
def sail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Sail server, started as docs/cluster.md says."""
    port, log = free_port(), tmp_path_factory.mktemp("sail") / "log"
    with child(documented("sail spark server", p50051=port), port, log):
        yield f"sc://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Spark Connect server with two workers, started as docs/cluster.md says."""
    if not shutil.which("java"):
        pytest.skip("Spark needs Java 17 or newer")
    folder = tmp_path_factory.mktemp("spark")
    ports = {"p7077": free_port(), "p15002": free_port()}
    classes = "spark-class org.apache.spark.deploy"
    with ExitStack() as running:
        master = documented(f"{classes}.master", **ports)
        running.enter_context(child(master, ports["p7077"], folder / "master"))
        for number in range(2):
            port = free_port()
            worker = [*documented(f"{classes}.worker", **ports), "--port", str(port)]
            running.enter_context(child(worker, port, folder / f"worker-{number}"))
        connect = documented("spark-submit", **ports)
        running.enter_context(child(connect, ports["p15002"], folder / "connect"))
        yield f"sc://127.0.0.1:{ports['p15002']}"


@pytest.fixture(scope="session", params=["sail", "spark"])
def server(request: pytest.FixtureRequest) -> str:
    """The address of each server in turn."""
    return request.getfixturevalue(request.param)


def mart(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `python -m mart …` says, in a process of its own."""
    command = [sys.executable, "-m", "mart", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)


def built(home: Path) -> Path:
    """A mart in `home`, with its facts in a lake."""
    shutil.copytree(CHECKOUT / "notebooks", home / "notebooks")
    done = mart("build", "--lake", "data/lake", cwd=home)
    assert done.returncode == 0, done.stderr
    return home / "data" / "mini_data_mart.duckdb"


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mart without bad rows."""
    home = tmp_path_factory.mktemp("clean")
    done = mart("generate", "--sales", "3000", "--out", home / "inputs", "--history", cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return built(home)


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mart with rows in quarantine, and with failing checks."""
    home = tmp_path_factory.mktemp("damaged")
    done = mart("break", "day_month_swapped", "--out", home / "inputs", cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return built(home)
