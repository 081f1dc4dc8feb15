-- task: With history, `dim_customer` has one row per version of a customer: one is current (`is_current`), and
-- each sale refers to the version of its day. All versions of a customer share the `customer_durable_key`.
-- How much revenue, of all times, did the customers bring in who are in each city today? Sales without a
-- customer are in the city `Unknown`, as ever.
-- Columns: `city` and `revenue`.
-- hint: A join by `customer_key` gives the city on the day of the sale. You need the city of today.
-- hint: Go from the version of the sale to the current version: this needs `dim_customer` twice.
-- hint: Join the second one by `customer_durable_key`, and only where `is_current`.
-- mistake: This is the city on the day of the sale. For the city of today, go on to the current version by
-- `customer_durable_key`.
select city, sum(net_amount) as revenue
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
group by city
-- mistake: The sales of earlier versions are missing. Do not leave out old versions; go from each to the
-- current one.
select city, sum(net_amount) as revenue
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
where is_current
group by city
-- mistake: This is fan-out: each sale meets all versions of its customer. Join only the current one.
select today.city, sum(net_amount) as revenue
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
inner join dim_customer as today
    on dim_customer.customer_durable_key = today.customer_durable_key
group by today.city
-- answer:
select
    today.city,
    sum(fact_sales.net_amount) as revenue
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
inner join dim_customer as today
    on dim_customer.customer_durable_key = today.customer_durable_key
    and today.is_current
group by today.city
