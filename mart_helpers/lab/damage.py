"""Makes broken extracts: copies of good ones with one kind of damage, for a learner to find.

The damage is the same each time, since rows are picked by their position, never at random.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.files import whole_files
from mart_helpers.parameters import resolve, shown
from mart_helpers.texts import did_you_mean

QUARANTINE, REFUSAL = "quarantine", "refusal"
Row = dict[str, str]
Files = dict[str, bytes]
Change = str | Callable[[Row], str]  # a value, or a function that computes it from a row

# What the kinds of damage need: these columns, and enough rows to pick some but not all.
_NEEDED = {
    "dim_customer": (6, "customer_id, signup_date"),
    "dim_product": (2, "product_id, unit_cost, list_price"),
    "fact_sales": (100, "sale_id, sale_date, customer_id, product_id, quantity, unit_price, discount"),
}


class Sample(NamedTuple):
    """The rows of good extracts, with one field per file."""

    dim_customer: list[Row]
    dim_product: list[Row]
    fact_sales: list[Row]

    @property
    def months(self) -> list[str]:
        """The months that have sales, as yyyy-mm, in order."""
        return sorted({f"{day:%Y-%m}" for day in map(_day, self.fact_sales) if day})


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
    UsageError for an unknown kind or an `out` that is a file, InputError if the extracts are not three
    plain CSV files with enough rows, StateError if `out` is not empty or cannot be written.
    """
    kind, out = find_kind(kind_name), resolve(out)
    _refuse_taken(out)
    sample = Sample(*(_rows(inputs_dir, table) for table in _NEEDED))
    if (found := len(sample.months)) < 6:  # with fewer, most of them would be lost
        raise _not_good(f"fact_sales.csv: found sales of {found} months, expected 6 or more")
    last_sale = max(day for day in map(_day, sample.fact_sales) if day)
    damaged = kind.damage(sample)
    kept = set(_NEEDED) - {name.partition("/")[0].removesuffix(".csv") for name in damaged}
    for table in set(_NEEDED) - kept:
        if damaged.get(f"{table}.csv") == _csv(getattr(sample, table)):
            raise _not_good(f"{kind.name}: these extracts have no rows for this kind of damage")
    damaged |= {f"{table}.csv": (inputs_dir / f"{table}.csv").read_bytes() for table in kept}
    paths = [out / name for name in sorted(damaged)]
    with whole_files(paths) as parts:
        for name, part in zip(sorted(damaged), parts, strict=True):
            part.write_bytes(damaged[name])
    return paths, last_sale + timedelta(days=1)


def find_kind(name: str) -> Kind:
    """The kind of damage called `name`. Raises UsageError if there is none."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    near = did_you_mean(name, [kind.name for kind in KINDS])
    raise UsageError(f'break: unknown kind "{name}".{near} `mart break --help` lists the {len(KINDS)}.')


def _refuse_taken(out: Path) -> None:
    try:
        is_taken = any(out.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UsageError(f"{shown(out)}: is a file, or is below one. Give --out a folder.") from error
    if is_taken:
        raise StateError(
            f"{shown(out)}: is not empty, and this command overwrites nothing. "
            "Give --out a new or an empty folder."
        )


def _rows(inputs_dir: Path, table: str) -> list[Row]:
    """The rows of an extract, which must have what the kinds need."""
    path = inputs_dir / f"{table}.csv"
    fewest, needed = _NEEDED[table]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _not_good(f"{shown(path)}: cannot be read ({error})") from error
    if missing := [name for name in needed.split(", ") if name not in (reader.fieldnames or ())]:
        raise _not_good(f"{table}.csv: has no column {', '.join(missing)}")
    if any(None in row or None in row.values() for row in rows):
        raise _not_good(f"{table}.csv: is broken already (uneven rows)")
    if len(rows) < fewest:
        raise _not_good(f"{table}.csv: found {len(rows)} rows, expected {fewest} or more")
    return rows


def _not_good(found: str) -> InputError:
    return InputError(
        f"{found}. Name a folder of good, plain CSV files with --inputs-dir, for example one made by "
        "`mart generate --sales 2000 --out my_extracts`."
    )


def _csv(rows: list[Row], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _sales(rows: list[Row]) -> Files:
    return {"fact_sales.csv": _csv(rows)}


def _changed(
    sample: Sample, picked: Callable[[Row], bool], table: str = "fact_sales", **change: Change
) -> Files:
    """The table's file, with the values in the picked rows replaced as `change` says."""
    rows = [
        row | {name: new(row) if callable(new) else new for name, new in change.items()}
        if picked(row)
        else row
        for row in getattr(sample, table)
    ]
    return {f"{table}.csv": _csv(rows)}


def _every(step: int, rows: list[Row]) -> Callable[[Row], bool]:
    """A function that picks every `step`-th of `rows`."""
    picked = {id(row) for row in rows[step - 1 :: step]}
    return lambda row: id(row) in picked


def _day(row: Row) -> date | None:
    """The day of a sale; None if it cannot be read, since good extracts may have some bad rows."""
    try:
        return date.fromisoformat(row["sale_date"])
    except ValueError:
        return None


def _dated(row: Row, form: str) -> str:
    """The day of a sale in another format."""
    return f"{day:{form}}" if (day := _day(row)) else row["sale_date"]


def _in_month(month: str) -> Callable[[Row], bool]:
    return lambda row: _dated(row, "%Y-%m") == month


def _caught_by(by: str, words: str = "", column: str = "") -> Callable:
    """Register the function as a kind of damage under its name; its docstring is the story."""

    def declare(damage: Callable[[Sample], Files]) -> Callable[[Sample], Files]:
        KINDS.append(Kind(damage.__name__, damage.__doc__, by, words, column, damage))
        return damage

    return declare


@_caught_by(QUARANTINE, "is not in dim_product", "product_id")
def orphan_key(sample: Sample) -> Files:
    """The product team tidied up its list, but shops still sell some of the removed products."""
    sold = Counter(row["product_id"] for row in sample.fact_sales)
    known = [row["product_id"] for row in sample.dim_product if row["product_id"] in sold]
    rarest = min(known, key=lambda product_id: (sold[product_id], product_id))
    return {"dim_product.csv": _csv([row for row in sample.dim_product if row["product_id"] != rarest])}


@_caught_by(QUARANTINE, "repeats that of line", "sale_id")
def duplicate_key(sample: Sample) -> Files:
    """The connection broke, so the till sent its last hour again."""
    half = len(sample.fact_sales) // 2
    return _sales([*sample.fact_sales[:half], *sample.fact_sales[half - 12 :]])


@_caught_by(QUARANTINE, "is not a date (yyyy-mm-dd)", "sale_date")
def bad_dates(sample: Sample) -> Files:
    """One of the tills came from abroad and was never set up."""
    picked = _every(40, sample.fact_sales)
    return _changed(sample, picked, sale_date=lambda row: _dated(row, "%d.%m.%Y"))


@_caught_by(QUARANTINE, "is not a date (yyyy-mm-dd)", "sale_date")
def excel_dates(sample: Sample) -> Files:
    """Somebody corrected one month in a spreadsheet and saved it."""
    zero = date(1899, 12, 30)  # day 0 of spreadsheets, which treat 1900 as a leap year
    picked = _in_month(sample.months[len(sample.months) // 2])
    return _changed(sample, picked, sale_date=lambda row: str((_day(row) - zero).days))


@_caught_by(QUARANTINE, "sale_date is missing", "sale_date")
def total_row(sample: Sample) -> Files:
    """The extract was made for people, who like a total at the end."""
    total = {"sale_id": "Total", "quantity": str(len(sample.fact_sales))}
    return _sales([*sample.fact_sales, dict.fromkeys(sample.fact_sales[0], "") | total])


@_caught_by(QUARANTINE, "fewer fields than the header")
def cut_off_file(sample: Sample) -> Files:
    """The transfer stopped when the disk was full, and nobody noticed."""
    lines = _csv(sample.fact_sales).splitlines(keepends=True)
    last = len(lines) * 95 // 100
    return {"fact_sales.csv": b"".join(lines[:last]) + lines[last][: len(lines[last]) // 2]}


@_caught_by(QUARANTINE, "more fields than the header")
def loose_comma(sample: Sample) -> Files:
    """A new programmer joined the values with commas instead of using a CSV library."""
    lines = [",".join(sample.dim_customer[0]), *(",".join(row.values()) for row in sample.dim_customer)]
    return {"dim_customer.csv": "".join(f"{line}\n" for line in lines).encode()}


@_caught_by(REFUSAL, 'missing column "unit_price"')
def missing_column(sample: Sample) -> Files:
    """The shop system was updated, and its export with it."""
    return _sales(
        [{name: row[name] for name in row if name != "unit_price"} for row in sample.fact_sales]
    )


@_caught_by(REFUSAL, "is never closed")
def open_quote(sample: Sample) -> Files:
    """A cashier's elbow was on the keyboard while a loyalty card was scanned."""
    lines = _csv(sample.fact_sales).decode().splitlines(keepends=True)
    place = len(lines) * 3 // 4
    *before, rest = lines[place].split(",", 2)
    lines[place] = ",".join([*before, f'"{rest}'])
    return {"fact_sales.csv": "".join(lines).encode()}


@_caught_by(REFUSAL, "is not UTF-8 but an 8-bit encoding")
def wrong_encoding(sample: Sample) -> Files:
    """The customers come from a Windows program that is older than UTF-8."""
    text = _csv(sample.dim_customer).decode()
    return {"dim_customer.csv": text.encode("cp1252", errors="replace")}


@_caught_by(REFUSAL, "is not a plain number", "unit_price")
def decimal_comma(sample: Sample) -> Files:
    """A colleague with German settings opened the file and saved it."""
    rows = [
        row | {name: row[name].replace(".", ",") for name in ("unit_price", "discount")}
        for row in sample.fact_sales
    ]
    return {"fact_sales.csv": _csv(rows, delimiter=";")}


@_caught_by(REFUSAL, "repeats that of line", "sale_id")
def doubled_month(sample: Sample) -> Files:
    """The monthly files were copied by hand, one of them under the wrong name."""
    sent = dict(zip(sample.months, [*sample.months[:-1], sample.months[-2]], strict=True))
    return {
        f"fact_sales/{name}.csv": _csv(list(filter(_in_month(month), sample.fact_sales)))
        for name, month in sent.items()
    }


@_caught_by(REFUSAL, "is not in dim_customer", "customer_id")
def lost_customers(sample: Sample) -> Files:
    """The list of customers was exported with a filter still set."""
    return {"dim_customer.csv": _csv(sample.dim_customer[: len(sample.dim_customer) // 2])}


@_caught_by(REFUSAL, "is HTML or XML")
def error_page(sample: Sample) -> Files:
    """The server was down while the script fetched the sales from it."""
    page = b"<!DOCTYPE html>\n<html><body><h1>503 Service Unavailable</h1></body></html>\n"
    return {"fact_sales.csv": page}


@_caught_by("unit_price_is_near_list_price")
def swapped_header(sample: Sample) -> Files:
    """Somebody reordered the columns of a price list, but not everywhere."""
    swap = {"unit_cost": "list_price", "list_price": "unit_cost"}
    rows = [{swap.get(name, name): row[name] for name in row} for row in sample.dim_product]
    return {"dim_product.csv": _csv(rows)}


@_caught_by("no_sale_before_signup")
def day_month_swapped(sample: Sample) -> Files:
    """A spreadsheet read the dates as American ones wherever it could."""

    return _changed(
        sample, lambda row: _dated(row, "%d") <= "12", sale_date=lambda row: _dated(row, "%Y-%d-%m")
    )


@_caught_by("unit_price_is_near_list_price")
def negative_price(sample: Sample) -> Files:
    """The new till software puts a second minus on returns."""

    return _changed(
        sample,
        lambda row: row["quantity"].startswith("-"),
        unit_price=lambda row: f"-{row['unit_price']}",
    )


@_caught_by("unit_price_is_near_list_price")
def price_times_100(sample: Sample) -> Files:
    """For one month the till sent prices in cents."""
    picked = _in_month(sample.months[-3])
    return _changed(sample, picked, unit_price=lambda row: row["unit_price"].replace(".", ""))


@_caught_by("no_long_gap_without_sales")
def lost_month(sample: Sample) -> Files:
    """Somebody merged the monthly files by hand."""
    lost = _in_month(sample.months[len(sample.months) // 3])
    return _sales([row for row in sample.fact_sales if not lost(row)])


@_caught_by("no_sale_in_the_future")
def future_dates(sample: Sample) -> Files:
    """Somebody typed in late paper receipts in a hurry."""
    late = sample.fact_sales[len(sample.fact_sales) * 3 // 4 :]

    def slipped(row: Row) -> str:  # 2024 becomes 2042
        return row["sale_date"][:2] + row["sale_date"][3:1:-1] + row["sale_date"][4:]

    return _changed(sample, _every(len(late) // 5, late), sale_date=slipped)


@_caught_by("no_sale_before_signup")
def sales_before_signup(sample: Sample) -> Files:
    """Some customers were moved from an old system to the new one."""
    moved = sample.fact_sales[len(sample.fact_sales) // 2]["sale_date"]
    return _changed(sample, _every(3, sample.dim_customer), "dim_customer", signup_date=moved)


@_caught_by("few_sales_without_customer")
def unknown_customers(sample: Sample) -> Files:
    """One of three tills lost its card reader."""
    return _changed(sample, _every(3, sample.fact_sales), customer_id="")


@_caught_by("no_discount_without_customer")
def anonymous_discounts(sample: Sample) -> Files:
    """A voucher code spread on the internet, and it worked without logging in."""
    late = sample.fact_sales[len(sample.fact_sales) // 2 :]
    nameless = [row for row in late if not row["customer_id"]]
    return _changed(sample, _every(1, nameless), discount="0.5")


@_caught_by("last_sale_is_recent")
def stale_extract(sample: Sample) -> Files:
    """The nightly job reports success but sends the same file again."""
    until = sample.months[-2]
    return _sales([row for row in sample.fact_sales if row["sale_date"] < until])


@_caught_by("build_is_near_earlier_builds")
def quarter_of_the_file(sample: Sample) -> Files:
    """Four processes share the export, and three of them crashed."""
    return _sales(sample.fact_sales[::4])
