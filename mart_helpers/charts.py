"""Charts for the notebooks: lines, stacks, heat maps, bars, and the star schema of a mart.

Money has no currency sign, because the mart does not store a currency.
"""

import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from functools import cache, partial, wraps
from io import BytesIO
from math import ceil
from pathlib import Path

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.patheffects import withStroke
from matplotlib.style import context
from matplotlib.ticker import MaxNLocator
from numpy import isfinite, nanmax, nanmin, ndenumerate

from mart_helpers.session import Session
from mart_helpers.star import star_references, star_types, surrogate_key
from mart_helpers.texts import in_words, one_line, quoted

# Okabe and Ito's blue and orange: people with any kind of colour vision can tell them apart and from
# the greys, and in print their lightness differs.
BLUE, ORANGE, PALE, GREY = "#0072B2", "#E69F00", "#A3C4DA", "#666666"

_STYLE = Path(__file__).parent / "templates" / "charts.mplstyle"

NOTHING_TO_DRAW = "nothing to show in this range"

_SHOWN_DPI, _INCHES_WIDE, _PAD_INCHES, _LETTER_POINTS = 96, 8.0, 0.1, 6.5
_IN_WHITE = [withStroke(linewidth=3.5, foreground="white")]
_TITLE_LETTERS, _LABEL_LETTERS, _LABEL_LINES, _MOST_BARS, _MOST_TICKS = 80, 36, 2, 40, 7


@dataclass(frozen=True, repr=False)
class Chart:
    """A finished picture that a notebook shows if it is the value of a cell.

    `png` is the file to save, `size` the width and height to show, in pixels.
    """

    title: str
    png: bytes
    size: tuple[int, int]

    def __repr__(self) -> str:
        """The text that replaces the picture in plain-text output."""
        return f"<chart: {self.title}>"

    def _repr_png_(self) -> tuple[bytes, dict[str, object]]:
        width, height = self.size
        return self.png, {"width": width, "height": height, "alt": self.title}


def drawn(draw: Callable[..., Figure]) -> Callable[..., Chart]:
    """`draw` in the style of our charts; its figure is rendered and closed, since it takes megabytes."""

    @wraps(draw)
    def finished(*given: object, **named: object) -> Chart:
        with style():
            figure = draw(*given, **named)
            FigureCanvasAgg(figure)
            file = BytesIO()
            # without Software, which would be the version of matplotlib
            figure.savefig(file, format="png", metadata={"Software": None})
        width, height = (round(side * _SHOWN_DPI) for side in figure.get_size_inches())
        return Chart(figure.get_label(), file.getvalue(), (width, height))

    return finished


@contextmanager
def style() -> Iterator[None]:
    """Use the style of our charts, and no other, within the block."""
    with warnings.catch_warnings(), context(_STYLE, after_reset=True):
        # whatever matplotlib has to say would show a path of this machine in the notebook
        warnings.simplefilter("ignore")
        rcParams["font.family"] = _families()
        yield


@cache
def _families(*first: str) -> list[str]:
    installed = get_font_names()
    return [*first, *(name for name in rcParams["font.sans-serif"] if name in installed)]


def _new_figure(title: str, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    lines = textwrap.fill(title, _TITLE_LETTERS)
    height += 0.2 * lines.count("\n")
    figure = Figure(figsize=(_INCHES_WIDE, height), layout="constrained")
    figure.set_label(title)
    figure.suptitle(lines, x=_PAD_INCHES / _INCHES_WIDE, ha="left")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _empty_figure(title: str, words: str = NOTHING_TO_DRAW) -> Figure:
    figure, (axes,) = _new_figure(title, height=1.4)
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, color=GREY, ha="center", va="center", transform=axes.transAxes)
    return figure


@drawn
def draw_line(
    frame: pd.DataFrame, x: str, y: str, title: str, unit: str, before: str | None = None
) -> Figure:
    """A line through column `y` over the dates or numbers of column `x`, in the order of the frame.

    `unit` is the label of the value axis, whose scale includes zero. Rows without a value are left
    out. A paler line through column `before` shows what the value is compared with.
    """
    rows = frame.dropna(subset=[x, y])
    if rows.empty:
        return _empty_figure(title)
    figure, (axes,) = _new_figure(title, height=3.4)
    lines = {y: {"color": BLUE, "marker": "o", "markersize": 3.5}}
    if before and rows[before].notna().any():
        lines = {before: {"color": PALE, "linewidth": 2.5}} | lines
    values = [rows[name].astype(float) for name in lines]
    for (name, look), heights in zip(lines.items(), values, strict=True):
        axes.plot(rows[x], heights, label=in_words(name), clip_on=False, **look)
    _lay_columns(axes, rows[x], rows[x], pd.concat(values), unit)
    return figure


@drawn
def draw_stacks(frame: pd.DataFrame, x: str, parts: Sequence[str], title: str, unit: str) -> Figure:
    """Stacked vertical bars over the dates or numbers of column `x`, with a layer for each of `parts`.

    There are at most three parts, the first one at the bottom; a missing value adds nothing. `unit` is
    the label of the value axis. Dates are labelled as months, weeks or days.
    """
    rows = frame.dropna(subset=[x])
    if not rows[list(parts)].any(axis=None):
        return _empty_figure(title)
    figure, (axes,) = _new_figure(title, height=3.4)
    places, foot = pd.Series(range(len(rows))), pd.Series(0.0, rows.index)
    for part, colour in zip(parts, (BLUE, ORANGE, PALE), strict=False):
        height = rows[part].fillna(0).astype(float)
        width = 0.75 * min(len(rows) / _MOST_TICKS, 1)  # a few bars would be fat
        axes.bar(places, height, bottom=foot, color=colour, width=width, label=in_words(part))
        foot = foot + height
    axes.set_xlim(-0.6, len(rows) - 0.4)
    _lay_columns(axes, places, rows[x], foot, unit)
    return figure


@drawn
def draw_heat_map(frame: pd.DataFrame, label: str, title: str, unit: str = "") -> Figure:
    """A grid with a cell for every number of the frame, darker for larger ones, with the number in it.

    Column `label` names the rows; all other columns hold the numbers. A missing number leaves its cell
    empty; columns without any number are left out. If there are more than 40 rows, only the first 40 are
    drawn, and the title says so. `unit` is written below.
    """
    rows, title = _first_rows(frame, title)
    numbers = rows.drop(columns=label).astype(float).dropna(axis="columns", how="all")
    if numbers.empty:
        return _empty_figure(title)
    in_thousands = numbers.abs().max(axis=None) >= 1_000_000
    title = f"{title}, in thousands" if in_thousands else title
    figure, (axes,) = _new_figure(title, height=1.0 + 0.34 * len(rows))
    values = numbers.to_numpy() / (1000 if in_thousands else 1)
    low, high = min(0.0, nanmin(values)), nanmax(values)
    # no deeper than letters can be read on
    axes.imshow(values, cmap="Blues", vmin=low, vmax=low + 2 * (high - low), aspect="auto")
    decimals = _decimals(values[isfinite(values)].tolist())
    for (line, column), value in ndenumerate(values):
        if isfinite(value):
            axes.text(column, line, _number(value, decimals), ha="center", va="center", size=9)
    axes.set_xticks(range(values.shape[1]), [in_words(name) for name in numbers.columns])
    axes.set_yticks(range(len(rows)), [_short(text) for text in labels_of(rows[label])[1]])
    axes.xaxis.tick_top()
    axes.set_xlabel(unit.strip(), loc="left")
    return figure


@drawn
def draw_bars(
    frame: pd.DataFrame,
    label: str,
    value: str,
    title: str,
    unit: str,
    before: str | None = None,
    by: str | None = None,
) -> Figure:
    """Bars of column `value`, named by column `label`, the frame's first row on top.

    `unit` is the label of the value axis. A line across a bar shows the value of column `before` to
    compare with. Each text in column `by` gets a panel. If there are more than 40 rows, only the first
    40 are drawn, and the title says so; a label takes at most two lines. Rows without a value are left
    out.
    """
    rows, title = _first_rows(frame.dropna(subset=[value]), title)
    if rows.empty:
        return _empty_figure(title)
    panels = dict(list(rows.groupby(by, sort=False))) if by else {"": rows}
    labels = [
        [_short(text, len(panels)) for text in labels_of(panel[label])[1]] for panel in panels.values()
    ]
    inches = 0.42 if any("\n" in text for texts in labels for text in texts) else 0.3
    figure, axes = _new_figure(title, 1.0 + inches * max(map(len, labels)), len(panels))
    names = [value, before] if before and rows[before].notna().any() else [value]
    for (name, panel), texts, each in zip(panels.items(), labels, axes, strict=True):
        each.set_title(in_words(name), loc="left", size=10, weight="bold")
        _add_bars(each, [panel[name].fillna(0).astype(float).tolist() for name in names], texts)
        each.set_ylim(max(map(len, labels)) - 0.4, -0.6)
    words = [unit.strip(), *(f"line: {in_words(name)}" for name in names[1:])]
    axes[0].set_xlabel("; ".join(words), loc="left")
    return figure


def _add_bars(axes: Axes, heights: list[list[float]], labels: list[str]) -> None:
    """Draw horizontal bars of the first heights, with lines across at the second ones, if any."""
    values, *earlier = heights
    places = range(len(values))  # by place, not by name: two products may share a name
    bars = axes.barh(places, values, color=BLUE, height=0.7)
    for lines in earlier:
        look = {"color": "black", "linewidth": 1.5, "path_effects": _IN_WHITE}
        axes.vlines(lines, [y - 0.45 for y in places], [y + 0.45 for y in places], **look)
        reached = [(min if row[0] < 0 else max)(row) for row in zip(values, lines, strict=True)]
        bars = axes.barh(places, reached, visible=False)  # the values stand beyond the lines
    is_short = all(round(value, 1) == value for value in values)
    decimals = min(_decimals(values), 2 - is_short)
    ends = [_number(value, decimals) for value in values]
    axes.bar_label(bars, ends, padding=4)
    axes.set_yticks(places, labels)
    beside = max((len(end) for end, value in zip(ends, values, strict=True) if value < 0), default=0)
    axes.tick_params("y", pad=4 + _LETTER_POINTS * beside)  # leaves the ends of negative bars room
    axes.set_xticks([])  # the values at the ends of the bars leave a scale nothing to say
    axes.axvline(0, color=GREY, linewidth=0.8)


def _first_rows(frame: pd.DataFrame, title: str) -> tuple[pd.DataFrame, str]:
    """As many rows as are legible, and the title, which says if there are more."""
    more = f" (the first {_MOST_BARS} of {len(frame):,})" if len(frame) > _MOST_BARS else ""
    return frame.head(_MOST_BARS), title + more


def _lay_columns(axes: Axes, places: pd.Series, names: pd.Series, values: pd.Series, unit: str) -> None:
    """Name a few of the places below the axes, and scale the values so that zero is among them."""
    step = ceil(len(places) / _MOST_TICKS)
    word, labels = labels_of(names)
    axes.set_xticks(places[::step], labels[::step])
    axes.set(xlabel=word, ylabel=unit.strip())
    heights = [value for value in values if isfinite(value)]
    lowest, highest = min(0.0, *heights), max(0.0, *heights)
    room = 0.06 * (highest - lowest) or 1.0
    axes.set_ylim(lowest - room * (lowest < 0), highest + room)
    axes.axhline(0, color=GREY, linewidth=0.8)
    decimals = _decimals(heights)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10), integer=decimals == 0))
    axes.yaxis.set_major_formatter(lambda value, _: _number(value, decimals))
    axes.grid(axis="y")
    if len(axes.get_legend_handles_labels()[0]) > 1:  # above the axes, where no line can run through it
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)


def _decimals(values: list[float]) -> int:
    """The number of decimals: none if the values are large or whole, otherwise two."""
    is_coarse = max(map(abs, values)) >= 100 or all(value.is_integer() for value in values)
    return 0 if is_coarse else 2


def _number(value: float, decimals: int) -> str:
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    with localcontext(rounding=ROUND_HALF_UP):  # as the browser does on the dashboard
        return f"{Decimal(str(value)):z,.{decimals}f}"


def labels_of(values: pd.Series) -> tuple[str, list[str]]:
    """A word for the values of a column, and a label for each; dates are months, weeks or days."""
    word, texts = in_words(values.name), values
    if pd.api.types.is_datetime64_any_dtype(values):
        is_monthly = (values.dt.day == 1).all() and (len(values) > 1 or word == "month")
        is_weekly = len(values) > 1 and (values.diff().dropna() == pd.Timedelta(weeks=1)).all()
        word = "month" if is_monthly else "week from" if is_weekly else "day"
        texts = values.dt.strftime("%Y-%m" if is_monthly else "%Y-%m-%d")
    return word, texts.astype(object).fillna("not given").astype(str).tolist()


def _short(text: object, panels: int = 1) -> str:
    letters = max(_LABEL_LETTERS // panels, 12)
    lines = textwrap.wrap(str(text), letters, max_lines=_LABEL_LINES, placeholder=" …")
    return "\n".join(lines)


# Of the star: lengths are in points, y runs downwards. A letter of this size is so wide.
_SIZE, _LETTER, _LINE, _LONGEST_NAME = 8.5, 5.12, 13.0, 100
_HEAD, _PADDING, _BETWEEN, _BESIDE, _TITLE, _MARGIN = 32.0, 7.0, 20.0, 62.0, 34.0, 10.0


@drawn
def draw_star(mart: Session) -> Figure:
    """The star schema of the mart that `mart` has open, published or candidate.

    Facts are in the middle, dimensions on both sides, each with its rows, columns and types. Names
    identify keys: `dim_<thing>` has `<thing>_key` (PK), a table that refers to it has `<thing>_key` or
    `<role>_<thing>_key` (FK). Arrows lead from facts to dimensions.
    """
    title, references = "Star schema", star_references(mart.connection)
    boxes = [_Box(mart, name, types) for name, types in star_types(mart.connection).items()]
    if not boxes:
        return _empty_figure(title, "no tables named dim_… or fact_…")
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


class _Box:
    """A table of the star with its position in the drawing."""

    left = top = 0.0

    def __init__(self, mart: Session, name: str, types: dict[str, str]) -> None:
        count = mart.connection.execute(f"select count(*) from main.{quoted(name)}").fetchone()[0]
        self.name, self.types = name, types
        self.rows = f"{count:,} {'row' if count == 1 else 'rows'}"
        self.is_fact = name.startswith("fact_")
        self.key = None if self.is_fact else surrogate_key(name)
        self.height = _HEAD + len(types) * _LINE + _PADDING
        # a column has its name, its type, and before them PK or FK and a blank
        names, kinds = ([len(_shown(text)) for text in texts] for texts in (types, types.values()))
        letters = max(max(names) + max(kinds) + 5, len(_shown(name)), len(self.rows))
        self.width = letters * _LETTER + 2 * _PADDING

    def line(self, column: str) -> float:
        """The vertical middle of the line of `column`."""
        return self.top + _HEAD + (list(self.types).index(column) + 0.5) * _LINE


def _place(boxes: list[_Box], references: dict[str, dict[str, str]]) -> tuple[float, float]:
    """Put facts in the middle and each dimension on the shorter side; returns width and height."""
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


def _shown(text: str) -> str:
    return one_line(text, _LONGEST_NAME)


def _high(stack: list[_Box]) -> float:
    return sum(box.height + _BETWEEN for box in stack) - _BETWEEN


def _add_box(axes: Axes, box: _Box, references: dict[str, str]) -> None:
    left, right = box.left + _PADDING, box.left + box.width - _PADDING
    colour = BLUE if box.is_fact else GREY
    write = partial(axes.text, family=_families("DejaVu Sans Mono"), size=_SIZE, va="center_baseline")
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
    left, right = sorted((fact, dimension), key=lambda box: box.left)
    ends = {left.name: left.left + left.width, right.name: right.left}
    start = ends[fact.name], fact.line(key)
    end = ends[dimension.name], dimension.line(dimension.key)
    middle = (start[0] + end[0]) / 2
    bend = Curve([start, (middle, start[1]), (middle, end[1]), end], [Curve.MOVETO, *[Curve.CURVE4] * 3])
    axes.add_patch(FancyArrowPatch(path=bend, arrowstyle="-|>", mutation_scale=8, color=GREY))
