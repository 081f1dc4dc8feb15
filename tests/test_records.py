import csv
import gzip
import hashlib
import io
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mart_helpers.errors import InputError
from mart_helpers.records import REJECTED_AT, FileCount, Located, count_plain, count_records, locate

BLOCKS = (1, 2, 3, 7, 64, 1 << 20)
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def written(tmp_path):
    def write(data: bytes, name: str = "sales.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def all_records(path: Path, delimiter: bytes = b",", **options: int) -> list[Located]:
    rows = range(count_records(path, delimiter).records)
    return locate(path, delimiter, rows, [], **options)[0]


def texts(path: Path, delimiter: bytes = b",") -> list[str]:
    return [record.raw for record in all_records(path, delimiter)]


@pytest.mark.parametrize(
    ("body", "expected"),
    {
        "plain": ("1,2\n3,4\n", ["1,2", "3,4"]),
        "no newline at the end": ("1,2\n3,4", ["1,2", "3,4"]),
        "CRLF": ("1,2\r\n3,4\r\n", ["1,2", "3,4"]),
        "mixed line ends": ("1,2\r\n3,4\n5,6\r\n", ["1,2", "3,4", "5,6"]),
        "blank lines": ("\n1,2\n\n\r\n3,4\n\n\r", ["1,2", "3,4"]),
        "blanks are a record": ("1,2\n  \n", ["1,2", "  "]),
        "delimiter and newline in quotes": ('"1,\n2",3\n4,5\n', ['"1,\n2",3', "4,5"]),
        "blank line in quotes": ('"1\n\n2",3\n4,5\n', ['"1\n\n2",3', "4,5"]),
        "CRLF in quotes": ('"1\r\n2",3\r\n4,5\r\n', ['"1\r\n2",3', "4,5"]),
        "escaped quotes": ('"a""b\n""",2\n""""\n', ['"a""b\n""",2', '""""']),
        "empty quotes": ('"",2\n1,""\n', ['"",2', '1,""']),
        "quotes at the line's end": ('1,"2\n"\n3,"4"\r\n', ['1,"2\n"', '3,"4"']),
        "quote in an unquoted field": ('5" pipe,2\n3,4"\n', ['5" pipe,2', '3,4"']),
        "quote before a newline": ('1,a"b\nc",d\n', ['1,a"b', 'c",d']),
        "doubled quote in an unquoted field": ('5"",2\n3,4\n', ['5"",2', "3,4"]),
        "one blank before quotes": ('1, "2\n3"\n', ['1, "2\n3"']),
        "one blank before quotes at the start": (' "1\n2",3\n', [' "1\n2",3']),
        "two blanks before a quote": ('1,  "2\n3"\n', ['1,  "2', '3"']),
        "a tab before a quote": ('1,\t"2\n3"\n', ['1,\t"2', '3"']),
        "blanks behind quotes": ('"1"  ,"2" \n3,4\n', ['"1"  ,"2" ', "3,4"]),
        "quotes again behind blanks": ('1,"2"  "\n3"\n4,5\n', ['1,"2"  "\n3"', "4,5"]),
        "text behind quotes": ('1,"2"x\n3,4\n', ['1,"2"x', "3,4"]),
        "text behind quotes, then quotes": ('"1"x,"2\n3"\n4,5\n', ['"1"x,"2\n3"', "4,5"]),
        "text behind quotes, then a quote": ('"1"x"2\n3"\n4,5\n', ['"1"x"2', '3"', "4,5"]),
        "unclosed quote": ('1,2\n3,"4\n5,6\n', ["1,2", '3,"4\n5,6\n']),
        "hash": ("#1,2\n", ["#1,2"]),
        "lone CR": ("1,2\r3,4\n5,6\n", ["1,2\r3,4", "5,6"]),
    }.values(),
    ids=lambda value: repr(value) if isinstance(value, str) else "",
)
@pytest.mark.parametrize("bom", [b"", BOM], ids=["", "bom"])
def test_records_follow_the_grammar(written, bom, body, expected):
    path = written(bom + b"a,b\n" + body.encode())
    assert texts(path) == expected
    assert {count_records(path, block_bytes=size).records for size in BLOCKS} == {len(expected)}


@pytest.mark.parametrize("data", [b"", BOM, b"a,b", b"\r\n\na,b\r\n", BOM + b'"a","b\nc"\n'])
def test_a_file_without_data_records_counts_none(written, data):
    assert count_records(written(data)).records == 0


def test_the_header_is_the_first_record_that_is_not_blank(written):
    path = written(b'\n\r\n"a\nb",c\n1,2\n')
    assert all_records(path) == [Located(number=1, line=5, raw="1,2")]


@pytest.mark.parametrize("delimiter", [b";", b"\t", b"|"])
def test_quotes_open_behind_the_files_own_delimiter(written, delimiter):
    path = written(b'a,b\n1,"2\n3,4\n'.replace(b",", delimiter))
    assert count_records(path, delimiter).open_quote_line == 2
    assert count_records(path, b",").records == 2


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'a,b\n1,"2\n3"\n', None),
        (b'a,b\n1,"2\n3\n', 2),
        (b'a,b\n\n1,"2\n3"\n4,\n"5""\n6\n', 6),
        (b'a,b\n1,"2\n3" "\n4\n', 2),
        (b'a,b\n1,"2\n3" ,"\n4\n', 3),
        (b'a,"b\n1,2\n', 1),
        (b'a,b\n12,"3""\n4', 2),
        (b'a,b\n1,2"\n', None),
        (b'a,b\n1,"', 2),
        (b'a,b\n1,"2"x\n', None),
    ],
)
def test_a_quote_that_nothing_closes_is_named_by_its_line(written, data, line):
    path = written(data)
    assert {count_records(path, block_bytes=size).open_quote_line for size in BLOCKS} == {line}


def test_records_in_which_quotes_open_again_behind_blanks_are_numbered(written):
    path = written(b'"a" "b",c\n1,"2" "3"\n"4""5",6\n\n"7"  "8", "9"\n1,"2"  "\n3"\n4,"5" \n')
    assert {count_records(path, block_bytes=size).reopened for size in BLOCKS} == {(1, 3, 4)}


def test_lines_are_physical_lines_behind_newlines_in_quotes_and_blank_lines(written):
    body = 'a,"b\r\nb"\r\n\r\n1,"x\r\n\ny"\r\n\r\n\r\n2,z\r\n3,"u\nv"\r\n4,w'
    path = written(BOM + body.encode())
    expected = [
        Located(1, 4, '1,"x\r\n\ny"'),
        Located(2, 9, "2,z"),
        Located(3, 10, '3,"u\nv"'),
        Located(4, 12, "4,w"),
    ]
    for size in BLOCKS:
        assert all_records(path, block_bytes=size) == expected


def test_bytes_and_hash_are_those_of_the_file_on_disk(written):
    for name in ("sales.csv", "sales.csv.gz"):
        path = written(b"a,b\n1,2\n", name)
        on_disk = path.read_bytes()
        sha256 = hashlib.sha256(on_disk).hexdigest()
        assert count_records(path) == FileCount(len(on_disk), sha256, 1, None, None)


def test_gzip_is_known_by_its_bytes_and_reads_like_the_plain_file(written):
    data = BOM + b'a,b\r\n1,"x\r\ny"\r\n\r\n2\r\n3,"4'
    plain, packed = written(data), written(data, "sales.gz")
    misnamed = packed.rename(packed.with_name("packed.csv"))
    assert all_records(misnamed) == all_records(plain)
    assert locate(misnamed, b",", [0], [23]) == locate(plain, b",", [0], [23])
    assert count_records(misnamed).open_quote_line == count_records(plain).open_quote_line == 6


def test_gzip_members_one_behind_the_other_are_one_file(tmp_path):
    path = tmp_path / "sales.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,") + gzip.compress(b"2\n3,4\n"))
    assert texts(path) == ["1,2", "3,4"]
    assert count_records(path).bytes == path.stat().st_size


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[:10] + b"\xff" * 20,
        lambda data: data[:-8] + b"checksum",
        lambda data: data + b"more",
    ],
    ids=["cut off", "no deflate stream", "wrong checksum", "more behind it"],
)
def test_a_damaged_gzip_file_is_refused_by_name(written, damage):
    path = written(b"a,b\n" + b"1,2\n3,4\n" * 50, "sales.csv.gz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"sales\.csv\.gz: the gzip file is cut off or damaged"):
        count_records(path)


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file"):
        count_records(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        locate(tmp_path, b",", [], [])


def test_accepted_rows_are_numbered_without_the_rejected_ones(written):
    path = written(b"a,b\n1,1\nbad\n2,2\n\nbad\n3,3\n")
    first_bad, second_bad = 8, 17
    for size in BLOCKS:
        accepted, rejected = locate(
            path, b",", [2, 0, 2, 1], [second_bad, first_bad, second_bad], block_bytes=size
        )
        assert [record.raw for record in accepted] == ["3,3", "1,1", "3,3", "2,2"]
        assert [record.number for record in accepted] == [5, 1, 5, 3]
        assert [(record.number, record.line) for record in rejected] == [(4, 6), (2, 3), (4, 6)]


def test_every_byte_of_a_record_its_line_end_and_blank_lines_before_find_it(written):
    path = written(b'a,b\r\n\r\n"1\n2",3\r\n\n4,5')
    found = locate(path, b",", [], range(5, 22))[1]
    assert [record.number for record in found] == [1] * 11 + [2] * 6


@pytest.mark.parametrize(
    ("accepted", "rejected_at", "message"),
    [
        ([2], [], r"row 2 "),
        ([0, -1], [], r"row -1 "),
        ([1], [4], r"row 1 "),
        ([], [12], r"byte 12 "),
        ([], [4, 99], r"byte 99 "),
        ([], [3], r"byte 3 "),
        ([], [-1], r"byte -1 "),
    ],
)
def test_a_record_that_is_not_there_is_an_error(written, accepted, rejected_at, message):
    path = written(b"a,b\n1,2\n3,4\n")
    with pytest.raises(InputError, match=r"sales\.csv: no data record at " + message):
        locate(path, b",", accepted, rejected_at)


def test_raw_text_is_cut_to_whole_characters_and_says_so(written):
    path = written("a\nabcd\nabcde\näöü𝄞\näöü𝄞ß\n𝄞𝄞𝄞𝄞𝄞\n".encode())
    for size in BLOCKS:
        found = all_records(path, raw_limit=4, block_bytes=size)
        assert [record.raw for record in found] == ["abcd", "abc…", "äöü𝄞", "äöü…", "𝄞𝄞𝄞…"]


def test_bytes_that_are_no_utf8_are_shown_as_escapes(written):
    assert texts(written(b"a,b\n1,\xff\xe4\n")) == ["1,\\xff\\xe4"]


def records_by_hand(
    data: bytes, delimiter: int = b","[0]
) -> tuple[list[tuple[int, bytes]], int | None, set[int]]:
    """(offset, text) of each record, where a quote stays open, offsets of records where one opens again.

    One byte at a time.
    """
    begin = opened = 3 if data.startswith(BOM) else 0
    records, state, reopened = [], "start", set()
    for position in range(begin, len(data)):
        byte = data[position : position + 1]
        if state == "quoted":
            state = "closed" if byte == b'"' else "quoted"
        elif byte == b"\n":
            records.append((begin, data[begin:position]))
            begin, state = position + 1, "start"
        elif byte[0] == delimiter:
            state = "start"
        elif byte == b'"':
            opened = position if state in ("start", "blank") else opened
            if state == "closed" and data[position - 1 : position] == b" ":
                reopened.add(begin)
            state = "text" if state == "text" else "quoted"
        elif byte == b" ":
            state = {"start": "blank", "closed": "closed"}.get(state, "text")
        else:
            state = "text"
    records.append((begin, data[begin:]))
    filled = [(offset, text) for offset, text in records if text not in (b"", b"\r")]
    return filled, opened if state == "quoted" else None, reopened


PIECES = ['"', '""', ",", "\n", "\r\n", "\r", " ", "a", 'b"', ',"c"', "1,2\n", '"x\ny",', "é"]


@given(
    pieces=st.lists(st.sampled_from(PIECES)),
    block_bytes=st.integers(1, 20),
)
def test_any_soup_of_quotes_reads_as_it_does_byte_by_byte(tmp_path_factory, pieces, block_bytes):
    data = ("a,b\n" + "".join(pieces)).encode()
    path = tmp_path_factory.getbasetemp() / "soup.csv"
    path.write_bytes(data)
    records, opened, reopened = records_by_hand(data)
    counted = count_records(path, block_bytes=block_bytes)
    assert counted.reopened == tuple(
        n for n, (offset, _) in enumerate(records) if n and offset in reopened
    )
    assert counted.records == max(len(records) - 1, 0)
    assert counted.open_quote_line == (opened and data[:opened].count(b"\n") + 1)
    assert all_records(path, block_bytes=block_bytes) == [
        Located(number, data[:offset].count(b"\n") + 1, text.removesuffix(b"\r").decode())
        for number, (offset, text) in enumerate(records)
        if number
    ]


PLAIN = ["1,2", "é;", " ", "x" * 9, BOM.decode(), '"1,2",3', '"1\n\n2",""', '"a""b\r\n",""""']


@given(
    lines=st.lists(st.sampled_from(PLAIN), min_size=1, max_size=20),
    line_end=st.sampled_from(["\n", "\r\n"]),
    has_end=st.booleans(),
    block_bytes=st.integers(1, 99),
)
def test_a_plain_file_is_counted_alike_without_numpy(
    tmp_path_factory, lines, line_end, has_end, block_bytes
):
    path = tmp_path_factory.getbasetemp() / "plain.csv"
    path.write_bytes((line_end.join(lines) + line_end * has_end).encode())
    expected = count_records(path)
    assert count_plain(path, block_bytes=block_bytes) in (None, expected)
    if len(lines) > 1 and lines[0] != BOM.decode():
        assert count_plain(path) == expected


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=9), block_bytes=st.integers(1, 20))
def test_what_is_not_plain_is_not_counted_without_numpy(tmp_path_factory, pieces, block_bytes):
    path = tmp_path_factory.getbasetemp() / "pieces.csv"
    path.write_bytes(("a,b\n" + "".join(pieces)).encode())
    assert count_plain(path, block_bytes=block_bytes) in (None, count_records(path))


NOT_PLAIN = [
    b'a\n"1"2\n',
    b'a\n1"2"\n',
    b'"1"2\n',
    b'a\n"1""2\n',
    b'a\n1""\n',
    b'a\n"1\n',
    b"a\r1\n",
    b"a\n\n1\n",
    b"\na\n1\n",
    b"a\n1\0\n",
    b'a\n"1\0"\n',
]


@pytest.mark.parametrize("data", NOT_PLAIN)
def test_a_file_that_is_not_plain_is_known_as_such(written, data):
    for block_bytes in BLOCKS:
        assert count_plain(written(data), block_bytes=block_bytes) is None


CELL = st.text(st.sampled_from('",\n\r ab;é𝄞\u2028'), max_size=8)


@given(
    rows=st.lists(st.lists(CELL, min_size=2, max_size=4), min_size=1, max_size=8),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    block_bytes=st.integers(1, 40),
)
def test_files_of_the_csv_module_read_as_it_reads_them(
    tmp_path_factory, rows, line_end, quoting, block_bytes
):
    if quoting == csv.QUOTE_MINIMAL:  # it leaves a CR unquoted where the line end is LF
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    path = tmp_path_factory.getbasetemp() / "module.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=line_end, quoting=quoting).writerows(rows)
    assert count_records(path, block_bytes=block_bytes).records == len(rows) - 1
    found = [record.raw for record in all_records(path, block_bytes=block_bytes)]
    assert [next(csv.reader(io.StringIO(raw, newline=""))) for raw in found] == rows[1:]


def read_by_duckdb(path: Path, options: str = "") -> tuple[list[tuple[str, ...]], list[int]]:
    """Rows that DuckDB accepts from `path`, and the offsets of its errors."""
    with duckdb.connect() as con:
        rows = con.execute(
            f"""
            select a, b, c
            from read_csv(
                '{path}', columns={{a: 'varchar', b: 'varchar', c: 'varchar'}},
                auto_detect=false, header=true, delim=',', quote='"', escape='"',
                store_rejects=true, rejects_limit=0{options}
            )
            """
        ).fetchall()
        offsets = con.execute(f"select {REJECTED_AT} from reject_errors").fetchall()
    return rows, [offset for (offset,) in offsets]


GOOD = '1,2,3\n"a","b\nb",c\n'


@pytest.mark.parametrize(
    ("name", "bom", "line_end"),
    [("sales.csv", b"", "\n"), ("sales.csv", b"", "\r\n"), ("sales.csv.gz", BOM, "\r\n")],
    ids=["LF", "CRLF", "gzip-BOM-CRLF"],
)
@pytest.mark.parametrize(
    ("damaged", "rejected"),
    [
        (GOOD, []),
        ("4,5\n", ["4,5"]),
        ("4,5,6,7\n", ["4,5,6,7"]),
        ("\n\n4,5\n\n", ["4,5"]),
        ("\n\n\n4,5,6,7\n\n\n", ["4,5,6,7"]),
        ("x\n\n  \n", ["x", "  "]),
        ('""\n', ['""']),
        ('5" pipe,2,3\n', []),
        ('1, "x\ny" ,3\n', []),
        ('1,  "x\ny",3\n', ['1,  "x', 'y",3']),
        ('1,"x"y,3\n', ['1,"x"y,3']),
        ('1,"x"y,"z\nz"\n', ['1,"x"y,"z\nz"']),
        ('1,"x"y"z\nz",3\n', ['1,"x"y"z', 'z",3']),
        ('1,"x\nx"y,3\n\n', ['1,"x\nx"y,3']),
        ('1,"x"y,"z"z\n', ['1,"x"y,"z"z']),
        ('"x"y,2,3\n"x"y,2,3\n', ['"x"y,2,3', '"x"y,2,3']),
        ('1,"x" "y\ny",3\n', []),
    ],
)
def test_duckdb_sees_the_same_records(written, name, bom, line_end, damaged, rejected):
    text = f"a,b,c\n{GOOD}{damaged}{GOOD}".replace("\n", line_end)
    path = written(bom + text.encode(), name)
    rows, offsets = read_by_duckdb(path)
    accepted, refused = locate(path, b",", range(len(rows)), offsets)
    assert {record.raw for record in refused} == {raw.replace("\n", line_end) for raw in rejected}
    distinct = {record.number for record in refused}
    assert len(rows) + len(distinct) == count_records(path).records
    for row, record in zip(rows, accepted, strict=True):
        assert letters(record.raw) == letters("".join(row))


def letters(text: str) -> str:
    return "".join(character for character in text if character not in '", ')


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_the_record_of_an_unclosed_quote_is_one_refused_record(written, line_end):
    path = written(b'a,b,c\n1,2,3\n4,"5\n6,7,8\n'.replace(b"\n", line_end))
    rows, offsets = read_by_duckdb(path)
    refused = locate(path, b",", [], offsets)[1]
    assert {(record.number, record.line) for record in refused} == {(2, 3)}
    assert len(rows) == 1
    assert count_records(path).records == 2


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_errors_of_a_file_without_a_last_newline_are_found(written, line_end):
    path = written(b"a,b,c\n1,2,3\n4,5".replace(b"\n", line_end))
    rows, offsets = read_by_duckdb(path)
    assert [record.raw for record in locate(path, b",", [0], offsets)[1]] == ["4,5"]
    assert rows == [("1", "2", "3")]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_records_that_are_invalid_or_too_long_for_duckdb_are_found(written, line_end):
    data = b"a,b,c\n1,2,3\n4,\xff,6\n\n7," + b"8" * 3000 + b",9\n1,2,3\n"
    path = written(data.replace(b"\n", line_end))
    rows, offsets = read_by_duckdb(path, ", max_line_size=1000, buffer_size=10000")
    accepted, refused = locate(path, b",", [0, 1], offsets, raw_limit=6)
    assert len(rows) == 2
    assert [(record.number, record.line) for record in accepted] == [(1, 2), (4, 6)]
    assert {(record.number, record.line, record.raw) for record in refused} == {
        (2, 3, "4,\\xf…"),
        (3, 5, "7,888…"),
    }


@pytest.mark.parametrize("name", ["sales.csv", "sales.csv.gz"])
def test_duckdb_sees_the_same_records_through_many_small_buffers(written, name):
    good = '1,"x\ny",3\n10,20,30\n' * 500
    damaged = "4,5\n" + good + '1,"a"b,3\n' + good + "\n4,5,6,7\n"
    path = written(("a,b,c\n" + (good + damaged) * 20).encode(), name)
    rows, offsets = read_by_duckdb(path, ", buffer_size=20000, max_line_size=2000")
    refused = locate(path, b",", [], offsets)[1]
    assert len(rows) + len({record.number for record in refused}) == count_records(path).records
    assert {record.raw for record in refused} == {"4,5", '1,"a"b,3', "4,5,6,7"}


def test_one_long_line_takes_little_memory(tmp_path):
    path = tmp_path / "long.csv"
    with path.open("wb") as file:
        file.write(b'a,b\n1,"')
        for _ in range(200):
            file.write(b"x" * (1 << 20))
    code = f"""
import resource
from pathlib import Path
from mart_helpers.records import count_records, locate
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, path = peak(), Path({str(path)!r})
assert count_records(path).open_quote_line == 2
assert len(locate(path, b",", [0], [])[0][0].raw) == 10_000
print((peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40  # MB
