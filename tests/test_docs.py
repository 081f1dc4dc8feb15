"""The README and the pages of docs/ say what works: commands, links, pictures and the codebook."""

import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import golden
import pytest
from click.exceptions import Exit
from conftest import CHECKOUT, mart_command, query

from mart_helpers import cli

PATHS = [*sorted(CHECKOUT.glob("*.md")), *sorted(CHECKOUT.glob("docs/*.md"))]
PAGES = {path.name: path.read_text() for path in PATHS}
# Those that are quick; others only have to be understood.
RUN_FOR_REAL = {"break", "build", "diff", "generate", "help", "inspect", "reset", "rollback", "trace"}


@pytest.fixture(scope="module")
def built_home(shared_home: Path, all_home: Path) -> Path:
    """A home in which `all` has run (`said` has its words), then a build."""
    copytree(all_home, shared_home, dirs_exist_ok=True)
    assert mart_command("build", cwd=shared_home).returncode == 0
    return shared_home


def commands(page: str) -> list[list[str]]:
    """The words of each command in a page's code blocks, then of those within its sentences."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    lines = [line.partition("  #")[0] for block in blocks for line in block.splitlines()]
    within = [f"{command} --help" for command in re.findall(r"`(mart \w[^`]*)`", page)]
    return [shlex.split(line) for line in lines + within if line.strip()]


def test_the_commands_of_a_page_work(built_home, tmp_path, monkeypatch, subtests):
    for name in [name for name in PAGES if commands(PAGES[name])]:
        with subtests.test(name):
            home = copytree(built_home, tmp_path / name)
            monkeypatch.setenv("MART_HOME", str(home))
            for command in commands(PAGES[name]):
                match command:
                    case ["mart", work, *options] if work in RUN_FOR_REAL:
                        result = mart_command(work, *options, cwd=home)
                        assert result.returncode == 0, (command, result.stderr)
                    case ["mart", work, *options]:
                        with suppress(Exit):  # after --help
                            cli.mart.commands[work].make_context(work, options)
                    case ["papermill", *options]:
                        papermill = [sys.executable, "-m", "papermill", *options, "--prepare-only"]
                        subprocess.run(papermill, cwd=home, check=True, capture_output=True)
                    case ["make", _]:
                        pass  # see the test below
                    case ["cp" | "mkdir", *_]:
                        subprocess.run(
                            shlex.join(command).replace("'&&'", "&&"), shell=True, cwd=home, check=True
                        )
                    case _:
                        assert command == ["source", ".venv/bin/activate"]


def test_the_make_targets_of_the_pages_exist():
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", "\n".join(PAGES.values()), re.MULTILINE))
    assert named <= set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))


def shape(text: str) -> str:
    """`text` with its figures taken out, which differ from run to run."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\dTZ.,]*", "0", text)).strip()


def test_make_run_ends_as_the_readme_says(built_home):
    (shown,) = re.findall(r"```text\n(.*?)```", PAGES["README.md"], re.DOTALL)
    assert shape(shown) == shape((built_home / "said").read_text())


def test_the_codebook_is_that_of_the_mart(built_home):
    catalog = query(
        built_home / "data" / "mini_data_mart.duckdb",
        "select table_name, t.comment, string_agg(column_name, ', ' order by column_index) "
        "from duckdb_tables() as t inner join duckdb_columns() using (schema_name, table_name) "
        "where schema_name = 'main' group by all order by all",
    )
    tables, _, _ = PAGES["codebook.md"].partition("## Metrics")
    shown = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", tables, re.MULTILINE)
    assert shown == catalog


def test_each_link_leads_somewhere():
    links = {
        path.parent / link
        for path in PATHS
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    }
    assert links
    assert [link for link in links if not link.exists()] == []


def test_the_readme_links_to_each_page():
    pages = {str(path.relative_to(CHECKOUT)) for path in PATHS} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([\w./]+)\)", PAGES["README.md"]))


def test_the_readme_can_be_read_in_a_few_minutes():
    assert len(PAGES["README.md"]) <= 9_000


def test_the_pictures_are_those_of_the_notebooks(tmp_path):
    for name in golden.ORDER:
        golden.save_pictures(CHECKOUT / "notebooks" / f"{name}.ipynb", tmp_path)
    shown = {Path(path).name for path in re.findall(r"!\[.*?\]\(([\w./]+)\)", PAGES["README.md"])}
    kept = {path.name: path.read_bytes() for path in (CHECKOUT / "notebooks" / "pictures").iterdir()}
    assert kept.keys() == shown
    of_notebooks = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert of_notebooks == {name: kept[name] for name in golden.PICTURES.values()}
