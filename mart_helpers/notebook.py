"""The set-up cell of each notebook: a session for its `%%sql` cells, its parameters checked."""

import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell

from mart_helpers import publishing
from mart_helpers.parameters import check_cell
from mart_helpers.project import resolve
from mart_helpers.session import Session, attach_sql_magic


def open_candidate(database: str) -> Session:
    """A session on a new candidate beside the mart `database`, for `01_build`.

    Raises UsageError where the parameters cell holds a wrong value, StateError where the candidate
    cannot be made.
    """
    shell = _prepared_shell()
    path = resolve(database)
    return _attached(Session(publishing.create_candidate(path), path, shell.user_ns), shell)


def open_mart(database: str) -> Session:
    """A read-only session on the published mart `database`.

    Raises UsageError where the parameters cell holds a wrong value, StateError where there is no mart.
    """
    shell = _prepared_shell()
    path = resolve(database)
    return _attached(Session(publishing.open_published(path), path, shell.user_ns), shell)


def _prepared_shell() -> InteractiveShell:
    shell = get_ipython()
    check_cell(shell.user_ns["In"], shell.user_ns)
    earlier = shell.user_ns.get("mart")
    if isinstance(earlier, Session):
        earlier.close()
    pd.set_option("display.float_format", "{:,.2f}".format)
    pd.set_option("display.max_columns", 30)
    pd.set_option("display.max_rows", 60)
    pd.set_option("display.max_colwidth", 100)
    pd.set_option("display.width", 120)
    return shell


def _attached(session: Session, shell: InteractiveShell) -> Session:
    attach_sql_magic(session, shell)
    return session
