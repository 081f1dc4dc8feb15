"""`generate` makes the sample inputs, and the same company at any size."""

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
def sample() -> duckdb.DuckDBPyConnection:
    return opened(home() / "inputs")


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    generate(200_000, folder)
    return folder


@pytest.fixture(scope="module")
def large(large_folder: Path) -> duckdb.DuckDBPyConnection:
    return opened(large_folder)


@pytest.fixture(params=["sample", "large"])
def company(request: pytest.FixtureRequest) -> duckdb.DuckDBPyConnection:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_can_be_made_again_byte_for_byte(tmp_path: Path, name: str) -> None:
    generate(2_000, tmp_path)
    assert (tmp_path / name).read_bytes() == (home() / "inputs" / name).read_bytes()


@pytest.mark.parametrize("table", COLUMNS)
def test_each_file_starts_with_the_header_of_the_contract(large_folder: Path, table: str) -> None:
    with (large_folder / f"{table}.csv").open(encoding="utf-8") as file:
        assert file.readline() == COLUMNS[table] + "\n"


@pytest.mark.parametrize(
    ("table", "rows"), [("dim_customer", 24), ("dim_product", 12), ("fact_sales", 2_000)]
)
def test_the_sample_has_its_size(sample: duckdb.DuckDBPyConnection, table: str, rows: int) -> None:
    assert value(sample, f"select count(*) from {table}") == rows


@pytest.mark.parametrize("column", ["customer_id", "product_id"])
def test_everything_in_the_sample_is_bought_or_buys(
    sample: duckdb.DuckDBPyConnection, column: str
) -> None:
    dimension = "dim_" + column.removesuffix("_id")
    idle = f"select count(*) from {dimension} anti join fact_sales using ({column})"
    assert value(sample, idle) == 0


def test_the_sales_cover_two_calendar_years_and_every_month(
    company: duckdb.DuckDBPyConnection,
) -> None:
    first_and_last = company.execute(
        "select min(sale_date)::varchar, max(sale_date)::varchar from fact_sales"
    ).fetchone()
    assert first_and_last == ("2023-01-01", "2024-12-31")
    months = "select count(distinct date_trunc('month', sale_date)) from fact_sales"
    assert value(company, months) == 24


@pytest.mark.parametrize(
    ("what", "least", "most"),
    [
        ("quantity < 0", 0.015, 0.025),
        ("discount > 0", 0.10, 0.15),
        ("customer_id is null", 0.015, 0.025),
        ("unit_price <> list_price", 0.04, 0.08),
    ],
)
def test_the_special_lines_have_their_share(
    company: duckdb.DuckDBPyConnection, what: str, least: float, most: float
) -> None:
    share = f"""
        select avg(({what})::int)
        from fact_sales
        inner join dim_product on fact_sales.product_id = dim_product.product_id
    """
    assert least <= value(company, share) <= most


def test_lines_and_revenue_grow_by_a_sixth(company: duckdb.DuckDBPyConnection) -> None:
    (lines, revenue) = company.execute("""
        with years as (
            select
                year(sale_date) as year,
                count(*) as lines,
                sum(quantity * unit_price * (1 - discount)) as revenue
            from fact_sales
            group by all
        )

        select max_by(lines, year) / min_by(lines, year),
            (max_by(revenue, year) / min_by(revenue, year))::double
        from years
    """).fetchone()
    assert 1.15 <= lines <= 1.20
    assert 1.15 <= revenue <= 1.20


def test_winter_is_strong_and_summer_weak(company: duckdb.DuckDBPyConnection) -> None:
    months = dict(
        company.execute("select month(sale_date), count(*) from fact_sales group by all").fetchall()
    )
    average = sum(months.values()) / 12
    assert min(months[11], months[12]) > 1.2 * average
    assert max(months[7], months[8]) < 0.9 * average


def test_weekends_are_weak_and_sundays_weakest(company: duckdb.DuckDBPyConnection) -> None:
    days = dict(
        company.execute("select isodow(sale_date), count(*) from fact_sales group by all").fetchall()
    )
    assert days[7] < 0.6 * days[6]
    assert days[6] < 0.9 * min(days[day] for day in range(1, 6))


@pytest.mark.parametrize("column", ["customer_id", "product_id"])
def test_a_fifth_of_the_names_makes_most_of_the_lines(
    company: duckdb.DuckDBPyConnection, column: str
) -> None:
    share = f"""
        with ranked as (
            select count(*) as lines, percent_rank() over (order by count(*) desc) as position
            from fact_sales
            where {column} is not null
            group by {column}
        )

        select sum(lines) filter (where position <= 0.2) / sum(lines) from ranked
    """
    assert value(company, share) > 0.4


def test_more_than_100_000_sales_grow_the_dimensions(large: duckdb.DuckDBPyConnection) -> None:
    assert value(large, "select count(*) from fact_sales") == 200_000
    assert value(large, "select count(*) from dim_customer") == 24 + 100_000 // 200
    assert value(large, "select count(*) from dim_product") == 12 + 100_000 // 2_000


def test_early_variants_of_a_customer_buy_more_than_late_ones(
    large: duckdb.DuckDBPyConnection,
) -> None:
    # Evenly spread, the 24 base customers of 524 would make about 5 % of the lines.
    share = "select avg((customer_id <= 'C024')::int) from fact_sales where customer_id is not null"
    assert 0.15 < value(large, share) < 0.25


def test_100_000_sales_keep_the_small_dimensions(tmp_path: Path) -> None:
    generate(100_000, tmp_path)
    for name in NAMES[:2]:
        assert (tmp_path / name).read_bytes() == (home() / "inputs" / name).read_bytes()


def test_products_stop_at_5_000(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mart_helpers.lab.generator.MOST_PRODUCTS", 40)
    generate(200_000, tmp_path)
    connection = opened(tmp_path)
    assert value(connection, "select count(*) from dim_product") == 40
    assert value(connection, "select count(distinct product_id) from fact_sales") == 40


@pytest.mark.parametrize("name", NAMES[:2])
def test_grown_dimensions_start_with_the_base_rows(large_folder: Path, name: str) -> None:
    with (
        (large_folder / name).open(encoding="utf-8") as grown,
        (home() / "inputs" / name).open(encoding="utf-8") as base,
    ):
        assert all(row == grown_row for row, grown_row in zip(base, grown, strict=False))


@pytest.mark.parametrize(
    ("table", "column"),
    [("dim_customer", "customer_id"), ("dim_product", "product_id"), ("fact_sales", "sale_id")],
)
def test_ids_are_unique_in_order_and_of_one_width(
    company: duckdb.DuckDBPyConnection, table: str, column: str
) -> None:
    ids = [row[0] for row in company.execute(f"select {column} from {table}").fetchall()]
    assert ids == sorted(set(ids))
    assert len({len(each) for each in ids}) == 1


def test_sales_are_in_the_order_of_their_dates(company: duckdb.DuckDBPyConnection) -> None:
    dates = [row[0] for row in company.execute("select sale_date from fact_sales").fetchall()]
    assert dates == sorted(dates)


@pytest.mark.parametrize(
    "rule",
    [
        "dim_product.product_id is null",
        "fact_sales.customer_id is not null and dim_customer.customer_id is null",
        "sale_date < signup_date",
        "quantity = 0",
        "unit_price <= 0",
        "unit_cost <= 0",
        "unit_cost >= list_price",
        "discount not in (0, 0.05, 0.1, 0.15, 0.2)",
    ],
)
def test_no_line_breaks_the_contract(company: duckdb.DuckDBPyConnection, rule: str) -> None:
    broken = f"""
        select count(*)
        from fact_sales
        left join dim_customer on fact_sales.customer_id = dim_customer.customer_id
        left join dim_product on fact_sales.product_id = dim_product.product_id
        where {rule}
    """
    assert value(company, broken) == 0


def test_numbers_are_written_as_plain_decimals(large_folder: Path) -> None:
    with (large_folder / "fact_sales.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["discount"] for row in rows} == {"0", "0.05", "0.1", "0.15", "0.2"}
    assert {row["unit_price"][-3] for row in rows} == {"."}
    assert {row["sale_date"][4::3] for row in rows} == {"--"}


def test_two_generations_are_equal(tmp_path: Path, large_folder: Path) -> None:
    generate(200_000, tmp_path)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (large_folder / name).read_bytes()


def test_another_seed_gives_other_sales_of_the_same_company(tmp_path: Path) -> None:
    generate(2_000, tmp_path, seed=-1)
    same = [(tmp_path / name).read_bytes() == (home() / "inputs" / name).read_bytes() for name in NAMES]
    assert same == [True, True, False]


def test_a_single_sale_can_be_made(tmp_path: Path) -> None:
    generate(1, tmp_path)
    assert value(opened(tmp_path), "select sale_id from fact_sales") == "S000001"


def test_the_paths_are_given_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "it's here"
    assert generate(10, folder) == [folder / name for name in NAMES]
    assert sorted(path.name for path in folder.iterdir()) == NAMES


def test_earlier_files_are_replaced(tmp_path: Path) -> None:
    generate(50, tmp_path)
    generate(10, tmp_path)
    assert value(opened(tmp_path), "select count(*) from fact_sales") == 10


def test_a_relative_folder_starts_at_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MART_HOME", str(tmp_path))
    assert generate(10, Path("more"))[0] == tmp_path / "more" / "dim_customer.csv"


@pytest.mark.parametrize("sales", [0, -5])
def test_less_than_one_sale_is_refused(tmp_path: Path, sales: int) -> None:
    with pytest.raises(UsageError, match=f"{sales} sales.*--sales"):
        generate(sales, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["a_file", "a_file/below"])
def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "a_file").write_text("mine")
    with pytest.raises(UsageError, match="--out"):
        generate(10, tmp_path / out)
    assert (tmp_path / "a_file").read_text() == "mine"


def test_a_file_that_cannot_be_replaced_is_an_error_that_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "dim_customer.csv").mkdir()
    with pytest.raises(StateError, match="cannot be written"):
        generate(10, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dim_customer.csv"]


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
