"""The additive metrics of a published mart, and the columns that they are computed from.

An additive metric is a macro whose comment ends in `adds up` and which sums a column of the same name. A
view of the mart computes that column from columns of a fact and its dimensions.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from mart_helpers.texts import quoted


class Metric(NamedTuple):
    """A metric: its name, the temporary macro that sums it, and the columns that the macro takes."""

    name: str
    macro: str
    columns: list[str]

    def of(self, *sources: str) -> str:
        """SQL for its value, from expressions for its columns: a `decimal(38, 4)`, 0 if no rows."""
        return f"coalesce({self.macro}({', '.join(sources)}), 0)::decimal(38, 4)"


def additive_metrics(connection: DuckDBPyConnection, mart: str) -> list[Metric]:
    """The additive metrics of an attached mart, in the order of the columns that they sum."""
    names = {name for (name,) in connection.execute(_ADDITIVE, {"mart": mart}).fetchall()}
    metrics = {}
    for (view,) in connection.execute(_VIEWS, {"mart": mart}).fetchall():
        for name, expression, columns in _columns_made(connection, view):
            if name in names and name not in metrics:
                macro, parameters = quoted(f"sum of {name}"), ", ".join(map(quoted, columns))
                connection.execute(
                    f"create or replace temp macro {macro}({parameters}) as sum({expression})"
                )
                metrics[name] = Metric(name, macro, columns)
    return list(metrics.values())


def first_made_of(columns: Collection[str], metrics: Iterable[Metric]) -> Metric | None:
    """The first of the metrics that needs only these columns."""
    return next((each for each in metrics if set(each.columns) <= set(columns)), None)


def is_number(type_: str) -> bool:
    """Whether a column of this type can be summed."""
    return type_.startswith("DECIMAL") or type_.endswith(("INT", "INTEGER", "FLOAT", "DOUBLE"))


def _columns_made(connection: DuckDBPyConnection, view: str) -> Iterator[tuple[str, str, list[str]]]:
    """The columns that a view computes, each with its expression and the columns that this needs."""
    template, parsed = _parsed(connection, "select 1"), _parsed(connection, view)
    made: dict[str, dict] = {}
    for item in parsed["statements"][0]["node"].get("select_list", []) if parsed else []:
        if item.get("alias") and item["class"] != "STAR":
            columns: set[str] = set()
            made[item["alias"]] = {**_expanded(item, made, columns), "alias": ""}
            template["statements"][0]["node"]["select_list"] = [made[item["alias"]]]
            text = "select json_deserialize_sql($tree::json)"
            (sql,) = connection.execute(text, {"tree": json.dumps(template)}).fetchone()
            yield item["alias"], sql.removeprefix("SELECT "), sorted(columns)


def _parsed(connection: DuckDBPyConnection, sql: str) -> dict:
    """The syntax tree of a `select`; empty if DuckDB gives none."""
    tree = json.loads(connection.execute("select json_serialize_sql($1)", [sql]).fetchone()[0])
    return {} if tree["error"] else tree


def _expanded(node: Any, made: dict[str, dict], columns: set[str]) -> Any:
    """The tree with earlier columns replaced by their expressions; adds other columns to `columns`."""
    if isinstance(node, list):
        return [_expanded(each, made, columns) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("class") == "COLUMN_REF":
        name = node["column_names"][-1]
        if name in made:
            return _expanded(made[name], {}, columns)
        columns.add(name)
        return node
    return {key: _expanded(value, made, columns) for key, value in node.items()}


_ADDITIVE = """
select function_name
from duckdb_functions()
where
    database_name = $mart
    and schema_name = 'main'
    and function_type = 'macro'
    and regexp_matches(comment, '(^|; )adds up$')
    and replace(macro_definition, '"', '') = 'sum(' || parameters[1] || '.' || function_name || ')'
"""

_VIEWS = """
select regexp_extract(sql, '(?is)^create view .*? as (.*?);?$', 1)
from duckdb_views()
where database_name = $mart and schema_name = 'main' and not internal
order by view_name
"""
