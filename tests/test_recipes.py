"""A build that would only make the published mart again is recognised; whatever is in doubt is built."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from conftest import CHECKOUT, code_cells, mart_command, query
from kernels import started

import mart_helpers
from mart_helpers.mart import recipe_of, recipe_of_run, rollback, unchanged_since
from mart_helpers.parameters import notebook_parameters, notebook_path

UNCHANGED = "01_build  nothing has changed since build {} of 20"
LINE = "X1,2024-12-31,C001,P01,1,1000.00,0\n"


def database(home: Path) -> Path:
    return home / "data" / "mini_data_mart.duckdb"


def builds(home: Path) -> list[int]:
    return [number for (number,) in query(database(home), "select build_id from build_log order by 1")]


def build(home: Path, *words: str) -> str:
    """What a build says on stderr."""
    result = mart_command("build", *words, cwd=home)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def built(shared_home: Path) -> Path:
    """A home with a mart whose sales came as a folder of two files."""
    sales = shared_home / "inputs" / "fact_sales.csv"
    header, *rows = sales.read_text().splitlines(keepends=True)
    sales.unlink()
    sales.with_suffix("").mkdir()
    for name, part in (("2023", rows[:1000]), ("2024", rows[1000:])):
        (sales.with_suffix("") / f"{name}.csv").write_text("".join([header, *part]))
    build(shared_home)
    return shared_home


@pytest.fixture
def home(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to change."""
    copy = shutil.copytree(built, tmp_path / "home", ignore=shutil.ignore_patterns("runs"))
    monkeypatch.setenv("MART_HOME", str(copy))
    return copy


def values(**given: object) -> dict[str, object]:
    declared = notebook_parameters(notebook_path("01_build"))
    return {each.name: each.default for each in declared} | given


# From the command line.


def test_a_build_of_the_same_builds_nothing_unless_it_is_told_to(home):
    before = database(home).read_bytes()
    result = mart_command("build", cwd=home)
    assert result.returncode == 0
    assert result.stderr.startswith(UNCHANGED.format(1))
    assert result.stderr.endswith(" UTC (--force builds again)\n")
    assert result.stdout.splitlines()[0] == "rows  2,036 read, 2,036 loaded, 0 in quarantine"
    assert database(home).read_bytes() == before
    assert not (home / "data" / "runs").exists()
    assert "done in" in build(home, "--force")
    assert builds(home) == [1, 2]
    assert build(home).startswith(UNCHANGED.format(2))


def test_all_shows_a_mart_that_has_not_changed_and_does_not_build_it(home):
    result = mart_command("all", cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("01_build    nothing has changed since build 1 of 20")
    assert builds(home) == [1]
    (run,) = (home / "data" / "runs").iterdir()
    assert {path.stem for path in run.iterdir()} == {"02_explore", "03_export", "04_quality"}


def test_a_mart_of_seed_rows_needs_no_file_to_be_recognised(home):
    shutil.rmtree(home / "inputs")
    assert "done in" in build(home, "--stage", "1")
    assert build(home, "--stage", "1").startswith(UNCHANGED.format(2))


def test_after_a_rollback_the_build_that_is_published_counts(home):
    sales = home / "inputs" / "fact_sales" / "2024.csv"
    first = sales.read_text()
    sales.write_text(first + LINE)
    assert "done in" in build(home)
    rollback(database(home))
    sales.write_text(first)
    assert build(home).startswith(UNCHANGED.format(1))
    sales.write_text(first + LINE)
    assert "done in" in build(home)
    assert builds(home) == [1, 3]


def test_papermill_always_builds_and_the_command_line_knows_what_it_built(home):
    notebook = home / "notebooks" / "01_build.ipynb"
    run = [sys.executable, "-m", "papermill", notebook, "out.ipynb", "-p", "stage", "2"]
    for _ in range(2):
        subprocess.run(run, cwd=home, check=True, capture_output=True)
    assert builds(home) == [1, 2, 3]
    assert build(home, "--stage", "2").startswith(UNCHANGED.format(3))


# What counts as a change. No kernel is needed to tell.


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def sales(home: Path) -> Path:
    return home / "inputs" / "fact_sales"


def edit_notebook(home: Path, old: str, new: str, kind: str = "code") -> None:
    path = home / "notebooks" / "01_build.ipynb"
    notebook = json.loads(path.read_text())
    cell = next(
        each
        for each in notebook["cells"]
        if each["cell_type"] == kind and old in "".join(each["source"])
    )
    cell["source"] = "".join(cell["source"]).replace(old, new)
    path.write_text(json.dumps(notebook))


def compress(path: Path) -> None:
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def link_elsewhere(path: Path) -> None:
    path.symlink_to(path.rename(path.parents[2] / "elsewhere.csv"))


def damage(mart: Path) -> None:
    """Overwrite values of fact_sales; the file still opens."""
    where = "select min(block_id) from pragma_storage_info('fact_sales') where block_id >= 0"
    ((block,),) = query(mart, where)
    with mart.open("r+b") as file:
        file.seek(3 * 4096 + block * 262_144 + 1000)
        file.write(b"damage")


def execute(mart: Path, statement: str) -> None:
    with duckdb.connect(str(mart)) as connection:
        connection.execute(statement)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a value": lambda home: edit(sales(home) / "2024.csv", ",P01,", ",P02,"),
    "a row more": lambda home: edit(sales(home) / "2024.csv", "discount\n", f"discount\n{LINE}"),
    "a file more": lambda home: (sales(home) / "2025.csv").write_text("sale_id\n"),
    "a file less": lambda home: (sales(home) / "2024.csv").unlink(),
    "a name": lambda home: (sales(home) / "2024.csv").rename(sales(home) / "2025.csv"),
    "two names": lambda home: [
        (sales(home) / "2024.csv").rename(sales(home) / "x"),
        (sales(home) / "2023.csv").rename(sales(home) / "2024.csv"),
        (sales(home) / "x").rename(sales(home) / "2023.csv"),
    ],
    "a compressed file": lambda home: compress(sales(home) / "2024.csv"),
    "a second source": lambda home: (home / "inputs" / "dim_product.parquet").write_bytes(b""),
    "no inputs": lambda home: shutil.rmtree(home / "inputs"),
    "a cell": lambda home: edit_notebook(home, "sales.quantity,", "-sales.quantity as quantity,"),
    "the order of cells": lambda home: edit_notebook(home, "create table dim_product", "select 1"),
    "no notebook": lambda home: (home / "notebooks" / "01_build.ipynb").unlink(),
    "no mart": lambda home: database(home).unlink(),
    "a damaged mart": lambda home: damage(database(home)),
    "a cut mart": lambda home: os.truncate(database(home), 300_000),
    "a mart whose recipe is not known": lambda home: execute(
        database(home), "update build_log set recipe = null"
    ),
    "a mart of before recipes": lambda home: execute(
        database(home), "alter table build_log drop column recipe"
    ),
    "a mart without a build": lambda home: execute(database(home), "delete from build_log"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_differs_or_is_in_doubt_is_built(home, change):
    given = values()
    assert unchanged_since(given)
    change(home)
    assert unchanged_since(given) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda home: os.utime(sales(home) / "2024.csv"),
        lambda home: link_elsewhere(sales(home) / "2024.csv"),
        lambda home: (sales(home) / "_notes.txt").write_text("not ours"),
        lambda home: edit_notebook(home, "# 01 · Build the mart", "# Build", kind="markdown"),
        lambda home: database(home).with_name("mini_data_mart.duckdb.candidate").write_text("failed"),
    ],
    ids=["a time stamp", "a link to the same bytes", "a file of others", "prose", "a failed build"],
)
def test_what_cannot_change_the_mart_counts_for_nothing(home, change):
    change(home)
    assert unchanged_since(values())


@pytest.mark.parametrize(
    ("given", "is_same"),
    [
        ({"stage": 2}, False),
        ({"max_rejected_share": 0.2}, False),
        ({"volume_tolerance": 0.6}, False),
        ({"drops_only": True}, False),
        ({"database": "data/other.duckdb"}, False),
        ({"inputs_dir": "copied"}, True),
        ({"keep_previous": 9}, True),
        ({"memory_limit": "1GB"}, True),
    ],
)
def test_a_parameter_counts_where_it_shapes_the_mart(home, given, is_same):
    shutil.copytree(home / "inputs", home / "copied")
    assert bool(unchanged_since(values(**given))) is is_same


def test_another_helper_or_another_duckdb_makes_another_recipe(home, tmp_path):
    shutil.copytree(CHECKOUT / "mart_helpers", tmp_path / "package" / "mart_helpers")
    shutil.copy(CHECKOUT / "mart.py", tmp_path / "package")
    command = [sys.executable, "-m", "mart", "build"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "package")}

    def said() -> str:
        run = {"cwd": tmp_path / "package", "env": environment, "capture_output": True, "text": True}
        return subprocess.run([*command, "--database", database(home)], **run).stderr

    assert said().startswith(UNCHANGED.format(1))
    with (tmp_path / "package" / "mart_helpers" / "values.py").open("a") as file:
        file.write("# another one\n")
    assert "done in" in said()
    known = recipe_of(values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb, "__version__", "2.0.1")
        assert recipe_of(values()) != known


# What a kernel has run, and whether it is what the file says.

CELLS = code_cells("01_build")
PARAMETERS, *STEPS = CELLS[:-1]
INJECTED = "# Parameters\nstage = 2\nmax_rejected_share = 0.2\n"


def run(executed: list[str], **given: object) -> str | None:
    return recipe_of_run(["", *executed], values(**given))


@pytest.mark.parametrize(
    ("executed", "given"),
    [
        (CELLS, {}),
        ([PARAMETERS, *STEPS], {}),
        ([PARAMETERS, INJECTED, *STEPS], {"stage": 2, "max_rejected_share": 0.2}),
        ([PARAMETERS.replace("int = 3", "int = 1"), *STEPS], {"stage": 1}),
        ([PARAMETERS, *(f"{step}\n" for step in STEPS)], {}),
    ],
    ids=["all cells", "up to publishing", "by papermill", "a parameter typed in", "line ends"],
)
def test_a_run_of_the_cells_as_they_stand_has_the_recipe_of_the_file(home, executed, given):
    assert run([each.rstrip("\n") for each in executed], **given) == recipe_of(values(**given))


@pytest.mark.parametrize(
    "executed",
    [
        [PARAMETERS, *STEPS, STEPS[-1]],
        [PARAMETERS, *STEPS[:20], STEPS[18], *STEPS[20:]],
        [PARAMETERS, *STEPS[:20], STEPS[20].replace("-", "+") + " ", *STEPS[21:]],
        [PARAMETERS, *STEPS[:20], *STEPS[21:]],
        [PARAMETERS, *STEPS[:20], STEPS[21], STEPS[20], *STEPS[22:]],
        [PARAMETERS, *STEPS[:20], "stage = 1", *STEPS[20:]],
        [PARAMETERS, *STEPS, PARAMETERS, *STEPS],
        ["import mart_helpers", PARAMETERS, *STEPS],
        [PARAMETERS, "# Parameters\nLoader = 1", *STEPS],
        [PARAMETERS, "# Parameters\nstage = print()", *STEPS],
        [PARAMETERS, "# Parameters\nimport os", *STEPS],
        [PARAMETERS, "# Parameters\n%autoreload 2", *STEPS],
        [f"{PARAMETERS}\nprint()", *STEPS],
        [PARAMETERS.partition("\n")[2], *STEPS],
        STEPS,
        [],
    ],
    ids=[
        "a cell twice",
        "an earlier cell again",
        "an edited cell",
        "a cell left out",
        "two cells swapped",
        "a cell of one's own",
        "all cells twice",
        "a cell before",
        "no parameter",
        "no value",
        "no assignment",
        "no Python",
        "more than parameters",
        "a parameter less",
        "no parameters",
        "no history",
    ],
)
def test_a_run_of_anything_else_has_no_recipe(home, executed):
    assert run(executed) is None


def test_a_run_of_helpers_that_have_changed_since_has_no_recipe(home, monkeypatch):
    youngest = max(path.stat().st_ctime for path in (CHECKOUT / "mart_helpers").glob("*.py"))
    monkeypatch.setattr(mart_helpers, "LOADED_AT", youngest + 1)
    assert run(CELLS)
    monkeypatch.setattr(mart_helpers, "LOADED_AT", youngest - 1)
    assert run(CELLS) is None


def test_the_command_line_knows_a_mart_that_a_kernel_has_built_from_the_cells_of_the_file(home):
    with started(home) as kernel:
        ran = kernel.run_cells(CELLS)
        assert not ran.failed, ran.evalue
    assert build(home).startswith(UNCHANGED.format(2))


def test_the_command_line_builds_again_what_a_kernel_has_built_from_an_edited_cell(home):
    gross = "select sum(gross_amount) from fact_sales"
    before = query(database(home), gross)
    (facts,) = [cell for cell in CELLS if cell.startswith("%%sql\n-- one row per sale line")]
    doubled = facts.replace("    gross_amount(sales", "    2 * gross_amount(sales").replace(
        "create table", "create or replace table"
    )
    with started(home) as kernel:
        for cells in (CELLS[:-2], [doubled], CELLS[-2:]):
            ran = kernel.run_cells(cells)
            assert not ran.failed, ran.evalue
    assert query(database(home), gross) == [(2 * before[0][0],)]
    assert "done in" in build(home)
    assert query(database(home), gross) == before
