"""The answers of 02_explore, computed a second time from the extracts without SQL."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from shutil import copyfile

import duckdb
import pandas as pd
import plain
import pytest
from conftest import mart_command

from mart_helpers.run import answer_questions, run_notebook, summary_of
from mart_helpers.session import Session, open_published

ANSWERS = [
    "sales_range",
    "headline_figures",
    "revenue_over_time",
    "top_products",
    "product_classes",
    "returned_products",
    "category_revenue",
    "segment_revenue",
    "country_revenue",
    "moved_revenue",
    "weekday_revenue",
    "new_and_returning",
    "rfm_segments",
    "cohort_retention",
    "discount_bands",
]
SELECTIONS = {
    "everything": {},
    "weeks": {"start_date": "2024-02-10", "end_date": "2024-04-20"},
    "days of the first year": {"start_date": "2023-05-01", "end_date": "2023-05-20"},
    "unknown customers": {"country": "Unknown"},
    "filters": {"category": "Tea", "country": "Austria", "start_date": "2023-05-01"},
}
# C1 and C5 bought the same on the same day, C4 has only ever brought something back
SMALL = {
    "dim_customer": """customer_id,customer_name,segment,city,country,signup_date
C1,,,,,
C2,,,,,
C3,,,,,
C4,,,,,
C5,,,,,
""",
    "dim_product": """product_id,product_name,category,unit_cost,list_price
P1,,,,
""",
    "fact_sales": """sale_id,sale_date,customer_id,product_id,quantity,unit_price
S1,2024-01-05,C1,P1,1,10
S2,2024-01-05,C2,P1,1,10
S3,2024-01-05,C5,P1,1,10
S4,2024-01-20,C2,P1,1,10
S5,2024-02-10,C3,P1,1,10
S6,2024-02-11,C4,P1,-1,10
S7,2024-02-11,,P1,1,10
""",
}

Ask = Callable[..., dict[str, pd.DataFrame]]


@pytest.fixture(scope="module")
def ask(sample_mart: Path) -> Iterator[Ask]:
    """Asks 02_explore; its answers as frames by their names."""
    mart = Session(open_published(sample_mart), sample_mart, {})

    @cache
    def answers(threads: int = 2, **values: object) -> dict[str, pd.DataFrame]:
        mart.connection.execute(f"set threads = {threads}")
        names = answer_questions(mart, "02_explore", **values)
        return {name: mart.connection.execute(f"from {name}").df() for name in names}

    yield answers
    mart.close()


@pytest.fixture(scope="module")
def small_mart(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Six sales of one quarter and a return, of a product without a cost, and the answers about them."""
    folder = tmp_path_factory.mktemp("small")
    for table, text in SMALL.items():
        (folder / f"{table}.csv").write_text(text)
    places = ("--inputs-dir", folder, "--database", folder / "small.duckdb", "--data-dir", folder)
    built = mart_command("build", *places, cwd=shared_home)
    assert built.returncode == 0, built.stderr
    mart = Session(open_published(folder / "small.duckdb"), folder / "small.duckdb", {})
    answer_questions(mart, "02_explore")
    yield mart
    mart.close()


@pytest.fixture(scope="module")
def small(small_mart: Session) -> dict[str, pd.DataFrame]:
    """The answers about the small mart, by their names."""
    return {name: small_mart.connection.execute(f"from {name}").df() for name in ANSWERS}


@cache
def extracts() -> pd.DataFrame:
    """The sample's sales, as plain Python reads them."""
    sales = pd.DataFrame(plain.sales())
    sales["date"] = pd.to_datetime(sales["date"])
    sales["month"] = sales["date"].dt.to_period("M").dt.start_time
    sales["bought"] = sales["quantity"] > 0
    sales["customer"] = sales["customer_id"].fillna(sales["sale_id"])
    return sales


def selected(values: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame, pd.Timestamp, pd.Timestamp]:
    """Sales in the range, sales of all days, and the first and last day, for parameters."""
    sales, days = extracts(), extracts()["date"]
    for name in set(values) - {"start_date", "end_date"}:
        sales = sales[sales[name] == values[name]]
    first = max(pd.Timestamp(values.get("start_date", "1900-01-01")), days.min())
    last = min(pd.Timestamp(values.get("end_date", "2100-01-01")), days.max())
    return sales[sales["date"].between(first, last)], sales, first, last


def assert_same(found: pd.Series, expected: pd.Series, tolerance: float = 0.005) -> None:
    """The same labels in any order, and values as near as their rounding allows."""
    expected = expected.astype(float)
    assert found.index.tolist() == expected.reindex(found.index).index.tolist()
    assert sorted(map(str, found.index)) == sorted(map(str, expected.index))
    assert ((found.astype(float) - expected.reindex(found.index)).abs() <= tolerance).all()


def test_the_notebook_answers_these_questions_by_name(ask: Ask) -> None:
    assert list(ask()) == ANSWERS


def test_figures_are_compared_with_a_year_before_or_else_with_the_period_before(
    ask: Ask, subtests: pytest.Subtests
) -> None:
    for values, column in [
        ({"start_date": "2024-02-10", "end_date": "2024-04-20", "country": "Austria"}, "year_before"),
        ({"start_date": "2023-05-01", "end_date": "2023-05-20"}, "period_before"),
        ({"start_date": "2023-02-01"}, None),
    ]:
        with subtests.test(str(column)):
            figures = ask(**values)["headline_figures"].set_index("figure")
            in_range, sales, first, last = selected(values)
            assert_same(figures["this_period"], headline(in_range), tolerance=0.00501)
            assert figures[["year_before", "period_before"]].notna().any().tolist() == [
                column == "year_before",
                column == "period_before",
            ]
            if not column:
                continue
            back = (
                pd.DateOffset(years=1)
                if column == "year_before"
                else last - first + pd.Timedelta(days=1)
            )
            before = sales[sales["date"].between(first - back, last - back)]
            assert_same(figures[column].dropna(), headline(before), tolerance=0.00501)
            growth = 100 * (figures["this_period"] / figures[column] - 1)
            growth = growth.drop([name for name in growth.index if name.endswith("_pct")])
            assert_same(figures["change_pct"].dropna(), growth.dropna(), tolerance=0.0501)


def test_a_margin_that_nobody_knows_is_an_empty_line(small: dict[str, pd.DataFrame]) -> None:
    figures = small["headline_figures"]
    assert figures["figure"].tolist()[-3:] == ["margin", "margin_pct", "return_pct"]
    assert figures["this_period"].isna().tolist()[-3:] == [True, True, False]


def test_who_only_brings_back_is_no_customer_in_any_answer(small: dict[str, pd.DataFrame]) -> None:
    figures = small["headline_figures"].set_index("figure")["this_period"]
    assert figures["customers"] == 4
    for name in ("segment_revenue", "country_revenue", "rfm_segments"):
        assert small[name]["customers"].sum() == 4, name


def test_sales_that_name_no_customer_are_not_shared_among_customers(
    small: dict[str, pd.DataFrame],
) -> None:
    assert small["segment_revenue"]["revenue"].tolist() == [50.0]
    assert small["segment_revenue"]["revenue_per_customer"].tolist() == [10.0]


def headline(sales: pd.DataFrame) -> pd.Series:
    """The headline figures of some sales; none where there are no sales."""
    if sales.empty:
        return pd.Series()
    bought, returned = sales[sales["bought"]], sales[~sales["bought"]]
    return pd.Series(
        {
            "days_with_sales": sales["date"].nunique(),
            "revenue": sales["revenue"].sum(),
            "orders": len(set(zip(bought["customer"], bought["date"], strict=True))),
            "units": sales["quantity"].sum(),
            "customers": bought["customer_id"].nunique(),
            "average_line": sales["revenue"].sum() / len(sales),
            "margin": sales["margin"].sum(),
            "margin_pct": 100 * sales["margin"].sum() / sales["revenue"].sum(),
            "return_pct": 100 * -returned["quantity"].sum() / bought["quantity"].sum(),
        }
    )


def starts(days: pd.Series, first: pd.Timestamp, last: pd.Timestamp) -> pd.Series:
    """The first day of the period of each day: days, weeks or months, by the length of the range."""
    length = (last - first).days + 1
    return days.dt.to_period("D" if length <= 31 else "W" if length <= 183 else "M").dt.start_time


def test_each_period_stands_beside_the_same_days_a_year_before(
    ask: Ask, subtests: pytest.Subtests
) -> None:
    for words, values in SELECTIONS.items():
        with subtests.test(words):
            found = ask(**values)["revenue_over_time"].set_index("period_start")
            in_range, sales, first, last = selected(values)
            periods = starts(pd.Series(pd.date_range(first, last)), first, last).unique()
            in_periods = in_range.groupby(starts(in_range["date"], first, last))["revenue"].sum()
            assert_same(found["revenue"], in_periods.reindex(periods, fill_value=0))
            is_monthly = (last - first).days >= 183
            year = pd.DateOffset(years=1) if is_monthly else pd.Timedelta(weeks=52)
            moved = sales.assign(date=sales["date"] + year)
            moved = moved[moved["date"].between(first, last)]
            earlier = moved.groupby(starts(moved["date"], first, last))["revenue"].sum()
            assert_same(found["revenue_year_before"].dropna(), earlier)
            growth = 100 * (found["revenue"] / found["revenue_year_before"] - 1)
            assert_same(found["growth_pct"].dropna(), growth.dropna(), tolerance=0.0501)


def test_products_categories_segments_and_countries_share_one_revenue(
    ask: Ask, subtests: pytest.Subtests
) -> None:
    for words, values in SELECTIONS.items():
        with subtests.test(words):
            answers = ask(top_n=5, **values)
            in_range, *_ = selected(values)
            by_product = in_range.groupby(["product_id", "product_name"])["revenue"].sum().reset_index()
            best = by_product.sort_values(["revenue", "product_id"], ascending=[False, True])
            top = answers["top_products"]
            assert top["product_name"].tolist() == best["product_name"].head(5).tolist()
            running = best["revenue"].astype(float).cumsum() / float(best["revenue"].sum()) * 100
            assert top["running_pct"].tolist() == pytest.approx(running.head(5).tolist(), abs=0.051)
            total = float(in_range["revenue"].sum())
            assert answers["product_classes"]["products"].sum() == len(best)
            assert answers["product_classes"]["revenue"].sum() == pytest.approx(total)
            for name in ("segment", "country", "category"):
                found = answers[f"{name}_revenue"].set_index(name)
                expected = in_range.groupby(name)["revenue"].sum()
                if name == "category":
                    expected["All categories"] = in_range["revenue"].sum()
                assert_same(found["revenue"], expected)
                assert_same(found["revenue_pct"], expected.astype(float) / total * 100, tolerance=0.0501)


def test_class_a_is_the_shortest_list_that_brings_in_80_percent(ask: Ask) -> None:
    classes = ask()["product_classes"].set_index("class")
    revenue = extracts().groupby("product_id")["revenue"].sum().sort_values(ascending=False)
    shares = revenue.cumsum() / revenue.sum()
    assert classes.loc["A", "products"] == (shares < Decimal("0.80")).sum() + 1
    assert classes.loc["C", "products"] == len(shares) - (shares < Decimal("0.95")).sum() - 1


def test_weekdays_are_compared_by_day_days_without_sales_included(
    ask: Ask, subtests: pytest.Subtests
) -> None:
    for words, values in SELECTIONS.items():
        with subtests.test(words):
            found = ask(**values)["weekday_revenue"].set_index("weekday_name")
            in_range, _, first, last = selected(values)
            days = pd.date_range(first, last)
            revenue = in_range.groupby("date")["revenue"].sum().astype(float).reindex(days, fill_value=0)
            expected = revenue.groupby([days.day_name(), days.strftime("%b")]).mean()
            assert_same(found.stack().dropna(), expected, tolerance=0.00501)
            week = pd.date_range("2024-01-01", periods=7).day_name()
            assert found.index.tolist() == [day for day in week if day in set(days.day_name())]


def test_a_customer_is_new_in_the_period_of_the_first_purchase_only(
    ask: Ask, subtests: pytest.Subtests
) -> None:
    for words, values in SELECTIONS.items():
        with subtests.test(words):
            found = ask(**values)["new_and_returning"].set_index("period_start")
            _, sales, first, last = selected(values)
            periods = starts(pd.Series(pd.date_range(first, last)), first, last).unique()
            known = sales[sales["customer_id"].notna() & sales["bought"]]
            known = known.assign(period=starts(known["date"], first, last))
            known["first"] = known.groupby("customer_id")["period"].transform("min")
            known = known[known["date"].between(first, last)]
            is_new = known["first"] == known["period"]
            for name, rows in (("new", known[is_new]), ("returning", known[~is_new])):
                customers = (
                    rows.groupby("period")["customer_id"].nunique().reindex(periods, fill_value=0)
                )
                assert_same(found[f"{name}_customers"], customers)
                revenue = rows.groupby("period")["revenue"].sum().reindex(periods, fill_value=0)
                assert_same(found[f"revenue_of_{name}"], revenue)


def test_rfm_segments_hold_every_known_customer_once(ask: Ask, subtests: pytest.Subtests) -> None:
    for words, values in SELECTIONS.items():
        with subtests.test(words):
            segments = ask(**values)["rfm_segments"].set_index("rfm_segment")
            in_range, _, _, last = selected(values)
            known = in_range[in_range["customer_id"].notna()]
            customers = pd.DataFrame(
                {
                    "recency": (
                        last - known[known["bought"]].groupby("customer_id")["date"].max()
                    ).dt.days,
                    "orders": known[known["bought"]].groupby("customer_id")["date"].nunique(),
                }
            ).reset_index(names="customer_id")
            assert segments["customers"].sum() == len(customers)
            if customers.empty:
                continue
            points = points_of(customers)
            champions = customers[points.eq(3).all(axis=1)]["customer_id"].tolist()
            if champions:
                assert segments.loc["Champions", "customers"] == len(champions)
                revenue = known[known["customer_id"].isin(champions)]["revenue"].sum()
                assert segments.loc["Champions", "revenue"] == pytest.approx(float(revenue))
            else:
                assert "Champions" not in segments.index


def points_of(customers: pd.DataFrame) -> pd.DataFrame:
    """1 to 3: for the share of those who bought no later, and of the others who did on fewer days."""
    recency, orders, many = customers["recency"], customers["orders"], len(customers)
    no_later = recency.map(lambda days: (recency >= days).sum())
    fewer = orders.map(lambda number: (orders < number).sum())
    return pd.DataFrame(
        {
            "recency": -(-3 * no_later // many),
            "orders": (1 + 3 * fewer // max(many - 1, 1)).clip(upper=3),
        }
    )


def test_equal_customers_are_in_the_same_rfm_segment(small: dict[str, pd.DataFrame]) -> None:
    segments = small["rfm_segments"].set_index("rfm_segment")["customers"]
    assert segments.to_dict() == {"Champions": 1, "Occasional": 3}


def test_cohorts_are_followed_quarter_by_quarter_to_the_end_of_the_range(
    ask: Ask, subtests: pytest.Subtests
) -> None:
    for words, values in SELECTIONS.items():
        with subtests.test(words):
            found = ask(**values)["cohort_retention"].set_index("cohort")
            in_range, sales, first, last = selected(values)
            bought = sales[sales["bought"] & sales["customer_id"].notna()]
            firsts = bought.groupby("customer_id")["date"].min()
            firsts = firsts[firsts.between(first, last)].dt.to_period("Q")
            active = in_range[in_range["bought"]].assign(
                quarter=lambda rows: rows["date"].dt.to_period("Q")
            )
            for cohort, members in firsts.groupby(firsts):
                line = found.loc[str(cohort).replace("Q", " Q")]
                assert line["customers"] == len(members)
                for later in range(1, 9):
                    quarter = cohort + later
                    if quarter.start_time > last:
                        assert pd.isna(line[f"q{later}"])
                        continue
                    who = active[
                        (active["quarter"] == quarter) & active["customer_id"].isin(members.index)
                    ]
                    share = 100 * who["customer_id"].nunique() / len(members)
                    assert line[f"q{later}"] == pytest.approx(share, abs=0.5)
            assert len(found) == firsts.nunique()


def test_a_cohort_without_a_later_quarter_has_its_line(small: dict[str, pd.DataFrame]) -> None:
    (line,) = small["cohort_retention"].to_dict("records")
    assert (line["cohort"], line["customers"]) == ("2024 Q1", 4)
    assert pd.isna([line[f"q{later}"] for later in range(1, 9)]).all()


def test_discount_bands_add_up_and_have_the_margin_of_the_extracts(ask: Ask) -> None:
    bands = ask()["discount_bands"].set_index("discount_band")
    sales = extracts()
    assert bands["sales_lines"].sum() == len(sales)
    none = sales[sales["discount"] == 0]
    assert bands.loc["none", "margin"] == pytest.approx(float(none["margin"].sum()))
    steep = sales[sales["discount"] > Decimal("0.20")]
    assert bands.loc["above 20 %", "sales_lines"] == len(steep)
    expected = 100 * float(steep["margin"].sum() / steep["revenue"].sum())
    assert bands.loc["above 20 %", "margin_pct"] == pytest.approx(expected, abs=0.051)


def test_averages_of_money_are_decimals(small_mart: Session) -> None:
    averages = {"weekday_revenue": "Jan", "segment_revenue": "revenue_per_customer"}
    for answer, column in (averages | {"rfm_segments": "revenue_per_customer"}).items():
        found = small_mart.connection.execute(f"select {column} from {answer}")
        assert found.description[0][1] == "DECIMAL(38,2)", answer


def test_amounts_of_more_than_a_quintillion_are_answered(sample_mart: Path, tmp_path: Path) -> None:
    copyfile(sample_mart, tmp_path / "huge.duckdb")
    with duckdb.connect(str(tmp_path / "huge.duckdb")) as connection:
        connection.execute("update fact_sales set net_amount = 99999999999999, quantity = 1")
        connection.execute(
            "insert into fact_sales from fact_sales cross join range(9) select * exclude range"
        )
    mart = Session(open_published(tmp_path / "huge.duckdb"), tmp_path / "huge.duckdb", {})
    answer_questions(mart, "02_explore")
    ((revenue,),) = mart.connection.execute("select sum(revenue) from country_revenue").fetchall()
    assert revenue == 10 * len(plain.sales()) * Decimal(99_999_999_999_999)
    mart.close()


def test_the_answers_do_not_depend_on_threads(ask: Ask) -> None:
    one, two = ask(threads=1), ask(threads=2)
    for name in ANSWERS:
        pd.testing.assert_frame_equal(one[name], two[name])


def test_where_nothing_matches_every_answer_is_empty(ask: Ask, subtests: pytest.Subtests) -> None:
    for values in [{"segment": "Caffe"}, {"category": "$x {{y}}"}, {"start_date": "2031-01-01"}]:
        with subtests.test(str(values)):
            assert [name for name, frame in ask(**values).items() if len(frame)] == []


def test_a_filter_that_matches_nothing_ends_in_a_kind_sentence(
    shared_home: Path, shared_mart: Path, subtests: pytest.Subtests
) -> None:
    for values, said in [
        ({"segment": "Caffe"},
            "No sale passes the filters. The notebook lists the words that they may be."),
        ({"start_date": "2031-01-01"},
            "No sale that passes the filters lies between these dates. Take a wider range."),
    ]:  # fmt: skip
        with subtests.test(said):
            executed = run_notebook("02_explore", values, shared_home)
            assert summary_of(executed) == [said]
            assert "Cafe, Office, Retail, Unknown" in executed.read_text()
