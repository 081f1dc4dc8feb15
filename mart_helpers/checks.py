"""Checks: each is a view in schema `checks` that returns bad rows; its comment is `severity: sentence`.

The checks that every mart needs are derived from the contract (`derived`); 01_build adds those of the
business. All run the same way. Two columns have a meaning of their own: a row with a reason in
`skipped_because` is not a bad row but says that the check was skipped; `found_in_words`, the same in
each row, is a sentence to show in place of the count.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import duckdb
import pandas as pd

from mart_helpers.books import account_of, build_time
from mart_helpers.contract import declared_keys, read_contracts
from mart_helpers.errors import CheckFailed
from mart_helpers.parameters import resolve, shown
from mart_helpers.session import Session
from mart_helpers.star import day_of, references_in, star_types, surrogate_key, unused_columns
from mart_helpers.tables import laid, without_mathematics
from mart_helpers.texts import aligned, quoted
from mart_helpers.verdict import NOT_PASSED, RESULTS, STOPPED_BY, headline, verdict_lines

SEVERITIES = ("error", "warn")

_RESULT_COLUMNS = ["check_name", "severity", "status", "bad_rows", "finding", "sentence", "query"]

_SKIPPED, _IN_WORDS = "skipped_because", "found_in_words"

_SAMPLE_ROWS = 5

_LONGEST_TEXT = 100

_MOST_UNUSED = 5

_SHOWN_WHOLE = 4  # failed checks, so that a message fits on one screen

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")

_NOTHING_FAILED = "No check has failed."


class Failure(NamedTuple):
    """A check that did not pass: some of its bad rows, and the query that shows all of them.

    `sample` has the view's columns, with natural keys next to surrogate keys, and `file` and `line` if
    the row comes from an input. For a broken check, `sample` is empty and `bad_rows` is None.
    """

    check_name: str
    severity: str
    status: str
    finding: str
    sentence: str
    bad_rows: int | None
    sample: pd.DataFrame
    query: str


def run_checks(session: Session, start_date: str = "", end_date: str = "") -> pd.DataFrame:
    """Count the bad rows of every check: one row per check, sorted by severity, then by bad rows.

    If a view has a date column of a fact (one that the contract declares, or a key of the calendar),
    only rows from `start_date` to `end_date` count (ISO 8601, both inclusive, empty: no limit). Columns:
    check_name, severity, status (one of `verdict.RESULTS`), bad_rows (missing if broken or skipped),
    finding (what was found, in words; missing if passed), sentence (what should hold), query (for all
    bad rows). The attribute `built_at` identifies the build that these results belong to.
    """
    connection = session.cluster or session.connection
    is_within = _days_of(connection, start_date, end_date) if start_date or end_date else lambda _: []
    views = [
        _View.of(name, comment, columns, is_within(columns))
        for name, comment, columns in connection.execute(_VIEWS).fetchall()
    ]
    counts = _counted_at_once(connection, views)
    results = [_result(connection, *each) for each in zip(views, counts, strict=True)]
    results.sort(key=lambda row: (RESULTS.index(row[2]), row[1], -(row[3] or 0), row[0]))
    found = pd.DataFrame(results, columns=_RESULT_COLUMNS).astype({"bad_rows": "Int64"})
    found.attrs["built_at"] = build_time(connection)
    return found


class Failures(list[Failure]):
    """The checks that did not pass, as a notebook shows them: each with its rows and its query."""

    def __repr__(self) -> str:
        return "\n\n".join(map(_as_text, self)) or _NOTHING_FAILED

    def _repr_html_(self) -> str:
        return "\n".join(map(_as_html, self)) or f"<p>{_NOTHING_FAILED}</p>"


def explain_failures(
    session: Session, check_results: pd.DataFrame, inputs_dir: str | None = None
) -> Failures:
    """At most five bad rows for each check of `run_checks` that did not pass.

    Natural keys are shown next to surrogate keys. With `inputs_dir`, rows that come from an extract name
    its file and line, as long as the file has not changed since the last build.
    """
    natural_keys = declared_keys(session.connection)
    failed = check_results[check_results["status"].isin(NOT_PASSED)]
    is_counted = failed["status"] != "broken"
    samples = [
        _sample(session.connection, query, natural_keys) if counted else pd.DataFrame()
        for query, counted in zip(failed["query"], is_counted, strict=True)
    ]
    if inputs_dir is not None:
        _add_origins(session.connection, samples, natural_keys, resolve(inputs_dir))
    return Failures(
        Failure(**row | {"bad_rows": row["bad_rows"] if counted else None, "sample": sample})
        for row, counted, sample in zip(failed.to_dict("records"), is_counted, samples, strict=True)
    )


def stop_on_failures(
    session: Session, check_results: pd.DataFrame, fail_on: str, inputs_dir: str | None = None
) -> None:
    """Raise CheckFailed if a check failed with severity `fail_on` (error, warn or never) or worse.

    A broken check counts as an error; a skipped check never stops the run. The message names each
    failed check with its count and some of its rows.
    """
    if fail_on == "never":
        return
    stopping = check_results[check_results["status"].isin(STOPPED_BY[fail_on])]
    if len(stopping) or not len(check_results):
        failed = explain_failures(session, stopping, inputs_dir)
        texts = [_as_text(each) for each in failed[:_SHOWN_WHOLE]]
        texts += [_headline(each) for each in failed[_SHOWN_WHOLE:]]
        if session.candidate:
            texts.append(
                "Nothing is published; the mart is unchanged. "
                f"To look closer, open {shown(session.candidate)}."
            )
        if session.candidate and stopping["sentence"].str.contains("--allow-restated").any():
            texts.append(
                "If this is the data of another company, name another --database, or first remove "
                f"this mart: mart reset --database {shown(session.database)}"
            )
        raise CheckFailed("\n".join([f"{headline(check_results.to_dict('records'))}.", *texts]))


_VIEWS = """
select
    views.view_name,
    coalesce(any_value(views.comment), ''),
    list(columns.column_name)
from duckdb_views() as views
left join duckdb_columns() as columns
    on views.view_oid = columns.table_oid and views.database_oid = columns.database_oid
where views.database_name = current_database() and views.schema_name = 'checks'
group by views.view_name
"""


def _plain(name: str) -> str:
    """An identifier as people write it, quoted only if it must be."""
    return name if _PLAIN_NAME.fullmatch(name) else quoted(name)


class _View(NamedTuple):
    """A check to run: the query for its bad rows, and SQL for its own description of them."""

    name: str
    severity: str
    sentence: str
    query: str
    finding: str
    skipped: str

    @classmethod
    def of(cls, name: str, comment: str, columns: list[str], conditions: list[str]) -> "_View":
        severity, _, sentence = comment.partition(":")
        if severity not in SEVERITIES:
            severity, sentence = "error", comment or "has no comment of the form 'severity: sentence'"
        view = f"checks.{_plain(name)}"
        meant = [column for column in (_SKIPPED, _IN_WORDS) if column in columns]
        kept = f"* exclude ({', '.join(meant)})" if meant else "*"
        kept_rows = [*conditions, *([f"{_SKIPPED} is null"] if _SKIPPED in columns else [])]
        rows = f"from {view}" + (f" where {' and '.join(kept_rows)}" if kept_rows else "")
        return cls(
            name,
            severity,
            sentence.strip(),
            f"select {kept} {rows}",
            f"(select min({_IN_WORDS}) {rows})" if _IN_WORDS in columns else "null",
            f"(select min({_SKIPPED}) from {view})" if _SKIPPED in columns else "null",
        )

    @property
    def count(self) -> str:
        return f"count(*), {self.finding}, {self.skipped} from ({self.query})"


def _counted_at_once(
    connection: duckdb.DuckDBPyConnection, views: list[_View]
) -> Sequence[tuple | None]:
    """The counts of all checks in one query, with their descriptions; all None if one of them fails.

    Inside a cell's transaction, `sql` plans the query first, since an error in `execute` would abort it.
    """
    ask = connection.sql if _is_in_transaction(connection) else connection.execute
    counts = [f"select {n} as n, {view.count}" for n, view in enumerate(views)]
    try:
        found = ask(" union all ".join(counts)).fetchall() if counts else []
    except duckdb.Error:
        return [None] * len(views)
    return [count for _, *count in sorted(found)]


def _is_in_transaction(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a transaction is open; otherwise each statement has its own."""
    first, second = (connection.execute("select txid_current()").fetchall() for _ in range(2))
    return first == second


def _result(connection: duckdb.DuckDBPyConnection, view: _View, count: tuple | None) -> tuple:
    """The row of a check in the results."""
    try:
        bad_rows, finding, skipped = count or connection.sql(f"select {view.count}").fetchall()[0]
        # count(*) reads no columns, and reading one may fail; a cluster is asked for rows of its own
        if bad_rows and isinstance(connection, duckdb.DuckDBPyConnection):
            connection.execute(f"select count(hash(bad)) from ({view.query}) as bad").fetchall()
    except duckdb.Error as error:
        status, bad_rows = "broken", None
        finding = f"{view.name} cannot run: {str(error).splitlines()[0]}"
    else:
        if bad_rows:
            status = "warn" if view.severity == "warn" else "fail"
            rows = "row" if bad_rows == 1 else "rows"
            finding = finding or f"{view.name} has {bad_rows:,} bad {rows}"
        elif skipped is not None:
            status, bad_rows, finding = "skipped", None, f"{view.name}, because {skipped}"
        else:
            status, finding = "pass", None
    return view.name, view.severity, status, bad_rows, finding, view.sentence, view.query


def _days_of(
    connection: duckdb.DuckDBPyConnection, start_date: str, end_date: str
) -> Callable[[Sequence[str]], list[str]]:
    """The conditions that limit the rows to the days, for those of the columns that are dates."""
    star = star_types(connection)
    declared = {
        column.name
        for table in read_contracts(connection).values()
        if table.name.startswith("fact_")
        for column in table.columns
        if column.type == "DATE"
    }

    def conditions(columns: Sequence[str]) -> list[str]:
        day = next((column for column in columns if column in declared), None)
        column = day or day_of(references_in(columns, star))
        bounds = [(">=", start_date), ("<=", end_date)] if column else []
        return [
            f"{_plain(column)} {sign} " + (f"date '{bound}'" if day else bound.replace("-", ""))
            for sign, bound in bounds
            if bound
        ]

    return conditions


def _sample(
    connection: duckdb.DuckDBPyConnection, query: str, natural_keys: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """The first bad rows of a check, preceded by the natural keys of the rows that they refer to."""
    columns = [name for name, *_ in connection.execute(f"describe {query}").fetchall()]
    references = references_in(columns, star_types(connection))
    ids, joins = [], []
    for number, (column, dimension) in enumerate(references.items()):
        surrogate = surrogate_key(dimension)
        role = column.removesuffix(surrogate)
        keys = [key for key in natural_keys.get(dimension, ()) if f"{role}{key}" not in columns]
        ids += [f"d{number}.{quoted(key)} as {quoted(f'{role}{key}')}, " for key in keys]
        if keys:
            joins.append(
                f"left join {quoted(dimension)} as d{number} "
                f"on bad.{quoted(column)} = d{number}.{quoted(surrogate)}"
            )
    return connection.execute(
        f"select {''.join(ids)}bad.* from ({query}) as bad {' '.join(joins)} "
        f"order by all limit {_SAMPLE_ROWS}"
    ).df()


def _add_origins(
    connection: duckdb.DuckDBPyConnection,
    samples: list[pd.DataFrame],
    natural_keys: Mapping[str, Sequence[str]],
    inputs_dir: Path,
) -> None:
    """Add `file` and `line` to the samples whose rows have the key of an input."""
    from mart_helpers.trace import origins

    # facts come last in the contract, and their rows hold keys of dimensions too
    for table, key in reversed(natural_keys.items()):
        theirs = [each for each in samples if {*key} <= {*each} and "line" not in each]
        rows = [
            [tuple(map(str, row)) for row in sample[[*key]].itertuples(index=False)] for sample in theirs
        ]
        wanted = sorted({each for keys in rows for each in keys})
        places = origins(connection, table, wanted, inputs_dir) if wanted else {}
        for sample, keys in zip(theirs, rows, strict=True):
            found = [places.get(each, (None, None)) for each in keys]
            if any(file for file, _ in found):
                sample["file"] = [file for file, _ in found]
                sample["line"] = pd.array([line for _, line in found], dtype="Int64")


def _headline(failure: Failure) -> str:
    expected = "" if failure.status == "broken" else f". Expected: {failure.sentence}"
    return f"{failure.status}: {failure.finding}{expected}"


def _as_text(failure: Failure) -> str:
    if failure.bad_rows is None:
        return _headline(failure)
    rows = failure.sample.to_string(index=False, max_colwidth=_LONGEST_TEXT)
    return f"{_headline(failure)}\n{rows}\n  all of them: {failure.query}"


def _as_html(failure: Failure) -> str:
    headline = f"<p><strong>{escape(_headline(failure))}</strong></p>"
    if failure.bad_rows is None:
        return headline
    with pd.option_context("display.max_colwidth", _LONGEST_TEXT):
        table = laid(failure.sample.to_html(index=False, border=0), failure.sample)
    all_of_them = f"<p>All of them: <code>{escape(failure.query)}</code></p>"
    return without_mathematics(f"{headline}{table}{all_of_them}")


def build_summary(session: Session, check_results: pd.DataFrame) -> str:
    """What a build did with its rows and which checks did not pass, as aligned lines of text."""
    rows, checks = account_of(session.connection), verdict_lines(check_results.to_dict("records"))
    if unused := unused_columns(session):
        more = f" and {len(unused) - _MOST_UNUSED} more" if len(unused) > _MOST_UNUSED else ""
        shown_first = ", ".join(unused[:_MOST_UNUSED])
        rows.append(f"{shown_first}{more}: declared, but no cell uses it")
    words = ["rows", *[""] * (len(rows) - 1), "checks", *[""] * (len(checks) - 1)]
    return aligned(list(zip(words, [*rows, *checks], strict=True)), indent="")
