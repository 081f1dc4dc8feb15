"""Checks that compare a new build with the published mart: rows it has lost, changed or left out.

Natural keys identify the rows. The checks compare the month of their day (the first column that refers
to `dim_date`) and their amounts (all numbers except keys). A month is closed if the published mart has
a later one. Only facts that both builds read from files are compared.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from duckdb import DuckDBPyConnection

from mart_helpers.contract import declared_tables, read_contract
from mart_helpers.derived import Check, create_checks
from mart_helpers.metrics import additive_metrics, is_number
from mart_helpers.restated import Mart, restated_by, restated_notes
from mart_helpers.session import BUILD_LOG, Session, current_database, has_table, in_words
from mart_helpers.sources import SEED_ROWS
from mart_helpers.texts import literal, quoted, row_sql

# The leading blank keeps these apart from the columns of a fact.
_DAY, _MONTH, _IS_THERE = map(quoted, (" day", " month", " is there"))


class _Fact(NamedTuple):
    """A fact with a natural key and a day; `amounts` are the numeric columns that both marts have.

    It is comparable if the published mart has the same key and day, with the same names and types.
    """

    name: str
    key: tuple[str, ...]
    day: str
    amounts: list[str]
    is_comparable: bool

    @property
    def stored(self) -> str:
        """The table of the published rows that have changed or are gone."""
        return f"checks.{quoted(f'past_of_{self.name}')}"


@in_words()
def check_past(session: Session, allow_restated: bool) -> None:
    """Create the checks that compare the candidate with the published mart, as views in schema `checks`.

    The differences are stored in `checks.past_of_<fact>` and `checks.restated`, so that the views still
    show them after publication. A closed month that lost or changed rows is an error, or a warning if
    `allow_restated`. Raises QueryError if the session is read-only.
    """
    connection = session.connection
    marts = Mart(connection, "published"), Mart(connection, current_database(connection))
    checks, promised = [_columns_check(connection)], []
    for fact in _facts(*marts):
        checks.append(_newest_month_check(fact))
        if fact.is_comparable and _from_files(connection, fact.name):
            promised.append(fact.name)
            connection.execute(_past_sql(fact))
            severity = "warn" if allow_restated else "error"
            checks += [*_past_checks(fact, severity), _growth_check(connection, fact, severity)]
    if promised:
        checks.append(_restated_check(connection, *marts, promised))
    create_checks(connection, checks)


def _facts(before: Mart, after: Mart) -> Iterator[_Fact]:
    for name, types in after.star.items():
        key, day = after.keys.get(name), after.day(name)
        if name.startswith("fact_") and key and day:
            same = before.star.get(name, types)
            numbers = [column for column, type_ in types.items() if is_number(type_)]
            numbers = [column for column in numbers if is_number(same.get(column, ""))]
            keys = {*key, *after.references[name]}
            amounts = [column for column in numbers if column not in keys]
            is_comparable = all(same.get(column) == types[column] for column in (*key, day))
            yield _Fact(name, key, day, amounts, is_comparable)


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


def _past_sql(fact: _Fact) -> str:
    """SQL for the published rows that are gone, moved to another month, or have other amounts."""
    day, values = quoted(fact.day), [*map(quoted, (*fact.key, *fact.amounts))]
    keys = ", ".join(f"before.{quoted(name)}" for name in fact.key)
    fingerprint = f"sum(hash({', '.join(values)})) as fingerprint"
    columns = ", ".join([*values, f"{day} as {_DAY}", f"{day} // 100 as {_MONTH}"])
    changes = ", ".join(
        f"case when before.{name} is distinct from after.{name} "
        f"then concat_ws(' ', {literal(label)}, coalesce(before.{name}::varchar, 'empty'), '→', "
        f"coalesce(after.{name}::varchar, 'empty')) end"
        for label, name in [(fact.day, _DAY), *((name, quoted(name)) for name in fact.amounts)]
    )
    differs = " or ".join(
        f"before.{name} is distinct from after.{name}" for name in (_MONTH, *map(quoted, fact.amounts))
    )
    return f"""
        create or replace table {fact.stored} as
        with published_rows as (select {columns} from published.main.{quoted(fact.name)}),
        present_rows as (select true as {_IS_THERE}, {columns} from main.{quoted(fact.name)}),
        changed_months as (
            select {_MONTH}
            from (select {_MONTH}, {fingerprint} from published_rows group by {_MONTH}) as before
            left join (select {_MONTH}, {fingerprint} from present_rows group by {_MONTH}) as after
                using ({_MONTH})
            where before.fingerprint is distinct from after.fingerprint
        ),
        bounds as (
            select
                max({_MONTH}) as newest_month,
                count(*) filter (
                    where {_MONTH} = (select max({_MONTH}) from published_rows)
                ) as newest_rows,
                (select min({_DAY}) from present_rows where {_DAY} > 0) as first_day
            from published_rows
        )
        select
            {keys},
            before.{_DAY} as {day},
            if(after.{_IS_THERE}, concat_ws(', ', {changes}), 'gone') as what_changed,
            after.{_IS_THERE} is null as is_gone,
            before.{_MONTH} < bounds.newest_month as is_closed,
            before.{_MONTH} between 1 and bounds.first_day // 100 - 1 as is_before_extract,
            strptime(bounds.first_day::varchar, '%Y%m%d')::date as extract_starts_on,
            bounds.newest_rows
        from published_rows as before
        semi join changed_months on before.{_MONTH} = changed_months.{_MONTH}
        left join present_rows as after
            on {row_sql(fact.key, "before")} = {row_sql(fact.key, "after")}
        cross join bounds
        where after.{_IS_THERE} is null or {differs}
        order by {keys}
    """


def _past_checks(fact: _Fact, severity: str) -> Iterator[Check]:
    def rows(words: str) -> str:
        counted = f"format('{{:,}} published rows of {words}', count(*) over ()) as found_in_words"
        keys = ", ".join(map(quoted, fact.key))
        return f"select {keys}, {quoted(fact.day)}, what_changed, {counted} from {fact.stored}"

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
        f"as found_in_words from {fact.stored} "
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
        from {fact.stored}
        where is_closed and is_before_extract
        group by extract_starts_on
        """,
        f"the rows of {fact.name} begin as early as in the published mart",
        "warn",
    )


def _growth_check(connection: DuckDBPyConnection, fact: _Fact, severity: str) -> Check:
    """Some late rows are normal, and `diff` shows them; 50 % more rows in closed months are not."""
    name, monthly = quoted(fact.name), f"{quoted(fact.day)} // 100 as month, count(*) as rows"
    published, present = connection.execute(f"""
        with before as (select {monthly} from published.main.{name} group by all),
        after as (select {monthly} from main.{name} group by all)
        select coalesce(sum(before.rows), 0), coalesce(sum(after.rows), 0)
        from before
        inner join after using (month)
        where month between 1 and (select max(month) - 1 from before)
    """).fetchone()
    return Check(
        f"{fact.name}_adds_few_rows_to_its_closed_months",
        f"select {published} as rows_published, {present} as rows_present, "
        "format('closed months have {:,} rows, and had {:,}', rows_present, rows_published) "
        "as found_in_words where rows_present - rows_published >= greatest(10, rows_published / 2)",
        "closed months have gained less than half of the rows that were published "
        "(if that is right: --allow-restated)",
        severity,
    )


def _restated_check(
    connection: DuckDBPyConnection, before: Mart, after: Mart, facts: Collection[str]
) -> Check:
    """Stores what changed dimensions do to the metrics of these facts, and reports the first change."""
    metrics = additive_metrics(connection, after.name)
    found = restated_by(connection, metrics, before, after, facts)
    connection.execute(
        "create or replace table checks.restated as select unnest($metric) as metric, "
        "unnest($year)::integer as year, unnest($dimension) as dimension, unnest($column_name) as "
        "column_name, unnest($value)::varchar as value, unnest($change)::decimal(38, 4) as change",
        {name: found[name].tolist() for name in found},
    )
    notes = [*restated_notes(found), ""]
    more = f" and {len(notes) - 2} more" if len(notes) > 2 else ""
    return Check(
        "dimensions_restate_no_metric",
        f"select *, {literal(notes[0] + more)} as found_in_words from checks.restated",
        "no changed dimension restates a metric of published rows",
        "warn",
    )


def _newest_month_check(fact: _Fact) -> Check:
    """Compares with the median of up to twelve months, and allows for chance if there are few rows."""
    day = quoted(fact.day)
    return Check(
        f"{fact.name}_newest_month_is_not_half_empty",
        f"""
        with days as (select {day} as day from {quoted(fact.name)}),
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
        f"the newest month of {fact.name} has at least half as many rows as usual by the same day",
        "warn",
    )


def _columns_check(connection: DuckDBPyConnection) -> Check:
    """Compares the ignored and missing columns of the last two builds.

    A column that has been declared since then is not gone.
    """
    declared = [
        f"({literal(name)}, {literal(column)})"
        for name in declared_tables(connection)
        for column in read_contract(connection, name).column_names
    ]
    return Check(
        "inputs_have_the_columns_of_the_last_build",
        f"""
        with builds as (
            select distinct
                table_name,
                build_id,
                dense_rank() over (partition by table_name order by build_id desc) as place
            from build_inputs
            where file <> '{SEED_ROWS}'
        ),
        odd as (
            select table_name, build_id, 'ignored' as state, ignored_columns as columns from build_inputs
            union all
            select table_name, build_id, 'missing', defaulted_columns from build_inputs
        ),
        listed as (
            select table_name, state, place, unnest(string_split(columns, ', ')) as column_name
            from odd
            inner join builds using (table_name, build_id)
            where place <= 2 and columns <> ''
        ),
        compared as (
            select table_name, column_name, state, min(place) = 1 as is_of_this_build
            from listed
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
            table_name in (select table_name from builds where place = 2)
            and table_name in (
                select table_name from builds
                where place = 1 and build_id = (select max(build_id) from {BUILD_LOG})
            )
            and not (
                state = 'ignored'
                and not is_of_this_build
                and (table_name, column_name) in ({", ".join(declared)})
            )
        """,
        "the inputs have the same columns as in the last build",
        "warn",
    )
