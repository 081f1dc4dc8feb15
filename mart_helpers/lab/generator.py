"""Makes synthetic extracts of an invented coffee and tea trader, at any size.

The same arguments give the same bytes on every machine: random numbers come from our own integer hash,
since the random functions of a library or an engine may change from one version to the next.
"""

import csv
from bisect import bisect_right
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.errors import StateError, UsageError
from mart_helpers.files import whole_files
from mart_helpers.parameters import resolve, shown
from mart_helpers.session import connect

FIRST_DAY = date(2023, 1, 1)
DAYS = (date(2025, 1, 1) - FIRST_DAY).days
USUAL_SEED = 8
EXTRACTS = tuple(date(year, month, 1) for year in (2023, 2024) for month in (1, 4, 7, 10))
MOST_SALES = 1_000_000_000  # more is probably a typing error, and would fill the disk
SMALL_COMPANY = 100_000  # sales up to which the company has no more than the base rows
MOST_PRODUCTS = 5_000

# Relative sales per day, in percent: January to December, Monday to Sunday.
SEASON = (94, 92, 98, 100, 98, 88, 76, 78, 100, 108, 132, 146)
WEEKDAY = (106, 108, 110, 114, 122, 80, 36)

# The share of lines, in percent, that carry each discount or each part of the list price.
DISCOUNTS = {"0": 87, "0.05": 5, "0.1": 4, "0.15": 2, "0.2": 2}
PRICES = {100: 94, 96: 1, 97: 2, 98: 2, 103: 1}


class Customer(NamedTuple):
    """A base customer; `share` is its part of all lines, in percent."""

    name: str
    segment: str
    city: str
    country: str
    signup_date: date
    share: int


class Product(NamedTuple):
    """A base product; amounts in cents, `most_units` per line, `share` of all lines in percent."""

    name: str
    category: str
    unit_cost: int
    list_price: int
    most_units: int
    share: int


CUSTOMERS = (
    Customer("Harbour Street Café", "Cafe", "Hamburg", "Germany", date(2021, 3, 15), 12),
    Customer("Old Mill Bakery Café", "Cafe", "Leipzig", "Germany", date(2021, 9, 6), 8),
    Customer("North Quay Offices", "Office", "Hamburg", "Germany", date(2022, 1, 10), 5),
    Customer("Market Hall Grocers", "Retail", "Vienna", "Austria", date(2021, 5, 3), 9),
    Customer("Ringside Coffee Bar", "Cafe", "Vienna", "Austria", date(2022, 4, 19), 6),
    Customer("Castle Hill Tea Room", "Cafe", "Graz", "Austria", date(2022, 8, 1), 3),
    Customer("Lakeside Coworking", "Office", "Zürich", "Switzerland", date(2021, 11, 22), 7),
    Customer("Old Town Delicatessen", "Retail", "Zürich", "Switzerland", date(2022, 6, 13), 4),
    Customer("Two Rivers Bistro", "Cafe", "Lyon", "France", date(2021, 7, 12), 7),
    Customer("Silk Quarter Pantry", "Retail", "Lyon", "France", date(2022, 10, 3), 3),
    Customer("Canal House Coffee", "Cafe", "Utrecht", "Netherlands", date(2022, 2, 28), 6),
    Customer("Dockside Roast Shop", "Retail", "Rotterdam", "Netherlands", date(2021, 6, 21), 5),
    Customer("Harbour Tower Services", "Office", "Rotterdam", "Netherlands", date(2022, 9, 12), 3),
    Customer("Linden Park Library Café", "Cafe", "Leipzig", "Germany", date(2022, 11, 7), 2),
    Customer("Warehouse 9 Studios", "Office", "Hamburg", "Germany", date(2022, 12, 5), 2),
    Customer("Kettle, Cup & Co.", "Retail", "Vienna", "Austria", date(2022, 3, 7), 4),
    Customer("Stadium Corner Kiosk", "Retail", "Leipzig", "Germany", date(2023, 1, 16), 3),
    Customer("Alpine View Guesthouse", "Cafe", "Graz", "Austria", date(2023, 2, 13), 2),
    Customer("Station Arcade Espresso", "Cafe", "Zürich", "Switzerland", date(2023, 3, 6), 3),
    Customer("Riverside Design Office", "Office", "Lyon", "France", date(2023, 4, 17), 1),
    Customer("Windmill Organic Shop", "Retail", "Utrecht", "Netherlands", date(2023, 5, 8), 2),
    Customer("University Square Office", "Office", "Utrecht", "Netherlands", date(2023, 6, 19), 1),
    Customer("Glasshouse Garden Shop", "Retail", "Rotterdam", "Netherlands", date(2023, 9, 4), 1),
    Customer("Hilltop Software Office", "Office", "Graz", "Austria", date(2023, 10, 2), 1),
)

PRODUCTS = (
    Product("House Espresso 1 kg", "Coffee", 980, 1850, 24, 24),
    Product("Breakfast Blend 1 kg", "Coffee", 920, 1690, 20, 17),
    Product("Highland Single Origin 500 g", "Coffee", 740, 1450, 12, 9),
    Product("Decaf Blend 1 kg", "Coffee", 1010, 1890, 8, 6),
    Product("Black Breakfast Tea 100 bags", "Tea", 410, 890, 16, 11),
    Product("Green Sencha 250 g", "Tea", 630, 1350, 8, 6),
    Product("Peppermint Tea 100 bags", "Tea", 360, 790, 12, 4),
    Product("French Press 1 l", "Equipment", 1350, 2900, 4, 4),
    Product("Pour Over Kettle", "Equipment", 2400, 4900, 3, 2),
    Product("Burr Grinder", "Equipment", 7800, 14900, 2, 1),
    Product("Paper Filters 500 pieces", "Supplies", 320, 650, 20, 9),
    Product("Takeaway Cups 100 pieces", "Supplies", 540, 990, 30, 7),
)

# chance: 31 random bits for sale n and one of its 16 questions. skewed: 0 to choices - 1, low numbers
# far more often, since the product of two uniform draws is mostly small.
MACROS = """
create temp macro stirred(value) as (xor(value, value >> 16) * 73244475) & 4294967295;
create temp macro folded(value) as xor(value, value >> 16) & 2147483647;
create temp macro chance(n, question) as folded(stirred(stirred(xor(16 * n + question, {seed}))));
create temp macro skewed(n, question, choices) as
    (((chance(n, question) * chance(n, question + 1)) >> 31) * choices) >> 31;
"""

# Each row depends only on its own number, so any number of threads writes the same file.
SALES = """
copy (
    with drawn_base as (
        select
            n,
            $calendar[1 + n * len($calendar) // $sales] as day,
            $buyers[1 + chance(n, 0) % len($buyers)] as usual_buyer,
            $founders[1 + chance(n, 0) % len($founders)] as founder,
            $articles[1 + chance(n, 1) % len($articles)] as article
        from range($sales) as numbers (n)
    ),

    drawn_rows as (
        select
            n,
            day,
            -- a customer cannot buy before its signup, so one of the first customers buys instead
            case when day < $signup_days[usual_buyer] then founder else usual_buyer end as buyer,
            article + len($most_units) * skewed(n, 2, ($products - article) // len($most_units) + 1)
                as product,
            1 + skewed(n, 6, $most_units[article]) as units
        from drawn_base
    )

    select
        'S' || lpad((n + 1)::varchar, $sale_width, '0') as sale_id,
        $first_day + day as sale_date,
        case
            when chance(n, 8) % 50 > 0 then 'C' || lpad(
                (buyer + len($signup_days)
                    * skewed(n, 4, ($customers - buyer) // len($signup_days) + 1))::varchar,
                $customer_width,
                '0'
            )
        end as customer_id,
        'P' || lpad(product::varchar, $product_width, '0') as product_id,
        case when chance(n, 9) % 50 = 0 then -((units + 3) // 4) else units end as quantity,
        ($list_cents[product] * $prices[1 + chance(n, 10) % len($prices)] // 100)::decimal(12, 0)
            * 0.01 as unit_price,
        $discounts[1 + chance(n, 11) % len($discounts)] as discount
    from drawn_rows
) to $path (format csv, header, delimiter ',')
"""


# The units sold of each product in each month, oldest month first.
SOLD = """
with months as (
    select product_id, last_day(sale_date) as month_end, sum(quantity)::bigint as units
    from read_csv($path)
    group by all
),
units_of_months as (
    select product_id, month_end, coalesce(units, 0) as units
    from (select distinct month_end from months)
    cross join (select distinct product_id from months)
    left join months using (product_id, month_end)
)
select product_id, map_from_entries(list((month_end, units) order by month_end))
from units_of_months
group by product_id
order by product_id
"""


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

    Raises UsageError if `sales` is below 1 or above MOST_SALES or if `out` is not a folder, and
    StateError if the files cannot be written.
    """
    if not 1 <= sales <= MOST_SALES:
        raise UsageError(
            f"generate: cannot make {sales} sales. Ask for 1 to {MOST_SALES:,}: --sales 100000"
        )
    folder = resolve(out)
    extracts = [f"dim_customer/{day}" for day in EXTRACTS] if history else ["dim_customer"]
    facts = ["fact_sales", "fact_inventory"] if history else ["fact_sales"]
    paths = [folder / f"{name}.csv" for name in (*extracts, "dim_product", *facts)]
    try:
        for path in (paths[0], paths[-1]):
            path.parent.mkdir(parents=True, exist_ok=True)
        with whole_files(paths) as parts:
            _write(sales, parts, seed, history)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{shown(folder)}: is a file, or is below one. Give --out a folder.") from error
    except (OSError, duckdb.IOException) as error:
        raise StateError(
            f"{shown(folder)}: the files cannot be written ({error}). "
            "Free disk space, or give --out a folder that you can write to."
        ) from error
    return paths


def _write(sales: int, paths: list[Path], seed: int, history: bool) -> None:
    extra = max(0, sales - SMALL_COMPANY)
    customers = len(CUSTOMERS) + extra // 200
    products = min(MOST_PRODUCTS, len(PRODUCTS) + extra // 2_000)
    *extracts, products_path, sales_path = paths[:-1] if history else paths
    for number, path in enumerate(extracts):
        _write_rows(path, _customer_rows(customers, number if history else None, seed))
    _write_rows(products_path, _product_rows(products))
    _write_sales(sales_path, sales, customers, products, draw(0, seed))
    if history:
        _write_rows(paths[-1], _stock_rows(sales_path, seed))


def _write_rows(path: Path, rows: Iterator[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _customer_rows(count: int, extract: int | None, seed: int) -> Iterator[tuple[str, ...]]:
    """The customers as they signed up, or as the extract with this number has them."""
    yield "customer_id", "customer_name", "segment", "city", "country", "signup_date"
    for index in range(count):
        variant, base = divmod(index, len(CUSTOMERS))
        customer = CUSTOMERS[base]
        # Never later than the base customer, since the sales look only at that one's signup.
        signup = customer.signup_date - timedelta(days=variant * 37 % 900)
        name = _variant_name(customer.name, variant)
        now = customer._replace(name=name, signup_date=signup)
        if extract is not None:
            now = _changed(now, index, extract, seed)
        if now:
            place = (now.segment, now.city, now.country)
            yield f"C{index + 1:0{_width(count, 3)}}", now.name, *place, signup.isoformat()


def _changed(customer: Customer, index: int, extract: int, seed: int) -> Customer | None:
    """The customer with all changes up to an extract; None if the extract leaves it out."""
    if customer.signup_date > EXTRACTS[extract]:
        return None
    for number in range(1, extract + 1):
        chance = draw(len(EXTRACTS) * index + number, draw(1, seed))
        other = CUSTOMERS[chance // 100 % len(CUSTOMERS)]
        match chance % 100:
            case 0 | 1:
                customer = customer._replace(city=other.city, country=other.country)
            case 2:
                customer = customer._replace(segment=other.segment)
            case 3:
                customer = customer._replace(name=f"{customer.name.removesuffix(' & Sons')} & Sons")
            case 4 if number == extract:
                return None
    return customer


def _product_rows(count: int) -> Iterator[tuple[str, ...]]:
    yield "product_id", "product_name", "category", "unit_cost", "list_price"
    for index in range(count):
        variant, base = divmod(index, len(PRODUCTS))
        product = PRODUCTS[base]
        name = _variant_name(product.name, variant)
        prices = [money(product.unit_cost + variant % 40 * 5), money(_list_price(index))]
        yield f"P{index + 1:0{_width(count, 2)}}", name, product.category, *prices


def _stock_rows(sales_path: Path, seed: int) -> Iterator[tuple[str, ...]]:
    """The stock of each product at each month end; some are reordered late and some too early."""
    yield "product_id", "month_end", "units_on_hand"
    with connect(":memory:") as connection:
        sold = connection.execute(SOLD, {"path": str(sales_path)}).fetchall()
    for number, (product, months) in enumerate(sold):
        usual = sum(months.values()) // len(months) + 1
        # each order covers half a month to four and a half months of sales
        least, ordered = usual // 4, usual // 2 + draw(number, draw(2, seed)) % (4 * usual)
        left = least + ordered
        for month_end, units in months.items():
            left -= units
            while left < least:
                left += ordered
            yield product, month_end.isoformat(), str(left)


def _write_sales(path: Path, sales: int, customers: int, products: int, seed: int) -> None:
    signup_days = [(customer.signup_date - FIRST_DAY).days for customer in CUSTOMERS]
    shares = {number: customer.share for number, customer in enumerate(CUSTOMERS, 1)}
    founders = {number: share for number, share in shares.items() if signup_days[number - 1] <= 0}
    values = {
        "path": str(path),
        "first_day": FIRST_DAY,
        "sales": sales,
        "customers": customers,
        "products": products,
        "sale_width": _width(sales, 6),
        "customer_width": _width(customers, 3),
        "product_width": _width(products, 2),
        "calendar": _calendar(seed),
        "signup_days": signup_days,
        "buyers": _pool(shares),
        "founders": _pool(founders),
        "articles": _pool({number: product.share for number, product in enumerate(PRODUCTS, 1)}),
        "most_units": [product.most_units for product in PRODUCTS],
        "list_cents": [_list_price(index) for index in range(products)],
        "prices": _pool(PRICES),
        "discounts": _pool(DISCOUNTS),
    }
    with connect(":memory:") as connection:
        connection.execute(MACROS.format(seed=seed))
        connection.execute(SALES, values)


def _calendar(seed: int, slots: int = 20_000) -> list[int]:
    """The day number of each of `slots` equal parts of the sales, in order; busy days have more."""
    until = list(accumulate(_weight(day, seed) for day in range(DAYS)))
    return [bisect_right(until, slot * until[-1] // slots) for slot in range(slots)]


def _weight(day: int, seed: int) -> int:
    """Relative sales of a day: trend, season, weekday, and random variation within 40 percent."""
    today = FIRST_DAY + timedelta(days=day)
    trend = 2_000 + day
    chance = 60 + draw(day, seed) % 81
    return trend * SEASON[today.month - 1] * WEEKDAY[today.weekday()] * chance


def draw(number: int, seed: int) -> int:
    """31 random bits for `number`, by the same formula as the SQL macro `chance`."""
    value = (number ^ seed) & 0xFFFFFFFF
    for _ in range(2):
        value = (value ^ value >> 16) * 73244475 & 0xFFFFFFFF
    return (value ^ value >> 16) & 0x7FFFFFFF


def _pool(shares: dict) -> list:
    """A list with each value as often as its share, to draw from uniformly."""
    return [value for value, share in shares.items() for _ in range(share)]


def _list_price(index: int) -> int:
    variant, base = divmod(index, len(PRODUCTS))
    return PRODUCTS[base].list_price + variant % 40 * 10


def _variant_name(name: str, variant: int) -> str:
    return f"{name} {variant + 1}" if variant else name


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def _width(count: int, least: int) -> int:
    return max(least, len(str(count)))
