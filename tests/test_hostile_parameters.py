"""Values of parameters are values: none becomes SQL, a template or a command, none leads astray.

Whether a value is refused is asked of the function that the notebooks call; one of each kind goes
through a notebook. The files around the home are looked at, too.
"""

import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from conftest import CHECKOUT, make_home, put_mart, query

from mart_helpers.cli import main
from mart_helpers.errors import UsageError
from mart_helpers.parameters import (
    PATHS,
    Parameter,
    check_cell,
    notebook_cells,
    notebook_parameters,
    tags,
)
from mart_helpers.run import NotebookFailed, run_notebook

NOTEBOOKS = {path.stem: path for path in sorted((CHECKOUT / "notebooks").glob("0*.ipynb"))}
READERS = [name for name in NOTEBOOKS if name != "01_build"]
STAR = ("dim_customer", "dim_product", "dim_date", "fact_sales")

DROP = "'; drop table fact_sales; --"
TEXTS = [
    DROP,
    "x' or '1'='1",
    "2024-01-01'::date --",
    "{{database}}",
    "$database",
    "$(touch injected)",
    '"',
]
NO_TEXTS = [None, 1, True, b"x", ["csv"]]
NO_NUMBERS = ["1", "1; drop table fact_sales", "{{1}}", None, [1], True]
NO_PATHS = ["", "nul\0", "\ud800", "~nobody-at-home/mart", "x" * 5000]
NO_LIMITS = [*TEXTS, "", "lots", "0", "0GB", "-1GB", "49.9MB", "4KB", "1e9MB", "101%", "9" * 99 + "GB"]

# A name that says something to a shell, to SQL, to JupySQL and to globs, but is a fine name.
ODD = "it's \"{{database}}\" $database :x; -- [a]* é😀 %s\n'; drop table fact_sales; --"


def hostile(parameter: Parameter) -> list[tuple[object, str]]:
    """Values that the parameter refuses, each with what it expects instead."""
    if parameter.type is bool:
        return [(value, "true or false") for value in (*NO_NUMBERS[:-1], "true", 1, 0.0)]
    if parameter.type is not str:
        kind = {int: "a whole number", float: "a finite number"}[parameter.type]
        least = (
            [(parameter.minimum - 1, f"{parameter.minimum} or more")]
            if parameter.minimum is not None
            else []
        )
        return [*((value, kind) for value in (*NO_NUMBERS, float("nan"))), *least]
    expected = {"_date": "a date as yyyy-mm-dd", "_limit": "a size of at least 50MB"}
    expected["cluster"] = "an address like sc://host:15002"
    refused = [(value, "text (str)") for value in NO_TEXTS]
    for ending, what in expected.items():
        if parameter.name.endswith(ending):
            refused += [(value, what) for value in (NO_LIMITS if ending == "_limit" else TEXTS)]
    if parameter.choices:
        refused += [(value, "one of ") for value in (*TEXTS, "")]
    if parameter.name.endswith(PATHS):
        no_paths = [value for value in NO_PATHS if value != parameter.default]  # no lake is fine
        refused += [(value, "a shorter path" if len(value) > 4000 else "a path") for value in no_paths]
    return refused


def test_a_hostile_value_is_refused_before_anything_is_done_with_it(subtests):
    for notebook in NOTEBOOKS:
        with subtests.test(notebook):
            (cell,) = [
                cell for cell in notebook_cells(NOTEBOOKS[notebook]) if "parameters" in tags(cell)
            ]
            source, names = "".join(cell["source"]), {}
            exec(source, names)
            for parameter in notebook_parameters(NOTEBOOKS[notebook]):
                for value, expected in hostile(parameter):
                    with pytest.raises(UsageError) as refusal:
                        check_cell(["", source], names | {parameter.name: value})
                    text = str(refusal.value)
                    assert text.startswith(f"{parameter.name}: found ")
                    assert f", expected {expected}" in text
                    assert len(text) < 400


# --- through the notebooks ---


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, sample_mart: Path) -> Iterator[Path]:
    """A home with a mart, two folders deep in one of its own."""
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("around") / "deeper"
        folder.mkdir()
        home = make_home(folder / "home", environment)
        put_mart(sample_mart, home)
        yield home


@pytest.fixture(scope="module")
def mart(home: Path) -> Path:
    return home / "data" / "mini_data_mart.duckdb"


@pytest.fixture(scope="module")
def harmless(home: Path) -> dict[str, list[str]]:
    """What each notebook that reads shows with harmless values."""
    return {name: shown(run_notebook(name, {}, home)) for name in READERS}


def shown(executed: Path) -> list[str]:
    """The texts that an executed notebook shows."""
    outputs = [output for cell in notebook_cells(executed) for output in cell.get("outputs", [])]
    texts = [output.get("text") or output["data"]["text/plain"] for output in outputs]
    return ["".join(text) for text in texts]


def files(home: Path) -> set[Path]:
    """All files in and around the home, but for the lock, and what a refused build leaves to look at."""
    around = home.parents[1].rglob("*")
    return {
        path
        for path in around
        if not (".candidate" in path.name or path.suffix == ".lock" or path.parent == home)
    }


def rows(database: Path) -> list[list[tuple]]:
    return [query(database, f"from {table} order by all") for table in STAR]


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_notebook_refuses_a_hostile_value_in_one_clear_message(home, mart, subtests):
    for notebook, parameter, value, message in [
        ("01_build", "stage", "3; drop table fact_sales", "expected a whole number"),
        ("01_build", "max_rejected_share", 1.1, "expected a share from 0 to 1"),
        ("01_build", "inputs_dir", DROP, "there is no such folder"),
        ("01_build", "database", "inputs", "is a folder"),
        ("01_build", "database", "what?.duckdb", "DuckDB misreads"),
        ("01_build", "database", "Contract.duckdb", "the build uses the name of"),
        ("02_explore", "start_date", "2024-01-01'::date --", "expected a date as yyyy-mm-dd"),
        ("02_explore", "database", DROP, "There is no mart at"),
        ("02_explore", "database", "https://localhost:1/a", "There is no mart at"),
        ("03_export", "formats", "csv;json", "expected some of csv, json"),
        ("03_export", "tables", DROP, "expected some of sales_range, headline_figures"),
        ("04_quality", "fail_on", "$(touch injected)", "expected one of error, warn, never"),
        ("05_dashboard", "months", "{{1}}", "expected a whole number"),
    ]:
        with subtests.test(f"{notebook}: {parameter}={value}"):
            before, content = files(home), mart.read_bytes()
            with pytest.raises(NotebookFailed) as refusal:
                run_notebook(notebook, {parameter: value}, home)
            assert message in str(refusal.value)
            assert "What was executed" not in str(refusal.value), "the error is one of ours"
            assert len(str(refusal.value)) < 500
            assert files(home) == before
            assert mart.read_bytes() == content


def test_a_build_makes_the_same_mart_whatever_its_name(home, mart):
    run_notebook("01_build", {"database": "built/main"}, home)
    assert rows(home / "built" / "main") == rows(mart)


def test_the_command_line_takes_odd_names_as_they_are(home, mart, monkeypatch, capsys):
    monkeypatch.chdir(home)
    shutil.copytree(home / "inputs", home / "told" / ODD / "inputs")
    odd, before = Path("told") / ODD, files(home)
    places = {"--database": odd / f"{ODD}.duckdb", "--inputs-dir": odd / "inputs", "--data-dir": odd}
    for build in (1, 2):  # the second replaces the first
        assert main(["build", *map(str, chain(*places.items()))]) == 0, capsys.readouterr().err
        assert query(home / odd / f"{ODD}.duckdb", "select max(build_id) from build_log") == [(build,)]
    assert rows(home / odd / f"{ODD}.duckdb") == rows(mart)
    assert all((home / odd) in path.parents for path in files(home) - before)


def test_a_reader_shows_and_writes_the_same_whatever_the_names(home, mart, harmless, subtests):
    for notebook in READERS:
        with subtests.test(notebook):
            odd, written = home / "read" / ODD / f"{ODD}.duckdb", home / "written" / ODD
            odd.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(mart, odd)
            values = {"database": str(odd), "data_dir": f"written/{ODD}"}
            known = {each.name for each in notebook_parameters(NOTEBOOKS[notebook])}
            executed = run_notebook(
                notebook, {name: values[name] for name in values if name in known}, home
            )
            assert [text.replace(f"written/{ODD}", "data") for text in shown(executed)] == harmless[
                notebook
            ]
            assert odd.read_bytes() == mart.read_bytes()
            folders = {"03_export": ["CSV-export", "JSON-export"]}.get(notebook, [])
            for folder in folders:
                ours, theirs = digests(written / folder), digests(home / "data" / folder)
                assert {*ours, "manifest.json"} == {*theirs}
                assert all(ours[name] == theirs[name] for name in ours if name != "manifest.json")


def test_a_filter_is_a_word_to_look_for_and_a_list_as_long_as_a_number_can_be(home, mart):
    content = mart.read_bytes()
    values = {"segment": "{{database}}", "country": DROP, "category": "nul\0😀", "top_n": 2**63 - 1}
    assert "No sale passes the filters." in "".join(shown(run_notebook("02_explore", values, home)))
    assert mart.read_bytes() == content


def test_the_command_line_refuses_before_anything_runs(home, mart, capsys, subtests):
    for words, message in [
        (["build", "--stage", "3; drop table x"], "'3; drop table x' is not one of '1', '2', '3'"),
        (["build", "--max-rejected-share", "nan"], "found nan (float), expected a finite number"),
        (["build", "--memory-limit=-1GB"], "'--memory-limit': found \"-1GB\", expected a size"),
        (["build", "--database", "~nobody-at-home/mart"], "expected a path"),
        (["explore", "--start-date", "2024-01-01'::date --"], "expected a date"),
        (
            ["quality", "--fail-on", "$(touch injected)"],
            "'$(touch injected)' is not one of 'error', 'warn', 'never'",
        ),
    ]:
        with subtests.test(" ".join(words)):
            before, content = files(home), mart.read_bytes()
            assert main(words) == 2
            said = capsys.readouterr()
            assert said.out == ""
            assert message in said.err
            assert files(home) == before
            assert mart.read_bytes() == content
