"""What a changed dimension does to the figures of facts: a cost to the margin, a country to revenue."""

from collections.abc import Collection, Iterator

import pandas as pd
from duckdb import DuckDBPyConnection

from mart_helpers.contract import declared_keys
from mart_helpers.metrics import Metric, first_made_of
from mart_helpers.star import star_references, star_types, surrogate_key
from mart_helpers.texts import literal, quoted, row_sql

_MOST_VALUES = 50  # of a text that reports group by

_COLUMNS = ["metric", "year", "dimension", "column_name", "value", "change"]


class Mart:
    """The tables of an attached mart with their columns and types, and what their keys stand for."""

    def __init__(self, connection: DuckDBPyConnection, name: str) -> None:
        self.name = name
        self.star = star_types(connection, name)
        self.references = star_references(connection, name)
        self.keys = {
            table: key
            for table, key in declared_keys(connection, name).items()
            if {*key} <= {*self.star.get(table, ())}
        }

    def key(self, table: str) -> dict[str, str]:
        """The columns by which the rows of a table are known, with their types; empty where none are."""
        types, surrogate = self.star[table], surrogate_key(table)
        own = (surrogate,) if surrogate in types else ()
        return {name: types[name] for name in self.keys.get(table, own)}

    def day(self, table: str) -> str | None:
        """The first column that refers to the calendar."""
        return next((name for name, to in self.references[table].items() if to == "dim_date"), None)

    def meanings(self, table: str) -> dict[str, tuple[str, str]]:
        """The columns to compare, each with the name and type of what it stands for.

        A key that refers to a dimension stands for that one's natural key; the surrogate key of a
        dimension that has a natural one for nothing.
        """
        found = {}
        for column, type_ in self.star[table].items():
            dimension = self.references[table].get(column)
            if dimension in self.keys:
                role, key = column.removesuffix(surrogate_key(dimension)), self.key(dimension)
                found[column] = ", ".join(f"{role}{name}" for name in key), ", ".join(key.values())
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
                joins.append(f"left join {self.stored(dimension)} as d{place} on {source} = {key}")
                source = row_sql(self.keys[dimension], f"d{place}")
            chosen.append(f"{source} as c{place}")
        return f"select {', '.join(chosen)} from {self.stored(table)} as stored {' '.join(joins)}"

    def stored(self, table: str) -> str:
        """The table, qualified."""
        return f"{quoted(self.name)}.main.{quoted(table)}"


def restated_by(
    connection: DuckDBPyConnection,
    dimensions: Collection[str],
    metrics: list[Metric],
    before: Mart,
    after: Mart,
) -> pd.DataFrame:
    """Each additive metric that one of these dimensions restated, year by year.

    Columns: metric, year, dimension, column_name, value, change. A metric made of a column of the
    dimension has one row a year, without a value. A text of at most 50 values moves the first metric of
    the fact from one value to another: a row for each. Counted are the facts that both marts have.
    """
    rows = [
        row
        for dimension in sorted(dimensions)
        for sql in _questions(dimension, metrics, before, after)
        for row in connection.execute(sql).fetchall()
    ]
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"change": float})


def restated_notes(restated: pd.DataFrame) -> Iterator[str]:
    """A sentence for each metric, year and column."""
    for (metric, year, dimension, column), rows in restated.groupby(_COLUMNS[:4], sort=False):
        by = f"{dimension}.{column}"
        if rows["value"].isna().all():
            yield f"{metric} of {year}: {rows['change'].sum():+,.2f}, restated by {by}"
        else:
            moved = [f"{row.value or '(empty)'} {row.change:+,.2f}" for row in rows.itertuples()]
            more = [f"{len(moved) - 5} more"] if len(moved) > 5 else []
            yield f"{metric} of {year} by {by}: {', '.join(moved[:5] + more)}"


def _questions(dimension: str, metrics: list[Metric], before: Mart, after: Mart) -> Iterator[str]:
    """Queries for the rows of the answer, of each column of a fact that refers to the dimension."""
    if dimension not in after.keys or before.key(dimension) != after.key(dimension):
        return
    present = after.star[dimension]
    shared = [
        name for name in before.star[dimension] if name in present and name not in before.keys[dimension]
    ]
    texts = [name for name in shared if present[name] == before.star[dimension][name] == "VARCHAR"]
    for fact in before.keys:
        if (
            dimension not in before.references[fact].values()
            or fact not in after.keys
            or (before.key(fact) != after.key(fact))
        ):
            continue
        day, columns = before.day(fact), list(before.star[fact])
        for column in (name for name, to in before.references[fact].items() if to == dimension and day):
            rows = _kept_rows(fact, column, dimension, before, after)
            year = f"facts.{quoted(day)} // 10000 as year"
            for metric in metrics:
                theirs = [name for name in metric.columns if name not in columns]
                if theirs and set(theirs) <= {*shared}:
                    yield _by_amount(metric, theirs, dimension, year, rows)
            if money := first_made_of(columns, metrics):
                for text in texts:
                    yield _by_text(money, text, dimension, year, rows, after)


def _kept_rows(fact: str, column: str, dimension: str, before: Mart, after: Mart) -> str:
    """The rows of a fact as they were published, with their member of the dimension before and after."""
    own, fact_key, key = quoted(surrogate_key(dimension)), before.keys[fact], before.keys[dimension]
    return f"""
        from {before.stored(fact)} as facts
        semi join {after.stored(fact)} as kept
            on {row_sql(fact_key, "facts")} = {row_sql(fact_key, "kept")}
        inner join {before.stored(dimension)} as was on facts.{quoted(column)} = was.{own}
        inner join {after.stored(dimension)} as now
            on {row_sql(key, "was")} is not distinct from {row_sql(key, "now")}
    """


def _by_amount(metric: Metric, theirs: list[str], dimension: str, year: str, rows: str) -> str:
    def value(member: str) -> str:
        sources = {
            name: f"{member if name in theirs else 'facts'}.{quoted(name)}" for name in metric.columns
        }
        return metric.of(*sources.values())

    differs = " or ".join(f"was.{quoted(name)} is distinct from now.{quoted(name)}" for name in theirs)
    return f"""
        select {literal(metric.name)}, {year}, {literal(dimension)}, {literal(", ".join(theirs))}, null,
            {value("now")} - {value("was")} as change
        {rows}
        where {differs}
        group by year
        having change <> 0
        order by year
    """


def _by_text(money: Metric, text: str, dimension: str, year: str, rows: str, after: Mart) -> str:
    column, value = quoted(text), money.of(*(f"facts.{quoted(name)}" for name in money.columns))
    where = f"""
        where
            was.{column} is distinct from now.{column}
            and (select count(distinct {column}) from {after.stored(dimension)}) <= {_MOST_VALUES}
        group by all
    """
    return f"""
        with moved as (
            select {year}, was.{column} as value, -{value} as change {rows} {where}
            union all
            select {year}, now.{column} as value, {value} as change {rows} {where}
        )
        select
            {literal(money.name)}, year, {literal(dimension)}, {literal(text)}, value, sum(change)
        from moved
        group by year, value
        having sum(change) <> 0
        order by year, value
    """
