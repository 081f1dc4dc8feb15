"""Loading a declared table: good rows into `staging`, bad rows into `quarantine`, each row counted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Table, read_contract
from mart_helpers.errors import InputError, MartError, StateError, UsageError
from mart_helpers.parameters import resolve
from mart_helpers.quarantine import (
    Reading,
    bad_rows,
    begin,
    commonest_problems,
    count_suspects,
    find_problems,
    mark_reopened,
    note_head,
    note_rejected,
    quarantine_bad_rows,
    sample_problems,
)
from mart_helpers.records import FileCount
from mart_helpers.session import Session, current_database, has_table, in_words
from mart_helpers.sources import (
    FILE_INDEX,
    CsvFile,
    SeedRows,
    Source,
    find_sources,
    read_rows,
    state_of,
)
from mart_helpers.staging import SUSPECT, create_staging, fill_staging, staging_of
from mart_helpers.texts import one_line

_FEW_BAD_ROWS = 20

_MOST_UNREAD = 100_000

_MOST_TOGETHER = 100

_SHOWN_COLUMNS = 5


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
        self._connection = session.connection
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
        readings: list[Reading] = []
        for group in _alike(sources):
            readings += self._read_together(table, group) or [self._read(table, each) for each in group]
        self._judge(table, readings)
        quarantined = quarantine_bad_rows(self._connection, table, readings)
        for source, before in zip(sources, states, strict=True):
            if state_of(source) != before:
                raise InputError(f"{source.name}: changed while it was read. Run the build again.")
        self._record(
            [_outcome(table, each, bad) for each, bad in zip(readings, quarantined, strict=True)]
        )
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

    def _read_together(self, table: Table, group: Sequence[CsvFile]) -> list[Reading]:
        """Read files that are written alike at once; nothing, if one of them is not read as counted."""
        if len(group) == 1:
            return []
        counts = [source.count() for source in group]
        first, *others = group
        together = first._replace(others=tuple(each.path for each in others), notes_rejects=False)
        try:
            read_rows(
                together,
                lambda rows: self._connection.execute(f"create or replace temp table texts as {rows}"),
            )
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error:
            return []
        found = self._connection.execute(f"select {FILE_INDEX}, count(*) from texts group by all")
        rows = dict(found.fetchall())
        if [rows.get(n, 0) for n in range(len(group))] != [count.records for count in counts]:
            return []
        next_row = self._next_row(table)
        fill_staging(self._connection, table, "from texts", first.fields)
        first_row, _ = self._read_rows(table, next_row)
        firsts = accumulate((count.records for count in counts), initial=first_row)
        readings = [
            Reading(source, count, first_row, count.records, [])
            for source, count, first_row in zip(group, counts, firsts, strict=False)
        ]
        for reading in readings:
            mark_reopened(self._connection, table, reading)
        return readings

    def _read(self, table: Table, source: Source) -> Reading:
        """Read a source into staging, while a thread counts its rows."""
        next_row = self._next_row(table)
        with ThreadPoolExecutor(1) as beside:
            counting = beside.submit(self._counted, source)
            failure = self._fill(table, source, notes_rejects=False)
            wait([counting])  # so that nothing that comes after is interrupted
        count = counting.result()
        first_row, rows = self._read_rows(table, next_row)
        rejected: list[int] = []
        if failure is None and rows < count.records and isinstance(source, CsvFile):
            self._refuse_unread(source, count.records - rows, count.records)
            # with a row whose quotes are damaged DuckDB ends a file, unless it notes what it rejects
            self._connection.execute(f"delete from {staging_of(table.name)} where rowid >= {next_row}")
            failure = self._fill(table, source, notes_rejects=True)
            first_row, rows = self._read_rows(table, next_row)
            rejected = note_rejected(self._connection, source) if failure is None else []
        if failure is not None:
            raise _unreadable(source, failure) from failure
        reading = Reading(source, count, first_row, rows, rejected)
        _refuse_miscount(reading)
        mark_reopened(self._connection, table, reading)
        return reading

    def _counted(self, source: Source) -> FileCount:
        """The count of a source; DuckDB, which reads it meanwhile, does not go on if it is refused."""
        try:
            return source.count()
        except MartError:
            self._connection.interrupt()
            raise

    def _fill(self, table: Table, source: Source, *, notes_rejects: bool) -> duckdb.Error | None:
        if isinstance(source, CsvFile):
            source = source._replace(notes_rejects=notes_rejects)
        try:  # any of these may be interrupted by the count
            self._connection.execute(
                "drop table if exists reject_errors; drop table if exists reject_scans"
            )
            read_rows(source, lambda rows: fill_staging(self._connection, table, rows, source.fields))
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            return error
        return None

    def _refuse_unread(self, source: CsvFile, unread: int, records: int) -> None:
        """Refuse a file of which very many rows are not read; the first ones say why."""
        if unread > _MOST_UNREAD:
            with source.head() as head:
                is_damaged = note_head(self._connection, head)
            if is_damaged:
                raise _too_bad(
                    f"{source.name}: {unread:,} of its {records:,} rows cannot be read; of the first:",
                    self._reasons([]),
                )

    def _next_row(self, table: Table) -> int:
        sql = f"select coalesce(max(rowid) + 1, 0) from {staging_of(table.name)}"
        return self._connection.execute(sql).fetchone()[0]

    def _read_rows(self, table: Table, next_row: int) -> tuple[int, int]:
        """The first of the row ids from `next_row` on, and how many there are."""
        return self._connection.execute(
            f"select coalesce(min(rowid), {next_row}), count(*) from {staging_of(table.name)} "
            f"where rowid >= {next_row}"
        ).fetchone()

    def _judge(self, table: Table, readings: Sequence[Reading]) -> None:
        """Find the problems of a table; refuse it if it, or most of a file of it, is too bad.

        If that is seen from counts alone, a sample of the bad rows has to do for the reasons.
        """
        for reading in readings:
            if not reading.count.records:
                raise InputError(f"{reading.source.name}: has a header and no rows. Make a new extract.")
        what = table.name if len(readings) > 1 else readings[0].source.name
        read = sum(reading.count.records for reading in readings)
        rejected = sum(len(reading.rejected) for reading in readings)
        bad = count_suspects(self._connection, table) + rejected
        if self._is_too_bad(bad, read):
            sampled = sample_problems(self._connection, table)
            raise self._refusal(what, bad, read, readings, sampled)
        bad = find_problems(self._connection, table) + rejected
        if self._is_too_bad(bad, read):
            raise self._refusal(what, bad, read, readings)
        if bad >= _FEW_BAD_ROWS:
            for reading, bad in zip(readings, bad_rows(self._connection, readings), strict=True):
                read = reading.count.records
                if 2 * bad > read and bad >= _FEW_BAD_ROWS and self._is_too_bad(bad, read):
                    raise self._refusal(reading.source.name, bad, read, readings)

    def _is_too_bad(self, bad: int, read: int) -> bool:
        is_much = bad >= _FEW_BAD_ROWS or 2 * bad > read
        return bad == read or (is_much and bad > self._max_rejected_share * read)

    def _refusal(
        self, what: str, bad: int, read: int, readings: Sequence[Reading], sampled: str = ""
    ) -> InputError:
        problem = f"none of its {read:,} rows is good"
        if bad < read:
            share = f"max_rejected_share = {self._max_rejected_share:g}"
            problem = f"{bad:,} of its {read:,} rows are bad, more than {share} lets pass"
        return _too_bad(f"{what}: {problem}{sampled}.", self._reasons(readings))

    def _reasons(self, readings: Sequence[Reading]) -> str:
        """Lines for the commonest problems; those of the one file that is read need not name it."""
        kinds, more = commonest_problems(self._connection, readings)
        lines = [
            f"  {rows:,} × such as {f'{file}, ' if len(readings) > 1 else ''}line {line}: {reason}\n"
            for rows, file, line, reason in kinds
        ]
        return "".join(lines + ([f"  and {more} more\n"] if more else []))


def _alike(sources: Sequence[Source]) -> list[list[Source]]:
    """The sources in their order, those next to each other together that can be read at once."""
    groups: list[list[Source]] = []
    for source in sources:
        last = groups[-1] if groups else []
        if (
            last
            and isinstance(source, CsvFile)
            and len(last) < _MOST_TOGETHER
            and source.is_like(last[-1])
        ):
            last.append(source)
        else:
            groups.append([source])
    return groups


def _outcome(table: Table, reading: Reading, bad: int) -> Outcome:
    source, count = reading.source, reading.count
    return Outcome(
        table_name=table.name,
        file=source.name,
        bytes=count.bytes,
        sha256=count.sha256,
        rows_read=count.records,
        rows_loaded=count.records - bad,
        rows_quarantined=bad,
        ignored_columns=_listed(source.ignored),
        defaulted_columns=", ".join(name for name in table.column_names if name not in source.fields),
    )


def _listed(names: Sequence[str]) -> str:
    """A few of the names of ignored columns, fit to be shown, and how many more there are."""
    shown = [one_line(name, 60) or "without a name" for name in dict.fromkeys(names)]
    more = [f"{len(shown) - _SHOWN_COLUMNS:,} more"] if len(shown) > _SHOWN_COLUMNS else []
    return ", ".join(shown[:_SHOWN_COLUMNS] + more)


def _too_bad(problem: str, reasons: str) -> InputError:
    return InputError(f"{problem}\n{reasons}Mend the file, or make a new extract.")


def _unreadable(source: Source, failure: duckdb.Error) -> InputError:
    if "state machine" in str(failure):
        return InputError(
            f"{source.name}: its line ends are mixed (LF, CRLF or CR alone), so rows cannot be told "
            "apart for certain. Convert them to one kind, for example with dos2unix."
        )
    return InputError(f"{source.name}: cannot be read ({one_line(str(failure))}). Make a new extract.")


def _refuse_miscount(reading: Reading) -> None:
    seen = reading.rows + len(reading.rejected)
    if seen != reading.count.records:
        raise InputError(
            f"{reading.source.name}: the file holds {reading.count.records:,} rows, but {seen:,} were "
            "read. Its quotes or line ends are damaged, or it changed while it was read: make a new "
            "extract."
        )
