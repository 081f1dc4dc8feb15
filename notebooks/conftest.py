"""Makes `pytest --nbval notebooks` start from nothing and let nothing pass.

The notebooks run in a home of their own: no earlier mart counts, and whoever runs them keeps theirs.
nbval alone compares no PNG pictures, takes a notebook without outputs for a good one, and counts cells
behind a failed one as passed.
"""

import platform
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

CHECKOUT = Path(__file__).resolve().parents[1]
# so says nbval where the cell itself has run
SAVED_OTHERWISE = ("Cell outputs differ", "Unrun reference cell has outputs")
PICTURES_ARE_COMPARABLE = (platform.system(), platform.machine()) == ("Linux", "x86_64")
STOPPED_AT = pytest.StashKey[str]()


@cache
def home() -> tempfile.TemporaryDirectory:
    """A folder with a copy of the inputs and notebooks, and no mart yet, as long as pytest runs."""
    folder = tempfile.TemporaryDirectory()
    for part in ("inputs", "notebooks"):
        copytree(CHECKOUT / part, Path(folder.name, part))
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Iterator[None]:
    """Have all of the outputs compared; fonts look a bit different on other kinds of machines."""
    collected = yield
    if PICTURES_ARE_COMPARABLE:
        for each in collected:
            if isinstance(each, IPyNbFile):
                each.skip_compare = [key for key in each.skip_compare if not key.startswith("image/")]
    return collected


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Start the notebook's kernel in the new home."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MART_HOME", home().name)
        environment.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: IPyNbCell) -> Iterator[None]:
    """Run a cell if all before it ran, and ask that it was saved after a run of the whole notebook."""
    if stopped_at := item.parent.stash.get(STOPPED_AT, None):
        pytest.skip(f"{stopped_at} failed, so this cell was not run")
    try:
        result = yield
    except NbCellError as error:
        if str(error) not in SAVED_OTHERWISE:
            item.parent.stash[STOPPED_AT] = item.name
        raise
    if item.cell.execution_count != item.cell_num + 1:
        item.raise_cell_error("Saved without having been run in order: save with `make golden`", "")
    return result
