"""How far a run is, on standard error: a line that follows the cells on a terminal, else a log."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING

from mart_helpers.texts import visible

if TYPE_CHECKING:
    from mart_helpers.run import Progress


@contextmanager
def reported(notebook: str, verbose: bool = False) -> Iterator[Callable[["Progress"], None]]:
    """Show a run; what it yields is to be called as each cell starts.

    A terminal shows one line that follows the cells. Elsewhere each heading whose cells have run leaves
    a line: date and time, notebook, heading, seconds. With `verbose`, each cell leaves one, everywhere.
    """
    lines = _Lines(notebook, verbose, sys.stderr.isatty() and os.environ.get("TERM") != "dumb")
    started = monotonic()
    outcome = "stopped after"
    try:
        yield lines.follow
        outcome = "done in"
    finally:
        lines.follow(None)
        lines.say(f"{notebook}  {outcome} {monotonic() - started:.1f} s")


class _Lines:
    def __init__(self, notebook: str, verbose: bool, is_watched: bool) -> None:
        self._notebook, self._verbose, self._is_watched = notebook, verbose, is_watched
        self._step, self._began = "", monotonic()
        if is_watched:
            self.say(f"{notebook}  starting", end="")

    def follow(self, progress: "Progress | None") -> None:
        """Say that the step before has ended, if this is another; None is the end of the last."""
        step = self._step_of(progress) if progress else ""
        if self._step and step != self._step and (self._verbose or not self._is_watched):
            self.say(f"{self._step}  {monotonic() - self._began:.2f} s")
        if step != self._step:
            self._step, self._began = step, monotonic()
        if progress and self._is_watched:
            self.say(f"{self._notebook}  {_place(progress)}", end="")

    def _step_of(self, progress: "Progress") -> str:
        return f"{self._notebook}  {_place(progress) if self._verbose else progress.heading}".rstrip()

    def say(self, text: str, end: str = "\n") -> None:
        text = visible(text)
        if self._is_watched:
            text = f"\r\x1b[2K{text[: shutil.get_terminal_size().columns - 1]}"
        else:
            text = f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}"
        with suppress(OSError):  # what is done counts, not who is told
            print(text, end=end, file=sys.stderr, flush=True)


def _place(progress: "Progress") -> str:
    return f"{progress.cell}/{progress.cells}  {progress.heading}"
