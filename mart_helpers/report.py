"""The quality report: what the checks found, as files for people and programs without a notebook."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO, StringIO
from pathlib import Path

import duckdb
import junitparser
import pandas as pd
from junitparser import SystemErr, SystemOut, TestCase, TestSuite
from junitparser.junitparser import FinalResult

from mart_helpers.books import build_facts as last_build
from mart_helpers.checks import Failure
from mart_helpers.errors import QueryError, StateError, UsageError
from mart_helpers.files import sole_writer, whole_files
from mart_helpers.lake import TABLES
from mart_helpers.pages import cell_text, printable, render_page
from mart_helpers.parameters import resolve, shown
from mart_helpers.session import Session
from mart_helpers.texts import quoted
from mart_helpers.verdict import RESULTS, checked_table, headline, overall

REPORT_VERSION = 3

REPORT, HISTORY, VIOLATIONS = "quality_report.json", "history.csv", "violations"

# The report comes last, as it vouches for the others.
REPORTS = (HISTORY, "junit.xml", "quality_report.csv", "quality_report.html", REPORT)

_HISTORY_COLUMNS = ["build_id", "built_at", "check_name", "severity", "status", "bad_rows"]

# Names that are safe on every system: Windows takes `con` or `com1` for a device.
_SAFE_NAME = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)$)[a-z0-9_]{1,100}", re.IGNORECASE)


def count_rows(session: Session) -> pd.DataFrame:
    """Count the rows of each table of the mart: table_name, rows; ordered by name."""
    connection = session.connection
    tables = connection.execute(
        f"select table_name from {TABLES} "
        "where database_name = current_database() and schema_name = 'main' order by table_name"
    ).fetchall()
    counts = [
        (table, connection.execute(f"select count(*) from main.{quoted(table)}").fetchone()[0])
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
    """Write the report to `<data_dir>/quality`, each file whole or not at all, and return it.

    docs/command_line.md describes the files; the report is the object in `quality_report.json`. The
    bad rows in `violations` are the first `max_violations`, sorted by all columns; if that is 0, there
    are no such files. `history.csv` keeps the rows of other builds.

    Of the files in `violations`, only those are removed that the last report names and this one does
    not. Raises UsageError if `max_violations` is negative, QueryError if the bad rows cannot be read,
    and StateError if `history.csv` is not such a history or the folder cannot be written. After an
    error all files are as they were.
    """
    if max_violations < 0:
        raise UsageError(f"max_violations: found {max_violations}, expected 0 or more.")
    bad = [each for each in failures if each.bad_rows] if max_violations else []
    listed = {f"{VIOLATIONS}/{_file_name(each.check_name)}": each for each in bad}
    file_of = {each.check_name: name for name, each in listed.items()}
    report = {
        "format_version": REPORT_VERSION,
        "mart": session.database.name,
        "start_date": days[0] or None,
        "end_date": days[1] or None,
        **last_build(session.connection),
        **_findings(check_results, failures, file_of),
        "max_violations": max_violations,
        "row_counts": _records(row_counts),
        "inputs": _records(inputs),
        "quarantine": _records(quarantined),
    }
    folder = resolve(data_dir) / "quality"
    # a report of another mart, written at the same time, could lose these rows of the history
    with sole_writer(folder.parent):
        documents = {
            HISTORY: _history(folder / HISTORY, report),
            "junit.xml": junit_xml(report),
            "quality_report.csv": check_results.to_csv(index=False, lineterminator="\n"),
            "quality_report.html": report_page(report),
            REPORT: json.dumps(report, indent=2, ensure_ascii=False) + "\n",
        }
        stale = [folder / VIOLATIONS / name for name in violations_in(folder)]
        with whole_files([folder / name for name in (*listed, *documents)], lambda: stale) as parts:
            for failure, part in zip(listed.values(), parts, strict=False):
                _write_violations(session.connection, failure, max_violations, part)
            for text, part in zip(documents.values(), parts[len(listed) :], strict=True):
                part.write_text(text, encoding="utf-8", newline="\n")
        with suppress(OSError):  # the folder stays if it is not empty
            (folder / VIOLATIONS).rmdir()
    return report


def violations_in(folder: Path) -> set[str]:
    """Names of the files in `violations` that the report in `folder` names and that still exist."""
    try:
        failures = json.loads((folder / REPORT).read_text(encoding="utf-8"))["failures"]
        found = {Path(each["violations"]) for each in failures if each["violations"]}
        # a report writes no other paths
        ours = {path.name for path in found if path == Path(VIOLATIONS, path.name)}
        return {name for name in ours if (folder / VIOLATIONS / name).is_file()}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _findings(
    check_results: pd.DataFrame, failures: Sequence[Failure], file_of: Mapping[str, str]
) -> dict[str, object]:
    """The part of the report that is about the checks."""
    counts = check_results["status"].value_counts().to_dict()
    return {
        "status": overall(check_results["status"]),
        "headline": headline(check_results.to_dict("records")),
        "counts": {"checks": len(check_results), **dict.fromkeys(RESULTS, 0), **counts},
        "checks": _records(check_results),
        "failures": [
            {
                **each._asdict(),
                "bad_rows": each.bad_rows and int(each.bad_rows),
                "sample": _records(each.sample),
                "violations": file_of.get(each.check_name),
            }
            for each in failures
        ],
    }


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Rows for JSON: whole numbers stay whole even if some are missing, and dates are ISO 8601."""
    plain = frame.convert_dtypes()
    for name in plain.select_dtypes(["datetime", "datetimetz"]):
        days = plain[name].dropna()
        is_daily = (days == days.dt.normalize()).all()
        plain[name] = plain[name].dt.strftime("%Y-%m-%d" if is_daily else "%Y-%m-%dT%H:%M:%S")
    return json.loads(plain.to_json(orient="records", date_format="iso", default_handler=str))


def _file_name(check_name: str) -> str:
    """A safe file name for the name of a view, unique unless two names differ only in case."""
    if _SAFE_NAME.fullmatch(check_name):
        return f"{check_name}.csv"
    words = re.sub(r"[^a-z0-9_]+", "_", check_name.lower())[:60]
    return f"{words}-{hashlib.sha256(check_name.encode()).hexdigest()[:8]}.csv"


def _write_violations(
    connection: duckdb.DuckDBPyConnection, failure: Failure, most: int, part: Path
) -> None:
    """Write the first bad rows of a check, sorted so that each run writes the same rows."""
    rows = f"from ({failure.query}) as bad order by all limit {int(most)}"
    try:
        texts = connection.execute(f"select columns(*)::varchar from ({rows})").df()
        texts.to_csv(part, index=False, lineterminator="\n")
    except duckdb.Error as error:
        raise QueryError(
            f"{failure.check_name}: its bad rows cannot be read. Correct the check. DuckDB says: {error}"
        ) from error


def _history(path: Path, report: Mapping[str, object]) -> str:
    """The text of the history with the checks of this build in it.

    Raises StateError if the file is not such a history, or is cut off.
    """
    earlier = pd.DataFrame(columns=_HISTORY_COLUMNS, dtype=object)
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            text = path.read_bytes().decode("utf-8-sig")
            earlier = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)
            if list(earlier) != _HISTORY_COLUMNS:
                raise ValueError(f"it begins with {','.join(earlier)[:80]}")
            if not text.endswith("\n"):
                raise ValueError("its last line does not end in a line break")
            is_right = earlier["build_id"].str.isdecimal() & earlier["status"].isin(RESULTS)
            for row in earlier[~is_right].itertuples(index=False):
                raise ValueError(f"it has the row {','.join(row)[:80]}")
    except (OSError, ValueError) as error:
        raise StateError(
            f"{shown(path)} is not a history of checks that this command wrote: {error}. "
            "Nothing was written. Correct the file, or move it away and "
            "run 04_quality again: it begins a new one."
        ) from error
    build = {"build_id": str(report["build_id"]), "built_at": report["built_at"]}
    # two marts may have builds with the same number
    is_other = (earlier[list(build)] != pd.Series(build)).any(axis="columns")
    checks = pd.DataFrame(report["checks"] if report["built_at"] else [], dtype=object)
    checks = checks.assign(**build).reindex(columns=_HISTORY_COLUMNS)
    rows = pd.concat([earlier[is_other], checks]).astype({"build_id": "int64"})
    rows = rows.sort_values(["build_id", "built_at", "check_name"])
    return rows.to_csv(index=False, lineterminator="\n")


_LONGEST_CELL = 40


def junit_xml(report: Mapping[str, object]) -> str:
    """The JUnit XML of a report from `write_quality_report`: one `testsuite`, one `testcase` per check.

    The class of a test is the table that the check is about, or `checks`. A check that failed is a
    `failure`, and a broken one is an `error`. The message is the finding and the sentence of the check;
    the body adds some bad rows and the query for all of them. A warning is `skipped` with the same
    message and body, so CI shows the text but does not fail. A skipped check is `skipped`, too, with
    its reason. The timestamp is that of the build and no test has a duration, so the same report
    always gives the same XML.

    The XML is valid by the schemas of the Ant task (windyroad/JUnit-Schema) and of Jenkins
    (xunit-plugin, `junit-10.xsd`), except that it has no timestamp if the mart has no build. Characters
    that XML forbids are replaced by �.
    """
    suite = TestSuite("quality of the data mart")
    suite.hostname = "localhost"
    if report["built_at"]:
        suite.timestamp = report["built_at"][: len("2024-01-01T00:00:00")]
    suite.add_property("build_id", str(report["build_id"] or ""))
    failures = {failure["check_name"]: failure for failure in report["failures"]}
    names = [check["check_name"] for check in report["checks"]]
    for check in report["checks"]:
        name = check["check_name"]
        case = TestCase(printable(name), printable(checked_table(name, names)), 0)
        if check["status"] != "pass":
            case.result = _result(failures.get(name, check))
        suite.append(case)
    suite.update_statistics()
    suite.extend([SystemOut(), SystemErr()])
    file = BytesIO()
    suite.write(file, pretty=True)
    return file.getvalue().decode("utf-8")


def _result(failure: Mapping[str, object]) -> FinalResult:
    status, message = failure["status"], f"{failure['status']}: {failure['finding']}"
    if status in ("fail", "warn"):
        message += f". Expected: {failure['sentence']}"
    if status in ("fail", "broken"):
        kind = junitparser.Failure if status == "fail" else junitparser.Error
        result = kind(printable(message), failure["severity"])
    else:  # the schema of the Ant task allows no type for a skipped test
        result = junitparser.Skipped(printable(message))
    rows = pd.DataFrame(failure.get("sample", [])).map(cell_text, longest=_LONGEST_CELL)
    sample = f"{rows.to_string(index=False)}\n" if len(rows) else ""
    result.text = printable(f"{message}\n{sample}{failure['query']}")
    return result


def report_page(report: Mapping[str, object]) -> str:
    """The HTML page of a report from `write_quality_report`."""
    start, end = report["start_date"], report["end_date"]
    days = {"Sales checked": f"{start or 'the first'} to {end or 'the last'}"} if start or end else {}
    return render_page(
        "quality.html.j2",
        title="Quality of the data mart",
        build=report,
        given=days,
        report=report,
    )
