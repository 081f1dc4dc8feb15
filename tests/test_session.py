import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

SET_UP = 'from mart_helpers.notebook import open_candidate\nmart = open_candidate("canary.duckdb")'
FAILING = "%%sql\nselect * from no_such_table"


def sql(statement: str, line: str = "") -> str:
    return f"%%sql {line}\n{statement}"


def run_cells(*sources: str) -> list:
    """The outputs of each cell in a fresh kernel, set up first; errors are kept as outputs."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in (SET_UP, *sources)])
    NotebookClient(notebook, allow_errors=True, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells[1:]]


def texts(outputs: list) -> list[str]:
    return [output["data"]["text/plain"] for cell in outputs for output in cell]


@pytest.fixture
def canary(home: Path) -> Path:
    """A notebook whose second cell asks for a table that is not there; it has no outputs."""
    path = home / "canary.ipynb"
    cells = [new_code_cell(SET_UP, execution_count=1), new_code_cell(FAILING, execution_count=2)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_views_variables_and_transactions_live_from_cell_to_cell(home):
    outputs = run_cells(
        sql("create table t (a integer); insert into t values (1), (2)"),
        sql("create temp view big as select * from t where a > 1; set variable x = 40"),
        sql("start transaction"),
        sql("delete from t"),
        sql("rollback"),
        sql("select count(*) as rows, getvariable('x') as x from big"),
    )
    assert texts(outputs) == ["   rows   x\n0     1  40"]


def test_a_statement_runs_exactly_once_and_returns_its_rows(home):
    outputs = run_cells(
        sql("create sequence s; create table t (a integer)"),
        sql("with one as (select nextval('s') as a) insert into t select a from one"),
        sql("insert into t values (7) returning a"),
        sql("select nextval('s') as number, (select count(*) from t) as rows"),
    )
    assert texts(outputs) == ["   a\n0  7", "   number  rows\n0       2     2"]


def test_a_name_is_bound_as_a_value_and_never_as_text(home):
    outputs = run_cells(
        'hostile = "\'; drop table t; --"',
        sql("create table t as select 1 as a"),
        sql("select $hostile as text, (select count(*) from t) as rows"),
        sql("select $undefined"),
        sql("select * from hostile"),
    )
    assert outputs[2][0]["data"]["text/plain"].endswith("'; drop table t; --     1")
    assert outputs[3][0]["evalue"].startswith("$undefined is not defined in this notebook")
    assert "hostile does not exist" in outputs[4][0]["evalue"]


def test_a_failing_cell_shows_one_clear_error_in_a_kernel_as_in_jupyterlab(home):
    (outputs,) = run_cells(FAILING)
    assert [output["output_type"] for output in outputs] == ["error"]
    (message,) = outputs[0]["traceback"]
    assert message.startswith("QueryError: Table with name no_such_table does not exist!")
    assert "LINE 1: select * from no_such_table" in message


def test_a_failing_cell_fails_papermill_with_the_message(canary):
    run = [sys.executable, "-m", "papermill", str(canary), "out.ipynb"]
    result = subprocess.run(run, capture_output=True, text=True, cwd=canary.parent)
    assert result.returncode == 1
    assert "QueryError: Table with name no_such_table does not exist!" in result.stderr


def test_a_failing_cell_fails_nbval(canary):
    run = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-q", canary.name]
    result = subprocess.run(run, capture_output=True, text=True, cwd=canary.parent)
    assert result.returncode == 1
    assert "no_such_table does not exist" in result.stdout


def test_readers_cannot_write_to_the_mart(home):
    reading = 'from mart_helpers.notebook import open_mart\nmart = open_mart("canary.duckdb")'
    outputs = run_cells(
        sql("create table t as select 1 as a"),
        "from mart_helpers.publishing import publish\npublish(mart)",
        reading,
        sql("insert into t values (2)"),
        sql("drop table t"),
        sql("select * from t"),
    )
    assert [cell[0]["output_type"] for cell in outputs[3:]] == ["error", "error", "execute_result"]
    assert "read-only" in outputs[3][0]["evalue"]


def test_the_set_up_cell_may_run_again(home):
    outputs = run_cells(sql("create table t as select 1 as a"), SET_UP, sql("select 1 as fresh"))
    assert texts(outputs) == ["   fresh\n0      1"]
