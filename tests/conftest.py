import atexit
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import golden
import pytest
from filelock import FileLock
from forks import CHECKOUT, mart_command

from mart_helpers.checks import run_checks
from mart_helpers.derived import derive_checks
from mart_helpers.loading import Loader
from mart_helpers.mart import create_candidate, publish
from mart_helpers.session import Session

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SALES_HEADER = "sale_id,sale_date,customer_id,product_id,quantity,unit_price,discount"


def code_cells(notebook: str) -> list[str]:
    """The sources of a notebook's code cells, as they are in the checkout."""
    cells = json.loads((CHECKOUT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def sql_of(notebook: str, *starts: str) -> list[str]:
    """The statements of the `%%sql` cells in which a line begins with one of `starts`."""
    cells = [cell.partition("\n")[2] for cell in code_cells(notebook) if cell.startswith("%%sql")]
    return [
        cell
        for cell in cells
        if any(line.startswith(start) for line in cell.splitlines() for start in starts)
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's notebooks and inputs, where relative paths start; no data yet."""
    return make_home(tmp_path / "home", monkeypatch)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `home`, one for all tests of a module, which change nothing in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield make_home(tmp_path_factory.mktemp("shared") / "home", monkeypatch)


@pytest.fixture(scope="module")
def shared_mart(shared_home: Path, sample_mart: Path) -> Path:
    """The mart of the sample in the shared home."""
    return put_mart(sample_mart, shared_home)


def put_mart(mart: Path, home: Path) -> Path:
    """A copy of a mart, in `home` where 01_build would publish it."""
    copy = home / "data" / "mini_data_mart.duckdb"
    copy.parent.mkdir(exist_ok=True)
    shutil.copyfile(mart, copy)
    return copy


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    for part in ("notebooks", "inputs"):
        subprocess.run(["cp", "-r", CHECKOUT / part, folder / part], check=True)
    monkeypatch.setenv("MART_HOME", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    return folder


def made_once(name: str, make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make` fills once a run, in the first of pytest's processes that asks for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    is_made = folder / "made"
    with FileLock(f"{folder}.lock"):
        if not is_made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            is_made.touch()
    return folder


@pytest.fixture(scope="session")
def sample_mart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mart of the sample, built once a run; no test changes it."""
    folder = made_once("sample", build_sample, tmp_path_factory)
    return folder / "home" / "data" / "mini_data_mart.duckdb"


def build_sample(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        built = mart_command("build", cwd=make_home(folder / "home", monkeypatch))
    assert built.returncode == 0, built.stderr


@pytest.fixture(scope="session")
def all_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which `all` has run; its words are in `said`, its summary in `summary.json`."""
    return made_once("all", run_all, tmp_path_factory) / "home"


def run_all(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = make_home(folder / "home", monkeypatch)
        ran = mart_command("all", "--notify", "cat > summary.json", cwd=home)
    assert ran.returncode == 0, ran.stderr
    (home / "said").write_text(ran.stdout)


@pytest.fixture(scope="session")
def rerun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The notebooks of the project, executed on the sample by a Jupyter kernel."""
    folder = made_once("rerun", lambda folder: golden.execute(golden.ORDER, folder), tmp_path_factory)
    return {name: folder / f"{name}.ipynb" for name in golden.ORDER}


@pytest.fixture
def candidate(tmp_path: Path) -> Session:
    """A session on a new candidate with the contract that 01_build declares."""
    database = tmp_path / "mart.duckdb"
    session = create_candidate(database)
    declare_contract(session)
    yield session
    session.close()


def declare_contract(session: Session) -> None:
    for cell in sql_of("01_build", "create schema contract", "create table contract."):
        session.connection.execute(cell)


def load(session: Session, inputs: Path, *tables: str, share: float = 1.0) -> None:
    """Load these tables, or those of the sample, from a folder of extracts."""
    loader = Loader(session, inputs, share)
    for table in tables or ("dim_customer", "dim_product", "fact_sales"):
        loader.load(table, from_seed=False)


def publish_checked(session: Session, keep_previous: int = 2) -> None:
    """Publish what is in the candidate, after the checks that follow from it."""
    derive_checks(session)
    publish(session, run_checks(session), keep_previous)


@pytest.fixture
def mart() -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python -m mart …`; use together with `home` or `shared_home`."""
    return mart_command


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A Chromium for the tests of a module."""
    from browsers import chromium  # which few tests need

    with chromium() as browser:
        yield browser


def query(database: Path, sql: str) -> list[tuple]:
    """The rows of one query on a mart file, opened read-only."""
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def pytest_unconfigure() -> None:
    """Let Hypothesis's gc hook go, what kernels have frozen, and the good-bye of JupySQL.

    Else DuckDB reports leaks behind pytest's last line, or JupySQL says `Closing Session` there.
    """
    gc.callbacks.clear()
    gc.unfreeze()
    if jupysql := sys.modules.get("sql.connection"):
        atexit.unregister(jupysql.ConnectionManager.close_all)
