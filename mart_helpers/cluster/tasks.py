"""What a worker of a cluster does with one file. Nothing here needs Spark.

A worker opens copies of the small part of the candidate: the contract, the books, the dimensions. Each
task writes files with the number of its input file, so a task that is repeated writes the same files.
"""

import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import duckdb

import mart_helpers
from mart_helpers import errors
from mart_helpers.contract import Table
from mart_helpers.lake import pattern, rows_in, write_rows
from mart_helpers.loading import PartLoader
from mart_helpers.session import Session, confine, connect, in_words
from mart_helpers.sources import Found, open_source
from mart_helpers.staging import create_days, staging_of
from mart_helpers.texts import literal, quoted

_MEMORY = "1GB"

#: The id of a row in the whole table: the number of its file times `ROWS`, plus that of its record.
ROW = quoted(" row")
ROWS = 1 << 40


class Shipped(NamedTuple):
    """The small part of a candidate: two database files in the lake, and what no file holds."""

    catalog: Path
    staging: Path
    views: tuple[str, ...]
    variables: Mapping[str, tuple[str | None, str]]
    reads_from: tuple[Path, ...]


class Large(NamedTuple):
    """A table of the build that is kept as a folder of Parquet files, one per input file."""

    schema: str
    name: str
    folder: Path
    types: Mapping[str, str]

    @property
    def sql_name(self) -> str:
        return f"{self.schema}.{quoted(self.name)}"

    def numbers(self) -> list[int]:
        """The numbers of its files."""
        return sorted(int(path.stem) for path in self.folder.glob("*.parquet"))

    def rows(self, number: int | None = None) -> str:
        """A query for the rows of the file with this number, or for all."""
        return rows_in(
            pattern(self.folder, "/*.parquet" if number is None else file_name(number)), self.types
        )


def file_name(number: int) -> str:
    """The name of the Parquet file that is made from an input file, in the order of these files."""
    return f"/{number:06d}.parquet"


def perform(task: Callable[[], object], versions: list[str]) -> str:
    """The result of a task as JSON, beside an empty text; or the kind and words of its error."""
    try:
        if versions != versions_here():
            raise errors.StateError(
                f"the worker {socket.gethostname()} has {', '.join(versions_here())}; this program has "
                f"{', '.join(versions)}. Install the same on all machines."
            )
        with in_words():
            return json.dumps(["", task()])
    except errors.MartError as error:
        return json.dumps([type(error).__name__, str(error)])
    except OSError as error:
        words = (
            f"the worker {socket.gethostname()} cannot use a file: {error}. All machines need the lake "
        )
        return json.dumps(["StateError", f"{words}and the inputs under the same path."])


@cache
def versions_here() -> list[str]:
    """Python, DuckDB and the code of this project, as a worker must have them, too."""
    home = Path(mart_helpers.__file__).parent
    code = sha256(b"".join(path.read_bytes() for path in sorted(home.rglob("*.py"))))
    python = ".".join(map(str, sys.version_info[:2]))
    return [f"Python {python}", f"DuckDB {duckdb.__version__}", f"mart_helpers {code.hexdigest()[:8]}"]


@contextmanager
def opened(shipped: Shipped, *, optimizes: bool = True) -> Iterator[Session]:
    """A session on a copy of the candidate's small part, in a folder of its own."""
    with TemporaryDirectory(prefix="mart-") as folder:
        catalog, staging = (
            Path(shutil.copyfile(path, Path(folder) / path.name))
            for path in (shipped.catalog, shipped.staging)
        )
        connection = connect(catalog)
        try:
            connection.execute(f"set threads = 1; set memory_limit = '{_MEMORY}'")
            if not optimizes:
                connection.execute("pragma disable_optimizer")
            connection.execute(f"attach {literal(staging)} as staging")
            for name, (value, kind) in shipped.variables.items():
                shown = "null" if value is None else f"{literal(value)}::{kind}"
                connection.execute(f"set variable {quoted(name)} = {shown}")
            confine(connection, [Path(folder), *shipped.reads_from])
            yield Session(connection, catalog, {}, candidate=catalog)
        finally:
            connection.close()


def load_file(
    shipped: Shipped, table: Table, file: Found, number: int, share: float, work: Path
) -> object:
    """Load one file of a fact; returns what became of its rows.

    The rows, those set aside, the entries of the quarantine and the days are left in `work`. With each
    row goes its id in the whole table, `ROW`, and a hash of each key, null if a part of it is missing.
    """
    with opened(shipped) as session:
        connection, staged = session.connection, staging_of(table.name)
        loader = PartLoader(session, file.path.parent, share)
        outcome, first = loader.load_file(table, open_source(file, table))
        connection.execute("create view staging.days_of_facts as select null::date as day limit 0")
        create_days(connection, [table])
        hashes = (
            f"{_hash_sql(key)} as {key_name(n)}" for n, key in enumerate((table.key, *table.uniques))
        )
        columns = ", ".join([*map(quoted, table.column_names), *hashes])
        parts = {
            "aside": staging_of(f"{table.name}_quarantined"),
            "entries": f"(from quarantine where table_name = {literal(table.name)})",
            "days": "(select distinct day from staging.days_of_facts)",
            "staging": f"(select {columns}, {number * ROWS + first} + rowid as {ROW} from {staged})",
        }
        for name, rows in parts.items():
            write_rows(connection, rows, Path(f"{work}/{name}/{table.name}{file_name(number)}"))
        return outcome


def key_name(number: int) -> str:
    """The name of the column with the hashes of a key; the primary key has number 0."""
    return quoted(f" key {number}")


def _hash_sql(columns: tuple[str, ...]) -> str:
    # Spark has no unsigned integers
    is_there = " and ".join(f"{quoted(name)} is not null" for name in columns)
    return f"case when {is_there} then (hash({', '.join(map(quoted, columns))}) >> 1)::bigint end"


def make_rows(
    shipped: Shipped, large: Large, select: str, values: Mapping[str, object], folder: Path, number: int
) -> int:
    """Run a select over one file of a large table, into the folder; returns the number of rows."""
    with opened(shipped) as session:
        connection = session.connection
        create_view(connection, shipped, large, large.rows(number))
        connection.execute(f"create temp table made as {select}", values or None)
        write_rows(connection, "made", Path(f"{folder}{file_name(number)}"))
        return connection.execute("select count(*) from made").fetchone()[0]


def add_up_rows(shipped: Shipped, large: Large, sums: list[str], number: int) -> list[str | None]:
    """Sums over one file of a large table, as text."""
    with opened(shipped) as session:
        create_view(session.connection, shipped, large, large.rows(number))
        return session.connection.execute(f"select {', '.join(sums)} from {large.sql_name}").fetchone()


def create_view(
    connection: duckdb.DuckDBPyConnection, shipped: Shipped, large: Large, rows: str
) -> None:
    """Make `rows` the rows of the large table, and create the views of staging that can be created."""
    connection.execute(f"create or replace view {large.sql_name} as {rows}")
    connection.execute("use staging")
    for view in shipped.views:
        with suppress(duckdb.Error):  # it is there already, or it reads another large table
            connection.execute(view)
    connection.execute(f"use {quoted(shipped.catalog.stem)}")
