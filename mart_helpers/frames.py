"""How a frame looks as the value of a cell: no row numbers, nothing where a value is missing."""

from math import isinf
from numbers import Integral, Real

import pandas as pd
from IPython.core.interactiveshell import InteractiveShell

# Names of whole numbers that are no amounts, and have no thousands separators.
_LABELS = ("_key", "_id", "year", "line", "stage")
_MOST_ROWS = 60


def show_frames(shell: InteractiveShell) -> None:
    """Have the notebook show frames by `as_html` and `as_text`."""
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type(pd.DataFrame, as_html)
    formatters["text/plain"].for_type(
        pd.DataFrame, lambda frame, printer, _: printer.text(as_text(frame))
    )


def as_html(frame: pd.DataFrame) -> str:
    """The frame as a table: separators in thousands, decimals where a column has any, two at most.

    Row numbers are left out. Named rows are shown with their names, and each number with the decimals
    that it needs: a row may be money and the next one a count; percentages share theirs all the same.
    Of more than 60 rows the first 60 are there, and how many there are.
    """
    table = as_texts(frame).to_html(border=0, index=_has_names(frame), index_names=False)
    return table + _rest(frame, "\n<p>{}</p>")


def as_text(frame: pd.DataFrame) -> str:
    """The same for where there is text only."""
    if frame.empty:
        return f"no rows of {', '.join(map(str, frame.columns))}"
    table = as_texts(frame).to_string(index=_has_names(frame), index_names=False)
    return table + _rest(frame, "\n{}")


def _has_names(frame: pd.DataFrame) -> bool:
    return not isinstance(frame.index, pd.RangeIndex)


def _rest(frame: pd.DataFrame, template: str) -> str:
    many = len(frame) > _MOST_ROWS
    return template.format(f"the first {_MOST_ROWS} of {len(frame):,} rows") if many else ""


def as_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The first 60 rows, each value as it is shown."""
    rows = frame.head(_MOST_ROWS)
    return rows.apply(_column_texts).astype(object) if frame.size else rows


def _column_texts(column: pd.Series) -> pd.Series:
    name = str(column.name)
    is_of_one_kind = isinstance(column.index, pd.RangeIndex) or name.endswith("_pct")
    if pd.api.types.is_float_dtype(column) and is_of_one_kind:
        decimals = max((_decimals(value, name) for value in column.dropna()), default=0)
        return column.map(lambda value: "" if pd.isna(value) else f"{value:z,.{decimals}f}")
    if name.endswith(_LABELS):
        return column.map(_label)
    return pd.Series([_text(value, str(row)) for row, value in column.items()], column.index, object)


def _label(value: object) -> str:
    return "" if _is_missing(value) else str(value)


def _text(value: object, name: str) -> str:
    """A value of any type, `name` that of its row; a day without its midnight."""
    if _is_missing(value):
        return ""
    if isinstance(value, pd.Timestamp) and value == value.normalize():
        return f"{value:%Y-%m-%d}"
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    return f"{value:,}" if isinstance(value, Integral) else f"{value:z,.{_decimals(value, name)}f}"


def _is_missing(value: object) -> bool:
    return pd.api.types.is_scalar(value) and pd.isna(value)


def _decimals(value: float, name: str) -> int:
    """As few as show what the first two say: amounts have none or two, a percentage may have one."""
    shown = round(value, 2)
    if isinf(value) or shown == round(value):
        return 0
    return 1 if name.endswith("_pct") and shown == round(value, 1) else 2
