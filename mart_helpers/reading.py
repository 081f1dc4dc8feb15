"""Reads the records of sources batch by batch, and knows where each row comes from.

DuckDB reads a batch directly. If the number of rows differs from the count of records, each unreadable
record is replaced by a row that says why, and the batch is read again.
"""

import shutil
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Table
from mart_helpers.errors import InputError
from mart_helpers.records import NOT_UTF8
from mart_helpers.session import Session, rows_folder
from mart_helpers.sources import CsvFile, Part, Source, refuse_eight_bit
from mart_helpers.staging import fill_staging, staging_of
from mart_helpers.texts import one_line

# Whole row groups of DuckDB, so that several threads can share the work.
_MOST_RECORDS, _MOST_BYTES = 8 * 122_880, 64 << 20

#: Adds the rows of a query over the batch, and returns their number.
Fill = Callable[[str, Sequence[Part]], int]


class Run(NamedTuple):
    """Consecutive rows from id `row` on, which hold `count` records of a source from `number` on."""

    row: int
    source: Source
    number: int
    count: int


def origins(runs: Sequence[Run], rows: Iterable[int]) -> Iterator[tuple[Source, int]]:
    """Source and record number of each of these rows."""
    firsts = [run.row for run in runs]
    for row in rows:
        run = runs[bisect_right(firsts, row) - 1]
        yield run.source, run.number + row - run.row


class Reading:
    """Reads records of sources into a staging table, and notes their origin in `runs`."""

    def __init__(self, session: Session, table: Table, fill: Fill | None = None) -> None:
        self._connection, self._staged = session.connection, staging_of(table.name)
        self._folder = rows_folder(session.candidate)
        self._fill = fill or (
            lambda rows, batch: fill_staging(session.connection, table, rows, batch[0].source.fields)
        )
        self._next_row = 0
        self.runs: list[Run] = []

    def read_all(self, sources: Iterable[Source]) -> None:
        """Add the records of these sources to staging.

        Raises InputError for a file in another encoding, or whose records cannot be told apart.
        """
        not_utf8: Counter[Source] = Counter()
        for batch in batches(sources):
            not_utf8 += read_batch(batch, self._folder, lambda rows, batch=batch: self._add(rows, batch))
            self._note(batch)
        for source, rows in not_utf8.items():
            if rows > 1 and not source.reader:
                refuse_eight_bit(source.path, source.name)

    def records(self, sources: Iterable[Source]) -> Counter[str]:
        """How many records were read of each of these sources, by its name."""
        read = Counter({source.name: 0 for source in sources})
        for run in self.runs:
            read[run.source.name] += run.count
        return read

    def _add(self, rows: str, batch: Sequence[Part]) -> int:
        # remove what a failed attempt added
        self._connection.execute(f"delete from {self._staged} where rowid >= {self._next_row}")
        return self._fill(rows, batch)

    def _note(self, batch: Sequence[Part]) -> None:
        """Note the runs of a batch that was just read."""
        self._next_row = (
            1 + self._connection.execute(f"select max(rowid) from {self._staged}").fetchone()[0]
        )
        row = self._next_row - sum(part.count for part in batch)
        for source, number, count, _ in batch:
            last = self.runs[-1] if self.runs else None
            if last and last.source is source and last.row + last.count == row:
                self.runs[-1] = last._replace(count=last.count + count)
            else:
                self.runs.append(Run(row, source, number, count))
            row += count


def batches(sources: Iterable[Source]) -> Iterator[list[Part]]:
    """The parts of the sources in order, grouped into batches to read at once."""
    batch: list[Part] = []
    records = size = 0
    for part in chain.from_iterable(source.parts() for source in sources):
        records, size = records + part.count, size + part.size
        fits = records <= _MOST_RECORDS and size <= _MOST_BYTES
        if batch and not (fits and _are_alike(part.source, batch[-1].source)):
            yield batch
            batch, records, size = [], part.count, part.size
        batch.append(part)
    if batch:
        yield batch


def _are_alike(one: Source, other: Source) -> bool:
    """Whether their records have the same format, and so can be read together."""
    return isinstance(one, CsvFile) and isinstance(other, CsvFile) and one[2:] == other[2:]


def read_batch(batch: Sequence[Part], folder: Path, run: Callable[[str], int]) -> Counter[Source]:
    """Have `run` read the rows of a batch, one per record; how many records are not UTF-8, by source.

    `run` gets a query for the rows and returns their number; if that is wrong, it gets a second query.
    Meanwhile the `folder` holds the records of a CSV file. Raises InputError for a batch that cannot be
    read.
    """
    source, count = batch[0].source, sum(part.count for part in batch)
    rows, not_utf8 = 0, Counter[Source]()
    try:
        if not isinstance(source, CsvFile):
            rows = run(source.rows_sql)
        elif not any(part.block.is_odd for part in batch):
            texts = [part.block.text for part in batch]
            line_end = r"\r\n" if texts[-1].endswith(b"\r\n") else r"\n"
            # with several threads, DuckDB refuses fields that contain line ends
            is_plain = all(part.block.is_plain for part in batch)
            with suppress(duckdb.InvalidInputException):
                rows = _read_texts(source, texts, folder, run, line_end, parallel=is_plain)
        if rows != count and isinstance(source, CsvFile):
            rows = _read_texts(source, _mended(batch, not_utf8), folder, run, r"\n", parallel=False)
    except duckdb.InvalidInputException as error:
        reason = one_line(str(error))
        raise InputError(f"{source.name}: cannot be read ({reason}). Make a new extract.") from error
    if rows != count:
        raise InputError(
            f"{source.name}: has {count:,} rows from row {batch[0].first:,} on, but {rows:,} were "
            "read. It is damaged, or it changed while it was read. Make a new extract."
        )
    return not_utf8


def _read_texts(
    source: CsvFile,
    texts: Iterable[bytes],
    folder: Path,
    run: Callable[[str], int],
    line_end: str,
    *,
    parallel: bool,
) -> int:
    path = folder / "rows.csv"
    folder.mkdir(exist_ok=True)
    try:
        with path.open("wb") as file:
            file.writelines(texts)
        return run(source.rows_sql(path, line_end, parallel=parallel))
    finally:
        shutil.rmtree(folder)


def _mended(batch: Sequence[Part], not_utf8: Counter[Source]) -> Iterator[bytes]:
    """The records of a batch, with each unreadable one replaced by a row that says why."""
    for source, _, _, block in batch:

        def unread(reason: str, source: CsvFile = source) -> bytes:
            not_utf8[source] += reason == NOT_UTF8
            return source.unread(reason)

        yield from block.mended(source.delimiter, len(source.fields), unread)
