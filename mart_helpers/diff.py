"""What differs between two marts: rows and money, table by table, month by month, key by key.

A build may give surrogate keys anew. So rows are known by their natural keys, and a fact by those of the
dimensions it refers to. Facts are first compared a whole month at a time; only within months that differ
is row set against row.
"""

from pathlib import Path
from typing import NamedTuple

import duckdb
import pandas as pd

from mart_helpers.contract import declared_keys, star_references, star_types, surrogate_key
from mart_helpers.kept import published_build
from mart_helpers.parameters import shown
from mart_helpers.session import Session, confine, connect, current_database, in_words
from mart_helpers.texts import aligned, literal, one_line, quoted

_MONEY = "net_amount"

_MOST_ROWS = 20


class Comparison(NamedTuple):
    """The differences between two marts.

    - `tables`, a row each: table_name, rows_before, rows_after, how many rows were added, removed and
      changed, and revenue_added, revenue_removed, revenue_changed (missing where there is no money).
    - `months` whose revenue differs: table_name, month_start, revenue_before, revenue_after, change.
    - `values` of the first 20 changed rows of each table: table_name, key, column_name, before, after.
    """

    tables: pd.DataFrame
    months: pd.DataFrame
    values: pd.DataFrame


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
            connection.execute(f"attach {literal(database)} as {name} (read_only)")
        connection.execute(f"set temp_directory = {literal(f'{after}.tmp')}")
        confine(connection)
        with in_words():
            return compare(connection, "before", "after")


def described(before: Path, after: Path) -> str:
    """The differences between two mart files as plain text. Raises as `compare_files` does."""
    found = compare_files(before, after)
    title = " → ".join(
        f"{one_line(shown(each))} (build {published_build(each)})" for each in (before, after)
    )
    if not found.tables[["added", "removed", "changed"]].any(axis=None):
        return "\n\n".join([title, _text(found.tables), "Every row of the one is in the other."])
    return "\n\n".join([title, *(_text(frame) for frame in found if len(frame))])


def _text(frame: pd.DataFrame) -> str:
    names = [name.replace("_", " ") for name in frame.columns]
    return aligned([names, *([_cell(value) for value in row] for row in frame.itertuples(index=False))])


def _cell(value: object) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m}"
    if isinstance(value, str):
        return value
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


def compare(connection: duckdb.DuckDBPyConnection, before: str, after: str) -> Comparison:
    """The differences between two marts that `connection` has attached under these names.

    A column that only one of them has, or of which they do not agree what it refers to, is not compared.
    A table whose natural key has another name or type than before is removed and added as a whole. Takes
    the time of reading both marts, and room for the rows that differ, which DuckDB moves to disk where
    memory ends.
    """
    connection.execute(_RESULTS)
    marts = _Mart(connection, before), _Mart(connection, after)
    names = sorted({*marts[0].star, *marts[1].star})
    counts = [_compare_table(connection, _table(name, *marts)) for name in names]
    tables = pd.DataFrame(counts, columns=_TABLE_COLUMNS)
    return Comparison(
        tables.astype({name: float for name in _TABLE_COLUMNS if name.startswith("revenue")}),
        connection.execute(_MONTHS).df(),
        connection.execute("select * from value_changes").df(),
    )


class _Mart:
    """The tables of an attached mart with their columns and types, and what their keys stand for."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        self.name = name
        self.star = star_types(connection, name)
        self.references = star_references(connection, name)
        self.keys = {
            table: key
            for table, key in declared_keys(connection, name).items()
            if key in self.star.get(table, ())
        }

    def key(self, table: str) -> tuple[str, str] | None:
        """Name and type of the column by which the rows of a table are known; None where none is."""
        key = self.keys.get(table, surrogate_key(table))
        return (key, self.star[table][key]) if key in self.star[table] else None

    def meanings(self, table: str) -> dict[str, tuple[str, str]]:
        """The columns to compare, each with the name and type of what it stands for.

        A key that refers to a dimension stands for that one's natural key; the surrogate key of a
        dimension that has a natural one for nothing.
        """
        found = {}
        for column, type_ in self.star[table].items():
            dimension = self.references[table].get(column)
            if dimension in self.keys:
                key, type_ = self.key(dimension)
                found[column] = column.removesuffix(surrogate_key(dimension)) + key, type_
            elif table not in self.keys or column != surrogate_key(table):
                found[column] = column, type_
        return found

    def rows(self, table: str, columns: list[str], *, resolved: bool) -> str:
        """A query for these columns as `c0`, `c1` …, keys as they are or as what they stand for."""
        chosen, joins = [], []
        for place, column in enumerate(columns):
            source = f"stored.{quoted(column)}"
            dimension = self.references[table].get(column)
            if resolved and dimension in self.keys:
                key = f"d{place}.{quoted(surrogate_key(dimension))}"
                joins.append(f"left join {self._stored(dimension)} as d{place} on {source} = {key}")
                source = f"d{place}.{quoted(self.keys[dimension])}"
            chosen.append(f"{source} as c{place}")
        return f"select {', '.join(chosen)} from {self._stored(table)} as stored {' '.join(joins)}"

    def _stored(self, table: str) -> str:
        return f"{quoted(self.name)}.main.{quoted(table)}"


class _Table(NamedTuple):
    """A table of the star as both marts have it, in queries with the columns `c0`, `c1` ….

    `columns` are their names in the mart. `key`, `day` and `money` are `c0`, `c1` …, None where there is
    none; `is_other` says that the marts do not agree on the key. Of the pairs of queries the first is of
    the mart before. `plain` ones leave surrogate keys as they are, at less cost. A mart without the
    table has no rows.
    """

    name: str
    columns: list[str]
    is_other: bool
    key: str | None
    day: str | None
    money: str | None
    plain: list[str]
    resolved: list[str]


def _table(name: str, before: _Mart, after: _Mart) -> _Table:
    marts = [mart for mart in (before, after) if name in mart.star]
    meanings, others = marts[-1].meanings(name), marts[0].meanings(name)
    shared = [column for column, meaning in meanings.items() if others.get(column) == meaning]
    key = marts[-1].key(name)
    days = [column for column, to in marts[-1].references[name].items() if to == "dim_date"]

    def place(column: str | None) -> str | None:
        return f"c{shared.index(column)}" if column in shared else None

    def queries(*, resolved: bool) -> list[str]:
        nothing = f"from ({marts[0].rows(name, shared, resolved=resolved)}) where false"
        return [
            mart.rows(name, shared, resolved=resolved) if mart in marts else nothing
            for mart in (before, after)
        ]

    return _Table(
        name,
        [meanings[column][0] for column in shared],
        is_other=key != marts[0].key(name),
        key=place(key[0]) if key else None,
        day=place(days[0]) if days else None,
        money=place(_MONEY),
        plain=queries(resolved=False),
        resolved=queries(resolved=True),
    )


def _compare_table(connection: duckdb.DuckDBPyConnection, table: _Table) -> tuple:
    """The row of `tables` about a table; what is to be told of its months and values is inserted."""
    money = f"coalesce(sum({table.money}), 0)" if table.money else "null"
    (before, revenue_before), (after, revenue_after) = (
        connection.execute(f"select count(*), {money} from ({rows})").fetchone() for rows in table.plain
    )
    # where one mart has no rows, those of the other are all new or all gone, and need no look
    closely = not table.is_other and min(before, after) > 0
    if table.day:
        connection.execute(_months_sql(table, closely))
    if not closely:
        no_revenue = table.money and 0
        counts = (after, before, 0, revenue_after, revenue_before, no_revenue)
        return table.name, before, after, *counts
    connection.execute(_differences_sql(table))
    if table.key:
        connection.execute(_values_sql(table))
    return table.name, before, after, *connection.execute(_counts_sql(table)).fetchone()


def _months_sql(table: _Table, closely: bool) -> str:
    """SQL that notes the months in which the marts differ."""
    before, after = table.resolved if closely else table.plain
    columns = ", ".join(f"c{place}" for place in range(len(table.columns)))
    fingerprint = f"sum(hash({columns}))" if closely else "count(*)"
    revenue = f"sum({table.money})" if table.money else "null"
    monthly = f"select {table.day} // 100 as month, {fingerprint} as fingerprint, {revenue} as revenue"
    return f"""
        insert into month_changes
        with before as ({monthly} from ({before}) group by month),
        after as ({monthly} from ({after}) group by month)
        select {literal(table.name)}, month, before.revenue, after.revenue
        from before
        full join after using (month)
        where before.fingerprint is distinct from after.fingerprint
    """


def _differences_sql(table: _Table) -> str:
    """SQL for a temporary table of the rows that differ, as structs; null where there is no such row."""
    months = f"select month from month_changes where table_name = {literal(table.name)}"
    where = f"where {table.day} // 100 in ({months})" if table.day else ""
    before, after = table.resolved
    return f"""
        create or replace temp table differences as
        with before as (select found as row from ({before}) as found {where}),
        after as (select found as row from ({after}) as found {where})
        {_PAIRS_BY_KEY.format(key=table.key) if table.key else _ROWS_WITHOUT_KEY}
    """


def _counts_sql(table: _Table) -> str:
    added, removed = "row_before is null", "row_after is null"
    changed = f"not ({added} or {removed})"
    after, before = f"row_after.{table.money}", f"row_before.{table.money}"
    money = {added: after, removed: before, changed: f"{after} - {before}"}
    counts = [f"count(*) filter ({which})" for which in money]
    sums = [f"coalesce(sum({amount}) filter ({which}), 0)" for which, amount in money.items()]
    return f"select {', '.join(counts + (sums if table.money else ['null'] * 3))} from differences"


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
        select {literal(table.name)}, key, column_name, before, after
        from pairs
        where before is distinct from after
    """


_TABLE_COLUMNS = [
    *("table_name", "rows_before", "rows_after", "added", "removed", "changed"),
    *("revenue_added", "revenue_removed", "revenue_changed"),
]

_RESULTS = """
create or replace temp table month_changes (
    table_name varchar, month integer, revenue_before decimal(38, 4), revenue_after decimal(38, 4)
);
create or replace temp table value_changes (
    table_name varchar, key varchar, column_name varchar, before varchar, after varchar
)
"""

_PAIRS_BY_KEY = """
select before.row as row_before, after.row as row_after
from before
full join after on before.row.{key} is not distinct from after.row.{key}
where before.row is distinct from after.row
"""

_ROWS_WITHOUT_KEY = """
select row as row_before, null as row_after from (from before except all from after)
union all
select null, row from (from after except all from before)
"""

_MONTHS = """
select
    table_name,
    strptime(month::varchar, '%Y%m')::date as month_start,
    coalesce(revenue_before, 0) as revenue_before,
    coalesce(revenue_after, 0) as revenue_after,
    coalesce(revenue_after, 0) - coalesce(revenue_before, 0) as change
from month_changes
where revenue_before is distinct from revenue_after
order by table_name, month
"""
