"""Small damaged files, and odd but good ones, with what each gives: `CASES` is a table of them."""

import csv
import gzip
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
from conftest import CHECKOUT, SALES_HEADER, load

from mart_helpers.errors import InputError
from mart_helpers.session import Session

CUSTOMERS = (
    "customer_id,customer_name,segment,city,country,signup_date\nC1,One,,,,2023-01-01\n007,Two,,,,\n"
)
PRODUCTS = "product_id,product_name,category,unit_cost,list_price\nP1,Pen,Desk,1,2\n"
GOOD_SALE = "2024-01-01,C1,P1,1,2.00,0"
BOM = b"\xef\xbb\xbf"
FEWER = "the row has fewer fields than the header"
MORE = "the row has more fields than the header"
OUTSIDE = "text stands outside the quotes of its field"
NOT_UTF8 = "the row is not UTF-8 text"
STRAY_CR = "the row contains a CR outside quotes: remove it, or quote its field"
NO_COLUMN = (
    'missing column "sale_id", "sale_date", "customer_id", "product_id", "quantity", "unit_price"'
)
NEEDED = ("sale_id", "sale_date", "product_id", "quantity", "unit_price")

Bad = tuple[str | None, int, str | None, str]  # file, line, column, how the reason begins


class Case(NamedTuple):
    """Files in the inputs folder, and what loading sales gives: the ids and bad values, or a refusal."""

    words: str
    files: dict[str, bytes | Callable[[Path], None]]
    loaded: tuple[str, ...] = ()
    bad: tuple[Bad, ...] = ()
    refused: str | None = None


def sale(number: int | str, rest: str = GOOD_SALE) -> str:
    return f"S{number},{rest}"


def sales(*rows: str, header: str = SALES_HEADER, end: str = "\n") -> str:
    return end.join([header, *rows]) + end


def as_bytes(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")


def loads(words: str, data: str | bytes, ids: str, *bad: tuple[int, str | None, str]) -> Case:
    entries = tuple(("fact_sales.csv", *entry) for entry in bad)
    return Case(words, {"fact_sales.csv": as_bytes(data)}, tuple(ids.split()), entries)


def refuses(words: str, data: str | bytes, text: str, *, file: str = "fact_sales.csv") -> Case:
    return Case(words, {file: as_bytes(data)}, refused=text)


def places(words: str, text: str | None, **files: str | bytes | Callable[[Path], None]) -> Case:
    """A case of one place, or several; in the keywords `__` stands for `.`, `___` for `/`."""
    named = {
        f"fact_{name}".replace("___", "/").replace("__", "."): value
        if callable(value)
        else as_bytes(value)
        for name, value in files.items()
    }
    return Case(words, named, refused=text) if text else Case(words, named, ("S1",))


def linked_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def workbook() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "<worksheet/>")
    return packed.getvalue()


def tarball(mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("fact_sales.csv"))
    return packed.getvalue()


def sqlite_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table fact_sales (sale_id text)")
    connection.close()


def duckdb_database(path: Path) -> None:
    duckdb.connect(str(path)).close()


GOOD = sales(sale(1))
MANY_PACKED = gzip.compress(sales(*(sale(number) for number in range(5000))).encode(), mtime=0)
WITH_NOTE = f"{SALES_HEADER},note"

HEADERS = [
    refuses("no header row", f"{sale(1)}\n{sale(2)}\n", f"{NO_COLUMN} (found: s1, 2024-01-01, c1"),
    refuses("a title above the header", f"Sales 2024\n\n{GOOD}",
        'the header is on line 3, below lines that begin "Sales 2024". Remove the lines above it'),
    refuses("a sep= line above the header", f"sep=;\r\n{GOOD.replace(',', ';')}", "is on line 2, below"),
    refuses("a repeated column, oddly cased", sales(header=f"{SALES_HEADER}, SALE_ID "),
        '"sale_id" appears twice'),
    refuses("a quote open in the header", f'\n"{GOOD}', "a quote that opens on line 2 is never closed"),
    refuses("a header of 2 MB", sales(header="x" * 2_000_000), f"{NO_COLUMN} (found: xxx"),
    loads("an unknown column twice", sales(f"{sale(1)},a,b", header=f"{SALES_HEADER},x,X"), "S1"),
    loads("quoted names behind blanks", GOOD.replace(SALES_HEADER,
        f'"{SALES_HEADER}"'.replace(",", '", "')), "S1"),
    loads("a newline in a quoted name", sales(f"a,{sale(1)}", header=f'"a\nb",{SALES_HEADER}'), "S1"),
]  # fmt: skip

DELIMITERS = [
    *(
        loads(
            f"{words}, the names in capitals and with blanks",
            sales(sale(1), header=SALES_HEADER.upper().replace(",", " , ")).replace(",", mark),
            "S1",
        )
        for words, mark in (("semicolons", ";"), ("tabs", "\t"), ("pipes", "|"))
    ),
    refuses("header with commas, rows with semicolons", sales(sale(1).replace(",", ";")),
        "none of its 1 rows is good"),
    loads("one row with semicolons", sales(sale(1), sale(2).replace(",", ";")), "S1", (3, None, FEWER)),
]  # fmt: skip

ROWS = [
    loads("empty fields too many", sales(f"{sale(1)},", sale(2), f"{sale(3)},,,"), "S2", (2, None, MORE),
        (4, None, MORE)),
    loads("a quoted empty field too many", sales(f'{sale(1)},""', sale(2)), "S2", (2, None, MORE)),
    loads("a shifted row that an empty field hides", sales(sale(1), f"S2,x,{sale(2)[3:-1]},"), "S1",
        (3, None, MORE)),
    loads("commas alone", sales(sale(1), ",,,,,,"), "S1",
        *((3, name, f"{name} is missing") for name in NEEDED)),
    loads("a second header in the middle", sales(sale(1), SALES_HEADER, sale(2)), "S1 S2",
        *((3, name, f'{name} "{name}" is not ') for name in SALES_HEADER.split(",")[1:])),
    loads("no newline at the end", GOOD.rstrip(), "S1"),
]  # fmt: skip

ENCODINGS = [
    loads("a byte order mark before quotes", BOM + GOOD.replace("sale_id", '"sale_id"').encode(), "S1"),
    refuses("UTF-16 with its mark", GOOD.encode("utf-16"), "is UTF-16 text. Save it as UTF-8"),
    refuses("UTF-16 without its mark", GOOD.encode("utf-16-be"), "is UTF-16 text. Save it as UTF-8"),
    refuses("UTF-32 with its mark", GOOD.encode("utf-32"), "is UTF-32 text. Save it as UTF-8"),
    refuses("UTF-16 that begins with names of which ASCII knows nothing",
        f"\u7f16\u53f7,{GOOD}".encode("utf-16-le"), "its header holds NUL bytes: it is UTF-16"),
    refuses("Latin-1 in the header", sales(header=f"{SALES_HEADER},größe").encode("latin-1"),
        "is not UTF-8 but an 8-bit encoding, first seen on line 1: "),
    refuses("UTF-8 in the header, and one invalid byte", sales(header=f"{SALES_HEADER},größe,\udcf6"),
        "its header is damaged: the byte 0xf6 is not UTF-8"),
    refuses("Latin-1 in two rows", sales(sale(1), sale("é"), sale("ü")).encode("latin-1"),
        'first seen on line 3: "Sé,2024-01-01,C1,P1,1,2.00,0" in WINDOWS-1252, "SÈ,2024'),
    refuses("an encoding of old Macs in two rows",
        sales(sale(1), sale("é"), sale("ü")).encode("mac_roman"),
        '"Sé,2024-01-01,C1,P1,1,2.00,0" in MACINTOSH'),
    refuses("Latin-1 in an ignored column, below 3 MB of ASCII, in gzip",
        gzip.compress(sales(*(f"{sale(number)}," for number in range(100_000)),
        'S,2024-01-01,C1,P1,1,2,0,"é\né"', f"{sale('x')},é", header=WITH_NOTE).encode("latin-1")),
        "first seen on line 100002: ", file="fact_sales.csv.gz"),
    loads("Latin-1 in two fields and two lines of one row",
        sales(f"{sale(1)},", f'{sale("é")},"é\né"', header=WITH_NOTE).encode("latin-1"), "S1",
        (3, None, NOT_UTF8)),
    loads("Latin-1 in two rows of UTF-8", sales(sale("é"), sale("\udce9"), sale("\udcfc")), "Sé",
        (3, None, NOT_UTF8), (4, None, NOT_UTF8)),
    refuses("NULs behind the last row", GOOD + "\0" * 512, "line 3 has a NUL byte"),
]  # fmt: skip

LINE_ENDS = [
    loads("CRLF, with blank lines above the header", "\r\n\r\n" + sales(sale(1), end="\r\n"), "S1"),
    loads("CR in quotes is text", sales(sale(1), f'{sale(2)},"a\rb"',
        header=WITH_NOTE).replace(f"{sale(1)}\n", f"{sale(1)},\n"), "S1 S2"),
    refuses("CR alone", sales(sale(1), sale(2), end="\r"), "its lines end with CR alone"),
    loads("LF, once CRLF", sales(sale(1), f"{sale(2)}\r", sale(3)), "S1 S2 S3"),
    loads("CRLF, once LF", sales(sale(1), f"{sale(2)}\n{sale(3)}", end="\r\n"), "S1 S2 S3"),
    loads("lines of blanks", f" \n{sales(sale(1), '   ', sale(2), ' ', end=chr(10))}", "S1 S2"),
    loads("a line of blanks in quotes", sales(f'{sale(1)},"a\n  \nb"', header=WITH_NOTE), "S1"),
    loads("a lone CR within a row", sales(sale(1), f"S2\r,{GOOD_SALE}"), "S1", (3, None, STRAY_CR)),
    loads("a lone CR between quotes of two rows", sales(sale(1), f'S2"\r,{GOOD_SALE}',
        f'S3",{GOOD_SALE}'), 'S1 S3"', (3, None, STRAY_CR)),
    loads("a lone CR in a thousand rows", sales(sale(1), *[f"S2\r,{GOOD_SALE}"] * 1_200), "S1",
        *((line, None, STRAY_CR) for line in range(3, 1_203))),
    loads("lines behind newlines in quotes", sales(f'{sale(1)},"a\n\nb"', f'{sale(2)},"c\n"', "",
        "S3,no,C1,P1,1,2,0,", "S4", f'{sale(1)},"d\n"', header=WITH_NOTE), "S1 S2",
        (8, "sale_date", 'sale_date "no" is not a date'), (9, None, FEWER),
        (10, "sale_id", 'sale_id "S1" repeats that of line 2')),
]  # fmt: skip

QUOTES = [
    refuses("an open quote in the last row", sales(sale(1), f'"{sale(2)}'),
        "a quote that opens on line 3 is never closed"),
    loads("an open quote that a later row closes",
        sales(sale(1), 'S2,2024-01-01,"C1,P1,1,2,0', 'S3,2024-01-01,"C1",P1,1,2,0', sale(4)), "S1 S4",
        (3, None, OUTSIDE)),
    loads("a stray quote within a field is text", sales(f'5"{sale(1)}', sale(2)), '5"S1 S2'),
    loads("a stray quote behind quotes", sales(sale(1), f'"S"2",{GOOD_SALE}'), "S1", (3, None, OUTSIDE)),
    Case("quotes that open again among other damage, in the second file",
        {"fact_sales/1.csv": as_bytes(sales(sale(0))),
         "fact_sales/2.csv.gz": gzip.compress(as_bytes(sales(
             f'"S"x,{GOOD_SALE}', "S2,no,C1,P1,1,2,0", f'"S" "3" x,{GOOD_SALE}',
             f'"S"  "4",{GOOD_SALE},', sale(5), 'S6,2024-01-01,"C" "1",P1,1,2,0')))},
        ("S0", "S5"),
        (("fact_sales/2.csv.gz", 2, None, OUTSIDE),
         ("fact_sales/2.csv.gz", 3, "sale_date", 'sale_date "no" is not a date'),
         *(("fact_sales/2.csv.gz", line, None, OUTSIDE) for line in (4, 5, 7)))),
    loads("two badly quoted fields", sales(sale(1), 'S2,2024-01-01,"C1" x,"P1" y,1,2,0', sale(4)),
        "S1 S4", (3, None, OUTSIDE)),
]  # fmt: skip

SIZES = [
    loads("a line of 3 MB", sales(sale(1), sale("x" * 3_000_000), sale(3)), "S1 S3",
        (3, None, "the row is longer than 2 MB")),
]  # fmt: skip

KINDS = [
    refuses("a truncated gzip file", MANY_PACKED[:2000], "gzip file is damaged",
        file="fact_sales.csv.gz"),
    refuses("a gzip file with another checksum", MANY_PACKED[:-8] + b"12345678", "gzip file is damaged",
        file="fact_sales.csv.gz"),
    refuses("gzip bytes named .csv", gzip.compress(GOOD.encode()),
        "holds gzip bytes. If that is right, name it .csv.gz"),
    refuses("plain bytes named .csv.gz", GOOD, "holds no gzip bytes. If that is right, name it .csv",
        file="fact_sales.csv.gz"),
    refuses("plain bytes named .parquet", GOOD, "is not a complete Parquet file",
        file="fact_sales.parquet"),
    refuses("a workbook", workbook(), "is a zip archive or an Excel workbook"),
    refuses("Parquet named .csv", b"PAR1\x15\x04", "is a Parquet file. Name it .parquet"),
    refuses("an error page", "\n<!DOCTYPE html>\n<html>503</html>\n", "is HTML or XML"),
    refuses("JSON", '[{"sale_id": "S1"}]\n', "is JSON"),
    places("a SQLite database", "is a SQLite database. Name it .sqlite", sales__csv=sqlite_database),
    places("a DuckDB database", "is a DuckDB database. Save its rows as CSV",
        sales__csv=duckdb_database),
    refuses("a zip archive named .csv.gz", workbook(), "is a zip archive", file="fact_sales.csv.gz"),
    refuses("a tar archive in gzip", gzip.compress(tarball("w")), "is gzip around a tar archive.",
        file="fact_sales.csv.gz"),
    *(
        loads(
            f"{name} as the name of a column",
            sales(f"x,{sale(1)}", header=f"{name},{SALES_HEADER}"),
            "S1",
        )
        for name in ("par1", "BZh9", "12345678DUCKS")
    ),
    refuses("a byte order mark alone", BOM, "is empty"),
    refuses("white space alone", "  \n\n\t\r\n ", "is empty"),
    refuses("an empty gzip file", b"", "is empty", file="fact_sales.csv.gz"),
    refuses("a header alone, without a newline", SALES_HEADER, "has a header and no rows"),
]  # fmt: skip

PLACES = [
    places("a folder where a file should be", "is a folder, not a file", sales__csv=Path.mkdir),
    places("a pipe", "is a pipe or a device, not a file", sales__csv=os.mkfifo),
    places("a link to nothing", "is a link to a missing file", sales__csv=linked_to("gone.csv")),
    places("a link to itself", "cannot be read (Too many levels",
        sales__csv=linked_to("fact_sales.csv")),
    places("a file without an ending", "fact_sales is not a folder", sales=GOOD),
    places("a file and a folder", "two sources for fact_sales: fact_sales and fact_sales.csv",
        sales__csv=GOOD, sales___1__csv=GOOD),
    places("an empty folder", "fact_sales is empty", sales=Path.mkdir),
    places("an ending in capitals in the folder",
        "fact_sales/A.CSV does not end in one of .csv, .csv.gz, .parquet", sales___1__csv=GOOD,
        sales___A__CSV="x"),
    places("a folder in the folder", "fact_sales/2023 does not end in one of .csv", sales___1__csv=GOOD,
        sales___2023=Path.mkdir),
    places("hidden files in the folder", None, sales___1__csv=GOOD, sales_____DS_Store="x",
        sales____SUCCESS=""),
    places("one month twice", "two sources for 1: 1.csv and 1.csv.gz", sales___1__csv=GOOD,
        sales___1__csv__gz=gzip.compress(GOOD.encode())),
    places("a month without rows", "fact_sales/2.csv: has a header and no rows", sales___1__csv=GOOD,
        sales___2__csv=sales()),
    places("a month with another header", 'fact_sales/2.csv: missing column "sale_id"',
        sales___1__csv=GOOD, sales___2__csv="id\n1\n"),
    places("no file at all", "inputs holds no fact_sales.csv (nor .csv.gz"),
    Case("nearly the right name", {"Fact_Sales.CSV": GOOD.encode(), "fact_sales.txt": GOOD.encode()},
        refused="table fact_sales), but Fact_Sales.CSV, fact_sales.txt. Rename it"),
    places("a zip archive beside", "but fact_sales.csv.zip. Unpack it, if", sales__csv__zip="x"),
    Case("bad rows in the third file of a folder",
        {"fact_sales/1.csv": sales(sale(1)).encode(),
         "fact_sales/2.csv.gz": gzip.compress(sales(f'"S\n2",{GOOD_SALE}').encode()),
         "fact_sales/3.csv": sales(f'"S\n3",{GOOD_SALE}', "", "S4,no,C9,P1,1,2,0", sale(1),
             f'"S\n2",{GOOD_SALE}', "S5", sale(6)).encode(),
         "fact_sales/4.csv": sales(sale(7)).encode()},
        ("S1", "S\n2", "S\n3", "S6", "S7"),
        tuple(("fact_sales/3.csv", *bad) for bad in (
            (5, "sale_date", 'sale_date "no" is not a date'),
            (5, "customer_id", 'customer_id "C9" is not in dim_customer'),
            (6, "sale_id", 'sale_id "S1" repeats that of line 2 in fact_sales/1.csv'),
            (7, "sale_id", 'sale_id "S\n2" repeats that of line 2 in fact_sales/2.csv.gz'),
            (9, None, FEWER)))),
]  # fmt: skip

CASES = {
    "header": HEADERS, "delimiter": DELIMITERS, "rows": ROWS, "encoding": ENCODINGS,
    "line ends": LINE_ENDS, "quotes": QUOTES, "size": SIZES, "kind": KINDS, "place": PLACES,
}  # fmt: skip


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MART_HOME", str(tmp_path))
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "dim_customer.csv").write_text(CUSTOMERS)
    (folder / "dim_product.csv").write_text(PRODUCTS)
    return folder


def put(inputs: Path, files: dict[str, bytes | Callable[[Path], None]]) -> None:
    """Let these be the files of sales, and no others."""
    for path in inputs.glob("[Ff]act_[Ss]ales*"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in files.items():
        path = inputs / name
        path.parent.mkdir(exist_ok=True)
        content(path) if callable(content) else path.write_bytes(content)


def rows_of(candidate: Session, sql: str) -> list[tuple]:
    return candidate.connection.execute(sql).fetchall()


def staged_ids(candidate: Session) -> list[str]:
    return [sale_id for (sale_id,) in rows_of(candidate, "select sale_id from staging.fact_sales")]


def entries(candidate: Session) -> list[tuple]:
    return rows_of(candidate, "select file, line, column_name, reason from quarantine")


@pytest.mark.parametrize("group", CASES)
def test_a_damaged_file_is_refused_or_its_good_rows_load(
    candidate: Session, inputs: Path, subtests: pytest.Subtests, group: str
):
    """One candidate for all of them: of a file that was refused, the next one finds nothing."""
    for case in [*CASES[group], loads("a good file at last", sales(sale(9)), "S9")]:
        with subtests.test(case.words):
            put(inputs, case.files)
            assert_as_expected(candidate, inputs, case)


def assert_as_expected(candidate: Session, inputs: Path, case: Case) -> None:
    if case.refused:
        with pytest.raises(InputError) as refusal:
            load(candidate, inputs)
        assert case.refused in str(refusal.value)
        assert_fit_to_show(str(refusal.value))
        return
    load(candidate, inputs)
    found = entries(candidate)
    assert staged_ids(candidate) == list(case.loaded)
    assert [entry[:3] for entry in found] == [entry[:3] for entry in case.bad]
    for (*_, reason), (*_, beginning) in zip(found, case.bad, strict=True):
        assert reason.startswith(beginning)
    assert_every_row_accounted_for(candidate)


def assert_every_row_accounted_for(candidate: Session) -> None:
    books = rows_of(candidate, "select file, rows_read, rows_loaded, rows_quarantined from build_inputs")
    for file, read, loaded, quarantined in books:
        bad = rows_of(candidate, f"select count(distinct line) from quarantine where file = '{file}'")
        assert (read, quarantined) == (loaded + quarantined, bad[0][0])
    loaded = sum(loaded for file, _, loaded, _ in books if file.startswith("fact_sales"))
    assert loaded == len(staged_ids(candidate))


def assert_fit_to_show(message: str) -> None:
    """It names the file, is no stack of code, says what to do, and fits one screen."""
    assert "fact_sales" in message.splitlines()[0]
    assert "Traceback" not in message
    assert "\nLINE " not in message
    assert all(character.isprintable() or character == "\n" for character in message)
    assert sum(1 + len(line) // 110 for line in message.splitlines()) <= 12
    last = message.rstrip(".").replace(": make", ". Make").rsplit(". ", 1)[-1].splitlines()[-1]
    assert last.split()[0] in WAYS_OUT


WAYS_OUT = {
    "Add", "Ask", "Close", "Convert", "Copy", "Correct", "Fetch", "Give", "If", "Leave", "Make",
    "Move",
    "Name", "Put", "It",
    "Remove", "Rename", "Run", "Save", "Unpack",
}  # fmt: skip


def long_bad_values() -> bytes:
    names = SALES_HEADER.split(",")[1:]
    rows = [
        ",".join(["S2", *("\x1b[31m" + "x\n" * 600 if n == name else "" for n in names)])
        for name in names
    ]
    quoted = [",".join(f'"{value}"' for value in row.split(",")) for row in rows]
    return sales(sale(1), *quoted).encode()


def test_a_refusal_for_long_bad_values_still_fits_one_screen(candidate: Session, inputs: Path):
    put(inputs, {"fact_sales.csv": long_bad_values()})
    with pytest.raises(InputError) as refusal:
        load(candidate, inputs, share=0.1)
    assert_fit_to_show(str(refusal.value))


_READ_WITHOUT_THE_RIGHT = """
import os
from pathlib import Path
from mart_helpers.contract import Column, Table
from mart_helpers.sources import find_sources
if os.geteuid() == 0:
    os.setuid(65534)
try:
    columns = (Column("sale_id", "VARCHAR", True, None),)
    find_sources(Path(), Table("fact_sales", columns, ("sale_id",), (), (), ()))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.name == "nt", reason="rights are not modes on Windows")
def test_an_unreadable_file_is_refused(inputs: Path):
    put(inputs, {"fact_sales.csv": GOOD.encode()})
    (inputs / "fact_sales.csv").chmod(0)
    inputs.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", _READ_WITHOUT_THE_RIGHT],
        cwd=inputs,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("InputError fact_sales.csv: you may not read it. Give yourself")


_LOAD_AND_MEASURE = """
import sys
sys.path.insert(0, "tests")
from conftest import declare_contract, load
from pathlib import Path
from mart_helpers.errors import InputError
from mart_helpers.mart import create_candidate
database = Path(sys.argv[1])
session = create_candidate(database)
session.connection.execute("set threads = 2")  # each takes memory of its own
declare_contract(session)
try:
    load(session, database.parent, "dim_product", share=float(sys.argv[2]))
except InputError as error:
    print(error)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1])
"""


def loaded_and_measured(folder: Path, share: float) -> tuple[list[str], int]:
    """What loading products from the folder says, in a process of its own, and the kilobytes it took."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_AND_MEASURE, str(folder / "mart.duckdb"), str(share)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    *message, kilobytes = done.stdout.splitlines()
    return message, int(kilobytes)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_line_of_1_gb_is_refused_in_little_memory(tmp_path: Path):
    path = tmp_path / "dim_product.csv"
    with path.open("wb") as file:
        file.write(PRODUCTS.encode())
        for _ in range(1024):
            file.write(b"x" * (1 << 20))
    (message,), kilobytes = loaded_and_measured(tmp_path, 0.1)
    path.unlink()
    assert "dim_product.csv: the row that begins on line 3 is longer than 8 MB" in message
    assert kilobytes < 600_000


BAD_ROWS = {
    "too many fields": (300_000, lambda number: f"P{number},Pen,Desk,1,2,3,4,5\n", 0.1),
    "values": (300_000, lambda number: f"P{number},Pen,Desk,1;2,2\n", 0.1),
    "repeats that may be": (200_000, lambda number: "P1,Pen,Desk,1,2\n", 1),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_very_many_bad_rows_take_little_memory(tmp_path: Path, kind: str):
    rows, bad_row, share = BAD_ROWS[kind]
    with gzip.open(tmp_path / "dim_product.csv.gz", "wt", compresslevel=1) as file:
        file.write(PRODUCTS)
        file.writelines(map(bad_row, range(rows)))
    message, kilobytes = loaded_and_measured(tmp_path, share)
    if share < 1:
        assert f"{rows:,} of its {rows + 1:,} rows" in message[0]
        assert "line 3" in message[1]
    assert kilobytes < 500_000


BAD_SPELLINGS = {
    "sale_id": ("", "  ", "S0"),
    "sale_date": (
        "", "2024-02-30", "2023-02-29", "2024-13-01", "2024-00-10", "infinity", "-infinity", "epoch",
        "now", "today", "05.01.2024", "01/05/2024", "2024/01/05", "2024-1-5", "20240105", "24-01-05",
        "Jan 5 2024", "45296", "1704067200", "2024-01-05T10:00:00Z", "2024-01-05 10:00:00+01",
        "2024-01-05 10:00 CET", "2024-01-05 24:00", "2024-01-05 10:61", "2024-01-05 (BC)",
        "-2024-01-05", "1899-12-31", "2101-01-01", "10000-01-01", "NULL", "n/a", "２０２４-01-05",
    ),
    "quantity": (
        "", "2.5", "12.01", "1e3", "0x10", "0b11", "1_000", "1,000", "1.000,0", "12,0",
        "9223372036854775808", "-9223372036854775809", "9" * 400, "one", "NaN", "inf", "--1", "+-1",
        "1-", "(5)", "- 5", "1 000", "1\u00a0000", ".", "true", "NULL", "１２",
    ),
    "unit_price": (
        "", "1.23456", "0.00001", "NaN", "inf", "-Infinity", "$5", "€5", "5 EUR", "50%", "1_000.0",
        "1,000.00", "1.000,00", "1,50", "0x1F", "1e3", "1E-2", "100000000000000",
        "-100000000000000.0", "9" * 400, ".", "-", "+", "1.2.3", "1/2", "'5", "NULL",
    ),
    "discount": ("10%", "0.1234567", "0,1", "1.5", "1.000001", "-0.1", "-0.000001", "nan", "1e-1", ".",
        "NULL"),
    "customer_id": ("C9", "c1", "7", "7.0", "0007", "C1 C1", "NULL", "С1", "-1"),
    "product_id": ("", "P9", "p1", "P01", "P1.0", "unknown"),
}  # fmt: skip
BAD_VALUES = [(column, value) for column, values in BAD_SPELLINGS.items() for value in values]


def bad_row(number: int, column: str, value: str) -> list[str]:
    names = SALES_HEADER.split(",")
    row = dict(zip(names, sale(number).split(","), strict=True))
    return [*(row | {column: value}).values(), ""]


def test_every_bad_spelling_is_found_early_and_in_the_last_rows_of_a_large_file(
    candidate: Session, inputs: Path
):
    rows = [[*sale(number).split(","), ""] for number in range(100_000)]
    rows[50_000][-1] = "two\nlines"
    for last in (1 + len(BAD_VALUES), 99_991):
        for ordinal, (column, value) in enumerate(BAD_VALUES, last - len(BAD_VALUES)):
            rows[ordinal] = bad_row(ordinal, column, value)
    with (inputs / "fact_sales.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([WITH_NOTE.split(","), *rows])
    load(candidate, inputs)
    places = [(ordinal + 2) for ordinal in range(1, 1 + len(BAD_VALUES))]
    places += [(ordinal + 3) for ordinal in range(99_991 - len(BAD_VALUES), 99_991)]
    expected = [
        (line, column, value.strip() or None)
        for line, (column, value) in zip(places, BAD_VALUES * 2, strict=True)
    ]
    found = rows_of(candidate, "select line, column_name, value from quarantine")
    assert found == expected
    assert len(staged_ids(candidate)) == 100_000 - len(expected)
    assert_every_row_accounted_for(candidate)


HOSTILE = [
    "'; drop table staging.fact_sales; --", '" or 1 = 1', "$name", "{{name}}", "%s", "${HOME}",
    "\\", "\\n", "a\\,b",
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@sum(A1)", "\t=1", "<script>alert(1)</script>",
    "&amp;", "NULL", "null", "NaN",
    "true", "007", "1e3", "#text", "-- text", "/* text", "😀👩‍👩‍👧", "\u202eright to left\u202c",
    "שלום", "e\u0301", "é", "\u200b", "\ufeff",
    "\u2028", "\u0085", "\ufffd", "\U0010ffff", "a,b", "a;b", "a|b", "a\tb", 'a"b', '"', '""',
    "''", "two\nlines", "\n", "CR\rLF",
    "two\r\nlines", " leading", "trailing ", "  ", "\ttab\t", "\x01\x07\x08\x1b[31m\x7f", "\x1a",
    "x" * 100_000,
]  # fmt: skip


def written(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode()


def test_hostile_names_come_back_byte_for_byte(candidate: Session, inputs: Path):
    header = CUSTOMERS.splitlines()[0].split(",")
    rows = [[f"C{n}", name, "", "", "", ""] for n, name in enumerate(HOSTILE)]
    put(inputs, {"fact_sales.csv": GOOD.encode(), "dim_customer.csv": written([header, *rows])})
    load(candidate, inputs)
    names = rows_of(candidate, "select customer_name from staging.dim_customer")
    assert [name for (name,) in names] == HOSTILE
    assert entries(candidate) == []


def test_hostile_ids_come_back_trimmed_and_otherwise_byte_for_byte(candidate: Session, inputs: Path):
    ids = [value for value in HOSTILE if value.strip()]
    rows = [[value, *GOOD_SALE.split(",")] for value in ids]
    put(inputs, {"fact_sales.csv": written([SALES_HEADER.split(","), *rows])})
    load(candidate, inputs)
    assert staged_ids(candidate) == [value.strip() for value in ids]


def test_hostile_values_stand_in_quarantine_as_they_were_in_the_file(candidate: Session, inputs: Path):
    values = [value for value in HOSTILE if value.strip() and len(value) < 1000]
    rows = [[f"S{n}", value, "C1", "P1", "1", "2", "0"] for n, value in enumerate(values, 2)]
    put(inputs, {"fact_sales.csv": written([SALES_HEADER.split(","), sale(1).split(","), *rows])})
    load(candidate, inputs)
    found = rows_of(candidate, "select value, raw_row, reason from quarantine")
    assert [value for value, _, _ in found] == values
    assert [raw for _, raw, _ in found] == [written([row]).decode().removesuffix("\n") for row in rows]
    assert [reason for _, _, reason in found] == [
        f'sale_date "{value}" is not a date (yyyy-mm-dd)' for value in values
    ]
