"""A part as Spark's SQL. What may be sent is listed here.

Each rule is a place in which sqlglot's translation fails, or silently means something else there.
"""

from sqlglot import exp, parse_one
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.optimizer.annotate_types import TypeAnnotator, annotate_types
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
_EXACT = {*_WHOLE, _T.DECIMAL}
_TIMES = {_T.TIMESTAMP, _T.TIMESTAMPNTZ, _T.DATE}
# Casts that give the same there: from a type, to types.
_CASTS = [
    (_EXACT, {_T.DECIMAL}),
    ({*_WHOLE, _T.BOOLEAN}, _WHOLE),
    ({*_WHOLE, _T.DATE}, exp.DataType.TEXT_TYPES),
    (_TIMES, _TIMES),
    (exp.DataType.TEXT_TYPES, exp.DataType.TEXT_TYPES),
]


def annotated(tree: exp.Expression, schema: Schema) -> exp.Expression:
    """The tree with the types of its nodes, which `is_same` asks for."""
    return annotate_types(tree, schema=schema, expression_metadata=_TYPES, dialect="duckdb")


def _difference(annotator: TypeAnnotator, node: exp.Sub) -> exp.Sub:
    DuckDB.EXPRESSION_METADATA[exp.Sub]["annotator"](annotator, node)
    if _is_days(node):
        node.type = "bigint"
    return node


_TYPES = {**DuckDB.EXPRESSION_METADATA, exp.Sub: {"annotator": _difference}}


def is_same(node: exp.Expression) -> bool:
    """Whether a construct, apart from what is in it, means the same there."""
    if isinstance(node, exp.Cast):
        is_plain = isinstance(node.this, exp.Literal | exp.Null)
        return (
            is_plain
            or bool(node.find(exp.Median))
            or any(_is(node.this, old) and _is(node, new) for old, new in _CASTS)
        )
    if isinstance(node, exp.Join):
        return not node.method  # such as `asof`
    if isinstance(node, exp.DateDiff):
        return node.unit.name.upper() == "QUARTER"
    if isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Neg):  # not `date + interval`
        numbers = {*_EXACT, *_FLOATS}
        return _is_days(node) or all(_is(each, numbers) for each in node.iter_expressions())
    if isinstance(node, exp.Sum | exp.Median):
        return not _is(node.this, _FLOATS)
    return node.key in _SAME and not any(map(_gives_interval, node.iter_expressions()))


def spark_sql(part: exp.Expression, schema: Schema) -> str:
    """The text for the cluster. Raises Refused."""
    tree = annotated(part.copy(), schema)
    for node in tree.walk():
        if not is_same(node):
            raise Refused(f"`{node.sql('duckdb')[:80]}` ({node.key})")
    return tree.transform(_rule).sql(dialect="spark", pretty=True)


def _gives_interval(node: exp.Expression) -> bool:
    name = node.name.lower() if isinstance(node, exp.Anonymous) else node.key
    return name == "interval" or name.startswith("to")  # such as `to_days`


def _is(node: exp.Expression, types: set) -> bool:
    return node.type is not None and node.type.this in types


def _is_days(node: exp.Expression) -> bool:
    return isinstance(node, exp.Sub) and all(_is(each, {_T.DATE}) for each in node.iter_expressions())


def _rule(node: exp.Expression) -> exp.Expression:
    if _is_days(node):  # a number, not an interval
        return exp.Anonymous(this="datediff", expressions=[node.this, node.expression])
    if isinstance(node, exp.DateDiff):  # borders between quarters, not whole ones
        days = (each.sql("spark") for each in (node.this, node.expression))
        quarters = (f"(year({day}) * 4 + quarter({day}))" for day in days)
        return parse_one("({} - {})".format(*quarters), read="spark")
    return node
