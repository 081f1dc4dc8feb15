"""Mappings: views in schema `mapping` that turn a foreign file into rows of a declared table.

A mapping is one `select` over `source.<file>` (see `raw`). This module reads it back from the catalog,
parses it with DuckDB, and adds to each row its place in the file and the values that could not be read,
which are those for which a reader, a cast or a function like `try_strptime` gave null. A reader is a
macro whose comment begins with `reads: `; the rest of the comment is the reason, in which the macro's
arguments replace [words] in brackets.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb

from mart_helpers.contract import Table, declared_tables, trimmed_sql
from mart_helpers.errors import InputError, StateError
from mart_helpers.raw import IS_READ, ORIGIN, Raw, RawFiles
from mart_helpers.raw import SCHEMA as SOURCE
from mart_helpers.session import Session
from mart_helpers.sources import ROW_FAULT, Source
from mart_helpers.staging import fault_sql
from mart_helpers.texts import did_you_mean, expression_sql, literal, parsed, quoted, tree_sql

SCHEMA = "mapping"

_READS = "reads: "

_FILE, _LINE, _FAULTS = " file", " line", " faults"

Node = dict[str, Any]


class Mapping(NamedTuple):
    """A mapping, ready to load.

    `name` is the name of the view. `rows` is a query for its outputs `fields`, all text, the place of
    each row and `ROW_FAULT`: null, or a JSON list of the values that could not be read. `ignored` are
    outputs that the contract does not declare; `others` are files in which it only looks up values.
    """

    connection: duckdb.DuckDBPyConnection
    name: str
    raw: Raw
    rows: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]
    others: Sequence[Raw] = ()

    @property
    def rows_sql(self) -> str:
        """A query for `rows` and for the records that cannot be read, in the order of the file."""
        unread = self.raw.faulty_sql(f"not {IS_READ}")
        return (
            f"select * replace ({ORIGIN}::varchar as {ORIGIN}) "
            f"from (from ({self.rows}) union all by name from ({unread})) order by {ORIGIN}::bigint"
        )

    def count_rows(self, staged: str) -> int:
        """How many rows of the table `staged` were made. Raises StateError for two of one line."""
        rows, placed, repeated = self.connection.execute(
            f"select count(*), count({ORIGIN}), min({ORIGIN}) filter ({ORIGIN} = before) "
            f"from (select {ORIGIN}, lag({ORIGIN}) over () as before from {staged})"
        ).fetchone()
        if placed < rows or repeated:
            where = f"two rows from {self.raw.located(repeated)}" if repeated else "a row from no line"
            raise StateError(
                f"{self.name} makes {where}, perhaps by a join. Make at most one row from each line."
            )
        return rows

    def matching(
        self, source: Source, texts: Sequence[str], matches: str
    ) -> list[tuple[int, tuple[str, ...]]]:
        """The number and the `key` (these `texts`) of the records of a source whose rows match."""
        rows = self.connection.execute(
            f"select * from (select {ORIGIN}, [{', '.join(texts)}] as key from ({self.rows})) "
            f"where {matches} order by {ORIGIN}"
        )
        key_of = {each: tuple(key) for each, key in rows.fetchall()}
        numbers = self.raw.numbers(self.connection, source, [*key_of])
        return [(number, key_of[each]) for each, number in numbers.items()]


class _Fault(NamedTuple):
    """SQL for the condition that a value cannot be read and for its message; where it would go."""

    when: str
    column: str
    value: str
    reason: str
    position: int = -1


def read_mapping(connection: duckdb.DuckDBPyConnection, table: Table, files: RawFiles) -> Mapping | None:
    """The mapping of a declared table; None if it has none.

    Raises StateError if a mapping is not a single `select` over the lines of one file, has a column that
    the contract lacks, lacks a required one, or belongs to no declared table.
    """
    views = dict(connection.execute(_VIEWS, [SCHEMA]).fetchall())
    declared = declared_tables(connection)
    for name in views:
        if name not in declared:
            raise StateError(
                f"{SCHEMA}.{name} is not named after a declared table.{did_you_mean(name, declared)} "
                f"Expected one of {', '.join(declared)}."
            )
    if table.name not in views:
        return None
    return _View(connection, table, views[table.name]).mapping(files)


@contextmanager
def mapping_read_again(
    connection: duckdb.DuckDBPyConnection, table: Table, inputs_dir: Path
) -> Iterator[Mapping | None]:
    """The mapping of a table in a mart, applied to the present file; None if it has none.

    The mart is either open read-only or a candidate.
    """
    name, path = connection.execute(_DATABASE).fetchone()
    databases = connection.execute("select database_name from duckdb_databases()").fetchall()
    with TemporaryDirectory() as folder, duckdb.connect() as scratch:
        if (SOURCE,) in databases:
            session = Session(connection, Path(path), {}, candidate=Path(path))
        else:
            for attached in ("staging", SOURCE):
                scratch.execute(f"attach ':memory:' as {attached}")
            scratch.execute(f"attach {literal(path)} as {quoted(name)} (read_only); use {quoted(name)}")
            session = Session(scratch, Path(path), {}, candidate=Path(folder, "mart"))
        yield read_mapping(session.connection, table, RawFiles(session, inputs_dir))


class _View:
    """The view of a mapping, taken apart by DuckDB's parser."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: Table, sql: str) -> None:
        self._connection, self._table = connection, table
        self._name = f"{SCHEMA}.{table.name}"
        self._tree = parsed(connection, re.split(r"\sAS\s+(?=SELECT|WITH|FROM|\()", sql, maxsplit=1)[1])
        self._node: Node = self._tree["statements"][0]["node"]
        found = connection.execute(_READERS, [f"{_READS}%"]).fetchall()
        self._readers = {
            name.lower(): (parameters, comment.removeprefix(_READS))
            for name, parameters, comment in found
        }

    def mapping(self, files: RawFiles) -> Mapping:
        """The view as a mapping, ready to load."""
        self._refuse_other_shapes()
        raw, *others = [files[name] for name in self._sources()]
        self._refuse_unread(others)
        described = self._connection.execute(f"describe {self._sql()}").fetchall()
        outputs = [(name, name.strip().lower()) for name, *_ in described]
        is_distinct = self._without_distinct() or not self._table.name.startswith("fact_")
        file, line = self._with_place(raw, [name for _, name in outputs])
        self._with_faults()
        fields, ignored = self._matched(raw, [name for _, name in outputs])
        texts = ", ".join(
            f"{quoted(name)}::varchar as {quoted(field)}" for name, field in outputs if field in fields
        )
        select = self._sql()
        rows = (
            f"select {texts}, {raw.place_sql(quoted(file), quoted(line))} as {ORIGIN}, "
            f"{quoted(_FAULTS)} as {ROW_FAULT} from ({select})"
        )
        if self._connection.execute(odd := raw.faulty_sql(IS_READ)).fetchone():
            fault = f"coalesce(odd.{ROW_FAULT}, made.{ROW_FAULT}) as {ROW_FAULT}"
            rows = (
                f"select made.* replace ({fault}) from ({rows}) as made left join ({odd}) as odd "
                f"using ({ORIGIN})"
            )
        if is_distinct:
            rows = f"select * exclude ({ORIGIN}), min({ORIGIN}) as {ORIGIN} from ({rows}) group by all"
        return Mapping(self._connection, self._name, raw, rows, fields, ignored, others)

    def _sql(self) -> str:
        return tree_sql(self._connection, self._tree)

    def _text(self, node: Node) -> str:
        return f"({expression_sql(self._connection, node)})"

    def _expression(self, sql: str) -> Node:
        return parsed(self._connection, f"select {sql}")["statements"][0]["node"]["select_list"][0]

    def _refuse_other_shapes(self) -> None:
        """Refuse a view whose rows are not lines of the file, or with a reader away from its line."""
        node, problem = self._node, ""
        if node["type"] != "SELECT_NODE":
            problem = "puts several selects together"
        elif node["group_expressions"] or node["aggregate_handling"] != "STANDARD_HANDLING":
            problem = "groups rows (group by)"
        elif any(each["type"].startswith("LIMIT") for each in node["modifiers"]):
            problem = "has a limit"
        if problem:
            raise StateError(
                f"{self._name} {problem}, so lines of its file would be lost. Return one row per line. "
                "To leave out lines use `where`, to leave out equal ones `select distinct`."
            )
        rest = {key: value for key, value in node.items() if key not in ("select_list", "where_clause")}
        subqueries = [each for each in _walk(node) if each.get("class") == "SUBQUERY"]
        inner = [each for each in _walk([rest, subqueries]) if each.get("try_cast", True)]
        if reader := next((each for each in inner if self._words(each)), None):
            raise StateError(
                f"{self._name}: {self._text(reader)[1:-1]} is in a step, a join or a subquery, "
                "where values that it cannot read would be lost. Move it to the columns or the `where` "
                "of the last select."
            )

    def _sources(self) -> list[str]:
        """The names of the files that the view reads from; the first is the one whose lines are rows.

        They are written out, as a mart has a schema of the same name.
        """
        found = [
            each
            for each in _walk([self._node["cte_map"], self._node["from_table"], self._node])
            if each.get("type") == "BASE_TABLE" and each["schema_name"].lower() == SOURCE
        ]
        for each in found:
            each |= {"catalog_name": SOURCE, "schema_name": "main"}
            each["qualified_name"] = {"path": [SOURCE, "main", each["table_name"]]}
        if not found:
            raise StateError(
                f"{self._name} does not read from {SOURCE}.<file>, so its rows have no lines. "
                "If it reads from another view, make that a step (`with`) of the mapping."
            )
        return [*dict.fromkeys(each["table_name"] for each in found)]

    def _refuse_unread(self, others: Sequence[Raw]) -> None:
        """Refuse bad lines in files that are only looked up: they have no quarantine of their own."""
        for raw in others:
            if found := self._connection.execute(raw.faulty_sql()).fetchone():
                raise InputError(
                    f"{raw.located(found[0])}: {found[1]}. {self._name} only looks things up in this "
                    "file, so no line of it may be bad. Correct it, or make a new extract."
                )

    def _without_distinct(self) -> bool:
        """Remove `distinct`, which places would defeat; whether it was there. The caller merges rows."""
        modifiers = self._node["modifiers"]
        plain = [
            each
            for each in modifiers
            if each["type"] == "DISTINCT_MODIFIER" and not each["distinct_on_targets"]
        ]
        self._node["modifiers"] = [each for each in modifiers if each not in plain]
        return bool(plain)

    def _with_place(self, raw: Raw, outputs: list[str]) -> tuple[str, str]:
        """Add file and line to each row; returns the names of these columns."""
        given = self._node["from_table"]
        if given["type"] == "BASE_TABLE" and given["catalog_name"] == SOURCE:
            for name, alias in (("file", _FILE), ("line", _LINE)):
                if name == "line" or raw.is_folder:
                    self._add(name, alias)
            return _FILE, _LINE
        for name in ("file", "line") if raw.is_folder else ("line",):
            if name not in outputs:
                raise StateError(
                    f"{self._name} gives no {name}. Select it too, so that each row keeps its place in "
                    f"{SOURCE}.{raw.name}."
                )
        return "file", "line"

    def _add(self, sql: str, alias: str) -> None:
        self._node["select_list"].append({**self._expression(sql), "alias": alias})

    def _matched(self, raw: Raw, outputs: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The outputs that the contract declares, and those that it does not."""
        table, passing = self._table, {"file", "line", *(name.lower() for name in raw.columns)}
        for name in outputs:
            if name not in table.column_names and name not in passing:
                raise StateError(
                    f"{self._name} gives {name}, which contract.{table.name} does not declare."
                    f"{did_you_mean(name, table.column_names)} Rename it, or declare it."
                )
        lacking = [name for name in table.column_names if name in table.required_names - {*outputs}]
        if lacking:
            raise StateError(
                f"{self._name} gives no {', '.join(lacking)}. Add it, as null if the file has none."
            )
        ignored = [name for name in outputs if name not in (*table.column_names, "file", "line")]
        return tuple(name for name in outputs if name in table.column_names), tuple(ignored)

    def _with_faults(self) -> None:
        """Add to each row the values that could not be read, also if `where` depends on them."""
        _let_fail([self._node["select_list"], self._node["where_clause"]])
        faults = [*self._row_faults(), *self._column_faults()]
        told = [
            fault_sql(each.when, each.reason, each.position, each.column, each.value) for each in faults
        ]
        is_any = " or ".join(each.when for each in faults)
        listed = f"list_filter([{', '.join(told)}], lambda fault: fault is not null)"
        sql = f"case when {is_any} then to_json({listed})::varchar end" if faults else "null::varchar"
        self._add(sql, _FAULTS)

    def _row_faults(self) -> list[_Fault]:
        where = self._node["where_clause"]
        faults = [*self._faults(where)] if where else []
        if not faults:
            return []
        condition = self._text(where)
        unknown = f"({condition} is null and ({' or '.join(each.when for each in faults)}))"
        self._node["where_clause"] = self._expression(f"{condition} or {unknown}")
        return [each._replace(when=f"({condition} is null and {each.when})") for each in faults]

    def _column_faults(self) -> Iterator[_Fault]:
        names = self._table.column_names
        for item in self._node["select_list"]:
            named = [(_output(item), item)]
            if item["class"] == "STAR":
                named = [(each["key"], each["value"]) for each in item["replace_list"]]
            for name, node in named:
                if name.strip().lower() in names:
                    for fault in self._faults(node):
                        yield fault._replace(position=names.index(name.strip().lower()))

    def _faults(self, node: Any) -> Iterator[_Fault]:
        """The values in an expression that may be unreadable; only evaluated branches count."""
        if isinstance(node, list):
            for each in node:
                yield from self._faults(each)
        elif isinstance(node, dict) and node.get("class") == "CASE":
            guard = "true"
            for check in node["case_checks"]:
                when = self._text(check["when_expr"])
                yield from _guarded(guard, self._faults(check["when_expr"]))
                yield from _guarded(f"{guard} and {when}", self._faults(check["then_expr"]))
                guard += f" and {when} is not true"
            yield from _guarded(guard, self._faults(node["else_expr"]))
        elif isinstance(node, dict) and node.get("type") == "OPERATOR_COALESCE":
            children = node["children"]
            for n, child in enumerate(children):
                others = [*children[:n], *(c for c in children[n + 1 :] if [*self._faults(c)])]
                guard = " and ".join(f"{self._text(each)} is null" for each in others) or "true"
                yield from _guarded(guard, self._faults(child))
        elif isinstance(node, dict) and node.get("class") != "SUBQUERY":
            for each in node.values():
                yield from self._faults(each)
            if words := self._words(node):
                yield from self._fault(node, words)

    def _words(self, node: Node) -> str:
        """SQL that describes what an expression reads, if it reads a text."""
        if node.get("class") == "CAST":
            kind = re.search(r" AS (.+)\)\)$", self._text(node))[1]
            return literal(f"a value of type {kind.lower()}")
        if node.get("class") != "FUNCTION":
            return ""
        name = node["function_name"].lower()
        arguments = [each["expression"] for each in node["arguments"]]
        if name.startswith("try_"):
            return " || ' '  || ".join([literal(f"what {name} reads"), *map(self._text, arguments[1:])])
        if name not in self._readers:
            return ""
        parameters, words = self._readers[name]
        given = dict(zip(parameters, map(self._text, arguments), strict=False))
        given |= {
            each["name"]: self._text(each["expression"]) for each in node["arguments"] if each["name"]
        }
        parts = re.split(r"\[(\w+)\]", words)
        parts[::2] = map(literal, parts[::2])
        parts[1::2] = [f"{given.get(part, literal(part))}::varchar" for part in parts[1::2]]
        return " || ".join(parts)

    def _fault(self, node: Node, words: str) -> Iterator[_Fault]:
        read = node["child"] if node["class"] == "CAST" else node["arguments"][0]["expression"]
        columns = {self._text(each): each for each in _walk(read) if each.get("class") == "COLUMN_REF"}
        if not columns:
            return
        text = f"{self._text(read)}::varchar"
        value = text if len(columns) > 1 else f"{next(iter(columns))}::varchar"
        name = literal(", ".join(each["column_names"][-1] for each in columns.values()))
        yield _Fault(
            # for speed, only a null result is checked
            f"case when {self._text(node)} is null then coalesce({trimmed_sql(text)}, '') <> '' "
            "else false end",
            name,
            f"left({value}, 1000)",
            f"{name} || ' \"' || left({value}, 1000) || '\" is not ' || {words}",
        )


def _let_fail(node: Any) -> None:
    """Make casts and `strptime` return null instead of raising an error."""
    for each in _walk(node):
        if each.get("class") == "CAST":
            each["try_cast"] = True
        elif each.get("function_name") == "strptime":
            each["function_name"] = "try_strptime"
            each["qualified_name"] = {"path": ["try_strptime"]}


def _guarded(guard: str, faults: Iterator[_Fault]) -> Iterator[_Fault]:
    for fault in faults:
        yield fault._replace(when=f"case when {guard} then {fault.when} else false end")


def _output(item: Node) -> str:
    """The name of a column of a select."""
    return item["alias"] or (item["column_names"][-1] if item["class"] == "COLUMN_REF" else "")


def _walk(node: Any) -> Iterator[Node]:
    """All nodes of a part of the tree, from the top."""
    if isinstance(node, list):
        for each in node:
            yield from _walk(each)
    elif isinstance(node, dict):
        yield node
        for each in node.values():
            yield from _walk(each)


_DATABASE = """
select database_name, path
from duckdb_databases()
where database_name = current_database()
"""

_VIEWS = """
select view_name, sql
from duckdb_views()
where database_name = current_database() and schema_name = ?
order by view_oid
"""

_READERS = """
select function_name, parameters, comment
from duckdb_functions()
where database_name = current_database() and function_type = 'macro' and comment like ?
"""
