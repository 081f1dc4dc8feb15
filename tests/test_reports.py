"""The files of a quality report: what they say, of hostile values too, and what is left alone."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pandas as pd
import pytest
from checked_marts import BREAKS, RETURNS, MakeMart, custom_check, made_of
from conftest import CHECKOUT
from golden import assert_as_kept

from mart_helpers.checks import explain_failures, run_checks
from mart_helpers.errors import QueryError, StateError, UsageError
from mart_helpers.files import sole_writer
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
ORPHAN_FILE = "violations/fact_sales_product_key_is_in_dim_product.csv"
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
WRITE = """
import sys; from pathlib import Path; import pandas as pd
from mart_helpers.checks import explain_failures, run_checks
from mart_helpers.report import count_rows, write_quality_report
from mart_helpers.session import Session, open_published
mart = Session(open_published(Path(sys.argv[1])), Path(sys.argv[1]), {})
results, nothing = run_checks(mart), pd.DataFrame()
failures, counts = explain_failures(mart, results), count_rows(mart)
write_quality_report(mart, results, failures, counts, nothing, nothing, sys.argv[2])
"""
HEADER = "build_id,built_at,check_name,severity,status,bad_rows\n"


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
    days: tuple[str, str] = ("", ""),
) -> dict:
    """The report as it stands in the JSON file."""
    results = run_checks(mart)
    failures, counts = explain_failures(mart, results), count_rows(mart)
    answer = write_quality_report(
        mart, results, failures, counts, inputs, quarantined, str(data_dir), max_violations, days
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


def page_of(data_dir: Path) -> str:
    return (data_dir / "quality" / "quality_report.html").read_text(encoding="utf-8")


def test_the_files_of_a_report_are_as_they_were_written_down(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    name = "</h3><b>name</b> ]]> & \"q\" 'q'"
    value = HOSTILE.replace("'", "''")
    hostile = custom_check(name, f"warn: {HOSTILE}", f"select '{value}' as \"<i>column</i>\"")
    mart = make_mart(RETURNS + BREAKS + ORPHANS + hostile)
    write(mart, tmp_path, quarantined=QUARANTINED, max_violations=7, days=("2024-02-01", ""))
    written = contents(tmp_path)
    for file, found in written.items():
        text = re.sub(r"(base64,)[A-Za-z0-9+/=]+", r"\1…", found.decode("utf-8"))
        assert_as_kept(f"report/{file}", text)
    assert {*REPORTS, *(f"violations/{each}" for each in violations_in(tmp_path / "quality"))} == {
        *written
    }
    write(mart, tmp_path, quarantined=QUARANTINED, max_violations=7, days=("2024-02-01", ""))
    assert contents(tmp_path) == written, "a rerun gives the same bytes"


def test_the_page_loads_nothing_and_runs_nothing(make_mart: MakeMart, tmp_path: Path) -> None:
    write(make_mart(RETURNS), tmp_path)
    page = page_of(tmp_path)
    assert not re.search(r"https?:|url\(|@import|<link|<script|\son\w+=", page)
    assert not re.search(r"(?:src|href|action)=", page)
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in page


def test_the_status_is_that_of_the_worst_check_and_fail_without_checks(
    make_mart: MakeMart, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for statements, status in [
        ("", "pass"),
        (RETURNS, "warn"),
        (BREAKS, "fail"),
        (RETURNS + "delete from fact_sales where quantity > 0; delete from dim_product", "fail"),
        ("drop schema checks cascade", "fail"),
    ]:
        with subtests.test(statements):
            assert write(make_mart(statements), tmp_path)["status"] == status
            page = page_of(tmp_path)
            assert f'<p class="verdict {status}">' in page
            assert "Nothing: every row that was read is loaded." in page
            is_short = "10 checks passed." in page and "<section" not in page
            assert is_short == (status == "pass")


def test_rows_of_every_table_are_counted(make_mart: MakeMart) -> None:
    counts = count_rows(make_mart('create table "Dim ""odd" as from range(7)'))
    assert list(counts.itertuples(index=False, name=None)) == [
        ('Dim "odd', 7),
        ("build_log", 2),
        ("dim_product", 3),
        ("fact_sales", 3),
    ]


def test_whole_numbers_stay_whole_where_one_is_missing(make_mart: MakeMart, tmp_path: Path) -> None:
    inputs = pd.DataFrame({"rows_read": [4, None], "file": ["a.csv", None]})
    report = write(make_mart(), tmp_path, inputs=inputs)
    assert report["inputs"] == [{"rows_read": 4, "file": "a.csv"}, {"rows_read": None, "file": None}]
    assert b'"rows_read": 4,' in contents(tmp_path)["quality_report.json"]


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
    assert contents(tmp_path)["violations/kinds.csv"].splitlines()[1] == (
        rb"2024-01-31,2024-01-31 10:00:00,,0.500000,\"[1, 2]\",{'a': 1},\xFF\x00,"
        rb"00000000-0000-0000-0000-000000000001,1 day,true".replace(b'\\"', b'"')
    )


def test_a_mart_without_any_build_is_reported_too(make_mart: MakeMart, tmp_path: Path) -> None:
    report = write(make_mart("delete from build_log"), tmp_path)
    assert (report["build_id"], report["built_at"], report["revenue_loaded"]) == (None, None, None)
    assert re.findall("<dt>(.*?)</dt>", page_of(tmp_path)) == ["Mart"]
    assert "timestamp" not in ElementTree.parse(tmp_path / "quality" / "junit.xml").getroot().attrib
    assert csv_rows(tmp_path, "history.csv") == []


def test_long_values_are_cut_where_people_read_them(make_mart: MakeMart, tmp_path: Path) -> None:
    check = custom_check("long", "warn: none", "select repeat('x', 100_000) as value")
    write(make_mart(check), tmp_path)
    assert f"<td>{'x' * 79}…</td>" in page_of(tmp_path)
    assert len(contents(tmp_path)["junit.xml"]) < 5_000
    assert csv_rows(tmp_path, "violations/long.csv")[0]["value"] == "x" * 100_000


# --- violations ---


def test_all_bad_rows_of_a_check_are_in_its_file_up_to_the_limit(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    mart = make_mart(ORPHANS)
    write(mart, tmp_path, max_violations=5000)
    rows = csv_rows(tmp_path, ORPHAN_FILE)
    assert len(rows) == 1200
    assert rows[0] == {"sale_id": "X0", "product_key": "99", "quantity": "1"}
    write(mart, tmp_path, max_violations=7)
    assert csv_rows(tmp_path, ORPHAN_FILE) == rows[:7]
    report = write(mart, tmp_path, max_violations=0)
    assert report["failures"][0]["violations"] is None
    assert not (tmp_path / "quality" / "violations").exists()
    with pytest.raises(UsageError, match="max_violations: found -1"):
        write(mart, tmp_path, max_violations=-1)


def test_the_same_bad_rows_are_chosen_whatever_their_order(make_mart: MakeMart, tmp_path: Path) -> None:
    check = "from (select range as n from range(5000)) order by {}"
    files = []
    for order in ("n", "hash(n)"):
        write(make_mart(custom_check("many", "warn: none", check.format(order))), tmp_path / order)
        files.append(contents(tmp_path / order)["violations/many.csv"])
    assert files[0] == files[1]
    assert files[0].startswith(b"n\n0\n1\n2\n")


def test_a_check_of_any_name_has_a_file_of_its_own_in_the_folder(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    names = [
        "../../evil",
        "con",
        "x" * 300,
        "Ü\n\r",
        ".hidden",
        'q"uote',
        "\\",
        "it's; --",
        "a b",
        "a-b",
    ]
    write(make_mart("".join(custom_check(each, "warn: -", "select 1 as n") for each in names)), tmp_path)
    found = {path.name for path in (tmp_path / "quality" / "violations").iterdir()}
    assert len(found) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]{0,60}-[0-9a-f]{8}\.csv", name) for name in found)
    assert violations_in(tmp_path / "quality") == found
    assert contents(tmp_path)[f"violations/{min(found)}"] == b"n\n1\n"


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


def test_a_damaged_report_is_replaced(
    make_mart: MakeMart, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for text in ["{", "[]", '{"failures": [{"violations": 1}]}']:
        with subtests.test(text):
            (tmp_path / "quality").mkdir(exist_ok=True)
            (tmp_path / "quality" / "quality_report.json").write_text(text)
            assert write(make_mart(), tmp_path)["format_version"] == 3


# --- history.csv ---


def test_the_history_keeps_other_builds_and_replaces_its_own(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    write(make_mart(RETURNS), tmp_path)
    later = "insert into build_log (build_id, built_at) values (10, '2024-03-01');"
    write(make_mart(BREAKS + later), tmp_path)
    kept = contents(tmp_path)["history.csv"]
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
    # another mart, whose build has the same number
    write(make_mart("update build_log set built_at = '2025-01-01'"), tmp_path)
    days = {(row["build_id"], row["built_at"]) for row in csv_rows(tmp_path, "history.csv")}
    assert {("2", "2024-02-01T10:30:00"), ("2", "2025-01-01T00:00:00")} <= days


def test_two_reports_at_once_lose_no_row_of_the_history(make_mart: MakeMart, tmp_path: Path) -> None:
    mart, history = make_mart(), tmp_path / "quality" / "history.csv"
    with sole_writer(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", WRITE, mart.database, tmp_path], cwd=CHECKOUT)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=5)
        history.parent.mkdir(exist_ok=True)
        history.write_text(HEADER + "7,2024-01-01T00:00:00,mine,error,pass,0\n")
    assert other.wait(timeout=60) == 0
    assert {row["build_id"] for row in csv_rows(tmp_path, "history.csv")} == {"2", "7"}


def test_a_history_that_is_none_is_named_and_nothing_is_written(
    make_mart: MakeMart, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for damaged, message in [
        (b"", "No columns"),
        (b"my,notes\n1,2\n", "begins with my,notes"),
        (HEADER.encode() + b"1,2024-01-01T00:00:00,a,error,pass", "does not end in a line break"),
        (HEADER.encode() + b"1,2024-01-01T00:00:00,a,error,passed,0\n", "has the row 1,2024"),
        (HEADER.encode() + b"one,2024-01-01T00:00:00,a,error,pass,0\n", "has the row one"),
        (HEADER.encode() + b'1,2024-01-01T00:00:00,"a,error,pass,0\n', "EOF inside string"),
        (HEADER.encode() + b"\xff\xfe\n", "decode"),
    ]:
        with subtests.test(message):
            (tmp_path / "quality").mkdir(exist_ok=True)
            (tmp_path / "quality" / "history.csv").write_bytes(damaged)
            with pytest.raises(
                StateError, match=rf"history.csv is not a history .*{message}.*move it away"
            ):
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
    assert b"\r" not in contents(tmp_path)["history.csv"]


# --- whole or not at all ---


def test_a_full_disk_leaves_the_report_before_whole(make_mart: MakeMart, tmp_path: Path) -> None:
    write(make_mart(RETURNS), tmp_path)
    before = contents(tmp_path)
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
    # bytes of which the violations, then only the page is too much
    for most, statements in (("4000", ORPHANS), ("6000", BREAKS)):
        failed = subprocess.run(
            [sys.executable, "-c", limit + WRITE, make_mart(statements).database, tmp_path, most],
            cwd=CHECKOUT,
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
    with pytest.raises(QueryError, match="few_returns: its bad rows cannot be read"):
        write_quality_report(mart, results, failures, count_rows(mart), INPUTS, NOTHING, str(tmp_path))
    assert contents(tmp_path) == before


def test_a_report_that_cannot_be_written_says_where(make_mart: MakeMart, tmp_path: Path) -> None:
    (tmp_path / "quality").write_text("in the way")
    with pytest.raises(StateError, match="quality cannot be written to"):
        write(make_mart(), tmp_path)
