-- task: Revenue adds up: the sum of twelve months is the year. A number of different things does not, since
-- a customer who buys in two months is still one customer.
-- How many different known customers bought something in each year? Returns are not purchases.
-- Columns: `year` and `customers`.
-- hint: Count for the whole year at once. The counts of its months cannot be added up.
-- hint: `count(distinct …)` counts each value once. `dim_customer` has a `customer_id`; a customer with a history
-- has a `customer_key` for each version.
-- hint: Leave out the unknown member (key -1) and the returns (`quantity > 0`), then group by `dim_date.year`.
-- mistake: A customer who bought in several months is counted several times. Count the distinct customers of
-- the year, not the sum of the months.
with months as (
    select year, month, count(distinct customer_durable_key) as customers
    from fact_sales
    inner join dim_date on fact_sales.date_key = dim_date.date_key
    inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
    where customer_durable_key <> -1 and quantity > 0
    group by year, month
)
select year, sum(customers) as customers
from months
group by year
-- mistake: These are sale lines, not customers. `count(distinct …)` counts each customer once.
select year, count(customer_durable_key) as customers
from fact_sales
inner join dim_date on fact_sales.date_key = dim_date.date_key
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
where customer_durable_key <> -1 and quantity > 0
group by year
-- mistake: The unknown member is counted as a customer. Leave out the key -1.
select year, count(distinct customer_durable_key) as customers
from fact_sales
inner join dim_date on fact_sales.date_key = dim_date.date_key
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
where quantity > 0
group by year
-- mistake: A customer with several versions is counted several times. Count `customer_id`, not `customer_key`.
select year, count(distinct customer_key) as customers
from fact_sales
inner join dim_date on fact_sales.date_key = dim_date.date_key
where customer_key <> -1 and quantity > 0
group by year
-- answer:
select
    dim_date.year,
    count(distinct dim_customer.customer_durable_key) as customers
from fact_sales
inner join dim_date on fact_sales.date_key = dim_date.date_key
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
where dim_customer.customer_key <> -1 and fact_sales.quantity > 0
group by dim_date.year
