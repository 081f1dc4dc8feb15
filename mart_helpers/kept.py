"""The files next to the published mart: earlier marts kept for a rollback, and the lock.

`<database>.previous-<build>` is a mart that was published, `<database>.damaged-<n>` a damaged file that
was set aside. The one build or rollback that is running holds the lock of `<database>.lock`.
"""

import errno
import os
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import sleep

import duckdb
from filelock import FileLock, Timeout

from mart_helpers.errors import StateError, Unavailable, UsageError
from mart_helpers.files import sync, whole_files
from mart_helpers.lake import TABLES, reach_lake
from mart_helpers.parameters import shown
from mart_helpers.session import (
    confine,
    connect,
    current_database,
    last_build,
    no_mart,
    open_published,
    unreadable,
)
from mart_helpers.texts import quoted

_SIGNING = 0.1  # seconds that a process takes at most to sign the lock

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def rollback(database: Path, build: int | None = None) -> int:
    """Publish a kept mart again in one step: that of `build`, or the newest before the published one.

    Returns its number. The mart that was published is kept; a damaged one is set aside as
    `<database>.damaged-1`, -2 and so on. Raises UsageError if `build` is not kept, StateError if a build
    is running, nothing is kept, the kept file is damaged, or the mart cannot be opened now.
    """
    if not database.exists() and not kept_builds(database):
        raise StateError(f"There is no mart at {shown(database)}, and none is kept next to it.")
    with held(database):
        published = _published_or_none(database)
        build = _chosen(database, build, published)
        source = previous_path(database, build)
        _refuse_damaged(source)
        kept = _free_name(database) if published is None else previous_path(database, published)
        try:
            keep(database, kept)
            os.replace(source, database)
            _move_log(source, database)
        except OSError as error:
            raise StateError(f"{shown(database)} cannot be replaced: {error}") from error
        sync_folder(database)
    return build


def previous_path(database: Path, build: int) -> Path:
    """The path that keeps the mart of that build after another one is published."""
    return database.with_name(f"{database.name}.previous-{build}")


def kept_builds(database: Path) -> list[int]:
    """The numbers of the kept builds, newest first."""
    pattern = re.compile(re.escape(database.name) + r"\.previous-([0-9]+)")
    if not database.parent.is_dir():
        return []
    found = (pattern.fullmatch(path.name) for path in database.parent.iterdir() if path.is_file())
    return sorted((int(match[1]) for match in found if match), reverse=True)


def published_build(database: Path) -> int:
    """The number of the published build. Raises StateError if there is no mart to read."""
    with open_published(database) as connection:
        return last_build(connection, current_database(connection))


def earlier_mart(database: Path, wanted: str = "") -> Path:
    """The file of the kept build with the number `wanted`, or at that path; if empty, the newest one.

    The newest one is the latest kept build before the published one. Raises UsageError if the number is
    not kept, StateError if no build is.
    """
    if wanted and not wanted.isdecimal():
        return Path(wanted).expanduser().absolute()
    build = _chosen(database, int(wanted) if wanted else None, published_build(database))
    return previous_path(database, build)


def keep(database: Path, kept: Path) -> None:
    """Give the file at `database`, whatever it is, a second name under which it is kept.

    The log of a killed program is kept with it: DuckDB cannot open another file next to that log.
    """
    if not database.exists():
        return
    kept.unlink(missing_ok=True)
    try:
        os.link(database, kept)
    except OSError:  # some file systems have no hard links
        with whole_files([kept]) as (part,):
            shutil.copyfile(database, part)
    _move_log(database, kept)


def forget_all_but(database: Path, most: int) -> None:
    """Remove the oldest kept marts until at most `most` are left."""
    for build in kept_builds(database)[most:]:
        for path in (previous_path(database, build), _log_of(previous_path(database, build))):
            path.unlink(missing_ok=True)


def held(database: Path) -> FileLock:
    """The lock of the mart, held until it is released or until the end of a `with`.

    Raises StateError if another build holds it, and names that build's process.
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
        if isinstance(error, NotImplementedError) or error.errno in _NO_LOCKS:
            raise StateError(
                f"{shown(path)}: the file system has no locks, so two builds could run at once. "
                "Put the mart on a local disk, and name it with database."
            ) from error
        raise StateError(
            f"{shown(path)} cannot be written: {error}. Make the folder writable, or name another "
            "one with database."
        ) from error
    return lock


def sync_folder(database: Path) -> None:
    """Wait until a rename is on disk. If this fails, the new file still stays in place."""
    try:
        sync(database.parent)
    except OSError as error:
        raise StateError(
            f"{shown(database)} is replaced as it should be, but the change might not survive a power "
            f"cut: {shown(database.parent)} cannot be synchronised ({error})."
        ) from error


def _published_or_none(database: Path) -> int | None:
    """The published build; None if the file is damaged or gone, in which case a rollback is right."""
    try:
        return published_build(database)
    except Unavailable:
        raise
    except StateError:
        return None


def _chosen(database: Path, build: int | None, published: int | None) -> int:
    """The kept build of that number, or the newest before the published one."""
    kept = [each for each in kept_builds(database) if each != published]
    listed = ", ".join(map(str, kept))
    if build in kept:
        return build
    if build is not None and build == published:
        raise UsageError(f"build {build} is already published.")
    if build is not None:
        raise UsageError(f"found build {build}, expected a kept one: {listed or 'none'}.")
    earlier = [each for each in kept if published is None or each < published]
    if earlier:
        return earlier[0]
    named = f" Newer ones are kept: {listed}. Give the number of one." if kept else ""
    raise StateError(f"No earlier mart is kept next to {shown(database)}.{named}")


def _free_name(database: Path) -> Path:
    """An unused name for a damaged file."""
    names = (database.with_name(f"{database.name}.damaged-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _refuse_damaged(path: Path) -> None:
    """Raise StateError if the file is not a mart or one of its tables cannot be read completely."""
    try:
        with connect(path, read_only=True) as connection:
            confine(connection, reach_lake(connection, path))
            if not last_build(connection, current_database(connection)):
                raise no_mart(path)
            tables = connection.execute(f"select schema_name, table_name from {TABLES}")
            for schema, table in tables.fetchall():
                connection.execute(
                    f"select count(hash(rows)) from {quoted(schema)}.{quoted(table)} as rows"
                )
    except duckdb.Error as error:
        raise unreadable(path, error) from error


def _move_log(mart: Path, to: Path) -> None:
    with suppress(FileNotFoundError):
        os.replace(_log_of(mart), _log_of(to))


def _log_of(mart: Path) -> Path:
    return mart.with_name(f"{mart.name}.wal")


def _sign(descriptor: int) -> None:
    """Write into the lock file who holds it."""
    os.ftruncate(descriptor, 0)
    os.write(
        descriptor, f"process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC".encode()
    )


def _signature(path: Path) -> str:
    for _ in range(20):  # the file is empty until the holder signs it
        sleep(_SIGNING)
        with suppress(OSError, ValueError):  # Windows cannot read a locked file
            if text := path.read_text(encoding="utf-8"):
                return f" ({text})"
    return ""
