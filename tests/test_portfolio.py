"""Pictures for a portfolio, made by the command that makes them."""

from pathlib import Path

import pytest
from browsers import BROWSER
from conftest import mart_command
from matplotlib.image import imread

from mart_helpers.errors import InputError
from mart_helpers.portfolio import make_portfolio

CHARTS = [
    "star_schema",
    "revenue_over_time",
    "top_products_by_revenue",
    "share_of_revenue_by_class",
    "units_that_came_back_by_product",
    "margin_by_category",
    "revenue_by_segment",
    "revenue_by_country",
    "average_revenue_per_day_by_weekday_and_month",
    "customers_new_and_returning",
    "revenue_by_rfm_segment",
    "share_of_each_cohort_that_bought_again_in_per_cent",
    "given_away_by_height_of_the_discount",
    "revenue_by_month",
    "revenue_by_category_country_segment",
    "top_products",
]
PAGES = [
    f"{name}_{when}_an_edit"
    for when in ("before", "after")
    for name in ("build", "dashboard", "quality")
]


def test_the_portfolio_is_the_charts_and_the_pages_and_touches_nothing_else(shared_home: Path) -> None:
    before = {path for path in shared_home.rglob("*") if path.is_file()}
    result = mart_command("portfolio", "--out", "pictures", cwd=shared_home)
    assert result.returncode == 0, result.stderr
    names = [f"{place:02}_{name}.png" for place, name in enumerate(CHARTS + PAGES * bool(BROWSER), 1)]
    assert result.stdout.splitlines() == [f"wrote pictures/{name}" for name in names]
    written = {path for path in shared_home.rglob("*") if path.is_file()} - before
    assert sorted(path.name for path in written) == names
    pictures = {path.stem[3:]: imread(path) for path in written}
    for name in PAGES * bool(BROWSER):
        assert pictures[name].shape[:2] == (1600, 1280)
        assert pictures[name].min() < 0.5, "a page that came out white"
    if BROWSER:
        assert (pictures["dashboard_before_an_edit"] != pictures["dashboard_after_an_edit"]).any()


def test_extracts_that_cannot_be_edited_are_refused_before_anything_runs(home: Path) -> None:
    (home / "inputs" / "fact_sales.csv").write_text("sale_id;quantity\nS1;2\n")
    with pytest.raises(InputError):
        make_portfolio(home / "inputs", home / "pictures")
    assert not (home / "pictures").exists()
