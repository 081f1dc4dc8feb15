-- task: A fact refers to its dimensions by surrogate keys, numbers that mean nothing outside this mart.
-- People know customers by the natural key, the `customer_id` of the source.
-- When did each customer who is known by name buy first? One row per customer with at least one sale line.
-- Columns: `customer_id`, `customer_name` and `first_sale` (a date).
-- hint: You need two joins: one for the id and name of the customer, one for the date.
-- hint: `inner join dim_date on fact_sales.date_key = dim_date.date_key`, and the same for the customer.
-- hint: `min(dim_date.date)` is the first day. Group by `customer_id` and `customer_name`.
-- mistake: `signup_date` is the day on which somebody became a customer. The first sale is a fact: it is
-- in `fact_sales`.
select customer_id, customer_name, signup_date as first_sale
from dim_customer
where customer_key in (select customer_key from fact_sales) and customer_key <> -1
-- mistake: `first_sale` is a surrogate key. Join `dim_date` to get the date that it stands for.
select customer_id, customer_name, min(date_key) as first_sale
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
where dim_customer.customer_key <> -1
group by customer_id, customer_name
-- mistake: One row has no `customer_id`: the unknown member. Leave out the key -1.
select customer_id, customer_name, min(date) as first_sale
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
inner join dim_date on fact_sales.date_key = dim_date.date_key
group by customer_id, customer_name
-- answer:
select
    dim_customer.customer_id,
    dim_customer.customer_name,
    min(dim_date.date) as first_sale
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
inner join dim_date on fact_sales.date_key = dim_date.date_key
where dim_customer.customer_key <> -1
group by dim_customer.customer_id, dim_customer.customer_name
