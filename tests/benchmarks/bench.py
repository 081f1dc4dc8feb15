"""How fast is the workbook, and how lean? Ours and another way of doing it, side by side, in one table.

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
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

from making import CHECKOUT
from measuring import CommandFailed, Run, measure
from rows import HERE, PEERS, PEERS_BIN, Bench, Row, Task, all_rows, sample_row

SCRATCH = CHECKOUT / "data" / "bench"
QUICK_SCALE = 0.005
HEADER = (
    "row",
    "work",
    "ours, s",
    "other",
    "other, s",
    "ratio",
    "target",
    "met",
    "ours, MB",
    "other, MB",
)
LEGEND = """\
Seconds, and MB at the peak of all processes together, are medians; the ratio is the median of those of
the pairs: ours ÷ other, and for dbt, pandas and polars other ÷ ours, how many times as long they take.\
"""


class Disagreement(Exception):
    """A star that was measured is not the one it should be."""


@dataclass(frozen=True)
class Result:
    """The runs of a row, in pairs and in their order."""

    row: Row
    ours: list[Run]
    other: list[Run]

    @property
    def ratio(self) -> float | None:
        if not self.other:
            return None
        ratios = [a.seconds / b.seconds for a, b in zip(self.ours, self.other, strict=True)]
        return median([1 / ratio for ratio in ratios] if self.row.is_peer else ratios)

    @property
    def is_met(self) -> bool | None:
        """Whether each target of the row is met; None where it has none."""
        row, figure = self.row, self.ratio or seconds(self.ours)
        tests = [
            row.at_most is None or figure <= row.at_most,
            row.at_least is None or figure >= row.at_least,
            row.most_memory is None or peak(self.ours) <= row.most_memory,
        ]
        return all(tests) if target(row) else None


def main() -> int:
    options = _options()
    os.environ.pop("MART_HOME", None)  # ours is this checkout, or the home that a task names
    # the warm-up leaves bytecode behind, as the first run of a program does unless Python is told not to
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    bench = Bench(options.scratch.absolute(), QUICK_SCALE if options.quick else options.scale)
    rows = [row for row in all_rows(bench) if any(fnmatch(row.name, each) for each in options.rows)]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    pairs = options.pairs or (1 if options.quick else None)
    results: list[Result] = []
    try:
        refuse_missing_peers(rows)
        verify_peers(bench, rows)
        for row in rows:
            results.append(run(row, pairs))
            save(results, bench, [bench.scratch / "last.json", *filter(None, [options.keep])])
    except (CommandFailed, Disagreement) as error:
        print(f"\nSTOPPED: {error}\n", file=sys.stderr)
        return 1
    finally:
        for side in ("ours", "other"):
            shutil.rmtree(bench.out(side), ignore_errors=True)
        if results:
            print_results(results)
    if options.compare:
        print_changes(results, json.loads(options.compare.read_text(encoding="utf-8")))
    return 0


def refuse_missing_peers(rows: list[Row]) -> None:
    if any(row.is_peer for row in rows) and not PEERS_BIN.is_dir():
        raise CommandFailed(f"{PEERS_BIN.relative_to(CHECKOUT)} is not there. Run `make bench` instead.")


def verify_peers(bench: Bench, rows: list[Row]) -> None:
    """Raise Disagreement where a peer's star of the sample is not ours."""
    for peer in PEERS:
        if any(row.other_name == peer for row in rows):
            row = sample_row(bench, peer)
            for task in (row.ours, row.other):
                timed(task)
            verify(row)
            say(f"{peer} makes the same star of the sample")


def run(row: Row, pairs: int | None) -> Result:
    """Measure ours and the other in turn, after one run of each that does not count."""
    for needed in row.needs:
        say(f"{row.name}: making {needed}")
        needed.make()
    tasks = [task for task in (row.ours, row.other) if task]
    taken: list[list[Run]] = [[] for _ in tasks]
    for number in range(0 if row.warm_up else 1, (pairs or row.pairs) + 1):
        for task, runs in zip(tasks, taken, strict=True):
            measured = timed(task)
            if number:
                runs.append(measured)
        verify(row)
        latest = " | ".join(f"{runs[-1].seconds:.2f} s" for runs in taken) if number else "warmed up"
        say(f"{row.name}: {latest}")
    return Result(row, *taken, *([[]] if len(taken) == 1 else []))


def timed(task: Task) -> Run:
    task.prepare()
    return measure(task.command, CHECKOUT, task.environment)


def verify(row: Row) -> None:
    """Raise Disagreement where a peer made another star, or our quarantine is not what it should be."""
    if row.is_peer:
        ours, theirs = star(row.ours), star(row.other)
        differing = {name: (ours[name], value) for name, value in theirs.items() if ours[name] != value}
        if differing:
            raise Disagreement(f"{row.name}: ours and {row.other_name} differ: {differing}")
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
    unit = "" if row.other else " s"
    parts = [
        f"≤ {row.at_most:g}{unit}" if row.at_most else "",
        f"≥ {row.at_least:g}" if row.at_least else "",
        f"≤ {row.most_memory / 1e6:,.0f} MB" if row.most_memory else "",
    ]
    return ", ".join(filter(None, parts))


def print_results(results: list[Result]) -> None:
    print_table([HEADER, *map(_cells, results)])
    met = [result.is_met for result in results if result.is_met is not None]
    print(f"\n{LEGEND}\n{sum(met)} of {len(met)} targets are met.")


def _cells(result: Result) -> tuple[str, ...]:
    row, ours, other = result.row, result.ours, result.other
    return (
        row.name,
        row.work,
        f"{seconds(ours):.2f}",
        row.other_name,
        f"{seconds(other):.2f}" if other else "",
        f"{result.ratio:.2f}" if result.ratio else "",
        target(row),
        {True: "yes", False: "NO", None: ""}[result.is_met],
        f"{peak(ours) / 1e6:,.0f}",
        f"{peak(other) / 1e6:,.0f}" if other else "",
    )


def print_table(rows: list[tuple[str, ...]]) -> None:
    """As Markdown, aligned for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = (" | ".join(map(str.ljust, row, widths)) for row in rows)
    print(
        "\n".join(f"| {line} |" for line in [header, " | ".join("-" * width for width in widths), *body])
    )


def print_changes(results: list[Result], earlier: dict) -> None:
    """What differs from an earlier run of the same work; rows that it does not have are left out."""
    then = {(row["name"], row["work"]): row for row in earlier["rows"]}
    compared = [(each, then.get((each.row.name, each.row.work))) for each in results]
    body = [
        (
            each.row.name,
            each.row.work,
            *_change(before["seconds"], seconds(each.ours)),
            *_change(before["ratio"], each.ratio),
            *_change(before["peak"] / 1e6, peak(each.ours) / 1e6),
        )
        for each, before in compared
        if before
    ]
    print(f"\nSince {earlier['finished']} ({earlier['machine']['commit']}):\n")
    print_table([("row", "work", "ours, s", "", "ratio", "", "ours, MB", ""), *body])


def _change(before: float | None, now: float | None) -> tuple[str, str]:
    if not before or not now:
        return "", ""
    return f"{before:,.2f} → {now:,.2f}", f"{100 * (now / before - 1):+.0f} %"


def save(results: list[Result], bench: Bench, paths: Iterable[Path]) -> None:
    """Write every run so far as JSON, so that a run that is cut short is not lost."""
    record = {
        "format_version": 1,
        "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "scale": bench.scale,
        "rows": [
            {
                "name": result.row.name,
                "work": result.row.work,
                "other_name": result.row.other_name,
                "seconds": seconds(result.ours),
                "peak": peak(result.ours),
                "ratio": result.ratio,
                "target": target(result.row),
                "met": result.is_met,
                "ours": list(map(asdict, result.ours)),
                "other": list(map(asdict, result.other)),
            }
            for result in results
        ],
    }
    for path in paths:
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    python = platform.python_version()
    return {"cores": os.cpu_count(), "memory": memory, "python": python, "commit": commit}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench, BENCH_ARGS", description=__doc__)
    add = parser.add_argument
    add("rows", nargs="*", default=["*"], metavar="ROW", help="only these rows, such as 'dbt-*'")
    add("--list", action="store_true", help="name the rows and stop")
    add("--scale", type=float, default=1, help="multiply all numbers of sales by this (default: 1)")
    add("--pairs", type=int, help="runs of each side (default: 3, and 9 where seconds are few)")
    add("--quick", action="store_true", help=f"to try it out: scale {QUICK_SCALE}, one pair")
    add(
        "--scratch",
        type=Path,
        default=SCRATCH,
        help="folder for extracts and marts (default: data/bench)",
    )
    add("--keep", type=Path, metavar="FILE", help="keep the runs in this JSON file, besides last.json")
    add("--compare", type=Path, metavar="FILE", help="show what has changed since that kept run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
