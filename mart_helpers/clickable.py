"""The charts of the notebooks for a browser, by Altair: a click tells a line of the frame."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from mart_helpers import charts

_MOST_LINES = 400  # of a frame are drawn

_PICKED = alt.selection_point("picked", fields=["line"])

_PALER = alt.condition(_PICKED, alt.value(1), alt.value(0.35))

_QUIET = alt.Axis(labels=False, ticks=False, grid=False, titleAnchor="start", titleFontWeight="normal")


class Clickable(NamedTuple):
    """A chart, and the frame that its selection `picked` gives the `line` of, counted from 0."""

    chart: alt.LayerChart
    frame: pd.DataFrame
    title: str


def make_clickable(names: dict[str, object]) -> None:
    """Let the functions of `charts` that are among these names draw what can be clicked."""
    for name, draw in _DRAWN.items():
        if names.get(name) is getattr(charts, name):
            names[name] = partial(_drawn, draw)


def _drawn(
    draw: Callable[..., alt.LayerChart], frame: pd.DataFrame, *given: Any, **named: Any
) -> Clickable | str:
    frame = frame.head(_MOST_LINES)
    chart = draw(frame, *given, **named)
    return charts.NOTHING_TO_DRAW if chart.data.empty else Clickable(chart, frame, chart.layer[0].title)


def _base(
    frame: pd.DataFrame, label: str, values: Sequence[str], title: str
) -> tuple[alt.Chart, alt.Axis]:
    """A chart of each `value` by `line` and `series`, without marks; the axis that names the lines."""
    names = frame[label].astype(object).fillna("not given").astype(str)
    if pd.api.types.is_datetime64_any_dtype(frame[label]):
        is_monthly = (frame[label].dt.day == 1).all()
        names = frame[label].dt.strftime("%Y-%m" if is_monthly else "%Y-%m-%d")
    lines = {"line": range(len(frame)), "name": names.tolist()}
    rows = [
        pd.DataFrame(lines | {"series": _words(each), "value": frame[each].astype(float).tolist()})
        for each in values
    ]
    tips = ["name:N", "series:N", alt.Tooltip("value:Q", format=",.2~f")]
    labels = f"{json.dumps(lines['name'])}[datum.value]"
    axis = alt.Axis(labelExpr=labels, title=None, labelAngle=0, labelOverlap=True, labelLimit=130)
    return alt.Chart(pd.concat(rows).dropna(), title=title).encode(tooltip=tips), axis


def _clicked(marks: alt.Chart) -> alt.Chart:
    return marks.encode(opacity=_PALER).add_params(_PICKED)


def _bars(frame: pd.DataFrame, label: str, value: str, title: str, unit: str) -> alt.LayerChart:
    base, axis = _base(frame, label, [value], title)
    lowest, highest = min(0, frame[value].min()), max(0, frame[value].max())
    room = 0.25 * (highest - lowest)  # for the values at the ends of the bars
    scale = alt.Scale(domain=[lowest - room * (lowest < 0), highest + room], nice=False)
    base = base.encode(
        alt.Y("line:O", axis=axis), alt.X("value:Q", title=unit.strip(), axis=_QUIET, scale=scale)
    )
    texts = base.mark_text(align="left", dx=4, color=_MIDDLE).encode(text=_text("value"))
    return (_clicked(base.mark_bar(color=charts.BLUE)) + texts).properties(height=alt.Step(26))


def _line(
    frame: pd.DataFrame, x: str, y: str, title: str, unit: str, before: str | None = None
) -> alt.LayerChart:
    series = [each for each in (y, before) if each and frame[each].notna().any()]
    base, axis = _base(frame, x, series, title)
    base = base.encode(
        alt.X("line:O", axis=axis), alt.Y("value:Q", title=unit.strip()), _colours(series, "#9DB8C9")
    )
    # the points on top, to be hit
    return base.mark_line() + _clicked(base.mark_point(filled=True, size=50, opacity=1))


def _stacks(frame: pd.DataFrame, x: str, parts: Sequence[str], title: str, unit: str) -> alt.LayerChart:
    base, axis = _base(frame, x, parts, title)
    base = base.encode(
        alt.X("line:O", axis=axis), alt.Y("value:Q", title=unit.strip()), _colours(parts, charts.ORANGE)
    )
    return alt.layer(_clicked(base.mark_bar()))


def _heat_map(frame: pd.DataFrame, label: str, title: str, unit: str = "") -> alt.LayerChart:
    values = [each for each in frame.columns if each != label and frame[each].notna().any()]
    base, axis = _base(frame, label, values, title)
    across = alt.X("series:N", sort=None, title=unit.strip() or None, axis=alt.Axis(labelAngle=0))
    base = base.encode(alt.Y("line:O", axis=axis), across)
    deepest = 2 * frame[values].max(axis=None)  # no deeper than letters can be read on
    scale = alt.Scale(scheme="blues", domainMin=0, domainMax=deepest)
    fields = _clicked(base.mark_rect()).encode(alt.Color("value:Q", scale=scale, legend=None))
    texts = base.mark_text(color="black").encode(text=_text("value"))
    return (fields + texts).properties(height=alt.Step(26))


_DRAWN = {"draw_bars": _bars, "draw_line": _line, "draw_stacks": _stacks, "draw_heat_map": _heat_map}

_MIDDLE = "#808495"  # a grey to be read on light and on dark


def _text(field: str) -> alt.Text:
    return alt.Text(f"{field}:Q", format=",.0f")


def _colours(series: Sequence[str], second: str) -> alt.Color:
    scale = alt.Scale(domain=[*map(_words, series)], range=[charts.BLUE, second, charts.PALE])
    return alt.Color("series:N", scale=scale, legend=alt.Legend(orient="top", title=None))


def _words(name: str) -> str:
    return str(name).replace("_", " ")
