"""Shows the mart in a browser with Streamlit: parameters of a notebook as controls, cells as results.

At each interaction IPython runs the cells again in this process, on a new connection, so a rebuilt mart
shows at once. While a connection is open, DuckDB gives the old file to other connections of the process,
so runs take turns, and each closes its connection before it traces a row.
"""

import json
import re
import socket
import textwrap
from collections.abc import Mapping
from datetime import date
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from streamlit.web import bootstrap
from traitlets.config import Config

from mart_helpers import charts
from mart_helpers.books import build_facts
from mart_helpers.contract import declared_keys
from mart_helpers.errors import MartError, StateError
from mart_helpers.parameters import (
    PLACES,
    Parameter,
    is_run,
    notebook_cells,
    notebook_parameters,
    notebook_path,
    shown,
    tags,
)
from mart_helpers.session import open_published
from mart_helpers.star import star_types
from mart_helpers.tables import LABELS, as_texts
from mart_helpers.texts import PERCENTAGE, in_words, quoted
from mart_helpers.trace import trace

PAGES = ("02_explore", "04_quality")

# Only this computer can connect, no usage data is sent, no files are watched.
_SETTINGS = {
    "server_address": "localhost",
    "server_fileWatcherType": "none",
    "browser_gatherUsageStats": False,
    "client_toolbarMode": "minimal",
    "logger_hideWelcomeMessage": True,
}

_MOST_ROWS, _MOST_DRAWN, _TALLEST = 10_000, 400, 15  # behind a line; in a chart; without scrolling

_LINK = re.compile(r"\[([^]]+)\]\([^)]*\)")  # to files beside the notebook

_TEMPLATES = Path(__file__).parent / "templates"

# Vega-Lite for each function of charts whose charts can be clicked here.
_CHARTS = json.loads((_TEMPLATES / "app.charts.json").read_text(encoding="utf-8"))

_NAME = re.compile(r"(?:%%sql +)?([a-z]\w*)")  # of what a cell makes or shows


class Drawing(NamedTuple):
    """A chart of a frame, on which a line of the frame can be selected: its rows and Vega-Lite."""

    frame: pd.DataFrame
    rows: pd.DataFrame
    spec: dict
    name: str


def serve(database: Path, inputs_dir: Path, port: int) -> None:
    """Serve the app on localhost until somebody interrupts. Raises StateError if the port is taken."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("localhost", port))
        except (OSError, OverflowError) as error:
            raise StateError(
                f"Port {port} cannot be used: {error}. Give another with --port."
            ) from error
    settings = _SETTINGS | {"server_port": port}
    bootstrap.load_config_options(settings)
    print(f"{shown(database)} is shown at http://localhost:{port}. Ctrl-C ends it.", flush=True)
    bootstrap.run(str(_TEMPLATES / "app.py"), False, [str(database), str(inputs_dir)], settings)


def show(database: Path, inputs_dir: Path) -> None:
    """Draw the requested page with the values of its controls. Called at each interaction."""
    pages = []
    for name in PAGES:
        title = "".join(notebook_cells(notebook_path(name))[0]["source"]).partition("\n")[0]
        draw, title = partial(show_page, name, database, inputs_dir), title.rpartition("· ")[2]
        pages.append(st.Page(draw, title=title, url_path=name[3:]))
    page = st.navigation(pages)
    st.set_page_config(f"{page.title} · {database.stem}")
    st.html(_TEMPLATES / "app.css")
    page.run()


def show_page(notebook: str, database: Path, inputs_dir: Path) -> None:
    """Draw the controls of a notebook and the results of its cells. Errors are shown on the page."""
    shell, turn = _shell()
    page = _Page(shell, database, inputs_dir)
    with turn:
        try:
            given = page.controls(notebook)
            shell.reset()
            for cell in notebook_cells(notebook_path(notebook)):
                if "aside" not in tags(cell):
                    page.show_cell(cell, given)
        except MartError as error:
            st.error(str(error))
        finally:
            if session := getattr(shell, "mart_session", None):
                session.close()
        for place, *row in page.traced:
            try:
                place.code(trace(database, *row, inputs_dir), language=None, wrap_lines=True)
            except MartError as error:
                place.error(str(error))


class _Page:
    """A page of the app while it is drawn; `traced` has the rows to trace, and the places for that."""

    def __init__(self, shell: InteractiveShell, database: Path, inputs_dir: Path) -> None:
        self.shell, self.database, self.inputs_dir = shell, database, inputs_dir
        self.keys: Mapping[str, tuple[str, ...]] = {}  # the natural key of each declared table
        self.traced: list[tuple[Any, str, str]] = []

    def controls(self, notebook: str) -> dict[str, object]:
        """Draw the controls; returns the values of the parameters."""
        given = {"database": str(self.database), "inputs_dir": str(self.inputs_dir)}
        with open_published(self.database) as connection:
            build, known = build_facts(connection), _known(connection)
            self.keys = declared_keys(connection)
        with st.sidebar:
            for each in notebook_parameters(notebook_path(notebook)):
                if not each.name.endswith(PLACES):
                    given[each.name] = _control(each, known.get(each.name, []))
            built = f"build {build['build_id']} of {build['built_at'][:16]} (UTC)"
            st.caption(f"{shown(self.database)}, {built}")
        return given

    def show_cell(self, cell: dict, given: Mapping[str, object]) -> None:
        """Show the words of a cell, or run it and show its result. Raises its error as a MartError."""
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            st.write(_LINK.sub(r"\1", source))
        if not is_run(cell):
            return
        with capture_output(display=False):
            result = self.shell.run_cell(source, store_history=True)
        if error := result.error_before_exec or result.error_in_exec:
            if isinstance(error, MartError):
                raise error
            raise StateError(f"{type(error).__name__}: {error}") from error
        values, value = self.shell.user_ns, result.result
        if "parameters" in tags(cell):
            values |= {name: given[name] for name in given if name in values}
        values |= {name: partial(_drawn, name) for name in _CHARTS if name in values}
        if isinstance(value, pd.DataFrame) and "summary" in tags(cell):
            st.write("  \n".join(value.iloc[:, 0].astype(str)).replace("$", "\\$"))
        elif isinstance(value, pd.DataFrame):
            name = _NAME.match(source)
            self.show_lines(cell["id"], value, name[1] if name else "answer")
        elif isinstance(value, Drawing):
            self.show_lines(cell["id"], value.frame, value.name, value)
        elif isinstance(value, charts.Chart):
            st.image(value.png)
        elif hasattr(value, "_repr_html_"):
            st.html(f'<div class="answer">{value._repr_html_()}</div>')
        elif value is not None:
            st.write(value)

    def show_lines(
        self, cell: str, frame: pd.DataFrame, name: str, drawing: Drawing | None = None
    ) -> None:
        """Show a frame as a table or a chart, and the rows behind the line that the user selects."""
        key = f"{cell} {sha256(frame.to_csv().encode()).hexdigest()}"  # other values, no selection
        if drawing:
            state = st.vega_lite_chart(drawing.rows, drawing.spec, key=key, on_select="rerun")
            lines = [each["line"] for each in state["selection"]["picked"]]
        else:
            lines = _show_table(frame, name, key)
        if not lines:
            return
        with st.container(border=True):
            rows = self.rows_behind(frame, lines[0])
            if rows.empty:
                st.caption("No single rows of the mart are behind this line.")
                return
            most = "the first " if len(rows) == _MOST_ROWS else ""
            count = f"{most}{len(rows):,} row{'s' * (len(rows) != 1)}"
            st.caption(f"Behind it: {count}. Select one to see where it comes from.")
            for line in _show_table(rows, f"{name}_rows", f"{key} rows"):
                self.show_origin(rows.iloc[line].dropna())

    def rows_behind(self, frame: pd.DataFrame, number: int) -> pd.DataFrame:
        """At most 10,000 rows of a view of the notebook that match the words of a line of a result.

        Views with the key of a declared table come first, among these the last one. A line with a day
        covers all days until the next line's; in a row of the view, the first date counts.
        """
        connection = self.shell.mart_session.connection
        words = {name: word for name, word in frame.iloc[number].items() if isinstance(word, str)}
        days = frame.select_dtypes("datetime").squeeze("columns")
        span = {}
        if isinstance(days, pd.Series) and pd.notna(start := days.iloc[number]):
            later = days[days > start]
            span = {">=": start} | ({} if later.empty else {"<": later.min()})
        views = connection.execute(_OWN_VIEWS, [list(chain(*self.keys.values()))]).fetchall()
        for view, texts, dates in views:
            wanted = {f"{quoted(name)} = ?": words[name] for name in texts if name in words}
            for sign, day in span.items() if dates else ():
                wanted[f"{quoted(dates[0])} {sign} ?"] = day
            if wanted:
                rows = f"from {quoted(view)} where {' and '.join(wanted)} order by 1 limit {_MOST_ROWS}"
                return connection.execute(rows, [*wanted.values()]).df()
        return pd.DataFrame()

    def show_origin(self, row: pd.Series) -> None:
        """Let the user choose one of the declared tables whose keys are in the row, to trace it."""
        found = {table: key for table, key in self.keys.items() if {*key} <= {*row.index}}
        if found:
            table = st.radio("Where it comes from", found, index=len(found) - 1, horizontal=True)
            key = [str(row[column]) for column in found[table]]
            text = ",".join(map(quoted, key)) if key[1:] else key[0]
            self.traced.append((st.container(), table, text))


_OWN_VIEWS = """
select
    table_name,
    coalesce(list(column_name) filter (where data_type = 'VARCHAR'), []) as texts,
    coalesce(list(column_name order by column_index) filter (where data_type = 'DATE'), []) as dates
from duckdb_columns()
where database_name = 'temp' and not internal
group by table_name, table_oid
order by max(column_name in ?) desc, table_oid desc
"""


def _known(connection: Any) -> dict[str, list[str]]:
    """The words in the text columns of the dimensions, by column."""
    known = {}
    for table, types in star_types(connection).items():
        for name in (name for name, kind in types.items() if kind == "VARCHAR"):
            if table.startswith("dim_"):
                words = f"select distinct {quoted(name)} as word from main.{quoted(table)} order by word"
                known[name] = [word for (word,) in connection.execute(words).fetchall() if word]
    return known


def _control(parameter: Parameter, known: list[str]) -> object:
    """Draw the control of a parameter, and return its value."""
    name, kind, default, text, choices, minimum = parameter
    settings = {"label": in_words(name).capitalize(), "key": name, "help": text}
    if name.endswith("_date"):
        bounds = {"min_value": date(1900, 1, 1), "max_value": date(2100, 12, 31)}  # as declared ones
        day = st.date_input(value=date.fromisoformat(default) if default else None, **bounds, **settings)
        return day.isoformat() if day else ""
    if options := list(choices) or (known and list(dict.fromkeys([default, *known]))):
        settings |= {"index": options.index(default), "format_func": lambda word: str(word) or "all"}
        return st.selectbox(options=options, **settings)
    if kind in (bool, str):
        return (st.toggle if kind is bool else st.text_input)(value=default, **settings)
    least = kind(minimum) if minimum is not None else None
    return st.number_input(value=default, min_value=least, **settings)


@st.cache_resource(show_spinner=False)
def _shell() -> tuple[InteractiveShell, Lock]:
    """The shell that runs the cells, and the lock to hold while the mart is open."""
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config, displayhook_class=_Silent)
    shell.showtraceback = shell.showsyntaxerror = lambda *_, **__: None
    return shell, Lock()


class _Silent(DisplayHook):
    """Keeps the value of a cell for the app to show."""

    def __call__(self, result: object = None) -> None:
        self.exec_result.result = result


def _show_table(frame: pd.DataFrame, name: str, key: str) -> list[int]:
    """Show a table and a button to download it; returns its selected lines.

    Amounts are shown with two decimals, percentages with one. If rows have names, each number has its
    own decimals.
    """
    has_names, formats = not isinstance(frame.index, pd.RangeIndex), {}
    words = {each: in_words(str(each)).capitalize() for each in (frame.index.name or "", *frame)}
    columns = {each: st.column_config.Column(said) for each, said in words.items()}
    for each, kind in frame.dtypes.items():
        if has_names:
            columns[each] = st.column_config.TextColumn(words[each], alignment="right")
        elif pd.api.types.is_datetime64_any_dtype(kind):
            columns[each] = st.column_config.DateColumn(words[each], format="YYYY-MM-DD")
        elif pd.api.types.is_numeric_dtype(kind) and not each.endswith(LABELS):
            decimals = 0 if kind.kind in "iu" else 1 if each.endswith(PERCENTAGE) else 2
            formats[each] = f"{{:,.{decimals}f}}"
    if has_names:
        table = as_texts(frame).rename(index=lambda name: in_words(name).capitalize())
    else:
        table = frame.set_axis(frame.columns, axis=1)  # a copy, for Streamlit cannot send all attributes
    table.attrs = {}
    state = st.dataframe(
        table if has_names else table.style.format(formats, na_rep=""),
        key=key,
        column_config=columns,
        hide_index=not has_names,
        height="content" if len(frame) <= _TALLEST else "auto",
        placeholder="",
        on_select="rerun",
        selection_mode="single-row",
    )
    csv, look = frame.to_csv(index=has_names), {"on_click": "ignore", "icon": ":material/download:"}
    st.download_button(f"{name}.csv", csv, f"{name}.csv", "text/csv", f"{key} csv", **look)
    return state["selection"]["rows"]


def _drawn(
    kind: str,
    frame: pd.DataFrame,
    label: str,
    values: str | list[str] | None = None,
    *,
    title: str,
    unit: str = "",
    before: str | None = None,
) -> Drawing | str:
    """A chart like the notebook's; a click on it selects the line of the frame, counted from 0."""
    frame = frame.head(_MOST_DRAWN)
    values = frame.columns.drop(label) if values is None else values
    values = [*([values] if isinstance(values, str) else values), *([before] if before else [])]
    _, names = charts.labels_of(frame[label])
    lines = pd.DataFrame({"line": range(len(frame)), "name": names})
    parts = [
        lines.assign(part=part, series=in_words(each), value=frame[each].astype(float).tolist())
        for part, each in enumerate(values)
    ]
    rows = pd.concat(parts).dropna()
    if rows.empty:
        return charts.NOTHING_TO_DRAW
    given = {"names": names, "most": max(rows["value"].max(), 0) or 1}
    spec = {
        **_CHARTS[kind],
        "title": {
            "text": textwrap.wrap(title, 40),
            "subtitle": unit.strip(),
            "subtitleColor": "#808495",
            "anchor": "start",
        },
        "params": [
            *_CHARTS["shared"]["params"],
            *({"name": name, "value": value} for name, value in given.items()),
        ],
    }
    return Drawing(frame, rows, spec, re.sub(r"\W+", "_", title.lower()))
