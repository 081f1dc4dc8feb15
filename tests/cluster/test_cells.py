"""The notebooks that read give on a cluster what they give without one."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pandas as pd
import pytest
from conftest import mart

from mart_helpers.checks import explain_failures, run_checks
from mart_helpers.cluster.server import Cluster
from mart_helpers.lake import lake_of
from mart_helpers.parameters import notebook_cells, notebook_parameters, notebook_path
from mart_helpers.run import answer_questions
from mart_helpers.session import Session, open_published

# How many selects the cells send; all other cells name no fact, or only make views.
SENT = {
    "03_export": {"03-08": 1},
    "02_explore": {
        **{"02-05": 2, "02-05a": 1, "02-10": 1, "02-11": 2, "02-16": 2, "02-16b": 2, "02-18": 4},
        **{"02-20a-view": 1, "02-20a": 2, "02-21": 1, "02-24": 1, "02-25a": 1, "stock-day": 1},
        **{"stock-lasts": 2, "02-25c": 1, "02-26": 1, "02-29": 2, "02-32": 1, "hist-moved": 2},
        **{"02-35": 2, "02-38": 2, "02-41-look": 1, "02-41": 1, "02-43a": 1, "02-44": 4, "02-47": 1},
        "02-49a": 1,
    },
    "05_dashboard": {
        **{"05-05": 1, "05-06": 1, "05-10": 1, "05-12": 1, "05-19": 2, "05-21": 3, "05-25": 3},
        **{"05-27": 4, "05-28a": 1, "05-30": 1},
    },
}

COMMANDS = [
    ["quality", "--fail-on", "never"],
    ["export", "--formats", "csv,xlsx,parquet"],
    ["dashboard", "--filters", "category"],
]

FILTERED = {"start_date": "2024-03-10", "end_date": "2024-11-20", "history": "current"}


@contextmanager
def both(database: Path, server: str, values: dict[str, object]) -> Iterator[tuple[Session, Session]]:
    """A session without a cluster, and one with it."""
    copy = database.with_name("copy.duckdb")  # since a process opens a file only once
    if not copy.exists():
        shutil.copyfile(database, copy)
        lake_of(copy).symlink_to(lake_of(database), target_is_directory=True)
    with (
        closing(open_published(copy)) as ours,
        closing(Cluster(open_published(database), database, server)) as theirs,
    ):
        yield Session(ours, copy, values), Session(theirs, database, values)


def assert_same(ours: Session, theirs: Session, source: str) -> None:
    """The statements give the same rows with the same names and types in both sessions."""
    found = [each.execute(source) for each in (ours, theirs)]
    shown = [[column[:2] for column in each.connection.description] for each in (ours, theirs)]
    if found[0] is not None:
        assert shown[0] == shown[1]
        pd.testing.assert_frame_equal(*found, check_exact=True)
    for table in re.findall(r"create or replace temp table (\w+)", source):
        rows = [each.connection.execute(f"from {table} order by all") for each in (ours, theirs)]
        assert rows[0].description == rows[1].description
        assert rows[0].fetchall() == rows[1].fetchall()


@pytest.mark.parametrize(
    ("mart", "notebook", "given"),
    [
        ("clean", "02_explore", FILTERED),
        ("damaged", "02_explore", {}),
        ("damaged", "03_export", {"start_date": "2024-03-10", "end_date": "2024-11-20"}),
        ("damaged", "04_quality", {"as_of_date": "2024-12-31"}),
        ("clean", "05_dashboard", {"filters": "category, city"}),
    ],
)
def test_each_cell_gives_the_same(server, request, mart, notebook, given):
    values = {each.name: each.default for each in notebook_parameters(notebook_path(notebook))} | given
    sent = Counter()
    with both(request.getfixturevalue(mart), server, values) as sessions:
        if notebook == "03_export":
            days = {name: values[name] for name in ("start_date", "end_date")}
            ours, theirs = (answer_questions(each, "02_explore", "", **days) for each in sessions)
            assert ours == theirs
        for cell in notebook_cells(notebook_path(notebook)):
            magic, _, source = "".join(cell["source"]).partition("\n")
            if cell["cell_type"] == "code" and magic.startswith("%%sql"):
                before = len(sessions[1].connection.sent)
                try:
                    assert_same(*sessions, source)
                except Exception as error:
                    raise AssertionError(f"cell {cell['id']}: {error}") from error
                sent[cell["id"]] = len(sessions[1].connection.sent) - before
    assert +sent == SENT.get(notebook, {})


@pytest.mark.parametrize("days", [("", ""), ("2024-03-10", "2024-11-20")])
def test_each_check_finds_the_same_rows(server, damaged, days):
    with both(damaged, server, {"as_of_date": "2024-12-31", "max_age_days": 7}) as sessions:
        for session in sessions:
            session.execute("set variable as_of_date = date '2025-02-01'; set variable max_age_days = 7")
        results = [run_checks(session, *days) for session in sessions]
        pd.testing.assert_frame_equal(*results)
        assert (results[0]["bad_rows"] > 0).sum() >= 4
        ours, theirs = (explain_failures(s, r) for s, r in zip(sessions, results, strict=True))
        for one, other in zip(ours, theirs, strict=True):
            pd.testing.assert_frame_equal(one.sample, other.sample)
        assert len(sessions[1].connection.sent) == 59


def test_reports_and_exports_are_the_same_files(server, damaged):
    home = damaged.parents[1]
    for place, *cluster in (["plain"], [f"on-{server[-5:]}", "--cluster", server]):
        for command in COMMANDS:
            done = mart(*command, "--data-dir", place, *cluster, cwd=home)
            assert done.returncode == 0, done.stderr
    ours, theirs = home / "plain", home / f"on-{server[-5:]}"
    files = [path.relative_to(ours) for path in ours.rglob("*") if path.is_file()]
    files = [path for path in files if path.parts[0] != "runs" and path.name != "history.csv"]
    assert len(files) > 30
    assert [path for path in files if (ours / path).read_bytes() != (theirs / path).read_bytes()] == []
    [log] = theirs.glob("runs/*-export/03_export.sent.sql")
    assert re.search(
        r"^-- \d+\.\d\d s, 1 rows, for: select min\(date\) as first_sale", log.read_text(), re.M
    )
