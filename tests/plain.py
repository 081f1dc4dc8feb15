"""The sample as plain Python reads it: what tests compare the mart with has been near no SQL."""

import csv
from collections.abc import Iterator
from datetime import date
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import cache
from pathlib import Path

INPUTS = Path(__file__).resolve().parents[1] / "inputs"
TABLES = ("dim_customer", "dim_product", "fact_sales")

Row = dict[str, object]


def lines(table: str, folder: Path = INPUTS) -> list[dict[str, str]]:
    """Each row of an extract as it stands, good or bad."""
    with (folder / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def loaded(table: str, folder: Path = INPUTS) -> list[Row]:
    """The rows that keep the contract, typed; sales with the words of their customer and product."""
    return {"dim_customer": customers, "dim_product": products, "fact_sales": sales}[table](folder)


def rows_read(*tables: str) -> int:
    """How many rows the extracts of these tables hold, or all of them."""
    return sum(len(lines(table)) for table in tables or TABLES)


def rows_loaded(*tables: str) -> int:
    """How many of them are good."""
    return sum(len(loaded(table)) for table in tables or TABLES)


def rows_set_aside(*tables: str) -> int:
    """How many of them are bad."""
    return rows_read(*tables) - rows_loaded(*tables)


def revenue_set_aside(folder: Path = INPUTS) -> tuple[Decimal, int]:
    """The revenue of bad sales whose quantity, price and discount are good; how many others are bad."""
    good = {row["sale_id"] for row in sales(folder)}
    revenue, unknown = Decimal(0), 0
    for row in lines("fact_sales", folder):
        if row["sale_id"] in good:
            good.remove(row["sale_id"])  # a second one is bad
            continue
        try:
            revenue += _revenue(int(row["quantity"]), Decimal(row["unit_price"]), _discount(row))
        except (ValueError, InvalidOperation):
            unknown += 1
    return revenue, unknown


@cache
def customers(folder: Path = INPUTS) -> list[Row]:
    return list(_good(lines("dim_customer", folder), _customer))


@cache
def products(folder: Path = INPUTS) -> list[Row]:
    return list(_good(lines("dim_product", folder), _product))


@cache
def sales(folder: Path = INPUTS) -> list[Row]:
    """One row a sale line: date, quantity, amounts as Decimal, and the words of its dimensions."""
    buyers = {row["customer_id"]: row for row in customers(folder)}
    goods = {row["product_id"]: row for row in products(folder)}
    return list(_good(lines("fact_sales", folder), lambda row: _sale(row, buyers, goods)))


def _good(rows: list[dict[str, str]], typed) -> Iterator[Row]:
    seen = set()
    for row in rows:
        key = next(iter(row.values()))
        try:
            good = typed(row)
        except (ValueError, InvalidOperation, KeyError):
            continue
        if key and key not in seen:
            seen.add(key)
            yield good


def _customer(row: dict[str, str]) -> Row:
    return row | {"signup_date": date.fromisoformat(row["signup_date"])}


def _product(row: dict[str, str]) -> Row:
    return row | {name: Decimal(row[name]) for name in ("unit_cost", "list_price")}


def _sale(row: dict[str, str], buyers: dict[str, Row], goods: dict[str, Row]) -> Row:
    nobody = dict.fromkeys(("customer_name", "segment", "city", "country"), "Unknown")
    nobody |= {"customer_id": None, "signup_date": None}
    buyer = buyers[row["customer_id"]] if row["customer_id"] else nobody
    day, quantity = date.fromisoformat(row["sale_date"]), int(row["quantity"])
    price, discount = Decimal(row["unit_price"]), _discount(row)
    revenue = _revenue(quantity, price, discount)
    product = goods[row["product_id"]]
    return {
        "sale_id": row["sale_id"],
        **buyer,
        **product,
        "date": day,
        "quantity": quantity,
        "unit_price": price,
        "discount": discount,
        "revenue": revenue,
        "cost": quantity * product["unit_cost"],
        "margin": revenue - quantity * product["unit_cost"],
    }


def _discount(row: dict[str, str]) -> Decimal:
    discount = Decimal(row["discount"])
    if not 0 <= discount <= 1:
        raise ValueError(discount)
    return discount


def _revenue(quantity: int, price: Decimal, discount: Decimal) -> Decimal:
    gross = quantity * price
    return gross - (gross * discount).quantize(Decimal("0.0001"), ROUND_HALF_UP)
