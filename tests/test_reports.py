"""The files of a quality report: what they say, of hostile values too, and what is left alone."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pandas as pd
import pytest
from checked_marts import BREAKS, RETURNS, MakeMart, custom_check, made_of

from mart_helpers.checks import explain_failures, run_checks
from mart_helpers.errors import QueryError, StateError, UsageError
from mart_helpers.report import REPORTS, count_rows, violations_in, write_quality_report
from mart_helpers.session import Session

STAR = """
create schema contract;
create table contract.dim_product (product_id varchar primary key);
create table contract.fact_sales (sale_id varchar primary key, quantity bigint not null);
create table dim_product (product_key integer, product_id varchar);
create table fact_sales (sale_id varchar, product_key integer, quantity bigint);
create table build_log (
    build_id integer, built_at timestamp, rows_loaded bigint, rows_quarantined bigint,
    revenue_loaded decimal(38, 4), revenue_quarantined decimal(38, 4)
);
insert into dim_product values (-1, null), (1, 'P1'), (2, 'P2');
insert into fact_sales values ('S1', 1, 5), ('S2', 2, -1), ('S3', -1, 1);
insert into build_log values
    (1, '2024-01-01 10:00:00', 1, 0, 1, 0),
    (2, '2024-02-01 10:30:00', 1234567, 2345, 9876543.2109, 12.5);
"""
ORPHANS = "insert into fact_sales select 'X' || range, 99, 1 from range(1200);"
HOSTILE = (
    "</td><script>alert(1)</script> & \"quotes\" 'too' ]]> 😀 \x01\x1b\x7f\ufffe {{ 7 * 7 }} \u202e"
)
INPUTS = pd.DataFrame(
    {
        "table_name": ["dim_product", "fact_sales"],
        "file": ["dim_product.csv", HOSTILE],
        "rows_read": [2, 1236912],
        "rows_loaded": [2, 1234567],
        "rows_quarantined": [0, 2345],
        "adds_up": [True, True],
    }
)
QUARANTINED = pd.DataFrame(
    {"reason": ['sale_id "é" is\nbad'], "bad_values": [2345], "first_lines": [[3, 1700]]}
)
NOTHING = QUARANTINED[:0]


@pytest.fixture
def make_mart(tmp_path: Path) -> Iterator[MakeMart]:
    with made_of(STAR, tmp_path) as make:
        yield make


def write(
    mart: Session,
    data_dir: Path,
    inputs: pd.DataFrame = INPUTS,
    quarantined: pd.DataFrame = NOTHING,
    max_violations: int = 1000,
) -> dict:
    """The report as it stands in the JSON file."""
    results = run_checks(mart)
    answer = write_quality_report(
        mart,
        results,
        explain_failures(mart, results),
        count_rows(mart),
        inputs,
        quarantined,
        str(data_dir),
        max_violations,
    )
    text = (data_dir / "quality" / "quality_report.json").read_text(encoding="utf-8")
    assert json.loads(text) == answer
    return answer


def csv_rows(data_dir: Path, name: str = "quality_report.csv") -> list[dict[str, str]]:
    """Rows of a CSV file of the report."""
    with (data_dir / "quality" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(data_dir: Path) -> dict[str, bytes]:
    """All files of the report with their bytes, hidden ones too."""
    folder = data_dir / "quality"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- quality_report.json and .csv ---


def test_rows_of_every_table_are_counted(make_mart: MakeMart) -> None:
    counts = count_rows(make_mart('create table "Dim odd" as from range(7)'))
    assert list(counts.itertuples(index=False, name=None)) == [
        ("Dim odd", 7),
        ("build_log", 2),
        ("dim_product", 3),
        ("fact_sales", 3),
    ]


def test_the_json_report_has_all_that_version_2_promises(make_mart: MakeMart, tmp_path: Path) -> None:
    report = write(make_mart(RETURNS), tmp_path, INPUTS[:1], QUARANTINED)
    query = "select * from checks.few_returns"
    failed = {
        "check_name": "few_returns",
        "severity": "warn",
        "status": "fail",
        "sentence": "returns are rare",
        "bad_rows": 1,
        "query": query,
    }
    checks = report.pop("checks")
    assert len(checks) == 11
    assert {name: checks[0][name] for name in failed} == failed
    assert report == {
        "format_version": 2,
        "mart": "0.duckdb",
        "start_date": None,
        "end_date": None,
        "build_id": 2,
        "built_at": "2024-02-01T10:30:00",
        "rows_loaded": 1234567,
        "rows_quarantined": 2345,
        "revenue_loaded": "9876543.2109",
        "revenue_quarantined": "12.5000",
        "status": "warn",
        "counts": {"checks": 11, "pass": 10, "fail": 1, "broken": 0},
        "failures": [
            {**failed, "sample": [{"sale_id": "S2"}], "violations": "violations/few_returns.csv"}
        ],
        "max_violations": 1000,
        "row_counts": [
            {"table_name": "build_log", "rows": 2},
            {"table_name": "dim_product", "rows": 3},
            {"table_name": "fact_sales", "rows": 3},
        ],
        "inputs": INPUTS[:1].to_dict("records"),
        "quarantine": QUARANTINED.to_dict("records"),
    }


@pytest.mark.parametrize(
    ("statements", "status"),
    [
        ("", "pass"),
        (RETURNS, "warn"),
        (BREAKS, "warn"),
        ("delete from fact_sales", "fail"),
        (RETURNS + "delete from fact_sales where quantity > 0; delete from dim_product", "fail"),
        (BREAKS.replace("warn:", "error:"), "fail"),
        ("drop schema checks cascade", "fail"),
    ],
)
def test_the_status_is_that_of_the_worst_check_and_fail_without_checks(
    make_mart: MakeMart, tmp_path: Path, statements: str, status: str
) -> None:
    assert write(make_mart(statements), tmp_path)["status"] == status
    word = page_of(tmp_path).texts("strong")[0]
    assert word.split()[-1] == status.upper()


def test_a_broken_check_has_no_count_in_the_report(make_mart: MakeMart, tmp_path: Path) -> None:
    report = write(make_mart(BREAKS), tmp_path)
    assert report["counts"] == {"checks": 11, "pass": 10, "fail": 0, "broken": 1}
    assert report["checks"][0]["bad_rows"] is None
    assert "scratch" in report["checks"][0]["sentence"]
    assert csv_rows(tmp_path)[0]["bad_rows"] == ""
    failure = report["failures"][0]
    assert (failure["bad_rows"], failure["sample"], failure["violations"]) == (None, [], None)


def test_the_csv_report_has_one_row_a_check(make_mart: MakeMart, tmp_path: Path) -> None:
    odd = custom_check("odd", 'warn: a "quoted", sentence', "from fact_sales where quantity = -1")
    report = write(make_mart(odd), tmp_path)
    rows = csv_rows(tmp_path)
    assert rows[0]["sentence"] == 'a "quoted", sentence'
    as_text = [{name: str(value) for name, value in each.items()} for each in report["checks"]]
    assert rows == as_text


def test_whole_numbers_stay_whole_where_one_is_missing(make_mart: MakeMart, tmp_path: Path) -> None:
    inputs = pd.DataFrame({"rows_read": [4, None], "file": ["a.csv", None]})
    report = write(make_mart(), tmp_path, inputs=inputs)
    assert report["inputs"] == [{"rows_read": 4, "file": "a.csv"}, {"rows_read": None, "file": None}]
    text = (tmp_path / "quality" / "quality_report.json").read_text()
    assert '"rows_read": 4,' in text


def test_values_of_any_type_find_their_way_into_a_sample(make_mart: MakeMart, tmp_path: Path) -> None:
    kinds = custom_check(
        "kinds",
        "warn: no row",
        """
        select date '2024-01-31' as day, timestamp '2024-01-31 10:00' as moment, null as nothing,
            0.5::decimal(9, 6) as share, [1, 2] as list, {'a': 1} as struct, '\\xFF\\x00'::blob as blob,
            uuid '00000000-0000-0000-0000-000000000001' as uuid, interval 1 day as span, true as flag
        """,
    )
    sample = write(make_mart(kinds), tmp_path)["failures"][0]["sample"][0]
    assert sample["day"] == "2024-01-31"
    assert sample["moment"] == "2024-01-31T10:00:00"
    assert (sample["nothing"], sample["share"], sample["list"]) == (None, 0.5, [1, 2])
    assert csv_rows(tmp_path, "violations/kinds.csv")[0] == {
        "day": "2024-01-31",
        "moment": "2024-01-31 10:00:00",
        "nothing": "",
        "share": "0.500000",
        "list": "[1, 2]",
        "struct": "{'a': 1}",
        "blob": "\\xFF\\x00",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "span": "1 day",
        "flag": "true",
    }


def test_a_mart_without_any_build_is_reported_too(make_mart: MakeMart, tmp_path: Path) -> None:
    report = write(make_mart("delete from build_log"), tmp_path)
    assert (report["build_id"], report["built_at"], report["revenue_loaded"]) == (None, None, None)
    assert page_of(tmp_path).texts("dt") == ["Mart"]
    assert "timestamp" not in suite_of(tmp_path).attrib
    assert csv_rows(tmp_path, "history.csv") == []


def test_the_days_that_were_checked_stand_in_the_report(make_mart: MakeMart, tmp_path: Path) -> None:
    mart = make_mart()
    results = run_checks(mart)
    report = write_quality_report(
        mart, results, [], count_rows(mart), INPUTS, NOTHING, str(tmp_path), days=("2024-02-01", "")
    )
    assert (report["start_date"], report["end_date"]) == ("2024-02-01", None)
    assert "2024-02-01 to the last" in page_of(tmp_path).texts("dd")


def test_builds_of_two_marts_with_one_number_stand_side_by_side(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    write(make_mart(), tmp_path)
    write(make_mart("update build_log set built_at = '2025-01-01'"), tmp_path)
    days = {(row["build_id"], row["built_at"]) for row in csv_rows(tmp_path, "history.csv")}
    assert days == {("2", "2024-02-01T10:30:00"), ("2", "2025-01-01T00:00:00")}


# --- junit.xml ---


def suite_of(data_dir: Path) -> ElementTree.Element:
    """The test suite of `junit.xml`."""
    return ElementTree.parse(data_dir / "quality" / "junit.xml").getroot()


def test_each_check_is_a_test_and_its_outcome_an_element(make_mart: MakeMart, tmp_path: Path) -> None:
    report = write(make_mart(RETURNS + BREAKS + ORPHANS), tmp_path)
    suite = suite_of(tmp_path)
    assert suite.attrib == {
        "name": "quality of the data mart",
        "tests": "12",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
        "time": "0.0",
        "hostname": "localhost",
        "timestamp": "2024-02-01T10:30:00",
    }
    # the order that the schema of the Ant task wants
    assert [child.tag for child in suite] == [
        "properties",
        *["testcase"] * 12,
        "system-out",
        "system-err",
    ]
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == [check["check_name"] for check in report["checks"]]
    outcomes = {name: [child.tag for child in case] for name, case in cases.items() if len(case)}
    assert outcomes == {
        "needs_scratch": ["error"],
        "fact_sales_product_key_is_in_dim_product": ["failure"],
        "few_returns": ["skipped"],
    }
    assert {case.get("classname") for case in cases.values()} == {"dim_product", "fact_sales", "checks"}
    assert cases["few_returns"].get("classname") == "checks"
    assert cases["fact_sales_sale_id_is_unique"].get("classname") == "fact_sales"


def test_a_failed_test_says_how_many_what_and_where(make_mart: MakeMart, tmp_path: Path) -> None:
    write(make_mart(ORPHANS), tmp_path)
    failure = suite_of(tmp_path).find("testcase/failure")
    message = "1,200 bad rows. Expected: every product_key of fact_sales is in dim_product"
    assert failure.attrib == {"type": "error", "message": message}
    first, header, *rows, query = failure.text.splitlines()
    assert first == message
    assert header.split()[:2] == ["product_id", "sale_id"]
    assert [row.split()[0] for row in rows] == ["X0", "X1", "X10", "X100", "X1000"]
    assert query == "select * from checks.fact_sales_product_key_is_in_dim_product"


# --- violations ---


def test_all_bad_rows_of_a_check_are_in_its_file_up_to_the_limit(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    mart = make_mart(ORPHANS)
    name = "violations/fact_sales_product_key_is_in_dim_product.csv"
    write(mart, tmp_path, max_violations=5000)
    rows = csv_rows(tmp_path, name)
    assert len(rows) == 1200
    assert rows[0] == {"sale_id": "X0", "product_key": "99", "quantity": "1"}
    write(mart, tmp_path, max_violations=7)
    assert csv_rows(tmp_path, name) == rows[:7]


def test_only_checks_that_found_rows_have_a_file(make_mart: MakeMart, tmp_path: Path) -> None:
    write(make_mart(RETURNS + BREAKS), tmp_path)
    assert os.listdir(tmp_path / "quality" / "violations") == ["few_returns.csv"]


def test_a_limit_of_nothing_writes_no_such_file(make_mart: MakeMart, tmp_path: Path) -> None:
    mart = make_mart(RETURNS)
    write(mart, tmp_path)
    report = write(mart, tmp_path, max_violations=0)
    assert report["failures"][0]["violations"] is None
    assert not (tmp_path / "quality" / "violations").exists()
    with pytest.raises(UsageError, match="max_violations: found -1"):
        write(mart, tmp_path, max_violations=-1)


@pytest.mark.parametrize(
    "name",
    ["../../evil", "a/b", "con", "x" * 300, "two words", "Ü\n\r", ".hidden", 'q"uote', "\\", "it's; --"],
)
def test_a_check_of_any_name_has_a_file_in_the_folder(
    make_mart: MakeMart, tmp_path: Path, name: str
) -> None:
    write(make_mart(custom_check(name, "warn: none", "select 1 as n")), tmp_path)
    (found,) = (tmp_path / "quality" / "violations").iterdir()
    assert re.fullmatch(r"[a-z0-9_]{0,60}-[0-9a-f]{8}\.csv", found.name)
    assert found.read_text() == "n\n1\n"
    assert violations_in(tmp_path / "quality") == {found.name}


def test_names_alike_but_for_their_signs_have_files_of_their_own(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    names = ["a b", "a-b", "a_b"]
    write(make_mart("".join(custom_check(each, "warn: -", "select 1") for each in names)), tmp_path)
    assert len(os.listdir(tmp_path / "quality" / "violations")) == 3


def test_files_of_checks_that_pass_now_are_removed_and_foreign_ones_stay(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    folder = tmp_path / "quality" / "violations"
    write(make_mart(RETURNS + ORPHANS), tmp_path)
    (folder / "mine.csv").write_text("mine")
    write(make_mart(RETURNS), tmp_path)
    assert sorted(os.listdir(folder)) == ["few_returns.csv", "mine.csv"]
    write(make_mart(), tmp_path)
    assert os.listdir(folder) == ["mine.csv"]
    (folder / "mine.csv").unlink()
    write(make_mart(), tmp_path)
    assert not folder.exists()


def test_a_report_cannot_have_files_removed_that_are_elsewhere(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    folder = tmp_path / "quality"
    victims = [tmp_path / "precious.csv", folder / "precious.csv", folder / "violations" / "x" / "p.csv"]
    victims[-1].parent.mkdir(parents=True)
    victims.append(folder / "violations" / "precious.csv")
    for victim in victims:
        victim.write_text("precious")
    named = ["../precious.csv", str(victims[0]), "precious.csv", "violations/../precious.csv"]
    listed = [{"violations": name} for name in [*named, "violations/x/p.csv", "violations/.."]]
    (folder / "quality_report.json").write_text(json.dumps({"failures": listed}))
    write(make_mart(), tmp_path)
    assert all(victim.exists() for victim in victims)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"failures": 3}', '{"failures": [{"violations": 1}]}'])
def test_a_damaged_report_is_replaced(make_mart: MakeMart, tmp_path: Path, text: str) -> None:
    (tmp_path / "quality").mkdir()
    (tmp_path / "quality" / "quality_report.json").write_text(text)
    assert write(make_mart(), tmp_path)["format_version"] == 2


# --- history.csv ---

HEADER = "build_id,built_at,check_name,severity,status,bad_rows\n"


def test_the_history_keeps_other_builds_and_replaces_its_own(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    write(make_mart(RETURNS), tmp_path)
    later = "insert into build_log (build_id, built_at) values (10, '2024-03-01');"
    write(make_mart(BREAKS + later), tmp_path)
    kept = (tmp_path / "quality" / "history.csv").read_bytes()
    assert kept.startswith(
        HEADER.encode() + b"2,2024-02-01T10:30:00,dim_product_has_rows,error,pass,0\n"
    )
    rows = csv_rows(tmp_path, "history.csv")
    assert [row["build_id"] for row in rows] == ["2"] * 11 + ["10"] * 11
    # a rerun for build 2, which now passes
    write(make_mart(), tmp_path)
    again = csv_rows(tmp_path, "history.csv")
    assert again == [row for row in rows if row["check_name"] != "few_returns"]
    assert {(row["status"], row["bad_rows"]) for row in again} == {("pass", "0"), ("broken", "")}


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"", "No columns"),
        (b"my,notes\n1,2\n", "begins with my,notes"),
        (HEADER.encode() + b"1,2024-01-01T00:00:00,a,error,pass", "last line has no end"),
        (HEADER.encode() + b"1,2024-01-01T00:00:00,a,error\n", "has the row 1,2024"),
        (HEADER.encode() + b"1,2024-01-01T00:00:00,a,error,passed,0\n", "has the row"),
        (HEADER.encode() + b"one,2024-01-01T00:00:00,a,error,pass,0\n", "has the row one"),
        (HEADER.encode() + b'1,2024-01-01T00:00:00,"a,error,pass,0\n', "EOF inside string"),
        (HEADER.encode() + b"\xff\xfe\n", "decode"),
        (HEADER.replace(",", ";").encode(), "begins with build_id;"),
    ],
)
def test_a_history_that_is_none_is_named_and_nothing_is_written(
    make_mart: MakeMart, tmp_path: Path, damaged: bytes, message: str
) -> None:
    (tmp_path / "quality").mkdir()
    (tmp_path / "quality" / "history.csv").write_bytes(damaged)
    with pytest.raises(StateError, match=rf"history.csv is no history .*{message}.*move it away"):
        write(make_mart(RETURNS), tmp_path)
    assert contents(tmp_path) == {"history.csv": damaged}


def test_a_history_that_another_program_saved_with_its_line_ends_is_taken(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    (tmp_path / "quality").mkdir()
    text = "\ufeff" + HEADER + '1,2024-01-01T00:00:00,"a, b",error,fail,3\n'
    (tmp_path / "quality" / "history.csv").write_bytes(text.replace("\n", "\r\n").encode())
    write(make_mart(), tmp_path)
    assert csv_rows(tmp_path, "history.csv")[0]["check_name"] == "a, b"
    assert b"\r" not in (tmp_path / "quality" / "history.csv").read_bytes()


# --- quality_report.html ---


class Page(HTMLParser):
    """The elements of a page in their order: tag, attributes, all text within."""

    # what has no end tag
    VOID = frozenset({"meta", "img", "br", "link", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str]]) -> None:
        self.elements.append((tag, dict(attributes), []))
        if tag not in self.VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, texts in self.open:
            texts.append(data)

    def texts(self, tag: str) -> list[str]:
        return [" ".join("".join(texts).split()) for found, _, texts in self.elements if found == tag]

    def tables(self) -> list[list[list[str]]]:
        """Each table as rows of texts, the header first."""
        tables: list[list[list[str]]] = []
        for tag, _, texts in self.elements:
            if tag == "table":
                tables.append([])
            elif tag == "tr":
                tables[-1].append([])
            elif tag in {"td", "th"}:
                tables[-1][-1].append(" ".join("".join(texts).split()))
        return tables


def page_of(data_dir: Path) -> Page:
    """The page of the report, every element of it closed."""
    return Page((data_dir / "quality" / "quality_report.html").read_text(encoding="utf-8"))


def test_the_page_shows_the_figures_of_the_build_and_the_frames(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    mart = make_mart(RETURNS + BREAKS + ORPHANS)
    write(mart, tmp_path, INPUTS.replace(HOSTILE, "fact_sales.csv"), QUARANTINED)
    page = page_of(tmp_path)
    assert page.texts("p")[0] == "✗ FAIL 3 of 12 checks did not pass; 2,345 rows are in quarantine."
    assert dict(zip(page.texts("dt"), page.texts("dd"), strict=True)) == {
        "Mart": "0.duckdb",
        "Build": "2",
        "Built (UTC)": "2024-02-01 10:30",
        "Rows loaded": "1,234,567",
        "Rows in quarantine": "2,345",
        "Revenue loaded": "9,876,543.21",
        "Revenue in quarantine": "12.50",
    }
    _, _, quarantine, checks, inputs, row_counts = page.tables()
    assert checks == [
        ["status", "check", "bad rows", "what it says"],
        *(
            [
                f"{'✓' if check.status == 'pass' else '▲' if word == 'warn' else '✗'} {word}",
                check.check_name,
                "" if check.status == "broken" else f"{check.bad_rows:,}",
                check.sentence,
            ]
            for check in run_checks(mart).itertuples()
            for word in ["warn" if check.check_name == "few_returns" else check.status]
        ),
    ]
    assert inputs == [
        ["table name", "file", "rows read", "rows loaded", "rows quarantined", "adds up"],
        ["dim_product", "dim_product.csv", "2", "2", "0", "yes"],
        ["fact_sales", "fact_sales.csv", "1,236,912", "1,234,567", "2,345", "yes"],
    ]
    assert quarantine[1:] == [['sale_id "é" is bad', "2,345", "3, 1700"]]
    assert row_counts[1:] == [["build_log", "2"], ["dim_product", "3"], ["fact_sales", "1,203"]]


def test_the_page_shows_each_failure_with_its_rows_and_its_query(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    write(make_mart(RETURNS + BREAKS + ORPHANS), tmp_path)
    page = page_of(tmp_path)
    broken, failed, warned = page.texts("section")
    assert "broken needs_scratch This check could not run" in broken
    assert broken.endswith("The query: select * from checks.needs_scratch")
    assert "every product_key of fact_sales is in dim_product 1,200 bad rows, among them" in failed
    assert "The first 1,000 of them in violations/fact_sales_product_key_is_in" in failed
    assert "1 bad row sale_id S2 All of them: select * from checks.few_returns" in warned
    orphans = page.tables()[0]
    assert [row[1] for row in orphans] == ["sale_id", "X0", "X1", "X10", "X100", "X1000"]


def test_a_page_on_a_sound_mart_is_short(make_mart: MakeMart, tmp_path: Path) -> None:
    write(make_mart(), tmp_path)
    page = page_of(tmp_path)
    assert page.texts("p")[0] == "✓ PASS All 10 checks passed; 2,345 rows are in quarantine."
    assert page.texts("section") == []
    assert "Nothing: every row that was read is loaded." in page.texts("p")


def test_the_page_loads_nothing_and_runs_nothing(make_mart: MakeMart, tmp_path: Path) -> None:
    write(make_mart(RETURNS), tmp_path)
    text = (tmp_path / "quality" / "quality_report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|<link|<script|\son\w+=", text)
    page = page_of(tmp_path)
    given = [pair for _, attributes, _ in page.elements for pair in attributes.items()]
    sources = [value for name, value in given if name in {"src", "href", "srcset", "action"}]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/png;base64,iVBORw0KGgo")
    policy = next(attributes for _, attributes, _ in page.elements if "http-equiv" in attributes)
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_the_style_of_the_page_is_what_was_written(make_mart: MakeMart, tmp_path: Path) -> None:
    write(make_mart(), tmp_path)
    style = page_of(tmp_path).texts("style")[0]
    assert '"Segoe UI"' in style
    assert "prefers-color-scheme: dark" in style


# --- all of them together ---


def test_hostile_values_are_text_in_every_file(make_mart: MakeMart, tmp_path: Path) -> None:
    name = "</h3><b>name</b> ]]> & \"q\" 'q'"
    value = HOSTILE.replace("'", "''")
    statements = custom_check(name, f"warn: {HOSTILE}", f"select '{value}' as \"<i>column</i>\"")
    statements += custom_check("broken", f"error: {HOSTILE}", "from t")
    statements = f"create table t (n integer); {statements} drop table t;"
    plain = HOSTILE.translate({ord(c): "�" for c in "\x01\x1b\x7f\ufffe"})
    report = write(make_mart(statements), tmp_path, quarantined=INPUTS.rename(columns={"file": "<b>"}))
    assert report["failures"][-1]["sample"] == [{"<i>column</i>": HOSTILE}]

    page = page_of(tmp_path)
    assert {tag for tag, _, _ in page.elements}.isdisjoint({"script", "b", "i"})
    assert page.texts("h3")[-1] == f"▲ warn {name}"
    assert f"Expected: {plain}" in page.texts("p")
    assert page.tables()[0] == [["<i>column</i>"], [plain]]

    skipped = suite_of(tmp_path).find("testcase/skipped")
    assert skipped.attrib == {"message": f"1 bad row. Expected: {plain}"}
    assert [case.get("name") for case in suite_of(tmp_path).iter("testcase")].count(name) == 1
    violations = csv_rows(tmp_path, report["failures"][-1]["violations"])
    assert violations == [{"<i>column</i>": HOSTILE}]
    assert name in {row["check_name"] for row in csv_rows(tmp_path, "history.csv")}


def test_long_values_are_cut_where_people_read_them(make_mart: MakeMart, tmp_path: Path) -> None:
    check = custom_check("long", "warn: none", "select repeat('x', 100_000) as value")
    write(make_mart(check), tmp_path)
    assert page_of(tmp_path).tables()[0][1] == ["x" * 79 + "…"]
    assert len((tmp_path / "quality" / "junit.xml").read_text()) < 5_000
    assert csv_rows(tmp_path, "violations/long.csv")[0]["value"] == "x" * 100_000


def test_a_rerun_gives_the_same_files_to_the_byte(make_mart: MakeMart, tmp_path: Path) -> None:
    mart = make_mart(RETURNS + BREAKS + ORPHANS)
    write(mart, tmp_path, quarantined=QUARANTINED)
    first = contents(tmp_path)
    violations = {f"violations/{each}" for each in violations_in(tmp_path / "quality")}
    assert set(first) == {*REPORTS, *violations}
    assert len(first) == 7
    write(mart, tmp_path, quarantined=QUARANTINED)
    assert contents(tmp_path) == first


def test_the_same_bad_rows_are_chosen_whatever_their_order(make_mart: MakeMart, tmp_path: Path) -> None:
    check = "from (select range as n from range(5000)) order by {}"
    files = []
    for order in ("n", "hash(n)"):
        write(make_mart(custom_check("many", "warn: none", check.format(order))), tmp_path / order)
        files.append(contents(tmp_path / order)["violations/many.csv"])
    assert files[0] == files[1]
    assert files[0].startswith(b"n\n0\n1\n2\n")


def test_a_full_disk_leaves_the_report_before_whole(make_mart: MakeMart, tmp_path: Path) -> None:
    write(make_mart(RETURNS), tmp_path)
    before = contents(tmp_path)
    script = (
        "import resource, sys; from pathlib import Path; import pandas as pd\n"
        "from mart_helpers.checks import explain_failures, run_checks\n"
        "from mart_helpers.session import open_published\n"
        "from mart_helpers.report import count_rows, write_quality_report\n"
        "from mart_helpers.session import Session\n"
        "mart = Session(open_published(Path(sys.argv[1])), Path(sys.argv[1]), {})\n"
        "results = run_checks(mart); failures = explain_failures(mart, results)\n"
        "counts = count_rows(mart); nothing = pd.DataFrame()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
        "write_quality_report(mart, results, failures, counts, nothing, nothing, sys.argv[2])"
    )
    # bytes of which the violations, then only the page is too much
    for most in ("4000", "12000"):
        failed = subprocess.run(
            [sys.executable, "-c", script, make_mart(ORPHANS).database, tmp_path, most],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "StateError: " in failed.stderr
        assert "cannot be written to: File too large" in failed.stderr
        assert contents(tmp_path) == before


def test_rows_that_cannot_all_be_read_leave_the_report_before_whole(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    write(make_mart(RETURNS), tmp_path)
    before = contents(tmp_path)
    mart = make_mart(RETURNS)
    results = run_checks(mart)
    failures = explain_failures(mart, results)
    mart.connection.close()
    mart.connection = duckdb.connect(str(mart.database))
    mart.connection.execute("drop view checks.few_returns")
    with pytest.raises(QueryError, match="few_returns: its bad rows cannot all be read"):
        write_quality_report(mart, results, failures, count_rows(mart), INPUTS, NOTHING, str(tmp_path))
    assert contents(tmp_path) == before


def test_a_report_that_cannot_be_written_says_where(make_mart: MakeMart, tmp_path: Path) -> None:
    (tmp_path / "quality").write_text("in the way")
    with pytest.raises(StateError, match="quality cannot be written to"):
        write(make_mart(), tmp_path)
