"""Random tables, damaged at random: each line is accounted for, and good rows stay what they are.

All values are made as text in the form in which `::varchar` gives them back, so what was written is
what has to come out of staging.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mart_helpers.errors import InputError
from mart_helpers.loading import Loader
from mart_helpers.session import Session

# One candidate serves all examples: `load` replaces what an earlier one left behind.
FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

KEYS = {"dim_customer": "customer_id", "dim_product": "product_id", "fact_sales": "sale_id"}
IDS = set(KEYS.values())
JUNK = {
    "signup_date": ["soon", "2024-02-30", "1.5.2024"],
    "unit_cost": ["1,5", "NaN", "$5"],
    "list_price": ["0.12345", "1e3"],
    "sale_date": ["infinity", "2024-13-01", "01/05/2024", ""],
    "product_id": ["nowhere", ""],
    "customer_id": ["nobody\nknown"],
    "quantity": ["2.5", "many", "9223372036854775808", ""],
    "unit_price": ["1_000", "5 €", "0x1F", " "],
    "discount": ["1.5", "-0.1", "10%"],
}

TEXT = st.text(st.sampled_from("\"',;|\t\n\r ab0é𝄞\u2028#="), max_size=6)
DAY = st.dates(date(1900, 1, 1), date(2100, 12, 31)).map(str)
MONEY = st.integers(-(10**9), 10**9).map(
    lambda n: f"{'-' * (n < 0)}{abs(n) // 10**4}.{abs(n) % 10**4:04}"
)
SHARE = st.integers(0, 10**6).map(lambda n: f"{n // 10**6}.{n % 10**6:06}")
COUNT = st.integers(-1000, 10**6).map(str)
NOTHING = st.just("")

Row = dict[str, str]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Layout:
    """How a table is written as CSV; `blank_lines` are before each record, the header's first."""

    columns: tuple[str, ...]
    delimiter: str
    line_end: str
    bom: str
    quotes_all: bool
    blank_lines: list[int]

    def field(self, value: str) -> str:
        if self.quotes_all or any(mark in value for mark in f'{self.delimiter}"\r\n'):
            return '"' + value.replace('"', '""') + '"'
        return value

    def record(self, fields: list[str]) -> str:
        return self.delimiter.join(map(self.field, fields)) + self.line_end

    def records(self, rows: list[Row]) -> list[str]:
        return [self.record([row[column] for column in self.columns]) for row in rows]

    def blank(self, number: int) -> str:
        return self.line_end * self.blank_lines[number % len(self.blank_lines)]


@st.composite
def keys(draw: st.DrawFn) -> list[str]:
    """Different ids; no damage to one place makes one of them out of another."""
    return [draw(TEXT) + f"{n}" * 3 for n in range(draw(st.integers(2, 7)))]


@st.composite
def tables(draw: st.DrawFn) -> Tables:
    """Three tables that keep the contract, each with a column `note` of which it says nothing."""
    customers, products, sales = draw(keys()), draw(keys()), draw(keys())
    return {
        "dim_customer": [
            {
                "customer_id": key,
                "customer_name": draw(TEXT),
                "segment": draw(TEXT),
                "city": "",
                "country": "Österreich",
                "signup_date": draw(DAY | NOTHING),
                "note": draw(TEXT),
            }
            for key in customers
        ],
        "dim_product": [
            {
                "product_id": key,
                "product_name": draw(TEXT),
                "category": "Tea",
                "unit_cost": draw(MONEY | NOTHING),
                "list_price": draw(MONEY),
                "note": "",
            }
            for key in products
        ],
        "fact_sales": [
            {
                "sale_id": key,
                "sale_date": draw(DAY),
                "customer_id": draw(st.sampled_from([*customers, ""])),
                "product_id": draw(st.sampled_from(products)),
                "quantity": draw(COUNT),
                "unit_price": draw(MONEY),
                "discount": draw(SHARE | NOTHING),
                "note": draw(TEXT),
            }
            for key in sales
        ],
    }


@st.composite
def layouts(draw: st.DrawFn, rows: list[Row]) -> Layout:
    return Layout(
        columns=tuple(draw(st.permutations(list(rows[0])))),
        delimiter=draw(st.sampled_from(",;\t|")),
        line_end=draw(st.sampled_from(["\n", "\r\n"])),
        bom=draw(st.sampled_from(["", "\ufeff"])),
        quotes_all=draw(st.booleans()),
        blank_lines=draw(st.lists(st.integers(0, 2), min_size=1, max_size=5)),
    )


def staged_as(row: Row, columns: list[str]) -> tuple[str | None, ...]:
    """What staging holds of a good row: ids trimmed, empty values null or their default."""
    values = {column: row[column].strip() if column in IDS else row[column] for column in columns}
    return tuple(values[column] or ("0.000000" if column == "discount" else None) for column in columns)


def declared(rows: list[Row]) -> list[str]:
    return [column for column in rows[0] if column != "note"]


def staged(candidate: Session, table: str, columns: list[str]) -> list[tuple]:
    texts = ", ".join(f"{column}::varchar" for column in columns)
    return candidate.connection.execute(f"select {texts} from staging.{table}").fetchall()


def assert_the_books_agree(candidate: Session, table: str) -> int:
    """The rows of the file, once it is shown that each is either loaded or in quarantine."""
    read, loaded, aside = candidate.connection.execute(
        "select rows_read, rows_loaded, rows_quarantined from build_inputs where table_name = ?", [table]
    ).fetchone()
    lines = candidate.connection.execute(
        "select count(distinct (file, line)) from quarantine where table_name = ?", [table]
    ).fetchone()
    assert read == loaded + aside
    assert lines == (aside,)
    assert candidate.connection.execute(f"select count(*) from staging.{table}").fetchone() == (loaded,)
    return read


@dataclass(frozen=True)
class Fault:
    """Damage to one row: its text as written, and the columns that quarantine has to name."""

    record: str
    columns: list[str | None]


@st.composite
def faults(draw: st.DrawFn, table: str, row: Row, layout: Layout) -> Fault:
    kind = draw(st.sampled_from(["junk", "no key", "field dropped", "field added"]))
    fields = [row[column] for column in layout.columns]
    if kind == "field dropped":
        fields.pop(draw(st.integers(0, len(fields) - 1)))
        return Fault(layout.record(fields), [None])
    if kind == "field added":
        fields.insert(draw(st.integers(0, len(fields) - 1)), draw(TEXT))
        return Fault(layout.record([*fields, draw(TEXT)]), [None])
    typed = [column for column in row if column in JUNK and column != KEYS[table]]
    column = KEYS[table] if kind == "no key" else draw(st.sampled_from(typed))
    value = draw(st.sampled_from(["", " \t", "\n\u3000"] if kind == "no key" else JUNK[column]))
    return Fault(layout.record([row[c] if c != column else value for c in layout.columns]), [column])


@given(data=st.data())
@settings(FIXED, max_examples=60)
def test_a_damaged_row_goes_to_quarantine_by_its_line_and_the_other_rows_load(
    candidate: Session, tmp_path: Path, data: st.DataObject
):
    written = data.draw(tables())
    loader = Loader(candidate, tmp_path, 1.0)
    for table, rows in written.items():
        layout = data.draw(layouts(rows), label=f"layout of {table}")
        drop_orphans(written, table)
        # The first row stays whole: a table without good rows is refused.
        damaged = data.draw(st.sets(st.integers(1, len(rows) - 1), max_size=2)) if len(rows) > 1 else ()
        found = {n: data.draw(faults(table, rows[n], layout), label=f"row {n}") for n in sorted(damaged)}
        records = [layout.record(list(layout.columns)), *layout.records(rows)]
        for n, fault in found.items():
            records[n + 1] = fault.record
        lines = write(tmp_path / f"{table}.csv", layout, records)
        loader.load(table, from_seed=False)

        whole = [row for n, row in enumerate(rows) if n not in found]
        assert staged(candidate, table, declared(rows)) == [
            staged_as(row, declared(rows)) for row in whole
        ]
        assert quarantined(candidate, table) == [
            (lines[n + 1], column, fault.record.removesuffix(layout.line_end))
            for n, fault in found.items()
            for column in fault.columns
        ]
        assert assert_the_books_agree(candidate, table) == len(rows)
        written[table] = whole


def drop_orphans(written: Tables, table: str) -> None:
    """Let the sales of dimension rows that were damaged refer to a row that was not."""
    if table != "fact_sales":
        return
    for column, dimension in [("customer_id", "dim_customer"), ("product_id", "dim_product")]:
        known = [row[column] for row in written[dimension]]
        for sale in written["fact_sales"]:
            sale[column] = sale[column] if sale[column] in [*known, ""] else known[0]


def write(path: Path, layout: Layout, records: list[str]) -> list[int]:
    """Write the records below each other; the physical line of each, from 1."""
    text, lines = "", []
    for number, record in enumerate(records):
        text += layout.blank(number)
        lines.append(1 + text.count("\n"))
        text += record
    path.write_bytes((layout.bom + text).encode())
    return lines


def quarantined(candidate: Session, table: str) -> list[tuple]:
    return candidate.connection.execute(
        "select line, column_name, raw_row from quarantine where table_name = ? order by line", [table]
    ).fetchall()


Damage = Callable[[bytes, int], bytes]

#: What happens to the bytes of one record; `at` is a place in it.
DAMAGES: dict[str, Damage] = {
    "a byte flipped": lambda record, at: (
        record[:at] + bytes([record[at] ^ 1 << at % 8]) + record[at + 1 :]
    ),
    "a byte lost": lambda record, at: record[:at] + record[at + 1 :],
    "a stray quote": lambda record, at: record[:at] + b'"' + record[at:],
    "a stray newline": lambda record, at: record[:at] + b"\n" + record[at:],
    "a stray byte": lambda record, at: record[:at] + bytes([at * 37 % 256]) + record[at:],
    "another delimiter": lambda record, at: record.translate(bytes.maketrans(b",;\t|", b";|,\t")),
    "another line end": lambda record, at: (
        record.replace(b"\r\n", b"\n") if b"\r\n" in record else record.replace(b"\n", b"\r\n")
    ),
    "the line twice": lambda record, at: record * 2,
    "the line removed": lambda record, at: b"",
    "the line emptied": lambda record, at: b"\n",
    "the end of the line lost": lambda record, at: record[:at],
    "NULs": lambda record, at: record[:at] + b"\0" + record[at:],
}
THE_FILE_CUT = "the file cut"


@given(data=st.data())
@settings(FIXED, max_examples=60)
def test_a_file_damaged_anywhere_is_refused_or_adds_up_with_its_other_rows_unchanged(
    candidate: Session, tmp_path: Path, data: st.DataObject
):
    written = data.draw(tables())
    victim = data.draw(st.sampled_from(list(written)), label="victim")
    touched = {}
    for table, rows in written.items():
        layout = data.draw(layouts(rows), label=f"layout of {table}")
        records = [layout.record(list(layout.columns)), *layout.records(rows)]
        write(tmp_path / f"{table}.csv", layout, records)
        if table == victim:
            touched = damage(data, tmp_path / f"{table}.csv", layout, records)
    loader = Loader(candidate, tmp_path, 1.0)
    for table, rows in written.items():
        try:
            loader.load(table, from_seed=False)
        except InputError as refusal:
            event(f"refused: {str(refusal)[:60]}")
            return
        assert_the_books_agree(candidate, table)
        assert_whole_rows_are_unchanged(candidate, table, rows, touched if table == victim else {})
    event("loaded")


def damage(data: st.DataObject, path: Path, layout: Layout, records: list[str]) -> dict[int, str]:
    """Damage up to three records of the file, or cut it in one; which were touched, 0 the header."""
    numbers = [*range(1, len(records)), 0]  # the header last: most damage to it is just refused
    kinds = [*DAMAGES, THE_FILE_CUT]
    chosen = data.draw(
        st.dictionaries(st.sampled_from(numbers), st.sampled_from(kinds), min_size=1, max_size=3),
        label="damage",
    )
    pieces = [layout.bom.encode()]
    for number, record in enumerate(records):
        raw = record.encode()
        pieces.append(layout.blank(number).encode())
        if number in chosen:
            at = data.draw(st.integers(0, len(raw) - 1), label="at")
            if chosen[number] == THE_FILE_CUT:
                pieces.append(raw[:at])
                break
            raw = DAMAGES[chosen[number]](raw, at)
        pieces.append(raw)
    path.write_bytes(b"".join(pieces))
    return chosen


def assert_whole_rows_are_unchanged(
    candidate: Session, table: str, rows: list[Row], touched: dict[int, str]
) -> None:
    # Without a sound header no column is known to be itself.
    columns = [KEYS[table]] if 0 in touched else declared(rows)
    expected = {staged_as(row, columns) for n, row in enumerate(rows, 1) if n not in touched}
    whole = {staged_as(row, [KEYS[table]]) for n, row in enumerate(rows, 1) if n not in touched}
    loaded = staged(candidate, table, columns)
    key = columns.index(KEYS[table])
    assert {row for row in loaded if (row[key],) in whole} <= expected
    if not touched:
        assert len(loaded) <= len(rows)
