"""The star schema as a picture, drawn from the catalog of a mart."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path as Curve

from mart_helpers.drawing import BLUE, DOTS_PER_INCH, GREY, INK, Chart, empty_chart, rendered, style
from mart_helpers.session import Session

# The star. Lengths are in points; a monospaced letter of the font is 0.602 of its size wide.
_LETTER_SIZE, _LETTER_WIDTH, _LINE, _HEAD = 8.5, 8.5 * 0.602, 13.0, 32.0
_MARGIN, _TITLE_ROOM, _PADDING, _BETWEEN, _BESIDE = 8.0, 26.0, 7.0, 20.0, 62.0
_MONOSPACED = "DejaVu Sans Mono"


def draw_star(mart: Session) -> Chart:
    """The star schema of the mart that `mart` has open, published or candidate.

    Facts stand in the middle, dimensions at their sides, each with its rows, columns and types.
    Keys go by their names: `dim_<thing>` has `<thing>_key` (PK), a table that refers to it has the
    same column (FK). Arrows lead from facts to dimensions.
    """
    title = "Star schema"
    with style():
        tables = _star_tables(mart)
        if not tables:
            return empty_chart(title, "no tables named dim_… or fact_…")
        placed = _placed(tables)
        width = max(each.right for each in placed) + _MARGIN
        height = max(each.bottom for each in placed) + _MARGIN
        figure = Figure(figsize=(width / 72, height / 72), dpi=DOTS_PER_INCH)
        # one unit is one point, y runs downwards
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(_MARGIN, _MARGIN, title, size=12, weight="bold", va="top")
        for each in placed:
            _draw_table(axes, each)
        for fact in placed:
            for dimension in placed:
                _draw_arrow(axes, fact, dimension)
        return rendered(figure, title)


@dataclass(frozen=True)
class _Table:
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
    def width(self) -> float:
        letters = max(self.name_letters + self.type_letters + 5, len(self.name))
        return letters * _LETTER_WIDTH + 2 * _PADDING

    @property
    def height(self) -> float:
        return _HEAD + len(self.columns) * _LINE + _PADDING

    @property
    def name_letters(self) -> int:
        return max(len(name) for name, _ in self.columns)

    @property
    def type_letters(self) -> int:
        return max(len(type_) for _, type_ in self.columns)


@dataclass(frozen=True)
class _Placed:
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
    catalog = mart.connection.execute(
        """
        select table_name, list((column_name, lower(data_type)) order by column_index)
        from duckdb_columns()
        where
            database_name = current_database()
            and schema_name = 'main'
            and (starts_with(table_name, 'dim_') or starts_with(table_name, 'fact_'))
        group by table_name
        order by table_name
        """
    ).fetchall()
    return [_Table(name, _count(mart, name), tuple(columns)) for name, columns in catalog]


def _count(mart: Session, table: str) -> int:
    return mart.connection.execute(f'select count(*) from main."{table}"').fetchone()[0]


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
    middle = _MARGIN + _TITLE_ROOM + max(map(_column_height, columns)) / 2
    keys = {table.key for table in tables if not table.is_fact}
    placed, left = [], _MARGIN
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


def _draw_table(axes: Axes, placed: _Placed) -> None:
    table, left = placed.table, placed.left
    colour = BLUE if table.is_fact else GREY
    box = {"linewidth": 1.0, "edgecolor": colour}
    corner = (left, placed.top)
    axes.add_patch(Rectangle(corner, placed.width, table.height, facecolor="white", **box))
    axes.add_patch(Rectangle(corner, placed.width, _HEAD - 4, facecolor=colour, **box))
    letters = {"size": _LETTER_SIZE, "family": _MONOSPACED, "va": "center"}
    left += _PADDING
    rows = f"{table.rows:,} {'row' if table.rows == 1 else 'rows'}"
    axes.text(left, placed.top + 9, table.name, color="white", weight="bold", **letters)
    axes.text(left, placed.top + 20.5, rows, color="white", size=8, va="center")
    for (name, type_), mark in zip(table.columns, placed.marks, strict=True):
        y = placed.line(name)
        axes.text(left, y, mark, color=BLUE, weight="bold", **letters)
        axes.text(left + 3 * _LETTER_WIDTH, y, name, **letters)
        axes.text(placed.right - _PADDING, y, type_, color=GREY, ha="right", **letters)


def _draw_arrow(axes: Axes, fact: _Placed, dimension: _Placed) -> None:
    key = dimension.table.key
    names = fact.table.column_names, dimension.table.column_names
    if not fact.table.is_fact or dimension.table.is_fact or any(key not in each for each in names):
        return
    is_left = dimension.left < fact.left
    start = (fact.left if is_left else fact.right, fact.line(key))
    end = (dimension.right if is_left else dimension.left, dimension.line(key))
    middle = (start[0] + end[0]) / 2
    points = [start, (middle, start[1]), (middle, end[1]), end]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    axes.add_patch(
        FancyArrowPatch(
            path=curve, arrowstyle="-|>", mutation_scale=11, color=INK, linewidth=1.0, fill=True
        )
    )
