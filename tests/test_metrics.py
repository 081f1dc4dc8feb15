"""The metrics are defined in one place, in 01_build; what follows from them agrees with plain Python."""

import json
import random
import re
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from shutil import copy, copytree
from typing import NamedTuple

import duckdb
import openpyxl
import pandas as pd
import plain
import pytest
from bs4 import BeautifulSoup
from conftest import CHECKOUT, query

from mart_helpers.diff import Comparison, compare_files
from mart_helpers.pages import write_report
from mart_helpers.run import answer_questions, run_notebook
from mart_helpers.session import Session, open_published

DIMENSIONS = (
    *("customer_id", "customer_name", "segment", "city", "country"),
    *("product_id", "product_name", "category", "discount", "date"),
)
Figure = Callable[[list[plain.Row]], Decimal | int | None]


def total(name: str) -> Figure:
    return lambda rows: sum(row[name] for row in rows)


def share(part: Decimal | int, whole: Decimal | int) -> Decimal | None:
    return 100 * Decimal(part) / Decimal(whole) if whole else None


def bought(rows: list[plain.Row]) -> list[plain.Row]:
    return [row for row in rows if row["quantity"] > 0]


def orders(rows: list[plain.Row]) -> int:
    return len({(row["customer_id"] or row["sale_id"], row["date"]) for row in bought(rows)})


def return_rate(rows: list[plain.Row]) -> Decimal | None:
    sold = sum(row["quantity"] for row in bought(rows))
    if not sold:
        return None
    return share(sold - sum(row["quantity"] for row in rows), sold)


METRICS: dict[str, Figure] = {
    "revenue": total("revenue"),
    "cost": total("cost"),
    "margin": total("margin"),
    "margin_pct": lambda rows: share(total("margin")(rows), total("revenue")(rows)),
    "units": total("quantity"),
    "units_sold": lambda rows: total("quantity")(bought(rows)),
    "units_returned": lambda rows: total("quantity")(bought(rows)) - total("quantity")(rows),
    "orders": orders,
    "customers": lambda rows: len({row["customer_id"] for row in bought(rows)} - {None}),
    "return_rate": return_rate,
}


def test_each_metric_is_published_with_what_it_is_and_whether_it_adds_up(sample_mart: Path) -> None:
    comments = dict(
        query(
            sample_mart,
            "select function_name, comment from duckdb_functions() "
            "where database_name = current_database() and parameters = ['sales']",
        )
    )
    assert comments.keys() == METRICS.keys()
    assert all("add" in comment for comment in comments.values())


def test_any_metrics_by_any_dimensions_agree_with_plain_python(
    sample_mart: Path, subtests: pytest.Subtests
) -> None:
    for seed in range(8):
        with subtests.test(str(seed)):
            chance = random.Random(seed)
            dimensions = chance.sample(DIMENSIONS, chance.randint(1, 3))
            metrics = chance.sample(sorted(METRICS), chance.randint(1, 4))
            day = chance.choice(plain.sales())["date"]
            groups: dict[tuple, list[plain.Row]] = {}
            for row in plain.sales():
                if row["date"] >= day:
                    groups.setdefault(tuple(row[name] for name in dimensions), []).append(row)
            calls = ", ".join(f"{name}(sales)" for name in metrics)
            found = query(
                sample_mart,
                f"select {', '.join(dimensions)}, {calls} from all_sales as sales "
                f"where date >= date '{day}' group by {', '.join(dimensions)}",
            )
            assert len(found) == len(groups)
            for row in found:
                rows = groups[row[: len(dimensions)]]
                for name, figure in zip(metrics, row[len(dimensions) :], strict=True):
                    expected = METRICS[name](rows)
                    if isinstance(figure, float):
                        assert figure == pytest.approx(float(expected), abs=1e-9), name
                    else:
                        assert figure == expected, name


class Told(NamedTuple):
    """What is told of a mart: its answers as sheets, and its pages."""

    mart: Path
    workbook: Path
    pages: Path
    quality: Path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, Told]:
    """Of the sample; and where revenue is twice as much, among its metrics and nowhere else."""
    doubled = {"revenue_of(net_amount) as net_amount;": "revenue_of(net_amount) as 2 * net_amount;"}
    return tuple(tell(tmp_path_factory.mktemp("told"), edits) for edits in ({}, doubled))


ALL = ("01_build", "04_quality", "02_explore", "03_export", "05_dashboard")


def tell(home: Path, edits: dict[str, str], notebooks: tuple[str, ...] = ALL) -> Told:
    """What is told where 01_build has these edits, each in one place."""
    for part in ("notebooks", "inputs"):
        copytree(CHECKOUT / part, home / part)
    notebook = home / "notebooks" / "01_build.ipynb"
    source = notebook.read_text()
    for before, after in edits.items():
        assert source.count(before) == 1
        source = source.replace(before, after)
    notebook.write_text(source)
    (home / "runs").mkdir()
    told = Told(
        home / "data" / "mini_data_mart.duckdb",
        home / "data" / "Excel-export" / "mini_data_mart.xlsx",
        home / "data" / "pages",
        home / "data" / "quality" / "quality_report.json",
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MART_HOME", str(home))
        executed = [
            run_notebook(name, {"formats": "xlsx"} if name == "03_export" else {}, home / "runs")
            for name in notebooks
        ]
        if notebooks == ALL:
            write_report(executed, told.pages, told.mart, told.quality)
    return told


def test_revenue_that_is_doubled_there_is_doubled_in_every_answer_and_sheet(told) -> None:
    once, twice = (sheets_of(each.workbook) for each in told)
    compared = {name: assert_twice(rows, twice[name]) for name, rows in once.items()}
    assert {name for name, amounts in compared.items() if amounts} >= {
        *(
            "Summary",
            "sales",
            "headline_figures",
            "revenue_over_time",
            "top_products",
            "category_revenue",
        ),
        *("country_revenue", "segment_revenue", "discount_bands", "new_and_returning"),
    }
    (once, *_), (twice, *_) = once["weekday_revenue"], twice["weekday_revenue"]  # a column a month
    assert twice["Jan"] == pytest.approx(2 * once["Jan"], abs=0.011)


def test_revenue_that_is_doubled_there_is_doubled_on_every_page(told) -> None:
    once, twice = (tables_of(each.pages / "report.html") for each in told)
    compared = [assert_twice(*tables, 1.1) for tables in zip(once, twice, strict=True)]  # no decimals
    assert sum(amounts > 0 for amounts in compared) >= 10
    once, twice = (json.loads(page_data(each.pages / "dashboard.html"))["cubes"] for each in told)
    places = [place for place, cube in enumerate(once) if "revenue" in cube["figures"]]
    assert len(places) == 2
    for cube in places:
        amounts, doubled = (each[cube]["figures"]["revenue"] for each in (once, twice))
        assert doubled == [2 * amount for amount in amounts]


def test_revenue_that_is_doubled_there_is_doubled_where_quality_is_told(told) -> None:
    once, twice = (json.loads(each.quality.read_text()) for each in told)
    for name in ("revenue_loaded", "revenue_quarantined"):
        assert Decimal(twice[name]) == 2 * Decimal(once[name]) != 0
    pages = [(each.quality.parent / "quality_report.html").read_text() for each in told]
    for report, page in zip((once, twice), pages, strict=True):
        assert f"{Decimal(report['revenue_quarantined']):,.2f} in rows that can be read" in page


def test_revenue_that_is_doubled_there_is_doubled_in_what_marts_differ_by(told, tmp_path: Path) -> None:
    once, twice = (difference_of(each.mart, tmp_path / each.mart.parent.parent.name) for each in told)
    for part in ("months", "rows", "restated"):
        before, after = (getattr(each, part) for each in (once, twice))
        if part == "restated":
            before, after = (each[each["metric"] == "revenue"] for each in (before, after))
        assert list(after["change"]) == [2 * change for change in before["change"]] != []


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Where four metrics are other multiples of what they are in the sample."""
    wholes = {"revenue": "sum(", "orders": "count(", "customers": "count(", "units_sold": "coalesce("}
    edits = {
        f"macro {name}(sales) as {whole}": f"macro {name}(sales) as {FACTORS[name]} * {whole}"
        for name, whole in wholes.items()
    }
    return tell(tmp_path_factory.mktemp("changed"), edits, ("01_build", "05_dashboard"))


FACTORS = {"revenue": 2, "orders": 3, "customers": 5, "units_sold": 7}


def test_metrics_that_are_changed_there_are_changed_in_every_answer(told, changed: Told) -> None:
    once, after = (answers_of(each.mart) for each in (told[0], changed))
    for name, columns in {
        "revenue_over_time": {"revenue": 2, "revenue_year_before": 2},
        "top_products": {"revenue": 2, "revenue_pct": 1},
        "product_classes": {"revenue": 2},
        "category_revenue": {"revenue": 2, "revenue_pct": 1},
        "segment_revenue": {"revenue": 2, "customers": 5, "revenue_per_customer": 0.4},
        "country_revenue": {"revenue": 2, "customers": 5, "revenue_pct": 1},
        "moved_revenue": {"as_was": 2, "current": 2},
        "new_and_returning": {"new_customers": 5, "returning_customers": 5, "revenue_of_new": 2},
        "rfm_segments": {"revenue": 2, "average_orders": 3},
        "discount_bands": {"revenue": 2},
    }.items():
        for column, factor in columns.items():
            expected = [factor * float(value) for value in once[name][column]]
            found = list(after[name][column])
            assert found == pytest.approx(expected, abs=0.02, nan_ok=True), (name, column)
    once, after = (each["headline_figures"].set_index("figure")["this_period"] for each in (once, after))
    for figure in ("revenue", "orders", "customers"):
        assert after[figure] == FACTORS[figure] * once[figure]


def answers_of(mart: Path) -> dict[str, pd.DataFrame]:
    session = Session(open_published(mart), mart, {})
    try:
        names = answer_questions(session, "02_explore")
        return {name: session.connection.execute(f"from {name}").df() for name in names}
    finally:
        session.close()


def test_metrics_that_are_changed_there_are_changed_in_every_cube(told, changed: Told) -> None:
    pages = (each.pages / "dashboard.html" for each in (told[0], changed))
    cubes = [json.loads(page_data(page))["cubes"] for page in pages]
    compared = set()
    for before, after in zip(*cubes, strict=True):
        for figure, amounts in before["figures"].items():
            factor = FACTORS.get(figure, 1)
            assert after["figures"][figure] == [factor * each for each in amounts], figure
            compared.add(figure)
    assert compared >= FACTORS.keys()


def difference_of(mart: Path, folder: Path) -> Comparison:
    """What differs after a sale is gone and a customer has moved."""
    folder.mkdir()
    changed = Path(copy(mart, folder))
    with duckdb.connect(str(changed)) as connection:
        connection.execute("delete from fact_sales where sale_id = 'S000010'")
        connection.execute("update dim_customer set country = 'France' where customer_id = 'C001'")
    return compare_files(mart, changed)


def assert_twice(once: list[dict], twice: list[dict], within: float = 0.011) -> int:
    """Each revenue in rows is doubled in the others; how many there are."""
    compared = 0
    for before, after in zip(once, twice, strict=True):
        is_row = str(next(iter(before.values()))).lower() == "revenue"
        for column, value in before.items():
            is_column = column.startswith("revenue") and not column.endswith(("pct", "%"))
            amounts = [each for each in map(number, (value, after[column])) if each is not None]
            if amounts and (is_row or is_column):
                assert amounts[1] == pytest.approx(2 * amounts[0], abs=within), (column, before)
                compared += 1
    return compared


def number(value: object) -> float | None:
    with suppress(ValueError):
        return float(str(value).replace(",", ""))
    return None


def sheets_of(workbook: Path) -> dict[str, list[dict]]:
    sheets = {}
    for sheet in openpyxl.load_workbook(workbook, read_only=True).worksheets:
        header, *rows = sheet.iter_rows(values_only=True)
        names = [name or f"column {place}" for place, name in enumerate(header)]
        sheets[sheet.title] = [dict(zip(names, row, strict=True)) for row in rows]
    return sheets


def tables_of(page: Path) -> list[list[dict]]:
    tables = []
    for table in BeautifulSoup(page.read_text(), "html.parser").find_all("table"):
        header, *rows = [
            [cell.get_text(strip=True) for cell in row.find_all(["th", "td"])]
            for row in table.find_all("tr")
        ]
        tables.append([dict(zip(header, row, strict=True)) for row in rows])
    return tables


def page_data(page: Path) -> str:
    (found,) = re.findall('<script type="application/json" id="page">(.*)</script>', page.read_text())
    return found
