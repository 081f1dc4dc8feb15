"""Fills `staging.<table>` from the records of its sources: typed values, and the texts of suspect rows.

The records are read batch by batch, and `Reading` notes where each row comes from. If the number of rows
of a batch differs from the count of its records, each unreadable record is replaced by a row that says
why, and the batch is read again.

A staging table has the declared columns in their declared order and its rows in the order of the file.
Until the bad rows are taken out it has a last column `SUSPECT`: null if nothing about the row is
suspect, else a JSON list of the texts of its columns and the fault of the row as a whole. `problems_sql`
then works out the exact faults of those rows only. Internal names begin with a blank, which no column
name does.
"""

import shutil
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import NamedTuple

import duckdb

from mart_helpers.contract import FILE_DAY, Column, Rule, Table, cast_sql, form_of, id_sql, trimmed_sql
from mart_helpers.errors import InputError
from mart_helpers.records import NOT_UTF8, Block, refuse_eight_bit
from mart_helpers.session import Session, has_table, rows_folder
from mart_helpers.sources import ROW_FAULT, CsvFile, Source
from mart_helpers.texts import literal, one_line, quoted

SUSPECT = quoted(" suspect")

_LONGEST_VALUE = 1000

# Whole row groups of DuckDB, so that several threads can share the work.
_MOST_RECORDS, _MOST_BYTES = 8 * 122_880, 64 << 20

#: The first day on which the rows of a file hold, if the file name has no date.
BEGINNING = date(1900, 1, 1)

_DOUBTS = {
    "DATE": "day is ambiguous: give a date (yyyy-mm-dd)",
    "TIMESTAMP": "time is ambiguous: give it without a zone (yyyy-mm-dd hh:mm:ss)",
}

# A mapping reports the faults of a row one by one, as a JSON list of this form.
_IS_LIST = f"starts_with({ROW_FAULT}, '[{{')"

_TOLD = '[{"position":"INTEGER","column_name":"VARCHAR","value":"VARCHAR","reason":"VARCHAR"}]'


def staging_of(table_name: str) -> str:
    """The SQL name of the staging table."""
    return f"staging.{quoted(table_name)}"


def create_staging(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Create or replace the staging table, empty and without constraints."""
    columns = [f"{quoted(column.name)} {column.type}" for column in table.columns]
    columns += [f"{FILE_DAY} date default date '{BEGINNING}'"] if table.has_days else []
    connection.execute(
        f"create or replace table {staging_of(table.name)} ({', '.join(columns)}, {SUSPECT} varchar)"
    )


def create_days(connection: duckdb.DuckDBPyConnection, facts: Iterable[Table]) -> None:
    """Make the view `staging.days_of_facts`: each `day` of a declared date of these staged tables.

    Days before 1900 or after 2100 are left out: they would make the calendar huge. If there is a table
    `days_of(<fact>)`, these are the days of that fact.
    """
    days = []
    for fact in facts:
        if has_table(connection, "staging", days_of(fact.name)):
            days.append(f"from {staging_of(days_of(fact.name))}")
            continue
        days += [
            f"select {quoted(column.name)}::date as day from {staging_of(fact.name)} "
            f"where {quoted(column.name)} between date '1900-01-01' and date '2100-12-31'"
            for column in fact.columns
            if column.type == "DATE" or column.type.startswith("TIMESTAMP")
        ]
    if days:
        connection.execute(f"create or replace view staging.days_of_facts as {' union all '.join(days)}")


def days_of(fact: str) -> str:
    """The name of the staging table with the different days of a fact whose rows are on a cluster."""
    return f" days of {fact}"


#: Consecutive records of a source.
Part = tuple[Source, Block]

#: Adds the rows of a query over the batch, and returns their number.
Fill = Callable[[str, Sequence[Part]], int]


class Run(NamedTuple):
    """Consecutive rows from id `row` on, which hold `count` records of a source from `number` on."""

    row: int
    source: Source
    number: int
    count: int


def origins(runs: Sequence[Run], rows: Iterable[int]) -> Iterator[tuple[Source, int]]:
    """Source and record number of each of these rows."""
    firsts = [run.row for run in runs]
    for row in rows:
        run = runs[bisect_right(firsts, row) - 1]
        yield run.source, run.number + row - run.row


class Reading:
    """Reads records of sources into a staging table, and notes their origin in `runs`."""

    def __init__(self, session: Session, table: Table, fill: Fill | None = None) -> None:
        self._connection, self._staged = session.connection, staging_of(table.name)
        self._folder = rows_folder(session.candidate)
        self._fill = fill or (
            lambda rows, batch: fill_staging(session.connection, table, rows, batch[0][0].fields)
        )
        self._next_row = 0
        self.runs: list[Run] = []

    def read_all(self, sources: Iterable[Source]) -> None:
        """Add the records of these sources to staging.

        Raises InputError for a file in another encoding, or whose records cannot be told apart.
        """
        not_utf8: Counter[Source] = Counter()
        for batch in batches(sources):
            not_utf8 += read_batch(batch, self._folder, lambda rows, batch=batch: self._add(rows, batch))
            self._note(batch)
        for source, rows in not_utf8.items():
            if rows > 1 and not source.reader:
                refuse_eight_bit(source.path, source.name)

    def records(self, sources: Iterable[Source]) -> Counter[str]:
        """How many records were read of each of these sources, by its name."""
        read = Counter({source.name: 0 for source in sources})
        for run in self.runs:
            read[run.source.name] += run.count
        return read

    def _add(self, rows: str, batch: Sequence[Part]) -> int:
        # remove what a failed attempt added
        self._connection.execute(f"delete from {self._staged} where rowid >= {self._next_row}")
        return self._fill(rows, batch)

    def _note(self, batch: Sequence[Part]) -> None:
        """Note the runs of a batch that was just read."""
        self._next_row = (
            1 + self._connection.execute(f"select max(rowid) from {self._staged}").fetchone()[0]
        )
        row = self._next_row - sum(block.count for _, block in batch)
        for source, block in batch:
            last = self.runs[-1] if self.runs else None
            if last and last.source is source and last.row + last.count == row:
                self.runs[-1] = last._replace(count=last.count + block.count)
            else:
                self.runs.append(Run(row, source, block.number, block.count))
            row += block.count


def batches(sources: Iterable[Source]) -> Iterator[list[Part]]:
    """The parts of the sources in order, grouped into batches to read at once."""
    batch: list[Part] = []
    records = size = 0
    parts = ((source, block) for source in sources for block in source.blocks())
    for source, block in parts:
        records, size = records + block.count, size + len(block.text)
        fits = records <= _MOST_RECORDS and size <= _MOST_BYTES
        if batch and not (fits and _are_alike(source, batch[-1][0])):
            yield batch
            batch, records, size = [], block.count, len(block.text)
        batch.append((source, block))
    if batch:
        yield batch


def _are_alike(one: Source, other: Source) -> bool:
    """Whether their records have the same format, and so can be read together."""
    if not (isinstance(one, CsvFile) and isinstance(other, CsvFile)):
        return False
    return all(getattr(one, name) == getattr(other, name) for name in ("delimiter", "fields", "reader"))


def read_batch(batch: Sequence[Part], folder: Path, run: Callable[[str], int]) -> Counter[Source]:
    """Have `run` read the rows of a batch, one per record; how many records are not UTF-8, by source.

    `run` gets a query for the rows and returns their number; if that is wrong, it gets a second query.
    Meanwhile the `folder` holds the records of a CSV file. Raises InputError for a batch that cannot be
    read.
    """
    (source, first), count = batch[0], sum(block.count for _, block in batch)
    rows, not_utf8 = 0, Counter[Source]()
    try:
        if not isinstance(source, CsvFile):
            rows = run(source.rows_sql)
        elif not any(block.is_odd for _, block in batch):
            texts = [block.text for _, block in batch]
            line_end = r"\r\n" if texts[-1].endswith(b"\r\n") else r"\n"
            # with several threads, DuckDB refuses fields that contain line ends
            is_plain = all(block.is_plain for _, block in batch)
            with suppress(duckdb.InvalidInputException):
                rows = _read_texts(source, texts, folder, run, line_end, parallel=is_plain)
        if rows != count and isinstance(source, CsvFile):
            rows = _read_texts(source, _mended(batch, not_utf8), folder, run, r"\n", parallel=False)
    except duckdb.InvalidInputException as error:
        reason = one_line(str(error))
        raise InputError(f"{source.name}: cannot be read ({reason}). Make a new extract.") from error
    if rows != count:
        raise InputError(
            f"{source.name}: has {count:,} rows from row {first.number:,} on, but {rows:,} were "
            "read. It is damaged, or it changed while it was read. Make a new extract."
        )
    return not_utf8


def _read_texts(
    source: CsvFile,
    texts: Iterable[bytes],
    folder: Path,
    run: Callable[[str], int],
    line_end: str,
    *,
    parallel: bool,
) -> int:
    path = folder / "rows.csv"
    folder.mkdir(exist_ok=True)
    try:
        with path.open("wb") as file:
            file.writelines(texts)
        return run(source.rows_sql(path, line_end, parallel=parallel))
    finally:
        shutil.rmtree(folder)


def _mended(batch: Sequence[Part], not_utf8: Counter[Source]) -> Iterator[bytes]:
    """The records of a batch, with each unreadable one replaced by a row that says why."""
    for source, block in batch:
        for line, reason in block.mended(source.delimiter, len(source.fields)):
            if reason == NOT_UTF8:
                not_utf8[source] += 1
            yield source.unread(reason) if reason else line


def fill_staging(
    connection: duckdb.DuckDBPyConnection, table: Table, text_rows: str, fields: tuple[str, ...]
) -> int:
    """Add the rows of the query `text_rows` in their order, and return their number.

    The query has the columns `fields`, all text, and `ROW_FAULT`.
    """
    given = [column for column in table.columns if column.name in fields]
    texts = [f"{_text_sql(table, column)} as {_text(column)}" for column in given]
    texts += [f"null as {_text(column)}" for column in table.columns if column not in given]
    values = [quoted(column.name) for column in table.columns]
    conspicuous = [f"{ROW_FAULT} is not null"]
    conspicuous += [
        _looks_wrong(column) for column in given if column.type != "VARCHAR" or column.is_needed
    ]
    conspicuous += [_is_broken(rule) for rule in table.rules]
    row = ", ".join([*map(_text, table.columns), ROW_FAULT])
    added = connection.execute(
        f"""
        insert into {staging_of(table.name)} ({", ".join(values)}, {SUSPECT})
        with texts as (select {", ".join(texts)}, {ROW_FAULT} from ({text_rows})),
        {_typed_steps(table.columns)}
        select
            {", ".join(values)},
            case when {" or ".join(conspicuous)} then to_json([{row}])::varchar end
        from typed
        """
    )
    return added.fetchone()[0]


def problems_sql(table: Table, most: int | None = None) -> str:
    """A query for the faults of single rows in the staging table, or of its first `most` suspect rows.

    One row per fault: row_id, position (of the column, from 0; -1: the row as a whole), column_name,
    value (at most 1,000 characters) and reason.
    """
    names = [*map(_text, table.columns), ROW_FAULT]
    texts = [f"texts[{place}] as {name}" for place, name in enumerate(names, 1)]
    told = f"coalesce(from_json(case when {_IS_LIST} then {ROW_FAULT} end, '{_TOLD}'), [])"
    return f"""
        with suspects as (
            select rowid as row_id, from_json({SUSPECT}, '["VARCHAR"]') as texts
            from {staging_of(table.name)} where {SUSPECT} is not null {f"limit {most}" if most else ""}
        ),
        texts as (select row_id as " row id", {", ".join(texts)} from suspects),
        {_typed_steps(table.columns)},
        judged as (select *, {told} as " told" from typed)
        select
            " row id" as row_id,
            unnest(
                " told" || list_filter(
                    [{", ".join(_faults(table))}],
                    lambda fault: fault is not null
                        and not list_contains([told.position for told in " told"], fault.position)
                ),
                recursive := true
            )
        from judged
    """


def _text(column: Column) -> str:
    return quoted(f" text of {column.name}")


def _cast(column: Column) -> str:
    return quoted(f" cast of {column.name}")


def _text_sql(table: Table, column: Column) -> str:
    """The text of a column; an empty text is null, except in columns with a format of their own."""
    name = quoted(column.name)
    if column.type != "VARCHAR":
        return name
    return id_sql(name) if column.name in table.id_names else f"nullif({name}, '')"


def _typed_steps(columns: Iterable[Column]) -> str:
    """The steps that follow `texts` in a `with`; the last, `typed`, has the texts and their values.

    Each text is cast once, in a separate step: DuckDB would repeat the cast at every mention.
    """
    casts = [f"try_cast({_text(each)} as {each.type}) as {_cast(each)}" for each in columns]
    typed = [f"{_value_sql(each)} as {quoted(each.name)}" for each in columns]
    return (
        f"casts as (select *, {', '.join(casts)} from texts), "
        f"typed as (select *, {', '.join(typed)} from casts)"
    )


def _value_sql(column: Column) -> str:
    """SQL for the value of a text: the default if there is no text, null if it cannot be read."""
    value = cast_sql(_text(column), column.type, _cast(column))
    if column.default is None:
        return value
    is_empty = f"coalesce({trimmed_sql(_text(column))}, '') = ''"
    return f"coalesce({value}, case when {is_empty} then {column.default}::{column.type} end)"


def _looks_wrong(column: Column) -> str:
    if column.is_needed:
        return f"{quoted(column.name)} is null"
    # for speed, only text without a value is trimmed
    return f"case when {quoted(column.name)} is null then {trimmed_sql(_text(column))} <> '' end"


def _is_broken(rule: Rule) -> str:
    return f"not coalesce({rule.expression}, true)"


def _faults(table: Table) -> Iterator[str]:
    """For each fault that a row may have, SQL for `fault_sql`."""
    yield fault_sql(f"{ROW_FAULT} is not null and not {_IS_LIST}", ROW_FAULT)

    def fault(condition: str, position: int, words: str, *, quotes: bool = True) -> str:
        column = table.columns[position]
        shown = f"nullif(left({_text(column)}, {_LONGEST_VALUE}), '')"
        reason = literal(f"{column.name} {words}")
        if quotes:
            reason = (
                f"""{literal(f'{column.name} "')} || coalesce({shown}, '') || {literal(f'" {words}')}"""
            )
        return fault_sql(condition, reason, position, literal(column.name), shown)

    for position, column in enumerate(table.columns):
        text = trimmed_sql(_text(column))
        if column.is_needed:
            yield fault(f"coalesce({text}, '') = ''", position, "is missing", quotes=False)
        if column.type != "VARCHAR":
            is_wrong = f"{quoted(column.name)} is null and {text} <> ''"
            if column.type in _DOUBTS:
                zone = rf"regexp_full_match({text}, '.*:[0-9]{{2}}(\.[0-9]+)?\s*(Z|[+-][0-9:]+)')"
                doubt = f"has a time zone, so its {_DOUBTS[column.type]}"
                yield fault(f"{is_wrong} and {zone}", position, doubt)
                is_wrong += f" and not {zone}"
            yield fault(is_wrong, position, f"is not {form_of(column.type).words}")
    for rule in table.rules:
        position = table.column_names.index(rule.columns[0])
        yield fault(_is_broken(rule), position, f"breaks the rule {rule.words}")


def fault_sql(
    condition: str, reason: str, position: int = -1, column_name: str = "null", value: str = "null"
) -> str:
    """SQL for a struct that describes a fault of a row, or null, from SQL for its parts."""
    return (
        f"case when {condition} then {{position: {position}, column_name: {column_name}, "
        f"value: {value}, reason: {reason}}} end"
    )
