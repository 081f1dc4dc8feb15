"""The least that could do the work: plain processes, with no contract, quarantine, check or kernel.

python floor.py load CSV DATABASE       a typed `create table as` of one extract, ids as text
python floor.py load-good CSV DATABASE  the same, passing over rows that do not fit the types
python floor.py copy DATABASE FILE      fact_sales as one file, of the kind that its ending says
python floor.py cells HOME              the cells of the four notebooks, in one IPython shell
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

SALES = {
    "sale_id": "varchar",
    "sale_date": "date",
    "customer_id": "varchar",
    "product_id": "varchar",
    "quantity": "bigint",
    "unit_price": "decimal(18, 4)",
    "discount": "decimal(9, 6)",
}
COPY_OPTIONS = {
    ".csv": "format csv, header",
    ".json": "format json, array true",
    ".parquet": "format parquet, compression zstd",
}
NOTEBOOKS = ("01_build", "04_quality", "02_explore", "03_export")


def load(csv: str, database: str, options: str = "") -> None:
    import duckdb

    with duckdb.connect(database) as connection:
        connection.execute(
            f"create table fact_sales as select * from read_csv('{csv}', columns = {SALES}{options})"
        )


def load_good(csv: str, database: str) -> None:
    load(csv, database, ", store_rejects = true, rejects_limit = 0")


def copy(database: str, file: str) -> None:
    import duckdb

    with duckdb.connect(database, read_only=True) as connection:
        connection.execute(f"copy fact_sales to '{file}' ({COPY_OPTIONS[Path(file).suffix]})")


def cells(home: str) -> None:
    """Results are made as a notebook shows them, pictures too, and thrown away."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.displayhook.write_format_data = lambda format_dict, md_dict=None: None
    os.environ["MART_HOME"] = home
    for name in NOTEBOOKS:
        for cell in json.loads(Path(home, "notebooks", f"{name}.ipynb").read_text())["cells"]:
            if cell["cell_type"] == "code":
                with contextlib.redirect_stdout(io.StringIO()):
                    ran = shell.run_cell("".join(cell["source"]), store_history=True)
                ran.raise_error()
        shell.user_ns["mart"].close()
        shell.reset()


if __name__ == "__main__":
    work = {"load": load, "load-good": load_good, "copy": copy, "cells": cells}
    work[sys.argv[1]](*sys.argv[2:])
