"""Finds the bad rows of a staging table, and moves them to `quarantine` with their place in the file.

The problems are collected in temporary tables, by row id, before anything is moved. A reference to a
missing row is no problem if its dimension is declared `inferred:`: the dimension gets a member for it, a
placeholder with the key and the defaults of the contract, so that a late product holds no sale back. The
table `inferred_members` lists it until an extract has the row itself.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, islice

import duckdb

from mart_helpers.contract import FILE_DAY, Reference, Table, ascends_sql, read_contract
from mart_helpers.errors import StateError
from mart_helpers.session import has_table
from mart_helpers.staging import SUSPECT, Run, origins, problems_sql, staging_of
from mart_helpers.texts import literal, one_line, quoted, row_sql, row_text_sql

#: How many bad rows are examined for the message if a table is refused.
SAMPLE = 10_000

_MOST_UNIQUE = 0.9  # share of unique keys by an estimate that may be wrong by some percent

_BATCH = 2_000  # records of at most 10,000 characters

_MOST_ORIGINS = 200_000  # for so many bad rows, a file is read once more

_BAD = "select row_id from problems"

_OF_MISSING = '" key", " first", " rows", " reason"'

# characters without width: an id that contains one looks like another id
_INVISIBLE = r"'[\x{AD}\x{200B}-\x{200F}\x{2060}\x{FEFF}]'"


def begin(connection: duckdb.DuckDBPyConnection) -> None:
    """Create or replace the temporary tables that collect the faults of one table."""
    connection.execute("""
        create or replace temp table problems (
            row_id bigint,
            position integer,
            column_name varchar,
            value varchar,
            reason varchar,
            first_row_id bigint
        );
        create or replace temp table orphans as from problems;
        create or replace temp table places (
            row_id bigint, file varchar, line bigint, raw_row varchar, cells map(varchar, varchar)
        );
    """)


def count_plainly_bad(connection: duckdb.DuckDBPyConnection, table: Table) -> int:
    """How many rows of the staging table are known to be bad without examining each one.

    They are bad in themselves or repeat a key; the latter are not counted if an estimate finds only few.
    """
    count, good = "select count(*)", f"from {staging_of(table.name)} where {SUSPECT} is null"
    key = row_sql([*_apart(table), *table.key])
    (bad,) = connection.execute(f"select count({SUSPECT}) from {staging_of(table.name)}").fetchone()
    if not _is_true(connection, f"{count} * {_MOST_UNIQUE} < approx_count_distinct({key}) {good}"):
        bad += connection.execute(f"{count} - count(distinct {key}) {good}").fetchone()[0]
    return bad


def sample_problems(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Collect the problems of the first bad rows, except those that depend on other tables."""
    connection.execute(f"insert into problems by name {problems_sql(table, SAMPLE)}")
    connection.execute(_ONLY_THE_ROW)
    connection.execute(_repeats_sql(table, table.key, SAMPLE))
    keep_sample(connection)


def keep_sample(connection: duckdb.DuckDBPyConnection) -> None:
    """Keep only the problems of the first bad rows."""
    connection.execute(
        "delete from problems where row_id not in "
        f"({_BAD} group by row_id order by row_id limit {SAMPLE})"
    )


def find_problems(connection: duckdb.DuckDBPyConnection, table: Table, *, repeats: bool = True) -> int:
    """Collect all problems of the staging table, and return the number of bad rows.

    A row is bad if it has problems of its own, if it is an orphan, or, with `repeats`, if it repeats the
    key of an earlier good row, its `first_row_id`. Good rows that refer to members to be inferred are
    `orphans`.
    """
    rows, inferring = staging_of(table.name), [*inferring_references(connection, table)]
    inferred = {reference.table for reference in inferring}
    if _is_true(connection, f"select count({SUSPECT}) > 0 from {rows}"):
        connection.execute(f"insert into problems by name {problems_sql(table)}")
    for reference in table.references:
        if not has_table(connection, "staging", reference.table):
            raise StateError(f"Load {reference.table} before {table.name}, which refers to it.")
        if reference.table not in {table.name, *inferred}:
            connection.execute(_orphans_sql(table, reference))
    connection.execute(_ONLY_THE_ROW)
    for columns in (table.key, *table.uniques) if repeats else ():
        if not _is_true(connection, ascends_sql(rows, row_sql([*_apart(table), *columns]))):
            connection.execute(_repeats_sql(table, columns))
    own = [_orphans_sql(table, each) for each in table.references if each.table == table.name]
    # rows that refer to bad rows of their own table are bad, then those that refer to these
    while table.name not in inferred and any([connection.execute(sql).fetchone()[0] for sql in own]):
        pass
    for reference in inferring:
        connection.execute(_orphans_sql(table, reference, "orphans"))
    connection.execute(f"delete from orphans where row_id in ({_BAD})")
    return connection.execute("select count(distinct row_id) from problems").fetchone()[0]


def name_conflicts(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Make the reasons for repeated keys name the columns in which the rows differ."""
    rows = staging_of(table.name)
    differing = ", ".join(
        f"case when late.{quoted(name)} is distinct from first.{quoted(name)} then {literal(name)} end"
        for name in table.column_names
        if not name.startswith(" ")
    )
    connection.execute(f"""
        update problems
        set reason = regexp_replace(
            reason, ' repeats? (that|those)$', ' has another ' || names || ' than \\1'
        )
        from (
            select row_id as late_id, concat_ws(', ', {differing}) as names
            from problems
            inner join {rows} as late on problems.row_id = late.rowid
            inner join {rows} as first on problems.first_row_id = first.rowid
        )
        where row_id = late_id and first_row_id is not null and names <> ''
    """)


def write_entries(
    connection: duckdb.DuckDBPyConnection, table: Table, runs: Sequence[Run], records: str | None
) -> Counter[str]:
    """Write the collected problems to `quarantine`; returns the number of bad rows per file.

    `records` is a query that maps each row of staging to its row in the `runs`; None if they are the
    same. The table `places` gets the places of rows with problems, of the rows whose keys they repeat,
    and of the first rows that refer to members to be inferred.
    """
    record, join = ("record", f"inner join ({records}) using (row_id)") if records else ("row_id", "")
    connection.execute(_WANTED.format(record=record, join=join))
    some = f"select row_id, record from wanted where record > ? order by record limit {_MOST_ORIGINS}"
    last = -1
    while rows := connection.execute(some, [last]).fetchall():
        last = rows[-1][1]
        found = zip(rows, origins(runs, (record for _, record in rows)), strict=True)
        for source, of_source in groupby(found, lambda each: each[1][0]):
            row_of = {number: row_id for (row_id, _), (_, number) in of_source}
            places = source.places(row_of)
            while batch := [*islice(places, _BATCH)]:
                row_ids = [row_of[number] for number, _, _ in batch]
                lines, raws = ([place[index] for place in batch] for index in (1, 2))
                connection.execute(_NOTE_PLACES, [row_ids, source.name, lines, raws, *source.cells])
    connection.execute(_INSERT, [table.name])
    bad = "select file, count(distinct line) from quarantine where table_name = ? group by file"
    return Counter(dict(connection.execute(bad, [table.name]).fetchall()))


def set_bad_rows_aside(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Move the rows with problems out of staging, and infer the members that good rows refer to.

    `staging.<table>_quarantined` keeps their good values, with their places in the columns ` file` and
    ` line`; values that cannot be read or break a rule are null there.
    """
    rows = staging_of(table.name)
    readable = ", ".join(
        f"if(list_contains(bad.names, {literal(name)}), null, staged.{quoted(name)}) as {quoted(name)}"
        for name in table.column_names
        if name not in table.id_names
    )
    connection.execute(f"""
        create or replace table {staging_of(f"{table.name}_quarantined")} as
        select
            staged.* exclude ({SUSPECT}) {readable and f"replace ({readable})"},
            places.file as " file",
            places.line as " line"
        from {rows} as staged
        inner join places on staged.rowid = places.row_id
        left join (
            select row_id, list(column_name) as names from problems
            where first_row_id is null
            group by row_id
        ) as bad on staged.rowid = bad.row_id
        where staged.rowid in ({_BAD})
        order by staged.rowid;

        delete from {rows} where rowid in ({_BAD})
    """)
    for reference in inferring_references(connection, table):
        _infer_members(connection, table, reference)


def forget_inferred(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Delete the members inferred in this table, and those that an earlier load of it inferred."""
    of_others = f"""
        select table_name, list(key) from inferred_members
        where referring_table = {literal(table.name)} and table_name <> referring_table
        group by table_name
    """
    for name, keys in connection.execute(of_others).fetchall():
        known = row_text_sql(read_contract(connection, name).key)
        connection.execute(f"delete from {staging_of(name)} where {known} in (select unnest(?))", [keys])
    connection.execute(
        f"delete from inferred_members where {literal(table.name)} in (table_name, referring_table)"
    )


def commonest_reasons(
    connection: duckdb.DuckDBPyConnection, table: str | None = None, file: str | None = None
) -> tuple[list[tuple[int, str, int, str]], int]:
    """Up to five kinds of reasons in `quarantine`, and how many more there are.

    If a table or a file is named, only its rows count. The most frequent come first, each on one line:
    the number of rows, the file, and the first line with its reason.
    """
    found = connection.execute(_COMMONEST_REASONS, {"table": table, "file": file}).fetchall()
    kinds = found[0][-1] if found else 0
    return [(*place, one_line(reason)) for *place, reason, _ in found], kinds - len(found)


_NOTE_PLACES = """
insert into places
select unnest($1), $2, unnest($3), unnest($4), map($5::varchar[], $6::varchar[])
"""

# Of a row with the wrong number of fields, nobody knows which value belongs where.
_ONLY_THE_ROW = """
delete from problems
where position >= 0 and row_id in (select row_id from problems where position = -1)
"""

_KIND = r"""regexp_replace(reason, '(?s)".*"| of line [0-9]+.*$| \(cell \w+\)$', '', 'g')"""

_COMMONEST_REASONS = f"""
select
    count(distinct (file, line)) as rows,
    min(file) as first_file,
    arg_min(line, (file, line)) as first_line,
    arg_min(reason, (file, line)) as first_reason,
    count(*) over () as kinds
from quarantine
where coalesce(table_name = $table, true) and coalesce(file = $file, true)
group by table_name, column_name, {_KIND}
order by rows desc, first_file, first_line
limit 5
"""

_INSERT = """
insert into quarantine by name
select
    $1 as table_name,
    bad.file,
    bad.line,
    problems.column_name,
    problems.value,
    problems.reason
        || coalesce(' of line ' || first.line, '')
        || case when first.file <> bad.file then ' in ' || first.file else '' end
        || coalesce(' (cell ' || bad.cells[problems.column_name] || bad.line || ')', '') as reason,
    bad.raw_row
from problems
inner join places as bad on problems.row_id = bad.row_id
left join places as first on problems.first_row_id = first.row_id
order by bad.file, bad.line, problems.position
"""


_WANTED = """
create or replace temp table wanted as
select distinct row_id, {record} as record
from (
    select unnest([row_id, first_row_id]) as row_id from problems
    union all
    select min(row_id) from orphans group by column_name, value
)
{join}
where row_id is not null
"""


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


def _infer_members(connection: duckdb.DuckDBPyConnection, table: Table, reference: Reference) -> None:
    """Add a member to the staged dimension for each missing key, and list it in `inferred_members`.

    The temporary table `orphans` has the rows that refer to such keys, `places` the first row of each.
    """
    parent = read_contract(connection, reference.table)
    defaults = {each.name: each.default for each in parent.columns if each.default is not None}
    if parent.has_days:  # it joins the newest extract
        defaults[FILE_DAY] = f"select max({FILE_DAY}) from {staging_of(parent.name)}"
    pairs = zip(map(quoted, reference.columns), map(quoted, reference.table_columns), strict=True)
    keys = ", ".join(f"child.{column} as {key}" for column, key in pairs)
    values = [f"({sql}) as {quoted(name)}" for name, sql in defaults.items() if name not in parent.key]
    connection.execute(f"""
        create or replace temp table missing as
        select
            any_value(orphans.value) as " key",
            min(child.rowid) as " first",
            count(*) as " rows",
            arg_min(orphans.reason, child.rowid) as " reason",
            {keys}
        from {staging_of(table.name)} as child
        inner join orphans on child.rowid = orphans.row_id
        anti join {staging_of(parent.name)} as known on {_joined(reference, "known")}
        where orphans.column_name = {literal(", ".join(reference.columns))}
        group by all;

        insert into inferred_members by name
        select
            {literal(parent.name)} as table_name,
            missing." key" as key,
            places.file,
            places.line,
            missing." rows" as rows,
            missing." reason" as reason,
            {literal(table.name)} as referring_table
        from missing
        inner join places on missing." first" = places.row_id
        order by missing." first";

        insert into {staging_of(parent.name)} by name
        select {", ".join([f"* exclude ({_OF_MISSING})", *values])}
        from missing order by " first"
    """)


def _is_true(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    return connection.execute(sql).fetchall() == [(True,)]


def _problem_sql(table: Table, columns: Sequence[str], relation: str) -> str:
    """SQL for position, column_name, value, and how the reason begins: `order_id "O1", line_no "2"`."""
    named = [f"""{literal(f'{name} "')} || {relation}.{quoted(name)} || '"'""" for name in columns]
    position, names = str(table.column_names.index(columns[0])), literal(", ".join(columns))
    return ", ".join([position, names, row_text_sql(columns, relation), " || ', ' || ".join(named)])


def _orphans_sql(table: Table, reference: Reference, into: str = "problems") -> str:
    """SQL for the rows that refer to a missing row, or to a bad row of their own table."""
    columns, name = reference.columns, reference.table
    is_not, its = ("is not", "its") if len(columns) == 1 else ("are not", "their")
    known = ", ".join(map(quoted, reference.table_columns))
    rows, parents = (f"select *, rowid from {staging_of(each)}" for each in (table.name, name))
    causes = f"""
        select
            {", ".join(f"bad.{quoted(column)}" for column in reference.table_columns)},
            ': {its} row, ' || arg_min(told.file || ' line ' || told.line, bad.rowid)
                || ', is in quarantine: ' || arg_min(told.reason, (bad.rowid, told.rowid)) as " cause"
        from (select *, rowid from {staging_of(f"{name}_quarantined")}) as bad
        inner join quarantine as told on bad." file" = told.file and bad." line" = told.line
        where told.table_name = {literal(name)}
        group by all
    """
    if name == table.name:
        rows = parents = f"{rows} where rowid not in ({_BAD})"
        bad = f"from {staging_of(name)} where rowid in ({_BAD})"
        causes = f"""select distinct {known}, ': {its} row is in quarantine' as " cause" {bad}"""

    seen = f"regexp_extract({row_text_sql(columns, 'child')}, {_INVISIBLE})"
    return f"""
        insert into {into}
        select
            child.rowid,
            {_problem_sql(table, columns, "child")} || {literal(f" {is_not} in {name}")}
                || coalesce(causes." cause", '')
                || case when {seen} <> ''
                    then printf(' (it holds the invisible character U+%04X)', unicode({seen}))
                    else '' end,
            null
        from ({rows}) as child
        anti join ({parents}) as parents on {_joined(reference, "parents")}
        left join ({causes}) as causes on {_joined(reference, "causes")}
        where {" and ".join(f"child.{quoted(column)} is not null" for column in columns)}
    """


def _joined(reference: Reference, parents: str) -> str:
    """SQL for the condition that a row of `child` refers to one of these `parents`."""
    pairs = zip(map(quoted, reference.columns), map(quoted, reference.table_columns), strict=True)
    return " and ".join(f"child.{column} = {parents}.{key}" for column, key in pairs)


def _apart(table: Table) -> list[str]:
    """Columns that tell rows with the same key apart: the day, since each dated file has all members."""
    return [FILE_DAY] if table.history_names else []


def _repeats_sql(table: Table, columns: Sequence[str], most: int | None = None) -> str:
    """SQL for the rows that repeat a key, the values of these columns; or the first `most` of them.

    A key with a missing value repeats nothing.
    """
    within = [*_apart(table), *columns]
    repeats = "repeats that" if len(columns) == 1 else "repeat those"
    names = ", ".join(f"staged.{quoted(column)}" for column in columns)
    known = [f"{quoted(column)} is not null" for column in columns]
    rows = f"{staging_of(table.name)} where {' and '.join([f'{SUSPECT} is null', *known])}"
    good = f"""
        select {names}, staged.rowid as " row id", {row_sql(within, "staged")} as " key"
        from (select *, rowid from {rows}) as staged
        anti join problems on staged.rowid = problems.row_id
    """
    return f"""
        create or replace temp table repeated as
        select " key", min(" row id") as " first" from ({good})
        group by " key" having count(*) > 1;

        insert into problems
        select
            good." row id",
            {_problem_sql(table, columns, "good")} || ' {repeats}',
            repeated." first"
        from ({good}) as good
        inner join repeated on good." key" = repeated." key"
        where good." row id" <> repeated." first"
        {f'order by good." row id" limit {most}' if most else ""}
    """
