"""How rows look as the value of a cell: no row numbers, nothing where a value is missing.

Rows come as a pandas frame or, from our own helpers, as `Rows`, which do without pandas: to import it
takes longer than most queries.
"""

from collections import namedtuple
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime, time
from decimal import Decimal
from functools import cached_property
from html import escape
from itertools import repeat, starmap
from math import isinf, isnan
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

# Names of whole numbers that are no amounts, and have no thousands separators.
_LABELS = ("_key", "_id", "year", "line", "stage")

_PERCENTAGE = "_pct"

_MOST_ROWS = 60

_LONGEST_TEXT = 100

_MIDNIGHT = time(0)

_ESCAPES = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


class Rows:
    """Rows with named columns, each a named tuple; a cell shows them as it shows a pandas frame.

    `rows[["name", "other"]]` keeps to some columns. `frame` has the same as a pandas frame, which also
    answers whatever else is asked of rows, such as `rows["name"]` or `rows.sort_values("name")`.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[tuple]) -> None:
        self.columns = list(columns)
        self._tuples = list(rows)

    @classmethod
    def of(cls, answered: "duckdb.DuckDBPyConnection") -> "Rows":
        """All rows of the query that the connection has executed last."""
        return cls([name for name, *_ in answered.description], answered.fetchall())

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """The rows as pandas has them, days and decimals as its own kinds of numbers."""
        import pandas as pd

        series = {place: _series(values) for place, values in enumerate(self._by_column())}
        return pd.DataFrame(series).set_axis(self.columns, axis="columns")

    def __len__(self) -> int:
        return len(self._tuples)

    def __add__(self, below: "Rows") -> "Rows":
        return Rows(self.columns, self._tuples + below._tuples)

    def __iter__(self) -> Iterator[tuple]:
        return self.itertuples()

    def itertuples(self) -> Iterator[tuple]:
        """The rows as named tuples."""
        return starmap(namedtuple("Row", self.columns, rename=True), self._tuples)

    def __getitem__(self, wanted: Any) -> Any:
        if isinstance(wanted, list) and all(name in self.columns for name in wanted):
            places = [self.columns.index(name) for name in wanted]
            return Rows(wanted, [tuple(row[place] for place in places) for row in self._tuples])
        return self.frame[wanted]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nobody but Python and IPython asks for those
            raise AttributeError(name)
        return getattr(self.frame, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.frame)})

    def __repr__(self) -> str:
        if not self:
            return _no_rows(self.columns)
        columns = [[name, *texts] for name, texts in zip(self.columns, self._texts(), strict=True)]
        widths = [max(map(len, column)) for column in columns]
        lines = (
            " ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
            for line in zip(*columns, strict=True)
        )
        return "\n".join(lines) + _rest(len(self), "\n{}")

    def _repr_html_(self) -> str:
        lines = zip(*self._texts(), strict=True) if self else ()
        body = "".join(f"    <tr>\n{_cells(line, 'td')}    </tr>\n" for line in lines)
        return (
            '<table class="dataframe">\n  <thead>\n    <tr style="text-align: right;">\n'
            f"{_cells(self.columns, 'th')}    </tr>\n  </thead>\n  <tbody>\n{body}  </tbody>\n</table>"
        ) + _rest(len(self), "\n<p>{}</p>")

    def _by_column(self, most: int | None = None) -> list[list]:
        return [[row[place] for row in self._tuples[:most]] for place in range(len(self.columns))]

    def _texts(self) -> list[list[str]]:
        """Of each column, the first 60 values as they are shown."""
        return [
            _column_texts(name, [float(v) if isinstance(v, Decimal) else v for v in values])
            for name, values in zip(self.columns, self._by_column(_MOST_ROWS), strict=True)
        ]


def show_frames(shell: InteractiveShell) -> None:
    """Have the notebook show pandas frames by `as_html` and `as_text`."""
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type_by_name("pandas", "DataFrame", as_html)
    formatters["text/plain"].for_type_by_name(
        "pandas", "DataFrame", lambda frame, printer, _: printer.text(as_text(frame))
    )


def as_html(frame: "pd.DataFrame") -> str:
    """The frame as a table: separators in thousands, decimals where a column has any, two at most.

    Row numbers are left out. Named rows are shown with their names, and each number with the decimals
    that it needs: a row may be money and the next one a count; percentages share theirs all the same.
    Of more than 60 rows the first 60 are there, and how many there are. Texts end at 100 characters.
    """
    with _in_full():
        table = as_texts(frame).to_html(border=0, index=_has_names(frame), index_names=False)
    return table + _rest(len(frame), "\n<p>{}</p>")


def as_text(frame: "pd.DataFrame") -> str:
    """The same for where there is text only."""
    if frame.empty:
        return _no_rows(frame.columns)
    with _in_full():
        table = as_texts(frame).to_string(index=_has_names(frame), index_names=False)
    return table + _rest(len(frame), "\n{}")


def as_texts(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The first 60 rows, each value as it is shown."""
    rows = frame.head(_MOST_ROWS)
    row_names = list(map(str, rows.index)) if _has_names(frame) else None
    return rows.apply(_texts_of, row_names=row_names).astype(object) if frame.size else rows


def _texts_of(column: "pd.Series", row_names: list[str] | None) -> "pd.Series":
    import pandas as pd

    values = column.astype(object).where(column.notna(), None).tolist()
    return pd.Series(_column_texts(str(column.name), values, row_names), column.index, object)


def _in_full() -> AbstractContextManager:
    """Texts were cut already: let pandas not do it again, elsewhere."""
    import pandas as pd

    return pd.option_context("display.max_colwidth", None)


def _has_names(frame: "pd.DataFrame") -> bool:
    import pandas as pd

    return not isinstance(frame.index, pd.RangeIndex)


def _series(values: list) -> "pd.Series":
    """The values as pandas would have them from DuckDB, decimals as floating point numbers."""
    import pandas as pd

    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int}:
        return pd.Series(values, dtype="Int64" if None in values else "int64")
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if None in values else "bool")
    if kinds and kinds <= {date, datetime}:
        return pd.Series(values, dtype="datetime64[us]")
    if kinds and kinds <= {float, Decimal}:
        return pd.Series(values, dtype="float64")
    return pd.Series(values, dtype=None if kinds else object)


def _no_rows(columns: Iterable[str]) -> str:
    return f"no rows of {', '.join(map(str, columns))}"


def _rest(rows: int, template: str) -> str:
    many = rows > _MOST_ROWS
    return template.format(f"the first {_MOST_ROWS} of {rows:,} rows") if many else ""


def _cells(texts: Iterable[str], kind: str) -> str:
    """Cells of a row in HTML, as pandas writes them."""
    marked = (escape(text.strip(), quote=False).replace("  ", "&nbsp;&nbsp;") for text in texts)
    return "".join(f"      <{kind}>{text}</{kind}>\n" for text in marked)


def _column_texts(name: str, values: Sequence, row_names: Sequence[str] | None = None) -> list[str]:
    """Each value of a column as it is shown, on one line of at most 100 characters."""
    numbers = [value for value in values if not _is_missing(value)]
    is_of_one_kind = row_names is None or name.endswith(_PERCENTAGE)
    if numbers and is_of_one_kind and all(isinstance(number, float) for number in numbers):
        decimals = max(_decimals(number, name) for number in numbers)
        return ["" if _is_missing(value) else f"{value:z,.{decimals}f}" for value in values]
    if name.endswith(_LABELS):
        return ["" if _is_missing(value) else _cut(str(value)) for value in values]
    named = zip(values, row_names or repeat(name), strict=False)
    return [_cut(_text(value, row_name)) for value, row_name in named]


def _text(value: object, name: str) -> str:
    """A value of any type, `name` that of its row or column; a day without its midnight."""
    if _is_missing(value):
        return ""
    if isinstance(value, datetime) and value.time() == _MIDNIGHT:
        return f"{value:%Y-%m-%d}"
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    return f"{value:,}" if isinstance(value, Integral) else f"{value:z,.{_decimals(value, name)}f}"


def _cut(text: str) -> str:
    for character, shown in _ESCAPES.items():
        text = text.replace(character, shown)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and isnan(value))


def _decimals(value: float, name: str) -> int:
    """As few as show what the first two say: amounts have none or two, a percentage may have one."""
    shown = round(value, 2)
    if isinf(value) or shown == round(value):
        return 0
    return 1 if name.endswith(_PERCENTAGE) and shown == round(value, 1) else 2
