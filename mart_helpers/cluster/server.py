"""A cluster that answers the large questions of a session, while DuckDB answers all others."""

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.connect.client.retries import DefaultPolicy
from pyspark.sql.pandas.types import from_arrow_schema
from sqlglot import exp

from mart_helpers.cluster.catalog import Catalog, Refused, name_there
from mart_helpers.cluster.parts import Splitter, Step
from mart_helpers.cluster.spark import spark_sql
from mart_helpers.errors import QueryError, StateError, UsageError
from mart_helpers.lake import leaves
from mart_helpers.parameters import shown
from mart_helpers.texts import one_line, quoted

MOST_ROWS = 2_000_000  # that a part may bring

# What takes the rows of a select.
_INTO = re.compile(
    r"(create (?:or replace )?(?:temp(?:orary)? )?table \S+ as|insert into \S+(?: by name)?"
    r"|set variable \w+ =|copy)\s(.*?)(\sto '.*)?",
    re.IGNORECASE | re.DOTALL,
)
# What only names or describes tables.
_NAMING = re.compile(
    r"describe|show|explain|create (?:or replace )?(?:temp(?:orary)? )?(?:view|macro)|comment|drop"
    r"|from .* limit 0$",
    re.IGNORECASE | re.DOTALL,
)
_CHANGES = re.compile(r"update|delete|merge", re.IGNORECASE)
_COMMENTS = re.compile(r"\A(?:\s*--[^\n]*\n|\s+)*")


class Sent(NamedTuple):
    """A select that the cluster has answered: its text there, seconds and rows."""

    text: str
    seconds: float
    rows: int


def connect(address: str) -> SparkSession:
    """A session on the Spark Connect server at `address`. Raises StateError if it cannot be reached."""
    host, _, port = address.removeprefix("sc://").partition("/")[0].partition(":")
    try:
        # the client would try for ten minutes
        with socket.create_connection((host, int(port or 15002)), timeout=30):
            pass
        os.environ.setdefault("SPARK_CONNECT_MODE_ENABLED", "1")
        spark = SparkSession.builder.remote(address).create()
        # about a minute, rather than ten
        spark.client.set_retry_policies([DefaultPolicy(max_retries=9, max_backoff=10_000)])
        spark.conf.set("spark.sql.session.timeZone", "UTC")
        # products of decimals keep all their decimals, as in DuckDB
        spark.conf.set("spark.sql.decimalOperations.allowPrecisionLoss", "false")
    except Exception as error:
        raise StateError(
            f"cluster: {address} cannot be reached. Start the server, or correct the address; "
            f"docs/cluster.md says how. It says: {one_line(str(error))[:300]}"
        ) from error
    return spark


class Cluster:
    """DuckDB's connection to a mart, with a Spark Connect server for its large questions.

    It has the methods of a connection. `sent` lists what the server has answered.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, database: Path, address: str) -> None:
        self.duckdb = connection
        self.sent: list[Sent] = []
        self._large: dict[str, str] = {}
        if not (large := leaves(connection, database)):
            raise UsageError(
                f"cluster: {shown(database)} has no lake, and a cluster reads facts from there. "
                "Build it with --lake, or leave cluster empty."
            )
        self._spark = connect(address)
        for name, folder in large.items():
            self.add(name, folder)

    def add(self, name: str, folder: Path) -> None:
        """Let the server compute over a large table, whose rows are the files in a folder."""
        key = name.lower()
        self._large[key] = name_there(key)
        self._splitter = Splitter(self.duckdb, {*self._large.values()})
        self._spark.read.parquet(str(folder)).createOrReplaceTempView(self._large[key])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.duckdb, name)

    def execute(self, query: Any, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        """DuckDB's connection with the result of the query."""
        rest = self._rest(query, parameters)
        return self.duckdb.execute(rest) if rest else self.duckdb.execute(query, parameters)

    def sql(self, query: Any) -> duckdb.DuckDBPyRelation:
        """The relation of a select."""
        return self.duckdb.sql(self._rest(query, None) or query)

    def close(self) -> None:
        """Close both."""
        self.duckdb.close()
        self._spark.stop()

    def _rest(self, query: Any, parameters: Any) -> str | None:
        """DuckDB's statement once the rows of the parts are at hand; None if all is DuckDB's.

        Raises QueryError, before anything is sent, if the cluster cannot compute it.
        """
        sql = query.query if isinstance(query, duckdb.Statement) else query
        sql = sql[_COMMENTS.match(sql).end() :].rstrip().rstrip(";")
        values = parameters if isinstance(parameters, Mapping) else {}
        catalog = Catalog(self.duckdb, {*self._large}, values)
        if _NAMING.match(sql) or not catalog.reaches_large(sql):
            return None
        before, select, after = "", sql, ""
        if into := _INTO.fullmatch(sql):
            before, select, after = into[1], into[2].strip(), into[3] or ""
        try:
            if change := _CHANGES.match(sql):
                raise Refused(f"`{change[0].lower()}` from rows of a large table")
            rest = self._computed(catalog, select, values)
        except Refused as error:
            raise QueryError(f"The cluster cannot compute {error} in: {_short(sql)}") from error
        if not rest or not before:
            return rest
        return f"{before} ({rest}){after}"

    def _computed(self, catalog: Catalog, select: str, values: Mapping[str, object]) -> str | None:
        described = self.duckdb.execute(f"describe {select}", values or None).fetchall()
        columns = [each[:2] for each in described]
        rest, steps = self._splitter.split(catalog, catalog.flat(select))
        if not steps:
            return None
        texts = {each.name: spark_sql(each.select, catalog.schema) for each in steps if each.is_sent}
        _name(rest, [name for name, _ in columns])
        found = rest.sql(dialect="duckdb")
        if [each[:2] for each in self.duckdb.execute(f"describe {found}").fetchall()] != columns:
            raise Refused("columns of these names and types")
        for each in steps:
            if each.is_sent:
                self._fetch(each, texts[each.name], select)
            else:
                sql = each.select.sql(dialect="duckdb")
                self.duckdb.execute(f"create or replace temp table {each.name} as {sql}")
        return found

    def _fetch(self, step: Step, text: str, sql: str) -> None:
        small = {table.name for table in step.select.find_all(exp.Table)} - {*self._large.values()}
        columns = {column.name.lower() for column in step.select.find_all(exp.Column)}
        began = monotonic()
        try:
            for name in small:
                self._send(name, columns)
            rows = self._spark.sql(text).limit(MOST_ROWS + 1).toArrow()
            for name in small:  # the server would keep them in its memory
                self._spark.catalog.dropTempView(name)
        except PySparkException as error:
            said = one_line(str(error))[:500]
            raise QueryError(f"The cluster says: {said} (It was asked: {_short(text)})") from error
        self._note(Sent(text, monotonic() - began, rows.num_rows), sql)
        if rows.num_rows > MOST_ROWS:
            raise QueryError(
                f"The cluster would bring more than {MOST_ROWS:,} rows to this machine for: "
                f"{_short(sql)}. Group more coarsely."
            )
        # Spark's times have a zone, UTC, where DuckDB's have none
        plain = [
            pa.field(each.name, pa.timestamp("us") if pa.types.is_timestamp(each.type) else each.type)
            for each in rows.schema
        ]
        self.duckdb.register("arrived", rows.cast(pa.schema(plain)))
        self.duckdb.execute(f"insert into {step.name} from arrived")
        self.duckdb.unregister("arrived")

    def _note(self, sent: Sent, sql: str) -> None:
        """List what was sent, in a run next to the executed notebook, too."""
        self.sent.append(sent)
        if executed := os.environ.get("MART_EXECUTED"):
            with Path(executed).with_suffix(".sent.sql").open("a", encoding="utf-8") as log:
                log.write(
                    f"-- {sent.seconds:.2f} s, {sent.rows} rows, for: {_short(sql)}\n{sent.text};\n\n"
                )

    def _send(self, name: str, columns: set[str]) -> None:
        """Give the cluster the rows of a small table or view, with those of the columns that it has."""
        relation = self.duckdb.sql(f"from {quoted(name)}")
        asked = [each for each in relation.columns if each.lower() in columns] or relation.columns[:1]
        rows = relation.select(*map(duckdb.ColumnExpression, asked)).to_arrow_table()
        schema = None if rows.num_rows else from_arrow_schema(rows.schema)
        frame = self._spark.createDataFrame([] if schema else rows, schema)
        frame.createOrReplaceTempView(name)


def _short(sql: str) -> str:
    return one_line(" ".join(sql.split()))


def _name(query: exp.Expression, names: list[str]) -> None:
    """Give the columns of a query the names that they have in DuckDB."""
    while not isinstance(query, exp.Select):
        query = query.this
    if len(query.expressions) == len(names) and not query.is_star:
        for each, name in zip(query.expressions, names, strict=True):
            each.replace(exp.alias_(each.unalias().copy(), name, quoted=True))
