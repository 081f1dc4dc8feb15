"""The least that could do the work: one statement, without contract, quarantine or checks.

python floor.py load CSV DATABASE [fast] [good]  a typed `create table as` of one extract, ids as text
python floor.py read FOLDER DATABASE             the same of all extracts, customers from many files
python floor.py copy DATABASE FILE               fact_sales as one file, of the kind that its ending says

`fast` does not keep the order of the lines: DuckDB's default, which does, meets a bad case on the
extracts that are measured here. `good` passes over rows that do not fit the types.
"""

import sys
from pathlib import Path

import duckdb

SALES = {
    "sale_id": "varchar",
    "sale_date": "date",
    "customer_id": "varchar",
    "product_id": "varchar",
    "quantity": "bigint",
    "unit_price": "decimal(18, 4)",
    "discount": "decimal(9, 6)",
}
CUSTOMERS = {
    "customer_id": "varchar",
    "customer_name": "varchar",
    "segment": "varchar",
    "city": "varchar",
    "country": "varchar",
    "signup_date": "date",
}
COPY_OPTIONS = {
    ".csv": "format csv, header",
    ".json": "format json, array true",
    ".parquet": "format parquet, compression zstd",
}


def load(csv: str, database: str, *how: str) -> None:
    options = ", store_rejects = true, rejects_limit = 0" if "good" in how else ""
    with duckdb.connect(database) as connection:
        connection.execute(f"set preserve_insertion_order = {'fast' not in how}")
        connection.execute(
            f"create table fact_sales as select * from read_csv('{csv}', columns = {SALES}{options})"
        )


def read(folder: str, database: str) -> None:
    load(f"{folder}/fact_sales.csv", database, "fast")
    with duckdb.connect(database) as connection:
        connection.execute("set preserve_insertion_order = false")
        connection.execute(
            "create table dim_customer as select * from "
            f"read_csv('{folder}/dim_customer/*.csv', columns = {CUSTOMERS}, filename = true)"
        )
        connection.execute(f"create table dim_product as from read_csv('{folder}/dim_product.csv')")


def copy(database: str, file: str) -> None:
    with duckdb.connect(database, read_only=True) as connection:
        connection.execute(f"copy fact_sales to '{file}' ({COPY_OPTIONS[Path(file).suffix]})")


if __name__ == "__main__":
    {"load": load, "read": read, "copy": copy}[sys.argv[1]](*sys.argv[2:])
