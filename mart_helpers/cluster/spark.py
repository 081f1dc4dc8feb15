"""A part as Spark's SQL. What may be sent is listed here.

Each rule is a place in which sqlglot's translation fails, or silently means something else there.
"""

from sqlglot import exp
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.schema import Schema

from mart_helpers.cluster.catalog import Refused

# Structure, operators, functions.
_KEYS = """
select from join where group having order ordered limit subquery union intersect except alias tablealias
table column identifier star distinct paren tuple window windowspec filter exists in literal null boolean
datatype datatypeparam var rollup cube

and or not eq neq nullsafeeq nullsafeneq gt gte lt lte between is like add sub mul neg dpipe

sum count min max median logicaland logicalor coalesce nullif case if abs greatest least cast trycast
year quarter month day timestamptrunc datetrunc datediff lag lead rownumber rank denserank grouping
"""
_SAME = {*_KEYS.split()}

_T = exp.DataType.Type
_WHOLE, _FLOATS = exp.DataType.INTEGER_TYPES, exp.DataType.FLOAT_TYPES
_NUMBERS = {*_WHOLE, _T.DECIMAL}
_TIMES = {_T.TIMESTAMP, _T.TIMESTAMPNTZ, _T.DATE}
# Casts that give the same there: from a type, to types.
_CASTS = [
    ({*_NUMBERS, _T.BOOLEAN}, {_T.DECIMAL}),
    ({*_WHOLE, _T.BOOLEAN}, _WHOLE),
    ({*_WHOLE, _T.BOOLEAN, _T.DATE}, exp.DataType.TEXT_TYPES),
    (_TIMES, _TIMES),
    (exp.DataType.TEXT_TYPES, exp.DataType.TEXT_TYPES),
]


def annotated(tree: exp.Expression, schema: Schema) -> exp.Expression:
    """The tree with the types of its nodes, which `is_same` asks for."""
    return annotate_types(tree, schema=schema, dialect="duckdb")


def is_same(node: exp.Expression) -> bool:
    """Whether a construct, apart from what is in it, means the same there."""
    if isinstance(node, exp.Cast):
        is_plain = isinstance(node.this, exp.Literal | exp.Null)
        return (
            is_plain
            or bool(node.find(exp.Median))
            or any(_is(node.this, old) and _is(node, new) for old, new in _CASTS)
        )
    if isinstance(node, exp.DateDiff):
        return node.unit.name.upper() == "QUARTER"
    if isinstance(node, exp.Sum | exp.Median):
        return not _is(node.this, _FLOATS)
    return node.key in _SAME and not any(map(_gives_interval, node.iter_expressions()))


def spark_sql(part: exp.Expression, schema: Schema) -> str:
    """The text for the cluster. Raises Refused."""
    tree = annotated(part.copy(), schema)
    for node in tree.walk():
        if not is_same(node):
            raise Refused(f"`{node.sql('duckdb')[:80]}` ({node.key})")
    return _from_below(tree).sql(dialect="spark", pretty=True)


def _gives_interval(node: exp.Expression) -> bool:
    if isinstance(node, exp.If | exp.Case | exp.Paren | exp.Coalesce):
        return any(map(_gives_interval, node.iter_expressions()))
    name = node.name.lower() if isinstance(node, exp.Anonymous) else node.key
    return name in ("interval", "to_years", "to_months", "to_days", "todays")


def _from_below(node: exp.Expression) -> exp.Expression:
    for child in list(node.iter_expressions()):
        new = _from_below(child)
        if new is not child:
            child.replace(new)
    return _rule(node)


def _is(node: exp.Expression, types: set) -> bool:
    return node.type is not None and node.type.this in types


def _rule(node: exp.Expression) -> exp.Expression:
    if isinstance(node, exp.Sub) and _is(node.this, {_T.DATE}) and _is(node.expression, {_T.DATE}):
        days = [node.this, node.expression]
        return exp.Anonymous(this="DATEDIFF", expressions=days)  # days, not an interval
    if isinstance(node, exp.DateDiff):  # borders between quarters, not whole ones
        return exp.paren(exp.Sub(this=_quarters(node.this), expression=_quarters(node.expression)))
    return node


def _quarters(day: exp.Expression) -> exp.Expression:
    year, quarter = (exp.Anonymous(this=name, expressions=[day.copy()]) for name in ("YEAR", "QUARTER"))
    return exp.paren(
        exp.Add(this=exp.Mul(this=year, expression=exp.Literal.number(4)), expression=quarter)
    )
