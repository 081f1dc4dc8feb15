"""Pictures that hold words rather than numbers: a table as it is shown, and the way of the data."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.textpath import text_to_path

from mart_helpers.drawing import BLUE, DOTS_PER_INCH, GREY, INK, LIGHT, ORANGE, Chart, rendered, style
from mart_helpers.frames import as_texts

# Lengths are in points.
_SIZE, _LINE = 9.0, 19.0
_MARGIN, _TITLE_ROOM, _BETWEEN = 10.0, 28.0, 18.0
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


def draw_table(frame: pd.DataFrame, title: str, note: str = "") -> Chart:
    """The frame as a notebook shows it, numbers to the right; `note` stands below it."""
    texts = as_texts(frame)
    columns = [[str(name).replace("_", " "), *texts[name]] for name in texts]
    widths = [max(_wide(head, "bold"), *(_wide(text) for text in others)) for head, *others in columns]
    table = sum(widths) + _BETWEEN * (len(widths) - 1)
    width = max(table, _wide(title, "bold", size=12), _wide(note))
    height = _TITLE_ROOM + _LINE * (len(texts) + 1) + (_LINE + 6 if note else 0)
    with style():
        figure, axes = _sheet(title, width, height)
        left = _MARGIN
        for column, name, wide in zip(columns, frame, widths, strict=True):
            is_number = pd.api.types.is_numeric_dtype(frame[name])
            x = left + wide if is_number else left
            for place, text in enumerate(column):
                y = _MARGIN + _TITLE_ROOM + _LINE * (place + 0.5)
                weight, colour = ("bold", GREY) if place == 0 else ("normal", INK)
                side = "right" if is_number else "left"
                axes.text(x, y, text, size=_SIZE, weight=weight, color=colour, ha=side, va="center")
            left += wide + _BETWEEN
        for place in range(1, len(texts) + 2):
            y = _MARGIN + _TITLE_ROOM + _LINE * place
            colour = GREY if place == 1 else LIGHT
            axes.plot([_MARGIN, _MARGIN + width], [y, y], color=colour, linewidth=0.8)
        if note:
            axes.text(_MARGIN, _MARGIN + height - 4, note, size=_SIZE, color=GREY, va="bottom")
        return rendered(figure, title)


def draw_workflow(title: str = "From extracts to a mart that can be believed") -> Chart:
    """The way of the data through the notebooks, from the extracts to those who read the mart."""
    columns, rows = (max(place[axis] for place in _PLACES.values()) for axis in (0, 1))
    width = columns * _STEP_RIGHT + _BOX_WIDE
    height = _TITLE_ROOM + rows * _STEP_DOWN + _BOX_HIGH + 2
    with style():
        figure, axes = _sheet(title, width, height)
        for name, (column, row, words) in _PLACES.items():
            _draw_box(axes, *_corner(column, row), name, words)
        for start, end in _WAYS:
            _draw_way(axes, _PLACES[start][:2], _PLACES[end][:2])
        left, top = _corner(1, 0)
        right = _corner(4, 0)[0] + _BOX_WIDE
        y = top + _BOX_HIGH - 4
        axes.plot([left, right], [y, y], color=GREY, linewidth=0.8)
        axes.text((left + right) / 2, y - 4, "01_build", color=GREY, ha="center", va="bottom", size=10)
        return rendered(figure, title)


def _wide(text: str, weight: str = "normal", size: float = _SIZE) -> float:
    letters = FontProperties(family=["DejaVu Sans"], weight=weight, size=size)
    return text_to_path.get_text_width_height_descent(text, letters, ismath=False)[0]


def _sheet(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    """A page on which one unit is one point, y runs downwards, and the title stands on top."""
    right, bottom = width + 2 * _MARGIN, height + 2 * _MARGIN
    figure = Figure(figsize=(right / 72, bottom / 72), dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, right), ylim=(bottom, 0))
    axes.set_axis_off()
    axes.text(_MARGIN, _MARGIN, title, size=12, weight="bold", va="top")
    return figure, axes


def _corner(column: int, row: int) -> tuple[float, float]:
    return _MARGIN + column * _STEP_RIGHT, _MARGIN + _TITLE_ROOM + row * _STEP_DOWN


def _draw_box(axes: Axes, left: float, top: float, name: str, words: str) -> None:
    colour = {"quarantine": ORANGE, "mart": BLUE}.get(name, GREY)
    inner = {"boxstyle": "round,pad=0,rounding_size=4", "facecolor": "white", "linewidth": 1.2}
    axes.add_patch(FancyBboxPatch((left, top), _BOX_WIDE, _BOX_HIGH, edgecolor=colour, **inner))
    middle = left + _BOX_WIDE / 2
    axes.text(middle, top + 16, name, size=10, weight="bold", ha="center", va="center")
    axes.text(middle, top + 32, words, size=8, color=GREY, ha="center", va="center")


def _draw_way(axes: Axes, start: tuple[int, int], end: tuple[int, int]) -> None:
    (left, top), (right, bottom) = _corner(*start), _corner(*end)
    points = (left + _BOX_WIDE + 2, top + _BOX_HIGH / 2), (right - 2, bottom + _BOX_HIGH / 2)
    look = {"arrowstyle": "-|>", "mutation_scale": 11, "color": INK, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(*points, **look))
