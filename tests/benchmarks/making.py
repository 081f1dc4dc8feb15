"""The extracts and marts that are measured with: made once in the scratch folder, then used again."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from measuring import measure

CHECKOUT = Path(__file__).resolve().parents[2]
COLUMNS = ("sale_id", "sale_date", "customer_id", "product_id", "quantity", "unit_price", "discount")
GOOD_LINES_PER_BAD = 99

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
CHANGED_MONTH = "2024-06-"


@dataclass(frozen=True)
class Extracts:
    """A folder with the three extracts, `kind` is clean, damaged or changed."""

    scratch: Path
    sales: int
    kind: str = "clean"

    def __str__(self) -> str:
        return f"{self.sales:,} {self.kind} sales"

    @property
    def folder(self) -> Path:
        return self.scratch / f"{self.kind}-{self.sales}"

    @property
    def fact_sales(self) -> Path:
        return self.folder / "fact_sales.csv"

    @property
    def bad_rows(self) -> int:
        return self.sales // (GOOD_LINES_PER_BAD + 1) if self.kind == "damaged" else 0

    def make(self) -> None:
        """Write the files where they are not there yet, and read them, to have them in memory."""
        if not self.fact_sales.exists():
            {"clean": self._generate, "damaged": self._damage, "changed": self._change}[self.kind]()
        read_once(self.fact_sales)

    def _generate(self) -> None:
        mart("generate", "--sales", str(self.sales), "--out", str(self.folder))

    def _damage(self) -> None:
        self._rewrite(_damaged)

    def _change(self) -> None:
        self._rewrite(_changed)

    def _rewrite(self, rewritten: Callable[[Iterator[str]], Iterator[str]]) -> None:
        clean = Extracts(self.scratch, self.sales)
        clean.make()
        shutil.copytree(clean.folder, self.folder, ignore=shutil.ignore_patterns("fact_sales.csv"))
        part = self.folder / "fact_sales.part"
        with clean.fact_sales.open(encoding="utf-8") as lines, part.open("w", encoding="utf-8") as out:
            out.write(next(lines))
            out.writelines(rewritten(lines))
        part.rename(self.fact_sales)


@dataclass(frozen=True)
class Mart:
    """A mart that is read and never written to, built from these extracts."""

    extracts: Extracts

    def __str__(self) -> str:
        return f"mart of {self.extracts}"

    @property
    def database(self) -> Path:
        return self.extracts.folder / "mart.duckdb"

    def make(self) -> None:
        """Build it where it is not there yet."""
        if not self.database.exists():
            self.extracts.make()
            folder = self.extracts.folder
            mart("build", "--inputs-dir", str(folder), *place(self.database, folder / "runs"))
        read_once(self.database)


def mart(*arguments: str) -> None:
    """Run `python -m mart …`. Raises CommandFailed."""
    measure(mart_command(*arguments), CHECKOUT, {})


def mart_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mart", *arguments]


def place(database: Path, data_dir: Path) -> list[str]:
    return ["--database", str(database), "--data-dir", str(data_dir)]


def read_once(path: Path) -> None:
    with path.open("rb") as file:
        for _ in iter(partial(file.read, 1 << 20), b""):
            pass


def _damaged(lines: Iterator[str]) -> Iterator[str]:
    """One line in a hundred is bad, for one reason after the other."""
    sale_id, bad = "", 0
    for number, line in enumerate(lines, 1):
        if number % (GOOD_LINES_PER_BAD + 1):
            yield line
            sale_id = line
        else:
            yield _bad_line(line, DAMAGE[bad % len(DAMAGE)], sale_id.partition(",")[0])
            bad += 1


def _bad_line(line: str, damage: tuple[str, str | None], earlier_id: str) -> str:
    column, bad_value = damage
    values = dict(zip(COLUMNS, line.rstrip("\n").split(","), strict=True))
    values[column] = earlier_id if bad_value == DUPLICATE else bad_value
    return ",".join(value for value in values.values() if value is not None) + "\n"


def _changed(lines: Iterator[str]) -> Iterator[str]:
    """Each sale of one month has one unit more."""
    for line in lines:
        if f",{CHANGED_MONTH}" not in line:
            yield line
            continue
        values = line.split(",")
        values[4] = str(int(values[4]) + 1)
        yield ",".join(values)
