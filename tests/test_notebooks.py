"""The saved outputs are what the cells give: compared by a rerun, and by nbval as anybody calls it."""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from itertools import cycle
from pathlib import Path

import golden
import nbformat
import pandas as pd
import pytest
from conftest import CHECKOUT, code_cells, make_home
from golden import ORDER, PICTURE
from nbformat.v4 import new_code_cell, new_notebook

MADE_HERE = (platform.system(), platform.machine()) == ("Linux", "x86_64")
SET_UP = 'from mart_helpers.mart import open_candidate\nmart = open_candidate("canary.duckdb")'
SHOWN = ("text/plain", "text/html", PICTURE, "text")
# pandas: dots for rows, columns or ends of values, and how many there would be
CUT_OFF = re.compile(r"\.\.\.(?!\w)|^ *\.\. |>\.\.<|\[\d+ rows x|<p>\d+ rows ×", re.MULTILINE)


def saved(name: str) -> dict:
    """A notebook of the checkout, as JSON."""
    return json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text())


def nbval(home: Path, *names: str) -> subprocess.CompletedProcess:
    """Compare notebooks of `home` with what their cells give now, one after the other."""
    paths = [str(Path("notebooks", f"{name}.ipynb")) for name in names]
    run = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run([*run, "-v", *paths], cwd=home, capture_output=True, text=True)


def verdicts(result: subprocess.CompletedProcess) -> dict[tuple[str, int], str]:
    """What nbval says of each code cell of each notebook, counted from 0."""
    lines = re.findall(r"(\w+)(?:::|\.)ipynb::Cell (\d+) ([A-Z]+)\b", result.stdout)
    return {(name, int(cell)): verdict for name, cell, verdict in lines}


def texts(notebook: dict) -> Iterator[tuple[int, dict, str]]:
    """Each cell's number, what holds a text or picture of its output, and under which key."""
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            places = output.get("data", output)
            yield from ((number, places, key) for key in places if key in SHOWN)


def changes(text: str, key: str) -> Iterator[str]:
    """The text with one number changed, each in turn; if it has none, a letter; of a picture, a byte."""
    numbers = re.finditer(r"\d+", text) if key != PICTURE else []
    for place in [match.end() - 1 for match in numbers] or [len(text) // 2]:
        yield f"{text[:place]}{'1' if text[place] != '1' else '2'}{text[place + 1 :]}"


def joined(text: str | list[str]) -> str:
    return "".join(text)


def test_a_rerun_gives_the_saved_notebook_byte_for_byte(rerun, subtests):
    for name in ORDER:
        with subtests.test(name):
            again = json.loads(rerun[name].read_text())
            assert golden.differences(saved(name), again, with_pictures=MADE_HERE) == []
            if MADE_HERE:
                assert (
                    rerun[name].read_bytes() == (CHECKOUT / "notebooks" / f"{name}.ipynb").read_bytes()
                )


def test_the_comparison_sees_each_number_and_each_picture_that_is_changed(rerun, subtests):
    for name in ORDER:
        with subtests.test(name):
            again, changed = json.loads(rerun[name].read_text()), saved(name)
            seen = 0
            for number, places, key in texts(changed):
                before = places[key]
                for text in changes(joined(before), key):
                    places[key] = text.splitlines(keepends=True) if isinstance(before, list) else text
                    cell = {"cells": [changed["cells"][number]], "metadata": {}}
                    other = {"cells": [again["cells"][number]], "metadata": {}}
                    # a drawing is compared on other machines, too
                    found = golden.differences(cell, other, with_pictures=key == PICTURE)
                    assert found == ["cell 0: outputs differ"], text[:200]
                    seen += 1
                places[key] = before
            assert golden.differences(changed, again, with_pictures=MADE_HERE) == []
            assert seen >= sum(bool(cell.get("outputs")) for cell in changed["cells"])


def test_the_comparison_sees_a_cell_that_is_not_as_a_run_leaves_it(subtests):
    for damage, words in [
        (lambda cell: cell.update(outputs=[]), "outputs differ"),
        (lambda cell: cell["outputs"][0]["data"].popitem(), "outputs differ"),
        (lambda cell: cell.update(execution_count=None), "execution_count differ"),
        (lambda cell: cell.update(source=[*cell["source"], "\n# more"]), "source differ"),
        (lambda cell: cell["metadata"].update(scrolled=True), "metadata differ"),
    ]:
        with subtests.test(words):
            notebook, number = saved("04_quality"), 4
            damaged = deepcopy(notebook)
            damage(damaged["cells"][number])
            assert golden.differences(damaged, notebook) == [f"cell {number}: {words}"]


def test_no_row_column_or_value_of_a_saved_table_is_cut_off(subtests):
    for name in ORDER:
        with subtests.test(name):
            for number, places, key in texts(saved(name)):
                text = joined(places[key])
                assert key == PICTURE or not CUT_OFF.search(text), f"cell {number}: {text}"


def test_a_table_that_is_cut_off_is_seen():
    for values in ({"a": range(100)}, {"a": ["x" * 200]}, [range(99)]):
        frame = pd.DataFrame(values)
        with pd.option_context("display.max_columns", 30, "display.max_colwidth", 100):
            assert CUT_OFF.search(repr(frame))
            assert CUT_OFF.search(frame._repr_html_())


@pytest.fixture(scope="module")
def nbval_on_changed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], str]:
    """nbval's verdicts on 01_build when each cell is saved otherwise than its run leaves it.

    Behind it a notebook with a `%%sql` cell that fails.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = make_home(tmp_path_factory.mktemp("changed") / "home", monkeypatch)
        build = home / "notebooks" / "01_build.ipynb"
        build.write_text(json.dumps(changed_everywhere(saved("01_build"))))
        sources = ("'no output saved'", SET_UP, "%%sql\nselect * from no_such_table", "1 + 1")
        cells = [new_code_cell(source, execution_count=n) for n, source in enumerate(sources, start=1)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        failing = new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(failing, home / "notebooks" / "failing.ipynb")
        return verdicts(nbval(home, "01_build", "failing"))


def changed_everywhere(notebook: dict) -> dict:
    """The notebook with its pictures and one text of each cell changed, or the outputs or count gone."""
    ways = cycle(["text/plain", "text/html", "outputs", "run"])
    for cell in notebook["cells"]:
        data = cell.get("outputs") and cell["outputs"][0].get("data")
        way = next(ways) if data else "run"
        if data and PICTURE in data:
            data[PICTURE] = next(changes(joined(data[PICTURE]), PICTURE))
        elif data and way in data:
            data[way] = next(changes(joined(data[way]), way))
        elif data:
            cell["outputs"] = []
        if cell["cell_type"] == "code" and way == "run":
            cell["execution_count"] = None
    return notebook


def test_nbval_fails_each_cell_that_is_saved_otherwise_than_it_runs(nbval_on_changed):
    found = {cell: said for (name, cell), said in nbval_on_changed.items() if name != "failing"}
    assert found == dict.fromkeys(range(len(code_cells("01_build"))), "FAILED")


def test_nbval_fails_an_sql_cell_and_counts_none_behind_it_as_passed(nbval_on_changed):
    found = [nbval_on_changed["failing", cell] for cell in range(4)]
    assert found == ["FAILED", "PASSED", "FAILED", "SKIPPED"]


def test_nbval_finds_every_saved_output_again(home):
    result = nbval(home, *ORDER)
    assert result.returncode == 0, result.stdout[-3000:]
    expected = [(name, cell) for name in ORDER for cell in range(len(code_cells(name)))]
    assert verdicts(result) == dict.fromkeys(expected, "PASSED")
