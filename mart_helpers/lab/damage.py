"""Makes broken extracts: copies of good ones with one kind of damage, for a learner to find.

The damage is the same each time, since rows are picked by their position, never at random.
"""

import csv
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mart_helpers.errors import InputError, UsageError
from mart_helpers.files import write_files
from mart_helpers.parameters import resolve, shown
from mart_helpers.texts import did_you_mean

QUARANTINE, REFUSAL = "quarantine", "refusal"
Files = Mapping[str, pd.DataFrame | bytes]  # by name; the frames hold texts

# What the kinds of damage need: these columns, and enough rows to pick some but not all.
_NEEDED = {
    "dim_customer": (6, "customer_id, signup_date"),
    "dim_product": (2, "product_id, unit_cost, list_price"),
    "fact_sales": (100, "sale_id, sale_date, customer_id, product_id, quantity, unit_price, discount"),
}

_DAY_0 = pd.Timestamp(1899, 12, 30)  # of spreadsheets, which treat 1900 as a leap year


class Sample(NamedTuple):
    """The rows of good extracts, with one frame of texts per file."""

    customers: pd.DataFrame
    products: pd.DataFrame
    sales: pd.DataFrame

    @property
    def days(self) -> pd.Series:
        """The day of each sale; missing if it cannot be read, since good extracts may have bad rows."""
        return pd.to_datetime(self.sales["sale_date"], format="%Y-%m-%d", errors="coerce")

    @property
    def month(self) -> pd.Series:
        """The month of each sale, as yyyy-mm."""
        return self.days.dt.strftime("%Y-%m")

    @property
    def months(self) -> list[str]:
        """The months that have sales, in order."""
        return sorted(self.month.dropna().unique())


class Kind(NamedTuple):
    """A kind of damage: what happened in real life, what catches it first, and the damaged files.

    `caught_by` is `quarantine`, `refusal`, or the name of a check; `words` are part of the reason or the
    message, `column` has the bad value.
    """

    name: str
    story: str
    caught_by: str
    words: str
    column: str
    damage: Callable[[Sample], Files]


KINDS: list[Kind] = []  # filled by the functions below


def break_inputs(kind_name: str, inputs_dir: Path, out: Path) -> tuple[list[Path], date]:
    """Write the extracts of `inputs_dir` with one kind of damage into `out`, a new or empty folder.

    Returns the files and the day of their arrival, which is the day after the last good sale. Raises
    UsageError for an unknown kind or an `out` that is a file or not empty, InputError if the extracts
    are not three plain CSV files with enough rows, StateError if `out` cannot be written.
    """
    known, out = {each.name: each for each in KINDS}, resolve(out)
    if not (kind := known.get(kind_name)):
        near = did_you_mean(kind_name, known)
        raise UsageError(
            f'break: unknown kind "{kind_name}".{near} `mart break --help` lists the {len(KINDS)}.'
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{shown(out)} already exists. Give --out a new or an empty folder.")
    sample = Sample(*(_rows(inputs_dir, table) for table in _NEEDED))
    if (found := len(sample.months)) < 6:  # with fewer, most of them would be lost
        raise _not_good(f"fact_sales.csv: found sales of {found} months, expected 6 or more")
    good = {f"{table}.csv": _csv(rows) for table, rows in zip(_NEEDED, sample, strict=True)}
    damaged = {
        name: rows if isinstance(rows, bytes) else _csv(rows)
        for name, rows in kind.damage(sample).items()
    }
    if damaged.items() <= good.items():
        raise _not_good(f"{kind.name}: these extracts have no rows for this kind of damage")
    kept = set(_NEEDED) - {name.partition("/")[0].removesuffix(".csv") for name in damaged}
    damaged |= {f"{table}.csv": (inputs_dir / f"{table}.csv").read_bytes() for table in kept}
    paths = write_files({out / name: damaged[name] for name in sorted(damaged)})
    return paths, sample.days.max().date() + timedelta(days=1)


def _rows(inputs_dir: Path, table: str) -> pd.DataFrame:
    """The rows of an extract, which must have what the kinds need."""
    path = inputs_dir / f"{table}.csv"
    fewest, needed = _NEEDED[table]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise _not_good(f"{shown(path)}: cannot be read ({error})") from error
    if missing := [name for name in needed.split(", ") if name not in header]:
        raise _not_good(f"{table}.csv: has no column {', '.join(missing)}")
    if any(len(row) != len(header) for row in rows):
        raise _not_good(f"{table}.csv: is broken already (uneven rows)")
    if len(rows) < fewest:
        raise _not_good(f"{table}.csv: found {len(rows)} rows, expected {fewest} or more")
    return pd.DataFrame(rows, columns=header)


def _not_good(found: str) -> InputError:
    return InputError(
        f"{found}. Name a folder of good, plain CSV files with --inputs-dir, for example one made by "
        "`mart generate --sales 2000 --out my_extracts`."
    )


def _csv(rows: pd.DataFrame, delimiter: str = ",") -> bytes:
    return rows.to_csv(index=False, sep=delimiter, lineterminator="\n").encode()


def _lines(rows: pd.DataFrame) -> list[str]:
    return _csv(rows).decode().splitlines(keepends=True)


def _changed(rows: pd.DataFrame, picked: object, column: str, values: object) -> pd.DataFrame:
    """The rows with other `values` in a column, where they are `picked` and the value is not missing."""
    changed = rows[column].mask(picked, values).fillna(rows[column])
    return rows.assign(**{column: changed})


def _every(step: int, rows: pd.DataFrame) -> pd.Series:
    """True for every `step`-th of the rows."""
    return rows.index.to_series() % step == step - 1


def _caught_by(by: str, words: str = "", column: str = "") -> Callable:
    """Register the function as a kind of damage under its name; its docstring is the story."""

    def declare(damage: Callable[[Sample], Files]) -> Callable[[Sample], Files]:
        KINDS.append(Kind(damage.__name__, damage.__doc__, by, words, column, damage))
        return damage

    return declare


@_caught_by(QUARANTINE, "is not in dim_product", "product_id")
def orphan_key(sample: Sample) -> Files:
    """The product team tidied up its list, but shops still sell some of the removed products."""
    sold = sample.sales["product_id"].value_counts()
    known = [each for each in sample.products["product_id"] if each in sold]
    rarest = min(known, key=lambda product_id: (sold[product_id], product_id))
    return {"dim_product.csv": sample.products[sample.products["product_id"] != rarest]}


@_caught_by(QUARANTINE, "repeats that of line", "sale_id")
def duplicate_key(sample: Sample) -> Files:
    """The connection broke, so the till sent its last hour again."""
    half = len(sample.sales) // 2
    return {"fact_sales.csv": pd.concat([sample.sales[:half], sample.sales[half - 12 :]])}


@_caught_by(QUARANTINE, "is not a date (yyyy-mm-dd)", "sale_date")
def bad_dates(sample: Sample) -> Files:
    """One of the tills came from abroad and was never set up."""
    dates = sample.days.dt.strftime("%d.%m.%Y")
    return {"fact_sales.csv": _changed(sample.sales, _every(40, sample.sales), "sale_date", dates)}


@_caught_by(QUARANTINE, "is not a date (yyyy-mm-dd)", "sale_date")
def excel_dates(sample: Sample) -> Files:
    """Somebody corrected one month in a spreadsheet and saved it."""
    picked = sample.month == sample.months[len(sample.months) // 2]
    numbers = (sample.days - _DAY_0).dt.days.astype("Int64").astype(str)
    return {"fact_sales.csv": _changed(sample.sales, picked, "sale_date", numbers)}


@_caught_by(QUARANTINE, "sale_date is missing", "sale_date")
def total_row(sample: Sample) -> Files:
    """The extract was made for people, who like a total at the end."""
    total = {"sale_id": "Total", "quantity": str(len(sample.sales))}
    return {"fact_sales.csv": pd.concat([sample.sales, pd.DataFrame([total])])}


@_caught_by(QUARANTINE, "fewer fields than the header")
def cut_off_file(sample: Sample) -> Files:
    """The transfer stopped when the disk was full, and nobody noticed."""
    lines = _lines(sample.sales)
    last = len(lines) * 95 // 100
    return {"fact_sales.csv": "".join([*lines[:last], lines[last][: len(lines[last]) // 2]]).encode()}


@_caught_by(QUARANTINE, "more fields than the header")
def loose_comma(sample: Sample) -> Files:
    """A new programmer joined the values with commas instead of using a CSV library."""
    lines = [list(sample.customers), *sample.customers.values.tolist()]
    return {"dim_customer.csv": "".join(f"{','.join(line)}\n" for line in lines).encode()}


@_caught_by(REFUSAL, 'missing column "unit_price"')
def missing_column(sample: Sample) -> Files:
    """The shop system was updated, and its export with it."""
    return {"fact_sales.csv": sample.sales.drop(columns="unit_price")}


@_caught_by(REFUSAL, "is never closed")
def open_quote(sample: Sample) -> Files:
    """A cashier's elbow was on the keyboard while a loyalty card was scanned."""
    lines = _lines(sample.sales)
    place = len(lines) * 3 // 4
    *before, rest = lines[place].split(",", 2)
    lines[place] = ",".join([*before, f'"{rest}'])
    return {"fact_sales.csv": "".join(lines).encode()}


@_caught_by(REFUSAL, "is not UTF-8 but an 8-bit encoding")
def wrong_encoding(sample: Sample) -> Files:
    """The customers come from a Windows program that is older than UTF-8."""
    text = _csv(sample.customers).decode()
    return {"dim_customer.csv": text.encode("cp1252", errors="replace")}


@_caught_by(REFUSAL, "is not a plain number", "unit_price")
def decimal_comma(sample: Sample) -> Files:
    """A colleague with German settings opened the file and saved it."""
    numbers = sample.sales[["unit_price", "discount"]].replace(r"\.", ",", regex=True)
    return {"fact_sales.csv": _csv(sample.sales.assign(**numbers), delimiter=";")}


@_caught_by(REFUSAL, "repeats that of line", "sale_id")
def doubled_month(sample: Sample) -> Files:
    """The monthly files were copied by hand, one of them under the wrong name."""
    sent = zip(sample.months, [*sample.months[:-1], sample.months[-2]], strict=True)
    return {f"fact_sales/{name}.csv": sample.sales[sample.month == month] for name, month in sent}


@_caught_by(REFUSAL, "is not in dim_customer", "customer_id")
def lost_customers(sample: Sample) -> Files:
    """The list of customers was exported with a filter still set."""
    return {"dim_customer.csv": sample.customers[: len(sample.customers) // 2]}


@_caught_by(REFUSAL, "is HTML or XML")
def error_page(sample: Sample) -> Files:
    """The server was down while the script fetched the sales from it."""
    page = b"<!DOCTYPE html>\n<html><body><h1>503 Service Unavailable</h1></body></html>\n"
    return {"fact_sales.csv": page}


@_caught_by("unit_price_is_near_list_price")
def swapped_header(sample: Sample) -> Files:
    """Somebody reordered the columns of a price list, but not everywhere."""
    swap = {"unit_cost": "list_price", "list_price": "unit_cost"}
    return {"dim_product.csv": sample.products.rename(columns=swap)}


@_caught_by("no_sale_before_signup")
def day_month_swapped(sample: Sample) -> Files:
    """A spreadsheet read the dates as American ones wherever it could."""
    swapped = sample.days.dt.strftime("%Y-%d-%m")
    return {"fact_sales.csv": _changed(sample.sales, sample.days.dt.day <= 12, "sale_date", swapped)}


@_caught_by("unit_price_is_near_list_price")
def negative_price(sample: Sample) -> Files:
    """The new till software puts a second minus on returns."""
    is_return, prices = sample.sales["quantity"].str.startswith("-"), "-" + sample.sales["unit_price"]
    return {"fact_sales.csv": _changed(sample.sales, is_return, "unit_price", prices)}


@_caught_by("unit_price_is_near_list_price")
def price_times_100(sample: Sample) -> Files:
    """For one month the till sent prices in cents."""
    cents = sample.sales["unit_price"].str.replace(".", "")
    picked = sample.month == sample.months[-3]
    return {"fact_sales.csv": _changed(sample.sales, picked, "unit_price", cents)}


@_caught_by("no_long_gap_without_sales")
def lost_month(sample: Sample) -> Files:
    """Somebody merged the monthly files by hand."""
    return {"fact_sales.csv": sample.sales[sample.month != sample.months[len(sample.months) // 3]]}


@_caught_by("no_sale_in_the_future")
def future_dates(sample: Sample) -> Files:
    """Somebody typed in late paper receipts in a hurry."""
    late = sample.sales[len(sample.sales) * 3 // 4 :].reset_index(drop=True)
    slipped = late["sale_date"].str.replace("^(..)(.)(.)", r"\1\3\2", regex=True)  # 2024 becomes 2042
    late = _changed(late, _every(len(late) // 5, late), "sale_date", slipped)
    return {"fact_sales.csv": pd.concat([sample.sales[: -len(late)], late])}


@_caught_by("no_sale_before_signup")
def sales_before_signup(sample: Sample) -> Files:
    """Some customers were moved from an old system to the new one."""
    moved = sample.sales["sale_date"][len(sample.sales) // 2]
    picked = _every(3, sample.customers)
    return {"dim_customer.csv": _changed(sample.customers, picked, "signup_date", moved)}


@_caught_by("few_sales_without_customer")
def unknown_customers(sample: Sample) -> Files:
    """One of three tills lost its card reader."""
    return {"fact_sales.csv": _changed(sample.sales, _every(3, sample.sales), "customer_id", "")}


@_caught_by("no_discount_without_customer")
def anonymous_discounts(sample: Sample) -> Files:
    """A voucher code spread on the internet, and it worked without logging in."""
    is_late = sample.sales.index >= len(sample.sales) // 2
    picked = is_late & (sample.sales["customer_id"] == "")
    return {"fact_sales.csv": _changed(sample.sales, picked, "discount", "0.5")}


@_caught_by("last_sale_is_recent")
def stale_extract(sample: Sample) -> Files:
    """The nightly job reports success but sends the same file again."""
    return {"fact_sales.csv": sample.sales[sample.sales["sale_date"] < sample.months[-2]]}


@_caught_by("build_is_near_earlier_builds")
def quarter_of_the_file(sample: Sample) -> Files:
    """Four processes share the export, and three of them crashed."""
    return {"fact_sales.csv": sample.sales[::4]}
