"""The quality report as JUnit XML, which every system for continuous integration reads."""

from collections.abc import Mapping
from xml.etree import ElementTree

import pandas as pd

from mart_helpers.charts import checked_table
from mart_helpers.page_frame import cell_text, printable
from mart_helpers.pages import outcome

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
