"""The tables in which a build records what it did, and what they say about the mart.

`build_log` has one row per build, `build_inputs` one per file that a build read, `quarantine` one per
bad value. A new build creates them and copies the history of the published mart.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import duckdb

from mart_helpers.lake import TABLES
from mart_helpers.parameters import shown
from mart_helpers.session import BUILD_LOG, has_table, open_published, unreadable
from mart_helpers.texts import aligned, first_of, literal, one_line, quoted, size_text

_BUILDS = (
    ("build_id", "integer primary key", "number of the build"),
    ("built_at", "timestamp", "when the build began, in UTC"),
    ("stage", "integer", "1 seed rows, 2 sales from files, 3 all from files, 4 dated files"),
    ("duckdb_version", "varchar", "version of DuckDB that built the mart"),
    ("rows_read", "bigint", "rows of all inputs"),
    ("rows_loaded", "bigint", "rows that are in the star"),
    ("rows_quarantined", "bigint", "rows that were set aside"),
    ("revenue_loaded", "decimal(38, 4)", "revenue of the rows in the star"),
    ("revenue_quarantined", "decimal(38, 4)", "revenue of the rows set aside that can be read"),
    ("rows_of_unknown_amount", "bigint", "rows set aside whose revenue cannot be read"),
    ("volume_tolerance", "double", "share by which rows and revenue may differ from usual"),
    ("drops_only", "boolean", "only less than usual was refused"),
    ("seconds", "decimal(18, 3)", "how long the build took"),
)

_FILES = (
    ("build_id", "integer", "number of the build"),
    ("table_name", "varchar", "declared table that the file belongs to"),
    ("file", "varchar", "name of the file, below the folder of the inputs"),
    ("bytes", "bigint", "size of the file"),
    ("sha256", "varchar", "hash of the file's bytes"),
    ("rows_read", "bigint", "rows of the file"),
    ("rows_loaded", "bigint", "rows that are in the star"),
    ("rows_quarantined", "bigint", "rows that were set aside"),
    ("rows_left_out", "bigint", "rows that a mapping leaves out"),
    ("ignored_columns", "varchar", "columns of the file that are not declared"),
    ("defaulted_columns", "varchar", "declared columns that the file lacks"),
)

_BAD_VALUES = (
    ("table_name", "varchar", "declared table that the row belongs to"),
    ("file", "varchar", "name of the file"),
    ("line", "bigint", "line of the file on which the row begins"),
    ("column_name", "varchar", "column with the bad value; empty if it is the whole row"),
    ("value", "varchar", "the bad value, as the file has it"),
    ("reason", "varchar", "what is wrong with it"),
    ("raw_row", "varchar", "the row, as the file has it"),
)

_PLACEHOLDERS = (
    ("table_name", "varchar", "declared table that the member belongs to"),
    ("key", "varchar", "its natural key"),
    ("file", "varchar", "name of the file with the first row that refers to it"),
    ("line", "bigint", "line of the file on which that row begins"),
    ("rows", "bigint", "how many rows refer to it"),
    ("reason", "varchar", "why it is not known better"),
    ("referring_table", "varchar", "declared table that those rows belong to"),
)

_TABLES = {
    BUILD_LOG: ("one row per build", _BUILDS),
    "build_inputs": ("one row per build and input file", _FILES),
    "quarantine": ("one row per bad value that was set aside", _BAD_VALUES),
    "inferred_members": (
        "one row per placeholder: a member to which rows refer, and whose own row has not arrived",
        _PLACEHOLDERS,
    ),
}


def open_books(connection: duckdb.DuckDBPyConnection, newest_kept: int) -> None:
    """Create these tables in an empty mart, with the history of the mart attached as `published`.

    Adds a row for this build, which begins now. Its number, also in the SQL variable `build_id`, follows
    the newest one that is published or kept.
    """
    for table, (comment, columns) in _TABLES.items():
        declared = ", ".join(f"{name} {type_}" for name, type_, _ in columns)
        connection.execute(f"create table {table} ({declared})")
        connection.execute(f"comment on table {table} is {literal(comment)}")
        for name, _, says in columns:
            connection.execute(f"comment on column {table}.{name} is {literal(says)}")
    for table in (BUILD_LOG, "build_inputs"):
        if has_table(connection, "published", table):
            old, new = (connection.table(name).columns for name in (f"published.{table}", table))
            names = ", ".join(quoted(name) for name in old if name in new)
            connection.execute(f"insert into {table} by name select {names} from published.{table}")
    connection.execute(
        f"set variable build_id = 1 + (select greatest(max(build_id), {newest_kept}) from {BUILD_LOG})"
    )
    connection.execute(
        f"insert into {BUILD_LOG} by name select getvariable('build_id') as build_id, "
        "get_current_timestamp() at time zone 'UTC' as built_at, version() as duckdb_version"
    )


def close_books(connection: duckdb.DuckDBPyConnection) -> None:
    """Record what became of the rows of this build, and the seconds since it began."""
    connection.execute(f"""
        update {BUILD_LOG}
        set
            rows_read = inputs.rows_read,
            rows_loaded = inputs.rows_loaded,
            rows_quarantined = inputs.rows_quarantined,
            seconds = epoch(get_current_timestamp()) - epoch(built_at)
        from (
            select sum(rows_read), sum(rows_loaded), sum(rows_quarantined)
            from build_inputs
            where build_id = getvariable('build_id')
        ) as inputs (rows_read, rows_loaded, rows_quarantined)
        where build_id = getvariable('build_id')
    """)


def build_time(connection: duckdb.DuckDBPyConnection) -> datetime | None:
    """When the last build of the mart began, in UTC, which identifies the build; None if unknown."""
    with suppress(duckdb.Error):
        return _last_build(connection).get("built_at")
    return None


def build_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, object]:
    """What the log says about the last build; unknown values are None.

    Keys: `build_id`, `built_at` (ISO 8601, UTC), `rows_loaded`, `rows_quarantined`, `revenue_loaded`,
    `revenue_quarantined` (of rows with a readable amount; money is text with all its decimals), and
    `rows_of_unknown_amount` (the other rows in quarantine).
    """
    build = _last_build(connection)
    counts, money = ("rows_loaded", "rows_quarantined"), ("revenue_loaded", "revenue_quarantined")
    names = ("build_id", "built_at", *counts, *money, "rows_of_unknown_amount")
    facts = {name: build.get(name) for name in names}
    built_at = facts["built_at"]
    texts = {name: str(facts[name]) for name in money if facts[name] is not None}
    return facts | texts | {"built_at": built_at and built_at.isoformat()}


def money_aside(build: Mapping[str, object]) -> str | None:
    """The money in quarantine in words, with any unknown part; None if nothing is known about it.

    `build` comes from `build_facts`.
    """
    if build["revenue_quarantined"] is None:
        return None
    known, unknown = Decimal(str(build["revenue_quarantined"])), build["rows_of_unknown_amount"]
    if not unknown:
        return f"{known:,.2f}"
    rows = f"{unknown:,} {'row' if unknown == 1 else 'rows'} of unknown amount"
    return f"{known:,.2f} in rows that can be read, and {rows}" if known else rows


def account_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What the last build did with the rows it read, as lines of text.

    Further lines give the money and the most common reasons in quarantine, and the columns that the
    files lack or that are ignored.
    """
    from mart_helpers.quarantine import commonest_reasons

    rows = connection.execute(
        f"select rows_read, rows_loaded, rows_quarantined from {BUILD_LOG} order by build_id desc"
    ).fetchone()
    left_out = rows[0] - rows[1] - rows[2] if rows[0] is not None else 0
    found, more = commonest_reasons(connection) if rows[-1] else ([], 0)
    aside = money_aside(build_facts(connection)) if rows[-1] else None
    reasons = [f"revenue in quarantine: {aside}"] if aside else []
    reasons += [first_of(count, f"{file}, line {line}", reason) for count, file, line, reason in found]
    reasons += [f"and {more} more, in the table quarantine"] if more else []
    columns = []
    with suppress(duckdb.Error):  # a mart built by an older 01_build
        columns = [line for (line,) in connection.execute(_ODD_COLUMNS).fetchall()]
    account = "{:,} read, {:,} loaded, {:,} in quarantine".format(*rows)
    return [account + (f", {left_out:,} left out" if left_out else ""), *reasons, *columns]


def describe_mart(database: Path) -> str:
    """The file, the last build, and each table of the mart with its rows, columns, types and comments.

    The star comes first, then these tables. Raises StateError if there is no mart to read.
    """
    with open_published(database) as connection:
        try:
            title = f"{shown(database)} ({size_text(database)})"
            build = [[name, _text(value)] for name, value in _last_build(connection).items()]
            tables = [
                _described(connection, *each) for each in connection.execute(_DESCRIBED).fetchall()
            ]
            return "\n\n".join([title, *([f"last build\n{aligned(build)}"] if build else []), *tables])
        except duckdb.Error as error:
            raise unreadable(database, error) from error


def _last_build(connection: duckdb.DuckDBPyConnection) -> dict[str, object]:
    """The newest row of the build log; empty if there was no build."""
    found = connection.execute(f"from {BUILD_LOG} order by build_id desc limit 1")
    columns = [column for column, *_ in found.description]
    return dict(zip(columns, found.fetchone() or (), strict=False))


def _described(
    connection: duckdb.DuckDBPyConnection, table: str, comment: str, columns: list[dict]
) -> str:
    """The table's name, rows and comment in one line, then a line for each column."""
    (rows,) = connection.execute(f"select count(*) from {quoted(table)}").fetchone()
    title = f"{one_line(table)}: {rows:,} {'row' if rows == 1 else 'rows'}"
    lines = aligned([list(column.values()) for column in columns])
    return f"{title}. {one_line(comment, 10_000)}\n{lines}" if comment else f"{title}\n{lines}"


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value:,}" if type(value) is int else str(value)


_ODD_COLUMNS = f"""
with latest as (
    select *
    from build_inputs
    where build_id = (select max(build_id) from {BUILD_LOG})
),
lines as (
    select file, 'has no column ' || defaulted_columns || ', so its default is taken' as line
    from latest
    where defaulted_columns <> ''
    union all
    select
        file,
        'column ' || array_to_string(columns[:8], ', ')
        || if(len(columns) > 8, ' and ' || len(columns) - 8 || ' more', '')
        || ' is not known, and ignored'
    from (select file, string_split(nullif(ignored_columns, ''), ', ') as columns from latest)
    where columns is not null
)
select min(file) || if(count(*) > 1, ' and ' || count(*) - 1 || ' more', '') || ': ' || line
from lines
group by line
order by min(file), line desc
"""


_DESCRIBED = f"""
select
    table_name,
    coalesce(any_value(tables.comment), ''),
    list(
        {{name: column_name, type: lower(data_type), comment: coalesce(columns.comment, '')}}
        order by column_index
    )
from {TABLES} as tables
inner join duckdb_columns() as columns using (table_oid, database_oid, table_name)
where tables.database_name = current_database() and tables.schema_name = 'main'
group by table_name
order by regexp_matches(table_name, '^(dim|fact)_') desc, table_name
"""
