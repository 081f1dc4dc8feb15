"""The stock of stage 4: sums of this second fact mean something over products, but not over months."""

import csv
import json
import re
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from bs4 import BeautifulSoup
from conftest import CHECKOUT, query

from mart_helpers.run import NotebookFailed, run_notebook

EXTRACTS = CHECKOUT / "inputs" / "history"


@pytest.fixture(scope="module")
def home(shared_home: Path) -> Path:
    """Where stage 4 is built, explored and exported."""
    for name, values in (("01_build", {"stage": 4}), ("02_explore", {}), ("03_export", {})):
        run_notebook(name, values, shared_home)
    return shared_home


@pytest.fixture(scope="module")
def mart(home: Path) -> Path:
    return home / "data" / "mini_data_mart.duckdb"


def extract(table: str) -> list[dict[str, str]]:
    with (EXTRACTS / f"{table}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_sample_has_the_stock_of_each_product_at_each_month_end():
    rows = extract("fact_inventory")
    days = {date.fromisoformat(row["month_end"]) for row in rows}
    assert len(days) == 24
    assert {(day + timedelta(days=1)).day for day in days} == {1}
    assert len(rows) == 24 * len(extract("dim_product"))
    assert min(int(row["units_on_hand"]) for row in rows) >= 0


def test_stock_adds_up_over_products(mart):
    sums = Counter()
    kinds = {row["product_id"]: row["category"] for row in extract("dim_product")}
    for row in extract("fact_inventory"):
        sums[row["month_end"], kinds[row["product_id"]]] += int(row["units_on_hand"])
    found = query(
        mart,
        "select month_end::varchar, category, stock(s) from all_stock as s group by month_end, category",
    )
    assert {(day, category): stock for day, category, stock in found} == dict(sums)


def test_a_sum_of_stock_over_months_is_refused_by_name_with_the_way_out(mart, subtests):
    for group in ["", "group by product_id", "group by year"]:
        with subtests.test(group):
            message = (
                "stock cannot be summed over months: group by month_end, too, or keep one month_end"
            )
            with pytest.raises(duckdb.InvalidInputException, match=message):
                query(mart, f"select stock(s) from all_stock as s {group}")


def test_days_of_stock_compare_the_stock_with_the_sales_of_ninety_days(home):
    executed = json.loads((home / "02_explore.ipynb").read_text())
    (cell,) = [each for each in executed["cells"] if each["id"] == "stock-lasts"]
    (output,) = cell["outputs"]
    table = BeautifulSoup("".join(output["data"]["text/html"]), "html.parser")
    rows = [[cell.get_text() for cell in row.find_all("td")] for row in table.find_all("tr")]
    names = {row["product_id"]: row["product_name"] for row in extract("dim_product")}
    sold = Counter()
    for row in extract("fact_sales"):
        if date(2024, 12, 31) - timedelta(days=89) <= date.fromisoformat(row["sale_date"]):
            sold[row["product_id"]] += int(row["quantity"])
    expected = {
        (names[row["product_id"]], int(row["units_on_hand"]), sold[row["product_id"]])
        for row in extract("fact_inventory")
        if row["month_end"] == "2024-12-31"
    }
    found = [row[-4:] for row in rows if row]
    assert {(name, int(stock), int(units)) for name, stock, units, _ in found} == expected
    for _, stock, units, days in found:
        assert float(days) == pytest.approx(int(stock) * 90 / int(units), abs=0.51)
    assert [float(days) for *_, days in found] == sorted(float(days) for *_, days in found)


def test_the_stock_is_exported_as_it_was_delivered(home):
    with (home / "data" / "CSV-export" / "fact_inventory.csv").open() as file:
        found = [tuple(row.values())[2:] for row in csv.DictReader(file)]
    assert sorted(found) == sorted(tuple(row.values()) for row in extract("fact_inventory"))


def test_without_an_extract_the_stock_is_empty_and_its_checks_pass(sample_mart):
    assert query(sample_mart, "select count(*) from all_stock") == [(0,)]
    checks = query(sample_mart, "from duckdb_views() where view_name = 'fact_inventory_has_rows'")
    assert checks == []


def test_a_count_of_no_month_end_is_set_aside_and_one_that_changes_later_is_told(home, mart):
    path = home / "inputs" / "history" / "fact_inventory.csv"
    text = path.read_text()
    path.write_text(text + "P01,2024-11-29,5\n")
    run_notebook("01_build", {"stage": 4}, home)
    ((reason,),) = query(mart, "select reason from quarantine where table_name = 'fact_inventory'")
    assert re.search("month_end = last_day", reason)
    path.write_text(re.sub(r"(P01,2023-03-31),\d+", r"\1,7777", text))
    with pytest.raises(NotebookFailed, match="fact_inventory"):
        run_notebook("01_build", {"stage": 4}, home)
    path.write_text(text)
