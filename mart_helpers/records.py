"""Recognises a CSV file and splits it into records, without DuckDB's reader: their numbers are compared.

Without quotes, each line that is not blank is a record; with quotes, the csv module finds the end of a
record. Values are not parsed. A file is read from start to end in blocks of whole records, so memory
use does not grow with the file.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from math import inf
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mart_helpers.errors import InputError
from mart_helpers.texts import one_line

_BOM = b"\xef\xbb\xbf"

_BLOCK_BYTES = 1 << 18  # fits in a processor's cache

_LONGEST_BYTES = 8 << 20

_LONGEST_RAW = 10_000  # characters

_LONGEST_READ = 2 << 20  # in bytes, by DuckDB

NOT_UTF8 = "the row is not UTF-8 text (Windows-1252? Save the file as UTF-8)"

OUTSIDE_QUOTES = "text stands outside the quotes of its field"

STRAY_CR = "the row contains a CR outside quotes: remove it, or quote its field"


_HEAD_BYTES = 1 << 20

#: How files of other formats begin, with our advice. Those that begin with letters differ from a header
#: by a byte that text cannot have. NULs reveal UTF-16 and UTF-32 without a mark, as in RFC 4627.
_KINDS = (
    (
        "UTF-32 text",
        rb"\xff\xfe\0\0|\0\0\xfe\xff|[\t\n\r -~]\0\0\0|\0\0\0[\t\n\r -~]",
        "Save it as UTF-8",
    ),
    (
        "UTF-16 text",
        rb"\xff\xfe|\xfe\xff|([\t\n\r -~]\0){2}|(\0[\t\n\r -~]){2}",
        "Save it as UTF-8",
    ),
    ("a zip archive or an Excel workbook", rb"PK\x03\x04", "Unpack it; a workbook is named .xlsx"),
    ("an old Excel workbook", rb"\xd0\xcf\x11\xe0", "Save it as .xlsx"),
    ("a tar archive", rb".{257}ustar[\0 ]", "Unpack it"),
    (
        "a file packed with gzip, bzip2, xz or Zstandard",
        rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd",
        "Unpack it, or pack it once, with gzip",
    ),
    ("a SQLite database", rb"SQLite format 3\0", "Name it .sqlite"),
    ("JSON", rb"(\xef\xbb\xbf)?\s*[{\[]", "Name it .json, or .ndjson"),
    ("a DuckDB database", rb".{8}DUCK.{2}\0\0", "Save its rows as CSV or Parquet"),
    ("a Parquet file", rb"PAR1[\0-\x1f]", "Name it .parquet, without gzip around it"),
    (
        "HTML or XML, often an error page in place of the extract",
        rb"(\xef\xbb\xbf)?\s*<",
        "Fetch the extract again, as CSV",
    ),
    ("a PDF document or a picture", rb"%PDF|\x89PNG|\xff\xd8\xff", "Make an extract as CSV"),
    ("a Git LFS pointer", rb"version https://git-lfs", "Run git lfs pull to get the file"),
)

#: Encodings with one byte per character, by their names in Python and iconv.
_EIGHT_BIT = {"cp1252": "WINDOWS-1252", "mac_roman": "MACINTOSH", "cp850": "CP850"}

_AROUND_BYTES, _LONGEST_LINE = 30, 8 << 20

_END = ["."]  # appended after the last line of a block for the csv module


class Located(NamedTuple):
    """A record: its `number` among the data records, the physical `line` it starts on, its text.

    Both count from 1. `raw` has no line end, is cut to 10,000 characters, and shows invalid UTF-8 bytes
    as `\\xff`.
    """

    number: int
    line: int
    raw: str


class Block(NamedTuple):
    """Consecutive whole records, as the file has them; blank lines may be among them.

    `number` is the number of the first of its `count` records; the header has 0. `spans` are the lines
    of each record, counted from 0, end excluded; None if each line is a record. `places` is the place of
    each record in the original file, if that is not a CSV file and was only converted to one.
    """

    text: bytes
    line: int
    number: int
    count: int
    spans: list[tuple[int, int]] | None
    places: Sequence[int] | None = None

    def lines(self) -> Sequence[int]:
        """The physical line on which each record starts."""
        if self.places:
            return self.places
        if self.spans is None:
            return range(self.line, self.line + self.count)
        return [self.line + first for first, _ in self.spans]

    def located(self, indexes: Sequence[int]) -> Iterator[Located]:
        """The records with these indexes."""
        lines = self.lines()
        for index, raw in zip(indexes, self.raws(indexes), strict=True):
            yield Located(self.number + index, lines[index], _shown(raw))

    def raws(self, indexes: Iterable[int]) -> Iterator[bytes]:
        """The records with these indexes, unchanged but without their line ends."""
        lines = [*io.BytesIO(self.text)]
        for index in indexes:
            first, behind = (index, index + 1) if self.spans is None else self.spans[index]
            yield b"".join(lines[first:behind]).removesuffix(b"\n").removesuffix(b"\r")

    def without_header(self) -> "Block":
        """The block without its first record."""
        behind = 1 if self.spans is None else self.spans[0][1]
        text = self.text[sum(map(len, islice(io.BytesIO(self.text), behind))) :]
        spans = self.spans and [(first - behind, last - behind) for first, last in self.spans[1:]]
        return Block(text, self.line + behind, self.number + 1, self.count - 1, spans)

    @property
    def is_plain(self) -> bool:
        """Whether each line is a record, even for a reader that treats a CR as a line end."""
        return self.spans is None and not self._has_stray_cr

    @property
    def is_odd(self) -> bool:
        """Whether DuckDB might silently read these records differently.

        It treats a CR as a line end and a line of blanks as a record, and it loads `"S5" "x"` as `S5 x`.
        """
        has_blanks = self.spans is not None and re.search(rb"(\A|\n)[ \t]", self.text)
        return bool(has_blanks) or self._has_stray_cr or bool(re.search(rb'" +"', self.text))

    @property
    def _has_stray_cr(self) -> bool:
        return b"\r" in self.text and self.text.count(b"\r") != self.text.count(b"\r\n")

    def mended(self, delimiter: str, fields: int) -> Iterator[tuple[bytes, str]]:
        """The records with line ends, without surplus fields, and why a record cannot be read, if so."""
        mark = delimiter.encode()
        # like DuckDB, allow at most one blank before an opening quote
        field = rb'(?: ?"(?:[^"]|"")*+" *+(?=%s|\Z)|(?! ?")[^%s\r\n]*)' % (2 * (re.escape(mark),))
        few, all_of_them = (
            re.compile(rb"%s(?:%s%s){%s}+" % (field, re.escape(mark), field, times))
            for times in (b"0,%d" % fields, b"%d" % fields)
        )
        for raw in self.raws(range(self.count)):
            end, reason = len(raw), _too_odd(raw)
            if not reason and (b'"' in raw or b"\r" in raw or raw.count(mark) > fields):
                end = found.end() if (found := few.match(raw)) else 0
                if end < len(raw) and not all_of_them.match(raw):
                    reason = STRAY_CR if raw[end : end + 1] == b"\r" else OUTSIDE_QUOTES
            yield raw[:end] + b"\n", reason


def _too_odd(raw: bytes) -> str:
    """Why a record cannot be read, regardless of its fields; empty if it can."""
    if len(raw) > _LONGEST_READ:
        return "the row is longer than 2 MB"
    try:
        raw.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    return "" if raw else STRAY_CR


def read_head(path: Path, name: str) -> str:
    """The first megabyte of a CSV file, plain or gzipped, as text; its header is valid UTF-8.

    Raises InputError for an empty file, another format or another encoding, saying which.
    """
    is_named_gzip = path.suffix == ".gz"
    with opened(path, name) as stream:
        with path.open("rb") as file:
            packed = file.read(_HEAD_BYTES)
        if packed and packed.startswith(b"\x1f\x8b") != is_named_gzip:
            if is_named_gzip:
                _refuse_other_kinds(name, packed)
            found, ending = ("no gzip", ".csv") if is_named_gzip else ("gzip", ".csv.gz")
            raise InputError(f"{name}: holds {found} bytes. If that is right, name it {ending}.")
        head = stream.read(_HEAD_BYTES)
    _refuse_other_kinds(name, head, around="gzip around " if is_named_gzip else "")
    header_end = head.find(b"\n", len(head) - len(head.lstrip()))
    _refuse_other_encodings(path, name, head if header_end < 0 else head[:header_end])
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise InputError(f"{name} is empty. It needs a header row and rows below it.")
    if "\r" in text.lstrip("\r\n").partition("\n")[0].rstrip("\r"):
        raise InputError(
            f"{name}: its lines end with CR alone, or its header contains a CR. Convert its line ends "
            "to LF, for example with mac2unix."
        )
    return text


def _refuse_other_kinds(name: str, head: bytes, around: str = "") -> None:
    for kind, beginning, way_out in _KINDS:
        if re.match(beginning, head, re.DOTALL):
            raise InputError(f"{name}: is {around}{kind}. {way_out}.")


def _refuse_other_encodings(path: Path, name: str, header: bytes) -> None:
    if b"\0" in header:
        raise InputError(
            f"{name}: its header holds NUL bytes: it is UTF-16, or not text. Save it as CSV (UTF-8)."
        )
    try:
        header.decode()
    except UnicodeDecodeError as error:
        refuse_eight_bit(path, name)
        raise InputError(
            f"{name}: its header is damaged: the byte {error.object[error.start]:#04x} is not UTF-8, "
            "but other text in the file is. Correct the header, or make a new extract."
        ) from error


def refuse_eight_bit(path: Path, name: str) -> None:
    """Refuse a CSV file that has text beyond ASCII, none of it in UTF-8.

    Such a whole file is in another encoding; if some of its text is UTF-8, single bytes are damaged.
    Raises InputError with the first such line, and how it reads in other encodings.
    """
    first = None
    with opened(path, name) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), b""), 1):
            if not line.decode(errors="ignore").isascii():
                return
            if not first and not line.isascii():
                at = re.search(rb"[\x80-\xff]", line).start()
                first = number, line[max(at - _AROUND_BYTES, 0) : at + _AROUND_BYTES].strip()
    if first:
        texts = ", ".join(
            f'"{one_line(first[1].decode(codec, errors="replace"))}" in {iconv}'
            for codec, iconv in _EIGHT_BIT.items()
        )
        raise InputError(
            f"{name}: is not UTF-8 but an 8-bit encoding, first seen on line {first[0]}: "
            f"{texts}. Save it as UTF-8, for example with iconv -f WINDOWS-1252 -t UTF-8, or from "
            "another of these encodings if that one reads right."
        )


def data_blocks(path: Path, name: str, delimiter: str) -> Iterator[Block]:
    """The records below the header of the CSV file at `path`, plain or gzipped; messages call it `name`.

    Raises InputError with the line for a quote that is never closed, a NUL byte or a record of more than
    8 MB; also for a file that cannot be read or a damaged gzip stream.
    """
    with opened(path, name) as stream:
        for block in _blocks(stream, name, delimiter):
            below = block if block.number or not block.count else block.without_header()
            if below.count:
                yield below


def records_at(blocks: Iterable[Block], name: str, numbers: Iterable[int]) -> Iterator[Located]:
    """The records of a file's blocks with these ascending `numbers`.

    Raises InputError if the file has no such record, because it has changed since.
    """
    wanted = iter(numbers)
    number = next(wanted, inf)
    for block in blocks:
        indexes = []
        while number < block.number + block.count:
            indexes.append(number - block.number)
            number = next(wanted, inf)
        if indexes:
            yield from block.located(indexes)
        if number == inf:
            return
    if number != inf:
        raise InputError(f"{name}: changed while it was read. Run the build again.")


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file; a gzip file ends with `.gz`.

    Raises InputError if it cannot be read, or its gzip stream is damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{name}: the gzip file is damaged ({error}). Copy it again.") from error
    except PermissionError as error:
        raise InputError(f"{name}: you may not read it. Give yourself permission to read it.") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}). Make a new extract.") from error


def _shown(raw: bytes) -> str:
    # UTF-8 has at most four bytes per character; one more character shows that the text is cut
    text = raw[: 4 * (_LONGEST_RAW + 1)].decode("utf-8", errors="backslashreplace")
    return text if len(text) <= _LONGEST_RAW else text[: _LONGEST_RAW - 1] + "…"


def _blocks(stream: BinaryIO, name: str, delimiter: str) -> Iterator[Block]:
    rest = stream.read(len(_BOM))
    line, number, data, text = 1, 0, rest, b""
    if rest == _BOM:
        rest = b""
    while data:
        # a record longer than its block is scanned again, so read more each time
        data = stream.read(min(max(_BLOCK_BYTES, len(rest)), _LONGEST_BYTES // 8))
        # a last line without a line end gets that of the previous line
        end = b"\r\n" if text.endswith(b"\r\n") and not rest.endswith(b"\r") else b"\n"
        whole, newline, tail = data.rpartition(b"\n") if data else (b"", end, b"")
        text = b"".join([rest, whole, newline])
        if (nul := text.find(0)) >= 0:
            raise InputError(
                f"{name}: line {line + text[:nul].count(10)} has a NUL byte, so it is not text. "
                "The file is damaged or UTF-16. Make a new extract as UTF-8."
            )
        spans, open_line = _records(text, delimiter) if newline else (None, 0)
        lines = text.count(b"\n")
        if open_line is None:
            count = lines if spans is None else len(spans)
            yield Block(text, line, number, count, spans)
            rest, line, number = tail, line + lines, number + count
        elif not data:
            raise InputError(
                f"{name}: a quote that opens on line {line + open_line} is never closed, so the rest of "
                "the file cannot be split into rows. Close it, or make a new extract."
            )
        elif len(rest := text + tail) > _LONGEST_BYTES:
            spans, _ = _records(rest + b"\n", delimiter)
            begin = line + (spans[-1][0] if spans else lines)
            raise InputError(
                f"{name}: the row that begins on line {begin} is longer than 8 MB: a quote in it is "
                "never closed, or its line ends are damaged. Correct that, or make a new extract."
            )


def _records(text: bytes, delimiter: str) -> tuple[list[tuple[int, int]] | None, int | None]:
    """The `spans` of a block, and the line on which a quote stays open, if one does."""
    with_quotes = [*_lines_with_quotes(text)]
    spans, open_lines = _read(with_quotes, delimiter)
    reaches_on = len(spans) < len(with_quotes) or open_lines  # a quote spans several lines
    may_have_blanks = _may_have_blanks(text)
    if not (reaches_on or may_have_blanks):
        return None, None
    lines = text.replace(b"\r\n", b"\n").split(b"\n")[:-1]
    if reaches_on:
        spans, open_lines = _read(lines, delimiter)
    else:
        spans = [(n, n + 1) for n, line in enumerate(lines) if line]
    if may_have_blanks:
        blanks = b" \t\r".replace(delimiter.encode(), b"")
        spans = [each for each in spans if b"".join(lines[slice(*each)]).strip(blanks)]
    return spans, len(lines) - open_lines if open_lines else None


def _lines_with_quotes(text: bytes) -> Iterator[bytes]:
    at = text.find(b'"')
    while at >= 0:
        end = text.find(b"\n", at)
        yield text[text.rfind(b"\n", 0, at) + 1 : end]
        at = text.find(b'"', end)


def _may_have_blanks(text: bytes) -> bool:
    """Whether there may be blank lines or lines of blanks, which are not records."""
    return text[:1] in (b" ", b"\t", b"\n", b"\r") or bool(re.search(rb"\n[ \t\r\n]", text))


def _read(lines: list[bytes], delimiter: str) -> tuple[list[tuple[int, int]], int]:
    """The spans of records that the csv module reads, and how many lines a last open quote spans."""
    csv.field_size_limit(4 * _LONGEST_BYTES)
    texts = (line.decode("latin-1").replace("\r", " ") + "\n" for line in lines)
    reader = csv.reader(chain(texts, _END), delimiter=delimiter, skipinitialspace=True)
    spans, first, row = [], 0, []
    for row in reader:
        if row:
            spans.append((first, reader.line_num))
        first = reader.line_num
    return (spans[:-1], 0) if row == _END else (spans, row[-1].count("\n"))
