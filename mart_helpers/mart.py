"""Building beside the published mart, and putting the result in its place in one step.

A build writes `<database>.candidate`. The published file is only ever replaced by a rename, so readers
keep the file they opened, and a build that fails leaves it as it was. `<database>.lock` is locked by the
one build, or rollback, that is at work.
"""

import ast
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import Any

import duckdb
from filelock import FileLock, Timeout
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

import mart_helpers
from mart_helpers.contract import read_contract
from mart_helpers.errors import MartError, StateError, UsageError
from mart_helpers.files import sha256_of, sync, whole_file
from mart_helpers.frames import show_frames
from mart_helpers.parameters import (
    INJECTED,
    check_cell,
    is_literal,
    notebook_cells,
    notebook_parameters,
    notebook_path,
    read_parameters,
    resolve,
    shown,
)
from mart_helpers.session import (
    BUILD_LOG,
    Session,
    attach_sql_magic,
    connect,
    current_database,
    has_table,
    identity,
    in_words,
    last_build,
    no_mart,
    open_published,
    unreadable,
)
from mart_helpers.sources import find_sources, unchanged

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


NOTEBOOK = "01_build"

# These say where the mart is and how it comes about, not what is in it.
_WITHOUT_EFFECT = ("database", "inputs_dir", "keep_previous", "memory_limit")


def recipe_of(values: Mapping[str, object]) -> str:
    """Hash of the recipe of 01_build as it stands in its file, with these values of its parameters."""
    declared = notebook_parameters(notebook_path(NOTEBOOK))
    shaping = {
        each.name: each.type(values[each.name]) for each in declared if each.name not in _WITHOUT_EFFECT
    }
    helpers = [(path.name, sha256_of(path)) for path in _helper_files()]
    recipe = [duckdb.__version__, shaping, _steps(), helpers]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()


def recipe_of_run(executed: Iterable[str], names: Mapping[str, object]) -> str | None:
    """Hash of the recipe of a run that is under way; None where it is not for certain that of the files.

    `executed` are the cells that its kernel has run so far, `names` what they have defined. They have to
    be the cells of 01_build, in their order and once, and this package the one that was loaded.
    """
    try:
        return _recipe_of_run([source for source in executed if source.strip()], names)
    except (MartError, OSError):  # the project has no such notebook
        return None


def _recipe_of_run(executed: list[str], names: Mapping[str, object]) -> str | None:
    parameters, *steps = executed or [""]  # some, such as nbval, keep no history
    names_in_file = [each.name for each in notebook_parameters(notebook_path(NOTEBOOK))]
    if _declared(parameters) != names_in_file:
        return None
    if steps and _is_injected(steps[0], names_in_file):
        steps.pop(0)
    if steps != _steps()[: len(steps)] or _have_helpers_changed():
        return None
    return recipe_of(names)


def unchanged_since(values: Mapping[str, object]) -> str | None:
    """The published build, as `build 7 of 2024-05-06 07:08 UTC`, if one with `values` would repeat it.

    None where anything differs or is in doubt: the recipe, a file of the extracts, or the mart itself,
    which is read to its end.
    """
    database = resolve(values["database"]).resolve()
    try:
        with open_published(database) as connection:
            build_id, built_at, recipe = connection.execute(_LAST_BUILD).fetchone()
            if recipe != recipe_of(values):
                return None
            if not _are_inputs_the_same(connection, build_id, resolve(values["inputs_dir"])):
                return None
        refuse_damaged(database)
    except (MartError, duckdb.Error, OSError, TypeError):  # the build will say what is wrong
        return None
    return f"build {build_id} of {built_at:%Y-%m-%d %H:%M} UTC"


def _are_inputs_the_same(connection: duckdb.DuckDBPyConnection, build_id: int, inputs_dir: Path) -> bool:
    rows = connection.execute(_INPUTS, [build_id]).fetchall()
    found = [
        source
        for table in {table for table, *_ in rows}
        for source in find_sources(inputs_dir, read_contract(connection, table))
    ]
    prints = {file: (size, sha256) for _, file, size, sha256 in rows}
    return len(unchanged(found, prints)) == len(found) == len(prints)


def _steps() -> list[str]:
    """The code cells of 01_build behind its parameters cell, as a kernel keeps them."""
    sources = (
        "".join(cell["source"]).rstrip("\n")
        for cell in notebook_cells(notebook_path(NOTEBOOK))
        if cell["cell_type"] == "code" and "parameters" not in cell.get("metadata", {}).get("tags", [])
    )
    return [source for source in sources if source.strip()]


def _declared(source: str) -> list[str]:
    try:
        return [each.name for each in read_parameters(source)]
    except UsageError:
        return []


def _is_injected(source: str, names: list[str]) -> bool:
    """Whether papermill wrote this cell: it assigns values to parameters, and does nothing else."""
    if not source.startswith(INJECTED):
        return False
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    return all(
        isinstance(each, ast.Assign)
        and is_literal(each.value)
        and {ast.unparse(target) for target in each.targets} <= set(names)
        for each in statements
    )


def _helper_files() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.py"))


def _have_helpers_changed() -> bool:
    """Whether a file of this package is younger than what this process has loaded of it."""
    return any(
        max(path.stat().st_mtime, path.stat().st_ctime) > mart_helpers.LOADED_AT
        for path in _helper_files()
    )


_LAST_BUILD = "select build_id, built_at, recipe from build_log order by build_id desc limit 1"

_INPUTS = """
select table_name, file, bytes, sha256
from build_inputs
where build_id = ? and sha256 <> ''
"""

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


def last_account(database: Path) -> list[str]:
    """What `account_of` tells of the mart. Raises StateError where there is none to read."""
    with open_published(database) as connection:
        return account_of(connection)


def account_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What the last build did with the rows it read.

    Further lines tell what is commonest in its quarantine, and which columns it missed or ignored.
    """
    from mart_helpers.quarantine import commonest_reasons

    rows = connection.execute(
        "select rows_read, rows_loaded, rows_quarantined from build_log order by build_id desc"
    ).fetchone()
    found, more = commonest_reasons(connection) if rows[-1] else ([], 0)
    reasons = [
        f"{count:,} × such as {file}, line {line}: {reason}" for count, file, line, reason in found
    ]
    reasons += [f"and {more} more, in the table quarantine"] if more else []
    columns = []
    with suppress(duckdb.Error):  # a mart of an older 01_build
        columns = [line for (line,) in connection.execute(_ODD_COLUMNS).fetchall()]
    return ["{:,} read, {:,} loaded, {:,} in quarantine".format(*rows), *reasons, *columns]


_ODD_COLUMNS = f"""
with latest as (
    select *
    from build_inputs
    where build_id = (select max(build_id) from {BUILD_LOG})
),
lines as (
    select file, 'has no column ' || defaulted_columns || ', so its default is taken' as line
    from latest
    where defaulted_columns <> ''
    union all
    select file, 'column ' || ignored_columns || ' is not known, and ignored'
    from latest
    where ignored_columns <> ''
)
select min(file) || if(count(*) > 1, ' and ' || count(*) - 1 || ' more', '') || ': ' || line
from lines
group by line
order by min(file), line desc
"""


def build_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, object]:
    """What the mart's log says of its last build; null is what it does not have.

    `build_id`, `built_at` (ISO 8601, UTC), `rows_loaded`, `rows_quarantined`, `revenue_loaded`,
    `revenue_quarantined` (money is text with all its decimals).
    """
    found = connection.execute(f"from {BUILD_LOG} order by build_id desc limit 1")
    columns = [column for column, *_ in found.description]
    build = dict(zip(columns, found.fetchone() or (), strict=False))
    built_at = build.get("built_at")
    revenue = {name: build.get(name) for name in ("revenue_loaded", "revenue_quarantined")}
    return {
        "build_id": build.get("build_id"),
        "built_at": built_at and built_at.isoformat(),
        "rows_loaded": build.get("rows_loaded"),
        "rows_quarantined": build.get("rows_quarantined"),
        **{name: None if money is None else str(money) for name, money in revenue.items()},
    }
