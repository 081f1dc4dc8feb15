"""Executed notebooks as pages, in a real browser too: what they show, and that they load nothing."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import nbformat
import plain
import pytest
from browsers import PATIENCE, heard_of, in_a_browser
from conftest import mart_command
from golden import assert_as_kept
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Browser, Page

from mart_helpers.errors import StateError
from mart_helpers.pages import write_pages, write_report

HOSTILE = {
    "P01": "<script>alert(1)</script>",
    "P02": "<img src=x onerror=alert(2)>",
    "P03": r"$\alpha$ and {{ 7 * 7 }} & &lt;",
    "P04": "[a link](http://localhost:1/) **bold**",
}
PROSE = """# Title & more

## Twice
[up](#Twice), [there](02_explore.ipynb#What-is-it%3F), [web](https://example.org/?a=1&b=2),
[file](../README.md), [note](02_explore), [evil](javascript:alert(1)), x

## Twice
![a map](pictures/star_schema.png) ![from afar](https://example.org/a.png)

| a | b |
|---|---|
| <b>1</b> | $x_1$ and $y_1$ |
"""
TABLE = """<table class="dataframe">
<thead><tr style="text-align: right;"><th>product_name</th><th>revenue</th></tr></thead>
<tbody>
<tr><td>Tea &lt;b&gt;</td><td>1,234.50</td></tr>
<tr><td>Filters</td><td>-0.2</td></tr>
</tbody>
</table>"""
DRAWING = """<svg xmlns="http://www.w3.org/2000/svg" width="40pt" height="30pt" onload="alert(1)">
<script>alert(2)</script><style>h1 { display: none }</style><image href="http://localhost:1/a.png"/></svg>"""
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

LATEST_YEARS = """
    with sales as (
        select
            fact_sales.*, date, customer_id, unit_cost,
            date_diff('month', month_start, max(month_start) over ()) // 12 as years_ago
        from fact_sales
        inner join dim_date using (date_key)
        inner join dim_customer using (customer_key)
        inner join dim_product using (product_key)
    )
    select
        sum(net_amount),
        count(distinct (coalesce(customer_id, sale_id), date)) filter (where quantity > 0),
        count(distinct customer_id) filter (where quantity > 0),
        100 * sum(net_amount - quantity * unit_cost) / sum(net_amount) filter (where unit_cost > 0),
        100 * sum(-quantity) filter (where quantity < 0) / sum(quantity) filter (where quantity > 0)
    from sales
    where years_ago < 2
    group by years_ago
    order by years_ago
"""


def shown(data: dict[str, str], **metadata: object) -> NotebookNode:
    return new_output("display_data", data=data, metadata=metadata)


OUTPUTS = [
    new_output("stream", text="\x1b[31m<b>red</b>\x1b[0m \x00\n"),
    shown({"text/html": TABLE, "text/plain": "a table"}),
    shown(
        {"image/png": PIXEL, "text/plain": "<chart: Tea>"},
        **{"image/png": {"alt": 'Tea "<b>"', "width": 8, "height": 8}},
    ),
    shown({"image/svg+xml": DRAWING, "text/plain": "<drawing>"}),
    shown({"text/plain": "<i>plain</i>", "application/javascript": "alert(1)"}),
    new_output("error", ename="ValueError", evalue="<b>", traceback=["\x1b[31mpath\x1b[0m"]),
]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A mart of one build, of which nothing else is asked."""
    path = tmp_path / "mart.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "create table build_log as select 3 as build_id, timestamp '2024-01-01 10:00' as built_at, "
            "2036 as rows_loaded, 1 as rows_quarantined, "
            "144870.02 as revenue_loaded, 0.5 as revenue_quarantined"
        )
    return path


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    """A notebook that has shown all kinds of outputs."""
    declared = new_code_cell('day: str = ""\ntop: int = 1\ndata_dir: str = "x"\nempty: str = ""')
    declared.metadata["tags"] = ["parameters"]
    query = new_code_cell("%%sql\nselect '<' as less", outputs=OUTPUTS)
    cells = [new_markdown_cell(PROSE), declared, query]
    for place, cell in enumerate(cells):
        cell.id = f"cell{place}"
    given = {"top": 12, "data_dir": "/somewhere", "day": "2024-01-01", "empty": ""}
    notebook = new_notebook(cells=cells, metadata={"papermill": {"parameters": given}})
    nbformat.write(notebook, tmp_path / "05_prose.ipynb")
    return tmp_path / "05_prose.ipynb"


def test_a_page_is_as_it_was_written_down(executed: Path, database: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "02_explore.html").touch()
    (page,) = write_pages([executed], tmp_path / "pages", database)
    text = page.read_text(encoding="utf-8")
    assert_as_kept("page.html", re.sub(r"(base64,)[A-Za-z0-9+/=]{200,}", r"\1…", text))
    write_pages([executed], tmp_path / "pages", database)
    assert page.read_text(encoding="utf-8") == text, "again the same bytes"


def test_code_is_folded_away_unless_it_is_to_be_shown(
    executed: Path, database: Path, tmp_path: Path
) -> None:
    (page,) = write_pages([executed], tmp_path, database)
    assert page.read_text().count("<details><summary>SQL") == 1
    (page,) = write_pages([executed], tmp_path, database, show_code=True)
    assert page.read_text().count('<details open=""><summary>SQL') == 1


# --- a real report ---


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
    run = Run(shared_home, done.stdout)
    write_pages(run.executed, run.page.parent, run.places[0], show_code=True)
    return run


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of the browser, which in the end has asked for nothing and complained of nothing."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    heard = heard_of(page)
    yield page
    page.close()
    assert [each for each in heard if not each.startswith(("data:", "file:"))] == []


def test_the_report_is_named_at_the_end_of_the_run(reported: Run, tmp_path: Path) -> None:
    assert reported.said.splitlines()[-1].split() == ["page", "data/pages/report.html"]
    assert reported.page.stat().st_size < 2_000_000
    again = write_report(reported.executed[::-1], tmp_path, *reported.places)
    assert again.read_bytes() == reported.page.read_bytes()
    assert str(reported.home) not in reported.page.read_text(encoding="utf-8")


@in_a_browser
def test_pages_fit_into_their_window_with_all_their_pictures(
    reported: Run, page: Page, subtests: pytest.Subtests
) -> None:
    for width in [1000, 360]:
        with subtests.test(str(width)):
            page.set_viewport_size({"width": width, "height": 900})
            pages = sorted(reported.page.parent.glob("*.html"))
            assert [each.stem for each in pages] == [
                "01_build",
                "02_explore",
                "03_export",
                "04_quality",
                "05_dashboard",
                "dashboard",
                "report",
            ]
            for each in pages:
                page.goto(each.as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") == width, each
                pictures = page.locator("img").evaluate_all(
                    "all => all.map(i => [i.alt, i.naturalWidth])"
                )
                assert all(alt and wide for alt, wide in pictures)
                assert bool(pictures) == (
                    each.stem in ("01_build", "02_explore", "05_dashboard", "report")
                )


@in_a_browser
def test_a_page_is_readable_in_the_dark(reported: Run, page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(reported.page.as_uri())
    look = "each => [getComputedStyle(each).color, getComputedStyle(document.body).backgroundColor]"
    ink, paper = ([int(n) for n in re.findall(r"\d+", c)] for c in page.locator("h1").evaluate(look))
    assert min(ink) > 180
    assert max(paper) < 60


@in_a_browser
def test_the_report_begins_with_figures_and_has_answers_in_words_and_no_code(
    reported: Run, page: Page, tmp_path: Path
) -> None:
    page.goto(reported.page.as_uri())
    titles = page.locator("h2").all_inner_texts()
    assert titles[0] == "The latest twelve months"
    charts = page.locator(".glance img").evaluate_all("all => all.map(each => each.alt)")
    assert charts == ["Revenue by month", "Revenue by category, country, segment", "Top products"]
    assert titles.index("Which products bring in the most?") < titles.index("What is in quarantine")
    assert page.locator("code, pre, details").count() == 0
    heads = page.locator("main th").all_inner_texts()
    assert {"growth, %", "units"} <= set(heads)
    assert not [head for head in heads if "_" in head]
    pdf = page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "14mm"))
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8


@in_a_browser
def test_the_first_figures_of_the_report_equal_sql(reported: Run, page: Page) -> None:
    with duckdb.connect(str(reported.places[0]), read_only=True) as mart:
        now, before = mart.execute(LATEST_YEARS).fetchall()
    page.goto(reported.page.as_uri())
    tables = page.locator(".glance table")
    assert tables.nth(0).locator("td").all_inner_texts()[:2] == [
        "Jan 2024 – Dec 2024",
        "Jan 2023 – Dec 2023",
    ]
    rows = [row.split("\t") for row in tables.nth(1).locator("tr").all_inner_texts()]
    assert rows[0] == ["figure", "latest months", "a year before", "change", "meaning"]
    shown = {name: tuple(texts) for name, *texts, _ in rows[1:]}
    for name, place in (("revenue", 0), ("orders", 1), ("customers", 2)):
        change = f"{100 * (float(now[place]) / float(before[place]) - 1):+.1f} %"
        assert shown[name] == (f"{now[place]:,.0f}", f"{before[place]:,.0f}", change)
    assert shown["margin"][:2] == (f"{now[3]:.1f} %", f"{before[3]:.1f} %")
    assert shown["return rate"][2] == f"{now[4] - before[4]:+.1f} points"


@in_a_browser
def test_the_contents_lead_to_every_section_of_the_report(reported: Run, page: Page) -> None:
    page.goto(reported.page.as_uri())
    contents = page.locator("nav a").all_inner_texts()
    assert contents[:-1] == page.locator("main h2").all_inner_texts()
    dead = "links => links.map(a => a.hash).filter(h => !document.getElementById(decodeURI(h).slice(1)))"
    assert page.locator("a").evaluate_all(dead) == []
    ids = page.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert len(ids) == len(set(ids))
    page.locator("nav a", has_text="Which products bring in the most?").click()
    place = "document.getElementById(decodeURI(location.hash).slice(1)).getBoundingClientRect().top"
    assert 0 <= page.evaluate(place) < 50


@in_a_browser
def test_links_lead_to_the_pages_beside_a_page_and_are_words_without_them(
    reported: Run, page: Page, tmp_path: Path
) -> None:
    (alone,) = write_pages(reported.executed[1:2], tmp_path, reported.places[0])
    page.goto(alone.as_uri())
    assert page.locator("article a").count() == 0
    assert "Next: 03 · Export the mart" in page.locator("article").inner_text()
    page.goto((reported.page.parent / "02_explore.html").as_uri())
    page.locator("article a").click()
    assert page.url == (reported.page.parent / "03_export.html").as_uri()
    assert page.locator("h1").inner_text() == "03 · Export the mart"


@in_a_browser
def test_hostile_text_in_the_data_is_text(reported: Run, page: Page) -> None:
    page.goto(reported.page.as_uri())
    assert set(HOSTILE.values()) <= set(page.locator("td").all_inner_texts())
    assert page.locator("script, td img, td a, td strong").count() == 0


@in_a_browser
def test_the_head_says_which_build_is_shown_with_what_values_and_what_the_checks_say(
    reported: Run, page: Page
) -> None:
    page.goto(reported.page.as_uri())
    names, values = page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts()
    figures = dict(zip(names, values, strict=True))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", figures.pop("Built (UTC)"))
    aside = figures.pop("Revenue in quarantine")
    revenue, unknown = plain.revenue_set_aside()
    assert aside == f"{revenue:,.2f} in rows that can be read, and {unknown} rows of unknown amount"
    assert figures == {
        "Mart": "mini_data_mart.duckdb",
        "Build": "1",
        "Rows loaded": f"{plain.rows_loaded():,}",
        "Rows in quarantine": f"{plain.rows_set_aside()}",
        "Revenue loaded": f"{sum(sale['revenue'] for sale in plain.sales()):,.2f}",
        "Top n": "12",
    }
    assert re.match(r"▲ WARN 4 warnings: ", page.locator(".verdict").inner_text())


@in_a_browser
def test_a_drawing_runs_nothing_and_numbers_stand_at_the_right(
    executed: Path, database: Path, page: Page, tmp_path: Path
) -> None:
    (written,) = write_pages([executed], tmp_path, database)
    page.goto(written.as_uri())
    assert page.locator("svg, script").count() == 0
    assert page.locator("h1").is_visible()
    sizes = page.locator(".wide img").evaluate_all("all => all.map(i => [i.alt, i.naturalWidth])")
    assert sizes == [['Tea "<b>"', 1], ["<drawing>", 53]]
    sides = "cells => cells.map(cell => getComputedStyle(cell).textAlign === 'right')"
    assert page.locator(".wide th, .wide td").evaluate_all(sides) == [False, True] * 3


def test_a_run_that_fails_leaves_the_page_of_the_last_good_one(reported: Run) -> None:
    page = reported.page.parent / "04_quality.html"
    page.write_text("good", encoding="utf-8")
    failed = mart_command("quality", "--html", "--as-of-date", "2030-01-01", "--fail-on", "warn")
    assert failed.returncode == 1
    assert page.read_text(encoding="utf-8") == "good"


def test_a_folder_of_pages_that_cannot_be_is_named_and_left_alone(
    executed: Path, database: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "pages"
    taken.write_text("mine")
    with pytest.raises(StateError, match="pages cannot be written to: "):
        write_pages([executed], taken, database)
    assert taken.read_text() == "mine"


def test_explore_prints_the_headline_figures_and_opens_its_page(reported: Run, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BROWSER", str(browser))
        done = mart_command("explore", "--open", "--start-date", "2024-01-01", "--currency", "EUR")
    said = done.stdout.splitlines()
    assert re.fullmatch(r" +revenue 99,771\.21, 18\.3 % more than a year before", said[1])
    assert re.fullmatch(r" +return rate 0\.71 %", said[5])
    assert said[-1].split() == ["page", "data/pages/02_explore.html"]
    page = reported.home / "data" / "pages" / "02_explore.html"
    assert (tmp_path / "opened").read_text().strip() == page.as_uri()
    assert "Currency</dt><dd>EUR" in page.read_text(encoding="utf-8")


def test_open_without_a_browser_says_where_the_page_is(reported: Run, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", str(tmp_path))  # which holds no browser
        environment.delenv("BROWSER", raising=False)
        environment.delenv("DISPLAY", raising=False)
        done = mart_command("dashboard", "--open")
    assert done.returncode == 0
    said = "mart: --open found no browser. Open data/pages/dashboard.html in one."
    assert done.stderr.splitlines()[-1] == said
