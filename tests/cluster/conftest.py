"""Clusters to test with: each server is a child process that ends with the tests."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from forks import CHECKOUT

PATIENCE = 300  # seconds for a server to start, on a machine that does other things too

SAIL = """
import sys
from pysail.spark import SparkConnectServer
SparkConnectServer("127.0.0.1", int(sys.argv[1])).start(background=False)
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextmanager
def child(*command: str | Path, port: int, log: Path, **environment: str) -> Iterator[None]:
    """A server that answers at `port`; it is killed after the block, or with this process."""
    with (
        log.open("w") as said,
        subprocess.Popen(
            command,
            env=os.environ | environment,
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
            yield
        finally:
            process.kill()


@pytest.fixture(scope="session")
def sail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Sail server."""
    port = free_port()
    log = tmp_path_factory.mktemp("sail") / "log"
    with child(sys.executable, "-c", SAIL, str(port), port=port, log=log):
        yield f"sc://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Spark Connect server whose work two workers do."""
    if not shutil.which("java"):
        pytest.skip("Spark needs Java 17 or newer")
    folder = tmp_path_factory.mktemp("spark")
    home = Path(find_spec("pyspark").origin).parent
    master, connect = free_port(), free_port()
    places = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    places |= {"SPARK_WORKER_DIR": str(folder / "work"), "SPARK_LOCAL_DIRS": str(folder / "local")}

    def java(name: str, *words: str, port: int) -> AbstractContextManager[None]:
        command = (home / "bin" / "spark-class", f"org.apache.spark.{name}", *words)
        return child(*command, port=port, log=folder / f"{name}-{port}.log", **places)

    with ExitStack() as running:
        host = ("--host", "127.0.0.1", "--port")
        free = free_port()
        words = (*host, str(master), "--webui-port", str(free))
        running.enter_context(java("deploy.master.Master", *words, port=master))
        for _ in range(2):
            port, ui = free_port(), free_port()
            words = (*host, str(port), "--webui-port", str(ui), "--cores", "1", "--memory", "1g")
            words = (*words, f"spark://127.0.0.1:{master}")
            running.enter_context(java("deploy.worker.Worker", *words, port=port))
        settings = {
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": connect,
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": 2,
            "spark.executor.memory": "512m",
            "spark.driver.memory": "512m",
        }
        running.enter_context(
            java(
                "deploy.SparkSubmit",
                *("--master", f"spark://127.0.0.1:{master}"),
                *(word for name, value in settings.items() for word in ("--conf", f"{name}={value}")),
                *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
                "spark-internal",
                port=connect,
            )
        )
        yield f"sc://127.0.0.1:{connect}"


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
