-- task: A day on which nothing was sold has no row in `fact_sales`, but it has one in `dim_date`.
-- How many days of each month passed without a single sale line? A month in which every day has one counts 0.
-- Columns: `month_start`, `days` (the days of the month) and `quiet_days`.
-- hint: Begin with the calendar: `from dim_date left join …` keeps the days without sales.
-- hint: Join the distinct `date_key` of the fact: whole sale lines would repeat each day (fan-out).
-- hint: Count the days for which the joined key `is null`. The unknown day of `dim_date` has no date: leave
-- it out.
-- mistake: No day is quiet here, because the inner join loses the days without sales. Use a left join that
-- starts from `dim_date`.
select month_start, count(distinct dim_date.date) as days, 0 as quiet_days
from fact_sales
inner join dim_date on fact_sales.date_key = dim_date.date_key
group by month_start
-- mistake: One row has no month: that is the unknown member of `dim_date`. Leave out the key -1.
select
    month_start,
    count(*) as days,
    count(*) filter (where date_key not in (select date_key from fact_sales)) as quiet_days
from dim_date
group by month_start
-- mistake: Each day is counted once for each of its sale lines. Join the distinct days of the fact.
select
    month_start,
    count(*) as days,
    count(*) filter (where fact_sales.date_key is null) as quiet_days
from dim_date
left join fact_sales on dim_date.date_key = fact_sales.date_key
where dim_date.date_key <> -1
group by month_start
-- answer:
with days_with_sales as (
    select distinct date_key
    from fact_sales
)
select
    dim_date.month_start,
    count(*) as days,
    count(*) filter (where days_with_sales.date_key is null) as quiet_days
from dim_date
left join days_with_sales on dim_date.date_key = days_with_sales.date_key
where dim_date.date_key <> -1
group by dim_date.month_start
