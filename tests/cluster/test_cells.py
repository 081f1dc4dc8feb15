"""Each SQL cell of the notebooks that read gives on a cluster what it gives without one."""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from mart_helpers.cluster.server import Cluster
from mart_helpers.lake import lake_of
from mart_helpers.parameters import notebook_cells, notebook_parameters, notebook_path
from mart_helpers.session import Session, open_published


def sql_cells(notebook: str) -> Iterator[tuple[str, str]]:
    """The id and the source of each SQL cell."""
    for cell in notebook_cells(notebook_path(notebook)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.startswith("%%sql"):
            yield cell["id"], source


def copy_of(database: Path) -> Path:
    """The mart under another name, since a process opens a file only once."""
    copy = database.with_name("copy.duckdb")
    if not copy.exists():
        shutil.copyfile(database, copy)
        lake_of(copy).symlink_to(lake_of(database), target_is_directory=True)
    return copy


def assert_same(ours: Session, theirs: Session, source: str) -> None:
    """The statements of a cell give the same rows with the same names and types in both sessions."""
    found = [each.execute(source.partition("\n")[2]) for each in (ours, theirs)]
    shown = [[column[:2] for column in each.connection.description] for each in (ours, theirs)]
    if found[0] is not None:
        assert shown[0] == shown[1]
        pd.testing.assert_frame_equal(*found, check_exact=True)
    for table in re.findall(r"create or replace temp table (\w+)", source):
        rows = [each.connection.execute(f"from {table} order by all") for each in (ours, theirs)]
        assert rows[0].description == rows[1].description
        assert rows[0].fetchall() == rows[1].fetchall()


@pytest.mark.parametrize("notebook", ["02_explore", "04_quality", "05_dashboard"])
def test_each_cell_gives_the_same(server, sample, notebook):
    values = {each.name: each.default for each in notebook_parameters(notebook_path(notebook))}
    plain = copy_of(sample)
    with (
        closing(open_published(plain)) as ours,
        closing(Cluster(open_published(sample), sample, server)) as theirs,
    ):
        assert isinstance(ours, duckdb.DuckDBPyConnection)
        sessions = Session(ours, plain, values), Session(theirs, sample, values)
        for name, source in sql_cells(notebook):
            try:
                assert_same(*sessions, source)
            except Exception as error:
                raise AssertionError(f"cell {name} differs: {error}") from error
