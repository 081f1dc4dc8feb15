"""What is known of a file without the reader that loads it: how many records it has, where some are.

Most extracts are small and plain, and counted here. `records` knows the whole grammar of CSV files, and
finds records; it needs numpy, which takes longer to import than a plain file takes to count.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

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
