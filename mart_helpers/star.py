"""The star of a mart: its tables `dim_<thing>` and `fact_<event>`, their references and metrics.

An additive metric is a macro whose comment ends in `adds up` and which sums a column of the same name. A
view of the mart computes that column from columns of a fact and its dimensions.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from mart_helpers.contract import read_contracts
from mart_helpers.session import Session
from mart_helpers.texts import expression_sql, literal, parsed, quoted

CALENDAR = "dim_date"


def star_types(connection: DuckDBPyConnection, database: str | None = None) -> dict[str, dict[str, str]]:
    """The columns of each `dim_…` and `fact_…` table of the attached `database`, with their types.

    `duckdb_columns()` lists all columns of all views of the system: to describe each table is quicker.
    """
    tables = connection.execute(_STAR_TABLES, {"database": database}).fetchall()
    described = {
        table: connection.execute(f"describe {quoted(database)}.main.{quoted(table)}").fetchall()
        for database, table in tables
    }
    return {table: {name: type_ for name, type_, *_ in rows} for table, rows in described.items()}


#: The columns of a dimension with versions that say on which days one is valid, the last included.
VALID_FROM, VALID_TO = "valid_from", "valid_to"


def surrogate_key(dimension: str) -> str:
    """The name of the surrogate key of `dim_<thing>`: `<thing>_key`."""
    return f"{dimension.removeprefix('dim_')}_key"


def durable_key(dimension: str) -> str:
    """The name of the key that the versions of a member of `dim_<thing>` share."""
    return f"{dimension.removeprefix('dim_')}_durable_key"


def with_versions(star: Mapping[str, Iterable[str]]) -> list[str]:
    """The tables of the `star` (tables with their columns) that hold versions of their members."""
    return [table for table, columns in star.items() if durable_key(table) in columns]


def star_references(
    connection: DuckDBPyConnection, database: str | None = None
) -> dict[str, dict[str, str]]:
    """For each table of the star, its columns that refer to a dimension, each with that dimension.

    `references_in` recognises them by name. The surrogate key of a dimension refers to nothing.
    """
    star = star_types(connection, database)
    return {
        table: {
            column: dimension
            for column, dimension in references_in(columns, star).items()
            if (table, column) != (dimension, surrogate_key(dimension))
        }
        for table, columns in star.items()
    }


def references_in(columns: Iterable[str], star: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The `columns` whose names refer to a dimension of the `star`, each with that dimension.

    `<thing>_key` and `<role>_<thing>_key` refer to the `dim_<thing>` that has a `<thing>_key`; if
    several names fit, the longest wins.
    """
    keys = {
        surrogate_key(table): table
        for table, names in star.items()
        if table.startswith("dim_") and surrogate_key(table) in names
    }
    fitting = {
        column: [key for key in keys if column == key or column.endswith(f"_{key}")]
        for column in columns
    }
    return {column: keys[max(found, key=len)] for column, found in fitting.items() if found}


def day_of(references: Mapping[str, str]) -> str | None:
    """The column that gives the day of a row: `date_key`, or else the first that refers to `dim_date`.

    `references` come from `references_in`. The keys of `dim_date` sort like its days.
    """
    days = [column for column, dimension in references.items() if dimension == CALENDAR]
    own = surrogate_key(CALENDAR)
    return own if own in days else next(iter(days), None)


def inherit_comments(connection: DuckDBPyConnection) -> None:
    """Comment each table and column of the star that no cell has commented.

    A column that comes unchanged from an input gets that column's comment in the contract; surrogate
    keys and references to dimensions are described as such. A table gets the comment of its declaration.
    """
    references = star_references(connection)
    declared = read_contracts(connection)
    for table, column in connection.execute(_WITHOUT_COMMENT).fetchall():
        says: dict[str | None, str] = {
            surrogate_key(table): f"surrogate key of {table}; -1 is the unknown member",
            durable_key(table): f"durable key: all versions of a member of {table} share it",
        }
        says |= {name: f"refers to {dimension}" for name, dimension in references[table].items()}
        if table in declared:
            says |= {None: declared[table].comment.sentence}
            says |= {each.name: each.comment.sentence for each in declared[table].columns}
        if sentence := says.get(column):
            name = ".".join(quoted(part) for part in ("main", table, column) if part is not None)
            what = "table" if column is None else "column"
            connection.execute(f"comment on {what} {name} is {literal(sentence)}")


def unused_columns(session: Session) -> list[str]:
    """The declared tables and columns (as `table.column`) that no cell of this build uses.

    An unused column is in no table of the star under its name, and in no statement that reads its
    staging table.
    """
    star, unused = star_types(session.connection), []
    for name, table in read_contracts(session.connection).items():
        is_read = re.compile(rf'\bstaging\s*\.\s*"?{re.escape(name)}\b', re.IGNORECASE)
        statements = [text for text in session.statements if is_read.search(text)]
        if not statements and name not in star:
            unused.append(name)
        for column in table.column_names if statements else ():
            word = re.compile(rf"(?<!\w){re.escape(column)}(?!\w)", re.IGNORECASE)
            if column not in star.get(name, ()) and not any(map(word.search, statements)):
                unused.append(f"{name}.{column}")
    return unused


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
    for (view,) in connection.execute(_VIEW_TEXTS, {"mart": mart}).fetchall():
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
    tree = parsed(connection, view)
    made: dict[str, dict] = {}
    for item in tree["statements"][0]["node"].get("select_list", []) if tree else []:
        if (name := item.get("alias")) and item["class"] != "STAR":
            columns: set[str] = set()
            made[name] = {**_expanded(item, made, columns), "alias": ""}
            yield name, expression_sql(connection, made[name]), sorted(columns)


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


_WITHOUT_COMMENT = """
with described as (
    select database_name, schema_name, table_name, column_name, comment from duckdb_columns()
    union all
    select database_name, schema_name, table_name, null, comment from duckdb_tables()
)
select table_name, column_name
from described
where
    database_name = current_database()
    and schema_name = 'main'
    and comment is null
    and regexp_matches(table_name, '^(dim|fact)_')
"""

_STAR_TABLES = """
with tables as (
    select database_name, schema_name, table_name from duckdb_tables()
    union all
    select database_name, schema_name, view_name from duckdb_views()
)
select database_name, table_name
from tables
where
    database_name = coalesce($database, current_database())
    and schema_name = 'main'
    and (starts_with(table_name, 'dim_') or starts_with(table_name, 'fact_'))
order by table_name
"""

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

_VIEW_TEXTS = """
select regexp_extract(sql, '(?is)^create view .*? as (.*?);?$', 1)
from duckdb_views()
where database_name = $mart and schema_name = 'main' and not internal
order by view_name
"""
