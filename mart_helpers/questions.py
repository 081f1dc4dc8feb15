"""The answers of a notebook as tables: for another notebook that passes them on."""

from collections import ChainMap

from mart_helpers.parameters import notebook_cells, notebook_parameters, notebook_path
from mart_helpers.session import Session

_MAGIC = "%%sql"


def answer_questions(mart: Session, notebook: str, **values: object) -> list[str]:
    """Run the `%%sql` cells of `notebooks/<notebook>.ipynb` in this session; the names of its answers.

    A cell that names its rows, `%%sql monthly_revenue =<<`, gives a temporary table of that name; views
    and variables that others make are there afterwards as well. `values` stand for parameters of that
    notebook, whose other parameters are as its parameters cell says. Raises UsageError for a
    notebook that cannot be read, QueryError where a statement fails.
    """
    path = notebook_path(notebook)
    defaults = {each.name: each.default for each in notebook_parameters(path)}
    asked = Session(mart.connection, mart.database, ChainMap(values, defaults))
    names = []
    for cell in notebook_cells(path):
        head, _, sql = "".join(cell["source"]).partition("\n")
        if cell["cell_type"] != "code" or not head.startswith(_MAGIC):
            continue
        name = head.removeprefix(_MAGIC).strip(" =<")
        if name:
            names.append(name)
            asked.execute(f"create or replace temp table {name} as {sql}")
        else:
            asked.execute(sql)
    return names
