"""Fills `staging.<table>` from rows of text in one pass: typed values, and the texts of suspect rows.

A staging table has the declared columns in their declared order and its rows in the order of the file.
Until the bad rows are taken out it has a last column `SUSPECT`: null if nothing about the row is
suspect, else a JSON list of the texts of its columns and the fault of the row as a whole. `problems_sql`
then works out the exact faults of those rows only. Internal names begin with a blank, which no column
name does.
"""

from collections.abc import Iterable
from datetime import date

import duckdb

from mart_helpers.contract import FILE_DAY, Column, Rule, Table, cast_sql, form_of, id_sql, trimmed_sql
from mart_helpers.sources import ROW_FAULT
from mart_helpers.texts import literal, quoted

SUSPECT = quoted(" suspect")

_LONGEST_VALUE = 1000

#: The first day on which the rows of a file hold, if the file name has no date.
BEGINNING = date(1900, 1, 1)

_DOUBTS = {
    "DATE": "day is ambiguous: give a date (yyyy-mm-dd)",
    "TIMESTAMP": "time is ambiguous: give it without a zone (yyyy-mm-dd hh:mm:ss)",
}

# A mapping reports the faults of a row one by one, as a JSON list of this form.
_IS_LIST = f"starts_with({ROW_FAULT}, '[{{')"

_TOLD = '[{"position":"INTEGER","column_name":"VARCHAR","value":"VARCHAR","reason":"VARCHAR"}]'


def staging_of(table_name: str) -> str:
    """The SQL name of the staging table."""
    return f"staging.{quoted(table_name)}"


def create_staging(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Create or replace the staging table, empty and without constraints."""
    columns = [f"{quoted(column.name)} {column.type}" for column in table.columns]
    columns += [f"{FILE_DAY} date default date '{BEGINNING}'"] if table.has_days else []
    connection.execute(
        f"create or replace table {staging_of(table.name)} ({', '.join(columns)}, {SUSPECT} varchar)"
    )


def create_days(connection: duckdb.DuckDBPyConnection, facts: Iterable[Table]) -> None:
    """Make the view `staging.days_of_facts`: each `day` of a declared date of these staged tables.

    Days before 1900 or after 2100 are left out: they would make the calendar huge.
    """
    days = [
        f"select {quoted(column.name)}::date as day from {staging_of(fact.name)} "
        f"where {quoted(column.name)} between date '1900-01-01' and date '2100-12-31'"
        for fact in facts
        for column in fact.columns
        if column.type == "DATE" or column.type.startswith("TIMESTAMP")
    ]
    if days:
        connection.execute(f"create or replace view staging.days_of_facts as {' union all '.join(days)}")


def fill_staging(
    connection: duckdb.DuckDBPyConnection, table: Table, text_rows: str, fields: tuple[str, ...]
) -> int:
    """Add the rows of the query `text_rows` in their order, and return their number.

    The query has the columns `fields`, all text, and `ROW_FAULT`.
    """
    given = [column for column in table.columns if column.name in fields]
    texts = [f"{_text_sql(table, column)} as {_text(column)}" for column in given]
    texts += [f"null as {_text(column)}" for column in table.columns if column not in given]
    values = [quoted(column.name) for column in table.columns]
    conspicuous = [f"{ROW_FAULT} is not null"]
    conspicuous += [_looks_wrong(column) for column in given if _may_be_wrong(column)]
    conspicuous += [_is_broken(rule) for rule in table.rules]
    row = ", ".join([*map(_text, table.columns), ROW_FAULT])
    added = connection.execute(
        f"""
        insert into {staging_of(table.name)} ({", ".join(values)}, {SUSPECT})
        with texts as (select {", ".join(texts)}, {ROW_FAULT} from ({text_rows})),
        {_typed_steps(table.columns)}
        select
            {", ".join(values)},
            case when {" or ".join(conspicuous)} then to_json([{row}])::varchar end
        from typed
        """
    )
    return added.fetchone()[0]


def problems_sql(table: Table, most: int | None = None) -> str:
    """A query for the faults of single rows in the staging table, or of its first `most` suspect rows.

    One row per fault: row_id, position (of the column, from 0; -1: the row as a whole), column_name,
    value (at most 1,000 characters) and reason.
    """
    names = [*map(_text, table.columns), ROW_FAULT]
    texts = [f"texts[{place}] as {name}" for place, name in enumerate(names, 1)]
    listed = ", ".join(
        f"case when {condition} then {problem} end" for condition, problem in _faults(table)
    )
    told = f"coalesce(from_json(case when {_IS_LIST} then {ROW_FAULT} end, '{_TOLD}'), [])"
    return f"""
        with suspects as (
            select rowid as row_id, from_json({SUSPECT}, '["VARCHAR"]') as texts
            from {staging_of(table.name)} where {SUSPECT} is not null {f"limit {most}" if most else ""}
        ),
        texts as (select row_id as " row id", {", ".join(texts)} from suspects),
        {_typed_steps(table.columns)},
        judged as (select *, {told} as " told" from typed)
        select
            " row id" as row_id,
            unnest(
                " told" || list_filter(
                    [{listed}],
                    lambda fault: fault is not null
                        and not list_contains([told.position for told in " told"], fault.position)
                ),
                recursive := true
            )
        from judged
    """


def _text(column: Column) -> str:
    return quoted(f" text of {column.name}")


def _cast(column: Column) -> str:
    return quoted(f" cast of {column.name}")


def _text_sql(table: Table, column: Column) -> str:
    """The text of a column; an empty text is null, except in columns with a format of their own."""
    name = quoted(column.name)
    if column.type != "VARCHAR":
        return name
    return id_sql(name) if column.name in table.id_names else f"nullif({name}, '')"


def _typed_steps(columns: Iterable[Column]) -> str:
    """The steps that follow `texts` in a `with`; the last, `typed`, has the texts and their values.

    Each text is cast once, in a separate step: DuckDB would repeat the cast at every mention.
    """
    casts = [f"try_cast({_text(each)} as {each.type}) as {_cast(each)}" for each in columns]
    typed = [f"{_value_sql(each)} as {quoted(each.name)}" for each in columns]
    return (
        f"casts as (select *, {', '.join(casts)} from texts), "
        f"typed as (select *, {', '.join(typed)} from casts)"
    )


def _value_sql(column: Column) -> str:
    """SQL for the value of a text: the default if there is no text, null if it cannot be read."""
    value = cast_sql(_text(column), column.type, _cast(column))
    if column.default is None:
        return value
    is_empty = f"coalesce({trimmed_sql(_text(column))}, '') = ''"
    return f"coalesce({value}, case when {is_empty} then {column.default}::{column.type} end)"


def _may_be_wrong(column: Column) -> bool:
    return column.type != "VARCHAR" or _must_be_there(column)


def _must_be_there(column: Column) -> bool:
    return column.is_required and column.default is None


def _looks_wrong(column: Column) -> str:
    if _must_be_there(column):
        return f"{quoted(column.name)} is null"
    # for speed, only text without a value is trimmed
    return f"case when {quoted(column.name)} is null then {trimmed_sql(_text(column))} <> '' end"


def _is_broken(rule: Rule) -> str:
    return f"not coalesce({rule.expression}, true)"


def _faults(table: Table) -> list[tuple[str, str]]:
    """SQL conditions that find a faulty row, each with SQL for a struct that describes the fault."""
    faults = [
        (f"{ROW_FAULT} is not null and not {_IS_LIST}", _problem_sql(-1, "null", "null", ROW_FAULT))
    ]
    for position, column in enumerate(table.columns):
        text = trimmed_sql(_text(column))
        if _must_be_there(column):
            missing = _problem_of(position, column, literal(f"{column.name} is missing"))
            faults.append((f"coalesce({text}, '') = ''", missing))
        if column.type != "VARCHAR":
            wrong = _problem_of(
                position, column, _quoting(column, f" is not {form_of(column.type).words}")
            )
            faults.append((f"{quoted(column.name)} is null and {text} <> ''", wrong))
        if column.type in _DOUBTS:
            zone = rf"regexp_full_match({text}, '.*:[0-9]{{2}}(\.[0-9]+)?\s*(Z|[+-][0-9:]+)')"
            faults[-1] = (f"{faults[-1][0]} and not {zone}", faults[-1][1])
            words = f" has a time zone, so its {_DOUBTS[column.type]}"
            wrong = _problem_of(position, column, _quoting(column, words))
            faults.append((f"{quoted(column.name)} is null and {zone}", wrong))
    for rule in table.rules:
        position = table.column_names.index(rule.columns[0])
        column = table.columns[position]
        words = _quoting(column, f" breaks the rule {rule.words}")
        faults.append((_is_broken(rule), _problem_of(position, column, words)))
    return faults


def _problem_of(position: int, column: Column, reason: str) -> str:
    return _problem_sql(position, literal(column.name), _shown_text(column), reason)


def _problem_sql(position: int, name: str, value: str, reason: str) -> str:
    return f"{{position: {position}, column_name: {name}, value: {value}, reason: {reason}}}"


def _quoting(column: Column, words: str) -> str:
    shown = f"coalesce({_shown_text(column)}, '')"
    return f"""{literal(f'{column.name} "')} || {shown} || {literal(f'"{words}')}"""


def _shown_text(column: Column) -> str:
    return f"nullif(left({_text(column)}, {_LONGEST_VALUE}), '')"
