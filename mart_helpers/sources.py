"""The files behind a declared table: found, recognised, and their header understood.

A source gives its rows as text and in order (`rows_sql`), and is looked at a second time without the
reader that loads it: how many rows it holds (`count`), and where some of them stand (`places`).
"""

import codecs
import csv
import io
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import duckdb

from mart_helpers.contract import Table
from mart_helpers.errors import InputError
from mart_helpers.files import sha256_of
from mart_helpers.parameters import shown
from mart_helpers.records import FileCount, Located, count_records, first_records, opened, records_at
from mart_helpers.texts import literal, one_line, quoted, visible

T = TypeVar("T")

SEED_ROWS = "seed rows"

#: What is wrong with a row as a whole; no column of an extract can have this name, as names are trimmed.
ROW_FAULT = quoted(" row fault")

#: Which of the files read together a row is of, from 0.
FILE_INDEX = quoted(" file index")

_NO_FAULT = f"null::varchar as {ROW_FAULT}"

_SURPLUS, _IGNORED = " surplus", " ignored "

_NO_FIELD = "\x01no field\x01"

_ENDINGS = (".csv", ".csv.gz", ".parquet")

_SMALL_BYTES = 1 << 20

_DELIMITERS = (",", ";", "\t", "|")

#: SQL over `reject_errors`: an offset in the record of an error. `line_byte_position` may name the
#: newline before the record, or even the record before, so it serves only where DuckDB gives nothing
#: else.
REJECTED_AT = """case error_type when 'LINE SIZE OVER MAXIMUM' then line_byte_position
    else byte_position - 1 end"""


class Source(Protocol):
    """Where the rows of a table come from; messages call it `name`.

    `fields` are its columns in order: the contract's names where they match after trimming and
    lower-casing, placeholders for those that are `ignored`.
    """

    name: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def rows_sql(self) -> str:
        """A query for all rows in their order: the `fields`, as text, and `ROW_FAULT` or null."""

    def count(self) -> FileCount:
        """How many rows there are, counted without the reader that loads them."""

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        """The rows with these `numbers`, from 1 and ascending."""


def find_sources(inputs_dir: Path, table: Table) -> list[Source]:
    """The source of `table` in `inputs_dir`: one file, or the files of one folder by their names.

    Raises InputError if there is none or more than one, if something is no readable file of its kind,
    or if a header does not fit the contract.
    """
    if not inputs_dir.is_dir():
        problem = "is a file, not a folder" if inputs_dir.exists() else "there is no such folder"
        raise InputError(f"{shown(inputs_dir)}: {problem}. Name the folder of the extracts.")
    paths = [inputs_dir / f"{table.name}{ending}" for ending in ("", *_ENDINGS)]
    found = [path for path in paths if os.path.lexists(path)]
    if not found:
        raise _missing_file(inputs_dir, table.name)
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

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.connection.table(f"seed.{quoted(self.table)}").columns)

    @property
    def rows_sql(self) -> str:
        return f"select {_as_text(self.fields, self.fields)}, {_NO_FAULT} from seed.{quoted(self.table)}"

    def count(self) -> FileCount:
        rows = self.connection.cursor().execute(f"select count(*) from seed.{quoted(self.table)}")
        return FileCount(0, "", rows.fetchone()[0])

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        rows = self.connection.execute(
            f"select t::varchar from seed.{quoted(self.table)} as t"
        ).fetchall()
        return (Located(number, number, rows[number - 1][0]) for number in numbers)


class CsvFile(NamedTuple):
    """A CSV file, plain or gzipped; `blank_lines` stand before its header.

    Its rows may be read together with those of `others`, which are written alike.

    DuckDB takes a row with an empty field too many for a whole one. So it reads a field more than the
    header has, and fills fields that are not there with a text that no file holds: what the last fields
    hold tells whether the row had as many as the header.
    """

    path: Path
    name: str
    delimiter: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]
    blank_lines: int
    is_parallel: bool = True
    notes_rejects: bool = True
    others: tuple[Path, ...] = ()

    @property
    def rows_sql(self) -> str:
        columns = ", ".join(f"{literal(field)}: 'varchar'" for field in (*self.fields, _SURPLUS))
        # all that is ignored is looked at too: bytes that are no UTF-8 are an error there as well
        looked_at = [*(field for field in self.fields if field.startswith(_IGNORED)), self.fields[-1]]
        is_short = " or ".join(f"{quoted(field)} is null" for field in looked_at)
        # DuckDB takes a kilobyte of memory to note a reject, whatever its limit
        errors = (
            "store_rejects = true, rejects_limit = 0" if self.notes_rejects else "ignore_errors = true"
        )
        files = ", ".join(map(_file, [self.path, *self.others]))
        file_index = f", file_index as {FILE_INDEX}" if self.others else ""
        return (
            f"select {', '.join(map(quoted, self.fields))}, "
            f"case when {is_short} then 'the row has fewer fields than the header' "
            f"when {quoted(_SURPLUS)} is not null then 'the row has more fields than the header' "
            f"end as {ROW_FAULT}{file_index} "
            f"from read_csv([{files}], columns = {{{columns}}}, auto_detect = false, "
            f"delim = '{self.delimiter}', quote = '\"', escape = '\"', header = true, "
            f"skip = {self.blank_lines}, nullstr = '{_NO_FIELD}', null_padding = true, "
            f"parallel = {self.is_parallel}, {errors}, hive_partitioning = false)"
        )

    def is_like(self, other: Source) -> bool:
        """Whether the rows of both may be read together: they are small, and written alike."""
        return (
            isinstance(other, CsvFile)
            and other[2:] == self[2:]
            and max(self.path.stat().st_size, other.path.stat().st_size) < _SMALL_BYTES
        )

    def count(self) -> FileCount:
        return count_records(self.path, self.name, self.delimiter)

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        return records_at(self.path, self.name, self.delimiter, numbers=numbers)

    @contextmanager
    def head(self) -> Iterator["CsvFile"]:
        """A file of its own with the first records, as many as are a quarter of a megabyte."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "head.csv")
            path.write_bytes(first_records(self.path, self.name, self.delimiter))
            yield self._replace(path=path)

    def rejected(self, offsets: Iterable[int]) -> Iterator[Located]:
        """The records at these offsets, ascending, of all that DuckDB refused (see `REJECTED_AT`)."""
        return records_at(self.path, self.name, self.delimiter, offsets=offsets)


class ParquetFile(NamedTuple):
    """A Parquet file; its `columns` are named as in the file. The line of a row is its number."""

    path: Path
    name: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def rows_sql(self) -> str:
        texts = _as_text(self.columns, self.fields)
        return f"select {texts}, {_NO_FAULT} from {_parquet_rows(self.path)}"

    def count(self) -> FileCount:
        with duckdb.connect() as session:
            sql = f"select num_rows from parquet_file_metadata({_file(self.path)})"
            (records,) = session.execute(sql).fetchone()
        return FileCount(self.path.stat().st_size, sha256_of(self.path), records)

    def places(self, numbers: Iterable[int]) -> Iterator[Located]:
        with duckdb.connect() as session:
            rows = session.execute(
                "select file_row_number + 1, columns(* exclude file_row_number)::varchar "
                f"from {_parquet_rows(self.path, 'file_row_number = true')} "
                "where file_row_number + 1 in (select unnest($numbers)) order by file_row_number",
                {"numbers": list(numbers)},
            )
            for number, *values in iter(rows.fetchone, None):
                yield Located(number, number, ",".join("" if v is None else v for v in values))


def record_numbers(ordinals: Iterable[int], rejected: Sequence[int]) -> Iterator[int]:
    """The numbers of records, from 1, of rows whose `ordinals` among those read, from 0, ascend.

    `rejected` are the numbers of the records that were not read, ascending.
    """
    before = 0
    for ordinal in ordinals:
        while before < len(rejected) and rejected[before] <= ordinal + 1 + before:
            before += 1
        yield ordinal + 1 + before


def locate(
    source: Source, ordinals: Sequence[int], rejected_at: Iterable[int]
) -> tuple[list[Located], list[Located]]:
    """The places of rows, known by ordinals from 0 of the rows read, and of all records not read."""
    refused = list(source.rejected(sorted(rejected_at))) if isinstance(source, CsvFile) else []
    wanted = sorted(set(ordinals))
    numbers = record_numbers(wanted, [place.number for place in refused])
    found = dict(zip(wanted, source.places(numbers), strict=True))
    return [found[ordinal] for ordinal in ordinals], refused


def state_of(source: Source) -> tuple[int, ...] | None:
    """What differs if the file behind a source is another one, or was written to; None for seed rows."""
    if isinstance(source, SeedRows):
        return None
    found = source.path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def read_rows(source: Source, run: Callable[[str], T]) -> T:
    """What `run` makes of the rows of `source`, as a query.

    It is called a second time, for one thread, if fields hold line ends: DuckDB cannot tell on several
    threads how many fields such a row has.
    """
    try:
        return run(source.rows_sql)
    except duckdb.Error as error:
        if "null_padding" not in str(error):
            raise
        return run(source._replace(is_parallel=False).rows_sql)


def _missing_file(inputs_dir: Path, table: str) -> InputError:
    """The error for a table without a file; one with nearly the right name is named."""
    near = [
        path.name
        for path in inputs_dir.iterdir()
        if path.name.lower().partition(".")[0] == table.lower()
    ]
    message = f"{shown(inputs_dir)} holds no {table}.csv (nor .csv.gz, .parquet, or a folder {table})"
    if near:
        return InputError(
            f"{message}, but {one_line(', '.join(sorted(near)))}. Rename it, if that is the extract."
        )
    return InputError(f"{message}. Put the extract there, or name its folder with inputs_dir.")


def _refuse_two(what: str, found: Sequence[Path]) -> None:
    if len(found) > 1:
        raise InputError(
            f"{shown(found[0].parent)} holds two sources for {what}: "
            f"{' and '.join(path.name for path in found)}. Leave the one that counts."
        )


def _drops(folder: Path) -> list[Path]:
    """The files of a folder by name, without hidden ones and those that begin with `_`."""
    if not folder.is_dir():
        raise InputError(f"{shown(folder)} is no folder. Give the file its ending, such as .csv.")
    drops = sorted(path for path in folder.iterdir() if path.name[0] not in "._")
    if not drops:
        raise InputError(f"{shown(folder)} is empty. Put the extracts there.")
    stems: dict[str, Path] = {}
    for path in drops:
        if os.fsencode(path.name) != path.name.encode(errors="replace"):
            raise InputError(f"{visible(shown(path))}: its name is not UTF-8. Rename it.")
        ending = next((ending for ending in reversed(_ENDINGS) if path.name.endswith(ending)), "")
        if not ending:
            raise InputError(
                f"{shown(path)} is neither .csv, .csv.gz nor .parquet. Rename it, or move it out of "
                "the folder."
            )
        stem = path.name.removesuffix(ending)
        _refuse_two(stem, [stems[stem], path] if stem in stems else [path])
        stems[stem] = path
    return drops


def _understood(path: Path, name: str, table: Table) -> Source:
    _refuse_what_is_no_file(path, name)
    if path.suffix == ".parquet":
        columns = _parquet_columns(path, name)
        return ParquetFile(path, name, columns, *_matched(name, columns, table))
    head = _read_head(path, name)
    header = head.lstrip("\r\n")
    blank_lines = head[: len(head) - len(header)].count("\n")
    names, delimiter = _header(header, table)
    if not table.required_names <= {*map(_folded, names)}:
        _refuse_lines_above(name, header, blank_lines, table)
        if '"' in header.partition("\n")[0]:
            # a quote that nothing closes makes one field of all that follows
            count_records(path, name, delimiter)
    return CsvFile(path, name, delimiter, *_matched(name, names, table), blank_lines)


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


def _header(text: str, table: Table) -> tuple[list[str], str]:
    """The names in the first line of `text`, and the delimiter by which most of them are known."""
    names = {mark: _names(text, mark) for mark in _DELIMITERS}
    known = {*table.column_names}
    delimiter = max(_DELIMITERS, key=lambda mark: len({*map(_folded, names[mark])} & known))
    return names[delimiter], delimiter


def _names(text: str, delimiter: str) -> list[str]:
    first = text[: text.find("\n") + 1] or text
    lines = io.StringIO(text, newline="") if '"' in first else [first]
    try:
        return next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # a field beyond the module's limit: shown as what was found
        return [text]


def _folded(name: str) -> str:
    return name.strip().lower()


def _refuse_lines_above(name: str, header: str, blank_lines: int, table: Table) -> None:
    """Refuse a file that has other lines above its header, such as a title or `sep=;`."""
    lines = header.split("\n", _MOST_LINES_ABOVE)
    for number, line in enumerate(lines[1:-1], blank_lines + 2):
        if table.required_names <= {*map(_folded, _header(line, table)[0])}:
            raise InputError(
                f"{name}: the header stands on line {number}, below others that begin "
                f'"{one_line(lines[0])}". Remove the lines above it.'
            )


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
    missing = [f'"{name}"' for name in table.column_names if name in table.required_names - {*names}]
    if missing:
        raise InputError(
            f"{source}: missing column {', '.join(missing)} (found: {one_line(', '.join(names))}). "
            "Add what is missing, or rename it in the file."
        )
    fields = [name if name in known else f"{_IGNORED}{n}" for n, name in enumerate(names)]
    return tuple(fields), tuple(name for name in names if name not in known)


def _parquet_columns(path: Path, name: str) -> tuple[str, ...]:
    try:
        with duckdb.connect() as session:
            rows = session.execute(f"describe from {_parquet_rows(path)}").fetchall()
    except duckdb.Error as error:
        raise InputError(f"{name}: is no whole Parquet file. Make a new extract.") from error
    return tuple(row[0] for row in rows)


def _parquet_rows(path: Path, *options: str) -> str:
    """SQL for the rows of a Parquet file as it stands, whatever its folders are called."""
    return f"read_parquet({', '.join([_file(path), 'hive_partitioning = false', *options])})"


def _as_text(columns: Sequence[str], fields: Sequence[str]) -> str:
    pairs = zip(columns, fields, strict=True)
    return ", ".join(f"{quoted(column)}::varchar as {quoted(field)}" for column, field in pairs)


def _file(path: Path) -> str:
    """The one file at `path` for DuckDB's readers, to which `*`, `?` and `[` make a pattern."""
    return literal(re.sub(r"([*?\[])", r"[\1]", str(path)))


_HEAD_BYTES = 1 << 20

_MOST_LINES_ABOVE = 30

_GZIP = b"\x1f\x8b"

#: How files of other kinds begin, by the way out. What begins with letters only is told from a header
#: by a byte that no text has. UTF-16 and UTF-32 without a mark show by their NULs, as in RFC 4627.
_KINDS = {
    "Save it as UTF-8": {
        "UTF-32 text": rb"\xff\xfe\0\0|\0\0\xfe\xff|[\t\n\r -~]\0\0\0|\0\0\0[\t\n\r -~]",
        "UTF-16 text": rb"\xff\xfe|\xfe\xff|([\t\n\r -~]\0){2}|(\0[\t\n\r -~]){2}",
    },
    "Unpack it, or save the sheet as CSV (UTF-8)": {
        "a zip archive or an Excel workbook": rb"PK\x03\x04",
        "an old Excel workbook": rb"\xd0\xcf\x11\xe0",
    },
    "Unpack it; gzip is the one packing that is read": {
        "a bzip2 file": rb"BZh[1-9]1AY&SY",
        "an xz file": rb"\xfd7zXZ\0",
        "a Zstandard file": rb"\x28\xb5\x2f\xfd",
        "a gzip file": rb"\x1f\x8b",
        "a tar archive": rb".{257}ustar[\0 ]",
    },
    "Save its rows as CSV or Parquet": {
        "a SQLite database": rb"SQLite format 3\0",
        "a DuckDB database": rb".{8}DUCK.{2}\0\0",
    },
    "Name it .parquet, without gzip around it": {"a Parquet file": rb"PAR1[\0-\x1f]"},
    "Fetch the extract again, as CSV": {
        "a PDF document": rb"%PDF",
        "a picture": rb"\x89PNG|\xff\xd8\xff",
        "JSON": rb"(\xef\xbb\xbf)?\s*[{\[]",
        "HTML or XML, often an error page in place of the extract": rb"(\xef\xbb\xbf)?\s*<",
        "a Git LFS pointer in place of the file (run git lfs pull)": rb"version https://git-lfs",
    },
}


def _read_head(path: Path, name: str) -> str:
    """The first megabyte of a CSV file, plain or gzipped, as text; its header is sound UTF-8."""
    with opened(path, name) as (stream, _):
        _refuse_wrong_packing(path, name)
        head = stream.read(_HEAD_BYTES)
    _refuse_other_kinds(name, head, around="gzip around " if path.suffix == ".gz" else "")
    header_end = head.find(b"\n", len(head) - len(head.lstrip()))
    _refuse_other_encodings(path, name, head if header_end < 0 else head[:header_end])
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise InputError(f"{name} is empty. It needs a header row and rows below it.")
    if "\r" in text.lstrip("\r\n").partition("\n")[0].rstrip("\r"):
        raise InputError(
            f"{name}: its lines end with CR alone, or CR stands in the header. Convert its line ends to "
            "LF, for example with mac2unix."
        )
    return text


def _refuse_wrong_packing(path: Path, name: str) -> None:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if path.suffix != ".gz" and head.startswith(_GZIP):
        raise InputError(f"{name}: holds gzip bytes. If that is right, name it .csv.gz.")
    if path.suffix == ".gz" and head and not head.startswith(_GZIP):
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


#: Encodings of one byte a character, as Python and iconv call them.
_EIGHT_BIT = {"cp1252": "WINDOWS-1252", "mac_roman": "MACINTOSH", "cp850": "CP850"}

_AROUND_BYTES = 30


def refuse_eight_bit(path: Path, name: str, *, block_bytes: int = _HEAD_BYTES) -> None:
    """Refuse a CSV file that has text beyond ASCII, none of which is UTF-8.

    Such a file is in another encoding as a whole; if some of it is UTF-8, single bytes are damaged. It
    is read once, by blocks. Raises InputError with the first line that shows it, and what that would
    read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    line, first = 1, None
    with opened(path, name) as (stream, _):
        while block := stream.read(block_bytes):
            if not decoder.decode(block).isascii():
                return
            if first is None and not block.isascii():
                at = re.search(rb"[\x80-\xff]", block).start()
                first = line + block.count(b"\n", 0, at), _around(block, at)
            line += block.count(b"\n")
    if first:
        readings = {iconv: _decoded(first[1], codec) for codec, iconv in _EIGHT_BIT.items()}
        likely = next(iconv for iconv, text in readings.items() if text)
        texts = ", ".join(f'"{text}" in {iconv}' for iconv, text in readings.items() if text)
        raise InputError(
            f"{name}: is not UTF-8 but an 8-bit encoding. Line {first[0]} shows it first, and reads "
            f"{texts}. Save it as UTF-8, for example with iconv -f {likely} -t UTF-8, or with the "
            "encoding that reads right."
        )


def _around(block: bytes, at: int) -> bytes:
    """What stands around a byte of a block, on its line."""
    before = re.split(rb"[\r\n]", block[max(at - _AROUND_BYTES, 0) : at])[-1]
    return before + re.split(rb"[\r\n]", block[at : at + _AROUND_BYTES])[0]


def _decoded(text: bytes, codec: str) -> str | None:
    try:
        return one_line(text.decode(codec))
    except UnicodeDecodeError:
        return None
