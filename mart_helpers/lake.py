"""The lake of a mart: a folder in which each build keeps its facts as Parquet files.

It is next to the mart as `<database>.lake`, which may be a link to another place. A fact is then a view
over `<lake>/build_<number>_<random>/<fact>/*.parquet`. An SQL variable with the name of the build holds
the path of the lake, so a mart can be moved with its lake. Other DuckDB clients do not set the variable;
for them the view looks in the place where the mart was built.
"""

import glob
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from mart_helpers.errors import StateError, UsageError
from mart_helpers.files import sync
from mart_helpers.parameters import shown
from mart_helpers.texts import literal, quoted

_BUILD = r"build_[0-9]+_[0-9a-f]{8}"

WORK = "work"  # in the folder of a build: what is needed until it is published

# Suffixes after the name of a mart: its candidate, and the kept marts next to it.
_BESIDE = re.compile(r"\.candidate$|\.(previous|damaged)-[0-9]+$")

# The tables of a mart and the views in place of facts, with the columns that both system lists share.
TABLES = """(
    select database_name, database_oid, schema_name, table_name, table_oid, comment from duckdb_tables()
    union all
    select database_name, database_oid, schema_name, view_name, view_oid, comment
    from duckdb_views() where starts_with(view_name, 'fact_') and contains(sql, 'getvariable(''build_')
)"""


def lake_of(database: Path) -> Path:
    """The path of the lake of a mart, of a kept mart, or of a candidate, whether or not it exists."""
    mart = database.resolve()
    return mart.with_name(f"{_BESIDE.sub('', mart.name)}.lake")


def builds_in(lake: Path) -> list[Path]:
    """The build folders in a lake."""
    found = lake.iterdir() if lake.is_dir() else ()
    return sorted(each for each in found if re.fullmatch(_BUILD, each.name))


def make_lake(database: Path, folder: Path) -> Path:
    """The lake of a mart in `folder`, created and linked if necessary.

    Raises UsageError if the folder holds the facts of another mart, or if the facts of this mart are in
    another folder, and StateError if the lake cannot be created.
    """
    lake = lake_of(database)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if lake.exists() and lake.samefile(folder):
            return lake
        if builds_in(lake):
            raise UsageError(
                f"lake: facts of {shown(database)} are in {shown(lake.resolve())}. Name that folder, or "
                f"first move its contents, and put a link {lake.name} to the new place next to the mart."
            )
        if builds_in(folder):
            raise UsageError(
                f"lake: {shown(folder)} holds the facts of another mart. Name another folder; or, if "
                f"they belong to this one, put a link {lake.name} to it next to the mart."
            )
        lake.unlink() if lake.is_symlink() else lake.exists() and lake.rmdir()
        lake.symlink_to(folder, target_is_directory=True)
    except OSError as error:
        raise StateError(
            f"lake: {shown(folder)} cannot be created or linked ({error}). Make it writable, or name "
            f"{shown(lake)}, which needs no link."
        ) from error
    return lake


def reach_lake(connection: duckdb.DuckDBPyConnection, database: Path, attached: str = "") -> list[Path]:
    """Let the views of the mart at `database` find their files, and return the folders that they read.

    `attached` is the name of the mart in the connection, by default its main database. Only the lake
    next to `database` is used, whatever path the file contains.
    """
    lake = lake_of(database)
    builds = _builds_of(connection, attached)
    for build in builds:
        connection.execute(f"set variable {build} = {literal(glob.escape(str(lake)))}")
    return [lake] if builds else []


def _builds_of(connection: duckdb.DuckDBPyConnection, attached: str = "") -> list[str]:
    """The build whose folder the views of a mart read, as a list: one, or none."""
    found = connection.execute(
        f"select distinct regexp_extract(sql, 'getvariable\\(''({_BUILD})''', 1) from duckdb_views() "
        "where database_name = coalesce(nullif(?, ''), current_database()) and schema_name = 'main' "
        "and starts_with(view_name, 'fact_')",
        [attached],
    )
    return [build for (build,) in found.fetchall() if build]


def sweep_lake(database: Path, marts: Iterable[Path]) -> None:
    """Remove build folders that none of the `marts` refers to; a killed build leaves such folders.

    Raises duckdb.Error, with nothing removed, if one of the marts cannot be read.
    """
    used: set[str] = set()
    builds = builds_in(lake_of(database))
    for mart in marts if builds else ():
        with duckdb.connect(str(mart), read_only=True) as connection:
            used.update(_builds_of(connection))
    for folder in builds:
        if folder.name not in used:
            shutil.rmtree(folder)


def new_build(connection: duckdb.DuckDBPyConnection) -> str:
    """A name for the folder of this build in the lake."""
    number = connection.execute("select getvariable('build_id')").fetchone()[0]
    return f"build_{number}_{os.urandom(4).hex()}"


def move_facts(connection: duckdb.DuckDBPyConnection, lake: Path) -> None:
    """Write the rows of each fact to files in the lake, and replace the table by a view of that name.

    Until then the table enforces its constraints; afterwards nobody changes the files. Facts that are
    in the lake already stay there. Raises StateError if the files do not read back as written, or if a
    view of the mart needs the table.
    """
    name = next(iter(_builds_of(connection)), None) or new_build(connection)
    facts = connection.execute(
        "select table_name from duckdb_tables() where database_name = current_database() "
        "and schema_name = 'main' and starts_with(table_name, 'fact_') order by table_oid desc"
    )
    for (fact,) in facts.fetchall():
        _move_fact(connection, lake, name, fact)
    shutil.rmtree(lake / name / WORK, ignore_errors=True)
    for folder in (lake / name, lake):
        sync(folder)
    views = connection.execute(
        "select schema_name, view_name from duckdb_views() where database_name = current_database() "
        "and schema_name in ('main', 'checks') and not internal"
    )
    for schema, view in views.fetchall():
        try:
            connection.execute(f"from {quoted(schema)}.{quoted(view)} limit 0")
        except duckdb.Error as error:
            raise StateError(
                f"{view} uses something of a fact that Parquet files do not have, like a rowid. "
                f"Change its cell, or build without lake. DuckDB says: {error}"
            ) from error


def _move_fact(connection: duckdb.DuckDBPyConnection, lake: Path, build: str, fact: str) -> None:
    columns = connection.execute(
        "select column_name, data_type, comment from duckdb_columns() where table_name = ? "
        "and database_name = current_database() and schema_name = 'main' order by column_index",
        [fact],
    ).fetchall()
    comment = connection.execute(
        "select comment from duckdb_tables() where table_name = ? "
        "and database_name = current_database() and schema_name = 'main'",
        [fact],
    ).fetchone()[0]
    table, view = f"main.{quoted(fact)}", f"{fact} in the lake"
    types = write_rows(connection, table, lake / build / fact / "0.parquet")
    create_fact(connection, view, lake, build, fact, types)
    connection.execute(f"drop table {table}")
    connection.execute(f"alter view main.{quoted(view)} rename to {quoted(fact)}")
    comments = {f"column {table}.{quoted(name)}": text for name, _, text in columns}
    for what, text in {f"view {table}": comment, **comments}.items():
        connection.execute(f"comment on {what} is {literal(text) if text else 'null'}")


def write_rows(connection: duckdb.DuckDBPyConnection, table: str, file: Path) -> dict[str, str]:
    """Write the rows of a table to a Parquet file, which is whole and on disk, or not there.

    Returns the types of the columns, by name. Raises StateError, naming the folder of the file, if the
    rows do not read back as they were written.
    """
    types = {name: kind for name, kind, *_ in connection.execute(f"describe from {table}").fetchall()}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
    # Parquet has no 128-bit integers and would round them
    written = ", ".join(
        quoted(name) + ("::decimal(38, 0)" if kind == "HUGEINT" else "") + f" as {quoted(name)}"
        for name, kind in types.items()
    )
    sums = "select count(*), sum(hash(rows)) from {} as rows"
    try:
        connection.execute(
            f"copy (select {written} from {table}) to {literal(part)} (format parquet, compression zstd)"
        )
        before = connection.execute(sums.format(table)).fetchall()
        after = connection.execute(sums.format(f"({rows_in(pattern(part), types)})")).fetchall()
    except duckdb.ConversionException as error:
        raise _not_held(file.parent.name, str(error)) from error
    if before != after:
        raise _not_held(file.parent.name, "the files do not read back as they were written")
    sync(part)
    os.replace(part, file)
    sync(file.parent)
    return types


def rows_in(files: str, types: Mapping[str, str]) -> str:
    """A query for the rows of Parquet files; `files` is SQL for their pattern."""
    read = ", ".join(f"{quoted(name)}::{kind} as {quoted(name)}" for name, kind in types.items())
    return f"select {read} from read_parquet({files}, hive_partitioning = false)"


def create_fact(
    connection: duckdb.DuckDBPyConnection, view: str, lake: Path, build: str, fact: str, types: Mapping
) -> None:
    """Create the view of a fact whose files are in the folder of a build."""
    place = f"coalesce(getvariable('{build}'), {literal(glob.escape(str(lake)))})"
    files = f"{place} || {literal(f'/{build}/{glob.escape(fact)}/*.parquet')}"
    connection.execute(f"create view main.{quoted(view)} as {rows_in(files, types)}")


def pattern(path: Path, files: str = "") -> str:
    """SQL for the pattern of these files in the folder `path`, or of this file alone."""
    return literal(glob.escape(str(path)) + files)


def _not_held(fact: str, reason: str) -> StateError:
    return StateError(
        f"{fact} cannot be kept as Parquet files ({reason}). Cast the column whose type Parquet lacks, "
        "in the cell that makes the fact, or build without lake."
    )


def without_gaps(candidate: Path) -> None:
    """Copy a closed candidate into a new file, because DuckDB keeps the space of dropped tables."""
    new = candidate.with_name(f"{candidate.name}.tmp") / "new.duckdb"
    new.parent.mkdir(exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute(f"attach {literal(candidate)} as old (read_only)")
        connection.execute(f"attach {literal(new)} as new")
        connection.execute("copy from database old to new")
    os.replace(new, candidate)
    new.parent.rmdir()


def leaves(connection: duckdb.DuckDBPyConnection, database: Path) -> dict[str, Path]:
    """The folder with the files of each fact that the mart of the connection has in its lake."""
    found = connection.execute(
        f"select view_name, regexp_extract(sql, 'getvariable\\(''({_BUILD})''', 1) from duckdb_views() "
        "where database_name = current_database() and schema_name = 'main' "
        "and starts_with(view_name, 'fact_')"
    )
    return {
        fact: lake_of(database).resolve() / build / fact for fact, build in found.fetchall() if build
    }
