"""The star schema as a picture: what it shows, whatever the names, without the library of charts."""

import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pytest
from conftest import CHECKOUT
from IPython.core.formatters import DisplayFormatter
from playwright.sync_api import Page, sync_playwright
from test_charts import PNG, assert_no_words_overlap, assert_nothing_is_clipped, texts
from test_jupyterlab import BROWSER, QUIET

from mart_helpers.charts import as_chart
from mart_helpers.session import Session
from mart_helpers.sketches import draw_workflow
from mart_helpers.sketching import Box, Line, Sketch, monospaced_width
from mart_helpers.star import draw_star

STAR = """
    create table dim_date as select 20240101 as date_key, date '2024-01-01' as date;
    create table dim_product as select range::integer as product_key, 'P' as product_id from range(3);
    create table dim_customer (customer_key integer, customer_name varchar);
    create table fact_sales as
    select
        'S' || range as sale_id,
        20240101 as date_key,
        0 as customer_key,
        0 as product_key,
        1.5::decimal(18, 4) as net_amount
    from range(1200);
    create table build_log (build_id integer);
    create schema contract;
    create table contract.dim_region (region_key integer);
"""
LONG = f"create table dim_{'x' * 60} as select 1 as {'W' * 90};"
# the longest line of one is the count of its rows, that of the other is its name
SMALL = f"""
    create table fact_a as select range as a from range(10_000_000);
    create table dim_{"x" * 60} as select 1 as a;
"""
SVG = "{http://www.w3.org/2000/svg}"

OpenStar = Callable[[str], Session]


@pytest.fixture
def open_star(tmp_path: Path) -> Iterator[OpenStar]:
    """Makes a DuckDB file from SQL and opens it read-only, as `02_explore` does."""
    opened = []

    def make(sql: str) -> Session:
        path = tmp_path / "mart.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute(sql)
        opened.append(Session(duckdb.connect(str(path), read_only=True), path, {}))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    if BROWSER is None:
        pytest.skip("no Chromium to open the picture in (Debian, Ubuntu: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield browser.new_page()
        browser.close()


def words(sketch: Sketch) -> list[str]:
    """All texts of the SVG, in the order of the file, the title first."""
    return [text.text for text in ElementTree.fromstring(sketch.svg).iter(f"{SVG}text")]


def arrows(sketch: Sketch) -> list[Line]:
    return [mark for mark in sketch.marks if isinstance(mark, Line)]


def sides(box: Box) -> tuple[float, float]:
    """Where the left and the right edge of a box are."""
    return box.left, box.left + box.width


def test_the_star_shows_tables_rows_columns_types_and_keys(open_star: OpenStar) -> None:
    found = words(draw_star(open_star(STAR)))
    assert {"fact_sales", "dim_date", "dim_product", "dim_customer"} <= set(found)
    assert {"1,200 rows", "1 row", "3 rows", "0 rows"} <= set(found)
    assert {"net_amount", "decimal(18,4)"} <= set(found)
    assert (found.count("PK"), found.count("FK")) == (3, 3)
    assert not {"build_log", "dim_region"} & set(found)


def test_arrows_lead_from_each_foreign_key_to_its_dimension(open_star: OpenStar) -> None:
    sketch = draw_star(open_star(STAR))
    marks = [(mark.text, mark.y) for mark in sketch.marks if not isinstance(mark, Box | Line)]
    starts, ends = zip(*[(line.points[0], line.points[-1]) for line in arrows(sketch)], strict=True)
    assert sorted(y for _, y in starts) == [y for text, y in marks if text == "FK"]
    assert sorted(y for _, y in ends) == sorted(y for text, y in marks if text == "PK")
    edges = [edge for mark in sketch.marks if isinstance(mark, Box) for edge in sides(mark)]
    for (start, _), (end, _) in zip(starts, ends, strict=True):
        assert {start, end} <= set(edges)
        # it crosses no table
        assert not [edge for edge in edges if min(start, end) < edge < max(start, end)]


def test_an_arrow_has_its_head_at_the_dimension(open_star: OpenStar) -> None:
    sketch = draw_star(open_star(STAR))
    heads = ElementTree.fromstring(sketch.svg).findall(f"{SVG}polygon")
    tips = [tuple(map(float, head.get("points").split()[0].split(","))) for head in heads]
    ends = [pytest.approx(line.points[-1], abs=0.01) for line in arrows(sketch)]
    assert tips == ends
    assert len(tips) == 3


def test_a_dimension_that_no_fact_uses_has_no_arrow(open_star: OpenStar) -> None:
    mart = open_star(
        "create table fact_visit (visit_id integer); create table dim_shop (shop_key integer)"
    )
    assert arrows(draw_star(mart)) == []


def test_two_facts_may_share_a_dimension(open_star: OpenStar) -> None:
    mart = open_star(STAR + "create table fact_returns (return_id integer, date_key integer);")
    assert len(arrows(draw_star(mart))) == 4


def test_a_file_without_a_star_gives_a_sentence(open_star: OpenStar) -> None:
    sketch = draw_star(open_star("create table build_log (build_id integer)"))
    assert words(sketch) == ["Star schema", "no tables named dim_… or fact_…"]


HOSTILE = [
    "<script>alert(1)</script>",
    "</text></svg><img src=x onerror=alert(2)>",
    "&lt; & \"quoted\" 'too' ]]> <!-- -->",
    "  blanks   within ",
    "$5 \\frac $6 {{ 7 * 7 }}",
    "珈琲 قهوة ☕ e\u0301",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_in_the_picture_whatever_it_holds(open_star: OpenStar, name: str) -> None:
    quoted = name.replace('"', '""')
    sketch = draw_star(open_star(f'create table "dim_{quoted}" as select 1 as "{quoted}"'))
    assert words(sketch)[1:] == [f"dim_{name}", "1 row", name, "integer"]
    root = ElementTree.fromstring(sketch.svg)
    assert {element.tag.removeprefix(SVG) for element in root} == {"title", "rect", "text"}
    assert as_chart(sketch).png.startswith(PNG)


def test_letters_that_no_picture_can_hold_are_replaced(open_star: OpenStar) -> None:
    mart = open_star('create table dim_a as select 1 as "a\x01b\nc\td\x85e\ufffff"')
    assert "a�b�c�d�e�f" in words(draw_star(mart))


def test_the_same_mart_gives_the_same_bytes_without_ids_and_styles(open_star: OpenStar) -> None:
    mart = open_star(STAR)
    svg = draw_star(mart).svg
    assert svg == draw_star(mart).svg
    for element in ElementTree.fromstring(svg).iter():
        # what could clash with, or change, the rest of a page
        assert not {"id", "class", "style", "href"} & set(element.keys())
        assert element.tag != f"{SVG}style"


def test_a_notebook_shows_the_star_once_with_its_title(open_star: OpenStar) -> None:
    star = draw_star(open_star(STAR))
    data, _ = DisplayFormatter().format(star)
    assert data.keys() == {"text/plain", "text/html"}
    assert data["text/plain"] == "<chart: Star schema>"
    picture = ElementTree.fromstring(data["text/html"])
    assert (picture.tag, picture.get("alt")) == ("img", "Star schema")
    kind, _, base64 = picture.get("src").partition(",")
    assert (kind, b64decode(base64).decode()) == ("data:image/svg+xml;base64", star.svg)
    root = ElementTree.fromstring(star.svg)
    assert (root.get("role"), root[0].tag, root[0].text) == ("img", f"{SVG}title", "Star schema")


def test_the_star_stands_on_white_whatever_is_behind_it(open_star: OpenStar) -> None:
    root = ElementTree.fromstring(draw_star(open_star(STAR)).svg)
    page = root.find(f"{SVG}rect")
    assert page.get("fill") == "#FFFFFF"
    assert [page.get(side) for side in ("x", "y", "width", "height")] == root.get("viewBox").split()
    assert [root.get(side) for side in ("width", "height")] == [
        f"{page.get(side)}pt" for side in ("width", "height")
    ]


def test_drawing_the_star_needs_no_library_of_charts() -> None:
    lines = (
        "import sys; from pathlib import Path; import duckdb; from mart_helpers.star import draw_star",
        "from mart_helpers.session import Session",
        "mart = Session(duckdb.connect(), Path(), {})",
        "mart.connection.execute('create table dim_a (a_key integer)')",
        "assert '<img' in draw_star(mart)._repr_html_()",
        "assert 'matplotlib' not in sys.modules",
    )
    code = "\n".join(lines)
    run = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


MEASURE = """
font => {
    document.body.insertAdjacentHTML('beforeend', `<style>text { font: ${font} !important }</style>`);
    const placed = name => Array.from(document.querySelectorAll(name), each => {
        const box = each.getBBox();
        return [each.textContent, box.x, box.y, box.x + box.width, box.y + box.height];
    });
    return [placed('text'), placed('rect')];
}
"""


@pytest.mark.parametrize("font", ["", "8.5px DejaVu Sans", "bold 8.5px DejaVu Serif", "6px serif"])
@pytest.mark.parametrize("sql", [STAR, STAR + LONG, SMALL], ids=["star", "long names", "small"])
def test_words_stay_in_their_table_and_apart_in_any_font(
    open_star: OpenStar, browser_page: Page, sql: str, font: str
) -> None:
    browser_page.set_content(draw_star(open_star(sql)).svg)
    texts_at, boxes = browser_page.evaluate(MEASURE, font)
    _, *page = boxes[0]
    assert all(is_within(text[1:], page) for text in texts_at)
    for text in texts_at[1:]:
        assert any(is_within(text[1:], box[1:]) for box in boxes[1:]), text
    pairs = combinations(texts_at, 2)
    assert [(a[0], b[0]) for a, b in pairs if overlap(a[1:], b[1:])] == []


def test_blanks_in_a_name_are_drawn(open_star: OpenStar, browser_page: Page) -> None:
    name = "  two  and two  "
    browser_page.set_content(draw_star(open_star(f'create table dim_a as select 1 as "{name}"')).svg)
    letters = "all => all.map(each => [each.textContent, each.getNumberOfChars()])"
    assert [name, len(name)] in browser_page.locator("text").evaluate_all(letters)


@pytest.mark.parametrize(
    ("text", "letters"), [("ab", 2), ("珈琲", 4), ("☕", 2), ("e\u0301", 1), ("", 0)]
)
def test_letters_have_the_room_that_they_need(text: str, letters: int) -> None:
    assert monospaced_width(text, 10) == pytest.approx(6.02 * letters)


def is_within(inner: list[float], outer: list[float]) -> bool:
    (left, top, right, bottom), (x, y, x_end, y_end) = inner, outer
    return x - 0.01 <= left and right <= x_end + 0.01 and y <= top and bottom <= y_end


def overlap(one: list[float], other: list[float]) -> bool:
    (left, top, right, bottom), (x, y, x_end, y_end) = one, other
    return left < x_end and x < right and top < y_end and y < bottom


def test_no_words_of_the_workflow_leave_their_place_in_another_font(browser_page: Page) -> None:
    browser_page.set_content(draw_workflow().svg)
    texts_at, boxes = browser_page.evaluate(MEASURE, "bold 9px DejaVu Sans")
    _, *page = boxes[0]
    for text, *place in texts_at:
        outside = text in ("01_build", draw_workflow().title)
        assert is_within(place, page) if outside else any(is_within(place, box[1:]) for box in boxes[1:])


@pytest.mark.parametrize("sql", [STAR, STAR + LONG, SMALL], ids=["star", "long names", "small"])
def test_the_star_as_a_png_is_alike_and_whole(open_star: OpenStar, sql: str) -> None:
    sketch = draw_star(open_star(sql))
    chart = as_chart(sketch)
    assert texts(chart) == words(sketch)
    assert chart.png == as_chart(sketch).png
    assert_nothing_is_clipped(chart)
    assert_no_words_overlap(chart)
