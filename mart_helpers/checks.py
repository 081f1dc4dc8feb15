"""Checks: a check is a view of bad rows in schema `checks`, its comment `severity: sentence`.

The structural ones are derived here from the declared contract and from the names of the star
(`dim_<thing>` has `<thing>_key`, a fact refers to it by the same name). Whoever wants another one
creates a view. All are run the same way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pandas as pd

from mart_helpers.contract import Table, ascends_sql, declared_tables, read_contract
from mart_helpers.errors import CheckFailed
from mart_helpers.session import Session

SEVERITIES = ("error", "warn")
_SAMPLE_ROWS = 5


@dataclass(frozen=True)
class Check:
    """A view to be: its name, the query that finds the bad rows, and what holds when there are none."""

    name: str
    query: str
    sentence: str


def derive_checks(session: Session) -> None:
    """Create a view in schema `checks` for each structural check of the star, all of severity error."""
    connection = session.connection
    connection.execute("create schema if not exists checks")
    for check in _structural_checks(connection):
        sentence = check.sentence.replace("'", "''")
        connection.execute(f"create or replace view checks.{check.name} as {check.query}")
        connection.execute(f"comment on view checks.{check.name} is 'error: {sentence}'")


def run_checks(session: Session) -> pd.DataFrame:
    """Count the bad rows of every check: one row a check, failed ones first.

    Columns: check_name, severity, status (pass, fail, or broken where the view itself fails),
    bad_rows (missing where broken), sentence.
    """
    views = session.connection.execute(
        "select view_name, comment from duckdb_views() "
        "where database_name = current_database() and schema_name = 'checks'"
    ).fetchall()
    results = pd.DataFrame(
        [_run(session.connection, name, comment or "") for name, comment in views],
        columns=["check_name", "severity", "status", "bad_rows", "sentence"],
    )
    results["bad_rows"] = results["bad_rows"].astype("Int64")
    return results.sort_values(["status", "severity", "check_name"], ignore_index=True)


def stop_on_failures(session: Session, check_results: pd.DataFrame, fail_on: str) -> None:
    """Raise CheckFailed where a check of severity `fail_on` (error, warn or never) or worse failed.

    The message names each such check with its count and some of its rows. What is being built can then
    not be published.
    """
    session.checks_failed = False
    if fail_on == "never":
        return
    if check_results.empty:
        raise CheckFailed(
            "There are no checks, so nothing vouches for the mart. Build it with 01_build."
        )
    counted = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    failed = check_results[(check_results["status"] != "pass") & check_results["severity"].isin(counted)]
    if len(failed):
        session.checks_failed = True
        parts = [_failure(session.connection, row) for row in failed.itertuples()]
        raise CheckFailed(f"{len(failed)} of {len(check_results)} checks failed.\n" + "\n".join(parts))


def _run(connection: duckdb.DuckDBPyConnection, name: str, comment: str) -> tuple:
    severity, _, sentence = comment.partition(":")
    if severity not in SEVERITIES:
        severity, sentence = "error", comment or "has no comment of the form 'severity: sentence'"
    try:
        bad_rows = connection.execute(f'select count(*) from checks."{name}"').fetchone()[0]
    except duckdb.Error as error:
        return name, severity, "broken", None, str(error).splitlines()[0]
    return name, severity, "fail" if bad_rows else "pass", bad_rows, sentence.strip()


def _failure(connection: duckdb.DuckDBPyConnection, row: tuple) -> str:
    if row.status == "broken":
        return f"{row.check_name} ({row.severity}) cannot run: {row.sentence}"
    sample = connection.execute(f'from checks."{row.check_name}" limit {_SAMPLE_ROWS}').df()
    return (
        f"{row.check_name} ({row.severity}): {row.bad_rows:,} bad. Expected: {row.sentence}\n"
        f"{sample.to_string(index=False, max_colwidth=40)}\n"
        f"  all of them: select * from checks.{row.check_name}"
    )


def _structural_checks(connection: duckdb.DuckDBPyConnection) -> Iterator[Check]:
    star = _star_columns(connection)
    for table, columns in star.items():
        yield _has_rows(table)
        for column in columns:
            dimension = f"dim_{column.removesuffix('_key')}"
            if column.endswith("_key") and dimension == table:
                yield from _key_checks(table, column)
            elif column.endswith("_key") and dimension in star:
                yield _reference_check(table, column, dimension)
    for name in declared_tables(connection):
        if name in star:
            yield from _declared_checks(read_contract(connection, name), star[name])


def _star_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    rows = connection.execute(
        """
        select table_name, list(column_name order by column_index)
        from duckdb_columns()
        where
            database_name = current_database()
            and schema_name = 'main'
            and (table_name like 'dim\\_%' escape '\\' or table_name like 'fact\\_%' escape '\\')
        group by table_name
        order by table_name
        """
    )
    return dict(rows.fetchall())


def _has_rows(table: str) -> Check:
    return Check(
        f"{table}_has_rows",
        f"select '{table}' as empty_table where not exists (from {table})",
        f"{table} has rows",
    )


def _key_checks(table: str, column: str, known: str = "true") -> Iterator[Check]:
    yield Check(
        f"{table}_{column}_is_unique",
        f"select {column}, count(*) as rows from {table} where {column} is not null "
        f"and not ({ascends_sql(table, column)}) group by {column} having count(*) > 1",
        f"each {column} stands once in {table}",
    )
    yield _not_null(table, column, known)


def _not_null(table: str, column: str, known: str) -> Check:
    return Check(
        f"{table}_{column}_is_not_null",
        f"select * from {table} where {column} is null and {known}",
        f"every row of {table} has a {column}",
    )


def _reference_check(table: str, column: str, dimension: str) -> Check:
    return Check(
        f"{table}_{column}_is_in_{dimension}",
        f"select {table}.* from {table} anti join {dimension} using ({column})",
        f"every {column} of {table} is in {dimension}",
    )


def _declared_checks(table: Table, columns: list[str]) -> Iterator[Check]:
    """What the contract says of a column holds in the star too; the unknown member is exempt."""
    surrogate = f"{table.name.removeprefix('dim_')}_key"
    known = f"{surrogate} <> -1" if surrogate in columns else "true"
    for column in table.columns:
        if column.name in columns and column.name == table.key:
            yield from _key_checks(table.name, column.name, known)
        elif column.name in columns and column.is_required:
            yield _not_null(table.name, column.name, known)
    for number, rule in enumerate(table.rules, start=1):
        if set(rule.columns) <= set(columns):
            yield Check(
                f"{table.name}_rule_{number}_on_{'_and_'.join(rule.columns)}",
                f"select * from {table.name} where not ({rule.expression})",
                f"{rule.words} holds in {table.name}",
            )
