"""Pictures for a portfolio, from a run of the notebooks: their charts, and their pages in a browser."""

import json
import os
import re
import subprocess
from base64 import b64decode
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory, gettempdir

from mart_helpers.errors import StateError
from mart_helpers.files import whole_files
from mart_helpers.lab.damage import break_inputs
from mart_helpers.pages import write_pages
from mart_helpers.parameters import resolve
from mart_helpers.run import run_notebook

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")

_QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")

_PAGES = {
    "build": "01_build.html",
    "result": "02_explore.html#how-did-revenue-develop-from-month-to-month",
    "quality": "quality/quality_report.html",
}


def make_portfolio(inputs_dir: Path, out: Path) -> list[Path]:
    """Run the notebooks on the extracts of `inputs_dir`, write PNG pictures into `out`; their paths.

    They are the star and the charts of the notebooks and, where a Chromium is found, their pages, before
    and after an edit that gives the prices of a month in cents. The published mart is not touched.
    Raises InputError where the extracts cannot be edited so, and whatever the notebooks raise.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        break_inputs("price_times_100", resolve(inputs_dir), folder / "edited")
        pictures = _run(resolve(inputs_dir), folder / "before")
        changed = _run(folder / "edited", folder / "after")
        pictures |= {name: png for name, png in changed.items() if name not in pictures}
    paths = [resolve(out) / f"{place:02}_{name}.png" for place, name in enumerate(pictures, 1)]
    with whole_files(paths) as parts:
        for part, png in zip(parts, pictures.values(), strict=True):
            part.write_bytes(png)
    return paths


def _run(inputs_dir: Path, folder: Path) -> dict[str, bytes]:
    """The charts of the notebooks as executed on `inputs_dir`, and pictures of their pages, by name."""
    mart, inputs = {"database": str(folder / "mart.duckdb")}, {"inputs_dir": str(inputs_dir)}
    pictures: dict[str, bytes] = {}
    folder.mkdir()
    executed = [
        run_notebook("01_build", mart | inputs, folder),
        run_notebook("02_explore", mart, folder),
        run_notebook(
            "04_quality", mart | inputs | {"data_dir": str(folder), "fail_on": "never"}, folder
        ),
    ]
    for cell in (cell for path in executed for cell in json.loads(path.read_bytes())["cells"]):
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if "image/png" in data:
                title = re.sub(r"\W+", "_", "".join(data["text/plain"]).lower())
                pictures[title.removeprefix("_chart_").strip("_")] = b64decode(data["image/png"])
    write_pages(executed[:1], folder, Path(mart["database"]), show_code=True)
    write_pages(executed[1:], folder, Path(mart["database"]))
    if browser := next(filter(None, map(which, _BROWSERS)), None):
        for name, place in _PAGES.items():
            pictures[f"{name}_{folder.name}_an_edit"] = _screenshot(browser, folder, place)
    return pictures


def _screenshot(browser: str, folder: Path, place: str) -> bytes:
    # a page that is scrolled to a heading comes out white, but not in a frame
    frame = (
        f'<body style="margin: 0"><iframe src="{place}" width="1280" height="1600" style="border: 0">'
    )
    (folder / "frame.html").write_text(frame)
    taken = ["--hide-scrollbars", "--window-size=1280,1600", f"--screenshot={folder / 'shot.png'}"]
    command = [browser, *_QUIET, f"--user-data-dir={folder / 'browser'}", *taken, folder / "frame.html"]
    try:
        room = os.environ | {"TMPDIR": gettempdir()}  # which a browser takes as it stands
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=room)
        return (folder / "shot.png").read_bytes()
    except (OSError, subprocess.SubprocessError) as error:
        raise StateError(f"{browser} took no picture of {place}: {error}") from error
