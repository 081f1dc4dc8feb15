"""Loads a declared table: good rows into `staging`, bad rows into `quarantine`; every row is counted.

If a table has a mapping, its file is first read as text, and the table is loaded from the mapping.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mart_helpers.contract import FILE_DAY, Table, declared_tables, read_contract, refuse_lengths
from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.files import sha256_of
from mart_helpers.mapping import Mapping, read_mapping
from mart_helpers.parameters import resolve
from mart_helpers.quarantine import (
    SAMPLE,
    begin,
    commonest_reasons,
    count_plainly_bad,
    find_problems,
    forget_inferred,
    keep_sample,
    name_conflicts,
    sample_problems,
    set_bad_rows_aside,
    write_entries,
)
from mart_helpers.raw import PLACE, RawFiles
from mart_helpers.session import Session, current_database, has_table, in_words
from mart_helpers.sources import (
    SEED_ROWS,
    Source,
    file_days,
    find_sources,
    refuse_changed,
    seed_rows,
)
from mart_helpers.staging import (
    SUSPECT,
    Reading,
    Run,
    create_days,
    create_staging,
    fill_staging,
    staging_of,
)
from mart_helpers.texts import first_of, one_line, quoted

_FEW_BAD_ROWS = 20

_SHOWN_COLUMNS = 5


class Outcome(NamedTuple):
    """What became of the rows of one file; the rows not counted as bad or left out are loaded.

    Rows are left out if a mapping skips them or if they repeat an earlier row. A file in which a mapping
    only looks up values has no rows of its own.
    """

    table_name: str
    file: str
    bytes: int
    sha256: str
    rows_read: int = 0
    rows_loaded: int = 0
    rows_quarantined: int = 0
    rows_left_out: int = 0
    ignored_columns: str = ""
    defaulted_columns: str = ""


class _Staged(NamedTuple):
    """The rows of a table in staging, good and bad, with the counts of rows read and left out by source.

    `write_entries` describes `runs` and `records`.
    """

    sources: Sequence[Source]
    read: Counter[str]
    left_out: Counter[str]
    runs: Sequence[Run]
    records: str | None = None
    mapping: Mapping | None = None

    @property
    def taken(self) -> Counter[str]:
        """How many rows of each source are loaded or bad."""
        return Counter({name: rows - self.left_out[name] for name, rows in self.read.items()})


class Loader:
    """Loads declared tables from the extracts in `inputs_dir` or from seed rows.

    A table is refused if it has no good row, or if the share of bad rows is above `max_rejected_share`
    (0 to 1). Fewer than 20 bad rows are too many only if they are more than half of the table.
    """

    _finds_repeats = True

    def __init__(self, session: Session, inputs_dir: str | Path, max_rejected_share: float) -> None:
        if not 0 <= max_rejected_share <= 1:
            raise UsageError(
                f"max_rejected_share: found {max_rejected_share:g}, expected a share from 0 to 1."
            )
        self._session, self._connection = session, session.connection
        self.inputs_dir = resolve(inputs_dir)
        self._raw_files = session.raw_files or RawFiles(session, self.inputs_dir)
        self.max_rejected_share = max_rejected_share

    def load(self, table_name: str, *, from_seed: bool) -> None:
        """Fill `staging.<table_name>` from `seed.<table_name>`, or from its file or folder of files.

        A table that is declared `optional:` is empty if it has neither. Adds the bad rows to
        `quarantine` and a row per file to `build_inputs`; loading again replaces them. Raises InputError
        for a file with a fault, StateError if the table is not declared or its table of the star already
        exists, QueryError if memory or disk run out.
        """
        with in_words():
            self._load(table_name, from_seed)

    def _load(self, table_name: str, from_seed: bool) -> None:
        table = read_contract(self._connection, table_name)
        refuse_lengths(table.name, self._session.statements)
        if has_table(self._connection, current_database(self._connection), table.name):
            raise StateError(
                f"{table.name} already exists, made from rows that were loaded before. To load again, "
                "run the notebook from its top."
            )
        self._forget(table)
        begin(self._connection)
        cluster = self._session.cluster if table.name.startswith("fact_") and not from_seed else None
        outcomes = cluster.load(self, table) if cluster else None
        self._record(self._load_rows(table, from_seed) if outcomes is None else outcomes)
        facts = (name for name in declared_tables(self._connection) if name.startswith("fact_"))
        loaded = [name for name in facts if has_table(self._connection, "staging", name)]
        create_days(self._connection, [read_contract(self._connection, name) for name in loaded])

    def _load_rows(self, table: Table, from_seed: bool) -> list[Outcome]:
        mapping = None if from_seed else read_mapping(self._connection, table, self._raw_files)
        if mapping:
            table = table._replace(columns=(*table.columns, PLACE))
            staged = self._stage_mapped(table, mapping)
        else:
            sources = self._seed(table) if from_seed else find_sources(self.inputs_dir, table)
            staged = self._stage(table, sources)
        outcomes = self._judged(table, staged)
        for raw in mapping.others if mapping else ():
            refuse_changed(raw.sources)
            outcomes += [Outcome(table.name, each.name, *_digest(each)) for each in raw.sources]
        for name in (table.name, f"{table.name}_quarantined") if mapping else ():
            self._connection.execute(f"alter table {staging_of(name)} drop column {quoted(PLACE.name)}")
        self._connection.execute(f"alter table {staging_of(table.name)} drop column {SUSPECT}")
        return outcomes

    def _judged(self, table: Table, staged: _Staged) -> list[Outcome]:
        """Set the bad rows aside, and return what became of the rows of each source."""
        bad = self._judge(table, staged) if staged.sources else Counter()
        set_bad_rows_aside(self._connection, table)
        refuse_changed(staged.sources)
        return [_outcome(table, each, staged, bad[each.name]) for each in staged.sources]

    def _stage(self, table: Table, sources: Sequence[Source]) -> _Staged:
        create_staging(self._connection, table)
        reading = Reading(self._session, table)
        reading.read_all(sources)
        days = file_days(sources) if table.history_names else {}
        for run in reading.runs if days else ():
            self._connection.execute(
                f"update {staging_of(table.name)} set {FILE_DAY} = ? where rowid between ? and ?",
                [days[run.source.name], run.row, run.row + run.count - 1],
            )
        return _Staged(sources, reading.records(sources), Counter(), reading.runs)

    def _seed(self, table: Table) -> list[Source]:
        is_there = has_table(self._connection, "seed", table.name)
        return [seed_rows(self._connection, table.name)] if is_there or not table.is_optional else []

    def _stage_mapped(self, table: Table, mapping: Mapping) -> _Staged:
        raw, staged = mapping.raw, staging_of(table.name)
        if table.history_names and len(raw.sources) > 1:
            raise StateError(
                f"{mapping.name} reads a folder, and {table.name} has columns with history: a mapping "
                'cannot read the days of extracts. Remove "history:" from the contract.'
            )
        create_staging(self._connection, table)
        fill_staging(self._connection, table, mapping.rows_sql, (*mapping.fields, PLACE.name))
        rows = mapping.count_rows(staged)
        left_out = raw.left_out(self._connection, staged)
        if raw.records.total() != rows + left_out.total():
            raise StateError(f"{mapping.name} gives lines that its file does not have. Select its line.")
        records = raw.records_sql(staged)
        return _Staged(raw.sources, raw.records, left_out, raw.runs, records, mapping)

    def _forget(self, table: Table) -> None:
        self._connection.execute("delete from quarantine where table_name = ?", [table.name])
        self._connection.execute(
            "delete from build_inputs where table_name = ? and build_id = getvariable('build_id')",
            [table.name],
        )
        forget_inferred(self._connection, table)

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        columns = ", ".join(f"unnest(${name}) as {name}" for name in Outcome._fields)
        self._connection.execute(
            f"insert into build_inputs by name select getvariable('build_id') as build_id, {columns}",
            dict(zip(Outcome._fields, map(list, zip(*outcomes, strict=True)), strict=True)),
        )

    def _judge(self, table: Table, staged: _Staged) -> Counter[str]:
        """Write the bad rows to quarantine, and return their number by source.

        Refuses the table if it, or one of its files, has too many bad rows; the message gives the
        reasons from a sample.
        """
        for name, rows in staged.read.items():
            if not rows:
                raise InputError(f"{name}: has a header and no rows. Make a new extract.")
        taken, connection = staged.taken, self._connection
        if not (total := taken.total()):
            raise StateError(f"mapping.{table.name} leaves out all rows. Correct its `where`.")
        bad = count_plainly_bad(connection, table)
        if self.is_too_bad(bad, total):
            sample_problems(connection, table)
        else:
            bad = find_problems(connection, table, repeats=self._finds_repeats)
            if self.is_too_bad(bad, total):
                keep_sample(connection)
        if staged.mapping:
            name_conflicts(connection, table)
        by_source = write_entries(connection, table, staged.runs, staged.records)
        self.refuse_bad(table, taken, bad, by_source)
        return by_source

    def refuse_bad(self, table: Table, taken: Counter[str], bad: int, by_source: Counter[str]) -> None:
        """Raise InputError if the table, or one of its files, has too many bad rows."""
        if self.is_too_bad(bad, taken.total()):
            what = table.name if len(taken) > 1 else next(iter(taken))
            raise self._refusal(table, what, bad, taken.total())
        for name, bad in by_source.items():
            if self._is_bad_file(bad, taken[name]):
                raise self._refusal(table, name, bad, taken[name], of_file=name)

    def _is_bad_file(self, bad: int, read: int) -> bool:
        return 2 * bad > read and bad >= _FEW_BAD_ROWS and self.is_too_bad(bad, read)

    def is_too_bad(self, bad: int, read: int) -> bool:
        """Whether so many bad rows of those that were read refuse a table."""
        is_much = bad >= _FEW_BAD_ROWS or 2 * bad > read
        return bad == read or (is_much and bad > self.max_rejected_share * read)

    def _refusal(
        self, table: Table, what: str, bad: int, read: int, of_file: str | None = None
    ) -> InputError:
        problem = f"none of its {read:,} rows is good"
        if bad < read:
            share = f"max_rejected_share = {self.max_rejected_share:g}"
            problem = f"{bad:,} of its {read:,} rows are bad, more than {share} lets pass"
        kinds, more = commonest_reasons(self._connection, table.name, of_file)
        sampled = f"; of the first {SAMPLE:,}" if bad > SAMPLE and not of_file else ""
        lines = [f"{what}: {problem}{sampled}."]
        # the message already names the only file
        for rows, file, line, reason in kinds:
            place = f"line {line}" if file == what else f"{file}, line {line}"
            lines.append(f"  {first_of(rows, place, reason)}")
        lines += [f"  and {more} more"] if more else []
        way_out = "Correct the file, add the rows that it refers to, or make a new extract."
        if what == SEED_ROWS:
            way_out = f"Correct the rows in the cell of 01_build that makes seed.{table.name}."
        return InputError("\n".join([*lines, way_out]))


class PartLoader(Loader):
    """Loads one file of a table, whose keys may repeat those of other files: these are found later."""

    _finds_repeats = False

    def load_file(self, table: Table, source: Source) -> tuple[Outcome, int]:
        """What became of the rows of the file, and the number of the record that is row 0 in staging."""
        begin(self._connection)
        staged = self._stage(table, [source])
        [outcome] = self._judged(table, staged)
        return outcome, staged.runs[0].number

    def is_too_bad(self, bad: int, read: int) -> bool:
        """Whether so many bad rows refuse the table, whatever the other files hold."""
        return 2 * bad > read and bad >= _FEW_BAD_ROWS and super().is_too_bad(bad, read)


def _outcome(table: Table, source: Source, staged: _Staged, bad: int) -> Outcome:
    mapping = staged.mapping
    fields = (*mapping.fields, PLACE.name) if mapping else source.fields
    return Outcome(
        table.name,
        source.name,
        *_digest(source),
        rows_read=staged.read[source.name],
        rows_loaded=staged.taken[source.name] - bad,
        rows_quarantined=bad,
        rows_left_out=staged.left_out[source.name],
        ignored_columns=_listed(mapping.ignored if mapping else source.ignored),
        defaulted_columns=", ".join(name for name in table.column_names if name not in fields),
    )


def _digest(source: Source) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file; seed rows have neither."""
    return (source.path.stat().st_size, sha256_of(source.path)) if source.path else (0, "")


def _listed(names: Sequence[str]) -> str:
    """Some names of ignored columns, safe to show, and how many more there are."""
    shown = [one_line(name, 60) or "without a name" for name in dict.fromkeys(names)]
    more = [f"{len(shown) - _SHOWN_COLUMNS:,} more"] if len(shown) > _SHOWN_COLUMNS else []
    return ", ".join(shown[:_SHOWN_COLUMNS] + more)
