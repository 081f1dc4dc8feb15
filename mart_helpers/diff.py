"""Compares two marts: rows and money, table by table, month by month, key by key.

A build may assign new surrogate keys. So natural keys identify rows, and facts are compared by the
natural keys of the dimensions that they refer to. Facts are first compared a whole month at a time, and
row by row only within months that differ. Money is the first additive metric of a fact (see `star`).
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import duckdb
import pandas as pd

from mart_helpers.kept import published_build
from mart_helpers.lake import reach_lake
from mart_helpers.parameters import shown
from mart_helpers.restated import Mart, restated_by, restated_notes
from mart_helpers.session import confine, connect, in_words
from mart_helpers.star import VALID_FROM, VALID_TO, Metric, additive_metrics, first_made_of
from mart_helpers.texts import aligned, literal, one_line, quoted, row_sql, row_text_sql

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
    - `compared`: the tables by name, for SQL on the rows that differ while the connection is open.
    """

    tables: pd.DataFrame
    months: pd.DataFrame
    rows: pd.DataFrame
    values: pd.DataFrame
    restated: pd.DataFrame
    notes: list[str]
    compared: dict[str, "Table"]

    def summary(self) -> str:
        """The notes as lines of text, each with its line end; empty where there are none."""
        notes, more = self.notes[:_MOST_NOTES], len(self.notes) - _MOST_NOTES
        notes += [f"and {more} more, see `mart diff`"] if more > 0 else []
        words = ["past", *[""] * len(notes)]
        return aligned(list(zip(words, notes, strict=False)), indent="") + "\n" if notes else ""


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
            return compare(connection, Mart(connection, "before"), Mart(connection, "after"))


def described(before: Path, after: Path) -> str:
    """The differences between two mart files as plain text. Raises errors like `compare_files`."""
    found = compare_files(before, after)
    title = " → ".join(
        f"{one_line(shown(each))} (build {published_build(each)})" for each in (before, after)
    )
    if not found.tables[["added", "removed", "changed"]].any(axis=None):
        return "\n\n".join([title, _text(found.tables), "Every row of the one is in the other."])
    notes = ["\n".join(f"  {note}" for note in found.notes)] if found.notes else []
    return "\n\n".join([title, *notes, *(_text(frame) for frame in found[:5] if len(frame))])


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


class Table(NamedTuple):
    """A table of the star as two marts have it, and the columns to compare.

    `places` are the columns that both have with the same meaning, each with its place in SQL (`c0`, `c1`
    …), and `meanings` the names to show them by. `key` and `day` are such columns; `key` is empty and
    `day` None if there is none. `is_matched` says that the marts agree on the key, and that there were
    rows before; else all rows are new or gone. `is_of_newest` says that only one mart has versions from
    dated extracts, so that the rows are the newest ones.
    """

    name: str
    places: dict[str, str]
    meanings: list[str]
    key: list[str]
    day: str | None
    metric: Metric | None
    is_matched: bool
    is_of_newest: bool

    @property
    def differences(self) -> str:
        """The temporary table of the rows that differ, if rows are matched.

        Columns: `row_before` and `row_after` (structs of the places, null if there is no such row),
        `what_changed` (new, gone or changed), and `is_closed` (the month is before the newest one of the
        rows before).
        """
        return f"temp.{quoted(f'differences of {self.name}')}"

    def at(self, *columns: str, row: str = "") -> str:
        """SQL for the values of these columns, of the struct `row` if it is given."""
        return row_sql([self.places[column] for column in columns], row)

    def month(self, row: str = "") -> str:
        """SQL for the month of a row as yyyymm; 0 if the row has no day."""
        return f"coalesce({self.at(self.day, row=row)} // 100, 0)" if self.day else "0"

    def money(self, row: str = "") -> str:
        """SQL for the money of the rows, or of the rows that the struct `row` holds; else null."""
        if self.metric is None:
            return "null::decimal(38, 4)"
        return self.metric.of(*(self.at(column, row=row) for column in self.metric.columns))

    @property
    def change(self) -> str:
        """SQL for what the rows of `differences` do to the money."""
        return f"{self.money('row_after')} - {self.money('row_before')}"

    def key_text(self, row: str) -> str:
        """SQL for the key of the struct `row` as one text."""
        texts = row_text_sql([self.places[column] for column in self.key], row)
        return f"coalesce({texts}, '(unknown member)')"


def compare(connection: duckdb.DuckDBPyConnection, before: Mart, after: Mart) -> Comparison:
    """The differences between two attached marts.

    A column that only one of them has, or of which they do not agree what it refers to, is not compared.
    A table whose natural key has another name or type than before is removed and added as a whole. Of a
    dimension that only one of them has from dated extracts, the newest versions are compared. Takes the
    time of reading both marts once, and room for the rows that differ, which DuckDB moves to disk where
    memory ends. The connection keeps `MONTHS` and the `differences` of each table.
    """
    connection.execute(_RESULTS)
    metrics = additive_metrics(connection, after.name)
    names = sorted({*before.star, *after.star})
    tables = {name: _table(connection, name, metrics, before, after) for name in names}
    notes = [
        f"{each.name} is from dated extracts in one mart only: its newest versions are compared"
        for each in tables.values()
        if each.is_of_newest
    ]
    counts = [_compare_table(connection, each, before, after, notes) for each in tables.values()]
    differing = [
        name for name, *_, added, removed, changed, _, _, _ in counts if added + removed + changed
    ]
    restated = restated_by(connection, metrics, before, after, differing)
    return Comparison(
        pd.DataFrame(counts, columns=_TABLE_COLUMNS).astype(
            {name: float for name in _TABLE_COLUMNS[-3:]}
        ),
        connection.execute(_CHANGED_MONTHS).df(),
        connection.execute("from temp.row_changes").df(),
        connection.execute("from temp.value_changes").df(),
        restated,
        [*notes, *restated_notes(restated)],
        tables,
    )


def _table(
    connection: duckdb.DuckDBPyConnection, name: str, metrics: list[Metric], before: Mart, after: Mart
) -> Table:
    marts = [mart for mart in (before, after) if name in mart.star]
    meanings, others = marts[-1].meanings(name), marts[0].meanings(name)
    shared = [column for column, meaning in meanings.items() if others.get(column) == meaning]
    keys, day = [mart.key(name) for mart in marts], marts[-1].day(name)
    is_of_newest = sum(name in mart.dated for mart in marts) == 1 < len(marts)
    if is_of_newest:
        shared = [column for column in shared if column not in (VALID_FROM, VALID_TO)]
        keys = [{column: key[column] for column in key if column != VALID_FROM} for key in keys]
    had_rows = f"from {marts[0].stored(name)} limit 1"
    return Table(
        name,
        {column: f"c{place}" for place, column in enumerate(shared)},
        [meanings[column][0] for column in shared],
        key=[*keys[-1]] if {*keys[-1]} <= {*shared} else [],
        day=day if day in shared else None,
        metric=first_made_of(shared, metrics) if name.startswith("fact_") else None,
        is_matched=len(marts) == 2
        and keys[0] == keys[1]
        and connection.execute(had_rows).fetchone() is not None,
        is_of_newest=is_of_newest,
    )


def _compare_table(
    connection: duckdb.DuckDBPyConnection, table: Table, before: Mart, after: Mart, notes: list[str]
) -> tuple:
    """The row of `tables` about a table; what else is to be told of it is inserted, or a note."""
    rows = [
        mart.rows(table.name, table.places, table.is_matched, table.is_of_newest)
        for mart in (before, after)
        if table.name in mart.star
    ]
    if len(rows) == 1:
        rows.insert(table.name in before.star, f"from ({rows[0]}) where false")
    connection.execute(_months_sql(table, *rows))
    total, *sums = "coalesce(sum({}), 0)".format, "rows_before", "rows_after", "before", "after"
    rows_before, rows_after, money_before, money_after = connection.execute(
        f"select {', '.join(map(total, sums))} from {MONTHS} where table_name = {literal(table.name)}"
    ).fetchone()
    found = [("new", False, rows_after, money_after), ("gone", False, rows_before, -money_before)]
    if table.is_matched:
        connection.execute(_differences_sql(table, *rows))
        if table.key:
            connection.execute(_rows_sql(table))
            connection.execute(_values_sql(table))
        found = connection.execute(
            f"select what_changed, is_closed, count(*), {table.change} "
            f"from {table.differences} group by all"
        ).fetchall()
    counts: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    for kind, is_closed, number, change in found:
        counts[kind] += number
        changes[kind] += change or 0
        if kind == "new" and is_closed:
            money = f", {table.metric.name} {change:+,.2f}" if table.metric else ""
            notes.append(f"{table.name}: {number:,} new in closed months{money}")
    money = [changes[kind] if table.metric else None for kind in _KINDS]
    return table.name, rows_before, rows_after, *(counts[kind] for kind in _KINDS), *money


def _months_sql(table: Table, before: str, after: str) -> str:
    """SQL that notes the rows, the money and the differing months of a table."""
    fingerprint = f"sum(hash({', '.join(table.places.values())}))" if table.is_matched else "null"
    monthly = (
        f"select {table.month()} as month, count(*) as rows, {table.money()} as money, "
        f"{fingerprint} as fingerprint"
    )
    metric = literal(table.metric.name) if table.metric else "null"
    return f"""
        insert into {MONTHS}
        with before as ({monthly} from ({before}) group by month),
        after as ({monthly} from ({after}) group by month)
        select
            {literal(table.name)}, month, coalesce(before.rows, 0), coalesce(after.rows, 0),
            before.fingerprint is distinct from after.fingerprint, {metric}, before.money, after.money
        from before
        full join after using (month)
    """


def _differences_sql(table: Table, before: str, after: str) -> str:
    months = f"from {MONTHS} where table_name = {literal(table.name)}"
    where = f"where {table.month()} in (select month {months} and is_different)"
    pairs = _ROWS_WITHOUT_KEY
    if table.key:
        keys = (table.at(*table.key, row=f"{mart}.row") for mart in ("before", "after"))
        pairs = f"""
            select before.row as row_before, after.row as row_after
            from before
            full join after on {" is not distinct from ".join(keys)}
            where before.row is distinct from after.row
        """
    return f"""
        create or replace temp table {table.differences} as
        with before as (select found as row from ({before}) as found {where}),
        after as (select found as row from ({after}) as found {where}),
        pairs as ({pairs})
        select
            *,
            case
                when row_before is null then 'new' when row_after is null then 'gone' else 'changed'
            end as what_changed,
            {table.month("coalesce(row_before, row_after)")}
            < (select max(month) {months} and rows_before > 0) as is_closed
        from pairs
    """


def _rows_sql(table: Table) -> str:
    """SQL that notes the first of the rows that are new or gone, new ones of closed months first."""
    row = "coalesce(row_after, row_before)"
    return f"""
        insert into temp.row_changes
        with found as (
            select
                what_changed,
                {table.at(*table.key, row=row)} as key,
                any_value({table.key_text(row)}) as key_text,
                what_changed = 'new' and is_closed as is_late,
                {table.change} as change
            from {table.differences}
            where what_changed <> 'changed'
            group by what_changed, key, is_late
            qualify
                row_number() over (partition by what_changed order by is_late desc, key) <= {_MOST_ROWS}
        )
        select {literal(table.name)}, what_changed, key_text, change
        from found
        order by what_changed, is_late desc, key
    """


def _values_sql(table: Table) -> str:
    """SQL that notes what was changed in the first of the rows that both marts have."""
    pairs = ", ".join(
        f"{{column_name: {literal(name)}, before: row_before.{place}::varchar, "
        f"after: row_after.{place}::varchar}}"
        for place, name in zip(table.places.values(), table.meanings, strict=True)
    )
    return f"""
        insert into temp.value_changes
        with changed as (
            select {table.at(*table.key, row="row_after")} as key, row_before, row_after
            from {table.differences}
            where what_changed = 'changed'
            order by key
            limit {_MOST_ROWS}
        ),
        pairs as (
            select {table.key_text("row_after")} as key, unnest([{pairs}], recursive := true)
            from changed
        )
        select {literal(table.name)}, key, column_name, before, after
        from pairs
        where before is distinct from after
    """


#: What a comparison keeps of each month of each table: the month as yyyymm (0 without a day), its rows
#: before and after, whether rows of it differ, and the money (null without any rows or a metric).
MONTHS = "temp.compared_months"

_KINDS = ("new", "gone", "changed")

_TABLE_COLUMNS = [
    *("table_name", "rows_before", "rows_after", "added", "removed", "changed"),
    *("money_added", "money_removed", "money_changed"),
]

_RESULTS = f"""
create or replace temp table {MONTHS} (
    table_name varchar, month integer, rows_before bigint, rows_after bigint, is_different boolean,
    metric varchar, before decimal(38, 4), after decimal(38, 4)
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

_CHANGED_MONTHS = f"""
select
    table_name,
    metric,
    try_strptime(month::varchar, '%Y%m')::date as month_start,
    coalesce(before, 0) as before,
    coalesce(after, 0) as after,
    coalesce(after, 0) - coalesce(before, 0) as change
from {MONTHS}
where before is distinct from after
order by table_name, month
"""
