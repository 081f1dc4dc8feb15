"""What every notebook looks like, as far as ruff cannot tell."""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import median

import duckdb
import lint_sql
from conftest import CHECKOUT
from golden import ORDER

Rule = Callable[[dict], Iterator[str]]
RULES: list[Rule] = []

PARAMETER = re.compile(r"[a-z_]+: (int|float|str|bool) = \S.*  # \S.*")
MEANINGLESS = re.compile(
    r"(df|data|frame|tables?|results?|res|ret|out|outputs?|temp|tmp|foo|.{1,2})_?\d*"
)
BANNED = (ast.FunctionDef, ast.ClassDef, ast.Try, ast.For, ast.While, ast.With, ast.Lambda, ast.AsyncFor)
ABSOLUTE = re.compile(r"(?<![\w.:/])(/[a-z]+/|~/|[A-Za-z]:\\)", re.IGNORECASE)
SUMMARY = {"tags": ["summary"]}
KNOWN = [SUMMARY, {"tags": ["checks"]}, {"tags": ["changes"]}, {"tags": ["aside"]}]
LONGEST_PYTHON, LONGEST_SQL, MOST_SILENT, MEDIAN = 12, 35, 3, 8
DESCRIBES = re.compile(r"\s*describe [\w.]+\s*$")  # lists columns, in their order
SECTION = re.compile(r"^(#|###+) ", re.MULTILINE)


def rule(broken_by: Rule) -> Rule:
    """Make a rule of a function that gives what in a notebook breaks it."""
    RULES.append(broken_by)
    return broken_by


def source(cell: dict) -> str:
    return "".join(cell["source"])


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def python_cells(notebook: dict) -> list[str]:
    return [text for text in map(source, code(notebook)) if not text.startswith("%%sql")]


def sql_cells(notebook: dict) -> list[str]:
    return [sql for _, sql in lint_sql.sql_cells(notebook)]


@rule
def it_begins_with_title_parameters_set_up_and_a_section(notebook: dict) -> Iterator[str]:
    title, parameters, set_up, section = notebook["cells"][:4]
    for part in ("# ", "?**", "*Reads*", "*Writes*"):
        if title["cell_type"] != "markdown" or part not in source(title):
            yield f"its first cell has no {part}"
    if parameters["metadata"].get("tags") != ["parameters"]:
        yield "its second cell is not tagged parameters"
    for line in source(parameters).splitlines():
        if not PARAMETER.fullmatch(line):
            yield f"is not `name: type = literal  # comment`: {line}"
    *imports, last = ast.parse(source(set_up)).body
    if not imports or not all(isinstance(each, ast.ImportFrom | ast.Import) for each in imports):
        yield "its third cell does not begin with imports alone"
    if not ast.unparse(last).startswith("mart = open_") or set_up["outputs"]:
        yield "its third cell does not end with opening the mart, or shows something"
    if not re.search("^## ", source(section), re.MULTILINE):
        yield "its fourth cell opens no section"


@rule
def it_has_one_title_and_sections(notebook: dict) -> Iterator[str]:
    headings = [cell for cell in notebook["cells"][1:] if cell["cell_type"] == "markdown"]
    yield from (source(cell) for cell in headings if SECTION.search(source(cell)))


@rule
def its_last_cell_links_to_a_notebook(notebook: dict) -> Iterator[str]:
    links = re.findall(r"\]\(([\w.]+\.ipynb)\)", source(notebook["cells"][-1]))
    if not links or not all((CHECKOUT / "notebooks" / link).exists() for link in links):
        yield f"links to {links}"


@rule
def its_cells_have_a_source_and_no_tags_of_their_own(notebook: dict) -> Iterator[str]:
    """Tags are for the parameters, what the command line tells, and what a report leaves out."""
    for number, cell in enumerate(notebook["cells"]):
        is_known = not cell["metadata"] or number == 1 or cell["metadata"] in KNOWN
        if not source(cell).removeprefix("%%sql").strip() or not is_known:
            yield f"cell {cell['id']}"


@rule
def it_shows_something_every_few_cells(notebook: dict) -> Iterator[str]:
    shows = "".join("x" if cell["outputs"] else "-" for cell in code(notebook))
    yield from (silence for silence in shows.split("x") if len(silence) > MOST_SILENT)


@rule
def it_imports_in_its_third_cell_only(notebook: dict) -> Iterator[str]:
    for text in python_cells(notebook)[2:]:
        if re.search(r"^\s*(import|from)\b", text, re.MULTILINE):
            yield text


@rule
def no_python_cell_defines_loops_catches_or_prints(notebook: dict) -> Iterator[str]:
    for cell in code(notebook):
        nodes = [] if source(cell).startswith("%%sql") else ast.walk(ast.parse(source(cell)))
        for node in nodes:
            is_print = isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "display")
            if isinstance(node, BANNED) or (is_print and cell["metadata"] != SUMMARY):
                yield ast.unparse(node)


@rule
def no_cell_is_long(notebook: dict) -> Iterator[str]:
    parameters = source(notebook["cells"][1])  # a list, one a line
    for text in python_cells(notebook):
        if text != parameters and len(text.splitlines()) > LONGEST_PYTHON:
            yield text
    for sql in sql_cells(notebook):
        if sum(not line.startswith("    ('") for line in sql.splitlines()) > LONGEST_SQL:
            yield sql


@rule
def most_cells_are_short(notebook: dict) -> Iterator[str]:
    if (found := median(len(source(cell).splitlines()) for cell in code(notebook))) > MEDIAN:
        yield f"half of its cells have {found} lines or more"


@rule
def a_cell_shows_one_thing_at_most_and_no_complaint(notebook: dict) -> Iterator[str]:
    for cell in code(notebook):
        if len(cell["outputs"]) > 1 or any(each.get("name") == "stderr" for each in cell["outputs"]):
            yield source(cell)


@rule
def a_chart_stands_alone_in_its_cell(notebook: dict) -> Iterator[str]:
    for text in python_cells(notebook):
        if re.search(r"^\w*\s*=?\s*draw_\w+\(", text, re.MULTILINE) and len(ast.parse(text).body) > 1:
            yield text


@rule
def it_has_no_absolute_path_no_braces_and_no_cell_exempt_from_comparing(notebook: dict) -> Iterator[str]:
    """Names in double braces JupySQL would fill in as text, and with nothing where they are unknown."""
    for text in map(source, code(notebook)):
        if ABSOLUTE.search(text) or "{{" in text or "NBVAL" in text.upper():
            yield text


@rule
def its_results_are_named_for_what_they_hold_and_once(notebook: dict) -> Iterator[str]:
    names = re.findall(r"^%%sql +(\w+) *=?<<", "\n".join(map(source, code(notebook))), re.MULTILINE)
    for text in python_cells(notebook)[1:]:
        targets = [node.targets for node in ast.parse(text).body if isinstance(node, ast.Assign)]
        names += sorted({ast.unparse(target) for each in targets for target in each})
    yield from (
        name for name, times in Counter(names).items() if times > 1 or MEANINGLESS.fullmatch(name)
    )


@rule
def what_it_makes_says_its_grain_first(notebook: dict) -> Iterator[str]:
    made = re.compile(r"(.*)\n(create (?:or replace )?(?:temp )?(?:table|view) \w+ )(?:as|\()")
    for sql in sql_cells(notebook):
        for line_before, statement in made.findall("\n" + sql):
            if not line_before.startswith("-- one row per "):
                yield statement


@rule
def what_it_shows_is_ordered_by_columns(notebook: dict) -> Iterator[str]:
    for sql in sql_cells(notebook):
        for statement in duckdb.extract_statements(sql):
            is_select = statement.type == duckdb.StatementType.SELECT
            if is_select and not DESCRIBES.match(statement.query) and not is_ordered(statement.query):
                yield statement.query


def is_ordered(select: str) -> bool:
    """Whether rows come in the order of columns that it names, or there is but one by its form."""
    ((text,),) = duckdb.execute("select json_serialize_sql(?)", [select]).fetchall()
    node = json.loads(text)["statements"][0]["node"]
    orders = [order for modifier in node["modifiers"] for order in modifier.get("orders", [])]
    if orders:
        return all(order["expression"]["class"] not in ("CONSTANT", "STAR") for order in orders)
    has_groups = node.get("group_expressions") or node.get("aggregate_handling") == "FORCE_AGGREGATES"
    return not has_groups and any(aggregates(each) for each in node.get("select_list", []))


def aggregates(expression: object) -> bool:
    """Whether an expression of a syntax tree aggregates rows, outside of queries within it."""
    if isinstance(expression, list):
        return any(map(aggregates, expression))
    if not isinstance(expression, dict) or expression.get("class") in ("SUBQUERY", "WINDOW"):
        return False
    return expression.get("function_name") in AGGREGATES or aggregates(list(expression.values()))


AGGREGATES = {
    name
    for (name,) in duckdb.execute(
        "select function_name from duckdb_functions() where function_type = 'aggregate'"
    ).fetchall()
} | {"count_star"}


@rule
def its_sql_has_the_style(notebook: dict) -> Iterator[str]:
    yield from lint_sql.violations(notebook)


def test_each_notebook_keeps_the_rules(subtests):
    for name in ORDER:
        with subtests.test(name):
            notebook = json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text())
            assert {rule.__name__: broken for rule in RULES if (broken := list(rule(notebook)))} == {}


UNORDERED = (
    "select sale_id from fact_sales limit 10",
    "select sale_id from fact_sales order by all",
    "select product_key, count(*) as sales from fact_sales group by all",
    "select sum(quantity) over () as units from fact_sales",
    "with sales as (from fact_sales order by sale_id) select sale_id from sales",
)


def test_rows_that_come_in_no_order_are_seen():
    assert is_ordered("select sale_id from fact_sales order by sale_id")
    assert is_ordered("select count(*) as sales from fact_sales")
    assert [select for select in UNORDERED if is_ordered(select)] == []
