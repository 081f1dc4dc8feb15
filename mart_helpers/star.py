"""The star schema as a picture, drawn from the catalog of a mart."""

from dataclasses import dataclass
from functools import partial
from unicodedata import east_asian_width

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path as Curve

from mart_helpers.charts import BLUE, GREY, drawn, empty_figure, families, legible
from mart_helpers.contract import star_references, star_types, surrogate_key
from mart_helpers.session import Session
from mart_helpers.texts import one_line, quoted

# Lengths are in points, y runs downwards. A letter of this size is so wide.
_SIZE, _LETTER, _LINE = 8.5, 5.12, 13.0

_HEAD, _PADDING, _BETWEEN, _BESIDE, _TITLE, _MARGIN = 32.0, 7.0, 20.0, 62.0, 34.0, 10.0

_LONGEST_NAME = 100


@drawn
def draw_star(mart: Session) -> Figure:
    """The star schema of the mart that `mart` has open, published or candidate.

    Facts stand in the middle, dimensions at their sides, each with its rows, columns and types.
    Keys go by their names: `dim_<thing>` has `<thing>_key` (PK), a table that refers to it has a
    `<thing>_key` or `<role>_<thing>_key` (FK). Arrows lead from facts to dimensions.
    """
    title = "Star schema"
    boxes = [_Box(name, _rows(mart, name), types) for name, types in star_types(mart.connection).items()]
    if not boxes:
        return empty_figure(title, "no tables named dim_… or fact_…")
    references = star_references(mart.connection)
    width, height = _place(boxes, references)
    figure = Figure(figsize=(width / 72, height / 72))
    figure.set_label(title)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(_MARGIN, _MARGIN, title, size=12, weight="bold", va="top")
    named = {box.name: box for box in boxes}
    for box in boxes:
        _add_box(axes, box, references[box.name])
        for key, dimension in references[box.name].items() if box.is_fact else ():
            _add_arrow(axes, box, key, named[dimension])
    return figure


@dataclass
class _Box:
    """A table of the star, and where it is drawn."""

    name: str
    rows: str
    types: dict[str, str]
    left: float = 0.0
    top: float = 0.0
    width: float = 0.0

    def __post_init__(self) -> None:
        self.is_fact = self.name.startswith("fact_")
        self.key = None if self.is_fact else surrogate_key(self.name)
        self.height = _HEAD + len(self.types) * _LINE + _PADDING
        # a column has its name, its type, and before them PK or FK and a blank
        letters = max(map(_wide, self.types)) + max(map(_wide, self.types.values())) + 5
        self.width = max(letters, _wide(self.name), _wide(self.rows)) * _LETTER + 2 * _PADDING

    @property
    def right(self) -> float:
        return self.left + self.width

    def line(self, column: str) -> float:
        """Where the middle of the line of `column` is."""
        return self.top + _HEAD + (list(self.types).index(column) + 0.5) * _LINE


def _rows(mart: Session, table: str) -> str:
    count = mart.connection.execute(f"select count(*) from main.{quoted(table)}").fetchone()[0]
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def _place(boxes: list[_Box], references: dict[str, dict[str, str]]) -> tuple[float, float]:
    """Put facts in the middle, each dimension at the side that is shorter so far; width and height."""
    facts = [box for box in boxes if box.is_fact]
    used = [dimension for fact in facts for dimension in references[fact.name].values()]
    sides: tuple[list[_Box], list[_Box]] = ([], [])
    for box in sorted(boxes, key=lambda each: -each.height):
        if not box.is_fact:
            min(sides, key=_high).append(box)
    for side in sides:
        # in the order of the facts' columns, so that arrows do not cross
        side.sort(key=lambda each: used.index(each.name) if each.name in used else len(used))
    stacks = [stack for stack in (sides[0], facts, sides[1]) if stack]
    highest, left = max(map(_high, stacks)), _MARGIN
    for stack in stacks:
        top, width = _TITLE + (highest - _high(stack)) / 2, max(box.width for box in stack)
        for box in stack:
            box.left, box.top, box.width = left, top, width
            top += box.height + _BETWEEN
        left += width + _BESIDE
    return left - _BESIDE + _MARGIN, _TITLE + highest + _MARGIN


def _high(stack: list[_Box]) -> float:
    return sum(box.height + _BETWEEN for box in stack) - _BETWEEN


def _add_box(axes: Axes, box: _Box, references: dict[str, str]) -> None:
    left, right, colour = box.left + _PADDING, box.right - _PADDING, BLUE if box.is_fact else GREY
    write = partial(axes.text, family=families("DejaVu Sans Mono"), size=_SIZE, va="center_baseline")
    for height, fill in ((box.height, "white"), (_HEAD - 4, colour)):
        axes.add_patch(Rectangle((box.left, box.top), box.width, height, ec=colour, fc=fill))
    write(left, box.top + 9, _shown(box.name), color="white", weight="bold")
    write(left, box.top + 21, box.rows, color="white")
    for name, type_ in box.types.items():
        y = box.line(name)
        if name == box.key or name in references:
            write(left, y, "PK" if name == box.key else "FK", color=BLUE, weight="bold")
        write(left + 3 * _LETTER, y, _shown(name))
        write(right, y, _shown(type_.lower()), color=GREY, ha="right")


def _add_arrow(axes: Axes, fact: _Box, key: str, dimension: _Box) -> None:
    is_left = dimension.left < fact.left
    start = fact.left if is_left else fact.right, fact.line(key)
    end = dimension.right if is_left else dimension.left, dimension.line(dimension.key)
    middle = (start[0] + end[0]) / 2
    bend = Curve([start, (middle, start[1]), (middle, end[1]), end], [Curve.MOVETO, *[Curve.CURVE4] * 3])
    axes.add_patch(FancyArrowPatch(path=bend, arrowstyle="-|>", mutation_scale=8, color=GREY))


def _shown(text: str) -> str:
    return legible(one_line(text, _LONGEST_NAME))


def _wide(text: str) -> int:
    """How many letters wide the text is."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in _shown(text))
