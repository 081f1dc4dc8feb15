"""Readers of a mart while others build it: never in the way, never misled, never able to change it."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import duckdb
import pandas as pd
import plain
import pytest
from conftest import code_cells, publish_checked, put_mart, query
from golden import ORDER
from kernels import Kernel, Ran, started

from mart_helpers.errors import QueryError, StateError
from mart_helpers.mart import candidate_path, create_candidate
from mart_helpers.run import run_notebook
from mart_helpers.session import Session, open_published

BUILD_ID = "%%sql\nselect max(build_id) as build_id from build_log"
REBUILT = "The mart has been rebuilt since this notebook opened it"
LINES = 50


def database(home: Path) -> Path:
    return home / "data" / "mini_data_mart.duckdb"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listing(home: Path) -> set[Path]:
    return set(home.rglob("*"))


# Readers during builds. Each build `n` has sales of LINES * n units, so an answer tells its build.

READER = """
import sys, time
from pathlib import Path
import duckdb
from mart_helpers.session import open_published

opening, database, stop = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
question = "select (select max(build_id) from build_log), (select sum(quantity) from fact_sales)"

def opened():
    return duckdb.connect(database, read_only=True) if opening == "plain" else open_published(database)

kept = opened()
while True:
    last = stop.exists()
    if opening != "kept":
        kept.close()
        kept = opened()
    print(*kept.execute(question).fetchone(), flush=True)
    if last:
        break
    time.sleep(0.1)
"""


@contextmanager
def reader(opening: str, home: Path, stop: Path) -> Iterator[subprocess.Popen]:
    """A process that asks the mart of `home` over and over until `stop` exists, then once more."""
    command = [sys.executable, "-c", READER, opening, database(home), stop]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def sell(home: Path, units: int) -> None:
    """Publish a small mart with LINES sales of so many units each."""
    session = create_candidate(database(home))
    session.execute(f"""
        create table fact_sales as
        select range as sale_id, {units} as quantity, 1.0::decimal(18, 4) as net_amount
        from range({LINES});

        insert into build_inputs (build_id, table_name, rows_loaded)
        values (getvariable('build_id'), 'fact_sales', {LINES});

        update build_log set revenue_loaded = {LINES} where build_id = getvariable('build_id')
    """)
    publish_checked(session)
    session.close()


def build_of(answer: str) -> int:
    """The build that a reader saw, of which its answer is whole."""
    number, units = map(int, answer.split())
    assert units == LINES * number
    return number


def last_seen(process: subprocess.Popen) -> set[int]:
    """The builds in the answers that are left when a reader has ended."""
    out, trouble = process.communicate(timeout=300)
    assert (process.returncode, trouble) == (0, "")
    return set(map(build_of, out.splitlines()))


def wait_for_answer(process: subprocess.Popen, number: int) -> None:
    """Read what a process answers until it sees the build of that number, after none but the last."""
    for seen in map(build_of, islice(process.stdout, 300)):  # ten a second
        assert seen in (number - 1, number)
        if seen == number:
            return
    raise AssertionError(f"build {number} is not seen")


def test_twenty_builds_pass_while_readers_read_and_each_answer_is_of_one_build(home, tmp_path):
    stop = tmp_path / "stop"
    with ExitStack() as stack:
        sell(home, 1)
        processes = [stack.enter_context(reader(kind, home, stop)) for kind in ("kept", "anew", "plain")]
        for process in processes:
            wait_for_answer(process, 1)
        _, *reopening = processes
        for number in range(2, 22):
            with database(home).open("rb") as opened_before:
                content = opened_before.read()
                sell(home, number)
                opened_before.seek(0)
                assert opened_before.read() == content, "a file that is open stays as it is"
            for process in reopening:
                wait_for_answer(process, number)
        stop.touch()
        assert [last_seen(process) for process in processes] == [{1}, {21}, {21}]


def test_a_notebook_left_open_says_once_that_the_mart_was_rebuilt(home, sample_mart):
    put_mart(sample_mart, home)
    _, set_up, *_ = code_cells("04_quality")
    with started(home) as kernel:
        assert not kernel.run_all("04_quality").failed
        opened = kernel.run(BUILD_ID).text
        assert kernel.run(BUILD_ID).text == opened, "nothing is said of a mart that stays"
        run_notebook("01_build", {}, home)
        told = kernel.run(BUILD_ID).text
        assert REBUILT in told
        assert opened in told, "it still reads the mart that it opened"
        assert kernel.run(BUILD_ID).text == opened, "it says so once"
        assert kernel.run(set_up).text == ""
        renewed = kernel.run(BUILD_ID).text
    assert (opened.split()[-1], renewed.split()) == ("1", ["build_id", "2"])


def test_a_program_that_opens_the_mart_twice_is_told_so(shared_mart):
    with open_published(shared_mart) as connection:
        with pytest.raises(StateError, match="open already in this notebook or program"):
            open_published(shared_mart)
        assert connection.execute("select max(build_id) from build_log").fetchone() == (1,)


def test_a_reader_may_sort_more_than_fits_in_memory(shared_mart):
    path = shared_mart
    # connections of one process to one file share their settings, also those from before confinement
    with duckdb.connect(path, read_only=True) as first:
        first.execute("set memory_limit = '40MB'; set threads = 1")
        with open_published(path) as connection:
            connection.execute(
                "create temp table sorted as "
                "select md5(range::varchar) as hash from range(800_000) order by hash"
            )
            spilt = "select coalesce(sum(size), 0) > 0 from duckdb_temporary_files()"
            assert connection.execute(spilt).fetchone() == (True,)
            assert list(path.with_name(f"{path.name}.tmp").iterdir())
            unsorted = (
                "select count(*) from (select hash < lag(hash) over () as falls from sorted) where falls"
            )
            assert connection.execute(unsorted).fetchone() == (0,)
    assert not [*path.parent.glob(f"{path.name}.tmp/*")]


# Kernels of 01_build that stopped on their way.


def cells_with_check(severity: str) -> list[str]:
    """The cells of 01_build with one more check, that the returns of the sample do not pass."""
    check = (
        "%%sql\ncreate view checks.nothing_is_returned as\n"
        "select sale_id, quantity from fact_sales where quantity < 0 order by sale_id;\n\n"
        f"comment on view checks.nothing_is_returned is '{severity}: no sale line is a return'"
    )
    cells = code_cells("01_build")
    gate = next(index for index, cell in enumerate(cells) if "run_checks(mart)" in cell)
    return [*cells[:gate], check, *cells[gate:]]


def run_to_loading(kernel: Kernel) -> Ran:
    """Run 01_build up to its loading, which is right in the middle of it."""
    cells = code_cells("01_build")
    middle = next(index for index, cell in enumerate(cells) if "Loader(" in cell)
    return kernel.run_cells(cells[: middle + 1])


def test_a_build_that_stopped_at_an_error_is_in_nobodys_way_and_publishes_no_more(home):
    good = (home / "inputs" / "fact_sales.csv").read_text()
    with started(home) as forgotten:
        (home / "inputs" / "fact_sales.csv").write_text(good.replace(",unit_price,", ",price,"))
        assert forgotten.run_all("01_build").ename == "InputError"
        (home / "inputs" / "fact_sales.csv").write_text(good)
        run_notebook("01_build", {}, home)
        published = digest(database(home))
        refused = forgotten.run("publish(mart, None, keep_previous)")
        assert refused.shown == (
            "StateError: data/mini_data_mart.duckdb: another build has begun since, so this one "
            "publishes nothing. Run this notebook from its top.",
        )
        assert digest(database(home)) == published
        assert not forgotten.run_all("01_build").failed
    assert query(database(home), "select count(*) from build_log") == [(2,)]


def test_a_failed_check_keeps_the_candidate_to_look_at_and_the_published_mart(home, sample_mart):
    put_mart(sample_mart, home)
    candidate = candidate_path(database(home))
    bad_rows = "select count(*) as bad_rows from checks.nothing_is_returned"
    with started(home) as kernel:
        published = digest(database(home))
        stop = kernel.run_cells(cells_with_check("error"))
        count = query(database(home), "select count(*) from fact_sales where quantity < 0")[0][0]
        first = next(sale for sale in plain.sales() if sale["quantity"] < 0)
        assert stop.ename == "CheckFailed"
        assert stop.shown == (f"CheckFailed: {stop.evalue}",)
        assert f"nothing_is_returned has {count} bad rows. Expected: no sale line is a r" in stop.evalue
        assert f"{first['sale_id']}        {first['quantity']}" in stop.evalue
        assert "select * from checks.nothing_is_returned" in stop.evalue
        assert int(kernel.run(f"%%sql\n{bad_rows}").text.split()[-1]) == count
        refused = kernel.run("publish(mart, check_results)").evalue
        assert "nothing is published, because these checks did not pass" in refused
        assert digest(database(home)) == published
        with pytest.raises(duckdb.IOException, match="Conflicting lock is held"):
            query(candidate, bad_rows)
        assert not kernel.run_cells(cells_with_check("warn")).failed
    assert query(database(home), bad_rows) == [(count,)], "a warning lets the mart be published"


def test_a_build_half_way_holds_off_the_next_until_its_kernel_is_shut_down(home):
    with started(home) as kernel:
        assert not run_to_loading(kernel).failed
        assert not run_to_loading(kernel).failed, "from its top again, in the same kernel"
        kernel_id = int(kernel.run("import os; os.getpid()").text)
        with pytest.raises(StateError, match="is being built by another notebook or program") as refusal:
            create_candidate(database(home))
        assert f"(process {kernel_id}, since 20" in str(refusal.value)
        assert "shut down the kernel" in str(refusal.value)
    create_candidate(database(home)).close()


# What a notebook that reads the mart can reach.

NO_FILES = "A notebook can use only files below the folders that it names"
NO_EXTENSIONS = "A notebook that reads the mart cannot load extensions"
SETTINGS = "A notebook that reads the mart cannot change settings"
ITSELF = "the file belongs to an attached database"
READ_ONLY = "The mart is read-only here"

# `{home}` and `{outside}` stand for their folders
REFUSED = {
    "select * from read_csv('/etc/passwd')": NO_FILES,
    "select * from read_text('/etc/passwd')": NO_FILES,
    "select * from read_blob('/etc/passwd')": NO_FILES,
    "select * from sniff_csv('/etc/passwd')": NO_FILES,
    "select * from query('from read_csv(''/etc/passwd'')')": NO_FILES,
    "select * from glob('/etc/*')": NO_FILES,
    "select * from glob('{home}/**')": NO_FILES,
    "select * from '{home}/inputs/fact_sales.csv'": NO_FILES,
    "select * from read_csv('http://localhost:1/sales.csv')": NO_FILES,
    "select * from 'https://localhost:1/sales.parquet'": NO_FILES,
    "copy fact_sales to '{outside}/sales.csv'": NO_FILES,
    "copy fact_sales to '{home}/data/CSV-export/../sales.csv'": NO_FILES,
    "copy fact_sales to '{home}/data/mini_data_mart.duckdb'": ITSELF,
    "copy fact_sales to '{home}/data/mini_data_mart.duckdb' (use_tmp_file false)": ITSELF,
    "copy fact_sales to '{home}/data/mini_data_mart.duckdb.wal' (format parquet)": ITSELF,
    "set variable f = '{home}/data/mini_data_mart.duckdb'; copy dim_date to (getvariable('f'))": ITSELF,
    "prepare p as copy fact_sales to '{home}/data/mini_data_mart.duckdb'": ITSELF,
    "copy fact_sales to '{home}/inputs/fact_sales.csv'": NO_FILES,
    "export database '{outside}'": NO_FILES,
    "attach '{outside}/other.duckdb'": NO_FILES,
    "attach '{home}/data/mini_data_mart.duckdb.previous-1' as earlier": NO_FILES,
    "create persistent secret mine (type http)": "ecret",
    "install httpfs": NO_FILES,
    "install httpfs from community": NO_FILES,
    "load httpfs": NO_EXTENSIONS,
    "set enable_external_access = true": SETTINGS,
    "reset enable_external_access": SETTINGS,
    "pragma enable_external_access = true": SETTINGS,
    "set lock_configuration = false": SETTINGS,
    "reset lock_configuration": SETTINGS,
    "set allowed_directories = ['/']": SETTINGS,
    "set global allowed_paths = ['/etc/passwd']": SETTINGS,
    "reset allowed_configs": SETTINGS,
    "set temp_directory = '{outside}'": SETTINGS,
    "set profiling_output = '{outside}/profile.json'": SETTINGS,
    "set log_query_path = '{outside}/log'": SETTINGS,
    "call enable_logging(storage = 'file', storage_path = '{outside}')": SETTINGS,
    "create table mine (a integer)": READ_ONLY,
    "create view mine as select 1": READ_ONLY,
    "create or replace table fact_sales as select 1": READ_ONLY,
    "insert into dim_customer from dim_customer": READ_ONLY,
    "update fact_sales set quantity = 0": READ_ONLY,
    "delete from fact_sales": READ_ONLY,
    "truncate fact_sales": READ_ONLY,
    "alter table fact_sales add column mine integer": READ_ONLY,
    "drop table fact_sales": READ_ONLY,
}


@pytest.fixture(scope="module")
def reading(shared_home: Path, shared_mart: Path) -> Iterator[Session]:
    """A session that reads the mart of the shared home, beside which another one is kept."""
    put = shared_mart.read_bytes()
    shared_mart.with_name(f"{shared_mart.name}.previous-1").write_bytes(put)
    session = Session(open_published(shared_mart), shared_mart, {})
    yield session
    session.close()


def test_a_reader_is_refused(reading, shared_home, shared_mart, tmp_path, subtests):
    for reason in dict.fromkeys(REFUSED.values()):
        with subtests.test(reason):
            files, mart = listing(shared_home), digest(shared_mart)
            for statement in (statement for statement, said in REFUSED.items() if said == reason):
                with pytest.raises(QueryError, match=reason):
                    reading.execute(statement.format(home=shared_home, outside=tmp_path))
                assert listing(shared_home) == files, statement
            assert digest(shared_mart) == mart
            assert list(tmp_path.iterdir()) == []


ALLOWED = {
    "create temp view mine as select max(quantity) as most from fact_sales": None,
    "select count(*) from mine": 1,
    "create temp table own as from dim_product": None,
    "insert into own from own": None,
    "select count(*) = 2 * (select count(*) from dim_product) from own": True,
    "set variable answer = 42": None,
    "select getvariable('answer')": 42,
    "select sum(a) from frame": 3,
}


def test_a_reader_makes_what_is_its_own(reading, shared_mart):
    mart = digest(shared_mart)
    reading.connection.register("frame", pd.DataFrame({"a": [1, 2]}))
    for statement, expected in ALLOWED.items():
        answer = reading.execute(statement)
        assert (None if answer is None else answer.iloc[0, 0]) == expected, statement
    assert digest(shared_mart) == mart


def test_only_the_export_writes_and_only_into_its_folders(shared_home, shared_mart):
    copy = shared_home / "data" / "CSV-export" / "mine.csv"
    copy.parent.mkdir()
    with started(shared_home) as kernel:
        written = []
        for notebook in ORDER[1:]:
            assert not kernel.run_cells(code_cells(notebook)[:2]).failed
            ran = kernel.run(f"%%sql\ncopy dim_product to '{copy}'")
            assert ran.failed == (NO_FILES in ran.evalue)
            written += [] if ran.failed else [notebook]
    assert written == ["03_export"]
    assert copy.read_text().startswith("product_key,product_id,")
