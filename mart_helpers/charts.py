"""Charts for the notebooks: lines, bars, stacks, heat maps, and how checks came out.

Money has no currency sign, because the mart knows none.
"""

import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from io import BytesIO
from itertools import groupby
from math import ceil
from typing import ParamSpec

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font, get_font_names
from matplotlib.ticker import MaxNLocator
from numpy import isfinite, nanmax, nanmin, ndenumerate

from mart_helpers.verdict import checked_table

# Okabe and Ito's blue and orange: told apart from each other and from the greys in every kind of
# colour vision, and by their lightness in print.
BLUE, ORANGE, PALE = "#0072B2", "#E69F00", "#C9DCE8"

INK, GREY, LIGHT = "#222222", "#666666", "#DDDDDD"
_STACK, _HEAT = (BLUE, ORANGE, PALE), LinearSegmentedColormap.from_list("heat", ["#F3F8FB", BLUE])
# Okabe and Ito's too, and told apart by their lightness alone. In the order in which they are drawn.
_OUTCOMES = {"broken": INK, "fail": "#D55E00", "warn": ORANGE, "skipped": "#BDBDBD", "pass": PALE}

# Fonts with letters that ours lacks. Those that are installed help out.
_OTHER_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "IPAexGothic"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Hiragino Sans", "PingFang SC"),
    *("Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Noto Emoji", "Segoe UI Emoji", "Segoe UI Symbol", "Symbola", "STIXGeneral"),
)

NOTHING_TO_DRAW = "no sales in this range"

_STYLE = {
    "font.size": 10,
    "text.color": INK,
    # else a product called "$5 or $6" would be set as a formula
    "text.parse_math": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}

DOTS_PER_INCH, _SHOWN_DOTS_PER_INCH = 144, 96
_INCHES_WIDE, _PAD_INCHES, _LETTER_INCHES, _SHORTEST_AXIS = 8.0, 0.1, 0.085, 4.8
_TITLE_LETTERS, _LABEL_LETTERS, _LABEL_LINES, _MOST_BARS, _MOST_TICKS = 80, 36, 2, 40, 7

P = ParamSpec("P")


@dataclass(frozen=True, repr=False)
class Chart:
    """A finished picture that a notebook shows where it is the value of a cell.

    `png` is the file to save, `size` how wide and high it is shown, in pixels.
    """

    title: str
    png: bytes
    size: tuple[int, int]

    def __repr__(self) -> str:
        """What stands for the picture where there is text only."""
        return f"<chart: {self.title}>"

    def _repr_png_(self) -> tuple[bytes, dict[str, object]]:
        width, height = self.size
        return self.png, {"width": width, "height": height, "alt": self.title}


def drawn(draw: Callable[P, Figure]) -> Callable[P, Chart]:
    """`draw` in the style of our charts, its figure finished and let go: one takes megabytes."""

    @wraps(draw)
    def finished(*given: P.args, **named: P.kwargs) -> Chart:
        with style():
            figure = draw(*given, **named)
            FigureCanvasAgg(figure)
            file = BytesIO()
            # without Software, which would be the version of matplotlib
            figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        inches = figure.get_size_inches()
        width, height = (round(side * _SHOWN_DOTS_PER_INCH) for side in inches)
        return Chart(figure.get_label(), file.getvalue(), (width, height))

    return finished


@contextmanager
def style() -> Iterator[None]:
    """The style of our charts, and no other, as long as the block runs."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # whatever matplotlib has to say would show a path of this machine in the notebook
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"font.family": families("DejaVu Sans")})
        yield


@cache
def families(first: str) -> list[str]:
    installed = get_font_names()
    return [first, *(name for name in _OTHER_FONTS if name in installed)]


def legible(text: str) -> str:
    """The text with the numbers, `⟨U+73C8⟩`, of letters that no font has: as boxes all are alike."""
    parts = groupby(text, _is_in_a_font)
    return "".join("".join(part) if is_in else _numbers(part) for is_in, part in parts)


def _numbers(letters: Iterator[str]) -> str:
    return f"⟨{' '.join(f'U+{ord(letter):04X}' for letter in letters)}⟩"


@cache
def _is_in_a_font(letter: str) -> bool:
    fonts = (get_font(findfont(name)) for name in families("DejaVu Sans"))
    return any(font.get_char_index(ord(letter)) for font in fonts)


def _new_figure(title: str, height: float) -> tuple[Figure, Axes]:
    lines = textwrap.fill(legible(title), _TITLE_LETTERS)
    height += 0.2 * lines.count("\n")
    figure = Figure(figsize=(_INCHES_WIDE, height), dpi=DOTS_PER_INCH, layout="constrained")
    figure.set_label(title)
    figure.get_layout_engine().set(w_pad=_PAD_INCHES, h_pad=_PAD_INCHES)
    figure.suptitle(lines, x=_PAD_INCHES / _INCHES_WIDE, ha="left", size=12, weight="bold")
    axes = figure.add_subplot()
    axes.tick_params(length=0)
    return figure, axes


def empty_figure(title: str, words: str = NOTHING_TO_DRAW) -> Figure:
    figure, axes = _new_figure(title, height=1.4)
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
        return empty_figure(title)
    figure, axes = _new_figure(title, height=3.4)
    is_date = pd.api.types.is_datetime64_any_dtype(rows[x])
    places = (date2num(rows[x]) if is_date else _floats(rows[x])).tolist()
    values = _floats(rows[y]).tolist()
    if before and rows[before].notna().any():
        earlier = _floats(rows[before]).tolist()
        axes.plot(places, earlier, color=PALE, linewidth=2.5, label=_words(before), clip_on=False)
    else:
        earlier = []
    axes.plot(places, values, color=BLUE, marker="o", markersize=3.5, clip_on=False, label=_words(y))
    if earlier:
        _add_legend(axes)
    _name_places(axes, places, rows[x])
    _scale_from_zero(axes, [value for value in values + earlier if isfinite(value)])
    axes.set(xlabel=_words(x), ylabel=unit)
    return figure


@drawn
def draw_stacks(frame: pd.DataFrame, x: str, parts: Sequence[str], title: str, unit: str) -> Figure:
    """Upright bars over the dates or numbers of column `x`: the columns `parts`, one upon the other.

    There are at most three parts, the first one at the foot; a missing value is nothing. `unit` is the
    label of the value axis.
    """
    rows = frame.dropna(subset=[x])
    if rows.empty:
        return empty_figure(title)
    figure, axes = _new_figure(title, height=3.4)
    places, foot = range(len(rows)), pd.Series(0.0, rows.index)
    for part, colour in zip(parts, _STACK, strict=False):
        height = _floats(rows[part].fillna(0))
        axes.bar(places, height, bottom=foot, color=colour, width=0.75, label=_words(part))
        foot = foot + height
    _name_places(axes, list(places), rows[x])
    _scale_from_zero(axes, foot.tolist())
    _add_legend(axes)
    axes.set(xlabel=_words(x), ylabel=unit)
    return figure


@drawn
def draw_heat_map(frame: pd.DataFrame, label: str, title: str) -> Figure:
    """A field for every number of the frame, the darker the larger, with the number in it.

    Lines are named by column `label`, all other columns hold the numbers and are named as they are. A
    missing number leaves its field empty; columns without any number are left out. Of more than 40 rows
    the first 40 are drawn, as the title then says.
    """
    rows, title = _first_rows(frame, title)
    numbers = rows.drop(columns=label).apply(_floats).dropna(axis="columns", how="all")
    in_thousands = not numbers.empty and numbers.abs().max(axis=None) >= 1_000_000
    title = f"{title}, in thousands" if in_thousands else title
    if rows.empty:
        return empty_figure(title)
    if numbers.empty:
        return empty_figure(title, "no figures in this range")
    figure, axes = _new_figure(title, height=1.0 + 0.34 * len(rows))
    values = numbers.to_numpy() / (1000 if in_thousands else 1)
    low, high = min(0.0, nanmin(values)), nanmax(values)
    decimals = _decimals(values[isfinite(values)].tolist())
    axes.imshow(values, cmap=_HEAT, vmin=low, vmax=high, aspect="auto")
    for (line, column), value in ndenumerate(values):
        if isfinite(value):
            is_dark = value - low > 0.85 * (high - low)
            text = _number(value, decimals)
            axes.text(
                column, line, text, ha="center", va="center", size=9, color="white" if is_dark else INK
            )
    axes.set_xticks(range(values.shape[1]), [_words(name) for name in numbers.columns])
    axes.set_yticks(range(len(rows)), [_short(text) for text in rows[label]])
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    return figure


@drawn
def draw_bars(frame: pd.DataFrame, label: str, value: str, title: str, unit: str) -> Figure:
    """Bars of column `value`, named by column `label`, the frame's first row on top.

    `unit` is the label of the value axis. Of more than 40 rows the first 40 are drawn, as the title
    then says; a label takes two lines at most. Rows without a value are left out.
    """
    rows, title = _first_rows(frame.dropna(subset=[value]), title)
    if rows.empty:
        return empty_figure(title)
    labels = [_short(text) for text in rows[label].astype(object).fillna("not given")]
    inches = 0.42 if any("\n" in text for text in labels) else 0.3
    figure, axes = _new_figure(title, height=1.0 + inches * len(rows))
    values = _floats(rows[value]).tolist()
    # by place, not by name: two products may share a name
    bars = axes.barh(range(len(rows)), values, color=BLUE, height=0.7)
    _name_values(axes, bars, values)
    _lay_bars(axes, labels, unit)
    return figure


@drawn
def draw_checks(check_results: pd.DataFrame) -> Figure:
    """A bar a table of the rows of `run_checks`: how many of its checks passed, and how many did not.

    What did not pass stands at the left, broken first, then failed, warned and skipped. The same is
    said in words at the end of the bar. Checks of no table in particular have the last bar.
    """
    title = "Checks by table"
    counts = _outcomes(check_results)
    if counts.empty:
        return empty_figure(title, "there are no checks")
    figure, axes = _new_figure(title, height=1.0 + 0.3 * len(counts))
    left = pd.Series(0, counts.index)
    for outcome in counts:
        axes.barh(range(len(counts)), counts[outcome], left=left, color=_OUTCOMES[outcome], height=0.7)
        left = left + counts[outcome]
    words = [
        ", ".join(f"{count:,} {outcome}" for outcome, count in row.items() if count)
        for row in counts.to_dict("records")
    ]
    # the part of the axis that the longest words take at the end of the longest bar
    part = min(_LETTER_INCHES * (max(map(len, words)) + 2) / _SHORTEST_AXIS, 0.6)
    axes.set_xlim(0, left.max() / (1 - part))
    for place, (end, text) in enumerate(zip(left, words, strict=True)):
        axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center")
    _lay_bars(axes, [_short(table) for table in counts.index], "checks")
    return figure


def _first_rows(frame: pd.DataFrame, title: str) -> tuple[pd.DataFrame, str]:
    """As many rows as can be read, and the title, which says where there are more."""
    if len(frame) <= _MOST_BARS:
        return frame, title
    return frame.head(_MOST_BARS), f"{title} (the first {_MOST_BARS} of {len(frame):,})"


def _name_places(axes: Axes, places: Sequence[float], values: pd.Series) -> None:
    step = ceil(len(values) / _MOST_TICKS)
    axes.set_xticks(places[::step], _tick_labels(values[::step]))


def _add_legend(axes: Axes) -> None:
    """Names of the series above the axes, where no line can run through them."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0.2)


def _scale_from_zero(axes: Axes, values: list[float]) -> None:
    lowest, highest = min(0.0, *values), max(0.0, *values)
    room = 0.06 * (highest - lowest) or 1.0
    axes.set_ylim(lowest - room * (lowest < 0), highest + room)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.spines[["left", "bottom"]].set_visible(False)
    decimals = _decimals(values)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10), integer=decimals == 0))
    axes.yaxis.set_major_formatter(lambda value, _: _number(value, decimals))
    axes.grid(axis="y")


def _name_values(axes: Axes, bars: object, values: list[float]) -> None:
    """Write each value at the end of its bar, which leaves the scale nothing to say."""
    decimals = _decimals(values)
    names = [_number(value, decimals) for value in values]
    lowest, highest = min(0.0, *values), max(0.0, *values)
    # the part of the axis that a value takes at the end of its bar, at most a third
    part = min(_LETTER_INCHES * (max(map(len, names)) + 1) / _SHORTEST_AXIS, 1 / 3)
    room = part / (1 - 2 * part) * (highest - lowest or 1.0)
    axes.set_xlim(lowest - room * (lowest < 0), highest + room)
    axes.bar_label(bars, names, padding=3)


def _lay_bars(axes: Axes, labels: list[str], unit: str) -> None:
    """The first bar on top, and no scale: each bar has its words at its end."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks([])
    axes.set_xlabel(unit, loc="left")


def _outcomes(check_results: pd.DataFrame) -> pd.DataFrame:
    """How many checks of each table came out how: a row a table, a column an outcome that occurs."""
    names = check_results["check_name"].tolist()
    tables = [checked_table(name, names) for name in names]
    counts = pd.crosstab(tables, check_results["status"].to_numpy())
    order = sorted(counts.index, key=lambda table: (table == "checks", table))
    found = counts.loc[order, [outcome for outcome in _OUTCOMES if outcome in counts]]
    return found.rename({"checks": "other checks"})


def _decimals(values: list[float]) -> int:
    """None where the values are large or whole, else two."""
    is_coarse = max(map(abs, values)) >= 100 or all(value.is_integer() for value in values)
    return 0 if is_coarse else 2


def _number(value: float, decimals: int) -> str:
    return f"{value:z,.{decimals}f}" if abs(value) < 1e15 else f"{value:.3g}"


def _floats(values: pd.Series) -> pd.Series:
    """The values as matplotlib can scale them, whose sums are still numbers."""
    return values.astype(float).clip(-1e300, 1e300)


def _tick_labels(values: pd.Series) -> list[str]:
    if not pd.api.types.is_datetime64_any_dtype(values):
        return [f"{value:,}" for value in values]
    is_monthly = (values.dt.day == 1).all()
    return values.dt.strftime("%Y-%m" if is_monthly else "%Y-%m-%d").tolist()


def _words(name: str) -> str:
    return legible(name.replace("_", " "))


def _short(text: object) -> str:
    lines = textwrap.wrap(legible(str(text)), _LABEL_LETTERS, max_lines=_LABEL_LINES, placeholder=" …")
    return "\n".join(lines)
