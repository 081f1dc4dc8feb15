"""The checks that every mart needs, derived from its contract, its `books` and the names of its star.

`dim_<thing>` has `<thing>_key`, and a fact refers to it by that name or by `<role>_<thing>_key`. A
dimension with a date column of its own name is a calendar. Each check is a view of bad rows in schema
`checks`, like those of 01_build.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from duckdb import DuckDBPyConnection

from mart_helpers.contract import Reference, Table, ascends_sql, read_contracts
from mart_helpers.errors import StateError
from mart_helpers.session import Session, current_database, has_table, in_words
from mart_helpers.star import durable_key, star_references, star_types, surrogate_key, with_versions
from mart_helpers.texts import literal, quoted, row_sql, row_text_sql

_MOST_NAMED = 5

_Star = Mapping[str, Mapping[str, str]]  # tables with their columns, and the type or dimension of each


class Check(NamedTuple):
    """A view to create: its name, a query for the bad rows, and a sentence on what should hold."""

    name: str
    query: str
    sentence: str
    severity: str = "error"


@in_words()
def derive_checks(session: Session) -> None:
    """Create a view in schema `checks` for each check that every mart needs.

    Raises StateError for a column of the star that is named like a reference but refers to no dimension,
    QueryError if the session is read-only.
    """
    connection = session.connection
    declared = [*read_contracts(connection).values()]
    star, references = star_types(connection), star_references(connection)
    _refuse_references_to_nothing(declared, star, references)
    connection.execute("create schema if not exists checks")
    checks = [*_structural_checks(declared, star, references)]
    checks += [*_checks_of_books(session, declared, star), *_checks_of_views(connection)]
    create_checks(connection, checks)


def _refuse_references_to_nothing(declared: Sequence[Table], star: _Star, references: _Star) -> None:
    """Refuse a `<thing>_key` that is neither declared nor fits a dimension: no check would cover it."""
    inputs = {table.name: {*table.column_names} for table in declared}
    for table, columns in star.items():
        own = {surrogate_key(table), durable_key(table), f"{table.removeprefix('fact_')}_key"}
        own |= inputs.get(table, set())
        for column in columns:
            if column.endswith("_key") and column not in own and column not in references[table]:
                thing = column.removesuffix("_key")
                raise StateError(
                    f"{table}.{column} refers to no dimension: there is no dim_{thing} with a column "
                    f"{column}. Make it, or name the column <thing>_key or <role>_<thing>_key after its "
                    "dimension dim_<thing>, or rename it without _key if it refers to nothing."
                )


def create_checks(connection: DuckDBPyConnection, checks: Iterable[Check]) -> None:
    """Create the views, each with its comment `severity: sentence`."""
    for check in checks:
        view = f"checks.{quoted(check.name)}"
        connection.execute(f"create or replace view {view} as {check.query}")
        comment = literal(f"{check.severity}: {check.sentence}")
        connection.execute(f"comment on view {view} is {comment}")


def _structural_checks(declared: Sequence[Table], star: _Star, references: _Star) -> Iterator[Check]:
    """Checks that follow from the names of the star and from the contract."""
    optional = {table.name for table in declared if table.is_optional}
    for table, columns in star.items():
        if table not in optional:
            yield Check(
                f"{table}_has_rows",
                f"select '{table}' as empty_table where not exists (from {quoted(table)})",
                f"{table} has rows",
            )
        thing = table.removeprefix("dim_")
        for column in columns:
            if table != thing and column == surrogate_key(table):
                yield _unique_check(table, [column])
                yield _not_null(table, column)
            elif column in references[table]:
                dimension = references[table][column]
                known = Reference((column,), dimension, (surrogate_key(dimension),))
                yield _reference_check(table, known)
        if columns.get(thing) == "DATE":
            yield _calendar_check(table, thing)
    for table in declared:
        if table.name in star:
            yield from _declared_checks(table, star)


def _checks_of_views(connection: DuckDBPyConnection) -> Iterator[Check]:
    """Checks for columns of the same name in the tables that a view joins.

    DuckDB calls the second one `<name>_1`, so queries get the first. If that is a column of a fact, or
    hides a metric, their results are wrong.
    """
    owners = _owners_of_names(connection)
    twice: dict[str, list[tuple[str, str, str]]] = {}
    for view, name, second in connection.execute(_sql("names_twice")).fetchall():
        found = f"{view} has two columns called {name}: the second is {second}"
        if name in owners:
            found += f", and queries get that of {owners[name]}. Rename it in the cell that makes it"
        twice.setdefault(view, []).append((name, second, found))
    for view, found in twice.items():
        rows = ", ".join(f"({', '.join(map(literal, row))})" for row in found)
        yield Check(
            f"{view}_has_each_name_once",
            f"from (values {rows}) as twice (column_name, second_column, found_in_words)",
            f"no two columns that {view} joins have the same name, since only the first keeps it",
            "error" if any(name in owners for name, *_ in found) else "warn",
        )


def _owners_of_names(connection: DuckDBPyConnection) -> dict[str, str]:
    """The columns of the star that must not hide another in a view, each with its table.

    These are the columns of facts, and those named like a metric. Ids mean the same in two tables.
    """
    ids = {name for table in read_contracts(connection).values() for name in table.id_names}
    macros = {name for name, _ in connection.execute(_MACROS).fetchall()}
    return {
        column: table
        for table, columns in star_types(connection).items()  # facts come after the dimensions
        for column in columns
        if column in macros or (table.startswith("fact_") and column not in ids)
    }


def _unique_check(table: str, columns: Sequence[str]) -> Check:
    names, rows = ", ".join(map(quoted, columns)), quoted(table)
    return Check(
        f"{table}_{'_and_'.join(columns)}_is_unique",
        f"select {names}, count(*) as rows from {rows} where {_is_there(rows, columns)} "
        f"and not ({ascends_sql(rows, row_sql(columns))}) group by {names} having count(*) > 1",
        f"each {' with '.join(columns)} occurs once in {table}",
    )


def _is_there(relation: str, columns: Sequence[str]) -> str:
    return " and ".join(f"{relation}.{quoted(column)} is not null" for column in columns)


def _not_null(table: str, column: str, known: str = "true") -> Check:
    return Check(
        f"{table}_{column}_is_not_null",
        f"select * from {quoted(table)} where {quoted(column)} is null and {known}",
        f"every row of {table} has a {column}",
    )


def _reference_check(table: str, reference: Reference, where: str = "true") -> Check:
    columns = ", ".join(map(quoted, reference.table_columns))
    pairs = zip(map(quoted, reference.columns), map(quoted, reference.table_columns), strict=True)
    joined = " and ".join(f"referring.{one} = known.{other}" for one, other in pairs)
    return Check(
        f"{table}_{'_and_'.join(reference.columns)}_is_in_{reference.table}",
        f"select referring.* from {quoted(table)} as referring "
        f"anti join (select {columns} from {quoted(reference.table)}) as known on {joined} "
        f"where {where}",
        f"every {' with '.join(reference.columns)} of {table} is in {reference.table}",
    )


def _calendar_check(table: str, day: str) -> Check:
    day, rows = quoted(day), quoted(table)
    steps = f"select {day}, {day} - lag({day}) over (order by {day}) as days_since_last from {rows}"
    return Check(
        f"{table}_has_no_gap",
        f"from ({steps} where {day} is not null) where days_since_last <> 1",
        f"{table} has every day between its first and its last",
    )


def _declared_checks(table: Table, star: _Star) -> Iterator[Check]:
    """The rules of the contract for a column hold in the star too, except for the unknown member."""
    columns, surrogate = {*star[table.name]}, surrogate_key(table.name)
    known = f"{quoted(surrogate)} <> -1" if surrogate in columns else "true"
    if "inferred" in table.comment.prefixes and columns.issuperset(table.key):
        inferred = f"select key from inferred_members where table_name = {literal(table.name)}"
        known += f" and {row_text_sql(table.key)} not in ({inferred})"
    for column in table.columns:
        if column.name in columns and column.is_required:
            yield _not_null(table.name, column.name, known)
    has_versions = table.name in with_versions(star)
    for names in [(*table.key, "valid_from")] if has_versions else [table.key, *table.uniques]:
        if columns.issuperset(names):
            yield _unique_check(table.name, names)
    for number, rule in enumerate(table.rules, start=1):
        if columns.issuperset(rule.columns):
            yield Check(
                f"{table.name}_rule_{number}_on_{'_and_'.join(rule.columns)}",
                f"select * from {quoted(table.name)} where not ({rule.expression}) and {known}",
                f"{rule.words} holds in {table.name}",
            )
    for reference in table.references:
        in_star = {*star.get(reference.table, ())}
        if columns.issuperset(reference.columns) and in_star.issuperset(reference.table_columns):
            yield _reference_check(table.name, reference, _is_there("referring", reference.columns))


def _checks_of_books(session: Session, declared: Sequence[Table], star: _Star) -> Iterator[Check]:
    """Nothing is lost between the inputs and the star, and the build has about the usual size."""
    connection = session.connection
    if not has_table(connection, current_database(connection), "build_inputs"):
        return
    for table in declared:
        name = table.name
        yield Check(
            f"{name}_has_no_row_in_quarantine",
            _sql("in_quarantine").replace("$table", literal(name)),
            f"no row of {name} is in quarantine",
            "warn",
        )
        if "inferred" in table.comment.prefixes:
            yield Check(
                f"{name}_has_no_inferred_member",
                _sql("inferred").replace("$table", literal(name)),
                f"each member of {name} has a row of its own, not only a reference to it",
                "warn",
            )
        if name in star:
            is_fact, is_keyed = name.startswith("fact_"), {*table.key} <= {*star[name]}
            if is_fact or (is_keyed and not _is_dated(connection, table)):
                yield _rows_check(table)
            if has_table(connection, "staging", name):
                if is_fact:
                    yield from _amounts_check(session, table, star[name])
                elif is_keyed:
                    yield _members_check(connection, table)
    yield Check(
        "quarantine_has_every_rejected_row",
        _sql("not_in_quarantine"),
        "every row that was not loaded is in quarantine",
    )
    yield Check(
        "build_is_near_earlier_builds",
        _sql("far_from_earlier_builds"),
        "rows and revenue are near those of earlier builds (if the change is right: raise "
        "volume_tolerance)",
    )


def _is_dated(connection: DuckDBPyConnection, table: Table) -> bool:
    """Whether several complete extracts were loaded for a dimension."""
    files = (
        "select count(*) from build_inputs where table_name = $table "
        "and build_id = (select max(build_id) from build_log)"
    )
    ((count,),) = connection.execute(files, {"table": table.name}).fetchall()
    return bool(table.history_names) and count > 1


def _rows_check(table: Table) -> Check:
    """A fact has as many rows as were loaded for it; a dimension has as many natural keys."""
    is_fact = table.name.startswith("fact_")
    members = f"(select count(*) from inferred_members where table_name = {literal(table.name)})"
    inferred = f" + {members}" if "inferred" in table.comment.prefixes else ""
    counted = "count(*)" if is_fact else f"count(distinct {row_text_sql(table.key)})"
    return Check(
        f"{table.name}_has_every_loaded_row",
        "select loaded.rows as rows_loaded, star.rows as rows_in_star from ("
        f"select coalesce(sum(rows_loaded), 0){inferred} as rows from build_inputs "
        f"where table_name = '{table.name}' and build_id = (select max(build_id) from build_log)"
        f") as loaded cross join (select {counted} as rows from {quoted(table.name)}) as star "
        "where loaded.rows is distinct from star.rows",
        f"every loaded row is in {table.name} once",
    )


def _members_check(connection: DuckDBPyConnection, table: Table) -> Check:
    """The natural keys of a dimension are exactly those that were loaded, also after publication."""
    key, star = row_text_sql(table.key), quoted(table.name)
    loaded = f"staging.{star}"
    hashes = f"bit_xor(distinct md5_number_lower({key})) as hashes"
    summed = f"select count(distinct {key}) as keys, {hashes} from"
    ((keys, hashes),) = connection.execute(f"{summed} {loaded}").fetchall()
    first = [
        connection.execute(
            f"select {key} from {one} where {key} is not null except select {key} from {other} "
            f"order by 1 limit {_MOST_NAMED}"
        ).fetchall()
        for one, other in ((loaded, star), (star, loaded))
    ]
    lost, foreign = (f"[{', '.join(literal(key) for (key,) in rows)}]::varchar[]" for rows in first)
    return Check(
        f"{table.name}_has_the_loaded_members",
        f"select {keys} as keys_loaded, keys as keys_in_star, {lost} as lost, {foreign} as not_loaded "
        f"from ({summed} {star}) where (keys, hashes) is distinct from ({keys}, {hashes or 'null'})",
        f"{table.name} has each {' with '.join(table.key)} that was loaded, and no others except the "
        "unknown member",
    )


def _amounts_check(session: Session, table: Table, types: Mapping[str, str]) -> Iterator[Check]:
    """Each amount of a fact adds up to the same sum as in the loaded rows.

    An amount is an integer or decimal column that the fact takes from its input under the same name, or
    that a macro of that name computes from columns of the input.
    """
    connection, star, declared = session.connection, quoted(table.name), {*table.column_names}
    macros = {
        name: f"{name}({', '.join(arguments)})"
        for name, arguments in connection.execute(_MACROS).fetchall()
        if declared.issuperset(arguments)
    }
    made_of = {name: quoted(name) for name in declared} | macros
    sums = {
        name: f"sum(try_cast({made_of[name]} as {type_}))::varchar"
        for name, type_ in types.items()
        if name in made_of and re.match(r"DECIMAL|\w*INT", type_)
    }
    if not sums:
        return
    if session.cluster:
        loaded = session.cluster.add_up(table.name, [*sums.values()])
    else:
        summed = f"select {', '.join(sums.values())} from staging.{star}"
        loaded = connection.execute(summed).fetchone()
    names = ", ".join(map(literal, sums))
    values = ", ".join("null" if value is None else literal(value) for value in loaded)
    in_star = ", ".join(f"sum({quoted(name)})::varchar" for name in sums)
    yield Check(
        f"{table.name}_has_all_loaded_amounts",
        f"from (select unnest([{names}]) as amount, unnest([{values}]) as loaded, "
        f"unnest([{in_star}]) as in_star from {star}) where loaded is distinct from in_star",
        f"the amounts of {table.name} add up to those of the loaded rows",
    )


def _sql(name: str) -> str:
    return (Path(__file__).parent / "templates" / "checks" / f"{name}.sql").read_text("utf-8")


_MACROS = """
select function_name, parameters
from duckdb_functions()
where database_name = current_database() and schema_name = 'main' and function_type = 'macro'
"""
