"""Sums up the results of checks, in the same words wherever they are shown.

A check has one of five results. `skipped` is not a pass, because the check did not run. `broken` counts
as an error, because the data may be bad.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

RESULTS = ("broken", "fail", "warn", "skipped", "pass")  # worst first

NOT_PASSED = ("broken", "fail", "warn")

STOPPED_BY = {"error": ("broken", "fail"), "warn": NOT_PASSED, "never": ()}

_NOUNS = {"broken": "broken check", "fail": "error", "warn": "warning"}

_MOST_NAMED = 20


def overall(statuses: Iterable[str]) -> str:
    """The overall result: `fail`, `warn` or `pass`. It is `fail` if there are no checks at all."""
    found = set(statuses)
    if not found or found & set(STOPPED_BY["error"]):
        return "fail"
    return "warn" if "warn" in found else "pass"


def headline(checks: Iterable[Mapping[str, object]]) -> str:
    """All results in one line, worst first: `1 warning: few_returns has 1 bad row; 12 passed`.

    `checks` are rows of `run_checks`; only `status` and `finding` are read.
    """
    found = _by_status(checks)
    if not any(found.values()):
        return "There are no checks, so the mart is unchecked"
    parts = [
        f"{_counted(len(found[status]), _NOUNS[status])}: {found[status][0]}"
        + (f" and {len(found[status]) - 1:,} more" if len(found[status]) > 1 else "")
        for status in NOT_PASSED
        if found[status]
    ]
    skipped = f", {len(found['skipped']):,} skipped" if found["skipped"] else ""
    passed = f"{len(found['pass']):,}" if parts else _counted(len(found["pass"]), "check")
    return "; ".join([*parts, f"{passed} passed{skipped}"])


def verdict_lines(checks: Iterable[Mapping[str, object]]) -> list[str]:
    """The headline, and a line for each check that did not pass and is not in the headline."""
    checks = list(checks)
    found = _by_status(checks)
    told = {status: found[status][1:] for status in NOT_PASSED} | {"skipped": found["skipped"]}
    lines = [f"{status}: {finding}" for status, findings in told.items() for finding in findings]
    more = [f"and {len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
    return [headline(checks), *lines[:_MOST_NAMED], *more]


def vouched(report: Path, build: Mapping[str, object]) -> tuple[str, str]:
    """Status and headline of the quality report at this path, if it is about this build."""
    quality: dict = {}
    with suppress(OSError, ValueError):
        quality = json.loads(report.read_text(encoding="utf-8"))
    if all(quality.get(name) == build[name] for name in ("build_id", "built_at")):
        return quality["status"], f"{quality['headline']}."
    return "warn", "There is no quality report of this build."


def checked_table(check_name: str, check_names: Collection[str]) -> str:
    """The table that a check is about, or `checks` if it is not about a single table.

    Each table has a check `<table>_has_rows`, and the names of its checks begin with its name.
    """
    tables = (name.removesuffix("_has_rows") for name in check_names if name.endswith("_has_rows"))
    found = [table for table in tables if check_name.startswith(f"{table}_")]
    return max(found, key=len, default="checks")


def _by_status(checks: Iterable[Mapping[str, object]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {status: [] for status in RESULTS}
    for check in checks:
        found[str(check["status"])].append(str(check["finding"]))
    return found


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
