"""The quality report: what the checks found, as files for people and programs that run no notebook."""

import csv
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import duckdb
import pandas as pd
from markupsafe import Markup

from mart_helpers.books import build_facts as last_build
from mart_helpers.charts import draw_checks
from mart_helpers.checks import SEVERITIES, Failure, checked_table, outcome, verdict
from mart_helpers.errors import QueryError, StateError, UsageError
from mart_helpers.files import whole_files
from mart_helpers.pages import build_figures, cell_text, printable, render_page
from mart_helpers.parameters import resolve, shown
from mart_helpers.session import Session

if TYPE_CHECKING:
    from mart_helpers.charts import Chart

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


_LONGEST_CELL = 40


def junit_xml(report: Mapping[str, object]) -> str:
    """One `testsuite`, one `testcase` a check, for a report as `write_quality_report` gives it.

    The class of a test is the table that the check is about, or `checks`. A check of severity error
    that failed is a `failure`, a broken one of any severity an `error`; each has the sentence and the
    count as its message, some bad rows and the query for all of them as its body. One of severity warn
    that failed is `skipped`, with the same message and body: such a test is shown with its words, and
    turns no build red. The time is that of the build of the mart, no test has a duration: the same
    report is the same XML.

    Valid by the schemas of the Ant task (windyroad/JUnit-Schema) and of Jenkins (xunit-plugin,
    `junit-10.xsd`), save for a mart without any build, which has no time. Characters that XML forbids
    are replaced by �.
    """
    checks = report["checks"]
    outcomes = [outcome(check) for check in checks]
    attributes = {
        "name": "quality of the data mart",
        "tests": str(len(checks)),
        "failures": str(outcomes.count("fail")),
        "errors": str(outcomes.count("broken")),
        "skipped": str(outcomes.count("warn")),
        "time": "0",
        "hostname": "localhost",
    }
    if report["built_at"]:
        attributes["timestamp"] = report["built_at"][: len("2024-01-01T00:00:00")]
    suite = ElementTree.Element("testsuite", attributes)
    properties = ElementTree.SubElement(suite, "properties")
    build = {"name": "build_id", "value": str(report["build_id"] or "")}
    ElementTree.SubElement(properties, "property", build)
    failures = {failure["check_name"]: failure for failure in report["failures"]}
    names = [check["check_name"] for check in checks]
    for check in checks:
        name = check["check_name"]
        case = {"classname": checked_table(name, names), "name": name, "time": "0"}
        case = {key: printable(value) for key, value in case.items()}
        test = ElementTree.SubElement(suite, "testcase", case)
        if check["status"] != "pass":
            _add_outcome(test, failures.get(name, check))
    ElementTree.SubElement(suite, "system-out")
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add_outcome(test: ElementTree.Element, failure: Mapping[str, object]) -> None:
    element = {"fail": "failure", "broken": "error", "warn": "skipped"}[outcome(failure)]
    message = _message(failure)
    # the schema of the Ant task knows no type of a skipped test
    kind = {} if element == "skipped" else {"type": failure["severity"]}
    found = ElementTree.SubElement(test, element, {**kind, "message": message})
    found.text = printable(f"{message}\n{_sample(failure)}{failure.get('query', '')}")


def _message(failure: Mapping[str, object]) -> str:
    if failure["status"] == "broken":
        return printable(f"cannot run: {failure['sentence']}")
    count = failure["bad_rows"]
    return printable(f"{count:,} bad {'row' if count == 1 else 'rows'}. Expected: {failure['sentence']}")


def _sample(failure: Mapping[str, object]) -> str:
    rows = [
        {name: cell_text(value, _LONGEST_CELL) for name, value in row.items()}
        for row in failure.get("sample", [])
    ]
    return f"{pd.DataFrame(rows).to_string(index=False)}\n" if rows else ""


_NUMBER = Markup(' class="number"')

_TEMPLATE = """
{% extends "frame" %}

{%- macro records(rows, nothing) %}
{%- if rows %}
<div class="wide"><table>
<tr>
{%- for name in rows[0] %}<th{{ side(name, rows) }}>{{ name | words }}</th>{% endfor -%}
</tr>
{%- for row in rows %}
<tr>
{%- for name, value in row.items() %}<td{{ side(name, rows) }}>{{ value | figure }}</td>{% endfor -%}
</tr>
{%- endfor %}
</table></div>
{%- else %}
<p>{{ nothing }}</p>
{%- endif %}
{%- endmacro -%}

{%- macro word(check) %}
{%- set word = outcome(check) -%}
<span class="word {{ word }}">{{ marks[word] }} {{ word }}</span>
{%- endmacro -%}

{% block style %}
.checks { width: 100%; }
td.name { overflow-wrap: anywhere; min-width: 14rem; }
.sample { margin: .5rem 0; }
.sample table { width: max-content; font-size: .8rem; }
.sample td { max-width: 18rem; overflow-wrap: break-word; white-space: pre-wrap; }
.sample th { white-space: nowrap; }
.failure { margin: 1rem 0; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .4rem; }
@media (max-width: 40rem) {
  .checks tr { display: grid; grid-template-columns: 5rem 1fr auto; }
  .checks tr { padding: .35rem 0; border-bottom: 1px solid var(--line); }
  .checks th, .checks td { padding: 0; border: 0; }
  .checks th.says { display: none; }
  .checks td.says { grid-column: 2 / -1; color: var(--soft); }
}
@media print {
  .failure { break-inside: avoid; }
}
{% endblock %}

{% block body %}
{%- if report.failures %}
<h2>What did not pass</h2>
{%- for failure in report.failures %}
<section class="failure">
<h3>{{ word(failure) }} {{ failure.check_name | clean }}</h3>
{%- if failure.status == "broken" %}
<p>This check could not run, so it vouches for nothing: {{ failure.sentence | clean }}</p>
{%- else %}
<p>Expected: {{ failure.sentence | clean }}</p>
<p><strong>{{ failure.bad_rows | figure }} bad {{ "row" if failure.bad_rows == 1 else "rows" }}</strong>
{%- if failure.sample | length < failure.bad_rows %}, among them{% endif %}</p>
{%- if failure.sample %}
<div class="wide sample"><table>
<tr>{% for name in failure.sample[0] %}<th>{{ name | clean }}</th>{% endfor %}</tr>
{%- for row in failure.sample %}
<tr>{% for value in row.values() %}<td>{{ value | cell }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- endif %}
<p class="soft">{{ "The query" if failure.status == "broken" else "All of them" }}:
<code>{{ failure.query | clean }}</code></p>
{%- if failure.violations %}
<p class="soft">
{%- if failure.bad_rows > report.max_violations %}The first {{ report.max_violations | figure }} of them
{%- else %}Also{% endif %} in <code>{{ failure.violations }}</code>, beside this page</p>
{%- endif %}
</section>
{%- endfor %}
{%- endif %}

<h2>What is in quarantine</h2>
{{ records(report.quarantine, "Nothing: every row that was read is loaded.") }}

<h2>Checks</h2>
<img alt="{{ picture_words }}" width="{{ width }}" height="{{ height }}"
 src="data:image/png;base64,{{ picture }}">
{%- if report.checks %}
<div class="wide"><table class="checks">
<tr><th>status</th><th>check</th><th class="number">bad rows</th><th class="says">what it says</th></tr>
{%- for check in report.checks %}
<tr><td>{{ word(check) }}</td><td class="name">{{ check.check_name | clean | breakable }}</td>
<td class="number">{{ check.bad_rows | figure }}</td>
<td class="says">{{ check.sentence | clean }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}

<h2>Where the rows come from</h2>
<p class="soft">What was read is either loaded or in quarantine.</p>
{{ records(report.inputs, "No inputs are on record.") }}

<h2>What is in the mart</h2>
{{ records(report.row_counts, "There are no tables.") }}
{% endblock %}
"""


def report_page(report: Mapping[str, object], chart: "Chart") -> str:
    """The page for a report as `write_quality_report` gives it, with the chart of its checks."""
    inches = chart.figure.get_size_inches()
    width, height = (round(side * 96) for side in inches)
    return render_page(
        _TEMPLATE,
        "Quality of the data mart",
        _figures(report),
        status=report["status"],
        verdict=verdict(report),
        report=report,
        outcome=outcome,
        side=_side,
        picture=b64encode(chart.png).decode("ascii"),
        picture_words=printable(chart.title),
        width=width,
        height=height,
    )


def _figures(report: Mapping[str, object]) -> dict[str, str]:
    """The figures at the head of the page, the days that were checked where they were not all."""
    start, end = report["start_date"], report["end_date"]
    days = {"Sales checked": f"{start or 'the first'} to {end or 'the last'}"} if start or end else {}
    return build_figures(report) | days


def _side(name: str, rows: list[Mapping[str, object]]) -> str:
    """The class of a column: numbers stand at the right."""
    values = {type(row[name]) for row in rows} - {type(None)}
    return _NUMBER if values and values <= {int, float} else ""
