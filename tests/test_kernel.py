"""The kernel of headless runs gives what a Jupyter kernel gives, cell by cell."""

import json
import re
from pathlib import Path

import golden
import nbformat
import pytest
from conftest import CHECKOUT, make_home, mart_command
from nbclient import NotebookClient


def executed_cells(path: Path) -> list[dict]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Each notebook of the project, executed on the sample by a Jupyter kernel and by ours."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MART_HOME", "")
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


CELLS = {
    "text": "print('a')\nprint('b', end='')",
    "text and complaints": "import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c')",
    "text of other programs": "import os\nprint('a')\n_ = os.system('echo b')\nprint('c')",
    "a shell": "!echo a; echo b >&2",
    "bash": "%%bash\necho a\necho b >&2",
    "letters that are no UTF-8": "import os\n_ = os.write(1, b'a\\xff\\xc3\\xa4\\n')",
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
    "a shell of a notebook": "type(get_ipython()), 'IPKernelApp' in get_ipython().config",
    "magic": "%pwd",
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
