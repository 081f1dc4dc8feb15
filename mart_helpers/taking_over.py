"""Files that have not changed since the last build: their rows are taken from the published mart.

A build notes of each file of a folder the days of its rows, and a hash over what was made of them. So a
file without a bad row, whose days no other file shared, can be found again: it is what the mart holds of
these days. What is found is taken only where its hash is the noted one, whatever the star made of it.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import NamedTuple

import duckdb

from mart_helpers.contract import Column, Table, star_columns
from mart_helpers.quarantine import Reading
from mart_helpers.session import Session
from mart_helpers.sources import Source, unchanged
from mart_helpers.staging import create_staging
from mart_helpers.texts import quoted


class FileRows(NamedTuple):
    """What a build notes of the rows of a file: their number, their days, a hash over their values."""

    count: int
    first_day: date | None
    last_day: date | None
    rows_hash: str | None


class EarlierFile(NamedTuple):
    """What the build before noted of a file."""

    bytes: int
    sha256: str
    rows: FileRows


def is_recipe_published(session: Session) -> bool:
    """Whether the published mart was for certain made by what now builds, save the extracts."""
    with suppress(duckdb.Error):  # no mart yet, or one from before recipes
        published = session.connection.execute(_RECIPE).fetchone()
        return published is not None and published[0] is not None and published[0] == session.recipe()
    return False


def noted(connection: duckdb.DuckDBPyConnection, table: Table, reading: Reading) -> FileRows:
    """What is to be noted of the rows of a reading, while all of them are in `staging.<table>`."""
    day = _day(table)
    days = f"min({day.name}), max({day.name})" if day else "null, null"
    return FileRows(
        *connection.execute(
            f"select count(*), {days}, {_hash_sql(table)} "
            f"from staging.{table.name} as staged "
            f"where rowid >= {reading.first_row} and rowid < {reading.first_row + reading.rows}"
        ).fetchone()
    )


def take_over(
    connection: duckdb.DuckDBPyConnection, table: Table, sources: Sequence[Source]
) -> dict[str, EarlierFile]:
    """Fill the empty `staging.<table>` from the published mart, as far as `sources` have not changed.

    The answer has what the build before noted of each whose rows are there, by its name.
    """
    try:
        taken = _take_over(connection, table, sources)
    except (duckdb.CatalogException, duckdb.BinderException):  # somebody has changed the mart's tables
        taken = {}
    if not taken:
        create_staging(connection, table)  # its row ids begin at 0 again
    return taken


def _take_over(
    connection: duckdb.DuckDBPyConnection, table: Table, sources: Sequence[Source]
) -> dict[str, EarlierFile]:
    rows_sql = _published_sql(connection, table)
    if not rows_sql:
        return {}
    earlier = {
        file: EarlierFile(size, sha256, FileRows(*rows))
        for file, size, sha256, *rows in connection.execute(_EARLIER, [table.name]).fetchall()
    }
    prints = {name: (file.bytes, file.sha256) for name, file in earlier.items()}
    same = {source.name: earlier[source.name] for source in unchanged(sources, prints)}
    expected = {name: file.rows for name, file in same.items()}
    if not expected:
        return {}
    connection.execute("create or replace temp table taken_days (date date, file varchar)")
    for file, rows in expected.items():
        connection.execute(_DAYS, [file, rows.first_day, rows.last_day])
    connection.execute(f"insert into staging.{table.name} {rows_sql}")
    found = connection.execute(
        f"select file, count(*), min(date), max(date), {_hash_sql(table)} "
        f"from staging.{table.name} as staged "
        f"inner join taken_days on staged.{_day(table).name} = taken_days.date group by file"
    )
    return same if {file: FileRows(*rows) for file, *rows in found.fetchall()} == expected else {}


def _day(table: Table) -> Column | None:
    """The column that says of which day a row is."""
    return next((each for each in table.columns if each.type == "DATE" and each.is_required), None)


def _hash_sql(table: Table) -> str:
    return f"sum(hash({', '.join(f'staged.{name}' for name in table.column_names)}))::varchar"


def _published_sql(connection: duckdb.DuckDBPyConnection, table: Table) -> str | None:
    """A query for the rows of `taken_days`, as the extract had them; None where the star hides that.

    A column of the contract is in the fact under its name; or it is the id of a dimension to which
    the fact has a key; or it is the day, to which the fact has one too.
    """
    columns = star_columns(connection, "published").get(table.name, [])
    dimensions = {each.column: each for each in table.references}
    chosen, joins = [], []
    for column in table.columns:
        if column.name in columns:
            chosen.append(f"facts.{column.name}")
        elif column == _day(table) and "date_key" in columns:
            chosen.append("taken_days.date")
        elif (to := dimensions.get(column.name)) and f"{to.table[4:]}_key" in columns:
            joins.append(f"left join published.main.{to.table} using ({to.table[4:]}_key)")
            chosen.append(f"{to.table}.{to.table_column}")
        else:
            return None
    if "taken_days.date" not in chosen:
        return None
    return (
        f"select {', '.join(chosen)}, null as suspect "
        f"from published.main.{quoted(table.name)} as facts "
        "inner join published.main.dim_date using (date_key) "
        f"inner join taken_days on dim_date.date = taken_days.date {' '.join(joins)}"
    )


_RECIPE = "select recipe from published.build_log order by build_id desc limit 1"

_EARLIER = """
with inputs as (
    select *
    from published.build_inputs
    where table_name = ? and build_id = (select max(build_id) from published.build_log)
)
select file, bytes, sha256, rows_loaded, first_day, last_day, rows_hash
from inputs
where
    rows_loaded = rows_read
    and rows_quarantined = 0
    and first_day is not null
    and not exists (
        from inputs as other
        where
            other.file <> inputs.file
            and coalesce(other.first_day <= inputs.last_day and other.last_day >= inputs.first_day, true)
    )
"""

_DAYS = "insert into taken_days select unnest(range($2::date, $3::date + 1, interval 1 day))::date, $1"
