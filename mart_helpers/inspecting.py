"""What a mart holds, as plain text."""

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb

from mart_helpers.opening import BUILD_LOG, open_published, quoted, unreadable
from mart_helpers.project import shown

_MOST_NAMED = 20


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


def last_account(database: Path) -> list[str]:
    """What `account_of` tells of the mart. Raises StateError where there is none to read."""
    with open_published(database) as connection:
        return account_of(connection)


def account_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What the last build did with the rows it read.

    Further lines tell what is commonest in its quarantine, and which columns it missed or ignored.
    """
    from mart_helpers.quarantining import commonest_reasons

    rows = connection.execute(
        "select rows_read, rows_loaded, rows_quarantined from build_log order by build_id desc"
    ).fetchone()
    found, more = commonest_reasons(connection) if rows[-1] else ([], 0)
    reasons = [
        f"{count:,} × such as {file}, line {line}: {reason}" for count, file, line, reason in found
    ]
    reasons += [f"and {more} more, in the table quarantine"] if more else []
    columns = []
    with suppress(duckdb.Error):  # a mart of an older 01_build
        columns = [line for (line,) in connection.execute(_ODD_COLUMNS).fetchall()]
    return ["{:,} read, {:,} loaded, {:,} in quarantine".format(*rows), *reasons, *columns]


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
    select file, 'column ' || ignored_columns || ' is not known, and ignored'
    from latest
    where ignored_columns <> ''
)
select min(file) || if(count(*) > 1, ' and ' || count(*) - 1 || ' more', '') || ': ' || line
from lines
group by line
order by min(file), line desc
"""


def last_build(connection: duckdb.DuckDBPyConnection) -> dict[str, object]:
    """What the mart's log says of its last build; null is what it does not have.

    `build_id`, `built_at` (ISO 8601, UTC), `rows_loaded`, `rows_quarantined`, `revenue_loaded`,
    `revenue_quarantined` (money is text with all its decimals).
    """
    found = connection.execute(f"from {BUILD_LOG} order by build_id desc limit 1")
    columns = [column for column, *_ in found.description]
    build = dict(zip(columns, found.fetchone() or (), strict=False))
    built_at = build.get("built_at")
    revenue = {name: build.get(name) for name in ("revenue_loaded", "revenue_quarantined")}
    return {
        "build_id": build.get("build_id"),
        "built_at": built_at and built_at.isoformat(),
        "rows_loaded": build.get("rows_loaded"),
        "rows_quarantined": build.get("rows_quarantined"),
        **{name: None if money is None else str(money) for name, money in revenue.items()},
    }


def last_verdict(report: Path) -> list[str]:
    """What `verdict_of` tells of the checks in a quality report."""
    checks = json.loads(report.read_text(encoding="utf-8"))["checks"]
    return verdict_of(SimpleNamespace(**each) for each in checks)


def verdict_of(checks: Iterable[Any]) -> list[str]:
    """How many of the results of `run_checks` passed, and a line for each that did not."""
    checks = list(checks)
    bad = [each for each in checks if each.status != "pass"]
    lines = [
        f"{each.severity}: {each.check_name}, "
        + ("cannot run" if each.bad_rows is None else f"{each.bad_rows:,} bad")
        for each in bad[:_MOST_NAMED]
    ]
    more = [f"and {len(bad) - _MOST_NAMED} more"] if len(bad) > _MOST_NAMED else []
    return [f"{len(checks) - len(bad)} of {len(checks)} passed", *lines, *more]


def size_text(path: Path) -> str:
    """Size of a file, or of all files in a folder, such as `1.2 MB` (1 MB = 1,000,000 bytes)."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    size = float(sum(each.lstat().st_size for each in files if not each.is_dir()))
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def aligned(rows: list[tuple], indent: str = "  ") -> str:
    """`rows` of texts as lines with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        indent + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


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
