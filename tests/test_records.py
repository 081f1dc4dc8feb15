"""The second witness: records counted and found without DuckDB, and what DuckDB sees."""

import csv
import gzip
import io
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from mart_helpers import records
from mart_helpers.errors import InputError
from mart_helpers.records import NOT_UTF8, OUTSIDE_QUOTES, STRAY_CR, Located, data_blocks, records_at
from mart_helpers.sources import CsvFile
from mart_helpers.staging import batches, read_batch

BOM = b"\xef\xbb\xbf"


@pytest.fixture(params=[7, 1 << 18], ids=lambda size: f"blocks of {size}")
def in_blocks(request, monkeypatch):
    """Files are read in blocks of so many bytes, or of what a record needs."""
    monkeypatch.setattr(records, "_BLOCK_BYTES", request.param)


@pytest.fixture
def written(tmp_path):
    def write(data: bytes, name: str = "sales.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def count(path: Path, delimiter: str = ",") -> int:
    return sum(block.count for block in data_blocks(path, path.name, delimiter))


def at(path: Path, numbers) -> list[Located]:
    return list(records_at(data_blocks(path, path.name, ","), path.name, numbers))


def all_records(path: Path) -> list[Located]:
    return at(path, range(1, count(path) + 1))


BODIES = {
    "1,2\r\n3,4": ["1,2", "3,4"],  # no newline at the end
    "\n1,2\n\n\r\n3,4\n\n\r": ["1,2", "3,4"],
    "  \n1,2\n  \n \r\n": ["1,2"],
    '"1,\n\r\n2",3\n4,5\n': ['"1,\n\r\n2",3', "4,5"],
    '"a""b\n""",2\n""""\n"",1\n': ['"a""b\n""",2', '""""', '"",1'],
    '5" pipe,2\n3"",a"b\n': ['5" pipe,2', '3"",a"b'],
    '1, "2\n3"\n': ['1, "2\n3"'],
    '1,\t"2\n3"\n': ['1,\t"2', '3"'],  # a tab is no blank
    '"1"x,"2\n3"\n4,5\n': ['"1"x,"2\n3"', "4,5"],
    "1,2\r3,4\n5,6\n": ["1,2\r3,4", "5,6"],
}


def test_records_end_where_the_csv_module_ends_them(in_blocks, written):
    for body, expected in BODIES.items():
        path = written(BOM + b"a,b\n" + body.encode())
        assert count(path) == len(expected), body
        assert [record.raw for record in all_records(path)] == expected, body


def test_a_file_without_data_records_counts_none(written):
    for data in (b"", BOM, b"a,b", b"\r\n\na,b\r\n", BOM + b'"a","b\nc"\n'):
        assert count(written(data)) == 0, data


def test_quotes_open_behind_the_files_own_delimiter(written):
    path = written(b'a;b\n1;"2\n3";4\n')
    assert (count(path, ";"), count(path, ",")) == (1, 2)


NEVER_CLOSED = {
    b'a,b\n1,"2\n3\n': 2,
    b'a,b\n\n1,"2\n3"\n4,\n"5""\n6\n': 6,
    b'a,b\n1,"2\n3" ,"\n4\n': 3,
    b'a,"b\n1,2\n': 1,
    b'a,b\n1,"': 2,
}


def test_a_quote_that_nothing_closes_is_refused_with_its_line(in_blocks, written):
    for data, line in NEVER_CLOSED.items():
        with pytest.raises(
            InputError, match=rf"sales.csv: a quote that opens on line {line} is never closed"
        ):
            count(written(data))


def test_a_nul_byte_is_refused_with_its_line(in_blocks, written):
    with pytest.raises(InputError, match=r"sales\.csv: line 4 has a NUL byte"):
        count(written(b'a,b\n"1\n2",3\n4,\0\n'))


def mended(block, delimiter: str = ",", fields: int = 2) -> list[str]:
    """The records of a block as they are read, those that cannot be in brackets."""
    lines = block.mended(delimiter, fields)
    return [f"[{reason}]\n" if reason else line.decode() for line, reason in lines]


MENDED = {
    '1, "x\ny" ': '1, "x\ny" ',
    '5" pipe,2': '5" pipe,2',
    "1,2,,,": "1,2,",
    '1,"x"y': f"[{OUTSIDE_QUOTES}]",
    '"S5" "x",2': f"[{OUTSIDE_QUOTES}]",
    '1,  ","': f"[{OUTSIDE_QUOTES}]",
    "1\r,2": f"[{STRAY_CR}]",
    '"1\r",2': '"1\r",2',
    "ä,\udcff": f"[{NOT_UTF8}]",
    "x" * (3 << 20): "[the row is longer than 2 MB]",
}


def test_a_record_that_cannot_be_read_gives_way_to_its_reason(written):
    for record, read in MENDED.items():
        raw = record.encode("utf-8", "surrogateescape")
        path = written(b"a,b\n1,2\n\n  \n" + raw + b"\r\n3,4\n")
        found = [text for block in data_blocks(path, "sales.csv", ",") for text in mended(block)]
        assert found == ["1,2\n", f"{read}\n", "3,4\n"], record[:30]


def test_lines_are_physical_lines_behind_newlines_in_quotes_and_blank_lines(in_blocks, written):
    body = 'a,"b\r\nb"\r\n\r\n1,"x\r\n\ny"\r\n\r\n\r\n2,z\r\n3,"u\nv"\r\n4,w'
    assert all_records(written(BOM + body.encode())) == [
        Located(1, 4, '1,"x\r\n\ny"'),
        Located(2, 9, "2,z"),
        Located(3, 10, '3,"u\nv"'),
        Located(4, 12, "4,w"),
    ]


def test_blocks_put_together_are_what_stands_below_the_header(in_blocks, written):
    body = b'\n"1\n2",3\n\n4,5\r\n6,"7"\n\n'
    blocks = [*data_blocks(written(BOM + b"a,b\n" + body), "sales.csv", ",")]
    assert b"".join(block.text for block in blocks).strip() == body.strip()


def test_gzip_members_one_behind_the_other_are_one_file(tmp_path):
    path = tmp_path / "sales.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,") + gzip.compress(b"2\n3,4\n"))
    assert [record.raw for record in all_records(path)] == ["1,2", "3,4"]


def test_a_record_that_is_no_longer_there_is_an_error(written):
    with pytest.raises(InputError, match=r"sales\.csv: changed while it was read"):
        at(written(b"a,b\n1,2\n3,4\n"), [3])


def test_raw_text_is_cut_to_whole_characters_and_shows_bytes_that_are_no_utf8(written, monkeypatch):
    monkeypatch.setattr(records, "_LONGEST_RAW", 4)
    path = written("a\nabcd\nabcde\näöü𝄞ß\n".encode() + b"\xff\n")
    assert [record.raw for record in all_records(path)] == ["abcd", "abc…", "äöü…", "\\xff"]


CELL = st.text(st.sampled_from('",\n\r ab;é𝄞\u2028'), max_size=8)


@given(
    rows=st.lists(st.lists(CELL, min_size=2, max_size=4), min_size=1, max_size=8),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    block_bytes=st.integers(1, 40),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_the_csv_module_writes_is_found_row_by_row(
    tmp_path_factory, rows, line_end, quoting, block_bytes
):
    if quoting == csv.QUOTE_MINIMAL:  # it leaves a CR unquoted where the line end is LF
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    path = tmp_path_factory.getbasetemp() / "module.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=line_end, quoting=quoting).writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BLOCK_BYTES", block_bytes)
        assert count(path) == len(rows) - 1
        found = [record.raw for record in all_records(path)]
    assert [next(csv.reader(io.StringIO(raw, newline=""))) for raw in found] == rows[1:]


PIECES = st.lists(st.sampled_from(['"', " ", ",", "a", '""', '","', '"a"', "\r"]), max_size=7).map(
    "".join
)


@given(
    odd=st.lists(
        PIECES.filter(lambda text: text.strip(" ,\r") and text[-1] != "\r"), min_size=1, max_size=4
    )
)
@settings(deadline=None, max_examples=30)
def test_a_record_is_read_the_same_whatever_stands_beside_it(tmp_path_factory, odd):
    """Alone DuckDB may read it as it stands; in a batch with one that cannot be read, it is mended."""
    folder = tmp_path_factory.getbasetemp()
    try:
        alone = [row for record in odd for row in rows_of(folder, [record])]
        together = rows_of(folder, [*odd, '"x"y'])
    except InputError:  # a quote that nothing closes
        reject()
    assert together == [*alone, (None, None, None, OUTSIDE_QUOTES)]


def rows_of(folder: Path, odd: list[str]) -> list[tuple]:
    path = folder / "odd.csv"
    path.write_bytes("\n".join(["a,b,c", *odd, ""]).encode())
    source = CsvFile(path, path.name, ",", ("a", "b", "c"), ())
    rows: list[tuple] = []
    with duckdb.connect() as con:

        def run(sql: str) -> int:
            rows[:] = con.execute(sql).fetchall()
            return len(rows)

        for batch in batches([source]):
            read_batch(batch, folder / "rows", run)
    return rows


def test_a_quote_that_never_ends_takes_little_memory(tmp_path):
    path = tmp_path / "long.csv"
    with path.open("wb") as file:
        file.write(b'a,b\n1,"')
        for _ in range(300):
            file.write(b"x\n" * (1 << 19))
    code = f"""
import resource
from pathlib import Path
from mart_helpers.errors import InputError
from mart_helpers.records import data_blocks
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try: list(data_blocks(Path({str(path)!r}), "long.csv", ","))
except InputError as error: assert "row that begins on line 2" in str(error)
print((peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path.unlink()
    assert int(done.stdout) < 200  # MB
