"""What a command that runs notebooks reports: its progress, and its results in words and in JSON."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from mart_helpers.parameters import shown
from mart_helpers.texts import aligned, size_text, visible
from mart_helpers.verdict import overall, verdict_lines

if TYPE_CHECKING:
    from mart_helpers.run import Progress

SUMMARY_VERSION = 1

NOTIFY_SECONDS = 60  # time limit of the command of `--notify`

_COUNTS = ("rows_before", "rows_after", "added", "removed", "changed")


class Outcome:
    """Runs the notebooks of a command and collects what to report."""

    def __init__(self, command: str, notebooks: tuple[str, ...], database: Path, data_dir: Path) -> None:
        self.command, self.notebooks = command, notebooks
        self.database, self.data_dir = database, data_dir
        self.exports: list[Path] = []
        self._report = data_dir / "quality" / "quality_report.json"
        self._report_before = self._version_of_report()
        self._began, self._started = datetime.now(UTC), monotonic()
        self._folder: Path | None = None
        self._executed: dict[str, Path] = {}
        self._seconds: dict[str, float] = {}
        self._pages: list[Path] = []

    def run(
        self, notebook: str, values: dict[str, object], on_cell: Callable[["Progress"], None]
    ) -> None:
        """Run one of the notebooks; raises as `run_notebook` and `new_run_folder` do."""
        from mart_helpers.run import new_run_folder, run_notebook

        started = monotonic()
        try:
            self._folder = self._folder or new_run_folder(self.data_dir / "runs", self.command)
            self._executed[notebook] = run_notebook(notebook, values, self._folder, on_cell)
        finally:
            self._seconds[notebook] = monotonic() - started

    def write_pages(self, show_code: bool) -> None:
        """Write the executed notebooks as pages: one page for `report`, otherwise one per notebook."""
        from mart_helpers.pages import write_pages, write_report

        places = (list(self._executed.values()), self.data_dir / "pages", self.database)
        if self.command == "report":
            self._pages = [write_report(*places, self._report)]
        else:
            self._pages = write_pages(*places, show_code)

    def lines(self) -> str:
        """The seconds, the notebooks' summaries, and where the results are, as aligned lines."""
        results: dict[str, list[str]] = {}
        if len(self.notebooks) > 1:
            results |= {name: [f"{seconds:.1f} s"] for name, seconds in self._seconds.items()}
        results |= self._said()
        if "04_quality" in self._executed and self._report.exists():
            checks = json.loads(self._report.read_text(encoding="utf-8"))["checks"]
            results["checks"] = verdict_lines(checks)
        if "01_build" in self._executed and self.database.exists():
            results["mart"] = [f"{shown(self.database)} ({size_text(self.database)})"]
        if self.exports:
            results["exports"] = [", ".join(map(shown, self.exports))]
        if "04_quality" in self._executed:
            results["quality"] = [shown(self._report.parent)]
        results["executed"] = [shown(self._folder)]
        if self._pages:
            results["page"] = list(map(shown, self._pages))
        if self.command == "all":
            results["next"] = ["make lab opens the notebooks, make app shows the mart with controls"]
        if "dashboard" in results and self.command != "report":  # open it first, so print it last
            results["dashboard"] = results.pop("dashboard")
        rows = [
            row for word, texts in results.items() for row in zip_longest([word], texts, fillvalue="")
        ]
        return aligned(rows, indent="")

    def open_page(self) -> None:
        """Open the dashboard, or else the page, in a browser; if there is none, print the path."""
        import webbrowser

        (page, *_) = self._pages if self.command in ("explore", "report") else self._dashboard()
        if not webbrowser.open(page.resolve().as_uri()):
            print(f"mart: --open found no browser. Open {shown(page)} in one.", file=sys.stderr)

    def _said(self) -> dict[str, list[str]]:
        """The lines of the notebooks' summaries by their first word, or else by the notebook's word."""
        from mart_helpers.run import summary_of

        said: dict[str, list[str]] = {}
        for notebook, executed in self._executed.items():
            lines: dict[str, list[str]] = {}
            word = notebook.partition("_")[2]
            for line in summary_of(executed):
                start, gap, text = line.partition("  ")
                word = start if gap and start else word
                lines.setdefault(word, []).append(text.strip() if gap else line)
            said |= lines
        return said

    def summary(self, exit_status: int, error: str = "") -> dict[str, object]:
        """The JSON object (version 1) that `--notify` passes on; docs/nights.md describes it.

        Times are ISO 8601 in UTC, `build` comes from `build_facts`, `checks` are the `counts` and
        `failures` of the quality report, and money is text as *Before and after* shows it. Anything
        unknown or not done by this run is null.
        """
        report, changes = self._new_report(), self._changes()
        return {
            "format_version": SUMMARY_VERSION,
            "command": self.command,
            "exit_status": exit_status,
            "error": error or None,
            **self._verdict(error, report),
            "began_at": self._began.isoformat(timespec="seconds"),
            "seconds": round(monotonic() - self._started, 3),
            "notebooks": [self._step(each) for each in self.notebooks],
            "build": self._build(),
            "changes": changes,
            "is_changed": changes and any(each[name] for each in changes for name in _COUNTS[2:]),
            "checks": report and {name: report[name] for name in ("counts", "failures")},
            "database": str(self.database),
            "executed": self._folder and str(self._folder),
            "quality": report and str(self._report.parent),
            "exports": list(map(str, self.exports if "03_export" in self._executed else [])),
            "pages": list(map(str, [*self._pages, *self._dashboard()])),
            "lines": [line for lines in self._said().values() for line in lines],
        }

    def _verdict(self, error: str, report: dict | None) -> dict[str, str | None]:
        if error:
            return {"verdict": "fail", "headline": error.splitlines()[0]}
        if report:
            return {"verdict": report["status"], "headline": report["headline"]}
        said = [f"{word}: {lines[0]}" for word, lines in self._said().items()]
        gate = [check["status"] for check in self._table("checks")]  # only if published
        return {"verdict": overall(gate) if gate else None, "headline": "; ".join(said) or "done"}

    def _changes(self) -> list[dict[str, object]] | None:
        """The rows of *Before and after*, with counts as numbers."""
        return [
            {n: int(text.replace(",", "")) if n in _COUNTS else text or None for n, text in row.items()}
            for row in self._table("changes")
        ] or None

    def _table(self, tag: str) -> list[dict[str, str]]:
        """The rows that a cell of 01_build shows, if this run published."""
        from mart_helpers.run import table_of

        return table_of(self._executed["01_build"], tag) if "01_build" in self._executed else []

    def _build(self) -> dict[str, object] | None:
        if "01_build" not in self._executed:
            return None
        from mart_helpers.books import build_facts
        from mart_helpers.session import open_published

        with open_published(self.database) as connection:
            return build_facts(connection)

    def _dashboard(self) -> list[Path]:
        page = self.data_dir / "pages" / "dashboard.html"
        return [page] if "05_dashboard" in self._executed else []

    def _version_of_report(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = self._report.stat()
            return found.st_ino, found.st_mtime_ns
        return None

    def _new_report(self) -> dict | None:
        if self._version_of_report() in (None, self._report_before):
            return None
        return json.loads(self._report.read_text(encoding="utf-8"))

    def _step(self, notebook: str) -> dict[str, object]:
        seconds = self._seconds.get(notebook)
        result = "done" if notebook in self._executed else "stopped"
        if seconds is None:
            return {"notebook": notebook, "result": "not run", "seconds": None}
        return {"notebook": notebook, "result": result, "seconds": round(seconds, 3)}


@contextmanager
def reported(notebook: str, verbose: bool = False) -> Iterator[Callable[["Progress"], None]]:
    """Show the progress of a run; yields a function to call as each cell starts.

    A terminal shows one line that follows the cells. Other outputs get one line per finished heading:
    date and time, notebook, heading, seconds. With `verbose`, both get one line per cell.
    """
    is_watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    started = began = monotonic()
    step, end = "", "stopped after"

    def follow(progress: "Progress | None") -> None:
        """Report the previous step as finished if this is a new one; None means that the run ended."""
        nonlocal step, began
        place = f"{notebook}  {progress.cell}/{progress.cells}  {progress.heading}" if progress else ""
        new = (place if verbose or not progress else f"{notebook}  {progress.heading}").rstrip()
        if step and new != step and (verbose or not is_watched):
            _say(f"{step}  {monotonic() - began:.2f} s", is_watched)
        if new != step:
            step, began = new, monotonic()
        if progress and is_watched:
            _say(place, is_watched, end="")

    if is_watched:
        _say(f"{notebook}  starting", is_watched, end="")
    try:
        yield follow
        end = "done in"
    finally:
        follow(None)
        _say(f"{notebook}  {end} {monotonic() - started:.1f} s", is_watched)


def _say(text: str, is_watched: bool, end: str = "\n") -> None:
    text = visible(text)
    if is_watched:
        text = f"\r\x1b[2K{text[: shutil.get_terminal_size().columns - 1]}"
    else:
        text = f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}"
    with suppress(OSError):  # a run does not fail because its progress cannot be shown
        print(text, end=end, file=sys.stderr, flush=True)


def hand_on(command: str, summary: Mapping[str, object]) -> str:
    """Pass `summary` as JSON to the standard input of a shell command; returns the problem, or "".

    The command's output goes to standard error. It is killed after 60 seconds.
    """
    process = subprocess.Popen(
        command, shell=True, stdin=subprocess.PIPE, stdout=2, start_new_session=True
    )
    try:
        process.communicate(json.dumps(summary, indent=2).encode(), NOTIFY_SECONDS)
    except subprocess.TimeoutExpired:
        return f"did not end in {NOTIFY_SECONDS} seconds, and was stopped"
    finally:
        if process.poll() is None:  # the command and the processes that it started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"ended with status {process.returncode}" if process.returncode else ""
