"""Reading the records of sources into a staging table, those that cannot be read among them."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

import duckdb

from mart_helpers.contract import Table
from mart_helpers.errors import InputError
from mart_helpers.quarantine import Loaded
from mart_helpers.session import Session, rows_folder
from mart_helpers.sources import (
    FEW_RECORDS,
    NOT_UTF8,
    CsvFile,
    Part,
    Source,
    batches,
    halves,
    located,
    read_batch,
    records_of,
    refuse_eight_bit,
)
from mart_helpers.staging import add_unread, fill_staging, mark_rows, staging_of
from mart_helpers.texts import one_line

_MOST_HALVED = 1_000

# Read at once behind a batch without rejects: on several threads, into whole row groups of DuckDB.
_MANY_RECORDS = 8 * 122_880

_REOPENED = "quotes close and open again within a field"

_DAMAGED = "its quotes or line ends are damaged"


class Reading:
    """The batches of one table on their way into staging."""

    def __init__(self, session: Session, table: Table) -> None:
        self._connection, self._table = session.connection, table
        self._folder = rows_folder(session.candidate)
        self._staged = staging_of(table.name)
        self._next_row = self._halved = 0
        self._most = FEW_RECORDS
        self._not_utf8: Counter[CsvFile] = Counter()
        self.loaded: list[Loaded] = []

    def read_all(self, sources: Iterable[Source]) -> None:
        """Add the records of these sources to staging.

        Raises InputError for a file whose records cannot be told apart, or which is in another encoding.
        """
        for batch in batches(sources, lambda: self._most):
            self._read(batch)
        for source, rows in self._not_utf8.items():
            if rows > 1 and not source.reader:
                refuse_eight_bit(source.path, source.name)

    def records(self, sources: Iterable[Source]) -> Counter[str]:
        """How many records were read of each of these sources, by its name."""
        read = Counter({source.name: 0 for source in sources})
        for batch in self.loaded:
            for part in batch.parts:
                read[part.source.name] += part.count
        return read

    def _read(self, batch: Sequence[Part]) -> None:
        """Add the records of a batch to staging; those that cannot be read have a row without values.

        A batch in which DuckDB sees other records than were counted is halved, until the record that it
        reads in another way is alone. Raises InputError where very many are.
        """
        rejected, failure = self._fill(batch)
        _, rows = self._new_rows()
        count = records_of(batch)
        if failure or rows + len(rejected) != count:
            self._connection.execute(f"delete from {self._staged} where rowid >= {self._next_row}")
            self._halved += count <= FEW_RECORDS
            if batch[0].block is None or self._halved > _MOST_HALVED:
                raise _unreadable(batch, rows + len(rejected), failure)
            if apart := halves(batch):
                for half in apart:
                    self._read(half)
                return
            rejected = {0: _DAMAGED}
        self._most = FEW_RECORDS if rejected else _MANY_RECORDS
        add_unread(self._connection, self._table, rejected.values())
        first_row, _ = self._new_rows()
        self._next_row = first_row + count
        self.loaded.append(Loaded(first_row, _merged(batch), [*rejected]))
        self._complete(batch, self.loaded[-1])
        odd = [ordinal for ordinal, reason in rejected.items() if reason == NOT_UTF8]
        self._not_utf8.update(source for source, _ in located(batch, odd))

    def _fill(self, batch: Sequence[Part]) -> tuple[dict[int, str], duckdb.Error | None]:
        try:
            _, rejected = read_batch(
                self._connection,
                batch,
                self._folder,
                lambda rows: self._fill_rows(rows, batch),
            )
        except duckdb.InvalidInputException as error:  # of records that it cannot tell apart
            return {}, error
        return rejected, None

    def _fill_rows(self, rows: str, batch: Sequence[Part]) -> None:
        fill_staging(self._connection, self._table, rows, batch[0].source.fields)

    def _new_rows(self) -> tuple[int, int]:
        """The first row id behind those of the batches before, and how many there are."""
        return self._connection.execute(
            f"select min(rowid), count(*) from {self._staged} where rowid >= {self._next_row}"
        ).fetchone()

    def _complete(self, batch: Sequence[Part], loaded: Loaded) -> None:
        """Mark as bad what is read without the quotes that open again within a field."""
        row_ids, begin = [], 0
        for part in batch:
            for index in part.block.reopened(part.source.delimiter) if part.block else ():
                before = bisect_left(loaded.unread, begin + index)
                if loaded.unread[before : before + 1] != [begin + index]:
                    row_ids.append(loaded.first_row + begin + index - before)
            begin += part.count
        if row_ids:
            mark_rows(self._connection, self._table, row_ids, _REOPENED)


def _merged(batch: Sequence[Part]) -> list[Part]:
    """Where the records of a batch stand, without themselves."""
    parts: list[Part] = []
    for part in batch:
        if parts and parts[-1].source is part.source:
            parts[-1] = parts[-1]._replace(count=parts[-1].count + part.count)
        else:
            parts.append(part._replace(block=None))
    return parts


def _unreadable(batch: Sequence[Part], rows: int, failure: duckdb.Error | None) -> InputError:
    name, count = batch[0].source.name, records_of(batch)
    if "state machine" in str(failure):
        return InputError(
            f"{name}: its line ends are mixed (LF, CRLF or CR alone), so rows cannot be told "
            "apart for certain. Convert them to one kind, for example with dos2unix."
        )
    if failure:
        return InputError(f"{name}: cannot be read ({one_line(str(failure))}). Make a new extract.")
    return InputError(
        f"{name}: holds {count:,} rows from its row {batch[0].first:,} on, but {rows:,} were read. Its "
        "quotes or line ends are damaged, or it changed while it was read: make a new extract."
    )
