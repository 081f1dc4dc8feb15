"""Shows the mart in a browser with Streamlit: parameters of a notebook as controls, cells as results.

At each interaction IPython runs the cells again in this process, on a new connection, so a rebuilt mart
shows at once. While a connection is open, DuckDB gives the old file to other connections of the process,
so runs take turns, and each closes its connection.
"""

import json
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import date
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import altair as alt
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
from mart_helpers.texts import in_words, quoted
from mart_helpers.trace import trace

PAGES = ("02_explore", "04_quality")

Keys = Mapping[str, tuple[str, ...]]  # the natural key of each declared table

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

_NAME = re.compile(r"(?:%%sql +)?([a-z]\w*)")  # of what a cell makes or shows


class Part(NamedTuple):
    """The result of a cell of a notebook: words, a value, or its error.

    `frame` has the data of a chart or table; `behind` has the rows behind its selected line.
    """

    value: Any
    name: str = "answer"
    key: str = ""  # of the widget that shows it; another value has another key
    frame: pd.DataFrame | None = None
    behind: pd.DataFrame | None = None


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
    script = Path(__file__).parent / "templates" / "app.py"
    bootstrap.run(str(script), False, [str(database), str(inputs_dir)], settings)


def show(database: Path, inputs_dir: Path) -> None:
    """Draw the requested page with the values of its controls. Called at each interaction."""
    pages = []
    for name in PAGES:
        title = "".join(notebook_cells(notebook_path(name))[0]["source"]).partition("\n")[0]
        draw, title = partial(show_page, name, database, inputs_dir), title.rpartition("· ")[2]
        pages.append(st.Page(draw, title=title, url_path=name[3:]))
    page = st.navigation(pages)
    st.set_page_config(f"{page.title} · {database.stem}")
    page.run()


def show_page(notebook: str, database: Path, inputs_dir: Path) -> None:
    """Draw the controls of a notebook and the results of its cells. Errors are shown on the page."""
    shell, turn = _shell()
    given = {"database": str(database), "inputs_dir": str(inputs_dir)}
    try:
        with turn, open_published(database) as connection:
            build, keys, known = build_facts(connection), declared_keys(connection), _known(connection)
        with st.sidebar:
            for each in notebook_parameters(notebook_path(notebook)):
                if not each.name.endswith(PLACES):
                    given[each.name] = _control(each, known.get(each.name, []))
            st.caption(f"{shown(database)}, build {build['build_id']} of {build['built_at'][:16]} (UTC)")
        with turn, capture_output(display=False):
            parts = list(_parts(shell, notebook, given, keys))
        for part in parts:
            _show(part)
            if part.behind is not None:
                with st.container(border=True):
                    if (row := _selected_behind(part)) is not None:
                        _show_origin(turn, database, inputs_dir, keys, row)
    except MartError as error:
        st.error(str(error))


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


def _parts(
    shell: InteractiveShell, notebook: str, given: Mapping[str, object], keys: Keys
) -> Iterator[Part]:
    """Run a notebook with the `given` values for its parameters, without its cells tagged `aside`.

    An error is the last part. The mart is closed at the end.
    """
    shell.reset()
    try:
        for cell in notebook_cells(notebook_path(notebook)):
            source = "".join(cell["source"])
            if "aside" in tags(cell):
                continue
            if cell["cell_type"] == "markdown":
                yield Part(_LINK.sub(r"\1", source))
            if not is_run(cell):
                continue
            result = shell.run_cell(source, store_history=True)
            if error := result.error_before_exec or result.error_in_exec:
                yield Part(error)
                return
            if "parameters" in tags(cell):
                shell.user_ns |= {name: given[name] for name in given if name in shell.user_ns}
            for name in {*_DRAWN} & {*shell.user_ns}:
                shell.user_ns[name] = partial(_drawn, name)
            part, name = result.result, _NAME.match(source)
            if isinstance(part, pd.DataFrame) and "summary" in tags(cell):
                part = "  \n".join(part.iloc[:, 0].astype(str)).replace("$", "\\$")
            elif isinstance(part, pd.DataFrame):
                part = Part(part, name[1] if name else "answer", frame=part)
            part = part if isinstance(part, Part) else Part(part)
            yield part if part.frame is None else _with_rows(part, cell["id"], shell, keys)
    finally:
        if session := getattr(shell, "mart_session", None):
            session.close()


def _with_rows(part: Part, cell: str, shell: InteractiveShell, keys: Keys) -> Part:
    """The part with a key, and the rows behind the line that the user selected."""
    key = f"{cell} {sha256(part.frame.to_csv().encode()).hexdigest()}"
    selection = st.session_state.get(key, {}).get("selection", {})
    lines = [*selection.get("rows", []), *(each["line"] for each in selection.get("picked", []))]
    connection = shell.mart_session.connection
    behind = _rows_behind(connection, keys, part.frame, lines[0]) if lines else None
    return part._replace(key=key, behind=behind)


def _rows_behind(connection: Any, keys: Keys, frame: pd.DataFrame, number: int) -> pd.DataFrame:
    """At most 10,000 rows of a view of the notebook that match the words of a line of a result.

    Views with the key of a declared table come first, among these the last one. A line with a day covers
    all days until the next line's; in a row of the view, the first date counts.
    """
    line, days = frame.iloc[number], frame.select_dtypes("datetime")
    views: dict[str, dict[str, str]] = {}
    for view, column, kind in connection.execute(_OWN_VIEWS, [list(chain(*keys.values()))]).fetchall():
        views.setdefault(view, {})[column] = kind
    for view, kinds in views.items():
        wanted = {
            f"{quoted(name)} = ?": value
            for name, value in line.items()
            if isinstance(value, str) and kinds.get(name) == "VARCHAR"
        }
        day = next((quoted(name) for name, kind in kinds.items() if kind == "DATE"), None)
        if day and days.shape[1] == 1:
            starts = days.iloc[:, 0]
            until = starts[starts > starts[number]].min()
            wanted |= {f"{day} >= ?": starts[number], f"{day} < ?": until}
        wanted = {condition: value for condition, value in wanted.items() if pd.notna(value)}
        if wanted:
            rows = f"from {quoted(view)} where {' and '.join(wanted)} order by 1 limit {_MOST_ROWS}"
            return connection.execute(rows, [*wanted.values()]).df()
    return pd.DataFrame()


_OWN_VIEWS = """
select table_name, column_name, data_type
from duckdb_columns()
where database_name = 'temp' and not internal
order by max(column_name in ?) over (partition by table_oid) desc, table_oid desc, column_index
"""


def _show(part: Part) -> None:
    value = part.value
    if isinstance(value, Exception):
        st.error(str(value) if isinstance(value, MartError) else f"{type(value).__name__}: {value}")
    elif isinstance(value, alt.TopLevelMixin):
        st.altair_chart(value, key=part.key, on_select="rerun")
    elif isinstance(value, charts.Chart):
        st.image(value.png)
    elif isinstance(value, pd.DataFrame):
        _show_table(value, part.name, part.key)
    elif hasattr(value, "_repr_html_"):
        st.html(value._repr_html_())
    elif value is not None:
        st.write(value)


def _show_table(frame: pd.DataFrame, name: str, key: str) -> list[int]:
    """Show a table and a button to download it; returns its selected lines.

    Amounts are shown with two decimals, percentages with one.
    """
    has_names, column = not isinstance(frame.index, pd.RangeIndex), st.column_config.Column
    if has_names:
        table = as_texts(frame).rename(index=lambda name: in_words(name).capitalize())
        column = partial(st.column_config.TextColumn, alignment="right")
    else:
        table = frame.set_axis(frame.columns, axis=1)
    table.attrs, columns, formats = {}, {}, {}
    for each, kind in table.dtypes.items():
        words = in_words(each).capitalize()
        columns[each] = column(words)
        if pd.api.types.is_datetime64_any_dtype(kind):
            columns[each] = st.column_config.DateColumn(words, format="YYYY-MM-DD")
        elif pd.api.types.is_numeric_dtype(kind) and not each.endswith(LABELS):
            decimals = 0 if kind.kind in "iu" else 1 if each.endswith("_pct") else 2
            formats[each] = f"{{:,.{decimals}f}}"
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


def _selected_behind(part: Part) -> pd.Series | None:
    """Show the rows behind a line; returns the selected one."""
    if part.behind.empty:
        st.caption("No single rows of the mart are behind this line.")
        return None
    count, most = len(part.behind), "the first " if len(part.behind) == _MOST_ROWS else ""
    rows = f"{most}{count:,} row{'s' * (count != 1)}"
    st.caption(f"Behind it: {rows}. Select one to see where it comes from.")
    lines = _show_table(part.behind, f"{part.name}_rows", f"{part.key} rows")
    return part.behind.iloc[lines[0]] if lines else None


def _show_origin(turn: Lock, database: Path, inputs_dir: Path, keys: Keys, row: pd.Series) -> None:
    """Show what `mart trace` says of the declared tables whose keys are in a row."""
    found = {table: row[list(key)] for table, key in keys.items() if {*key} <= {*row.dropna().index}}
    if found:
        table = st.radio("Where it comes from", found, index=len(found) - 1, horizontal=True)
        key = [str(value) for value in found[table]]
        text = ",".join(map(quoted, key)) if key[1:] else key[0]
        with turn:
            text = trace(database, table, text, inputs_dir)
        st.code(text, language=None, wrap_lines=True)


_PICKED = alt.selection_point("picked", fields=["line"])

_DRAWN = ("draw_bars", "draw_line", "draw_stacks", "draw_heat_map")  # what can be clicked here


def _drawn(kind: str, frame: pd.DataFrame, label: str, *given: Any, **named: Any) -> Part:
    """A chart like the notebook's; a click on it selects the line of the frame, counted from 0."""
    frame, title, unit = frame.head(_MOST_DRAWN), named["title"], named.get("unit", "").strip()
    numbers = [each for each in frame if each != label] if kind == "draw_heat_map" else []
    values = [*chain.from_iterable([x] if isinstance(x, str) else x for x in given), *numbers]
    values = [each for each in (*values, named.get("before")) if each and frame[each].notna().any()]
    names = frame[label].astype(object).fillna("not given").astype(str)
    if pd.api.types.is_datetime64_any_dtype(frame[label]):
        names = frame[label].dt.strftime("%Y-%m" if (frame[label].dt.day == 1).all() else "%Y-%m-%d")
    if frame.empty or not values:
        return Part(charts.NOTHING_TO_DRAW)
    lines = {"line": range(len(frame)), "name": names.tolist()}
    rows = pd.concat(
        pd.DataFrame(
            lines | {"part": n, "series": in_words(each), "value": frame[each].astype(float).tolist()}
        )
        for n, each in enumerate(values)
    )
    tips = ["name:N", "series:N", alt.Tooltip("value:Q", format=",.2~f")]
    base = alt.Chart(rows.dropna(), title=title).encode(tooltip=tips)
    second = "#9DB8C9" if kind == "draw_line" else charts.ORANGE
    colours = [charts.BLUE, second, charts.PALE]
    series = alt.Scale(domain=[*map(in_words, values)], range=colours)
    chart = _marked(kind, base, lines["name"], unit, series)
    return Part(chart, re.sub(r"\W+", "_", title.lower()), frame=frame)


def _marked(kind: str, base: alt.Chart, names: list[str], unit: str, series: alt.Scale) -> alt.Chart:
    """The chart with its marks; clickable marks are paler while another one is selected."""
    labels = {"labelExpr": f"{json.dumps(names)}[datum.value]", "labelLimit": 130, "labelAngle": 0}
    axis = alt.Axis(title=None, labelOverlap=True, **labels)
    paler = alt.condition(_PICKED, alt.value(1), alt.value(0.35))
    if kind in ("draw_bars", "draw_heat_map"):
        base = base.encode(y=alt.Y("line:O", axis=axis)).properties(height=alt.Step(26))
        number = alt.Text("value:Q", format=",.0f")
        if kind == "draw_bars":
            widest = 1.15 * max(base.data["value"].max(), 0) or 1  # with room for the number
            scale = alt.Scale(domainMax=widest, nice=False)
            base = base.encode(x=alt.X("value:Q", title=unit, scale=scale))
            bars = base.mark_bar(color=charts.BLUE).encode(opacity=paler).add_params(_PICKED)
            return bars + base.mark_text(align="left", dx=4, color="#808495").encode(text=number)
        base = base.encode(x=alt.X("series:N", sort=None, title=unit, axis=alt.Axis(labelAngle=0)))
        deepest = 2 * base.data["value"].max()  # letters can be read on what is half as deep
        shade = alt.Scale(scheme="blues", domainMin=0, domainMax=deepest)
        fields = base.mark_rect().encode(color=alt.Color("value:Q", scale=shade, legend=None))
        texts = base.mark_text(color="black").encode(text=number)
        return fields.encode(opacity=paler).add_params(_PICKED) + texts
    legend = alt.Legend(orient="top", title=None)
    base = base.encode(
        x=alt.X("line:O", axis=axis),
        y=alt.Y("value:Q", title=unit),
        color=alt.Color("series:N", scale=series, legend=legend),
        order=alt.Order("part:Q" if kind == "draw_stacks" else "line:Q"),
    )
    is_line = kind == "draw_line"
    marks = base.mark_point(filled=True, size=50, opacity=1) if is_line else base.mark_bar()
    marks = marks.encode(opacity=paler).add_params(_PICKED)
    return base.mark_line() + marks if is_line else alt.layer(marks)
