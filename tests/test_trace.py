import gzip
import os
import re
import shutil
from pathlib import Path

import duckdb
import pytest
from conftest import SALES_HEADER, mart_command
from golden import assert_as_kept

from mart_helpers.errors import MartError, StateError, UsageError
from mart_helpers.trace import trace as trace_row

# the contract does not know `note`: text with newlines can stand before the key
SALES = [
    f"note,{SALES_HEADER}",
    "plain,S1,2024-01-01,C001,P01,2,18.50,0.1",
    '"two\nlines",S2,2024-01-02,,P02,1,16.90,0',
    '"a\nb\n\n""c"", d",  S3 ,2024-01-03,C002,P03,3,14.50,0',
    "repeats,S1,2024-01-04,C002,P02,1,16.90,0",
    "orphan,S4,2024-01-05,C999,P01,1,18.50,0",
    "S7,S5,2024-02-30,C001,P01,one,18.50,0",
    "too many,S6,2024-01-05,C001,P01,1,18.50,0,9,9",
    "S5,S7,2024-01-06,C001,P01,1,18.50,0",
    '"S""8 said","S""8",2024-01-06,C001,P01,1,18.50,0',
    "\x1b[31mred,S9,2024-01-06,C001,P01,1,18.50,0",
    *(f"filler,M{n},2024-01-07,C001,P01,1,18.50,0" for n in range(30)),
    *("again,M0,2024-01-08,C001,P01,1,18.50,0" for _ in range(25)),
    'orphan,"S""10",2024-01-05,C998,P01,1,18.50,0',
    'again,"S" "11",2024-01-05,C001,P01,1,18.50,0',
    'outside,"S"12,2024-01-05,C001,P01,1,18.50,0',
]
LATE_CUSTOMERS = [
    "signup_date;customer_id;customer_name;segment;city;country",
    "2024-01-01;L1;Late One;;;",
    "2024-13-01;L2;Late Two;;;",
    "2024-01-02;C001;Once more;;;",
]


def write_inputs(folder: Path) -> None:
    """Dirty sales, products in Parquet, and customers in two drops of which one is gzipped."""
    (folder / "fact_sales.csv").write_text("\n".join(SALES) + "\n")
    products = duckdb.read_csv(str(folder / "dim_product.csv"))
    products.write_parquet(str(folder / "dim_product.parquet"))
    (folder / "dim_product.csv").unlink()
    drops = folder / "dim_customer"
    drops.mkdir()
    (folder / "dim_customer.csv").rename(drops / "2023.csv")
    late = "\n".join(LATE_CUSTOMERS).encode()
    (drops / "2024.csv.gz").write_bytes(gzip.compress(late, mtime=0))


@pytest.fixture(scope="module")
def project(shared_home: Path) -> Path:
    """A project with a mart of stage 3 from those inputs, and one of seed rows, `learned.duckdb`."""
    write_inputs(shared_home / "inputs")
    notebook = shared_home / "notebooks" / "01_build.ipynb"
    notebook.write_text(
        notebook.read_text()
        .replace("'S000298', '2023-04-19'", "'S000298', '2024-13-02'")
        .replace("is 'history: ", "is '")  # so that the drops are parts of one extract
    )
    for options in (["--stage", "3"], ["--stage", "1", "--database", "data/learned.duckdb"]):
        done = mart_command("build", "--max-rejected-share", "1", *options, cwd=shared_home)
        assert done.returncode == 0, done.stderr
    return shared_home


@pytest.fixture
def later(project: Path, tmp_path: Path) -> Path:
    """A copy of the inputs, to change after the build."""
    return shutil.copytree(project / "inputs", tmp_path / "later")


def trace(
    project: Path, table: str, key: str, inputs: Path | None = None, mart: str = "mini_data_mart.duckdb"
) -> str:
    return trace_row(project / "data" / mart, table, key, inputs or project / "inputs")


def refusal(kind: type[MartError], *arguments, **options) -> str:
    with pytest.raises(kind) as raised:
        trace(*arguments, **options)
    return str(raised.value)


def part(text: str, title: str) -> list[str]:
    """The lines of one part, without indentation and alignment."""
    (found,) = (each for each in text.strip().split("\n\n") if each.startswith(title))
    return [re.sub(r"  +", " ", line.strip()) for line in found.splitlines()[1:]]


TRACED = [  # keys, and what there is to see
    ("fact_sales", "M1", "its dimensions, its line and its file"),
    ("fact_sales", "S2", "no customer: the unknown member"),
    ("dim_customer", "L1", "a row that points to no other"),
    ("fact_sales", "\u00a0 S3 ", "a line behind newlines in quotes"),
    ("fact_sales", 'S"8', "a quote in the key"),
    ("fact_sales", "S9", "a control character, spelt out"),
    ("fact_sales", '"S" "11"', "a key whose quotes are wrong"),
    ("fact_sales", "S12", "the same, without them"),
    ("fact_sales", "S1", "the row that stays, and the one that repeats its key"),
    ("fact_sales", "S4", "a row that is in quarantine alone"),
    ("fact_sales", "S5", "several bad values; another row mentions this key"),
    ("fact_sales", "S6", "a row with too many fields"),
    ("fact_sales", "S7", "nothing in quarantine, where a row mentions this key"),
    ("fact_sales", 'S"10', "an orphan with a quote in its key"),
    ("fact_sales", "M0", "the first twenty of many rows, and how many more"),
    ("dim_customer", "C001", "two files, one of them in gzip"),
    ("dim_product", "P03", "a Parquet file, which has rows"),
]
SEEDED = [
    ("fact_sales", "S001141", "a seed row"),
    ("fact_sales", "S000298", "a seed row that was set aside"),
]


def test_what_is_told_of_rows_is_as_it_was_written_down(project):
    """In golden/trace.txt, which KEEP=1 writes anew."""
    marts = [("mini_data_mart.duckdb", TRACED), ("learned.duckdb", SEEDED)]
    texts = [
        f"=== {table} {key!r}: {words}\n\n{trace(project, table, key, mart=mart)}\n"
        for mart, keys in marts
        for table, key, words in keys
    ]
    assert_as_kept("trace.txt", "\n".join(texts))


def test_a_file_that_changed_since_the_build_is_named_and_searched_as_it_is(project, later):
    file = later / "fact_sales.csv"
    file.write_text(file.read_text().replace("filler,M1,", "\n\nFiller,M1,"))
    text = trace(project, "fact_sales", "M1", later)
    assert part(text, "inputs")[0] == f"{file}, line 19"
    text_of_change = "the file has changed since, or --inputs-dir is the wrong folder."
    changed = [f"{file} is not the file of build 1: {text_of_change}"]
    assert part(text, "since build 1") == changed
    same_size = SALES[11].replace("M0", "M1")
    file.write_text("\n".join([*SALES[:11], same_size, *SALES[12:]]) + "\n")
    assert file.stat().st_size == (project / "inputs" / "fact_sales.csv").stat().st_size
    assert part(trace(project, "fact_sales", "S1", later), "since build 1") == changed


def test_files_that_are_gone_or_new_since_the_build_are_named(project, later):
    drops = later / "dim_customer"
    (drops / "2023.csv").rename(drops / "2025.csv")
    assert part(trace(project, "dim_customer", "C001", later), "since build 1") == [
        f"{drops}/2023.csv is gone since build 1: rebuild, or give --inputs-dir the folder that it was "
        "built from.",
        f"{drops}/2024.csv.gz is as build 1 read it.",
        f"{drops}/2025.csv was not part of build 1.",
    ]


def test_without_its_file_a_row_is_still_found_in_mart_and_quarantine(project, later):
    (later / "fact_sales.csv").unlink()
    text = trace(project, "fact_sales", "S4", later)
    assert part(text, "inputs")[0].startswith(f"{later} holds no fact_sales.csv")
    assert part(text, "quarantine")[0] == "fact_sales.csv, line 10"
    assert "is gone since build 1" in part(text, "since build 1")[0]
    message = refusal(StateError, project, "fact_sales", "none", later)
    assert f"The inputs could not be searched: {later} holds no" in message


def test_a_file_that_can_no_longer_be_read_hides_no_other(project, later):
    drops = later / "dim_customer"
    gzipped = drops / "2024.csv.gz"
    whole = gzip.compress(os.urandom(1_000_000).hex().encode(), mtime=0)
    text = "\n".join(LATE_CUSTOMERS).encode() + b"\n"
    gzipped.write_bytes(gzip.compress(text, mtime=0) + whole[:-20_000])
    inputs = part(trace(project, "dim_customer", "C001", later), "inputs")
    assert inputs[0] == f"{drops}/2023.csv, line 2"
    assert inputs[-1].startswith(f"{gzipped} cannot be read: ")


def test_a_key_that_is_nowhere_is_refused_with_keys_like_it(project):
    assert refusal(StateError, project, "fact_sales", "m29x") == (
        'fact_sales: sale_id "m29x" is neither in the mart (data/mini_data_mart.duckdb, build 1), '
        "nor in inputs/fact_sales.csv, nor in quarantine. Did you mean M29? "
        "Give a sale_id as the source writes it."
    )
    assert "Did you mean" not in refusal(StateError, project, "fact_sales", "nothing like it")
    of_seed = refusal(StateError, project, "fact_sales", "S1", mart="learned.duckdb")
    assert "nor in the seed rows of 01_build" in of_seed
    assert "Did you mean P03?" in refusal(StateError, project, "dim_product", "03")


def test_a_wrong_call_names_what_is_declared(project):
    declared = "Expected one of dim_customer, dim_product, fact_inventory, fact_sales."
    assert refusal(UsageError, project, "fact_sale", "S1") == (
        'TABLE: found "fact_sale", which is not a declared input. Did you mean fact_sales? ' + declared
    )
    assert refusal(UsageError, project, "dim_date", "20240101") == (
        'TABLE: found "dim_date", which is not a declared input but made by 01_build. ' + declared
    )
    assert refusal(UsageError, project, "fact_sales", " ").startswith(
        'KEY: found "", expected a sale_id'
    )


def test_a_database_that_is_no_mart_is_refused(project, tmp_path):
    duckdb.connect(str(tmp_path / "other.duckdb")).close()
    with pytest.raises(StateError, match="is a DuckDB file but not a mart: it has no build_log"):
        trace_row(tmp_path / "other.duckdb", "fact_sales", "S1", tmp_path)
