"""Loading a declared table: good rows into `staging`, bad rows into `quarantine`, every row counted."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from mart_helpers.contract import Table, read_contract
from mart_helpers.errors import InputError
from mart_helpers.project import resolve
from mart_helpers.quarantining import Reject, quarantine_bad_rows
from mart_helpers.records import REJECTED_AT, FileCount, count_records
from mart_helpers.session import Session
from mart_helpers.sources import Source, find_source
from mart_helpers.staging import create_staging, fill_staging

_SEED = "seed rows"


@dataclass(frozen=True)
class Outcome:
    """What became of one input; `rows_read` is always `rows_loaded` plus `rows_quarantined`."""

    table_name: str
    file: str
    bytes: int
    sha256: str
    rows_read: int
    rows_loaded: int
    rows_quarantined: int
    ignored_columns: str


class Loader:
    """Loads declared tables, from the CSV files of `inputs_dir` or from seed rows.

    A file of which more than the share `max_rejected_share` (0 to 1) is bad, or that has no good row,
    is refused.
    """

    def __init__(self, session: Session, inputs_dir: str | Path, max_rejected_share: float) -> None:
        self._connection = session.connection
        self._inputs_dir = resolve(inputs_dir)
        self._max_rejected_share = max_rejected_share

    def load(self, table_name: str, *, from_seed: bool) -> None:
        """Fill `staging.<table_name>` from `seed.<table_name>`, or from its file.

        Adds the bad rows to `quarantine` and one row to `build_inputs`; doing it again replaces them.
        Raises InputError for a file that cannot be taken, StateError for a table that is not declared.
        """
        table = read_contract(self._connection, table_name)
        self._forget(table_name)
        create_staging(self._connection, table)
        outcome = self._load_seed(table) if from_seed else self._load_file(table)
        self._refuse_too_bad(outcome)
        self._connection.execute(f"alter table staging.{table.name} drop column problems")
        self._record(outcome)

    def _forget(self, table_name: str) -> None:
        self._connection.execute("delete from quarantine where table_name = ?", [table_name])
        self._connection.execute(
            "delete from build_inputs where table_name = ? and build_id = getvariable('build_id')",
            [table_name],
        )

    def _record(self, outcome: Outcome) -> None:
        values = asdict(outcome)
        columns = ", ".join(f"${name} as {name}" for name in values)
        self._connection.execute(
            f"insert into build_inputs by name select getvariable('build_id') as build_id, {columns}",
            values,
        )

    def _load_seed(self, table: Table) -> Outcome:
        fields = self._connection.table(f"seed.{table.name}").columns
        texts = ", ".join(f"{name}::varchar as {name}" for name in fields)
        fill_staging(self._connection, table, f"select {texts} from seed.{table.name}", tuple(fields))
        rows_read = self._staged(table)
        bad = quarantine_bad_rows(self._connection, table, _SEED, None, []).rows
        return Outcome(table.name, _SEED, 0, "", rows_read, rows_read - bad, bad, "")

    def _load_file(self, table: Table) -> Outcome:
        source = find_source(self._inputs_dir, table)
        with ThreadPoolExecutor(1) as beside:
            counting = beside.submit(count_records, source.path, source.delimiter.encode())
            rejects = self._read(table, source)
            count = counting.result()
        _refuse_open_quote(source, count)
        staged = self._staged(table)
        bad = quarantine_bad_rows(self._connection, table, source.name, source, rejects)
        _refuse_miscount(source, count, staged + bad.rejected)
        return Outcome(
            table_name=table.name,
            file=source.name,
            bytes=count.bytes,
            sha256=count.sha256,
            rows_read=count.records,
            rows_loaded=count.records - bad.rows,
            rows_quarantined=bad.rows,
            ignored_columns=", ".join(source.ignored),
        )

    def _read(self, table: Table, source: Source) -> list[Reject]:
        for name in ("reject_errors", "reject_scans"):
            self._connection.execute(f"drop table if exists {name}")
        fill_staging(self._connection, table, f"from {_read_csv_sql(source)}", source.fields)
        return [Reject(*row) for row in self._connection.execute(_REJECTS).fetchall()]

    def _staged(self, table: Table) -> int:
        return len(self._connection.table(f"staging.{table.name}"))

    def _refuse_too_bad(self, outcome: Outcome) -> None:
        if not outcome.rows_loaded:
            problem = f"none of its {outcome.rows_read:,} rows is good"
        elif outcome.rows_quarantined > self._max_rejected_share * outcome.rows_read:
            problem = (
                f"{outcome.rows_quarantined:,} of its {outcome.rows_read:,} rows are bad, more than "
                f"max_rejected_share = {self._max_rejected_share:g} lets pass"
            )
        else:
            return
        raise InputError(
            f"{outcome.file}: {problem}.\n{self._commonest_reasons(outcome.table_name)}"
            "Mend the file, or make a new extract."
        )

    def _commonest_reasons(self, table_name: str) -> str:
        rows = self._connection.execute(_COMMONEST_REASONS, [table_name]).fetchall()
        return "".join(f"  {count:,} × such as line {line}: {reason}\n" for count, line, reason in rows)


_REJECTS = f"""
select
    {REJECTED_AT} as offset_in_file,
    case error_type
        when 'MISSING COLUMNS' then 'the row has fewer fields than the header'
        when 'TOO MANY COLUMNS' then 'the row has more fields than the header'
        when 'UNQUOTED VALUE' then 'text stands outside the quotes of its field'
        when 'INVALID ENCODING' then 'the row is not UTF-8 text'
        else error_message
    end as reason,
from reject_errors
order by line_byte_position, column_idx
"""

_COMMONEST_REASONS = """
select
    count(distinct line) as rows,
    min(line) as first_line,
    arg_min(reason, line) as first_reason,
from quarantine
where table_name = ?
group by column_name, regexp_replace(reason, '".*"', '')
order by rows desc, first_line
limit 5
"""


def _read_csv_sql(source: Source) -> str:
    path = str(source.path).replace("'", "''")
    columns = ", ".join(f"'{field}': 'varchar'" for field in source.fields)
    return (
        f"read_csv('{path}', columns = {{{columns}}}, delim = '{source.delimiter}', "
        "auto_detect = false, header = true, quote = '\"', escape = '\"', "
        "store_rejects = true, rejects_limit = 0)"
    )


def _refuse_open_quote(source: Source, count: FileCount) -> None:
    if count.open_quote_line is not None:
        raise InputError(
            f"{source.name}: a quote that opens on line {count.open_quote_line} is never closed, so the "
            "rest of the file cannot be told apart. Close it, or make a new extract."
        )


def _refuse_miscount(source: Source, count: FileCount, rows_seen: int) -> None:
    if rows_seen != count.records:
        raise InputError(
            f"{source.name}: the file holds {count.records:,} rows, but {rows_seen:,} were read. "
            "Its quotes or line ends are damaged: make a new extract."
        )
