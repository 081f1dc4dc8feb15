"""Makes synthetic extracts of an invented coffee and tea trader, at any size.

The same arguments give the same bytes on every machine: random numbers come from our own integer hash,
since the random functions of a library or an engine may change from one version to the next.
"""

from datetime import date
from pathlib import Path

import duckdb

from mart_helpers.errors import StateError, UsageError
from mart_helpers.files import whole_files
from mart_helpers.parameters import resolve, shown
from mart_helpers.session import connect
from mart_helpers.texts import literal

USUAL_SEED = 8
EXTRACTS = tuple(date(year, month, 1) for year in (2023, 2024) for month in (1, 4, 7, 10))
MOST_SALES = 1_000_000_000  # more is probably a typing error, and would fill the disk
SMALL_COMPANY = 100_000  # sales up to which the company has no more than the base rows
MOST_PRODUCTS = 5_000

_VIEWS = Path(__file__).with_suffix(".sql")


def generate(sales: int, out: Path, seed: int = USUAL_SEED, *, history: bool = False) -> list[Path]:
    """Write dim_customer.csv, dim_product.csv and fact_sales.csv into folder `out`; return their paths.

    The sales cover 2023 and 2024, ordered by date: a strong November and December, weak Sundays,
    growth of about a sixth, 2 % returns, 2 % without a customer, 13 % with a discount. Up to
    100,000 sales there are 24 customers and 12 products. Above that, every 200 sales add a customer
    and every 2,000 a product, up to 5,000 products; these are numbered variants after the base rows.
    All ids in a file have the same width. Files with these names are replaced once all are complete.
    Memory use does not grow with the number of sales.

    With `history`, a folder of quarterly extracts replaces the customers' file, for example
    dim_customer/2023-04-01.csv; each has the customers who had signed up by then. From one extract to
    the next 2 % of them move, 1 % become another kind of business, 1 % get another name, and 1 % are
    left out. Another file, fact_inventory.csv, has the stock of each product at the end of each month.

    Raises UsageError if `sales` is below 1 or above MOST_SALES, StateError if `out` cannot be written.
    """
    if not 1 <= sales <= MOST_SALES:
        raise UsageError(
            f"generate: cannot make {sales} sales. Ask for 1 to {MOST_SALES:,}: --sales 100000"
        )
    folder, extra = resolve(out), max(0, sales - SMALL_COMPANY)
    sizes = {
        "sales": sales,
        "customers": 24 + extra // 200,
        "products": min(MOST_PRODUCTS, 12 + extra // 2_000),
        "seed": seed,
    }
    tables = _tables(history)
    paths = [folder / f"{name}.csv" for name in tables]
    try:
        with whole_files(paths) as parts, connect(":memory:") as connection:
            for name, value in sizes.items():
                connection.execute(f"set variable {name} = {value}::bigint")
            connection.execute(_VIEWS.read_text(encoding="utf-8"))
            for rows, part in zip(tables.values(), parts, strict=True):
                connection.execute(f"copy ({rows}) to {literal(part)} (format csv, header)")
    except duckdb.IOException as error:
        raise StateError(
            f"{shown(folder)} cannot be written to: {error}. Free disk space, or name another folder."
        ) from error
    return paths


def _tables(history: bool) -> dict[str, str]:
    """The files to write, without their ending, each with its rows as SQL."""
    facts = {name: f"from {name}" for name in ("dim_product", "fact_sales")}
    if not history:
        return {"dim_customer": "from dim_customer"} | facts
    dated = (
        "select * exclude (n, extract_number) from dated_customer where extract_number = {} order by n"
    )
    extracts = {f"dim_customer/{day}": dated.format(number) for number, day in enumerate(EXTRACTS)}
    return extracts | facts | {"fact_inventory": "from fact_inventory"}
