"""Where the time of `all` on the sample goes: ours, and by papermill four times, as bars in a table.

python tests/benchmarks/account.py [RUNS]    the quickest of so many runs of each (5)

Each executed notebook notes when a cell began and ended. What lies between is starting and importing.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from making import CHECKOUT
from rows import NOTEBOOKS, Bench, Task, sample_rows

_BAR = 40  # characters for the longer of the two
_SMALLEST = 0.03  # shares below are added up
_HERE = "start, import, write"


@dataclass(frozen=True)
class Account:
    """What a run took as a whole, and what of it below which heading of which notebook."""

    seconds: float
    parts: dict[str, dict[str, float]]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as scratch:
        row = sample_rows(Bench(Path(scratch), 1))[0]
        pairs = [(taken(row.ours), taken(row.other)) for _ in range(runs)]
        ours, papermill = (min(each, key=lambda run: run.seconds) for each in zip(*pairs, strict=True))
    for title, account in (("python -m mart all", ours), ("papermill, four times", papermill)):
        print("\n".join(lines(title, account, papermill.seconds)), end="\n\n")


def taken(task: Task) -> Account:
    task.prepare()
    began = datetime.now().astimezone()
    environment = os.environ | task.environment
    subprocess.run(task.command, cwd=CHECKOUT, env=environment, check=True, capture_output=True)
    seconds = (datetime.now().astimezone() - began).total_seconds()
    parts, before = {}, began
    for name in NOTEBOOKS:
        (path,) = (path for path in task.out.rglob(f"{name}.ipynb") if path.parent.name != "notebooks")
        cells = list(timed(json.loads(path.read_text(encoding="utf-8"))["cells"]))
        parts[name] = {_HERE: (cells[0][1] - before).total_seconds()}
        for heading, start, end in cells:
            spent = (end - start).total_seconds()
            parts[name][heading] = parts[name].get(heading, 0) + spent
        before = cells[-1][2]
    parts["the end"] = {_HERE: (began + timedelta(seconds=seconds) - before).total_seconds()}
    return Account(seconds, parts)


def timed(cells: list[dict]) -> Iterator[tuple[str, datetime, datetime]]:
    """Of each executed cell the heading above it, its start and its end."""
    heading = ""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            found = [line for line in cell["source"] if line.startswith("#")]
            heading = found[-1].strip("# \n") if found else heading
        elif times := cell["metadata"].get("execution"):
            start, end = (times[key] for key in ("iopub.execute_input", "shell.execute_reply"))
            yield heading, datetime.fromisoformat(start), datetime.fromisoformat(end)


def lines(title: str, account: Account, longest: float) -> Iterator[str]:
    def line(words: str, seconds: float) -> str:
        return f"{words:<58.58} {seconds:6.2f} s  {'█' * round(_BAR * seconds / longest)}".rstrip()

    yield line(title, account.seconds)
    for notebook, parts in account.parts.items():
        yield line(f"  {notebook}", sum(parts.values()))
        large = {each: spent for each, spent in parts.items() if spent >= _SMALLEST * account.seconds}
        for heading, spent in large.items():
            yield line(f"    {heading}", spent)
        if rest := sum(parts.values()) - sum(large.values()):
            yield line(f"    {len(parts) - len(large)} more", rest)


if __name__ == "__main__":
    main()
