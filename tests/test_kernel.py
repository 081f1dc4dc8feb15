"""The kernel of headless runs gives what a Jupyter kernel gives, cell by cell, and leaves nothing."""

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
import papermill
import pytest
from conftest import CHECKOUT, make_home, mart_command
from nbclient import NotebookClient
from test_running import is_gone, write_notebook

from mart_helpers import kernel
from mart_helpers.run import Progress, run_notebook


def executed_cells(path: Path) -> list[dict]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Each notebook of the project, executed on the sample by a Jupyter kernel and by ours."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        theirs = golden.execute(golden.ORDER, tmp_path_factory.mktemp("theirs"))
        home = make_home(tmp_path_factory.mktemp("ours") / "home", monkeypatch)
        assert mart_command("all").returncode == 0
        (folder,) = (home / "data" / "runs").iterdir()
        return {path.stem: (path, folder / path.name) for path in theirs}


@pytest.mark.parametrize("name", golden.ORDER)
def test_every_cell_of_the_project_gives_what_it_gives_in_a_jupyter_kernel(pairs, name):
    theirs, ours = map(executed_cells, pairs[name])
    for expected, found in zip(theirs, ours, strict=True):
        for part in ("id", "source", "execution_count", "outputs"):
            assert found[part] == expected[part], expected.source


@pytest.mark.parametrize("name", golden.ORDER)
def test_an_executed_notebook_is_written_as_jupyter_writes_it(pairs, name):
    text = pairs[name][1].read_text(encoding="utf-8")
    assert nbformat.writes(nbformat.reads(text, as_version=nbformat.NO_CONVERT)) + "\n" == text


# A Jupyter kernel listens to other programs in a thread: give it the time.
HEARD = "\nimport time\ntime.sleep(1)"
CELLS = {
    "text": "print('a')\nprint('b', end='')",
    "text and complaints": "import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c')",
    "text of other programs": f"import os\n_ = os.system('echo b'){HEARD}",
    "a shell": "!echo a; echo b >&2",
    "bash": "%%bash\necho a\necho b >&2",
    "letters that are no UTF-8": f"import os\n_ = os.write(1, b'a\\xff\\xc3\\xa4\\n'){HEARD}",
    "half a character": "'a\\ud800'",
    "a value": "6 * 7",
    "the value before": "_ + 1, Out[8], In[8]",
    "no value": "None",
    "a frame": "import pandas\npandas.DataFrame({'a': [1, None]})",
    "displays": "from IPython.display import HTML, JSON, display\n"
    "print('a')\ndisplay(HTML('<b>b</b>\\n'))\nprint('c')\ndisplay(JSON({'d': [1]}), 'e')",
    "a display that changes": "handle = display('a', display_id='x')\nhandle.update('b')",
    "a change in a later cell": "handle.update('c')",
    "cleared": "from IPython.display import clear_output\nprint('a')\nclear_output()\nprint('b')",
    "cleared at the next": "print('a')\nclear_output(wait=True)\nprint('b')",
    "cleared at no next": "print('a')\nclear_output(wait=True)",
    "a picture of matplotlib's own": "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])",
    "an error": "print('a')\n1 / 0",
    "an error of ours": "from mart_helpers.errors import StateError\nraise StateError('a\\nb')",
    "an error that is only told": "%%nosuchmagic\nx",
    "an error of syntax": "a =",
    "an error in a repr": "class A:\n    def __repr__(self):\n        raise ValueError('a')\nA()",
    "an exit": "import sys\nsys.exit(3)",
    "awaited": "import asyncio\nawait asyncio.sleep(0, 'a')",
    "a shell of a notebook": "type(get_ipython()).__name__, 'IPKernelApp' in get_ipython().config",
    "magic": "%pwd",
    "a question": "len?",
    "a page": "%psource json.dumps",
    "the next cell, written by this one": "%load /dev/null",
    "pictures shown by a magic": "%matplotlib inline",
    "what a program finds": "!echo $TERM $PAGER $FORCE_COLOR",
    "days and bytes as data": "from datetime import date\n"
    "display({'application/json': {'a': date(2024, 1, 31), 'b': b'a', 'c': (1, 2)}}, raw=True)",
    "a warning": "import warnings\nwarnings.warn('a')",
    "a query that is long enough for a progress bar": "import duckdb\n"
    "duckdb.sql('from range(40_000) as a, range(50_000) select sum(hash(a.range)) > 0').fetchall()",
    "the last": "1",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, dict]]:
    """CELLS, executed by a Jupyter kernel and by ours; each may fail."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = tmp_path_factory.mktemp("odd")
        monkeypatch.setenv("MART_HOME", str(home))
        monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
        monkeypatch.delenv("PYTEST_CURRENT_TEST")  # else ipykernel hears no other programs
        cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
        for cell in cells:
            cell.metadata["tags"] = ["raises-exception"]
        (home / "notebooks").mkdir()
        nbformat.write(nbformat.v4.new_notebook(cells=cells), home / "notebooks" / "02_explore.ipynb")
        theirs = nbformat.v4.new_notebook(cells=cells)
        paths = {"metadata": {"path": str(home)}}
        NotebookClient(theirs, kernel_name="python3", resources=paths).execute()
        run = mart_command("explore")
        assert run.returncode == 0, run.stderr
        (ours,) = home.glob("data/runs/*/02_explore.ipynb")
        return dict(zip(CELLS, zip(theirs.cells, executed_cells(ours), strict=True), strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_an_odd_cell_gives_what_it_gives_in_a_jupyter_kernel(odd, name):
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without notebooks yet."""
    monkeypatch.setenv("MART_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    return tmp_path


def test_a_number_that_json_has_not_is_kept_as_text(home: Path):
    shows = "display({'application/json': [float('nan')]}, raw=True)"
    write_notebook(home / "notebooks" / "n.ipynb", "a: int = 1", shows)
    *_, cell = executed_cells(run_notebook("n", {}, home))
    assert cell.outputs[0].data == {"application/json": ["nan"]}


def test_a_kernel_is_asked_at_the_end_without_a_trace_in_the_notebook(home: Path):
    asked = ["print(b)\nprint('c')", "print(b)\n1 / 0", "print(b, flush=True)\nimport os\nos._exit(3)"]
    said = []
    write_notebook(home / "notebooks" / "n.ipynb", "a: int = 1", "b = a + 1")
    path = run_notebook("n", {}, home, on_end=lambda given: said.extend(map(given.printed, asked)))
    assert said == [["2", "c"], [], []]
    assert [cell.source for cell in executed_cells(path)] == ["a: int = 1", "b = a + 1"]


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_kernel_ends_with_the_command_even_amid_a_query(home: Path, ended_by: signal.Signals):
    said = "import os\nfrom pathlib import Path\n_ = Path('pid').write_text(str(os.getpid()))"
    write_notebook(home / "notebooks" / "02_explore.ipynb", "a: int = 1", said, QUERY)
    heeds = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "mart", "explore"]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=CHECKOUT, preexec_fn=heeds)
    while not ((home / "pid").exists() and (home / "pid").read_text()):
        assert run.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    run.send_signal(ended_by)
    assert run.wait(10) == (130 if ended_by == signal.SIGINT else -ended_by)
    assert is_gone(int((home / "pid").read_text()))


def test_what_was_executed_before_an_interrupt_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(progress: Progress) -> None:
        if progress.cell == 3:
            raise KeyboardInterrupt

    write_notebook(home / "notebooks" / "n.ipynb", "a: int = 1", "print(a)", "print(a + 1)")
    with pytest.raises(KeyboardInterrupt):
        run_notebook("n", {}, home, interrupt)
    assert [bool(cell.outputs) for cell in executed_cells(home / "n.ipynb")] == [False, True, False]


def test_a_kernel_that_is_not_forked_gives_the_same(home: Path, monkeypatch: pytest.MonkeyPatch):
    source = "import os, sys\nprint(os.getcwd(), sys.executable)\n_ = os.system('echo a')\n1 + 1"
    write_notebook(home / "notebooks" / "n.ipynb", "a: int = 1", source)
    gave = []
    for method in ("fork", "spawn"):
        monkeypatch.setattr(kernel, "START_METHOD", method)
        gave.append([cell.outputs for cell in executed_cells(run_notebook("n", {"a": 2}, home))])
    assert gave[0] == gave[1]
    assert gave[0][-1][0].text == f"{home} {sys.executable}\na\n"


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


@pytest.mark.parametrize("given", [{}, {"name": 'é "b"\\n', "share": 1e-7, "asked": True, "count": -3}])
def test_a_notebook_is_prepared_and_kept_as_papermill_does_it(home: Path, given: dict[str, object]):
    parameters = "name: str = ''\nshare: float = 0.1\nasked: bool = False\ncount: int = 1"
    write_notebook(home / "notebooks" / "n.ipynb", parameters, "# Prose", "name, share, asked, count")
    ours = nbformat.read(run_notebook("n", given, home), as_version=nbformat.NO_CONVERT)
    nbformat.validate(ours)
    source, options = home / "notebooks" / "n.ipynb", {"kernel_name": "python3", "language": "python"}
    theirs = papermill.execute_notebook(source, None, given, progress_bar=False, **options)
    for expected, found in zip(theirs.cells, ours.cells, strict=True):
        assert found.cell_type == expected.cell_type
        assert found.metadata.get("tags", []) == expected.metadata.get("tags", [])
        assert found.get("outputs") == expected.get("outputs")
        assert found.get("execution_count") == expected.get("execution_count")


def test_a_notebook_with_ids_of_its_cells_stays_a_valid_one(pairs):
    for _, ours in pairs.values():
        nbformat.validate(nbformat.read(ours, as_version=nbformat.NO_CONVERT))


def test_cells_with_jupyters_tags_are_skipped_or_may_fail(home: Path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("1 / 0", "1 / 0", "3")]
    cells[0].metadata["tags"] = ["skip-execution"]
    cells[1].metadata["tags"] = ["raises-exception"]
    (home / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), home / "notebooks" / "n.ipynb")
    ran = executed_cells(run_notebook("n", {}, home))
    kinds = [[output.output_type for output in cell.outputs] for cell in ran]
    assert kinds == [[], ["error"], ["execute_result"]]


WORKERS = """
import os
from multiprocessing import get_context
from threading import Thread

def work(number):
    print("process", flush=True)
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
    assert said == {"cell": 1, "process": 50, "thread": 50, "\n": 101}
    assert following.outputs[0].data["text/plain"] == "'the next cell'"
