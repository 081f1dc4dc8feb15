"""Whatever becomes of the terminal, a command says one clear line and ends with the right status."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from conftest import CHECKOUT

from mart_helpers.cli import main
from mart_helpers.errors import InputError, StateError
from mart_helpers.kept import held
from mart_helpers.sources import find_sources

MART = [sys.executable, "-m", "mart"]
ODD_NAME = "red\x1b[31m"


def run(*words: str, redirected: str = "", **environment: str) -> subprocess.CompletedProcess:
    """A command in a shell, which redirects its streams."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *MART, *words],
        cwd=CHECKOUT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def started(*words: str, **environment: str) -> subprocess.Popen:
    """A command that heeds interrupts, which a shell's background jobs do not."""
    return subprocess.Popen(
        [*MART, *words],
        cwd=CHECKOUT,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture
def mart(tmp_path: Path) -> str:
    """A mart with a column and a comment that a terminal would obey."""
    path = tmp_path / "mart.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute("create table build_log (build_id integer, built_at timestamp)")
        connection.execute(f'create table sales ("{ODD_NAME}" integer)')
        connection.execute(f"comment on table sales is '1 → 2{ODD_NAME}'")
    return str(path)


def test_an_interrupt_while_modules_are_imported_is_one_line(tmp_path):
    (tmp_path / "click.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport no_module_of_this_name\n"
    )
    done = started("build", PYTHONPATH=str(tmp_path))
    assert done.communicate(timeout=120)[1] == "mart: interrupted.\n"
    assert done.returncode == 130


def test_an_interrupt_in_the_middle_of_a_statement_is_one_line_and_leaves_nothing(tmp_path):
    process = started("generate", "--sales", "10000000", "--out", str(tmp_path))
    while not any(path.stat().st_size for path in tmp_path.glob("*fact_sales.csv.*.part")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120)[1] == "mart: interrupted.\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_said_in_one_line(mart, subtests):
    for words in [["inspect"], ["--help"], ["build", "--help"]]:
        with subtests.test(words[0]):
            if words == ["inspect"]:
                words = ["inspect", "--database", mart]
            done = run(*words, redirected=">/dev/full")
            assert done.returncode == 1
            assert done.stderr.endswith("No space left on device.\n")
            assert done.stderr.count("\n") == 1


def test_a_stream_that_is_closed_or_full_takes_nothing_from_what_is_done(mart):
    inspect = ["inspect", "--database", mart]
    for redirected in (">&-", "2>/dev/full", "<&- >&- 2>&-"):
        assert run(*inspect, redirected=redirected).returncode == 0
        assert run("nonsense", redirected=redirected).returncode == 2
    with duckdb.connect(mart, read_only=True) as connection:
        assert connection.execute("from sales").fetchall() == []


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path):
    done = run("generate", "--sales", "9", "--out", str(tmp_path), redirected=">&- 2>&-")
    assert done.returncode == 0
    assert all("," in path.read_text().splitlines()[-1] for path in tmp_path.iterdir())


def test_an_encoding_that_lacks_a_character_gets_one_like_it(mart):
    done = run("inspect", "--database", mart, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "sales: 0 rows. 1 -> 2red" in done.stdout
    done = run("inspect", "--database", mart + "ß→", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert f"There is no mart at {mart}\\xdf->" in done.stderr


def test_control_characters_of_names_are_spelt_out(mart):
    done = run("inspect", "--database", mart)
    assert "  red\\x1b[31m  integer" in done.stdout
    assert "\x1b" not in done.stdout
    done = run("inspect", "--database", mart + ODD_NAME)
    assert f"There is no mart at {mart}red\\x1b[31m yet." in done.stderr


def test_a_file_system_without_locks_is_named_as_such(tmp_path, monkeypatch, subtests):
    for number in [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK]:
        with subtests.test(str(number)):

            def flock(*_: object, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(fcntl, "flock", flock)
            with pytest.raises(StateError, match="the file system has no locks"):
                held(tmp_path / "mart.duckdb")


def test_the_lack_of_a_folder_for_temporary_files_is_told_in_one_line(
    home, monkeypatch, capsys, subtests
):
    for words in [["export", "--formats", "xlsx"], ["portfolio", "--out", "pictures"]]:
        with subtests.test(words[0]):
            monkeypatch.setattr(tempfile, "tempdir", None)
            monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(home / "missing")])
            assert main(words) == 1
            *_, message = capsys.readouterr().err.splitlines()
            assert message == f"mart: No usable temporary directory found in ['{home / 'missing'}']."
            assert not (home / "data").exists()


def test_a_file_whose_name_is_not_utf_8_is_named_so_that_it_can_be_found(tmp_path):
    folder = tmp_path / "fact_sales"
    folder.mkdir()
    (folder / os.fsdecode(b"2024\xff.csv")).write_text("sale_id\n")
    with pytest.raises(InputError) as refused:
        find_sources(tmp_path, SimpleNamespace(name="fact_sales", is_optional=False))
    assert str(refused.value) == f"{folder}/2024\\udcff.csv: its name is not UTF-8. Rename it."
