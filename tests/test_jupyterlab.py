"""The notebooks in a real JupyterLab in a real browser, as the person sees them who opens them."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from golden import ORDER
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Page, sync_playwright

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium to open JupyterLab in (Debian, Ubuntu: apt install chromium)"
)

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
NOTEBOOK = "window.jupyterapp?.shell.currentWidget"
IS_IDLE = f"{NOTEBOOK}?.sessionContext?.session?.kernel?.status === 'idle'"
CELLS = f"Array.from({NOTEBOOK}.content.model.cells, cell => cell.toJSON())"
FAILING = "%%sql\nselect * from no_such_table"


@pytest.fixture(scope="module")
def lab(shared_home: Path) -> Iterator[str]:
    """The address of a JupyterLab on a copy of the notebooks, with one that fails among them."""
    set_up = 'from mart_helpers.notebook import open_candidate\nmart = open_candidate("canary.duckdb")'
    cells = [new_code_cell(source) for source in (set_up, FAILING, "'not reached'")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    canary = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(canary, shared_home / "notebooks" / "canary.ipynb")
    options = ["--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token=canary"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options, "--LabApp.expose_app_in_browser=True"],
        cwd=shared_home,
        env=os.environ | {"JUPYTER_CONFIG_DIR": str(shared_home / "config")},
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in server.stderr:
        if found := re.search(r"http://(?:localhost|127.0.0.1):(\d+)/", line):
            break
    yield f"http://127.0.0.1:{found[1]}/lab/tree/notebooks"
    server.terminate()
    server.communicate(timeout=30)


@pytest.fixture(scope="module")
def page(lab: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield browser.new_page(viewport={"width": 1300, "height": 1500})
        browser.close()


def run_all(page: Page, lab: str, name: str) -> list[dict]:
    """Open a notebook, wait for its kernel, Run All; its code cells when the kernel is idle again."""
    page.goto(f"{lab}/{name}.ipynb?token=canary&reset")
    page.wait_for_function(IS_IDLE, timeout=120_000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    time.sleep(1)
    page.wait_for_function(IS_IDLE, timeout=120_000)
    return [cell for cell in page.evaluate(f"() => {CELLS}") if cell["cell_type"] == "code"]


def errors(cells: list[dict]) -> list[dict]:
    outputs = [output for cell in cells for output in cell["outputs"]]
    return [output for output in outputs if output["output_type"] == "error"]


@pytest.mark.parametrize("name", ORDER)
def test_run_all_in_jupyterlab_runs_every_cell_without_error(page, lab, name):
    cells = run_all(page, lab, name)
    assert errors(cells) == []
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_a_failing_sql_cell_shows_one_clear_error_in_jupyterlab_and_stops_the_run(page, lab):
    cells = run_all(page, lab, "canary")
    (error,) = errors(cells)
    assert error["evalue"].startswith("Table with name no_such_table does not exist!")
    assert cells[-1]["execution_count"] is None
    shown = page.locator(".jp-OutputArea-output").all_inner_texts()
    assert len(shown) == 1
    assert shown[0].startswith("QueryError: Table with name no_such_table does not exist!")
    assert "Traceback" not in shown[0]
