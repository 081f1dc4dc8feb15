"""The records of a CSV file, told apart without DuckDB's reader: a second witness.

Where no quote stands, each line that is not blank is a record; elsewhere the csv module says where a
record ends. No value is parsed. A file is read from start to end in blocks of whole records, so memory
does not grow with it.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from math import inf
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mart_helpers.errors import InputError

_BOM = b"\xef\xbb\xbf"

_BLOCK_BYTES = 1 << 18  # which a processor keeps near it

_LONGEST_BYTES = 8 << 20

_LONGEST_RAW = 10_000  # characters

_LONGEST_READ = 2 << 20  # by DuckDB

NOT_UTF8 = "the row is not UTF-8 text (Windows-1252? Save the file as UTF-8)"

OUTSIDE_QUOTES = "text stands outside the quotes of its field"

STRAY_CR = "a CR stands within the row, outside quotes: remove it, or quote its field"


_END = ["."]  # the csv module reads it behind the last line of a block


class Located(NamedTuple):
    """A record: its `number` among the data records, the physical `line` it starts on, its text.

    Both count from 1. `raw` is without the line end, cut to 10,000 characters, and shows bytes that are
    no UTF-8 as `\\xff`.
    """

    number: int
    line: int
    raw: str


class Block(NamedTuple):
    """Whole records next to each other, as they stand in the file; blank lines may be among them.

    `number` is that of the first of its `count` records; the header has 0. `spans` are the lines of
    the records, from 0 and up to the one behind; None where each line is a record. `places` is where
    each record stands in a file that is no CSV, and was only written as such.
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
        """The records with these indexes as they stand in the file, without their line ends."""
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
        """Whether each line is a record, also for those who take a CR for the end of a line."""
        return self.spans is None and not self._has_stray_cr

    @property
    def is_odd(self) -> bool:
        """Whether DuckDB may read something else here, and say nothing of it.

        It takes a CR for the end of a line and blanks on a line for a record, and it loads `"S5" "x"` as
        `S5 x`.
        """
        has_blanks = self.spans is not None and re.search(rb"(\A|\n)[ \t]", self.text)
        return bool(has_blanks) or self._has_stray_cr or bool(re.search(rb'" +"', self.text))

    @property
    def _has_stray_cr(self) -> bool:
        return b"\r" in self.text and self.text.count(b"\r") != self.text.count(b"\r\n")

    def mended(self, delimiter: str, fields: int, unread: Callable[[str], bytes]) -> Iterator[bytes]:
        """The records, each with a line end; of fields too many only the first.

        In place of one that cannot be read stands what `unread` makes of the reason.
        """
        mark = delimiter.encode()
        # a quote opens behind one blank at most, as DuckDB has it
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
            yield unread(reason) if reason else raw[:end] + b"\n"


def _too_odd(raw: bytes) -> str:
    """Why a record cannot be read whatever its fields are; nothing if it can."""
    if len(raw) > _LONGEST_READ:
        return "the row is longer than 2 MB"
    try:
        raw.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    return "" if raw else STRAY_CR


def data_blocks(path: Path, name: str, delimiter: str) -> Iterator[Block]:
    """What stands below the header of the CSV file at `path`, plain or gzipped; messages call it `name`.

    Raises InputError, with the line, for a quote that nothing closes, a NUL byte and a record of more
    than 8 MB; also for a file that cannot be read, or a damaged gzip stream.
    """
    with opened(path, name) as stream:
        for block in _blocks(stream, name, delimiter):
            below = block if block.number or not block.count else block.without_header()
            if below.count:
                yield below


def records_at(blocks: Iterable[Block], name: str, numbers: Iterable[int]) -> Iterator[Located]:
    """The records of a file's blocks with these ascending `numbers`.

    Raises InputError if the file has no such record: then it changed meanwhile.
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
        raise InputError(f"{name}: may not be read. Give yourself the right to read it.") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}). Make a new extract.") from error


def _shown(raw: bytes) -> str:
    # UTF-8 has at most four bytes a character; one character more shows that the text is cut
    text = raw[: 4 * (_LONGEST_RAW + 1)].decode("utf-8", errors="backslashreplace")
    return text if len(text) <= _LONGEST_RAW else text[: _LONGEST_RAW - 1] + "…"


def _blocks(stream: BinaryIO, name: str, delimiter: str) -> Iterator[Block]:
    rest = stream.read(len(_BOM))
    line, number, data, text = 1, 0, rest, b""
    if rest == _BOM:
        rest = b""
    while data:
        # what goes on behind its block is looked at again, so each time more is read
        data = stream.read(min(max(_BLOCK_BYTES, len(rest)), _LONGEST_BYTES // 8))
        # a last line without an end gets that of the line before
        end = b"\r\n" if text.endswith(b"\r\n") and not rest.endswith(b"\r") else b"\n"
        whole, newline, tail = data.rpartition(b"\n") if data else (b"", end, b"")
        text = b"".join([rest, whole, newline])
        if (nul := text.find(0)) >= 0:
            raise InputError(
                f"{name}: line {line + text[:nul].count(10)} holds a NUL byte, which no text has. "
                "The file is damaged, or UTF-16: make a new extract, as UTF-8."
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
                "the file cannot be told apart. Close it, or make a new extract."
            )
        elif len(rest := text + tail) > _LONGEST_BYTES:
            spans, _ = _records(rest + b"\n", delimiter)
            begin = line + (spans[-1][0] if spans else lines)
            raise InputError(
                f"{name}: the row that begins on line {begin} is longer than 8 MB: a quote in it is "
                "never closed, or its line ends are damaged. Mend that, or make a new extract."
            )


def _records(text: bytes, delimiter: str) -> tuple[list[tuple[int, int]] | None, int | None]:
    """The `spans` of a block, and the line on which a quote stays open, if one does."""
    with_quotes = [*_lines_with_quotes(text)]
    spans, open_lines = _read(with_quotes, delimiter)
    reaches_on = len(spans) < len(with_quotes) or open_lines  # a quote opens on one line for another
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
    """Whether there may be blank lines, or lines of blanks: those are no records."""
    return text[:1] in (b" ", b"\t", b"\n", b"\r") or bool(re.search(rb"\n[ \t\r\n]", text))


def _read(lines: list[bytes], delimiter: str) -> tuple[list[tuple[int, int]], int]:
    """The spans of records that the csv module reads, and how many lines a last open quote takes."""
    csv.field_size_limit(4 * _LONGEST_BYTES)
    texts = (line.decode("latin-1").replace("\r", " ") + "\n" for line in lines)
    reader = csv.reader(chain(texts, _END), delimiter=delimiter, skipinitialspace=True)
    spans, first, row = [], 0, []
    for row in reader:
        if row:
            spans.append((first, reader.line_num))
        first = reader.line_num
    return (spans[:-1], 0) if row == _END else (spans, row[-1].count("\n"))
