"""The notebooks in a real JupyterLab in a real browser, as the person sees them who opens them."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from browsers import PATIENCE, in_a_browser
from conftest import CHECKOUT, code_cells, query
from golden import ORDER
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from playwright.sync_api import Browser, ConsoleMessage, Page

pytestmark = in_a_browser

NOTEBOOK = "window.jupyterapp?.shell.currentWidget"
IS_IDLE = f"{NOTEBOOK}?.sessionContext?.session?.kernel?.status === 'idle'"
CELLS = f"Array.from({NOTEBOOK}.content.model.cells, cell => cell.toJSON())"
OPENED = "window.jupyterapp.shell.currentWidget"
STAR = "document.querySelector('.jp-RenderedImage img')"  # the only picture of 01_build
FAILING = "%%sql\nselect * from no_such_table"


@pytest.fixture(scope="module")
def lab(shared_home: Path, shared_mart: Path) -> Iterator[str]:
    """The address of a JupyterLab on a copy of the notebooks, with one that fails among them."""
    set_up = 'from mart_helpers.mart import open_candidate\nmart = open_candidate("canary.duckdb")'
    cells = [new_code_cell(source) for source in (set_up, FAILING, "'not reached'")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    canary = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(canary, shared_home / "notebooks" / "canary.ipynb")
    offer = "%%sql\nselect '$5 off $20, \\(20\\)' as name"
    cells = [
        new_code_cell(set_up.replace("canary", "offer")),
        new_code_cell(offer),
        new_markdown_cell("$x$"),
    ]
    offer = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(offer, shared_home / "notebooks" / "offer.ipynb")
    options = ["--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token=canary"]
    log = shared_home / "lab.log"
    with log.open("w") as stderr:
        server = subprocess.Popen(
            [sys.executable, *make_lab(), *options, "--LabApp.expose_app_in_browser=True"],
            cwd=shared_home,
            env=os.environ | {"JUPYTER_CONFIG_DIR": str(shared_home / "config")},
            stderr=stderr,
        )
    while not (found := re.search(r"http://(?:localhost|127.0.0.1):(\d+)/", log.read_text())):
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    wait_for_connection(int(found[1]))
    yield f"http://127.0.0.1:{found[1]}/lab/tree/notebooks"
    server.terminate()
    server.wait()


def make_lab() -> list[str]:
    """What `make lab` gives to Python."""
    make = ["make", "--no-print-directory", "--dry-run", "lab"]
    told = subprocess.run(make, cwd=CHECKOUT, capture_output=True, text=True)
    _, *words = shlex.split(told.stdout.splitlines()[-1])
    return [word.replace("settings_dir=", f"settings_dir={CHECKOUT}/") for word in words]


def wait_for_connection(port: int) -> None:
    """Wait until the server listens, which it says a moment before it does."""
    end = time.monotonic() + 120
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="module")
def its_page(browser: Browser) -> Page:
    page = browser.new_page(viewport={"width": 1300, "height": 1500})
    page.set_default_timeout(PATIENCE)
    return page


@pytest.fixture
def page(its_page: Page, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """A page of the browser; after a failure there is a picture of it, after a success no complaint."""
    complaints: list[str] = []

    def complain(message: ConsoleMessage | Exception) -> None:
        if not isinstance(message, ConsoleMessage):
            complaints.append(str(message))
        elif message.type == "error":
            complaints.append(message.text)

    its_page.on("console", complain)
    its_page.on("pageerror", complain)
    failed_before = request.session.testsfailed
    yield its_page
    its_page.remove_listener("console", complain)
    its_page.remove_listener("pageerror", complain)
    if complaints or request.session.testsfailed > failed_before:
        its_page.screenshot(path=tmp_path / "failed.png")
        print(f"what the browser showed: {tmp_path / 'failed.png'}")
    assert complaints == []


def open_alone(page: Page, lab: str, name: str) -> None:
    """Open a notebook as the only one, and wait for its kernel."""
    page.goto(f"{lab}/{name}.ipynb?token=canary&reset")
    page.wait_for_function(IS_IDLE)


def open_beside(page: Page, name: str) -> None:
    """Open a notebook in a tab of its own, or go to the tab that has it, and wait for its kernel."""
    path = f"notebooks/{name}.ipynb"
    page.evaluate(
        "path => { window.jupyterapp.commands.execute('docmanager:open', { path: path }) }", path
    )
    page.wait_for_function(f"{NOTEBOOK}?.context?.path === '{path}' && {IS_IDLE}")


def step(page: Page) -> dict:
    """Run the selected cell as Shift-Enter does, which selects the next; the cell when it has run."""
    number = page.evaluate(f"() => {OPENED}.content.activeCellIndex")
    page.evaluate(
        "async () => { await window.jupyterapp.commands.execute('notebook:run-cell-and-select-next') }"
    )
    page.wait_for_function(IS_IDLE)
    return page.evaluate(f"() => {OPENED}.content.model.cells.get({number}).toJSON()")


def select(page: Page, number: int) -> None:
    page.evaluate(f"() => {{ {OPENED}.content.activeCellIndex = {number} }}")


def run_opened(page: Page) -> list[dict]:
    """Clear the outputs and Run All; the code cells when the kernel is idle again."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(IS_IDLE)
    return [cell for cell in page.evaluate(f"() => {CELLS}") if cell["cell_type"] == "code"]


def run_all(page: Page, lab: str, name: str) -> list[dict]:
    """Open a notebook, wait for its kernel, Run All; its code cells when the kernel is idle again."""
    open_alone(page, lab, name)
    return run_opened(page)


def shown(cells: list[dict]) -> list[str]:
    """The texts that cells show, in order."""
    outputs = [output for cell in cells for output in cell["outputs"]]
    texts = [output.get("data", {}).get("text/plain", output.get("text", "")) for output in outputs]
    return ["".join(text) for text in texts]


def errors(cells: list[dict]) -> list[dict]:
    outputs = [output for cell in cells for output in cell["outputs"]]
    return [output for output in outputs if output["output_type"] == "error"]


def test_the_first_notebook_is_opened_and_nothing_stands_before_it(page, lab):
    page.goto(f"{lab.partition('/lab')[0]}/?token=canary")
    page.wait_for_function(f"{NOTEBOOK}?.context?.path === 'notebooks/01_build.ipynb'")
    page.wait_for_function(IS_IDLE)
    files = page.locator(".jp-DirListing-itemText").all_inner_texts()
    assert [file for file in files if "." in file and not file.endswith(".ipynb")] == []
    assert "01_build.ipynb" in files
    assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0


def assert_all_ran(cells: list[dict]) -> None:
    assert errors(cells) == []
    first = cells[0]["execution_count"]
    assert [cell["execution_count"] for cell in cells] == list(range(first, first + len(cells)))


def test_run_all_in_jupyterlab_runs_every_cell_without_error(page, lab, subtests):
    first, *others = ORDER[2:]  # for 01_build and 02_explore, see below
    assert_all_ran(run_all(page, lab, first))
    for name in others:
        with subtests.test(name):
            open_beside(page, name)
            assert_all_ran(run_opened(page))


def test_the_star_is_drawn_before_the_notebook_is_run_and_trusted(page, lab, shared_home):
    notebook = nbformat.read(shared_home / "notebooks" / "02_explore.ipynb", as_version=4)
    notebook.cells.append(new_markdown_cell(str(shared_home)))  # so nobody has trusted it before
    nbformat.write(notebook, shared_home / "notebooks" / "opened.ipynb")
    open_alone(page, lab, "opened")
    assert not any(page.evaluate(f"() => Array.from({OPENED}.content.model.cells, c => c.trusted)"))
    select(page, next(n for n, cell in enumerate(notebook.cells) if cell.source == "draw_star(mart)"))
    page.evaluate(
        "async () => { await window.jupyterapp.commands.execute('notebook:enter-command-mode') }"
    )
    page.wait_for_function(f"() => {STAR}?.naturalWidth > 0")


def test_a_failing_sql_cell_shows_one_clear_error_in_jupyterlab_and_stops_the_run(page, lab):
    cells = run_all(page, lab, "canary")
    (error,) = errors(cells)
    assert error["evalue"].startswith("Table with name no_such_table does not exist!")
    assert cells[-1]["execution_count"] is None
    shown = page.locator(".jp-OutputArea-output").all_inner_texts()
    assert len(shown) == 1
    assert shown[0].startswith("QueryError: Table with name no_such_table does not exist!")
    assert "Traceback" not in shown[0]


def test_an_offer_in_a_name_is_no_formula_in_jupyterlab(page, lab):
    cells = run_all(page, lab, "offer")
    assert errors(cells) == []
    page.wait_for_function("() => document.querySelectorAll('mjx-container').length")
    formulas = page.locator("mjx-container").count()
    assert page.locator("table.dataframe td").all_inner_texts() == [r"$5 off $20, \(20\)"]
    assert formulas == 1, "that of the prose"


def test_stepping_through_the_build_cell_by_cell_runs_each_once(page, lab):
    open_alone(page, lab, "01_build")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    select(page, 0)
    cells = [step(page) for _ in range(page.evaluate(f"() => {OPENED}.content.model.cells.length"))]
    stepped = [cell for cell in cells if cell["cell_type"] == "code"]
    assert_all_ran(stepped)
    assert len(stepped) == len(code_cells("01_build"))


def test_an_edited_extract_changes_the_figures_after_the_next_build_and_not_before(
    page, lab, shared_home
):
    cells = run_all(page, lab, "02_explore")
    assert_all_ran(cells)
    before = shown(cells)
    sales = shared_home / "inputs" / "fact_sales.csv"
    *others, newest = sales.read_text().splitlines(keepends=True)  # closed months may not change
    *fields, _, discount = newest.split(",")
    sales.write_text("".join([*others, ",".join([*fields, "99.99", discount])]))
    assert shown(run_opened(page)) == before, "nothing has been built"

    open_beside(page, "01_build")
    cells = run_opened(page)
    assert_all_ran(cells)
    changed = next(text for text in shown(cells) if "rows_before" in text)
    rows = {line.split()[0]: line.split()[1:6] for line in changed.splitlines()[1:]}
    assert rows["fact_sales"][-1] == "1", changed

    open_beside(page, "02_explore")
    assert "The mart has been rebuilt since this notebook opened it" in shown([run_last(page)])[-1]
    after = shown(run_opened(page))
    (revenue,) = query(
        shared_home / "data" / "mini_data_mart.duckdb", "select sum(net_amount) from fact_sales"
    )[0]
    assert after != before
    assert f"{revenue:,.2f}" in " ".join(after)
    assert f"{revenue:,.2f}" not in " ".join(before)


def run_last(page: Page) -> dict:
    """Run the last code cell of the opened notebook."""
    cells = page.evaluate(f"() => {CELLS}")
    select(page, max(number for number, cell in enumerate(cells) if cell["cell_type"] == "code"))
    return step(page)


# of each code cell that is drawn: what it should be highlighted as, what it is, and the parts in colour
HIGHLIGHTED = """
Array.from(document.querySelectorAll('.jp-CodeCell .cm-content'))
    .filter(editor => editor.textContent)
    .map(editor => [
        editor.textContent.startsWith('%%sql') ? 'sql' : 'python',
        editor.dataset.language,
        Array.from(editor.querySelectorAll('span'), span => span.textContent),
    ])
"""


def test_sql_cells_are_highlighted_as_sql_and_python_cells_as_python(page, lab):
    open_alone(page, lab, "02_explore")
    page.wait_for_selector(".cm-content[data-language=sql] .cm-line span")
    is_settled = "every(([expected, found, parts]) => expected === found && parts.length)"
    page.wait_for_function(f"() => {HIGHLIGHTED.strip()}.{is_settled}")
    drawn = page.evaluate(f"() => {HIGHLIGHTED.strip()}")
    assert {language for _, language, _ in drawn} == {"sql", "python"}
    for _, language, parts in drawn:
        assert language == "python" or {"select", "set"} & set(parts)
