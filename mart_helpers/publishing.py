"""Building beside the published mart, and putting the result in its place in one step.

A build writes `<database>.candidate`. The published file is only ever replaced by a rename, so readers
keep the file they opened, and a build that fails leaves it as it was. `<database>.lock` is locked by the
one build, or rollback, that is at work.
"""

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import Any

import duckdb
from filelock import FileLock, Timeout

from mart_helpers.errors import StateError, UsageError
from mart_helpers.files import sync
from mart_helpers.keeping import forget_all_but, keep, kept_builds, take_back
from mart_helpers.opening import (
    BUILD_LOG,
    connect,
    current_database,
    has_table,
    identity,
    last_build,
    no_mart,
    open_published,
    unreadable,
)
from mart_helpers.project import shown
from mart_helpers.session import Session, in_words

_SCRATCH = ("staging", "seed")
_ATTACHED = (*_SCRATCH, "published")
_SCHEMAS = ("contract", "checks")  # a database of such a name would hide them
_HISTORY = (BUILD_LOG, "build_inputs")
_RECIPE = f"update {BUILD_LOG} set recipe = ? where build_id = getvariable('build_id')"
_SIGNING = 0.1  # seconds in which who has just taken the lock has signed it


def candidate_path(database: Path) -> Path:
    """Where the build of `database` is written."""
    return database.with_name(f"{database.name}.candidate")


def create_candidate(
    database: Path, variables: Mapping[str, Any] | None = None, memory_limit: str = "70%"
) -> Session:
    """A session on a new, empty candidate for `database`; `variables` are those of the notebook.

    Attached to it: `staging` and `seed` (in memory), and `published`, the present mart to read from, or
    an empty database where there is none. The SQL variable `build_started` is the time now, in UTC.
    What needs more than `memory_limit` uses files in `<candidate>.tmp`, which end with the session.
    Raises StateError where another build is at work, the folder cannot be written, or `database` is
    something else than a mart.
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
    return Session(connection, database, variables or {}, opened=identity(candidate), lock=lock)


def carry_history(session: Session) -> None:
    """Copy the build history of the published mart into the candidate's `build_log` and `build_inputs`.

    Sets the SQL variable `build_id` to the number of this build: one more than the last, whether that is
    published or kept. Doing it again changes nothing. Raises StateError where the build has ended.
    """
    _refuse_ended(session)
    connection = session.connection
    for table in _HISTORY:
        if has_table(connection, "published", table):
            with in_words():
                _carry(connection, table)
    newest = max([last_build(connection, "published"), *kept_builds(session.database)])
    connection.execute("set variable build_id = $newest + 1", {"newest": newest})


def publish(session: Session, keep_previous: int = 2) -> None:
    """Replace the published mart by the candidate in one step; of those replaced, the newest are kept.

    `keep_previous` says how many. The session then reads the published mart. What the build was made by
    is noted in `build_log`, so that the command line need not repeat it: nothing where cells were run
    that are not those of 01_build's file, in their order and once. Raises StateError, with the published
    mart as it was, where checks have failed or have not run, the log lacks this build, another build has
    begun meanwhile, or the file cannot be replaced.
    """
    database, candidate = session.database, candidate_path(session.database)
    _take_up(session)
    replaced = last_build(session.connection, "published")
    if last_build(session.connection, current_database(session.connection)) <= replaced:
        raise StateError(
            f"{shown(database)}: {BUILD_LOG} has no row for this build, so nothing is published. "
            "Run the notebook from its top."
        )
    with suppress(duckdb.Error):  # a log without that column: then every build is taken for a new one
        session.connection.execute(_RECIPE, [session.recipe()])
    try:
        session.connection.execute("checkpoint")
        with ThreadPoolExecutor(1) as beside:
            beside.submit(sync, candidate)  # to give much memory back takes as long as the disk
            for attached in _ATTACHED:
                session.connection.execute(f"detach {attached}")
            session.connection.close()
        sync(candidate)  # what came after, and what did not succeed before
        if database.exists():
            keep(database, replaced)
        os.replace(candidate, database)
        sync(database.parent)
    except (OSError, duckdb.Error) as error:
        session.release()
        session.lock = None
        raise _unpublished(database, error) from error
    with suppress(OSError):  # the next build tries again
        forget_all_but(database, keep_previous)
    session.release()
    session.reopen(open_published(database), identity(database))


def rollback(database: Path, build: int | None = None) -> int:
    """Publish a kept mart again, the newest before the present one or that of `build`; give its number.

    Raises StateError where a build is at work or nothing is kept, UsageError where `build` is not kept.
    """
    if not database.exists() and not kept_builds(database):
        raise StateError(f"There is no mart at {shown(database)}, and none is kept beside it.")
    with held(database):
        return take_back(database, build)


def held(database: Path) -> FileLock:
    """The lock of the mart, held until it is released, or to the end of a `with`.

    Raises StateError where another build has it, and says which.
    """
    path = database.with_name(f"{database.name}.lock")
    lock = FileLock(path, blocking=False, fallback_to_soft=False, on_acquired=_sign)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise StateError(
            f"{shown(database)} is being built by another notebook or program{_signature(path)}. Wait "
            "for it, or end it: shut down the kernel, or run its notebook to the end."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise StateError(
            f"{shown(path)} cannot be written: {error}. Make the folder writable, or name another "
            "one with database."
        ) from error
    return lock


def _sign(descriptor: int) -> None:
    """Write into the lock who holds it."""
    os.ftruncate(descriptor, 0)
    os.write(
        descriptor, f"process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC".encode()
    )


def _signature(path: Path) -> str:
    sleep(_SIGNING)
    with suppress(OSError, ValueError):  # Windows lets nobody read a locked file
        return f" ({path.read_text(encoding='utf-8')})"
    return ""


def _take_up(session: Session) -> None:
    """Hold the lock again where a failed cell has let it go, if no other build has begun meanwhile."""
    database = session.database
    _refuse_ended(session)
    if session.checks_failed:
        raise StateError(
            f"{shown(database)}: the checks have failed, so nothing is published. Mend the inputs or "
            "the notebook, and run it from its top."
        )
    if not session.lock.is_locked:
        session.lock = held(database)
    if identity(candidate_path(database)) != session.opened:
        session.release()
        raise StateError(
            f"{shown(database)}: another build has begun since this one, so nothing is published from "
            "here. Run this notebook from its top."
        )
    if session.checks_failed is None:
        raise StateError(
            f"{shown(database)}: the checks have not run, so nothing is published. "
            "Run the notebook from its top."
        )


def _refuse_ended(session: Session) -> None:
    if session.lock is None:
        raise StateError(
            f"This build of {shown(session.database)} has ended. For another, run the notebook from its "
            "top."
        )


def _discard(candidate: Path) -> None:
    """Remove what an earlier build left; whoever still looks into it keeps the file open."""
    candidate.unlink(missing_ok=True)
    candidate.with_name(f"{candidate.name}.wal").unlink(missing_ok=True)
    shutil.rmtree(candidate.with_name(f"{candidate.name}.tmp"), ignore_errors=True)


def _prepared(candidate: Path, database: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    connection = connect(candidate)
    try:
        connection.execute(f"set memory_limit = '{memory_limit}'")
        # until it is whole, and then synchronised by `publish`, a candidate need not survive a crash
        connection.execute("set fsync_mode = 'NONE'")
        for scratch in _SCRATCH:
            connection.execute(f"attach ':memory:' as {scratch}")
        _attach_published(connection, database)
        # it takes a quarter of the time in which facts are written, and saves a quarter of their space
        connection.execute("set disabled_compression_methods = 'dict_fsst'")
        now = datetime.now(UTC).replace(tzinfo=None)
        connection.execute("set variable build_started = $now::timestamp", {"now": now})
    except BaseException:
        connection.close()
        _discard(candidate)
        raise
    return connection


def _attach_published(connection: duckdb.DuckDBPyConnection, database: Path) -> None:
    if not database.exists():
        connection.execute("attach ':memory:' as published")
        return
    path = str(database).replace("'", "''")
    try:
        connection.execute(f"attach '{path}' as published (read_only)")
        is_one = has_table(connection, "published", BUILD_LOG)
    except duckdb.Error as error:
        raise unreadable(database, error) from error
    if not is_one:
        raise no_mart(database)


def _carry(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Copy the rows of builds that a table lacks, as far as the mart before has the same columns."""
    columns = connection.table(table).columns
    same = [name for name in connection.table(f"published.{table}").columns if name in columns]
    names = ", ".join(f'"{name}"' for name in same)
    connection.execute(
        f"insert into {table} by name select {names} from published.{table} "
        f"where build_id not in (select build_id from {table})"
    )


def _unpublished(database: Path, error: Exception) -> StateError:
    reason = f"{shown(database)} is as it was: the new mart cannot take its place ({error})."
    if isinstance(error, PermissionError) and os.name == "nt":
        return StateError(
            f"{reason} Windows lets no file be replaced that a program has open: close the notebooks "
            "and programs that read the mart, then build again."
        )
    return StateError(f"{reason} Make room on the disk, or make the folder writable, then build again.")
