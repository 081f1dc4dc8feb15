import hashlib
import os
from pathlib import Path

import pytest
from conftest import SALES_HEADER

from mart_helpers.contract import read_contract
from mart_helpers.errors import InputError
from mart_helpers.loading import Loader
from mart_helpers.looking import Lookout
from mart_helpers.sources import find_sources

SALES = f"{SALES_HEADER}\nS1,2024-01-01,C1,P1,1,2.00,0\nS2,2024-01-02,C1,P1,1,2.00,0\n"
EXTRACTS = {
    "dim_customer": "customer_id,customer_name,segment,city,country,signup_date\nC1,One,,,,2023-01-01\n",
    "dim_product": "product_id,product_name,category,unit_cost,list_price\nP1,Pen,Desk,1,2\n",
    "fact_sales": SALES,
}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    for name, text in EXTRACTS.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


def overwritten(path: Path, text: str, *, unseen: bool) -> None:
    """Write other text into the same file; unseen, its size and times do not tell."""
    before = path.stat()
    path.write_text(text)
    if unseen:
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("unseen", [True, False])
def test_the_file_of_a_referring_table_is_looked_at_ahead_unless_it_changes(candidate, inputs, unseen):
    path = inputs / "fact_sales.csv"
    source = find_sources(inputs, read_contract(candidate.connection, "fact_sales"))[0]
    lookout = Lookout(candidate.connection, inputs)
    lookout.look_ahead()
    lookout._before.submit(int).result()  # the looks are behind it
    overwritten(path, SALES.replace("S2", " 2"), unseen=unseen)
    look = lookout.look("fact_sales", source)
    seen = SALES if unseen else path.read_text()
    assert look.count.result().sha256 == hashlib.sha256(seen.encode()).hexdigest()
    assert look.may_hold_blanks.result() is not unseen
    again = lookout.look("fact_sales", source)  # who loads once more looks once more
    assert again.count.result().sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_changes_before_it_is_loaded_is_counted_as_it_is_loaded(candidate, inputs):
    loader = Loader(candidate, inputs, 1.0)
    loader.load("dim_customer", from_seed=False)
    loader.load("dim_product", from_seed=False)
    path = inputs / "fact_sales.csv"
    path.write_text(SALES + "S3,2024-01-02, C1,P1,1,2.00,0\n")
    loader.load("fact_sales", from_seed=False)
    noted = candidate.connection.execute(
        "select rows_read, rows_loaded, sha256 from build_inputs where table_name = 'fact_sales'"
    ).fetchall()
    assert noted == [(3, 3, hashlib.sha256(path.read_bytes()).hexdigest())]


def test_a_file_that_is_there_only_later_is_no_matter(candidate, inputs):
    (inputs / "fact_sales.csv").rename(inputs / "later.csv")
    loader = Loader(candidate, inputs, 1.0)
    loader.load("dim_customer", from_seed=False)
    loader.load("dim_product", from_seed=False)
    with pytest.raises(InputError, match=r"holds no fact_sales\.csv"):
        loader.load("fact_sales", from_seed=False)
    (inputs / "later.csv").rename(inputs / "fact_sales.csv")
    loader.load("fact_sales", from_seed=False)
    assert candidate.connection.execute("select count(*) from staging.fact_sales").fetchone() == (2,)


def test_folders_are_left_alone(candidate, inputs):
    (inputs / "fact_sales").mkdir()
    (inputs / "fact_sales.csv").rename(inputs / "fact_sales" / "2024.csv")
    source = find_sources(inputs, read_contract(candidate.connection, "fact_sales"))[0]
    lookout = Lookout(candidate.connection, inputs)
    lookout.look_ahead()
    assert lookout._before.submit(int).result() == 0
    overwritten(source.path, SALES.replace("S2", " 2"), unseen=True)
    assert lookout.look("fact_sales", source).may_hold_blanks.result()


def test_seed_rows_are_not_taken_for_the_file_that_was_looked_at(candidate, inputs):
    candidate.connection.execute(
        "create table seed.fact_sales as select 'S1' as sale_id, '2024-01-01' as sale_date, "
        "'C1' as customer_id, 'P1' as product_id, 1 as quantity, 2 as unit_price, 0 as discount"
    )
    loader = Loader(candidate, inputs, 1.0)
    loader.load("dim_customer", from_seed=False)
    loader.load("dim_product", from_seed=False)
    loader.load("fact_sales", from_seed=True)
    assert candidate.connection.execute("select count(*) from staging.fact_sales").fetchone() == (1,)


def test_a_line_that_is_known_to_be_too_long_is_not_read(candidate, inputs):
    path = inputs / "fact_sales.csv"
    path.write_text(SALES + "S3," + "x" * (9 << 20) + "\n")
    loader = Loader(candidate, inputs, 1.0)
    loader.load("dim_customer", from_seed=False)
    loader._lookout._before.submit(int).result()
    with pytest.raises(InputError, match="row that begins on line 4 is longer than 8 MB"):
        loader.load("fact_sales", from_seed=False)
    assert candidate.connection.execute("select count(*) from staging.fact_sales").fetchone() == (0,)
