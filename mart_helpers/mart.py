"""Builds a candidate next to the published mart, and replaces the mart by it in one step.

A build writes `<database>.candidate`. Only a rename ever replaces the published file, so readers keep
the file that they opened, and a failed build leaves the mart unchanged.
"""

import glob
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import duckdb
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

from mart_helpers.books import build_time, close_books, open_books
from mart_helpers.errors import StateError, UsageError
from mart_helpers.files import sync
from mart_helpers.kept import (
    forget_all_but,
    held,
    keep,
    kept_builds,
    previous_path,
    sync_folder,
)
from mart_helpers.lake import lake_of, make_lake, move_facts, reach_lake, sweep_lake, without_gaps
from mart_helpers.parameters import check_cell, mart_of, resolve, shown
from mart_helpers.raw import RawFiles, keep_columns
from mart_helpers.session import (
    BUILD_LOG,
    Session,
    attach_sql_magic,
    confine,
    connect,
    has_table,
    identity,
    in_words,
    last_build,
    no_mart,
    open_published,
    rows_folder,
    unreadable,
)
from mart_helpers.star import inherit_comments
from mart_helpers.tables import show_frames
from mart_helpers.texts import literal
from mart_helpers.verdict import STOPPED_BY

if TYPE_CHECKING:
    import pandas as pd

_SCRATCH = ("staging", "seed", "source")

_ATTACHED = (*_SCRATCH, "published")

_SCHEMAS = ("contract", "checks", "mapping")  # a database with such a name would hide them


def candidate_path(database: Path) -> Path:
    """The path that a build of `database` writes to."""
    return database.with_name(f"{database.name}.candidate")


def create_candidate(
    database: Path,
    variables: Mapping[str, Any] | None = None,
    memory_limit: str = "70%",
    lake: Path | None = None,
) -> Session:
    """A session on a new candidate for `database` with its `books` open; `variables` are the notebook's.

    Attached to it: `staging` and `seed` (in memory), and `published`, the present mart to read from, or
    an empty database if there is none. The SQL variable `build_id` is the number of this build. Beyond
    `memory_limit`, DuckDB uses files in `<candidate>.tmp`, which are removed with the session. The facts
    are published in the folder `lake`, if one is given. Raises StateError if another build is running,
    the folder cannot be written, or `database` is not a mart.
    """
    taken = (*_ATTACHED, *_SCHEMAS)
    if database.name.partition(".")[0].lower() in taken:
        raise UsageError(
            f"database: the build uses the name of {database.name} itself. Choose a name other "
            f"than {', '.join(taken)}."
        )
    candidate = candidate_path(database)
    lock = held(database)
    try:
        _discard(candidate)
        _sweep(database)
        lake = make_lake(database, lake) if lake else None
        connection = _prepared(candidate, database, memory_limit)
    except (OSError, duckdb.Error) as error:
        lock.release()
        raise StateError(
            f"{shown(candidate)} cannot be written. Free disk space, or make the folder writable. "
            f"({error})"
        ) from error
    except BaseException:
        lock.release()
        raise
    return Session(
        connection,
        database,
        variables or {},
        opened=identity(candidate),
        candidate=candidate,
        lock=lock,
        lake=lake,
    )


def publish(
    session: Session, check_results: "pd.DataFrame", keep_previous: int = 2, fail_on: str = "error"
) -> None:
    """Replace the published mart by the candidate in one step, and keep the newest `keep_previous`.

    `check_results` come from `run_checks` on this candidate. The columns of the star inherit the
    comments of the contract. The session then reads the published mart. Raises StateError and leaves the
    published mart unchanged if a check has not run, is broken or has failed, or warns and `fail_on` is
    `warn`; if another build has begun since; or if the file cannot be replaced.
    """
    database, candidate = session.database, candidate_path(session.database)
    _take_up(session)
    _refuse_unchecked(session, check_results, fail_on)
    replaced = last_build(session.connection, "published")
    try:
        keep_columns(session.connection)
        inherit_comments(session.connection)
        if session.lake:
            move_facts(session.connection, session.lake)
        close_books(session.connection)
        session.connection.execute("checkpoint")
        with ThreadPoolExecutor(1) as beside:
            beside.submit(sync, candidate)  # freeing much memory takes as long as the disk does
            for attached in _ATTACHED:
                session.connection.execute(f"detach {attached}")
            session.connection.close()
        if session.lake:
            without_gaps(candidate)
        sync(candidate)  # later writes, and a sync that failed before
        keep(database, previous_path(database, replaced))
        os.replace(candidate, database)
    except (OSError, duckdb.Error) as error:
        session.end_build()
        raise _unpublished(database, error) from error
    with suppress(OSError):  # the next build tries again
        forget_all_but(database, keep_previous)
    session.end_build()
    session.connection, session.opened = open_published(database), identity(database)
    sync_folder(database)


def _take_up(session: Session) -> None:
    """Take the lock again if a failed cell released it and no other build has begun since."""
    database = session.database
    if session.candidate is None:
        raise StateError(
            f"This build of {shown(database)} has ended. To build again, run the notebook from its top."
        )
    if not session.lock.is_locked:
        session.lock = held(database)
    if identity(session.candidate) != session.opened:
        session.release()
        raise StateError(
            f"{shown(database)}: another build has begun since, so this one publishes nothing. "
            "Run this notebook from its top."
        )


def _refuse_unchecked(session: Session, check_results: "pd.DataFrame", fail_on: str) -> None:
    """Raise StateError unless all checks of this candidate ran and none is as bad as `fail_on`."""
    nothing = f"{shown(session.database)}: nothing is published, because"
    connection = session.connection
    if check_results.attrs.get("built_at") != build_time(connection):
        raise StateError(
            f"{nothing} these check results are of another build. Run the cell with `run_checks` again."
        )
    checks = connection.execute(
        "select view_name from duckdb_views() "
        "where database_name = current_database() and schema_name = 'checks' order by view_name"
    ).fetchall()
    if not checks:
        raise StateError(f"{nothing} there are no checks. Run the notebook from its top.")
    known = set(check_results["check_name"])
    if not_run := [name for (name,) in checks if name not in known]:
        raise StateError(
            f"{nothing} the check {not_run[0]} has not run. Run the cell with `run_checks` again."
        )
    stopping = check_results["status"].isin(STOPPED_BY[fail_on])
    failed = check_results.loc[stopping, "check_name"]
    if len(failed):
        raise StateError(
            f"{nothing} these checks did not pass: {', '.join(failed)}. Correct the inputs or the "
            "notebook, and run it from its top."
        )


def _discard(candidate: Path) -> None:
    """Remove what an earlier build left; a program that still reads it keeps its open file."""
    candidate.unlink(missing_ok=True)
    candidate.with_name(f"{candidate.name}.wal").unlink(missing_ok=True)
    shutil.rmtree(candidate.with_name(f"{candidate.name}.tmp"), ignore_errors=True)
    shutil.rmtree(rows_folder(candidate), ignore_errors=True)


def _sweep(database: Path) -> None:
    """Remove facts of builds that are gone, unless a mart that may use them cannot be read."""
    kept = [previous_path(database, build) for build in kept_builds(database)]
    marts = [each for each in (database, *kept) if each.exists()]
    with suppress(OSError, duckdb.Error):
        sweep_lake(database, [*marts, *database.parent.glob(f"{glob.escape(database.name)}.damaged-*")])


def _prepared(candidate: Path, database: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    connection = connect(candidate)
    try:
        connection.execute(f"set memory_limit = '{memory_limit}'")
        # a candidate need not survive a crash until it is complete, and then `publish` syncs it
        connection.execute("set fsync_mode = 'NONE'")
        # a file that is written once needs no vacuum
        connection.execute("set max_vacuum_tasks = 0")
        for scratch in _SCRATCH:
            connection.execute(f"attach ':memory:' as {scratch}")
        connection.execute("create schema mapping")
        _attach_published(connection, database)
        # it would take a quarter of the time of writing facts, to save a quarter of their space
        connection.execute("set disabled_compression_methods = 'dict_fsst'")
        with in_words():
            open_books(connection, max(kept_builds(database), default=0))
    except BaseException:
        connection.close()
        _discard(candidate)
        raise
    return connection


def _attach_published(connection: duckdb.DuckDBPyConnection, database: Path) -> None:
    if not database.exists():
        connection.execute("attach ':memory:' as published")
        return
    try:
        connection.execute(f"attach {literal(database)} as published (read_only)")
        is_one = has_table(connection, "published", BUILD_LOG)
    except duckdb.Error as error:
        raise unreadable(database, error) from error
    if not is_one:
        raise no_mart(database)
    reach_lake(connection, database, "published")


def _unpublished(database: Path, error: Exception) -> StateError:
    reason = f"{shown(database)} is unchanged: the new mart cannot take its place ({error})."
    if isinstance(error, PermissionError) and os.name == "nt":
        return StateError(
            f"{reason} Windows cannot replace a file that a program has open. Close the notebooks "
            "and programs that read the mart, then build again."
        )
    return StateError(f"{reason} Free disk space, or make the folder writable, then build again.")


_SESSION = "mart_session"  # an attribute of the shell, so that no cell can lose it

_MISREAD = {"?", "\\"} - {os.sep}  # DuckDB ends a path or starts an option here


def open_candidate(
    database: str,
    memory_limit: str = "70%",
    reads_from: Iterable[str | Path] = (),
    stage: int | None = None,
    lake: str = "",
    cluster: str = "",
) -> Session:
    """A session on a new candidate beside the mart `database`, for `01_build`.

    Prints a line if the stage has its own mart (see `mart_of`).

    Its statements reach only files below the folders `reads_from`; those of the first folder also as
    `source.<file>`. Its facts are published in the folder `lake`, if one is given, and the Spark Connect
    server `cluster`, if one is given, loads and makes them there. No other build can begin until this
    one is published or a cell fails. Raises UsageError if the parameters cell holds a
    wrong value, StateError if the candidate cannot be made.
    """
    shell = _prepared_shell()
    if cluster and not lake:
        raise UsageError(
            "cluster: a cluster keeps facts in a lake. Name its folder, which all machines see."
        )
    own = mart_of(stage, database)
    if own != database:
        print(f"Stage {stage} builds its own mart, {own}; {database} stays unchanged.")
    folder = resolve(lake).resolve() if lake else None
    session = create_candidate(_real(own), shell.user_ns, memory_limit, folder)
    inputs = [*map(resolve, reads_from)]
    places = [lake_of(session.database), lake_of(session.database).resolve()]
    confine(session.connection, [*inputs, rows_folder(session.candidate), *places])
    session.raw_files = RawFiles(session, inputs[0]) if inputs else None
    if cluster:
        with ExitStack() as on_failure, _cluster_packages():
            on_failure.callback(session.close)
            from mart_helpers.cluster.build import Builder

            session.cluster = Builder(session, cluster)
            on_failure.pop_all()
    return _attached(session, shell)


def open_mart(database: str, cluster: str = "", writes_to: Iterable[str | Path] = ()) -> Session:
    """A read-only session on the published mart `database`.

    Its statements reach only files below the folders `writes_to`. The Spark Connect server `cluster`, if
    one is given, computes over facts in the lake. If the mart is rebuilt later, the notebook says so
    once. Raises UsageError if the parameters cell holds a wrong value, StateError if there is no mart or
    the server cannot be reached.
    """
    shell = _prepared_shell()
    path = _real(database)
    opened = identity(path)
    connection = open_published(path, [resolve(folder) for folder in writes_to])
    if cluster:
        with _cluster_packages():
            from mart_helpers.cluster.server import Cluster

            connection = Cluster(connection, path, cluster)
    return _attached(Session(connection, path, shell.user_ns, opened=opened), shell)


@contextmanager
def _cluster_packages() -> Iterator[None]:
    """Say which package of clusters is missing, if one is."""
    with catch_warnings():
        simplefilter("ignore")  # pyspark warns of a pandas as new as ours
        try:
            yield
        except ImportError as error:
            raise StateError(
                f"cluster: a package is missing ({error.name or error}). Run `pip install --no-deps "
                "--require-hashes -r requirements-cluster.lock`."
            ) from error


def _real(database: str) -> Path:
    """The file that a link points to, so that the link stays a link when the mart is replaced.

    Raises UsageError for a folder, and for a path that DuckDB would misread.
    """
    path = resolve(database).resolve()
    if path.is_dir():
        raise UsageError(f"database: {shown(path)} is a folder. Name a file in it.")
    for character in _MISREAD & set(str(path)):
        raise UsageError(f"database: DuckDB misreads the {character} in {shown(path)}. Choose another.")
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
    """After a failed cell, let other builds begin; tell a reader if the mart has been rebuilt."""
    session = getattr(get_ipython(), _SESSION)
    if not result.success:
        session.release()
    elif session.candidate is None and session.opened != identity(session.database):
        session.opened = identity(session.database)
        print(
            "The mart has been rebuilt since this notebook opened it, so you still see the previous "
            "build. To read the new one, run the set-up cell again, and the cells below it."
        )
