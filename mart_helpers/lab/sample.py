"""Makes the sample in `inputs/`: two eventful years of a small company.

Customers come, leave and come back, a price rises, a campaign sells much and earns little, and for one
month two countries get no deliveries. A dozen sales and one customer are bad, each in its own way.
Random numbers come from the hash of the generator, so every machine makes the same bytes.
"""

from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mart_helpers.files import write_files
from mart_helpers.lab.generator import generate
from mart_helpers.parameters import resolve

FIRST_DAY, LAST_DAY = date(2023, 1, 1), date(2024, 12, 31)
SEED = 44  # one of several tried; its data show the story clearly

# The dated extracts of stage 4 belong to another company.
HISTORY_SALES, HISTORY_SEED = 1_000, 13

# Before this day the coffees cost a tenth less.
PRICE_RISE = date(2024, 1, 1)

# Twice three weeks in which two coffees cost 30 % less for everybody who knew the code.
CAMPAIGN = (date(2024, 5, 6), date(2024, 6, 16))
CAMPAIGN_PRODUCTS = ("P01", "P02")

# Their depot moved, so these countries got no deliveries.
NO_DELIVERY = (date(2024, 8, 1), date(2024, 8, 31))
NOT_SERVED = ("Netherlands", "Switzerland")

# Relative number of orders in each segment: January to December, and Monday to Sunday.
SEASON = {
    "Cafe": (98, 98, 102, 104, 104, 98, 92, 92, 102, 104, 104, 102),
    "Office": (100, 104, 106, 102, 100, 94, 84, 82, 106, 110, 112, 100),
    "Retail": (82, 84, 92, 96, 94, 88, 84, 86, 98, 108, 138, 150),
}
WEEKDAY = {
    "Cafe": (140, 100, 100, 110, 140, 90, 20),
    "Office": (180, 140, 140, 140, 100, 0, 0),
    "Retail": (90, 90, 100, 110, 130, 160, 20),
}


class Customer(NamedTuple):
    """A customer with its usual orders per month; it buys nothing in the spans `away` (inclusive)."""

    name: str
    segment: str
    city: str
    country: str
    signup_date: date
    orders: int
    away: tuple[tuple[date, date], ...] = ()


class Product(NamedTuple):
    """A product: amounts in cents, `most_units` per line, and its share of each segment's lines."""

    name: str
    category: str
    unit_cost: int
    list_price: int
    most_units: int
    shares: dict[str, int]
    returned: int  # per thousand lines


def _shares(cafe: int, office: int, retail: int) -> dict[str, int]:
    return {"Cafe": cafe, "Office": office, "Retail": retail}


CUSTOMERS = (
    Customer("Harbour Street Café", "Cafe", "Hamburg", "Germany", date(2021, 3, 15), 9),
    Customer("Old Mill Bakery Café", "Cafe", "Leipzig", "Germany", date(2021, 9, 6), 7,
             ((date(2024, 4, 1), LAST_DAY),)),
    Customer("North Quay Offices", "Office", "Hamburg", "Germany", date(2022, 1, 10), 4),
    Customer("Market Hall Grocers", "Retail", "Vienna", "Austria", date(2021, 5, 3), 6),
    Customer("Ringside Coffee Bar", "Cafe", "Vienna", "Austria", date(2022, 4, 19), 6,
             ((date(2023, 5, 1), date(2023, 9, 30)),)),
    Customer("Lakeside Coworking", "Office", "Zürich", "Switzerland", date(2021, 11, 22), 6),
    Customer("Two Rivers Bistro", "Cafe", "Lyon", "France", date(2021, 7, 12), 6),
    Customer("Silk Quarter Pantry", "Retail", "Lyon", "France", date(2022, 10, 3), 4,
             ((date(2023, 10, 1), date(2024, 5, 31)),)),
    Customer("Canal House Coffee", "Cafe", "Utrecht", "Netherlands", date(2022, 2, 28), 8),
    Customer("Dockside Roast Shop", "Retail", "Rotterdam", "Netherlands", date(2023, 2, 6), 6),
    Customer("Stadium Corner Kiosk", "Retail", "Leipzig", "Germany", date(2023, 4, 17), 3,
             ((date(2023, 12, 1), LAST_DAY),)),
    Customer("Station Arcade Espresso", "Cafe", "Zürich", "Switzerland", date(2023, 8, 7), 7),
    Customer("Riverside Design Office", "Office", "Lyon", "France", date(2023, 11, 6), 3),
    Customer("Windmill Organic Shop", "Retail", "Utrecht", "Netherlands", date(2024, 2, 5), 5),
    Customer("Hilltop Software Office", "Office", "Graz", "Austria", date(2024, 5, 6), 5,
             ((date(2024, 7, 1), LAST_DAY),)),
    Customer("Glasshouse Garden Shop", "Retail", "Rotterdam", "Netherlands", date(2024, 5, 13), 6,
             ((date(2024, 6, 17), LAST_DAY),)),
)  # fmt: skip

# No sale refers to this customer; its date is the 31st of a month with 30 days.
BAD_CUSTOMER = ("C017", "Kettle, Cup & Co.", "Retail", "Vienna", "Austria", "2024-06-31")

PRODUCTS = (
    Product("House Espresso 1 kg", "Coffee", 1080, 1850, 16, _shares(34, 16, 16), 6),
    Product("Breakfast Blend 1 kg", "Coffee", 970, 1690, 12, _shares(22, 22, 14), 6),
    Product("Highland Single Origin 500 g", "Coffee", 740, 1450, 8, _shares(12, 8, 16), 6),
    Product("Black Breakfast Tea 100 bags", "Tea", 410, 890, 10, _shares(10, 22, 12), 6),
    Product("Green Sencha 250 g", "Tea", 630, 1350, 5, _shares(6, 12, 14), 6),
    Product("French Press 1 l", "Equipment", 1350, 2900, 4, _shares(2, 4, 12), 60),
    Product("Pour Over Kettle", "Equipment", 2900, 4900, 3, _shares(1, 2, 8), 220),
    Product("Paper Filters 500 pieces", "Supplies", 320, 650, 16, _shares(13, 14, 8), 0),
)

# Bad values in single sales, by their position in the file in thousandths.
SLIPS: dict[int, dict[str, str]] = {
    40: {"sale_date": "17.01.2023"},
    130: {"unit_price": "16,65"},
    210: {"quantity": "two"},
    290: {"product_id": "P99"},
    370: {"discount": "5 %"},
    440: {"customer_id": "C099"},
    510: {"sale_date": "2024-02-30"},
    560: {"unit_price": "n/a"},
    630: {"sale_id": ""},
    720: {"quantity": "2.5"},
    800: {"discount": "1.5"},
    860: {"unit_price": ""},
}
TYPED_TWICE, TEN_TIMES_TOO_DEAR = 680, 907  # the first goes to quarantine, the second only looks odd

Row = dict[str, object]


def write_sample(out: Path) -> list[Path]:
    """Write dim_customer.csv, dim_product.csv and fact_sales.csv into the folder `out`; their paths.

    About 2,500 sales of 2023 and 2024 are ordered by day. `out`/history gets the extracts of stage 4:
    dated customers, and the stock. Files with these names are replaced. Raises StateError if they cannot
    be written.
    """
    tables = {"dim_customer": customer_rows(), "dim_product": product_rows(), "fact_sales": sale_rows()}
    tables["dim_customer"].append(dict(zip(tables["dim_customer"][0], BAD_CUSTOMER, strict=True)))
    tables["fact_sales"] = _with_slips(tables["fact_sales"])
    files = {
        resolve(out) / f"{table}.csv": pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
        for table, rows in tables.items()
    }
    paths = write_files(files)
    return paths + generate(HISTORY_SALES, resolve(out) / "history", HISTORY_SEED, history=True)


def customer_rows() -> list[Row]:
    """The good customers as rows of their file; the seed rows of `01_build` are the same."""
    return [
        {
            "customer_id": f"C{number:03}",
            "customer_name": customer.name,
            "segment": customer.segment,
            "city": customer.city,
            "country": customer.country,
            "signup_date": customer.signup_date.isoformat(),
        }
        for number, customer in enumerate(CUSTOMERS, 1)
    ]


def product_rows() -> list[Row]:
    """The products as rows of their file."""
    return [
        {
            "product_id": f"P{number:02}",
            "product_name": product.name,
            "category": product.category,
            "unit_cost": money(product.unit_cost),
            "list_price": money(product.list_price),
        }
        for number, product in enumerate(PRODUCTS, 1)
    ]


def sale_rows() -> list[Row]:
    """The sales before any of them gets a bad value."""
    chances = (draw(number, draw(0, SEED)) for number in count())
    returns: dict[date, list[Row]] = defaultdict(list)
    rows = []
    for day in _days():
        lines = [
            _line(f"C{number:03}", customer.segment, day, chances)
            for number, customer in enumerate(CUSTOMERS, 1)
            for _ in range(_lines_of(customer, day, chances))
        ]
        if next(chances) % 20 == 0:  # a passer-by who gives no name
            lines.append(_line("", "Retail", day, chances))
        for line in lines:
            product = PRODUCTS[int(line["product_id"][1:]) - 1]
            if next(chances) % 1000 < product.returned:
                back = -((line["quantity"] + 1) // 2)
                returns[day + timedelta(days=3 + next(chances) % 12)].append(line | {"quantity": back})
        rows += [line | {"sale_date": day.isoformat()} for line in [*lines, *returns.pop(day, [])]]
    return [{"sale_id": f"S{number:06}"} | row for number, row in enumerate(rows, 1)]


def draw(number: int, seed: int) -> int:
    """31 random bits for `number`, by the formula of `drawn` in generator.sql."""
    value = (number ^ seed) & 0xFFFFFFFF
    for _ in range(2):
        value = (value ^ value >> 16) * 73244475 & 0xFFFFFFFF
    return (value ^ value >> 16) & 0x7FFFFFFF


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def _days() -> Iterator[date]:
    return (FIRST_DAY + timedelta(days=day) for day in range((LAST_DAY - FIRST_DAY).days + 1))


def _lines_of(customer: Customer, day: date, chances: Iterator[int]) -> int:
    """How many lines the customer orders on the day; mostly none."""
    chance, lines = next(chances) % 10_000, 1 + next(chances) % 2
    is_served = customer.country not in NOT_SERVED or not _is_in(day, NO_DELIVERY)
    if day < customer.signup_date or any(_is_in(day, span) for span in customer.away) or not is_served:
        return 0
    often = customer.orders * (13 if _is_in(day, CAMPAIGN) else 10)
    season, weekday = SEASON[customer.segment][day.month - 1], WEEKDAY[customer.segment][day.weekday()]
    return lines if chance < often * season * weekday // 304 else 0


def _line(customer_id: str, segment: str, day: date, chances: Iterator[int]) -> Row:
    shares = [index for index, product in enumerate(PRODUCTS) for _ in range(product.shares[segment])]
    index = shares[next(chances) % len(shares)]
    product, product_id = PRODUCTS[index], f"P{index + 1:02}"
    is_offer = product_id in CAMPAIGN_PRODUCTS and _is_in(day, CAMPAIGN)
    most = product.most_units * {"Cafe": 10, "Office": 5, "Retail": 8}[segment] // 10
    price = product.list_price
    if product.category == "Coffee" and day < PRICE_RISE:
        price = price * 9 // 10
    usual = ("0.05", "0.1")[next(chances) % 2] if next(chances) % 12 == 0 else "0"
    return {
        "sale_date": "",
        "customer_id": customer_id,
        "product_id": product_id,
        "quantity": 1 + next(chances) % max(most, 1),
        "unit_price": money(price),
        "discount": "0.3" if is_offer else usual,
    }


def _is_in(day: date, span: tuple[date, date]) -> bool:
    return span[0] <= day <= span[1]


def _with_slips(rows: list[Row]) -> list[Row]:
    """The sales with the bad values, and one row more."""
    places = {len(rows) * place // 1000: change for place, change in SLIPS.items()}
    spoilt = [row | places.get(place, {}) for place, row in enumerate(rows)]
    dear, twice = len(rows) * TEN_TIMES_TOO_DEAR // 1000, len(rows) * TYPED_TWICE // 1000
    spoilt[dear] |= {"unit_price": money(10 * int(spoilt[dear]["unit_price"].replace(".", "")))}
    return [*spoilt[: twice + 1], spoilt[twice], *spoilt[twice + 1 :]]
