-- task: A sale that names no customer is still a sale. It refers to the unknown member of `dim_customer`,
-- so that a join loses nothing.
-- How much revenue does each country bring in? The sum over all rows must be the revenue of the whole mart.
-- Columns: `country` and `revenue`.
-- hint: Join `fact_sales` with `dim_customer` by `customer_key` and group by the country.
-- hint: Compare `sum(revenue)` of your view with `sum(net_amount)` of `fact_sales`. Is anything missing?
-- hint: No `where` is needed. The sales without a customer get a row of their own, `Unknown`.
-- mistake: The sales without a customer are missing. Leave the unknown member in: its country is `Unknown`.
select country, sum(net_amount) as revenue
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
where fact_sales.customer_key <> -1
group by country
-- mistake: The country of the sales without a customer is empty. The unknown member has one, `Unknown`: take
-- the country from `dim_customer`.
select nullif(country, 'Unknown') as country, sum(net_amount) as revenue
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
group by country
-- mistake: This is the amount before discounts. Revenue is what is left after them: `net_amount`.
select country, sum(gross_amount) as revenue
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
group by country
-- answer:
select
    dim_customer.country,
    sum(fact_sales.net_amount) as revenue
from fact_sales
inner join dim_customer on fact_sales.customer_key = dim_customer.customer_key
group by dim_customer.country
