"""Compares two marts: rows and money, table by table, month by month, key by key.

A build may assign new surrogate keys. So natural keys identify rows, and facts are compared by the
natural keys of the dimensions that they refer to. Facts are first compared a whole month at a time, and
row by row only within months that differ. Money is the first additive metric of a fact (see `metrics`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import pandas as pd

from mart_helpers.kept import published_build
from mart_helpers.lake import reach_lake
from mart_helpers.metrics import Metric, additive_metrics, first_made_of
from mart_helpers.parameters import shown
from mart_helpers.restated import Mart, restated_by, restated_notes
from mart_helpers.session import Session, confine, connect, current_database, in_words
from mart_helpers.star import VALID_FROM, VALID_TO
from mart_helpers.texts import aligned, literal, one_line, row_sql, row_text_sql

_MOST_ROWS = 20

_MOST_NOTES = 12


class Comparison(NamedTuple):
    """The differences between two marts.

    - `tables`, a row each: table_name, rows_before, rows_after, how many rows were added, removed and
      changed, and what that did to the money (missing where a table has none).
    - `months` whose money differs: table_name, metric, month_start, before, after, change.
    - `rows` that are new or gone, the first 20 of each kind and table: table_name, what_changed, key,
      change (of the money). New rows of closed months come first.
    - `values` of the first 20 changed rows of each table: table_name, key, column_name, before, after.
    - `restated` by a changed dimension: metric, year, dimension, column_name, value (of a text that
      reports group by, else missing), change. The rows of the facts are those that both marts have.
    - `notes` on what came late or was restated, a sentence each.
    """

    tables: pd.DataFrame
    months: pd.DataFrame
    rows: pd.DataFrame
    values: pd.DataFrame
    restated: pd.DataFrame
    notes: list[str]

    def summary(self) -> str:
        """The notes as lines of text, each with its line end; empty where there are none."""
        notes, more = self.notes[:_MOST_NOTES], len(self.notes) - _MOST_NOTES
        notes += [f"and {more} more, see `mart diff`"] if more > 0 else []
        words = ["past", *[""] * len(notes)]
        return aligned(list(zip(words, notes, strict=False)), indent="") + "\n" if notes else ""


def compare_with_published(session: Session) -> Comparison:
    """What will change for readers of the mart when the candidate of `session` is published.

    Raises QueryError if the published mart is damaged.
    """
    with in_words():
        return compare(session.connection, "published", current_database(session.connection))


def compare_files(before: Path, after: Path) -> Comparison:
    """The differences between two mart files. Raises StateError if one cannot be read as a mart."""
    for database in (before, after):
        published_build(database)
    with connect(Path(":memory:")) as connection:
        lakes = []
        for name, database in (("before", before), ("after", after)):
            connection.execute(f"attach {literal(database)} as {name} (read_only)")
            lakes += reach_lake(connection, database, name)
        connection.execute("use after")  # a metric looks there for the macros that it uses
        connection.execute(f"set temp_directory = {literal(f'{after}.tmp')}")
        confine(connection, lakes)
        with in_words():
            return compare(connection, "before", "after")


def described(before: Path, after: Path) -> str:
    """The differences between two mart files as plain text. Raises errors like `compare_files`."""
    found = compare_files(before, after)
    title = " → ".join(
        f"{one_line(shown(each))} (build {published_build(each)})" for each in (before, after)
    )
    if not found.tables[["added", "removed", "changed"]].any(axis=None):
        return "\n\n".join([title, _text(found.tables), "Every row of the one is in the other."])
    notes = ["\n".join(f"  {note}" for note in found.notes)] if found.notes else []
    return "\n\n".join([title, *notes, *(_text(frame) for frame in found[:-1] if len(frame))])


def _text(frame: pd.DataFrame) -> str:
    names = [name.replace("_", " ") for name in frame.columns]
    rows = zip(*([_cell(name, value) for value in frame[name]] for name in frame.columns), strict=True)
    return aligned([names, *rows])


def _cell(column: str, value: object) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m}"
    if isinstance(value, str) or column == "year":
        return str(value)
    if isinstance(value, float):
        is_change = column == "change" or column.startswith("money")
        return f"{value:{'+' if is_change else ''}z,.2f}"
    return f"{value:,}"


def compare(connection: duckdb.DuckDBPyConnection, before: str, after: str) -> Comparison:
    """The differences between two marts that `connection` has attached under these names.

    A column that only one of them has, or of which they do not agree what it refers to, is not compared.
    A table whose natural key has another name or type than before is removed and added as a whole. Of a
    dimension that only one of them has from dated extracts, the newest versions are compared. Takes the
    time of reading both marts, and room for the rows that differ, which DuckDB moves to disk where
    memory ends.
    """
    connection.execute(_RESULTS)
    marts = Mart(connection, before), Mart(connection, after)
    metrics = additive_metrics(connection, after)
    tables = [_table(name, metrics, *marts) for name in sorted({*marts[0].star, *marts[1].star})]
    notes = [
        f"{each.name} is from dated extracts in one mart only: its newest versions are compared"
        for each in tables
        if each.is_of_newest
    ]
    counts = [_compare_table(connection, table, notes) for table in tables]
    restated = restated_by(connection, metrics, *marts)
    return Comparison(
        pd.DataFrame(counts, columns=_TABLE_COLUMNS).astype(
            {name: float for name in _TABLE_COLUMNS[-3:]}
        ),
        connection.execute(_MONTHS).df(),
        connection.execute("from row_changes").df(),
        connection.execute("from value_changes").df(),
        restated,
        [*notes, *restated_notes(restated)],
    )


class _Table(NamedTuple):
    """A table of the star as both marts have it, in queries with the columns `c0`, `c1` ….

    `columns` are their names in the mart. Of these, `day` is None and `key` empty where there is none;
    `is_other` says that the marts do not agree on the key, `is_of_newest` that only one of them has
    versions from dated extracts, so that the rows are the newest ones. Of the pairs of queries the first
    is of the mart before. `plain` ones leave surrogate keys as they are, at less cost. A mart without
    the table has no rows.
    """

    name: str
    columns: list[str]
    is_other: bool
    is_of_newest: bool
    key: list[str]
    day: str | None
    metric: Metric | None
    sources: list[str]
    plain: list[str]
    resolved: list[str]

    def money(self, row: str = "") -> str:
        """SQL for the money of the rows, or of the rows that the struct `row` holds; else null."""
        if self.metric is None:
            return "null::decimal(38, 4)"
        return self.metric.of(*(f"{row}.{source}" if row else source for source in self.sources))


def _table(name: str, metrics: list[Metric], before: Mart, after: Mart) -> _Table:
    marts = [mart for mart in (before, after) if name in mart.star]
    meanings, others = marts[-1].meanings(name), marts[0].meanings(name)
    shared = [column for column, meaning in meanings.items() if others.get(column) == meaning]
    keys, day = [mart.key(name) for mart in marts], marts[-1].day(name)
    is_of_newest = sum(name in mart.dated for mart in marts) == 1 < len(marts)
    if is_of_newest:
        shared = [column for column in shared if column not in (VALID_FROM, VALID_TO)]
        keys = [{column: key[column] for column in key if column != VALID_FROM} for key in keys]
    metric = first_made_of(shared, metrics) if name.startswith("fact_") else None

    def place(column: str | None) -> str | None:
        return f"c{shared.index(column)}" if column in shared else None

    def queries(*, resolved: bool) -> list[str]:
        nothing = f"from ({marts[0].rows(name, shared, resolved=resolved)}) where false"
        return [
            mart.rows(name, shared, resolved=resolved, only_newest=is_of_newest)
            if mart in marts
            else nothing
            for mart in (before, after)
        ]

    return _Table(
        name,
        [meanings[column][0] for column in shared],
        is_other=keys[0] != keys[-1],
        is_of_newest=is_of_newest,
        key=[place(column) for column in keys[-1]] if {*keys[-1]} <= {*shared} else [],
        day=place(day),
        metric=metric,
        sources=[place(column) for column in metric.columns] if metric else [],
        plain=queries(resolved=False),
        resolved=queries(resolved=True),
    )


def _compare_table(connection: duckdb.DuckDBPyConnection, table: _Table, notes: list[str]) -> tuple:
    """The row of `tables` about a table; what else is to be told of it is inserted, or a note."""
    (before, money_before), (after, money_after) = (
        connection.execute(f"select count(*), {table.money()} from ({rows})").fetchone()
        for rows in table.plain
    )
    # if one mart has no rows, all rows of the other are new or gone, and need no comparison
    closely = not table.is_other and min(before, after) > 0
    if table.day:
        connection.execute(_months_sql(table, closely))
    if not closely:
        gone = None if money_before is None else -money_before
        return table.name, before, after, after, before, 0, money_after, gone, table.metric and 0
    connection.execute(_differences_sql(table))
    if table.key:
        connection.execute(_rows_sql(table))
        connection.execute(_values_sql(table))
    if table.day:
        notes += _late_rows(connection, table)
    sums = f"select what_changed, count(*), {_change(table)} from differences group by what_changed"
    found = {kind: told for kind, *told in connection.execute(sums).fetchall()}
    counts, changes = zip(
        *(found.get(kind, (0, table.metric and 0)) for kind in ("new", "gone", "changed")), strict=True
    )
    return table.name, before, after, *counts, *changes


def _months_sql(table: _Table, closely: bool) -> str:
    """SQL that notes the months in which the marts differ."""
    before, after = table.resolved if closely else table.plain
    columns = ", ".join(f"c{place}" for place in range(len(table.columns)))
    fingerprint = f"sum(hash({columns}))" if closely else "count(*)"
    metric = literal(table.metric.name) if table.metric else "null"
    monthly = (
        f"select {table.day} // 100 as month, {fingerprint} as fingerprint, {table.money()} as money"
    )
    return f"""
        insert into month_changes
        with before as ({monthly} from ({before}) group by month),
        after as ({monthly} from ({after}) group by month)
        select {literal(table.name)}, {metric}, month, before.money, after.money
        from before
        full join after using (month)
        where before.fingerprint is distinct from after.fingerprint
    """


def _differences_sql(table: _Table) -> str:
    """SQL for a temporary table of the rows that differ, as structs; null where there is no such row."""
    months = f"select month from month_changes where table_name = {literal(table.name)}"
    where = f"where {table.day} // 100 in ({months})" if table.day else ""
    before, after = table.resolved
    pairs = _ROWS_WITHOUT_KEY
    if table.key:
        keys = (row_sql(table.key, f"{mart}.row") for mart in ("before", "after"))
        pairs = f"""
            select before.row as row_before, after.row as row_after
            from before
            full join after on {" is not distinct from ".join(keys)}
            where before.row is distinct from after.row
        """
    return f"""
        create or replace temp table differences as
        with before as (select found as row from ({before}) as found {where}),
        after as (select found as row from ({after}) as found {where}),
        pairs as ({pairs})
        select
            *,
            case
                when row_before is null then 'new' when row_after is null then 'gone' else 'changed'
            end as what_changed
        from pairs
    """


def _change(table: _Table) -> str:
    return f"{table.money('row_after')} - {table.money('row_before')}"


def _rows_sql(table: _Table) -> str:
    """SQL that notes the first of the rows that are new or gone, new ones of closed months first."""
    is_late = f"what_changed = 'new' and row_after.{table.day} // 100 < {_newest(table)}"
    return f"""
        insert into row_changes
        with found as (
            select
                what_changed,
                {row_sql(table.key, "coalesce(row_after, row_before)")} as key,
                any_value({_key_text(table, "coalesce(row_after, row_before)")}) as key_text,
                {is_late if table.day else "false"} as is_late,
                {_change(table)} as change
            from differences
            where what_changed <> 'changed'
            group by what_changed, key, is_late
            qualify
                row_number() over (partition by what_changed order by is_late desc, key) <= {_MOST_ROWS}
        )
        select {literal(table.name)}, what_changed, key_text, change
        from found
        order by what_changed, is_late desc, key
    """


def _newest(table: _Table) -> str:
    return f"(select max({table.day} // 100) from ({table.plain[0]}))"


def _late_rows(connection: duckdb.DuckDBPyConnection, table: _Table) -> Iterator[str]:
    """A sentence on the new rows of closed months."""
    rows, change = connection.execute(f"""
        select count(*), {_change(table)}
        from differences
        where what_changed = 'new' and row_after.{table.day} // 100 < {_newest(table)}
    """).fetchone()
    if rows:
        money = f", {table.metric.name} {change:+,.2f}" if table.metric else ""
        yield f"{table.name}: {rows:,} new in closed months{money}"


def _values_sql(table: _Table) -> str:
    """SQL that notes what was changed in the first of the rows that both marts have."""
    pairs = ", ".join(
        f"{{column_name: {literal(name)}, before: row_before.c{place}::varchar, "
        f"after: row_after.c{place}::varchar}}"
        for place, name in enumerate(table.columns)
    )
    return f"""
        insert into value_changes
        with changed as (
            select {row_sql(table.key, "row_after")} as key, row_before, row_after
            from differences
            where what_changed = 'changed'
            order by key
            limit {_MOST_ROWS}
        ),
        pairs as (
            select {_key_text(table, "row_after")} as key, unnest([{pairs}], recursive := true)
            from changed
        )
        select {literal(table.name)}, key, column_name, before, after
        from pairs
        where before is distinct from after
    """


def _key_text(table: _Table, row: str) -> str:
    return f"coalesce({row_text_sql(table.key, row)}, '(unknown member)')"


_TABLE_COLUMNS = [
    *("table_name", "rows_before", "rows_after", "added", "removed", "changed"),
    *("money_added", "money_removed", "money_changed"),
]

_RESULTS = """
create or replace temp table month_changes (
    table_name varchar, metric varchar, month integer, before decimal(38, 4), after decimal(38, 4)
);
create or replace temp table row_changes (
    table_name varchar, what_changed varchar, key varchar, change decimal(38, 4)
);
create or replace temp table value_changes (
    table_name varchar, key varchar, column_name varchar, before varchar, after varchar
)
"""

_ROWS_WITHOUT_KEY = """
select row as row_before, null as row_after from (from before except all from after)
union all
select null, row from (from after except all from before)
"""

_MONTHS = """
select
    table_name,
    metric,
    strptime(month::varchar, '%Y%m')::date as month_start,
    coalesce(before, 0) as before,
    coalesce(after, 0) as after,
    coalesce(after, 0) - coalesce(before, 0) as change
from month_changes
where before is distinct from after
order by table_name, month
"""
