"""A select as one tree over base tables: views, CTEs, macros, variables and parameters put in.

DuckDB knows what these are at the moment, and is asked for them. A view that reaches no large table
stays as it is.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime

import duckdb
from sqlglot import exp, parse_one
from sqlglot.errors import ParseError
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema

from mart_helpers.errors import QueryError
from mart_helpers.session import current_database
from mart_helpers.texts import one_line

_VIEWS = """
select lower(concat_ws('.', nullif(place, ''), nullif(schema_name, 'main'), view_name)), sql, place
from (
    select *, if(database_name in (current_database(), 'temp'), '', database_name) as place
    from duckdb_views()
    where not internal
)
order by temporary
"""

_MACROS = """
select function_name, parameters, macro_definition
from duckdb_functions()
where function_type = 'macro' and not internal and macro_definition is not null
"""

_VOLATILE = "select distinct function_name from duckdb_functions() where stability = 'VOLATILE'"

# sqlglot reads no `::` after the aggregate of a pivot
_PIVOT_CAST = re.compile(r"(\w+\([^()]*\))::(\w+\([^()]*\))(\s+for\b)", re.IGNORECASE)

_NAMES = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")

Known = Mapping[str, exp.CTE]


class Refused(QueryError):
    """The cluster cannot compute a statement; the text names the construct that is the reason."""


class Catalog:
    """What DuckDB knows now; `large` are the views over files of the lake, `values` the parameters."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, large: set[str], values: Mapping[str, object]
    ) -> None:
        self._connection, self.large, self._values = connection, large, values
        self._views = {name: rest for name, *rest in connection.execute(_VIEWS).fetchall()}
        self._macros = {name: rest for name, *rest in connection.execute(_MACROS).fetchall()}
        self._own = current_database(connection).lower()
        self.schema = MappingSchema(dialect="duckdb")

    def reaches_large(self, sql: str, place: str = "") -> bool:
        """Whether a statement names a large table, itself or through views; in doubt, yes.

        `place` is the database of a view, unless it is the main one.
        """
        seen, new = set(), [(sql, place)]
        while new:
            words = {word for each in new for word in _names_in(*each)} - seen
            if words & self.large:
                return True
            seen |= words
            new = [self._views[word] for word in words & self._views.keys()]
        return False

    def is_volatile(self, sql: str) -> bool:
        """Whether an expression calls a function like `random()`."""
        found = self._connection.execute(_VOLATILE).fetchall()
        return bool({name for (name,) in found} & {*re.findall(r"\w+(?=\()", sql.lower())})

    def flat(self, sql: str, place: str = "") -> exp.Expression:
        """The tree of a select, or of a view in the database `place`. Raises Refused if unreadable."""
        tree = self._read(sql)
        steps = {cte.alias for cte in tree.find_all(exp.CTE)}
        for table in tree.find_all(exp.Table) if place else ():
            if not table.db and table.name not in steps:  # it is in that database, too
                table.set("db", exp.to_identifier(place))
        return self._with_each_column(self._flat(tree, {}))

    def qualified(self, select: exp.Expression) -> exp.Expression:
        """The select with the table of each column, and without stars, `all` and aliases within it."""
        for table in select.find_all(exp.Table):
            described = self._connection.execute(f"describe {key_of(table)}").fetchall()
            bare = exp.to_table(table.name, db=table.db or None)
            self.schema.add_table(bare, {name: kind for name, kind, *_ in described})
        _name_groups(select)
        qualified = qualify(select, schema=self.schema, dialect="duckdb", validate_qualify_columns=False)
        order = qualified.args.get("order")
        if order and order.expressions[0].this == exp.var("ALL"):
            places = map(exp.Literal.number, range(1, len(qualified.selects) + 1))
            order.set("expressions", [exp.Ordered(this=each) for each in places])
        return qualified

    def _flat(self, node: exp.Expression, known: Known) -> exp.Expression:
        if with_ := node.args.get("with_"):
            if with_.recursive:
                raise Refused("a recursive CTE")
            node.set("with_", None)
            for cte in with_.expressions:
                cte.set("this", self._flat(cte.this, known))
                known = {**known, cte.alias.lower(): cte}
        for child in list(node.iter_expressions()):
            if (new := self._flat(child, known)) is not child:
                child.replace(new)
        return self._source(node, known) if isinstance(node, exp.Table) else node

    def _with_each_column(self, tree: exp.Expression) -> exp.Expression:
        """The tree with `columns(…)` as the columns that it means."""
        for select in reversed(list(tree.find_all(exp.Select))):
            each = [new for value in select.expressions for new in self._each_column(select, value)]
            select.set("expressions", each)
        return tree

    def _each_column(self, select: exp.Select, value: exp.Expression) -> list[exp.Expression]:
        found = value.find(exp.Columns)
        if not found:
            return [value]
        asked = exp.Select(expressions=[exp.Columns(this=found.this.copy())])
        asked.set("from_", select.args["from_"].copy())
        asked.set("joins", [each.copy() for each in select.args.get("joins") or ()])
        described = self._connection.execute(f"describe {asked.sql(dialect='duckdb')}").fetchall()
        names = [name for name, *_ in described]
        is_call = isinstance(found.parent, exp.Anonymous) and found.parent.name.lower() == "unpack"
        if found.args.get("unpack") or is_call:
            columns = [exp.column(name, quoted=True) for name in names]
            (found.parent if is_call else found).replace(columns)
            return [value]
        if value is found:
            return [exp.column(name, quoted=True) for name in names]
        found.replace(exp.Placeholder(this="column"))
        return [
            exp.alias_(
                exp.replace_placeholders(value, column=exp.column(n, quoted=True)), n, quoted=True
            )
            for n in names
        ]

    def _source(self, table: exp.Table, known: Known) -> exp.Expression:
        """The table, or the select behind its name."""
        if table.catalog:
            is_own = table.catalog.lower() == self._own
            table.set("db", None if is_own else exp.to_identifier(table.catalog))
            table.set("catalog", None)
        name = key_of(table)
        if name in known:
            query, alias = known[name].this.copy(), known[name].args["alias"].copy()
        elif name in self._views and name not in self.large and self.reaches_large(*self._views[name]):
            query, alias = self.flat(*self._views[name]), exp.TableAlias()
        else:
            return renamed(table, name_there(name)) if name in self.large else table
        alias.set("this", exp.to_identifier(table.alias or table.name))
        rest = {part: table.args.get(part) for part in ("pivots", "joins")}
        return exp.Subquery(this=query, alias=alias, **rest)

    def _read(self, sql: str) -> exp.Expression:
        """The parsed select, or that of a view, with values, and macros by their definition."""
        tree = _parsed(sql)
        tree = tree.expression if isinstance(tree, exp.Create) else tree
        return self._put_in(tree)

    def _put_in(self, tree: exp.Expression) -> exp.Expression:
        return tree.transform(self._bound).transform(self._macro)

    def _bound(self, node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Parameter | exp.Placeholder):
            return _literal(self._values[node.name])
        if isinstance(node, exp.Anonymous) and node.name.lower() == "count_star":
            return exp.Count(this=exp.Star())
        if isinstance(node, exp.Subquery) and any(map(_asks_storage, node.find_all(exp.Window))):
            return exp.false()  # a short cut of the checks, which then look at each row
        return node

    def _macro(self, node: exp.Expression) -> exp.Expression:
        if not isinstance(node, exp.Anonymous) or node.name.lower() not in self._macros:
            return node
        names, definition = self._macros[node.name.lower()]
        try:
            body = _parsed(definition)
        except Refused:
            return node  # DuckDB computes it
        given = dict(zip(names, node.expressions, strict=True))

        def put(each: exp.Expression) -> exp.Expression:
            if isinstance(each, exp.Column) and each.table in given:  # of a relation that is given
                return exp.column(each.name, given[each.table].name)
            if isinstance(each, exp.Column) and not each.table and each.name in given:
                return exp.paren(given[each.name].copy())
            return each

        return exp.paren(self._put_in(body.transform(put)))


def typed(value: object, kind: str) -> exp.Expression:
    """A value of DuckDB as a literal of its type `kind`."""
    return _literal(value) if kind == '"NULL"' else exp.cast(_literal(value), kind, dialect="duckdb")


def key_of(table: exp.Table) -> str:
    """The name of a table in lower case, with its schema unless that is `main`."""
    return (f"{table.db}.{table.name}" if table.db not in ("", "main") else table.name).lower()


def name_there(key: str) -> str:
    """The name that a large table has on the cluster."""
    return key.replace(".", "_")


def renamed(table: exp.Table, name: str) -> exp.Table:
    """The table under another name, without a schema; columns may still be asked by the old one."""
    alias = exp.TableAlias(this=exp.to_identifier(table.alias_or_name, quoted=True))
    return exp.Table(**{**table.args, "this": exp.to_identifier(name), "db": None, "alias": alias})


def _names_in(sql: str, place: str) -> Iterator[str]:
    """What the names in a text may mean, as `key_of` has it; `place` is the database of a view."""
    for word in _NAMES.findall(sql.replace('"', "").lower()):
        last = word.rpartition(".")[2]
        yield from (word.replace("main.", ""), last, f"{place}.{last}")


def _parsed(sql: str) -> exp.Expression:
    try:
        return parse_one(_PIVOT_CAST.sub(r"cast(\1 as \2)\3", sql), read="duckdb")
    except ParseError as error:
        raise Refused(f"what the translator cannot read: {one_line(str(error))}") from error


def _asks_storage(window: exp.Window) -> bool:
    """Whether it asks in which order rows are stored."""
    return isinstance(window.this, exp.Lag) and not window.args.get("order")


def _literal(value: object) -> exp.Expression:
    if isinstance(value, datetime | date):
        kind = "timestamp" if isinstance(value, datetime) else "date"
        return exp.cast(exp.Literal.string(str(value)), kind)
    return exp.convert(value)


def _name_groups(tree: exp.Expression) -> None:
    """`group by all` with its columns."""
    for group in list(tree.find_all(exp.Group)):
        if group.args.get("all"):
            columns = [each.unalias() for each in group.parent.expressions]
            keys = [each.copy() for each in columns if not each.find(exp.AggFunc)]
            group.replace(exp.Group(expressions=keys))
