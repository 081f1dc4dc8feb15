"""Makes pictures for a portfolio from a run of the notebooks: their charts, and their pages."""

import os
import re
from base64 import b64decode
from pathlib import Path
from shutil import which
from subprocess import SubprocessError, run
from tempfile import TemporaryDirectory, gettempdir

from mart_helpers.errors import StateError
from mart_helpers.files import write_files
from mart_helpers.lab.damage import break_inputs
from mart_helpers.pages import write_pages
from mart_helpers.parameters import notebook_cells, resolve
from mart_helpers.run import run_notebook

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_QUIET = "--headless --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars"
_PAGES = {
    "build": "01_build.html",
    "dashboard": "pages/dashboard.html",
    "quality": "quality/quality_report.html",
}


def make_portfolio(inputs_dir: Path, out: Path) -> list[Path]:
    """Run the notebooks on the extracts of `inputs_dir` and write PNG pictures into `out`; their paths.

    The pictures show the star, the charts of the notebooks and, if Chromium is installed, the pages
    before and after an edit that gives the prices of a month in cents. The published mart is not
    touched. Raises InputError if the extracts cannot be edited, and any error of the notebooks.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        break_inputs("price_times_100", resolve(inputs_dir), folder / "edited")
        pictures = _run(resolve(inputs_dir), folder / "before")
        pictures |= _run(folder / "edited", folder / "after") | pictures
    paths = [resolve(out) / f"{place:02}_{name}.png" for place, name in enumerate(pictures, 1)]
    return write_files(dict(zip(paths, pictures.values(), strict=True)))


def _run(inputs_dir: Path, folder: Path) -> dict[str, bytes]:
    """The charts of the notebooks after a run on `inputs_dir`, and pictures of their pages, by name."""
    mart, inputs = {"database": str(folder / "mart.duckdb")}, {"inputs_dir": str(inputs_dir)}
    data, pictures = {"data_dir": str(folder)}, {}
    values = {
        "01_build": mart | inputs,
        "02_explore": mart,
        "04_quality": mart | inputs | data | {"fail_on": "never"},
        "05_dashboard": mart | data,
    }
    folder.mkdir()
    for path in (run_notebook(notebook, given, folder) for notebook, given in values.items()):
        for output in (each for cell in notebook_cells(path) for each in cell.get("outputs", [])):
            if png := output.get("data", {}).get("image/png"):
                title = re.sub(r"\W+", "_", "".join(output["data"]["text/plain"]).lower())
                pictures[title.removeprefix("_chart_").strip("_")] = b64decode(png)
    write_pages([folder / "01_build.ipynb"], folder, folder / "mart.duckdb", show_code=True)
    if browser := next(filter(None, map(which, _BROWSERS)), None):
        for name, page in _PAGES.items():
            pictures[f"{name}_{folder.name}_an_edit"] = _screenshot(browser, folder / page)
    return pictures


def _screenshot(browser: str, page: Path) -> bytes:
    with TemporaryDirectory() as folder:
        places = [f"--user-data-dir={folder}", f"--screenshot={folder}/shot.png", page.as_uri()]
        try:
            room = os.environ | {"TMPDIR": gettempdir()}  # the browser writes its profile there
            command = [browser, *_QUIET.split(), "--window-size=1280,1600", *places]
            run(command, check=True, capture_output=True, timeout=300, env=room)
            return Path(folder, "shot.png").read_bytes()
        except (OSError, SubprocessError) as error:
            raise StateError(f"{browser} took no picture of {page.name}: {error}") from error
