"""Files for other programs: what they hold, what the manifest says of them, and what is left alone."""

import csv
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.utils.escape import unescape

from mart_helpers.errors import StateError, UsageError
from mart_helpers.export import FORMATS, export_tables
from mart_helpers.session import Session, open_published

SALES = [
    ("S1", date(2024, 1, 31), 3, Decimal("12.5000"), False),
    ("S2", date(2024, 2, 1), -1, Decimal("-0.0001"), True),
    ("S3", date(2024, 2, 29), 2**63 - 1, Decimal("99999999999999.9999"), None),
    ("S4", None, None, None, None),
]
COLUMNS = (
    "sale_id varchar, sale_date date, quantity bigint, net_amount decimal(18, 4), is_return boolean"
)
TABLES = f"""
create table build_log (build_id integer, built_at timestamp);
insert into build_log values (6, '2024-01-01'), (7, '2024-02-01');
create table fact_sales ({COLUMNS});
create table many as select range as n, range % 1000 as key from range(300_000);
create table few as select range as key, 'name ' || range as name from range(1000);
create table "Sales by month 2024; drop" as select 1 as "net ""amount";
create view joined as select many.n, few.name from many inner join few on many.key = few.key;
create view nothing as from fact_sales where false;
create view breaks as select if(n < 200_000, n, error('it broke')) as n from many;
"""
FACTS = {"fact_sales": "fact_sales"}
ALL_FORMATS = ",".join(FORMATS)


@pytest.fixture(scope="module")
def mart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A mart with four sales and more, opened as 03_export opens it."""
    database = tmp_path_factory.mktemp("marts") / "mart 0.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(TABLES)
        connection.executemany("insert into fact_sales values (?, ?, ?, ?, ?)", SALES)
    session = Session(open_published(database, [tmp_path_factory.getbasetemp()]), database, {})
    yield session
    session.close()


def contents(folder: Path) -> dict[str, bytes | None]:
    """All that is in `folder`, hidden or not."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


# --- the files ---


def test_the_csv_has_a_header_decimals_with_their_scale_and_iso_dates(mart, tmp_path):
    export_tables(mart, FACTS, "csv", str(tmp_path))
    assert (tmp_path / "CSV-export" / "fact_sales.csv").read_bytes() == (
        b"sale_id,sale_date,quantity,net_amount,is_return\n"
        b"S1,2024-01-31,3,12.5000,false\n"
        b"S2,2024-02-01,-1,-0.0001,true\n"
        b"S3,2024-02-29,9223372036854775807,99999999999999.9999,\n"
        b"S4,,,,\n"
    )


def test_the_json_is_an_array_of_objects_with_all_decimals(mart, tmp_path):
    export_tables(mart, FACTS, "json", str(tmp_path))
    lines = (tmp_path / "JSON-export" / "fact_sales.json").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert lines[1].strip() == (
        '{"sale_id":"S1","sale_date":"2024-01-31","quantity":3,"net_amount":12.5000,"is_return":false},'
    )


@pytest.fixture(scope="module")
def texts_mart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session with a table `texts` (position, text) for any rows."""
    database = tmp_path_factory.mktemp("scratch") / "scratch.duckdb"
    session = Session(duckdb.connect(str(database)), database, {})
    session.connection.execute("create table build_log as select 1 as build_id")
    session.connection.execute("create table texts (position integer, text varchar)")
    yield session
    session.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_any_text_comes_back(texts_mart: Session, texts: list[str]) -> None:
    connection, folder = texts_mart.connection, texts_mart.database.parent
    connection.execute("truncate texts")
    connection.execute(
        "insert into texts select * from (select unnest(range(len($texts))), unnest($texts::text[]))",
        {"texts": texts},
    )
    export_tables(texts_mart, {"texts": "texts"}, "csv,json,xlsx", str(folder))
    with (folder / "CSV-export" / "texts.csv").open(encoding="utf-8", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts
    rows = json.loads((folder / "JSON-export" / "texts.json").read_bytes())
    assert [row["text"] for row in rows] == texts
    sheet = openpyxl.load_workbook(folder / "Excel-export" / "scratch.xlsx")["texts"]
    assert [unescape(cell.value) for cell in sheet["B"][1:]] == texts


def test_a_view_is_exported_under_the_name_of_its_table(mart, tmp_path):
    mart.connection.execute(
        "create or replace temp view sales_in_range as from fact_sales where sale_date >= '2024-02-01'"
    )
    exported = export_tables(mart, {"fact_sales": "sales_in_range"}, "csv", str(tmp_path))
    lines = (tmp_path / "CSV-export" / "fact_sales.csv").read_text().splitlines()
    assert [line[:2] for line in lines[1:]] == ["S2", "S3"]
    assert exported["rows"].to_list() == [2]


def test_a_table_may_have_any_name(mart, tmp_path):
    name = "Sales by month 2024; drop"
    export_tables(mart, {name: name}, ALL_FORMATS, str(tmp_path))
    assert (tmp_path / "CSV-export" / f"{name}.csv").read_text() == '"net ""amount"\n1\n'
    assert openpyxl.load_workbook(tmp_path / "Excel-export" / "mart 0.xlsx").sheetnames == [name]


def test_without_rows_there_is_a_header_and_an_empty_array(mart, tmp_path):
    export_tables(mart, {"none": "nothing"}, ALL_FORMATS, str(tmp_path))
    header = "sale_id,sale_date,quantity,net_amount,is_return\n"
    assert (tmp_path / "CSV-export" / "none.csv").read_text() == header
    assert json.loads((tmp_path / "JSON-export" / "none.json").read_text()) == []
    assert (tmp_path / "NDJSON-export" / "none.ndjson").read_text() == ""
    parquet = duckdb.read_parquet(str(tmp_path / "Parquet-export" / "none.parquet"))
    assert (len(parquet), ",".join(parquet.columns) + "\n") == (0, header)


def test_the_same_rows_give_the_same_bytes_whatever_the_threads(mart, tmp_path):
    digests = []
    for threads in (1, 4):
        mart.connection.execute(f"set threads = {threads}")
        exported = export_tables(
            mart, {"many": "many", "joined": "joined"}, "csv,json,parquet", str(tmp_path)
        )
        digests.append(exported["sha256"].to_list())
        now = mart.connection.execute("select current_setting('threads')").fetchone()
        assert now == (threads,)
    assert digests[0] == digests[1]
    with (tmp_path / "CSV-export" / "joined.csv").open() as file:
        assert [int(row["n"]) for row in csv.DictReader(file)] == list(range(300_000))


def test_two_exports_of_one_mart_are_the_same_to_the_byte(mart, tmp_path):
    found = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        export_tables(mart, FACTS, ALL_FORMATS, str(folder), "", "2024-12-31")
        time.sleep(1.1)  # a time written anywhere would be another one
        found.append({kind.folder: contents(folder / kind.folder) for kind in FORMATS.values()})
    assert found[0] == found[1]
    assert [len(files) for files in found[0].values()] == [2] * len(FORMATS)


# --- the manifest ---


def test_the_manifest_tells_rows_bytes_and_digests(mart, tmp_path):
    relations = {"fact_sales": "fact_sales", "dim_builds": "build_log"}
    exported = export_tables(mart, relations, "json,csv", str(tmp_path), "2024-01-01", "")
    found = manifest(tmp_path / "CSV-export")
    files = found.pop("files")
    assert found == {"format_version": 1, "build_id": 7, "start_date": "2024-01-01", "end_date": None}
    assert [(each["file"], each["table"], each["rows"]) for each in files] == [
        ("dim_builds.csv", "dim_builds", 2),
        ("fact_sales.csv", "fact_sales", 4),
    ]
    for each in files:
        content = (tmp_path / "CSV-export" / each["file"]).read_bytes()
        assert each["bytes"] == len(content)
        assert each["sha256"] == hashlib.sha256(content).hexdigest()
    assert exported["file"].to_list() == [
        *("JSON-export/fact_sales.json", "JSON-export/dim_builds.json"),
        *("CSV-export/fact_sales.csv", "CSV-export/dim_builds.csv"),
    ]
    assert [*exported.columns] == ["file", "rows", "bytes", "sha256"]
    assert exported["sha256"][2] == files[1]["sha256"][:12]


def test_the_manifest_names_each_sheet_of_a_workbook(mart, tmp_path):
    relations = {"fact_sales": "fact_sales", "dim_builds": "build_log"}
    exported = export_tables(mart, relations, "xlsx", str(tmp_path))
    content = (tmp_path / "Excel-export" / "mart 0.xlsx").read_bytes()
    file = {"file": "mart 0.xlsx", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest(tmp_path / "Excel-export")["files"] == [
        {**file, "table": "dim_builds", "sheet": "dim_builds", "rows": 2},
        {**file, "table": "fact_sales", "sheet": "fact_sales", "rows": 4},
    ]
    assert sorted(contents(tmp_path / "Excel-export")) == ["manifest.json", "mart 0.xlsx"]
    (row,) = exported.itertuples(index=False)
    assert tuple(row) == ("Excel-export/mart 0.xlsx", 6, len(content), file["sha256"][:12])


# --- what was there before ---


def test_files_that_no_longer_belong_are_removed_and_foreign_ones_stay(mart, tmp_path):
    folder = tmp_path / "CSV-export"
    export_tables(mart, {"fact_sales": "fact_sales", "dim_old": "build_log"}, "csv,json", str(tmp_path))
    (folder / "mine.csv").write_text("mine")
    (folder / "notes").mkdir()
    export_tables(mart, FACTS, "csv", str(tmp_path), "2024-01-01")
    assert sorted(contents(folder)) == ["fact_sales.csv", "manifest.json", "mine.csv", "notes"]
    assert (folder / "mine.csv").read_text() == "mine"
    assert manifest(folder)["start_date"] == "2024-01-01"
    assert manifest(tmp_path / "JSON-export")["start_date"] is None, "of a format not asked for"


def test_a_manifest_cannot_have_files_removed_outside_its_folder(mart, tmp_path):
    folder = tmp_path / "CSV-export"
    (folder / "below").mkdir(parents=True)
    victims = [tmp_path / "precious.csv", folder / "below" / "precious.csv"]
    for victim in victims:
        victim.write_text("precious")
    listed = [{"file": name} for name in ("../precious.csv", str(victims[0]), "below/precious.csv")]
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    export_tables(mart, FACTS, "csv", str(tmp_path))
    assert all(victim.exists() for victim in victims)


def test_a_damaged_manifest_is_replaced(mart, tmp_path):
    folder = tmp_path / "CSV-export"
    folder.mkdir()
    for text in ("", "{", "[]", '{"files": 3}', '{"files": [{"file": [1]}]}'):
        (folder / "manifest.json").write_text(text)
        export_tables(mart, FACTS, "csv", str(tmp_path))
        assert manifest(folder)["build_id"] == 7


def test_an_export_that_fails_leaves_the_one_before_whole(mart, tmp_path, subtests):
    for name in ["csv", "xlsx"]:
        with subtests.test(name):
            folder = tmp_path / FORMATS[name].folder
            export_tables(
                mart, {"fact_sales": "fact_sales", "dim_old": "build_log"}, name, str(tmp_path)
            )
            before = contents(folder)
            with pytest.raises(StateError, match=r"breaks cannot be exported .*it broke"):
                export_tables(mart, {"fact_sales": "few", "x": "breaks"}, name, str(tmp_path))
            assert contents(folder) == before


def run_python(script: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Runs `script` below imports and a `session` on the mart that is its first argument."""
    preamble = (
        "import resource, sys; from pathlib import Path\n"
        "from mart_helpers.errors import StateError\n"
        "from mart_helpers.export import export_tables\n"
        "from mart_helpers.session import Session, open_published\n"
        "mart, *folders = map(Path, sys.argv[1:])\n"
        "session = Session(open_published(mart, folders), mart, {})\n"
    )
    return subprocess.run(
        [sys.executable, "-c", preamble + script, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_full_disk_leaves_the_export_before_whole(mart, tmp_path, subtests):
    for name in ["csv", "parquet", "xlsx"]:
        with subtests.test(name):
            export_tables(mart, FACTS, name, str(tmp_path))
            before = contents(tmp_path / FORMATS[name].folder)
            failed = run_python(
                "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
                f"export_tables(session, {{'fact_sales': 'joined'}}, '{name}', sys.argv[2])",
                mart.database,
                tmp_path,
            )
            assert failed.returncode == 1
            assert "StateError: " in failed.stderr
            assert contents(tmp_path / FORMATS[name].folder) == before


def test_no_export_that_fails_hangs(mart, tmp_path):
    # DuckDB 2.0.0 hung in about one of a hundred
    ended = run_python(
        "for _ in range(100):\n"
        "    try:\n"
        "        export_tables(session, {'x': 'breaks'}, 'csv', sys.argv[2])\n"
        "    except StateError:\n"
        "        print('failed')\n",
        mart.database,
        tmp_path,
    )
    assert ended.stdout.split() == ["failed"] * 100


# --- what is refused ---


def test_what_is_unknown_is_refused_before_anything_is_written(mart, tmp_path):
    known = "expected some of csv, json, ndjson, parquet, xlsx, separated by commas"
    for formats, tables, message in (
        ("xml", "", f'found "xml", {known}'),
        ("csv,cvs", "", "Did you mean csv"),
        ("csv,", "", 'found "", expected some of csv, json'),
        ("csv,json", "fact_sale", 'tables: found "fact_sale", .* Did you mean fact_sales'),
    ):
        with pytest.raises(UsageError, match=message):
            export_tables(mart, FACTS, formats, str(tmp_path / "data"), tables=tables)
        assert not (tmp_path / "data").exists()


def test_only_the_tables_that_are_named_are_written(mart, tmp_path):
    relations = {"first": "fact_sales", "second": "fact_sales", "third": "no_such_table"}
    exported = export_tables(mart, relations, " CSV, csv ", str(tmp_path), tables=" Second,first ")
    assert exported["file"].to_list() == ["CSV-export/second.csv", "CSV-export/first.csv"]
    assert sorted(contents(tmp_path / "CSV-export")) == ["first.csv", "manifest.json", "second.csv"]


def test_a_table_that_is_not_there_is_named(mart, tmp_path):
    with pytest.raises(StateError, match="dim_nothing cannot be exported"):
        export_tables(mart, {"dim_nothing": "dim_nothing"}, "csv", str(tmp_path))


def test_a_table_whose_name_leads_out_of_the_folder_is_refused(mart, tmp_path):
    with pytest.raises(StateError, match='x" cannot be the name of a file'):
        export_tables(mart, {"dim_/../../x": "few"}, "csv", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()
