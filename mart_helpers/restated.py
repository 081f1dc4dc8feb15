"""How a changed dimension restates figures of facts, for example a changed cost the margin."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import pandas as pd
from duckdb import DuckDBPyConnection

from mart_helpers.contract import declared_keys
from mart_helpers.staging import BEGINNING
from mart_helpers.star import (
    VALID_FROM,
    Metric,
    day_of,
    durable_key,
    is_number,
    star_references,
    star_types,
    surrogate_key,
    with_versions,
)
from mart_helpers.texts import quoted, row_sql

_MOST_VALUES = 50  # distinct values of a text that reports group by

_COLUMNS = ["metric", "year", "dimension", "column_name", "value", "change"]


class Mart:
    """The tables of an attached mart with their columns and types, and what their keys refer to."""

    def __init__(self, connection: DuckDBPyConnection, name: str) -> None:
        self.name = name
        self.star = star_types(connection, name)
        self.references = star_references(connection, name)
        self.keys = {
            table: key
            for table, key in declared_keys(connection, name).items()
            if {*key} <= {*self.star.get(table, ())}
        }

        self.dated = {
            table
            for table in with_versions(self.star)
            if table in self.keys and connection.execute(self._has_days_sql(table)).fetchone()
        }

    def _has_days_sql(self, table: str) -> str:
        """A query that returns a row if the dimension was made from dated extracts."""
        return f"from {self.stored(table)} where {VALID_FROM} <> date '{BEGINNING}' limit 1"

    def key(self, table: str) -> dict[str, str]:
        """The columns that identify the rows of a table, with their types; empty if there are none.

        The natural key and its first day identify a version from dated extracts.
        """
        types, surrogate = self.star[table], surrogate_key(table)
        own = (surrogate,) if surrogate in types else ()
        version = (VALID_FROM,) if table in self.dated else ()
        return {name: types[name] for name in (*self.keys.get(table, own), *version)}

    def day(self, table: str) -> str | None:
        """The column that gives the day of a row."""
        return day_of(self.references[table])

    def meanings(self, table: str) -> dict[str, tuple[str, str]]:
        """The columns to compare, each with the name and type of the column that gives its meaning.

        For a key that refers to a dimension, this is the dimension's natural key. A dimension's own
        surrogate and durable keys are left out if it has a natural key.
        """
        found = {}
        for column, type_ in self.star[table].items():
            dimension = self.references[table].get(column)
            if dimension in self.keys:
                role, key = column.removesuffix(surrogate_key(dimension)), self.keys[dimension]
                types = ", ".join(self.star[dimension][name] for name in key)
                found[column] = ", ".join(f"{role}{name}" for name in key), types
            elif table not in self.keys or column not in (surrogate_key(table), durable_key(table)):
                found[column] = column, "a number" if is_number(type_) else type_
        return found

    def rows(self, table: str, places: Mapping[str, str], is_resolved: bool, is_of_newest: bool) -> str:
        """A query for columns of a table, each under the name of its place.

        If `is_resolved`, natural keys replace surrogate keys. If `is_of_newest`, the rows are the newest
        version of each member of a dimension.
        """
        chosen, joins = [], []
        for column, place in places.items():
            source = f"stored.{quoted(column)}"
            dimension = self.references[table].get(column)
            if is_resolved and dimension in self.keys:
                key = f"of_{place}.{quoted(surrogate_key(dimension))}"
                joins.append(f"left join {self.stored(dimension)} as of_{place} on {source} = {key}")
                source = row_sql(self.keys[dimension], f"of_{place}")
            chosen.append(f"{source} as {place}")
        member = f"partition by stored.{quoted(durable_key(table))}"
        newest = f"qualify stored.{VALID_FROM} = max(stored.{VALID_FROM}) over ({member})"
        source = f"{self.stored(table)} as stored {' '.join(joins)}"
        return f"select {', '.join(chosen)} from {source} {newest if is_of_newest else ''}"

    def stored(self, table: str) -> str:
        """The qualified name of the table."""
        return f"{quoted(self.name)}.main.{quoted(table)}"


def restated_by(
    connection: DuckDBPyConnection,
    metrics: Collection[Metric],
    before: Mart,
    after: Mart,
    changed: Collection[str],
) -> pd.DataFrame:
    """Each additive metric of the facts that one of the `changed` dimensions restated, by year.

    Columns: metric, year, dimension, column_name, value, change. A metric that is computed from a column
    of the dimension has one row per year, without a value. A text column with at most 50 values moves
    each metric from one value to another, with one row for each. Only rows that both marts have count.
    """
    rows = []
    for dimension in sorted({*changed} & {*before.keys}):
        referring = [*_kept_rows(dimension, before, after)]
        columns = _changed_columns(connection, dimension, before, after) if referring else []
        for kept in referring if columns else ():
            known = [metric for metric in metrics if kept.knows(metric)]
            rows += _by_amounts(connection, kept, columns, known)
            for column in columns:
                if before.star[dimension][column] == "VARCHAR":
                    rows += _by_text(connection, kept, column, known)
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"change": float})


def restated_notes(restated: pd.DataFrame) -> Iterator[str]:
    """A sentence for each changed column: what it did to the metrics, year by year.

    For a text column, which moves each metric from one value to another, it reports the first metric.
    """
    for (dimension, column), rows in restated.groupby(["dimension", "column_name"], sort=False):
        metrics = list(rows["metric"].unique())
        is_text = rows["value"].notna().any()
        told = []
        for metric in metrics[:1] if is_text else metrics:
            years = []
            for year, changes in rows[rows["metric"] == metric].groupby("year"):
                values = changes["value"].fillna("(empty)") + " " if is_text else [""] * len(changes)
                pairs = zip(values, changes["change"], strict=True)
                moved = [f"{value}{change:+,.2f}" for value, change in pairs]
                more = [f"{len(moved) - 5} more"] if len(moved) > 5 else []
                years.append(f"{year} ({', '.join(moved[:5] + more)})")
            told.append(f"{metric} of {' and '.join(years)}")
        others = [f"{', '.join(metrics[1:])} likewise"] if is_text and metrics[1:] else []
        yield f"{dimension}.{column} restates {'; '.join(told + others)}"


def _changed_columns(
    connection: DuckDBPyConnection, dimension: str, before: Mart, after: Mart
) -> list[str]:
    """The columns of a dimension that changed in members that both marts have."""
    if dimension not in after.keys or before.key(dimension) != after.key(dimension):
        return []
    was, now = before.star[dimension], after.star[dimension]
    columns = [
        name
        for name, type_ in was.items()
        if name not in (*before.keys[dimension], surrogate_key(dimension))
        and (type_ == now.get(name) or (is_number(type_) and is_number(now.get(name, ""))))
    ]
    key, names = before.keys[dimension], [quoted(name) for name in columns]
    changes = ", ".join(f"bool_or(was.{name} is distinct from now.{name})" for name in names)
    found = connection.execute(f"""
        select [{changes}]
        from {before.stored(dimension)} as was
        inner join {after.stored(dimension)} as now
            on {row_sql(key, "was")} is not distinct from {row_sql(key, "now")}
    """).fetchone()
    return [name for name, is_changed in zip(columns, found[0], strict=True) if is_changed]


class _KeptRows(NamedTuple):
    """The published rows of a fact that both marts have, each joined to a member that it refers to.

    `role` is the column that refers to the member, which SQL calls `was` before and `now` after.
    """

    fact: str
    role: str
    dimension: str
    before: Mart
    after: Mart

    def home(self, column: str) -> str | None:
        """The table with this column: the fact, this dimension, or another one; None if none has it."""
        tables = [self.fact, self.dimension, *self.before.references[self.fact].values()]
        return next((table for table in tables if column in self.before.star[table]), None)

    def knows(self, metric: Metric) -> bool:
        """Whether the fact and its dimensions have all columns that the metric needs."""
        return all(self.home(column) for column in metric.columns)

    def value(self, metric: Metric, member: str = "was") -> str:
        """SQL for the metric, with the member's columns as they were or as they are now."""
        names = {self.fact: "facts", self.dimension: member}
        homes = [(self.home(column), quoted(column)) for column in metric.columns]
        return metric.of(*(f"{names.get(home, quoted(home))}.{column}" for home, column in homes))

    def sums(self, columns: Collection[str], amounts: Collection[str], by: Collection[str] = ()) -> str:
        """A query for amounts by year and `by`, over rows whose member changed in one of the columns."""
        before, after, fact = self.before, self.after, self.fact
        key, fact_key = before.keys[self.dimension], before.keys[fact]
        others = {to: name for name, to in before.references[fact].items() if to != self.dimension}
        joins = "".join(
            f" left join {before.stored(to)} as {quoted(to)}"
            f" on facts.{quoted(name)} = {quoted(to)}.{quoted(surrogate_key(to))}"
            for to, name in others.items()
            if any(f"{quoted(to)}." in amount for amount in amounts)
        )
        differs = (f"was.{quoted(name)} is distinct from now.{quoted(name)}" for name in columns)
        return f"""
            select {", ".join([f"facts.{quoted(before.day(fact))} // 10000 as year", *by, *amounts])}
            from {before.stored(fact)} as facts
            inner join {after.stored(fact)} as kept
                on {row_sql(fact_key, "facts")} = {row_sql(fact_key, "kept")}
            inner join {before.stored(self.dimension)} as was
                on facts.{quoted(self.role)} = was.{quoted(surrogate_key(self.dimension))}
            inner join {after.stored(self.dimension)} as now
                on kept.{quoted(self.role)} = now.{quoted(surrogate_key(self.dimension))}
                and {row_sql(key, "was")} is not distinct from {row_sql(key, "now")}
            {joins}
            where {" or ".join(differs)}
            group by all
            order by all
        """


def _kept_rows(dimension: str, before: Mart, after: Mart) -> Iterator[_KeptRows]:
    """For each column of the facts that refers to the dimension, the rows that both marts have."""
    for fact in sorted({*before.keys} & {*after.keys}):
        if before.key(fact) == after.key(fact) and before.day(fact):
            for role, to in before.references[fact].items():
                if to == dimension == after.references[fact].get(role):
                    yield _KeptRows(fact, role, dimension, before, after)


def _by_amounts(
    connection: DuckDBPyConnection, kept: _KeptRows, changed: list[str], metrics: list[Metric]
) -> Iterator[tuple]:
    """The restated rows of metrics that are computed from changed columns of the dimension."""
    for metric in metrics:
        columns = [name for name in metric.columns if kept.home(name) == kept.dimension]
        if theirs := [name for name in columns if name in changed]:
            change = f"{kept.value(metric, 'now')} - {kept.value(metric)}"
            for year, amount in connection.execute(kept.sums(theirs, [change])).fetchall():
                if amount:
                    yield metric.name, year, kept.dimension, ", ".join(theirs), None, amount


def _by_text(
    connection: DuckDBPyConnection, kept: _KeptRows, text: str, metrics: list[Metric]
) -> Iterator[tuple]:
    """For each metric and year, the amount that moved from one value of a text column to another."""
    column, dimension = quoted(text), kept.after.stored(kept.dimension)
    (values,) = connection.execute(f"select count(distinct {column}) from {dimension}").fetchone()
    if values > _MOST_VALUES or not metrics:
        return
    values = f"was.{column} as before", f"now.{column} as after"
    sums = kept.sums([text], [kept.value(metric) for metric in metrics], values)
    changes: Counter[tuple] = Counter()
    for year, before, after, *amounts in connection.execute(sums).fetchall():
        for place, amount in enumerate(amounts):
            changes[place, year, before] -= amount
            changes[place, year, after] += amount
    for place, year, value in sorted(changes, key=lambda each: (*each[:2], each[2] or "")):
        if change := changes[place, year, value]:
            yield metrics[place].name, year, kept.dimension, text, value, change
