"""How fast is the workbook, and how lean? Ours beside other ways of doing it, in one table.

`make bench` runs everything, BENCH_ARGS="--quick" tries it out on small files. The full run makes about
5 GB of extracts and marts in the scratch folder, which the next run uses again, and needs as much free
beside. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

from extracts import CHECKOUT
from measuring import CommandFailed, Run, measure
from rows import HERE, PEERS, PEERS_BIN, Bench, Row, Task

QUICK_SCALE = 0.005
HEADER = ("row", "work", "ours", "compared with", "theirs", "ours ÷ theirs", "target", "met")
LEGEND = """\
Seconds, those of all cores, and GB at the peak of all processes together, are medians. The ratio is the
median of those of the pairs; of several others the quickest counts.\
"""


class Disagreement(Exception):
    """A star that was measured is not the one it should be."""


@dataclass(frozen=True)
class Result:
    """The runs of a row, in their order: ours, and the others by name."""

    row: Row
    ours: list[Run]
    others: dict[str, list[Run]]

    @property
    def quickest(self) -> str | None:
        return min(self.others, key=lambda name: seconds(self.others[name]), default=None)

    @property
    def ratio(self) -> float | None:
        if not self.others:
            return None
        pairs = zip(self.ours, self.others[self.quickest], strict=True)
        return median(ours.seconds / other.seconds for ours, other in pairs)

    @property
    def is_met(self) -> bool | None:
        """Whether each target of the row is met; None if it has none."""
        row, figure = self.row, self.ratio or seconds(self.ours)
        if not target(row):
            return None
        is_lean = row.most_memory is None or peak(self.ours) <= row.most_memory
        return is_lean and (row.at_most is None or figure <= row.at_most)


def main() -> int:
    options = _options()
    os.environ.pop("MART_HOME", None)  # ours is this checkout, or the home that a task names
    # the warm-up leaves bytecode behind, as the first run of a program does unless Python is told not to
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    bench = Bench(options.scratch.absolute(), QUICK_SCALE if options.quick else options.scale)
    rows = [row for row in bench.rows() if any(fnmatch(row.name, each) for each in options.rows)]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    results: list[Result] = []
    try:
        verify_peers(bench, {row.peer for row in rows})
        for row in rows:
            results.append(run(row, options.pairs or (1 if options.quick else row.pairs)))
    except (CommandFailed, Disagreement) as error:
        print(f"\nSTOPPED: {error}\n", file=sys.stderr)
        return 1
    finally:
        for side in ("ours", "other"):
            shutil.rmtree(bench.out(side), ignore_errors=True)
        if results:
            print_results(results)
    return 0


def verify_peers(bench: Bench, peers: set[str | None]) -> None:
    """Raise Disagreement if a peer's star of a few sales is not ours, CommandFailed without the peer."""
    for peer in (peer for peer in PEERS if peer in peers):
        if not PEERS_BIN.is_dir():
            raise CommandFailed(
                f"{PEERS_BIN.relative_to(CHECKOUT)} is not there. Run `make bench` instead."
            )
        row = bench.sample(peer)
        for need in row.needs:
            need()
        for task in (row.ours, row.others[peer]):
            timed(task)
        verify(row)
        say(f"{peer} makes the same star of a few sales")


def run(row: Row, pairs: int) -> Result:
    """Measure ours and the others in turn, after one run of each that does not count."""
    for need in row.needs:
        say(f"{row.name}: making what it needs")
        need()
    result = Result(row, [], {name: [] for name in row.others})
    for number in range(0 if row.warm_up else 1, pairs + 1):
        taken = [timed(task) for task in (row.ours, *row.others.values())]
        verify(row)
        if number:
            for runs, measured in zip([result.ours, *result.others.values()], taken, strict=True):
                runs.append(measured)
        say(f"{row.name}, run {number}: " + " | ".join(f"{each.seconds:.2f} s" for each in taken))
    return result


def timed(task: Task) -> Run:
    task.prepare()
    return measure(task.command, CHECKOUT, task.environment)


def verify(row: Row) -> None:
    """Raise Disagreement if a peer made another star, or our quarantine is not what it should be."""
    if row.peer:
        ours, theirs = star(row.ours), star(row.others[row.peer])
        differing = {name: (ours[name], value) for name, value in theirs.items() if ours[name] != value}
        if differing:
            raise Disagreement(f"{row.name}: ours and {row.peer} differ: {differing}")
    if row.bad_rows is not None:
        found = star(row.ours)
        if (found["bad_lines"], found["bad_values_without_a_line"]) != (str(row.bad_rows), "0"):
            raise Disagreement(f"{row.name}: {row.bad_rows} rows are bad, but found was {found}")


def star(task: Task) -> dict[str, str]:
    """What `verifying.py` says; a process of its own, so that this one stays small."""
    command = [sys.executable, str(HERE / "verifying.py"), str(task.star)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def seconds(runs: list[Run]) -> float:
    return median(run.seconds for run in runs)


def peak(runs: list[Run]) -> float:
    return median(run.peak for run in runs)


def target(row: Row) -> str:
    figure = f"≤ {row.at_most:.2g}{'' if row.others else ' s'}" if row.at_most else ""
    memory = f"≤ {row.most_memory / 1e9:g} GB" if row.most_memory else ""
    return ", ".join(filter(None, (figure, memory)))


def print_results(results: list[Result]) -> None:
    """As Markdown, aligned for a terminal."""
    rows = [HEADER, *map(_cells, results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        print(f"| {' | '.join(map(str.ljust, row, widths))} |")
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()
    met = [result.is_met for result in results if result.is_met is not None]
    print(f"\n{LEGEND}\n{sum(met)} of {len(met)} targets are met.")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, commit {commit}")


def _cells(result: Result) -> tuple[str, ...]:
    other = result.quickest
    return (
        result.row.name,
        result.row.work,
        _figures(result.ours),
        other or "",
        _figures(result.others[other]) if other else "",
        f"{result.ratio:.2f}" if other else "",
        target(result.row),
        {True: "yes", False: "NO", None: ""}[result.is_met],
    )


def _figures(runs: list[Run]) -> str:
    cpu = median(run.cpu for run in runs)
    return f"{seconds(runs):.2f} s, {cpu:.2f} s, {peak(runs) / 1e9:.2f} GB"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench, BENCH_ARGS", description=__doc__)
    add = parser.add_argument
    add("rows", nargs="*", default=["*"], metavar="ROW", help="only these rows, such as 'dbt-*'")
    add("--list", action="store_true", help="name the rows and stop")
    add("--scale", type=float, default=1, help="multiply all numbers of sales by this (default: 1)")
    add("--pairs", type=int, help="runs of each side (default: 3, and more if seconds are few)")
    add("--quick", action="store_true", help=f"to try it out: scale {QUICK_SCALE}, one pair")
    add(
        "--scratch", type=Path, default=CHECKOUT / "data" / "bench", help="folder for extracts and marts"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
