"""Charts are drawn alike every time, show every word they hold, and stay calm where there is nothing."""

import gc
import warnings
from collections.abc import Callable
from itertools import combinations

import duckdb
import matplotlib
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from mart_helpers.charts import (
    NOTHING_TO_DRAW,
    Chart,
    draw_bars,
    draw_heat_map,
    draw_line,
    draw_stacks,
    style,
)

PNG = b"\x89PNG\r\n\x1a\n"


def monthly(months: int = 24) -> pd.DataFrame:
    """One row per month: the month as a date, its revenue as DuckDB hands it over."""
    return duckdb.sql(
        "select date '2023-01-01' + to_months(range::integer) as month, "
        f"(5000 + 731 * range % 4000)::decimal(18, 4) as revenue from range({months}) order by month"
    ).df()


def products(rows: dict[str, float]) -> pd.DataFrame:
    """One row per product, in the given order."""
    return pd.DataFrame({"product": list(rows), "revenue": list(rows.values())})


BARS = ("product", "revenue", "Revenue by product", "revenue")
LINE = ("month", "revenue", "Revenue per month", "revenue")
STACKS = ("month", ["revenue"], "Revenue", "revenue")


def figure_of(draw: Callable[..., Chart], *given: object, **named: object) -> Figure:
    """What a function of charts draws, before it becomes bytes."""
    with style():
        figure = draw.__wrapped__(*given, **named)
        FigureCanvasAgg(figure).draw()
    return figure


def texts(figure: Figure) -> list[str]:
    """All words of the figure, line breaks as spaces."""
    found = (text.get_text() for text in figure.findobj(Text) if text.get_visible())
    return [" ".join(text.split()) for text in found if text]


def assert_is_whole(figure: Figure) -> None:
    """All that is drawn lies within the picture, and no two texts of the axes over each other."""
    with style():
        drawn = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height
    axes = figure.axes[0]
    if not axes.axison:
        return
    # a scale keeps labels beyond its ends, which are not drawn
    low, high = sorted(axes.get_ylim())
    scale = [word for word in axes.get_yticklabels() if low <= word.get_position()[1] <= high]
    words = [*axes.texts, *scale, *axes.get_xticklabels(), axes.xaxis.label]
    boxes = [(word.get_text(), word.get_window_extent()) for word in words if word.get_text()]
    assert [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.overlaps(y)] == []


def test_the_same_rows_give_the_same_bytes_whatever_the_users_style() -> None:
    draws = (
        lambda: draw_line(monthly(), *LINE),
        lambda: draw_bars(products({"Espresso": 1234.5, "Filters": 20}), *BARS),
        lambda: draw_stacks(monthly(), *STACKS),
        lambda: draw_heat_map(products({"Espresso": 1}), "product", "Revenue"),
    )
    first = [draw().png for draw in draws]
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 20, "savefig.dpi": 50}):
        second = [draw().png for draw in draws]
        assert matplotlib.rcParams["axes.facecolor"] == "red"
    assert all(png.startswith(PNG) for png in first)
    assert first == second


def test_a_picture_tells_neither_time_nor_version() -> None:
    png = draw_line(monthly(), *LINE).png
    assert b"tEXt" not in png
    assert b"tIME" not in png


def test_a_notebook_shows_a_chart_once() -> None:
    data, metadata = DisplayFormatter().format(draw_line(monthly(), *LINE))
    assert set(data) == {"text/plain", "image/png"}
    assert data["text/plain"] == "<chart: Revenue per month>"
    assert metadata["image/png"] == {"alt": "Revenue per month", "width": 768, "height": 326}
    assert pyplot.get_fignums() == []


def test_a_chart_that_a_notebook_keeps_holds_no_figure() -> None:
    kept = [draw_line(monthly(), *LINE) for _ in range(3)]
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Figure)]
    assert len({chart.png for chart in kept}) == 1


def test_without_rows_the_title_stands_over_a_sentence(subtests: pytest.Subtests) -> None:
    for draw, given in [
        (draw_line, LINE),
        (draw_bars, BARS),
        (draw_stacks, STACKS),
        (draw_heat_map, ("month", "Revenue")),
    ]:
        with subtests.test(draw.__name__):
            figure = figure_of(draw, monthly(0).assign(product=""), *given)
            assert texts(figure) == [NOTHING_TO_DRAW, figure.get_label()]
            assert_is_whole(figure)


def test_rows_without_numbers_are_not_said_to_be_missing() -> None:
    frame = pd.DataFrame({"cohort": ["2024 Q1"], "q1": [None]})
    assert NOTHING_TO_DRAW in texts(figure_of(draw_heat_map, frame, "cohort", "Retention"))


def test_a_line_has_its_months_its_unit_and_thousands_separators(subtests: pytest.Subtests) -> None:
    for months in [1, 24, 120]:
        with subtests.test(str(months)):
            figure = figure_of(draw_line, monthly(months), *LINE)
            axes = figure.axes[0]
            assert axes.get_xticklabels()[0].get_text() == "2023-01"
            assert "2,000" in texts(figure)
            assert (axes.get_xlabel(), axes.get_ylabel()) == ("month", "revenue")
            assert axes.get_ylim()[0] == 0
            assert_is_whole(figure)


def test_a_line_of_days_names_days_and_may_fall_below_zero() -> None:
    days = pd.date_range("2024-01-30", periods=70)
    frame = pd.DataFrame({"day": days, "change": range(-35, 35)})
    figure = figure_of(draw_line, frame, "day", "change", "Change per day", unit="units")
    assert "2024-01-30" in texts(figure)
    assert figure.axes[0].get_ylim()[0] < -35
    assert_is_whole(figure)


def test_a_paler_line_shows_what_the_value_is_compared_with() -> None:
    frame = monthly(24).assign(a_year_before=lambda rows: rows["revenue"].shift(12))
    figure = figure_of(draw_line, frame, *LINE, before="a_year_before")
    earlier, now, *_ = figure.axes[0].lines
    assert luminance(earlier.get_color()) > luminance(now.get_color()) + 0.3
    assert {"a year before", "revenue"} <= set(texts(figure))
    assert_is_whole(figure)
    alone = figure_of(draw_line, frame.head(12), *LINE, before="a_year_before")
    assert "a year before" not in texts(alone)


def test_stacks_stand_upon_each_other_and_are_named() -> None:
    rows = pd.DataFrame({"month": pd.date_range("2024-01-01", periods=2, freq="MS")})
    rows = rows.assign(old_ones=[5, 0], new_ones=[2, None])
    figure = figure_of(draw_stacks, rows, "month", ["old_ones", "new_ones"], "Customers", "customers")
    drawn = [(bar.get_y(), bar.get_height()) for bar in figure.axes[0].patches]
    assert drawn == [(0, 5), (0, 0), (5, 2), (0, 0)]
    assert {"old ones", "new ones", "2024-01", "customers"} <= set(texts(figure))
    assert_is_whole(figure)


def test_a_heat_map_says_every_number_in_letters_that_can_be_read(subtests: pytest.Subtests) -> None:
    for largest in [9.5, 480, 123_456_789]:
        with subtests.test(str(largest)):
            rows = pd.DataFrame({"weekday": ["Monday", "Tuesday"], "never": None})
            rows = rows.assign(**{f"m{n:02}": [largest * n / 12, None] for n in range(1, 13)})
            figure = figure_of(draw_heat_map, rows, "weekday", "Revenue per day")
            axes = figure.axes[0]
            in_thousands = largest >= 1_000_000
            assert ("in thousands" in figure.get_label()) == in_thousands
            shown = largest / 1000 if in_thousands else largest
            assert axes.texts[-1].get_text() == (f"{shown:,.0f}" if shown >= 100 else f"{shown:,.2f}")
            assert len(axes.texts) == 12, "a missing number has no field"
            assert "never" not in texts(figure)
            image = axes.images[0]
            for letters in axes.texts:
                field = image.cmap(image.norm(image.get_array()[0, int(letters.get_position()[0])]))
                assert contrast(letters.get_color(), field) >= 4.5, letters.get_text()
            assert_is_whole(figure)


def contrast(one: object, other: object) -> float:
    """The contrast ratio of two colours, as WCAG 2.2 defines it."""
    darker, lighter = sorted(luminance(each) for each in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: object) -> float:
    """The relative luminance of a colour, as WCAG 2.2 defines it."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_bars_stand_in_the_order_of_the_frame_with_their_values() -> None:
    figure = figure_of(draw_bars, products({"Filters": 20.4, "Espresso": 1234.5, "Tea": -0.2}), *BARS)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Filters", "Espresso", "Tea"]
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["20", "1,235", "0"]
    assert axes.get_xlabel() == "revenue"


def test_bars_in_panels_have_a_line_at_what_they_are_compared_with() -> None:
    frame = pd.DataFrame({"by": ["city", "city", "land"], "member": ["Ulm", "Bonn", "Austria"]})
    frame = frame.assign(revenue=[3, -1, 5], a_year_before=[4, None, 2])
    given = ("member", "revenue", "Revenue", "revenue ")
    figure = figure_of(draw_bars, frame, *given, before="a_year_before", by="by")
    cities, lands = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["city", "land"]
    assert [bar.get_width() for bar in cities.patches if bar.get_visible()] == [3, -1]
    assert [line[0][0] for line in cities.collections[0].get_segments()] == [4, 0]
    assert [text.get_text() for text in lands.texts] == ["5"]
    assert cities.get_xlabel() == "revenue; line: a year before"
    assert_is_whole(figure)
    alone = figure_of(draw_bars, frame.assign(a_year_before=None), *given, before="a_year_before")
    assert alone.axes[0].get_xlabel() == "revenue"


def test_a_line_of_weeks_and_one_of_days_say_so() -> None:
    for frequency, word in (("W-MON", "week from"), ("D", "day"), ("MS", "month")):
        days = pd.DataFrame({"period_start": pd.date_range("2024-01-01", periods=6, freq=frequency)})
        figure = figure_of(draw_line, days.assign(revenue=1), "period_start", *LINE[1:])
        assert figure.axes[0].get_xlabel() == word


def test_two_products_of_one_name_and_one_without_are_three_bars() -> None:
    frame = pd.DataFrame({"product": ["Tea", "Tea", None], "revenue": [3, 2, 1]})
    axes = figure_of(draw_bars, frame, *BARS).axes[0]
    assert len({bar.get_y() for bar in axes.patches}) == 3
    assert axes.get_yticklabels()[2].get_text() == "not given"


def test_long_labels_and_large_values_are_neither_clipped_nor_overlap(subtests: pytest.Subtests) -> None:
    for rows in [
        {"A product name that goes on and on and says it all twice over, and then again": 5},
        {"W" * 200: 123_456_789.0, "short": 1},
        {"one": 1_234_567_890.0, "A long name for a loss": -400_000_000.0, "little": -3},
        {"nothing": 0},
    ]:
        with subtests.test(str(rows)[:40]):
            title = "A long title that says very exactly what is drawn " * 4
            assert_is_whole(figure_of(draw_bars, products(rows), "product", "revenue", title, "revenue"))


def test_a_huge_amount_is_drawn_and_said_in_few_letters(subtests: pytest.Subtests) -> None:
    for amount in [1e18, 1e38]:
        with subtests.test(str(amount)):
            frame = products({"one": amount, "two": 1, "three": -amount})
            bars = figure_of(draw_bars, frame, *BARS)
            assert f"{amount:.3g}" in texts(bars)
            assert_is_whole(bars)
            months = monthly(3).assign(revenue=frame["revenue"])
            assert_is_whole(figure_of(draw_line, months, *LINE))
            assert_is_whole(figure_of(draw_stacks, months, *STACKS))
            assert_is_whole(figure_of(draw_heat_map, frame, "product", "Revenue"))


def test_a_label_is_text_and_no_formula() -> None:
    # as a formula this is a mistake, which would stop the drawing
    assert "$5 \\frac $6" in texts(figure_of(draw_bars, products({"$5 \\frac $6": 1}), *BARS))


def test_a_letter_that_no_font_has_stops_nothing_and_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_bars(products({"\U0010fffd": 1, "a ⌚": 1}), *BARS)


def test_of_many_rows_the_first_forty_are_drawn_and_the_title_says_so() -> None:
    figure = figure_of(draw_bars, products({f"P{number}": number for number in range(5000)}), *BARS)
    assert figure.get_label() == "Revenue by product (the first 40 of 5,000)"
    assert len(figure.axes[0].patches) == 40
