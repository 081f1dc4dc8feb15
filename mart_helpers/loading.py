"""Loading a declared table: good rows into `staging`, bad rows into `quarantine`, each row counted."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Table, read_contract
from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.files import sha256_of
from mart_helpers.parameters import resolve
from mart_helpers.quarantine import (
    Loaded,
    bad_rows,
    begin,
    commonest_problems,
    count_suspects,
    find_problems,
    quarantine_bad_rows,
    sample_problems,
)
from mart_helpers.session import Session, current_database, has_table, in_words, rows_folder
from mart_helpers.sources import (
    FEW_RECORDS,
    NOT_UTF8,
    CsvFile,
    Part,
    SeedRows,
    Source,
    batches,
    find_sources,
    halves,
    located,
    read_batch,
    refuse_eight_bit,
    state_of,
)
from mart_helpers.staging import (
    SUSPECT,
    add_unread,
    create_staging,
    fill_staging,
    mark_rows,
    staging_of,
)
from mart_helpers.texts import one_line

_FEW_BAD_ROWS = 20

_MOST_HALVED = 1_000

# A row group of DuckDB, which is written quickest: read at once behind a batch without rejects.
_ROW_GROUP = 122_880

_SHOWN_COLUMNS = 5

_REOPENED = "quotes close and open again within a field"

_DAMAGED = "its quotes or line ends are damaged"


class Outcome(NamedTuple):
    """What became of one file; `rows_read` is always `rows_loaded` plus `rows_quarantined`."""

    table_name: str
    file: str
    bytes: int
    sha256: str
    rows_read: int
    rows_loaded: int
    rows_quarantined: int
    ignored_columns: str
    defaulted_columns: str


class Loader:
    """Loads declared tables, from the extracts in `inputs_dir` or from seed rows.

    A table is refused if none of its rows is good, or if more than the share `max_rejected_share` (0 to
    1) of them is bad; fewer than 20 bad rows are too many only if they are more than half of it.
    """

    def __init__(self, session: Session, inputs_dir: str | Path, max_rejected_share: float) -> None:
        if not 0 <= max_rejected_share <= 1:
            raise UsageError(
                f"max_rejected_share: found {max_rejected_share:g}, expected a share from 0 to 1."
            )
        self._session, self._connection = session, session.connection
        self._inputs_dir = resolve(inputs_dir)
        self._max_rejected_share = max_rejected_share

    def load(self, table_name: str, *, from_seed: bool) -> None:
        """Fill `staging.<table_name>` from `seed.<table_name>`, or from its file or folder of files.

        Adds the bad rows to `quarantine` and a row for each file to `build_inputs`; doing it again
        replaces them. Raises InputError for a file that cannot be taken, StateError for a table that is
        not declared, or whose table of the star is made already, QueryError where memory or disk do not
        suffice.
        """
        with in_words():
            self._load(table_name, from_seed)

    def _load(self, table_name: str, from_seed: bool) -> None:
        table = read_contract(self._connection, table_name)
        if has_table(self._connection, current_database(self._connection), table.name):
            raise StateError(
                f"{table.name} is made already, of the rows that were loaded before. To load again, run "
                "the notebook from its top."
            )
        self._forget(table)
        seed = SeedRows(self._connection, table.name)
        sources = [seed] if from_seed else find_sources(self._inputs_dir, table)
        states = [state_of(source) for source in sources]
        create_staging(self._connection, table)
        begin(self._connection)
        reading = _Reading(self._session, table)
        for batch in batches(sources, lambda: reading.most):
            reading.read(batch)
        reading.refuse_other_encodings()
        read = Counter({source.name: 0 for source in sources})
        for batch in reading.loaded:
            for part in batch.parts:
                read[part.source.name] += part.count
        bad = self._judge(table, read, reading.loaded)
        quarantine_bad_rows(self._connection, table, reading.loaded)
        outcomes = [_outcome(table, each, read[each.name], bad[each.name]) for each in sources]
        for source, before in zip(sources, states, strict=True):
            if state_of(source) != before:
                raise InputError(f"{source.name}: changed while it was read. Run the build again.")
        self._record(outcomes)
        self._connection.execute(f"alter table {staging_of(table.name)} drop column {SUSPECT}")

    def _forget(self, table: Table) -> None:
        self._connection.execute("delete from quarantine where table_name = ?", [table.name])
        self._connection.execute(
            "delete from build_inputs where table_name = ? and build_id = getvariable('build_id')",
            [table.name],
        )

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        columns = ", ".join(f"unnest(${name}) as {name}" for name in Outcome._fields)
        self._connection.execute(
            f"insert into build_inputs by name select getvariable('build_id') as build_id, {columns}",
            dict(zip(Outcome._fields, map(list, zip(*outcomes, strict=True)), strict=True)),
        )

    def _judge(self, table: Table, read: Counter[str], loaded: Sequence[Loaded]) -> Counter[str]:
        """Find the problems of a table; the number of bad rows by source.

        Refuses the table if it, or most of a file of it, is too bad. If that is seen from counts alone,
        a sample of the bad rows has to do for the reasons.
        """
        for name, rows in read.items():
            if not rows:
                raise InputError(f"{name}: has a header and no rows. Make a new extract.")
        what = table.name if len(read) > 1 else next(iter(read))
        bad = count_suspects(self._connection, table)
        if self._is_too_bad(bad, read.total()):
            sampled = sample_problems(self._connection, table)
            raise self._refusal(what, bad, read.total(), loaded, sampled)
        bad = find_problems(self._connection, table)
        if self._is_too_bad(bad, read.total()):
            raise self._refusal(what, bad, read.total(), loaded)
        by_source = bad_rows(self._connection, loaded)
        for name, bad in by_source.items():
            if 2 * bad > read[name] and bad >= _FEW_BAD_ROWS and self._is_too_bad(bad, read[name]):
                raise self._refusal(name, bad, read[name], loaded)
        return by_source

    def _is_too_bad(self, bad: int, read: int) -> bool:
        is_much = bad >= _FEW_BAD_ROWS or 2 * bad > read
        return bad == read or (is_much and bad > self._max_rejected_share * read)

    def _refusal(
        self, what: str, bad: int, read: int, loaded: Sequence[Loaded], sampled: str = ""
    ) -> InputError:
        problem = f"none of its {read:,} rows is good"
        if bad < read:
            share = f"max_rejected_share = {self._max_rejected_share:g}"
            problem = f"{bad:,} of its {read:,} rows are bad, more than {share} lets pass"
        kinds, more = commonest_problems(self._connection, loaded)
        lines = [f"{what}: {problem}{sampled}."]
        # those of the one file that is read need not name it
        lines += [
            f"  {rows:,} × such as {f'{file}, ' if file != what else ''}line {line}: {reason}"
            for rows, file, line, reason in kinds
        ]
        lines += [f"  and {more} more"] if more else []
        return InputError("\n".join([*lines, "Mend the file, or make a new extract."]))


class _Reading:
    """The batches of one table on their way into staging."""

    def __init__(self, session: Session, table: Table) -> None:
        self._connection, self._table = session.connection, table
        self._folder = rows_folder(session.candidate)
        self._staged = staging_of(table.name)
        self._next_row = self._halved = 0
        self.most = FEW_RECORDS
        self._not_utf8: Counter[CsvFile] = Counter()
        self.loaded: list[Loaded] = []

    def read(self, batch: Sequence[Part]) -> None:
        """Add the records of a batch to staging; those that cannot be read have a row without values.

        A batch in which DuckDB sees other records than were counted is halved, until the record that it
        reads in another way is alone. Raises InputError where very many are.
        """
        rejected, failure = self._fill(batch)
        _, rows = self._new_rows()
        count = sum(part.count for part in batch)
        if failure or rows + len(rejected) != count:
            self._connection.execute(f"delete from {self._staged} where rowid >= {self._next_row}")
            self._halved += 1
            if batch[0].block is None or self._halved > _MOST_HALVED:
                raise _unreadable(batch, rows + len(rejected), failure)
            if apart := halves(batch):
                for half in apart:
                    self.read(half)
                return
            rejected = {0: _DAMAGED}
        self.most = FEW_RECORDS if rejected else _ROW_GROUP
        add_unread(self._connection, self._table, rejected.values())
        first_row, _ = self._new_rows()
        self._next_row = first_row + count
        self.loaded.append(Loaded(first_row, _merged(batch), [*rejected]))
        self._mark_reopened(batch, self.loaded[-1])
        odd = [ordinal for ordinal, reason in rejected.items() if reason == NOT_UTF8]
        self._not_utf8.update(source for source, _ in located(batch, odd))

    def refuse_other_encodings(self) -> None:
        """Raise InputError for a file of which several rows, and no other text, are no UTF-8."""
        for source, rows in self._not_utf8.items():
            if rows > 1:
                refuse_eight_bit(source.path, source.name)

    def _fill(self, batch: Sequence[Part]) -> tuple[dict[int, str], duckdb.Error | None]:
        fields = batch[0].source.fields
        try:
            _, rejected = read_batch(
                self._connection,
                batch,
                self._folder,
                lambda rows: fill_staging(self._connection, self._table, rows, fields),
            )
        except duckdb.InvalidInputException as error:  # of records that it cannot tell apart
            return {}, error
        return rejected, None

    def _new_rows(self) -> tuple[int, int]:
        """The first row id behind those of the batches before, and how many there are."""
        return self._connection.execute(
            f"select min(rowid), count(*) from {self._staged} where rowid >= {self._next_row}"
        ).fetchone()

    def _mark_reopened(self, batch: Sequence[Part], loaded: Loaded) -> None:
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


def _outcome(table: Table, source: Source, read: int, bad: int) -> Outcome:
    is_seed = isinstance(source, SeedRows)
    return Outcome(
        table_name=table.name,
        file=source.name,
        bytes=0 if is_seed else source.path.stat().st_size,
        sha256="" if is_seed else sha256_of(source.path),
        rows_read=read,
        rows_loaded=read - bad,
        rows_quarantined=bad,
        ignored_columns=_listed(source.ignored),
        defaulted_columns=", ".join(name for name in table.column_names if name not in source.fields),
    )


def _listed(names: Sequence[str]) -> str:
    """A few of the names of ignored columns, fit to be shown, and how many more there are."""
    shown = [one_line(name, 60) or "without a name" for name in dict.fromkeys(names)]
    more = [f"{len(shown) - _SHOWN_COLUMNS:,} more"] if len(shown) > _SHOWN_COLUMNS else []
    return ", ".join(shown[:_SHOWN_COLUMNS] + more)


def _unreadable(batch: Sequence[Part], rows: int, failure: duckdb.Error | None) -> InputError:
    name, count = batch[0].source.name, sum(part.count for part in batch)
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
