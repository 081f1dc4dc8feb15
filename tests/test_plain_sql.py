"""Without JupySQL, `%%sql` cells give what they give with it; where that is not so, it is called."""

from pathlib import Path

import nbformat
import pytest
from conftest import CHECKOUT, make_home, mart_command
from nbclient import NotebookClient
from test_kernel import comparable, executed_cells

from mart_helpers.parameters import notebook_cells, notebook_path
from mart_helpers.plain_sql import is_plain

SET_UP = """
from mart_helpers.mart import open_mart
mart = open_mart("data/mini_data_mart.duckdb")
"""

CELLS = {
    "rows": "%%sql\nselect product_id from dim_product order by product_id",
    "rows that are kept": "%%sql products <<\nfrom dim_product limit 2",
    "a name": "list(products)",
    "rows that are kept and shown": "%%sql products =<<\nselect 1 as one",
    "no rows": "%%sql\nselect product_id from dim_product where false",
    "a comment before": "%%sql\n-- what there is\n\nselect 1 as one -- and no more",
    "text that looks like a comment or an end": "%%sql\nselect '--; ' as text, ';' as sign;",
    "several statements": "%%sql\ncreate temp table t as select 1 as a;\n"
    "insert into t values (2);\nfrom t",
    "a statement without rows": "%%sql\nset variable a = 3",
    "a count": "%%sql\nupdate t set a = 3 where a = 2",
    "no rows to keep": "%%sql gone <<\ndelete from t",
    "what was kept": "gone",
    "a variable": "%%sql\nselect getvariable('a') as a, $wanted as wanted",
    "columns that come from rows": "%%sql\nwith u as (from (values ('x', 1), ('y', 2)) as u (k, v))\n"
    "select * from (pivot u on k using sum(v))",
    "an error of syntax": "%%sql\nselect 1 as",
    "an error in the name of a table": "%%sql\nselect *\nfrom dim_produkt",
    "an error in the name of a column": "%%sql\nselect\n    product_id,\n    colour\nfrom dim_product",
    "an error in a value": "%%sql\nselect 'a'::integer",
    "a variable that is not there": "%%sql\nselect $a",
    "what may not be written": "%%sql\ndrop table dim_product",
    "the row before": "_",
}
NOT_PLAIN = {
    "a line": "%sql select 1 as one",
    "an option": "%%sql --save ones\nselect 1 as one",
    "a template": "%%sql\nselect {{ wanted }} as wanted",
    "a transaction": "%%sql\nbegin",
    "a name in the statement": "%%sql\ntwos << select 2 as two",
    "another magic": "%sqlcmd snippets",
    "a setting": "%config SqlMagic.displaylimit = 1",
    "another connection": "%%sql duckdb://\nselect 1",
    "the package": "import sql",
}


def test_the_notebooks_do_without_jupysql():
    for name in ("01_build", "02_explore", "03_export", "04_quality"):
        cells = notebook_cells(notebook_path(name))
        assert is_plain("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), name


@pytest.mark.parametrize("name", CELLS)
def test_a_plain_cell_is_known_as_one(name):
    assert is_plain([CELLS[name]])


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_a_cell_that_asks_for_more_is_known_as_one(name):
    assert not is_plain(["1 + 1", NOT_PLAIN[name]])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = make_home(tmp_path_factory.mktemp("plain") / "home", monkeypatch)
        assert mart_command("build").returncode == 0
    return home


@pytest.fixture(scope="module", params=["plain", "not plain"])
def executed(request: pytest.FixtureRequest, home: Path) -> tuple[list[dict], list[dict]]:
    """The cells, executed by JupySQL in a Jupyter kernel and by ours; each may fail."""
    sources = [SET_UP, "wanted = 2", *CELLS.values()]
    if request.param == "not plain":
        sources += [source for name, source in NOT_PLAIN.items() if name != "another connection"]
    cells = [nbformat.v4.new_code_cell(source.strip("\n")) for source in sources]
    for cell in cells:
        cell.metadata["tags"] = ["raises-exception"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MART_HOME", str(home))
        monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), home / "notebooks" / "02_explore.ipynb")
        theirs = nbformat.v4.new_notebook(cells=cells)
        paths = {"metadata": {"path": str(home)}}
        NotebookClient(theirs, kernel_name="python3", resources=paths).execute()
        run = mart_command("explore")
        assert run.returncode == 0, run.stderr
        ours = max(home.glob("data/runs/*/02_explore.ipynb"))
        return theirs.cells, executed_cells(ours)


def test_every_cell_gives_what_it_gives_by_jupysql(executed):
    theirs, ours = executed
    assert [cell.outputs for cell in ours[:2]] == [[], []], "the mart is open"
    for expected, found in zip(theirs, ours, strict=True):
        assert comparable(found) == comparable(expected), expected.source
