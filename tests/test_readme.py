import re
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import golden
import pytest
from conftest import CHECKOUT, mart_command, query

from mart_helpers.sketches import draw_workflow

README = (CHECKOUT / "README.md").read_text()
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def built_home(shared_home: Path) -> Path:
    """A home with extracts of one's own, in which `all` has run; what it said is in `said`."""
    copytree(shared_home / "inputs", shared_home / "my_extracts")
    result = mart_command("all", cwd=shared_home)
    assert result.returncode == 0, result.stderr
    (shared_home / "said").write_text(result.stdout)
    return shared_home


def shape(text: str) -> str:
    """`text` with its figures taken out, which differ from run to run."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\dTZ.,]*", "0", text)).strip()


def test_make_run_ends_as_the_readme_says(built_home):
    (shown,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    assert shape(shown) == shape((built_home / "said").read_text())


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if not c.startswith("make ") and not c.endswith(" all")]
)
def test_a_command_of_the_readme_works(built_home, command):
    program, *arguments = shlex.split(command)
    run = (
        [sys.executable, *arguments]
        if program == "python"
        else [sys.executable, "-m", program, *arguments]
    )
    result = subprocess.run(run, cwd=built_home, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("target", [c.split()[1] for c in COMMANDS if c.startswith("make ")])
def test_a_make_target_of_the_readme_exists(target):
    assert re.search(rf"^{target}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)


def test_the_codebook_is_that_of_the_mart(built_home):
    catalog = query(
        built_home / "data" / "mini_data_mart.duckdb",
        "select table_name, t.comment, string_agg(column_name, ', ' order by column_index) "
        "from duckdb_tables() as t inner join duckdb_columns() using (schema_name, table_name) "
        "where schema_name = 'main' group by all order by all",
    )
    for table, comment, columns in catalog:
        assert f"| `{table}` | {comment} | {columns} |" in README


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w./]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(path):
    assert (CHECKOUT / path).exists()


def test_the_pictures_are_those_of_the_notebooks(tmp_path):
    for name in golden.ORDER:
        golden.save_pictures(CHECKOUT / "notebooks" / f"{name}.ipynb", tmp_path)
    shown = {Path(path).name for path in re.findall(r"!\[.*?\]\(([\w./]+)\)", README)}
    kept = {path.name: path.read_bytes() for path in (CHECKOUT / "notebooks" / "pictures").iterdir()}
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept.keys() == shown
    assert kept == made | {"workflow.svg": draw_workflow().svg.encode()}


@pytest.mark.parametrize(
    ("file", "test"),
    [
        (file, test)
        for file, tests in re.findall(r"`(test_\w+\.py)`: (.*?) \|\n", README)
        for test in re.findall(r"`(test_\w+)`", tests)
    ],
)
def test_a_test_that_the_readme_names_is_there(file, test):
    assert f"def {test}(" in (CHECKOUT / "tests" / file).read_text()
