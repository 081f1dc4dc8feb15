"""The engine gives what a Jupyter kernel gives, cell by cell, and leaves nothing running."""

import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import golden
import nbformat
import papermill  # noqa: F401, which has to come before its engine
import pytest
from conftest import CHECKOUT
from nbclient import NotebookClient
from test_running import is_gone, write_notebook

from mart_helpers import engine
from mart_helpers.run import NotebookFailed, Progress, run_notebook


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without notebooks yet."""
    monkeypatch.setenv("MART_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    return tmp_path


def executed_cells(path: Path) -> list[dict]:
    """The code cells of an executed notebook, which has to be a valid one."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def executed(shared_home: Path) -> dict[str, Path]:
    """The notebooks of the project, executed by our engine."""
    return {name: run_notebook(name, {}, shared_home) for name in golden.ORDER}


def test_every_cell_of_the_project_gives_what_it_gives_in_a_jupyter_kernel(rerun, executed, subtests):
    for name in golden.ORDER:
        with subtests.test(name):
            theirs, ours = map(executed_cells, (rerun[name], executed[name]))
            for expected, found in zip(theirs, ours, strict=True):
                for part in ("id", "source", "execution_count", "outputs"):
                    assert found[part] == expected[part], expected.source
                assert found.metadata.papermill.duration >= 0


# A Jupyter kernel listens to other programs in a thread: give it the time.
HEARD = "\nimport time\ntime.sleep(3)"
CELLS = {
    "text and complaints": "import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c')",
    "text of other programs": f"import os\n_ = os.system('echo b'){HEARD}",
    "a shell": "!echo a; echo b >&2",
    "a value": "6 * 7",
    "the value before": "_ + 1, Out[4], In[4]",
    "a frame": "import pandas\npandas.DataFrame({'a': [1, None]})",
    "displays": "from IPython.display import HTML, display\n"
    "print('a')\ndisplay(HTML('<b>b</b>\\n'))\nprint('c')\ndisplay('d', 'e')",
    "a display that changes": "handle = display('a', display_id='x')\nhandle.update('b')",
    "a change in a later cell": "handle.update('c')",
    "cleared": "from IPython.display import clear_output\nprint('a')\nclear_output()\nprint('b')",
    "cleared at the next": "print('a')\nclear_output(wait=True)\nprint('b')",
    "a picture": "%matplotlib inline\nimport matplotlib.pyplot as plt\n_ = plt.plot([1, 2])",
    "an error": "print('a')\n1 / 0",
    "an error of ours": "from mart_helpers.errors import StateError\nraise StateError('a\\nb')",
    "an error that is only told": "%%nosuchmagic\nx",
    "an error in a repr": "class A:\n    def __repr__(self):\n        raise ValueError('a')\nA()",
    "awaited": "import asyncio\nawait asyncio.sleep(0, 'a')",
    "magic": "%pwd",
    "a question": "len?",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, dict]]:
    """CELLS, executed by a Jupyter kernel and by our engine; each may fail."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = tmp_path_factory.mktemp("odd")
        monkeypatch.setenv("MART_HOME", str(home))
        monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
        monkeypatch.delenv("PYTEST_CURRENT_TEST")  # else ipykernel hears no other programs
        write_notebook(home / "notebooks" / "n.ipynb", *CELLS.values())
        theirs = nbformat.read(home / "notebooks" / "n.ipynb", as_version=4)
        for cell in theirs.cells:
            cell.metadata["tags"] = ["raises-exception"]
        nbformat.write(theirs, home / "notebooks" / "n.ipynb")
        paths = {"metadata": {"path": str(home)}}
        NotebookClient(theirs, kernel_name="python3", resources=paths).execute()
        with pytest.raises(NotebookFailed):  # papermill says so at the end
            run_notebook("n", {}, home)
        ours = executed_cells(home / "n.ipynb")
        return dict(zip(CELLS, zip(theirs.cells, ours, strict=True), strict=True))


def test_an_odd_cell_gives_what_it_gives_in_a_jupyter_kernel(odd, subtests):
    for name in CELLS:
        with subtests.test(name):
            theirs, ours = map(comparable, odd[name])
            assert ours == theirs


def comparable(cell: dict) -> tuple[int, list]:
    """What a cell gave; parts of one text as one, and without the number of the process."""
    outputs = []
    for output in json.loads(re.sub(r"ipykernel_\d+", "ipykernel", json.dumps(cell["outputs"]))):
        if outputs and "name" in output and outputs[-1].get("name") == output["name"]:
            outputs[-1]["text"] += output["text"]
        else:
            outputs.append(output)
    return cell["execution_count"], outputs


QUERY = "import duckdb\nduckdb.sql('from range(10_000_000_000_000) select sum(hash(range))').fetchall()"


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_cells_end_with_the_command_even_amid_a_query(home: Path, ended_by: signal.Signals):
    said = "import os\nfrom pathlib import Path\n_ = Path('pid').write_text(str(os.getpid()))\n"
    write_notebook(home / "notebooks" / "02_explore.ipynb", "a: int = 1", said + QUERY)
    heeds = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "mart", "explore"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=CHECKOUT, preexec_fn=heeds, text=True)
    while not ((home / "pid").exists() and (home / "pid").read_text()):
        assert run.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    run.send_signal(ended_by)
    _, told = run.communicate(timeout=120)
    assert run.returncode == (130 if ended_by == signal.SIGINT else -ended_by)
    assert is_gone(int((home / "pid").read_text()))
    if ended_by == signal.SIGINT:
        (kept,) = home.glob("data/runs/*/02_explore.ipynb")
        assert [cell.execution_count for cell in executed_cells(kept)] == [1, 2]
        assert told.splitlines()[-1] == "mart: interrupted."
        assert "Traceback" not in told


def test_what_was_executed_before_an_interrupt_is_kept(home: Path):
    def interrupt(progress: Progress) -> None:
        if progress.cell == 3:
            raise KeyboardInterrupt

    write_notebook(home / "notebooks" / "n.ipynb", "a: int = 1", "print(a)", "print(a + 1)")
    with pytest.raises(KeyboardInterrupt):
        run_notebook("n", {}, home, interrupt)
    assert [bool(cell.outputs) for cell in executed_cells(home / "n.ipynb")] == [False, True, False]


def test_what_a_cell_showed_before_its_process_ended_is_kept(home: Path):
    write_notebook(home / "notebooks" / "n.ipynb", "print('a', flush=True)\nimport os\nos._exit(3)")
    with pytest.raises(NotebookFailed):
        run_notebook("n", {}, home)
    (cell,) = executed_cells(home / "n.ipynb")
    assert [output.get("text") or output.evalue for output in cell.outputs] == [
        "a\n",
        "the process that runs the cells ended with status 3",
    ]


@pytest.mark.parametrize("can_fork", [True, False])
def test_without_forking_the_same_is_given_and_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, can_fork: bool
):
    monkeypatch.setattr(engine, "CAN_FORK", can_fork)
    source = "import os, sys\nprint(a, os.getcwd(), os.environ['MART_HOME'], sys.executable)\n1 + 1"
    fails = "from mart_helpers.errors import UsageError\nraise UsageError('no such day')"
    write_notebook(home / "notebooks" / "n.ipynb", "a: int = 1", "# Load", source, fails)
    seen = []
    with pytest.raises(NotebookFailed, match=r"^no such day$") as failure:
        run_notebook("n", {"a": 2}, home, seen.append)
    assert failure.value.exit_status == 2
    assert seen[-2:] == [Progress("n", 3, 4, "Load"), Progress("n", 4, 4, "Load")]
    *_, cell, _ = executed_cells(home / "n.ipynb")
    assert [output.get("text") or output.data["text/plain"] for output in cell.outputs] == [
        f"2 {home} {home} {sys.executable}\n",
        "2",
    ]


def test_papermill_finds_the_engine_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MART_HOME", raising=False)
    notebook, database = CHECKOUT / "notebooks" / "01_build.ipynb", tmp_path / "mart.duckdb"
    options = ["--engine", "mart", "-p", "database", str(database), "-p", "stage", "1"]
    run = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", *options]
    result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert database.exists()
    assert all(cell.execution_count for cell in executed_cells(tmp_path / "out.ipynb"))


def test_start_up_files_and_settings_of_a_user_do_not_reach_a_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = home / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "mine.py").write_text("mine = 1")
    (profile / "ipython_config.py").write_text("c.InteractiveShell.ast_node_interactivity = 'all'")
    monkeypatch.setenv("IPYTHONDIR", str(home / "ipython"))
    write_notebook(home / "notebooks" / "n.ipynb", "a: int = 1", "1\n'mine' in globals()")
    *_, last = executed_cells(run_notebook("n", {}, home))
    assert [output.data["text/plain"] for output in last.outputs] == ["False"]
    assert not list(profile.glob("history*"))


WORKERS = """
from multiprocessing import get_context
from threading import Thread

def work(number):
    for _ in range(200): print("process", flush=True)
    display(number)

print("cell")
with get_context("fork").Pool(2) as pool:
    pool.map(work, range(50))
threads = [Thread(target=print, args=["thread"], kwargs={"flush": True}) for _ in range(50)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_processes_and_threads_of_a_cell_may_print(home: Path):
    write_notebook(home / "notebooks" / "n.ipynb", "a: int = 1", WORKERS, "'the next cell'")
    *_, cell, following = executed_cells(run_notebook("n", {}, home))
    (output,) = cell.outputs
    said = {word: output.text.count(word) for word in ("cell", "process", "thread", "\n")}
    assert said == {"cell": 1, "process": 10_000, "thread": 50, "\n": 10_051}
    assert following.outputs[0].data["text/plain"] == "'the next cell'"
