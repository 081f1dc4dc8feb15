"""Small marts with the checks that are derived for them, for tests of checks and of their reports."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import duckdb

from mart_helpers.derived import derive_checks
from mart_helpers.session import Session, open_published

MakeMart = Callable[..., Session]


def custom_check(name: str, comment: str, query: str) -> str:
    """Statements that add a check, as a user would."""
    name, comment = name.replace('"', '""'), comment.replace("'", "''")
    return f'create view checks."{name}" as {query}; comment on view checks."{name}" is \'{comment}\';'


RETURNS = custom_check(
    "few_returns", "warn: returns are rare", "select sale_id from fact_sales where quantity < 0"
)
BREAKS = (
    "create table scratch (n integer);"
    + custom_check("needs_scratch", "warn: scratch has no rows", "select n from scratch")
    + "drop table scratch;"
)


@contextmanager
def made_of(star: str, folder: Path) -> Iterator[MakeMart]:
    """Makes marts of the statements `star`, with their derived checks, after further statements."""
    with ExitStack() as opened:
        numbers = iter(range(1000))

        def make(statements: str = "") -> Session:
            database = folder / f"{next(numbers)}.duckdb"
            with closing(Session(duckdb.connect(str(database)), database, {})) as builder:
                builder.connection.execute(star)
                derive_checks(builder)
                builder.connection.execute(statements or "select 1")
            return opened.enter_context(closing(Session(open_published(database), database, {})))

        yield make
