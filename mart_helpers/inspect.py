"""What a mart holds, as plain text."""

import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import duckdb

from mart_helpers.checks import verdict_of
from mart_helpers.parameters import shown
from mart_helpers.session import BUILD_LOG, open_published, unreadable
from mart_helpers.texts import aligned, quoted, size_text


def describe_mart(database: Path) -> str:
    """File, last build, and each table of the mart with its rows, columns, types and comments.

    Raises StateError where there is no mart to read.
    """
    with open_published(database) as connection:
        try:
            title = f"{shown(database)} ({size_text(database)})"
            tables = [_described(connection, *each) for each in _tables(connection)]
            return "\n\n".join([title, *_newest_build(connection), *tables])
        except duckdb.Error as error:
            raise unreadable(database, error) from error


def tables_of(database: Path) -> list[tuple]:
    """Name, rows, columns and comment of each table of the mart, ordered by name.

    Raises StateError where there is no mart to read.
    """
    with open_published(database) as connection:
        return [
            (name, _count(connection, name), len(connection.table(name).columns), comment)
            for name, comment in _tables(connection)
        ]


def last_verdict(report: Path) -> list[str]:
    """What `verdict_of` tells of the checks in a quality report."""
    checks = json.loads(report.read_text(encoding="utf-8"))["checks"]
    return verdict_of(SimpleNamespace(**each) for each in checks)


def _tables(connection: duckdb.DuckDBPyConnection) -> list[tuple]:
    """Name and comment of each table, ordered by name."""
    return connection.execute(
        """
        select table_name, coalesce(comment, '')
        from duckdb_tables()
        where database_name = current_database() and schema_name = 'main'
        order by table_name
        """
    ).fetchall()


def _newest_build(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The newest row of the build log, whatever columns it has; nothing where there was no build."""
    newest = connection.execute(f"select * from {BUILD_LOG} order by built_at desc limit 1")
    names = [column[0] for column in newest.description]
    row = newest.fetchone()
    if row is None:
        return []
    return [
        "last build\n" + aligned([(name, _text(value)) for name, value in zip(names, row, strict=True)])
    ]


def _described(connection: duckdb.DuckDBPyConnection, table: str, comment: str) -> str:
    """The table's name, rows and comment in one line, then a line for each column."""
    columns = connection.execute(
        """
        select column_name, lower(data_type), coalesce(comment, '')
        from duckdb_columns()
        where database_name = current_database() and schema_name = 'main' and table_name = $table
        order by column_index
        """,
        {"table": table},
    ).fetchall()
    rows = _count(connection, table)
    title = f"{table}: {rows:,} {'row' if rows == 1 else 'rows'}"
    return "\n".join([f"{title}. {comment}" if comment else title, aligned(columns)])


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return connection.execute(f"select count(*) from {quoted(table)}").fetchone()[0]


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value:,}" if type(value) is int else str(value)
