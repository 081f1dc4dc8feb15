"""How a changed dimension restates figures of facts, for example a changed cost the margin."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import pandas as pd
from duckdb import DuckDBPyConnection

from mart_helpers.contract import declared_keys
from mart_helpers.staging import BEGINNING
from mart_helpers.star import (
    CALENDAR,
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
from mart_helpers.texts import literal, quoted, row_sql

_MOST_VALUES = 50  # distinct values of a text that reports group by

_RESTATED = """
create or replace temp table restated (
    metric varchar, year integer, dimension varchar, column_name varchar, value varchar,
    change decimal(38, 4)
)
"""


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
            if table in self.keys
            and connection.execute(
                f"from {self.stored(table)} where {VALID_FROM} <> date '{BEGINNING}' limit 1"
            ).fetchone()
        }

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
            if dimension := self._resolved(table, column):
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
            if is_resolved and (dimension := self._resolved(table, column)):
                key = f"of_{place}.{quoted(surrogate_key(dimension))}"
                joins.append(f"left join {self.stored(dimension)} as of_{place} on {source} = {key}")
                source = row_sql(self.keys[dimension], f"of_{place}")
            chosen.append(f"{source} as {place}")
        member = f"partition by stored.{quoted(durable_key(table))}"
        newest = f"qualify stored.{VALID_FROM} = max(stored.{VALID_FROM}) over ({member})"
        source = f"{self.stored(table)} as stored {' '.join(joins)}"
        return f"select {', '.join(chosen)} from {source} {newest if is_of_newest else ''}"

    def _resolved(self, table: str, column: str) -> str | None:
        """The dimension whose natural key a column stands for; the keys of days are used as they are."""
        dimension = self.references[table].get(column)
        return dimension if dimension in self.keys and dimension != CALENDAR else None

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
    connection.execute(_RESTATED)
    for dimension in sorted({*changed} & {*before.keys} & {*after.keys}):
        for fact in sorted({*before.keys} & {*after.keys}):
            is_same = all(before.key(name) == after.key(name) for name in (dimension, fact))
            for role, to in before.references[fact].items() if is_same and before.day(fact) else ():
                if to == dimension == after.references[fact].get(role):
                    _KeptRows(fact, role, dimension, before, after).note_restated(connection, metrics)
    return connection.execute("from temp.restated").df()


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


class _KeptRows(NamedTuple):
    """The published rows of a fact that both marts have, each joined to a member that it refers to.

    `role` is the column that refers to the member, which SQL calls `was` before and `now` after.
    """

    fact: str
    role: str
    dimension: str
    before: Mart
    after: Mart

    def note_restated(self, connection: DuckDBPyConnection, metrics: Collection[Metric]) -> None:
        """Note each restated metric: first its amounts, then what moved between texts."""
        known = [metric for metric in metrics if all(map(self.home, metric.columns))]
        changed = self.changed(connection, known) if known else []
        if not changed:
            return
        connection.execute(f"create or replace temp table restated_sums as {self.sums(known, changed)}")
        own = [name for name in changed if self.home(name) == self.dimension]
        for place, metric in enumerate(known):
            theirs = ", ".join(name for name in metric.columns if name in own)
            amount = f"sums.after_{place} - sums.before_{place}"
            connection.execute(self.moves(metric, theirs, "null", amount))
        for name in changed:
            value = f"unnest([was.{quoted(name)}, now.{quoted(name)}])"
            is_text = self.before.star[self.dimension][name] == "VARCHAR"
            for place, metric in enumerate(known) if is_text else ():
                amount = f"unnest([-sums.before_{place}, sums.before_{place}])"
                connection.execute(self.moves(metric, name, value, amount))

    def changed(self, connection: DuckDBPyConnection, metrics: Collection[Metric]) -> list[str]:
        """The columns of the dimension that changed in members of both marts and that can restate.

        These are columns that metrics are made of, and texts with few values.
        """
        was, now = self.before.star[self.dimension], self.after.star[self.dimension]
        before, after = (mart.stored(self.dimension) for mart in (self.before, self.after))
        key, used = self.before.keys[self.dimension], {name for each in metrics for name in each.columns}
        conditions = {}
        for name in was.keys() - {*key, surrogate_key(self.dimension)}:
            kinds = was[name], now.get(name, "")
            if kinds == ("VARCHAR", "VARCHAR"):
                values = f"select count(distinct {quoted(name)}) from {after}"
                conditions[name] = f"{_differs(name)} and ({values}) <= {_MOST_VALUES}"
            elif name in used and (kinds[0] == kinds[1] or all(map(is_number, kinds))):
                conditions[name] = _differs(name)
        tests = ", ".join(f"coalesce(bool_or({each}), false)" for each in conditions.values())
        (found,) = connection.execute(f"""
            select [{tests}]
            from {before} as was
            inner join {after} as now on {row_sql(key, "was")} is not distinct from {row_sql(key, "now")}
        """).fetchone()
        changed = {name for name, is_changed in zip(conditions, found, strict=True) if is_changed}
        return [name for name in was if name in changed]

    def moves(self, metric: Metric, column: str, value: str, amount: str) -> str:
        """SQL that notes by how much a column restates a metric, by year and by SQL for its value."""
        texts = ", ".join(map(literal, (self.dimension, column)))
        return f"""
            insert into temp.restated
            with moves as (select sums.year, {value} as value, {amount} as amount {self.pairs})
            select {literal(metric.name)}, year, {texts}, value, sum(amount) as change
            from moves
            group by year, value
            having change <> 0
            order by year, value nulls first
        """

    def home(self, column: str) -> str | None:
        """The table with this column: the fact, this dimension, or another one; None if none has it."""
        tables = [self.fact, self.dimension, *self.before.references[self.fact].values()]
        return next((table for table in tables if column in self.before.star[table]), None)

    def value(self, metric: Metric, member: str) -> str:
        """SQL for the metric, with the member's columns as they were or as they are now."""
        names = {self.fact: "facts", self.dimension: member}
        homes = [(self.home(column), quoted(column)) for column in metric.columns]
        return metric.of(*(f"{names.get(home, quoted(home))}.{column}" for home, column in homes))

    def sums(self, metrics: Collection[Metric], columns: Collection[str]) -> str:
        """A query for the metrics by year and member, over rows whose member changed in a column."""
        before, after, fact = self.before, self.after, self.fact
        key, fact_key = before.keys[self.dimension], before.keys[fact]
        amounts = [
            f"{self.value(metric, member)} as {side}_{place}"
            for side, member in (("before", "was"), ("after", "now"))
            for place, metric in enumerate(metrics)
        ]
        others = {to: name for name, to in before.references[fact].items() if to != self.dimension}
        joins = "".join(
            f" left join {before.stored(to)} as {quoted(to)}"
            f" on facts.{quoted(name)} = {quoted(to)}.{quoted(surrogate_key(to))}"
            for to, name in others.items()
            if any(f"{quoted(to)}." in amount for amount in amounts)
        )
        return f"""
            select
                facts.{quoted(before.day(fact))} // 10000 as year,
                facts.{quoted(self.role)} as was_key,
                kept.{quoted(self.role)} as now_key,
                {", ".join(amounts)}
            from {before.stored(fact)} as facts
            inner join {after.stored(fact)} as kept
                on {row_sql(fact_key, "facts")} = {row_sql(fact_key, "kept")}
            inner join {before.stored(self.dimension)} as was
                on facts.{quoted(self.role)} = was.{quoted(surrogate_key(self.dimension))}
            inner join {after.stored(self.dimension)} as now
                on kept.{quoted(self.role)} = now.{quoted(surrogate_key(self.dimension))}
                and {row_sql(key, "was")} is not distinct from {row_sql(key, "now")}
            {joins}
            where {" or ".join(map(_differs, columns))}
            group by all
        """

    @property
    def pairs(self) -> str:
        """SQL for these sums with their members."""
        own = quoted(surrogate_key(self.dimension))
        return f"""
            from temp.restated_sums as sums
            inner join {self.before.stored(self.dimension)} as was on sums.was_key = was.{own}
            inner join {self.after.stored(self.dimension)} as now on sums.now_key = now.{own}
        """


def _differs(column: str) -> str:
    return f"was.{quoted(column)} is distinct from now.{quoted(column)}"
