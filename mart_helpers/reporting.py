"""The quality report: what the checks found, as files for people and programs that run no notebook."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import duckdb
import pandas as pd

from mart_helpers.charts import draw_checks
from mart_helpers.checks import SEVERITIES, Failure
from mart_helpers.errors import QueryError, StateError, UsageError
from mart_helpers.files import whole_files
from mart_helpers.inspecting import last_build
from mart_helpers.junit import junit_xml
from mart_helpers.pages import report_page
from mart_helpers.project import resolve, shown
from mart_helpers.session import Session

REPORT_VERSION = 2
REPORT, HISTORY, VIOLATIONS = "quality_report.json", "history.csv", "violations"
# The report comes last, as it vouches for the others.
REPORTS = (HISTORY, "junit.xml", "quality_report.csv", "quality_report.html", REPORT)

_HISTORY_COLUMNS = ["build_id", "built_at", "check_name", "severity", "status", "bad_rows"]
_STATUSES = ("pass", "fail", "broken")
_FETCHED_ROWS = 10_000
# Names that are files on every system; Windows takes the others for devices.
_SAFE_NAME = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)$)[a-z0-9_]{1,100}", re.IGNORECASE)


def count_rows(session: Session) -> pd.DataFrame:
    """How many rows each table of the mart has, counted now: table_name, rows; ordered by name."""
    connection = session.connection
    tables = connection.execute(
        "select table_name from duckdb_tables() "
        "where database_name = current_database() and schema_name = 'main' order by table_name"
    ).fetchall()
    counts = [
        (table, connection.execute(f'select count(*) from "{table}"').fetchone()[0])
        for (table,) in tables
    ]
    return pd.DataFrame(counts, columns=["table_name", "rows"])


def write_quality_report(
    session: Session,
    check_results: pd.DataFrame,
    failures: Sequence[Failure],
    row_counts: pd.DataFrame,
    inputs: pd.DataFrame,
    quarantined: pd.DataFrame,
    data_dir: str,
    max_violations: int = 1000,
    days: tuple[str, str] = ("", ""),
) -> dict[str, object]:
    """Write the report in `<data_dir>/quality`, each file whole or not at all; the report itself.

    Version 2 of `quality_report.json` is an object with

    - `format_version` (2), `mart` (its file's name), `start_date` and `end_date` of the `days` that were
      checked (null: open), `build_id` and `built_at` of the last build (ISO 8601, UTC), and its
      `rows_loaded`, `rows_quarantined`, `revenue_loaded`, `revenue_quarantined` (money is text with all
      its decimals); null is what the log of the builds does not have
    - `status`: `fail` where a check of severity error did not pass or there is no check at all, else
      `warn` where one of severity warn did not pass, else `pass`
    - `counts`: how many `checks` there are, how many `pass`, `fail`, and are `broken`
    - `checks`: `check_results`, a broken check with `bad_rows` null, as nobody could count
    - `failures`: those that did not pass, each with check_name, severity, status, sentence, bad_rows, a
      `sample` of its bad rows, the `query` for all, and `violations`, the file they are in, or null
    - `max_violations`: how many rows such a file has at most
    - `row_counts`, `inputs` and `quarantine`: the rows of the other frames, fields as their columns

    Beside it: `quality_report.csv`, which is `checks`, one row a check. `quality_report.html`, the same
    for people: a page on its own. `junit.xml`, see `junit_xml`. `violations/<check>.csv`, the bad rows
    of each check that failed, sorted by all columns, the first `max_violations` of them: a missing
    value is an empty field, text stands as it is, and what a spreadsheet would take for a formula is
    not disarmed. With a `max_violations` of 0 there are none. `history.csv`, a row a build and check
    (build_id, built_at, check_name, severity, status, bad_rows): the rows of other builds stay, those
    of this build are replaced.

    Files in `violations` that the report before named and this one does not are removed, no others.
    Raises UsageError where `max_violations` is negative, QueryError where the bad rows cannot be read,
    StateError where `history.csv` is something else or the folder cannot be written; then all files
    are as they were.
    """
    if max_violations < 0:
        raise UsageError(f"max_violations: found {max_violations}, expected 0 or more.")
    listed = {f"{VIOLATIONS}/{_file_name(each.check_name)}": each for each in failures if each.bad_rows}
    listed = listed if max_violations else {}
    checks = check_results.assign(
        bad_rows=check_results["bad_rows"].astype("Int64").mask(check_results["status"] == "broken")
    )
    report = {
        "format_version": REPORT_VERSION,
        "mart": session.database.name,
        "start_date": days[0] or None,
        "end_date": days[1] or None,
        **last_build(session.connection),
        "status": _status(checks),
        "counts": _counts(checks),
        "checks": _records(checks),
        "failures": [_failure(each, listed) for each in failures],
        "max_violations": max_violations,
        "row_counts": _records(row_counts),
        "inputs": _records(inputs),
        "quarantine": _records(quarantined),
    }
    folder = resolve(data_dir) / "quality"
    documents = {
        HISTORY: _history(folder / HISTORY, report),
        "junit.xml": junit_xml(report),
        "quality_report.csv": checks.to_csv(index=False, lineterminator="\n"),
        "quality_report.html": report_page(report, draw_checks(check_results)),
        REPORT: json.dumps(report, indent=2, ensure_ascii=False) + "\n",
    }
    stale = violations_in(folder) - {Path(name).name for name in listed}
    with whole_files([folder / name for name in (*listed, *documents)]) as parts:
        for failure, part in zip(listed.values(), parts, strict=False):
            _write_violations(session.connection, failure, max_violations, part)
        for text, part in zip(documents.values(), parts[len(listed) :], strict=True):
            part.write_text(text, encoding="utf-8", newline="\n")
        # before the new report is in place: what it does not name, no later one would remove
        for name in stale:
            (folder / VIOLATIONS / name).unlink(missing_ok=True)
    with suppress(OSError):  # it stays where something is in it
        (folder / VIOLATIONS).rmdir()
    return report


def violations_in(folder: Path) -> set[str]:
    """Names of the files that the report in `folder` has left in `violations` there."""
    try:
        failures = json.loads((folder / REPORT).read_text(encoding="utf-8"))["failures"]
        found = {Path(each["violations"]) for each in failures if each["violations"]}
        # any other path is none of ours
        ours = {path.name for path in found if path == Path(VIOLATIONS, path.name)}
        return {name for name in ours if (folder / VIOLATIONS / name).is_file()}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _status(checks: pd.DataFrame) -> str:
    not_passed = set(checks.loc[checks["status"] != "pass", "severity"])
    if "error" in not_passed or checks.empty:
        return "fail"
    return "warn" if not_passed else "pass"


def _counts(checks: pd.DataFrame) -> dict[str, int]:
    by_status = checks["status"].value_counts()
    return {"checks": len(checks)} | {status: int(by_status.get(status, 0)) for status in _STATUSES}


def _failure(failure: Failure, listed: dict[str, Failure]) -> dict[str, object]:
    return {
        "check_name": failure.check_name,
        "severity": failure.severity,
        "status": failure.status,
        "sentence": failure.sentence,
        "bad_rows": None if failure.bad_rows is None else int(failure.bad_rows),
        "sample": _records(failure.sample),
        "query": failure.query,
        "violations": next((name for name, each in listed.items() if each is failure), None),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Rows as JSON has them: whole numbers stay whole where others are missing, dates are ISO 8601."""
    plain = frame.convert_dtypes()
    for name in plain.select_dtypes(["datetime", "datetimetz"]):
        days = plain[name].dropna()
        is_daily = (days == days.dt.normalize()).all()
        plain[name] = plain[name].dt.strftime("%Y-%m-%d" if is_daily else "%Y-%m-%dT%H:%M:%S")
    return json.loads(plain.to_json(orient="records", date_format="iso", default_handler=str))


def _file_name(check_name: str) -> str:
    """A file name for any name of a view; two views, whose names differ in more than case, differ."""
    if _SAFE_NAME.fullmatch(check_name):
        return f"{check_name}.csv"
    words = re.sub(r"[^a-z0-9_]+", "_", check_name.lower())[:60]
    return f"{words}-{hashlib.sha256(check_name.encode()).hexdigest()[:8]}.csv"


def _write_violations(
    connection: duckdb.DuckDBPyConnection, failure: Failure, most: int, part: Path
) -> None:
    """Write the first bad rows of a check, sorted, so that they are the same ones each time."""
    try:
        rows = connection.execute(
            "select columns(*)::varchar "
            f"from (from ({failure.query}) as bad order by all limit {int(most)})"
        )
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([column for column, *_ in rows.description])
            while fetched := rows.fetchmany(_FETCHED_ROWS):
                writer.writerows(fetched)
    except duckdb.Error as error:
        raise QueryError(
            f"{failure.check_name}: its bad rows cannot all be read, mend the view. DuckDB says: {error}"
        ) from error


def _history(path: Path, report: dict[str, object]) -> str:
    """The text of the history with the checks of this build in it."""
    build, built_at = report["build_id"], report["built_at"]
    # the builds of two marts may have the same number
    kept = [row for row in _earlier_rows(path) if row[:2] != [str(build), built_at]]
    if build is not None:
        kept += [
            [str(build), built_at, *(_text(check[name]) for name in _HISTORY_COLUMNS[2:])]
            for check in report["checks"]
        ]
    kept.sort(key=lambda row: (int(row[0]), row[1], row[2]))
    frame = pd.DataFrame(kept, columns=_HISTORY_COLUMNS)
    return frame.to_csv(index=False, lineterminator="\n")


def _earlier_rows(path: Path) -> list[list[str]]:
    """The rows of the history so far. Raises StateError where the file is none, or has lost its end."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(file)
        header, *rows = csv.reader(lines, strict=True) if lines else [[]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise _no_history(path, str(error)) from error
    if header != _HISTORY_COLUMNS:
        raise _no_history(path, f"it begins with {','.join(header)[:80]}")
    if not lines[-1].endswith("\n"):
        raise _no_history(path, "its last line has no end")
    for row in rows:
        if not _is_history(row):
            raise _no_history(path, f"it has the row {','.join(row)[:80]}")
    return rows


def _is_history(row: list[str]) -> bool:
    if len(row) != len(_HISTORY_COLUMNS):
        return False
    build_id, _, _, severity, status, bad_rows = row
    is_counted = bad_rows.isdecimal() or (status == "broken" and not bad_rows)
    return build_id.isdecimal() and severity in SEVERITIES and status in _STATUSES and is_counted


def _no_history(path: Path, why: str) -> StateError:
    return StateError(
        f"{shown(path)} is no history of checks as we write it: {why}. Nothing was written. Mend the "
        "file, or move it away and run 04_quality again: it begins a new one."
    )
