"""Files that have not changed are taken over, and the mart is as if all had been read anew."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest
from conftest import SALES_HEADER, code_cells, mart_command, query
from hypothesis import given, settings
from hypothesis import strategies as st

from mart_helpers.errors import InputError
from mart_helpers.loading import Loader
from mart_helpers.mart import carry_history, create_candidate, publish

RESULTS = {
    table: f"from {table} order by all"
    for table in ("dim_customer", "dim_product", "dim_date", "fact_sales", "quarantine")
} | {
    "build_inputs": "select * exclude (build_id, taken_over) from build_inputs "
    "where build_id = (select max(build_id) from build_inputs) order by all"
}
CELLS = list(
    itertools.takewhile(lambda cell: not cell.startswith("draw_star("), code_cells("01_build")[2:])
)


@dataclass(frozen=True)
class Extracts:
    """What a folder of extracts holds: customers, and the lines of each file of sales."""

    customers: tuple[str, ...] = ("C1", "C2")
    sales: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "fact_sales").mkdir(parents=True)
        header = "customer_id,customer_name,segment,city,country,signup_date"
        lines = [header, *(f"{each},,,,,2020-01-01" for each in self.customers)]
        (folder / "dim_customer.csv").write_text("\n".join(lines))
        header = "product_id,product_name,category,unit_cost,list_price"
        (folder / "dim_product.csv").write_text(f"{header}\nP1,Pen,Desk,1,2\n")
        for name, rows in self.sales.items():
            (folder / "fact_sales" / f"{name}.csv").write_text("\n".join([SALES_HEADER, *rows]))
        return folder


def build(inputs: Path, database: Path, recipe: str | None, edit: Callable[[str], str] = str) -> None:
    """Publish what the cells of 01_build, up to the star and edited, make of `inputs`."""
    names = {
        "stage": 3,
        "inputs_dir": inputs,
        "max_rejected_share": 1.0,
        "volume_tolerance": 0.5,
        "drops_only": False,
        "carry_history": carry_history,
        "Loader": Loader,
    }
    names["mart"] = mart = create_candidate(database, names)
    mart.recipe = lambda: recipe
    try:
        for cell in map(edit, CELLS):
            if cell.startswith("%%sql"):
                for statement in mart.connection.extract_statements(cell.partition("\n")[2]):
                    mart.execute(statement.query)
            else:
                exec(cell, names)
        mart.checks_failed = False
        publish(mart)
    finally:
        mart.close()


def results(database: Path) -> dict[str, list[tuple]]:
    return {table: query(database, rows) for table, rows in RESULTS.items()}


def taken_over(database: Path) -> list[str]:
    last = "build_id = (select max(build_id) from build_inputs)"
    rows = f"select file from build_inputs where taken_over and {last} order by file"
    return [file.removeprefix("fact_sales/").removesuffix(".csv") for (file,) in query(database, rows)]


def outcome(inputs: Path, database: Path, recipe: str | None) -> dict[str, list[tuple]] | str:
    """What the mart then holds, or why the build was refused."""
    try:
        build(inputs, database, recipe)
    except InputError as error:
        return str(error)
    return results(database)


def line(number: int | str, day: str, customer: str = "C1", price: str = "2.5") -> str:
    return f"S{number},{day},{customer},P1,2,{price},"


YEAR = Extracts(
    sales={
        f"{month:02}": (
            line(2 * month, f"2024-{month:02}-10", ""),
            line(2 * month + 1, f"2024-{month:02}-09", "C2"),
        )
        for month in range(1, 5)
    }
)


def changed(**files: tuple[str, ...] | None) -> Extracts:
    """The year with other files, named `f01` and so on; without those that are None."""
    sales = YEAR.sales | {name[1:]: rows for name, rows in files.items()}
    return Extracts(sales={name: rows for name, rows in sales.items() if rows is not None})


MARCH = YEAR.sales["03"]
CASES = {
    "nothing": (YEAR, YEAR, ["01", "02", "03", "04"]),
    "a month": (YEAR, changed(f03=(line(6, "2024-03-10", price="3"),)), ["01", "02", "04"]),
    "a month more": (YEAR, changed(f05=(line(99, "2024-05-01"),)), ["01", "02", "03", "04"]),
    "a month less": (YEAR, changed(f02=None), ["01", "03", "04"]),
    "a bad row more": (YEAR, changed(f03=(*MARCH, line(99, "soon"))), ["01", "02", "04"]),
    "a new customer": (YEAR, Extracts(("C0", "C1", "C2"), YEAR.sales), ["01", "02", "03", "04"]),
    "a row of another month": (YEAR, changed(f03=(*MARCH, line(99, "2024-01-09"))), ["01", "02", "04"]),
    # what is in doubt is read
    "a customer less": (YEAR, Extracts(("C1",), YEAR.sales), []),
    "a key of a later month": (YEAR, changed(f01=(line(8, "2024-01-10"),)), []),
    "a key of an earlier month": (YEAR, changed(f04=(*YEAR.sales["04"], line(2, "2024-04-10"))), []),
    "another name": (YEAR, changed(f02=None, f00=YEAR.sales["02"]), ["01", "03", "04"]),
    "bad rows before": (changed(f03=(*MARCH, line(99, "soon"))),) * 2 + (["01", "02", "04"],),
    "days of two files": (changed(f03=(*MARCH, line(99, "2024-01-10"))),) * 2 + (["04"],),
    "a key twice before": (changed(f03=(*MARCH, line(2, "2024-03-10"))),) * 2 + ([],),
}


@pytest.mark.parametrize(("before", "after", "expected"), CASES.values(), ids=CASES)
def test_unchanged_files_are_taken_over_and_the_mart_is_as_if_they_were_read(
    tmp_path, before, after, expected
):
    build(before.write(tmp_path / "in"), tmp_path / "mart.duckdb", "recipe")
    inputs = after.write(tmp_path / "in")
    build(inputs, tmp_path / "mart.duckdb", "recipe")
    build(inputs, tmp_path / "anew.duckdb", None)
    assert taken_over(tmp_path / "mart.duckdb") == expected
    assert results(tmp_path / "mart.duckdb") == results(tmp_path / "anew.duckdb")


def execute(mart: Path, statement: str) -> None:
    with duckdb.connect(str(mart)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "update build_log set recipe = null",
        "update build_log set recipe = 'another'",
        "alter table build_log drop column recipe",
        "alter table build_inputs drop column rows_hash",
        "update fact_sales set quantity = 3 where sale_id = 'S4'",
        "update fact_sales set customer_key = 1 where sale_id = 'S4'",
        "delete from fact_sales where sale_id = 'S4'",
        "drop table fact_sales",
        "drop table dim_date",
        "alter table fact_sales rename column quantity to units",
    ],
)
def test_a_mart_that_is_not_as_it_was_built_gives_no_rows(tmp_path, statement):
    inputs = YEAR.write(tmp_path / "in")
    build(inputs, tmp_path / "mart.duckdb", "recipe")
    as_built = results(tmp_path / "mart.duckdb")
    execute(tmp_path / "mart.duckdb", statement)
    build(inputs, tmp_path / "mart.duckdb", "recipe")
    assert taken_over(tmp_path / "mart.duckdb") == []
    assert results(tmp_path / "mart.duckdb") == as_built


def test_without_a_known_recipe_every_file_is_read(tmp_path):
    inputs = YEAR.write(tmp_path / "in")
    for _ in range(2):
        build(inputs, tmp_path / "mart.duckdb", None)
        assert taken_over(tmp_path / "mart.duckdb") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    sales.quantity,\n", "    sales.quantity * 2 as quantity,\n"),
        ("    sales.discount,\n", "    sales.discount as reduction,\n"),
        ("order by dim_date.date_key, sales", "where sales.sale_id <> 'S4' order by sales"),
    ],
)
def test_a_star_that_keeps_the_rows_otherwise_gives_none_back(tmp_path, old, new):
    inputs = YEAR.write(tmp_path / "in")
    stars = []
    for _ in range(2):
        build(inputs, tmp_path / "mart.duckdb", "recipe", lambda cell: cell.replace(old, new))
        assert taken_over(tmp_path / "mart.duckdb") == []
        stars.append(results(tmp_path / "mart.duckdb"))
    assert stars[0] == stars[1]


DAYS = st.dates().map(lambda day: f"2024-{day.month:02}-{1 + day.day % 28:02}")
ODD_LINES = st.builds(
    line, st.integers(0, 30), DAYS | st.just("soon"), st.sampled_from(["C1", "C2", "C3", ""])
)


@st.composite
def drawn_sales(draw: st.DrawFn, month: int) -> tuple[str, ...]:
    """The lines of a month, mostly sound; some of other days, with bad values or others' keys."""
    days = draw(st.lists(st.integers(1, 28), min_size=1, max_size=4))
    sound = [line(f"{month}-{number}", f"2024-{month:02}-{day:02}") for number, day in enumerate(days)]
    return tuple(draw(st.permutations([*sound, *draw(st.lists(ODD_LINES, max_size=1))])))


@st.composite
def drawn_extracts(draw: st.DrawFn) -> list[Extracts]:
    """The extracts of three builds: each time a few files are other ones, or gone, or have moved."""
    months = range(1, 7)
    sales = {f"{month:02}": draw(drawn_sales(month)) for month in months}
    states = []
    for _ in range(3):
        customers = draw(st.sampled_from([("C1", "C2", "C3")] * 3 + [("C1", "C2"), ("C0", "C1", "C3")]))
        states.append(Extracts(customers, dict(sales)))
        for month in draw(st.lists(st.sampled_from(months), max_size=2, unique=True)):
            sales[f"{month:02}"] = draw(drawn_sales(month))
        if draw(st.integers(0, 3)) == 0:
            one, other = draw(st.lists(st.sampled_from(sorted(sales)), min_size=2, max_size=2))
            sales[one], sales[other] = sales[other], sales[one]
        if len(sales) > 3 and draw(st.integers(0, 3)) == 0:
            del sales[draw(st.sampled_from(sorted(sales)))]
    return states


TAKEN: list[int] = []


@settings(max_examples=20, deadline=None)
@given(states=drawn_extracts())
def test_whatever_changes_the_mart_is_as_if_every_file_was_read(tmp_path_factory, states):
    folder = tmp_path_factory.mktemp("random")
    for number, state in enumerate(states):
        inputs = state.write(folder / "in")
        after = outcome(inputs, folder / "mart.duckdb", "recipe")
        assert after == outcome(inputs, folder / f"anew-{number}.duckdb", None)
        if not isinstance(after, str):
            TAKEN.append(len(taken_over(folder / "mart.duckdb")))


def test_often_enough_it_took_files_over_and_often_enough_not():
    assert TAKEN.count(0) > len(TAKEN) / 10
    assert sum(each > 0 for each in TAKEN) > len(TAKEN) / 10


def test_the_notebook_takes_over_the_year_that_has_not_changed(home):
    sales = home / "inputs" / "fact_sales.csv"
    header, *rows = sales.read_text().splitlines()
    sales.unlink()
    folder = sales.with_suffix("")
    folder.mkdir()
    for year in ("2023", "2024"):
        lines = [header, *(row for row in rows if f",{year}-" in row)]
        (folder / f"{year}.csv").write_text("\n".join(lines))
    mart = home / "data" / "mini_data_mart.duckdb"
    assert mart_command("build", cwd=home).returncode == 0
    with (folder / "2024.csv").open("a") as file:
        file.write("\nX1,2024-12-31,C001,P01,1,18.50,0\n")
    assert mart_command("build", cwd=home).returncode == 0
    assert taken_over(mart) == ["2023"]
    anew = home / "data" / "anew.duckdb"
    assert mart_command("build", "--database", anew, cwd=home).returncode == 0
    assert results(mart) == results(anew)
