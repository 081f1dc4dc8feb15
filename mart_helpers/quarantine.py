"""Taking the bad rows out of a staging table and into `quarantine`, each with its place in the file."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice, tee
from typing import NamedTuple

import duckdb

from mart_helpers.contract import FILE_DAY, Reference, Table, ascends_sql, referred_columns
from mart_helpers.errors import StateError
from mart_helpers.inferred import infer_members, inferring_references
from mart_helpers.session import has_table
from mart_helpers.sources import Part, Source, located, read_ordinals
from mart_helpers.staging import SUSPECT, problems_sql, staging_of
from mart_helpers.star import star_columns
from mart_helpers.texts import literal, one_line, quoted, row_sql, row_text_sql

_SAMPLE = 10_000

_MOST_UNIQUE = 0.9  # of keys as estimated, which may be wrong by some percent

_BATCH, _MOST_HELD = 2_000, 50_000  # records of at most 10,000 characters


class Loaded(NamedTuple):
    """A batch in staging, from the row id `first_row` on: first what was read, then what was not.

    Of its parts only the places are kept. `unread` are ordinals in the batch, ascending.
    """

    first_row: int
    parts: Sequence[Part]
    unread: Sequence[int]

    @property
    def rows(self) -> int:
        """How many records the batch has."""
        return sum(part.count for part in self.parts)

    def runs(self) -> Iterator[tuple[Source, int, int]]:
        """The rows in staging as runs of one source each: the source, the first row id, how many."""
        row, behind = self.first_row, 0
        for part in self.parts:
            unread = bisect_left(self.unread, behind + part.count) - bisect_left(self.unread, behind)
            yield part.source, row, part.count - unread
            row, behind = row + part.count - unread, behind + part.count
        for source, _ in located(self.parts, self.unread):
            yield source, row, 1
            row += 1

    def origins(self, row_ids: Sequence[int]) -> Iterator[tuple[int, Source, int]]:
        """These `row_ids`, each with source and number of its record, in the order of the records."""
        read = self.rows - len(self.unread)
        offsets = [row_id - self.first_row for row_id in row_ids]
        of_read = [offset for offset in offsets if offset < read]
        ordinals = [*read_ordinals(of_read, self.unread)]
        ordinals += [self.unread[offset - read] for offset in offsets[len(of_read) :]]
        pairs = sorted(zip(ordinals, row_ids, strict=True))
        places = located(self.parts, (ordinal for ordinal, _ in pairs))
        for (_, row_id), (source, number) in zip(pairs, places, strict=True):
            yield row_id, source, number


def begin(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary tables anew in which the faults of one table are gathered."""
    connection.execute(_GATHERED)


def count_suspects(connection: duckdb.DuckDBPyConnection, table: Table) -> int:
    """How many rows of the staging table are bad in themselves, whatever others hold."""
    sql = f"select count({SUSPECT}) from {staging_of(table.name)}"
    return connection.execute(sql).fetchone()[0]


def count_repeats(connection: duckdb.DuckDBPyConnection, table: Table) -> int:
    """How many rows, else not suspect, repeat a key; 0 if an estimate says that few do."""
    good = f"from {staging_of(table.name)} where {SUSPECT} is null"
    key = row_sql([*_apart(table), *table.key])
    estimate = f"select count(*) * {_MOST_UNIQUE} < approx_count_distinct({key}) {good}"
    if _is_true(connection, estimate):
        return 0
    return connection.execute(f"select count(*) - count(distinct {key}) {good}").fetchone()[0]


def sample_problems(connection: duckdb.DuckDBPyConnection, table: Table, bad: int) -> str:
    """Fill `problems` with what is wrong with the first of the `bad` rows; words for it if all are more.

    Only what is seen without other tables counts.
    """
    connection.execute(f"insert into problems by name {problems_sql(table, _SAMPLE)}")
    connection.execute(_ONLY_THE_ROW)
    if bad > count_suspects(connection, table):
        connection.execute(_repeats_sql(table, table.key, _SAMPLE))
    return f"; of the first {_SAMPLE:,}" if bad > _SAMPLE else ""


def find_problems(connection: duckdb.DuckDBPyConnection, table: Table) -> int:
    """Fill the temporary table `problems` with what is wrong in staging; the number of bad rows.

    Bad is a row with problems of its own, then an orphan, then one that repeats the key of an earlier
    good row, which is its `first_row_id`. Good rows that refer to members to be inferred are `orphans`.
    """
    rows, inferring = staging_of(table.name), [*inferring_references(connection, table)]
    inferred = {reference.table for reference in inferring}
    if count_suspects(connection, table):
        connection.execute(f"insert into problems by name {problems_sql(table)}")
    for reference in table.references:
        if not has_table(connection, "staging", reference.table):
            raise StateError(f"Load {reference.table} before {table.name}, which refers to it.")
        if reference.table not in {table.name, *inferred}:
            connection.execute(_orphans_sql(connection, table, reference))
    connection.execute(_ONLY_THE_ROW)
    for columns in (table.key, *table.uniques):
        if not _is_true(connection, ascends_sql(rows, row_sql([*_apart(table), *columns]))):
            connection.execute(_repeats_sql(table, columns))
    if table.name not in inferred:
        _find_own_orphans(connection, table)
    for reference in inferring:
        connection.execute(_orphans_sql(connection, table, reference, "orphans"))
    connection.execute(f"delete from orphans where row_id in ({_BAD})")
    return connection.execute("select count(distinct row_id) from problems").fetchone()[0]


def _find_own_orphans(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Add the rows that refer to bad rows of their own table, and then those that refer to these."""
    own = [
        _orphans_sql(connection, table, each) for each in table.references if each.table == table.name
    ]
    while own and any([connection.execute(sql).fetchone()[0] for sql in own]):
        pass


def name_conflicts(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Have the reasons of repeated keys name the columns in which the rows differ."""
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
            select
                row_id as late_id,
                array_to_string(
                    list_filter([{differing}], lambda name: name is not null), ', '
                ) as names
            from problems
            inner join {rows} as late on problems.row_id = late.rowid
            inner join {rows} as first on problems.first_row_id = first.rowid
        )
        where row_id = late_id and first_row_id is not null and names <> ''
    """)


def bad_rows(connection: duckdb.DuckDBPyConnection, batches: Sequence[Loaded]) -> Counter[str]:
    """How many records of each source, by its name, are bad."""
    return Counter(source.name for _, source, _ in _origins(connection, batches, _BAD))


def quarantine_bad_rows(
    connection: duckdb.DuckDBPyConnection, table: Table, batches: Sequence[Loaded]
) -> None:
    """Move the rows with problems to `quarantine`, and infer the members that good ones refer to.

    What bad ones hold stays in `staging.<table>_quarantined`, save what cannot be read or breaks a rule.
    """
    rows, are_bad = staging_of(table.name), f"rowid in ({_BAD})"
    readable = ", ".join(
        f"if(list_contains(bad.names, {literal(name)}), null, staged.{quoted(name)}) as {quoted(name)}"
        for name in table.column_names
        if name not in table.id_names
    )
    connection.execute(
        f"create or replace table {staging_of(f'{table.name}_quarantined')} as select "
        f"staged.* exclude ({SUSPECT}) {readable and f'replace ({readable})'} from {rows} as staged "
        "left join (select row_id, list(column_name) as names from problems where first_row_id is null "
        f"group by row_id) as bad on staged.rowid = bad.row_id where staged.{are_bad}"
    )
    _insert_entries(connection, table, batches)
    connection.execute(_causes_sql(connection, table))
    connection.execute(f"delete from {rows} where {are_bad}")
    for reference in inferring_references(connection, table):
        infer_members(connection, table, reference)


def name_cells(
    connection: duckdb.DuckDBPyConnection, table: Table, file: str, letters: Mapping[str, str]
) -> None:
    """Have the reasons for values of a sheet name their cells; its columns have these `letters`."""
    connection.execute(
        """
        update quarantine
        set reason = concat(reason, ' (cell ', $letters[list_position($names, column_name)], line, ')')
        where table_name = $table and file = $file and list_contains($names, column_name)
        """,
        {
            "table": table.name,
            "file": file,
            "names": [*letters],
            "letters": [*letters.values()],
        },
    )


def commonest_problems(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[Loaded]
) -> tuple[list[tuple[int, str, int, str]], int]:
    """As `commonest_reasons`, of what is wrong with a table of which nothing is in quarantine yet."""
    found = connection.execute(_COMMONEST_PROBLEMS).fetchall()
    kinds = []
    for rows, row_id, first_row_id, reason, _ in found:
        if first_row_id is not None:
            reason += f" of line {_place(batches, first_row_id)[1]}"
        kinds.append((rows, *_place(batches, row_id), one_line(reason)))
    return kinds, (found[0][-1] if found else 0) - len(found)


def missing_from(connection: duckdb.DuckDBPyConnection, table: Table) -> str:
    """The tables that lack rows to which those of this one refer, with "and" between them."""
    found = connection.execute(
        "select distinct regexp_extract(reason, ' not in (\\w+)', 1) from problems"
    )
    names = {name for (name,) in found.fetchall()} & {each.table for each in table.references}
    return " and ".join(sorted(names - {table.name}))


def _place(batches: Sequence[Loaded], row_id: int) -> tuple[str, int]:
    """File and line of a row."""
    (batch,) = (each for each in batches if 0 <= row_id - each.first_row < each.rows)
    ((_, source, number),) = batch.origins([row_id])
    (place,) = source.places([number])
    return source.name, place.line


def commonest_reasons(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[list[tuple[int, str, int, str]], int]:
    """Up to five kinds of reasons in `quarantine`, and how many more there are.

    Those of most rows come first. Of each: how many rows, the file, and the first of their lines with
    its reason, on one line.
    """
    found = connection.execute(_COMMONEST_REASONS).fetchall()
    kinds = found[0][-1] if found else 0
    return [(*place, one_line(reason)) for *place, reason, _ in found], kinds - len(found)


_BAD = "select row_id from problems"

_GATHERED = """
create or replace temp table problems (
    row_id bigint,
    position integer,
    column_name varchar,
    value varchar,
    reason varchar,
    first_row_id bigint
);
create or replace temp table orphans as from problems;
create or replace temp table places (row_id bigint, file varchar, line bigint);
"""

_NOTE_PLACES = "insert into places select unnest($1), $2, unnest($3)"

_NOTE_RAW_ROWS = "insert into raw_rows select unnest($1), unnest($2)"

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
group by table_name, column_name, {_KIND}
order by rows desc, first_file, first_line
limit 5
"""

_COMMONEST_PROBLEMS = f"""
select
    count(*) as rows,
    min(row_id) as example,
    arg_min(first_row_id, row_id) as first_row_id,
    arg_min(reason, row_id) as first_reason,
    count(*) over () as kinds
from problems
group by column_name, {_KIND}
order by rows desc, example
limit 5
"""

_RAW_ROWS = "create or replace temp table raw_rows (row_id bigint, raw_row varchar)"

# Of the rows in `raw_rows`, by their places.
_INSERT = """
insert into quarantine by name
select
    $table_name as table_name,
    bad.file,
    bad.line,
    problems.column_name,
    problems.value,
    problems.reason
        || coalesce(' of line ' || first.line, '')
        || case when first.file <> bad.file then ' in ' || first.file else '' end as reason,
    raw_rows.raw_row
from raw_rows
inner join problems on raw_rows.row_id = problems.row_id
inner join places as bad on raw_rows.row_id = bad.row_id
left join places as first on problems.first_row_id = first.row_id
order by bad.file, bad.line, problems.position
"""


# of no width, so an id that holds one looks like another
_INVISIBLE = r"'[\x{AD}\x{200B}-\x{200F}\x{2060}\x{FEFF}]'"


def _causes_of(table_name: str) -> str:
    return staging_of(f"{table_name} causes")


def _causes_sql(connection: duckdb.DuckDBPyConnection, table: Table) -> str:
    """SQL that keeps the places of bad rows, for the rows that will refer to them.

    Rows that no good one stands for count, and only if another table refers to this one. The names of
    what is added begin with a blank, so that they are no names of columns.
    """
    rows = staging_of(table.name)
    referred = referred_columns(connection, table.name)
    lacking = [
        f"{row_sql(columns, 'staged')} not in (select {row_sql(columns)} from {rows} "
        f"where rowid not in ({_BAD}) and {row_sql(columns)} is not null)"
        for columns in referred
    ]
    names = {name: None for columns in referred for name in columns} or table.key
    return f"""
        create or replace table {_causes_of(table.name)} as
        select
            {", ".join(f"staged.{quoted(name)}" for name in names)},
            staged.rowid as " row id",
            places.file as " file",
            places.line as " line"
        from {rows} as staged
        inner join places on staged.rowid = places.row_id
        where staged.rowid in ({_BAD}) and ({" or ".join(lacking) or "false"})
    """


def _is_true(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    return connection.execute(sql).fetchall() == [(True,)]


def _origins(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[Loaded], wanted: str
) -> Iterator[tuple[int, Source, int]]:
    """The row ids of a query, each with source and number of its record, in the order of the records."""
    connection.execute(f"create or replace temp table wanted as select distinct row_id from ({wanted})")
    for batch in batches:
        rows = connection.execute(
            "select row_id from wanted where row_id between $first and $last order by row_id",
            {"first": batch.first_row, "last": batch.first_row + batch.rows - 1},
        )
        yield from batch.origins([row_id for (row_id,) in rows.fetchall()])


def _insert_entries(
    connection: duckdb.DuckDBPyConnection, table: Table, batches: Sequence[Loaded]
) -> None:
    """Write what is wrong to `quarantine`, with the raw rows of not too many at a time.

    `places` is filled with those of the rows with problems, of the rows whose keys they repeat, and of
    the first rows that refer to members to be inferred.
    """
    wanted = (
        "select unnest([row_id, first_row_id]) as row_id from problems union all "
        "select min(row_id) from orphans group by column_name, value"
    )
    connection.execute(_RAW_ROWS)
    held = 0
    found = groupby(_origins(connection, batches, wanted), lambda origin: origin[1])
    for source, origins in found:
        of_ids, of_places = tee(origins)
        places = source.places(number for _, _, number in of_places)
        noted = zip((row_id for row_id, _, _ in of_ids), places, strict=True)
        while batch := list(islice(noted, _BATCH)):
            row_ids = [row_id for row_id, _ in batch]
            lines, raws = ([place[index] for _, place in batch] for index in (1, 2))
            connection.execute(_NOTE_PLACES, [row_ids, source.name, lines])
            connection.execute(_NOTE_RAW_ROWS, [row_ids, raws])
            held += len(batch)
            if held >= _MOST_HELD:
                connection.execute(_INSERT, {"table_name": table.name})
                connection.execute(_RAW_ROWS)
                held = 0
    connection.execute(_INSERT, {"table_name": table.name})


def _named_sql(columns: Sequence[str], relation: str) -> str:
    """SQL for the values of these columns with their names: `order_id "O1", line_no "2"`."""
    named = [f"""{literal(f'{name} "')} || {relation}.{quoted(name)} || '"'""" for name in columns]
    return " || ', ' || ".join(named)


def _orphans_sql(
    connection: duckdb.DuckDBPyConnection, table: Table, reference: Reference, into: str = "problems"
) -> str:
    """SQL for the rows that refer to no row, or, where it is their own table, to no good one."""
    columns, name = reference.columns, reference.table
    is_not, its = ("is not", "its") if len(columns) == 1 else ("are not", "their")
    known = ", ".join(map(quoted, reference.table_columns))
    rows, parents = (f"select *, rowid from {staging_of(each)}" for each in (table.name, name))
    causes = f"""
        select
            {", ".join(f"bad.{quoted(column)}" for column in reference.table_columns)},
            ': {its} row, ' || arg_min(told.file || ' line ' || told.line, bad." row id")
                || ', is in quarantine: '
                || arg_min(told.reason, (bad." row id", told.rowid)) as " cause"
        from {_causes_of(name)} as bad
        inner join quarantine as told on bad." file" = told.file and bad." line" = told.line
        where told.table_name = {literal(name)}
        group by all
    """
    if name == table.name:
        rows = parents = f"{rows} where rowid not in ({_BAD})"
        bad = f"from {staging_of(name)} where rowid in ({_BAD})"
        causes = f"""select distinct {known}, ': {its} row is in quarantine' as " cause" {bad}"""

    def joined(to: str) -> str:
        pairs = zip(map(quoted, columns), map(quoted, reference.table_columns), strict=True)
        return " and ".join(f"child.{column} = {to}.{key}" for column, key in pairs)

    seen = f"regexp_extract({row_text_sql(columns, 'child')}, {_INVISIBLE})"
    return f"""
        insert into {into}
        select
            child.rowid,
            {table.column_names.index(columns[0])},
            {literal(", ".join(columns))},
            {row_text_sql(columns, "child")},
            {_named_sql(columns, "child")} || {literal(f" {is_not} in {name}")}
                || coalesce(causes." cause", {_gone_sql(connection, reference)}, '')
                || case when {seen} <> ''
                    then printf(' (it holds the invisible character U+%04X)', unicode({seen}))
                    else '' end,
            null
        from ({rows}) as child
        anti join ({parents}) as parents on {joined("parents")}
        left join ({causes}) as causes on {joined("causes")}
        where {" and ".join(f"child.{quoted(column)} is not null" for column in columns)}
    """


def _gone_sql(connection: duckdb.DuckDBPyConnection, reference: Reference) -> str:
    """SQL for words on a key that the published mart has, or null."""
    columns = star_columns(connection, "published").get(reference.table, ())
    if not {*reference.table_columns} <= {*columns}:
        return "null"
    known = row_text_sql(reference.table_columns)
    return (
        f"case when {row_text_sql(reference.columns, 'child')} in "
        f"(select {known} from published.main.{quoted(reference.table)} where {known} is not null) "
        "then ' any more: the published mart has it' end"
    )


def _apart(table: Table) -> list[str]:
    """What tells rows with the same key apart: dated files, each of which has all members again."""
    return [FILE_DAY] if table.history_names else []


def _repeats_sql(table: Table, columns: Sequence[str], most: int | None = None) -> str:
    """SQL for the rows that repeat a key, the values of these columns; or the first `most` of them.

    A key that stands higher up is not above the highest one up there. In a file that is sorted but for
    some rows few are late, which is seen without grouping all. Where a value is missing, none repeats.
    """
    within = [*_apart(table), *columns]
    key, repeats = row_sql(within), "repeats that" if len(columns) == 1 else "repeat those"
    names = ", ".join(f"staged.{quoted(column)}" for column in columns)
    known = [f"{quoted(column)} is not null" for column in columns]
    rows = f"{staging_of(table.name)} where {' and '.join([f'{SUSPECT} is null', *known])}"
    good = f"""
        select {names}, staged.rowid as " row id", {row_sql(within, "staged")} as " key"
        from (select *, rowid from {rows}) as staged
        anti join problems on staged.rowid = problems.row_id
    """
    late = f"""
        where " key" in (
            select " key" from (
                select " key", lag(" highest") over () as " highest before" from (
                    select
                        {key} as " key",
                        max({key}) over (rows between unbounded preceding and current row) as " highest"
                    from {rows}
                )
            )
            where " key" <= " highest before"
        )
    """
    return f"""
        create or replace temp table repeated as
        select " key", min(" row id") as " first" from ({good}) {"" if most else late}
        group by " key" having count(*) > 1;

        insert into problems
        select
            good." row id",
            {table.column_names.index(columns[0])},
            {literal(", ".join(columns))},
            {row_text_sql(columns, "good")},
            {_named_sql(columns, "good")} || ' {repeats}',
            repeated." first"
        from ({good}) as good
        inner join repeated on good." key" = repeated." key"
        where good." row id" <> repeated." first"
        {f'order by good." row id" limit {most}' if most else ""}
    """
