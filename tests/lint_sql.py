"""sqlfluff over the `%%sql` cells of the notebooks, with the rules of pyproject.toml.

python tests/lint_sql.py [NOTEBOOK.ipynb …]
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from sqlfluff.core import FluffConfig, Linter

CHECKOUT = Path(__file__).resolve().parents[1]
# sqlfluff parses `pivot` and `unpivot` in some places only; the rest of such a cell is checked.
UNREAD = re.compile(r"^(un)?pivot\b", re.MULTILINE)


def sql_cells(notebook: dict) -> Iterator[tuple[str, str]]:
    """The id and the statements of each `%%sql` cell."""
    for cell in notebook["cells"]:
        magic, _, sql = "".join(cell["source"]).partition("\n")
        if cell["cell_type"] == "code" and magic.startswith("%%sql"):
            yield cell["id"], sql


def violations(notebook: dict) -> list[str]:
    """What sqlfluff finds: the cell, the line in its statements, the rule and what it says."""
    linter = Linter(config=FluffConfig.from_path(str(CHECKOUT)))
    return [
        f"cell {cell}, line {found.line_no}: {found.rule_code()} {found.desc()}"
        for cell, sql in sql_cells(notebook)
        # a variable of the notebook is a value
        for found in linter.lint_string(re.sub(r"\$(\w+)", r"'\1'", sql) + "\n").get_violations()
        if not (found.rule_code() == "PRS" and UNREAD.search(sql))
    ]


def main(paths: list[str]) -> int:
    status = 0
    for path in map(Path, paths or sorted((CHECKOUT / "notebooks").glob("*.ipynb"))):
        for violation in violations(json.loads(path.read_text(encoding="utf-8"))):
            print(f"{path.name}: {violation}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
