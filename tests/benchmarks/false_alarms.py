"""How often do clean nights warn, and is a closed month that loses a sale caught?

Each history is a trader of its own, with growth, season, weekdays and noise. Every night the extract has
all sales up to that day, and 01_build runs on it; whatever check comes out other than passed or skipped
is an alarm. On the last night, a sale of a closed month is gone from the extract, which must be caught.

    python tests/benchmarks/false_alarms.py --quick        3 histories of 12 nights
    python tests/benchmarks/false_alarms.py --processes 2  100 histories of 30 nights
"""

import argparse
import csv
import os
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
from IPython.core.interactiveshell import InteractiveShell

from mart_helpers.errors import MartError
from mart_helpers.parameters import is_run, notebook_cells, notebook_path

MOST_ALARMS = 0.01  # of the nights
QUIET = ("pass", "skipped")
PRODUCTS = {f"P{number}": price for number, price in enumerate((6.5, 8.9, 14.5, 18.5, 29.0, 149.0))}
CUSTOMERS = [f"C{number}" for number in range(16)]
OF_DIMENSIONS = {
    "dim_customer": ["customer_id", "customer_name", "segment", "city", "country", "signup_date"],
    "dim_product": ["product_id", "product_name", "category", "unit_cost", "list_price"],
}
OF_SALES = ["sale_id", "sale_date", "customer_id", "product_id", "quantity", "unit_price", "discount"]


def sales_of(seed: int, nights: int) -> tuple[list[list], date]:
    """The rows of a trader's sales, in the order of their days, and the day before the first night."""
    random = np.random.default_rng(seed)
    first = date(2022, 1, 1) + timedelta(days=int(random.integers(365)))
    days = int(random.integers(400, 700)) + nights
    growth = random.uniform(-0.1, 0.5)  # a year
    season, peak = random.uniform(0, 0.4), random.uniform(0, 365)
    weekend = random.uniform(0.3, 1)
    busy = random.uniform(8, 25)  # sales a day
    rows = []
    for number in range(days):
        day = first + timedelta(days=number)
        usual = busy * (1 + growth) ** (number / 365)
        usual *= 1 + season * np.cos(2 * np.pi * (day.timetuple().tm_yday - peak) / 365)
        usual *= (weekend if day.weekday() > 4 else 1) * random.lognormal(0, 0.15)
        for _ in range(random.poisson(usual)):
            product = str(random.choice(list(PRODUCTS)))
            customer = "" if random.random() < 0.02 else str(random.choice(CUSTOMERS))
            units = -1 if random.random() < 0.02 else int(random.integers(1, 9))
            discount = "0.1" if random.random() < 0.08 else "0"
            row = [f"S{len(rows):06}", day, customer, product, units, PRODUCTS[product], discount]
            rows.append(row)
    return rows, first + timedelta(days=days - nights - 1)


def write(path: Path, header: list[str], rows: list[list]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_dimensions(inputs: Path) -> None:
    customers = [[each, each, "Cafe", "Graz", "Austria", "2021-01-01"] for each in CUSTOMERS]
    products = [[each, each, "Tea", price / 2, price] for each, price in PRODUCTS.items()]
    for (table, header), rows in zip(OF_DIMENSIONS.items(), (customers, products), strict=True):
        write(inputs / f"{table}.csv", header, rows)


def alarms_of(shell: InteractiveShell, cells: list[str], values: dict[str, object]) -> list[str]:
    """Run the cells of 01_build with these parameters; the checks that did not pass, or the error."""
    shell.reset()
    parameters, *rest = cells
    shell.run_cell(parameters, store_history=True)
    shell.user_ns.update({name: value for name, value in values.items() if f"{name}:" in parameters})
    for cell in rest:
        if error := error_of(shell, cell):
            found = [f"stopped: {str(error).splitlines()[0]}"]
            break
    else:
        found = []
    checks = shell.user_ns.get("check_results")
    named = [] if checks is None else list(checks.loc[~checks["status"].isin(QUIET), "check_name"])
    return named or found


def error_of(shell: InteractiveShell, cell: str) -> BaseException | None:
    """Run a cell; SQL by the session itself, which leaves out what JupySQL would show."""
    magic, _, sql = cell.partition("\n")
    if magic != "%%sql":
        result = shell.run_cell(cell, store_history=True)
        return result.error_in_exec or result.error_before_exec
    try:
        shell.user_ns["mart"].execute(sql, shows=False)
    except MartError as error:
        return error
    return None


def run_history(nights: int, seed: int) -> tuple[list[list[str]], list[str]]:
    """The alarms of each clean night, and those of the night on which a closed month loses a sale."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a process of its own: nobody looks at what cells show
    shell = InteractiveShell.instance()
    shell.display_formatter.active_types = []
    shell.history_manager.enabled = False
    code = [cell for cell in notebook_cells(notebook_path("01_build")) if is_run(cell)]
    cells = ["".join(cell["source"]) for cell in code]
    cells = [cell for cell in cells if not cell.startswith("draw_")]
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs")
        inputs.mkdir()
        write_dimensions(inputs)
        sales, before = sales_of(seed, nights)
        values = {"inputs_dir": str(inputs), "database": str(Path(folder, "mart.duckdb"))}

        def night(day: date, rows: list[list]) -> list[str]:
            write(inputs / "fact_sales.csv", OF_SALES, [row for row in rows if row[1] <= day])
            return alarms_of(shell, cells, values | {"as_of_date": day.isoformat()})

        days = [before + timedelta(days=number) for number in range(1, nights + 1)]
        alarms = [night(day, sales) for day in days]
        closed = [row for row in sales if row[1] < days[-1].replace(day=1)]
        gone = closed[int(np.random.default_rng(seed).integers(len(closed)))]
        lost = night(days[-1], [row for row in sales if row is not gone])
        shell.reset()
    return alarms, lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 histories of 12 nights")
    parser.add_argument("--histories", type=int, default=100)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.quick:
        options.histories, options.nights = 3, 12
    os.environ["MPLBACKEND"] = "agg"
    # a shell takes the place of the main module, so the next history needs another process
    with ProcessPoolExecutor(options.processes, max_tasks_per_child=1) as pool:
        found = list(pool.map(partial(run_history, options.nights), range(options.histories)))
    nights = [alarms for clean, _ in found for alarms in clean]
    loud = [alarms for alarms in nights if alarms]
    caught = [news for clean, lost in found if (news := set(lost) - set(clean[-1]))]
    print(f"clean nights that warn: {len(loud)} of {len(nights)} ({len(loud) / len(nights):.2%})")
    for name, count in Counter(name for alarms in loud for name in alarms).most_common():
        print(f"  {count:>5}  {name}")
    print(f"closed months that lose a sale, caught: {len(caught)} of {len(found)}")
    for name, count in Counter(name for alarms in caught for name in alarms).most_common():
        print(f"  {count:>5}  {name}")
    return int(len(loud) > MOST_ALARMS * len(nights) or len(caught) < len(found))


if __name__ == "__main__":
    sys.exit(main())
