"""Opening the files of a mart: to build one, or to read one and nothing else."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import duckdb

from mart_helpers.errors import StateError
from mart_helpers.project import shown

# A mart has this table, with the history of its builds.
BUILD_LOG = "build_log"
# In DuckDB's words a program writes to the file: on Linux and macOS, on Windows.
_HELD = ("Could not set lock on file", "File is already open")


def connect(path: Path, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
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
        raise StateError(
            f"There is no mart at {shown(database)} yet. Run 01_build, or `python -m mart build`."
        )
    try:
        connection = connect(database, read_only=True)
        is_one = _holds_mart(connection)
    except duckdb.Error as error:
        raise unreadable(database, error) from error
    if not is_one:
        connection.close()
        raise no_mart(database)
    _confine(connection, writable)
    return connection


def is_mart(database: Path) -> bool:
    """Whether the file is a DuckDB database with the log of a build in it."""
    try:
        with duckdb.connect(str(database), read_only=True) as connection:
            return _holds_mart(connection)
    except duckdb.Error:
        return False


def _holds_mart(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a new connection opened a mart. To look up one name is quicker than the whole catalog."""
    try:
        connection.execute(f"describe {BUILD_LOG}")
    except duckdb.CatalogException:
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


def quoted(name: str) -> str:
    """`name` as SQL takes it, whatever it holds: a mart is attached under the name of its file."""
    return '"' + name.replace('"', '""') + '"'


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
    said = f"DuckDB says: {error}"
    if "has been locked" in str(error):
        return StateError(
            f"{shown(database)} is open already in this notebook or program. Close that connection "
            "first, e.g. `mart.close()`."
        )
    if any(words in str(error) for words in _HELD):
        return StateError(
            f"{shown(database)} is open for writing in another program. Close it there, or open it "
            f"read-only. {said}"
        )
    if "version number" in str(error):
        return StateError(
            f"{shown(database)} was written by another version of DuckDB than this one, "
            f"{duckdb.__version__}. Read it with that one; or move it away and run 01_build. {said}"
        )
    return StateError(
        f"{shown(database)} cannot be opened as a mart. Take back the one before it with `python -m "
        f"mart rollback --database {shown(database)}`; or move it away and run 01_build, or name "
        f"another file with database. {said}"
    )


def _confine(connection: duckdb.DuckDBPyConnection, writable: Sequence[Path]) -> None:
    folders = ", ".join("'" + str(path).replace("'", "''") + "/'" for path in writable)
    for setting in (
        f"allowed_directories = [{folders}]",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "enable_external_access = false",
        # how many threads write an export changes nothing that a reader could reach
        "allowed_configs = ['threads', 'async_threads']",
        "lock_configuration = true",
    ):
        connection.execute(f"set {setting}")
