"""Pictures of boxes, words and lines, written as SVG: to import the library of charts takes far longer.

Lengths are in points, y runs downwards. The same sketch gives the same bytes on every machine, and looks
alike in whatever font it is shown. It has no ids, styles, scripts or links, so any page can hold it.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from math import hypot
from typing import NamedTuple
from unicodedata import category, east_asian_width
from xml.etree import ElementTree

from mart_helpers.colours import INK

SVG = "image/svg+xml"

_MONOSPACED = "DejaVu Sans Mono, Menlo, Consolas, monospace"

_PROPORTIONAL = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"

# As parts of the size of the letters: how wide a monospaced one is, how far the middle of a line lies
# above its foot, and how wide the letters of a title are at most, on average.
_MONOSPACED_WIDE, _MIDDLE, _TITLE_WIDE = 0.602, 0.27, 0.75

_MARGIN, _TITLE_ROOM, _TITLE_SIZE = 10.0, 28.0, 12.0

_HEAD_LONG, _HEAD_WIDE = 6.0, 5.0

# What a line of text cannot hold: line ends and tabs, and what XML 1.0 forbids (section 2.2).
_NO_LETTER = "[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"

Point = tuple[float, float]


class Box(NamedTuple):
    """A rectangle, the corners of which are rounded by `radius`."""

    left: float
    top: float
    width: float
    height: float
    edge: str
    fill: str = "#FFFFFF"
    radius: float = 0.0


class Words(NamedTuple):
    """A line of text. Its start, middle or end (`anchor`) is at `x`, the middle of its height at `y`."""

    x: float
    y: float
    text: str
    size: float = 9.0
    colour: str = INK
    anchor: str = "start"
    is_bold: bool = False
    is_monospaced: bool = False

    @property
    def printable(self) -> str:
        """The text with a replacement character (�) for what a line of text cannot hold."""
        is_plain = self.text.isascii() and self.text.isprintable()  # which is soon seen
        return self.text if is_plain else re.sub(_NO_LETTER, "\ufffd", self.text)

    @property
    def foot(self) -> float:
        """The y of the line that the letters stand on."""
        return self.y + _MIDDLE * self.size


class Line(NamedTuple):
    """A straight line through two points, or the cubic Bézier curve of four; an arrow has a head."""

    points: tuple[Point, ...]
    colour: str = INK
    is_arrow: bool = False

    @property
    def shaft(self) -> tuple[Point, ...]:
        """The points of the line without the head, which has its tip at the last point."""
        return (*self.points[:-1], self._behind_tip(_HEAD_LONG)) if self.is_arrow else self.points

    @property
    def head(self) -> tuple[Point, ...]:
        """The corners of the head; none where there is no head."""
        if not self.is_arrow:
            return ()
        sides = (self._behind_tip(_HEAD_LONG, aside) for aside in (-_HEAD_WIDE / 2, _HEAD_WIDE / 2))
        return (self.points[-1], *sides)

    def _behind_tip(self, back: float, aside: float = 0.0) -> Point:
        (from_x, from_y), (x, y) = self.points[-2:]
        long = hypot(x - from_x, y - from_y)
        right, down = (x - from_x) / long, (y - from_y) / long
        return x - back * right - aside * down, y - back * down + aside * right


Mark = Box | Words | Line


@dataclass(frozen=True, repr=False)
class Sketch:
    """A picture that a notebook shows where it is the value of a cell: `marks` below a title.

    The marks lie between (0, 0) and (`width`, `height`); later ones cover earlier ones.
    """

    title: str
    width: float
    height: float
    marks: tuple[Mark, ...]

    def __repr__(self) -> str:
        """What stands for the picture where there is text only."""
        return f"<chart: {self.title}>"

    def _repr_html_(self) -> str:
        """The SVG within an HTML picture: JupyterLab shows no bare one before the cell has been run."""
        data = b64encode(self.svg.encode()).decode("ascii")
        return f'<img alt="{escape(self.title)}" src="data:{SVG};base64,{data}"/>'

    @property
    def page(self) -> Box:
        """The whole of the picture: title, marks and a margin around them."""
        width = max(self.width, _TITLE_WIDE * _TITLE_SIZE * len(self.title)) + 2 * _MARGIN
        height = _TITLE_ROOM + self.height + 2 * _MARGIN
        return Box(-_MARGIN, -_MARGIN - _TITLE_ROOM, width, height, edge="none")

    @property
    def all_marks(self) -> tuple[Mark, ...]:
        """The marks, and before them the title."""
        middle = _TITLE_SIZE / 2 - _TITLE_ROOM
        return (Words(0, middle, self.title, size=_TITLE_SIZE, is_bold=True), *self.marks)

    @property
    def svg(self) -> str:
        """The file to save, on white whatever is behind it."""
        page = self.page
        root = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
        root.set("width", f"{_number(page.width)}pt")
        root.set("height", f"{_number(page.height)}pt")
        root.set("viewBox", " ".join(map(_number, (page.left, page.top, page.width, page.height))))
        ElementTree.SubElement(root, "title").text = self.title
        for mark in (page, *self.all_marks):
            root.extend(_elements(mark))
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode") + "\n"


def monospaced_width(text: str, size: float) -> float:
    """How wide a monospaced text is: letters of East Asia take the room of two others, accents none."""
    letters = sum(
        0 if category(each) in ("Mn", "Me", "Cf") else 2 if east_asian_width(each) in "WF" else 1
        for each in text
    )
    return _MONOSPACED_WIDE * size * letters


def _elements(mark: Mark) -> Iterator[ElementTree.Element]:
    match mark:
        case Box():
            yield _box(mark)
        case Words():
            yield _words(mark)
        case Line():
            yield from _line(mark)


def _box(box: Box) -> ElementTree.Element:
    corner = {"x": box.left, "y": box.top, "width": box.width, "height": box.height}
    rounded = {"rx": box.radius} if box.radius else {}
    return _element("rect", **corner, **rounded, fill=box.fill, stroke=box.edge)


def _words(words: Words) -> ElementTree.Element:
    look = {"font-family": _PROPORTIONAL, "font-size": words.size, "fill": words.colour}
    if words.is_bold:
        look["font-weight"] = "bold"
    if words.anchor != "start":
        look["text-anchor"] = words.anchor
    if words.is_monospaced:
        # whatever the font: columns stay in line, and nothing grows beyond its place
        width = monospaced_width(words.printable, words.size)
        look |= {"font-family": _MONOSPACED, "textLength": width, "lengthAdjust": "spacingAndGlyphs"}
    element = _element("text", x=words.x, y=words.foot, **look)
    element.set("xml:space", "preserve")  # blanks in a name are a part of it
    element.text = words.printable
    return element


def _line(line: Line) -> Iterator[ElementTree.Element]:
    (x, y), *others = line.shaft
    path = f"M{_number(x)},{_number(y)} {'C' if len(others) > 1 else 'L'}{_listed(others)}"
    yield _element("path", d=path, fill="none", stroke=line.colour)
    if line.is_arrow:
        yield _element("polygon", points=_listed(line.head), fill=line.colour)


def _element(name: str, **attributes: float | str) -> ElementTree.Element:
    written = {
        key: value if isinstance(value, str) else _number(value) for key, value in attributes.items()
    }
    return ElementTree.Element(name, written)


def _listed(points: Iterable[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.6g}"
