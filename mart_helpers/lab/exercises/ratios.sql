-- task: A percentage can neither be added up nor averaged: a discount on a large order weighs more than
-- one on a small order.
-- What share of the gross amount was given away in each category? In per cent, rounded to two decimals.
-- Columns: `category` and `discount_pct`.
-- hint: The ratio of a group is one sum divided by another, not the average of the ratios of its rows.
-- hint: The two sums are those of `discount_amount` and `gross_amount`.
-- hint: `round(100 * sum(discount_amount) / sum(gross_amount), 2)`, joined with `dim_product` and
-- grouped by category.
-- mistake: This is the average of `discount`, in which a line of one kilo weighs as much as one of ten.
-- Divide the sum of `discount_amount` by the sum of `gross_amount`.
select category, round(100 * avg(discount), 2) as discount_pct
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by category
-- mistake: The discount is compared with what is left after it. Divide by the gross amount.
select category, round(100 * sum(discount_amount) / sum(net_amount), 2) as discount_pct
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by category
-- mistake: This is a share between 0 and 1. For per cent, multiply by 100 before you round.
select category, round(sum(discount_amount) / sum(gross_amount), 2) as discount_pct
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by category
-- answer:
select
    dim_product.category,
    round(100 * sum(fact_sales.discount_amount) / sum(fact_sales.gross_amount), 2) as discount_pct
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by dim_product.category
