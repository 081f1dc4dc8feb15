"""Pictures for the notebooks: a line over time, bars, and the star schema, all in one quiet style.

A picture depends on the rows alone: neither the clock nor a `matplotlibrc` changes a byte of it.
Money has no currency sign, because the mart knows none.
"""

import textwrap
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import ceil

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.ticker import MaxNLocator

from mart_helpers.session import Session

NOTHING_TO_DRAW = "no sales in this range"

# Okabe and Ito's blue: told apart from the greys in every kind of colour vision, and in print.
_BLUE, _INK, _GREY, _LIGHT = "#0072B2", "#222222", "#666666", "#DDDDDD"
# Theirs as well, and told apart by their lightness alone. In the order in which they are drawn.
_OUTCOMES = {"broken": _INK, "fail": "#D55E00", "warn": "#E69F00", "pass": "#C9DCE8"}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    # else a product called "$5 or $6" would be set as a formula
    "text.parse_math": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _LIGHT,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_DOTS_PER_INCH = 144
_SHOWN_DOTS_PER_INCH = 96
_INCHES_WIDE, _PAD_INCHES = 8.0, 0.1
_LETTER_INCHES, _SHORTEST_AXIS = 0.085, 4.8
_TITLE_LETTERS, _LABEL_LETTERS, _LABEL_LINES = 80, 36, 2
_MOST_BARS, _MOST_TICKS = 40, 7
_STEPS = (1, 2, 5, 10)


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


def draw_line(frame: pd.DataFrame, x: str, y: str, title: str, unit: str) -> Chart:
    """A line through column `y` over the dates or numbers of column `x`, in the order of the frame.

    `unit` is the label of the value axis, whose scale includes zero. Rows without a value are left
    out.
    """
    rows = frame.dropna(subset=[x, y])
    with _style():
        if rows.empty:
            return _empty(title)
        figure, axes = _figure(title, height=3.4)
        dates = pd.api.types.is_datetime64_any_dtype(rows[x])
        places = date2num(rows[x]) if dates else rows[x].astype(float).to_numpy()
        values = rows[y].astype(float).tolist()
        axes.plot(places, values, color=_BLUE, marker="o", markersize=3.5, clip_on=False)
        step = ceil(len(rows) / _MOST_TICKS)
        axes.set_xticks(places[::step], _tick_labels(rows[x][::step]))
        _scale_from_zero(axes, values)
        axes.grid(axis="y")
        axes.set(xlabel=_words(x), ylabel=unit)
        return _rendered(figure, title)


def draw_bars(frame: pd.DataFrame, label: str, value: str, title: str, unit: str) -> Chart:
    """Bars of column `value`, named by column `label`, the frame's first row on top.

    `unit` is the label of the value axis. Of more than 40 rows the first 40 are drawn, as the title
    then says; a label takes two lines at most. Rows without a value are left out.
    """
    rows = frame.dropna(subset=[value])
    if len(rows) > _MOST_BARS:
        title = f"{title} (the first {_MOST_BARS} of {len(rows):,})"
        rows = rows.head(_MOST_BARS)
    with _style():
        if rows.empty:
            return _empty(title)
        labels = [_short(text) for text in rows[label].astype(object).fillna("not given")]
        inches = 0.42 if any("\n" in text for text in labels) else 0.3
        figure, axes = _figure(title, height=1.0 + inches * len(rows))
        values = rows[value].astype(float).tolist()
        # by place, not by name: two products may share a name
        bars = axes.barh(range(len(rows)), values, color=_BLUE, height=0.7)
        axes.set_yticks(range(len(rows)), labels)
        axes.invert_yaxis()
        _name_values(axes, bars, values)
        axes.set_xlabel(unit, loc="left")
        return _rendered(figure, title)


def draw_checks(check_results: pd.DataFrame) -> Chart:
    """A bar a table of the rows of `run_checks`: how many of its checks passed, and how many did not.

    What did not pass stands at the left, broken first, then failed, then what is only a warning. The
    same is said in words at the end of the bar. Checks of no table in particular have the last bar.
    """
    title = "Checks by table"
    counts = _outcomes(check_results)
    with _style():
        if counts.empty:
            return _empty(title, "there are no checks")
        figure, axes = _figure(title, height=1.0 + 0.3 * len(counts))
        places, left = range(len(counts)), pd.Series(0, counts.index)
        for outcome in counts:
            width = counts[outcome]
            axes.barh(places, width, left=left, color=_OUTCOMES[outcome], height=0.7, label=outcome)
            left = left + width
        axes.set_yticks(places, [_short(table) for table in counts.index])
        axes.invert_yaxis()
        words = [_in_words(row) for row in counts.to_dict("records")]
        _write_at_ends(axes, left.tolist(), words)
        axes.set_xlabel("checks", loc="left")
        return _rendered(figure, title)


def checked_table(check_name: str, check_names: Collection[str]) -> str:
    """The table that a check is about, `checks` where it is about none in particular.

    A table has a check `<table>_has_rows`, and the names of its checks begin with its own.
    """
    tables = (name.removesuffix("_has_rows") for name in check_names if name.endswith("_has_rows"))
    found = [table for table in tables if check_name.startswith(f"{table}_")]
    return max(found, key=len, default="checks")


def draw_star(mart: Session) -> Chart:
    """The star schema of the mart that `mart` has open, published or candidate.

    Facts stand in the middle, dimensions at their sides, each with its rows, columns and types.
    Keys go by their names: `dim_<thing>` has `<thing>_key` (PK), a table that refers to it has the
    same column (FK). Arrows lead from facts to dimensions.
    """
    title = "Star schema"
    with _style():
        tables = _star_tables(mart)
        if not tables:
            return _empty(title, "no tables named dim_… or fact_…")
        placed = _placed(tables)
        width = max(each.right for each in placed) + _MARGIN
        height = max(each.bottom for each in placed) + _MARGIN
        figure = Figure(figsize=(width / 72, height / 72), dpi=_DOTS_PER_INCH)
        # one unit is one point, y runs downwards
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(_MARGIN, _MARGIN, title, size=12, weight="bold", va="top")
        for each in placed:
            _draw_table(axes, each)
        for fact in placed:
            for dimension in placed:
                _draw_arrow(axes, fact, dimension)
        return _rendered(figure, title)


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        # a letter that the font lacks becomes a box; the warning would show a path of this machine
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _figure(title: str, height: float) -> tuple[Figure, Axes]:
    lines = textwrap.fill(title, _TITLE_LETTERS)
    height += 0.2 * lines.count("\n")
    figure = Figure(figsize=(_INCHES_WIDE, height), dpi=_DOTS_PER_INCH, layout="constrained")
    figure.get_layout_engine().set(w_pad=_PAD_INCHES, h_pad=_PAD_INCHES)
    figure.suptitle(lines, x=_PAD_INCHES / _INCHES_WIDE, ha="left", size=12, weight="bold")
    axes = figure.add_subplot()
    axes.tick_params(length=0)
    return figure, axes


def _empty(title: str, words: str = NOTHING_TO_DRAW) -> Chart:
    figure, axes = _figure(title, height=1.4)
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, color=_GREY, ha="center", va="center", transform=axes.transAxes)
    return _rendered(figure, title)


def _rendered(figure: Figure, title: str) -> Chart:
    FigureCanvasAgg(figure)
    file = BytesIO()
    # without Software, which would be the version of matplotlib
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return Chart(title, figure, file.getvalue())


def _scale_from_zero(axes: Axes, values: list[float]) -> None:
    lowest, highest = min(0.0, *values), max(0.0, *values)
    room = 0.06 * (highest - lowest) or 1.0
    axes.set_ylim(lowest - room * (lowest < 0), highest + room)
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.spines[["left", "bottom"]].set_visible(False)
    decimals = _decimals(values)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=decimals == 0))
    axes.yaxis.set_major_formatter(lambda value, _: _number(value, decimals))


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
    axes.axvline(0, color=_GREY, linewidth=0.8)
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
    axes.axvline(0, color=_GREY, linewidth=0.8)
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


# The star. Lengths are in points; a monospaced letter of the font is 0.602 of its size wide.
_LETTER_SIZE, _LETTER_WIDTH, _LINE, _HEAD = 8.5, 8.5 * 0.602, 13.0, 32.0
_MARGIN, _TITLE_ROOM, _PADDING, _BETWEEN, _BESIDE = 8.0, 26.0, 7.0, 20.0, 62.0
_MONOSPACED = "DejaVu Sans Mono"


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
    colour = _BLUE if table.is_fact else _GREY
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
        axes.text(left, y, mark, color=_BLUE, weight="bold", **letters)
        axes.text(left + 3 * _LETTER_WIDTH, y, name, **letters)
        axes.text(placed.right - _PADDING, y, type_, color=_GREY, ha="right", **letters)


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
            path=curve, arrowstyle="-|>", mutation_scale=11, color=_INK, linewidth=1.0, fill=True
        )
    )
