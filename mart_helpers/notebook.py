"""The set-up cell of each notebook: a session for its `%%sql` cells, its parameters checked."""

import os
from collections.abc import Iterable
from pathlib import Path

from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

from mart_helpers.errors import UsageError
from mart_helpers.frames import show_frames
from mart_helpers.opening import identity, open_published
from mart_helpers.parameters import check_cell
from mart_helpers.project import resolve, shown
from mart_helpers.publishing import create_candidate
from mart_helpers.recipes import recipe_of_run
from mart_helpers.session import Session, attach_sql_magic

_SESSION = "mart_session"  # of the shell, so that no cell can lose it
_MISREAD = {"?", "\\"} - {os.sep}  # for DuckDB a path ends or branches here


def open_candidate(database: str, memory_limit: str = "70%") -> Session:
    """A session on a new candidate beside the mart `database`, for `01_build`.

    No other build can begin until it is published, or until a cell fails. Raises UsageError where the
    parameters cell holds a wrong value, StateError where the candidate cannot be made.
    """
    shell = _prepared_shell()
    session = create_candidate(_real(database), shell.user_ns, memory_limit)
    session.recipe = lambda: recipe_of_run(shell.history_manager.input_hist_raw, shell.user_ns)
    return _attached(session, shell)


def open_mart(database: str, writes_to: Iterable[str | Path] = ()) -> Session:
    """A read-only session on the published mart `database`.

    Its statements reach no files but those below the folders `writes_to`. When the mart has been rebuilt
    since, the notebook says so, once. Raises UsageError where the parameters cell holds a wrong value,
    StateError where there is no mart.
    """
    shell = _prepared_shell()
    path = _real(database)
    opened = identity(path)
    connection = open_published(path, [resolve(folder) for folder in writes_to])
    return _attached(Session(connection, path, shell.user_ns, opened=opened), shell)


def _real(database: str) -> Path:
    """The file itself, so that a link to a mart stays one when the mart is replaced.

    Raises UsageError for a folder, and for a path that DuckDB would take for another.
    """
    path = resolve(database).resolve()
    if path.is_dir():
        raise UsageError(f"database: {shown(path)} is a folder. Name a file in it.")
    for character in _MISREAD & set(str(path)):
        raise UsageError(f"database: DuckDB misreads the {character} in {shown(path)}. Do without it.")
    return path


def _prepared_shell() -> InteractiveShell:
    shell = get_ipython()
    check_cell(shell.user_ns["In"], shell.user_ns)
    if earlier := getattr(shell, _SESSION, None):
        earlier.close()
    show_frames(shell)
    return shell


def _attached(session: Session, shell: InteractiveShell) -> Session:
    attach_sql_magic(session, shell)
    setattr(shell, _SESSION, session)
    shell.events.register("post_run_cell", _after_cell)
    return session


def _after_cell(result: ExecutionResult) -> None:
    """After a failed cell let other builds begin; tell a reader that the mart is another one now."""
    session = getattr(get_ipython(), _SESSION)
    if not result.success:
        session.release()
    elif not session.lock and session.opened != identity(session.database):
        session.opened = identity(session.database)
        print(
            "The mart has been rebuilt since this notebook opened it: what you see is of the build "
            "before. To read the new one, run the set-up cell again, and the cells below it."
        )
