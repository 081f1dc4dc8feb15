-- one row per product, and the unknown member
select
    -1 as product_key,
    null::varchar as product_id,
    'Unknown' as product_name,
    'Unknown' as category,
    null::decimal(18, 4) as unit_cost,
    null::decimal(18, 4) as list_price
union all
select
    row_number() over (order by product_id)::integer as product_key,
    product_id,
    product_name,
    category,
    unit_cost,
    list_price
from read_csv(
    '{{ env_var("STAR_INPUTS") }}/dim_product.csv',
    header = true,
    columns = {
        'product_id': 'varchar',
        'product_name': 'varchar',
        'category': 'varchar',
        'unit_cost': 'decimal(18, 4)',
        'list_price': 'decimal(18, 4)'
    }
)
