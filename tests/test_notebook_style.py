"""What every notebook looks like, as far as a machine can tell; each rule is shown what breaks it."""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy

import duckdb
import pytest
from conftest import CHECKOUT
from golden import ORDER

Cells = list[dict]
Rule = Callable[[dict], Iterator[str]]
RULES: list[Rule] = []

PARAMETER = re.compile(r"[a-z_]+: (int|float|str|bool) = \S.*  # \S.*")
MEANINGLESS = re.compile(r"(df|data|frame|tables?|results?|res|ret|out|outputs?|temp|tmp|foo|x|y)_?\d*")
BANNED = (ast.FunctionDef, ast.ClassDef, ast.Try, ast.For, ast.While, ast.With, ast.Lambda, ast.AsyncFor)
ABSOLUTE = re.compile(r"(?<![\w.:/])(/[a-z]+/|~/|[A-Za-z]:\\)", re.IGNORECASE)
CLOCK = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d|\b\d\d:\d\d:\d\d\b")
MACHINE = re.compile(
    r"/(home|Users|tmp|root|usr|var|opt|work|mnt)/|site-packages|\b0x[0-9a-f]{6,}|\x1b\["
)
FORMS = {"text/plain", "text/html", "image/png"}
PICTURE_METADATA = {"alt", "height", "width"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LONGEST_PYTHON, LONGEST_SQL = 12, 40


def rule(broken_by: Rule) -> Rule:
    """Make a rule of a function that gives what in a notebook breaks it."""
    RULES.append(broken_by)
    return broken_by


def source(cell: dict) -> str:
    return "".join(cell["source"])


def code(notebook: dict) -> Cells:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def python_cells(notebook: dict) -> list[str]:
    return [text for text in map(source, code(notebook)) if not text.startswith("%%sql")]


def sql_cells(notebook: dict) -> list[str]:
    """The statements of each `%%sql` cell."""
    texts = map(source, code(notebook))
    return [text.partition("\n")[2] for text in texts if text.startswith("%%sql")]


def without_text(sql: str) -> str:
    """SQL without what is no SQL in it: strings and comments."""
    return re.sub(r"'(?:[^']|'')*'|--.*", "''", sql)


@rule
def its_first_cell_is_a_title_a_question_and_what_it_reads_and_writes(notebook: dict) -> Iterator[str]:
    first = notebook["cells"][0]
    if first["cell_type"] != "markdown":
        yield "is code"
    for part in ("# ", "?**", "*Reads*", "*Writes*"):
        if part not in source(first) or not source(first).startswith("# "):
            yield f"has no {part}"


@rule
def its_second_cell_holds_the_parameters(notebook: dict) -> Iterator[str]:
    if notebook["cells"][1]["metadata"].get("tags") != ["parameters"]:
        yield "is not tagged parameters"
    for line in source(notebook["cells"][1]).splitlines():
        if not PARAMETER.fullmatch(line):
            yield f"is not `name: type = literal  # comment`: {line}"


@rule
def only_its_second_cell_has_a_tag(notebook: dict) -> Iterator[str]:
    for number, cell in enumerate(notebook["cells"]):
        if number != 1 and cell["metadata"]:
            yield f"cell {number} has {cell['metadata']}"


@rule
def its_third_cell_imports_and_opens_the_mart_and_shows_nothing(notebook: dict) -> Iterator[str]:
    third = notebook["cells"][2]
    *imports, last = ast.parse(source(third)).body
    if not all(isinstance(each, ast.ImportFrom | ast.Import) for each in imports) or not imports:
        yield "does more than to import"
    if not re.match(r"mart = open_\w+\(", ast.unparse(last)):
        yield f"ends with {ast.unparse(last)}"
    if third["outputs"]:
        yield "shows something"


@rule
def it_imports_in_its_third_cell_only(notebook: dict) -> Iterator[str]:
    for text in python_cells(notebook)[2:]:
        if re.search(r"^\s*(import|from)\b", text, re.MULTILINE):
            yield text


@rule
def its_sections_follow_the_third_cell(notebook: dict) -> Iterator[str]:
    if not source(notebook["cells"][3]).startswith("## "):
        yield "the fourth cell opens no section"
    for cell in notebook["cells"][1:]:
        if cell["cell_type"] == "markdown" and re.search(r"^(#|###+) ", source(cell), re.MULTILINE):
            yield f"has a heading that is no section: {source(cell)}"


@rule
def its_last_cell_links_to_a_notebook(notebook: dict) -> Iterator[str]:
    links = re.findall(r"\]\(([\w.]+\.ipynb)\)", source(notebook["cells"][-1]))
    if notebook["cells"][-1]["cell_type"] != "markdown" or not links:
        yield "has no link to a notebook"
    for link in links:
        if not (CHECKOUT / "notebooks" / link).exists():
            yield f"links to {link}, which is not there"


@rule
def no_cell_is_empty(notebook: dict) -> Iterator[str]:
    for cell in notebook["cells"]:
        if not source(cell).removeprefix("%%sql").strip():
            yield f"cell {cell['id']}"


@rule
def no_python_cell_defines_loops_catches_or_prints(notebook: dict) -> Iterator[str]:
    for text in python_cells(notebook):
        for node in ast.walk(ast.parse(text)):
            is_print = isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "display")
            if isinstance(node, BANNED) or is_print:
                yield ast.unparse(node)


@rule
def no_cell_is_long(notebook: dict) -> Iterator[str]:
    for text in python_cells(notebook):
        if len(text.splitlines()) > LONGEST_PYTHON:
            yield text
    for sql in sql_cells(notebook):
        if sum(not line.startswith("    ('") for line in sql.splitlines()) > LONGEST_SQL:
            yield sql


@rule
def no_cell_shows_more_than_one_thing(notebook: dict) -> Iterator[str]:
    for cell in code(notebook):
        if len(cell["outputs"]) > 1:
            yield source(cell)


@rule
def a_chart_stands_alone_in_its_cell(notebook: dict) -> Iterator[str]:
    for text in python_cells(notebook):
        if re.search(r"^\w*\s*=?\s*draw_\w+\(", text, re.MULTILINE) and len(ast.parse(text).body) > 1:
            yield text


@rule
def no_path_in_it_is_absolute(notebook: dict) -> Iterator[str]:
    for text in map(source, code(notebook)):
        yield from (match[0] for match in ABSOLUTE.finditer(text))


@rule
def no_name_in_braces_is_filled_in(notebook: dict) -> Iterator[str]:
    """JupySQL would fill it in as text, and with nothing where it is unknown."""
    for text in map(source, code(notebook)):
        if "{{" in text:
            yield text


@rule
def no_cell_is_exempt_from_comparing(notebook: dict) -> Iterator[str]:
    for text in map(source, code(notebook)):
        if "NBVAL" in text.upper():
            yield text


def names(notebook: dict) -> list[str]:
    """The names that cells give to results, once for each cell that gives it."""
    found = re.findall(r"^%%sql +(\w+) *=?<<", "\n".join(map(source, code(notebook))), re.MULTILINE)
    for text in python_cells(notebook)[1:]:
        targets = [node.targets for node in ast.parse(text).body if isinstance(node, ast.Assign)]
        found += sorted({ast.unparse(target) for each in targets for target in each})
    return found


@rule
def its_results_are_named_for_what_they_hold(notebook: dict) -> Iterator[str]:
    yield from (name for name in names(notebook) if MEANINGLESS.fullmatch(name) or len(name) < 3)


@rule
def a_name_has_one_meaning(notebook: dict) -> Iterator[str]:
    yield from (name for name, times in Counter(names(notebook)).items() if times > 1)


@rule
def its_sql_is_lower_case(notebook: dict) -> Iterator[str]:
    for sql in sql_cells(notebook):
        yield from re.findall(r"\S*[A-Z]\S*", without_text(sql))


@rule
def its_joins_say_which_they_are(notebook: dict) -> Iterator[str]:
    for sql in sql_cells(notebook):
        yield from re.findall(
            r"(?:(?<!inner )(?<!left )(?<!cross )(?<!anti )(?<!semi ))\bjoin .*", without_text(sql)
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
            if statement.type == duckdb.StatementType.SELECT and not is_ordered(statement.query):
                yield statement.query


def is_ordered(select: str) -> bool:
    """Whether rows come in the order of columns that it names, or there is but one by its form."""
    ((text,),) = duckdb.execute("select json_serialize_sql(?)", [select]).fetchall()
    tree = json.loads(text)
    node = tree["statements"][0]["node"]
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
def it_was_run_in_order_and_nothing_failed(notebook: dict) -> Iterator[str]:
    counts = [cell["execution_count"] for cell in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"counts are {counts}"
    for cell in code(notebook):
        for output in cell["outputs"]:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                yield source(cell)


@rule
def it_shows_something(notebook: dict) -> Iterator[str]:
    if not any(cell["outputs"] for cell in code(notebook)):
        yield "has no outputs"


@rule
def it_carries_no_noise_of_its_run(notebook: dict) -> Iterator[str]:
    if notebook["metadata"] != {"kernelspec": KERNEL}:
        yield f"metadata: {notebook['metadata']}"
    for cell in notebook["cells"]:
        if cell["metadata"].keys() - {"tags"}:
            yield f"cell {cell['id']}: {cell['metadata']}"
        for output in cell.get("outputs", []):
            yield from noise(output)


def noise(output: dict) -> Iterator[str]:
    data = output.get("data", {})
    of_pictures = set(output.get("metadata", {}).get("image/png", {}))
    is_known = output.get("metadata", {}).keys() <= {"image/png"} and of_pictures <= PICTURE_METADATA
    if not is_known or output["output_type"] == "display_data" or data.keys() - FORMS:
        yield f"{output['output_type']}: {[*data]}, {output.get('metadata')}"
    texts = [text for form, text in data.items() if form.startswith("text/")] + [output.get("text", "")]
    for found in (CLOCK, MACHINE):
        yield from (match[0] for text in texts if (match := found.search("".join(text))))


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_in_each_notebook(rule, name):
    notebook = json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text())
    assert list(rule(notebook)) == []


def prose(text: str) -> dict:
    return {"cell_type": "markdown", "id": "prose", "metadata": {}, "source": text}


def cell(text: str, shown: dict | None = None, **others: object) -> dict:
    outputs = [{"output_type": "execute_result", "metadata": {}, "data": shown}] if shown else []
    made = {"cell_type": "code", "id": "code", "metadata": {}, "source": text, "outputs": outputs}
    return made | {"execution_count": None} | others


def good(*more: dict) -> dict:
    """A notebook that keeps all rules, with `more` cells in its only section."""
    cells = [
        prose("# 05 · Try\n\n**Is it good?** It is.\n\n*Reads* the mart. *Writes* nothing."),
        cell('start_date: str = ""  # first day', metadata={"tags": ["parameters"]}),
        cell("from mart_helpers.notebook import open_mart\n\nmart = open_mart(database)"),
        prose("## How many?\n\nThat many."),
        cell("%%sql sales_count <<\nselect count(*) as sales\nfrom fact_sales", {"text/plain": "2000"}),
        *map(deepcopy, more),
        prose("Next: [03](03_export.ipynb)"),
    ]
    for number, each in enumerate((each for each in cells if each["cell_type"] == "code"), start=1):
        each["execution_count"] = number
    return {"cells": cells, "metadata": {"kernelspec": KERNEL}}


def changed(number: int, **parts: object) -> dict:
    """The good notebook with one cell otherwise."""
    notebook = good()
    notebook["cells"][number] |= parts
    return notebook


def sql(text: str) -> dict:
    return good(cell(f"%%sql\n{text}"))


def showing(data: dict, **others: object) -> dict:
    notebook = good(cell("1", data))
    notebook["cells"][5]["outputs"][0] |= others
    return notebook


STREAM = [{"output_type": "stream", "name": "stderr", "text": "careful"}]
BROKEN = [
    (its_first_cell_is_a_title_a_question_and_what_it_reads_and_writes, changed(0, source="## Try")),
    (its_first_cell_is_a_title_a_question_and_what_it_reads_and_writes, changed(0, cell_type="code")),
    (its_second_cell_holds_the_parameters, changed(1, metadata={})),
    (its_second_cell_holds_the_parameters, changed(1, source="top_n = 10")),
    (its_second_cell_holds_the_parameters, changed(1, source="top_n: int = 10")),
    (only_its_second_cell_has_a_tag, changed(4, metadata={"tags": ["raises-exception"]})),
    (its_third_cell_imports_and_opens_the_mart_and_shows_nothing, changed(2, source="import duckdb")),
    (
        its_third_cell_imports_and_opens_the_mart_and_shows_nothing,
        changed(2, source="mart = open_mart(1)"),
    ),
    (its_third_cell_imports_and_opens_the_mart_and_shows_nothing, changed(2, outputs=STREAM)),
    (it_imports_in_its_third_cell_only, good(cell("import pandas as pd"))),
    (its_sections_follow_the_third_cell, changed(3, source="How many?")),
    (its_sections_follow_the_third_cell, good(prose("# Another title"))),
    (its_last_cell_links_to_a_notebook, changed(5, source="That was it.")),
    (its_last_cell_links_to_a_notebook, changed(5, source="[next](06_none.ipynb)")),
    (no_cell_is_empty, good(cell("%%sql\n"))),
    (no_cell_is_empty, good(prose(" "))),
    *[
        (no_python_cell_defines_loops_catches_or_prints, good(cell(text)))
        for text in (
            "def f():\n    pass",
            "class C:\n    pass",
            "try:\n    pass\nexcept OSError:\n    pass",
            "for table in ():\n    pass",
            "while False:\n    pass",
            "with mart:\n    pass",
            "print('done')",
            "if True:\n    print('done')",
        )
    ],
    (no_cell_is_long, good(cell("a_sum = 0\n" * 13))),
    (no_cell_is_long, sql("select\n" + "    sale_id,\n" * 41)),
    (no_cell_shows_more_than_one_thing, changed(4, outputs=STREAM * 2)),
    (a_chart_stands_alone_in_its_cell, good(cell("months = monthly(mart)\ndraw_line(months)"))),
    (no_path_in_it_is_absolute, good(cell('inputs = "/home/me/inputs"'))),
    (no_path_in_it_is_absolute, good(cell('inputs = "~/inputs"'))),
    (no_path_in_it_is_absolute, good(cell('inputs = r"C:\\inputs"'))),
    (no_path_in_it_is_absolute, sql("from '/data/sales.csv'")),
    (no_name_in_braces_is_filled_in, sql("select {{column}} from fact_sales")),
    (no_cell_is_exempt_from_comparing, good(cell("# NBVAL_IGNORE_OUTPUT\nmart"))),
    (
        its_results_are_named_for_what_they_hold,
        good(cell("%%sql df <<\nselect count(*) from fact_sales")),
    ),
    (its_results_are_named_for_what_they_hold, good(cell("result2 = mart"))),
    (its_results_are_named_for_what_they_hold, good(cell("tmp = mart"))),
    (a_name_has_one_meaning, good(cell("sales_count = 7"))),
    (its_sql_is_lower_case, sql("SELECT count(*) from fact_sales")),
    (its_sql_is_lower_case, sql("select count(*) from Fact_Sales")),
    (
        its_joins_say_which_they_are,
        sql("select count(*) from fact_sales join dim_date using (date_key)"),
    ),
    (what_it_makes_says_its_grain_first, sql("create table dim_store as\nselect 1 as store_key")),
    (
        what_it_makes_says_its_grain_first,
        sql("-- stores\ncreate temp view stores as\nselect 1 as store_key"),
    ),
    *[
        (what_it_shows_is_ordered_by_columns, sql(text))
        for text in (
            "from fact_sales",
            "select sale_id from fact_sales",
            "select sale_id from fact_sales limit 10",
            "select sale_id from fact_sales order by 1",
            "select sale_id from fact_sales order by all",
            "select product_key, count(*) as sales from fact_sales group by product_key",
            "select product_key, count(*) as sales from fact_sales group by all",
            "select sum(quantity) over () as units from fact_sales",
            "select (select count(*) from dim_date) as days, sale_id from fact_sales",
            "with sales as (from fact_sales order by sale_id) select sale_id from sales",
            "select count(*) as rows from dim_date union all select count(*) from dim_product",
        )
    ],
    (it_was_run_in_order_and_nothing_failed, changed(4, execution_count=None)),
    (it_was_run_in_order_and_nothing_failed, changed(4, execution_count=7)),
    (it_was_run_in_order_and_nothing_failed, changed(4, outputs=STREAM)),
    (it_was_run_in_order_and_nothing_failed, changed(4, outputs=[{"output_type": "error"}])),
    (it_shows_something, changed(4, outputs=[])),
    (it_carries_no_noise_of_its_run, good() | {"metadata": {"language_info": {}, "kernelspec": KERNEL}}),
    (it_carries_no_noise_of_its_run, good() | {"metadata": {"kernelspec": KERNEL, "widgets": {}}}),
    (it_carries_no_noise_of_its_run, good() | {"metadata": {"kernelspec": KERNEL | {"name": "mine"}}}),
    (it_carries_no_noise_of_its_run, changed(4, metadata={"execution": {"iopub.execute_input": "now"}})),
    (it_carries_no_noise_of_its_run, changed(4, metadata={"papermill": {"duration": 1}})),
    (it_carries_no_noise_of_its_run, showing({"application/vnd.jupyter.widget-view+json": {}})),
    (
        it_carries_no_noise_of_its_run,
        showing({"text/plain": "1"}, metadata={"needs_background": "light"}),
    ),
    (it_carries_no_noise_of_its_run, showing({"text/plain": "built at 2026-01-02 03:04:05"})),
    (it_carries_no_noise_of_its_run, showing({"text/html": ["<td>2026-01-02T03:04</td>"]})),
    (it_carries_no_noise_of_its_run, showing({"text/plain": "PosixPath('/home/me/mart.duckdb')"})),
    (it_carries_no_noise_of_its_run, showing({"text/plain": "<object at 0x7f3d8ff1a640>"})),
]


@pytest.mark.parametrize(("rule", "notebook"), BROKEN, ids=lambda each: getattr(each, "__name__", ""))
def test_the_rule_sees_a_notebook_that_breaks_it(rule, notebook):
    assert list(rule(notebook))


def test_each_rule_has_been_broken():
    assert {rule for rule, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_lets_a_good_notebook_pass(rule):
    ordered = "select sale_id from fact_sales order by sale_id"
    assert list(rule(good(cell(f"%%sql\n{ordered}"), cell("draw_line(mart)", {"image/png": "a"})))) == []
