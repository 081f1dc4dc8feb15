"""Exercises that check themselves: a learner's view is compared with a model answer on two marts.

Each is a file in `exercises/` with a task, three hints, typical mistakes and an answer. The second mart
has other sales, so an answer that copies values from the first one fails.
"""

import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from mart_helpers.errors import StateError, UsageError
from mart_helpers.lab.damage import break_inputs
from mart_helpers.lab.generator import generate
from mart_helpers.parameters import resolve
from mart_helpers.session import Session, in_words, open_published
from mart_helpers.texts import did_you_mean, quoted

FILES = {path.stem: path for path in sorted(Path(__file__).with_name("exercises").glob("*.sql"))}
PARTS = re.compile(
    r"^-- (?P<kind>[a-z]+):(?P<words>.*(\n-- (?![a-z]+:).*)*)(?P<sql>(\n(?!-- ).*)*)", re.MULTILINE
)
DAMAGES = ("bad_dates", "price_times_100")  # in the second mart, for the exercises to find
BUILD = "-m mart build --stage=4 --allow-restated --keep-previous=0"


class Said(str):
    """A text that a notebook shows formatted."""

    __repr__ = _repr_markdown_ = str.__str__


class Exercises:
    """The exercises for the mart of a session. Each method raises UsageError for an unknown name."""

    def __init__(self, mart: Session, data_dir: str | Path) -> None:
        self._mart = mart
        self._second = resolve(data_dir) / "exercises" / "mart.duckdb"
        self._hints: Counter[str] = Counter()

    def task(self, name: str) -> Said:
        """The task of the exercise."""
        return Said(read_exercise(name)["task"][0][0])

    def hint(self, name: str) -> Said:
        """The next hint; after the last one, a model answer."""
        exercise = read_exercise(name)
        self._hints[name] += 1
        if (given := self._hints[name]) > len(exercise["hint"]):
            return Said(f"One way to write it:\n\n```sql\n{exercise['answer'][0][1]}\n```")
        return Said(f"Hint {given} of {len(exercise['hint'])}: {exercise['hint'][given - 1][0]}")

    def check(self, name: str) -> Said:
        """Whether the temporary view `name` is right on both marts; if not, what is wrong with it."""
        exercise = read_exercise(name)
        mine = "select view_name, sql from duckdb_views() where temporary and not internal"
        views = self._mart.connection.execute(mine).fetchall()
        if name not in dict(views):
            return Said(f"Not answered yet: there is no view `{name}`.")
        with in_words():
            answers = (exercise["answer"][0][1], f"from {quoted(name)}")
            expected, found = (_columns(self._mart.connection, sql) for sql in answers)
            if sorted(found) != sorted(expected):
                return Said(f"Not yet. The columns should be {', '.join(map('`{}`'.format, expected))}.")
            self._make_second()
            with open_published(self._second) as second:
                for _, sql in views * len(views):  # views may need each other, in any order
                    with suppress(duckdb.Error):
                        second.execute(sql)
                return Said(_verdict(name, exercise, [self._mart.connection, second]))

    def _make_second(self) -> None:
        """Build the second mart with the present notebook, unless it is newer than the mart itself."""
        with suppress(FileNotFoundError):
            if self._second.stat().st_mtime >= self._mart.database.stat().st_mtime:
                return
        with TemporaryDirectory() as folder:
            inputs = Path(folder, "good")
            generate(2_000, inputs)
            for damage in DAMAGES:
                break_inputs(damage, inputs, inputs := Path(folder, damage))
            _move_customers(inputs.rename(Path(folder, "history")) / "dim_customer.csv")
            places = [f"--inputs-dir={folder}", f"--database={self._second}", f"--data-dir={folder}"]
            build = [sys.executable, *BUILD.split(), *places]
            built = subprocess.run(build, capture_output=True, text=True)
        if built.returncode:
            raise StateError(f"The exercises' second mart cannot be built. {built.stderr.strip()}")


def _move_customers(extract: Path) -> None:
    """Split one extract into two dated ones, between which all customers in Hamburg move to Leipzig."""
    text = extract.read_text(encoding="utf-8")
    extract.unlink()
    extract.with_suffix("").mkdir()
    for day, said in (("2023-01-01", text), ("2024-07-01", text.replace(",Hamburg,", ",Leipzig,"))):
        extract.with_suffix("").joinpath(f"{day}.csv").write_text(said, encoding="utf-8")


def read_exercise(name: str) -> dict[str, list[tuple[str, str]]]:
    """The parts of an exercise by kind, each with its words and, for mistakes and answer, its SQL."""
    if name not in FILES:
        raise UsageError(f'There is no exercise "{name}".{did_you_mean(name, FILES)}')
    parts: dict[str, list[tuple[str, str]]] = {}
    for part in PARTS.finditer(FILES[name].read_text(encoding="utf-8")):
        words = part["words"].replace("\n-- Columns", "\n\nColumns").replace("\n-- ", " ")
        parts.setdefault(part["kind"], []).append((words.strip(), part["sql"].strip()))
    return parts


def _verdict(name: str, exercise: dict, marts: list[duckdb.DuckDBPyConnection]) -> str:
    answer, view = exercise["answer"][0][1], f"from {quoted(name)}"
    found, expected = ([_rows(mart, sql) for mart in marts] for sql in (view, answer))
    if found == expected:
        return f"Right: {found[0].total():,} rows here, and {found[1].total():,} in the second mart."
    for words, sql in exercise["mistake"]:
        if found == [_rows(mart, sql) for mart in marts]:
            return f"Not yet. {words}"
    if found[0] != expected[0]:
        return f"Not yet. {_difference(found[0], expected[0])}"
    return f"Right here, but not in the second mart. {_difference(found[1], expected[1])}"


def _columns(mart: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    return [name.lower() for name, *_ in mart.execute(sql).description]


def _rows(mart: duckdb.DuckDBPyConnection, sql: str) -> Counter[tuple]:
    """The rows of a query, so that the order of rows and columns and number types do not matter."""
    names = _columns(mart, sql)
    rows = (zip(names, map(_plain, row), strict=True) for row in mart.fetchall())
    return Counter(tuple(sorted(row, key=str)) for row in rows)


def _plain(value: object) -> object:
    if isinstance(value, Decimal | float):
        return round(float(value), 4)
    return value.date() if isinstance(value, datetime) else value


def _difference(found: Counter[tuple], expected: Counter[tuple]) -> str:
    said = ""
    for what, rows in (("missing", expected - found), ("too many", found - expected)):
        for first in sorted(rows, key=str)[:1]:
            count = "1 row is" if rows.total() == 1 else f"{rows.total():,} rows are"
            said += f"{count} {what}, such as {', '.join(f'{name} {value}' for name, value in first)}. "
    return said.strip()
