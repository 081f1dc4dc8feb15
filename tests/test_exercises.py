"""The exercises tell right answers from wrong ones, on the sample and on a mart with other sales."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import code_cells, mart_command
from kernels import started

from mart_helpers.errors import UsageError
from mart_helpers.lab.exercise import FILES, Exercises, read_exercise
from mart_helpers.session import Session, open_published

Answer = Callable[[str, str], str]


@pytest.fixture(scope="module")
def session(shared_mart: Path) -> Iterator[Session]:
    session = Session(open_published(shared_mart), shared_mart, {})
    yield session
    session.close()


@pytest.fixture(scope="module")
def exercises(session: Session) -> Exercises:
    return Exercises(session, "data")


@pytest.fixture
def answer(session: Session, exercises: Exercises) -> Answer:
    """Answers an exercise with a select; what the check says."""

    def says(name: str, sql: str) -> str:
        session.connection.execute(f"create or replace temp view {name} as {sql}")
        return exercises.check(name)

    return says


def test_the_model_answer_is_right_and_each_typical_mistake_is_told_by_its_own_words(answer, subtests):
    for name in FILES:
        with subtests.test(name):
            exercise = read_exercise(name)
            ((_, model),) = exercise["answer"]
            assert answer(name, model).startswith("Right: ")
            assert [answer(name, sql) for _, sql in exercise["mistake"]] == [
                f"Not yet. {words}" for words, _ in exercise["mistake"]
            ]
            assert len(exercise["hint"]) == 3


RIGHT = {
    "grain": "select sum(net_amount)::double as REVENUE, date_key, customer_key, count(1) as lines "
    "from fact_sales group by all having customer_key > 0 order by revenue desc",
    "year_before": "select month_start, sum(revenue) as revenue, "
    "lag(sum(revenue), 12) over (order by month_start) as revenue_year_before "
    "from all_sales group by month_start",
    "fan_out": "with sold as (select product_key, sum(quantity) as units from fact_sales "
    "where quantity > 0 group by product_key), returned as (select product_key, sum(quantity) as units "
    "from fact_sales where quantity < 0 group by product_key) select product_id, "
    "sold.units as units_sold, abs(coalesce(returned.units, 0)) as units_returned "
    "from sold join dim_product using (product_key) left join returned using (product_key)",
}


def test_a_right_answer_that_is_written_in_another_way_passes(answer, subtests):
    for name in RIGHT:
        with subtests.test(name):
            assert answer(name, RIGHT[name]).startswith("Right: ")


WRONG = {
    "fan_out": (
        "select p.product_id, sum(s.quantity) as units_sold, sum(-r.quantity) as units_returned "
        "from dim_product as p, fact_sales as s, fact_sales as r where s.product_key = p.product_key "
        "and r.product_key = p.product_key and s.quantity > 0 and r.quantity < 0 group by all",
        "This is fan-out",
    ),
    "unknown_member": (
        "select country, revenue(s) as revenue from all_sales as s where customer_key > 0 group by 1",
        "Leave the unknown member in",
    ),
    "additivity": (
        "select year, sum(n)::int as customers from (select year, month_start, "
        "count(distinct customer_id) as n from all_sales where quantity > 0 group by all) group by year",
        "not the sum of the months",
    ),
    "ratios": (
        "select category, round(avg(100 * discount), 2) as discount_pct from all_sales group by all",
        "This is the average of `discount`",
    ),
}


def test_a_typical_wrong_answer_fails_with_its_own_hint(answer, subtests):
    for name in WRONG:
        with subtests.test(name):
            sql, words = WRONG[name]
            said = answer(name, sql)
            assert said.startswith("Not yet. ")
            assert words in said


def test_an_answer_that_copies_the_values_of_this_mart_fails_on_the_second(session, answer):
    ((_, model),) = read_exercise("additivity")["answer"]
    copied = session.connection.execute(model).fetchall()
    said = answer("additivity", f"from (values {str(copied)[1:-1]}) as copied (year, customers)")
    assert said.startswith("Right here, but not in the second mart. 2 rows are missing, such as ")


def test_another_wrong_answer_is_told_by_the_rows_that_differ(answer):
    said = answer("unknown_member", "select country, 1 as revenue from dim_customer group by country")
    assert re.fullmatch(
        r"Not yet\. 6 rows are missing, such as country Austria, revenue [\d.]+\. "
        r"6 rows are too many, such as country Austria, revenue 1\.",
        said,
    )


def test_an_answer_may_be_made_of_other_views(session, answer):
    ((_, model),) = read_exercise("quality")["answer"]
    session.connection.execute(f"create or replace temp view thin_sales as {model}")
    assert answer("quality", "from thin_sales").startswith("Right: ")


def test_what_is_not_answered_is_never_right_and_takes_no_second_mart(tmp_path, session):
    session.connection.execute("drop view if exists calendar")
    fresh = Exercises(session, tmp_path)
    assert fresh.check("calendar") == "Not answered yet: there is no view `calendar`."
    session.connection.execute("create temp view calendar as select null as answer")
    expected = "Not yet. The columns should be `month_start`, `days`, `quiet_days`."
    assert fresh.check("calendar") == expected
    assert list(tmp_path.iterdir()) == []


def test_three_hints_come_before_the_model_answer(session):
    fresh = Exercises(session, "data")
    said = [fresh.hint("ratios") for _ in range(4)]
    assert [each[:12] for each in said] == [
        "Hint 1 of 3:",
        "Hint 2 of 3:",
        "Hint 3 of 3:",
        "One way to w",
    ]
    ((_, model),) = read_exercise("ratios")["answer"]
    assert model in said[-1]
    with pytest.raises(UsageError, match="Did you mean ratios"):
        fresh.hint("ratio")


def test_an_answer_is_checked_in_a_plain_kernel_which_draws_no_progress_bars(
    shared_home, shared_mart, tmp_path
):
    _, *cells = code_cells("exercises")[:3]
    places = f'data_dir = "{tmp_path}"; database = "{shared_mart}"'
    with started(shared_home, "notebooks") as kernel:
        assert not kernel.run_cells([places, *cells]).failed
        kernel.run("%%sql\ncreate or replace temp view grain as\nselect 1 as answer")
        assert "columns" in kernel.run('check("grain")').text
        ((_, model),) = read_exercise("grain")["answer"]
        kernel.run(f"%%sql\ncreate or replace temp view grain as\n{model}")
        assert "Right: " in kernel.run('check("grain")').text


def test_the_notebook_has_each_exercise_once():
    source = "\n".join(code_cells("exercises"))
    for call in (r'task\("(\w+)"\)', r"temp view (\w+) as", r'check\("(\w+)"\)'):
        assert sorted(re.findall(call, source)) == [*FILES]


def test_reset_removes_the_second_mart(shared_home, answer):
    answer("quality", read_exercise("quality")["answer"][0][1])
    assert (shared_home / "data" / "exercises" / "mart.duckdb").exists()
    assert "data/exercises" in mart_command("reset", cwd=shared_home).stdout
    assert not (shared_home / "data" / "exercises").exists()
