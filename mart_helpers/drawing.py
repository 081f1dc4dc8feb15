"""What all charts share: a quiet style, a page with a title, and the bytes that a notebook shows.

A picture depends on the rows alone: neither the clock nor a `matplotlibrc` changes a byte of it.
"""

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve

from mart_helpers.colours import GREY, INK, LIGHT
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
