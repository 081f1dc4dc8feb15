"""The star schema as a picture: what it shows, whatever the names."""

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import duckdb
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from test_charts import PNG, figure_of, texts

from mart_helpers.charts import draw_star
from mart_helpers.session import Session

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
# the longest line of the first is a type, of the second its name, of the third the count of its rows
ODD = f"""
    create table dim_a as select {{'{"W" * 90}': 1}} as struct;
    create table dim_{"x" * 60} as select 1 as a;
    create table fact_a as select range as a from range(10_000_000);
"""

OpenMart = Callable[[str], Session]


@pytest.fixture
def open_mart(tmp_path: Path) -> Iterator[OpenMart]:
    """Makes a DuckDB file from SQL and opens it read-only, as `02_explore` does."""
    opened = []

    def make(sql: str) -> Session:
        path = tmp_path / f"{len(opened)}.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute(sql)
        opened.append(Session(duckdb.connect(str(path), read_only=True), path, {}))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


def parts(figure: Figure, kind: type) -> list:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, kind)]


def test_the_star_shows_tables_rows_columns_types_and_keys(open_mart: OpenMart) -> None:
    found = texts(figure_of(draw_star, open_mart(STAR)))
    assert {"fact_sales", "dim_date", "dim_product", "dim_customer"} <= set(found)
    assert {"1,200 rows", "1 row", "3 rows", "0 rows"} <= set(found)
    assert {"net_amount", "decimal(18,4)"} <= set(found)
    assert (found.count("PK"), found.count("FK")) == (3, 3)
    assert not {"build_log", "dim_region"} & set(found)


def test_arrows_lead_from_each_foreign_key_to_its_dimension(open_mart: OpenMart) -> None:
    figure = figure_of(draw_star, open_mart(STAR))
    marks = [(text.get_text(), text.get_position()[1]) for text in figure.axes[0].texts]
    ways = [arrow._path_original.vertices for arrow in parts(figure, FancyArrowPatch)]
    assert sorted(way[0][1] for way in ways) == sorted(y for text, y in marks if text == "FK")
    assert sorted(way[-1][1] for way in ways) == sorted(y for text, y in marks if text == "PK")
    edges = {x for box in parts(figure, Rectangle) for x, _ in box.get_corners()}
    for (start, _), *_, (end, _) in ways:
        assert {start, end} <= edges
        # it crosses no table
        assert not [edge for edge in edges if min(start, end) < edge < max(start, end)]


def test_two_facts_may_share_a_dimension_and_one_may_have_none(open_mart: OpenMart) -> None:
    mart = open_mart(
        STAR + "create table fact_returns (return_id integer, date_key integer);"
        "create table fact_visit (visit_id integer); create table dim_shop (shop_key integer)"
    )
    assert len(parts(figure_of(draw_star, mart), FancyArrowPatch)) == 4


def test_a_file_without_a_star_gives_a_sentence(open_mart: OpenMart) -> None:
    figure = figure_of(draw_star, open_mart("create table build_log (build_id integer)"))
    assert texts(figure) == ["no tables named dim_… or fact_…", "Star schema"]


def test_a_name_is_text_in_the_picture_whatever_it_holds(
    open_mart: OpenMart, subtests: pytest.Subtests
) -> None:
    for name in ["<script>$5 \\frac $6{{ 7 * 7 }}", 'q"uote', "; drop table x", "é e\u0301"]:
        with subtests.test(name):
            quoted = name.replace('"', '""')
            mart = open_mart(f'create table "dim_{quoted}" as select 1 as "{quoted}"')
            assert {f"dim_{name}", "1 row", name, "integer"} <= set(texts(figure_of(draw_star, mart)))
            assert draw_star(mart).png.startswith(PNG)


def test_a_name_is_one_line(open_mart: OpenMart) -> None:
    mart = open_mart('create table dim_a as select 1 as "a\nb\x01c"')
    assert r"a\nb\x01c" in texts(figure_of(draw_star, mart))


def test_the_same_mart_gives_the_same_bytes_and_the_notebook_a_picture(open_mart: OpenMart) -> None:
    mart = open_mart(STAR)
    star = draw_star(mart)
    assert star.png == draw_star(mart).png
    assert repr(star) == "<chart: Star schema>"
    assert star._repr_png_()[1] == {"alt": "Star schema", "width": 760, "height": 259}


def test_words_stay_in_their_table_and_apart(open_mart: OpenMart, subtests: pytest.Subtests) -> None:
    for sql in [STAR, STAR + ODD]:
        with subtests.test(sql[-40:]):
            figure = figure_of(draw_star, open_mart(sql))
            tables = [box.get_window_extent() for box in parts(figure, Rectangle)]
            title, *words = [
                (text.get_text(), text.get_window_extent()) for text in figure.axes[0].texts
            ]
            assert figure.bbox.containsx(max(box.x1 for box in tables))
            for text, box in words:
                assert any(table.x0 <= box.x0 and box.x1 <= table.x1 for table in tables), text
                assert any(table.y0 <= box.y0 and box.y1 <= table.y1 for table in tables), text
            pairs = combinations([title, *words], 2)
            assert [(a, b) for (a, x), (b, y) in pairs if x.overlaps(y)] == []
