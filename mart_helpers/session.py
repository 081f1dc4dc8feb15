"""One DuckDB session that JupySQL's `%%sql` cells and Python cells share, and what it says of errors.

JupySQL asks a connection for a new cursor at every statement, which in DuckDB is a new session, and
runs a `select` twice to make a frame of it. Handed a `Session` instead of the connection, it keeps to
one session and runs each statement once.
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

# What DuckDB says of a statement, and the way out; the first that fits.
_HINTS = {
    "Corrupt database file|Could not read enough bytes": "The mart is damaged. Take back the one before "
    "it with `mart rollback`; or move it away and run 01_build.",
    "Could not write|No space left": "Free disk space, then run the notebook from its top.",
    "Out of Memory": "That is more than fits in memory and on the disk. Give a build more with "
    "memory_limit; or close other programs, and free disk space.",
    "No files found that match the pattern .*/build_": "The facts of this mart are missing. Put its "
    "lake beside it, as a folder or a link `<database>.lake`.",
    "file system operations are disabled": "A notebook reaches no files but those below the folders "
    "that it names when it opens the mart.",
    "external extensions is disabled": "A notebook that reads the mart loads no extensions.",
    "configuration has been locked": "A notebook that reads the mart keeps its settings.",
    "attached in read-only mode": "The mart is only read here. For tables and views of your own: "
    "`create temp table`, `create temp view`. To build again, run 01_build from its top.",
    "already exists": "Has this cell run before? To run it again, run the notebook from its top.",
    "^(Catalog|Binder) Error": "Mend the name, or run the notebook from its top. If an older 01_build "
    "made this mart, build it again.",
}

# What DuckDB says of a file that it cannot open, and what is to be done; the first that fits.
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
        "cannot be read without its facts. Put its lake beside it, as `<database>.lake`.",
    ),
    (
        "version number",
        StateError,
        f"was written by another version of DuckDB than this one, {duckdb.__version__}. Read it with "
        "that one; or move it away and run 01_build.",
    ),
    (
        "",
        StateError,
        "cannot be opened as a mart. Take back the one before it with `mart rollback` and the same "
        "--database; or move it away and run 01_build, or name another file with database.",
    ),
)


@dataclass(eq=False)
class Session:
    """A DuckDB connection as JupySQL sees it: every statement runs once, in the same session.

    `$name` in a statement is bound to the notebook's variable of that name, as a value, never as text.
    `opened` is the identity of the file behind it. A session that builds writes to `candidate`, holds a
    `lock`, publishes its facts in a `lake` if there is one, and reads the `raw_files` that a statement
    names; one that reads the published mart has none. Its `statements` are those that the cells have run
    so far.
    """

    connection: duckdb.DuckDBPyConnection
    database: Path
    variables: Mapping[str, Any]
    opened: tuple[int, int] | None = None
    candidate: Path | None = None
    lock: "BaseFileLock | None" = None
    lake: Path | None = None
    raw_files: Any = None
    statements: list[str] = field(default_factory=list)

    def execute(self, sql: str, *, shows: bool = True) -> "pd.DataFrame | None":
        """Run the statements in turn; the rows that the last answers with, None where it has none.

        Where nothing is shown, those that only select are passed over. Raises QueryError with DuckDB's
        own words, also when a `$name` is not defined.
        """
        answer = None
        with in_words():
            for statement in self.connection.extract_statements(sql):
                if shows or statement.type != duckdb.StatementType.SELECT:
                    answer = self._answer(statement)
        return answer

    def cursor(self) -> "Cursor":
        """A cursor on this same session."""
        return Cursor(self)

    def df(self) -> "pd.DataFrame":
        """Unused; JupySQL takes an object with `df` and `pl` for a native DuckDB connection."""
        raise NotImplementedError

    pl = df

    def commit(self) -> None:
        """Nothing: DuckDB commits each statement, or the cell says `commit`."""

    def close(self) -> None:
        """Close the connection, and with it the file; let the lock go."""
        self.connection.close()
        self.release()

    def end_build(self) -> None:
        """Let the lock go for good: what was a candidate is published, or never will be."""
        self.release()
        self.candidate = self.lock = None

    def release(self) -> None:
        """Let the lock go, where it is held, so that another build may begin.

        What was built so far is then in the file, for others to look at: DuckDB cannot replay the log
        of a candidate whose process was killed.
        """
        if self.lock and self.lock.is_locked:
            with suppress(duckdb.Error):
                self.connection.execute("checkpoint")
            self.lock.release()

    def _answer(self, statement: duckdb.Statement) -> "pd.DataFrame | None":
        """Run the statement; sums of whole numbers (HUGEINT in DuckDB) stay whole in its rows."""
        for name in sorted(statement.named_parameters - self.variables.keys()):
            raise QueryError(
                f"${name} is not defined in this notebook. "
                f"Run the cell that sets {name} first, or mend the name."
            )
        self.statements.append(statement.query)
        if self.raw_files:
            self.raw_files.read_named(statement.query)
        values = {name: self.variables[name] for name in statement.named_parameters}
        self.connection.execute(statement, values or None)
        kinds = {name: str(kind) for name, kind, *_ in self.connection.description or []}
        is_select = statement.type == duckdb.StatementType.SELECT
        if not is_select and list(kinds) in ([], ["Success"], ["Count"]):
            return None
        sums = {name: "Int64" for name, kind in kinds.items() if kind == "HUGEINT"}
        rows = self.connection.df()
        return rows.astype(sums) if sums else rows


class Cursor:
    """The rows of one statement, handed to JupySQL as a frame; its own tables are not used."""

    def __init__(self, session: Session) -> None:
        self._session = session
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
        if not sql.startswith("SET python_scan_all_frames") and sql != self._sql:
            self._frame, self._sql = self._session.execute(sql), sql

    def fetchmany(self, size: int = 0) -> list[tuple[Any, ...]]:
        """No rows: they come as a frame."""
        return []

    fetchall = fetchmany

    def df(self) -> "pd.DataFrame | None":
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


@contextmanager
def in_words() -> Iterator[None]:
    """Raise QueryError for what DuckDB raises: its message, and the way out where there is one."""
    try:
        yield
    except duckdb.Error as error:
        said, _, _ = str(error).partition("\n\nPossible solutions")  # settings that we set
        hint = next((f"\n{hint}" for words, hint in _HINTS.items() if re.search(words, said)), "")
        # without the class, by which JupySQL would know the error and add advice of its own
        raise QueryError(_CLASS.sub("", said).strip() + hint) from error


def connect(path: Path | str, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection in which a misspelt table is no Python variable, and which draws no progress bar."""
    connection = duckdb.connect(str(path), read_only=read_only)
    connection.execute("set python_enable_replacements = false")
    with suppress(duckdb.Error):  # in a kernel without ipywidgets there is no bar to be set
        connection.execute("set enable_progress_bar = false")
    return connection


def open_published(database: Path, writable: Sequence[Path] = ()) -> duckdb.DuckDBPyConnection:
    """A connection that reads the mart at `database`, and reaches no files but those below `writable`.

    It loads no extension and keeps to its settings; for sorts and joins beyond the memory it may use
    the folder `<database>.tmp`. Raises StateError where there is no mart to read.
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
    """Whether the file is a DuckDB database with the log of a build in it."""
    try:
        open_published(database).close()
    except StateError:
        return False
    return True


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at `path` from any that takes its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def last_build(connection: duckdb.DuckDBPyConnection, database: str) -> int:
    """The number of the build that made the mart attached as `database`; 0 where it logs none."""
    if not has_table(connection, database, BUILD_LOG):
        return 0
    newest = f"select coalesce(max(build_id), 0) from {quoted(database)}.main.{BUILD_LOG}"
    return connection.execute(newest).fetchone()[0]


def has_table(connection: duckdb.DuckDBPyConnection, database: str, table: str) -> bool:
    """Whether the attached `database` has the table in its main schema.

    The catalog is asked, although to try it out were quicker: a statement that fails ends a transaction
    that a cell has begun, and a relation cannot be made while a cell's own result is not yet fetched.
    """
    found = connection.execute(
        "select count(*) from duckdb_tables() "
        "where database_name = ? and schema_name = 'main' and table_name = ?",
        [database, table],
    )
    return found.fetchall() != [(0,)]


def current_database(connection: duckdb.DuckDBPyConnection) -> str:
    """The name under which the connection knows its own file."""
    return connection.execute("select current_database()").fetchone()[0]


def no_mart(database: Path) -> StateError:
    """The error for a DuckDB file that is something else."""
    return StateError(
        f"{shown(database)} is a DuckDB file, but no mart: it has no {BUILD_LOG}. Move it away, or "
        "name another file with database."
    )


def unreadable(database: Path, error: duckdb.Error) -> StateError:
    """The error for a file that DuckDB cannot open, with what to do about it."""
    kind, advice = next(found for words, *found in _REFUSALS if re.search(words, str(error)))
    return kind(f"{shown(database)} {advice} DuckDB says: {error}")


def rows_folder(candidate: Path) -> Path:
    """Where the records of a CSV file stand while a build reads them."""
    return candidate.with_name(f"{candidate.name}.rows")


def confine(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path] = ()) -> None:
    """Let the connection reach no files but those that it has open and those below `folders`, for good.

    Whoever made the mart, its views can then neither read nor write other files.
    """
    # DuckDB looks for a file as for a pattern, and compares what it was asked for with these
    names = [name for path in map(str, folders) for name in (path, glob.escape(path))]
    directories = ", ".join(literal(f"{name}/") for name in names)
    for setting in (
        f"allowed_directories = [{directories}]",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "enable_external_access = false",
        # how many threads write an export changes nothing that a reader could reach
        "allowed_configs = ['threads', 'async_threads']",
        "lock_configuration = true",
    ):
        connection.execute(f"set {setting}")
