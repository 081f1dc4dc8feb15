"""Executed notebooks as pages, in a real browser: what they show, and that they load and run nothing."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from conftest import mart_command
from playwright.sync_api import Browser, Page, sync_playwright
from test_jupyterlab import BROWSER, QUIET
from test_running import write_notebook

from mart_helpers.pages import write_pages, write_report
from mart_helpers.run import new_run_folder, run_notebook

in_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium to open the page in (Debian, Ubuntu: apt install chromium)"
)
NAMES = ["01_build", "02_explore", "03_export", "04_quality"]
HOSTILE = {
    "P01": "<script>alert(1)</script>",
    "P02": "<img src=x onerror=alert(2)>",
    "P03": r"$\alpha$ and {{ 7 * 7 }} & &lt;",
    "P04": "[a link](http://localhost:1/) **bold**",
}


@dataclass(frozen=True)
class Run:
    """A home in which `report` has run on hostile names: what it said, its page, its notebooks."""

    home: Path
    said: str

    @property
    def page(self) -> Path:
        return self.home / "data" / "pages" / "report.html"

    @property
    def executed(self) -> list[Path]:
        return sorted((self.home / "data" / "runs").glob("*-report/*.ipynb"))

    @property
    def places(self) -> tuple[Path, Path]:
        """The mart and the JSON of the quality report."""
        data = self.home / "data"
        return data / "mini_data_mart.duckdb", data / "quality" / "quality_report.json"


@pytest.fixture(scope="module")
def reported(shared_home: Path) -> Run:
    products = shared_home / "inputs" / "dim_product.csv"
    with products.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with products.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"product_name": HOSTILE.get(row["product_id"], "tea")} for row in rows)
    done = mart_command("report", "--top-n", "12", cwd=shared_home)
    assert done.returncode == 0, done.stderr
    return Run(shared_home, done.stdout)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Opened:
    """A page in the browser, with what it asked for and what it complained of while it was opened."""

    page: Page
    requests: list[str]
    complaints: list[str]


@pytest.fixture
def open_page(browser: Browser):
    """Opens a file, `width` pixels wide."""
    opened = []

    def open_file(path: Path, width: int = 1000) -> Opened:
        page = browser.new_page(viewport={"width": width, "height": 900})
        opened.append(page)
        found = Opened(page, [], [])
        page.route("**/*", lambda route: route.continue_())
        page.on("request", lambda request: found.requests.append(request.url))
        page.on("console", lambda message: found.complaints.append(message.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (found.complaints.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri(), wait_until="networkidle")
        return found

    yield open_file
    for page in opened:
        page.close()


@pytest.fixture(scope="module")
def pages(reported: Run) -> list[Path]:
    """A page of each notebook, with its code, where all the others have a page too."""
    folder = reported.home / "shown"
    return write_pages(reported.executed, folder, reported.places[0], show_code=True)


def test_the_report_is_named_at_the_end_of_the_run(reported):
    assert reported.said.splitlines()[-1] == "page        data/pages/report.html"
    assert reported.page.stat().st_size < 2_000_000


@in_browser
@pytest.mark.parametrize("width", [1000, 500])
@pytest.mark.parametrize("name", ["report", *NAMES])
def test_a_page_asks_for_nothing_complains_of_nothing_and_fits(reported, pages, open_page, name, width):
    path = reported.page if name == "report" else reported.home / "shown" / f"{name}.html"
    opened = open_page(path, width)
    asked = [url for url in opened.requests if not url.startswith("data:")]
    assert asked == [path.as_uri()]
    assert opened.complaints == []
    widths = opened.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths == [width, width]
    pictures = opened.page.locator("img").evaluate_all("all => all.map(i => [i.alt, i.naturalWidth])")
    assert all(alt and wide for alt, wide in pictures)
    assert bool(pictures) == (name != "03_export")


@in_browser
def test_the_contents_lead_to_every_notebook_and_section_of_the_report(reported, open_page):
    page = open_page(reported.page).page
    contents = page.locator("nav a").all_inner_texts()
    assert contents == page.locator("article h2, article h3").all_inner_texts()
    titles = page.locator("nav > ul > li > a").all_inner_texts()
    assert [title[:2] for title in titles] == ["01", "02", "03", "04"]
    assert len(contents) > 25
    dead = "links => links.map(a => a.hash).filter(h => !document.getElementById(decodeURI(h).slice(1)))"
    assert page.locator("a").evaluate_all(dead) == []
    ids = page.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert len(ids) == len(set(ids))
    page.locator("nav a", has_text="Which products bring in the most?").click()
    place = "document.getElementById(decodeURI(location.hash).slice(1)).getBoundingClientRect().top"
    assert 0 <= page.evaluate(place) < 50


@in_browser
def test_links_between_notebooks_stay_on_the_report(reported, open_page):
    page = open_page(reported.page).page
    links = page.locator("article a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert links == ["#02_explore", "#03_export", "#04_quality", "#02_explore"]


@in_browser
def test_links_of_a_page_lead_to_the_pages_beside_it_and_are_words_without_them(
    reported, pages, open_page, tmp_path
):
    explore = reported.executed[1]
    (alone,) = write_pages([explore], tmp_path, reported.places[0])
    assert open_page(alone).page.locator("article a").count() == 0
    assert "Next: 03 · Export the mart" in open_page(alone).page.locator("article").inner_text()
    page = open_page(pages[1]).page
    page.locator("article a").click()
    assert page.url == f"{pages[2].as_uri()}#03_export"
    assert page.locator("h1").inner_text() == "03 · Export the mart"


def test_code_is_on_a_page_only_where_it_is_asked_for(reported, pages):
    with_code = [page.read_text(encoding="utf-8") for page in pages]
    assert all("open_mart" in page or "open_candidate" in page for page in with_code)
    assert '<span class="k">select</span>' in with_code[1]
    report = reported.page.read_text(encoding="utf-8")
    assert not re.search("open_mart|open_candidate|%%sql|top_n: int", report)
    database, quality = reported.places
    shown = write_report(reported.executed, reported.home / "shown", database, quality, show_code=True)
    assert '<span class="k">select</span>' in shown.read_text(encoding="utf-8")


@in_browser
def test_hostile_text_in_the_data_is_text(reported, open_page):
    opened = open_page(reported.page)
    cells = opened.page.locator("td").all_inner_texts()
    assert set(HOSTILE.values()) <= set(cells)
    assert opened.page.locator("script, td img, td a, td strong").count() == 0
    assert opened.complaints == []


@in_browser
def test_the_head_says_which_build_is_shown_with_what_values_and_what_the_checks_say(
    reported, open_page
):
    page = open_page(reported.page).page
    figures = dict(
        zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True)
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", figures.pop("Built (UTC)"))
    assert figures == {
        "Mart": "mini_data_mart.duckdb",
        "Build": "1",
        "Rows loaded": "2,036",
        "Rows in quarantine": "0",
        "Revenue loaded": "144,870.02",
        "Revenue in quarantine": "0.00",
        "top_n": "12",
    }
    assert page.locator(".verdict").inner_text() == "✓ PASS All 39 checks passed."
    assert str(reported.home) not in page.content()


def test_the_head_gives_values_in_the_order_of_the_parameters(reported, tmp_path):
    executed = next(path for path in reported.executed if path.stem == "02_explore")
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.papermill.parameters = {"end_date": "2024-03-31", "start_date": "2024-01-01"}
    nbformat.write(notebook, tmp_path / "02_explore.ipynb")
    (page,) = write_pages([tmp_path / "02_explore.ipynb"], tmp_path, reported.places[0])
    assert re.findall(r"\w+_date(?=</dt>)", page.read_text()) == ["start_date", "end_date"]


@in_browser
def test_numbers_stand_at_the_right_below_their_names(reported, open_page):
    page = open_page(reported.page).page
    table = page.locator("table", has_text="running_pct").first
    sides = "cells => cells.map(cell => getComputedStyle(cell).textAlign === 'right')"
    expected = [False, False, True, True, True, True]
    assert table.locator("thead th").evaluate_all(sides) == expected
    assert table.locator("tbody tr").first.locator("td").evaluate_all(sides) == expected


def test_the_same_notebooks_give_the_same_bytes(reported, tmp_path):
    again = write_report(reported.executed[::-1], tmp_path, *reported.places)
    assert again.read_bytes() == reported.page.read_bytes()


PROSE = """# Title & more

## Twice
[up](#Twice), [there](02_explore.ipynb#What-is-it%3F), [web](https://example.org/?a=1&b=2),
[file](../README.md), [note](02_explore), [evil](javascript:alert(1)), x

## Twice
![a star](pictures/star_schema.png) ![a map](pictures/weekday_revenue.png)
![from afar](https://example.org/a.png)

| a | b |
|---|---|
| <b>1</b> | $x_1$ and $y_1$ |
"""


def test_prose_keeps_its_pictures_tables_and_those_links_that_lead_somewhere(reported, pages, tmp_path):
    write_notebook(tmp_path / "05_prose.ipynb", PROSE)
    (page,) = write_pages([tmp_path / "05_prose.ipynb"], reported.home / "shown", reported.places[0])
    text = page.read_text(encoding="utf-8").partition("<main")[2]
    assert re.findall('href="(.*?)"', text) == [
        "#05_prose-twice",
        "02_explore.html#02_explore-what-is-it",
        "https://example.org/?a=1&amp;b=2",
    ]
    assert re.findall("<h2.*?>", text) == ['<h2 id="05_prose-twice">', '<h2 id="05_prose-twice-2">']
    assert re.findall('<img src="(.*?),.*?" alt="(.*?)"', text) == [
        ("data:image/png;base64", "a star"),
        ("data:image/png;base64", "a map"),
    ]
    assert "from afar" in text
    assert re.findall("<td>(.*?)</td>", text) == ["<b>1</b>", "$x_1$ and $y_1$"]
    assert "<title>Title &amp; more</title>" in page.read_text(encoding="utf-8")


OUTPUTS = """
from IPython.display import HTML, display
print("\\x1b[31m<b>red</b>\\x1b[0m \\x00")
display(HTML("<p>no<br/>XML</p>"))
display({"text/plain": "<i>plain</i>", "application/javascript": "alert(1)"}, raw=True)
"""


def test_what_cells_print_is_text_on_a_page(reported):
    write_notebook(reported.home / "notebooks" / "06_outputs.ipynb", "# Outputs", "n: int = 1", OUTPUTS)
    run = run_notebook("06_outputs", {}, new_run_folder(reported.home / "other", "build"))
    (page,) = write_pages([run], reported.home / "shown", reported.places[0])
    text = page.read_text(encoding="utf-8")
    assert '<pre class="output">&lt;b&gt;red&lt;/b&gt; �\n</pre>' in text
    assert "<p>no<br/>XML</p>" in text
    assert '<pre class="output">&lt;i&gt;plain&lt;/i&gt;</pre>' in text
    assert "<script" not in text


PICTURE = """
from IPython.display import SVG

SVG('''<svg xmlns="http://www.w3.org/2000/svg" width="40pt" height="30pt" id="06_drawing"
 onload="alert(1)"><script>alert(2)</script><style>h1 { display: none }</style><image href="http://localhost:1/a.png"/>
<text><![CDATA[</svg>"><script>alert(3)</script>]]></text></svg>''')
"""
STAR = """
from pathlib import Path

import duckdb

from mart_helpers.session import Session
from mart_helpers.star import draw_star

mart = Session(duckdb.connect(), Path(), {})
_ = mart.connection.execute('create table "dim_<script>alert(4)</script>" as select 1 as "<img src=x>"')
draw_star(mart)
"""


@in_browser
def test_a_drawing_is_a_picture_on_a_page_whatever_it_holds(reported, open_page):
    cells = ("# Drawings", "n: int = 1", PICTURE, STAR, STAR)
    write_notebook(reported.home / "notebooks" / "06_drawing.ipynb", *cells)
    run = run_notebook("06_drawing", {}, new_run_folder(reported.home / "drawn", "build"))
    (page,) = write_pages([run], reported.home / "shown", reported.places[0])
    opened = open_page(page)
    assert [url for url in opened.requests if not url.startswith("data:")] == [page.as_uri()]
    assert opened.complaints == []
    assert opened.page.locator("svg, script").count() == 0
    assert opened.page.locator("h1").is_visible()
    shown = "all => all.map(i => [i.alt, i.naturalWidth, i.naturalHeight])"
    odd, star, again = opened.page.locator("img").evaluate_all(shown)
    assert odd == ["<IPython.core.display.SVG object>", 53, 40]
    assert star == again
    assert star[0] == "Star schema"
    assert min(star[1:]) > 100


def test_a_run_that_fails_leaves_the_page_of_the_last_good_one(reported):
    page = reported.home / "data" / "pages" / "04_quality.html"
    page.write_text("good", encoding="utf-8")
    late = ["--as-of-date", "2030-01-01", "--fail-on"]
    failed = mart_command("quality", "--html", *late, "warn")
    assert failed.returncode == 1
    assert page.read_text(encoding="utf-8") == "good"
    passed = mart_command("quality", "--html", "--show-code", *late, "error")
    assert passed.returncode == 0
    assert passed.stdout.splitlines()[-1] == "page      data/pages/04_quality.html"
    text = page.read_text(encoding="utf-8")
    assert "last_sale_is_recent" in text
    assert '<div class="highlight' in text


def test_a_folder_of_pages_that_cannot_be_is_named_and_left_alone(reported):
    taken = reported.home / "elsewhere" / "pages"
    taken.parent.mkdir()
    taken.write_text("mine")
    done = mart_command("explore", "--html", "--data-dir", taken.parent)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("mart: elsewhere/pages cannot be written to: ")
    assert taken.read_text() == "mine"
