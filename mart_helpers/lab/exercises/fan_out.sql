-- task: A join that finds several partners for a row repeats that row, and every sum grows. This is called
-- fan-out.
-- How many units of each product were sold, and how many came back? A sale line with a negative quantity is
-- a return. One row per product with a sale line; where nothing came back, `units_returned` is 0.
-- Columns: `product_id`, `units_sold` and `units_returned` (both 0 or more).
-- hint: Do not join sales with returns: a product with 300 sales and 5 returns would make 1,500 rows.
-- hint: One pass over `fact_sales` is enough. `filter` limits an aggregate to some of the rows.
-- hint: `sum(quantity) filter (where quantity > 0)`, and the same for the returns, with `coalesce(…, 0)`.
-- mistake: This is fan-out: each sale is repeated for each return of its product, and each return for each
-- sale. Sum both in one pass, or sum each before you join.
select product_id, sum(sold.quantity) as units_sold, -sum(returned.quantity) as units_returned
from fact_sales as sold
inner join fact_sales as returned on sold.product_key = returned.product_key
inner join dim_product on sold.product_key = dim_product.product_key
where sold.quantity > 0 and returned.quantity < 0
group by product_id
-- mistake: `units_returned` is empty for products without returns. It should be 0: use
-- `coalesce(…, 0)`.
select
    product_id,
    sum(quantity) filter (where quantity > 0) as units_sold,
    -sum(quantity) filter (where quantity < 0) as units_returned
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by product_id
-- mistake: `units_returned` is negative. Change its sign.
select
    product_id,
    sum(quantity) filter (where quantity > 0) as units_sold,
    coalesce(sum(quantity) filter (where quantity < 0), 0) as units_returned
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by product_id
-- mistake: `units_sold` is what is left after the returns. Sum only the positive quantities.
select
    product_id,
    sum(quantity) as units_sold,
    -coalesce(sum(quantity) filter (where quantity < 0), 0) as units_returned
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by product_id
-- answer:
select
    dim_product.product_id,
    coalesce(sum(fact_sales.quantity) filter (where fact_sales.quantity > 0), 0) as units_sold,
    -coalesce(sum(fact_sales.quantity) filter (where fact_sales.quantity < 0), 0) as units_returned
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by dim_product.product_id
