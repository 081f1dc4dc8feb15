-- A view: writing 10 million rows down only to read them twice takes longer than reading the file twice.
{{ config(materialized='view') }}

select *
from read_csv(
    '{{ env_var("STAR_INPUTS") }}/fact_sales.csv',
    header = true,
    columns = {
        'sale_id': 'varchar',
        'sale_date': 'date',
        'customer_id': 'varchar',
        'product_id': 'varchar',
        'quantity': 'bigint',
        'unit_price': 'decimal(18, 4)',
        'discount': 'decimal(9, 6)'
    }
)
