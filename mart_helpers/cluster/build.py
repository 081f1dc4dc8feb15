"""Loads and makes the facts of a candidate on a cluster, one task for each input file.

The rows of a fact are Parquet files in the lake, and for DuckDB a view over them. Small tables, the
books and the catalog stay in the candidate.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, localcontext
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import duckdb
import pyarrow as pa
from pyspark.errors import PySparkException
from sqlglot import exp

from mart_helpers import errors
from mart_helpers.cluster.catalog import Catalog, key_of, name_there
from mart_helpers.cluster.plan import refuse_other_rows
from mart_helpers.cluster.server import Cluster, Sent, connect
from mart_helpers.cluster.tasks import (
    ROW,
    ROWS,
    Large,
    Shipped,
    add_up_rows,
    create_view,
    file_name,
    key_name,
    load_file,
    make_rows,
    opened,
    perform,
    versions_here,
)
from mart_helpers.contract import Table
from mart_helpers.errors import QueryError, StateError
from mart_helpers.lake import WORK, create_fact, new_build, pattern, write_rows
from mart_helpers.loading import Loader, Outcome
from mart_helpers.mapping import SCHEMA as MAPPING
from mart_helpers.quarantine import (
    SAMPLE,
    find_problems,
    inferring_references,
    keep_sample,
    set_bad_rows_aside,
    write_entries,
)
from mart_helpers.session import Session, current_database
from mart_helpers.sources import Found, find_files, open_source
from mart_helpers.staging import SUSPECT, Run, create_staging, days_of, staging_of
from mart_helpers.texts import literal, one_line, quoted

_MADE = re.compile(
    r"^(?:\s*--[^\n]*\n)*\s*create\s+(?P<again>or\s+replace\s+)?table\s+"
    r"(?:(?P<schema>staging)\.\"?(?=\w)|(?:main\.)?\"?(?=fact_))(?P<name>\w+)\"?\s+as\s+",
    re.IGNORECASE,
)

_COMMENTED = re.compile(r'^(\s*comment\s+on\s+)table(\s+(?:main\.)?"?(\w+)"?\s)', re.IGNORECASE)


class Builder(Cluster):
    """The cluster at `address` as a build uses it; its files are in the lake of the `session`."""

    def __init__(self, session: Session, address: str) -> None:
        self.duckdb, self.sent, self._large = session.connection, [], {}
        self._spark = connect(address)
        self._lake = session.lake
        self._build = new_build(session.connection)
        self._work = session.lake.resolve() / self._build / WORK
        self._made: dict[str, Large] = {}
        self._numbers = count()
        words = "-- the comparison with the published mart, and samples of bad rows, are DuckDB's, here"
        self._note(Sent(words, 0, 0), "what is not sent")

    def leave(self) -> None:
        """End the session on the server; DuckDB's stays."""
        self._spark.stop()

    def load(self, loader: Loader, table: Table) -> list[Outcome] | None:
        """Load the files of a fact, one task each, as `Loader` does; None if it has no files."""
        self._refuse_what_needs_all_files(table)
        files = find_files(loader.inputs_dir, table.name, is_optional=table.is_optional)
        if not files:
            return None
        for earlier in self._work.glob(f"*/{table.name}"):
            shutil.rmtree(earlier)
        shipped = self._ship(loader.inputs_dir)
        tasks = [
            partial(load_file, shipped, table, file, number, loader.max_rejected_share, self._work)
            for number, file in enumerate(files)
        ]
        outcomes = [Outcome(*each) for each in self._spread(f"load {table.name}", tasks)]
        bad = self._joined(loader, table, files, outcomes)
        return [
            each._replace(rows_loaded=each.rows_read - bad[each.file], rows_quarantined=bad[each.file])
            for each in outcomes
        ]

    def _refuse_what_needs_all_files(self, table: Table) -> None:
        reason = ""
        mapped = f"select view_name from duckdb_views() where schema_name = '{MAPPING}'"
        if (table.name,) in self.duckdb.execute(mapped).fetchall():
            reason = f"mapping.{table.name} makes its rows"
        if any(each.table == table.name for each in table.references):
            reason = f"contract.{table.name} refers to itself"
        if inferred := [each.table for each in inferring_references(self.duckdb, table)]:
            reason = f"members of {inferred[0]} would have to be inferred"
        if reason:
            raise StateError(
                f"{table.name} cannot be loaded on a cluster, file by file, because {reason}. "
                "Build without cluster."
            )

    def _joined(
        self, loader: Loader, table: Table, files: Sequence[Found], outcomes: Sequence[Outcome]
    ) -> Counter[str]:
        """Make one table of the loaded files, and return the number of bad rows of each.

        The rows whose keys may repeat are fetched, and judged like a table of these rows alone.
        """
        connection = self.duckdb
        read = Counter({each.file: each.rows_read for each in outcomes})
        bad = sum(each.rows_quarantined for each in outcomes)
        more = self._find_repeating(table, lambda more: loader.is_too_bad(bad + more, read.total()))
        connection.execute(f"insert into quarantine by name {self._left('entries', table)}")
        connection.execute(f"drop view if exists {staging_of(table.name)}")
        create_staging(connection, table)
        runs = self._fetched(table, files)
        bad += max(more, find_problems(connection, table))
        if loader.is_too_bad(bad, read.total()):
            keep_sample(connection)
        by_source = write_entries(connection, table, runs, None)
        loader.refuse_bad(table, read, bad, by_source)
        self._take_out(table)
        set_bad_rows_aside(connection, table)
        aside = staging_of(f"{table.name}_quarantined")
        connection.execute(f"insert into {aside} by name {self._left('aside', table)}")
        self._show(table)
        return by_source

    def _left(self, what: str, table: Table) -> str:
        """A query for what the tasks have left of a table."""
        return f"select * from read_parquet({pattern(self._work / what / table.name, '/*.parquet')})"

    def _find_repeating(self, table: Table, is_too_bad: Callable[[int], bool]) -> int:
        """Put the ids of the rows whose keys may repeat into the table `repeating`.

        These are the first and the last rows of some keys if the table will be refused. Returns how many
        rows at least repeat a key then; otherwise 0, since all such rows are there to be judged.
        """
        self._spark.read.parquet(f"{self._work}/staging/{table.name}").createOrReplaceTempView("keys")
        row = _in_spark(ROW)
        self.duckdb.execute("create or replace temp table repeating (row bigint primary key)")
        for key in (_in_spark(key_name(n)) for n in range(1 + len(table.uniques))):
            repeated = (
                f"select {key}, min({row}) as first, max({row}) as last, count(*) - 1 as more "
                f"from keys where {key} is not null group by {key} having count(*) > 1"
            )
            counted = self._asked(f"select coalesce(sum(more), 0) as more from ({repeated})")
            more = counted["more"][0].as_py()
            if is_too_bad(more):
                ends = self._asked(f"select first, last from ({repeated}) order by last limit {SAMPLE}")
                self._note_repeating("select unnest([first, last]) from arrived", ends)
                return more
            if more:
                rows = self._asked(f"select {row} as row from keys join ({repeated}) using ({key})")
                self._note_repeating("from arrived", rows)
        return 0

    def _note_repeating(self, rows: str, arrived: pa.Table) -> None:
        self.duckdb.register("arrived", arrived)
        self.duckdb.execute(f"insert or ignore into repeating {rows}")
        self.duckdb.unregister("arrived")

    def _asked(self, sql: str) -> pa.Table:
        try:
            return self._spark.sql(sql).toArrow()
        except PySparkException as error:
            raise StateError(f"The cluster cannot compare keys: {one_line(str(error), 500)}") from error

    def _fetched(self, table: Table, files: Sequence[Found]) -> list[Run]:
        """Put the rows of `repeating` into staging, and return where they come from."""
        names, runs = ", ".join(map(quoted, table.column_names)), []
        for file_no, rows in self._rows_by_file("repeating"):
            part = pattern(self._work / "staging" / table.name, file_name(file_no))
            rows_of_keys = f"where {ROW} in (select row from repeating) order by {ROW}"
            self.duckdb.execute(
                f"insert into {staging_of(table.name)} ({names}) "
                f"select {names} from read_parquet({part}) {rows_of_keys}"
            )
            source = open_source(files[file_no], table)
            runs += [Run(n, source, row % ROWS, 1) for n, row in enumerate(rows, len(runs))]
        return runs

    def _take_out(self, table: Table) -> None:
        """Write the files anew that have rows with problems, without these rows."""
        # each row of staging has come from one of these, in order
        ids = "(select row, row_number() over (order by row) - 1 as row_id from repeating)"
        of_problems = f"(from {ids} where row_id in (select row_id from problems))"
        for file_no, rows in self._rows_by_file(of_problems):
            part = Path(f"{self._work}/staging/{table.name}{file_name(file_no)}")
            kept = f"(from read_parquet({pattern(part)}) where {ROW} not in (select unnest({rows})))"
            write_rows(self.duckdb, kept, part)

    def _rows_by_file(self, rows: str) -> list[tuple[int, list[int]]]:
        """The number of each file with such rows, and their ids in order."""
        query = f"select row // {ROWS}, list(row order by row) from {rows} group by all order by all"
        return self.duckdb.execute(query).fetchall()

    def _show(self, table: Table) -> None:
        """Let a view take the place of the staging table, and a table that of its days."""
        staged, days = staging_of(table.name), staging_of(days_of(table.name))
        self.duckdb.execute(f"alter table {staged} drop column {SUSPECT}")
        described = self.duckdb.execute(f"describe {staged}").fetchall()
        types = {name: kind for name, kind, *_ in described}
        self.duckdb.execute(f"drop table {staged}")
        self._add(Large("staging", table.name, self._work / "staging" / table.name, types))
        found = self._left("days", table)
        self.duckdb.execute(f"create or replace table {days} as select distinct day from ({found})")

    def add_up(self, table: str, sums: Sequence[str]) -> list[str | None]:
        """Sums over the loaded rows of a table; each is SQL for a sum as text, null if there is none."""
        if not (large := self._made.get(_key("staging", table))):
            query = f"select {', '.join(sums)} from {staging_of(table)}"
            return list(self.duckdb.execute(query).fetchone())
        shipped = self._ship()
        tasks = [partial(add_up_rows, shipped, large, list(sums), n) for n in large.numbers()]
        with localcontext(prec=80):
            columns = zip(*self._spread(f"add up {table}", tasks), strict=True)
            found = [[Decimal(each) for each in column if each is not None] for column in columns]
            return [format(sum(column), "f") if column else None for column in found]

    def execute(self, query: Any, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        """As a connection does; a fact made from another large table is made in tasks, and is a view."""
        sql = query.query if isinstance(query, duckdb.Statement) else query
        if (found := _COMMENTED.match(sql)) and _key("main", found[3]) in self._made:
            return self.duckdb.execute(f"{found[1]}view{sql[found.end(1) + len('table') :]}")
        if (found := _MADE.match(sql)) and Catalog(self.duckdb, {*self._large}, {}).reaches_large(sql):
            values = parameters if isinstance(parameters, Mapping) else {}
            schema, name = found["schema"] or "main", found["name"]
            if _key(schema, name) in self._made and not found["again"]:
                raise QueryError(f"{name} already exists. Has this cell run before?")
            if self._make(schema, name, sql[found.end() :].rstrip().rstrip(";"), values):
                return self.duckdb
        return super().execute(query, parameters)

    def _make(self, schema: str, name: str, select: str, values: Mapping[str, object]) -> bool:
        """Make a table from another large one, file by file; False if it is made from small ones."""
        described = self.duckdb.execute(f"describe {select}", values or None).fetchall()
        shipped = self._ship()
        if not (large := self._planned(shipped, name, select, values)):
            return False
        folder = (self._work / "staging" if schema == "staging" else self._work.parent) / name
        if folder == large.folder:
            raise QueryError(f"{name} would be made from itself. Give it another name.")
        shutil.rmtree(folder, ignore_errors=True)
        tasks = [partial(make_rows, shipped, large, select, values, folder, n) for n in large.numbers()]
        rows = self._spread(f"make {name}", tasks)
        made = Large(schema, name, folder, {name: kind for name, kind, *_ in described})
        self._add(made)
        found = self.duckdb.execute(f"select count(*) as Count from {made.sql_name}").fetchone()[0]
        if found != sum(rows):
            raise StateError(
                f"{name}: the workers wrote {sum(rows):,} rows, and {found:,} are in the lake."
            )
        return True

    def _planned(self, shipped: Shipped, name: str, select: str, values: Mapping) -> Large | None:
        """The large table whose files can be asked one by one; QueryError if the select forbids it."""
        stand_ins = {f" {key}": each for key, each in self._made.items()}
        with opened(shipped, optimizes=False) as session:
            for table, each in stand_ins.items():
                empty = f"staging.{quoted(table)}"
                columns = ", ".join(f"{quoted(column)} {kind}" for column, kind in each.types.items())
                session.connection.execute(f"create table {empty} ({columns})")
                create_view(session.connection, shipped, each, f"from {empty}")
            explained = session.connection.execute(f"explain (format json) {select}", values or None)
            plan = json.loads(explained.fetchall()[0][1])[0]
        return stand_ins.get(refuse_other_rows(name, plan, {*stand_ins}))

    def _add(self, large: Large) -> None:
        name, key = large.name, _key(large.schema, large.name)
        if large.schema == "main":
            self.duckdb.execute(f"drop view if exists {large.sql_name}")
            create_fact(self.duckdb, name, self._lake, self._build, name, large.types)
        else:
            for view in (f"view {large.sql_name}", f"temp view {quoted(name_there(key))}"):
                self.duckdb.execute(f"create or replace {view} as {large.rows()}")
        self._made[key] = large
        self.add(key, large.folder)

    def _ship(self, *reads_from: Path) -> Shipped:
        """Copies of the candidate and of its staging tables for the workers, without what is large."""
        connection, main = self.duckdb, current_database(self.duckdb)
        folder = self._work / "shipped" / str(next(self._numbers))
        folder.mkdir(parents=True)
        catalog, staging = folder / f"{main}.duckdb", folder / "staging.duckdb"
        connection.execute(f"attach {literal(catalog)} as shipped")
        connection.execute(f"copy from database {quoted(main)} to shipped; detach shipped")
        connection.execute(f"attach {literal(staging)} as shipped")
        left_out = {f"{each.name}_quarantined" for each in self._made.values()}
        for (name,) in connection.execute(_STAGING_TABLES).fetchall():
            if name not in left_out:
                connection.execute(f"create table shipped.{quoted(name)} as from {staging_of(name)}")
        connection.execute("detach shipped")
        views = [sql for (sql,) in connection.execute(_STAGING_VIEWS).fetchall()]
        names = connection.execute("select name from duckdb_variables()").fetchall()
        variables = {name: self._variable(name) for (name,) in names}
        return Shipped(catalog, staging, tuple(views), variables, (self._lake.resolve(), *reads_from))

    def _variable(self, name: str) -> tuple[str | None, str]:
        """The text of a variable, and its type."""
        value = f"getvariable({literal(name)})"
        return self.duckdb.execute(f"select {value}::varchar, typeof({value})").fetchall()[0]

    def _spread(self, what: str, tasks: Sequence[Callable[[], object]]) -> list:
        """The results of the tasks, each done by a worker. Raises the first error of theirs."""
        versions, began = versions_here(), monotonic()

        def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                numbers = batch.column(0).to_pylist()
                done = [perform(tasks[number], versions) for number in numbers]
                yield pa.RecordBatch.from_pydict({"number": numbers, "done": done})

        try:
            numbers = self._spark.range(0, len(tasks), 1, len(tasks))
            found = numbers.mapInArrow(run, "number bigint, done string").toArrow().to_pylist()
        except PySparkException as error:
            if "No module named 'mart_helpers" in str(error):
                raise StateError("A worker lacks this project. Install it on all machines.") from error
            raise StateError(f"The cluster could not {what}: {one_line(str(error), 500)}") from error
        self._note(
            Sent(f"-- {len(tasks):,} files, each one task", monotonic() - began, len(found)), what
        )
        done = {each["number"]: json.loads(each["done"]) for each in found}
        if len(done) != len(tasks):
            raise StateError(f"The cluster could not {what}: {len(done):,} of {len(tasks):,} files.")
        for number in range(len(tasks)):
            kind, result = done[number]
            if kind:
                raise getattr(errors, kind)(result)
        return [done[number][1] for number in range(len(tasks))]


def _key(schema: str, name: str) -> str:
    return key_of(exp.table_(name, db=schema))


def _in_spark(name: str) -> str:
    return name.replace('"', "`")


_STAGING_TABLES = """
select table_name
from duckdb_tables()
where database_name = 'staging'
order by table_oid
"""

_STAGING_VIEWS = """
select sql
from duckdb_views()
where database_name = 'staging' and not internal
order by view_oid
"""
