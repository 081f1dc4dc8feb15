"""Inferred members: a dimension declared `inferred:` gets a placeholder for each key it lacks.

So a product that arrives later than its sales holds none of them back. A placeholder has its key and the
defaults of the contract; the table `inferred_members` lists it until an extract has the row itself.
"""

from collections.abc import Iterator

import duckdb

from mart_helpers.contract import FILE_DAY, Reference, Table, read_contract
from mart_helpers.errors import StateError
from mart_helpers.staging import staging_of
from mart_helpers.texts import literal, quoted, row_sql, row_text_sql

INFERRED = "inferred_members"


def inferring_references(connection: duckdb.DuckDBPyConnection, table: Table) -> Iterator[Reference]:
    """The references of a table to the primary keys of dimensions declared `inferred:`.

    Raises StateError for a reference to other columns: no member can be made from those.
    """
    for reference in table.references:
        parent = read_contract(connection, reference.table)
        if "inferred" in parent.comment.prefixes:
            columns = dict(zip(reference.table_columns, reference.columns, strict=True))
            if {*columns} != {*parent.key}:
                raise StateError(
                    f"contract.{table.name} refers to {', '.join(columns)} of {parent.name}, whose "
                    f"members are inferred. Refer to its primary key, {', '.join(parent.key)}."
                )
            yield Reference(tuple(columns[name] for name in parent.key), parent.name, parent.key)


def forget_inferred(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Delete the members inferred in this table, and those that an earlier load of it inferred."""
    of_others = f"""
        select table_name, list(key) from {INFERRED}
        where referring_table = {literal(table.name)} and table_name <> referring_table
        group by table_name
    """
    for name, keys in connection.execute(of_others).fetchall():
        known = row_text_sql(read_contract(connection, name).key)
        connection.execute(f"delete from {staging_of(name)} where {known} in (select unnest(?))", [keys])
    connection.execute(
        f"delete from {INFERRED} where {literal(table.name)} in (table_name, referring_table)"
    )


def infer_members(connection: duckdb.DuckDBPyConnection, table: Table, reference: Reference) -> None:
    """Add a member to the staged dimension for each missing key, and list it in `inferred_members`.

    The temporary table `orphans` has the rows that refer to such keys, `places` the first row of each.
    """
    parent = read_contract(connection, reference.table)
    defaults = {each.name: each.default for each in parent.columns if each.default is not None}
    if parent.has_days:  # it joins the newest extract
        defaults[FILE_DAY] = f"select max({FILE_DAY}) from {staging_of(parent.name)}"
    names = [*reference.table_columns, *(name for name in defaults if name not in parent.key)]
    keys, first = ", ".join(map(quoted, reference.columns)), quoted(" first")
    values = ", ".join([keys, *(f"({defaults[name]})" for name in names[len(parent.key) :])])
    column = literal(", ".join(reference.columns))
    connection.execute(f"""
        insert into {INFERRED} by name
        select
            {literal(parent.name)} as table_name,
            members.value as key,
            places.file,
            places.line,
            members.rows,
            members.reason,
            {literal(table.name)} as referring_table
        from (
            select value, min(row_id) as row_id, count(*) as rows, arg_min(reason, row_id) as reason
            from orphans
            where column_name = {column}
            group by value
        ) as members
        inner join places on members.row_id = places.row_id
        anti join {staging_of(parent.name)} as known
            on members.value = {row_text_sql(parent.key, "known")}
        order by members.row_id
    """)
    connection.execute(f"""
        insert into {staging_of(parent.name)} ({", ".join(map(quoted, names))})
        with missing as (
            select {keys}, min(rowid) as {first}
            from {staging_of(table.name)} as child
            where
                rowid in (select row_id from orphans where column_name = {column})
                and {row_sql(reference.columns)} not in (
                    select {row_sql(parent.key)} from {staging_of(parent.name)}
                )
            group by {keys}
        )
        select {values} from missing order by {first}
    """)
