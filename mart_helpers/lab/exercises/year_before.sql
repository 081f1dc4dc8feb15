-- task: Business has seasons, so a month is compared with the same month of the year before.
-- What was the revenue of each month with sales, and that of the same month a year earlier? Where the mart
-- does not reach back so far, the latter is null.
-- Columns: `month_start`, `revenue` and `revenue_year_before`.
-- hint: First sum up the months in a `with` step, then join that step with itself.
-- hint: The month a year earlier is `month_start - interval 1 year`.
-- hint: A `left join` keeps the months of the first year, for which there is nothing to compare.
-- mistake: The first year is missing, because there is no earlier month to join. Use a left join.
with months as (
    select month_start, sum(net_amount) as revenue
    from fact_sales
    inner join dim_date on fact_sales.date_key = dim_date.date_key
    group by month_start
)
select months.month_start, months.revenue, earlier.revenue as revenue_year_before
from months
inner join months as earlier on months.month_start = earlier.month_start + interval 1 year
-- mistake: This is the month before, not the same month of the year before.
select
    month_start,
    sum(net_amount) as revenue,
    lag(sum(net_amount)) over (order by month_start) as revenue_year_before
from fact_sales
inner join dim_date on fact_sales.date_key = dim_date.date_key
group by month_start
-- mistake: This is the year after. Change the sign of the interval.
with months as (
    select month_start, sum(net_amount) as revenue
    from fact_sales
    inner join dim_date on fact_sales.date_key = dim_date.date_key
    group by month_start
)
select months.month_start, months.revenue, later.revenue as revenue_year_before
from months
left join months as later on months.month_start = later.month_start - interval 1 year
-- answer:
with months as (
    select
        dim_date.month_start,
        sum(fact_sales.net_amount) as revenue
    from fact_sales
    inner join dim_date on fact_sales.date_key = dim_date.date_key
    group by dim_date.month_start
)
select
    months.month_start,
    months.revenue,
    year_before.revenue as revenue_year_before
from months
left join months as year_before
    on months.month_start - interval 1 year = year_before.month_start
