"""Taking the bad rows out of a staging table and into `quarantine`, each with its place in the file."""

from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Reference, Table, ascends_sql
from mart_helpers.errors import StateError
from mart_helpers.records import FileCount, Located
from mart_helpers.session import has_table
from mart_helpers.sources import (
    REJECTED_AT,
    CsvFile,
    Source,
    read_rows,
    record_numbers,
    refuse_eight_bit,
)
from mart_helpers.staging import SUSPECT, problems_sql, staging_of, suspects_sql
from mart_helpers.texts import literal, one_line, quoted

_SAMPLE = 10_000

_BATCH = 2_000  # records of at most 10,000 characters


class Reading(NamedTuple):
    """What came of reading one source: `rows` in staging from the row id `first_row` on.

    `rejected` are the numbers of the records that the reader refused, ascending.
    """

    source: Source
    count: FileCount
    first_row: int
    rows: int
    rejected: Sequence[int]

    def here(self, row_ids: Sequence[int]) -> Sequence[int]:
        """Those of the ascending `row_ids` that are of this reading."""
        return row_ids[
            bisect(row_ids, self.first_row - 1) : bisect(row_ids, self.first_row + self.rows - 1)
        ]

    def places(self, row_ids: Sequence[int]) -> Iterator[Located]:
        """Where these rows, ascending and of this reading, stand in the source."""
        ordinals = (row_id - self.first_row for row_id in row_ids)
        return self.source.places(record_numbers(ordinals, self.rejected))


def begin(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary tables anew in which the faults of one table are gathered."""
    connection.execute(_GATHERED)


def note_head(connection: duckdb.DuckDBPyConnection, head: CsvFile) -> bool:
    """Note what DuckDB rejects of the first records of a file; whether that is more than quotes."""
    connection.execute("drop table if exists reject_errors; drop table if exists reject_scans")
    # each column is asked for: what is not read is not refused
    read_rows(
        head, lambda rows: connection.execute(f"select count(columns(*)) from ({rows})").fetchall()
    )
    note_rejected(connection, head)
    found = connection.execute(
        "select count(*), count_if(error_type = 'UNQUOTED VALUE') from reject_errors"
    )
    errors, of_quotes = found.fetchone()
    if errors and not of_quotes:
        return True
    connection.execute("delete from rejected")
    return False


def note_rejected(connection: duckdb.DuckDBPyConnection, source: CsvFile) -> list[int]:
    """Note the records that the read just done has refused; their numbers, ascending.

    Raises InputError where several of them are no UTF-8, nor is any other text of the file.
    """
    connection.execute(_REASONS)
    if connection.execute(_ROWS_NOT_UTF8).fetchone() > (1,):
        refuse_eight_bit(source.path, source.name)
    offsets = connection.execute("select distinct offset_in_file from reasons order by all").fetchall()
    numbers: list[int] = []
    places = source.rejected(offset for (offset,) in offsets)
    while batch := list(islice(places, _BATCH)):
        numbers += (place.number for place in batch)
        connection.execute(
            _NOTE_REJECTED,
            {
                "file": source.name,
                "offsets": [place.offset for place in batch],
                "lines": [place.line for place in batch],
                "raws": [place.raw for place in batch],
                "first": batch[0].offset,
                "last": batch[-1].offset,
            },
        )
    return numbers


def mark_reopened(connection: duckdb.DuckDBPyConnection, table: Table, reading: Reading) -> None:
    """Mark the rows as suspects that were read without the quotes that open again within a field."""
    read = {*reading.count.reopened} - {*reading.rejected}
    if read:
        row_ids = [reading.first_row + number - 1 - bisect(reading.rejected, number) for number in read]
        connection.execute(suspects_sql(table), {"row_ids": row_ids, "fault": _REOPENED})


def count_suspects(connection: duckdb.DuckDBPyConnection, table: Table) -> int:
    """How many rows of the staging table are bad in themselves, whatever others hold."""
    sql = f"select count({SUSPECT}) from {staging_of(table.name)}"
    return connection.execute(sql).fetchone()[0]


def sample_problems(connection: duckdb.DuckDBPyConnection, table: Table) -> str:
    """Fill `problems` with what is wrong with the first bad rows; words for it if there are more."""
    connection.execute(f"insert into problems by name {problems_sql(table, _SAMPLE)}")
    return f"; of the first {_SAMPLE:,}" if count_suspects(connection, table) > _SAMPLE else ""


def find_problems(connection: duckdb.DuckDBPyConnection, table: Table) -> int:
    """Fill the temporary table `problems` with what is wrong in staging; the number of bad rows.

    Bad is a row with problems of its own, then an orphan, then one that repeats the key of an earlier
    good row, which is its `first_row_id`.
    """
    rows = staging_of(table.name)
    if count_suspects(connection, table):
        connection.execute(f"insert into problems by name {problems_sql(table)}")
    for reference in table.references:
        if not has_table(connection, "staging", reference.table):
            raise StateError(f"Load {reference.table} before {table.name}, which refers to it.")
        connection.execute(_orphans_sql(table, reference))
    connection.execute(_ONLY_THE_ROW)
    if not _is_true(connection, ascends_sql(rows, quoted(table.key))):
        connection.execute(_repeats_sql(table))
    return connection.execute("select count(distinct row_id) from problems").fetchone()[0]


def bad_rows(connection: duckdb.DuckDBPyConnection, readings: Sequence[Reading]) -> list[int]:
    """How many records of each reading are bad."""
    row_ids = _row_ids(connection, "select row_id from problems")
    return [len(reading.here(row_ids)) + len(reading.rejected) for reading in readings]


def quarantine_bad_rows(
    connection: duckdb.DuckDBPyConnection, table: Table, readings: Sequence[Reading]
) -> list[int]:
    """Move the rows with problems, and the rejected records, to `quarantine`; how many of each reading.

    What the bad rows hold, as far as it could be read, stays in `staging.<table>_quarantined`.
    """
    rows, are_bad = staging_of(table.name), "rowid in (select row_id from problems)"
    connection.execute(
        f"create or replace table {staging_of(f'{table.name}_quarantined')} as "
        f"select * exclude ({SUSPECT}) from {rows} where {are_bad}"
    )
    bad = bad_rows(connection, readings)
    wanted = _row_ids(connection, "select unnest([row_id, first_row_id]) as row_id from problems")
    for reading in readings:
        _note_places(connection, reading, reading.here(wanted))
    connection.execute(_causes_sql(table))
    if any(bad):
        connection.execute(_INSERT, {"table_name": table.name})
        connection.execute(f"delete from {rows} where {are_bad}")
    return bad


def commonest_problems(
    connection: duckdb.DuckDBPyConnection, readings: Sequence[Reading]
) -> tuple[list[tuple[int, str, int, str]], int]:
    """As `commonest_reasons`, of what is wrong with a table of which nothing is in quarantine yet."""
    found = connection.execute(_COMMONEST_PROBLEMS).fetchall()
    kinds = []
    for rows, row_id, first_row_id, file, line, reason, _ in found:
        if row_id is not None:
            file, line = _place(readings, row_id)
        if first_row_id is not None:
            reason += f" of line {_place(readings, first_row_id)[1]}"
        kinds.append((rows, file, line, one_line(reason)))
    return kinds, (found[0][-1] if found else 0) - len(found)


def _place(readings: Sequence[Reading], row_id: int) -> tuple[str, int]:
    """File and line of a row."""
    (reading,) = (each for each in readings if each.here([row_id]))
    (place,) = reading.places([row_id])
    return reading.source.name, place.line


def commonest_reasons(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[list[tuple[int, str, int, str]], int]:
    """Up to five kinds of reasons in `quarantine`, and how many more there are.

    Those of most rows come first. Of each: how many rows, the file, and the first of their lines with
    its reason, on one line.
    """
    found = connection.execute(_COMMONEST_REASONS).fetchall()
    kinds = found[0][-1] if found else 0
    return [(*place, one_line(reason)) for *place, reason, _ in found], kinds - len(found)


_REOPENED = "quotes close and open again within a field"

_GATHERED = """
create or replace temp table problems (
    row_id bigint,
    position integer,
    column_name varchar,
    value varchar,
    reason varchar,
    first_row_id bigint
);
create or replace temp table rejected (file varchar, line bigint, reason varchar, raw_row varchar);
create or replace temp table places (row_id bigint, file varchar, line bigint, raw_row varchar);
"""

_REASONS = f"""
create or replace temp table reasons as
select
    {REJECTED_AT} as offset_in_file,
    case error_type
        when 'TOO MANY COLUMNS' then 'the row has more fields than the header'
        when 'UNQUOTED VALUE' then 'text stands outside the quotes of its field'
        when 'INVALID ENCODING' then 'the row is not UTF-8 text (Windows-1252? Save the file as UTF-8)'
        when 'LINE SIZE OVER MAXIMUM' then 'the row is longer than 2 MB'
        else error_message
    end as reason
from reject_errors
order by offset_in_file, column_idx
"""

_ROWS_NOT_UTF8 = "select count(distinct line) from reject_errors where error_type = 'INVALID ENCODING'"

_NOTE_REJECTED = """
insert into rejected
select $file, any_value(places.line), first(reasons.reason), any_value(places.raw_row)
from (
    select
        unnest($offsets) as offset_in_file,
        unnest($lines) as line,
        unnest($raws) as raw_row
) as places
inner join reasons on places.offset_in_file = reasons.offset_in_file
where reasons.offset_in_file between $first and $last
group by places.offset_in_file
"""

_NOTE_PLACES = "insert into places select unnest($row_ids), $file, unnest($lines), unnest($raws)"

# Of a row with the wrong number of fields, nobody knows which value belongs where.
_ONLY_THE_ROW = """
delete from problems
where position >= 0 and row_id in (select row_id from problems where position = -1)
"""

_KIND = """regexp_replace(reason, '(?s)".*"| of line [0-9]+.*$', '', 'g')"""

_COMMONEST_REASONS = f"""
select
    count(distinct line) as rows,
    file,
    min(line) as first_line,
    arg_min(reason, line) as first_reason,
    count(*) over () as kinds
from quarantine
group by file, column_name, {_KIND}
order by rows desc, file, first_line
limit 5
"""

_COMMONEST_PROBLEMS = f"""
with faults as (
    select row_id, first_row_id, null as file, null as line, column_name, reason from problems
    union all
    select null, null, file, line, null, reason from rejected
)
select
    count(*) as rows,
    min(row_id) as example,
    arg_min(first_row_id, row_id) as first_row_id,
    min(file) as first_file,
    arg_min(line, (file, line)) as first_line,
    coalesce(arg_min(reason, row_id), arg_min(reason, (file, line))) as first_reason,
    count(*) over () as kinds
from faults
group by row_id is null, column_name, {_KIND}
order by rows desc, example, first_file, first_line
limit 5
"""

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
        bad.raw_row
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
    raw_row
from entries
order by file, line, position
"""


# of no width, so an id that holds one looks like another
_INVISIBLE = r"'[\x{AD}\x{200B}-\x{200F}\x{2060}\x{FEFF}]'"


def _causes_of(table_name: str) -> str:
    return staging_of(f"{table_name} causes")


def _causes_sql(table: Table) -> str:
    """SQL that keeps why a key is not in its table, for the rows that refer to it."""
    return f"""
        create or replace table {_causes_of(table.name)} as
        select
            staged.{quoted(table.key)} as key,
            arg_min(places.file || ' line ' || places.line, problems.row_id) as place,
            arg_min(problems.reason, (problems.row_id, problems.position)) as reason
        from problems
        inner join places on problems.row_id = places.row_id
        inner join {staging_of(table.name)} as staged on problems.row_id = staged.rowid
        where problems.first_row_id is null and staged.{quoted(table.key)} is not null
        group by staged.{quoted(table.key)}
    """


def _is_true(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    return connection.execute(sql).fetchall() == [(True,)]


def _row_ids(connection: duckdb.DuckDBPyConnection, sql: str) -> list[int]:
    rows = connection.execute(
        f"select distinct row_id from ({sql}) where row_id is not null order by row_id"
    )
    return [row_id for (row_id,) in rows.fetchall()]


def _note_places(
    connection: duckdb.DuckDBPyConnection, reading: Reading, row_ids: Sequence[int]
) -> None:
    places = zip(row_ids, reading.places(row_ids), strict=True) if row_ids else iter(())
    while batch := list(islice(places, _BATCH)):
        connection.execute(
            _NOTE_PLACES,
            {
                "row_ids": [row_id for row_id, _ in batch],
                "file": reading.source.name,
                "lines": [place.line for _, place in batch],
                "raws": [place.raw for _, place in batch],
            },
        )


def _orphans_sql(table: Table, reference: Reference) -> str:
    name, key = quoted(reference.column), quoted(reference.table_column)
    begin, end = literal(f'{reference.column} "'), literal(f'" is not in {reference.table}')
    seen = f"regexp_extract(child.{name}::varchar, {_INVISIBLE})"
    return f"""
        insert into problems
        select
            child.rowid,
            {table.column_names.index(reference.column)},
            {literal(reference.column)},
            child.{name},
            {begin} || child.{name} || {end}
                || coalesce(': its row, ' || causes.place || ', is in quarantine: ' || causes.reason, '')
                || case when {seen} <> ''
                    then printf(' (it holds the invisible character U+%04X)', unicode({seen}))
                    else '' end,
            null
        from {staging_of(table.name)} as child
        anti join {staging_of(reference.table)} as parent on child.{name} = parent.{key}
        left join {_causes_of(reference.table)} as causes on child.{name} = causes.key
        where child.{name} is not null
    """


def _repeats_sql(table: Table) -> str:
    """SQL for the rows that repeat a key. All of them are among the late ones.

    A key that stands higher up is not above the highest one up there. In a file that is sorted but for
    some rows few are late, which is seen without grouping all.
    """
    key = quoted(table.key)
    return f"""
        insert into problems
        with running as (
            select
                {key} as key,
                max({key}) over (rows between unbounded preceding and current row) as highest
            from {staging_of(table.name)}
        ),
        preceded as (
            select key, lag(highest) over () as highest_before from running
        ),
        late as (
            select key from preceded where key <= highest_before
        ),
        good as (
            select staged.rowid as row_id, staged.{key} as key
            from {staging_of(table.name)} as staged
            semi join late on staged.{key} = late.key
            anti join problems on staged.rowid = problems.row_id
        ),
        repeated as (
            select key, min(row_id) as first_row_id from good group by key having count(*) > 1
        )
        select
            good.row_id,
            {table.column_names.index(table.key)},
            {literal(table.key)},
            good.key,
            {literal(f'{table.key} "')} || good.key || '" repeats that',
            repeated.first_row_id
        from good
        inner join repeated on good.key = repeated.key
        where good.row_id <> repeated.first_row_id
    """
