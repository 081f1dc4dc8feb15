"""Values of parameters are values: none becomes SQL, a template or a command, none leads astray.

For each notebook one kernel lives on; its cells are run as Run All does, with a value assigned behind
the parameters cell, as papermill does. Each parameter needs its rows below.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import CHECKOUT, make_home, mart_command, query
from kernels import Kernel, Ran, started

from mart_helpers.parameters import Parameter, notebook_parameters

NOTEBOOKS = ("01_build", "02_explore", "03_export", "04_quality")
READERS = NOTEBOOKS[1:]
PARAMETERS: dict[str, list[Parameter]] = {
    name: notebook_parameters(CHECKOUT / "notebooks" / f"{name}.ipynb") for name in NOTEBOOKS
}
STAR = ("dim_customer", "dim_product", "dim_date", "fact_sales")

TEXTS = [
    "'; drop table fact_sales; --",
    "x' or '1'='1",
    "2024-01-01'::date --",
    "{{database}}",
    "$database",
    ":database",
    "$(touch injected)",
    '"',
    "two\nlines",
    "../../etc",
]
NO_TEXTS = [None, 1, True, b"x", ["csv"]]
NO_NUMBERS = ["1", "1; drop table fact_sales", "{{1}}", None, [1]]
NO_PATHS = ["", "nul\0", "\ud800", "~nobody-at-home/mart", "x" * 5000]

# A value, and what the refusal says. Readers are told that a mart is missing, a build makes it.
REFUSED: dict[str, list[tuple[object, str]]] = {
    "stage": [
        *((value, "expected a whole number") for value in (*NO_NUMBERS, 1.0, True)),
        *((value, "expected one of 1, 2, 3") for value in (0, -1, 2**64)),
    ],
    "top_n": [
        *((value, "expected a whole number") for value in (*NO_NUMBERS, 1.0, True)),
        *((value, "expected 1 or more") for value in (0, -(2**64))),
    ],
    "keep_previous": [
        *((value, "expected a whole number") for value in (*NO_NUMBERS, 1.0, True)),
        *((value, "expected 0 or more") for value in (-1, -(2**64))),
    ],
    "memory_limit": [
        (value, "expected a size from 50MB on, such as 4GB, or a share, such as 70%")
        for value in (*TEXTS, "", "lots", "0", "0GB", "-1GB", "49.9MB", "4", "4KB", "1e9MB", "none")
    ]
    + [(value, "or a share") for value in ("0%", "101%", "70", "70%'; --", "9" * 99 + "GB")],
    "max_age_days": [(value, "expected a whole number") for value in (*NO_NUMBERS, 1.0, True)]
    + [(-1, "expected 0 or more")],
    "max_violations": [(value, "expected a whole number") for value in (*NO_NUMBERS, 1.0, True)]
    + [(-1, "expected 0 or more")],
    "drops_only": [(value, "expected true or false") for value in (*NO_NUMBERS, "true", 1, 0.0)],
    "volume_tolerance": [
        *((value, "expected a finite number") for value in (*NO_NUMBERS, True)),
        (-0.1, "expected 0 or more"),
    ],
    "max_rejected_share": [
        *((value, "expected a finite number") for value in (*NO_NUMBERS, True)),
        *((value, "expected a share from 0 to 1") for value in (-0.1, 1.1, 2**64)),
    ],
    "start_date": [(value, "expected a date as yyyy-mm-dd") for value in (*TEXTS, "nul\0", "\ud800")],
    "end_date": [(value, "expected a date as yyyy-mm-dd") for value in (*TEXTS, "nul\0", "\ud800")],
    "as_of_date": [(value, "expected a date as yyyy-mm-dd") for value in (*TEXTS, "nul\0", "\ud800")],
    "formats": [(value, "expected some of csv, json") for value in (*TEXTS, "", "csv,", "csv;json")],
    "tables": [(value, "expected some of dim_customer, dim_date") for value in (*TEXTS, ",", "sales;")],
    "segment": [],
    "country": [],
    "category": [],
    "fail_on": [(value, "expected one of error, warn, never") for value in (*TEXTS, "")],
    "inputs_dir": [
        *((value, "there is no such folder") for value in TEXTS[::2]),
        *((value, "expected a path") for value in NO_PATHS),
    ],
    "data_dir": [(value, "expected a path") for value in NO_PATHS],
    "database": [
        *((value, "expected a path") for value in NO_PATHS),
        *((value, "is a folder") for value in (".", "inputs", "/")),
        *((value, "DuckDB misreads") for value in ("what?.duckdb", "a\\b.duckdb", "what?/mart.duckdb")),
    ],
}
NO_MART = [(value, "There is no mart at") for value in (*TEXTS, "https://localhost:1/a", ":memory:")]
TAKEN = [
    (f"{name}.duckdb", "bears a name that the build needs") for name in ("seed", "checks", "Contract")
]

# A name that says something to a shell, to SQL, to JupySQL and to globs, but is a fine name.
ODD = "it's \"{{database}}\" $database :x; -- [a]* é😀 %s\n'; drop table fact_sales; --"


def refusals() -> Iterator[object]:
    for notebook, parameters in PARAMETERS.items():
        for parameter in parameters:
            rows = [*REFUSED.get(parameter.name, [])]
            if (notebook, parameter.name) == ("04_quality", "inputs_dir"):
                # the mart may be read where the extracts are not
                rows = [(value, message) for value, message in rows if "no such" not in message]
            if parameter.type is str:
                rows += [(value, "expected text (str)") for value in NO_TEXTS]
            if parameter.name == "database":
                rows += TAKEN if notebook == "01_build" else NO_MART
            for value, message in rows:
                yield pytest.param(notebook, parameter.name, value, message)


@dataclass(frozen=True)
class World:
    """A home with a mart, made with harmless values, and a kernel for each notebook."""

    home: Path
    kernels: dict[str, Kernel]

    @property
    def mart(self) -> Path:
        return self.home / "data" / "mini_data_mart.duckdb"

    def run(self, notebook: str, **values: object) -> Ran:
        return self.kernels[notebook].run_all(notebook, **values)

    def files(self) -> set[Path]:
        """All files in and around the home, but for what a refused build leaves to look at."""
        around = self.home.parents[1].rglob("*")
        return {path for path in around if ".candidate" not in path.name}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        folder = tmp_path_factory.mktemp("around") / "deeper"
        folder.mkdir()
        home = make_home(folder / "home", environment)
        kernels = {name: stack.enter_context(started(home)) for name in NOTEBOOKS}
        world = World(home, kernels)
        assert not world.run("01_build").failed
        yield world


@pytest.fixture(scope="module")
def harmless(world: World) -> dict[str, str]:
    """What each notebook that reads shows with harmless values."""
    shown = {notebook: world.run(notebook) for notebook in READERS}
    assert not any(ran.failed for ran in shown.values())
    return {notebook: ran.text for notebook, ran in shown.items()}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def rows(database: Path) -> list[list[tuple]]:
    return [query(database, f"from {table} order by all") for table in STAR]


def test_every_parameter_of_every_notebook_has_its_hostile_values():
    declared = {parameter.name for parameters in PARAMETERS.values() for parameter in parameters}
    assert declared == set(REFUSED)


@pytest.mark.parametrize(("notebook", "parameter", "value", "message"), list(refusals()))
def test_a_hostile_value_is_refused_in_one_clear_message(world, notebook, parameter, value, message):
    files, mart = world.files(), world.mart.read_bytes()
    ran = world.run(notebook, **{parameter: value})
    assert ran.ename in {"UsageError", "StateError", "InputError"}, ran.text
    assert ran.shown == (f"{ran.ename}: {ran.evalue}",)
    assert message in ran.evalue
    assert len(ran.evalue) < 400
    assert world.files() == files
    assert world.mart.read_bytes() == mart


@pytest.mark.parametrize(
    "value", [TEXTS[0], "$database", '"', "select.duckdb", "main", f"{ODD}/{ODD}.duckdb"]
)
def test_a_build_makes_the_same_mart_whatever_its_name(world, value):
    before = world.files()
    for _ in range(2 if value.startswith(ODD) else 1):  # the second replaces the first
        ran = world.run("01_build", database=f"built/{value}")
        assert not ran.failed, ran.evalue
    made = world.home / "built" / value
    assert rows(made) == rows(world.mart)
    strangers = {path for path in world.files() - before if not str(path).startswith(str(made.parent))}
    assert strangers == set()
    assert not [path for path in world.files() if path.name == "injected"]


def test_a_build_reads_the_inputs_whatever_the_name_of_their_folder(world):
    shutil.copytree(world.home / "inputs", world.home / "odd" / ODD)
    ran = world.run("01_build", inputs_dir=f"odd/{ODD}", database="odd/mart.duckdb")
    assert not ran.failed, ran.evalue
    assert rows(world.home / "odd" / "mart.duckdb") == rows(world.mart)


def test_a_mart_may_be_two_folders_up_if_one_says_so(world):
    ran = world.run("01_build", database="../../up.duckdb")
    assert not ran.failed, ran.evalue
    assert rows(world.home.parents[1] / "up.duckdb") == rows(world.mart)


@pytest.mark.parametrize("notebook", READERS)
def test_a_reader_shows_the_same_whatever_the_name_of_the_mart(world, harmless, notebook):
    odd = world.home / "read" / ODD / f"{ODD}.duckdb"
    odd.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(world.mart, odd)
    ran = world.run(notebook, database=str(odd))
    assert not ran.failed, ran.evalue
    assert ran.text == harmless[notebook]
    assert odd.read_bytes() == world.mart.read_bytes()


@pytest.mark.parametrize(
    ("notebook", "folder"),
    [("03_export", "CSV-export"), ("03_export", "JSON-export"), ("04_quality", "quality")],
)
def test_the_same_files_are_written_whatever_the_name_of_the_data_folder(
    world, harmless, notebook, folder
):
    assert not world.run(notebook).failed, "the last report may be of another mart"
    ran = world.run(notebook, data_dir=f"written/{ODD}")
    assert not ran.failed, ran.evalue
    assert ran.text == harmless[notebook]
    written = digests(world.home / "written" / ODD / folder)
    assert written == digests(world.home / "data" / folder)


def test_a_list_may_be_as_long_as_a_number_can_be(world, harmless):
    ran = world.run("02_explore", top_n=2**63 - 1)
    assert not ran.failed, ran.evalue


@pytest.mark.parametrize("name", ["segment", "country", "category"])
def test_a_filter_is_a_word_to_look_for_whatever_it_holds(world, name):
    mart = world.mart.read_bytes()
    for value in (TEXTS[0], TEXTS[3], "nul\0😀"):
        ran = world.run("02_explore", **{name: value})
        assert not ran.failed, ran.evalue
        assert "No sale passes the filters." in ran.text
    assert world.mart.read_bytes() == mart


# The same from outside: the command line, which parses text, and papermill.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build", "--stage", "3; drop table fact_sales"], 'found "3; drop table fact_sales", expected'),
        (["build", "--max-rejected-share", "nan"], 'found "nan", expected a finite number'),
        (["build", "--keep-previous", "0x10"], 'found "0x10", expected a whole number'),
        (["build", "--memory-limit=-1GB"], '--memory-limit: found "-1GB", expected a size'),
        (["build", "--database", "~nobody-at-home/mart"], "expected a path"),
        (["build", "--inputs-dir", ""], "expected a path"),
        (["explore", "--start-date", "2024-01-01'::date --"], "expected a date"),
        (["explore", "--top-n", "1_000"], 'found "1_000", expected a whole number'),
        (["explore", "--top-n=-1"], "expected 1 or more"),
        (["quality", "--fail-on", "$(touch injected)"], "expected one of error, warn, never"),
        (["quality", "--data-dir", "x" * 5000], "expected a path"),
        (["export", "--end-date", "{{database}}"], "expected a date"),
    ],
)
def test_the_command_line_refuses_before_anything_runs(world, words, message):
    files, mart = world.files(), world.mart.read_bytes()
    result = mart_command(*words, cwd=world.home)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert world.files() == files
    assert world.mart.read_bytes() == mart


def test_the_command_line_takes_an_odd_name_as_it_is(world):
    shutil.copytree(world.home / "inputs", world.home / "told" / ODD / "inputs")
    odd = Path("told") / ODD
    options = ("--database", odd / f"{ODD}.duckdb", "--inputs-dir", odd / "inputs", "--data-dir", odd)
    result = mart_command("build", *options, cwd=world.home)
    assert result.returncode == 0, result.stderr
    assert rows(world.home / odd / f"{ODD}.duckdb") == rows(world.mart)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start_date": "2024-01-01'::date --"}, "UsageError: start_date: found"),
        ({"database": "'; drop table fact_sales; --"}, "StateError: There is no mart at '; drop"),
    ],
)
def test_papermill_fails_with_the_message(world, tmp_path, values, message):
    mart = world.mart.read_bytes()
    notebook = world.home / "notebooks" / "02_explore.ipynb"
    options = [word for name, value in values.items() for word in ("-r", name, value)]
    run = [sys.executable, "-m", "papermill", notebook, tmp_path / "out.ipynb", *options]
    result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert message in result.stderr
    assert world.mart.read_bytes() == mart
