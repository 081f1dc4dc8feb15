"""Charts for the notebooks: lines, bars, stacks, heat maps, and how checks came out.

Money has no currency sign, because the mart knows none.
"""

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import ceil

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve
from matplotlib.ticker import MaxNLocator
from numpy import isfinite, nanmax, nanmin, ndenumerate

from mart_helpers.checks import checked_table
from mart_helpers.colours import BLUE, GREY, INK, LIGHT, ORANGE, PALE
from mart_helpers.sketching import Box, Line, Mark, Sketch, Words

NOTHING_TO_DRAW = "no sales in this range"

_STYLE = {
    "font.family": "DejaVu Sans",
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

_SIDES = {"start": "left", "middle": "center", "end": "right"}

_DOTS_PER_INCH = 144

_SHOWN_DOTS_PER_INCH = 96

_INCHES_WIDE, _PAD_INCHES, _TITLE_LETTERS = 8.0, 0.1, 80


@dataclass(frozen=True, repr=False)
class Chart:
    """A finished picture that a notebook shows where it is the value of a cell.

    `png` is the file to save; `figure` is what it was made from.
    """

    title: str
    figure: Figure
    png: bytes

    def __repr__(self) -> str:
        """What stands for the picture where there is text only."""
        return f"<chart: {self.title}>"

    def _repr_png_(self) -> tuple[bytes, dict[str, object]]:
        inches = self.figure.get_size_inches()
        width, height = (round(side * _SHOWN_DOTS_PER_INCH) for side in inches)
        return self.png, {"width": width, "height": height, "alt": self.title}


@contextmanager
def style() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        # a letter that the font lacks becomes a box; the warning would show a path of this machine
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(title: str, height: float) -> tuple[Figure, Axes]:
    lines = textwrap.fill(title, _TITLE_LETTERS)
    height += 0.2 * lines.count("\n")
    figure = Figure(figsize=(_INCHES_WIDE, height), dpi=_DOTS_PER_INCH, layout="constrained")
    figure.get_layout_engine().set(w_pad=_PAD_INCHES, h_pad=_PAD_INCHES)
    figure.suptitle(lines, x=_PAD_INCHES / _INCHES_WIDE, ha="left", size=12, weight="bold")
    axes = figure.add_subplot()
    axes.tick_params(length=0)
    return figure, axes


def empty_chart(title: str, words: str = NOTHING_TO_DRAW) -> Chart:
    figure, axes = new_figure(title, height=1.4)
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, color=GREY, ha="center", va="center", transform=axes.transAxes)
    return rendered(figure, title)


def as_chart(sketch: Sketch) -> Chart:
    """The sketch drawn with the fonts of charts, for where its SVG cannot be shown."""
    page = sketch.page
    right, bottom = page.left + page.width, page.top + page.height
    with style():
        figure = Figure(figsize=(page.width / 72, page.height / 72), dpi=_DOTS_PER_INCH)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(page.left, right), ylim=(bottom, page.top))
        axes.set_axis_off()
        for mark in sketch.all_marks:
            _add(axes, mark)
        return rendered(figure, sketch.title)


def _add(axes: Axes, mark: Mark) -> None:
    match mark:
        case Box():
            corners = f"round,pad=0,rounding_size={mark.radius}" if mark.radius else "square,pad=0"
            place = (mark.left, mark.top), mark.width, mark.height
            look = {"edgecolor": mark.edge, "facecolor": mark.fill, "linewidth": 1}
            axes.add_patch(FancyBboxPatch(*place, boxstyle=corners, **look))
        case Words():
            look = {"size": mark.size, "color": mark.colour, "ha": _SIDES[mark.anchor]}
            if mark.is_bold:
                look["weight"] = "bold"
            if mark.is_monospaced:
                look["family"] = "DejaVu Sans Mono"
            axes.text(mark.x, mark.foot, mark.printable, va="baseline", **look)
        case Line():
            codes = [Curve.MOVETO, *[Curve.CURVE4 if len(mark.shaft) > 2 else Curve.LINETO] * 3]
            path = Curve(mark.shaft, codes[: len(mark.shaft)])
            axes.add_patch(PathPatch(path, edgecolor=mark.colour, fill=False, linewidth=1))
            if mark.is_arrow:
                axes.add_patch(Polygon(mark.head, facecolor=mark.colour))


def rendered(figure: Figure, title: str) -> Chart:
    FigureCanvasAgg(figure)
    file = BytesIO()
    # without Software, which would be the version of matplotlib
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return Chart(title, figure, file.getvalue())


# Okabe and Ito's too, and told apart by their lightness alone. In the order in which they are drawn.
_OUTCOMES = {"broken": INK, "fail": "#D55E00", "warn": ORANGE, "pass": PALE}

_STACK = (BLUE, ORANGE, PALE)

_HEAT = LinearSegmentedColormap.from_list("heat", ["#F3F8FB", BLUE])

_ON = {False: INK, True: "white"}  # letters on a pale and on a dark field

_DOTTED = {"color": BLUE, "marker": "o", "markersize": 3.5, "clip_on": False}

_LETTER_INCHES, _SHORTEST_AXIS = 0.085, 4.8

_LABEL_LETTERS, _LABEL_LINES = 36, 2

_MOST_BARS, _MOST_TICKS = 40, 7

_STEPS = (1, 2, 5, 10)


def draw_line(
    frame: pd.DataFrame, x: str, y: str, title: str, unit: str, before: str | None = None
) -> Chart:
    """A line through column `y` over the dates or numbers of column `x`, in the order of the frame.

    `unit` is the label of the value axis, whose scale includes zero. Rows without a value are left
    out. A paler line through column `before` shows what the value is compared with.
    """
    rows = frame.dropna(subset=[x, y])
    with style():
        if rows.empty:
            return empty_chart(title)
        figure, axes = new_figure(title, height=3.4)
        places = _places(rows[x])
        values = rows[y].astype(float).tolist()
        if before and rows[before].notna().any():
            earlier = rows[before].astype(float).tolist()
            axes.plot(places, earlier, color=PALE, linewidth=2.5, label=_words(before), clip_on=False)
            axes.plot(places, values, **_DOTTED, label=_words(y))
            _add_legend(axes)
        else:
            earlier = []
            axes.plot(places, values, **_DOTTED)
        _name_places(axes, places, rows[x])
        _scale_from_zero(axes, [value for value in values + earlier if isfinite(value)])
        axes.set(xlabel=_words(x), ylabel=unit)
        return rendered(figure, title)


def draw_stacks(frame: pd.DataFrame, x: str, parts: Sequence[str], title: str, unit: str) -> Chart:
    """Upright bars over the dates or numbers of column `x`: the columns `parts`, one upon the other.

    There are at most three parts, the first one at the foot; a missing value is nothing. `unit` is the
    label of the value axis.
    """
    rows = frame.dropna(subset=[x])
    with style():
        if rows.empty:
            return empty_chart(title)
        figure, axes = new_figure(title, height=3.4)
        places, foot = range(len(rows)), pd.Series(0.0, rows.index)
        for part, colour in zip(parts, _STACK, strict=False):
            height = rows[part].fillna(0).astype(float)
            axes.bar(places, height, bottom=foot, color=colour, width=0.75, label=_words(part))
            foot = foot + height
        _name_places(axes, list(places), rows[x])
        _scale_from_zero(axes, foot.tolist())
        _add_legend(axes)
        axes.set(xlabel=_words(x), ylabel=unit)
        return rendered(figure, title)


def draw_heat_map(frame: pd.DataFrame, label: str, title: str) -> Chart:
    """A field for every number of the frame, the darker the larger, with the number in it.

    Lines are named by column `label`, all other columns hold the numbers and are named as they are. A
    missing number leaves its field empty; columns without any number are left out. Of more than 40 rows
    the first 40 are drawn, as the title then says.
    """
    rows, title = _first_rows(frame, title)
    numbers = rows.drop(columns=label).astype(float).dropna(axis="columns", how="all")
    in_thousands = not numbers.empty and numbers.abs().max(axis=None) >= 1_000_000
    title = f"{title}, in thousands" if in_thousands else title
    with style():
        if rows.empty:
            return empty_chart(title)
        if numbers.empty:
            return empty_chart(title, "no figures in this range")
        figure, axes = new_figure(title, height=1.0 + 0.34 * len(rows))
        values = numbers.to_numpy() / (1000 if in_thousands else 1)
        low, high = min(0.0, nanmin(values)), nanmax(values)
        decimals = _decimals(values[isfinite(values)].tolist())
        axes.imshow(values, cmap=_HEAT, vmin=low, vmax=high, aspect="auto")
        for (line, column), value in ndenumerate(values):
            if isfinite(value):
                is_dark = value - low > 0.85 * (high - low)
                text = _number(value, decimals)
                axes.text(column, line, text, ha="center", va="center", size=9, color=_ON[is_dark])
        axes.set_xticks(range(values.shape[1]), [_words(name) for name in numbers.columns])
        axes.set_yticks(range(len(rows)), [_short(text) for text in rows[label]])
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        return rendered(figure, title)


def draw_bars(frame: pd.DataFrame, label: str, value: str, title: str, unit: str) -> Chart:
    """Bars of column `value`, named by column `label`, the frame's first row on top.

    `unit` is the label of the value axis. Of more than 40 rows the first 40 are drawn, as the title
    then says; a label takes two lines at most. Rows without a value are left out.
    """
    rows, title = _first_rows(frame.dropna(subset=[value]), title)
    with style():
        if rows.empty:
            return empty_chart(title)
        labels = [_short(text) for text in rows[label].astype(object).fillna("not given")]
        inches = 0.42 if any("\n" in text for text in labels) else 0.3
        figure, axes = new_figure(title, height=1.0 + inches * len(rows))
        values = rows[value].astype(float).tolist()
        # by place, not by name: two products may share a name
        bars = axes.barh(range(len(rows)), values, color=BLUE, height=0.7)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _name_values(axes, bars, values)
        axes.set_xlabel(unit, loc="left")
        return rendered(figure, title)


def draw_checks(check_results: pd.DataFrame) -> Chart:
    """A bar a table of the rows of `run_checks`: how many of its checks passed, and how many did not.

    What did not pass stands at the left, broken first, then failed, then what is only a warning. The
    same is said in words at the end of the bar. Checks of no table in particular have the last bar.
    """
    title = "Checks by table"
    counts = _outcomes(check_results)
    with style():
        if counts.empty:
            return empty_chart(title, "there are no checks")
        figure, axes = new_figure(title, height=1.0 + 0.3 * len(counts))
        places, left = range(len(counts)), pd.Series(0, counts.index)
        for outcome in counts:
            width = counts[outcome]
            axes.barh(places, width, left=left, color=_OUTCOMES[outcome], height=0.7, label=outcome)
            left = left + width
        axes.set_yticks(places, [_short(table) for table in counts.index])
        axes.set_ylim(len(counts) - 0.4, -0.6)
        words = [_in_words(row) for row in counts.to_dict("records")]
        _write_at_ends(axes, left.tolist(), words)
        axes.set_xlabel("checks", loc="left")
        return rendered(figure, title)


def _first_rows(frame: pd.DataFrame, title: str) -> tuple[pd.DataFrame, str]:
    """As many rows as can be read, and the title, which says where there are more."""
    if len(frame) <= _MOST_BARS:
        return frame, title
    return frame.head(_MOST_BARS), f"{title} (the first {_MOST_BARS} of {len(frame):,})"


def _places(values: pd.Series) -> list[float]:
    dates = pd.api.types.is_datetime64_any_dtype(values)
    return date2num(values).tolist() if dates else values.astype(float).tolist()


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
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=decimals == 0))
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
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks([])


def _outcomes(check_results: pd.DataFrame) -> pd.DataFrame:
    """How many checks of each table came out how: a row a table, a column an outcome that occurs."""
    names = check_results["check_name"].tolist()
    tables = [checked_table(name, names) for name in names]
    warned = (check_results["status"] == "fail") & (check_results["severity"] == "warn")
    counts = pd.crosstab(tables, check_results["status"].mask(warned, "warn").to_numpy())
    order = sorted(counts.index, key=lambda table: (table == "checks", table))
    found = counts.loc[order, [outcome for outcome in _OUTCOMES if outcome in counts]]
    return found.rename({"checks": "other checks"})


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count)


def _write_at_ends(axes: Axes, ends: list[float], words: list[str]) -> None:
    # the part of the axis that the longest words take at the end of the longest bar
    part = min(_LETTER_INCHES * (max(map(len, words)) + 2) / _SHORTEST_AXIS, 0.6)
    axes.set_xlim(0, max(ends) / (1 - part))
    for place, (end, text) in enumerate(zip(ends, words, strict=True)):
        axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks([])


def _decimals(values: list[float]) -> int:
    """None where the values are large or whole, else two."""
    is_coarse = max(map(abs, values)) >= 100 or all(value.is_integer() for value in values)
    return 0 if is_coarse else 2


def _number(value: float, decimals: int) -> str:
    return f"{value:z,.{decimals}f}"


def _tick_labels(values: pd.Series) -> list[str]:
    if not pd.api.types.is_datetime64_any_dtype(values):
        return [f"{value:,}" for value in values]
    is_monthly = (values.dt.day == 1).all()
    return values.dt.strftime("%Y-%m" if is_monthly else "%Y-%m-%d").tolist()


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(text: object) -> str:
    lines = textwrap.wrap(str(text), _LABEL_LETTERS, max_lines=_LABEL_LINES, placeholder=" …")
    return "\n".join(lines)
