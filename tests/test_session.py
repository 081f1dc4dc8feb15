import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

SET_UP = 'from mart_helpers.mart import open_candidate\nmart = open_candidate("canary.duckdb")'
READ = 'from mart_helpers.mart import open_mart\nmart = open_mart("canary.duckdb")'
PUBLISH = """\
from mart_helpers.checks import run_checks
from mart_helpers.derived import derive_checks
from mart_helpers.mart import publish
derive_checks(mart)
publish(mart, run_checks(mart))"""
FAILING = "select * from no_such_table"

# One kernel for all: what each cell is for, and the cell. Statements are `%%sql` cells.
CELLS = {
    "make": "create table t (a integer); insert into t values (1), (2)",
    "view and variable": "create temp view big as select * from t where a > 1; set variable x = 40",
    "start": "start transaction",
    "delete": "delete from t",
    "rollback": "rollback",
    "read them": "select count(*) as rows, getvariable('x') as x from big",
    "sequence": "create sequence s; create table once (a integer)",
    "insert with": "with one as (select nextval('s') as a) insert into once select a from one",
    "returning": "insert into once values (7) returning a",
    "number": "select nextval('s') as number, (select count(*) from once) as rows",
    "bound": "select $hostile as text, (select count(*) from t) as rows",
    "undefined": "select $undefined",
    "python name": "select * from hostile",
    "failing": FAILING,
    "after": "select 'still here' as answer",
    "publish": PUBLISH,
    "reader": READ,
    "reader inserts": "insert into t values (2)",
    "reader drops": "drop table t",
    "reader reads": "select count(*) as rows from t",
    "again": SET_UP,
    "fresh": "select count(*) as tables from duckdb_tables() "
    "where database_name = current_database() and table_name in ('t', 'once')",
}


def cell(text: str) -> str:
    return text if text in (PUBLISH, READ, SET_UP) else f"%%sql\n{text}"


@pytest.fixture(scope="module")
def outputs(shared_home: Path) -> dict[str, list]:
    """The outputs of each of CELLS, run one after the other in a kernel; errors are outputs too."""
    sources = [SET_UP, 'hostile = "\'; drop table t; --"', *map(cell, CELLS.values())]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    NotebookClient(notebook, allow_errors=True, kernel_name="python3").execute()
    return dict(zip(CELLS, [cell.outputs for cell in notebook.cells[2:]], strict=True))


def text(outputs: list) -> str:
    (output,) = outputs
    return output["data"]["text/plain"]


def error(outputs: list) -> str:
    (output,) = outputs
    assert output["output_type"] == "error"
    return output["evalue"]


@pytest.fixture
def canary(home: Path) -> Path:
    """A notebook whose second cell asks for a table that is not there; it has no outputs."""
    path = home / "canary.ipynb"
    sources = (SET_UP, cell(FAILING))
    cells = [new_code_cell(source, execution_count=n) for n, source in enumerate(sources, start=1)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_views_variables_and_transactions_live_from_cell_to_cell(outputs):
    assert text(outputs["read them"]) == "rows  x\n   1 40"


def test_a_statement_runs_exactly_once(outputs):
    assert text(outputs["number"]) == "number rows\n     2    2"


def test_returning_gives_its_rows_and_other_changes_give_none(outputs):
    assert text(outputs["returning"]) == "a\n7"
    assert outputs["insert with"] == outputs["make"] == outputs["delete"] == []


def test_a_name_is_bound_as_a_value_and_never_as_text(outputs):
    assert text(outputs["bound"]).endswith("'; drop table t; --    2")


def test_an_undefined_name_is_an_error(outputs):
    assert error(outputs["undefined"]).startswith("$undefined is not defined in this notebook")


def test_a_python_variable_is_no_table(outputs):
    assert "hostile does not exist" in error(outputs["python name"])


def test_a_failing_cell_shows_one_clear_error_in_a_kernel_as_in_jupyterlab(outputs):
    assert error(outputs["failing"]).startswith("Table with name no_such_table does not exist!")
    (message,) = outputs["failing"][0]["traceback"]
    assert message.startswith("QueryError: Table with name no_such_table does not exist!")
    assert "LINE 1: select * from no_such_table" in message
    assert "still here" in text(outputs["after"])


def test_a_failing_cell_fails_papermill_with_the_message(canary):
    run = [sys.executable, "-m", "papermill", str(canary), "out.ipynb"]
    result = subprocess.run(run, capture_output=True, text=True, cwd=canary.parent)
    assert result.returncode == 1
    assert "QueryError: Table with name no_such_table does not exist!" in result.stderr


def test_readers_cannot_write_to_the_mart(outputs):
    assert "read-only" in error(outputs["reader inserts"])
    assert "read-only" in error(outputs["reader drops"])
    assert text(outputs["reader reads"]) == "rows\n   2"


def test_the_set_up_cell_may_run_again_and_starts_afresh(outputs):
    assert text(outputs["fresh"]) == "tables\n     0"
