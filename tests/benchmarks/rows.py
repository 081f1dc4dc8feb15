"""What is measured against what: the rows of the table."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from extracts import CHECKOUT, DatedExtracts, Extracts, mart_command, place

HERE = Path(__file__).resolve().parent
PEERS_BIN = HERE / ".venv" / "bin"
PEERS = ("dbt", "pandas", "polars", "polars-files")
NOTEBOOKS = ("01_build", "04_quality", "02_explore", "03_export", "05_dashboard")


@dataclass(frozen=True)
class Task:
    """A command, the folder that it finds empty or as a new home, and the star that it makes."""

    command: list[str]
    out: Path
    environment: dict[str, str] = field(default_factory=dict)
    star: Path | None = None
    is_home: bool = False

    def prepare(self) -> None:
        """Empty the folder; a home gets the notebooks and the sample."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        if self.is_home:
            for part in ("notebooks", "inputs"):
                shutil.copytree(CHECKOUT / part, self.out / part)


@dataclass(frozen=True)
class Row:
    """Ours beside others of the same work; of several, the quickest counts.

    `at_most` is for the ratio ours ÷ other, or for seconds if there is no other. The star of a peer is
    compared with ours; `bad_rows` says how many have to be in our quarantine.
    """

    name: str
    work: str
    ours: Task
    others: dict[str, Task] = field(default_factory=dict)
    at_most: float | None = None
    most_memory: float | None = None
    bad_rows: int | None = None
    needs: tuple[Callable[[], None], ...] = ()
    pairs: int = 3
    warm_up: bool = True

    @property
    def peer(self) -> str | None:
        return next((name for name in self.others if name in PEERS), None)


@dataclass(frozen=True)
class Bench:
    """Where things are made, and by how much all sizes are multiplied."""

    scratch: Path
    scale: float = 1

    def rows(self) -> Iterator[Row]:
        yield from self._starts()
        yield self._papermill()
        for peer, sales, at_most in (
            ("dbt", 100_000, 1 / 2),
            ("dbt", 1_000_000, 1 / 2),
            ("dbt", 10_000_000, 1 / 1.2),
            ("pandas", 1_000_000, 1),
            ("pandas", 10_000_000, 1),
            ("polars", 1_000_000, None),
            ("polars", 10_000_000, None),
            ("polars-files", 1_000_000, None),
            ("polars-files", 10_000_000, None),
        ):
            yield self._peer(peer, sales, at_most)
        yield self._load("build-clean", self.extracts(10_000_000), 2)
        yield self._load("build-damaged", self.extracts(10_000_000, "damaged"), 3)
        yield self._history(36, 100_000, "month")
        yield self._history(1_000, 3_000, "day")
        yield from (self._export(kind) for kind in ("csv", "json", "parquet"))
        yield self._diff()
        yield self._growth(1_000_000, 10_000_000)
        limit = ("--memory-limit", "4GB")
        yield self._growth(10_000_000, 50_000_000, *limit, at_most=6, most_memory=4.5e9, warm_up=False)

    def extracts(self, sales: int, kind: str = "clean") -> Extracts:
        return Extracts(self.scratch, max(1_000, round(sales * self.scale)), kind)

    def out(self, side: str) -> Path:
        return self.scratch / side

    def sample(self, peer: str) -> Row:
        """A few clean sales by us and by a peer: whether they agree, not how long they take."""
        few = Extracts(self.scratch, 1_000)
        return Row(
            f"sample-{peer}",
            "",
            self.build("ours", few.folder),
            {peer: self.peer_task(peer, few.folder)},
            needs=(few.make,),
        )

    def build(self, side: str, inputs: Path, *more: str) -> Task:
        out = self.out(side)
        star = out / "mart.duckdb"
        return Task(
            mart_command("build", "--inputs-dir", str(inputs), *place(star, out), *more), out, star=star
        )

    def peer_task(self, peer: str, inputs: Path) -> Task:
        out = self.out("other")
        star = out if peer == "polars-files" else out / "star.duckdb"
        if peer == "dbt":
            return self._dbt(out, inputs, star)
        script = HERE / "peers" / f"{peer.partition('-')[0]}_star.py"
        return Task([str(PEERS_BIN / "python"), str(script), str(inputs), str(star)], out, star=star)

    def _dbt(self, out: Path, inputs: Path, star: Path) -> Task:
        """`dbt build` on all cores; its parsed project is kept from run to run, as dbt does at home."""
        project, kept = HERE / "peers" / "dbt", self.scratch / "dbt"
        folders = {
            "project-dir": project,
            "profiles-dir": project,
            "target-path": kept,
            "log-path": kept,
        }
        options = [text for name, path in folders.items() for text in (f"--{name}", str(path))]
        environment = {
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            "STAR_DATABASE": str(star),
            "STAR_INPUTS": str(inputs),
            "STAR_THREADS": str(os.cpu_count()),
        }
        return Task([str(PEERS_BIN / "dbt"), "build", *options], out, environment, star=star)

    def _starts(self) -> Iterator[Row]:
        small, out = self.extracts(100_000), self.out("ours")
        yield Row("help", "--help", Task(mart_command("--help"), out), at_most=0.15, pairs=9)
        yield Row(
            "inspect",
            f"inspect, {small.sales:,} sales",
            Task(mart_command("inspect", *place(small.mart, out)), out),
            at_most=0.5,
            needs=(small.make_mart,),
            pairs=9,
        )

    def _papermill(self) -> Row:
        """All notebooks on the sample, by us and by papermill as it comes."""
        ours, other = self.out("ours"), self.out("other")
        runs = (f"'{sys.executable}' -m papermill notebooks/{n}.ipynb {n}.ipynb" for n in NOTEBOOKS)
        at_home = {side: {"MART_HOME": str(side), "PYTHONPATH": str(CHECKOUT)} for side in (ours, other)}
        naive = ["sh", "-c", f"cd '{other}' && {' && '.join(runs)}"]
        return Row(
            "all",
            "all, on the sample",
            Task(mart_command("all"), ours, at_home[ours], is_home=True),
            {f"papermill × {len(NOTEBOOKS)}": Task(naive, other, at_home[other], is_home=True)},
            at_most=0.35,
            pairs=5,
        )

    def _peer(self, peer: str, full: int, at_most: float | None) -> Row:
        extracts = self.extracts(full)
        return Row(
            f"{peer}-{full // 1000}k",
            f"build, {extracts.sales:,} sales",
            self.build("ours", extracts.folder),
            {peer: self.peer_task(peer, extracts.folder)},
            at_most=at_most,
            needs=(extracts.make,),
        )

    def _load(self, name: str, extracts: Extracts, at_most: float) -> Row:
        """Beside the floor, both with DuckDB's default and without keeping the order of lines."""
        out = self.out("other")
        load = [str(HERE / "floor.py"), "load", str(extracts.fact_sales), str(out / "floor.duckdb")]
        good = ["good"] if extracts.bad_rows else []
        return Row(
            name,
            f"build, {extracts.sales:,} sales, {extracts.bad_rows:,} bad",
            self.build("ours", extracts.folder),
            {
                "read_csv": Task([sys.executable, *load, *good], out),
                "read_csv, any order": Task([sys.executable, *load, *good, "fast"], out),
            },
            at_most=at_most,
            bad_rows=extracts.bad_rows,
            needs=(extracts.make,),
        )

    def _history(self, files: int, customers: int, step: str) -> Row:
        """Beside a plain read of the same files into tables."""
        clean, out = self.extracts(5_000_000), self.out("other")
        dated = DatedExtracts(clean, files, max(100, round(customers * min(self.scale, 1))), step)
        read = [str(HERE / "floor.py"), "read", str(dated.folder), str(out / "floor.duckdb")]
        return Row(
            f"history-{files}",
            f"build, {clean.sales:,} sales, {files:,} files of {dated.customers:,} customers",
            self.build("ours", dated.folder),
            {"read_csv": Task([sys.executable, *read], out)},
            at_most=2,
            needs=(dated.make,),
        )

    def _export(self, kind: str) -> Row:
        extracts, ours, other = self.extracts(10_000_000), self.out("ours"), self.out("other")
        only = ("--formats", kind, "--tables", "fact_sales")
        copy = [str(HERE / "floor.py"), "copy", str(extracts.mart), str(other / f"fact_sales.{kind}")]
        return Row(
            f"export-{kind}",
            f"export of fact_sales, {extracts.sales:,} sales, {kind}",
            Task(mart_command("export", *only, *place(extracts.mart, ours)), ours),
            {"copy": Task([sys.executable, *copy], other)},
            at_most=1.2,
            needs=(extracts.make_mart,),
        )

    def _diff(self) -> Row:
        clean, changed = self.extracts(10_000_000), self.extracts(10_000_000, "changed")
        out = self.out("ours")
        return Row(
            "diff",
            f"diff, {clean.sales:,} sales, one month changed",
            Task(mart_command("diff", "--before", str(clean.mart), *place(changed.mart, out)), out),
            {"the build": self.build("other", clean.folder)},
            at_most=0.3,
            needs=(clean.make_mart, changed.make_mart),
        )

    def _growth(self, small: int, large: int, *options: str, **targets: float | bool) -> Row:
        before, after = self.extracts(small), self.extracts(large)
        return Row(
            f"growth-{large // 1_000_000}M",
            " ".join((f"build, {after.sales:,} sales", *options)),
            self.build("ours", after.folder, *options),
            {f"build, {before.sales:,}": self.build("other", before.folder, *options)},
            needs=(before.make, after.make),
            **targets,
        )
