"""The star schema as a picture, drawn from the catalog of a mart."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from mart_helpers.colours import BLUE, GREY
from mart_helpers.contract import star_types
from mart_helpers.session import Session
from mart_helpers.sketching import Box, Line, Mark, Sketch, Words, monospaced_width
from mart_helpers.texts import quoted

# Lengths are in points. The marks PK and FK take two letters and a blank.
_SIZE, _SMALL, _MARKS = 8.5, 8.0, 3

_LINE, _HEAD, _PADDING, _BETWEEN, _BESIDE = 13.0, 32.0, 7.0, 20.0, 62.0

_WHITE = "#FFFFFF"

_words = partial(Words, size=_SIZE, is_monospaced=True)


def draw_star(mart: Session) -> Sketch:
    """The star schema of the mart that `mart` has open, published or candidate.

    Facts stand in the middle, dimensions at their sides, each with its rows, columns and types.
    Keys go by their names: `dim_<thing>` has `<thing>_key` (PK), a table that refers to it has the
    same column (FK). Arrows lead from facts to dimensions.
    """
    placed = _placed(_star_tables(mart))
    if not placed:
        words = Words(200, 20, "no tables named dim_… or fact_…", colour=GREY, anchor="middle")
        return Sketch("Star schema", 400, 40, (words,))
    tables = [mark for each in placed for mark in _table_marks(each)]
    arrows = [
        _arrow(fact, dimension) for fact in placed for dimension in placed if _refers(fact, dimension)
    ]
    width, height = max(each.right for each in placed), max(each.bottom for each in placed)
    return Sketch("Star schema", width, height, (*tables, *arrows))


class _Table(NamedTuple):
    name: str
    rows: int
    columns: tuple[tuple[str, str], ...]

    @property
    def is_fact(self) -> bool:
        return self.name.startswith("fact_")

    @property
    def key(self) -> str:
        return f"{self.name.removeprefix('dim_')}_key"

    @property
    def column_names(self) -> list[str]:
        return [name for name, _ in self.columns]

    @property
    def rows_text(self) -> str:
        return f"{self.rows:,} {'row' if self.rows == 1 else 'rows'}"

    @property
    def width(self) -> float:
        names, types = (max(map(_wide, texts)) for texts in zip(*self.columns, strict=True))
        line = _wide(" " * _MARKS) + names + _wide("  ") + types
        return max(line, _wide(self.name), _wide(self.rows_text)) + 2 * _PADDING

    @property
    def height(self) -> float:
        return _HEAD + len(self.columns) * _LINE + _PADDING


class _Placed(NamedTuple):
    """A table with its left upper corner, and for each of its columns PK, FK or nothing."""

    table: _Table
    marks: tuple[str, ...]
    left: float
    top: float
    width: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.table.height

    def line(self, column: str) -> float:
        """Where the middle of the line of `column` is."""
        return self.top + _HEAD + (self.table.column_names.index(column) + 0.5) * _LINE


def _star_tables(mart: Session) -> list[_Table]:
    return [
        _Table(
            name, _count(mart, name), tuple((column, type_.lower()) for column, type_ in types.items())
        )
        for name, types in star_types(mart.connection).items()
    ]


def _count(mart: Session, table: str) -> int:
    return mart.connection.execute(f"select count(*) from main.{quoted(table)}").fetchone()[0]


def _placed(tables: list[_Table]) -> list[_Placed]:
    """Facts in the middle, dimensions to the side that is shorter so far, the tallest one first."""
    facts = [table for table in tables if table.is_fact]
    sides: tuple[list[_Table], list[_Table]] = ([], [])
    for table in sorted(tables, key=lambda each: -each.height):
        if not table.is_fact:
            min(sides, key=_column_height).append(table)
    for side in sides:
        # in the order of the facts' columns, so that arrows do not cross
        side.sort(key=lambda each: _first_use(each, facts))
    columns = [column for column in (sides[0], facts, sides[1]) if column]
    middle = max(map(_column_height, columns), default=0) / 2
    keys = {table.key for table in tables if not table.is_fact}
    placed, left = [], 0.0
    for column in columns:
        width = max(table.width for table in column)
        top = middle - _column_height(column) / 2
        for table in column:
            marks = tuple(_mark(table, name, keys) for name in table.column_names)
            placed.append(_Placed(table, marks, left, top, width))
            top += table.height + _BETWEEN
        left += width + _BESIDE
    return placed


def _column_height(column: list[_Table]) -> float:
    return sum(table.height + _BETWEEN for table in column) - _BETWEEN if column else 0.0


def _first_use(dimension: _Table, facts: list[_Table]) -> int:
    names = [name for fact in facts for name in fact.column_names]
    return names.index(dimension.key) if dimension.key in names else len(names)


def _mark(table: _Table, column: str, keys: set[str]) -> str:
    if not table.is_fact and column == table.key:
        return "PK"
    return "FK" if column in keys else ""


def _table_marks(placed: _Placed) -> Iterator[Mark]:
    table, left, right = placed.table, placed.left + _PADDING, placed.right - _PADDING
    colour = BLUE if table.is_fact else GREY
    yield Box(placed.left, placed.top, placed.width, table.height, edge=colour)
    yield Box(placed.left, placed.top, placed.width, _HEAD - 4, edge=colour, fill=colour)
    yield _words(left, placed.top + 9, table.name, colour=_WHITE, is_bold=True)
    yield _words(left, placed.top + 20.5, table.rows_text, colour=_WHITE, size=_SMALL)
    for (name, type_), mark in zip(table.columns, placed.marks, strict=True):
        y = placed.line(name)
        if mark:
            yield _words(left, y, mark, colour=BLUE, is_bold=True)
        yield _words(left + _wide(" " * _MARKS), y, name)
        yield _words(right, y, type_, colour=GREY, anchor="end")


def _refers(fact: _Placed, dimension: _Placed) -> bool:
    tables = fact.table, dimension.table
    is_used = all(dimension.table.key in table.column_names for table in tables)
    return is_used and fact.table.is_fact and not dimension.table.is_fact


def _arrow(fact: _Placed, dimension: _Placed) -> Line:
    key, is_left = dimension.table.key, dimension.left < fact.left
    start = (fact.left if is_left else fact.right, fact.line(key))
    end = (dimension.right if is_left else dimension.left, dimension.line(key))
    middle = (start[0] + end[0]) / 2
    return Line((start, (middle, start[1]), (middle, end[1]), end), is_arrow=True)


def _wide(text: str) -> float:
    return monospaced_width(text, _SIZE)
