"""The metrics that a mart has published: macros whose comments say what they are.

The parameters of such a macro are named for the columns that it is made of.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from duckdb import DuckDBPyConnection

from mart_helpers.texts import quoted


class Metric(NamedTuple):
    """An additive metric: its name, its macro with the name of the mart, the columns it is made of."""

    name: str
    macro: str
    columns: list[str]

    def of(self, *sources: str) -> str:
        """SQL for its value, the columns being these expressions: a `decimal(38, 4)`, 0 for no rows."""
        return f"coalesce({self.macro}({', '.join(sources)}), 0)::decimal(38, 4)"


def additive_metrics(connection: DuckDBPyConnection, mart: str) -> list[Metric]:
    """The metrics of an attached mart whose comments say `additive`, in the order of their making."""
    found = connection.execute(
        """
        select function_name, parameters
        from duckdb_functions()
        where
            database_name = ?
            and schema_name = 'main'
            and function_type = 'macro'
            and regexp_matches(comment, '(^|[^-a-z])additive')
            and not contains(comment, 'not additive')
        order by function_oid
        """,
        [mart],
    )
    return [
        Metric(name, f"{quoted(mart)}.main.{quoted(name)}", parameters)
        for name, parameters in found.fetchall()
    ]


def first_made_of(columns: Collection[str], metrics: Iterable[Metric]) -> Metric | None:
    """The first of the metrics that needs no other columns than these."""
    return next((each for each in metrics if set(each.columns) <= set(columns)), None)
