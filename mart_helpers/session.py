"""One DuckDB session that JupySQL's `%%sql` cells and Python cells share.

JupySQL asks a connection for a new cursor at every statement, which in DuckDB is a new session, and
runs a `select` twice to make a frame of it. Handed a `Session` instead of the connection, it keeps to
one session and runs each statement once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from mart_helpers.errors import QueryError

_ANSWERS_WITHOUT_ROWS = (["Success"], ["Count"])


class Session:
    """A DuckDB connection as JupySQL sees it: every statement runs once, in the same session.

    `$name` in a statement is bound to the notebook's variable of that name, as a value, never as text.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        database: Path,
        variables: Mapping[str, Any],
    ) -> None:
        self.connection = connection
        self.database = database
        self._variables = variables

    def execute(self, sql: str) -> pd.DataFrame | None:
        """Run one statement; the rows it answers with, or None where it answers with none.

        Raises QueryError with DuckDB's own words, also when a `$name` is not defined.
        """
        try:
            return self._run(sql)
        except duckdb.Error as error:
            raise QueryError(_in_words(error)) from error

    def cursor(self) -> "Cursor":
        """A cursor on this same session."""
        return Cursor(self.execute)

    def df(self) -> pd.DataFrame:
        """Unused; JupySQL takes an object with `df` and `pl` for a native DuckDB connection."""
        raise NotImplementedError

    pl = df

    def commit(self) -> None:
        """Nothing: DuckDB commits each statement, or the cell says `commit`."""

    def close(self) -> None:
        """Close the connection, and with it the file."""
        self.connection.close()

    def _run(self, sql: str) -> pd.DataFrame | None:
        statement = self.connection.extract_statements(sql)[0]
        values = {name: self._value(name) for name in statement.named_parameters}
        self.connection.execute(statement, values or None)
        columns = [column[0] for column in self.connection.description or []]
        has_rows = columns and (
            columns not in _ANSWERS_WITHOUT_ROWS or statement.type == duckdb.StatementType.SELECT
        )
        return self._frame() if has_rows else None

    def _frame(self) -> pd.DataFrame:
        """The rows; sums of whole numbers (HUGEINT in DuckDB) as whole numbers, not as floats."""
        sums = [name for name, kind, *_ in self.connection.description if str(kind) == "HUGEINT"]
        return self.connection.df().astype({name: "Int64" for name in sums})

    def _value(self, name: str) -> Any:
        if name not in self._variables:
            raise QueryError(
                f"${name} is not defined in this notebook. "
                f"Run the cell that sets {name} first, or mend the name."
            )
        return self._variables[name]


class Cursor:
    """The rows of one statement, handed to JupySQL as a frame."""

    def __init__(self, run: Callable[[str], pd.DataFrame | None]) -> None:
        self._run = run
        self._sql: str | None = None
        self._frame: pd.DataFrame | None = None

    @property
    def description(self) -> list[tuple[str]]:
        """One tuple a column, its name first."""
        return [] if self._frame is None else [(name,) for name in self._frame.columns]

    def execute(self, sql: str) -> None:
        """Run `sql`, unless it is the statement whose rows are held already.

        JupySQL sends each `select` a second time to turn it into a frame, and first of all a setting
        that makes Python variables look like tables; neither is wanted.
        """
        if sql.startswith("SET python_scan_all_frames") or sql == self._sql:
            return
        self._frame = self._run(sql)
        self._sql = sql

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        """No rows: JupySQL's own table is not used, the frame is."""
        return []

    def fetchall(self) -> list[tuple[Any, ...]]:
        """No rows: JupySQL's own table is not used, the frame is."""
        return []

    def df(self) -> pd.DataFrame | None:
        """The rows, or None after a statement without rows."""
        return self._frame

    def close(self) -> None:
        """Let the rows go."""
        self._frame = None


def attach_sql_magic(session: Session, shell: InteractiveShell) -> None:
    """Make `session` the one connection of the `%%sql` cells in `shell`; earlier ones are closed."""
    with capture_output():
        shell.run_line_magic("load_ext", "sql")
    from sql.connection import ConnectionManager

    magic = shell.magics_manager.registry["SqlMagic"]
    magic.autopandas = True
    magic.displaycon = False
    magic.feedback = 0
    magic.short_errors = False
    ConnectionManager.connections = {}
    ConnectionManager.set(session, displaycon=False, config=magic)


def _in_words(error: duckdb.Error) -> str:
    """DuckDB's message without its class, by which JupySQL would know it and add advice of its own."""
    message = str(error)
    for kind in ("Catalog Error: ", "Parser Error: ", "Binder Error: ", "Invalid Input Error: "):
        message = message.removeprefix(kind)
    return message.strip()
