"""Looks at sources beside their reading: is there white space around values, how many rows are there?

The dimensions, of which a thread has hardly enough to do, are loaded before the facts that refer to
them. So the file of the facts, by far the largest, is looked at meanwhile.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import duckdb

from mart_helpers.contract import read_contract, referring_tables
from mart_helpers.errors import MartError
from mart_helpers.records import FileCount
from mart_helpers.sources import Source, find_sources

T = TypeVar("T")


class Look(NamedTuple):
    """What comes of a look at a source: whether `may_hold_blanks`, then its `count`."""

    may_hold_blanks: Future[bool]
    count: Future[FileCount]


class Lookout:
    """Looks at sources in threads of its own: one for that which is read, one for what comes next."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, inputs_dir: Path) -> None:
        self._connection = connection
        self._inputs_dir = inputs_dir
        self._beside, self._before = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._ahead: dict[str, tuple[Source, object, Look]] | None = None

    def look_ahead(self) -> None:
        """Begin to look at the files of the tables that refer to others, save those in folders.

        Only the first time; what is wrong with them is left to be said when they are loaded.
        """
        if self._ahead is not None:
            return
        self._ahead = {}
        for name in referring_tables(self._connection):
            if (self._inputs_dir / name).is_dir():
                continue
            with suppress(MartError, OSError):
                [source] = find_sources(self._inputs_dir, read_contract(self._connection, name))
                self._ahead[name] = source, _state(source), _look(source, self._before)

    def look(self, table_name: str, source: Source) -> Look:
        """The look at a source of the table that was begun before; a new one where that has changed."""
        seen, state, look = (self._ahead or {}).pop(table_name, (None, None, None))
        return look if seen == source and state == _state(source) else _look(source, self._beside)

    def beside(self, job: Callable[[Look], T], look: Look) -> Future[T]:
        """What `job` makes of the look, in the thread for that which is read."""
        return self._beside.submit(job, look)


def _look(source: Source, pool: ThreadPoolExecutor) -> Look:
    return Look(pool.submit(lambda: source.may_hold_blanks), pool.submit(source.count))


def _state(source: Source) -> object:
    """What differs where the file is another one, or was written to."""
    found = source.path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
