"""The star as a polars user would make it: python polars_star.py INPUTS DATABASE_OR_FOLDER

Comparable: the three extracts are read with declared types, amounts are exact decimals of the same
precision, the four tables have the same columns and the same rows, and keys are proved unique, present
and known before anything is written. Less than ours: a bad row ends the run, as there is no quarantine;
no count of the file by other code, no history, no comparison, no publishing in one step; lines stay in
the order of the extract. Into a folder it writes Parquet files, which is what polars writes best.
"""

import sys
from pathlib import Path

import duckdb
import polars as pl

MONEY = pl.Decimal(18, 4)
CUSTOMERS = {
    "customer_id": pl.String,
    "customer_name": pl.String,
    "segment": pl.String,
    "city": pl.String,
    "country": pl.String,
    "signup_date": pl.Date,
}
PRODUCTS = {
    "product_id": pl.String,
    "product_name": pl.String,
    "category": pl.String,
    "unit_cost": MONEY,
    "list_price": MONEY,
}
SALES = {
    "sale_id": pl.String,
    "sale_date": pl.Date,
    "customer_id": pl.String,
    "product_id": pl.String,
    "quantity": pl.Int64,
    "unit_price": MONEY,
    "discount": pl.Decimal(9, 6),
}


def make_star(inputs: Path, target: Path) -> None:
    sales = pl.read_csv(inputs / "fact_sales.csv", schema=SALES)
    star = {
        "dim_customer": dimension(inputs / "dim_customer.csv", CUSTOMERS, "customer"),
        "dim_product": dimension(inputs / "dim_product.csv", PRODUCTS, "product"),
        "dim_date": calendar(sales["sale_date"]),
    }
    star["fact_sales"] = facts(sales, star)
    del sales
    check(star)
    if target.is_dir():
        for name, table in star.items():
            table.write_parquet(target / f"{name}.parquet")
        return
    with duckdb.connect(str(target)) as connection:
        for name, table in star.items():
            connection.register("frame", table)
            connection.execute(f"create table {name} as from frame")


def dimension(path: Path, schema: dict[str, pl.DataType], thing: str) -> pl.DataFrame:
    """One row per thing with a key in the order of the ids, and the unknown member, key -1."""
    rows = pl.read_csv(path, schema=schema).sort(f"{thing}_id")
    keyed = rows.with_row_index(f"{thing}_key", 1).cast({f"{thing}_key": pl.Int32})
    words = [name for name, kind in schema.items() if kind == pl.String and not name.endswith("_id")]
    unknown = {f"{thing}_key": [-1], **{name: ["Unknown"] for name in words}}
    unknown_rows = pl.DataFrame(unknown, schema_overrides={f"{thing}_key": pl.Int32})
    return pl.concat([unknown_rows, keyed], how="diagonal").select(keyed.columns)


def calendar(sale_dates: pl.Series) -> pl.DataFrame:
    first, last = sale_dates.min(), sale_dates.max()
    days = pl.date_range(pl.date(first.year, 1, 1), pl.date(last.year, 12, 31), eager=True)
    date = pl.col("date")
    return pl.DataFrame({"date": [None, *days]}, schema={"date": pl.Date}).select(
        date.dt.strftime("%Y%m%d").cast(pl.Int32).fill_null(-1).alias("date_key"),
        "date",
        date.dt.year().alias("year"),
        date.dt.quarter().cast(pl.Int32).alias("quarter"),
        date.dt.month().cast(pl.Int32).alias("month"),
        date.dt.strftime("%B").fill_null("Unknown").alias("month_name"),
        date.dt.month_start().alias("month_start"),
        date.dt.week().cast(pl.Int32).alias("iso_week"),
        date.dt.day().cast(pl.Int32).alias("day_of_month"),
        date.dt.weekday().cast(pl.Int32).alias("iso_weekday"),
        date.dt.strftime("%A").fill_null("Unknown").alias("weekday_name"),
        (date.dt.weekday() >= 6).alias("is_weekend"),
    )


def facts(sales: pl.DataFrame, star: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """One row per sale line; key -1 for a sale without a customer, null for an unheard-of customer."""
    gross = (pl.col("quantity").cast(MONEY) * pl.col("unit_price")).cast(MONEY)
    off = (pl.col("gross_amount") * pl.col("discount")).round(4).cast(MONEY)
    no_customer = pl.when(pl.col("customer_id").is_null()).then(-1).cast(pl.Int32)
    return (
        sales.lazy()
        .join(
            lookup(star["dim_date"], "date_key", "date"),
            left_on="sale_date",
            right_on="date",
            how="left",
        )
        .join(lookup(star["dim_customer"], "customer_key", "customer_id"), on="customer_id", how="left")
        .join(lookup(star["dim_product"], "product_key", "product_id"), on="product_id", how="left")
        .with_columns(gross.alias("gross_amount"), pl.coalesce("customer_key", no_customer))
        .with_columns(off.alias("discount_amount"))
        .select(
            "sale_id",
            "date_key",
            "customer_key",
            "product_key",
            "quantity",
            "unit_price",
            "discount",
            "gross_amount",
            "discount_amount",
            (pl.col("gross_amount") - pl.col("discount_amount")).cast(MONEY).alias("net_amount"),
        )
        .collect()
    )


def lookup(table: pl.DataFrame, key: str, natural: str) -> pl.LazyFrame:
    return table.lazy().select(key, natural)


def check(star: dict[str, pl.DataFrame]) -> None:
    """Keys are unique and present, references lead somewhere. Raises ValueError naming what is not."""
    keys = {
        "dim_customer": "customer_key",
        "dim_product": "product_key",
        "dim_date": "date_key",
        "fact_sales": "sale_id",
    }
    for table, key in keys.items():
        column = star[table][key]
        if column.null_count() or column.n_unique() < len(column):
            raise ValueError(f"{table}.{key} is not unique, or missing")
    for dimension_name, key in list(keys.items())[:-1]:
        column = star["fact_sales"][key]
        if column.null_count() or not column.is_in(star[dimension_name][key].implode()).all():
            raise ValueError(f"fact_sales.{key} refers to nothing")


if __name__ == "__main__":
    make_star(Path(sys.argv[1]), Path(sys.argv[2]))
