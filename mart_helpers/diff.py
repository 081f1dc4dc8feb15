"""What differs between two marts: rows and money, table by table, month by month, key by key.

Each build gives the surrogate keys anew. So rows are known by their natural keys, and a fact by those of
the dimensions it points to. Facts are first compared a whole month at a time; only within months that
differ is row set against row.
"""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import declared_keys, star_columns
from mart_helpers.frames import Rows
from mart_helpers.mart import published_build
from mart_helpers.parameters import shown
from mart_helpers.session import Session, connect, current_database, in_words
from mart_helpers.texts import aligned, quoted

_MONEY = "net_amount"

_DAY_KEY = "date_key"

_MOST_ROWS = 20

_MONTHS = ("table_name", "month_start", "revenue_before", "revenue_after", "change")

_VALUES = ("table_name", "key", "column_name", "before", "after")


class Comparison(NamedTuple):
    """The differences between two marts.

    - `tables`, a row each: table_name, rows_before, rows_after, how many rows were added, removed and
      changed, and revenue_added, revenue_removed, revenue_changed (missing where there is no money).
    - `months` whose revenue differs: table_name, month_start, revenue_before, revenue_after, change.
    - `values` of the first 20 changed rows of each table: table_name, key, column_name, before, after.
    """

    tables: Rows
    months: Rows
    values: Rows


class _Table(NamedTuple):
    """A table of the star as both marts have it, surrogate keys replaced by what they stand for.

    `before` and `after` are queries with the same `columns`; a mart without the table has no rows.
    `plain_before` and `plain_after` give the rows as they are stored, at less cost.
    """

    name: str
    key: str
    columns: tuple[str, ...]
    before: str
    after: str
    plain_before: str
    plain_after: str

    @property
    def has_months(self) -> bool:
        """Whether its rows belong to days, and so to months that can be compared first."""
        return _DAY_KEY in self.columns and self.key != _DAY_KEY

    def money(self, expression: str) -> str:
        """SQL for the sum of an expression over money; null where the table holds none."""
        return (
            f"coalesce(sum({expression}), 0)" if _MONEY in self.columns else "sum(null::decimal(38, 4))"
        )


def compare_with_published(session: Session) -> Comparison:
    """What readers of the mart will find changed once the candidate of `session` is published.

    Raises QueryError where the published mart is damaged.
    """
    with in_words():
        return compare(session.connection, "published", current_database(session.connection))


def compare_files(before: Path, after: Path) -> Comparison:
    """The differences between two mart files. Raises StateError where one cannot be read as a mart."""
    for database in (before, after):
        published_build(database)
    with connect(Path(":memory:")) as connection:
        for name, database in (("before", before), ("after", after)):
            path = str(database).replace("'", "''")
            connection.execute(f"attach '{path}' as {name} (read_only)")
        with in_words():
            return compare(connection, "before", "after")


def described(before: Path, after: Path) -> str:
    """The differences between two mart files as plain text. Raises as `compare_files` does."""
    found = compare_files(before, after)
    title = " → ".join(f"{shown(each)} (build {published_build(each)})" for each in (before, after))
    changed = any(row.added or row.removed or row.changed for row in found.tables.itertuples())
    parts = [found.tables, found.months, found.values] if changed else [found.tables]
    texts = [_aligned(rows) for rows in parts if len(rows)]
    return "\n\n".join([title, *texts, *([] if changed else ["Every row of the one is in the other."])])


def _aligned(rows: Rows) -> str:
    names = [name.replace("_", " ") for name in rows.columns]
    return aligned([names, *(list(map(_text, row)) for row in rows.itertuples())])


def _text(value: str | int | Decimal | date | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, date):
        return f"{value:%Y-%m}"
    # rounded as a notebook rounds it, which shows floating point numbers
    return f"{float(value):,.2f}" if isinstance(value, Decimal) else f"{value:,}"


def compare(connection: duckdb.DuckDBPyConnection, before: str, after: str) -> Comparison:
    """The differences between two marts that `connection` has attached under these names.

    A column that only one of them has is not compared. Takes the time of reading both marts, and room
    for the rows that differ, which DuckDB moves to disk where memory ends.
    """
    columns = {mart: star_columns(connection, mart) for mart in (before, after)}
    keys = declared_keys(connection, before) | declared_keys(connection, after)
    found = [
        _compared(connection, _table(name, keys, before, after, columns))
        for name in sorted({*columns[before], *columns[after]})
    ]
    return Comparison(*(reduce(add, parts) for parts in zip(*found, strict=True)))


def _table(
    name: str, keys: dict[str, str], before: str, after: str, columns: dict[str, dict[str, list[str]]]
) -> _Table:
    marts = [mart for mart in (before, after) if name in columns[mart]]
    shared = [each for each in columns[marts[-1]][name] if each in columns[marts[0]][name]]
    chosen = {each: _stands_for(each, keys) for each in shared}
    # the surrogate key of the table itself stands for a column that is there anyway
    chosen = {each: stands for each, stands in chosen.items() if not stands.startswith(f"{name}.")}
    names = tuple(stands.rpartition(".")[2] for stands in chosen.values())

    def queries(rows_of: Callable[[str], str]) -> list[str]:
        nothing = f"from ({rows_of(marts[0])}) where false"
        return [rows_of(mart) if mart in marts else nothing for mart in (before, after)]

    resolved = queries(lambda mart: _rows_sql(mart, name, chosen))
    plain = queries(lambda mart: f"from {_stored(mart, name)}")
    return _Table(name, keys.get(name, names[0]), names, *resolved, *plain)


def _stored(mart: str, name: str) -> str:
    return f"{quoted(mart)}.main.{name}"


def _stands_for(column: str, keys: dict[str, str]) -> str:
    """`dim_thing.thing_id` for the surrogate key `thing_key` of such a dimension, else the column."""
    dimension = f"dim_{column.removesuffix('_key')}"
    return f"{dimension}.{keys[dimension]}" if column.endswith("_key") and dimension in keys else column


def _rows_sql(mart: str, name: str, columns: dict[str, str]) -> str:
    chosen = [stands if stands != column else f"rows.{column}" for column, stands in columns.items()]
    joins = [
        f"left join {quoted(mart)}.main.{stands.partition('.')[0]} using ({column})"
        for column, stands in columns.items()
        if stands != column
    ]
    return f"select {', '.join(chosen)} from {quoted(mart)}.main.{name} as rows {' '.join(joins)}"


def _compared(connection: duckdb.DuckDBPyConnection, table: _Table) -> tuple[Rows, Rows, Rows]:
    """The rows of the three parts that are about `table`."""
    counted = (
        f"select (select count(*) from ({table.plain_before})), count(*) from ({table.plain_after})"
    )
    before, after = connection.execute(counted).fetchone()
    about = {"name": table.name, "before": before, "after": after}
    # where one mart has no rows, those of the other are all new or all gone, and need no look
    closely = min(before, after) > 0
    connection.execute(_months_sql(table, closely))
    if closely:
        connection.execute(_differences_sql(table))
    counts = Rows.of(connection.execute(_counts_sql(table, closely), about))
    months = Rows(_MONTHS, [])
    if table.has_months:
        months = Rows.of(connection.execute(_MONTHS_SQL, {"name": table.name}))
    if not closely:
        return counts, months, Rows(_VALUES, [])
    return counts, months, Rows.of(connection.execute(_values_sql(table), {"name": table.name}))


def _months_sql(table: _Table, closely: bool) -> str:
    """SQL for a temporary table of the months in which the marts differ."""
    if not table.has_months:
        return f"create or replace temp table differing_months as {_NO_MONTHS}"
    fingerprint = f"sum(hash({', '.join(table.columns)}))" if closely else "count(*)"
    before, after = (table.before, table.after) if closely else (table.plain_before, table.plain_after)
    revenue = table.money(_MONEY)
    monthly = f"select {_DAY_KEY} // 100 as month, {fingerprint} as fingerprint, {revenue} as revenue"
    return f"""
        create or replace temp table differing_months as
        with before as ({monthly} from ({before}) group by month),
        after as ({monthly} from ({after}) group by month)
        select month, before.revenue as revenue_before, after.revenue as revenue_after
        from before
        full join after using (month)
        where before.fingerprint is distinct from after.fingerprint
    """


def _differences_sql(table: _Table) -> str:
    """SQL for a temporary table of the rows that differ, as structs; null where there is no such row."""
    months = (
        f"where {_DAY_KEY} // 100 in (select month from differing_months)" if table.has_months else ""
    )
    return f"""
        create or replace temp table differences as
        with before as (select rows as row from ({table.before}) as rows {months}),
        after as (select rows as row from ({table.after}) as rows {months})
        select before.row as row_before, after.row as row_after
        from before
        full join after on before.row.{table.key} is not distinct from after.row.{table.key}
        where before.row is distinct from after.row
    """


def _counts_sql(table: _Table, closely: bool) -> str:
    counts = {"added": "$after", "removed": "$before", "changed": "0"}
    money = {"added": "revenue_after", "removed": "revenue_before", "changed": "0"}
    if closely:
        counts = {
            "added": "count(*) filter (where row_before is null)",
            "removed": "count(*) filter (where row_after is null)",
            "changed": "count(*) filter (where row_before is not null and row_after is not null)",
        }
        money = {
            "added": f"if(row_before is null, row_after.{_MONEY}, 0)",
            "removed": f"if(row_after is null, row_before.{_MONEY}, 0)",
            "changed": f"row_after.{_MONEY} - row_before.{_MONEY}",
        }
    counted = [f"{sql} as {what}" for what, sql in counts.items()]
    summed = [f"{table.money(sql)} as revenue_{what}" for what, sql in money.items()]
    return f"""
        select $name as table_name, $before as rows_before, $after as rows_after,
            {", ".join(counted + summed)}
        from {"differences" if closely else "differing_months"}
    """


def _values_sql(table: _Table) -> str:
    """SQL for what was changed in the first of the rows that both marts have."""
    pairs = ", ".join(
        f"{{column_name: '{n}', before: row_before.{n}::varchar, after: row_after.{n}::varchar}}"
        for n in table.columns
    )
    return f"""
        with changed as (
            select row_after.{table.key} as key, row_before, row_after
            from differences
            where row_before is not null and row_after is not null
            order by key
            limit {_MOST_ROWS}
        ),
        pairs as (
            select
                coalesce(key::varchar, '(unknown member)') as key,
                unnest([{pairs}], recursive := true)
            from changed
        )
        select {", ".join(["$name as table_name", *_VALUES[1:]])}
        from pairs
        where before is distinct from after
    """


_NO_MONTHS = """
select
    null::integer as month,
    null::decimal(38, 4) as revenue_before,
    null::decimal(38, 4) as revenue_after
where false
"""

_MONTHS_SQL = """
select
    $name as table_name,
    strptime(month::varchar, '%Y%m')::date as month_start,
    coalesce(revenue_before, 0) as revenue_before,
    coalesce(revenue_after, 0) as revenue_after,
    coalesce(revenue_after, 0) - coalesce(revenue_before, 0) as change
from differing_months
where revenue_before is distinct from revenue_after
order by month
"""
