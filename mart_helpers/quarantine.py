"""Taking the bad rows out of a staging table and into `quarantine`, each with its place in the file."""

from bisect import bisect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import duckdb

from mart_helpers.contract import Reference, Table, ascends_sql
from mart_helpers.errors import StateError
from mart_helpers.records import Located
from mart_helpers.session import has_table
from mart_helpers.sources import Source
from mart_helpers.staging import problems_sql, suspects_sql
from mart_helpers.texts import one_line

if TYPE_CHECKING:
    import pandas as pd


class Reject(NamedTuple):
    """A fault for which the reader refused a record: a byte offset in the record, and why."""

    offset: int
    reason: str


class Reading(NamedTuple):
    """What came of reading one source: `rows` in staging from the row id `first_row` on, and faults."""

    source: Source
    first_row: int
    rows: int
    rejects: Sequence[Reject]


class Quarantined(NamedTuple):
    """How many records of a source went to quarantine; `rejected` of them never were in staging."""

    rows: int
    rejected: int


def mark_reopened(
    connection: duckdb.DuckDBPyConnection, table: Table, reading: Reading, records: Sequence[int]
) -> None:
    """Mark the rows of those `records` as suspects: their quotes are dropped in `staging.<table>`.

    Records are known by their numbers, from 1, among all that the source holds.
    """
    if not records:
        return
    _, unread = reading.source.locate([], [reject.offset for reject in reading.rejects])
    refused = sorted({record.number for record in unread})
    read = {*records} - {*refused}
    row_ids = [reading.first_row + number - 1 - bisect(refused, number) for number in read]
    connection.execute(suspects_sql(table), {"row_ids": row_ids, "fault": _REOPENED})


def find_problems(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Make the temporary table `problems` of the bad rows of `staging.<table>`, known by their row ids.

    Bad is a row with problems of its own, then an orphan, then one that repeats the key of an earlier
    good row, which is its `first_row_id`.
    """
    _refuse_not_loaded(connection, table)
    connection.execute(_NO_PROBLEMS)
    searches = list(_searches(table))
    conditions = [f"select {n} where {condition}" for n, (condition, _) in enumerate(searches)]
    # the last one takes one thread the longest, so it begins first
    found = connection.execute(" union all ".join(reversed(conditions))).fetchall()
    for n in sorted(n for (n,) in found):
        connection.execute(searches[n][1])


def quarantine_bad_rows(
    connection: duckdb.DuckDBPyConnection, table: Table, readings: list[Reading]
) -> list[Quarantined]:
    """Move the rows with `problems` and the rejected records to `quarantine`; count them.

    What the bad rows hold, as far as it could be read, stays in `staging.<table>_quarantined`. The
    answer has an entry for each reading.
    """
    bad_rows = _row_ids(connection, "row_id")
    are_bad = "rowid in (select row_id from problems)" if bad_rows else "false"
    connection.execute(
        f"create or replace table staging.{table.name}_quarantined as "
        f"select * exclude (suspect) from staging.{table.name} where {are_bad}"
    )
    if not bad_rows and not any(reading.rejects for reading in readings):
        return [Quarantined(0, 0) for _ in readings]
    import pandas as pd

    wanted = sorted({*bad_rows, *_row_ids(connection, "first_row_id")})
    found = [_places(reading, wanted) for reading in readings]
    places = pd.concat([rows for rows, _ in found], ignore_index=True)
    rejected = pd.concat([records for _, records in found], ignore_index=True)
    _insert(connection, table, places, rejected)
    connection.execute(f"delete from staging.{table.name} where {are_bad}")
    return [
        Quarantined(int(rows["row_id"].isin(bad_rows).sum()) + len(records), len(records))
        for rows, records in found
    ]


def commonest_reasons(
    connection: duckdb.DuckDBPyConnection, table_name: str | None = None, file: str | None = None
) -> tuple[list[tuple[int, str, int, str]], int]:
    """Up to five kinds of reasons in `quarantine`, of one file or of all, and how many more there are.

    Those of most rows come first. Of each: how many rows, the file, and the first of their lines with
    its reason, on one line.
    """
    found = connection.execute(_COMMONEST_REASONS, {"table_name": table_name, "file": file}).fetchall()
    kinds = found[0][-1] if found else 0
    return [(*place, one_line(reason)) for *place, reason, _ in found], kinds - len(found)


_REOPENED = "quotes close and open again within a field"

_NO_PROBLEMS = """
create or replace temp table problems (
    row_id bigint,
    position integer,
    column_name varchar,
    value varchar,
    reason varchar,
    first_row_id bigint
)
"""

_COMMONEST_REASONS = """
select
    count(distinct line) as rows,
    file,
    min(line) as first_line,
    arg_min(reason, line) as first_reason,
    count(*) over () as kinds,
from quarantine
where table_name = coalesce($table_name, table_name) and file = coalesce($file, file)
group by file, column_name, regexp_replace(reason, '(?s)".*"| of line [0-9]+.*$', '', 'g')
order by rows desc, file, first_line
limit 5
"""

# Of a row with the wrong number of fields, nobody knows which value belongs where.
_ONLY_THE_ROW = """
delete from problems
where position >= 0 and row_id in (select row_id from problems where position = -1)
"""


def _searches(table: Table) -> Iterator[tuple[str, str]]:
    """In turn, SQL for a condition without which there is nothing to find, and for what finds it.

    The conditions are asked all at once, which takes less than one after the other.
    """
    any_suspect = f"exists (from staging.{table.name} where suspect is not null)"
    yield any_suspect, f"insert into problems by name {problems_sql(table)}"
    for reference in table.references:
        orphans = f"exists (from {_orphans_sql(table, reference)})"
        yield orphans, _orphan_problems_sql(table, reference)
    yield any_suspect, _ONLY_THE_ROW
    yield f"not ({ascends_sql(f'staging.{table.name}', table.key)})", _repeats_sql(table)


def _refuse_not_loaded(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    for reference in table.references:
        if not has_table(connection, "staging", reference.table):
            raise StateError(f"Load {reference.table} before {table.name}, which refers to it.")


def _orphans_sql(table: Table, reference: Reference) -> str:
    return f"""
        staging.{table.name} as child
        anti join staging.{reference.table} as parent
            on child.{reference.column} = parent.{reference.table_column}
        where child.{reference.column} is not null
    """


def _orphan_problems_sql(table: Table, reference: Reference) -> str:
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
        from {_orphans_sql(table, reference)}
    """


def _repeats_sql(table: Table) -> str:
    """SQL for the rows that repeat a key. All of them are among the late ones.

    A key that stands higher up is not above the highest one up there. In a file that is sorted but
    for some rows few are late, which is seen without grouping all.
    """
    key = table.key
    return f"""
        insert into problems
        with running as (
            select
                {key},
                max({key}) over (rows between unbounded preceding and current row) as highest
            from staging.{table.name}
        ),
        preceded as (
            select {key}, lag(highest) over () as highest_before from running
        ),
        late as (
            select {key} from preceded where {key} <= highest_before
        ),
        good as (
            select staged.rowid as row_id, staged.{key}
            from staging.{table.name} as staged
            semi join late on staged.{key} = late.{key}
            anti join problems on staged.rowid = problems.row_id
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


def _places(reading: Reading, wanted: list[int]) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Where those of the `wanted` rows stand that are of this reading, and the rejected records."""
    here = [row for row in wanted if 0 <= row - reading.first_row < reading.rows]
    placed, unread = reading.source.locate(
        [row - reading.first_row for row in here], [reject.offset for reject in reading.rejects]
    )
    rows = _frame(reading, placed).assign(row_id=here).astype({"row_id": "int64"})
    records = _frame(reading, unread).assign(reason=[reject.reason for reject in reading.rejects])
    return rows, records.drop_duplicates("line")


def _frame(reading: Reading, places: list[Located]) -> "pd.DataFrame":
    import pandas as pd

    # Without its type, an empty list would turn the lines of all files into floating point numbers.
    lines = pd.Series([place.line for place in places], dtype="int64")
    raws = [place.raw for place in places]
    return pd.DataFrame({"file": reading.source.name, "line": lines, "raw_row": raws})


def _insert(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    places: "pd.DataFrame",
    rejected: "pd.DataFrame",
) -> None:
    connection.register("places", places)
    connection.register("rejected", rejected)
    connection.execute(_INSERT, {"table_name": table.name})
    connection.unregister("places")
    connection.unregister("rejected")


_INSERT = """
insert into quarantine by name
with entries as (
    select
        bad.file,
        bad.line,
        problems.position,
        problems.column_name,
        problems.value,
        problems.reason
            || coalesce(' of line ' || first.line, '')
            || case when first.file <> bad.file then ' in ' || first.file else '' end as reason,
        bad.raw_row,
    from problems
    inner join places as bad on problems.row_id = bad.row_id
    left join places as first on problems.first_row_id = first.row_id
    union all
    select file, line, -1, null, null, reason, raw_row from rejected
)
select
    $table_name as table_name,
    file,
    line,
    column_name,
    value,
    reason,
    raw_row,
from entries
order by file, line, position
"""
