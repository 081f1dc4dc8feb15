"""The app as `mart app` serves it, in a real browser."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from browsers import PATIENCE, heard_of, in_a_browser
from conftest import query
from playwright.sync_api import Browser, Page

pytestmark = in_a_browser
CHART = "[data-testid=stVegaLiteChart]"
TABLE = "[data-testid=stDataFrame]"
BEHIND = "[data-testid=stVerticalBlock]:has-text('Behind it')"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def app_command(database: Path, inputs_dir: Path, port: int) -> subprocess.Popen:
    """`mart app` as started at a terminal, where Ctrl-C reaches it."""
    places = ["--database", database, "--inputs-dir", inputs_dir, "--port", port]
    return subprocess.Popen(
        [sys.executable, "-m", "mart", "app", *map(str, places)],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture(scope="module")
def server(shared_mart: Path, shared_home: Path) -> Iterator[str]:
    """The address of the app on the mart of the sample. Ctrl-C ends it."""
    port = free_port()
    process = app_command(shared_mart, shared_home / "inputs", port)
    assert f"is shown at http://localhost:{port}. Ctrl-C ends it." in process.stdout.readline()
    assert "server started" in process.stdout.readline()
    yield f"http://localhost:{port}"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert "Error" not in rest
    assert process.returncode == 0


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of the browser, which asks nobody but this computer, and has nothing to complain of."""
    settings = getattr(request, "param", {})
    page = browser.new_page(viewport={"width": 1300, "height": 1000}, **settings)
    page.set_default_timeout(PATIENCE)
    heard = heard_of(page)
    yield page
    page.close()
    asked = (each for each in heard if each.startswith("http") and "//localhost:" not in each)
    assert [*asked, *(each for each in heard if each.startswith("error: "))] == []


def look(page: Page, address: str) -> None:
    """Open the app, and wait until all is drawn."""
    page.goto(address)
    page.wait_for_selector(f"{CHART} path")
    settled(page)


def settled(page: Page) -> None:
    page.wait_for_function(
        "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'",
    )


def click_bar(page: Page, title: str, number: int) -> None:
    page.locator(CHART, has_text=title).locator(".mark-rect path").nth(number).click()
    page.wait_for_selector(BEHIND)
    settled(page)


def select_line(page: Page, number: int) -> None:
    """Tick the box of a line of the table behind a bar, which is drawn on a canvas."""
    table = page.locator(BEHIND).last.locator(TABLE).first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    page.mouse.click(box["x"] + 18, box["y"] + 35 * (number + 1) + 17)


def test_a_bar_leads_to_its_sales_and_a_sale_to_its_line_in_the_extract(
    page: Page, server: str, shared_mart: Path, shared_home: Path
) -> None:
    look(page, server)
    click_bar(page, "Revenue by country", 1)
    sales = query(
        shared_mart,
        "select sale_id from all_sales where country = (select country from all_sales group by country "
        "order by sum(revenue) desc limit 1 offset 1) order by sale_id",
    )
    assert f"Behind it: {len(sales)} rows." in page.locator(BEHIND).last.inner_text()
    select_line(page, 0)
    page.wait_for_selector("[data-testid=stCode]")
    told = page.locator("[data-testid=stCode]").inner_text()
    lines = (shared_home / "inputs" / "fact_sales.csv").read_text().splitlines()
    (number, line) = next(
        found for found in enumerate(lines, 1) if found[1].startswith(f"{sales[0][0]},")
    )
    assert re.search(rf"fact_sales\.csv, line {number}\s+{re.escape(line)}", told), told


def test_a_point_of_a_line_leads_to_the_sales_of_its_days(
    page: Page, server: str, shared_mart: Path
) -> None:
    look(page, server)
    page.locator(f"{CHART} .mark-symbol path[aria-label*='2023-04']").first.click()
    page.wait_for_selector(BEHIND)
    (count,) = query(
        shared_mart,
        "select count(*) from all_sales where month_start = '2023-04-01'",
    )[0]
    assert f"Behind it: {count} rows." in page.locator(BEHIND).last.inner_text()


def test_a_table_is_downloaded_with_the_rows_that_it_shows(
    page: Page, server: str, shared_mart: Path
) -> None:
    look(page, server)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="country_revenue.csv").click()
    rows = Path(waiting.value.path()).read_text().splitlines()
    expected = "select country, sum(revenue) from all_sales group by country order by 2 desc, country"
    found = [(row.split(",")[0], float(row.split(",")[3])) for row in rows[1:]]
    assert found == [(country, float(revenue)) for country, revenue in query(shared_mart, expected)]


def test_the_page_of_the_checks_leads_from_a_reason_to_its_rows(page: Page, server: str) -> None:
    look(page, server)
    page.get_by_role("link", name="Can the mart be believed?").click()
    page.get_by_role("heading", name="What is in quarantine").wait_for()
    settled(page)
    table = page.locator(TABLE).nth(2)
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    page.mouse.click(box["x"] + 18, box["y"] + 35 + 17)
    page.wait_for_selector(BEHIND)
    assert "Behind it: 1 row." in page.locator(BEHIND).last.inner_text()


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_nothing_is_wider_than_the_window_and_the_dark_is_dark(page: Page, server: str) -> None:
    look(page, server)
    paper = page.locator("[data-testid=stApp]").evaluate("app => getComputedStyle(app).backgroundColor")
    assert max(map(int, re.findall(r"\d+", paper))) < 60
    for width in (1400, 768, 360):
        page.set_viewport_size({"width": width, "height": 900})
        too_wide = (
            f"Array.from(document.querySelectorAll('{CHART} svg, h1, h2, p, {TABLE}'))"
            f".filter(each => each.getBoundingClientRect().right > {width})"
        )
        page.wait_for_function(f"{too_wide}.length === 0")
        assert page.evaluate(f"document.scrollingElement.scrollWidth <= {width}")


def test_the_app_listens_to_this_computer_alone(server: str) -> None:
    port = f":{int(server.rpartition(':')[2]):04X}"
    lines = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")).splitlines()
    listening = [
        line.split()[1] for line in lines if line.split()[1].endswith(port) and line.split()[3] == "0A"
    ]
    local = ("0100007F", "00000000000000000000000001000000")
    assert listening
    assert all(address.startswith(local) for address in listening), listening


def test_a_port_that_is_taken_is_refused_in_a_sentence(
    server: str, shared_mart: Path, shared_home: Path
) -> None:
    port = int(server.rpartition(":")[2])
    refused = app_command(shared_mart, shared_home / "inputs", port)
    said, _ = refused.communicate(timeout=120)
    assert refused.returncode == 1
    assert re.fullmatch(rf"mart: Port {port} cannot be used: .*\. Give another with --port\.\n", said)


def test_two_people_who_click_at_once_both_see_the_newest_build(
    browser: Browser, server: str, shared_mart: Path, tmp_path: Path
) -> None:
    people = [browser.new_page() for _ in range(2)]
    for person in people:
        person.set_default_timeout(PATIENCE)
        look(person, server)
    for build in range(2, 5):
        copy = tmp_path / "mart.duckdb"
        shutil.copyfile(shared_mart, copy)
        with duckdb.connect(str(copy)) as connection:
            connection.execute("update build_log set build_id = ?", [build])
        os.replace(copy, shared_mart)
        for person in people:
            person.get_by_test_id("stNumberInputStepUp").click()
        for person in people:
            person.wait_for_selector(f"text=, build {build} of")
            settled(person)
            assert person.locator("[data-testid=stAlert]").count() == 0
    for person in people:
        person.close()
