"""The SQL cells of a notebook, run for another one."""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from mart_helpers.errors import QueryError, StateError
from mart_helpers.run import answer_questions
from mart_helpers.session import Session

PARAMETERS = 'least: int = 2  # smallest number, 0 or more\nword: str = "number"  # what it is called'
CELLS = [
    PARAMETERS,
    "raise RuntimeError('no cell in Python is run')",
    "%%sql\nset variable least = $least;\n\n"
    "create or replace temp view numbers as select unnest([3, 1, 2]) as number;",
    "%%sql great_numbers =<<\nselect\n    number,\n    $word as word\nfrom numbers\n"
    "where number >= getvariable('least')\norder by number",
    "%%sql all_numbers <<\nfrom numbers order by number",
]


@pytest.fixture
def mart(tmp_path: Path) -> Iterator[Session]:
    session = Session(duckdb.connect(), tmp_path / "mart.duckdb", {"least": 99})
    yield session
    session.close()


@pytest.fixture
def write_cells(home: Path) -> None:
    def write(*cells: str) -> None:
        entries = [
            {
                "cell_type": "code",
                "source": cell,
                "metadata": {"tags": ["parameters"]} if not place else {},
            }
            for place, cell in enumerate(cells)
        ]
        entries.append({"cell_type": "markdown", "source": "%%sql prose =<<", "metadata": {}})
        path = home / "notebooks" / "02_explore.ipynb"
        path.write_text(json.dumps({"cells": entries, "metadata": {}}))

    write(*CELLS)
    return write


def rows(mart: Session, table: str) -> list[tuple]:
    return mart.connection.execute(f"from {table}").fetchall()


def test_each_named_answer_becomes_a_table_in_its_order(mart, write_cells) -> None:
    assert answer_questions(mart, "02_explore") == ["great_numbers", "all_numbers"]
    assert rows(mart, "great_numbers") == [(2, "number"), (3, "number")]
    assert rows(mart, "all_numbers") == [(1,), (2,), (3,)]


def test_only_the_wanted_answers_are_asked_for(mart, write_cells) -> None:
    write_cells(*CELLS, "%%sql costly =<<\nselect error('asked')", "%%sql\nselect error('shown')")
    names = answer_questions(mart, "02_explore", " All_Numbers ,other")
    assert names == ["great_numbers", "all_numbers", "costly"]
    assert rows(mart, "all_numbers") == [(1,), (2,), (3,)]
    with pytest.raises(duckdb.CatalogException):
        rows(mart, "great_numbers")
    with pytest.raises(QueryError, match="asked"):
        answer_questions(mart, "02_explore")


def test_values_stand_for_parameters_and_no_other_variable_does(mart, write_cells) -> None:
    answer_questions(mart, "02_explore", word="it's; drop table numbers --")
    assert rows(mart, "great_numbers")[0] == (2, "it's; drop table numbers --")
    answer_questions(mart, "02_explore", least=3)
    assert rows(mart, "great_numbers") == [(3, "number")]


def test_a_failing_cell_is_an_error_in_duckdbs_words(mart, write_cells) -> None:
    write_cells(PARAMETERS, "%%sql answer =<<\nselect nothing from nowhere")
    with pytest.raises(QueryError, match="nowhere"):
        answer_questions(mart, "02_explore")


def test_a_notebook_that_is_missing_is_named(mart, home) -> None:
    with pytest.raises(StateError, match="05_more"):
        answer_questions(mart, "05_more")
