"""`generate` makes a company of any size."""

import csv
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from mart_helpers.errors import StateError, UsageError
from mart_helpers.lab.generator import generate
from mart_helpers.parameters import home

NAMES = ["dim_customer.csv", "dim_product.csv", "fact_sales.csv"]
COLUMNS = {
    "dim_customer": "customer_id,customer_name,segment,city,country,signup_date",
    "dim_product": "product_id,product_name,category,unit_cost,list_price",
    "fact_sales": "sale_id,sale_date,customer_id,product_id,quantity,unit_price,discount",
}


def opened(folder: Path) -> duckdb.DuckDBPyConnection:
    """A connection in which each file of `folder` is a typed table, in file order."""
    types = {
        "sale_date": "date",
        "signup_date": "date",
        "quantity": "bigint",
        **dict.fromkeys(("unit_cost", "list_price", "unit_price"), "decimal(18, 4)"),
        "discount": "decimal(9, 6)",
    }
    connection = duckdb.connect()
    for table, header in COLUMNS.items():
        columns = {name: types.get(name, "varchar") for name in header.split(",")}
        connection.read_csv(
            str(folder / f"{table}.csv"), columns=columns, header=True, delimiter=","
        ).create(table)
    return connection


def value(connection: duckdb.DuckDBPyConnection, sql: str) -> object:
    return connection.execute(sql).fetchone()[0]


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    generate(200_000, folder)
    return folder


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    generate(2_000, folder)
    return folder


@pytest.fixture(scope="module", params=["small_folder", "large_folder"])
def company(request: pytest.FixtureRequest) -> duckdb.DuckDBPyConnection:
    return opened(request.getfixturevalue(request.param))


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


def test_each_file_starts_with_the_header_of_the_contract(large_folder: Path) -> None:
    for table, header in COLUMNS.items():
        with (large_folder / f"{table}.csv").open(encoding="utf-8") as file:
            assert file.readline() == header + "\n"


def test_the_sales_cover_two_calendar_years_and_every_month(company: duckdb.DuckDBPyConnection) -> None:
    months = "select count(distinct date_trunc('month', sale_date)) from fact_sales"
    assert value(company, months) == 24
    first_and_last = "select min(sale_date) || ' ' || max(sale_date) from fact_sales"
    assert value(company, first_and_last) == "2023-01-01 2024-12-31"


def test_no_line_breaks_the_contract(company: duckdb.DuckDBPyConnection) -> None:
    broken = """
        select count(*)
        from fact_sales
        left join dim_customer on fact_sales.customer_id = dim_customer.customer_id
        left join dim_product on fact_sales.product_id = dim_product.product_id
        where dim_product.product_id is null
            or (fact_sales.customer_id is not null and dim_customer.customer_id is null)
            or sale_date < signup_date
            or quantity = 0
            or unit_price <= 0
            or unit_cost <= 0
            or unit_cost >= list_price
            or discount not in (0, 0.05, 0.1, 0.15, 0.2)
    """
    assert value(company, broken) == 0


def test_ids_are_unique_in_order_and_of_one_width(company: duckdb.DuckDBPyConnection) -> None:
    for table in COLUMNS:
        ids = [row[0] for row in company.execute(f"from {table}").fetchall()]
        assert ids == sorted(set(ids))
        assert len({len(each) for each in ids}) == 1
    dates = [row[0] for row in company.execute("select sale_date from fact_sales").fetchall()]
    assert dates == sorted(dates)


def test_more_than_100_000_sales_grow_the_dimensions_behind_the_base_rows(
    tmp_path: Path, small_folder: Path, large_folder: Path
) -> None:
    large = opened(large_folder)
    counts = [value(large, f"select count(*) from {table}") for table in COLUMNS]
    assert counts == [24 + 100_000 // 200, 12 + 100_000 // 2_000, 200_000]
    # Evenly spread, the 24 base customers of 524 would make about 5 % of the lines.
    share = "select avg((customer_id <= 'C024')::int) from fact_sales where customer_id is not null"
    assert 0.15 < value(large, share) < 0.25
    generate(100_000, tmp_path)
    most, small, grown = map(bytes_of, (tmp_path, small_folder, large_folder))
    assert most[:2] == small[:2]
    assert all(each.startswith(base) for each, base in zip(grown[:2], small[:2], strict=True))


def test_products_stop_at_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mart_helpers.lab.generator.MOST_PRODUCTS", 40)
    generate(200_000, tmp_path)
    sold = "select count(distinct product_id) from fact_sales"
    assert (
        value(opened(tmp_path), sold)
        == value(opened(tmp_path), "select count(*) from dim_product")
        == 40
    )


def test_numbers_are_written_as_plain_decimals(large_folder: Path) -> None:
    with (large_folder / "fact_sales.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["discount"] for row in rows} == {"0", "0.05", "0.1", "0.15", "0.2"}
    assert {row["unit_price"][-3] for row in rows} == {"."}
    assert {row["sale_date"][4::3] for row in rows} == {"--"}


def test_a_seed_gives_the_same_sales_and_another_one_others(
    tmp_path: Path, small_folder: Path, large_folder: Path
) -> None:
    generate(200_000, tmp_path / "again")
    assert bytes_of(tmp_path / "again") == bytes_of(large_folder)
    generate(2_000, tmp_path / "other", seed=-1)
    same = zip(bytes_of(tmp_path / "other"), bytes_of(small_folder), strict=True)
    assert [ours == theirs for ours, theirs in same] == [True, True, False]


def test_a_history_of_few_sales_has_a_stock_of_each_product_sold(tmp_path: Path) -> None:
    generate(300, tmp_path, seed=3, history=True)
    stock = duckdb.read_csv(str(tmp_path / "fact_inventory.csv"))
    sold = duckdb.read_csv(str(tmp_path / "fact_sales.csv"))
    assert {*stock.select("product_id").fetchall()} == {*sold.select("product_id").fetchall()}
    assert stock.filter("units_on_hand is null or units_on_hand < 0").fetchall() == []


def test_the_paths_are_given_and_earlier_files_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "it's here"
    generate(50, folder)
    assert generate(1, folder) == [folder / name for name in NAMES]
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    assert opened(folder).execute("select sale_id from fact_sales").fetchall() == [("S000001",)]
    monkeypatch.setenv("MART_HOME", str(tmp_path))
    assert generate(10, Path("more"))[0] == tmp_path / "more" / "dim_customer.csv"


def test_what_cannot_be_done_is_refused_and_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("mine")
    (tmp_path / "taken" / "dim_customer.csv").mkdir(parents=True)
    for sales, out, error, message in [
        (0, "out", UsageError, "0 sales.*--sales"),
        (10, "a_file", StateError, "a_file cannot be written to: File exists"),
        (10, "a_file/below", StateError, "cannot be written to: Not a directory"),
        (10, "taken", StateError, "cannot be written"),
    ]:
        with pytest.raises(error, match=message):
            generate(sales, tmp_path / out)
    assert (tmp_path / "a_file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["dim_customer.csv"]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_sales(tmp_path: Path) -> None:
    # A process of its own, since the peak of this one is already high.
    program = """
import sys
from pathlib import Path
from mart_helpers.lab.generator import generate

def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

generate(20_000, Path(sys.argv[1]))
small = peak()
generate(2_000_000, Path(sys.argv[1]))
print((peak() - small) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=home(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 100
