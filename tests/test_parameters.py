import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mart_helpers.errors import StateError, UsageError
from mart_helpers.parameters import Parameter, check_cell, fault, notebook_parameters, read_parameters

CELL = """\
stage: int = 3  # one of 1, 2, 3: 1 seed rows, 2 sales from CSV, 3 every table from CSV
inputs_dir: str = "inputs"  # folder with the CSV extracts
max_rejected_share: float = 0.1  # part of the rows, # of 1, 0 or more
start_date: str = ""  # first day

# the last one
end_date: str = ""
fail_on: str = "error"  # one of error, warn, never
is_quick: bool = False
memory_limit: str = "70%"
"""
PARAMETERS = {each.name: each for each in read_parameters(CELL)}


def test_a_cell_gives_names_types_defaults_help_choices_and_minimum():
    stages = "one of 1, 2, 3: 1 seed rows, 2 sales from CSV, 3 every table from CSV"
    assert list(PARAMETERS.values()) == [
        Parameter("stage", int, 3, stages, (1, 2, 3)),
        Parameter("inputs_dir", str, "inputs", "folder with the CSV extracts"),
        Parameter("max_rejected_share", float, 0.1, "part of the rows, # of 1, 0 or more", (), 0),
        Parameter("start_date", str, "", "first day"),
        Parameter("end_date", str, ""),
        Parameter("fail_on", str, "error", "one of error, warn, never", ("error", "warn", "never")),
        Parameter("is_quick", bool, False),
        Parameter("memory_limit", str, "70%"),
    ]


def test_a_hash_inside_a_text_is_no_help_and_prose_with_the_words_one_of_gives_no_choices():
    assert read_parameters('name: str = "a # b"') == [Parameter("name", str, "a # b")]
    assert read_parameters('city: str = ""  # one of the towns, any: all')[0].choices == ()


def test_a_line_that_is_no_parameter_is_named():
    for line in (
        *("stage = 3", "stage: int", "stage: list = []", "stage: int = (", "n: int = len('')", "%%sql"),
    ):
        with pytest.raises(UsageError, match="parameters cell, line 2: found `"):
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


def test_a_file_that_is_no_notebook_is_refused(tmp_path, subtests):
    for content in (None, "{}", '{"cells": 1'):
        with subtests.test(str(content)):
            path = tmp_path / "n.ipynb"
            if content is not None:
                path.write_text(content, encoding="utf-8")
            with pytest.raises(StateError, match=r"n\.ipynb: "):
                notebook_parameters(path)


def test_a_value_of_the_type_has_no_fault():
    for name, value in (
        ("memory_limit", "50MB"),
        ("memory_limit", "1%"),
        ("max_rejected_share", 0),
        ("inputs_dir", "007"),
        ("start_date", ""),
        ("start_date", "2024-02-29"),
    ):
        assert fault(PARAMETERS[name], value) == ""


def test_a_fault_says_what_was_found_and_expected(subtests):
    for name, value, message in [
        ("stage", "2", 'found "2" (str), expected a whole number (int)'),
        ("stage", "9" * 5000, f'found "{"9" * 55} … (str), expected a whole number (int)'),
        ("stage", 7, "found 7, expected one of 1, 2, 3"),
        ("stage", True, "found True (bool), expected a whole number (int)"),
        ("stage", 2.0, "found 2.0 (float), expected a whole number (int)"),
        ("max_rejected_share", -1, "found -1, expected 0 or more"),
        ("is_quick", 1, "found 1 (int), expected true or false (bool)"),
        ("start_date", 20240101, "found 20240101 (int), expected text (str)"),
        ("start_date", "2024-02-30", 'found "2024-02-30", expected a date as yyyy-mm-dd'),
        ("start_date", "2024-W01-1", "expected a date as yyyy-mm-dd"),
        ("end_date", "20240101", "expected a date as yyyy-mm-dd"),
        ("memory_limit", "49MB", 'found "49MB", expected a size of at least 50MB, like 4GB, or a share'),
    ]:
        with subtests.test(f"{name}: {value}"[:40]):
            assert message in fault(PARAMETERS[name], value)


@given(st.text().filter(lambda text: text not in PARAMETERS["fail_on"].choices))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_a_value_or_has_a_fault(text):
    faults = {name: fault(each, text) for name, each in PARAMETERS.items()}
    assert all(faults[name] for name in ("stage", "max_rejected_share", "is_quick", "fail_on"))


SETUP = ["", "%load_ext sql", "# prose", CELL, "check()"]


def run_cell(*sources: str) -> dict[str, object]:
    namespace: dict[str, object] = {}
    for source in sources:
        exec(source, namespace)
    return namespace


def test_a_running_notebook_with_good_values_passes():
    injected = "# Parameters\nstage = 2\nstart_date = '2024-01-01'\n"
    check_cell([*SETUP, injected], run_cell(CELL, injected))


def test_what_papermill_injected_wrongly_is_refused(subtests):
    for injected, message in [
        ("stagee = 2", "unknown parameter stagee. Did you mean stage? Expected one of stage, "),
        ("zzz = 1", "unknown parameter zzz. Expected one of stage, inputs_dir,"),
        ("stage = 9", "stage: found 9, expected one of 1, 2, 3."),
        (
            "start_date = '2024-02-01'\nend_date = '2024-01-31'",
            "The start date 2024-02-01 is after the end date 2024-01-31. Swap them, or leave one out.",
        ),
    ]:
        with subtests.test(injected):
            injected = f"# Parameters\n{injected}\n"
            with pytest.raises(UsageError) as refusal:
                check_cell([*SETUP, injected], run_cell(CELL, injected))
            assert str(refusal.value).startswith(message)


def test_a_wrong_value_that_a_reader_typed_is_refused_and_the_mended_one_taken():
    wrong, mended = CELL.replace("= 3", "= 4"), CELL
    with pytest.raises(UsageError, match="stage: found 4"):
        check_cell(["", wrong], run_cell(wrong))
    check_cell(["", wrong, mended], run_cell(wrong, mended))


def test_a_cell_that_papermill_did_not_write_is_left_alone(subtests):
    for cell in ["# Parameters of mine\nx = 1", "# Parameters\n%time x = 1"]:
        with subtests.test(cell):
            check_cell([*SETUP, cell], run_cell(CELL))


def test_a_notebook_without_a_parameters_cell_is_left_alone():
    check_cell(["", "stage = 9", "%%sql\nselect 1", "# Parameters\nx = 1"], {"stage": 9})
