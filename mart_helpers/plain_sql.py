"""`%%sql` as our notebooks use it, without JupySQL.

To import JupySQL takes half a second, and to pass a statement through it some hundredths. A headless
run of a notebook that asks nothing else of it is spared both. In Jupyter, and wherever a cell has more
to say than statements and a name for their rows, it is JupySQL that answers.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from IPython.core.magic import Magics, cell_magic, magics_class

from mart_helpers.frames import Rows
from mart_helpers.session import Session

if TYPE_CHECKING:
    import pandas as pd

# Not what JupySQL would take for a template, a name, a connection or a transaction.
_PLAIN_CELL = re.compile(
    r"%%sql(?: (?P<name>[a-z_]\w*) =?<<)?\n"
    r"(?:\s|--.*\n)*(?:alter|comment|create|delete|drop|from|insert|select|set|update|with)\b"
    r"(?:(?!<<|\{).)*",
    re.IGNORECASE | re.DOTALL,
)

_ASKS_FOR_MORE = re.compile(r"%\w*sql|%(load|reload)_ext|%config|^\s*(from|import) sql\b", re.I | re.M)


def is_plain(cells: Iterable[str]) -> bool:
    """Whether these cells of a notebook do without JupySQL."""
    return all(_PLAIN_CELL.fullmatch(cell) or not _ASKS_FOR_MORE.search(cell) for cell in cells)


@magics_class
class PlainSql(Magics):
    """The magic of the `%%sql` cells, which asks `session`."""

    session: Session

    @cell_magic
    def sql(self, line: str, cell: str) -> "Rows | pd.DataFrame | None":
        """Run the statements of the cell; the rows of the last, unless `name <<` keeps them unshown.

        What is kept is a pandas frame, as JupySQL would make it.
        """
        name = line.rstrip(" =<")
        if not name:
            return self.session.rows(cell)
        frame = self.shell.user_ns[name] = self.session.execute(cell)
        return frame if "=" in line else None
