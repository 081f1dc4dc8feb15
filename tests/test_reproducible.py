"""The same rows give the same mart: on each rebuild, on any threads, from every kind of file."""

import gzip
from pathlib import Path

import duckdb
import pytest
from conftest import code_cells

from mart_helpers.lab.generator import generate
from mart_helpers.loading import Loader
from mart_helpers.mart import create_candidate
from mart_helpers.session import Session

STAR = ("dim_customer", "dim_product", "dim_date", "fact_sales")
SALES = 200_000
# A column that nobody declared makes the file larger than one of the 32 MB buffers that DuckDB
# reads, and so gives more than one thread something to scan.
PADDING = "x" * 160

#: What quarantine says of a row whatever file it came in; `file`, `line` and the line of the row
#: that a key repeats are other ones in another file.
SAME_IN_ALL_FILES = "table_name, column_name, value, regexp_replace(reason, ' of line .*', ''), raw_row"


@pytest.fixture(scope="module")
def extracts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated extracts with faults all over the sales."""
    folder = tmp_path_factory.mktemp("extracts")
    generate(SALES, folder)
    header, *lines = (folder / "fact_sales.csv").read_text().splitlines()
    planted = [f"{line},{PADDING}" for line in with_faults(lines)]
    (folder / "fact_sales.csv").write_text("\n".join([f"{header},padding", *planted]) + "\n")
    return folder


def with_faults(lines: list[str]) -> list[str]:
    """The lines, some of them with the key of one far above or a bad value, or an orphan."""
    rows = [line.split(",") for line in lines]
    for number in range(0, len(rows), 50):
        # Two far apart take the key of the first; in a third of the cases that row is itself bad.
        rows[(number + 70_007) % len(rows)][0] = rows[number][0]
        rows[(number + 130_011) % len(rows)][0] = rows[number][0]
        if number % 150 == 0:
            rows[number][1] = "soon"
    for number in range(25, len(rows), 500):
        rows[number][2] = "C-nobody"
    return [",".join(row) for row in rows]


def built(folder: Path, inputs: Path, threads: int = 2) -> Session:
    """A session on the candidate that the cells of 01_build make of `inputs`, up to the star."""
    folder.mkdir()
    database = folder / "mart.duckdb"
    names = {
        "stage": 3,
        "inputs_dir": inputs,
        "max_rejected_share": 0.2,
        "volume_tolerance": 0.5,
        "drops_only": False,
        "Loader": Loader,
    }
    names["mart"] = mart = create_candidate(database, names)
    mart.execute(f"set threads = {threads}")
    for cell in code_cells("01_build"):
        if "create view described_sales" in cell:
            return mart
        if cell.startswith("%%sql"):
            for statement in mart.connection.extract_statements(cell.partition("\n")[2]):
                mart.execute(statement.query)
        elif cell.startswith("loader"):
            exec(cell, names)
    raise AssertionError("01_build joins no star")


def content_hash(mart: Session, table: str, columns: str = "*") -> str:
    """A hash over all rows of a table, in whatever order they are stored."""
    rows = f"select {columns} from main.{table}"
    return mart.connection.execute(
        f"select md5(string_agg(row_text, chr(10) order by row_text)) "
        f"from (select rows::varchar as row_text from ({rows}) as rows)"
    ).fetchone()[0]


def star_hashes(mart: Session) -> dict[str, str]:
    return {table: content_hash(mart, table) for table in STAR}


@pytest.fixture(scope="module")
def reference(extracts: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The mart of the plain files, built by one thread, whose reading order nothing can change."""
    mart = built(tmp_path_factory.mktemp("reference") / "mart", extracts, threads=1)
    yield mart
    mart.close()


def test_the_planted_faults_are_found_and_cost_no_other_row(reference):
    counts = reference.connection.execute(
        "select column_name, count(*) from quarantine group by all order by all"
    ).fetchall()
    assert counts == [("customer_id", 400), ("sale_date", 1334), ("sale_id", 6666)]
    assert reference.connection.execute("select count(*) from main.fact_sales").fetchall() == [
        (191_600,)
    ]


def test_a_rebuild_on_two_threads_gives_the_same_mart_as_on_one(extracts, reference, tmp_path):
    mart = built(tmp_path / "again", extracts)
    assert star_hashes(mart) == star_hashes(reference)
    assert content_hash(mart, "quarantine") == content_hash(reference, "quarantine")
    mart.close()


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_every_kind_of_source_gives_the_same_mart(extracts, reference, tmp_path, kind):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("dim_customer", "dim_product", "fact_sales"):
        REPACK[kind](extracts / f"{name}.csv", inputs)
    mart = built(tmp_path / "again", inputs)
    assert star_hashes(mart) == star_hashes(reference)
    same = [content_hash(each, "quarantine", SAME_IN_ALL_FILES) for each in (mart, reference)]
    assert same[0] == same[1]
    if kind != "parquet":  # which has no lines
        assert_each_entry_stands_where_it_says(mart, inputs)
    mart.close()


def to_folder(path: Path, inputs: Path) -> None:
    """Three compressed files one after the other; of a small table, one.

    Customers have a history: their files in a folder would be extracts of several days.
    """
    if path.stem == "dim_customer":
        (inputs / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
        return
    header, *lines = path.read_text().splitlines(keepends=True)
    folder = inputs / path.stem
    folder.mkdir()
    part = len(lines) // 3 + 1 if len(lines) > 1000 else len(lines)
    for start in range(0, len(lines), part):
        text = header + "".join(lines[start : start + part])
        (folder / f"{start:06}.csv.gz").write_bytes(gzip.compress(text.encode(), compresslevel=1))


def to_parquet(path: Path, inputs: Path) -> None:
    with duckdb.connect() as connection:
        rows = f"from read_csv('{path}', header = true, all_varchar = true)"
        connection.execute(f"copy ({rows}) to '{inputs / path.stem}.parquet' (format parquet)")


REPACK = {"folder": to_folder, "parquet": to_parquet}


def assert_each_entry_stands_where_it_says(mart: Session, inputs: Path) -> None:
    entries = mart.connection.execute("select file, line, raw_row from quarantine").fetchall()
    lines = {file: text_of(inputs / file).splitlines() for file in {file for file, _, _ in entries}}
    assert all(lines[file][line - 1] == raw for file, line, raw in entries)


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
