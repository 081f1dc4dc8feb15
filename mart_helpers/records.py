"""The records of a CSV file, counted and found again without DuckDB's reader: a second witness.

Where no quote stands, each line that is not blank is a record; elsewhere the csv module says where a
record ends. No value is parsed. A file is read from start to end in blocks of whole records, so memory
does not grow with it. Offsets are in the decompressed stream.
"""

import csv
import gzip
import hashlib
import io
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate, chain
from math import inf
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mart_helpers.errors import InputError

_BOM = b"\xef\xbb\xbf"

_BLOCK_BYTES = 1 << 18  # which a processor keeps near it

_LONGEST_BYTES = 8 << 20

_LONGEST_RAW = 10_000  # characters

_END = ["."]  # the csv module reads it behind the last line of a block


class FileCount(NamedTuple):
    """What a file holds: the size and hash of it on disk, and its data records.

    `reopened` are the numbers, from 1, of records in which a quoted field closes and, behind blanks,
    opens again: DuckDB loads `"S5" "x"` as `S5 x`.
    """

    bytes: int
    sha256: str
    records: int
    reopened: tuple[int, ...] = ()


class Located(NamedTuple):
    """A record: its `number` among the data records, the physical `line` it starts on, its text.

    Both count from 1. `raw` is without the line end, cut to 10,000 characters, and shows bytes that are
    no UTF-8 as `\\xff`. `offset` is the first one by which it was found.
    """

    number: int
    line: int
    raw: str
    offset: int | None = None


def count_records(path: Path, name: str, delimiter: str) -> FileCount:
    """What the CSV file at `path`, plain or gzipped, holds; messages call it `name`.

    Raises InputError, with the line, for a quote that nothing closes, a NUL byte and a record of more
    than 8 MB; also for a file that cannot be read, or a damaged gzip stream.
    """
    reopened: list[int] = []
    records = 1
    with opened(path, name) as (stream, disk):
        for block in _blocks(stream, name, delimiter):
            reopened += _reopened(block, delimiter)
            records = block.number + block.count
    return FileCount(disk.bytes, disk.sha256.hexdigest(), max(records - 1, 0), tuple(reopened))


def records_at(
    path: Path, name: str, delimiter: str, *, numbers: Iterable[int] = (), offsets: Iterable[int] = ()
) -> Iterator[Located]:
    """The records with these `numbers` or at these `offsets`, both ascending; each once, in file order.

    Any byte of a record finds it, so do its line end and the blank lines before it. Raises InputError
    if the file has no such record: then it changed meanwhile.
    """
    wanted, places = _Ascending(numbers), _Ascending(offsets)
    with opened(path, name) as (stream, _):
        for block in _blocks(stream, name, delimiter):
            behind = block.number + block.count
            if wanted.next >= behind and places.next >= block.offset + len(block.text):
                continue
            found: dict[int, int | None] = {
                number - block.number: None for number in wanted.below(behind)
            }
            ends = block.record_ends()
            for offset in places.below(ends[-1] if ends else 0):
                found.setdefault(bisect_right(ends, offset), offset)
            yield from block.located(found)
    if (wanted.next, places.next) != (inf, inf):
        raise InputError(f"{name}: changed while it was read. Run the build again.")


def first_records(path: Path, name: str, delimiter: str) -> bytes:
    """The header and the first data records as they stand in the file, about a quarter of a megabyte."""
    with opened(path, name) as (stream, _):
        return next(_blocks(stream, name, delimiter)).text


@contextmanager
def opened(path: Path, name: str) -> Iterator[tuple[BinaryIO, "_Disk"]]:
    """The decompressed bytes of a file, and the file on disk below them; a gzip file ends with `.gz`.

    Raises InputError if it cannot be read, or its gzip stream is damaged.
    """
    try:
        with path.open("rb") as file:
            disk = _Disk(file)
            yield (gzip.GzipFile(fileobj=disk) if path.suffix == ".gz" else disk), disk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{name}: the gzip file is damaged ({error}). Copy it again.") from error
    except PermissionError as error:
        raise InputError(f"{name}: may not be read. Give yourself the right to read it.") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}). Make a new extract.") from error


class _Disk:
    """A file on disk; counts and hashes the bytes on their way to whoever reads them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self.sha256 = file, 0, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.bytes += len(data)
        self.sha256.update(data)
        return data


class _Ascending:
    """Ascending numbers, taken from the front; `next` is infinite when all are taken."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = iter(numbers)
        self.next = next(self._numbers, inf)

    def below(self, limit: int) -> Iterator[int]:
        while self.next < limit:
            yield self.next
            self.next = next(self._numbers, inf)


class _Block(NamedTuple):
    """Whole records as they stand in the file."""

    text: bytes
    offset: int
    line: int
    number: int  # of the first record; the header has 0
    count: int
    spans: list[tuple[int, int]] | None  # lines of the records, from 0; None where each line is one

    def record_ends(self) -> list[int]:
        ends = list(accumulate(map(len, io.BytesIO(self.text)), initial=self.offset))
        return ends[1:] if self.spans is None else [ends[behind] for _, behind in self.spans]

    def located(self, found: dict[int, int | None]) -> Iterator[Located]:
        lines = list(io.BytesIO(self.text))
        for index, offset in sorted(found.items()):
            first, behind = (index, index + 1) if self.spans is None else self.spans[index]
            raw = b"".join(lines[first:behind]).removesuffix(b"\n").removesuffix(b"\r")
            yield Located(self.number + index, self.line + first, _shown(raw), offset)


def _shown(raw: bytes) -> str:
    # UTF-8 has at most four bytes a character; one character more shows that the text is cut
    text = raw[: 4 * (_LONGEST_RAW + 1)].decode("utf-8", errors="backslashreplace")
    return text if len(text) <= _LONGEST_RAW else text[: _LONGEST_RAW - 1] + "…"


def _blocks(stream: BinaryIO, name: str, delimiter: str) -> Iterator[_Block]:
    rest = stream.read(len(_BOM))
    offset, line, number, data = 0, 1, 0, rest
    if rest == _BOM:
        rest, offset = b"", len(_BOM)
    while data:
        # what goes on behind its block is looked at again, so each time more is read
        data = stream.read(min(max(_BLOCK_BYTES, len(rest)), _LONGEST_BYTES // 8))
        # DuckDB reads a last line as if it had an end, and may point at that
        end = b"\n" if rest.endswith(b"\r") else b"\r\n"
        whole, newline, tail = data.rpartition(b"\n") if data else (b"", end, b"")
        text = b"".join([rest, whole, newline])
        if (nul := text.find(0)) >= 0:
            raise _nul(name, line + text.count(b"\n", 0, nul))
        spans, open_line = _records(text, delimiter) if newline else (None, 0)
        lines = text.count(b"\n")
        if open_line is None:
            block = _Block(text, offset, line, number, lines if spans is None else len(spans), spans)
            yield block
            rest, offset, line, number = tail, offset + len(text), line + lines, number + block.count
        elif not data:
            raise _open_quote(name, line + open_line)
        elif len(rest := text + tail) > _LONGEST_BYTES:
            spans, _ = _records(rest + b"\n", delimiter)
            raise _long(name, line + (spans[-1][0] if spans else lines))


def _records(text: bytes, delimiter: str) -> tuple[list[tuple[int, int]] | None, int | None]:
    """The `spans` of a block, and the line on which a quote stays open, if one does."""
    if b'"' not in text:
        plain = text.replace(b"\r\n", b"\n") if b"\r" in text else text
        if not plain.startswith(b"\n") and plain.rfind(b"\n\n") < 0:  # quicker than `in`
            return None, None
        return [(n, n + 1) for n, line in enumerate(plain.split(b"\n")) if line], None
    csv.field_size_limit(4 * _LONGEST_BYTES)
    lines = io.StringIO(text.decode("latin-1").replace("\r\n", "\n").replace("\r", " "))
    reader = csv.reader(chain(lines, _END), delimiter=delimiter, skipinitialspace=True)
    spans, first, row = [], 0, []
    for row in reader:
        if row:
            spans.append((first, reader.line_num))
        first = reader.line_num
    if row == _END:
        return spans[:-1], None
    return spans, text.count(b"\n") - row[-1].count("\n")


def _reopened(block: _Block, delimiter: str) -> list[int]:
    if block.spans is None or not re.search(rb'" +"', block.text):
        return []
    mark = re.escape(delimiter)
    field = re.compile(rf'(?: ?"(?:[^"]|"")*+"( +")?)?+[^{mark}]*{mark}?')
    return [
        record.number
        for record in block.located(dict.fromkeys(range(block.count)))
        if record.number and any(match[1] for match in field.finditer(record.raw))
    ]


def _open_quote(name: str, line: int) -> InputError:
    return InputError(
        f"{name}: a quote that opens on line {line} is never closed, so the rest of the file cannot be "
        "told apart. Close it, or make a new extract."
    )


def _nul(name: str, line: int) -> InputError:
    return InputError(
        f"{name}: line {line} holds a NUL byte, which no text has. The file is damaged, or UTF-16: "
        "make a new extract, as UTF-8."
    )


def _long(name: str, line: int) -> InputError:
    return InputError(
        f"{name}: the row that begins on line {line} is longer than 8 MB: a quote in it is never "
        "closed, or its line ends are damaged. Mend that, or make a new extract."
    )
