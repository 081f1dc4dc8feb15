"""Loading a declared table: good rows into `staging`, bad rows into `quarantine`, each row counted."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from datetime import date
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Table, read_contract
from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.looking import Look, Lookout
from mart_helpers.parameters import resolve
from mart_helpers.quarantine import (
    Quarantined,
    Reading,
    Reject,
    commonest_reasons,
    find_problems,
    mark_reopened,
    quarantine_bad_rows,
)
from mart_helpers.records import REJECTED_AT, FileCount
from mart_helpers.session import Session, current_database, has_table, in_words
from mart_helpers.sources import (
    CsvFile,
    SeedRows,
    Source,
    find_sources,
    read_rows,
    refuse_eight_bit,
    refuse_open_quote,
)
from mart_helpers.staging import create_staging, fill_staging
from mart_helpers.taking_over import EarlierFile, FileRows, noted, take_over
from mart_helpers.texts import one_line


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
    first_day: date | None
    last_day: date | None
    rows_hash: str | None
    taken_over: bool


class Loader:
    """Loads declared tables, from the extracts in `inputs_dir` or from seed rows.

    A file of which more than the share `max_rejected_share` (0 to 1) is bad, or that has no good row,
    is refused.
    """

    def __init__(self, session: Session, inputs_dir: str | Path, max_rejected_share: float) -> None:
        if not 0 <= max_rejected_share <= 1:
            raise UsageError(
                f"max_rejected_share: found {max_rejected_share:g}, expected a share from 0 to 1."
            )
        self._session = session
        self._connection = session.connection
        self._inputs_dir = resolve(inputs_dir)
        self._max_rejected_share = max_rejected_share
        self._lookout = Lookout(self._connection, self._inputs_dir)

    def load(self, table_name: str, *, from_seed: bool) -> None:
        """Fill `staging.<table_name>` from `seed.<table_name>`, or from its file or folder of files.

        Where it is a folder, the rows of files that have not changed since the last build are taken from
        the published mart.
        Adds the bad rows to `quarantine` and a row for each file to `build_inputs`; doing it again
        replaces them. Raises InputError for a file that cannot be taken, StateError for a table that
        is not declared, or whose table of the star is made already, QueryError where memory or disk do
        not suffice.
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
        if not from_seed:
            self._lookout.look_ahead()
        may_take_over = False
        for outcome in self._outcomes(table, sources, may_take_over):
            self._refuse_too_bad(outcome)
            self._record(outcome)
        self._connection.execute(f"alter table staging.{table.name} drop column suspect")

    def _outcomes(
        self, table: Table, sources: Sequence[Source], may_take_over: bool
    ) -> Iterator[Outcome]:
        """Fill staging and quarantine, and say of each source in turn what became of it."""
        create_staging(self._connection, table)
        taken = take_over(self._connection, table, sources) if may_take_over else {}
        taken_rows = self._staged(table)
        read = [self._read(table, source) for source in sources if source.name not in taken]
        find_problems(self._connection, table)
        if self._are_in_doubt(taken_rows):
            yield from self._outcomes(table, sources, may_take_over=False)
            return
        readings = [reading for reading, _ in read]
        notes = [noted(self._connection, table, each) if len(sources) > 1 else None for each in readings]
        bad = quarantine_bad_rows(self._connection, table, readings)
        parsed = zip(read, notes, bad, strict=True)
        for source in sources:
            if source.name in taken:
                yield _taken_over(table, source, taken[source.name])
            else:
                (reading, count), rows, quarantined = next(parsed)
                yield _outcome(table, reading, count, rows, quarantined)

    def _are_in_doubt(self, taken_rows: int) -> bool:
        """Whether a problem touches one of the first rows of staging, those that were taken over.

        Only who parses a file knows the line of a row, and which of two rows comes first.
        """
        touching = f"select count(*) from problems where least(row_id, first_row_id) < {taken_rows}"
        return bool(taken_rows) and self._connection.execute(touching).fetchall() != [(0,)]

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

    def _read(self, table: Table, source: Source) -> tuple[Reading, FileCount]:
        """Read a source into staging while another look at it counts its rows."""
        first_row = self._staged(table)
        look = self._lookout.look(table.name, source)
        has_blanks = look.may_hold_blanks.result()
        counting = self._lookout.beside(self._counted, look)
        try:
            failure = None if _has_long_line(look.count) else self._fill(table, source, has_blanks)
        finally:
            wait([counting])  # nothing that comes after is interrupted
        count = counting.result()
        _refuse_damaged(source, count, failure)
        rows = self._staged(table) - first_row
        reading = Reading(source, first_row, rows, self._rejects(source))
        mark_reopened(self._connection, table, reading, count.reopened)
        return reading, count

    def _counted(self, look: Look) -> FileCount:
        """The count of a source; DuckDB, which reads it meanwhile, does not go on if it is refused."""
        count = look.count.result()
        if count.long_line is not None:
            self._connection.interrupt()
        return count

    def _fill(self, table: Table, source: Source, has_blanks: bool) -> duckdb.Error | None:
        def fill(rows_sql: str) -> None:
            for name in ("reject_errors", "reject_scans"):
                self._connection.execute(f"drop table if exists {name}")
            fill_staging(self._connection, table, rows_sql, source.fields, has_blanks)

        try:
            read_rows(source, fill)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            return error
        return None

    def _rejects(self, source: Source) -> list[Reject]:
        if not isinstance(source, CsvFile):
            return []
        rejects = [Reject(*row) for row in self._connection.execute(_REJECTS).fetchall()]
        if rejects and self._connection.execute(_ROWS_NOT_UTF8).fetchone() > (1,):
            refuse_eight_bit(source.path, source.name)
        return rejects

    def _staged(self, table: Table) -> int:
        rows = self._connection.execute(f"select count(*) from staging.{table.name}")
        return rows.fetchone()[0]

    def _refuse_too_bad(self, outcome: Outcome) -> None:
        if not outcome.rows_read:
            problem = "has a header and no rows"
        elif not outcome.rows_loaded:
            problem = f"none of its {outcome.rows_read:,} rows is good"
        elif outcome.rows_quarantined > self._max_rejected_share * outcome.rows_read:
            problem = (
                f"{outcome.rows_quarantined:,} of its {outcome.rows_read:,} rows are bad, more than "
                f"max_rejected_share = {self._max_rejected_share:g} lets pass"
            )
        else:
            return
        raise InputError(
            f"{outcome.file}: {problem}.\n{self._commonest_reasons(outcome)}"
            "Mend the file, or make a new extract."
        )

    def _commonest_reasons(self, outcome: Outcome) -> str:
        found, more = commonest_reasons(self._connection, outcome.table_name, outcome.file)
        lines = [f"  {count:,} × such as line {line}: {reason}\n" for count, _, line, reason in found]
        return "".join(lines) + (f"  and {more} more\n" if more else "")


def _outcome(
    table: Table, reading: Reading, count: FileCount, rows: FileRows | None, bad: Quarantined
) -> Outcome:
    _refuse_miscount(reading, count, bad)
    return Outcome(
        table_name=table.name,
        file=reading.source.name,
        bytes=count.bytes,
        sha256=count.sha256,
        rows_read=count.records,
        rows_loaded=count.records - bad.rows,
        rows_quarantined=bad.rows,
        ignored_columns=", ".join(reading.source.ignored),
        defaulted_columns=_defaulted(table, reading.source),
        first_day=rows and rows.first_day,
        last_day=rows and rows.last_day,
        rows_hash=rows and rows.rows_hash,
        taken_over=False,
    )


def _taken_over(table: Table, source: Source, file: EarlierFile) -> Outcome:
    return Outcome(
        table_name=table.name,
        file=source.name,
        bytes=file.bytes,
        sha256=file.sha256,
        rows_read=file.rows.count,
        rows_loaded=file.rows.count,
        rows_quarantined=0,
        ignored_columns=", ".join(source.ignored),
        defaulted_columns=_defaulted(table, source),
        first_day=file.rows.first_day,
        last_day=file.rows.last_day,
        rows_hash=file.rows.rows_hash,
        taken_over=True,
    )


def _defaulted(table: Table, source: Source) -> str:
    """The declared columns that a source lacks, each of which has a default."""
    return ", ".join(name for name in table.column_names if name not in source.fields)


def _has_long_line(counting: Future[FileCount]) -> bool:
    """Whether that is known already."""
    return counting.done() and not counting.exception() and counting.result().long_line is not None


def _refuse_damaged(source: Source, count: FileCount, failure: duckdb.Error | None) -> None:
    refuse_open_quote(source.name, count.open_quote_line)
    if count.nul_line is not None:
        raise InputError(
            f"{source.name}: line {count.nul_line} holds a NUL byte, which no text has. The file is "
            "damaged, or UTF-16: make a new extract, as UTF-8."
        )
    if count.long_line is not None:
        raise InputError(
            f"{source.name}: the row that begins on line {count.long_line} is longer than 8 MB. Its "
            "line ends or quotes are damaged: make a new extract."
        )
    if failure is not None and "state machine" in str(failure):
        raise InputError(
            f"{source.name}: its line ends are mixed (LF, CRLF or CR alone), so rows cannot be told "
            "apart for certain. Convert them to one kind, for example with dos2unix."
        ) from failure
    if failure is not None:
        raise InputError(
            f"{source.name}: cannot be read ({one_line(str(failure))}). Make a new extract."
        ) from failure


def _refuse_miscount(reading: Reading, count: FileCount, bad: Quarantined) -> None:
    seen = reading.rows + bad.rejected
    if seen != count.records:
        raise InputError(
            f"{reading.source.name}: the file holds {count.records:,} rows, but {seen:,} were read. Its "
            "quotes or line ends are damaged, or it changed while it was read: make a new extract."
        )


_ROWS_NOT_UTF8 = "select count(distinct line) from reject_errors where error_type = 'INVALID ENCODING'"

_REJECTS = f"""
select
    {REJECTED_AT} as offset_in_file,
    case error_type
        when 'TOO MANY COLUMNS' then 'the row has more fields than the header'
        when 'UNQUOTED VALUE' then 'text stands outside the quotes of its field'
        when 'INVALID ENCODING' then 'the row is not UTF-8 text (Windows-1252? Save the file as UTF-8)'
        when 'LINE SIZE OVER MAXIMUM' then 'the row is longer than 2 MB'
        else error_message
    end as reason,
from reject_errors
order by line_byte_position, column_idx
"""
