"""Cells as a learner runs them: twice, without those before them, after a restart, all over again."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import code_cells, query
from golden import ORDER
from kernels import Kernel, Ran, started

SET_UP_AND_PARAMETERS = 2
# of 01_build: what it shows of the mart before, and how long its books have become
DIFFERS_FROM_BUILD_TO_BUILD = ("changes.", "duckdb_tables()")

FIGURES = """
import gc
from matplotlib.figure import Figure
gc.collect()
sum(isinstance(each, Figure) for each in gc.get_objects())
"""


@pytest.fixture(scope="module")
def home(shared_home: Path, shared_mart: Path) -> Path:
    """A home with a mart that a build before has made."""
    return shared_home


@pytest.fixture(scope="module", params=ORDER)
def notebook(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def its_kernel(home: Path, notebook: str) -> Iterator[Kernel]:
    with started(home) as kernel:
        yield kernel


@pytest.fixture
def kernel(its_kernel: Kernel) -> Kernel:
    """The kernel of the notebook, in which no name is defined."""
    assert not its_kernel.run("%reset -f").failed
    return its_kernel


def database(home: Path) -> Path:
    return home / "data" / "mini_data_mart.duckdb"


def digest(home: Path) -> str:
    return hashlib.sha256(database(home).read_bytes()).hexdigest()


def star(home: Path) -> list[list[tuple]]:
    """What a build makes of the extracts, whole."""
    tables = ("dim_customer", "dim_product", "dim_date", "fact_sales", "quarantine")
    return [query(database(home), f"from {table} order by all") for table in tables]


def builds(home: Path) -> int:
    """How many builds the books know; each has one row in the log, and one for each of its files."""
    ids = query(database(home), "select build_id from build_log order by build_id")
    assert ids == [(number,) for number in range(1, len(ids) + 1)]
    files = "select build_id from build_inputs group by build_id having count(distinct file) = count(*)"
    assert sorted(query(database(home), files)) == ids
    return len(ids)


def is_clear(ran: Ran) -> bool:
    """Whether a cell worked, or said in one message, without a stack of ours, what is the matter."""
    if ran.ename in ("", "NameError"):
        return ran.ename == "" or bool(re.fullmatch(r"name '\w+' is not defined", ran.evalue))
    is_ours = re.fullmatch(r"(State|Query|Usage|Input)Error|CheckFailed", ran.ename)
    return bool(is_ours) and ran.shown == (f"{ran.ename}: {ran.evalue}",)


def says_the_way_out(ran: Ran) -> bool:
    return is_clear(ran) and "from its top" in ran.evalue


def test_a_cell_without_those_before_it_works_or_says_what_it_lacks(kernel, home, notebook):
    before = digest(home)
    cells = code_cells(notebook)
    set_up, others = cells[:SET_UP_AND_PARAMETERS], cells[SET_UP_AND_PARAMETERS:]
    for cell in reversed(others):  # so that none finds what one before it would have made
        assert not kernel.run_cells(set_up).failed
        ran = kernel.run(cell)
        assert is_clear(ran), f"{cell}\n{ran}"
        assert digest(home) == before, cell


def test_a_cell_run_again_gives_the_same_or_says_the_way_out(kernel, home, notebook):
    made, before, is_build = star(home), builds(home), notebook == "01_build"
    cells, shown = code_cells(notebook), []
    for cell in cells:
        first, second = kernel.run(cell), kernel.run(cell)
        assert not first.failed, first.evalue
        assert says_the_way_out(second) or second == first, f"{cell}\n{second}"
        shown.append(first)
    for cell, first in zip(cells, shown, strict=True):  # Run All
        again = kernel.run(cell)
        is_new = is_build and any(words in cell for words in DIFFERS_FROM_BUILD_TO_BUILD)
        assert again == first or (is_new and not again.failed), f"{cell}\n{again}"
    assert builds(home) == before + 2 * is_build
    published = digest(home)
    for cell in cells[SET_UP_AND_PARAMETERS:] if is_build else []:  # of a mart that is published
        ran = kernel.run(cell)
        assert not ran.failed or says_the_way_out(ran), f"{cell}\n{ran}"
    assert digest(home) == published
    assert star(home) == made
    assert kernel.run(FIGURES).text == "0\n", "the results that Jupyter keeps hold no figure"


def cells_to(words: str) -> list[str]:
    """The cells of 01_build up to the one that has `words` in it."""
    cells = code_cells("01_build")
    return cells[: next(number for number, cell in enumerate(cells, start=1) if words in cell)]


@pytest.fixture(scope="module")
def builder(home: Path) -> Iterator[Kernel]:
    with started(home) as kernel:
        yield kernel


def test_after_a_restart_in_the_middle_of_a_build_run_all_builds_the_mart(builder, home):
    made, before = star(home), builds(home)
    assert not builder.run_cells(cells_to("create table fact_sales")).failed
    builder.restart()
    assert star(home) == made
    ran = builder.run_all("01_build")
    assert not ran.failed, ran.evalue
    assert builds(home) == before + 1
    assert star(home) == made


def test_a_build_with_a_check_that_has_not_run_is_not_published(builder, home):
    before = digest(home)
    cells = cells_to("publish(")
    late = "%%sql\ncreate view checks.late as select sale_id from fact_sales"
    ran = builder.run_cells([*cells[:-1], late, cells[-1]])
    assert "nothing is published, because the check late has not run" in ran.evalue
    assert is_clear(ran)
    assert digest(home) == before


def test_extracts_are_not_loaded_again_under_a_star_that_is_made(builder):
    assert not builder.run_cells(cells_to("create table fact_sales")).failed
    ran = builder.run(cells_to("Loader(")[-1])
    assert "already exists, made from rows that were loaded before" in ran.evalue
    assert says_the_way_out(ran)
