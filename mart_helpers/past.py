"""Compares a new build with the published mart, and checks for rows it has lost, changed or left out.

Natural keys identify the rows. The checks compare the month of their day (the first column that refers
to `dim_date`) and their amounts (all numbers except keys). A month is closed if the published mart has
a later one. The checks are on facts that both builds read from files.
"""

from collections.abc import Iterator

from duckdb import DuckDBPyConnection

from mart_helpers.contract import read_contracts
from mart_helpers.derived import Check, create_checks
from mart_helpers.diff import MONTHS, Comparison, Table, compare
from mart_helpers.restated import Mart, restated_notes
from mart_helpers.session import BUILD_LOG, Session, current_database, has_table, in_words
from mart_helpers.sources import SEED_ROWS
from mart_helpers.star import is_number
from mart_helpers.texts import literal, quoted


@in_words()
def check_past(session: Session, allow_restated: bool) -> Comparison:
    """Compare the candidate with the published mart, and create the checks on what differs.

    Returns the differences, for readers of the mart to see what will change. The checks are views in
    schema `checks`; what they find is stored there in `past_of_<fact>` and `restated`, so that they find
    the same after publication. A closed month that lost or changed rows is an error, or a warning if
    `allow_restated`. Raises QueryError if the published mart is damaged or the session is read-only.
    """
    connection = session.connection
    mart = Mart(connection, current_database(connection))
    found = compare(connection, Mart(connection, "published"), mart)
    checks, severity = [_columns_check(connection)], "warn" if allow_restated else "error"
    facts = [name for name in mart.keys if name.startswith("fact_") and mart.day(name)]
    checks += [_newest_month_check(name, mart.day(name)) for name in facts]
    promised = [
        each
        for each in map(found.compared.get, facts)
        if each.is_matched and each.key and each.day and _from_files(connection, each.name)
    ]
    for fact in promised:
        connection.execute(_past_sql(fact, mart))
        checks += [*_past_checks(fact, severity), _growth_check(connection, fact, severity)]
    if promised:
        checks.append(_restated_check(connection, found))
    create_checks(connection, checks)
    return found


def _from_files(connection: DuckDBPyConnection, fact: str) -> bool:
    """Whether both this build and the published one read the rows of the fact from files."""
    return all(
        has_table(connection, mart, "build_inputs")
        and connection.execute(
            f"select file from {quoted(mart)}.build_inputs where table_name = $fact and file <> $seed "
            f"and build_id = (select max(build_id) from {quoted(mart)}.{BUILD_LOG})",
            {"fact": fact, "seed": SEED_ROWS},
        ).fetchone()
        for mart in ("published", current_database(connection))
    )


def _past_sql(fact: Table, mart: Mart) -> str:
    """SQL for the published rows that are gone, moved to another month, or have other amounts."""
    before, after = "row_before", "row_after"
    not_amounts = {*fact.key, *mart.references[fact.name]}
    amounts = [
        column
        for column in fact.places
        if column not in not_amounts and is_number(mart.star[fact.name][column])
    ]
    keys = ", ".join(f"{fact.at(column, row=before)} as {quoted(column)}" for column in fact.key)
    differs = {
        column: f"{fact.at(column, row=before)} is distinct from {fact.at(column, row=after)}"
        for column in (fact.day, *amounts)
    }
    changes = ", ".join(
        f"case when {is_other} then concat_ws(' ', {literal(column)}, "
        f"coalesce({fact.at(column, row=before)}::varchar, 'empty'), '→', "
        f"coalesce({fact.at(column, row=after)}::varchar, 'empty')) end"
        for column, is_other in differs.items()
    )
    has_moved = f"{fact.month(before)} <> {fact.month(after)}"
    return f"""
        create or replace table {_stored(fact)} as
        with extract as (
            select
                strptime(min({quoted(fact.day)})::varchar, '%Y%m%d')::date as starts_on,
                min({quoted(fact.day)}) // 100 as month
            from {mart.stored(fact.name)}
            where {quoted(fact.day)} > 0
        )
        select
            {keys},
            {fact.at(fact.day, row=before)} as {quoted(fact.day)},
            if(row_after is null, 'gone', concat_ws(', ', {changes})) as what_changed,
            row_after is null as is_gone,
            is_closed,
            coalesce({fact.month(before)} between 1 and extract.month - 1, false) as is_before_extract,
            extract.starts_on as extract_starts_on,
            (
                select max_by(rows_before, month) from {MONTHS}
                where table_name = {literal(fact.name)} and rows_before > 0
            ) as newest_rows
        from {fact.differences}
        cross join extract
        where
            row_before is not null
            and (row_after is null or {" or ".join([has_moved, *map(differs.get, amounts)])})
        order by {", ".join(map(quoted, fact.key))}
    """


def _stored(fact: Table) -> str:
    """The table of the published rows that have changed or are gone."""
    return f"checks.{quoted(f'past_of_{fact.name}')}"


def _past_checks(fact: Table, severity: str) -> Iterator[Check]:
    def rows(words: str) -> str:
        counted = f"format('{{:,}} published rows of {words}', count(*) over ()) as found_in_words"
        keys = ", ".join(map(quoted, fact.key))
        return f"select {keys}, {quoted(fact.day)}, what_changed, {counted} from {_stored(fact)}"

    yield Check(
        f"{fact.name}_keeps_its_closed_months",
        rows("closed months are gone or have other amounts")
        + " where is_closed and not is_before_extract",
        "no published row of a closed month is gone or has another amount "
        "(if that is right: --allow-restated)",
        severity,
    )
    yield Check(
        f"{fact.name}_keeps_its_newest_month",
        f"{rows('the newest month are gone')} where is_gone and not is_closed",
        "no published row of the newest month is gone",
        "warn",
    )
    yield Check(
        f"{fact.name}_keeps_most_of_its_newest_month",
        "select count(*) as rows_gone, newest_rows as rows_published, "
        "format('{:,} of {:,} published rows of the newest month are gone', rows_gone, rows_published) "
        f"as found_in_words from {_stored(fact)} "
        "where is_gone and not is_closed group by newest_rows "
        "having rows_gone >= greatest(10, newest_rows / 2)",
        "less than half of the published rows of the newest month are gone "
        "(if that is right: --allow-restated)",
        severity,
    )
    yield Check(
        f"{fact.name}_starts_no_later_than_before",
        f"""
        select
            extract_starts_on,
            count(distinct {quoted(fact.day)} // 100) as months_gone,
            count(*) as rows_gone,
            'the extract now starts on ' || extract_starts_on || '; ' || months_gone || ' month'
            || if(months_gone = 1, ' before it is gone', 's before it are gone') as found_in_words
        from {_stored(fact)}
        where is_closed and is_before_extract
        group by extract_starts_on
        """,
        f"the rows of {fact.name} begin as early as in the published mart",
        "warn",
    )


def _growth_check(connection: DuckDBPyConnection, fact: Table, severity: str) -> Check:
    """Some late rows are normal, and `diff` shows them; 50 % more rows in closed months are not."""
    published, present = connection.execute(
        f"""
        with months as (from {MONTHS} where table_name = $name and rows_before > 0)
        select coalesce(sum(rows_before), 0), coalesce(sum(rows_after), 0)
        from months
        where month between 1 and (select max(month) - 1 from months) and rows_after > 0
        """,
        {"name": fact.name},
    ).fetchone()
    return Check(
        f"{fact.name}_adds_few_rows_to_its_closed_months",
        f"select {published} as rows_published, {present} as rows_present, "
        "format('closed months have {:,} rows, and had {:,}', rows_present, rows_published) "
        "as found_in_words where rows_present - rows_published >= greatest(10, rows_published / 2)",
        "closed months have gained less than half of the rows that were published "
        "(if that is right: --allow-restated)",
        severity,
    )


def _restated_check(connection: DuckDBPyConnection, found: Comparison) -> Check:
    """Stores what changed dimensions do to the metrics, and reports the first change."""
    connection.execute("create or replace table checks.restated as from temp.restated")
    notes = [*restated_notes(found.restated), ""]
    more = f" and {len(notes) - 2} more" if len(notes) > 2 else ""
    return Check(
        "dimensions_restate_no_metric",
        f"select *, {literal(notes[0] + more)} as found_in_words from checks.restated",
        "no changed dimension restates a metric of published rows",
        "warn",
    )


def _newest_month_check(fact: str, day: str) -> Check:
    """Compares with the median of up to twelve months, and allows for chance if there are few rows."""
    return Check(
        f"{fact}_newest_month_is_not_half_empty",
        f"""
        with days as (select {quoted(day)} as day from {quoted(fact)}),
        newest as (
            select max(day) // 100 as month, max(day) % 100 as last_day
            from days
        ),
        months as (
            select day // 100 as month, count(*) as rows
            from days
            where day > 0 and day % 100 <= (select last_day from newest)
            group by month
            order by month desc
            limit 13
        ),
        compared as (
            select
                strptime(any_value(newest.month)::varchar, '%Y%m')::date as month_start,
                any_value(newest.last_day) as days,
                max(months.rows) filter (where months.month = newest.month) as rows,
                median(months.rows) filter (where months.month < newest.month) as usual_rows,
                count(*) - 1 as earlier_months
            from months
            cross join newest
        )
        select month_start, days, rows, usual_rows
        from compared
        where earlier_months >= 3 and rows < least(usual_rows / 2, usual_rows - 4 * sqrt(usual_rows))
        """,
        f"the newest month of {fact} has at least half as many rows as usual by the same day",
        "warn",
    )


def _columns_check(connection: DuckDBPyConnection) -> Check:
    """Compares the ignored and missing columns of the last two builds.

    A column that has been declared since then is not gone.
    """
    declared = [
        f"({literal(name)}, {literal(column)})"
        for name, table in read_contracts(connection).items()
        for column in table.column_names
    ]
    return Check(
        "inputs_have_the_columns_of_the_last_build",
        f"""
        with builds as (
            select
                *,
                dense_rank() over (partition by table_name order by build_id desc) as place,
                max(build_id) over (partition by table_name) = (select max(build_id) from {BUILD_LOG})
                    and count(distinct build_id) over (partition by table_name) > 1 as is_comparable
            from build_inputs
            where file <> '{SEED_ROWS}'
        ),
        listed as (
            select
                table_name,
                place,
                unnest(['ignored', 'missing']) as state,
                unnest([ignored_columns, defaulted_columns]) as columns
            from builds
            where is_comparable and place <= 2
        ),
        odd as (
            select *, unnest(string_split(columns, ', ')) as column_name
            from listed
            where columns <> ''
        ),
        compared as (
            select table_name, column_name, state, min(place) = 1 as is_of_this_build
            from odd
            group by all
            having count(distinct place) = 1
        )
        select
            table_name,
            column_name,
            if((state = 'ignored') = is_of_this_build, 'new', 'gone') as what_changed,
            string_agg(table_name || ': column ' || column_name || ' is ' || what_changed, ', ') over ()
                as found_in_words
        from compared
        where
            state = 'missing'
            or is_of_this_build
            or (table_name, column_name) not in ({", ".join(declared)})
        """,
        "the inputs have the same columns as in the last build",
        "warn",
    )
