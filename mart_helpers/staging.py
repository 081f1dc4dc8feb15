"""Filling `staging.<table>` from rows of text in one pass: typed values, and the texts of odd rows.

A staging table has the declared columns in their declared order, in the order of the file, and until
its bad rows are taken out a last column `suspect`: null for a row on which nothing is conspicuous, else
the texts of its columns, and what is wrong with the row as a whole, as a JSON list. What exactly is
wrong is asked of those rows alone, afterwards (`problems_sql`).
"""

from collections.abc import Iterable

import duckdb

from mart_helpers.contract import Column, Rule, Table, cast_sql, form_of, id_sql, trimmed_sql
from mart_helpers.errors import StateError

_LONGEST_VALUE = 1000


def create_staging(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Make `staging.<table>` anew, without rows and without constraints.

    Raises StateError where it or a column has a name that SQL would have to quote: none is quoted, here
    or later.
    """
    columns = [f"{column.name} {column.type}" for column in table.columns]
    try:
        connection.execute(
            f"create or replace table staging.{table.name} ({', '.join(columns)}, suspect varchar)"
        )
    except duckdb.ParserException as error:
        names = [table.name, *table.column_names]
        odd = [name for name in names if not _is_plain(connection, name)]
        raise StateError(
            f"contract.{table.name}: SQL would have to quote the names {', '.join(odd)}. Give others "
            "of letters, digits and _ that are no words of SQL, there and in the extract."
        ) from error


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
    texts += [f"null as text_{column.name}" for column in table.columns if column not in given]
    values = [
        f"coalesce({column.name}, {column.default}::{column.type})" if column.default else column.name
        for column in table.columns
    ]
    conspicuous = ["row_fault is not null"]
    conspicuous += [_looks_wrong(column) for column in given if _may_be_wrong(column)]
    conspicuous += [_is_broken(rule) for rule in table.rules]
    row = ", ".join([*(f"text_{column.name}" for column in table.columns), "row_fault"])
    connection.execute(
        f"""
        insert into staging.{table.name}
        with texts as (select {", ".join(texts)}, row_fault from ({text_rows})),
        {_typed_steps(table.columns)}
        select
            {", ".join(values)},
            case when {" or ".join(conspicuous)} then to_json([{row}])::varchar end
        from typed
        """
    )


def suspects_sql(table: Table) -> str:
    """A statement that notes `$fault` of whole rows of `staging.<table>`, those with `$row_ids`."""
    row = ", ".join([*("null" for _ in table.columns), "$fault"])
    return (
        f"update staging.{table.name} set suspect = to_json([{row}])::varchar "
        "where rowid in (select unnest($row_ids::bigint[]))"
    )


def problems_sql(table: Table) -> str:
    """A query for what is wrong with single rows of `staging.<table>`, a row for each fault.

    Its columns are row_id, position (of the column, from 0; -1: the row as a whole), column_name, value
    (at most 1,000 characters) and reason.
    """
    names = [f"text_{column.name}" for column in table.columns] + ["row_fault"]
    texts = [f"texts[{place}] as {name}" for place, name in enumerate(names, 1)]
    listed = ", ".join(
        f"case when {condition} then {problem} end" for condition, problem in _faults(table)
    )
    return f"""
        with suspects as (
            select rowid as row_id, from_json(suspect, '["VARCHAR"]') as texts
            from staging.{table.name} where suspect is not null
        ),
        texts as (select row_id, {", ".join(texts)} from suspects),
        {_typed_steps(table.columns)}
        select
            row_id,
            unnest(list_filter([{listed}], lambda fault: fault is not null), recursive := true)
        from typed
    """


def _is_plain(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    try:
        connection.extract_statements(f"select min({name})")
    except duckdb.ParserException:
        return False
    return True


def _text_sql(table: Table, column: Column, has_blanks: bool) -> str:
    """The text of a column; one that is no number or day of its own is null where it is empty."""
    if column.type != "VARCHAR":
        return column.name
    if has_blanks and _is_id(table, column):
        return id_sql(column.name)
    return f"nullif({column.name}, '')"


def _is_id(table: Table, column: Column) -> bool:
    return column.name in {table.key, *(reference.column for reference in table.references)}


def _typed_steps(columns: Iterable[Column]) -> str:
    """Steps behind `texts` in a `with`: `typed` has, beside the texts, the values or nulls.

    Each text is cast once, in a step of its own: DuckDB would do it again for every mention.
    """
    casts = [f"try_cast(text_{each.name} as {each.type}) as cast_{each.name}" for each in columns]
    typed = [f"{_value_sql(each)} as {each.name}" for each in columns]
    return (
        f"casts as (select *, {', '.join(casts)} from texts), "
        f"typed as (select *, {', '.join(typed)} from casts)"
    )


def _value_sql(column: Column) -> str:
    """SQL for the value of a text: the default where there is no text, null where it cannot be read."""
    text = f"text_{column.name}"
    value = cast_sql(text, column.type, f"cast_{column.name}")
    if column.default is None:
        return value
    is_empty = f"coalesce({trimmed_sql(text)}, '') = ''"
    return f"coalesce({value}, case when {is_empty} then {column.default}::{column.type} end)"


def _may_be_wrong(column: Column) -> bool:
    return column.type != "VARCHAR" or _must_be_there(column)


def _must_be_there(column: Column) -> bool:
    return column.is_required and column.default is None


def _looks_wrong(column: Column) -> str:
    if _must_be_there(column):
        return f"{column.name} is null"
    return f"({column.name} is null and text_{column.name} <> '')"


def _is_broken(rule: Rule) -> str:
    return f"not coalesce({rule.expression}, true)"


def _faults(table: Table) -> list[tuple[str, str]]:
    """SQL conditions under which something is wrong with a row, and SQL for a struct that says what."""
    faults = [("row_fault is not null", _problem_sql(-1, "null", "null", "row_fault"))]
    for position, column in enumerate(table.columns):
        name, text = column.name, trimmed_sql(f"text_{column.name}")
        if _must_be_there(column):
            missing = _problem_of(position, column, f"'{name} is missing'")
            faults.append((f"coalesce({text}, '') = ''", missing))
        if column.type != "VARCHAR":
            words = f" is not {form_of(column.type).words}"
            wrong = _problem_of(position, column, _quoting(column, words))
            faults.append((f"{name} is null and {text} <> ''", wrong))
    for rule in table.rules:
        position = table.column_names.index(rule.columns[0])
        column = table.columns[position]
        words = f" breaks the rule {rule.words}".replace("'", "''")
        faults.append((_is_broken(rule), _problem_of(position, column, _quoting(column, words))))
    return faults


def _problem_of(position: int, column: Column, reason: str) -> str:
    return _problem_sql(position, f"'{column.name}'", _shown_text(column), reason)


def _problem_sql(position: int, name: str, value: str, reason: str) -> str:
    return f"{{position: {position}, column_name: {name}, value: {value}, reason: {reason}}}"


def _quoting(column: Column, words: str) -> str:
    return f"""'{column.name} "' || coalesce({_shown_text(column)}, '') || '"{words}'"""


def _shown_text(column: Column) -> str:
    return f"nullif(left(text_{column.name}, {_LONGEST_VALUE}), '')"
