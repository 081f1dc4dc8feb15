-- one row per day of the calendar years with sales, and the unknown member
with years as (
    select
        date_trunc('year', min(sale_date))::date as first_day,
        date_trunc('year', max(sale_date))::date + interval 1 year as end_day
    from {{ ref('stg_sales') }}
),

days as (
    select unnest(range(first_day, end_day, interval 1 day))::date as date
    from years
)

select
    coalesce(strftime(date, '%Y%m%d')::integer, -1) as date_key,
    date,
    year(date)::integer as year,
    quarter(date)::integer as quarter,
    month(date)::integer as month,
    coalesce(monthname(date), 'Unknown') as month_name,
    date_trunc('month', date)::date as month_start,
    weekofyear(date)::integer as iso_week,
    day(date)::integer as day_of_month,
    isodow(date)::integer as iso_weekday,
    coalesce(dayname(date), 'Unknown') as weekday_name,
    isodow(date) >= 6 as is_weekend
from (select null::date as date union all select date from days)
