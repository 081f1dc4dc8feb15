"""Pictures for a portfolio, made by the command that makes them."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import mart_command
from matplotlib.image import imread
from test_charts import assert_nothing_is_clipped, texts

from mart_helpers.charts import as_chart
from mart_helpers.errors import InputError
from mart_helpers.portfolio import make_portfolio
from mart_helpers.sketches import draw_table, draw_workflow

PICTURES = [
    "1_workflow.png",
    "2_star_schema.png",
    "3_tables.png",
    "4_monthly_revenue.png",
    "5_weekday_revenue.png",
    "6_exports.png",
    "7_before_after.png",
    "8_quality_report.png",
]


def test_the_portfolio_is_eight_pictures_and_touches_nothing_else(shared_home: Path) -> None:
    home = shared_home
    before = {path for path in home.rglob("*") if path.is_file()}
    result = mart_command("portfolio", "--out", "pictures", cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"wrote pictures/{name}" for name in PICTURES]
    written = {path for path in home.rglob("*") if path.is_file()} - before
    assert sorted(path.name for path in written) == PICTURES
    for path in written:
        height, width, _ = imread(path).shape
        assert height > 200, path
        assert width > 500, path


def test_sales_that_cannot_be_edited_are_refused_before_anything_runs(home: Path) -> None:
    (home / "inputs" / "fact_sales.csv").write_text("sale_id;quantity\nS1;2\n")
    with pytest.raises(InputError, match="expected a CSV file with commas"):
        make_portfolio(home / "inputs", home / "pictures")
    assert not (home / "pictures").exists()


def test_a_table_is_drawn_with_all_its_words_and_whole() -> None:
    frame = pd.DataFrame({"table_name": ["dim_customer", "W" * 60], "rows": [1234567, 5]})
    note = "fact_sales.csv: quantity 3 → 30"
    chart = as_chart(draw_table(frame, "Tables of the mart", note))
    assert {"table name", "rows", "dim_customer", "1,234,567", "5", "W" * 60} <= set(texts(chart))
    assert note in texts(chart)
    assert_nothing_is_clipped(chart)
    assert as_chart(draw_table(frame, "Tables of the mart", note)).png == chart.png


def test_the_workflow_leads_from_the_extracts_to_the_notebooks() -> None:
    chart = as_chart(draw_workflow())
    assert {"inputs/", "quarantine", "01_build", "mart", "04_quality"} <= set(texts(chart))
    assert_nothing_is_clipped(chart)
    assert as_chart(draw_workflow()).png == chart.png
