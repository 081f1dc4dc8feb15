"""Execute the notebooks on the sample and save them with their outputs, free of noise.

`make golden` saves into notebooks/; the tests save elsewhere and compare. The star in the README is an
output of the notebooks; the dashboard beside it is a picture that `mart portfolio` makes, made smaller.
"""

import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from shutil import copytree
from typing import TypeVar

import nbformat
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient import NotebookClient

CHECKOUT = Path(__file__).resolve().parents[1]
ORDER = ("01_build", "02_explore", "03_export", "04_quality", "05_dashboard", "exercises")
Manager = TypeVar("Manager", bound=KernelManager)
PICTURE = "image/png"
# The outputs that are the README's pictures, by what they say they are.
PICTURES = {"<chart: Star schema>": "star_schema.png"}


def execute(names: tuple[str, ...], target: Path) -> list[Path]:
    """Run the notebooks `names` of the checkout in a new home; give the copies with outputs in `target`.

    Raises nbclient's CellExecutionError where a cell fails.
    """
    with tempfile.TemporaryDirectory() as home:
        for part in ("inputs", "notebooks"):
            copytree(CHECKOUT / part, Path(home, part))
        environment = os.environ | {"MART_HOME": home, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        return [_executed(name, target, environment) for name in names]


def _executed(name: str, target: Path, environment: dict[str, str]) -> Path:
    notebook = nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", as_version=4)
    manager = without_ports(AsyncKernelManager, Path(environment["MART_HOME"]))
    NotebookClient(notebook, manager, record_timing=False).execute(env=environment, cleanup_kc=True)
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    saved = target / f"{name}.ipynb"
    nbformat.write(notebook, saved)
    return saved


def without_ports(manager: type[Manager], folder: Path) -> Manager:
    """A manager of kernels whose sockets are files in `folder`.

    Two kernels that start at once may be given the same port.
    """
    connection = str(folder / "kernel.json")
    return manager(kernel_name="python3", transport="ipc", connection_file=connection)


def differences(saved: dict, rerun: dict, with_pictures: bool = True) -> list[str]:
    """What is not the same in two notebooks, given as JSON, a line a cell; empty where nothing differs.

    Without pictures, it is enough that there is one.
    """
    if len(saved["cells"]) != len(rerun["cells"]):
        return [f"{len(saved['cells'])} cells were saved, {len(rerun['cells'])} were run"]
    found = [
        f"cell {number}: {part} differ"
        for number, cells in enumerate(zip(saved["cells"], rerun["cells"], strict=True))
        for part in sorted(cells[0].keys() | cells[1].keys())
        if len({json.dumps(_comparable(cell.get(part), with_pictures)) for cell in cells}) > 1
    ]
    return found + ["metadata differ"] * (saved["metadata"] != rerun["metadata"])


def _comparable(part: object, with_pictures: bool) -> object:
    """Part of a cell, without the pixels of pictures where they are not wanted."""
    match part:
        case list():
            return [_comparable(each, with_pictures) for each in part]
        case dict():
            return {
                key: key if key == PICTURE and not with_pictures else _comparable(value, with_pictures)
                for key, value in sorted(part.items())
            }
    return part


def save_pictures(notebook: Path, folder: Path) -> list[Path]:
    """Write those outputs of `notebook` that the README shows into `folder`."""
    saved = []
    folder.mkdir(exist_ok=True)
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            name = PICTURES.get(output.get("data", {}).get("text/plain"))
            if name:
                saved.append(folder / name)
                saved[-1].write_bytes(base64.b64decode(output["data"][PICTURE]))
    return saved


def assert_as_kept(name: str, text: str) -> None:
    """`text` is what tests/golden/<name> holds; with KEEP=1 in the environment it becomes that."""
    kept = CHECKOUT / "tests" / "golden" / name
    if os.environ.get("KEEP"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text, encoding="utf-8", newline="")
    assert text == kept.read_bytes().decode("utf-8"), f"differs from {kept}"


if __name__ == "__main__":
    pictures = CHECKOUT / "notebooks" / "pictures"
    for path in execute(tuple(sys.argv[1:]) or ORDER, CHECKOUT / "notebooks"):
        for saved in (path, *save_pictures(path, pictures)):
            print(f"saved {saved.relative_to(CHECKOUT)}")
