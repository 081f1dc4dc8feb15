import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mart_helpers.errors import StateError, UsageError
from mart_helpers.parameters import Parameter, check_cell, checked, notebook_parameters, read_parameters

CELL = """\
stage: int = 3  # one of 1, 2, 3: 1 seed rows, 2 sales from CSV, 3 every table from CSV
inputs_dir: str = "inputs"  # folder with the CSV extracts
max_rejected_share: float = 0.1  # part of the rows, # of 1
start_date: str = ""  # first day
end_date: str = ""
fail_on: str = "error"  # one of error, warn, never
is_quick: bool = False
memory_limit: str = "70%"
"""
PARAMETERS = read_parameters(CELL)


def test_a_cell_gives_names_types_defaults_help_and_choices():
    assert [
        Parameter(
            "stage",
            int,
            3,
            "one of 1, 2, 3: 1 seed rows, 2 sales from CSV, 3 every table from CSV",
            (1, 2, 3),
        ),
        Parameter("inputs_dir", str, "inputs", "folder with the CSV extracts"),
        Parameter("max_rejected_share", float, 0.1, "part of the rows, # of 1"),
        Parameter("start_date", str, "", "first day"),
        Parameter("end_date", str, ""),
        Parameter("fail_on", str, "error", "one of error, warn, never", ("error", "warn", "never")),
        Parameter("is_quick", bool, False),
        Parameter("memory_limit", str, "70%"),
    ] == PARAMETERS


def test_a_hash_inside_a_text_is_no_help():
    assert read_parameters('name: str = "a # b"') == [Parameter("name", str, "a # b")]


def test_prose_with_the_words_one_of_gives_no_choices():
    assert read_parameters('city: str = ""  # one of the towns, any: all')[0].choices == ()


@pytest.mark.parametrize(
    "line",
    [
        "stage = 3",
        "stage: int",
        "stage: list = []",
        "stage: int = (",
        "%%sql",
    ],
)
def test_a_line_that_is_no_parameter_is_named(line):
    with pytest.raises(UsageError, match="parameters cell, line 2"):
        read_parameters(f"first: int = -1\n{line}")


def test_a_notebook_is_read_by_the_tag_of_its_cell(tmp_path):
    path = tmp_path / "n.ipynb"
    prose = {"cell_type": "markdown", "metadata": {}, "source": "# x"}
    tagged = {"cell_type": "code", "metadata": {"tags": ["parameters"]}}
    lines = ["top_n: int = 10  # rows\n", "end_date: str = ''"]
    path.write_text(json.dumps({"cells": [prose, tagged | {"source": lines}]}))
    assert [each.name for each in notebook_parameters(path)] == ["top_n", "end_date"]
    path.write_text(json.dumps({"cells": [prose]}))
    assert notebook_parameters(path) == []
    path.write_text(json.dumps({"cells": [tagged | {"source": "top_n = 3"}]}))
    with pytest.raises(UsageError, match=r"n\.ipynb, parameters cell, line 1: found `top_n = 3`"):
        notebook_parameters(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"cells": 1', "\ufeff{}", None])
def test_a_file_that_is_no_notebook_is_refused(tmp_path, content):
    path = tmp_path / "n.ipynb"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(StateError, match=r"n\.ipynb: "):
        notebook_parameters(path)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("memory_limit", "50MB", "50MB"),
        ("memory_limit", "1%", "1%"),
        ("stage", "2", 2),
        ("max_rejected_share", "0.25", 0.25),
        ("max_rejected_share", "1e-3", 0.001),
        ("max_rejected_share", 0, 0),
        ("inputs_dir", "007", "007"),
        ("is_quick", "TRUE", True),
        ("is_quick", True, True),
        ("start_date", "2024-02-29", "2024-02-29"),
    ],
)
def test_a_value_of_the_type_is_taken(name, given, value):
    taken = checked(PARAMETERS, {name: given})
    assert taken == {name: value}
    assert type(taken[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("stage", "two", 'stage: found "two", expected a whole number (int).'),
        ("stage", "2.0", 'stage: found "2.0", expected a whole number (int).'),
        ("stage", "1_0", 'stage: found "1_0", expected a whole number (int).'),
        ("stage", "٣", 'stage: found "٣", expected a whole number (int).'),
        ("stage", "9" * 5000, f'stage: found "{"9" * 55} … (str), expected a whole number (int).'),
        ("stage", "7", "stage: found 7, expected one of 1, 2, 3."),
        ("stage", True, "stage: found True (bool), expected a whole number (int)."),
        ("stage", 2.0, "stage: found 2.0 (float), expected a whole number (int)."),
        ("max_rejected_share", "nan", "expected a finite number (float)."),
        ("max_rejected_share", "0,1", 'found "0,1", expected a finite number (float).'),
        ("is_quick", "yes", 'is_quick: found "yes", expected true or false (bool).'),
        ("is_quick", 1, "is_quick: found 1 (int), expected true or false (bool)."),
        ("fail_on", "Error", 'fail_on: found "Error", expected one of error, warn, never.'),
        ("start_date", "2024-02-30", 'start_date: found "2024-02-30", expected a date'),
        ("start_date", "2024-W01-1", "expected a date as yyyy-mm-dd"),
        ("end_date", "today", "expected a date as yyyy-mm-dd"),
        ("memory_limit", "lots", 'found "lots", expected a size from 50MB on, such as 4GB, or a share'),
        ("memory_limit", "49MB", "expected a size from 50MB on"),
        ("strat_date", "2024-01-01", "parameter strat_date. Did you mean start_date? Expected one"),
        ("zzz", 1, "unknown parameter zzz. Expected one of stage, inputs_dir, max_rejected_share"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_found_and_expected(name, given, message):
    with pytest.raises(UsageError) as refusal:
        checked(PARAMETERS, {name: given})
    assert message in str(refusal.value)


def test_a_start_after_its_end_is_refused_in_the_users_words():
    dates = {"start_date": "2024-02-01", "end_date": "2024-01-31"}
    with pytest.raises(UsageError, match="--start_date 2024-02-01 is after --end_date 2024-01-31"):
        checked(PARAMETERS, dates, spell=lambda name: f"--{name}")
    assert checked(PARAMETERS, dates | {"end_date": "2024-02-01"})


def test_a_start_after_the_end_that_the_cell_declares_is_refused():
    parameters = read_parameters('start_date: str = ""\nend_date: str = "2024-01-31"')
    with pytest.raises(UsageError, match="is after"):
        checked(parameters, {"start_date": "2024-02-01"})


def test_a_default_that_its_own_cell_forbids_is_refused():
    with pytest.raises(UsageError, match="stage: found 5, expected one of 1, 2, 3"):
        checked(read_parameters("stage: int = 5  # one of 1, 2, 3"), {})


@given(st.text())
def test_any_text_is_parsed_or_refused(text):
    for each in PARAMETERS:
        try:
            (value,) = checked([each], {each.name: text}).values()
        except UsageError:
            continue
        assert type(value) is each.type


SETUP = ["", "%load_ext sql", "# prose", CELL, "check()"]


def run_cell(*sources: str) -> dict[str, object]:
    namespace: dict[str, object] = {}
    for source in sources:
        exec(source, namespace)
    return namespace


def test_a_running_notebook_with_good_values_passes():
    injected = "# Parameters\nstage = 2\nstart_date = '2024-01-01'\n"
    check_cell([*SETUP, injected], run_cell(CELL, injected))


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("# Parameters\nstagee = 2\n", "unknown parameter stagee. Did you mean stage?"),
        ("# Parameters\nstage = 9\n", "stage: found 9, expected one of 1, 2, 3."),
        ("# Parameters\nstage = '2'\n", 'stage: found "2" (str), expected a whole number (int).'),
        ("# Parameters\nstart_date = 20240101\n", "found 20240101 (int), expected text (str)."),
        ("# Parameters\nend_date = 'x'\n", 'end_date: found "x", expected a date'),
    ],
)
def test_what_papermill_injected_wrongly_is_refused(injected, message):
    with pytest.raises(UsageError) as refusal:
        check_cell([*SETUP, injected], run_cell(CELL, injected))
    assert message in str(refusal.value)


def test_a_wrong_value_that_a_reader_typed_is_refused_and_the_mended_one_taken():
    wrong, mended = CELL.replace("= 3", "= 4"), CELL
    with pytest.raises(UsageError, match="stage: found 4"):
        check_cell(["", wrong], run_cell(wrong))
    check_cell(["", wrong, mended], run_cell(wrong, mended))


@pytest.mark.parametrize("cell", ["# Parameters of mine\nx = 1", "# Parameters\n%time x = 1"])
def test_a_cell_that_papermill_did_not_write_is_left_alone(cell):
    check_cell([*SETUP, cell], run_cell(CELL))


def test_a_notebook_without_a_parameters_cell_is_left_alone():
    check_cell(["", "stage = 9", "%%sql\nselect 1", "# Parameters\nx = 1"], {"stage": 9})
