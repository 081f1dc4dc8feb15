"""Charts are drawn alike every time, show every word they hold, and stay calm where there is nothing."""

import warnings
from collections.abc import Callable
from itertools import combinations, pairwise

import duckdb
import matplotlib
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from mart_helpers.charts import (
    NOTHING_TO_DRAW,
    Chart,
    draw_bars,
    draw_checks,
    draw_heat_map,
    draw_line,
    draw_stacks,
)
from mart_helpers.checks import checked_table

PNG = b"\x89PNG\r\n\x1a\n"


def monthly_revenue(months: int = 24) -> pd.DataFrame:
    """One row per month: the month as a date, its revenue as DuckDB hands it over."""
    return duckdb.sql(
        "select date '2023-01-01' + to_months(range::integer) as month, "
        f"(5000 + 731 * range % 4000)::decimal(18, 4) as revenue from range({months}) order by month"
    ).df()


def revenues(rows: dict[str, float]) -> pd.DataFrame:
    """One row per product, in the given order."""
    return pd.DataFrame({"product": list(rows), "revenue": list(rows.values())})


def bars(frame: pd.DataFrame, title: str = "Revenue by product") -> Chart:
    """The frame of `revenues` as bars."""
    return draw_bars(frame, "product", "revenue", title, unit="revenue")


def line(frame: pd.DataFrame) -> Chart:
    """The frame of `monthly_revenue` as a line."""
    return draw_line(frame, "month", "revenue", "Revenue per month", unit="revenue")


def stacks(frame: pd.DataFrame) -> Chart:
    """The frame of `monthly_revenue` as stacks: the revenue, and a part as high upon it."""
    frame = frame.assign(revenue_of_new=frame["revenue"])
    return draw_stacks(frame, "month", ["revenue", "revenue_of_new"], "Revenue", unit="revenue")


def heat_map(frame: pd.DataFrame) -> Chart:
    """The frame of `monthly_revenue` as a heat map of one column."""
    return draw_heat_map(frame[["month", "revenue"]].astype({"month": str}), "month", "Revenue")


def checks(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Results of checks: name, severity, status."""
    return pd.DataFrame(rows, columns=["check_name", "severity", "status"])


MIXED = checks(
    ("fact_sales_has_rows", "error", "pass"),
    ("fact_sales_sale_id_is_unique", "error", "fail"),
    ("fact_sales_is_recent", "warn", "fail"),
    ("dim_product_has_rows", "error", "pass"),
    ("dim_product_product_id_is_unique", "error", "pass"),
    ("few_returns", "warn", "broken"),
)


def texts(chart: Chart) -> list[str]:
    """All words of the chart, line breaks as spaces."""
    found = (text.get_text() for text in chart.figure.findobj(Text) if text.get_visible())
    return [" ".join(text.split()) for text in found if text]


def assert_nothing_is_clipped(chart: Chart) -> None:
    """Everything that is drawn lies within the picture."""
    drawn = chart.figure.get_tightbbox(chart.figure.canvas.get_renderer())
    width, height = chart.figure.get_size_inches()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height


def assert_no_words_overlap(chart: Chart) -> None:
    """No two texts of the axes lie over each other."""
    axes = chart.figure.axes[0]
    # a scale keeps labels beyond its ends, which are not drawn
    low, high = sorted(axes.get_ylim())
    scale = [word for word in axes.get_yticklabels() if low <= word.get_position()[1] <= high]
    words = [*axes.texts, *scale, *axes.get_xticklabels(), axes.xaxis.label]
    boxes = [(word.get_text(), word.get_window_extent()) for word in words if word.get_text()]
    assert [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.overlaps(y)] == []


def sides(box: Rectangle) -> tuple[float, float]:
    """Where the left and the right edge of a box are."""
    return box.get_x(), box.get_x() + box.get_width()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: line(monthly_revenue()),
        lambda: bars(revenues({"Espresso": 1234.5, "Filters": 20})),
        lambda: bars(revenues({})),
        lambda: draw_checks(MIXED),
        lambda: stacks(monthly_revenue()),
        lambda: heat_map(monthly_revenue()),
    ],
    ids=["line", "bars", "empty", "checks", "stacks", "heat map"],
)
def test_the_same_rows_give_the_same_bytes_whatever_the_users_style(
    draw: Callable[[], Chart],
) -> None:
    first = draw().png
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 20, "savefig.dpi": 50}):
        second = draw().png
    assert first.startswith(PNG)
    assert first == second


def test_a_picture_tells_neither_time_nor_version() -> None:
    png = line(monthly_revenue()).png
    assert b"tEXt" not in png
    assert b"tIME" not in png


def test_drawing_leaves_the_users_style_as_it_was() -> None:
    with matplotlib.rc_context({"axes.facecolor": "red"}):
        bars(revenues({"Espresso": 1}))
        assert matplotlib.rcParams["axes.facecolor"] == "red"


def test_a_notebook_shows_a_chart_once() -> None:
    data, metadata = DisplayFormatter().format(line(monthly_revenue()))
    assert set(data) == {"text/plain", "image/png"}
    assert data["text/plain"] == "<chart: Revenue per month>"
    assert metadata["image/png"]["alt"] == "Revenue per month"
    assert metadata["image/png"]["width"] == 768


def test_no_figure_is_left_open_for_the_notebook_to_show_again() -> None:
    line(monthly_revenue())
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("draw", [line, bars, stacks, heat_map])
def test_without_rows_the_title_stands_over_a_sentence(draw: Callable[..., Chart]) -> None:
    frame = monthly_revenue(0).assign(product="")
    chart = draw(frame)
    assert texts(chart) == [NOTHING_TO_DRAW, chart.title]
    assert_nothing_is_clipped(chart)


def test_a_heat_map_of_rows_without_numbers_does_not_say_that_there_are_none() -> None:
    frame = pd.DataFrame({"cohort": ["2024 Q1"], "q1": [None]})
    chart = draw_heat_map(frame, "cohort", "Retention")
    assert texts(chart) == ["no figures in this range", chart.title]


@pytest.mark.parametrize("months", [1, 2, 13, 24, 120])
def test_a_line_has_its_months_its_unit_and_thousands_separators(months: int) -> None:
    chart = line(monthly_revenue(months))
    axes = chart.figure.axes[0]
    assert axes.get_xticklabels()[0].get_text() == "2023-01"
    assert "2,000" in texts(chart)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("month", "revenue")
    assert axes.get_ylim()[0] == 0
    assert_nothing_is_clipped(chart)
    assert_no_words_overlap(chart)


def test_a_line_of_days_names_days_and_may_fall_below_zero() -> None:
    days = pd.date_range("2024-01-30", periods=70)
    frame = pd.DataFrame({"day": days, "change": range(-35, 35)})
    chart = draw_line(frame, "day", "change", "Change per day", unit="units")
    assert "2024-01-30" in texts(chart)
    assert chart.figure.axes[0].get_ylim()[0] < -35
    assert_nothing_is_clipped(chart)
    assert_no_words_overlap(chart)


def test_a_paler_line_shows_what_the_value_is_compared_with() -> None:
    frame = monthly_revenue(24).assign(a_year_before=lambda rows: rows["revenue"].shift(12))
    chart = draw_line(frame, "month", "revenue", "Revenue", unit="revenue", before="a_year_before")
    earlier, now, *_ = chart.figure.axes[0].lines
    assert (earlier.get_label(), now.get_label()) == ("a year before", "revenue")
    assert luminance(earlier.get_color()) > luminance(now.get_color()) + 0.3
    assert {"a year before", "revenue"} <= set(texts(chart))
    assert_nothing_is_clipped(chart)
    alone = draw_line(
        frame.head(12), "month", "revenue", "Revenue", unit="revenue", before="a_year_before"
    )
    assert "a year before" not in texts(alone)


def test_stacks_stand_upon_each_other_and_are_named() -> None:
    rows = pd.DataFrame({"month": pd.date_range("2024-01-01", periods=2, freq="MS")})
    rows = rows.assign(old_ones=[5, 0], new_ones=[2, None])
    chart = draw_stacks(rows, "month", ["old_ones", "new_ones"], "Customers", unit="customers")
    bars_drawn = [(bar.get_y(), bar.get_height()) for bar in chart.figure.axes[0].patches]
    assert bars_drawn == [(0, 5), (0, 0), (5, 2), (0, 0)]
    assert {"old ones", "new ones", "2024-01", "customers"} <= set(texts(chart))
    assert_nothing_is_clipped(chart)


@pytest.mark.parametrize("largest", [9.5, 480, 999_999, 123_456_789])
def test_a_heat_map_says_every_number_in_letters_that_can_be_read(largest: float) -> None:
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    rows = pd.DataFrame({"weekday": ["Monday", "Tuesday"]})
    rows = rows.assign(**{month: [largest * (n + 1) / 12, None] for n, month in enumerate(months)})
    chart = draw_heat_map(rows.assign(never=None), "weekday", "Revenue per day")
    axes = chart.figure.axes[0]
    in_thousands = "in thousands" in chart.title
    assert in_thousands == (largest >= 1_000_000)
    shown = largest / 1000 if in_thousands else largest
    assert axes.texts[-1].get_text() == (f"{shown:,.0f}" if shown >= 100 else f"{shown:,.2f}")
    assert len(axes.texts) == 12, "a missing number has no field"
    assert "never" not in texts(chart)
    image = axes.images[0]
    for letters in axes.texts:
        field = image.cmap(image.norm(image.get_array()[0, int(letters.get_position()[0])]))
        assert contrast(letters.get_color(), field) >= 4, letters.get_text()
    assert_nothing_is_clipped(chart)
    assert_no_words_overlap(chart)


def contrast(one: object, other: object) -> float:
    """The contrast ratio of two colours, as WCAG 2.2 defines it."""
    darker, lighter = sorted(luminance(each) for each in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: object) -> float:
    """The relative luminance of a colour, as WCAG 2.2 defines it."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_bars_stand_in_the_order_of_the_frame_with_their_values() -> None:
    chart = bars(revenues({"Filters": 20.4, "Espresso": 1234.5, "Tea": -0.2}))
    axes = chart.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Filters", "Espresso", "Tea"]
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["20", "1,234", "0"]
    assert axes.get_xlabel() == "revenue"


def test_two_products_of_one_name_and_one_without_are_three_bars() -> None:
    frame = pd.DataFrame({"product": ["Tea", "Tea", None], "revenue": [3, 2, 1]})
    axes = bars(frame).figure.axes[0]
    assert len({bar.get_y() for bar in axes.patches}) == 3
    assert axes.get_yticklabels()[2].get_text() == "not given"


@pytest.mark.parametrize(
    "rows",
    [
        {"A product name that goes on and on and says it all twice over, and then again": 5},
        {"W" * 200: 123_456_789.0, "short": 1},
        {"one": 9_999_999_999_999.0, "two": 8_888_888_888_888.0},
        {"one": 1_234_567_890.0, "A long name for a loss": -400_000_000.0, "little": -3},
        {"all": -5, "lost": -70_000},
        {"nothing": 0},
    ],
    ids=["long", "no spaces", "large", "mixed", "negative", "zero"],
)
def test_long_labels_and_large_values_are_neither_clipped_nor_overlap(
    rows: dict[str, float],
) -> None:
    chart = bars(revenues(rows), title="A long title that says very exactly what is drawn " * 4)
    assert_nothing_is_clipped(chart)
    assert_no_words_overlap(chart)


def test_a_label_is_text_and_no_formula() -> None:
    # as a formula this is a mistake, which would stop the drawing
    assert "$5 \\frac $6" in texts(bars(revenues({"$5 \\frac $6": 1})))


def test_letters_that_the_font_lacks_cause_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bars(revenues({"珈琲": 1})).png.startswith(PNG)


def test_of_many_rows_the_first_forty_are_drawn_and_the_title_says_so() -> None:
    chart = bars(revenues({f"P{number}": number for number in range(5000)}))
    assert chart.title == "Revenue by product (the first 40 of 5,000)"
    assert len(chart.figure.axes[0].patches) == 40


def test_a_bar_a_table_says_in_words_how_its_checks_came_out() -> None:
    chart = draw_checks(MIXED)
    axes = chart.figure.axes[0]
    tables = [label.get_text() for label in axes.get_yticklabels()]
    words = [text.get_text() for text in axes.texts]
    assert dict(zip(tables, words, strict=True)) == {
        "dim_product": "2 pass",
        "fact_sales": "1 fail, 1 warn, 1 pass",
        "other checks": "1 broken",
    }
    longest = dict(sorted((round(bar.get_y() + 0.35), sides(bar)[1]) for bar in axes.patches))
    assert longest == {0: 2, 1: 3, 2: 1}
    assert_nothing_is_clipped(chart)
    assert_no_words_overlap(chart)


def test_outcomes_differ_in_lightness_not_in_hue_alone() -> None:
    colours = {bar.get_facecolor() for bar in draw_checks(MIXED).figure.axes[0].patches}
    lightness = sorted(0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue, _ in colours)
    assert len(lightness) == 4
    assert all(lighter - darker > 0.1 for darker, lighter in pairwise(lightness))


@pytest.mark.parametrize("count", [1, 400])
def test_a_table_of_any_name_with_any_number_of_checks_is_drawn_whole(count: int) -> None:
    table = f"dim_{'long_name_' * 6}"
    rows = [(f"{table}_rule_{n}", "error", ["pass", "fail", "broken"][n % 3]) for n in range(count)]
    chart = draw_checks(checks((f"{table}_has_rows", "error", "pass"), *rows))
    assert_nothing_is_clipped(chart)
    assert_no_words_overlap(chart)


def test_without_checks_there_is_a_sentence() -> None:
    assert texts(draw_checks(checks())) == ["there are no checks", "Checks by table"]


@pytest.mark.parametrize(
    ("check", "table"),
    [
        ("dim_sales_has_rows", "dim_sales"),
        ("dim_sales_region_key_is_unique", "dim_sales_region"),
        ("dim_salesman_key_is_unique", "checks"),
        ("no_sale_in_the_future", "checks"),
    ],
)
def test_a_check_belongs_to_the_table_with_the_longest_name_it_begins_with(
    check: str, table: str
) -> None:
    assert checked_table(check, [check, "dim_sales_has_rows", "dim_sales_region_has_rows"]) == table
