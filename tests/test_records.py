"""The second witness: records counted and found without DuckDB, and what DuckDB sees."""

import csv
import gzip
import io
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mart_helpers import records
from mart_helpers.errors import InputError
from mart_helpers.records import Located, data_blocks, records_at
from mart_helpers.sources import CsvFile, Part, located, read_batch, read_ordinals

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


@pytest.mark.parametrize(
    ("body", "expected"),
    {
        "plain, CRLF, no newline at the end": ("1,2\r\n3,4", ["1,2", "3,4"]),
        "blank lines": ("\n1,2\n\n\r\n3,4\n\n\r", ["1,2", "3,4"]),
        "lines of blanks": ("  \n1,2\n  \n \r\n", ["1,2"]),
        "delimiter, newline and blank line in quotes": (
            '"1,\n\r\n2",3\n4,5\n',
            ['"1,\n\r\n2",3', "4,5"],
        ),
        "escaped and empty quotes": ('"a""b\n""",2\n""""\n"",1\n', ['"a""b\n""",2', '""""', '"",1']),
        "quotes in an unquoted field": ('5" pipe,2\n3"",a"b\n', ['5" pipe,2', '3"",a"b']),
        "a blank before quotes": ('1, "2\n3"\n', ['1, "2\n3"']),
        "a tab before a quote": ('1,\t"2\n3"\n', ['1,\t"2', '3"']),
        "text behind quotes, then quotes": ('"1"x,"2\n3"\n4,5\n', ['"1"x,"2\n3"', "4,5"]),
        "lone CR": ("1,2\r3,4\n5,6\n", ["1,2\r3,4", "5,6"]),
    }.values(),
    ids=repr,
)
def test_records_end_where_the_csv_module_ends_them(in_blocks, written, body, expected):
    path = written(BOM + b"a,b\n" + body.encode())
    assert count(path) == len(expected)
    assert [record.raw for record in all_records(path)] == expected


@pytest.mark.parametrize("data", [b"", BOM, b"a,b", b"\r\n\na,b\r\n", BOM + b'"a","b\nc"\n'])
def test_a_file_without_data_records_counts_none(written, data):
    assert count(written(data)) == 0


def test_quotes_open_behind_the_files_own_delimiter(written):
    path = written(b'a;b\n1;"2\n3";4\n')
    assert (count(path, ";"), count(path, ",")) == (1, 2)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'a,b\n1,"2\n3\n', 2),
        (b'a,b\n\n1,"2\n3"\n4,\n"5""\n6\n', 6),
        (b'a,b\n1,"2\n3" ,"\n4\n', 3),
        (b'a,"b\n1,2\n', 1),
        (b'a,b\n1,"', 2),
    ],
)
def test_a_quote_that_nothing_closes_is_refused_with_its_line(in_blocks, written, data, line):
    with pytest.raises(
        InputError, match=rf"sales.csv: a quote that opens on line {line} is never closed"
    ):
        count(written(data))


def test_a_nul_byte_is_refused_with_its_line(in_blocks, written):
    with pytest.raises(InputError, match=r"sales\.csv: line 4 holds a NUL byte"):
        count(written(b'a,b\n"1\n2",3\n4,\0\n'))


@pytest.mark.parametrize(
    "record", [b"x" * (9 << 20), b'"' + b"x\n" * (9 << 19) + b'"'], ids=["one line", "in quotes"]
)
def test_a_record_of_more_than_8_mb_is_refused_with_its_line(written, record):
    with pytest.raises(InputError, match="row that begins on line 3 is longer than 8 MB"):
        count(written(b"a,b\n1,2\n3," + record + b"\n5,6\n"))


def test_records_in_which_quotes_open_again_within_a_field_are_numbered(in_blocks, written):
    path = written(b'"a" "b",c\n1,"2" "3"\n"4""5",6\n" ","a,"" ""b"\n"7"  "8", "9"\n"5" ,6\n')
    found = [
        block.number + index
        for block in data_blocks(path, path.name, ",")
        for index in block.reopened(",")
    ]
    assert found == [1, 4]


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


def test_a_block_is_cut_between_records(written):
    block, *_ = data_blocks(written(b'a,b\n\n"1\n2",3\n\n4,5\n6,7\n'), "sales.csv", ",")
    parts = [block.part(index, index + 1) for index in range(3)]
    assert [part.text.strip() for part in parts] == [b'"1\n2",3', b"4,5", b"6,7"]
    assert [place for part in parts for place in part.located([0])] == [*block.located(range(3))]


def test_gzip_members_one_behind_the_other_are_one_file(tmp_path):
    path = tmp_path / "sales.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,") + gzip.compress(b"2\n3,4\n"))
    assert [record.raw for record in all_records(path)] == ["1,2", "3,4"]


def test_rows_are_counted_off_without_the_rejected_records(written):
    ordinals = [*read_ordinals([0, 1, 2], [1, 3])]
    assert ordinals == [0, 2, 4]
    source = CsvFile(written(b""), "sales.csv", ",", ("a", "b"), ())
    parts = [Part(source, 1, 2), Part(source, 3, 3)]
    assert [number for _, number in located(parts, ordinals)] == [1, 3, 5]


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


GOOD = '1,2,3\n"a","b\nb",c\n'


def seen_by_both(path: Path) -> tuple[list[tuple], list[Located], list[Located]]:
    """DuckDB's rows, where we find them, and the records that it rejects; the counts agree."""
    source = CsvFile(path, path.name, ",", ("a", "b", "c"), ())
    parts = [*source.parts()]
    with duckdb.connect() as con:
        rows, rejected = read_batch(
            con, parts, path.with_name("rows"), lambda sql: con.execute(sql).fetchall()
        )
    assert len(rows) + len(rejected) == count(path)
    ordinals = read_ordinals(range(len(rows)), [*rejected])
    accepted = at(path, [number for _, number in located(parts, ordinals)])
    return rows, accepted, at(path, [number for _, number in located(parts, rejected)])


@pytest.mark.parametrize(
    ("name", "bom", "line_end"),
    [("sales.csv", b"", "\n"), ("sales.csv.gz", BOM, "\r\n")],
    ids=["LF", "gzip-BOM-CRLF"],
)
@pytest.mark.parametrize(
    ("damaged", "rejected"),
    [
        (GOOD, []),
        ("\n\n4,5\n\n\n4,5,6,7,8\n\n", ["4,5,6,7,8"]),
        ('5" pipe,2,3\n1, "x\ny" ,3\n', []),
        ('1,"x"y,"z\nz"\n', ['1,"x"y,"z\nz"']),
        ('1,"x"y"z\nz\n', ['1,"x"y"z']),
        ('"x"y,2,3\n"x"y,2,3\n', ['"x"y,2,3', '"x"y,2,3']),
        ('1,"x" "y",3\n', []),
    ],
)
def test_duckdb_sees_the_same_records(written, name, bom, line_end, damaged, rejected):
    text = f"a,b,c\n{GOOD}{damaged}{GOOD}".replace("\n", line_end)
    rows, accepted, refused = seen_by_both(written(bom + text.encode(), name))
    assert [record.raw for record in refused] == [raw.replace("\n", line_end) for raw in rejected]
    for row, record in zip(rows, accepted, strict=True):
        assert letters(record.raw) == letters("".join(value or "" for value in row[:3]))


def letters(text: str) -> str:
    return "".join(character for character in text if character not in '", ')


@pytest.mark.parametrize("text", [b"x" * (1 << 20), b"x\n" * (1 << 19)], ids=["one line", "in quotes"])
def test_what_never_ends_takes_little_memory(tmp_path, text):
    path = tmp_path / "long.csv"
    with path.open("wb") as file:
        file.write(b'a,b\n1,"' if b"\n" in text else b"a,b\n1,")
        for _ in range(300):
            file.write(text)
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
