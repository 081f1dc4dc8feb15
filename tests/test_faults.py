"""What happens to a mart when something gets in the way: it is whole, or as it was, or not there.

Real processes are killed, run out of disk, lack rights and race each other. `mart` builds are few here,
because each takes seconds; where it is about the publishing step alone, a small mart is published by
processes that are forked from one that has imported everything (`FORKS`).
"""

import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import duckdb
import pytest
from conftest import make_home, mart_command, publish_checked, put_mart, query
from forks import FORKS, start_server

from mart_helpers.errors import MartError, StateError
from mart_helpers.kept import kept_builds, previous_path, rollback
from mart_helpers.mart import candidate_path, create_candidate
from mart_helpers.session import identity, in_words, open_published

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")

NOBODY = 65534
BUSY = "is being built by another notebook or program"


@pytest.fixture(scope="module", autouse=True)
def forks() -> None:
    start_server()


STAR = """
    create table fact_sales as
    select range as sale_id, (range + getvariable('build_id'))::decimal(18, 4) as net_amount
    from range(20_000 + getvariable('build_id'));

    insert into build_inputs (build_id, table_name, rows_loaded)
    select getvariable('build_id'), 'fact_sales', count(*) from fact_sales;

    update build_log
    set revenue_loaded = (select sum(net_amount) from fact_sales)
    where build_id = getvariable('build_id')
"""


def build_once(database: Path, moment: float = 0.0) -> str:
    """Publish a small mart whose facts differ from build to build, not before `moment`; who did it."""
    time.sleep(max(0.0, moment - time.time()))
    session = create_candidate(database)
    try:
        with in_words():
            session.connection.execute(STAR)
        publish_checked(session)
    finally:
        session.close()
    return f"process {os.getpid()}"


def build_forever(database: Path) -> None:
    while True:
        build_once(database)


def roll_back_forever(database: Path) -> None:
    while True:
        rollback(database, random.choice(kept_builds(database)))


def hold(database: Path, seconds: float) -> None:
    """Be at work on a build for so long."""
    session = create_candidate(database)
    time.sleep(seconds)
    session.close()


def build_of(database: Path) -> int:
    """The number of the build that made the mart; all of it can be read, and is of that one build."""
    with duckdb.connect(str(database), read_only=True) as connection:

        def rows(sql: str) -> list[tuple]:
            return connection.execute(sql).fetchall()

        for (table,) in rows("select format('{}.{}', schema_name, table_name) from duckdb_tables()"):
            rows(f"select count(hash(each)) from {table} as each")
        builds = [build for (build,) in rows("select build_id from build_log order by all")]
        assert builds == list(range(1, len(builds) + 1)), "gaps or doubles in the log"
        logged = rows(
            "select build_inputs.rows_loaded, revenue_loaded from build_log "
            "inner join build_inputs using (build_id) "
            f"where table_name = 'fact_sales' and build_id = {len(builds)}"
        )
        assert rows("select count(*), sum(net_amount) from fact_sales") == logged
    return len(builds)


def assert_whole(database: Path) -> None:
    """The mart is whole or absent, and so are those that are kept beside it."""
    marts = [database] if database.exists() else []
    for mart in marts + [previous_path(database, build) for build in kept_builds(database)]:
        build_of(mart)
    assert not database.with_name(f"{database.name}.wal").exists()


def assert_tidy(database: Path) -> None:
    """Beside the mart are those before it, and the lock, which nobody holds; nothing is left half."""
    kept = {previous_path(database, build).name for build in kept_builds(database)}
    known = {database.name, f"{database.name}.lock", *kept, "runs"}
    assert {path.name for path in database.parent.iterdir()} <= known


def contents(folder: Path) -> dict[str, bytes | str]:
    """What is in the folder, without locks."""
    return {
        path.name: os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else ""
        for path in folder.iterdir()
        if path.suffix != ".lock"
    }


def refusal(run: subprocess.CompletedProcess) -> str:
    """The one message with which a command said no."""
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    before, *messages = re.split(r"^mart: ", run.stderr, flags=re.MULTILINE)
    assert re.fullmatch(r"(\d{4}-\d\d-\d\d [\d:]{8}  \d\d_\w+  .*\b[\d.]+ s\n)*", before)
    (message,) = messages
    return message


@pytest.fixture(scope="module")
def built_home(tmp_path_factory: pytest.TempPathFactory, sample_mart: Path) -> Iterator[Path]:
    """A home in which two marts were built, one after the other; no test changes it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = make_home(tmp_path_factory.mktemp("built") / "home", monkeypatch)
        put_mart(sample_mart, home)
        built()
        yield home


@pytest.fixture
def database(built_home: Path, home: Path) -> Path:
    """The mart of `home`, published by a second build, with that of the first beside it."""
    shutil.copytree(built_home / "data", home / "data")
    return home / "data" / "mini_data_mart.duckdb"


@pytest.fixture
def built_mart(built_home: Path) -> Path:
    """The mart of the second build, which no test changes."""
    return built_home / "data" / "mini_data_mart.duckdb"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Where processes publish small marts."""
    return tmp_path / "mart.duckdb"


def built(*words: str | Path) -> None:
    run = mart_command("build", *words)
    assert run.returncode == 0, run.stderr


def start(*words: str, **options: object) -> subprocess.Popen:
    """`python -m mart WORDS` in a process group of its own."""
    command = [sys.executable, "-m", "mart", *words]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
    return subprocess.Popen(command, start_new_session=True, **options)


def processes_of(home: Path) -> list[int]:
    """The processes that were started for `home`: the command, its kernel, and kernels of tests."""
    mine = f"MART_HOME={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            running = (folder / "stat").read_text().rpartition(") ")[2][0] not in "ZX"
        except OSError:
            continue
        if mine in variables and running and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def all_gone(home: Path, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while processes_of(home) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes_of(home)


def kill_9(run: subprocess.Popen, home: Path) -> None:
    os.killpg(run.pid, signal.SIGKILL)
    for pid in processes_of(home):
        os.kill(pid, signal.SIGKILL)
    run.wait()
    assert all_gone(home)


def wait_until(there: Callable[[], bool], run: subprocess.Popen | BaseProcess) -> None:
    is_over = run.poll if isinstance(run, subprocess.Popen) else lambda: run.exitcode
    while not there() and is_over() is None:
        time.sleep(0.002)


# kill -9 ------------------------------------------------------------------------------------------


def test_a_build_killed_at_any_moment_leaves_the_mart_whole_or_absent(home: Path):
    database = home / "data" / "mini_data_mart.duckdb"
    candidate, at = candidate_path(database), random.Random(1)
    build = ("build", "--stage", "1", "--database", database)
    run = start(*build)
    wait_until(candidate.exists, run)
    began = time.monotonic()
    wait_until(database.exists, run)
    seconds = time.monotonic() - began
    moments = [at.uniform(0, 1.1 * seconds) for _ in range(4)]
    kill_9(run, home)
    assert build_of(database) == 1
    for moment in moments:
        candidate.unlink(missing_ok=True)
        before, mart = build_of(database), database.read_bytes()
        run = start(*build)
        wait_until(candidate.exists, run)
        time.sleep(moment)
        kill_9(run, home)
        assert_whole(database)
        assert database.read_bytes() == mart or build_of(database) == before + 1
    built()
    assert_tidy(database)
    assert_whole(database)


def killed_at_work(target: Callable[..., None], mart: Path, share: float) -> None:
    """Let a process replace the mart again and again, and kill it that share of a round later.

    How long a round takes is seen from the first ones, so a busy machine kills at the same moments.
    """
    process = FORKS.Process(target=target, args=[mart])
    process.start()
    turns = []
    while len(turns) < 3:
        wait_until(partial(is_another, mart, identity(mart)), process)
        turns.append(time.monotonic())
    time.sleep(share * (turns[2] - turns[1]))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def is_another(mart: Path, before: tuple[int, int] | None) -> bool:
    """Whether another file than `before` is the mart now."""
    return identity(mart) not in (None, before)


def test_publishing_killed_at_any_moment_leaves_the_marts_whole_or_absent(small: Path):
    at = random.Random(3)
    for _ in range(8):
        killed_at_work(build_forever, small, at.random())
        assert_whole(small)
    build_once(small)
    assert_whole(small)
    assert_tidy(small)
    assert build_of(small) > 3 * 8


def test_what_a_killed_build_moved_to_disk_is_removed_by_the_next(small: Path):
    build_once(small)
    spilled = candidate_path(small).with_name(f"{candidate_path(small).name}.tmp")
    spilled.mkdir()
    (spilled / "duckdb_temp_1_0_storage_DEFAULT-0.tmp").write_bytes(b"x")
    build_once(small)
    assert_tidy(small)


def test_when_the_command_alone_is_killed_its_kernel_ends_too(home: Path):
    run = start("build")
    wait_until(candidate_path(home / "data" / "mini_data_mart.duckdb").exists, run)
    run.kill()
    run.wait()
    assert all_gone(home)
    assert_whole(home / "data" / "mini_data_mart.duckdb")


# The disk is full ---------------------------------------------------------------------------------


def limit_files(size: int) -> None:
    """Let this process write no file beyond `size` bytes, as if the disk ended there."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        pytest.param(0, "lock cannot be written", id="not one byte fits"),
        pytest.param(100_000, "Free disk space, then run the notebook", id="the facts do not fit"),
        pytest.param(600_000, "is unchanged: .* Free disk space", id="the last step does not fit"),
    ],
)
def test_a_publisher_without_room_says_so_and_publishes_nothing(small: Path, size: int, words: str):
    build_once(small)
    before = small.read_bytes()
    with ProcessPoolExecutor(1, FORKS, limit_files, [size]) as pool:
        failed = pool.submit(build_once, small).exception()
    assert isinstance(failed, MartError), failed
    assert re.search(words, str(failed))
    assert small.read_bytes() == before
    build_once(small)
    assert build_of(small) == 2
    assert_tidy(small)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_build_on_a_disk_that_fills_up_leaves_the_mart_as_it_was(database: Path, small_disk: Path):
    mart = shutil.copy(database, small_disk / "mart.duckdb")
    before = mart.read_bytes()
    message = refusal(mart_command("build", "--database", mart))
    assert "Free disk space" in message
    assert mart.read_bytes() == before
    subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True)
    assert mart_command("build", "--database", mart).returncode == 0
    assert build_of(mart) == 3
    assert_tidy(mart)


# The folder may not be written --------------------------------------------------------------------


def test_a_build_on_a_disk_that_is_read_only_is_refused_and_reading_is_not(
    database: Path, small_disk: Path, tmp_path: Path
):
    mart = shutil.copy(database, small_disk / "mart.duckdb")
    before = contents(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    message = refusal(mart_command("build", "--database", mart))
    assert message.startswith(f"{mart}.lock cannot be written: ")
    assert message.endswith("Make the folder writable, or name another one with database.\n")
    assert contents(small_disk) == before
    assert mart_command("quality", "--database", mart).returncode == 0


def become_nobody() -> None:
    if os.geteuid() == 0:
        os.setuid(NOBODY)


@pytest.mark.parametrize("missing", ["the lock", "the right to the folder"])
def test_who_may_not_write_to_the_folder_publishes_nothing(missing: str):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mart, lock = folder / "mart.duckdb", folder / "mart.duckdb.lock"
        build_once(mart)
        before = contents(folder)
        if missing == "the lock":
            lock.unlink()
        else:
            lock.chmod(0o666)
        folder.chmod(0o555)
        with ProcessPoolExecutor(1, FORKS, become_nobody) as pool:
            failed = pool.submit(build_once, mart).exception()
            assert pool.submit(build_of, mart).result() == 1
        folder.chmod(0o755)
        assert contents(folder) == before
        build_once(mart)
        assert build_of(mart) == 2
        assert_tidy(mart)
    assert isinstance(failed, StateError), failed
    assert re.search(r"cannot be written.*[Mm]ake the folder writable", str(failed))


# Two at once --------------------------------------------------------------------------------------


def test_of_two_publishers_at_once_one_wins_or_they_take_turns(small: Path):
    published = 0
    with ProcessPoolExecutor(2, FORKS) as pool:
        for _ in range(12):
            moment = time.time() + 0.02
            runs = [pool.submit(build_once, small, moment) for _ in range(2)]
            failed = [run.exception() for run in runs if run.exception()]
            won = [run.result() for run in runs if not run.exception()]
            assert won, failed
            for error in failed:
                assert isinstance(error, StateError), error
                assert re.search(BUSY + r"(\. Wait| \(process \d+, since)", str(error))
            published += len(won)
            assert build_of(small) == published
    assert_tidy(small)


# Something else is where the mart should be -------------------------------------------------------


def block_of_facts(mart: Path) -> int:
    """Where in the file a block with values of fact_sales begins."""
    where = "select min(block_id) from pragma_storage_info('fact_sales') where block_id >= 0"
    return 3 * 4096 + query(mart, where)[0][0] * 262_144


def flipped(mart: bytes, offset: int) -> bytes:
    return mart[:offset] + bytes([mart[offset] ^ 0xFF]) + mart[offset + 1 :]


def with_version(mart: bytes, version: int) -> bytes:
    """The mart as if written by another storage version: bytes 12 to 20; the first 8 are a checksum."""
    header = bytearray(mart[:4096])
    header[12:20] = struct.pack("<Q", version)
    checksum = 5381
    for (word,) in struct.iter_unpack("<Q", bytes(header[8:])):
        checksum ^= word * 0xBF58476D1CE4E5B9 % 2**64
    header[:8] = struct.pack("<Q", checksum)
    return bytes(header) + mart[4096:]


def someone_elses() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "other.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute("create table readings (value integer)")
        return path.read_bytes()


NO_MART = "cannot be opened as a mart"
OTHER_VERSION = "was written by another version of DuckDB than this one"
WRONG: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "random bytes": (lambda mart: random.Random(3).randbytes(10_000), NO_MART),
    "an empty file": (lambda mart: b"", NO_MART),
    "a mart cut in its first block": (lambda mart: mart.read_bytes()[:20_000], NO_MART),
    "a flipped byte in the header": (lambda mart: flipped(mart.read_bytes(), 4200), NO_MART),
    "somebody else's file": (lambda mart: someone_elses(), "is a DuckDB file but not a mart"),
    "a newer DuckDB's mart": (lambda mart: with_version(mart.read_bytes(), 12345), OTHER_VERSION),
}


def test_what_is_no_mart_is_refused_with_advice_and_left_alone(
    built_mart: Path, small: Path, subtests: pytest.Subtests
):
    for wrong in WRONG:
        with subtests.test(wrong):
            made, said = WRONG[wrong]
            small.write_bytes(made(built_mart))
            before = contents(small.parent)
            for opening in (create_candidate, open_published):
                with pytest.raises(StateError, match=said):
                    opening(small)
            assert contents(small.parent) == before


@pytest.mark.parametrize("place", ["cut in the middle", "a flipped byte among the facts"])
def test_damage_within_a_mart_is_told_when_it_is_read(built_mart: Path, small: Path, place: str):
    mart = built_mart.read_bytes()
    is_cut = place == "cut in the middle"
    small.write_bytes(
        mart[: len(mart) // 2] if is_cut else flipped(mart, block_of_facts(built_mart) + 1000)
    )
    before = small.read_bytes()
    where = ("--database", small, "--data-dir", small.parent / "reports")
    assert "The mart is damaged. Go back to the previous one" in mart_command("build", *where).stderr
    expected = "The mart is damaged. " if is_cut else "cannot run: "
    assert expected in mart_command("quality", *where).stderr
    assert small.read_bytes() == before


def test_a_link_stays_a_link_and_the_mart_is_written_where_it_points(home: Path, small: Path):
    target = small.parent / "elsewhere" / "real.duckdb"
    target.parent.mkdir()
    small.symlink_to(target)
    for number in (1, 2):  # at first the link leads to nothing
        built("--stage", "1", "--database", small)
        assert small.readlink() == target
        assert build_of(target) == number
        assert_tidy(target)


# A mart of an older layout ------------------------------------------------------------------------


def changed_by(mart: Path, sql: str) -> None:
    with duckdb.connect(str(mart)) as connection:
        connection.execute(sql)


OLDER = """
    alter table build_log drop column revenue_quarantined;
    alter table build_log add column mood varchar default 'good';
    alter table build_inputs drop column ignored_columns;
    drop table quarantine
"""


def test_the_history_of_an_older_layout_is_taken_over_as_far_as_it_goes(database: Path):
    changed_by(database, OLDER)
    built()
    assert build_of(database) == 3
    log = query(
        database, "select build_id, stage, rows_loaded, revenue_quarantined from build_log order by 1"
    )
    assert [row[:3] for row in log] == [(number, 3, log[0][2]) for number in (1, 2, 3)]
    assert [row[3] is None for row in log] == [True, True, False]


# Ctrl-C -------------------------------------------------------------------------------------------


def test_an_interrupted_all_leaves_no_process_and_a_whole_mart(home: Path, tmp_path: Path):
    database = home / "data" / "mini_data_mart.duckdb"
    said = tmp_path / "stderr"
    moments = {
        "in the build": candidate_path(database).exists,
        "in a later notebook": lambda: "02_explore" in said.read_text(),
    }
    heeds = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    for moment, there in moments.items():
        shutil.rmtree(home / "data", ignore_errors=True)
        with said.open("w") as stderr:
            run = start("all", stderr=stderr, preexec_fn=heeds)
            wait_until(there, run)
            time.sleep(0.3)
            os.killpg(run.pid, signal.SIGINT)
            # a shell says 130 for both; Python ends by the signal if that came within an exec()
            assert run.wait(120) in (130, -signal.SIGINT), f"{moment}: {said.read_text()}"
        *_, stopped, last = said.read_text().splitlines()
        assert (stopped.split()[3], last) == ("stopped", "mart: interrupted.")
        assert "Traceback" not in said.read_text()
        assert all_gone(home)
        assert_whole(database)
    assert build_of(database) == 1
    again = mart_command("build")
    assert again.returncode == 0, again.stderr
    assert build_of(database) == 2


# Rollback -----------------------------------------------------------------------------------------


def test_a_damaged_kept_mart_is_not_taken_back(database: Path):
    kept = previous_path(database, 1)
    kept.write_bytes(flipped(kept.read_bytes(), block_of_facts(kept) + 1000))
    before = contents(database.parent)
    message = refusal(mart_command("rollback"))
    assert message.startswith("data/mini_data_mart.duckdb.previous-1 cannot be opened as a mart.")
    assert contents(database.parent) == before


def test_a_rollback_killed_at_any_moment_leaves_the_marts_whole(small: Path):
    for _ in range(3):
        build_once(small)
    at = random.Random(4)
    for _ in range(8):
        killed_at_work(roll_back_forever, small, at.random())
        assert small.exists()
        assert_whole(small)
        assert {build_of(small), *kept_builds(small)} == {1, 2, 3}


def test_a_rollback_during_a_build_is_refused_and_says_who_builds(database: Path):
    process = FORKS.Process(target=hold, args=[database, 30])
    process.start()
    while not candidate_path(database).exists():
        time.sleep(0.01)
    before = database.read_bytes()
    message = refusal(mart_command("rollback"))
    assert f"{BUSY} (process {process.pid}, since" in message
    assert database.read_bytes() == before
    assert kept_builds(database) == [1]
    process.kill()
    process.join()
    assert mart_command("rollback").returncode == 0
    assert build_of(database) == 1
