"""The break-it lab: each kind of damage is caught, by what it says catches it, on the line to blame.

The answers are those for 2,000 good sales.
"""

import csv
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import make_home, mart_command, query

from mart_helpers.checks import Failure, explain_failures, run_checks
from mart_helpers.cli import main
from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.lab.damage import KINDS, QUARANTINE, REFUSAL, Kind, break_inputs
from mart_helpers.lab.generator import generate
from mart_helpers.lab.sample import write_sample
from mart_helpers.session import Session, open_published

GOOD_BUILDS = 5  # from so many on, a build is compared with those before it
DAY_AFTER = date(2025, 1, 1)


@dataclass(frozen=True)
class Answer:
    """Where the damage of a kind shows: the number of bad rows, and the first of them in the inputs.

    There is no line where no row is to blame: something is missing, or a file is wrong as a whole.
    """

    rows: int | None
    file: str = ""
    line: int | None = None


ANSWERS = {
    "orphan_key": Answer(16, "fact_sales.csv", 566),
    "duplicate_key": Answer(12, "fact_sales.csv", 1002),
    "bad_dates": Answer(50, "fact_sales.csv", 41),
    "excel_dates": Answer(81, "fact_sales.csv", 924),
    "total_row": Answer(1, "fact_sales.csv", 2002),
    "cut_off_file": Answer(1, "fact_sales.csv", 1901),
    "loose_comma": Answer(1, "dim_customer.csv", 17),
    "missing_column": Answer(None, "fact_sales.csv"),
    "open_quote": Answer(None, "fact_sales.csv", 1501),
    "wrong_encoding": Answer(None, "dim_customer.csv", 2),
    "decimal_comma": Answer(2000, "fact_sales.csv", 2),
    "doubled_month": Answer(119, "fact_sales/2024-12.csv", 2),
    "lost_customers": Answer(470, "fact_sales.csv", 6),
    "error_page": Answer(None, "fact_sales.csv"),
    "swapped_header": Answer(2000, "fact_sales.csv", 2),
    "day_month_swapped": Answer(7, "fact_sales.csv", 131),
    "negative_price": Answer(38, "fact_sales.csv", 28),
    "price_times_100": Answer(95, "fact_sales.csv", 1652),
    "lost_month": Answer(1),
    "future_dates": Answer(5, "fact_sales.csv", 1601),
    "sales_before_signup": Answer(255, "fact_sales.csv", 6),
    "unknown_customers": Answer(1),
    "anonymous_discounts": Answer(20, "fact_sales.csv", 1069),
    "stale_extract": Answer(1),
    "quarter_of_the_file": Answer(2),
}


@dataclass(frozen=True)
class BadRow:
    """A row of `quarantine`."""

    file: str
    line: int
    column: str
    reason: str
    raw_row: str


@dataclass(frozen=True)
class Outcome:
    """What a build came to: the message of a refusal, or what is in its mart, published or not."""

    inputs: Path
    database: Path
    refusal: str
    quarantine: list[BadRow]
    failures: dict[str, Failure]

    @property
    def catchers(self) -> set[str]:
        """What has noticed something."""
        noticed = {REFUSAL} if self.refusal else set()
        return noticed | ({QUARANTINE} if self.quarantine else set()) | set(self.failures)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for extracts and their marts."""
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_home(folder / "home", monkeypatch)
        yield folder


@pytest.fixture(scope="module")
def clean(lab: Path) -> Path:
    """Extracts in which nothing is wrong, so that whatever is found is the damage."""
    generate(2_000, lab / "clean")
    return lab / "clean"


def build(inputs: Path, database: Path) -> CompletedProcess:
    return mart_command("build", "--inputs-dir", inputs, "--database", database)


@pytest.fixture(scope="module")
def history(lab: Path, clean: Path) -> Path:
    """A mart of clean extracts that was built as often as the comparison of volumes asks."""
    database = lab / "history.duckdb"
    for _ in range(GOOD_BUILDS):
        assert build(clean, database).returncode == 0
    return database


@pytest.fixture(scope="module")
def outcome_of(lab: Path, history: Path, clean: Path) -> Callable[[str], Outcome]:
    """What a build of a kind of damage, or of the "undamaged" extracts, comes to after good builds."""

    @cache
    def outcome(name: str) -> Outcome:
        inputs, database = lab / name, lab / f"{name}.duckdb"
        if name == "undamaged":
            inputs = clean
        else:
            assert break_inputs(name, clean, inputs)[1] == DAY_AFTER
        database.write_bytes(history.read_bytes())
        ran = build(inputs, database)
        refusal = ran.stderr.partition("mart: ")[2]
        if refusal and "Nothing is published; the mart is unchanged." not in refusal:
            assert not refusal.startswith("01_build, cell "), refusal  # as an unforeseen error does
            return Outcome(inputs, database, refusal, [], {})
        found = read(Path(f"{database}.candidate") if refusal else database, inputs)
        is_stopped = any(failure.severity == "error" for failure in found.failures.values())
        assert (ran.returncode, bool(refusal)) == (is_stopped, is_stopped)
        return found

    return outcome


def read(database: Path, inputs: Path) -> Outcome:
    """What 04_quality finds in a mart on the day after the last sale of the sample."""
    session = Session(open_published(database), database, {})
    session.connection.execute(f"set variable as_of_date = date '{DAY_AFTER}'")
    session.connection.execute("set variable max_age_days = 7")
    failures = explain_failures(session, run_checks(session), str(inputs))
    session.close()
    columns = "file, line, coalesce(column_name, ''), reason, raw_row"
    rows = query(database, f"select {columns} from quarantine order by file, line")
    by_name = {failure.check_name: failure for failure in failures}
    return Outcome(inputs, database, "", [BadRow(*row) for row in rows], by_name)


def is_caught(kind: Kind, outcome: Outcome) -> bool:
    """Whether what the kind says catches it does so, with as many rows and on the line of its answer."""
    if kind.caught_by == REFUSAL:
        return is_refused(kind, outcome.refusal)
    if kind.caught_by == QUARANTINE:
        found = in_quarantine(kind, outcome)
        places = [(row.file, row.line) for row in found]
    else:
        failure = outcome.failures.get(kind.caught_by)
        if failure is None or failure.bad_rows is None:
            return False
        found = range(failure.bad_rows)
        places = named_places(failure)
    answer = ANSWERS[kind.name]
    first = [(answer.file, answer.line)] if answer.line else []
    return len(found) == answer.rows and places[:1] == first


def is_refused(kind: Kind, message: str) -> bool:
    answer = ANSWERS[kind.name]
    words = [f"{answer.file}: ", kind.words, kind.column]
    words += [f"line {answer.line}"] if answer.line else []
    words += [f"{answer.rows:,} of its"] if kind.name == "lost_customers" else []
    return all(each.lower() in message.lower() for each in words) and bool(message)


def in_quarantine(kind: Kind, outcome: Outcome) -> list[BadRow]:
    return [row for row in outcome.quarantine if kind.words in row.reason and row.column == kind.column]


def named_places(failure: Failure) -> list[tuple[str, int]]:
    """File and line of the rows that a failed check shows; none where it shows no rows of the inputs."""
    if "line" not in failure.sample:
        return []
    there = failure.sample.dropna(subset="line")  # a published row that is gone is nowhere
    return list(zip(there["file"], there["line"], strict=True))


def lines_of_keys(path: Path) -> dict[str, int]:
    """The physical line on which the row of each key stands in a CSV file."""
    with path.open(newline="") as file:
        reader = csv.reader(file)
        return {row[0]: reader.line_num for row in reader}


def test_a_kind_of_damage_is_caught_by_what_it_says_and_on_the_line_to_blame(outcome_of, subtests):
    for kind in KINDS:
        with subtests.test(kind.name):
            outcome = outcome_of(kind.name)
            assert kind.caught_by in outcome.catchers
            assert is_caught(kind, outcome), (
                outcome.refusal,
                in_quarantine(kind, outcome),
                outcome.failures,
            )
            for row in outcome.quarantine:
                lines = (outcome.inputs / row.file).read_text().splitlines()
                assert lines[row.line - 1] == row.raw_row
            for failure in outcome.failures.values():
                if ANSWERS[kind.name].line and "sale_id" in failure.sample:
                    lines = lines_of_keys(outcome.inputs / "fact_sales.csv")
                    keys = failure.sample["sale_id"]
                    assert named_places(failure) == [
                        ("fact_sales.csv", lines[key]) for key in keys if key in lines
                    ]


def test_there_are_25_kinds_and_an_answer_to_each():
    assert [kind.name for kind in KINDS] == list(ANSWERS)
    assert len(KINDS) == 25


def test_the_undamaged_sample_is_caught_by_nothing(outcome_of):
    assert outcome_of("undamaged").catchers == set()
    assert not any(is_caught(kind, outcome_of("undamaged")) for kind in KINDS)


def test_three_quarters_of_the_sales_lost_show_in_the_volume_and_in_what_was_published(outcome_of):
    assert outcome_of("quarter_of_the_file").catchers == {
        "build_is_near_earlier_builds",
        "fact_sales_keeps_its_closed_months",
        "fact_sales_keeps_its_newest_month",
        "fact_sales_keeps_most_of_its_newest_month",
    }


def test_damage_is_the_same_each_time_and_leaves_the_other_files_alone(clean, tmp_path):
    originals = {path.name: path.read_bytes() for path in clean.iterdir()}
    for kind in KINDS:
        first, second = (break_inputs(kind.name, clean, tmp_path / kind.name / n)[0] for n in "ab")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        assert sum(path.read_bytes() == originals.get(path.name) for path in first) == 2
        folder = tmp_path / kind.name / "a"
        assert first == sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_folder_that_cannot_be_the_new_one_is_left_alone(clean, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, error, message in [
        (tmp_path, UsageError, "already exists. Give --out a new or an empty folder"),
        (tmp_path / "file", UsageError, "already exists. Give --out a new or an empty folder"),
        (tmp_path / "file" / "below", StateError, "below cannot be written to: Not a directory"),
        (tmp_path / "link", StateError, "link cannot be written to"),
    ]:
        with pytest.raises(error, match=message):
            break_inputs("orphan_key", clean, out)
    assert (tmp_path / "file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_extracts_that_are_no_good_ones_are_refused(clean, tmp_path, subtests):
    for table, change, message in [
        ("dim_product", None, "dim_product.csv: cannot be read"),
        ("dim_product", lambda text: text.replace("unit_cost", "cost"), "has no column unit_cost"),
        ("fact_sales", lambda text: head(text, 50), "found 49 rows, expected 100 or more"),
        ("fact_sales", lambda text: head(text, 150), "found sales of 3 months, expected 6 or more"),
        ("fact_sales", lambda text: text[:-8], "is broken already .uneven rows"),
        ("fact_sales", lambda text: text.replace(",202", ",in 202"), "found sales of 0 months"),
        ("dim_customer", lambda text: text.encode("cp1252"), "dim_customer.csv: cannot be read"),
        ("dim_customer", lambda text: text.replace("Kettle, Cup", "Kettle Cup"),
            "for this kind of damage"),
    ]:  # fmt: skip
        with subtests.test(message):
            inputs = shutil.copytree(clean, tmp_path / "inputs", dirs_exist_ok=True)
            path = inputs / f"{table}.csv"
            changed = change(path.read_text()) if change else None
            path.unlink()
            if changed is not None:
                path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
            with pytest.raises(InputError, match=message):
                break_inputs("loose_comma", inputs, tmp_path / "out")
            assert not (tmp_path / "out").exists()


def test_extracts_with_some_bad_rows_of_their_own_are_damaged_as_well(tmp_path):
    write_sample(tmp_path / "inputs")
    for kind in KINDS:
        paths, day_after = break_inputs(kind.name, tmp_path / "inputs", tmp_path / kind.name)
        assert day_after == DAY_AFTER
        assert len(paths) >= 3


def head(text: str, lines: int) -> str:
    return "".join(text.splitlines(keepends=True)[:lines])


def test_the_help_lists_the_kinds_with_what_happened_and_no_answer(home, capsys):
    assert main(["break", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for kind in KINDS:
        assert f" {kind.name} {kind.story}" in said
        assert kind.caught_by not in said


def test_an_unknown_kind_is_refused_with_the_nearest_one(home, capsys):
    assert main(["break", "swaped_header", "--out", str(home / "out")]) == 2
    assert 'unknown kind "swaped_header". Did you mean swapped_header?' in capsys.readouterr().err
    assert not (home / "out").exists()


def test_the_commands_that_break_prints_work_as_they_stand_and_find_the_damage(home, tmp_path, mart):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = mart("break", "stale_extract", "--out", "a lab/one", cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    wrote, next_steps = result.stdout.split("\n\n")
    names = sorted(path.name for path in (home / "inputs").glob("*.csv"))
    assert wrote.splitlines() == [f"wrote 'a lab/one/{name}'" for name in names]
    build, quality = (shlex.split(line)[1:] for line in next_steps.splitlines()[1:])
    assert f"{home / 'data' / 'broken' / 'mart.duckdb'}" in build
    assert mart(*build, cwd=elsewhere).returncode == 0
    assert mart(*quality, cwd=elsewhere).returncode == 0
    verdict = mart(*quality, "--fail-on", "warn", cwd=elsewhere)
    assert verdict.returncode == 1
    assert "last_sale_is_recent" in verdict.stdout + verdict.stderr
