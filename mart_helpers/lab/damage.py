"""A lab of broken extracts: copies of good ones with one kind of damage, to find with the workbook.

The damage is the same each time: rows are picked by their place, never by chance.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import SCHEMA, declared_tables, read_contract
from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.files import whole_files
from mart_helpers.parameters import notebook_cells, notebook_path, resolve, shown
from mart_helpers.texts import did_you_mean

QUARANTINE = "quarantine"

REFUSAL = "refusal"

# of fewer, the picked rows would be too many or none
_FEWEST_ROWS = {"dim_customer": 6, "dim_product": 2, "fact_sales": 100}

_FEWEST_MONTHS = 6

_TAKE_GOOD_ONES = (
    "Break good extracts, such as those of `python -m mart generate --sales 2000 --out my_extracts`."
)

Row = dict[str, str]

Files = dict[str, bytes]


class Sample(NamedTuple):
    """The rows of good extracts, a field for each file."""

    dim_customer: list[Row]
    dim_product: list[Row]
    fact_sales: list[Row]

    @property
    def months(self) -> list[str]:
        """The months that have sales, as yyyy-mm, in order."""
        return sorted({_month(row) for row in self.fact_sales})


class Caught(NamedTuple):
    """What notices the damage first: `by` is `quarantine`, `refusal`, or the name of a check.

    `words` stand in the reason or the message, `column` is that of the bad value.
    """

    by: str
    words: str = ""
    column: str = ""


class Kind(NamedTuple):
    """A kind of damage: what happened in real life, the damaged files it makes, what catches it."""

    name: str
    story: str
    damage: Callable[[Sample], Files]
    caught: Caught


class Broken(NamedTuple):
    """The files of a damaged copy, and the day on which it came: the one after the last good sale."""

    paths: list[Path]
    as_of: date


def break_inputs(kind_name: str, inputs_dir: Path, out: Path) -> Broken:
    """Write the extracts of `inputs_dir` with one kind of damage into `out`, a new or empty folder.

    Raises UsageError for an unknown kind and an `out` that is a file, InputError where the extracts are
    not three plain and good CSV files, StateError where `out` holds something or cannot be written.
    """
    kind = find_kind(kind_name)
    out = resolve(out)
    _refuse_taken(out)
    originals = {table: _read(inputs_dir, table) for table in _FEWEST_ROWS}
    declared = _declared_columns()
    sample = Sample(**{table: _rows(table, data, declared[table]) for table, data in originals.items()})
    last_sale = max(_day(row) for row in sample.fact_sales)
    if len(sample.months) < _FEWEST_MONTHS:
        raise InputError(
            f"fact_sales.csv: found sales of {len(sample.months)} months, expected {_FEWEST_MONTHS} or "
            f"more. {_TAKE_GOOD_ONES}"
        )
    damaged = _damaged(kind, originals, sample)
    paths = [out / name for name in sorted(damaged)]
    try:
        for folder in {path.parent for path in paths}:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"{shown(out)}: the folder cannot be made ({error.strerror}). Give --out another one."
        ) from error
    with whole_files(paths) as parts:
        for path, part in zip(paths, parts, strict=True):
            part.write_bytes(damaged[path.relative_to(out).as_posix()])
    return Broken(paths, last_sale + timedelta(days=1))


def find_kind(name: str) -> Kind:
    """The kind of damage called `name`. Raises UsageError where there is none."""
    found = [kind for kind in KINDS if kind.name == name]
    if not found:
        near = did_you_mean(name, [kind.name for kind in KINDS])
        raise UsageError(
            f'break: unknown kind "{name}".{near} `python -m mart break --help` lists the {len(KINDS)}.'
        )
    return found[0]


def described_kinds() -> str:
    """The kinds of damage, a line each: the name, and what happened in real life."""
    width = max(len(kind.name) for kind in KINDS)
    return "\n".join(f"  {kind.name.ljust(width)}  {kind.story}" for kind in KINDS)


def _refuse_taken(out: Path) -> None:
    try:
        if any(out.iterdir()):
            raise StateError(
                f"{shown(out)}: is not empty, and nothing in it will be overwritten. "
                "Give --out a new or an empty folder."
            )
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UsageError(f"{shown(out)}: is a file, or lies below one. Give --out a folder.") from error
    except OSError as error:
        raise StateError(
            f"{shown(out)}: cannot be looked into ({error.strerror}). Give --out another folder."
        ) from error


def _read(inputs_dir: Path, table: str) -> bytes:
    path = inputs_dir / f"{table}.csv"
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{shown(path)}: cannot be read ({error.strerror}). Only plain CSV files are broken: name "
            "their folder with --inputs-dir, or make some with `python -m mart generate`."
        ) from error


def _declared_columns() -> dict[str, tuple[str, ...]]:
    """The columns of each input, as the cells of 01_build declare them."""
    sources = ("".join(cell["source"]) for cell in notebook_cells(notebook_path("01_build")))
    with duckdb.connect() as connection:
        for source in sources:
            if f"create table {SCHEMA}." in source:
                connection.execute(source.partition("\n")[2])
        tables = [read_contract(connection, name) for name in declared_tables(connection)]
    return {table.name: table.column_names for table in tables}


def _rows(table: str, data: bytes, declared: tuple[str, ...]) -> list[Row]:
    """The rows of an extract that has the declared columns, and no other."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}.csv: is broken already ({error}). {_TAKE_GOOD_ONES}") from error
    if sorted(reader.fieldnames or ()) != sorted(declared):
        raise InputError(
            f"{table}.csv: found the columns {', '.join(reader.fieldnames or ('none',))}, "
            f"expected {', '.join(declared)}. {_TAKE_GOOD_ONES}"
        )
    if any(None in row or None in row.values() for row in rows):
        raise InputError(f"{table}.csv: is broken already (uneven rows). {_TAKE_GOOD_ONES}")
    if len(rows) < _FEWEST_ROWS[table]:
        raise InputError(
            f"{table}.csv: found {len(rows)} rows, expected {_FEWEST_ROWS[table]} or more. "
            f"{_TAKE_GOOD_ONES}"
        )
    return rows


def _damaged(kind: Kind, originals: Files, sample: Sample) -> Files:
    """All files of the damaged copy; those that the kind leaves alone are the originals."""
    damaged = kind.damage(sample)
    replaced = {name.partition("/")[0].removesuffix(".csv") for name in damaged}
    undamaged = {f"{table}.csv": _csv(getattr(sample, table)) for table in replaced}
    if any(data == undamaged.get(name) for name, data in damaged.items()):
        raise InputError(f"{kind.name}: these extracts hold nothing to damage so. {_TAKE_GOOD_ONES}")
    kept = {f"{table}.csv": data for table, data in originals.items() if table not in replaced}
    return kept | damaged


def _csv(rows: list[Row], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _sales(rows: list[Row]) -> Files:
    return {"fact_sales.csv": _csv(rows)}


def _changed(rows: list[Row], picked: Callable[[Row], bool], change: Callable[[Row], Row]) -> list[Row]:
    """All rows in their order; of the picked ones, what `change` gives in place of their values."""
    return [row | change(row) if picked(row) else row for row in rows]


def _every(step: int, rows: list[Row]) -> Callable[[Row], bool]:
    """Whether a row is one of each `step`-th of `rows`."""
    picked = {id(row) for row in rows[step - 1 :: step]}
    return lambda row: id(row) in picked


def _day(row: Row) -> date:
    try:
        return date.fromisoformat(row["sale_date"])
    except ValueError as error:
        raise InputError(
            f'fact_sales.csv: sale_date "{row["sale_date"]}" of sale {row["sale_id"]} is no date. '
            f"{_TAKE_GOOD_ONES}"
        ) from error


def _month(row: Row) -> str:
    return row["sale_date"][:7]


def _orphan_key(sample: Sample) -> Files:
    sold = Counter(row["product_id"] for row in sample.fact_sales)
    rarest = min(sold, key=lambda product_id: (sold[product_id], product_id))
    return {"dim_product.csv": _csv([row for row in sample.dim_product if row["product_id"] != rarest])}


def _duplicate_key(sample: Sample) -> Files:
    half = len(sample.fact_sales) // 2
    return _sales([*sample.fact_sales[:half], *sample.fact_sales[half - 12 :]])


def _bad_dates(sample: Sample) -> Files:
    picked = _every(40, sample.fact_sales)
    return _sales(
        _changed(sample.fact_sales, picked, lambda row: {"sale_date": f"{_day(row):%d.%m.%Y}"})
    )


def _excel_dates(sample: Sample) -> Files:
    month = sample.months[len(sample.months) // 2]
    zero = date(1899, 12, 30)  # the day 0 of spreadsheets, which take 1900 for a leap year
    return _sales(
        _changed(
            sample.fact_sales,
            lambda row: _month(row) == month,
            lambda row: {"sale_date": str((_day(row) - zero).days)},
        )
    )


def _total_row(sample: Sample) -> Files:
    total = dict.fromkeys(sample.fact_sales[0], "") | {
        "sale_id": "Total",
        "quantity": str(len(sample.fact_sales)),
    }
    return _sales([*sample.fact_sales, total])


def _cut_off_file(sample: Sample) -> Files:
    lines = _csv(sample.fact_sales).splitlines(keepends=True)
    last = len(lines) * 95 // 100
    return {"fact_sales.csv": b"".join(lines[:last]) + lines[last][: len(lines[last]) // 2]}


def _loose_comma(sample: Sample) -> Files:
    lines = [",".join(sample.dim_customer[0]), *(",".join(row.values()) for row in sample.dim_customer)]
    return {"dim_customer.csv": "".join(f"{line}\n" for line in lines).encode()}


def _missing_column(sample: Sample) -> Files:
    return _sales(
        [{name: row[name] for name in row if name != "unit_price"} for row in sample.fact_sales]
    )


def _open_quote(sample: Sample) -> Files:
    lines = _csv(sample.fact_sales).decode().splitlines(keepends=True)
    place = len(lines) * 3 // 4
    fields_before = lines[place].split(",", 2)
    lines[place] = ",".join([*fields_before[:2], f'"{fields_before[2]}'])
    return {"fact_sales.csv": "".join(lines).encode()}


def _wrong_encoding(sample: Sample) -> Files:
    text = _csv(sample.dim_customer).decode()
    return {"dim_customer.csv": text.encode("cp1252", errors="replace")}


def _decimal_comma(sample: Sample) -> Files:
    rows = _changed(
        sample.fact_sales,
        lambda row: True,
        lambda row: {name: row[name].replace(".", ",") for name in ("unit_price", "discount")},
    )
    return {"fact_sales.csv": _csv(rows, delimiter=";")}


def _doubled_month(sample: Sample) -> Files:
    months = sample.months
    sent = dict(zip(months, [*months[:-1], *months[-2:-1]], strict=True))
    return {
        f"fact_sales/{name}.csv": _csv([row for row in sample.fact_sales if _month(row) == month])
        for name, month in sent.items()
    }


def _lost_customers(sample: Sample) -> Files:
    return {"dim_customer.csv": _csv(sample.dim_customer[: len(sample.dim_customer) // 2])}


def _error_page(sample: Sample) -> Files:
    page = "<!DOCTYPE html>\n<html><body><h1>503 Service Unavailable</h1></body></html>\n"
    return {"fact_sales.csv": page.encode()}


def _swapped_header(sample: Sample) -> Files:
    swap = {"unit_cost": "list_price", "list_price": "unit_cost"}
    rows = [{swap.get(name, name): row[name] for name in row} for row in sample.dim_product]
    return {"dim_product.csv": _csv(rows)}


def _day_month_swapped(sample: Sample) -> Files:
    return _sales(
        _changed(
            sample.fact_sales,
            lambda row: _day(row).day <= 12,
            lambda row: {"sale_date": f"{_day(row):%Y-%d-%m}"},
        )
    )


def _negative_price(sample: Sample) -> Files:
    return _sales(
        _changed(
            sample.fact_sales,
            lambda row: row["quantity"].startswith("-"),
            lambda row: {"unit_price": f"-{row['unit_price']}"},
        )
    )


def _price_times_100(sample: Sample) -> Files:
    month = sample.months[-3]
    return _sales(
        _changed(
            sample.fact_sales,
            lambda row: _month(row) == month,
            lambda row: {"unit_price": row["unit_price"].replace(".", "")},
        )
    )


def _lost_month(sample: Sample) -> Files:
    month = sample.months[len(sample.months) // 3]
    return _sales([row for row in sample.fact_sales if _month(row) != month])


def _future_dates(sample: Sample) -> Files:
    def slipped(row: Row) -> Row:
        century, year, rest = row["sale_date"][:2], row["sale_date"][2:4], row["sale_date"][4:]
        return {"sale_date": f"{century}{year[::-1]}{rest}"}

    late = sample.fact_sales[len(sample.fact_sales) * 3 // 4 :]
    return _sales(_changed(sample.fact_sales, _every(len(late) // 5, late), slipped))


def _sales_before_signup(sample: Sample) -> Files:
    moved = sample.fact_sales[len(sample.fact_sales) // 2]["sale_date"]
    picked = _every(3, sample.dim_customer)
    rows = _changed(sample.dim_customer, picked, lambda row: {"signup_date": moved})
    return {"dim_customer.csv": _csv(rows)}


def _unknown_customers(sample: Sample) -> Files:
    picked = _every(3, sample.fact_sales)
    return _sales(_changed(sample.fact_sales, picked, lambda row: {"customer_id": ""}))


def _anonymous_discounts(sample: Sample) -> Files:
    late = sample.fact_sales[len(sample.fact_sales) // 2 :]
    nameless = [row for row in late if not row["customer_id"]]
    return _sales(_changed(sample.fact_sales, _every(1, nameless), lambda row: {"discount": "0.5"}))


def _stale_extract(sample: Sample) -> Files:
    months = sample.months[:-2]
    return _sales([row for row in sample.fact_sales if _month(row) in months])


def _quarter_of_the_file(sample: Sample) -> Files:
    return _sales(sample.fact_sales[::4])


KINDS = (
    Kind(
        "orphan_key",
        "The product team has tidied its list; not all that it took off is sold out.",
        _orphan_key,
        Caught(QUARANTINE, "is not in dim_product", "product_id"),
    ),
    Kind(
        "duplicate_key",
        "The connection broke, so the till sent its last hour again.",
        _duplicate_key,
        Caught(QUARANTINE, "repeats that of line", "sale_id"),
    ),
    Kind(
        "bad_dates",
        "One of the tills came from abroad and was never set up.",
        _bad_dates,
        Caught(QUARANTINE, "is not a date (yyyy-mm-dd)", "sale_date"),
    ),
    Kind(
        "excel_dates",
        "Somebody mended one month in a spreadsheet and saved it.",
        _excel_dates,
        Caught(QUARANTINE, "is not a date (yyyy-mm-dd)", "sale_date"),
    ),
    Kind(
        "total_row",
        "The extract was made for people, who like a line that sums up.",
        _total_row,
        Caught(QUARANTINE, "sale_date is missing", "sale_date"),
    ),
    Kind(
        "cut_off_file",
        "The transfer stopped when the disk was full, and nobody saw it.",
        _cut_off_file,
        Caught(QUARANTINE, "fewer fields than the header"),
    ),
    Kind(
        "loose_comma",
        "A new programmer joined the values with commas, without a CSV library.",
        _loose_comma,
        Caught(QUARANTINE, "more fields than the header"),
    ),
    Kind(
        "missing_column",
        "The shop system was updated, and its export with it.",
        _missing_column,
        Caught(REFUSAL, 'missing column "unit_price"'),
    ),
    Kind(
        "open_quote",
        "A cashier's elbow was on the keyboard while a loyalty card was scanned.",
        _open_quote,
        Caught(REFUSAL, "is never closed"),
    ),
    Kind(
        "wrong_encoding",
        "The customers come from a Windows program that is older than UTF-8.",
        _wrong_encoding,
        Caught(REFUSAL, "is not UTF-8 but an 8-bit encoding"),
    ),
    Kind(
        "decimal_comma",
        "A colleague with a German computer opened the file and saved it.",
        _decimal_comma,
        Caught(REFUSAL, "is not a plain number", "unit_price"),
    ),
    Kind(
        "doubled_month",
        "The monthly files were put in place by hand, one of them wrongly.",
        _doubled_month,
        Caught(REFUSAL, "repeats that of line", "sale_id"),
    ),
    Kind(
        "lost_customers",
        "The list of customers was exported with a filter still set.",
        _lost_customers,
        Caught(REFUSAL, "is not in dim_customer", "customer_id"),
    ),
    Kind(
        "error_page",
        "The server was down while the script fetched the sales from it.",
        _error_page,
        Caught(REFUSAL, "is HTML or XML"),
    ),
    Kind(
        "swapped_header",
        "Somebody put the columns of a price list in a nicer order, and missed a place.",
        _swapped_header,
        Caught("unit_price_is_near_list_price"),
    ),
    Kind(
        "day_month_swapped",
        "A spreadsheet took the dates for American ones where it could.",
        _day_month_swapped,
        Caught("no_sale_before_signup"),
    ),
    Kind(
        "negative_price",
        "The new till software thinks that a return needs one more minus.",
        _negative_price,
        Caught("unit_price_is_not_negative"),
    ),
    Kind(
        "price_times_100",
        "For a month the till sent cents.",
        _price_times_100,
        Caught("unit_price_is_near_list_price"),
    ),
    Kind(
        "lost_month",
        "Monthly files were put together into one by hand.",
        _lost_month,
        Caught("no_long_gap_without_sales"),
    ),
    Kind(
        "future_dates",
        "Late paper receipts were typed in, in a hurry.",
        _future_dates,
        Caught("no_sale_in_the_future"),
    ),
    Kind(
        "sales_before_signup",
        "Some customers were moved from an old system to the new one.",
        _sales_before_signup,
        Caught("no_sale_before_signup"),
    ),
    Kind(
        "unknown_customers",
        "One of three tills lost its card reader.",
        _unknown_customers,
        Caught("few_sales_without_customer"),
    ),
    Kind(
        "anonymous_discounts",
        "A voucher code went around on the internet; nobody had to log in.",
        _anonymous_discounts,
        Caught("no_discount_without_customer"),
    ),
    Kind(
        "stale_extract",
        "The nightly job says that all is well, and sends the same file again.",
        _stale_extract,
        Caught("last_sale_is_recent"),
    ),
    Kind(
        "quarter_of_the_file",
        "Four processes share the export; three have died.",
        _quarter_of_the_file,
        Caught("build_is_near_earlier_builds"),
    ),
)
