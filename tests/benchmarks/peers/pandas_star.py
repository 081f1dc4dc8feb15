"""The star as a pandas user would make it: python pandas_star.py INPUTS DATABASE

Comparable: the three extracts are read with declared types, on all cores, the four tables have the same
columns and the same rows, and keys are proved unique, present and known before anything is written.
numpy has no decimals, so amounts are whole ten-thousandths in 64 bits, exact like ours, and become
decimals in the database. Less than ours: a bad row ends the run, as there is no quarantine; no count of
the file by other code, no history, no comparison, no publishing in one step; lines stay in the order
of the extract.
"""

import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

TEXT = pd.StringDtype("pyarrow", na_value=np.nan)
UNIT = 10_000  # an amount of 1 is this many of ours
SHARE_UNIT = 1_000_000  # and a discount of 1 this many
AMOUNTS = ("unit_cost", "list_price", "unit_price", "gross_amount", "discount_amount", "net_amount")
CUSTOMERS = {"customer_id": TEXT, "customer_name": TEXT, "segment": TEXT, "city": TEXT, "country": TEXT}
PRODUCTS = {
    "product_id": TEXT,
    "product_name": TEXT,
    "category": TEXT,
    "unit_cost": "float64",
    "list_price": "float64",
}
SALES = {
    "sale_id": TEXT,
    "customer_id": "category",
    "product_id": "category",
    "quantity": "int64",
    "unit_price": "float64",
    "discount": "float64",
}


def make_star(inputs: Path, database: Path) -> None:
    sales = read(inputs / "fact_sales.csv", SALES, dates=["sale_date"])
    customers = read(inputs / "dim_customer.csv", CUSTOMERS, dates=["signup_date"])
    products = read(inputs / "dim_product.csv", PRODUCTS).assign(
        unit_cost=lambda rows: whole(rows["unit_cost"], UNIT),
        list_price=lambda rows: whole(rows["list_price"], UNIT),
    )
    star = {
        "dim_customer": dimension(customers, "customer"),
        "dim_product": dimension(products, "product"),
        "dim_date": calendar(sales["sale_date"]),
    }
    star["fact_sales"] = facts(sales, star)
    del sales
    check(star)
    write(star, database)


def read(path: Path, types: dict[str, object], dates: list[str] | None = None) -> pd.DataFrame:
    return pd.read_csv(path, dtype=types, parse_dates=dates, engine="pyarrow")


def whole(amounts: pd.Series, unit: int) -> pd.Series:
    """Amounts in whole parts of `unit`: exact, as 64 bits of float hold more digits than the extract."""
    return (amounts * unit).round().astype("int64")


def dimension(rows: pd.DataFrame, thing: str) -> pd.DataFrame:
    """One row per thing with a key in the order of the ids, and the unknown member, key -1."""
    keyed = rows.sort_values(f"{thing}_id", ignore_index=True)
    keyed.insert(0, f"{thing}_key", np.arange(1, len(rows) + 1, dtype="int32"))
    words = [name for name in rows.select_dtypes("string") if not name.endswith("_id")]
    key = np.array([-1], dtype="int32")
    unknown = pd.DataFrame({f"{thing}_key": key, **dict.fromkeys(words, "Unknown")})
    return pd.concat([unknown.reindex(columns=keyed.columns), keyed], ignore_index=True)


def calendar(sale_dates: pd.Series) -> pd.DataFrame:
    first, last = sale_dates.min().year, sale_dates.max().year
    date = pd.Series([pd.NaT, *pd.date_range(f"{first}-01-01", f"{last}-12-31")])
    iso = date.dt.isocalendar()
    return pd.DataFrame(
        {
            "date_key": date_keys(date),
            "date": date,
            "year": date.dt.year.astype("Int32"),
            "quarter": date.dt.quarter.astype("Int32"),
            "month": date.dt.month.astype("Int32"),
            "month_name": date.dt.month_name().fillna("Unknown"),
            "month_start": date.dt.to_period("M").dt.start_time,
            "iso_week": iso["week"].astype("Int32"),
            "day_of_month": date.dt.day.astype("Int32"),
            "iso_weekday": iso["day"].astype("Int32"),
            "weekday_name": date.dt.day_name().fillna("Unknown"),
            "is_weekend": (iso["day"] >= 6).astype("boolean"),
        }
    )


def date_keys(dates: pd.Series) -> pd.Series:
    keys = dates.dt.year * 10_000 + dates.dt.month * 100 + dates.dt.day
    return keys.fillna(-1).astype("int32")


def facts(sales: pd.DataFrame, star: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per sale line; key -1 for a sale without a customer, -2 for an unheard-of customer."""
    customer_key = keys_of(sales["customer_id"], star["dim_customer"], "customer")
    unit_price = whole(sales["unit_price"], UNIT)
    discount = whole(sales["discount"], SHARE_UNIT)
    gross = sales["quantity"] * unit_price
    exact_discount = gross * discount
    # half a unit goes away from zero, as decimals of the database are rounded
    discount_amount = np.sign(exact_discount) * ((exact_discount.abs() + SHARE_UNIT // 2) // SHARE_UNIT)
    return pd.DataFrame(
        {
            "sale_id": sales["sale_id"],
            "date_key": date_keys(sales["sale_date"]),
            "customer_key": customer_key.mask(sales["customer_id"].isna(), -1),
            "product_key": keys_of(sales["product_id"], star["dim_product"], "product"),
            "quantity": sales["quantity"],
            "unit_price": unit_price,
            "discount": discount,
            "gross_amount": gross,
            "discount_amount": discount_amount,
            "net_amount": gross - discount_amount,
        }
    )


def keys_of(ids: pd.Series, dimension_rows: pd.DataFrame, thing: str) -> pd.Series:
    known = dimension_rows.dropna(subset=f"{thing}_id").set_index(f"{thing}_id")[f"{thing}_key"]
    return ids.map(known).astype("float64").fillna(-2).astype("int32")


def check(star: dict[str, pd.DataFrame]) -> None:
    """Keys are unique and present, references lead somewhere. Raises ValueError naming what is not."""
    keys = {
        "dim_customer": "customer_key",
        "dim_product": "product_key",
        "dim_date": "date_key",
        "fact_sales": "sale_id",
    }
    for table, key in keys.items():
        column = star[table][key]
        if column.hasnans or not column.is_unique:
            raise ValueError(f"{table}.{key} is not unique, or missing")
    for table, key in list(keys.items())[:-1]:
        if not star["fact_sales"][key].isin(star[table][key]).all():
            raise ValueError(f"fact_sales.{key} refers to nothing")


def write(star: dict[str, pd.DataFrame], database: Path) -> None:
    with duckdb.connect(str(database)) as connection:
        for name, table in star.items():
            connection.register("frame", table)
            columns = ", ".join(f"{in_sql(column)} as {column}" for column in table.columns)
            connection.execute(f"create table {name} as select {columns} from frame")


def in_sql(column: str) -> str:
    """The column as the database is to hold it."""
    if column in AMOUNTS:
        return f"({column}::bigint * 0.0001::decimal(4, 4))::decimal(18, 4)"
    if column == "discount":
        return "(discount::bigint * 0.000001::decimal(6, 6))::decimal(9, 6)"
    return f"{column}::date" if column in {"date", "month_start", "signup_date"} else column


if __name__ == "__main__":
    make_star(Path(sys.argv[1]), Path(sys.argv[2]))
