"""The extracts and marts that are measured with: made once in the scratch folder, then used again."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measuring import measure

CHECKOUT = Path(__file__).resolve().parents[2]
DATED = Path(__file__).with_name("dated.py")
COLUMNS = ("sale_id", "sale_date", "customer_id", "product_id", "quantity", "unit_price", "discount")
LINES_PER_BAD = 100
CHANGED_MONTH = "2024-06-"

# What stands in place of a good value, each in turn; None leaves the field out.
DUPLICATE = "the id of the line before"
DAMAGE = (
    ("sale_date", "2024-02-30"),
    ("sale_date", "03/04/2024"),
    ("sale_date", ""),
    ("quantity", "ten"),
    ("quantity", "2.5"),
    ("unit_price", '"18,50"'),
    ("unit_price", "€ 18.50"),
    ("discount", "5%"),
    ("discount", "1.5"),
    ("customer_id", "nobody"),
    ("product_id", "nothing"),
    ("product_id", ""),
    ("sale_id", ""),
    ("sale_id", DUPLICATE),
    ("discount", None),
    ("discount", "0,one field too many"),
)


@dataclass(frozen=True)
class Extracts:
    """A folder with the three extracts: clean, damaged (1 % bad) or changed (in one month)."""

    scratch: Path
    sales: int
    kind: str = "clean"

    @property
    def folder(self) -> Path:
        return self.scratch / f"{self.kind}-{self.sales}"

    @property
    def fact_sales(self) -> Path:
        return self.folder / "fact_sales.csv"

    @property
    def mart(self) -> Path:
        return self.folder / "mart.duckdb"

    @property
    def bad_rows(self) -> int:
        return self.sales // LINES_PER_BAD if self.kind == "damaged" else 0

    def make(self) -> None:
        """Write the files if they are not there yet, and read them, to have them in memory."""
        if not self.fact_sales.exists() and self.kind == "clean":
            run("generate", "--sales", str(self.sales), "--out", str(self.folder))
        elif not self.fact_sales.exists():
            clean = Extracts(self.scratch, self.sales)
            clean.make()
            shutil.copytree(
                clean.folder, self.folder, ignore=shutil.ignore_patterns("fact_sales.*", "mart*")
            )
            part = self.folder / "fact_sales.part"
            with (
                clean.fact_sales.open(encoding="utf-8") as lines,
                part.open("w", encoding="utf-8") as out,
            ):
                out.write(next(lines))
                out.writelines({"damaged": _damaged, "changed": _changed}[self.kind](lines))
            part.rename(self.fact_sales)
        _read_once(self.fact_sales)

    def make_mart(self) -> None:
        """Build a mart of them beside them, if it is not there yet."""
        if not self.mart.exists():
            self.make()
            run("build", "--inputs-dir", str(self.folder), *place(self.mart, self.folder / "runs"))
        _read_once(self.mart)


@dataclass(frozen=True)
class DatedExtracts:
    """Clean sales, and a dated file of all customers for each month or day, with 1 % of them changed."""

    clean: Extracts
    files: int
    customers: int
    step: str

    @property
    def folder(self) -> Path:
        return self.clean.scratch / f"{self.step}s-{self.files}-{self.clean.sales}"

    def make(self) -> None:
        """Write the files if they are not there yet, and read the sales, to have them in memory."""
        sales = self.folder / "fact_sales.csv"
        if not sales.exists():
            self.clean.make()
            (self.folder / "dim_customer").mkdir(parents=True, exist_ok=True)
            shutil.copy(self.clean.folder / "dim_product.csv", self.folder)
            # a process of its own, so that this one stays small
            values = (self.clean.folder, self.folder, self.files, self.customers, self.step)
            subprocess.run([sys.executable, DATED, *map(str, values)], check=True)
        _read_once(sales)


def run(*arguments: str) -> None:
    """Run `python -m mart …`. Raises CommandFailed."""
    measure(mart_command(*arguments), CHECKOUT, {})


def mart_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mart", *arguments]


def place(database: Path, data_dir: Path) -> list[str]:
    return ["--database", str(database), "--data-dir", str(data_dir)]


def _read_once(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def _damaged(lines: Iterator[str]) -> Iterator[str]:
    """One line in a hundred is bad, for one reason after the other."""
    before = ""
    for number, line in enumerate(lines, 1):
        if number % LINES_PER_BAD:
            yield line
            before = line
            continue
        column, bad_value = DAMAGE[(number // LINES_PER_BAD - 1) % len(DAMAGE)]
        values = dict(zip(COLUMNS, line.rstrip("\n").split(","), strict=True))
        values[column] = before.partition(",")[0] if bad_value == DUPLICATE else bad_value
        yield ",".join(value for value in values.values() if value is not None) + "\n"


def _changed(lines: Iterator[str]) -> Iterator[str]:
    """Each sale of one month has one unit more."""
    for line in lines:
        values = line.split(",")
        if values[1].startswith(CHANGED_MONTH):
            values[4] = str(int(values[4]) + 1)
        yield ",".join(values)
