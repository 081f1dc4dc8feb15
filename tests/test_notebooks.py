import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import golden
import pytest
from conftest import CHECKOUT, code_cells


def nbval(home: Path, *names: str) -> subprocess.CompletedProcess:
    """Compare notebooks of `home` with what their cells give now, one after the other."""
    paths = [str(Path("notebooks", f"{name}.ipynb")) for name in names]
    run = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run([*run, "-q", *paths], cwd=home, capture_output=True, text=True)


def outputs(path: Path, with_pictures: bool) -> list:
    """All outputs of a notebook; pictures as bytes where they were made on this kind of machine."""
    found = [cell.get("outputs", []) for cell in json.loads(path.read_text())["cells"]]
    if with_pictures:
        return found
    return [
        [{**output, "data": {**output.get("data", {}), "image/png": None}} for output in cell]
        for cell in found
    ]


def test_nbval_finds_every_committed_output_again(home):
    result = nbval(home, *golden.ORDER)
    assert result.returncode == 0, result.stdout[-3000:]
    cells = sum(len(code_cells(name)) for name in golden.ORDER)
    assert re.search(rf"^{cells} passed", result.stdout, re.MULTILINE), result.stdout[-500:]


def test_nbval_sees_a_price_that_changed_in_an_extract(home):
    sales = home / "inputs" / "fact_sales.csv"
    first, second, *others = sales.read_text().splitlines(keepends=True)
    fields = second.split(",")
    fields[5] = "99.99"
    sales.write_text("".join([first, ",".join(fields), *others]))
    result = nbval(home, "01_build")
    assert result.returncode == 1
    assert "Cell outputs differ" in result.stdout


def test_a_rerun_gives_the_committed_notebooks_byte_for_byte(home, tmp_path):
    made_here = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    for path in golden.execute(golden.ORDER, tmp_path):
        committed = CHECKOUT / "notebooks" / path.name
        assert outputs(path, made_here) == outputs(committed, made_here), path.name
        if made_here:
            assert path.read_bytes() == committed.read_bytes()


@pytest.mark.parametrize("name", golden.ORDER)
def test_a_notebook_keeps_its_form(name):
    cells = json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    code = code_cells(name)
    assert "".join(cells[0]["source"]).startswith("# "), "the first cell is the H1"
    assert cells[1]["metadata"]["tags"] == ["parameters"]
    assert cells[-1]["cell_type"] == "markdown"
    assert ".ipynb)" in "".join(cells[-1]["source"]), "the last cell links on"
    for source in code:
        assert source.partition("\n")[2 if source.startswith("%%sql") else 0].strip(), "no empty cell"
        is_sql = source.startswith("%%sql")
        assert is_sql or not re.search(r"^\s*(def|class|try|for|while)\b", source, re.MULTILINE), source
        assert "{{" not in source, "JupySQL would fill it in, with nothing where it is unknown"
        assert not re.search(r"(?<![\w.])/(home|Users|tmp|work)/", source)
        assert len(source.splitlines()) <= 40, source


@pytest.mark.parametrize("name", golden.ORDER)
def test_a_committed_notebook_has_run_without_errors_and_carries_no_noise(name):
    notebook = json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text())
    assert set(notebook["metadata"]) == {"kernelspec"}
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error"
            assert "stderr" not in output.get("name", "")
