"""The quality report: what the checks found, as files for people and programs that run no notebook."""

import json

import pandas as pd

from mart_helpers.files import whole_files
from mart_helpers.project import resolve
from mart_helpers.session import Session

REPORT_VERSION = 1
REPORTS = ("quality_report.csv", "quality_report.json")


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
    row_counts: pd.DataFrame,
    inputs: pd.DataFrame,
    quarantined: pd.DataFrame,
    data_dir: str,
) -> dict[str, object]:
    """Write `quality_report.json` and `quality_report.csv` in `<data_dir>/quality`; the report itself.

    Version 1 of the JSON file is an object with

    - `format_version` (1), `build_id` and `built_at` of the last build (null where there is none)
    - `status`: `fail` where a check of severity error did not pass or there is no check at all, else
      `warn` where one of severity warn did not pass, else `pass`
    - `counts`: how many `checks` there are, how many `pass`, `fail`, and are `broken`
    - `checks`: `check_results`, a broken check with `bad_rows` null, as nobody could count
    - `row_counts`, `inputs` and `quarantine`: the rows of the other frames, fields as their columns

    The CSV file is `checks`, one row a check. Raises StateError where the folder cannot be written.
    """
    checks = check_results.assign(
        bad_rows=check_results["bad_rows"].astype("Int64").mask(check_results["status"] == "broken")
    )
    report = {
        "format_version": REPORT_VERSION,
        **_last_build(session),
        "status": _status(checks),
        "counts": _counts(checks),
        "checks": _records(checks),
        "row_counts": _records(row_counts),
        "inputs": _records(inputs),
        "quarantine": _records(quarantined),
    }
    folder = resolve(data_dir) / "quality"
    targets = [folder / name for name in REPORTS]
    with whole_files(targets) as (csv_part, json_part):
        checks.to_csv(csv_part, index=False, encoding="utf-8", lineterminator="\n")
        text = json.dumps(report, indent=2, ensure_ascii=False)
        json_part.write_text(text + "\n", encoding="utf-8")
    return report


def _last_build(session: Session) -> dict[str, object]:
    found = session.connection.execute(
        "select build_id, built_at from build_log order by build_id desc limit 1"
    )
    build_id, built_at = found.fetchone() or (None, None)
    return {"build_id": build_id, "built_at": built_at and built_at.isoformat()}


def _status(checks: pd.DataFrame) -> str:
    not_passed = set(checks.loc[checks["status"] != "pass", "severity"])
    if "error" in not_passed or checks.empty:
        return "fail"
    return "warn" if not_passed else "pass"


def _counts(checks: pd.DataFrame) -> dict[str, int]:
    by_status = checks["status"].value_counts()
    return {"checks": len(checks)} | {
        status: int(by_status.get(status, 0)) for status in ("pass", "fail", "broken")
    }


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Rows as JSON has them: whole numbers stay whole where others are missing, dates are ISO 8601."""
    return json.loads(frame.convert_dtypes().to_json(orient="records", date_format="iso"))
