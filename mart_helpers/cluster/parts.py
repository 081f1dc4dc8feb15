"""What of a select is sent: each innermost aggregation over a large table, without what is made of it.

For example, `select month, round(sum(a) / sum(b), 1) … group by month` becomes the part `select month,
sum(a), sum(b) … group by month`, and a rest over its rows. So the cluster does what is large, and DuckDB
all that is subtle: divisions, rounding, text, order. If an expression within a part is subtle, DuckDB
computes it for each distinct value of its columns, and the part joins the results. A select without
aggregates is a part of its own if it has a limit or is only asked whether there are rows.
An aggregation of groups that has nothing subtle in it is sent with them, so that they stay there.
"""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import duckdb
from sqlglot import exp
from sqlglot.optimizer.pushdown_projections import pushdown_projections

from mart_helpers.cluster.catalog import Catalog, Refused, key_of, renamed, typed
from mart_helpers.cluster.spark import annotated, is_same

Query = exp.Select | exp.SetOperation


class Step(NamedTuple):
    """A temporary table of DuckDB to fill: by the cluster, or from a small select."""

    name: str
    select: exp.Expression
    is_sent: bool


class Splitter:
    """Divides the selects of one session; its tables have numbers of their own."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, large: set[str]) -> None:
        self._connection, self._large, self._numbers = connection, large, count()

    def split(self, catalog: Catalog, tree: exp.Expression) -> tuple[exp.Expression, list[Step]]:
        """The rest of the select, and the steps before it, which have tables without rows by now.

        Raises Refused for a select that would bring the rows of a large table themselves.
        """
        self._steps: list[Step] = []
        self._catalog = catalog
        whole = exp.Subquery(this=tree)
        while select := self._next(whole):
            select, part = self._widest(select)
            name = f"sent_{next(self._numbers)}"
            part, rest = _divided(part, name)
            part = self._with_looked_up(pushdown_projections(part))
            self._step(name, part, is_sent=True)
            select.replace(rest)
        if self._is_large(whole):
            raise Refused("rows of a large table themselves: aggregate them, or set a limit")
        trees = [whole, *(each.select for each in self._steps)]
        used = {each.name for tree in trees for each in tree.find_all(exp.Table)}
        return whole.this, [each for each in self._steps if each.name in used]

    def _next(self, whole: exp.Expression) -> exp.Select | None:
        """The innermost select that is still to be divided."""
        for select in reversed(list(whole.find_all(exp.Select))):
            if self._is_large(select) and _brings_few(select) and not _is_correlated(select):
                return select
        return None

    def _widest(self, select: exp.Select) -> tuple[exp.Select, exp.Select]:
        """The aggregation farthest out around a select that means the same there as a whole, or itself.

        The groups of a fine grain then stay on the cluster. It comes with its copy that can be sent.
        """
        found = select, self._prepared(select)
        while _is_first_source(select.parent):
            select = select.parent_select
            if any(_aggregates(select)) and not _is_correlated(select):
                part = self._prepared(select)
                trial, _ = _divided(part, "trial")
                others = (each for each in trial.walk() if not is_same(each))
                if any(_has_groups(each.parent_select) for each in others):
                    break
                found = select, part
        return found

    def _prepared(self, select: exp.Select) -> exp.Select:
        part = self._catalog.qualified(self._with_small(select.copy()))
        return annotated(part, self._catalog.schema)

    def _is_large(self, tree: exp.Expression) -> bool:
        return any(key_of(each) in self._large for each in tree.find_all(exp.Table))

    def _step(self, name: str, select: exp.Expression, *, is_sent: bool) -> None:
        """Note a step, and create its table without rows, for its types."""
        sql = select.sql(dialect="duckdb")
        self._connection.execute(f"create or replace temp table {name} as from ({sql}) limit 0")
        self._steps.append(Step(name, select, is_sent))

    def _small(self, select: exp.Expression) -> exp.Table:
        """A table for the rows of a select that reaches no large table."""
        self._step(name := f"small_{next(self._numbers)}", select, is_sent=False)
        return exp.to_table(name)

    def _with_small(self, node: exp.Expression) -> exp.Expression:
        """The select with tables in place of the selects within it that reach no large one.

        Tables of other schemas, which the cluster does not know, are replaced like these selects.
        """
        for child in list(node.iter_expressions()):
            if isinstance(child, exp.Table) and child.db:
                bare = exp.select("*").from_(exp.table_(child.this.copy(), child.args["db"].copy()))
                child.replace(self._with_small(renamed(child, self._small(bare).name)))
            elif isinstance(child, Query) and not self._is_large(child) and not _is_correlated(child):
                child.replace(exp.select("*").from_(self._small(child)))
            else:
                self._with_small(child)
        return node

    def _with_looked_up(self, part: exp.Select) -> exp.Select:
        """The part with joins in place of expressions that mean something else on the cluster."""
        for select in reversed(list(part.find_all(exp.Select))):
            annotated(part, self._catalog.schema)
            found: dict[str, list[exp.Expression]] = {}
            for node in _subtle(select):
                found.setdefault(node.sql(dialect="duckdb"), []).append(node)
            for nodes in found.values():
                new = self._looked_up(select, nodes[0])
                for node in nodes:
                    node.replace(new.copy())
        return part

    def _looked_up(self, select: exp.Select, node: exp.Expression) -> exp.Expression:
        """The column of a join that has the values of `node`, made by DuckDB; or its value."""
        columns = list({each.sql(): each for each in node.find_all(exp.Column)}.values())
        text = node.sql(dialect="duckdb")
        if node.find(exp.AggFunc, exp.Window, *Query.__args__):
            raise Refused(f"`{text[:80]}` ({node.key})")
        gives_rows = node.find(exp.Explode, exp.Unnest)
        if gives_rows and (not columns or select.find(exp.Window)):
            raise Refused(f"`{text[:80]}` beside windows, or of a constant")
        if self._catalog.is_volatile(text):
            raise Refused(f"`{text[:80]}`, which may differ from row to row")
        if not columns:
            found = self._connection.execute(f"select {text} as value, typeof(value)")
            return typed(*found.fetchone())
        if isinstance(node.find_ancestor(exp.Join, exp.Select), exp.Join):
            raise Refused(
                f"`{text[:80]}` in the condition of a join: make it a column in a select within"
            )
        keys = {each.sql(): f"k{place}" for place, each in enumerate(columns)}
        distinct = exp.select(*[each.copy().as_(keys[each.sql()]) for each in columns]).distinct()
        for clause in ("from_", "joins", "where"):
            if (value := select.args.get(clause)) and not (clause == "where" and [*_subtle(value)]):
                distinct.set(
                    clause, [each.copy() for each in value] if clause == "joins" else value.copy()
                )
        self._step(name := f"sent_{next(self._numbers)}", distinct, is_sent=True)
        value = node.transform(
            lambda each: exp.column(keys.get(each.sql())) if each.sql() in keys else each
        )
        values = exp.select(*keys.values(), value.as_("value")).from_(name)
        table = self._small(values)
        same = [
            _is_equal(each, exp.column(keys[each.sql()], table.name, quoted=True)) for each in columns
        ]
        select.join(table, on=exp.and_(*same), copy=False)
        described = self._connection.execute(f"describe {table.name}").fetchall()
        self._catalog.schema.add_table(table.name, {name: kind for name, kind, *_ in described})
        return exp.column("value", table.name, quoted=True)


def _is_first_source(subquery: exp.Expression) -> bool:
    """Whether a select reads this, perhaps joined to others."""
    return isinstance(subquery, exp.Subquery) and isinstance(subquery.parent, exp.From)


def _has_groups(select: exp.Select) -> bool:
    """Whether it aggregates, or reads a select that does."""
    return any(any(_aggregates(each)) for each in select.find_all(exp.Select))


def _is_equal(one: exp.Expression, other: exp.Expression) -> exp.Expression:
    """Whether two columns are equal, null included. Sail would compare all pairs of rows for `<=>`."""
    if one.is_type("date"):
        stand_in = exp.cast(exp.Literal.string("1970-01-01"), "date")
    elif one.is_type(*exp.DataType.TEXT_TYPES):
        stand_in = exp.Literal.string("")
    elif one.is_type(*exp.DataType.NUMERIC_TYPES):
        stand_in = exp.Literal.number(0)
    else:
        return exp.NullSafeEQ(this=one.copy(), expression=other)
    values = [exp.func("coalesce", each.copy(), stand_in.copy()) for each in (one, other)]
    nulls = [exp.paren(exp.Is(this=each.copy(), expression=exp.null())) for each in (one, other)]
    return exp.and_(*(exp.EQ(this=each[0], expression=each[1]) for each in (values, nulls)))


def _is_correlated(select: exp.Expression) -> bool:
    """Whether the select reads columns of the selects around it, as far as names tell."""
    own = {each.alias_or_name for each in select.find_all(exp.Table, exp.Subquery)}
    return any(each.table and each.table not in own for each in select.find_all(exp.Column))


def _brings_few(select: exp.Select) -> bool:
    is_limited = any(select.args.get(kind) for kind in ("group", "limit", "distinct"))
    return is_limited or isinstance(select.parent, exp.Exists) or any(_aggregates(select))


def _aggregates(select: exp.Select) -> Iterator[exp.Expression]:
    """The aggregates of a select, outermost, each with its filter; those of a window are its own."""
    for part in ("expressions", "having", "order", "qualify"):
        values = select.args.get(part) or []
        for value in values if isinstance(values, list) else [values]:
            yield from _found(value)


def _found(node: exp.Expression) -> Iterator[exp.Expression]:
    if isinstance(node, exp.Filter | exp.AggFunc) and not _is_of_window(node):
        yield node
        return
    for child in node.iter_expressions():
        yield from _found(child)


def _is_of_window(node: exp.Expression) -> bool:
    above = node.parent.parent if isinstance(node.parent, exp.Filter) else node.parent
    return isinstance(above, exp.Window) and node.arg_key == "this"


def _subtle(node: exp.Expression) -> Iterator[exp.Expression]:
    """The outermost expressions that DuckDB has to compute."""
    for child in node.iter_expressions():
        if isinstance(child, exp.Condition) and not is_same(child):
            yield child
        else:
            yield from _subtle(child)


def _divided(select: exp.Select, name: str) -> tuple[exp.Select, exp.Select]:
    aggregates = {each.sql(): each for each in _aggregates(select)}
    group = select.args.get("group")
    if not aggregates and not group and not select.args.get("distinct"):
        return _limited(select, name)
    keys = (
        _keys(group) if group else [] if aggregates else [each.unalias() for each in select.expressions]
    )
    columns = {each.sql(): exp.column(f"k{place}", name) for place, each in enumerate(keys)}
    measures: list[exp.Expression] = []
    for text, each in aggregates.items():
        sent, columns[text] = _measured(each, name, len(measures))
        measures += sent

    def outside(node: exp.Expression) -> exp.Expression:
        is_one = node.sql() in columns and not isinstance(node, exp.Subquery | exp.Ordered)
        return columns[node.sql()].copy() if is_one else node

    rest = exp.Select(
        expressions=[
            exp.alias_(each.unalias().transform(outside), each.output_name, quoted=True)
            for each in select.expressions
        ]
    )
    for clause in ("order", "qualify", "limit", "offset", "distinct"):
        if select.args.get(clause):
            rest.set(clause, select.args[clause].copy().transform(outside))
    rest = rest.from_(exp.to_table(name))
    part = select.copy()
    if having := part.args.get("having"):
        rest = rest.where(having.this.transform(outside))
        if not all(map(is_same, having.walk())):
            part.set("having", None)
    for clause in ("order", "limit", "offset", "qualify", "distinct"):
        part.set(clause, None)
    part.set("expressions", [])
    for place, key in enumerate(keys):
        part.append("expressions", exp.alias_(key.copy(), f"k{place}", quoted=True))
    for place, measure in enumerate(measures):
        part.append("expressions", exp.alias_(measure, f"a{place}", quoted=True))
    if not group and not aggregates:
        part.set("distinct", exp.Distinct())
    elif not keys:
        part.set("group", None)
    return part, rest


def _measured(
    aggregate: exp.Expression, name: str, place: int
) -> tuple[list[exp.Expression], exp.Expression]:
    """What is sent of an aggregate, as columns from `place` on, and the aggregate made of these."""
    call = aggregate.this if isinstance(aggregate, exp.Filter) else aggregate
    column = exp.column(f"a{place}", name)

    def sent(new: exp.Expression) -> exp.Expression:
        return (
            exp.Filter(this=new, expression=aggregate.expression.copy())
            if call is not aggregate
            else new
        )

    if isinstance(call, exp.Avg):
        kind = call.this.type
        if kind is not None and kind.this in exp.DataType.INTEGER_TYPES:  # as DuckDB does it
            sums = [sent(each(this=call.this.copy())) for each in (exp.Sum, exp.Count)]
            counted = exp.column(f"a{place + 1}", name)
            return sums, exp.Div(this=exp.cast(column, "double"), expression=counted)
    if isinstance(call, exp.Median) and call.this.type.is_type("decimal"):
        # the mean of two decimals is a double there; DuckDB cuts it off after the last decimal
        digits = call.this.type.expressions[1].this.to_py()
        exact = exp.cast(column, f"decimal(38, {digits + 1})")
        rest = exp.Mod(this=exact.copy(), expression=exp.Literal.number(f"{10**-digits:.{digits}f}"))
        whole = exp.paren(exp.Sub(this=exact, expression=rest))
        sum_ = exp.cast(sent(exp.Median(this=call.this.copy())), "double")
        return [sum_], exp.cast(whole, call.this.type.copy())
    return [aggregate.copy()], column


def _keys(group: exp.Group) -> list[exp.Expression]:
    """The keys of a group, with those in a rollup or cube."""
    if group.find(exp.GroupingSets):
        raise Refused("grouping sets")
    return [
        key
        for each in group.expressions
        for key in (each.expressions if isinstance(each, exp.Rollup | exp.Cube) else [each])
    ]


def _limited(select: exp.Select, name: str) -> tuple[exp.Select, exp.Select]:
    """Some rows of a select, or one if it is only asked whether there are any."""
    if not select.args.get("limit"):
        select = select.select(exp.alias_(exp.Literal.number(1), "one"), append=False).limit(1)
    return select, exp.select("*").from_(name)
