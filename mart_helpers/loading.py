"""Loading a declared table: good rows into `staging`, bad rows into `quarantine`, each row counted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Table, read_contract
from mart_helpers.errors import InputError, MartError, StateError, UsageError
from mart_helpers.parameters import resolve
from mart_helpers.quarantine import (
    Reading,
    begin,
    commonest_problems,
    find_problems,
    mark_reopened,
    note_rejected,
    quarantine_bad_rows,
)
from mart_helpers.records import FileCount
from mart_helpers.session import Session, current_database, has_table, in_words
from mart_helpers.sources import (
    SeedRows,
    Source,
    find_sources,
    read_rows,
    refuse_eight_bit,
    state_of,
)
from mart_helpers.staging import SUSPECT, create_staging, fill_staging, staging_of
from mart_helpers.texts import one_line

_FEW_BAD_ROWS = 20

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
        readings = [self._read(table, source) for source in sources]
        self._refuse_too_bad(table, readings, find_problems(self._connection, table))
        quarantined = quarantine_bad_rows(self._connection, table, readings)
        for source, before in zip(sources, states, strict=True):
            if state_of(source) != before:
                raise InputError(f"{source.name}: changed while it was read. Run the build again.")
        for reading, bad in zip(readings, quarantined, strict=True):
            self._record(_outcome(table, reading, bad))
        self._connection.execute(f"alter table {staging_of(table.name)} drop column {SUSPECT}")

    def _forget(self, table: Table) -> None:
        self._connection.execute("delete from quarantine where table_name = ?", [table.name])
        self._connection.execute(
            "delete from build_inputs where table_name = ? and build_id = getvariable('build_id')",
            [table.name],
        )

    def _record(self, outcome: Outcome) -> None:
        values = outcome._asdict()
        columns = ", ".join(f"${name} as {name}" for name in values)
        self._connection.execute(
            f"insert into build_inputs by name select getvariable('build_id') as build_id, {columns}",
            values,
        )

    def _read(self, table: Table, source: Source) -> Reading:
        """Read a source into staging, while a thread counts its rows."""
        first_row = self._staged(table)
        with ThreadPoolExecutor(1) as beside:
            counting = beside.submit(self._counted, source)
            failure = self._fill(table, source)
            wait([counting])  # so that nothing that comes after is interrupted
        count = counting.result()
        if failure is not None:
            raise _unreadable(source, failure) from failure
        rows = self._staged(table) - first_row
        reading = Reading(source, count, first_row, rows, self._rejected(source))
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

    def _fill(self, table: Table, source: Source) -> duckdb.Error | None:
        def fill(rows_sql: str) -> None:
            self._connection.execute(
                "drop table if exists reject_errors; drop table if exists reject_scans"
            )
            fill_staging(self._connection, table, rows_sql, source.fields)

        try:
            read_rows(source, fill)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            return error
        return None

    def _rejected(self, source: Source) -> list[int]:
        rejected = note_rejected(self._connection, source)
        if rejected and self._connection.execute(_ROWS_NOT_UTF8).fetchone() > (1,):
            refuse_eight_bit(source.path, source.name)
        return rejected

    def _staged(self, table: Table) -> int:
        return self._connection.execute(f"select count(*) from {staging_of(table.name)}").fetchone()[0]

    def _refuse_too_bad(self, table: Table, readings: Sequence[Reading], bad_rows: int) -> None:
        for reading in readings:
            if not reading.count.records:
                raise InputError(f"{reading.source.name}: has a header and no rows. Make a new extract.")
        what = (
            readings[0].source.name if len(readings) == 1 else f"{table.name}, {len(readings):,} files"
        )
        bad = bad_rows + sum(len(reading.rejected) for reading in readings)
        read = sum(reading.count.records for reading in readings)
        if bad == read:
            problem = f"none of its {read:,} rows is good"
        elif bad > self._max_rejected_share * read and (bad >= _FEW_BAD_ROWS or 2 * bad > read):
            problem = (
                f"{bad:,} of its {read:,} rows are bad, more than max_rejected_share = "
                f"{self._max_rejected_share:g} lets pass"
            )
        else:
            return
        kinds, more = commonest_problems(self._connection, readings)
        lines = [
            f"  {rows:,} × such as {f'{file}, ' if len(readings) > 1 else ''}line {line}: {reason}\n"
            for rows, file, line, reason in kinds
        ]
        lines += [f"  and {more} more\n"] if more else []
        raise InputError(f"{what}: {problem}.\n{''.join(lines)}Mend the file, or make a new extract.")


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


_ROWS_NOT_UTF8 = "select count(distinct line) from reject_errors where error_type = 'INVALID ENCODING'"
