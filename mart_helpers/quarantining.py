"""Taking the bad rows out of a staging table and into `quarantine`, each with its place in the file."""

from dataclasses import dataclass

import duckdb
import pandas as pd

from mart_helpers.contract import Reference, Table
from mart_helpers.errors import StateError
from mart_helpers.records import Located, locate
from mart_helpers.sources import Source


@dataclass(frozen=True)
class Reject:
    """A fault for which the reader refused a record: a byte offset in the record, and why."""

    offset: int
    reason: str


@dataclass(frozen=True)
class Quarantined:
    """How many records went to quarantine, and how many of them the reader had `rejected`."""

    rows: int
    rejected: int


def quarantine_bad_rows(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    file: str,
    source: Source | None,
    rejects: list[Reject],
) -> Quarantined:
    """Move the bad rows of `staging.<table>` and the rejected records to `quarantine`.

    Bad is a row with problems of its own, then an orphan, then one that repeats the key of an earlier
    good row. `source` is None for seed rows, whose place is their row number.
    """
    _collect_problems(connection, table)
    bad_rows = _row_ids(connection, "row_id")
    if not bad_rows and not rejects:
        return Quarantined(0, 0)
    rows = sorted({*bad_rows, *_row_ids(connection, "first_row_id")})
    places, rejected = _locate(connection, table, source, rows, rejects)
    connection.register("places", places)
    connection.register("rejected", rejected)
    connection.execute(_INSERT, {"table_name": table.name, "file": file})
    connection.unregister("places")
    connection.unregister("rejected")
    connection.execute(f"delete from staging.{table.name} where rowid in (select row_id from problems)")
    return Quarantined(len(bad_rows) + len(rejected), len(rejected))


_NOTHING_REJECTED = pd.DataFrame({"line": [], "raw_row": [], "reason": []})

_INSERT = """
insert into quarantine by name
with entries as (
    select
        bad.line,
        problems.position,
        problems.column_name,
        problems.value,
        problems.reason || coalesce(' of line ' || first.line, '') as reason,
        bad.raw_row,
    from problems
    inner join places as bad on problems.row_id = bad.row_id
    left join places as first on problems.first_row_id = first.row_id
    union all
    select line, -1, null, null, reason, raw_row from rejected
)
select
    $table_name as table_name,
    $file as file,
    line,
    column_name,
    value,
    reason,
    raw_row,
from entries
order by line, position
"""


def _collect_problems(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    connection.execute(
        f"""
        create or replace temp table problems as
        select bad.row_id, unnest(bad.problems, recursive := true), null::bigint as first_row_id
        from (
            select rowid as row_id, problems from staging.{table.name} where problems is not null
        ) as bad
        """
    )
    for reference in table.references:
        connection.execute(_orphans_sql(connection, table, reference))
    connection.execute(_repeats_sql(table))


def _orphans_sql(connection: duckdb.DuckDBPyConnection, table: Table, reference: Reference) -> str:
    known = connection.execute(
        "select count(*) from duckdb_tables() where database_name = 'staging' and table_name = ?",
        [reference.table],
    ).fetchone()
    if not known[0]:
        raise StateError(f"Load {reference.table} before {table.name}, which refers to it.")
    name = reference.column
    return f"""
        insert into problems
        select
            child.rowid,
            {table.column_names.index(name)},
            '{name}',
            child.{name},
            '{name} "' || child.{name} || '" is not in {reference.table}',
            null
        from staging.{table.name} as child
        anti join staging.{reference.table} as parent
            on child.{name} = parent.{reference.table_column}
        where child.{name} is not null
    """


def _repeats_sql(table: Table) -> str:
    key = table.key
    return f"""
        insert into problems
        with good as (
            select rowid as row_id, {key} from staging.{table.name}
            where rowid not in (select row_id from problems)
        ),
        repeated as (
            select {key}, min(row_id) as first_row_id from good group by {key} having count(*) > 1
        )
        select
            good.row_id,
            {table.column_names.index(key)},
            '{key}',
            good.{key},
            '{key} "' || good.{key} || '" repeats that',
            repeated.first_row_id
        from good
        inner join repeated on good.{key} = repeated.{key}
        where good.row_id <> repeated.first_row_id
    """


def _row_ids(connection: duckdb.DuckDBPyConnection, column: str) -> list[int]:
    rows = connection.execute(f"select distinct {column} from problems where {column} is not null")
    return [row_id for (row_id,) in rows.fetchall()]


def _locate(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    source: Source | None,
    rows: list[int],
    rejects: list[Reject],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The places of the staged `rows` and of the `rejects`: line and raw text."""
    if source is None:
        lines = [row + 1 for row in rows]
        return pd.DataFrame({"row_id": rows, "line": lines, "raw_row": None}), _NOTHING_REJECTED
    placed, unread = locate(
        source.path, source.delimiter.encode(), rows, [reject.offset for reject in rejects]
    )
    reasons = _frame(unread).assign(reason=[reject.reason for reject in rejects])
    return _frame(placed).assign(row_id=rows), reasons.drop_duplicates("line")


def _frame(places: list[Located]) -> pd.DataFrame:
    return pd.DataFrame(
        {"line": [place.line for place in places], "raw_row": [place.raw for place in places]}
    )
