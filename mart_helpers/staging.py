"""Filling `staging.<table>` from rows of text in one pass: typed values, and what is wrong beside them.

A staging table has the declared columns in their declared order, in the order of the file, and until
its bad rows are taken out a last column `problems`: null for a good row, else a JSON list of objects with
the fields of PROBLEM. As a list of DuckDB's own it would take 16 bytes and a tenth of the time for rows
that have none.
"""

import duckdb

from mart_helpers.contract import Column, Rule, Table
from mart_helpers.values import cast_sql, form_of, id_sql, trimmed_sql

#: What is known of a bad value, and the types of that in DuckDB.
PROBLEM = {"position": "integer", "column_name": "varchar", "value": "varchar", "reason": "varchar"}
_LONGEST_VALUE = 1000


def create_staging(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Make `staging.<table>` anew, without rows and without constraints."""
    columns = [f"{column.name} {column.type}" for column in table.columns]
    connection.execute(
        f"create or replace table staging.{table.name} ({', '.join(columns)}, problems varchar)"
    )


def fill_staging(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    text_rows: str,
    fields: tuple[str, ...],
    has_blanks: bool = True,
) -> None:
    """Add the rows of the query `text_rows`, in their order.

    Its columns are `fields`, all text, and `row_fault`: what is wrong with a row as a whole, or null.
    Without `has_blanks` there is certainly no white space around a value.
    """
    given = [column for column in table.columns if column.name in fields]
    texts = [f"{_text_sql(table, column, has_blanks)} as text_{column.name}" for column in given]
    # each text is cast once, in a step of its own: DuckDB would do it again for every mention
    casts = [f"try_cast(text_{column.name} as {column.type}) as cast_{column.name}" for column in given]
    typed = [
        f"{cast_sql(f'text_{column.name}', column.type, f'cast_{column.name}')} as {column.name}"
        for column in given
    ] + [
        f"{column.default}::{column.type} as {column.name}"
        for column in table.columns
        if column not in given
    ]
    values = [
        f"coalesce({column.name}, {column.default}::{column.type})" if column.default else column.name
        for column in table.columns
    ]
    connection.execute(
        f"""
        insert into staging.{table.name}
        with texts as (select {", ".join(texts)}, row_fault from ({text_rows})),
        casts as (select *, {", ".join(casts)} from texts),
        typed as (select *, {", ".join(typed)} from casts)
        select {", ".join(values)}, {_problems_sql(table, given)} from typed
        """
    )


def _text_sql(table: Table, column: Column, has_blanks: bool) -> str:
    if has_blanks and _is_id(table, column):
        return id_sql(column.name)
    return f"nullif({column.name}, '')"


def _is_id(table: Table, column: Column) -> bool:
    return column.name in {table.key, *(reference.column for reference in table.references)}


def _problems_sql(table: Table, given: list[Column]) -> str:
    """SQL for the list of problems; rows on which nothing is conspicuous are not looked at closely."""
    whole_row = "{position: -1, column_name: null, value: null, reason: row_fault}"
    conspicuous = [_looks_wrong(column) for column in given if _may_be_wrong(column)]
    conspicuous += [_is_broken(rule) for rule in _rules(table, given)]
    listed = ", ".join(
        f"case when {condition} then {_problem_sql(table, name, reason)} end"
        for name, condition, reason in _faults(table, given)
    )
    return (
        f"case when row_fault is not null then to_json([{whole_row}])::varchar "
        f"when {' or '.join(conspicuous) or 'false'} "
        f"then nullif(to_json(list_filter([{listed}], lambda p: p is not null))::varchar, '[]') end"
    )


def _may_be_wrong(column: Column) -> bool:
    return column.type != "VARCHAR" or _must_be_there(column)


def _must_be_there(column: Column) -> bool:
    return column.is_required and column.default is None


def _looks_wrong(column: Column) -> str:
    if _must_be_there(column):
        return f"{column.name} is null"
    return f"({column.name} is null and text_{column.name} is not null)"


def _rules(table: Table, given: list[Column]) -> list[Rule]:
    names = {column.name for column in given}
    return [rule for rule in table.rules if names.issuperset(rule.columns)]


def _is_broken(rule: Rule) -> str:
    return f"not coalesce({rule.expression}, true)"


def _faults(table: Table, given: list[Column]) -> list[tuple[str, str, str]]:
    """Column, SQL condition and SQL reason of all that can be wrong within one row."""
    faults = []
    for column in given:
        name, text = column.name, trimmed_sql(f"text_{column.name}")
        if _must_be_there(column):
            faults.append((name, f"coalesce({text}, '') = ''", f"'{name} is missing'"))
        if column.type != "VARCHAR":
            words = f" is not {form_of(column.type).words}"
            faults.append((name, f"{name} is null and {text} <> ''", _quoting(name, words)))
    for rule in _rules(table, given):
        words = f" breaks the rule {rule.words}".replace("'", "''")
        faults.append((rule.columns[0], _is_broken(rule), _quoting(rule.columns[0], words)))
    return faults


def _quoting(name: str, words: str) -> str:
    return f"""'{name} "' || left(text_{name}, {_LONGEST_VALUE}) || '"{words}'"""


def _problem_sql(table: Table, name: str, reason: str) -> str:
    position = table.column_names.index(name)
    value = f"left(text_{name}, {_LONGEST_VALUE})"
    return f"{{position: {position}, column_name: '{name}', value: {value}, reason: {reason}}}"
