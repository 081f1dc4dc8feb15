"""What is known of a file without the reader that loads it: how many records it has, where some are.

Most extracts are small and plain, and counted here. `records` knows the whole grammar of CSV files, and
finds records; it needs numpy, which takes longer to import than a plain file takes to count.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

#: SQL over `reject_errors`: the offset by which `locate` finds the record of an error.
#: `line_byte_position` may name the newline before the record, or even the record before, so it
#: serves only where DuckDB gives nothing else.
REJECTED_AT = """case error_type when 'LINE SIZE OVER MAXIMUM' then line_byte_position
    else byte_position - 1 end"""

_BLOCK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_NOT_PLAIN = (b'"', b"\r", b"\0", b"\n\n")


@dataclass(frozen=True)
class FileCount:
    """What a file holds.

    `bytes` and `sha256` are of the file on disk, so of a gzip file as it is compressed. `records`
    leaves out the header. `open_quote_line` is the physical line, from 1, of a quote that nothing
    closes; its record runs to the end of the file and counts as one. `nul_line` is the first line
    with a NUL byte. `long_line` is where a record begins that is longer than 8 MB, which DuckDB
    may leave out in silence, or take forever to read; one that is longer by less than a block may
    not be seen.
    """

    bytes: int
    sha256: str
    records: int
    open_quote_line: int | None
    nul_line: int | None
    long_line: int | None = None


@dataclass(frozen=True)
class Located:
    """A record: its `number` among the data records, the physical `line` it starts on, its text.

    Both count from 1. `raw` is without the line end and shows bytes that are no UTF-8 as `\\xff`;
    where it is longer than the limit it is cut and ends with an ellipsis.
    """

    number: int
    line: int
    raw: str


def count_plain(path: Path, *, block_bytes: int = _BLOCK_BYTES) -> FileCount | None:
    """What the file holds, if each of its lines is a record, and it is no gzip file; else None.

    A file with quotes, carriage returns, NUL bytes, blank lines, or a line as long as a block may hold
    other records than lines. Raises OSError.
    """
    sha256, size, lines, last = hashlib.sha256(), 0, 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(block_bytes):
            sha256.update(block)
            text = last + (block.removeprefix(_BOM) if not size else block)
            if any(mark in text for mark in _NOT_PLAIN) or b"\n" not in block:
                return None
            lines += block.count(b"\n")
            size += len(block)
            last = block[-1:]
    records = lines + (last != b"\n")
    return FileCount(size, sha256.hexdigest(), max(records - 1, 0), None, None)
