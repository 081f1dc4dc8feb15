-- one row per customer, and the unknown member
select
    -1 as customer_key,
    null::varchar as customer_id,
    'Unknown' as customer_name,
    'Unknown' as segment,
    'Unknown' as city,
    'Unknown' as country,
    null::date as signup_date
union all
select
    row_number() over (order by customer_id)::integer as customer_key,
    customer_id,
    customer_name,
    segment,
    city,
    country,
    signup_date
from read_csv(
    '{{ env_var("STAR_INPUTS") }}/dim_customer.csv',
    header = true,
    columns = {
        'customer_id': 'varchar',
        'customer_name': 'varchar',
        'segment': 'varchar',
        'city': 'varchar',
        'country': 'varchar',
        'signup_date': 'date'
    }
)
