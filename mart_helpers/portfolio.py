"""Pictures for a portfolio: the mart, how it is made and what it says, from a run of the notebooks."""

import csv
import json
from base64 import b64decode
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

import pandas as pd

from mart_helpers.charts import as_chart
from mart_helpers.diff import compare_files
from mart_helpers.errors import InputError
from mart_helpers.files import whole_files
from mart_helpers.inspect import tables_of
from mart_helpers.parameters import resolve, shown
from mart_helpers.run import run_notebook
from mart_helpers.session import Session, open_published
from mart_helpers.sketches import draw_table, draw_workflow
from mart_helpers.sketching import Sketch
from mart_helpers.star import draw_star
from mart_helpers.texts import size_text

_SALES = "fact_sales.csv"

# The charts that the notebooks draw themselves, by what their outputs say they are.
_DRAWN = {
    "monthly_revenue": ("02_explore", "<chart: Revenue per month>"),
    "weekday_revenue": ("02_explore", "<chart: Average revenue per day, by weekday and month>"),
    "quality_report": ("04_quality", "<chart: Checks by table>"),
}


def make_portfolio(inputs_dir: Path, out: Path) -> list[Path]:
    """Run the notebooks on the extracts of `inputs_dir` and write PNG pictures into the folder `out`.

    The published mart is not touched: the mart of the pictures is built in a temporary place, and once
    more after one sale of `fact_sales.csv` has been edited in a copy. The paths are in the order of the
    story: workflow, star_schema, tables, monthly_revenue, weekday_revenue, exports, before_after,
    quality_report. Raises InputError where the sales are no plain CSV file, and whatever the notebooks
    raise.
    """
    with TemporaryDirectory() as scratch:
        pictures = dict(_pictures(resolve(inputs_dir), Path(scratch)))
    paths = [resolve(out) / f"{place}_{name}.png" for place, name in enumerate(pictures, 1)]
    with whole_files(paths) as parts:
        for part, png in zip(parts, pictures.values(), strict=True):
            part.write_bytes(png)
    return paths


def _pictures(inputs_dir: Path, scratch: Path) -> Iterator[tuple[str, bytes]]:
    edited_inputs, edit = _edited_copy(inputs_dir, scratch / "inputs")
    before, data_dir = scratch / "mini_data_mart.duckdb", scratch / "data"
    mart, data = {"database": str(before)}, {"data_dir": str(data_dir)}
    run_notebook("01_build", {**mart, "inputs_dir": str(inputs_dir)}, scratch)
    run_notebook("02_explore", mart, scratch)
    run_notebook("03_export", {**mart, **data, "formats": "csv,json,parquet,xlsx"}, scratch)
    run_notebook("04_quality", {**mart, **data, "inputs_dir": str(inputs_dir)}, scratch)
    drawn = {name: _output(scratch, *output) for name, output in _DRAWN.items()}
    after = scratch / "after.duckdb"
    run_notebook("01_build", {"database": str(after), "inputs_dir": str(edited_inputs)}, scratch)
    yield "workflow", as_chart(draw_workflow()).png
    yield "star_schema", as_chart(_draw_star(before)).png
    yield "tables", as_chart(_draw_tables(before)).png
    yield "monthly_revenue", drawn["monthly_revenue"]
    yield "weekday_revenue", drawn["weekday_revenue"]
    yield "exports", as_chart(_draw_exports(data_dir)).png
    yield "before_after", as_chart(_draw_change(before, after, edit)).png
    yield "quality_report", drawn["quality_report"]


def _edited_copy(inputs_dir: Path, copy: Path) -> tuple[Path, str]:
    """A copy of the extracts, the sale in the middle with ten times its quantity; what was edited."""
    source = inputs_dir / _SALES
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file)
        place, quantity = len(rows) // 2, header.index("quantity")
        found = rows[place][quantity]
        rows[place][quantity] = str(10 * int(found))
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise InputError(
            f"{shown(source)}: expected a CSV file with commas and whole quantities, to show what an "
            f"edit changes. Found: {error}. Take the sample: --inputs-dir inputs."
        ) from error
    copytree(inputs_dir, copy)
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    (copy / _SALES).write_text(text.getvalue(), encoding="utf-8")
    return copy, f"{_SALES}, sale {rows[place][0]}: quantity {found} → {10 * int(found)}"


def _output(folder: Path, notebook: str, words: str) -> bytes:
    """The picture in an executed notebook whose text is `words`."""
    cells = json.loads((folder / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    picture = next(data for data in outputs if "".join(data.get("text/plain", "")) == words)
    return b64decode(picture["image/png"])


def _draw_star(database: Path) -> Sketch:
    with open_published(database) as connection:
        return draw_star(Session(connection, database, {}))


def _draw_tables(database: Path) -> Sketch:
    names = ["table", "rows", "columns", "what_it_holds"]
    return draw_table(pd.DataFrame(tables_of(database), columns=names), "Tables of the mart")


def _draw_exports(data_dir: Path) -> Sketch:
    """A line for each exported table, a column for each folder, with the sizes of the files."""
    sizes = {
        folder.name: {
            path.stem: size_text(path) for path in folder.iterdir() if path.name != "manifest.json"
        }
        for folder in sorted(data_dir.glob("*-export"))
    }
    files = pd.DataFrame(sizes).rename_axis("file").reset_index()
    return draw_table(files.sort_values("file", ignore_index=True), "Exported files, by format")


def _draw_change(before: Path, after: Path, edit: str) -> Sketch:
    """The values that an edit has changed, and below them what it does to the revenue."""
    changes = compare_files(before, after)
    months = [
        f"revenue of {month.month_start:%Y-%m}: {month.revenue_before:,.2f} → {month.revenue_after:,.2f}"
        for month in changes.months.itertuples()
    ]
    values = changes.values[["table_name", "key", "column_name", "before", "after"]].frame
    return draw_table(values, "What an edited line changes", note="; ".join([edit, *months]))
