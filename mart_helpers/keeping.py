"""The marts that builds have replaced: kept beside the published one, and taken back when wanted."""

import os
import re
import shutil
from pathlib import Path

import duckdb

from mart_helpers.errors import StateError, UsageError
from mart_helpers.files import sync, whole_file
from mart_helpers.opening import (
    connect,
    current_database,
    last_build,
    no_mart,
    open_published,
    unreadable,
)
from mart_helpers.project import shown


def previous_path(database: Path, build: int) -> Path:
    """Where the mart of that build is kept once another one is published."""
    return database.with_name(f"{database.name}.previous-{build}")


def kept_builds(database: Path) -> list[int]:
    """The numbers of the builds that are kept beside the mart, the newest first."""
    pattern = re.compile(re.escape(database.name) + r"\.previous-([0-9]+)")
    if not database.parent.is_dir():
        return []
    found = (pattern.fullmatch(path.name) for path in database.parent.iterdir())
    return sorted((int(match[1]) for match in found if match), reverse=True)


def keep(database: Path, build: int) -> None:
    """Give the published mart, which is of that build, a second name under which it stays."""
    kept = previous_path(database, build)
    kept.unlink(missing_ok=True)
    try:
        os.link(database, kept)
    except OSError:  # some file systems know no second names
        with whole_file(kept) as part:
            shutil.copyfile(database, part)


def forget_all_but(database: Path, most: int) -> None:
    """Remove the oldest of the kept marts, until there are no more than `most`."""
    for build in kept_builds(database)[most:]:
        previous_path(database, build).unlink(missing_ok=True)


def published_build(database: Path) -> int:
    """The number of the build that is published. Raises StateError where there is no mart to read."""
    with open_published(database) as connection:
        return last_build(connection, current_database(connection))


def earlier_mart(database: Path, wanted: str = "") -> Path:
    """The file of the kept build that `wanted` numbers, or at that path; where empty, the newest kept.

    The newest is that before the published build. Raises UsageError where a number is not kept,
    StateError where no build is.
    """
    if wanted and not wanted.isdecimal():
        return Path(wanted).expanduser().absolute()
    build = _chosen(database, int(wanted) if wanted else None, published_build(database))
    return previous_path(database, build)


def take_back(database: Path, build: int | None) -> int:
    """Publish a kept mart again, in one step, and keep the one that was published; give its number.

    `build` names it; None is the newest before the published one. Whoever calls holds the mart's lock.
    Raises UsageError where that build is not kept, StateError where none is, or its file is damaged.
    """
    published = _published_or_none(database)
    build = _chosen(database, build, published)
    source = previous_path(database, build)
    refuse_damaged(source)
    try:
        if published is not None:
            keep(database, published)
        os.replace(source, database)
        sync(database.parent)
    except OSError as error:
        raise StateError(f"{shown(database)} cannot be replaced: {error}") from error
    return build


def _published_or_none(database: Path) -> int | None:
    """The published build; None where the file is damaged or gone, which is a reason to go back."""
    try:
        return published_build(database)
    except StateError:
        return None


def _chosen(database: Path, build: int | None, published: int | None) -> int:
    """The kept build of that number, or the newest before the published one."""
    kept = [each for each in kept_builds(database) if each != published]
    if build in kept:
        return build
    if build is not None and build == published:
        raise UsageError(f"build {build} is the one that is published.")
    if build is not None:
        raise UsageError(f"found build {build}, expected one of those kept: {_listed(kept) or 'none'}.")
    earlier = [each for each in kept if published is None or each < published]
    if earlier:
        return earlier[0]
    named = f" Kept, and newer, is build {_listed(kept)}: give its number." if kept else ""
    raise StateError(f"Beside {shown(database)} no earlier mart is kept.{named}")


def _listed(builds: list[int]) -> str:
    return ", ".join(map(str, builds))


def refuse_damaged(path: Path) -> None:
    """Raise StateError for a file that is no mart, or whose tables cannot all be read to their end."""
    try:
        with connect(path, read_only=True) as connection:
            if not last_build(connection, current_database(connection)):
                raise no_mart(path)
            tables = connection.execute(
                "select format('{}.{}', schema_name, table_name) from duckdb_tables()"
            ).fetchall()
            for (table,) in tables:
                connection.execute(f"select count(hash(rows)) from {table} as rows")
    except duckdb.Error as error:
        raise unreadable(path, error) from error
