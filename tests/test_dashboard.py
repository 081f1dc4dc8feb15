"""The dashboard: its figures are those of SQL under any filter, and it is a page for everybody."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest
from browsers import PATIENCE, heard_of, in_a_browser
from conftest import code_cells, query, sql_of
from playwright.sync_api import Browser, Page

from mart_helpers import dashboard
from mart_helpers.session import Session, open_published

FIRST_YEAR = 2021

# A star of any size whose rows follow from their numbers. There are more members than bars, one is
# called like markup; every 40th sale names no customer, every 25th is a return, one product has no cost.
STAR = """
    create macro pick(number, salt, choices) as (hash(number, salt) % greatest(choices, 1))::integer;
    create macro key(day) as strftime(day, '%Y%m%d')::integer;

    create table dim_date as
    select
        key(day) as date_key, day::date as date, month(day) as month,
        date_trunc('month', day)::date as month_start
    from range(date '2021-01-01', date '2021-01-01' + to_months({months}), interval 1 day) days (day);

    create table dim_customer as
    select
        n as customer_key, 'C' || n as customer_id, 'City ' || n % 7 as city,
        ['Cafe', 'Office', '</script><b>&"'][1 + n % 3] as segment,
        'Country ' || n % {countries} as country,
        null::date as valid_from, null::date as valid_to, true as is_current
    from range({customers}) numbers (n)
    union all
    select -1, null, null, null, null, null, null, true;

    create table dim_product as
    select
        n as product_key, 'P' || n as product_id, if(n < 2, 'Twin', 'Product ' || n) as product_name,
        'Category ' || n % {categories} as category,
        if(n = 3 or not {costs}, null, n % 5 + 1)::decimal(18, 4) as unit_cost
    from range({products}) numbers (n);

    create table fact_sales as
    select
        'S' || n as sale_id,
        key(date '2021-01-01' + (sqrt(pick(n, 0, 1000000) / 1000000) * {days})::integer) as date_key,
        if(n % 40 = 0 or {customers} = 0, -1, pick(n, 1, {customers})) as customer_key,
        pick(n, 2, {products}) as product_key,
        (1 + pick(n, 3, 9))::bigint * if(n % 25 = 0, -1, 1) as quantity,
        (quantity * pick(n, 4, 9973) / 1000)::decimal(18, 4) as net_amount
    from range({sales}) numbers (n);

    create table build_log as
    select 3 as build_id, timestamp '2026-05-06 07:08:09' as built_at, 0 as rows_quarantined;
"""
SIZE = {"sales": 6000, "months": 40, "customers": 60, "products": 30, "categories": 6, "countries": 5}

PERIOD = """
    select coalesce(sum(net_amount), 0),
        100 * sum(net_amount - quantity * unit_cost)
            / sum(net_amount) filter (where unit_cost is not null),
        count(distinct (customer_id, if(customer_id is null, sale_id, ''), date))
            filter (where quantity > 0),
        count(distinct customer_id) filter (where quantity > 0),
        100 * sum(greatest(-quantity, 0)) / nullif(sum(greatest(quantity, 0)), 0)
    from star where {chosen} and month_start between ? and ?
"""
NEW = """
    select count(*) from (
        select min(month_start) as first from star
        where {chosen} and quantity > 0 and customer_id is not null group by customer_id
    ) where first between ? and ?
"""


def make_star(folder: Path, costs: bool = True, **size: int) -> Path:
    size = SIZE | size
    days = (365 * size["months"]) // 12 - 13  # the last month is not over
    database = folder / "mart.duckdb"
    with duckdb.connect(database) as connection:
        connection.execute(STAR.format(days=days, costs=costs, **size))
        for cell in sql_of(
            "01_build", "create view described_sales", "create view all_sales", "create macro"
        ):
            connection.execute(cell)
    return database


def make_page(database: Path, folder: Path, **values: object) -> Path:
    """The page that the cells of 05_dashboard make of a mart, run in this process."""
    parameters, _, *cells = code_cells("05_dashboard")
    names: dict[str, object] = {}
    exec(parameters, names)
    names |= {"data_dir": str(folder), "write_dashboard": dashboard.write_dashboard}
    names |= values
    names["mart"] = mart = Session(open_published(database), database, names)
    for cell in cells:
        head, _, sql = cell.partition("\n")
        if head.startswith("%%sql"):
            names[head.removeprefix("%%sql").strip(" =<") or "_"] = mart.execute(sql)
        elif "print(" not in cell and "draw_" not in cell:
            exec(cell, names)
    mart.close()
    return folder / "pages" / "dashboard.html"


def content(page: Path) -> dict:
    """What the page draws."""
    (found,) = re.findall('<script type="application/json" id="page">(.*)</script>', page.read_text())
    return json.loads(found)


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_star(tmp_path_factory.mktemp("star"))


@pytest.fixture(scope="module")
def path(star: Path) -> Path:
    return make_page(star, star.parent, bars=4)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page without a network; at the end nothing was asked for and the console is empty."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    context.set_default_timeout(PATIENCE)
    pages = []

    def open_page(path: Path) -> Page:
        page = context.new_page()
        pages.append((heard_of(page), path.as_uri()))
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert all(heard == [address] for heard, address in pages), pages


class Model:
    """What somebody has set the page to, by the rules of the page, and SQL for what it then shows."""

    def __init__(self, star: Path, shown: dict) -> None:
        self.shown, self.last = shown, shown["months"] - 1
        self.months, self.chosen = (self.last - 11, self.last), {}
        self.connection = duckdb.connect()  # a copy: an open file cannot be opened again
        self.connection.execute(
            f"attach '{star}' as mart (read_only);"
            "create table star as select * replace (coalesce(country, 'Unknown') as country, "
            "coalesce(segment, 'Unknown') as segment) from mart.fact_sales "
            "inner join mart.dim_date using (date_key) "
            "inner join mart.dim_customer using (customer_key) "
            "inner join mart.dim_product using (product_key); detach mart"
        )
        (self.last_day,) = self.connection.execute("select max(date) from star").fetchone()

    def past(self) -> list[float | None]:
        """The figures that the page compares with: of the last month, the same days."""
        first, last = self.months
        length = last - first + 1
        years = -(-length // 12)
        if first >= 12 * years:
            day = self.last_day.replace(year=self.last_day.year - years)
            also = f"date <= '{day}'" if last == self.last else "true"
            return self.ask(PERIOD, (first - 12 * years, last - 12 * years), also)
        is_comparable = first >= length and last < self.last
        return self.ask(PERIOD, (first - length, first - 1)) if is_comparable else []

    def month(self, number: int) -> str:
        year, month = divmod(self.shown["start"] + number, 12)
        return f"{year}-{month + 1:02}-01"

    def ask(self, sql: str, months: tuple[int, int], also: str = "true") -> list[float | None]:
        chosen = " and ".join([f"{name} = ?" for name in self.chosen] + [also])
        values = [*self.chosen.values(), *map(self.month, months)]
        row = self.connection.execute(sql.format(chosen=chosen), values).fetchone()
        return [None if value is None else float(value) for value in row]


def cards(page: Page) -> tuple[list[float], list[float]]:
    """The figures of the cards, and those of the period before."""
    read = "nodes => nodes.map(node => parseFloat(node.value))"
    return page.eval_on_selector_all(".figure data", read), page.eval_on_selector_all(
        ".change data", read
    )


def equal(shown: list[float], asked: list[float | None]) -> bool:
    pairs = zip(shown, asked, strict=True)
    return all(
        figure != figure if want is None else abs(figure - want) < 0.005 for figure, want in pairs
    )


def month_place(page: Page, month: int) -> tuple[float, float]:
    box = page.locator("#figure-months svg .role-mark.layer_0_marks path").nth(month).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def step(page: Page, model: Model, choose: random.Random) -> None:
    """One thing that a person may do to the filters, done to the page and to the model."""
    name = choose.choice(list(model.shown["filters"]))
    member = choose.choice(model.shown["filters"][name])
    first, last = sorted(choose.sample(range(model.last + 1), 2))
    match choose.randrange(6):
        case 0:  # a bar, which is let go by a second click
            page.locator(
                f"#figure-{name} svg text", has_text=re.compile(f"^{re.escape(member)}$")
            ).click()
            gone = model.chosen.pop(name, None)
            model.chosen |= {} if gone == member else {name: member}
        case 1:
            page.select_option(f"#choose-{name}", label=member)
            model.chosen[name] = member
        case 2:
            page.mouse.move(*month_place(page, first))
            page.mouse.down()
            page.mouse.move(*month_place(page, last), steps=4)
            page.mouse.up()
            model.months = (first, last)
        case 3:
            page.mouse.click(*month_place(page, first))
            model.months = (first, first)
        case 4:
            page.select_option("#from", index=0)
            page.select_option("#to", index=last)
            page.select_option("#from", index=first)
            model.months = (first, last)
        case 5:
            page.get_by_role("button", name=str(FIRST_YEAR + 1), exact=True).click()
            model.months = (12, 23)


@in_a_browser
def test_twenty_random_settings_of_the_filters_equal_sql_to_the_cent(star, path, opened):
    page, model, choose = opened(path), Model(star, content(path)), random.Random(20)
    for number in range(20):
        if number:  # first as the page opens, whose last month is not over
            step(page, model, choose)
        now, past = cards(page)
        assert equal(now, model.ask(PERIOD, model.months)), (model.months, model.chosen)
        assert equal(past, model.past()), (model.months, model.chosen)
        fresh = re.search(r"customers, ([\d,]+|none)", page.inner_text("#figure-people figcaption p"))[1]
        assert [float(fresh.replace("none", "0").replace(",", ""))] == model.ask(NEW, model.months)
        assert page.locator("#chips button").count() >= len(model.chosen)


@in_a_browser
def test_bars_add_up_to_the_headline_with_the_others_among_them(star, path, opened):
    page = opened(path)
    page.click("#figure-country summary")
    read = "nodes => nodes.map(node => node.innerText)"
    texts = page.eval_on_selector_all("#figure-country td:nth-child(2)", read)
    names = page.eval_on_selector_all("#figure-country tbody th", read)
    assert len(names) == 5
    assert names[-1] == "Others"
    figures = [float(text.replace(",", "")) for text in texts]
    assert sum(figures) == pytest.approx(cards(page)[0][0], abs=0.03)


@in_a_browser
def test_the_keyboard_does_all_that_the_pointer_does(star, path, opened):
    page, model = opened(path), Model(star, content(path))
    page.focus("#choose-category")
    page.keyboard.type(model.shown["filters"]["category"][1])
    model.chosen = {"category": model.shown["filters"]["category"][1]}
    assert equal(cards(page)[0], model.ask(PERIOD, model.months))
    page.focus("#years button:first-child")
    page.keyboard.press("Enter")
    model.months = (0, model.last)
    assert equal(cards(page)[0], model.ask(PERIOD, model.months))
    page.get_by_role("button", name="Remove the filter").focus()
    page.keyboard.press("Enter")
    model.chosen = {}
    assert equal(cards(page)[0], model.ask(PERIOD, model.months))
    for summary in page.locator("figure summary").all():
        summary.focus()
        page.keyboard.press("Enter")
    assert page.locator("figure table:visible").count() == page.locator("figure").count() == 6


@in_a_browser
def test_the_page_fits_any_screen_and_two_sheets_of_paper(path, opened, subtests):
    for width in [360, 800, 1400]:
        with subtests.test(str(width)):
            page = opened(path)
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            right = "nodes => Math.max(...nodes.map(node => node.getBoundingClientRect().right))"
            assert page.eval_on_selector_all("svg", right) <= width
            assert page.pdf(prefer_css_page_size=True).count(b"/Type /Page\n") == 2


@in_a_browser
def test_names_are_text_whatever_they_hold(path, opened):
    page = opened(path)
    assert '</script><b>&"' in page.locator("#choose-segment option").all_inner_texts()
    assert page.locator("b").count() == 0


@in_a_browser
def test_a_year_without_one_before_is_compared_with_nothing(path, opened):
    page = opened(path)
    page.get_by_role("button", name=str(FIRST_YEAR), exact=True).click()
    assert cards(page)[1] == []
    assert "nothing before to compare" in page.inner_text("#cards")
    page.select_option("#from", index=6)
    assert "the 6 months before" in page.inner_text("#cards")


def test_products_of_one_name_are_told_apart(path):
    twins = [name for name in content(path)["ranked"]["product"] if name.startswith("Twin")]
    assert twins
    assert set(twins) <= {"Twin P0", "Twin P1"}


def test_the_same_mart_gives_the_same_bytes(star, path, tmp_path):
    assert make_page(star, tmp_path, bars=4).read_bytes() == path.read_bytes()


def test_another_filter_is_one_word(star, tmp_path):
    shown = content(make_page(star, tmp_path, filters="category, city"))
    assert list(shown["filters"]) == ["category", "city"]
    assert len(shown["filters"]["city"]) == 8


def test_a_mart_without_sales_says_so(tmp_path):
    text = make_page(make_star(tmp_path, sales=0), tmp_path).read_text()
    assert "The mart has no sales yet." in text
    assert "<script" not in text


def test_a_mart_without_customers_has_neither_their_card_nor_their_filters(tmp_path):
    shown = content(make_page(make_star(tmp_path, customers=0), tmp_path))
    assert [card["name"] for card in shown["cards"]] == ["Revenue", "Margin", "Orders", "Return rate"]
    assert list(shown["filters"]) == ["category"]
    assert shown["people"] == ""


def test_a_mart_without_costs_has_no_margin(tmp_path):
    shown = content(make_page(make_star(tmp_path, costs=False), tmp_path))
    assert [card["name"] for card in shown["cards"]] == ["Revenue", "Orders", "Customers", "Return rate"]


def test_a_mart_of_one_month_has_a_page(tmp_path):
    shown = content(make_page(make_star(tmp_path, months=1, sales=30), tmp_path))
    assert shown["months"] == 1


@in_a_browser
def test_a_large_mart_gives_a_page_of_two_megabytes_at_most(tmp_path, opened):
    size = {"sales": 200_000, "months": 120, "customers": 20_000, "products": 2_000}
    star = make_star(tmp_path, categories=25, countries=40, **size)
    path = make_page(star, tmp_path)
    shown = content(path)
    assert path.stat().st_size <= dashboard.LARGEST_PAGE
    assert shown["months"] == 60
    model = Model(star, shown)
    page = opened(path)
    page.select_option("#choose-category", index=1)
    model.chosen = {"category": shown["filters"]["category"][0]}
    assert equal(cards(page)[0], model.ask(PERIOD, model.months))
    assert "Of the 50 with the most" in page.inner_text("#figure-product figcaption")


@in_a_browser
def test_a_page_that_would_be_too_large_has_fewer_bars(star, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(dashboard, "LARGEST_PAGE", 700_000)
    path = make_page(star, tmp_path)
    shown = content(path)
    assert path.stat().st_size <= 700_000
    assert 1 <= len(shown["filters"]["country"]) < 5
    page, model = opened(path), Model(star, shown)
    page.select_option("#choose-country", index=1)
    model.chosen = {"country": shown["filters"]["country"][0]}
    assert equal(cards(page)[0], model.ask(PERIOD, model.months))


def test_amounts_beyond_64_bits_are_on_the_page_too(sample_mart, tmp_path):
    path = tmp_path / "huge.duckdb"
    path.write_bytes(sample_mart.read_bytes())
    with duckdb.connect(str(path)) as connection:
        connection.execute("update fact_sales set net_amount = 99999999999999")
    cubes = content(make_page(path, tmp_path))["cubes"]
    (cube,) = (cube for cube in cubes if "units_sold" in cube["figures"])
    assert max(cube["figures"]["revenue"]) > 2**63


def test_the_head_has_the_verdict_of_the_checks_on_this_build(star, tmp_path, subtests):
    for report, said in [
        ({}, "Checked. 2 checks passed."),
        ({"status": "warn", "headline": "1 warning: 3 rows"}, "Read with care. 1 warning: 3 rows."),
        ({"status": "fail"}, "Do not rely on these figures. 2 checks passed."),
        ({"build_id": 2}, "Read with care. There is no quality report of this build."),
    ]:
        with subtests.test(said):
            passed = {"build_id": 3, "built_at": "2026-05-06T07:08:09", "status": "pass"}
            passed["headline"] = "2 checks passed"
            (tmp_path / "quality").mkdir(exist_ok=True)
            (tmp_path / "quality" / "quality_report.json").write_text(json.dumps(passed | report))
            text = re.sub("<[^>]+>", "", make_page(star, tmp_path).read_text())
            assert said in text
            assert "Build 3 of 6 May 2026, with data from" in text


def test_the_page_is_made_also_where_nothing_can_be_kept(star, path, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path / "file"))
    monkeypatch.setattr(dashboard, "user_cache_path", lambda name: tmp_path / "file" / name)
    assert make_page(star, tmp_path, bars=4).read_bytes() == path.read_bytes()


def test_the_figures_of_the_sample_are_those_of_the_mart(sample_mart, tmp_path):
    shown = content(make_page(sample_mart, tmp_path))
    (cube,) = (cube for cube in shown["cubes"] if "units_sold" in cube["figures"])
    of_all = len(cube["figures"]["revenue"]) - shown["months"]
    (revenue,) = query(sample_mart, "select 10000 * sum(net_amount) from fact_sales")[0]
    assert sum(cube["figures"]["revenue"][of_all:]) == revenue
