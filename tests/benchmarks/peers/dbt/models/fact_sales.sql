-- one row per sale line
with priced as (
    select
        *,
        (quantity * unit_price)::decimal(18, 4) as gross_amount,
        (gross_amount * discount)::decimal(18, 4) as discount_amount
    from {{ ref('stg_sales') }}
)

select
    priced.sale_id,
    coalesce(dim_date.date_key, -1) as date_key,
    coalesce(dim_customer.customer_key, -1) as customer_key,
    coalesce(dim_product.product_key, -1) as product_key,
    priced.quantity,
    priced.unit_price,
    priced.discount,
    priced.gross_amount,
    priced.discount_amount,
    (priced.gross_amount - priced.discount_amount)::decimal(18, 4) as net_amount
from priced
left join {{ ref('dim_date') }} as dim_date on priced.sale_date = dim_date.date
left join {{ ref('dim_customer') }} as dim_customer on priced.customer_id = dim_customer.customer_id
left join {{ ref('dim_product') }} as dim_product on priced.product_id = dim_product.product_id
