"""Files are written whole or not at all."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from mart_helpers.errors import StateError
from mart_helpers.files import whole_files

CHECKOUT = Path(__file__).parents[1]


def names(folder: Path) -> list[str]:
    """All that is in `folder`, hidden or not."""
    return sorted(os.listdir(folder))


@pytest.fixture
def old(tmp_path: Path) -> list[Path]:
    """Three files of an earlier time."""
    targets = [tmp_path / name for name in ("a.csv", "b.csv", "manifest.json")]
    for target in targets:
        target.write_text("old")
    return targets


def write(targets: list[Path], outdated: list[Path] = ()) -> None:
    with whole_files(targets, lambda: outdated) as parts:
        for part in parts:
            part.write_text("new")


def test_a_file_takes_its_place_when_the_block_is_done_with_the_permissions_of_any_other(tmp_path):
    target = tmp_path / "new folder" / "report.csv"
    with whole_files([target]) as (part,):
        part.write_text("all")
        assert not target.exists()
        assert part.parent == target.parent
    assert target.read_text() == "all"
    assert names(target.parent) == ["report.csv"]
    (tmp_path / "other").touch()
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_error_in_the_block_leaves_all_of_the_old_files_and_nothing_else(old, tmp_path):
    def fail() -> None:
        with whole_files(old) as (first, *_):
            first.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [target.read_text() for target in old] == ["old"] * 3
    assert names(tmp_path) == ["a.csv", "b.csv", "manifest.json"]


def test_what_is_outdated_goes_as_the_new_files_come(old, tmp_path):
    write([old[0], old[2]], outdated=old)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new", "new"]
    assert names(tmp_path) == ["a.csv", "manifest.json"]


@pytest.mark.parametrize("blocked", [1, 2])
def test_where_one_file_cannot_be_replaced_all_stay_as_they_were(old, tmp_path, monkeypatch, blocked):
    new, outdated = tmp_path / "0.csv", tmp_path / "outdated.csv"
    outdated.write_text("old")
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:  # as Windows does while Excel has the file open
        if target == old[blocked] and Path(source).read_text() == "new":
            raise PermissionError(13, "it is open elsewhere")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StateError, match="it is open elsewhere"):
        write([new, *old], outdated=[outdated])
    assert [target.read_text() for target in (*old, outdated)] == ["old"] * 4
    assert names(tmp_path) == ["a.csv", "b.csv", "manifest.json", "outdated.csv"]


def test_a_folder_in_the_place_of_a_file_stops_all(old, tmp_path):
    old[1].unlink()
    old[1].mkdir()
    with pytest.raises(StateError, match="Is a directory"):
        write(old)
    assert old[0].read_text() == old[2].read_text() == "old"
    assert names(tmp_path) == ["a.csv", "b.csv", "manifest.json"]


def test_of_two_that_write_the_same_files_at_once_one_wins_with_all_of_them(tmp_path):
    targets = [tmp_path / f"{number}.csv" for number in range(10)]
    both_written = Barrier(2)

    def write_all(text: str) -> None:
        with whole_files(targets) as parts:
            for part in parts:
                part.write_text(text)
            both_written.wait(timeout=60)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(30):
            assert [*pool.map(write_all, ("one", "other"))] == [None, None]
            assert len({target.read_text() for target in targets}) == 1
    assert len(names(tmp_path)) == 10


def half_written(target: Path) -> subprocess.Popen:
    """A process that has written half of `target` and waits."""
    script = (
        "import sys, time; from pathlib import Path; from mart_helpers.files import whole_files\n"
        "with whole_files([Path(sys.argv[1])]) as (part,):\n"
        "    part.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, target]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_killed_process_leaves_the_old_file_and_the_next_one_tidies_up(old, tmp_path):
    with half_written(old[0]) as process:
        process.kill()
    assert old[0].read_text() == "old"
    assert len(names(tmp_path)) == 4
    write(old)
    assert names(tmp_path) == ["a.csv", "b.csv", "manifest.json"]


def test_what_another_process_is_writing_is_left_to_it(old, tmp_path):
    with half_written(old[0]) as process:
        try:
            write(old)
            assert len(names(tmp_path)) == 4
        finally:
            process.kill()


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "quality").write_text("not a folder")
    with pytest.raises(StateError, match="quality cannot be written to"):
        write([tmp_path / "quality" / "report.csv"])
    assert (tmp_path / "quality").read_text() == "not a folder"
