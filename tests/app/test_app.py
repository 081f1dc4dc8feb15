"""The app, at each interaction: Streamlit runs it as for a browser, and tells what it shows."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import duckdb
import nbformat
import pandas as pd
import pytest
from conftest import query
from nbformat.v4 import new_code_cell
from streamlit.testing.v1 import AppTest

from mart_helpers.parameters import PLACES, notebook_parameters, notebook_path
from mart_helpers.run import answer_questions
from mart_helpers.session import Session, open_published

IMPORTS = "from pathlib import Path; from mart_helpers.app import show, show_page"
QUALITY = "show_page('04_quality', )"


def opened(database: Path, inputs_dir: Path, call: str = "show()") -> AppTest:
    """The app as it is first shown."""
    given = f"Path({str(database)!r}), Path({str(inputs_dir)!r})"
    script = f"{IMPORTS}; {call.replace(')', given + ')')}"
    return AppTest.from_string(script, default_timeout=120).run()


@pytest.fixture(scope="module")
def app(shared_mart: Path, shared_home: Path) -> AppTest:
    """The app on the mart of the sample; each test leaves the controls as it found them."""
    return opened(shared_mart, shared_home / "inputs")


def tables(app: AppTest) -> dict[str, pd.DataFrame]:
    """The tables that are shown, by the names of their downloads."""
    assert not app.exception, app.exception
    names = [button.label.removesuffix(".csv") for button in app.get("download_button")]
    return dict(zip(names, [each.value for each in app.dataframe], strict=True))


def answers(database: Path, **values: object) -> dict[str, pd.DataFrame]:
    """What the SQL cells of 02_explore answer on the mart, by themselves."""
    with open_published(database) as connection:
        session = Session(connection, database, {})
        names = answer_questions(session, "02_explore", **values)
        return {name: connection.execute(f"from {name}").df() for name in names}


def assert_same(app: AppTest, database: Path, **values: object) -> None:
    """All tables of the app that a cell has named hold what the cell answers."""
    shown, expected = tables(app), answers(database, **values)
    for name in shown.keys() & expected.keys():
        if isinstance(shown[name].index, pd.RangeIndex):
            found = shown[name].astype(object).where(shown[name].notna(), None)
            wanted = (
                expected[name].dropna(axis="columns", how="all") if name not in shown else expected[name]
            )
            wanted = wanted[list(found)].astype(object).where(wanted[list(found)].notna(), None)
            assert found.values.tolist() == wanted.values.tolist(), name
    assert len(shown.keys() & expected.keys()) > 8


def test_each_parameter_of_the_notebook_is_a_control_with_its_words(app: AppTest) -> None:
    declared = [
        (each.name, each.help)
        for each in notebook_parameters(notebook_path("02_explore"))
        if not each.name.endswith(PLACES)
    ]
    assert [(each.key, each.help) for each in app.sidebar if getattr(each, "key", None)] == declared


def test_the_answers_are_those_of_the_notebooks_sql(app: AppTest, shared_mart: Path) -> None:
    assert_same(app, shared_mart)


@pytest.mark.parametrize(
    ("name", "value", "given"),
    [
        ("start_date", date(2024, 3, 1), "2024-03-01"),
        ("segment", "Office", "Office"),
        ("top_n", 3, 3),
    ],
)
def test_a_control_answers_as_its_parameter_does(
    app: AppTest, shared_mart: Path, name: str, value: object, given: object
) -> None:
    control = next(each for each in app.sidebar if getattr(each, "key", None) == name)
    before = control.value
    assert_same(control.set_value(value).run(), shared_mart, **{name: given})
    control = next(each for each in app.sidebar if getattr(each, "key", None) == name)
    control.set_value(before)  # for the next run


def test_a_filter_offers_all_and_the_words_that_the_mart_has(app: AppTest, shared_mart: Path) -> None:
    known = query(shared_mart, "select distinct country from dim_customer order by country")
    assert app.sidebar.selectbox("country").options == ["all", *(word for (word,) in known)]


def test_a_start_after_the_end_is_refused_in_a_sentence(app: AppTest) -> None:
    app.sidebar.date_input("start_date").set_value(date(2024, 6, 1))
    app.sidebar.date_input("end_date").set_value(date(2024, 5, 1)).run()
    refused = [each.value for each in app.error]
    app.sidebar.date_input("start_date").set_value(None)
    app.sidebar.date_input("end_date").set_value(None).run()
    assert refused == [
        "The start date 2024-06-01 is after the end date 2024-05-01. Swap them, or leave one out."
    ]
    assert not app.error


def test_a_cell_that_is_added_to_the_notebook_is_seen_at_the_next_interaction(
    sample_mart: Path, home: Path
) -> None:
    app = opened(sample_mart, home / "inputs")
    path = home / "notebooks" / "02_explore.ipynb"
    notebook = nbformat.read(path, as_version=4)
    cell = "%%sql cities =<<\nselect city, count(*) as lines from sales group by city order by city"
    notebook.cells.append(new_code_cell(cell))
    notebook.cells[1].source += '\nmark: str = "x"  # a mark'
    notebook.cells.append(new_code_cell("mark * 3"))
    nbformat.write(notebook, path)
    app.run()
    assert "cities" in tables(app)
    assert app.markdown[-1].value == "xxx"
    assert app.sidebar.text_input("mark").set_value("y").run().markdown[-1].value == "yyy"


def test_without_a_mart_it_says_how_to_build_one(home: Path) -> None:
    app = opened(home / "none.duckdb", home / "inputs")
    assert "Run 01_build, or `mart build`" in app.error[0].value


def test_a_failing_cell_shows_its_error_and_the_cells_before_it(sample_mart: Path, home: Path) -> None:
    path = home / "notebooks" / "02_explore.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(-1, new_code_cell("%%sql\nselect * from no_such_table"))
    nbformat.write(notebook, path)
    app = opened(sample_mart, home / "inputs")
    assert app.error[0].value.startswith("Table with name no_such_table does not exist!")
    assert len(tables(app)) > 8


def test_the_checks_and_the_quarantine_have_a_page_that_says_what_is_wrong(
    shared_mart: Path, shared_home: Path
) -> None:
    app = opened(shared_mart, shared_home / "inputs", QUALITY)
    shown = tables(app)
    found = query(shared_mart, "select count(*) from quarantine")[0][0]
    assert shown["quarantined"]["bad_values"].sum() == found
    assert "warn" in set(shown["check_results"]["status"])
    stopped = app.sidebar.selectbox("fail_on").set_value("warn").run().error
    assert "did not pass" in stopped[0].value or "warn" in stopped[0].value


def test_looking_writes_nothing(sample_mart: Path, home: Path) -> None:
    database = home / "data" / "mart.duckdb"
    database.parent.mkdir()
    shutil.copyfile(sample_mart, database)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    app = opened(database, home / "inputs")
    app.sidebar.selectbox("segment").set_value("Cafe").run()
    assert len(tables(app)) > 8
    assert len(tables(opened(database, home / "inputs", QUALITY))) > 3
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def rebuilt(mart: Path, folder: Path, build: int) -> Path:
    """The mart as a later build has it, with a revenue of its own."""
    path = folder / f"{build}.duckdb"
    shutil.copyfile(mart, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("update build_log set build_id = ?", [build])
        connection.execute(
            "update fact_sales set net_amount = ? where sale_id = (select min(sale_id) from fact_sales)",
            [build],
        )
    return path


def test_50_rebuilds_give_no_error_and_no_figure_older_than_one_interaction(
    sample_mart: Path, home: Path, tmp_path: Path
) -> None:
    database = home / "mart.duckdb"
    published = [1]
    os.replace(rebuilt(sample_mart, tmp_path, 1), database)
    app = opened(database, home / "inputs")
    others = revenue(app) - 1

    def publish() -> None:
        for build in range(2, 51):
            os.replace(rebuilt(sample_mart, tmp_path, build), database)
            published.append(build)

    with ThreadPoolExecutor(1) as builder:
        building, seen = builder.submit(publish), set()
        while 50 not in seen:
            before = published[-1]
            app.run()
            assert not app.error
            seen |= {int(seen_build(app)), round(revenue(app) - others)}
            assert min(int(seen_build(app)), round(revenue(app) - others)) >= before
        building.result()
    assert len(seen) > 3, "somebody looked while others built"


def seen_build(app: AppTest) -> str:
    return app.sidebar.caption[0].value.partition(", build ")[2].split()[0]


def revenue(app: AppTest) -> float:
    return round(float(tables(app)["country_revenue"]["revenue"].sum()), 2)
