"""What a star holds, as JSON, so that two can be compared: python verifying.py DATABASE_OR_FOLDER"""

import json
import sys
from pathlib import Path

import duckdb

TABLES = ("dim_customer", "dim_product", "dim_date", "fact_sales")
FIGURES = {
    "revenue": "sum(net_amount)",
    "gross_amount": "sum(gross_amount)",
    "discount_amount": "sum(discount_amount)",
    "units": "sum(quantity)",
    "prices": "sum(unit_price)",
    "ids": "bit_xor(hash(sale_id))",
    # which sale belongs to whom, what and when
    "references": "bit_xor(hash(sale_id, date_key::bigint, customer_key::bigint, product_key::bigint))",
}


def describe(star: Path) -> dict[str, str]:
    """Rows of each table, figures of the facts, and where there is a quarantine the lines in it."""
    with duckdb.connect() as connection:
        if star.is_dir():
            for table in TABLES:
                connection.execute(f"create view {table} as from '{star / table}.parquet'")
        else:
            connection.execute(f"attach '{star}' as star (read_only)")
            connection.execute("use star")
        queries = {table: f"select count(*) from {table}" for table in TABLES}
        queries |= {name: f"select {sql} from fact_sales" for name, sql in FIGURES.items()}
        if connection.execute(
            "select 1 from duckdb_tables() where table_name = 'quarantine'"
        ).fetchone():
            queries["bad_lines"] = "select count(distinct line) from quarantine"
            queries["bad_values_without_a_line"] = "select count(*) from quarantine where line is null"
        return {name: str(connection.execute(sql).fetchone()[0]) for name, sql in queries.items()}


if __name__ == "__main__":
    print(json.dumps(describe(Path(sys.argv[1]))))
