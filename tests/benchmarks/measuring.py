"""Time and peak memory of a command, with every process that it starts. Linux only: it reads /proc.

Imports nothing but the standard library: a process begins its life with the peak of the one that
started it, so a large one here would be counted in each measurement.
"""

import os
import resource
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

PAGE = os.sysconf("SC_PAGE_SIZE")
SECONDS_BETWEEN_LOOKS = 0.05


class CommandFailed(Exception):
    """A measured command ended with a status other than 0; the text holds the end of its output."""


@dataclass(frozen=True)
class Run:
    """What one run took: wall-clock seconds, peak bytes of resident memory, seconds of all cores."""

    seconds: float
    peak: int
    cpu: float = 0


def measure(command: list[str], cwd: Path, environment: dict[str, str]) -> Run:
    """Run `command` to its end, with `environment` added to our own.

    Files written before are on the disk first, so that nobody pays for another's. The peak is the
    largest sum over the process and all its descendants at one moment, looked at 20 times a second.
    Pages that processes share count for each, files mapped into memory count too. A short peak is not
    missed between two looks: at least, the result is the system's own record of the largest process,
    where that exceeds ours, with which it begins. Raises CommandFailed.
    """
    os.sync()
    with tempfile.TemporaryFile() as output:
        started = perf_counter()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        watch = _Watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - started
        watch.end()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace")[-3000:]
            raise CommandFailed(f"{' '.join(command)}\nended with {process.returncode}:\n{said}")
    largest, ours = usage.ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    highest = max(watch.peak, largest * 1024 if largest > ours else 0)
    return Run(seconds, highest, usage.ru_utime + usage.ru_stime)


class _Watch(threading.Thread):
    """Looks at the memory of a process and its descendants until it is told to end."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            self.peak = max(self.peak, sum(map(_resident, _family(self._pid))))

    def end(self) -> None:
        self._ended.set()
        self.join()


def _family(pid: int) -> Iterator[int]:
    """`pid` and its descendants; each thread of a process has a list of the children it started."""
    yield pid
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as children:
                for child in children.read().split():
                    yield from _family(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return  # it has just ended


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as sizes:
            return int(sizes.read().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0
