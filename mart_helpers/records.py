"""A look at a CSV file that owes nothing to DuckDB's reader: how many records, where some are.

No value is parsed. The grammar is that of `read_csv` in DuckDB 2.0 in strict mode with
`quote='"'` and `escape='"'`. A quote opens a quoted field at the start of a field, where one blank
may stand before it; elsewhere outside a quoted field it is an ordinary character. The next quote
closes the field, and one right behind that (blanks between are allowed) opens it again, which is
also how `""` comes to be an escaped quote. Other text behind a closing quote damages the record
but leaves its borders. A newline outside quoted fields ends a record; a line with nothing, or only
a CR, is no record. The first record is the header.

Files are read in blocks, gzip files are known by their first bytes. Offsets are in the
decompressed stream, and count the byte order mark where there is one.
"""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mart_helpers.errors import InputError
from mart_helpers.parameters import shown

#: SQL over `reject_errors`: the offset by which `locate` finds the record of an error.
#: `line_byte_position` may name the newline before the record, or even the record before, so it
#: serves only where DuckDB gives nothing else.
REJECTED_AT = """case error_type when 'LINE SIZE OVER MAXIMUM' then line_byte_position
    else byte_position - 1 end"""

_BLOCK_BYTES = 1 << 18  # which a processor keeps near it

_FEW_BLOCKS = 4

_BOM = b"\xef\xbb\xbf"

_QUOTE = ord('"')


class FileCount(NamedTuple):
    """What a file holds.

    `bytes` and `sha256` are of the file on disk, so of a gzip file as it is compressed. `records`
    leaves out the header. `open_quote_line` is the physical line, from 1, of a quote that nothing
    closes; its record runs to the end of the file and counts as one. `nul_line` is the first line
    with a NUL byte. `long_line` is where a record begins that is longer than 8 MB, which DuckDB
    may leave out in silence, or take forever to read; one that is longer by less than a block may
    not be seen. `reopened` are the numbers, from 1, of data records in which quotes close and, behind
    blanks, open again within a field; of such a value DuckDB drops these quotes in silence.
    """

    bytes: int
    sha256: str
    records: int
    open_quote_line: int | None
    nul_line: int | None
    long_line: int | None = None
    reopened: tuple[int, ...] = ()


class Located(NamedTuple):
    """A record: its `number` among the data records, the physical `line` it starts on, its text.

    Both count from 1. `raw` is without the line end and shows bytes that are no UTF-8 as `\\xff`;
    where it is longer than the limit it is cut and ends with an ellipsis.
    """

    number: int
    line: int
    raw: str


def count_plain(
    path: Path, delimiter: bytes = b",", *, block_bytes: int = _BLOCK_BYTES
) -> FileCount | None:
    """What the file holds, if it is written as most programs write one, and no gzip file; else None.

    A file with NUL bytes, blank lines, CR alone, quotes that do not stand around a whole field, or a
    record that is as long as a block may hold other records than it seems to. Quotes are looked at in
    files of a few blocks alone: for larger ones `records` is quicker. Raises OSError.
    """
    edges = delimiter + b"\n"
    sha256, lines = hashlib.sha256(), 0
    with path.open("rb") as file:
        few_blocks = _FEW_BLOCKS * block_bytes
        is_small = os.fstat(file.fileno()).st_size <= few_blocks
        for text in _whole_lines(file, few_blocks if is_small else block_bytes, sha256):
            counted = 0
            if is_small or b'"' not in text:
                counted = _count_lines(text if lines else text.removeprefix(_BOM), edges)
            if not counted:
                return None
            lines += counted
        return FileCount(file.tell(), sha256.hexdigest(), max(lines - 1, 0), None, None)


def _whole_lines(file: BinaryIO, block_bytes: int, sha256: "hashlib._Hash") -> Iterator[bytes]:
    """The lines of the file, each with its end, as many at a time as end in a block.

    `sha256` is fed with the file as it stands.
    """
    rest = b""
    while block := file.read(block_bytes):
        sha256.update(block)
        if len(block) < block_bytes and not block.endswith(b"\n"):
            block += b"\n"
        end = block.rfind(b"\n") + 1
        yield b"".join([rest, memoryview(block)[:end]])
        rest = block[end:]
    if rest:
        yield rest + b"\n"


def _count_lines(text: bytes, edges: bytes) -> int:
    """How many records the lines are; 0 where that is not plain to see."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    unquoted = _without_quoted(text, edges) if b'"' in text else text
    has_blank_line = unquoted.startswith(b"\n") or unquoted.rfind(b"\n\n") >= 0  # quicker than `in`
    if has_blank_line or b"\r" in unquoted or b"\0" in text:
        return 0
    return unquoted.count(b"\n")


def _without_quoted(text: bytes, edges: bytes) -> bytes:
    """The lines without their quoted fields; empty where quotes stand elsewhere than at `edges`."""
    parts = text.split(b'"')
    outside = [part for part in parts[::2] if part]  # an empty one is a doubled quote, or the start
    opens = all(part[-1] in edges for part in outside[:-1])
    closes = all(part[0] in edges for part in (outside if text[0] == _QUOTE else outside[1:]))
    return b"".join(outside) if len(parts) % 2 and opens and closes else b""


_SCANNED_BYTES = 1 << 20

_LONGEST_BYTES = 8 << 20

_MARK = b"\xef\xbb\xbf"

_GZIP_MAGIC = b"\x1f\x8b"

_DOUBLE_QUOTE, _NEWLINE, _BLANK, _RETURN = b'"\n \r'


def count_records(
    path: Path, delimiter: bytes = b",", *, block_bytes: int = _SCANNED_BYTES
) -> FileCount:
    """Size, hash and number of data records of the CSV file at `path`, in one pass.

    Memory is a few times `block_bytes`, whatever the file. Raises InputError where the file cannot
    be read or its gzip stream is broken.
    """
    with _opened(path) as (stream, disk):
        scan = _Scan(delimiter, keep=2)
        records = sum(len(part.ends) for part in scan.parts(stream, block_bytes))
    return FileCount(
        disk.bytes,
        disk.sha256.hexdigest(),
        max(records - 1, 0),
        scan.open_quote_line,
        scan.nul_line,
        scan.long_line,
        tuple(sorted(scan.reopened)),
    )


def locate(
    path: Path,
    delimiter: bytes,
    accepted: Sequence[int] | np.ndarray,
    rejected_at: Sequence[int] | np.ndarray,
    *,
    raw_limit: int = 10_000,
    block_bytes: int = _SCANNED_BYTES,
) -> tuple[list[Located], list[Located]]:
    """Records of a file that DuckDB read: a list for `accepted`, one for `rejected_at`, in order.

    `accepted` are ordinals, from 0, among the rows that DuckDB took from this file. `rejected_at`
    are offsets, from 0, of all that it refused there (see `counting.REJECTED_AT`; one record may have
    many):
    any byte of a record finds it, so does its line end, so do the blank lines before it. All have
    to be given, because a refused record has no ordinal. `raw_limit` is in characters.
    Raises InputError for an ordinal or an offset without a data record, and for an unreadable file.
    """
    ordinals, ordinal_of = np.unique(np.asarray(accepted, dtype=np.int64), return_inverse=True)
    offsets, offset_of = np.unique(np.asarray(rejected_at, dtype=np.int64), return_inverse=True)
    taken: list[Located] = []
    refused: list[Located] = []
    rows_before = 0
    with _opened(path) as (stream, _):
        # UTF-8 has at most four bytes a character; one character more shows that the text is cut.
        scan = _Scan(delimiter, keep=4 * (raw_limit + 1))
        for part in scan.parts(stream, block_bytes):
            hits = part.records_at(offsets[len(refused) :])
            rows = part.rows_without(hits)
            upto = np.searchsorted(ordinals, rows_before + len(rows))
            wanted = ordinals[len(taken) : upto] - rows_before
            _expect(path, "row", ordinals[:1], (wanted >= 0).all())
            taken += part.located(rows[wanted], raw_limit)
            refused += part.located(hits, raw_limit)
            rows_before += len(rows)
            if len(taken) == len(ordinals) and len(refused) == len(offsets):
                break
    _expect(path, "row", ordinals[len(taken) :], len(taken) == len(ordinals))
    _expect(path, "byte", offsets[len(refused) :], len(refused) == len(offsets))
    _expect(path, "byte", offsets[:1], not refused or refused[0].number > 0)
    return [taken[i] for i in ordinal_of], [refused[i] for i in offset_of]


def _expect(path: Path, what: str, asked: np.ndarray, is_there: bool) -> None:
    if not is_there:
        raise InputError(
            f"{shown(path)}: no data record at {what} {asked[0]} (counted from 0), where DuckDB "
            "saw one. If the file changed while it was read, run the build again."
        )


class _Disk:
    """A file on disk; counts and hashes the bytes on their way to whoever reads them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.bytes += len(data)
        self.sha256.update(data)
        return data


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, _Disk]]:
    """The decompressed stream of `path`, and the disk file under it."""
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            disk = _Disk(file)
            yield (gzip.GzipFile(fileobj=disk) if is_gzip else disk), disk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{shown(path)}: the gzip file is cut off or damaged ({error}). Copy it again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{shown(path)}: cannot be read ({error.strerror}). Check that it is a file, and "
            "that you may read it."
        ) from error


class _Part(NamedTuple):
    """The records that end in one block. All positions are offsets in the stream."""

    first_number: int  # 0 is the header
    starts: np.ndarray
    ends: np.ndarray  # of each record its newline
    data: bytes
    offset: int  # of `data`
    newlines: np.ndarray  # those in quoted fields too
    lines_before: int
    head: bytes  # what earlier blocks held of the first record, up to `keep` bytes
    head_line: int
    keep: int

    def records_at(self, offsets: np.ndarray) -> np.ndarray:
        """Indexes of the records at the sorted `offsets`, as far as they end in this part."""
        if not len(self.ends):
            return np.empty(0, dtype=np.int64)
        here = offsets[: np.searchsorted(offsets, self.ends[-1], side="right")]
        return np.searchsorted(self.ends, here)

    def rows_without(self, refused: np.ndarray) -> np.ndarray:
        """Indexes of the records that are neither `refused` nor the header."""
        is_row = np.ones(len(self.ends), dtype=bool)
        is_row[refused] = False
        if self.first_number == 0:
            is_row[:1] = False
        return np.flatnonzero(is_row)

    def located(self, indexes: np.ndarray, raw_limit: int) -> list[Located]:
        """The records at `indexes`."""
        starts, ends = self.starts[indexes], self.ends[indexes]
        lines = 1 + self.lines_before + np.searchsorted(self.newlines, starts)
        lines[starts < self.offset] = self.head_line
        numbers = self.first_number + indexes
        return [
            Located(number, line, _shortened(self._text(start, end), raw_limit))
            for number, line, start, end in np.stack([numbers, lines, starts, ends], 1).tolist()
        ]

    def _text(self, start: int, end: int) -> bytes:
        """A record without its line end, or at least `keep` bytes of it."""
        begin, stop = start - self.offset, min(end, start + self.keep) - self.offset
        text = self.data[max(begin, 0) : max(stop, 0)]
        return (text if begin >= 0 else self.head + text).removesuffix(b"\r")


def _shortened(text: bytes, limit: int) -> str:
    decoded = text.decode("utf-8", errors="backslashreplace")
    return decoded if len(decoded) <= limit else decoded[: limit - 1] + "…"


class _Scan:
    """One walk through a stream; between two blocks it holds the beginning of the record there."""

    def __init__(self, delimiter: bytes, keep: int) -> None:
        self.open_quote_line: int | None = None
        self.nul_line: int | None = None
        self.long_line: int | None = None
        self.reopened: set[int] = set()  # numbers of records
        self._quotes = _Quotes(delimiter)
        self._keep = keep
        self._offset = 0
        self._lines = 0
        self._number = 0
        self._start = 0
        self._head = b""
        self._head_line = 1

    def parts(self, stream: BinaryIO, block_bytes: int) -> Iterator[_Part]:
        """The parts of the stream, the last of them with the record that no newline ends."""
        first = stream.read(len(_MARK))
        if first == _MARK:
            self._offset = self._start = len(_MARK)
            first = b""
        data = first + stream.read(block_bytes)
        while data:
            yield self._next(data)
            data = stream.read(block_bytes)
        yield self._last()

    def _next(self, data: bytes) -> _Part:
        array = np.frombuffer(data, dtype=np.uint8)
        newlines = np.flatnonzero(array == _NEWLINE)
        ends = newlines[self._quotes.leave_outside(data, array, newlines)]
        starts = np.concatenate(([self._start - self._offset], ends + 1))[: len(ends)]
        is_record = self._are_records(array, starts, ends)
        part = self._part(data, newlines, starts[is_record], ends[is_record])
        self._step_behind(part, ends)
        return part

    def _last(self) -> _Part:
        if not self._quotes.inside:
            self.open_quote_line = None
        # DuckDB reads a file without a last newline as if it had one, and may point at it.
        ends = np.array([1] if self._head not in (b"", b"\r") else [], dtype=np.int64)
        starts = np.full(len(ends), self._start - self._offset)
        return self._part(b"", np.empty(0, dtype=np.int64), starts, ends)

    def _part(self, data: bytes, newlines: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> _Part:
        return _Part(
            first_number=self._number,
            starts=starts + self._offset,
            ends=ends + self._offset,
            data=data,
            offset=self._offset,
            newlines=newlines + self._offset,
            lines_before=self._lines,
            head=self._head,
            head_line=self._head_line,
            keep=self._keep,
        )

    def _are_records(self, array: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Which lines are not blank."""
        lengths = ends - starts
        are_records = lengths > 1
        (single,) = np.nonzero(lengths == 1)
        if len(single):
            is_return = array[starts[single]] == _RETURN
            if starts[single[0]] < 0:
                is_return[0] = self._head == b"\r"
            are_records[single] = ~is_return
        return are_records

    def _step_behind(self, part: _Part, ends: np.ndarray) -> None:
        """Carry over what the next block has to know."""
        if self.nul_line is None and (nul := part.data.find(0)) >= 0:
            self.nul_line = 1 + self._lines + part.data.count(_NEWLINE, 0, nul)
        if self.long_line is None and part.offset - self._start > _LONGEST_BYTES:
            self.long_line = self._head_line
        again = part.offset + self._quotes.opened_again
        numbers = part.first_number + np.searchsorted(part.ends, again)
        self.reopened.update(numbers[numbers > 0].tolist())
        if self._quotes.opened is not None:
            opened = part.offset + self._quotes.opened
            self.open_quote_line = 1 + self._lines + int(np.searchsorted(part.newlines, opened))
        if len(ends):
            begin = int(ends[-1]) + 1
            self._start = part.offset + begin
            self._head = part.data[begin : begin + self._keep]
            self._head_line = 1 + self._lines + int(np.searchsorted(part.newlines, self._start))
        elif len(self._head) < self._keep:
            self._head += part.data[: self._keep - len(self._head)]
        self._number += len(part.ends)
        self._lines += len(part.newlines)
        self._offset += len(part.data)


class _Quotes:
    """Which quotes open and close fields, and so which newlines end records, block by block."""

    def __init__(self, delimiter: bytes) -> None:
        self.inside = False
        self.opened: int | None = None  # where in the block the field begins that may go on
        self.opened_again = _NOWHERE  # where in the block, with blanks before, within a field
        self._may_reopen = False  # nothing but blanks since a closing quote
        self._recent = b"\n\n"  # the two bytes before the block
        (self._delimiter,) = delimiter

    def leave_outside(self, data: bytes, array: np.ndarray, newlines: np.ndarray) -> np.ndarray:
        """For each of the `newlines` of the next block, whether it is outside quoted fields."""
        was_inside = self.inside
        active = self._active(data, array)
        self._recent = (self._recent + data[-2:])[-2:]
        if not len(active):
            return np.full(len(newlines), not was_inside)
        return (np.searchsorted(active, newlines) + was_inside) % 2 == 0

    def _active(self, data: bytes, array: np.ndarray) -> np.ndarray:
        """Positions of the quotes in the block that open or close a field, by turns."""
        quotes = np.flatnonzero(array == _DOUBLE_QUOTE)
        self.opened, self.opened_again = None, _NOWHERE
        if not len(quotes):
            self._may_reopen = self._may_reopen and not data.strip(b" ")
            return quotes
        padded = np.frombuffer(self._recent + data, dtype=np.uint8)
        is_odd = not self._are_all_active(padded, quotes)
        active = quotes[self._are_active(data, padded, quotes)] if is_odd else quotes
        openers = active[int(self.inside) :: 2]
        if is_odd:
            again = openers[~self._begin_field(padded, openers)]
            self.opened_again = again[padded[again + 1] == _BLANK]
        self.inside = bool((len(active) + self.inside) % 2)
        closed = not self.inside and len(active) > 0 and active[-1] == quotes[-1]
        self._may_reopen = bool(closed and not data[quotes[-1] + 1 :].strip(b" "))
        if self.inside or self._may_reopen:
            fields = openers[self._begin_field(padded, openers)]
            self.opened = int(fields[-1]) if len(fields) else None
        return active

    def _are_all_active(self, padded: np.ndarray, quotes: np.ndarray) -> bool:
        """The quick look: does each second quote stand where one may open, as in a sound file."""
        before = padded[quotes[int(self.inside) :: 2] + 1]
        if not self.inside and before[0] == _DOUBLE_QUOTE and quotes[0] == 0 and not self._may_reopen:
            return False
        expected = (before == self._delimiter) | (before == _NEWLINE) | (before == _DOUBLE_QUOTE)
        return bool(expected.all())

    def _are_active(self, data: bytes, padded: np.ndarray, quotes: np.ndarray) -> np.ndarray:
        """The exact way: tell the kinds of quotes apart, and follow them field after field."""
        kinds = np.full(len(quotes), _OTHER, dtype=np.uint8)
        kinds[self._reopen(data, padded, quotes)] = _REOPENING
        kinds[self._begin_field(padded, quotes)] = _OPENING
        before = b"o" if self.inside else b"o." if self._may_reopen else b""
        # A split by a group gives by turns what is between the matches, and a match.
        runs = _QUOTED_FIELD.split(before + kinds.tobytes())
        lengths = np.fromiter(map(len, runs), dtype=np.int64, count=len(runs))
        return np.repeat(np.arange(len(runs)) % 2 == 1, lengths)[len(before) :]

    def _begin_field(self, padded: np.ndarray, quotes: np.ndarray) -> np.ndarray:
        """Which quotes are the first thing in a field, not counting one blank."""
        before, earlier = padded[quotes + 1], padded[quotes]
        before = np.where(before == _BLANK, earlier, before)
        return (before == self._delimiter) | (before == _NEWLINE)

    def _reopen(self, data: bytes, padded: np.ndarray, quotes: np.ndarray) -> np.ndarray:
        """Which quotes have nothing but blanks between themselves and the quote before."""
        reopen = np.diff(quotes, prepend=-2) == 1
        reopen[0] = self._may_reopen and not data[: quotes[0]].strip(b" ")
        blank_around = (padded[quotes[1:] + 1] == _BLANK) & (padded[quotes[:-1] + 3] == _BLANK)
        for i in np.flatnonzero(blank_around).tolist():
            reopen[i + 1] = not data[quotes[i] + 1 : quotes[i + 1]].strip(b" ")
        return reopen


_NOWHERE = np.empty(0, dtype=np.int64)

_OPENING, _REOPENING, _OTHER = b"or."

_QUOTED_FIELD = re.compile(rb"(o(?:.r)*+.?)")  # opening; closing and reopening; closing
