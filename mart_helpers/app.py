"""The mart in a browser, by Streamlit: a notebook's parameters as controls, its cells as answers.

At each interaction the cells run anew, by IPython in this process and on a connection of their own: so
a mart that was rebuilt is seen at once. As long as a connection is open, DuckDB gives the old file to
others that this process opens: so runs take turns, and each closes what it has opened.
"""

import re
import socket
from collections.abc import Callable, Iterator, Mapping
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

from mart_helpers.books import build_facts
from mart_helpers.charts import Chart
from mart_helpers.clickable import Clickable, make_clickable
from mart_helpers.contract import declared_keys
from mart_helpers.errors import MartError, StateError
from mart_helpers.parameters import (
    PATHS,
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
from mart_helpers.texts import quoted
from mart_helpers.trace import trace

PAGES = ("02_explore", "04_quality")

_SCRIPT = Path(__file__).parent / "templates" / "app.py"

# Open to this computer alone, nothing sent to anybody, no file watched.
_SETTINGS = {
    "server_address": "localhost",
    "server_fileWatcherType": "none",
    "browser_gatherUsageStats": False,
    "client_toolbarMode": "minimal",
    "logger_hideWelcomeMessage": True,
}

_EARLIEST, _LATEST = date(1900, 1, 1), date(2100, 12, 31)  # as declared dates may be

_MOST_ROWS, _TALLEST = 10_000, 15  # of the rows behind a line; of the rows shown without scrolling

_HEADING = re.compile(r"^# (?:\d+ · )?(.+)$", re.MULTILINE)

_LINK = re.compile(r"\[([^]]+)\]\([^)]*\)")  # to files beside the notebook

_NAME = re.compile(r"(?:%%sql +)?([a-z]\w*)")  # of what a cell makes or shows


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
    bootstrap.run(str(_SCRIPT), False, [str(database), str(inputs_dir)], settings)


def show(database: Path, inputs_dir: Path) -> None:
    """Draw the page that the browser asks for, as its controls say. Called at each interaction."""
    pages = [
        st.Page(partial(show_page, name, database, inputs_dir), title=_title(name), url_path=name[3:])
        for name in PAGES
    ]
    page = st.navigation(pages)
    st.set_page_config(f"{page.title} · {database.stem}")
    page.run()


def _title(notebook: str) -> str:
    return _HEADING.search("".join(notebook_cells(notebook_path(notebook))[0]["source"]))[1]


class Part(NamedTuple):
    """What a cell of a notebook gives: words, a value, or the error that it ends in."""

    name: str
    value: Any
    key: str = ""  # of the widget that shows it; another value has another key
    behind: pd.DataFrame | None = None  # the rows behind the line that is selected


def show_page(notebook: str, database: Path, inputs_dir: Path) -> None:
    """Draw the controls of a notebook, and what its cells give. What goes wrong is said on the page."""
    shell, turn = _shell()
    given = {"database": str(database), "inputs_dir": str(inputs_dir)}
    try:
        with turn, open_published(database) as connection:
            build, keys, known = build_facts(connection), declared_keys(connection), _known(connection)
        with st.sidebar:
            given |= {
                each.name: _control(each, known.get(each.name, []))
                for each in notebook_parameters(notebook_path(notebook))
                if not each.name.endswith(PATHS)
            }
            st.caption(f"{shown(database)}, build {build['build_id']} of {build['built_at'][:16]} (UTC)")
        with turn, capture_output(display=False):
            parts = list(_parts(shell, notebook, given, keys))
        for part in parts:
            _show(part, partial(_show_origin, turn, database, inputs_dir, keys))
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
    """The value of a parameter, as its control says."""
    name, kind, default, text, choices, minimum = parameter
    settings = {"label": _words(name), "key": name, "help": text}
    if name.endswith("_date"):
        day = date.fromisoformat(default) if default else None
        day = st.date_input(value=day, min_value=_EARLIEST, max_value=_LATEST, **settings)
        return day.isoformat() if day else ""
    if options := list(choices) or (known and list(dict.fromkeys([default, *known]))):
        index = options.index(default)
        return st.selectbox(
            options=options, index=index, format_func=lambda word: str(word) or "all", **settings
        )
    if kind is bool:
        return st.toggle(value=default, **settings)
    if kind is str:
        return st.text_input(value=default, **settings)
    return st.number_input(
        value=default, min_value=kind(minimum) if minimum is not None else None, **settings
    )


@st.cache_resource(show_spinner=False)
def _shell() -> tuple[InteractiveShell, Lock]:
    """The shell that runs the cells, and the lock that whoever opens the mart holds."""
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config, displayhook_class=_Silent)
    shell.showtraceback = shell.showsyntaxerror = lambda *_, **__: None
    return shell, Lock()


class _Silent(DisplayHook):
    """Keeps the value of a cell for the app to show."""

    def __call__(self, result: object = None) -> None:
        self.exec_result.result = result


def _parts(
    shell: InteractiveShell,
    notebook: str,
    given: Mapping[str, object],
    keys: Mapping[str, tuple[str, ...]],
) -> Iterator[Part]:
    """Run a notebook with the `given` values for its parameters; without its cells tagged `aside`.

    An error is the last part. The mart is closed in the end.
    """
    shell.reset()
    try:
        for cell in notebook_cells(notebook_path(notebook)):
            source = "".join(cell["source"])
            if "aside" in tags(cell):
                continue
            if cell["cell_type"] == "markdown":
                yield Part("", _LINK.sub(r"\1", source))
            if not is_run(cell):
                continue
            result = shell.run_cell(source, store_history=True)
            if error := result.error_before_exec or result.error_in_exec:
                yield Part("", error)
                return
            if "parameters" in tags(cell):
                shell.user_ns |= {name: given[name] for name in given if name in shell.user_ns}
            make_clickable(shell.user_ns)
            value, name = result.result, _NAME.match(source)
            if "summary" in tags(cell) and isinstance(value, pd.DataFrame):
                value = "  \n".join(value.iloc[:, 0].astype(str)).replace("$", "\\$")
            yield _part(shell, keys, cell["id"], name[1] if name else "answer", value)
    finally:
        if session := getattr(shell, "mart_session", None):
            session.close()


def _part(
    shell: InteractiveShell, keys: Mapping[str, tuple[str, ...]], cell: str, name: str, value: object
) -> Part:
    if not isinstance(value, pd.DataFrame | Clickable):
        return Part(name, value)
    frame = value
    if isinstance(value, Clickable):
        frame, name = value.frame, re.sub(r"\W+", "_", value.title.lower())
    key = f"{cell} {sha256(frame.to_csv().encode()).hexdigest()}"
    selection = st.session_state.get(key, {}).get("selection", {})
    lines = [*selection.get("rows", []), *(each["line"] for each in selection.get("picked", []))]
    behind = _rows_behind(shell.mart_session.connection, keys, frame, lines[0]) if lines else None
    return Part(name, value, key, behind)


def _rows_behind(
    connection: Any, keys: Mapping[str, tuple[str, ...]], frame: pd.DataFrame, number: int
) -> pd.DataFrame:
    """Rows of a view of the notebook that have the words of a line of an answer; at most 10,000.

    A view with the key of a declared table is asked first, and of several the last one. A line with a
    day stands for all days until the next line's; of a row in the view, the first date counts.
    """
    line = frame.iloc[number]
    days = frame.select_dtypes("datetime")
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
            (starts,) = (days[name] for name in days)
            wanted |= {
                f"{day} >= ?": starts[number],
                f"{day} < ?": starts[starts > starts[number]].min(),
            }
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


def _show(part: Part, show_origin: Callable[[pd.Series], None]) -> None:
    value = part.value
    if isinstance(value, Exception):
        st.error(str(value) if isinstance(value, MartError) else f"{type(value).__name__}: {value}")
    elif isinstance(value, Clickable):
        st.altair_chart(value.chart, key=part.key, on_select="rerun")
    elif isinstance(value, Chart):
        st.image(value.png)
    elif isinstance(value, pd.DataFrame):
        _show_table(value, part.name, part.key)
    elif hasattr(value, "_repr_html_"):
        st.html(value._repr_html_())
    elif value is not None:
        st.write(value)
    if part.behind is not None:
        with st.container(border=True):
            _show_behind(part, show_origin)


def _show_table(frame: pd.DataFrame, name: str, key: str) -> list[int]:
    """Show a table and a button to download it; which of its lines are selected."""
    has_names = not isinstance(frame.index, pd.RangeIndex)
    shown = as_texts(frame).rename(index=_words) if has_names else frame.set_axis(frame.columns, axis=1)
    shown.attrs = {}
    columns = {}
    for each, kind in shown.dtypes.items():
        column, settings = st.column_config.Column, {}
        if pd.api.types.is_datetime64_any_dtype(kind):
            column, settings = st.column_config.DateColumn, {"format": "YYYY-MM-DD"}
        elif has_names:
            column, settings = st.column_config.TextColumn, {"alignment": "right"}
        columns[each] = column(_words(each), **settings)
    state = st.dataframe(
        shown if has_names else _formatted(shown),
        key=key,
        column_config=columns,
        hide_index=not has_names,
        height="content" if len(frame) <= _TALLEST else "auto",
        placeholder="",
        on_select="rerun",
        selection_mode="single-row",
    )
    csv, file = frame.to_csv(index=has_names), f"{name}.csv"
    icon = ":material/download:"
    st.download_button(file, csv, file, "text/csv", f"{key} csv", on_click="ignore", icon=icon)
    return state["selection"]["rows"]


def _formatted(frame: pd.DataFrame) -> Any:
    """Separators in thousands; of amounts two decimals are shown, of percentages one."""
    numbers = frame.select_dtypes("number")
    texts = {
        name: "{:,}" if kind.kind in "iu" else "{:,.1f}" if name.endswith("_pct") else "{:,.2f}"
        for name, kind in numbers.dtypes.items()
        if not name.endswith(LABELS)
    }
    return frame.style.format(texts, na_rep="")


def _show_behind(part: Part, show_origin: Callable[[pd.Series], None]) -> None:
    if part.behind.empty:
        st.caption("This line stands for no single rows of the mart.")
        return
    count = len(part.behind)
    most = "the first " if count == _MOST_ROWS else ""
    rows = f"{count:,} row{'s' * (count != 1)}"
    st.caption(f"Behind it: {most}{rows}. Select one to see where it comes from.")
    if lines := _show_table(part.behind, f"{part.name}_rows", f"{part.key} rows"):
        show_origin(part.behind.iloc[lines[0]])


def _show_origin(
    turn: Lock, database: Path, inputs_dir: Path, keys: Mapping[str, tuple[str, ...]], row: pd.Series
) -> None:
    """Show what `mart trace` says of the declared tables whose keys are in a row."""
    found = {table: row[list(key)] for table, key in keys.items() if {*key} <= {*row.dropna().index}}
    if found:
        table = st.radio("Where it comes from", found, index=len(found) - 1, horizontal=True)
        key = [str(value) for value in found[table]]
        text = ",".join(map(quoted, key)) if key[1:] else key[0]
        with turn:
            text = trace(database, table, text, inputs_dir)
        st.code(text, language=None, wrap_lines=True)


def _words(name: str) -> str:
    return name.replace("_pct", ", %").replace("_", " ").capitalize()
