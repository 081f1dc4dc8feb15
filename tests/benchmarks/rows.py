"""What is measured against what: the rows of the table."""

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from making import CHECKOUT, Extracts, Mart, mart_command, place

HERE = Path(__file__).resolve().parent
PEERS_BIN = HERE / ".venv" / "bin"
SAMPLE = CHECKOUT / "inputs"
PEERS = ("dbt", "pandas", "polars", "polars-files")
NOTEBOOKS = ("01_build", "04_quality", "02_explore", "03_export")


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
    """Two tasks side by side, or ours alone.

    `at_least` is for ratios other ÷ ours, `at_most` for ours ÷ other, or for seconds where there is no
    other. `is_peer` says that both make the same star, which is then compared; `bad_rows` how
    many have to be in our quarantine. `pairs` of runs follow one warm-up, if any.
    """

    name: str
    work: str
    ours: Task
    other: Task | None = None
    other_name: str = ""
    at_most: float | None = None
    at_least: float | None = None
    most_memory: float | None = None
    is_peer: bool = False
    bad_rows: int | None = None
    needs: tuple[Extracts | Mart, ...] = ()
    pairs: int = 3
    warm_up: bool = True


@dataclass(frozen=True)
class Bench:
    """Where things are made, and by how much all sizes are multiplied."""

    scratch: Path
    scale: float

    def extracts(self, sales: int, kind: str = "clean") -> Extracts:
        return Extracts(self.scratch, max(1_000, round(sales * self.scale)), kind)

    def out(self, side: str) -> Path:
        return self.scratch / side


def all_rows(bench: Bench) -> list[Row]:
    return [
        *_start_rows(bench),
        *sample_rows(bench),
        *_peer_rows(bench),
        *_build_rows(bench),
        *_export_rows(bench),
        _diff_row(bench),
        *_growth_rows(bench),
    ]


def sample_row(bench: Bench, peer: str) -> Row:
    """The sample by us and by a peer: whether they agree, not how long they take."""
    ours = build(bench, "ours", SAMPLE)
    return Row(f"sample-{peer}", "", ours, peer_task(bench, peer, SAMPLE), peer, is_peer=True)


def _start_rows(bench: Bench) -> list[Row]:
    small = Mart(bench.extracts(100_000))
    out = bench.out("ours")
    inspect = Task(mart_command("inspect", *place(small.database, out)), out)
    return [
        Row("help", "python -m mart --help", Task(mart_command("--help"), out), at_most=0.15, pairs=9),
        Row(
            "inspect",
            f"inspect, {small.extracts.sales:,} sales",
            inspect,
            at_most=0.5,
            needs=(small,),
            pairs=9,
        ),
    ]


def sample_rows(bench: Bench) -> list[Row]:
    """All four notebooks on the sample: by papermill, and in one plain process."""
    ours, other = bench.out("ours"), bench.out("other")
    papermill = f"'{sys.executable}' -m papermill"
    naive = " && ".join(f"{papermill} notebooks/{name}.ipynb {name}.ipynb" for name in NOTEBOOKS)
    in_home = {"MART_HOME": str(ours), "PYTHONPATH": str(CHECKOUT)}
    in_other = {"MART_HOME": str(other), "PYTHONPATH": str(CHECKOUT)}
    run_all = Task(mart_command("all"), ours, in_home, is_home=True)
    by_papermill = Task(["sh", "-c", f"cd '{other}' && {naive}"], other, in_other, is_home=True)
    in_one_process = Task(floor("cells", other), other, in_other, is_home=True)
    return [
        Row(
            "all-papermill",
            "all, on the sample",
            run_all,
            by_papermill,
            "papermill × 4",
            at_most=0.35,
            pairs=5,
        ),
        Row(
            "all-plain",
            "all, on the sample",
            run_all,
            in_one_process,
            "same cells, one process",
            at_most=2.5,
        ),
    ]


def _peer_rows(bench: Bench) -> list[Row]:
    asked = (
        ("dbt", 100_000, 4),
        ("dbt", 1_000_000, 3),
        ("dbt", 10_000_000, 1.5),
        ("pandas", 1_000_000, None),
        ("pandas", 10_000_000, None),
        ("polars", 1_000_000, None),
        ("polars", 10_000_000, None),
        ("polars-files", 1_000_000, None),
        ("polars-files", 10_000_000, None),
    )
    return [_peer_row(bench, peer, sales, at_least) for peer, sales, at_least in asked]


def _peer_row(bench: Bench, peer: str, full: int, at_least: float | None) -> Row:
    extracts = bench.extracts(full)
    return Row(
        f"{peer}-{_short(full)}",
        f"build, {extracts.sales:,} sales",
        build(bench, "ours", extracts.folder),
        peer_task(bench, peer, extracts.folder),
        peer,
        at_least=at_least,
        is_peer=True,
        needs=(extracts,),
    )


def _build_rows(bench: Bench) -> list[Row]:
    clean, damaged = bench.extracts(10_000_000), bench.extracts(10_000_000, "damaged")
    return [
        Row(
            "build-clean",
            f"build, {clean.sales:,} clean sales",
            build(bench, "ours", clean.folder),
            floor_load(bench, "load", clean),
            "typed read_csv",
            at_most=1.3,
            bad_rows=0,
            needs=(clean,),
        ),
        Row(
            "build-damaged",
            f"build, {damaged.sales:,} sales, 1 % bad",
            build(bench, "ours", damaged.folder),
            floor_load(bench, "load-good", damaged),
            "typed read_csv, store_rejects",
            at_most=2.0,
            bad_rows=damaged.bad_rows,
            needs=(damaged,),
        ),
    ]


def _export_rows(bench: Bench) -> list[Row]:
    mart = Mart(bench.extracts(10_000_000))
    return [_export_row(bench, mart, kind) for kind in ("csv", "json", "parquet")]


def _export_row(bench: Bench, mart: Mart, kind: str) -> Row:
    ours, other = bench.out("ours"), bench.out("other")
    only = ("--formats", kind, "--tables", "fact_sales")
    export = mart_command("export", *only, *place(mart.database, ours))
    copy = floor("copy", mart.database, other / f"fact_sales.{kind}")
    return Row(
        f"export-{kind}",
        f"export of fact_sales, {mart.extracts.sales:,} sales, {kind}",
        Task(export, ours),
        Task(copy, other),
        "copy",
        at_most=1.2,
        needs=(mart,),
    )


def _diff_row(bench: Bench) -> Row:
    clean, changed = Mart(bench.extracts(10_000_000)), Mart(bench.extracts(10_000_000, "changed"))
    before = ["--before", str(clean.database)]
    out = bench.out("ours")
    return Row(
        "diff",
        f"diff, {clean.extracts.sales:,} sales, one month changed",
        Task(mart_command("diff", *before, *place(changed.database, out)), out),
        build(bench, "other", clean.extracts.folder),
        "the build",
        at_most=0.3,
        needs=(clean, changed),
    )


def _growth_rows(bench: Bench) -> list[Row]:
    one, ten, fifty = (bench.extracts(sales) for sales in (1_000_000, 10_000_000, 50_000_000))
    limit = ("--memory-limit", "4GB")
    return [
        Row(
            "growth-10M",
            f"build, {ten.sales:,} sales",
            build(bench, "ours", ten.folder),
            build(bench, "other", one.folder),
            f"build, {one.sales:,}",
            needs=(one, ten),
        ),
        Row(
            "growth-50M",
            f"build, {fifty.sales:,} sales, memory limit 4 GB",
            build(bench, "ours", fifty.folder, *limit),
            build(bench, "other", ten.folder, *limit),
            f"build, {ten.sales:,}",
            at_most=6,
            most_memory=4.5e9,
            needs=(ten, fifty),
            warm_up=False,
        ),
    ]


def build(bench: Bench, side: str, inputs: Path, *more: str) -> Task:
    out = bench.out(side)
    database = out / "mart.duckdb"
    command = mart_command("build", "--inputs-dir", str(inputs), *place(database, out), *more)
    return Task(command, out, star=database)


def floor(work: str, *arguments: Path) -> list[str]:
    return [sys.executable, str(HERE / "floor.py"), work, *map(str, arguments)]


def floor_load(bench: Bench, work: str, extracts: Extracts) -> Task:
    out = bench.out("other")
    return Task(floor(work, extracts.fact_sales, out / "floor.duckdb"), out)


def peer_task(bench: Bench, peer: str, inputs: Path) -> Task:
    out = bench.out("other")
    if peer == "dbt":
        return _dbt(bench, out, inputs)
    star = out if peer == "polars-files" else out / "star.duckdb"
    script = HERE / "peers" / f"{peer.partition('-')[0]}_star.py"
    return Task([str(PEERS_BIN / "python"), str(script), str(inputs), str(star)], out, star=star)


def _dbt(bench: Bench, out: Path, inputs: Path) -> Task:
    """`dbt build`, on all cores; its parsed project is kept from run to run, as dbt does at home."""
    project, kept = HERE / "peers" / "dbt", bench.scratch / "dbt"
    folders = {"project-dir": project, "profiles-dir": project, "target-path": kept, "log-path": kept}
    options = [text for name, path in folders.items() for text in (f"--{name}", str(path))]
    environment = {
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "STAR_DATABASE": str(out / "star.duckdb"),
        "STAR_INPUTS": str(inputs),
        "STAR_THREADS": str(os.cpu_count()),
    }
    command = [str(PEERS_BIN / "dbt"), "build", *options]
    return Task(command, out, environment, star=out / "star.duckdb")


def _short(sales: int) -> str:
    return f"{sales // 1_000_000}M" if sales >= 1_000_000 else f"{sales // 1_000}k"
