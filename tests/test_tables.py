"""Frames are shown as people read tables: nothing that is noise, nothing that is hidden unsaid."""

import duckdb
import pandas as pd

from mart_helpers.tables import as_html, as_text


def lines(frame: pd.DataFrame) -> list[list[str]]:
    """The words of each line of the frame as text."""
    return [line.split() for line in as_text(frame).splitlines()]


def column(values: list, name: str = "amount") -> list[str]:
    """How the values of a column are shown."""
    return [line[0] if line else "" for line in lines(pd.DataFrame({name: values}))[1:]]


def test_rows_have_no_numbers_and_missing_values_are_empty() -> None:
    frame = duckdb.sql(
        "select unnest(['a', null]) as name, unnest([1, null]) as units, unnest([null, 2.5]) as price, "
        "unnest([date '2024-01-31', null]) as day"
    ).df()
    assert lines(frame) == [["name", "units", "price", "day"], ["a", "1", "2024-01-31"], ["2.50"]]
    assert "NaN" not in as_html(frame)
    assert "None" not in as_html(frame)
    assert ">0</th>" not in as_html(frame)


def test_a_value_is_shown_with_what_its_column_needs() -> None:
    for values, name, shown in (
        ([1234567, 1], "units", ["1,234,567", "1"]),
        ([20240131, -1], "date_key", ["20240131", "-1"]),
        ([2024, 1999], "year", ["2024", "1999"]),
        ([1234.5, 2.0], "revenue", ["1,234.50", "2.00"]),
        ([1234.0, 2.0], "revenue", ["1,234", "2"]),
        ([12.5, 3.0], "growth_pct", ["12.5", "3.0"]),
        ([12.25, 3.0], "growth_pct", ["12.25", "3.00"]),
        ([-0.001, 5.5], "margin", ["0.00", "5.50"]),
        ([float("inf"), 1.25], "margin", ["inf", "1.25"]),
        ([True, False], "adds_up", ["True", "False"]),
        ([pd.Timestamp("2024-01-31 10:30"), pd.Timestamp("2024-01-31")], "at", ["2024-01-31"] * 2),
    ):
        assert column(values, name) == shown


def test_a_time_of_day_is_shown() -> None:
    assert "2024-01-31 10:30:00" in as_text(pd.DataFrame({"at": [pd.Timestamp("2024-01-31 10:30")]}))


def test_named_rows_keep_their_names_and_each_its_own_decimals() -> None:
    frame = pd.DataFrame(
        {"figure": ["orders", "revenue", "return_pct"], "this_period": [981.0, 78148.15, 0.6]}
    )
    assert lines(frame.set_index("figure")) == [
        ["this_period"],
        ["orders", "981"],
        ["revenue", "78,148.15"],
        ["return_pct", "0.6"],
    ]
    assert as_html(frame.set_index("figure")).count("<tr") == 4


def test_percentages_beside_named_rows_share_their_decimals() -> None:
    frame = pd.DataFrame({"figure": ["orders", "revenue"], "change_pct": [6.8, 23.0]})
    assert lines(frame.set_index("figure"))[1:] == [["orders", "6.8"], ["revenue", "23.0"]]


def test_of_many_rows_the_first_sixty_are_shown_and_their_number_is_said() -> None:
    frame = pd.DataFrame({"sale_id": [f"S{row}" for row in range(1000)]})
    for shown in (as_text(frame), as_html(frame)):
        assert "the first 60 of 1,000 rows" in shown
        assert "S59" in shown
        assert "S60" not in shown
    assert "of" not in as_text(frame.head(60))


def test_text_from_the_data_is_no_markup() -> None:
    assert "<script>" not in as_html(pd.DataFrame({"name": ["<script>alert(1)</script>"]}))


def test_an_offer_in_a_name_is_no_formula() -> None:
    shown = as_html(pd.DataFrame({"name": ["$5 off $20"]}))
    assert "><span>$</span>5 off <span>$</span>20</td>" in shown


def test_without_rows_the_columns_are_named() -> None:
    frame = pd.DataFrame({"country": [], "revenue": []})
    assert as_text(frame) == "no rows of country, revenue"
    assert ">revenue</th>" in as_html(frame)


def test_texts_stand_at_the_left_and_numbers_at_the_right_under_their_names() -> None:
    shown = as_html(pd.DataFrame({"name": ["Tea", None], "revenue": [1, None], "is_new": [True, False]}))
    left = ' style="text-align: left"'
    assert f"<th{left}>name</th>\n      <th>revenue</th>\n      <th{left}>is_new</th>" in shown
    assert f"<td{left}>Tea</td>\n      <td>1</td>\n      <td{left}>True</td>" in shown
