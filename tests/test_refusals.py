"""A refused build, through the notebook itself: one clear message, and the published mart as it was.

One kernel runs 01_build for all cases, as Run All does: its cells in order, up to the first error.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CHECKOUT, put_mart, query
from kernels import Kernel, Ran, started
from test_damaged_files import (
    CUSTOMERS,
    GOOD,
    PRODUCTS,
    assert_fit_to_show,
    long_bad_values,
    put,
    refuses,
    sale,
    sales,
)

REFUSED = [
    refuses(
        "an open quote", sales(sale(1), f'"{sale(2)}'), "a quote that opens on line 3 is never closed"
    ),
    refuses("long bad values", long_bad_values(), "6 of its 7 rows are bad, more than"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def kernel(home: Path) -> Iterator[Kernel]:
    with started(home) as kernel:
        yield kernel


def build(kernel: Kernel, inputs: Path, database: Path) -> Ran:
    return kernel.run_all(
        "01_build", inputs_dir=str(inputs), database=str(database), allow_restated=True
    )


@pytest.fixture(scope="module")
def published(kernel: Kernel, home: Path, sample_mart: Path) -> Path:
    """The mart of the sample, built over an equal one, which is kept beside it."""
    database = put_mart(sample_mart, home)
    assert not build(kernel, CHECKOUT / "inputs", database).failed
    return database


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    put(folder, {"dim_customer.csv": CUSTOMERS.encode(), "dim_product.csv": PRODUCTS.encode()})
    return folder


def contents(database: Path) -> dict[str, str]:
    """The hash of each file beside the mart, without those by which a build works and is looked at."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"
        for path in database.parent.iterdir()
        if not path.name.startswith((f"{database.name}.candidate", f"{database.name}.lock"))
    }


def test_a_refused_build_says_why_and_leaves_the_published_mart_byte_for_byte(
    kernel: Kernel, published: Path, inputs: Path, subtests: pytest.Subtests
):
    for case in REFUSED:
        with subtests.test(case.words):
            before = contents(published)
            assert len(before) >= 2, "the mart, and the one before"
            put(inputs, case.files)
            ran = build(kernel, inputs, published)
            assert ran.ename == "InputError"
            assert case.refused in ran.evalue
            assert ran.shown == (f"InputError: {ran.evalue}",)
            assert ran.text.endswith(f"InputError: {ran.evalue}\n")
            assert_fit_to_show(ran.evalue)
            assert contents(published) == before


def test_a_good_build_after_the_refused_ones_is_published(kernel: Kernel, published: Path, inputs: Path):
    before = contents(published)
    put(inputs, {"fact_sales.csv": GOOD.encode()})
    assert not build(kernel, inputs, published).failed
    after = contents(published)
    assert after[published.name] not in before.values()
    assert before[published.name] in after.values(), "the mart before is kept"
    assert query(published, "select count(*) from fact_sales") == [(1,)]
    assert query(published, "select max(build_id) from build_log") == [(3,)]
