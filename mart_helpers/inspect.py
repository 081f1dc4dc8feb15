"""Describes the contents of a mart as plain text."""

from datetime import datetime
from pathlib import Path

import duckdb

from mart_helpers.lake import TABLES
from mart_helpers.parameters import shown
from mart_helpers.session import BUILD_LOG, open_published, unreadable
from mart_helpers.texts import aligned, one_line, quoted, size_text


def describe_mart(database: Path) -> str:
    """The file, the last build, and each table of the mart with its rows, columns, types and comments.

    The star comes first, then the tables of `books`. Raises StateError if there is no mart to read.
    """
    with open_published(database) as connection:
        try:
            title = f"{shown(database)} ({size_text(database)})"
            tables = [_described(connection, *each) for each in connection.execute(_TABLES).fetchall()]
            return "\n\n".join([title, *_newest_build(connection), *tables])
        except duckdb.Error as error:
            raise unreadable(database, error) from error


def _newest_build(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The newest row of the build log with all its columns; nothing if there was no build."""
    newest = connection.execute(f"select * from {BUILD_LOG} order by build_id desc limit 1")
    names = [column for column, *_ in newest.description]
    rows = [zip(names, map(_text, row), strict=True) for row in newest.fetchall()]
    return [f"last build\n{aligned(list(row))}" for row in rows]


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


_TABLES = f"""
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
