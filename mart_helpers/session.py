"""One DuckDB session that JupySQL's `%%sql` cells and Python cells share, and its error messages.

JupySQL asks a connection for a new cursor at every statement, which in DuckDB is a new session, and
runs each `select` twice to make a frame of it. If it gets a `Session` instead of the connection, it
stays in one session and runs each statement once.
"""

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from mart_helpers.errors import QueryError, StateError, Unavailable
from mart_helpers.lake import reach_lake
from mart_helpers.parameters import shown
from mart_helpers.texts import literal, quoted

if TYPE_CHECKING:
    import pandas as pd
    from filelock import BaseFileLock

BUILD_LOG = "build_log"  # a mart has this table, with the history of its builds

_CLASS = re.compile(r"^(Catalog|Parser|Binder|Invalid Input|Permission) Error: ")

# Patterns of DuckDB's errors in a statement, with our advice; the first match counts.
_HINTS = {
    "Corrupt database file|Could not read enough bytes": "The mart is damaged. Go back to the previous "
    "one with `mart rollback`; or move it away and run 01_build.",
    "Could not write|No space left": "Free disk space, then run the notebook from its top.",
    "Out of Memory": "This needs more than memory and disk can hold. Give a build more with "
    "memory_limit; or close other programs, and free disk space.",
    "No files found that match the pattern .*/build_": "The facts of this mart are missing. Put its "
    "lake next to it, as a folder or a link `<database>.lake`.",
    "file system operations are disabled": "A notebook can use only files below the folders "
    "that it names when it opens the mart.",
    "external extensions is disabled": "A notebook that reads the mart cannot load extensions.",
    "configuration has been locked": "A notebook that reads the mart cannot change settings.",
    "attached in read-only mode": "The mart is read-only here. For your own tables and views, use "
    "`create temp table` and `create temp view`. To build again, run 01_build from its top.",
    "already exists": "Has this cell run before? To run it again, run the notebook from its top.",
    "^(Catalog|Binder) Error": "Correct the name, or run the notebook from its top. If an older "
    "01_build made this mart, build it again.",
}

# Patterns of DuckDB's errors for a file that it cannot open, with our advice; the first match counts.
_REFUSALS = (
    (
        "has been locked|different configuration than existing connections",
        Unavailable,
        "is open already in this notebook or program. Close that connection first, e.g. `mart.close()`.",
    ),
    (
        "Could not set lock on file|File is already open",  # on Linux and macOS, on Windows
        Unavailable,
        "is open for writing in another program. Close it there, or open it read-only.",
    ),
    (
        "Cannot open file|Out of Memory Error",
        Unavailable,
        "cannot be opened now. Make it readable, or close other programs, then try again.",
    ),
    (
        "No files found that match the pattern .*/build_",
        Unavailable,
        "cannot be read without its facts. Put its lake next to it, as `<database>.lake`.",
    ),
    (
        "version number",
        StateError,
        f"was written by another version of DuckDB than this one, {duckdb.__version__}. Read it with "
        "that version; or move it away and run 01_build.",
    ),
    (
        "",
        StateError,
        "cannot be opened as a mart. Go back to the previous one with `mart rollback` and the same "
        "--database; or move it away and run 01_build, or name another file with database.",
    ),
)


@dataclass(eq=False)
class Session:
    """A DuckDB connection for JupySQL: every statement runs once, in the same session.

    `$name` in a statement is bound to the notebook's variable of that name, as a value, never as text.
    `opened` identifies the file that it opened. A session that builds writes to `candidate`, holds a
    `lock`, publishes its facts in a `lake` if there is one, and reads the `raw_files` that a statement
    names; a `cluster`, if there is one, loads and makes facts, and answers cells and checks. A session
    that reads the published mart has none of these. `statements` are those that the cells have run so
    far.
    """

    connection: duckdb.DuckDBPyConnection
    database: Path
    variables: Mapping[str, Any]
    opened: tuple[int, int] | None = None
    candidate: Path | None = None
    lock: "BaseFileLock | None" = None
    lake: Path | None = None
    raw_files: Any = None
    cluster: Any = None
    statements: list[str] = field(default_factory=list)

    def execute(self, sql: str, *, shows: bool = True) -> "pd.DataFrame | None":
        """Run the statements in turn, and return the rows of the last one, or None if it has none.

        Unless `shows`, statements that only select are skipped. Raises QueryError with DuckDB's message,
        also if a `$name` is not defined.
        """
        answer = None
        with in_words():
            for statement in self.connection.extract_statements(sql):
                if shows or statement.type != duckdb.StatementType.SELECT:
                    answer = self._answer(statement)
        return answer

    @property
    def local(self) -> duckdb.DuckDBPyConnection:
        """DuckDB itself, even if a cluster answers: for rows that go to files of this machine anyway."""
        return getattr(self.connection, "duckdb", self.connection)

    def cursor(self) -> "Cursor":
        """A cursor on this same session."""
        return Cursor(self)

    def df(self) -> "pd.DataFrame":
        """Unused; JupySQL takes an object with `df` and `pl` for a native DuckDB connection."""
        raise NotImplementedError

    pl = df

    def commit(self) -> None:
        """Do nothing: DuckDB commits each statement, or the cell says `commit`."""

    def close(self) -> None:
        """Close the connection and its file, leave the cluster, and release the lock."""
        if self.cluster:
            self.cluster.leave()
        self.connection.close()
        self.release()

    def end_build(self) -> None:
        """Release the lock for good, because the candidate is published or never will be."""
        self.release()
        if self.cluster:
            self.cluster.leave()
        self.candidate = self.lock = self.cluster = None

    def release(self) -> None:
        """Release the lock, if it is held, so that another build can begin.

        The candidate is first written to its file, so that others can open it: DuckDB cannot replay the
        log of a candidate after its process is killed.
        """
        if self.lock and self.lock.is_locked:
            with suppress(duckdb.Error):
                self.connection.execute("checkpoint")
            self.lock.release()

    def _answer(self, statement: duckdb.Statement) -> "pd.DataFrame | None":
        """Run the statement; in its rows, sums of whole numbers (HUGEINT in DuckDB) stay integers."""
        for name in sorted(statement.named_parameters - self.variables.keys()):
            raise QueryError(
                f"${name} is not defined in this notebook. "
                f"Run the cell that sets {name} first, or correct the name."
            )
        self.statements.append(statement.query)
        if self.raw_files:
            self.raw_files.read_named(statement.query)
        values = {name: self.variables[name] for name in statement.named_parameters}
        (self.cluster or self.connection).execute(statement, values or None)
        kinds = {name: str(kind) for name, kind, *_ in self.connection.description or []}
        is_select = statement.type == duckdb.StatementType.SELECT
        if not is_select and list(kinds) in ([], ["Success"], ["Count"]):
            return None
        sums = {name: "Int64" for name, kind in kinds.items() if kind == "HUGEINT"}
        rows = self.connection.df()
        return rows.astype(sums) if sums else rows


class Cursor:
    """The rows of one statement, passed to JupySQL as a frame rather than one of its own tables."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sql: str | None = None
        self._frame: pd.DataFrame | None = None

    @property
    def description(self) -> list[tuple[str]]:
        """One tuple per column, its name first."""
        return [] if self._frame is None else [(name,) for name in self._frame.columns]

    def execute(self, sql: str) -> None:
        """Run `sql`, unless this cursor already has its rows.

        JupySQL sends each `select` a second time to turn it into a frame, and before that a setting
        that makes Python variables look like tables. Both are ignored.
        """
        if not sql.startswith("SET python_scan_all_frames") and sql != self._sql:
            self._frame, self._sql = self._session.execute(sql), sql

    def fetchmany(self, size: int = 0) -> list[tuple[Any, ...]]:
        """No rows, since they come as a frame."""
        return []

    fetchall = fetchmany

    def df(self) -> "pd.DataFrame | None":
        """The rows, or None after a statement without rows."""
        return self._frame

    def close(self) -> None:
        """Drop the rows."""
        self._frame = None


def attach_sql_magic(session: Session, shell: InteractiveShell) -> None:
    """Make `session` the only connection of the `%%sql` cells in `shell`; close earlier ones."""
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


@contextmanager
def in_words() -> Iterator[None]:
    """Turn DuckDB's errors into QueryError: DuckDB's message, and our advice if there is any."""
    try:
        yield
    except duckdb.Error as error:
        said, _, _ = str(error).partition("\n\nPossible solutions")  # those are settings of ours
        hint = next((f"\n{hint}" for words, hint in _HINTS.items() if re.search(words, said)), "")
        # without the class name: JupySQL would recognise it and add its own advice
        raise QueryError(_CLASS.sub("", said).strip() + hint) from error


def connect(path: Path | str, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection that never takes a Python variable for a table and draws no progress bar."""
    connection = duckdb.connect(str(path), read_only=read_only)
    connection.execute("set python_enable_replacements = false")
    with suppress(duckdb.Error):  # a kernel without ipywidgets has no progress bar
        connection.execute("set enable_progress_bar = false")
    return connection


def open_published(database: Path, writable: Sequence[Path] = ()) -> duckdb.DuckDBPyConnection:
    """A connection that reads the mart at `database` and otherwise only files below `writable`.

    It loads no extension and its settings are locked. Large sorts and joins may use the folder
    `<database>.tmp`. Raises StateError if there is no mart to read.
    """
    if not database.exists():
        raise StateError(f"There is no mart at {shown(database)} yet. Run 01_build, or `mart build`.")
    try:
        connection = connect(database, read_only=True)
        confine(connection, [*writable, *reach_lake(connection, database)])
        is_one = has_table(connection, current_database(connection), BUILD_LOG)
    except duckdb.Error as error:
        raise unreadable(database, error) from error
    if not is_one:
        connection.close()
        raise no_mart(database)
    return connection


def is_mart(database: Path) -> bool:
    """Whether the file is a DuckDB database with a build log."""
    try:
        open_published(database).close()
    except StateError:
        return False
    return True


def identity(path: Path) -> tuple[int, int] | None:
    """What identifies the file at `path` even if another replaces it; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def last_build(connection: duckdb.DuckDBPyConnection, database: str) -> int:
    """The number of the build that made the mart attached as `database`; 0 if its log is empty."""
    if not has_table(connection, database, BUILD_LOG):
        return 0
    newest = f"select coalesce(max(build_id), 0) from {quoted(database)}.main.{BUILD_LOG}"
    return connection.execute(newest).fetchone()[0]


def has_table(connection: duckdb.DuckDBPyConnection, database: str, table: str) -> bool:
    """Whether the attached `database` has the table, or a view in its place, in its main schema.

    This asks the catalog, although trying a query would be quicker: a failing statement would abort the
    transaction of a cell, and a relation cannot be made until a cell's own result is fetched.
    """
    found = connection.execute(
        "select count(*) from ("
        "select database_name, schema_name, table_name from duckdb_tables() "
        "union all select database_name, schema_name, view_name from duckdb_views()) "
        "where database_name = ? and schema_name = 'main' and table_name = ?",
        [database, table],
    )
    return found.fetchall() != [(0,)]


def current_database(connection: duckdb.DuckDBPyConnection) -> str:
    """The name of the connection's own database."""
    return connection.execute("select current_database()").fetchone()[0]


def no_mart(database: Path) -> StateError:
    """The error for a DuckDB file that is not a mart."""
    return StateError(
        f"{shown(database)} is a DuckDB file but not a mart: it has no {BUILD_LOG}. Move it away, or "
        "name another file with database."
    )


def unreadable(database: Path, error: duckdb.Error) -> StateError:
    """The error for a file that DuckDB cannot open, with what to do about it."""
    kind, advice = next(found for words, *found in _REFUSALS if re.search(words, str(error)))
    return kind(f"{shown(database)} {advice} DuckDB says: {error}")


def rows_folder(candidate: Path) -> Path:
    """The folder for the records of a CSV file while a build reads them."""
    return candidate.with_name(f"{candidate.name}.rows")


def confine(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path] = ()) -> None:
    """Limit the connection for good to the files that it has open and those below `folders`.

    The views of a mart, whoever made it, can then neither read nor write other files.
    """
    # DuckDB treats a file name as a pattern, and compares the pattern itself with these
    names = [name for path in map(str, folders) for name in (path, glob.escape(path))]
    directories = ", ".join(literal(f"{name}/") for name in names)
    for setting in (
        f"allowed_directories = [{directories}]",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "enable_external_access = false",
        # exports set the number of threads, which gives access to nothing
        "allowed_configs = ['threads', 'async_threads']",
        "lock_configuration = true",
    ):
        connection.execute(f"set {setting}")
