"""The answers of a notebook as tables: for another notebook that passes them on."""

from collections import ChainMap

from mart_helpers.parameters import notebook_cells, notebook_parameters, notebook_path
from mart_helpers.session import Session

_MAGIC = "%%sql"


def answer_questions(mart: Session, notebook: str, tables: str = "", **values: object) -> list[str]:
    """Run the `%%sql` cells of `notebooks/<notebook>.ipynb` in this session; the names of its answers.

    A cell that names its rows, `%%sql monthly_revenue =<<`, gives a temporary table of that name, if it
    is among `tables`, names with commas between them, or if those are empty. Views and variables that
    other cells make are there afterwards as well; what they only show is not asked for. `values` stand
    for parameters of that notebook, whose other parameters are as its parameters cell says. Raises
    UsageError for a notebook that cannot be read, QueryError where a statement fails.
    """
    path = notebook_path(notebook)
    defaults = {each.name: each.default for each in notebook_parameters(path)}
    asked = Session(mart.connection, mart.database, ChainMap(values, defaults))
    wanted = {name.strip().lower() for name in tables.split(",")} if tables else None
    names = []
    for cell in notebook_cells(path):
        head, _, sql = "".join(cell["source"]).partition("\n")
        if cell["cell_type"] != "code" or not head.startswith(_MAGIC):
            continue
        name = head.removeprefix(_MAGIC).strip(" =<")
        if not name:
            asked.execute(sql, shows=False)
            continue
        names.append(name)
        if wanted is None or name.lower() in wanted:
            asked.execute(f"create or replace temp table {name} as {sql}")
    return names
