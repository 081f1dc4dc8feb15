"""Files for other programs: what they hold, what the manifest says of them, and what is left alone."""

import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.utils.escape import unescape

from mart_helpers import export
from mart_helpers.errors import StateError, UsageError
from mart_helpers.export import FORMATS, MANIFEST, _is_scan, export_tables
from mart_helpers.files import hashed_meanwhile, second_part, whole_file, whole_files
from mart_helpers.session import Session, open_published

MakeMart = Callable[..., Session]

HOSTILE_TEXTS = [
    'a "quoted" word',
    '"',
    '""',
    "two\nlines",
    "windows\r\nlines",
    "old mac\rlines",
    "comma, semicolon; tab\tpipe|",
    "=1+1",
    "+1",
    "-1",
    "@here",
    "#comment",
    "'",
    "back\\slash \\n \\N",
    " spaces around ",
    "",
    "NULL",
    "null",
    "007",
    "1e3",
    "2024-01-01",
    "😀 é ß 中文 \u202e",
    "\ufeffbom",
    "\x01\x1f\x7f",
    "{{ braces }} $dollar 'quote'",
    "x" * 100_000,
    None,
]

TABLES = """
create table build_log (build_id integer, built_at timestamp);
insert into build_log values (6, '2024-01-01'), (7, '2024-02-01');
create table fact_sales (
    sale_id varchar, sale_date date, quantity bigint, net_amount decimal(18, 4), is_return boolean
);
"""


@pytest.fixture
def make_mart(tmp_path: Path) -> Iterator[MakeMart]:
    """Makes a mart whose `fact_sales` has these rows, after further statements, to read from."""
    sessions = []

    def make(rows: list[tuple], statements: str = "") -> Session:
        database = tmp_path / f"mart {len(sessions)}.duckdb"
        with duckdb.connect(str(database)) as connection:
            connection.execute(TABLES + statements)
            connection.executemany("insert into fact_sales values (?, ?, ?, ?, ?)", rows)
        sessions.append(Session(open_published(database, [tmp_path]), database, {}))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


SALES = [
    ("S1", date(2024, 1, 31), 3, Decimal("12.5000"), False),
    ("S2", date(2024, 2, 1), -1, Decimal("-0.0001"), True),
    ("S3", date(2024, 2, 29), 2**63 - 1, Decimal("99999999999999.9999"), None),
    ("S4", None, None, None, None),
]
FACTS = {"fact_sales": "fact_sales"}
ALL_FORMATS = ",".join(FORMATS)


@pytest.fixture
def sales_mart(make_mart: MakeMart) -> Session:
    """A mart with four sales."""
    return make_mart(SALES)


def names(folder: Path) -> list[str]:
    """All that is in `folder`, hidden or not."""
    return sorted(os.listdir(folder))


def manifest(folder: Path) -> dict:
    """The manifest in `folder`."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


# --- whole files ---


def test_a_file_takes_its_place_when_the_block_is_done(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "report.csv"
    with whole_file(target) as part:
        part.write_text("all")
        assert not target.exists()
        assert part.parent == target.parent
    assert target.read_text() == "all"
    assert names(target.parent) == ["report.csv"]


def fail_after_the_first_of(targets: list[Path]) -> None:
    with whole_files(targets) as (first, *_):
        first.write_text("new")
        raise ZeroDivisionError


def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "report.csv"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_after_the_first_of([target])
    assert target.read_text() == "old"
    assert names(tmp_path) == ["report.csv"]


def test_no_target_is_replaced_before_all_are_written(tmp_path: Path) -> None:
    targets = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for target in targets:
        target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_after_the_first_of(targets)
    assert [target.read_text() for target in targets] == ["old", "old"]
    assert names(tmp_path) == ["a.csv", "b.csv"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with whole_file(tmp_path / "report.csv") as part:
        part.write_text("all")
    assert (tmp_path / "report.csv").stat().st_mode == (tmp_path / "other").stat().st_mode


def half_written(target: Path) -> subprocess.Popen:
    """A process that has written half of `target` and waits."""
    script = (
        "import sys, time; from pathlib import Path; from mart_helpers.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(target)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_killed_process_leaves_the_old_file_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    target = tmp_path / "report.csv"
    target.write_text("old")
    with half_written(target) as process:
        process.kill()
    assert target.read_text() == "old"
    assert len(names(tmp_path)) == 2
    with whole_file(target) as part:
        part.write_text("new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["report.csv"]


def test_what_another_process_is_writing_is_left_to_it(tmp_path: Path) -> None:
    target = tmp_path / "report.csv"
    with half_written(target) as process:
        try:
            with whole_file(target) as part:
                part.write_text("new")
            assert len(names(tmp_path)) == 2
        finally:
            process.kill()


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "quality").write_text("not a folder")
    with pytest.raises(StateError, match="quality cannot be written to"):
        fail_after_the_first_of([tmp_path / "quality" / "report.csv"])
    assert (tmp_path / "quality").read_text() == "not a folder"


# --- the files of an export ---


def test_the_csv_has_a_header_decimals_with_their_scale_and_iso_dates(
    sales_mart: Session, tmp_path: Path
) -> None:
    export_tables(sales_mart, FACTS, "csv", str(tmp_path))
    assert (tmp_path / "CSV-export" / "fact_sales.csv").read_bytes() == (
        b"sale_id,sale_date,quantity,net_amount,is_return\n"
        b"S1,2024-01-31,3,12.5000,false\n"
        b"S2,2024-02-01,-1,-0.0001,true\n"
        b"S3,2024-02-29,9223372036854775807,99999999999999.9999,\n"
        b"S4,,,,\n"
    )


def test_the_json_is_an_array_of_objects_with_all_decimals(sales_mart: Session, tmp_path: Path) -> None:
    export_tables(sales_mart, FACTS, "json", str(tmp_path))
    lines = (tmp_path / "JSON-export" / "fact_sales.json").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert lines[1].strip() == (
        '{"sale_id":"S1","sale_date":"2024-01-31","quantity":3,"net_amount":12.5000,"is_return":false},'
    )


HOSTILE_SALES = [(text, *SALES[i % len(SALES)][1:]) for i, text in enumerate(HOSTILE_TEXTS)]


def test_every_value_comes_back_from_the_csv(make_mart: MakeMart, tmp_path: Path) -> None:
    export_tables(make_mart(HOSTILE_SALES), FACTS, "csv", str(tmp_path))
    with duckdb.connect() as connection:
        rows = connection.execute(
            """
            from read_csv(
                $path, auto_detect = false, header = true, allow_quoted_nulls = false,
                delim = ',', quote = '"', escape = '"',
                columns = {
                    sale_id: 'varchar', sale_date: 'date', quantity: 'bigint',
                    net_amount: 'decimal(18, 4)', is_return: 'boolean'
                }
            )
            """,
            {"path": str(tmp_path / "CSV-export" / "fact_sales.csv")},
        ).fetchall()
    assert rows == HOSTILE_SALES


def test_every_text_comes_back_to_another_csv_reader(make_mart: MakeMart, tmp_path: Path) -> None:
    export_tables(make_mart(HOSTILE_SALES), FACTS, "csv", str(tmp_path))
    path = tmp_path / "CSV-export" / "fact_sales.csv"
    with path.open(encoding="utf-8", newline="") as file:
        texts = [row["sale_id"] for row in csv.DictReader(file)]
    # this reader does not tell a missing value from empty text
    assert texts == [text or "" for text in HOSTILE_TEXTS]


def test_every_value_comes_back_from_the_json(make_mart: MakeMart, tmp_path: Path) -> None:
    export_tables(make_mart(HOSTILE_SALES), FACTS, "json", str(tmp_path))
    text = (tmp_path / "JSON-export" / "fact_sales.json").read_text(encoding="utf-8")
    rows = json.loads(text, parse_float=Decimal)
    assert [list(row.values()) for row in rows] == [
        [sale_id, day and day.isoformat(), *rest] for sale_id, day, *rest in HOSTILE_SALES
    ]


@pytest.fixture(scope="module")
def scratch_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session with a table `texts` (position, text) for any rows."""
    database = tmp_path_factory.mktemp("scratch") / "scratch.duckdb"
    session = Session(duckdb.connect(str(database)), database, {})
    session.connection.execute(TABLES + "create table texts (position integer, text varchar)")
    yield session
    session.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_any_text_comes_back(scratch_session: Session, texts: list[str]) -> None:
    connection, folder = scratch_session.connection, scratch_session.database.parent
    connection.execute("truncate texts")
    connection.execute(
        "insert into texts select * from (select unnest(range(len($texts))), unnest($texts::text[]))",
        {"texts": texts},
    )
    export_tables(scratch_session, {"texts": "texts"}, ALL_FORMATS, str(folder))
    with (folder / "CSV-export" / "texts.csv").open(encoding="utf-8", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts
    rows = json.loads((folder / "JSON-export" / "texts.json").read_bytes())
    assert [row["text"] for row in rows] == texts
    sheet = openpyxl.load_workbook(folder / "Excel-export" / "scratch.xlsx")["texts"]
    assert [unescape(cell.value) for cell in sheet["B"][1:]] == texts


def test_a_view_is_exported_under_the_name_of_its_table(sales_mart: Session, tmp_path: Path) -> None:
    sales_mart.connection.execute(
        "create temp view sales_in_range as from fact_sales where sale_date >= '2024-02-01'"
    )
    exported = export_tables(sales_mart, {"fact_sales": "sales_in_range"}, "csv", str(tmp_path))
    lines = (tmp_path / "CSV-export" / "fact_sales.csv").read_text().splitlines()
    assert [line[:2] for line in lines[1:]] == ["S2", "S3"]
    assert exported["rows"].to_list() == [2]


def test_without_rows_there_is_a_header_and_an_empty_array(make_mart: MakeMart, tmp_path: Path) -> None:
    export_tables(
        make_mart([SALES[0]]), {"none": "(from fact_sales where false)"}, ALL_FORMATS, str(tmp_path)
    )
    header = "sale_id,sale_date,quantity,net_amount,is_return\n"
    assert (tmp_path / "CSV-export" / "none.csv").read_text() == header
    assert json.loads((tmp_path / "JSON-export" / "none.json").read_text()) == []
    assert (tmp_path / "NDJSON-export" / "none.ndjson").read_text() == ""
    parquet = duckdb.read_parquet(str(tmp_path / "Parquet-export" / "none.parquet"))
    assert (len(parquet), ",".join(parquet.columns) + "\n") == (0, header)


def settings_of(session: Session) -> tuple:
    settings = "select current_setting('threads'), current_setting('async_threads')"
    return session.connection.execute(settings).fetchone()


def test_the_same_rows_give_the_same_bytes_whatever_the_threads(
    make_mart: MakeMart, tmp_path: Path
) -> None:
    many_mart = make_mart(
        [SALES[0]],
        "create table many as select range as n, range % 1000 as key from range(300_000);"
        "create table few as select range as key, 'name ' || range as name from range(1000);",
    )
    joined = "(select many.n, few.name from many inner join few on many.key = few.key)"
    digests = []
    for threads in (1, 4):
        many_mart.connection.execute(f"set threads = {threads}; set async_threads = 3")
        exported = export_tables(
            many_mart, {"many": "many", "joined": joined}, "csv,json,ndjson,parquet", str(tmp_path)
        )
        digests.append(exported["sha256"].to_list())
        assert settings_of(many_mart) == (threads, 3)
    assert digests[0] == digests[1]
    with (tmp_path / "CSV-export" / "joined.csv").open() as file:
        assert [int(row["n"]) for row in csv.DictReader(file)] == list(range(300_000))


@pytest.mark.parametrize("format_", ["json", "ndjson"])
def test_what_two_sessions_write_is_what_one_would_write(
    make_mart: MakeMart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    mart = make_mart(SALES, "create table many as select range as n, 'ä' as t from range(100_001);")
    mart.connection.execute(
        "set variable first = 3; set variable name = 'it''s'; set variable no = null"
    )
    mart.connection.execute("set variable days = [date '2024-01-31', null]")
    mart.connection.execute("create temp view part as from many where n >= getvariable('first')")
    mart.connection.execute(
        "create temp view odd as select n, getvariable('name') as t, getvariable('days') as d from part"
    )
    mart.connection.execute("create temp table own as from many")
    relations = {name: name for name in ("many", "part", "odd", "own", "fact_sales")}
    digests = []
    for most in (1_000_000, 1):
        monkeypatch.setattr(export, "_MANY_ROWS", most)
        exported = export_tables(mart, relations, format_, str(tmp_path / str(most)))
        digests.append(list(exported.itertuples()))
    assert digests[0] == digests[1]
    assert [row.rows for row in exported.itertuples()] == [100_001, 99_998, 99_998, 100_001, len(SALES)]
    folder = tmp_path / "1" / FORMATS[format_].folder
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *(f"{n}.{format_}" for n in relations)}
    for each in manifest(folder)["files"]:
        assert each["sha256"] == hashlib.sha256((folder / each["file"]).read_bytes()).hexdigest()


def test_a_view_that_only_fails_late_fails_in_both_sessions(
    make_mart: MakeMart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_MANY_ROWS", 1)
    mart = make_mart(SALES, "create table many as select range as n from range(300_000);")
    mart.connection.execute(
        "create temp view late as select if(n = 299_999, error('late'), n) as n from many"
    )
    with pytest.raises(StateError, match="late"):
        export_tables(mart, {"late": "late"}, "json", str(tmp_path))
    assert not list((tmp_path / "JSON-export").iterdir())


def test_a_second_part_is_one_of_those_that_are_swept(tmp_path: Path) -> None:
    target = tmp_path / "some.json"
    with whole_file(target) as part, second_part(part) as second:
        assert {part, second} == set(tmp_path.glob(".some.json.*.part"))
        assert part != second
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_hashed_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.touch()
    with hashed_meanwhile(path) as found, path.open("wb", buffering=0) as file:
        for _ in range(20):
            file.write(os.urandom(1 << 20))
            time.sleep(0.02)
        file.seek(-3, os.SEEK_END)
        file.truncate()
        file.write(b"the end")
    content = path.read_bytes()
    assert found.result() == (len(content), hashlib.sha256(content).hexdigest())


# --- the manifest ---


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("csv", "CSV-export"),
        ("json", "JSON-export"),
        ("ndjson", "NDJSON-export"),
        ("parquet", "Parquet-export"),
    ],
)
def test_the_manifest_tells_rows_bytes_and_digests(
    sales_mart: Session, tmp_path: Path, name: str, folder: str
) -> None:
    relations = {"fact_sales": "fact_sales", "dim_builds": "build_log"}
    export_tables(sales_mart, relations, name, str(tmp_path), "2024-01-01", "")
    found = manifest(tmp_path / folder)
    files = found.pop("files")
    assert found == {
        "format_version": 1,
        "build_id": 7,
        "start_date": "2024-01-01",
        "end_date": None,
    }
    assert [(each["file"], each["table"], each["rows"]) for each in files] == [
        (f"dim_builds.{name}", "dim_builds", 2),
        (f"fact_sales.{name}", "fact_sales", 4),
    ]
    for each in files:
        content = (tmp_path / folder / each["file"]).read_bytes()
        assert each["bytes"] == len(content)
        assert each["sha256"] == hashlib.sha256(content).hexdigest()
    assert names(tmp_path / folder) == [each["file"] for each in files] + ["manifest.json"]


def test_the_manifest_names_each_sheet_of_a_workbook(sales_mart: Session, tmp_path: Path) -> None:
    relations = {"fact_sales": "fact_sales", "dim_builds": "build_log"}
    exported = export_tables(sales_mart, relations, "xlsx", str(tmp_path))
    content = (tmp_path / "Excel-export" / "mart 0.xlsx").read_bytes()
    file = {
        "file": "mart 0.xlsx",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert manifest(tmp_path / "Excel-export")["files"] == [
        {**file, "table": "dim_builds", "sheet": "dim_builds", "rows": 2},
        {**file, "table": "fact_sales", "sheet": "fact_sales", "rows": 4},
    ]
    assert names(tmp_path / "Excel-export") == ["manifest.json", "mart 0.xlsx"]
    (row,) = exported.itertuples()
    assert row == ("Excel-export/mart 0.xlsx", 6, len(content), file["sha256"][:12])


def test_two_exports_of_one_mart_are_the_same_to_the_byte(sales_mart: Session, tmp_path: Path) -> None:
    contents = []
    for folder in ("first", "second"):
        export_tables(sales_mart, FACTS, ALL_FORMATS, str(tmp_path / folder), "", "2024-12-31")
        time.sleep(1.1)  # a time written anywhere would be another one
        files = sorted((tmp_path / folder).rglob("*.*"))
        contents.append([(each.name, each.read_bytes()) for each in files])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 10


def test_the_answer_is_one_row_a_file_with_its_place_in_the_data_folder(
    sales_mart: Session, tmp_path: Path
) -> None:
    exported = export_tables(sales_mart, FACTS, "json,csv", str(tmp_path))
    assert exported.columns == ["file", "rows", "bytes", "sha256"]
    assert exported["file"].to_list() == ["JSON-export/fact_sales.json", "CSV-export/fact_sales.csv"]
    assert manifest(tmp_path / "CSV-export")["files"][0]["sha256"].startswith(exported["sha256"][1])


# --- what was there before ---


def test_files_that_no_longer_belong_are_removed_and_foreign_ones_stay(
    sales_mart: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "CSV-export"
    export_tables(sales_mart, {"fact_sales": "fact_sales", "dim_old": "build_log"}, "csv", str(tmp_path))
    (folder / "mine.csv").write_text("mine")
    (folder / "notes").mkdir()
    export_tables(sales_mart, FACTS, "csv", str(tmp_path))
    assert names(folder) == ["fact_sales.csv", "manifest.json", "mine.csv", "notes"]
    assert (folder / "mine.csv").read_text() == "mine"


def test_a_manifest_cannot_have_files_removed_outside_its_folder(
    sales_mart: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "CSV-export"
    folder.mkdir()
    victims = [tmp_path / "precious.csv", folder / "below" / "precious.csv"]
    (folder / "below").mkdir()
    for victim in victims:
        victim.write_text("precious")
    listed = [{"file": name} for name in ("../precious.csv", str(victims[0]), "below/precious.csv")]
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    export_tables(sales_mart, FACTS, "csv", str(tmp_path))
    assert all(victim.exists() for victim in victims)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": [{"file": [1]}]}'])
def test_a_damaged_manifest_is_replaced(sales_mart: Session, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "CSV-export"
    folder.mkdir()
    (folder / "manifest.json").write_text(text)
    export_tables(sales_mart, FACTS, "csv", str(tmp_path))
    assert manifest(folder)["build_id"] == 7


def test_the_folder_of_a_format_not_asked_for_stays_as_it_is(
    sales_mart: Session, tmp_path: Path
) -> None:
    export_tables(sales_mart, FACTS, "csv,json", str(tmp_path), "2024-01-01")
    export_tables(sales_mart, FACTS, "csv", str(tmp_path))
    assert manifest(tmp_path / "CSV-export")["start_date"] is None
    assert manifest(tmp_path / "JSON-export")["start_date"] == "2024-01-01"


def test_an_export_that_fails_leaves_the_one_before_whole(sales_mart: Session, tmp_path: Path) -> None:
    folder = tmp_path / "CSV-export"
    relations = {"fact_sales": "fact_sales", "dim_old": "build_log"}
    export_tables(sales_mart, relations, "csv", str(tmp_path))
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    sales_mart.connection.execute(
        "create temp view breaks as select if(n < 200_000, n, error('it broke')) as n "
        "from range(300_000) t(n)"
    )
    with pytest.raises(StateError, match=r"breaks cannot be exported .*it broke"):
        export_tables(
            sales_mart, {"fact_sales": "(from fact_sales limit 1)", "x": "breaks"}, "csv", str(tmp_path)
        )
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def run_python(script: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Runs `script` below imports and a `session` on the mart that is its first argument."""
    preamble = (
        "import resource, sys; from pathlib import Path\n"
        "from mart_helpers.errors import StateError\n"
        "from mart_helpers.export import export_tables\n"
        "from mart_helpers.opening import open_published\n"
        "from mart_helpers.session import Session\n"
        "mart, *folders = map(Path, sys.argv[1:])\n"
        "session = Session(open_published(mart, folders), mart, {})\n"
    )
    return subprocess.run(
        [sys.executable, "-c", preamble + script, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_leaves_the_export_before_whole(
    sales_mart: Session, tmp_path: Path, name: str
) -> None:
    export_tables(sales_mart, FACTS, name, str(tmp_path))
    folder = tmp_path / FORMATS[name].folder
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    failed = run_python(
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "many = {'fact_sales': '(select *, hash(range) from range(100_000))'}\n"
        f"export_tables(session, many, '{name}', sys.argv[2])",
        sales_mart.database,
        tmp_path,
    )
    assert failed.returncode == 1
    assert "StateError: " in failed.stderr
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_no_export_that_fails_hangs(sales_mart: Session, tmp_path: Path) -> None:
    # DuckDB 2.0.0 hangs in about one of a hundred where its background writers are on
    ended = run_python(
        "breaks = '(select if(n < 200_000, n, error($$no$$)) from range(300_000) t(n))'\n"
        "for _ in range(300):\n"
        "    try:\n"
        "        export_tables(session, {'x': breaks}, 'csv', sys.argv[2])\n"
        "    except StateError:\n"
        "        print('failed')\n",
        sales_mart.database,
        tmp_path,
    )
    assert ended.stdout.split() == ["failed"] * 300


# --- what is refused ---


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ("xml", 'found "xml", expected some of csv, json, ndjson, parquet, xlsx, separated by commas'),
        ("xslx", "Did you mean xlsx"),
        ("csv,cvs", "Did you mean csv"),
        ("", 'found "", expected some of csv, json'),
        ("csv,", 'found "", expected some of csv, json'),
        ("csv;json", 'found "csv;json", expected some of csv, json, .* separated by commas'),
    ],
)
def test_an_unknown_format_is_refused_before_anything_is_written(
    sales_mart: Session, tmp_path: Path, formats: str, message: str
) -> None:
    data_dir = tmp_path / "data"
    with pytest.raises(UsageError, match=message):
        export_tables(sales_mart, FACTS, formats, str(data_dir))
    assert not data_dir.exists()


def test_formats_may_be_written_with_spaces_in_capitals_and_twice(
    sales_mart: Session, tmp_path: Path
) -> None:
    exported = export_tables(sales_mart, FACTS, " CSV, csv ", str(tmp_path))
    assert exported["file"].to_list() == ["CSV-export/fact_sales.csv"]


def test_only_the_tables_that_are_named_are_written(sales_mart: Session, tmp_path: Path) -> None:
    relations = {"first": "fact_sales", "second": "fact_sales", "third": "no_such_table"}
    exported = export_tables(
        sales_mart, relations, "csv", str(tmp_path), tables=" Second,first, second "
    )
    assert exported["file"].to_list() == ["CSV-export/second.csv", "CSV-export/first.csv"]
    assert names(tmp_path / "CSV-export") == ["first.csv", "manifest.json", "second.csv"]


def test_an_unknown_table_is_refused_before_anything_is_written(
    sales_mart: Session, tmp_path: Path
) -> None:
    message = 'tables: found "fact_sale", expected some of fact_sales, .* Did you mean fact_sales'
    with pytest.raises(UsageError, match=message):
        export_tables(sales_mart, FACTS, "csv,json", str(tmp_path / "data"), tables="fact_sale")
    assert not (tmp_path / "data").exists()


def test_a_join_is_exported_in_one_thread_as_more_of_them_mix_its_rows(sales_mart: Session) -> None:
    plans = {
        "from fact_sales": True,
        "select sale_id, quantity + 1 from fact_sales where quantity > 1": True,
        "select * from fact_sales as a inner join fact_sales as b using (sale_id)": False,
        "select quantity, count(*) from fact_sales group by all order by all": False,
        "from fact_sales union all from fact_sales": False,
    }
    found = {sql: _is_scan(sales_mart.connection, sql) for sql in plans}
    assert found == plans


def test_a_table_that_is_not_there_is_named(sales_mart: Session, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="dim_nothing cannot be exported"):
        export_tables(sales_mart, {"dim_nothing": "dim_nothing"}, "csv", str(tmp_path))


def test_a_data_folder_may_have_spaces_and_quotes(sales_mart: Session, tmp_path: Path) -> None:
    export_tables(sales_mart, FACTS, "csv", str(tmp_path / "it's $data; {x}"))
    assert names(tmp_path / "it's $data; {x}" / "CSV-export") == ["fact_sales.csv", "manifest.json"]
