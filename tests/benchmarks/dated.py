"""Dated files of customers, and sales to them: python dated.py CLEAN OUT FILES CUSTOMERS month|day"""

import sys

import duckdb

# From each file to the next, another hundredth of the customers moves.
FILE = """
copy (
    select
        format('C{{:06}}', n) as customer_id,
        'Customer ' || n as customer_name,
        'Retail' as segment,
        'City ' || (n + ({number} + n) // 100) as city,
        'Austria' as country,
        date '2021-01-01' as signup_date
    from range({customers}) as numbers (n)
) to '{out}/dim_customer/{day}.csv' (format csv, header)
"""
SALES = """
copy (
    select * replace (format('C{{:06}}', (row_number() over ()) * 7919 % {customers}) as customer_id)
    from read_csv('{clean}/fact_sales.csv', all_varchar = true)
) to '{out}/fact_sales.csv' (format csv, header)
"""


def write(clean: str, out: str, files: int, customers: int, step: str) -> None:
    with duckdb.connect() as connection:
        days = (
            f"select (date '2025-01-01' - interval 1 {step} * ({files} - n))::date::varchar "
            f"from range({files}) as files (n) order by n"
        )
        for number, (day,) in enumerate(connection.execute(days).fetchall()):
            connection.execute(FILE.format(number=number, customers=customers, out=out, day=day))
        connection.execute(SALES.format(clean=clean, customers=customers, out=out))


if __name__ == "__main__":
    clean, out, files, customers, step = sys.argv[1:]
    write(clean, out, int(files), int(customers), step)
