"""Checks for slowly changing dimensions of type 2 (Kimball) and for the facts that refer to them.

Such a dimension has `<thing>_durable_key`, which all versions of a member share, and `valid_from` and
`valid_to`, the first and the last day of a version.
"""

from collections.abc import Iterator

from duckdb import DuckDBPyConnection

from mart_helpers.contract import FILE_DAY, Table, declared_tables, read_contract
from mart_helpers.derived import Check, create_checks
from mart_helpers.session import Session, has_table, in_words
from mart_helpers.star import (
    CALENDAR,
    day_of,
    durable_key,
    star_references,
    star_types,
    surrogate_key,
    with_versions,
)
from mart_helpers.texts import quoted

_MOST_CLOSED = 0.2


@in_words()
def check_history(session: Session, allow_restated: bool) -> None:
    """Create the checks of each dimension with versions, as views in schema `checks`.

    A file that closes more than a fifth of the open members is an error, or a warning if
    `allow_restated`, unless the published mart closed them already. Raises QueryError if the session is
    read-only.
    """
    connection = session.connection
    star = star_types(connection)
    checks: list[Check] = []
    for dimension in with_versions(star):
        checks += [
            _no_overlap(dimension),
            _few_are_closed(connection, dimension, "warn" if allow_restated else "error"),
        ]
        if dimension in declared_tables(connection):
            checks += _loaded_checks(connection, read_contract(connection, dimension), star[dimension])
    for fact, columns in star_references(connection).items():
        for column, dimension in columns.items():
            if dimension in with_versions(star) and (day := day_of(columns)):
                checks += _fact_checks(fact, column, dimension, day)
    create_checks(connection, checks)


def _no_overlap(dimension: str) -> Check:
    durable = quoted(durable_key(dimension))
    steps = (
        f"select *, lead(valid_from) over (partition by {durable} order by valid_from) as next_from "
        f"from {quoted(dimension)}"
    )
    return Check(
        f"{dimension}_has_no_overlap",
        f"from ({steps}) where valid_from > valid_to or next_from <= valid_to",
        f"no two versions of a member of {dimension} are valid on the same day",
    )


def _loaded_checks(
    connection: DuckDBPyConnection, table: Table, columns: dict[str, str]
) -> Iterator[Check]:
    """Each loaded row is in the version of its day; columns without history have one value a member."""
    star, durable = quoted(table.name), quoted(durable_key(table.name))
    key = [quoted(name) for name in table.key]
    shared = [quoted(name) for name in table.column_names if name in columns]
    kept = [quoted(name) for name in table.history_names if name in columns]
    if has_table(connection, "staging", table.name):
        same = " and ".join(
            f"staged.{name} is not distinct from version.{name}" for name in [*key, *kept]
        )
        connection.execute(f"""
            create or replace table checks.{quoted(f"lost_of_{table.name}")} as
            select {", ".join(f"staged.{name}" for name in [*key, FILE_DAY])}
            from staging.{star} as staged
            anti join {star} as version
                on {same} and staged.{FILE_DAY} between version.valid_from and version.valid_to
            order by all
        """)
        yield Check(
            f"{table.name}_has_each_loaded_state",
            f"from checks.{quoted(f'lost_of_{table.name}')}",
            f"each loaded row is in the version of its day in {table.name}",
        )
    others = [name for name in shared if name not in [*key, *kept]]
    if others:
        differ = " or ".join(
            f"min({name}) is distinct from max({name}) or count({name}) not in (0, count(*))"
            for name in others
        )
        yield Check(
            f"{table.name}_differs_by_history_alone",
            f"select {durable} from {star} group by {durable} having {differ}",
            f"versions of a member of {table.name} differ only in columns declared history:",
        )


def _few_are_closed(connection: DuckDBPyConnection, dimension: str, severity: str) -> Check:
    """Compares the members closed on each day with those open the day before."""
    known = _closed_before(connection, dimension)
    told = f"and (closed_on, closed) not in ({', '.join(known)})" if known else ""
    return Check(
        f"{dimension}_loses_few_members_at_once",
        f"""
        select
            *,
            format('the extract of {{}} lacks {{:,}} of {{:,}} members', closed_on, closed, open)
                as found_in_words
        from ({_closed(quoted(dimension), dimension)})
        where closed > {_MOST_CLOSED} * open {told}
        """,
        f"no extract of {dimension} lacks more than {_MOST_CLOSED:.0%} of the members of the one before "
        "(if that is right: --allow-restated)",
        severity,
    )


def _closed_before(connection: DuckDBPyConnection, dimension: str) -> list[str]:
    """The days on which the published mart closed members, and how many, as SQL."""
    if dimension not in with_versions(star_types(connection, "published")):
        return []
    closed = _closed(f"published.main.{quoted(dimension)}", dimension)
    rows = connection.execute(f"select closed_on, closed from ({closed})").fetchall()
    return [f"(date '{day}', {closed})" for day, closed in rows]


def _closed(relation: str, dimension: str) -> str:
    """A query for the days on which members closed: how many closed, and how many were open before."""
    key, durable = quoted(surrogate_key(dimension)), quoted(durable_key(dimension))
    return f"""
        with versions as (
            select
                valid_from,
                valid_to + 1 as end_day,
                lead(valid_from) over (partition by {durable} order by valid_from) as next_from
            from {relation}
            where {key} <> -1
        ),
        days as (
            select valid_from as day, count(*) as opened, 0 as ended, 0 as closed
            from versions group by day
            union all
            select end_day, 0, count(*), count(*) filter (where next_from is distinct from end_day)
            from versions where end_day < date '9999-12-31' group by end_day
        ),
        summed as (
            select day, sum(opened) as opened, sum(ended) as ended, sum(closed) as closed
            from days group by day
        )
        select
            day as closed_on,
            closed::bigint as closed,
            (sum(opened - ended) over (order by day) - opened + ended)::bigint as open
        from summed
        qualify closed > 0
    """


def _fact_checks(fact: str, column: str, dimension: str, day: str) -> Iterator[Check]:
    key, durable = quoted(surrogate_key(dimension)), quoted(durable_key(dimension))
    dated = f"""
        from {quoted(fact)} as facts
        inner join {CALENDAR} as days on facts.{quoted(day)} = days.{surrogate_key(CALENDAR)}
        inner join {quoted(dimension)} as version on facts.{quoted(column)} = version.{key}
    """
    is_outside = "days.date not between version.valid_from and version.valid_to"
    yield Check(
        f"{fact}_{column}_is_the_version_of_its_day",
        f"""
        select facts.*
        {dated}
        semi join {quoted(dimension)} as other
            on version.{durable} = other.{durable}
            and if(
                other.valid_from <= days.date,
                other.valid_from > version.valid_from,
                version.valid_from > days.date and other.valid_from < version.valid_from
            )
        where {is_outside}
        """,
        f"each {column} of {fact} is the latest version that began by its day, or else the first",
    )
    yield Check(
        f"{fact}_{column}_is_valid_on_its_day",
        f"""
        with outside as (
            select
                facts.*,
                version.valid_from,
                version.valid_to,
                days.date < version.valid_from as is_before
            {dated}
            where {is_outside}
        ),
        counted as (
            select
                count(*) filter (where is_before) as before,
                count(*) filter (where not is_before) as in_gap
            from outside
        )
        select
            outside.* exclude (is_before),
            format(
                '{{:,}} rows of {fact} are before the first extract with their member, {{:,}} in a gap',
                counted.before,
                counted.in_gap
            ) as found_in_words
        from outside
        cross join counted
        """,
        f"each row of {fact} has a day on which an extract had its member of {dimension}",
        "warn",
    )
