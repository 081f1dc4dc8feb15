"""`reset` removes what runs have written, all of it, and nothing else."""

import re
from pathlib import Path

import duckdb
import pytest
from conftest import CHECKOUT

from mart_helpers.cli import main
from mart_helpers.errors import StateError
from mart_helpers.export import FORMATS
from mart_helpers.reset import generated, remove

MANIFEST = '{"files": [{"file": "a.csv"}]}'
PAGE = '<!DOCTYPE html>\n<head><meta name="generator" content="Mini Data Mart">'
HISTORY = "build_id,built_at,check_name,severity,status,bad_rows\n"
REPORT = '{"failures": [{"violations": "violations/ours.csv"}]}'
PART = "1a2b3c4d.part"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a mart."""
    monkeypatch.setenv("MART_HOME", str(tmp_path))
    folder = tmp_path / "data"
    folder.mkdir()
    with duckdb.connect(folder / "mart.duckdb") as connection:
        connection.execute("create table build_log as select 1 as build_id")
    return folder


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def found(data: Path) -> list[str]:
    return [str(path.relative_to(data)) for path in generated(data / "mart.duckdb", data)]


def left(data: Path) -> set[str]:
    for path in generated(data / "mart.duckdb", data):
        remove(path)
    return {str(each.relative_to(data)) for each in data.rglob("*") if each.is_file()}


def test_all_that_runs_have_written_is_removed(data):
    put(data, {
        "mart.duckdb.candidate": "", "mart.duckdb.candidate.wal": "", "mart.duckdb.wal": "",
        "mart.duckdb.candidate.tmp/duckdb_temp_0.tmp": "", "mart.duckdb.previous-12": "",
        "mart.duckdb.candidate.rows/0.csv": "",
        "CSV-export/a.csv": "", "CSV-export/manifest.json": MANIFEST,
        "quality/quality_report.json": REPORT, "quality/quality_report.html": PAGE,
        "quality/history.csv": HISTORY, "quality/violations/ours.csv": "",
        "pages/02_explore.html": PAGE, "runs/20240101T000000Z-all/01_build.ipynb": "",
    })  # fmt: skip
    assert found(data) == [
        *("mart.duckdb", "mart.duckdb.candidate"),
        *("mart.duckdb.candidate.rows", "mart.duckdb.candidate.tmp"),
        *("mart.duckdb.candidate.wal", "mart.duckdb.previous-12", "mart.duckdb.wal"),
        *("CSV-export", "pages", "quality", "runs"),
    ]
    assert left(data) == set()
    assert found(data) == []


def test_every_page_bears_the_mark_by_which_it_is_known(subtests):
    for template in ["frame.html.j2", "dashboard.html.j2"]:
        with subtests.test(template):
            (mark,) = re.findall("<meta name.*>", PAGE)
            assert mark in (CHECKOUT / "mart_helpers" / "templates" / template).read_text()[:500]


def test_what_interrupted_runs_have_left_is_removed(data):
    put(data, {
        f".mart.duckdb.previous-3.{PART}": "", f"CSV-export/.a.csv.{PART}": "",
        f"Excel-export/.mart.xlsx.{PART}.rows/sheet1": "", f"quality/.junit.xml.{PART}": "",
        f"pages/.report.html.{PART}": "", f"quality/violations/.x.csv.{PART}": "",
    })  # fmt: skip
    assert left(data) == set()


def test_what_is_someones_own_stays(data):
    own = {
        "notes.txt": "", "other.duckdb": "", "mart.duckdb.wal.md": "", "mart.duckdb.candidates.txt": "",
        "mart.duckdb.previous-good-backup": "", "mart.duckdb.previous-9/mine.txt": "",
        ".mart.duckdb.swp": "", "my-export/a.csv": "", "JSON-export/mine.json": "",
        "JSON-export/.mine.part": "", "quality/history.csv": "day,what happened\n",
        "quality/violations/mine.csv": "", "pages/report.html": "<h1>My own report</h1>",
        "pages/01_build.html": "<h1>My notes on the build</h1>", "runs/mine/notes.txt": "",
    }  # fmt: skip
    put(data, own)
    put(data, {
        "JSON-export/manifest.json": MANIFEST, "quality/quality_report.json": REPORT,
        "quality/violations/ours.csv": "", "runs/20240101T000000Z-all/01_build.ipynb": "",
    })  # fmt: skip
    assert left(data) == set(own)


def test_no_link_is_followed(data, tmp_path):
    put(tmp_path / "elsewhere", {"quality_report.json": REPORT, "violations/ours.csv": ""})
    (data / "quality").symlink_to(tmp_path / "elsewhere")
    assert found(data) == ["mart.duckdb"]


def test_a_folder_of_exports_is_known_by_its_manifest(data):
    for kind in FORMATS.values():
        put(data / kind.folder, {"a.csv": "", "manifest.json": MANIFEST})
    assert found(data)[1:] == [kind.folder for kind in FORMATS.values()]


def test_a_file_that_is_no_mart_is_refused(data):
    (data / "sales.csv").write_text("sale_id\n")
    with pytest.raises(StateError, match="not a mart of ours, so nothing was removed"):
        generated(data / "sales.csv", data)


def test_the_command_lists_what_it_would_remove_and_then_removes_that(data, capsys):
    put(data, {"pages/report.html": PAGE, "pages/mine.html": ""})
    words = ["reset", "--database", str(data / "mart.duckdb"), "--data-dir", str(data)]
    assert main([*words, "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert listed.splitlines()[1:] == [f"would remove data/pages/report.html ({len(PAGE)} bytes)"]
    assert main(words) == 0
    assert capsys.readouterr().out == listed.replace("would remove", "removed")
    assert {path.name for path in data.rglob("*")} == {"pages", "mine.html"}
    assert main(words) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
