"""How a notebook shows a pandas frame: without row numbers, and with blanks for missing values."""

import re
from datetime import datetime, time
from decimal import Decimal
from itertools import cycle, repeat
from math import isinf
from numbers import Integral, Real

import pandas as pd
from IPython.core.interactiveshell import InteractiveShell
from numpy import ndarray

from mart_helpers.texts import PERCENTAGE

# Columns of whole numbers with these endings are not amounts, so they get no thousands separators.
LABELS = ("_key", "_id", "year", "line", "stage")

_MOST_ROWS = 60

_LONGEST_TEXT, _LONGEST_UNBROKEN = 100, 40

_LEFT = ' style="text-align: left"'

_ESCAPES = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})


def show_frames(shell: InteractiveShell) -> None:
    """Make the notebook show pandas frames with `as_html` and `as_text`."""
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type(pd.DataFrame, as_html)
    formatters["text/plain"].for_type(
        pd.DataFrame, lambda frame, printer, _: printer.text(as_text(frame))
    )


def as_html(frame: pd.DataFrame) -> str:
    """The frame as a table, with thousands separators and at most two decimals, if a column has any.

    Row numbers are left out. If rows have names, these are shown, and each number gets its own decimals,
    since one row may be money and the next a count; percentages all get the same decimals. A long frame
    shows its first 60 rows and the number of rows. Texts are cut at 100 characters and aligned left;
    numbers are aligned right.
    """
    with pd.option_context("display.max_colwidth", None):
        table = as_texts(frame).to_html(border=0, index=_has_names(frame), index_names=False)
    return laid(without_mathematics(table), frame) + _rest(frame, "\n<p>{}</p>")


def laid(table: str, frame: pd.DataFrame) -> str:
    """The frame's table with texts at the left, where JupyterLab sets none; short ones do not break."""
    rows = frame.head(_MOST_ROWS)
    sides = ["" if _is_number(column) else _LEFT for _, column in rows.items()]
    heads, cells = cycle([*[_LEFT] * _has_names(frame), *sides]), cycle(sides)
    head, _, body = table.partition("</thead>")
    head = re.sub("<th>", lambda _: f"<th{next(heads)}>", head)
    body = re.sub("<td>", lambda _: f"<td{next(cells)}>", body.replace("<th>", f"<th{_LEFT}>"))
    if rows.map(lambda value: len(str(value))).to_numpy().max(initial=0) <= _LONGEST_UNBROKEN:
        head = head.replace("<table ", '<table style="white-space: nowrap" ', 1)
    return f"{head}</thead>{body}"


def _is_number(column: pd.Series) -> bool:
    values = column.dropna()
    is_number = (isinstance(each, Real | Decimal) and not isinstance(each, bool) for each in values)
    return len(values) > 0 and all(is_number)


def as_text(frame: pd.DataFrame) -> str:
    """The same table as plain text."""
    if frame.empty:
        return f"no rows of {', '.join(map(str, frame.columns))}"
    with pd.option_context("display.max_colwidth", None):
        table = as_texts(frame).to_string(index=_has_names(frame), index_names=False)
    return table + _rest(frame, "\n{}")


def as_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The first 60 rows, each value as the text to show."""
    rows, has_names = frame.head(_MOST_ROWS), _has_names(frame)
    texts = {place: _texts(column, has_names) for place, (_, column) in enumerate(rows.items())}
    return pd.DataFrame(texts, rows.index, dtype=object).set_axis(rows.columns, axis="columns")


def without_mathematics(html: str) -> str:
    """The HTML, changed so that JupyterLab does not read `$5 off $20` as a formula."""
    return re.sub(r"[$\\]", r"<span>\g<0></span>", html)


def _has_names(frame: pd.DataFrame) -> bool:
    return not isinstance(frame.index, pd.RangeIndex)


def _rest(frame: pd.DataFrame, template: str) -> str:
    is_cut = len(frame) > _MOST_ROWS
    return template.format(f"the first {_MOST_ROWS} of {len(frame):,} rows") if is_cut else ""


def _texts(column: pd.Series, has_names: bool) -> list[str]:
    name = str(column.name)
    is_there = column.notna().tolist()
    values = [value if there else None for value, there in zip(column, is_there, strict=True)]
    shares_decimals = name.endswith(PERCENTAGE) or not has_names
    names = repeat(name) if shares_decimals else map(str, column.index)
    decimals = [_decimals(value, each) for value, each in zip(values, names, strict=False)]
    if shares_decimals and all(isinstance(value, float) for value in values if value is not None):
        decimals = [max(decimals, default=0)] * len(values)
    is_label = name.endswith(LABELS)
    return [_text(*each, is_label) for each in zip(values, decimals, strict=True)]


def _text(value: object, decimals: int, is_label: bool) -> str:
    """A value of any type on one line; a day at midnight is shown without the time."""
    if value is None:
        return ""
    if isinstance(value, datetime) and value.time() == time(0):
        return f"{value:%Y-%m-%d}"
    if isinstance(value, float):
        return f"{value:z,.{decimals}f}"
    if isinstance(value, Integral) and not isinstance(value, bool) and not is_label:
        return f"{value:,}"
    if isinstance(value, list | ndarray):
        value = f"[{', '.join('null' if each is None else str(each) for each in value)}]"
    text = str(value).translate(_ESCAPES)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


def _decimals(value: object, name: str) -> int:
    """The fewest decimals that show the value to two places: none or two, or one for a percentage."""
    if not isinstance(value, Real) or isinf(value):
        return 0
    shown = round(value, 2)
    if shown == round(value):
        return 0
    return 1 if name.endswith(PERCENTAGE) and shown == round(value, 1) else 2
