"""A kernel that has just been restarted says which cells to run first."""

import re
from pathlib import Path

import pytest
from conftest import CHECKOUT, code_cells
from kernels import started

from mart_helpers.fresh_kernel import WAY_OUT


def test_a_cell_after_a_restart_says_which_cells_to_run_first(
    shared_home: Path, shared_mart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = re.findall(r"^KERNEL_LINE := (.+)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    (tmp_path / "profile_default").mkdir()
    (tmp_path / "profile_default" / "ipython_kernel_config.py").write_text(line)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with started(shared_home, "notebooks") as kernel:
        assert kernel.run("%%sql\nselect 1").evalue == WAY_OUT
        assert WAY_OUT in kernel.run("draw_line(monthly)").text
        assert not kernel.run_cells(code_cells("04_quality")[:3]).failed
        assert "2,470" in kernel.run("%%sql\nselect count(*) as sales from fact_sales").text
        assert WAY_OUT not in kernel.run("no_such_name").text
        kernel.restart()
        assert kernel.run("%%sql\nselect 1").evalue == WAY_OUT
