"""Pictures that hold words rather than numbers: a table as it is shown, and the way of the data."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from mart_helpers.colours import BLUE, GREY, LIGHT, ORANGE
from mart_helpers.frames import as_texts
from mart_helpers.sketching import Box, Line, Mark, Point, Sketch, Words

# Lengths are in points.
_LINE, _BETWEEN = 19.0, 18.0

_BOX_WIDE, _BOX_HIGH, _STEP_RIGHT, _STEP_DOWN = 118.0, 46.0, 158.0, 76.0

# What stands where (column, row), with a word or two of what happens there.
_PLACES = {
    "inputs/": (0, 1, "CSV extracts"),
    "staging": (1, 1, "typed good rows"),
    "quarantine": (1, 2, "bad rows, with reasons"),
    "star": (2, 1, "dim_… and fact_sales"),
    "checks": (3, 1, "views of bad rows"),
    "mart": (4, 1, "one DuckDB file"),
    "02_explore": (5, 0, "tables and charts"),
    "03_export": (5, 1, "files for others"),
    "04_quality": (5, 2, "can it be believed?"),
}

_WAYS = [
    ("inputs/", "staging"),
    ("inputs/", "quarantine"),
    ("staging", "star"),
    ("star", "checks"),
    ("checks", "mart"),
    ("mart", "02_explore"),
    ("mart", "03_export"),
    ("mart", "04_quality"),
]


def draw_table(frame: pd.DataFrame, title: str, note: str = "") -> Sketch:
    """The frame as a notebook shows it, numbers to the right; `note` stands below it."""
    texts, marks, left = as_texts(frame), [], 0.0
    for name in frame:
        column = [str(name).replace("_", " "), *texts[name]]
        right = left + max(_wide(text, is_bold=place == 0) for place, text in enumerate(column))
        x, anchor = (right, "end") if pd.api.types.is_numeric_dtype(frame[name]) else (left, "start")
        head, *others = (Words(x, _middle(n), text, anchor=anchor) for n, text in enumerate(column))
        marks += [head._replace(colour=GREY, is_bold=True), *others]
        left = right + _BETWEEN
    width = max(left - _BETWEEN, _wide(note))
    for place in range(1, len(texts) + 2):
        y = _LINE * place
        marks.append(Line(((0, y), (width, y)), GREY if place == 1 else LIGHT))
    if note:
        marks.append(Words(0, _middle(len(texts) + 1) + 4, note, colour=GREY))
    height = _LINE * (len(texts) + 1) + (_LINE + 6 if note else 0)
    return Sketch(title, width, height, tuple(marks))


def draw_workflow(title: str = "From extracts to a mart that can be believed") -> Sketch:
    """The way of the data through the notebooks, from the extracts to those who read the mart."""
    columns, rows = (max(place[axis] for place in _PLACES.values()) for axis in (0, 1))
    boxes = [mark for place in _PLACES.items() for mark in _box(*place)]
    ways = [_way(_PLACES[start], _PLACES[end]) for start, end in _WAYS]
    left, right, y = _STEP_RIGHT, 4 * _STEP_RIGHT + _BOX_WIDE, _BOX_HIGH - 4
    span = Line(((left, y), (right, y)), GREY)
    name = Words((left + right) / 2, y - 10, "01_build", size=10, colour=GREY, anchor="middle")
    width, height = columns * _STEP_RIGHT + _BOX_WIDE, rows * _STEP_DOWN + _BOX_HIGH
    return Sketch(title, width, height, (*boxes, *ways, span, name))


def _wide(text: str, is_bold: bool = False) -> float:
    letters = FontProperties(family=["DejaVu Sans"], weight="bold" if is_bold else "normal", size=9)
    return text_to_path.get_text_width_height_descent(text, letters, ismath=False)[0]


def _middle(place: int) -> float:
    """The middle of a line of a table, counted from 0."""
    return _LINE * (place + 0.5)


def _box(name: str, place: tuple[int, int, str]) -> Iterator[Mark]:
    (left, top), words = _corner(place), place[2]
    colour = {"quarantine": ORANGE, "mart": BLUE}.get(name, GREY)
    yield Box(left, top, _BOX_WIDE, _BOX_HIGH, edge=colour, radius=4)
    middle = left + _BOX_WIDE / 2
    yield Words(middle, top + 16, name, size=10, anchor="middle", is_bold=True)
    yield Words(middle, top + 32, words, size=8, colour=GREY, anchor="middle")


def _way(start: tuple[int, int, str], end: tuple[int, int, str]) -> Line:
    (left, top), (right, bottom) = _corner(start), _corner(end)
    from_box, to_box = (left + _BOX_WIDE + 2, top + _BOX_HIGH / 2), (right - 2, bottom + _BOX_HIGH / 2)
    return Line((from_box, to_box), is_arrow=True)


def _corner(place: tuple[int, int, str]) -> Point:
    column, row, _ = place
    return column * _STEP_RIGHT, row * _STEP_DOWN
