"""Checks: a check is a view of bad rows in schema `checks`, its comment `severity: sentence`.

Those that any mart needs are derived (`derived`), what a business knows beyond that is written in
01_build. All are run the same way.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pandas as pd

from mart_helpers.books import account_of, build_time
from mart_helpers.contract import (
    declared_keys,
    references_in,
    star_columns,
    surrogate_key,
)
from mart_helpers.errors import CheckFailed
from mart_helpers.parameters import resolve, shown
from mart_helpers.session import Session
from mart_helpers.tables import without_mathematics
from mart_helpers.texts import aligned, quoted

SEVERITIES = ("error", "warn")

_RESULT_COLUMNS = ["check_name", "severity", "status", "bad_rows", "sentence", "query"]

_SAMPLE_ROWS = 5

_LONGEST_TEXT = 100

_SHOWN_WHOLE = 4  # of failed checks, so that a message fits on one screen

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")

_NOTHING_FAILED = "Every check has passed."


class Failure(NamedTuple):
    """A check that did not pass: some of its bad rows, and the query that shows all of them.

    `sample` has the view's columns, natural keys beside surrogate ones, and, where the row comes from an
    input, `file` and `line`; it is empty for a broken check. `bad_rows` is None there.
    """

    check_name: str
    severity: str
    status: str
    sentence: str
    bad_rows: int | None
    sample: pd.DataFrame
    query: str


def run_checks(session: Session, start_date: str = "", end_date: str = "") -> pd.DataFrame:
    """Count the bad rows of every check: one row a check, failed ones first.

    If a view has a `date_key` or a `sale_date`, only rows from `start_date` to `end_date` count (ISO
    8601, both included, empty: open). Columns: check_name, severity, status (pass, fail, or broken if
    the view itself fails), bad_rows (missing if broken), sentence, query (for all bad rows). The
    attribute `built_at` tells of which build these results are.
    """
    connection = session.connection
    checks = connection.execute(_CHECKS).fetchall()
    columns = dict(connection.execute(_COLUMNS).fetchall()) if start_date or end_date else {}
    queries = [_bad_rows_sql(name, columns.get(name, []), start_date, end_date) for name, _ in checks]
    counts = _counted_at_once(connection, queries)
    results = [
        _result(connection, name, comment, query, count)
        for (name, comment), query, count in zip(checks, queries, counts, strict=True)
    ]
    results.sort(key=lambda result: (result[2], result[1], result[0]))
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
    """What is wrong, for each check of `run_checks` that did not pass: at most five of its bad rows.

    Beside surrogate keys stand the natural ones. With `inputs_dir`, rows that come from an extract name
    its file and line, as long as the file is the one that the last build read.
    """
    return _explained(session, check_results.itertuples(), inputs_dir)


def _explained(session: Session, results: Iterable[tuple], inputs_dir: str | None) -> Failures:
    failed = [row for row in results if row.status != "pass"]
    if not failed:
        return Failures()
    natural_keys = declared_keys(session.connection)
    samples = [
        _sample(session.connection, row, natural_keys) if row.status == "fail" else pd.DataFrame()
        for row in failed
    ]
    if inputs_dir is not None:
        _add_origins(session.connection, samples, natural_keys, resolve(inputs_dir))
    return Failures(
        Failure(
            row.check_name,
            row.severity,
            row.status,
            row.sentence,
            None if row.status == "broken" else row.bad_rows,
            sample,
            row.query,
        )
        for row, sample in zip(failed, samples, strict=True)
    )


def stop_on_failures(
    session: Session, check_results: pd.DataFrame, fail_on: str, inputs_dir: str | None = None
) -> None:
    """Raise CheckFailed if a check of severity `fail_on` (error, warn or never) or worse did not pass.

    The message names each such check with its count and some of its rows.
    """
    if fail_on == "never":
        return
    if not len(check_results):
        raise CheckFailed(
            "There are no checks, so nothing vouches for the mart. Build it with 01_build."
        )
    counted = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    results = (row for row in check_results.itertuples() if row.severity in counted)
    failed = _explained(session, results, inputs_dir)
    if failed:
        texts = [_as_text(each) for each in failed[:_SHOWN_WHOLE]]
        texts += [_headline(each) for each in failed[_SHOWN_WHOLE:]]
        if session.candidate:
            texts.append(
                "Nothing is published, the mart is as it was. "
                f"Look closer in {shown(session.candidate)}."
            )
        raise CheckFailed("\n".join([f"{len(failed)} of {len(check_results)} checks failed.", *texts]))


_CHECKS = """
select view_name, coalesce(comment, '')
from duckdb_views()
where database_name = current_database() and schema_name = 'checks'
"""

_COLUMNS = """
select table_name, list(column_name)
from duckdb_columns()
where database_name = current_database() and schema_name = 'checks'
group by table_name
"""


def _bad_rows_sql(name: str, columns: list[str], start_date: str, end_date: str) -> str:
    view = f"checks.{name if _PLAIN_NAME.fullmatch(name) else quoted(name)}"
    return f"select * from {view}{_within(columns, start_date, end_date)}"


def _counted_at_once(connection: duckdb.DuckDBPyConnection, queries: list[str]) -> Sequence[int | None]:
    """The rows of each query, counted side by side; None for all where one of them fails.

    Within a transaction of a cell they are planned twice, by `sql`: a failure would end it by `execute`.
    """
    ask = connection.sql if _is_in_transaction(connection) else connection.execute
    counts = [f"select {n} as n, count(*) from ({query})" for n, query in enumerate(queries)]
    try:
        found = ask(" union all ".join(counts)).fetchall() if counts else []
    except duckdb.Error:
        return [None] * len(queries)
    return [count for _, count in sorted(found)]


def _is_in_transaction(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether one is open; else each statement has a transaction of its own."""
    first, second = (connection.execute("select txid_current()").fetchall() for _ in range(2))
    return first == second


def _result(
    connection: duckdb.DuckDBPyConnection, name: str, comment: str, query: str, bad_rows: int | None
) -> tuple:
    severity, _, sentence = comment.partition(":")
    if severity not in SEVERITIES:
        severity, sentence = "error", comment or "has no comment of the form 'severity: sentence'"
    try:
        if bad_rows is None:
            ((bad_rows,),) = connection.sql(f"select count(*) from ({query})").fetchall()
        if bad_rows:  # counting reads no columns, and one of them may be what fails
            connection.execute(f"select count(hash(bad)) from ({query}) as bad").fetchall()
    except duckdb.Error as error:
        return name, severity, "broken", None, str(error).splitlines()[0], query
    return name, severity, "fail" if bad_rows else "pass", bad_rows, sentence.strip(), query


def _within(columns: list[str], start_date: str, end_date: str) -> str:
    """The `where` that keeps to the days, as far as rows with these columns belong to days."""
    conditions = []
    for day, sign in ((start_date, ">="), (end_date, "<=")):
        if day and "sale_date" in columns:
            conditions.append(f"sale_date {sign} date '{day}'")
        elif day and "date_key" in columns:
            conditions.append(f"date_key {sign} {day.replace('-', '')}")
    return f" where {' and '.join(conditions)}" if conditions else ""


def _sample(
    connection: duckdb.DuckDBPyConnection, row: tuple, natural_keys: dict[str, str]
) -> pd.DataFrame:
    """The first bad rows of a check, the natural keys of what they point to in front."""
    columns = connection.sql(row.query).columns
    references = references_in(columns, star_columns(connection))
    ids, joins = [], []
    for number, (column, dimension) in enumerate(references.items()):
        surrogate, key = surrogate_key(dimension), natural_keys.get(dimension)
        name = column.removesuffix(surrogate) + (key or "")
        if key and name not in columns:
            ids.append(f"d{number}.{quoted(key)} as {quoted(name)}, ")
            joins.append(
                f"left join {quoted(dimension)} as d{number} "
                f"on bad.{quoted(column)} = d{number}.{quoted(surrogate)}"
            )
    return connection.execute(
        f"select {''.join(ids)}bad.* from ({row.query}) as bad {' '.join(joins)} "
        f"order by all limit {_SAMPLE_ROWS}"
    ).df()


def _add_origins(
    connection: duckdb.DuckDBPyConnection,
    samples: list[pd.DataFrame],
    natural_keys: dict[str, str],
    inputs_dir: Path,
) -> None:
    """Add `file` and `line` to the samples whose rows are known by the key of an input."""
    from mart_helpers.trace import origins

    # facts come last in the contract, and a row of theirs holds keys of dimensions too
    for table, key in reversed(natural_keys.items()):
        theirs = [sample for sample in samples if key in sample and "line" not in sample]
        wanted = {str(value) for sample in theirs for value in sample[key].dropna()}
        places = origins(connection, table, sorted(wanted), inputs_dir) if wanted else {}
        for sample in theirs:
            found = [places.get(str(value), (None, None)) for value in sample[key]]
            if any(file for file, _ in found):
                sample["file"] = [file for file, _ in found]
                sample["line"] = pd.array([line for _, line in found], dtype="Int64")


def _headline(failure: Failure) -> str:
    name = f"{failure.check_name} ({failure.severity})"
    if failure.bad_rows is None:
        return f"{name} cannot run: {failure.sentence}"
    return f"{name}: {failure.bad_rows:,} bad. Expected: {failure.sentence}"


def _as_text(failure: Failure) -> str:
    if failure.bad_rows is None:
        return _headline(failure)
    rows = failure.sample.to_string(index=False, max_colwidth=40)
    return f"{_headline(failure)}\n{rows}\n  all of them: {failure.query}"


def _as_html(failure: Failure) -> str:
    headline = f"<p><strong>{escape(_headline(failure))}</strong></p>"
    if failure.bad_rows is None:
        return headline
    with pd.option_context("display.max_colwidth", _LONGEST_TEXT):
        table = failure.sample.to_html(index=False, border=0)
    all_of_them = f"<p>All of them: <code>{escape(failure.query)}</code></p>"
    return without_mathematics(f"{headline}{table}{all_of_them}")


def checked_table(check_name: str, check_names: Collection[str]) -> str:
    """The table that a check is about, `checks` where it is about none in particular.

    A table has a check `<table>_has_rows`, and the names of its checks begin with its own.
    """
    tables = (name.removesuffix("_has_rows") for name in check_names if name.endswith("_has_rows"))
    found = [table for table in tables if check_name.startswith(f"{table}_")]
    return max(found, key=len, default="checks")


def verdict(report: Mapping[str, object]) -> str:
    """What a quality report says of its checks and of the quarantine, in a sentence."""
    checks, passed = report["counts"]["checks"], report["counts"]["pass"]
    if not checks:
        return "There are no checks, so nothing vouches for the mart."
    said = f"All {checks:,} checks passed"
    if passed < checks:
        said = f"{checks - passed:,} of {checks:,} checks did not pass"
    aside = report["rows_quarantined"]
    return f"{said}; {_counted(aside, 'row')} in quarantine." if aside else f"{said}."


def outcome(check: Mapping[str, object]) -> str:
    """One word for a check: pass, warn or fail by its severity, or broken."""
    is_warning = check["status"] == "fail" and check["severity"] == "warn"
    return "warn" if is_warning else str(check["status"])


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word} is" if number == 1 else f"{number:,} {word}s are"


_MOST_NAMED = 20


def verdict_of(checks: Iterable[Any]) -> list[str]:
    """How many of the results of `run_checks` passed, and a line for each that did not."""
    checks = list(checks)
    bad = [each for each in checks if each.status != "pass"]
    lines = [
        f"{each.severity}: {each.check_name}, "
        + ("cannot run" if each.status == "broken" else f"{each.bad_rows:,} bad")
        for each in bad[:_MOST_NAMED]
    ]
    more = [f"and {len(bad) - _MOST_NAMED} more"] if len(bad) > _MOST_NAMED else []
    return [f"{len(checks) - len(bad)} of {len(checks)} passed", *lines, *more]


def build_summary(session: Session, check_results: pd.DataFrame) -> str:
    """What a build did with its rows, and which checks did not pass, as aligned lines of text."""
    rows, checks = account_of(session.connection), verdict_of(check_results.itertuples())
    words = ["rows", *[""] * (len(rows) - 1), "checks", *[""] * (len(checks) - 1)]
    return aligned(list(zip(words, [*rows, *checks], strict=True)), indent="")
