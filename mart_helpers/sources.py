"""The files behind a declared table: found, and their header understood.

A source gives its rows as text and in order (`rows_sql`), and looks at itself a second time without the
reader that loads it: how many rows it holds (`count`), and where some of them stand (`locate`).
"""

import codecs
import csv
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

import duckdb

from mart_helpers.blanks import may_hold_blanks
from mart_helpers.contract import Table
from mart_helpers.errors import InputError
from mart_helpers.files import sha256_of
from mart_helpers.parameters import shown
from mart_helpers.records import FileCount, Located, count_plain
from mart_helpers.texts import one_line, quoted

T = TypeVar("T")

SEED_ROWS = "seed rows"

_NO_FAULT = "null::varchar as row_fault"

_IGNORED = "_ignored_"

_NO_FIELD = "\x01no field\x01"

_ENDINGS = (".csv", ".csv.gz", ".parquet")

_SMALL_BYTES = 64 << 20

# a line fits into each
_SMALLEST_BUFFER, _LARGE_BUFFER, _USUAL_BUFFER = 2_000_000, 16_000_000, 32_000_000

_DELIMITERS = (",", ";", "\t", "|")


class Source(Protocol):
    """Where the rows of a table come from.

    `name` is how people are told of it. `fields` are its columns in order: the contract's names where
    they match after trimming and lower-casing, placeholders for those that are `ignored`.
    """

    name: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def may_hold_blanks(self) -> bool:
        """Whether there may be white space around values."""

    @property
    def rows_sql(self) -> str:
        """A query for all rows in their order: the `fields`, as text, and `row_fault`.

        That is null, or says why the row as a whole is none.
        """

    def count(self) -> FileCount:
        """How many rows there are, counted without the reader that loads them."""

    def locate(
        self, rows: Sequence[int], rejected_at: Sequence[int]
    ) -> tuple[list[Located], list[Located]]:
        """The places of `rows` (ordinals from 0 of the rows read), and of records not read."""


def find_sources(inputs_dir: Path, table: Table) -> list[Source]:
    """The source of `table` in `inputs_dir`: one file, or the files of one folder by their names.

    Raises InputError where there is none or more than one, where something is no readable file of its
    kind, or where a header does not fit the contract.
    """
    if not inputs_dir.is_dir():
        raise InputError(
            f"{shown(inputs_dir)}: {_not_a_folder(inputs_dir)}. Name the folder of the extracts."
        )
    paths = [inputs_dir / f"{table.name}{ending}" for ending in ("", *_ENDINGS)]
    found = [path for path in paths if os.path.lexists(path)]
    if not found:
        raise InputError(
            f"{shown(inputs_dir)} holds no {table.name}.csv (nor .csv.gz, .parquet, or a folder "
            f"{table.name}). Put the extract there, or name its folder with inputs_dir."
        )
    _refuse_two(table.name, found)
    if found[0].name == table.name:
        return [_understood(path, f"{table.name}/{path.name}", table) for path in _drops(found[0])]
    return [_understood(found[0], found[0].name, table)]


class SeedRows(NamedTuple):
    """The rows of `seed.<table>`, which a cell of the notebook has made."""

    connection: duckdb.DuckDBPyConnection
    table: str
    name: str = SEED_ROWS
    ignored: tuple[str, ...] = ()
    may_hold_blanks: bool = True

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.connection.table(f"seed.{self.table}").columns)

    @property
    def rows_sql(self) -> str:
        return f"select {_as_text(self.fields, self.fields)}, {_NO_FAULT} from seed.{self.table}"

    def count(self) -> FileCount:
        rows = self.connection.cursor().execute(f"select count(*) from seed.{self.table}")
        return FileCount(0, "", rows.fetchone()[0], None, None)

    def locate(
        self, rows: Sequence[int], rejected_at: Sequence[int]
    ) -> tuple[list[Located], list[Located]]:
        raws = self.connection.execute(f"select t::varchar from seed.{self.table} as t").fetchall()
        return [Located(row + 1, row + 1, raws[row][0]) for row in rows], []


class CsvFile(NamedTuple):
    """A CSV file, plain or gzipped; `blank_lines` stand before its header.

    DuckDB takes a row with an empty field too many for a whole one. So it reads a field more than the
    header has, and fills fields that are not there with a text that no file holds: what the last
    fields hold tells whether the row had as many as the header.
    """

    path: Path
    name: str
    delimiter: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]
    blank_lines: int
    is_parallel: bool = True

    @property
    def may_hold_blanks(self) -> bool:
        if self.path.suffix != ".csv":
            return True
        return may_hold_blanks(self.path, self.delimiter, closely=not self._is_small)

    @property
    def _is_small(self) -> bool:
        """Whether to import numpy takes longer than to do without."""
        return self.path.suffix == ".csv" and self.path.stat().st_size < _SMALL_BYTES

    @property
    def rows_sql(self) -> str:
        columns = ", ".join(f"'{field}': 'varchar'" for field in (*self.fields, "_surplus"))
        # all that is ignored is looked at too: bytes that are no UTF-8 are an error there as well
        is_short = " or ".join(f"{field} is null" for field in (*self._placeholders, self.fields[-1]))
        return (
            f"select {', '.join(self.fields)}, "
            f"case when {is_short} then 'the row has fewer fields than the header' "
            "when _surplus is not null then 'the row has more fields than the header' end as row_fault "
            f"from read_csv({_quoted(self.path)}, columns = {{{columns}}}, auto_detect = false, "
            f"delim = '{self.delimiter}', quote = '\"', escape = '\"', header = true, "
            f"skip = {self.blank_lines}, nullstr = '{_NO_FIELD}', null_padding = true, "
            f"parallel = {self.is_parallel}, buffer_size = {self._buffer_bytes}, "
            "store_rejects = true, rejects_limit = 0, "
            "hive_partitioning = false)"
        )

    @property
    def _buffer_bytes(self) -> int:
        """As DuckDB would have it, or so much that all threads read equally many buffers."""
        if not self.is_parallel or self.path.suffix != ".csv":
            return _USUAL_BUFFER
        size, threads = self.path.stat().st_size, os.cpu_count() or 1
        rounds = max(ceil(size / (threads * _LARGE_BUFFER)), 1)
        return max(size // (threads * rounds) + 1, _SMALLEST_BUFFER)

    @property
    def _placeholders(self) -> list[str]:
        return [field for field in self.fields if field.startswith(_IGNORED)]

    def count(self) -> FileCount:
        plain = self._is_small and count_plain(self.path, self.delimiter.encode())
        return plain or _count_records(self.path, self.delimiter)

    def locate(
        self, rows: Sequence[int], rejected_at: Sequence[int]
    ) -> tuple[list[Located], list[Located]]:
        from mart_helpers.records import locate

        return locate(self.path, self.delimiter.encode(), rows, rejected_at)


class ParquetFile(NamedTuple):
    """A Parquet file; its `columns` are named as in the file. The line of a row is its number."""

    path: Path
    name: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    ignored: tuple[str, ...]
    may_hold_blanks: bool = True

    @property
    def rows_sql(self) -> str:
        texts = _as_text(self.columns, self.fields)
        return f"select {texts}, {_NO_FAULT} from {_parquet_rows(self.path)}"

    def count(self) -> FileCount:
        rows = _parquet(f"select num_rows from parquet_file_metadata({_quoted(self.path)})")
        return FileCount(self.path.stat().st_size, sha256_of(self.path), rows[0][0], None, None)

    def locate(
        self, rows: Sequence[int], rejected_at: Sequence[int]
    ) -> tuple[list[Located], list[Located]]:
        raws = _parquet(
            f"select file_row_number, columns(* exclude file_row_number)::varchar "
            f"from {_parquet_rows(self.path, 'file_row_number = true')} "
            "where list_contains($rows, file_row_number) order by file_row_number",
            {"rows": [int(row) for row in rows]},
        )
        texts = {number: ",".join("" if v is None else v for v in values) for number, *values in raws}
        return [Located(row + 1, row + 1, texts[row]) for row in rows], []


def unchanged(sources: Sequence[Source], prints: Mapping[str, tuple[int, str]]) -> list[Source]:
    """Those of `sources` whose file has the size and the sha256 that `prints` holds for its name."""
    same_size = [
        source
        for source in sources
        if source.name in prints and source.path.stat().st_size == prints[source.name][0]
    ]
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(sha256_of, [source.path for source in same_size])
        return [
            source
            for source, sha256 in zip(same_size, hashes, strict=True)
            if sha256 == prints[source.name][1]
        ]


def read_rows(source: Source, run: Callable[[str], T]) -> T:
    """What `run` makes of the rows of `source`, as a query.

    It is called a second time, for one thread, where fields hold line ends: DuckDB can then not tell
    on several threads how many fields a row has.
    """
    try:
        return run(source.rows_sql)
    except duckdb.Error as error:
        if "null_padding" not in str(error):
            raise
        return run(source._replace(is_parallel=False).rows_sql)


def refuse_open_quote(name: str, line: int | None) -> None:
    """Refuse the file `name` where a quote opens on `line` that nothing closes; None means no such."""
    if line is not None:
        raise InputError(
            f"{name}: a quote that opens on line {line} is never closed, so the rest of the file cannot "
            "be told apart. Close it, or make a new extract."
        )


def _not_a_folder(path: Path) -> str:
    return "is a file, not a folder" if path.exists() else "there is no such folder"


def _refuse_two(what: str, found: list[Path]) -> None:
    if len(found) > 1:
        raise InputError(
            f"{shown(found[0].parent)} holds two sources for {what}: "
            f"{' and '.join(path.name for path in found)}. Leave the one that counts."
        )


def _drops(folder: Path) -> list[Path]:
    """The files of a folder of drops by name; hidden ones and those with a leading `_` are not ours."""
    if not folder.is_dir():
        raise InputError(f"{shown(folder)} is no folder. Give the file its ending, such as .csv.")
    drops = sorted(path for path in folder.iterdir() if path.name[0] not in "._")
    for path in drops:
        stem = path.name.removesuffix(_ending(path))
        if not _ending(path):
            raise InputError(
                f"{shown(path)} is neither .csv, .csv.gz nor .parquet. Move it out of the folder."
            )
        _refuse_two(stem, [other for other in drops if other.name.removesuffix(_ending(other)) == stem])
    if not drops:
        raise InputError(f"{shown(folder)} is empty. Put the extracts there.")
    return drops


def _ending(path: Path) -> str:
    return next((ending for ending in reversed(_ENDINGS) if path.name.endswith(ending)), "")


def _understood(path: Path, name: str, table: Table) -> Source:
    _refuse_what_is_no_file(path, name)
    if path.suffix == ".parquet":
        columns = _parquet_columns(path, name)
        return ParquetFile(path, name, columns, *_matched(name, columns, table))
    head = read_head(path, name)
    header = head.lstrip("\r\n")
    blank_lines = head[: len(head) - len(header)].count("\n")
    delimiter = max(
        _DELIMITERS, key=lambda mark: len({*map(_folded, _names(header, mark))} & {*table.column_names})
    )
    try:
        fields, ignored = _matched(name, _names(header, delimiter), table)
    except InputError:
        if '"' in header.partition("\n")[0]:
            _refuse_open_header(path, name, delimiter)
        raise
    return CsvFile(path, name, delimiter, fields, ignored, blank_lines)


def _refuse_what_is_no_file(path: Path, name: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{name}: is a link to a file that is not there. Mend the link.") from error
    except OSError as error:
        raise InputError(
            f"{name}: cannot be read ({error.strerror}). Mend its path or its rights."
        ) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{name}: is {kind}, where a file should be. Put the extract there.")


def _refuse_open_header(path: Path, name: str, delimiter: str) -> None:
    """A quote of the header that nothing closes makes one field of all that follows: no columns."""
    count = _count_records(path, delimiter)
    if not count.records:
        refuse_open_quote(name, count.open_quote_line)


def _count_records(path: Path, delimiter: str) -> FileCount:
    from mart_helpers.records import count_records

    return count_records(path, delimiter.encode())


def _names(text: str, delimiter: str) -> list[str]:
    """The names in the header with which `text` begins."""
    first = text[: text.find("\n") + 1] or text
    lines = io.StringIO(text, newline="") if '"' in first else [first]
    try:
        return next(csv.reader(lines, delimiter=delimiter), [])
    except csv.Error:  # a field beyond the module's limit: shown as what was found
        return [text]


def _folded(name: str) -> str:
    return name.strip().lower()


def _matched(
    source: str, columns: Sequence[str], table: Table
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fields and ignored columns of a source whose header has `columns`."""
    names = [_folded(name) for name in columns]
    known = [name for name in names if name in table.column_names]
    for name in known:
        if known.count(name) > 1:
            raise InputError(
                f'{source}: column "{name}" stands twice in the header. Remove or rename one of them.'
            )
    _refuse_missing(source, names, table)
    fields = [name if name in known else f"{_IGNORED}{n}" for n, name in enumerate(names)]
    return tuple(fields), tuple(name for name in names if name not in known)


def _refuse_missing(source: str, names: list[str], table: Table) -> None:
    missing = [
        f'"{column.name}"'
        for column in table.columns
        if column.name not in names and column.default is None
    ]
    if missing:
        raise InputError(
            f"{source}: missing column {', '.join(missing)} (found: {one_line(', '.join(names))}). "
            f"Add what is missing, or rename it in the file."
        )


def _parquet_columns(path: Path, name: str) -> tuple[str, ...]:
    try:
        rows = _parquet(f"describe from {_parquet_rows(path)}")
    except duckdb.Error as error:
        raise InputError(f"{name}: is no whole Parquet file. Make a new extract.") from error
    return tuple(row[0] for row in rows)


def _parquet(sql: str, values: dict[str, object] | None = None) -> list[tuple]:
    """Rows of a query on a Parquet file, in a session of its own."""
    with duckdb.connect() as connection:
        return connection.execute(sql, values).fetchall()


def _parquet_rows(path: Path, *options: str) -> str:
    """SQL for the rows of a Parquet file as it stands, whatever its folders are called."""
    return f"read_parquet({', '.join([_quoted(path), 'hive_partitioning = false', *options])})"


def _as_text(columns: Sequence[str], fields: Sequence[str]) -> str:
    pairs = zip(columns, fields, strict=True)
    return ", ".join(f"{quoted(column)}::varchar as {field}" for column, field in pairs)


def _quoted(path: Path) -> str:
    """The one file at `path` for DuckDB's readers, to which `*`, `?` and `[` make a pattern."""
    return "'" + re.sub(r"([*?\[])", r"[\1]", str(path)).replace("'", "''") + "'"


_HEADER_BYTES = 1 << 20

_BLOCK_BYTES = 1 << 20

_AROUND_BYTES = 30

_GZIP = b"\x1f\x8b"

_ASCII = bytes(range(128))

_NOT_IN_WINDOWS_1252 = {0x81, 0x8D, 0x8F, 0x90, 0x9D}

#: How files of other kinds begin, by the way out. What begins with letters only is told from a header
#: by a byte that no text has. UTF-16 and UTF-32 without a mark show by their NULs, as in RFC 4627.
_KINDS = {
    "Save it as UTF-8": {
        "UTF-32 text": rb"\xff\xfe\0\0|\0\0\xfe\xff|[\t\n\r -~]\0\0\0|\0\0\0[\t\n\r -~]",
        "UTF-16 text": rb"\xff\xfe|\xfe\xff|([\t\n\r -~]\0){2}|(\0[\t\n\r -~]){2}",
    },
    "Unpack it, or save the sheet as CSV (UTF-8)": {
        "a zip archive or an Excel workbook": rb"PK\x03\x04",
    },
    "Save the sheet as CSV (UTF-8)": {
        "an old Excel workbook": rb"\xd0\xcf\x11\xe0",
    },
    "Unpack it; gzip is the one packing that is read": {
        "a bzip2 file": rb"BZh[1-9]1AY&SY",
        "an xz file": rb"\xfd7zXZ\0",
        "a Zstandard file": rb"\x28\xb5\x2f\xfd",
        "an LZ4 file": rb"\x04\x22\x4d\x18",
        "a gzip file": rb"\x1f\x8b",
        "a 7-Zip archive": rb"7z\xbc\xaf\x27\x1c",
        "a RAR archive": rb"Rar!\x1a\x07",
        "a tar archive": rb".{257}ustar[\0 ]",
    },
    "Name it .parquet, without gzip around it": {
        "a Parquet file": rb"PAR1[\0-\x1f]",
    },
    "Save its rows as CSV or Parquet": {
        "a SQLite database": rb"SQLite format 3\0",
        "a DuckDB database": rb".{8}DUCK.{2}\0\0",
        "an Access database": rb"\0\x01\0\0Standard (Jet|ACE) DB",
        "an ORC file": rb"ORC(?=.*\0)",
        "an Avro file": rb"Obj\x01",
        "a Feather or Arrow file": rb"ARROW1\0\0",
        "an HDF5 file": rb"\x89HDF\r\n",
    },
    "Ask the source for CSV": {
        "a PDF document": rb"%PDF",
        "an RTF document": rb"\{\\rtf",
        "a PNG picture": rb"\x89PNG",
        "a JPEG picture": rb"\xff\xd8\xff",
        "a GIF picture": rb"GIF8[79]a",
        "JSON": rb"(\xef\xbb\xbf)?\s*[{\[]",
    },
    "Fetch the extract again": {
        "HTML or XML, often an error page in place of the extract": rb"(\xef\xbb\xbf)?\s*<",
    },
    "Run git lfs pull": {
        "a Git LFS pointer in place of the file": rb"version https://git-lfs",
    },
}


def read_head(path: Path, name: str) -> str:
    """The first megabyte of a CSV file, plain or gzipped, as text; its header is sound UTF-8.

    `name` is how people are told of the file. Raises InputError for a file that cannot be read, is
    empty, is packed otherwise than its name says, or is no text in UTF-8.
    """
    try:
        with path.open("rb") as raw:
            _refuse_wrong_packing(name, _is_gzip(path), raw.read(_HEADER_BYTES))
        with _opened(path) as file:
            head = file.read(_HEADER_BYTES)
    except PermissionError as error:
        raise InputError(f"{name}: may not be read. Give yourself the right to read it.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: cannot be read ({error}). Make a new extract.") from error
    _refuse_other_kinds(name, head, around="gzip around " if _is_gzip(path) else "")
    header_end = head.find(b"\n", len(head) - len(head.lstrip()))
    _refuse_other_encodings(path, name, head if header_end < 0 else head[:header_end])
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise InputError(f"{name} is empty. It needs a header row and rows below it.")
    _refuse_lone_returns(name, text.lstrip("\r\n").partition("\n")[0])
    return text


def refuse_eight_bit(path: Path, name: str, *, block_bytes: int = _BLOCK_BYTES) -> None:
    """Refuse a CSV file that has text beyond ASCII, none of which is UTF-8.

    Such a file is in another encoding as a whole; where some of it is UTF-8, single bytes are damaged.
    It is read once, by blocks. Raises InputError with the first line that shows it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    beyond: set[int] = set()
    first: tuple[int, int, bytes] | None = None
    lines = 1
    with _opened(path) as file:
        while block := file.read(block_bytes):
            if not decoder.decode(block).isascii():
                return
            high = block.translate(None, delete=_ASCII)
            if high and first is None:
                at = block.index(high[0])
                first = (lines + block.count(b"\n", 0, at), high[0], _around(block, at))
            beyond.update(high)
            lines += block.count(b"\n")
    if first:
        raise _eight_bit(name, beyond, *first)


def _is_gzip(path: Path) -> bool:
    return path.suffix == ".gz"


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if _is_gzip(path) else path.open("rb")


def _refuse_wrong_packing(name: str, is_gzip: bool, head: bytes) -> None:
    if head.startswith(_GZIP) and not is_gzip:
        raise InputError(f"{name}: holds gzip bytes. If that is right, name it .csv.gz.")
    if is_gzip and not head.startswith(_GZIP) and head:
        _refuse_other_kinds(name, head)
        raise InputError(f"{name}: holds no gzip bytes. If that is right, name it .csv.")


def _refuse_other_kinds(name: str, head: bytes, around: str = "") -> None:
    for way_out, kinds in _KINDS.items():
        for kind, beginning in kinds.items():
            if re.match(beginning, head, re.DOTALL):
                raise InputError(f"{name}: is {around}{kind}. {way_out}.")


def _refuse_other_encodings(path: Path, name: str, header: bytes) -> None:
    if b"\0" in header:
        raise InputError(
            f"{name}: its header holds NUL bytes: it is UTF-16, or no text. Save it as CSV (UTF-8)."
        )
    try:
        header.decode()
    except UnicodeDecodeError as error:
        refuse_eight_bit(path, name)
        raise InputError(
            f"{name}: its header is damaged: the byte {error.object[error.start]:#04x} is no UTF-8, "
            "other text in the file is. Mend the header, or make a new extract."
        ) from error


def _refuse_lone_returns(name: str, header: str) -> None:
    if "\r" in header.rstrip("\r"):
        raise InputError(
            f"{name}: its lines end with CR alone, or CR stands in the header. Convert its line ends to "
            "LF, for example with mac2unix."
        )


def _around(block: bytes, at: int) -> bytes:
    """What stands around a byte of a block, on its line."""
    before = block[max(at - _AROUND_BYTES, 0) : at].rpartition(b"\n")[2]
    return before + block[at : at + _AROUND_BYTES].partition(b"\n")[0]


def _eight_bit(name: str, beyond: set[int], line: int, byte: int, around: bytes) -> InputError:
    words, encoding = _guessed(beyond)
    text = one_line(around.decode(encoding, errors="replace"))
    return InputError(
        f"{name}: is not UTF-8 but an 8-bit encoding: {words}. Line {line} shows it first, by the byte "
        f'{byte:#04x} in "{text}" (if that reads wrong, it is yet another encoding). Save it as UTF-8, '
        f"for example with iconv -f {encoding} -t UTF-8."
    )


def _guessed(beyond: set[int]) -> tuple[str, str]:
    """An 8-bit encoding that has the bytes `beyond` ASCII, in words and as iconv calls it."""
    if beyond & _NOT_IN_WINDOWS_1252:
        return "neither Windows-1252 nor Latin-1, perhaps code page 850", "CP850"
    if min(beyond) < 0xA0:  # where Latin-1 has control characters
        return "most likely Windows-1252", "WINDOWS-1252"
    return "Latin-1 (ISO-8859-1) or Windows-1252", "ISO-8859-1"
