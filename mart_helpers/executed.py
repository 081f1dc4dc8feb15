"""The executed copy of a notebook: its cells, and below each what it gave in this run."""

import json
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from mart_helpers.kernel import Kernel
from mart_helpers.parameters import INJECTED
from mart_helpers.sketching import SVG

_INJECTED_TAG = "injected-parameters"

# what a notebook keeps of a message that is an output
_KEPT = {
    "stream": ("name", "text"),
    "display_data": ("data", "metadata"),
    "execute_result": ("data", "metadata", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
}


class ExecutedNotebook:
    """A notebook as its JSON has it, without outputs at first, with `values` behind its parameters."""

    def __init__(self, notebook: dict, values: dict[str, object]) -> None:
        self.cells = _with_values(map(_emptied, notebook["cells"]), values)
        # where papermill notes the values too, for whoever reads the copy
        given = {"language_info": _language(), "papermill": {"parameters": values}}
        self._rest = notebook | {"metadata": notebook.get("metadata", {}) | given}
        self._displays: dict[str, list[dict]] = {}
        self._clears = False

    @property
    def code(self) -> list[str]:
        """The sources of the code cells."""
        return [cell["source"] for cell in self.cells if cell["cell_type"] == "code"]

    def run(self, cell: dict, kernel: Kernel) -> dict:
        """Fill the cell with what it gives in `kernel`, as far as it goes; what the kernel says at last.

        Raises KernelStopped.
        """
        timing = cell["metadata"]["execution"] = {"iopub.execute_input": _now()}
        for kind, content in kernel.run(cell["source"]):
            cell["execution_count"] = content.get("execution_count", cell["execution_count"])
            self._take(cell["outputs"], kind, content)
        timing["shell.execute_reply"] = _now()
        return content

    def save(self, path: Path) -> None:
        """Write the notebook as far as it was executed. Raises OSError."""
        notebook = self._rest | {"cells": [_in_lines(cell) for cell in self.cells]}
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
        # half a character, which UTF-8 has not, becomes the escape that JSON has for it
        path.write_bytes(f"{text}\n".encode(errors="backslashreplace"))

    def _take(self, outputs: list[dict], kind: str, content: dict) -> None:
        if kind == "clear_output" and content["wait"]:
            self._clears = True
        elif kind == "clear_output":
            outputs.clear()
        elif kind == "update_display_data":
            self._update_displays(content)
        elif kind in _KEPT:
            self._update_displays(content)
            self._append(outputs, kind, content)

    def _append(self, outputs: list[dict], kind: str, content: dict) -> None:
        if self._clears:
            outputs.clear()
            self._clears = False
        output = {"output_type": kind, **{part: content[part] for part in _KEPT[kind]}}
        if kind == "stream" and outputs and outputs[-1].get("name") == output["name"]:
            outputs[-1]["text"] += output["text"]
            return
        outputs.append(output)
        if name := _display_id(content):
            self._displays.setdefault(name, []).append(output)

    def _update_displays(self, content: dict) -> None:
        """Show the new content wherever the display of that id is shown, in whatever cell."""
        for output in self._displays.get(_display_id(content), []):
            output |= {part: content[part] for part in _KEPT["display_data"]}


def _emptied(cell: dict) -> dict:
    ran = {"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {}
    return {**cell, "source": "".join(cell["source"]), "metadata": dict(cell.get("metadata", {})), **ran}


def _with_values(emptied: Iterable[dict], values: dict[str, object]) -> list[dict]:
    """The cells, and one that assigns the values where papermill would put it."""
    cells = [cell for cell in emptied if _INJECTED_TAG not in tags(cell)]
    if values:
        place = next((n for n, cell in enumerate(cells, 1) if "parameters" in tags(cell)), 0)
        lines = [INJECTED, *(f"{name} = {value!r}" for name, value in values.items())]
        named = {"id": _INJECTED_TAG} if any("id" in cell for cell in cells) else {}
        cells.insert(
            place,
            {
                "cell_type": "code",
                "source": "\n".join(lines),
                "metadata": {"tags": [_INJECTED_TAG]},
                "execution_count": None,
                "outputs": [],
                **named,
            },
        )
    return cells


def tags(cell: dict) -> list[str]:
    """The tags of a cell."""
    return cell["metadata"].get("tags", [])


def _language() -> dict[str, str]:
    return {
        "name": "python",
        "version": platform.python_version(),
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "pygments_lexer": "ipython3",
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _display_id(content: dict) -> str | None:
    return (content.get("transient") or {}).get("display_id")


def _in_lines(cell: dict) -> dict:
    """The cell with its texts as lists of lines, as notebook files have them."""
    lines = {"source": cell["source"].splitlines(keepends=True)}
    if "outputs" in cell:
        lines["outputs"] = [_output_in_lines(output) for output in cell["outputs"]]
    return cell | lines


def _output_in_lines(output: dict) -> dict:
    if output["output_type"] == "stream":
        return output | {"text": output["text"].splitlines(keepends=True)}
    if "data" not in output:
        return output
    return output | {"data": {kind: _lines(kind, each) for kind, each in output["data"].items()}}


def _lines(kind: str, content: object) -> object:
    is_text = kind.startswith("text/") or kind == SVG
    return content.splitlines(keepends=True) if is_text else content
