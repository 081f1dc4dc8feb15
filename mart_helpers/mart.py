"""Building beside the published mart, and putting the result in its place in one step.

A build writes `<database>.candidate`. The published file is only ever replaced by a rename, so readers
keep the file they opened, and a build that fails leaves it as it was.
"""

import glob
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

_SCHEMAS = ("contract", "checks", "mapping")  # a database of such a name would hide them


def candidate_path(database: Path) -> Path:
    """Where the build of `database` is written."""
    return database.with_name(f"{database.name}.candidate")


def create_candidate(
    database: Path,
    variables: Mapping[str, Any] | None = None,
    memory_limit: str = "70%",
    lake: Path | None = None,
) -> Session:
    """A session on a new candidate for `database`, its books open; `variables` are the notebook's.

    Attached to it: `staging` and `seed` (in memory), and `published`, the present mart to read from, or
    an empty database if there is none. The SQL variable `build_id` is the number of this build. What
    needs more than `memory_limit` uses files in `<candidate>.tmp`, which end with the session. The facts
    are published in the folder `lake`, if there is one. Raises StateError if another build is at work,
    the folder cannot be written, or `database` is something else than a mart.
    """
    taken = (*_ATTACHED, *_SCHEMAS)
    if database.name.partition(".")[0].lower() in taken:
        raise UsageError(
            f"database: {database.name} bears a name that the build needs itself. Choose another "
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
            f"{shown(candidate)} cannot be written. Make room on the disk, or make the folder writable. "
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

    `check_results` are what `run_checks` found in this candidate. Its columns take over the comments of
    the contract. The session then reads the published
    mart. Raises StateError, with the published mart as it was, if a check has not run, is broken or has
    failed, or warns where `fail_on` is `warn`; if another build has begun meanwhile; and if the file
    cannot be replaced.
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
            beside.submit(sync, candidate)  # to give much memory back takes as long as the disk
            for attached in _ATTACHED:
                session.connection.execute(f"detach {attached}")
            session.connection.close()
        if session.lake:
            without_gaps(candidate)
        sync(candidate)  # what came after, and what did not succeed before
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
    """Hold the lock again if a failed cell has let it go and no other build has begun meanwhile."""
    database = session.database
    if session.candidate is None:
        raise StateError(
            f"This build of {shown(database)} has ended. For another, run the notebook from its top."
        )
    if not session.lock.is_locked:
        session.lock = held(database)
    if identity(session.candidate) != session.opened:
        session.release()
        raise StateError(
            f"{shown(database)}: another build has begun since this one, so nothing is published from "
            "here. Run this notebook from its top."
        )


def _refuse_unchecked(session: Session, check_results: "pd.DataFrame", fail_on: str) -> None:
    """Raise StateError unless all checks of this candidate have run, and none is as bad as `fail_on`."""
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
            f"{nothing} these checks did not pass: {', '.join(failed)}. Mend the inputs or the "
            "notebook, and run it from its top."
        )


def _discard(candidate: Path) -> None:
    """Remove what an earlier build left; whoever still looks into it keeps the file open."""
    candidate.unlink(missing_ok=True)
    candidate.with_name(f"{candidate.name}.wal").unlink(missing_ok=True)
    shutil.rmtree(candidate.with_name(f"{candidate.name}.tmp"), ignore_errors=True)
    shutil.rmtree(rows_folder(candidate), ignore_errors=True)


def _sweep(database: Path) -> None:
    """Remove facts of builds that are gone; all stay if one of the marts beside them cannot be read."""
    kept = [previous_path(database, build) for build in kept_builds(database)]
    marts = [each for each in (database, *kept) if each.exists()]
    with suppress(OSError, duckdb.Error):
        sweep_lake(database, [*marts, *database.parent.glob(f"{glob.escape(database.name)}.damaged-*")])


def _prepared(candidate: Path, database: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    connection = connect(candidate)
    try:
        connection.execute(f"set memory_limit = '{memory_limit}'")
        # until it is whole, and then synchronised by `publish`, a candidate need not survive a crash
        connection.execute("set fsync_mode = 'NONE'")
        # what is written once need not be tidied up
        connection.execute("set max_vacuum_tasks = 0")
        for scratch in _SCRATCH:
            connection.execute(f"attach ':memory:' as {scratch}")
        connection.execute("create schema mapping")
        _attach_published(connection, database)
        # it takes a quarter of the time in which facts are written, and saves a quarter of their space
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
    reason = f"{shown(database)} is as it was: the new mart cannot take its place ({error})."
    if isinstance(error, PermissionError) and os.name == "nt":
        return StateError(
            f"{reason} Windows lets no file be replaced that a program has open: close the notebooks "
            "and programs that read the mart, then build again."
        )
    return StateError(f"{reason} Make room on the disk, or make the folder writable, then build again.")


_SESSION = "mart_session"  # of the shell, so that no cell can lose it

_MISREAD = {"?", "\\"} - {os.sep}  # for DuckDB a path ends or branches here


def open_candidate(
    database: str,
    memory_limit: str = "70%",
    reads_from: Iterable[str | Path] = (),
    stage: int | None = None,
    lake: str = "",
) -> Session:
    """A session on a new candidate beside the mart `database`, for `01_build`.

    Says so if it is that of a mart of its own, as `mart_of` has it.

    Its statements reach no files but those below the folders `reads_from`, those of the first also as
    `source.<file>`. Its facts are published in the folder `lake`, if one is named. No other build can
    begin until it is published, or until a cell fails. Raises UsageError if the parameters cell holds a
    wrong value, StateError if the candidate cannot be made.
    """
    shell = _prepared_shell()
    own = mart_of(stage, database)
    if own != database:
        print(f"Stage {stage} builds a mart of its own, {own}: {database} stays as it is.")
    folder = resolve(lake).resolve() if lake else None
    session = create_candidate(_real(own), shell.user_ns, memory_limit, folder)
    inputs = [*map(resolve, reads_from)]
    confine(session.connection, [*inputs, rows_folder(session.candidate), lake_of(session.database)])
    session.raw_files = RawFiles(session, inputs[0]) if inputs else None
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
    elif session.candidate is None and session.opened != identity(session.database):
        session.opened = identity(session.database)
        print(
            "The mart has been rebuilt since this notebook opened it: what you see is of the build "
            "before. To read the new one, run the set-up cell again, and the cells below it."
        )
