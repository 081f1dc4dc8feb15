-- task: A return is a sale line with a negative quantity, so units and revenue are right as soon as you sum
-- them up. A return rate has to take the two apart.
-- How many units came back per hundred units sold, by product? Rounded to two decimals; 0 where none did.
-- Columns: `product_id` and `return_pct`.
-- hint: Sum the positive quantities and the negative ones separately, with `filter`.
-- hint: Divide by the units sold, before returns.
-- hint: `-100 * coalesce(sum(quantity) filter (where quantity < 0), 0) / sum(quantity) filter (…)`.
-- mistake: These are lines, not units. A return of ten units is one line, too: sum the quantity.
select
    product_id,
    round(100 * count(*) filter (where quantity < 0) / count(*) filter (where quantity > 0), 2)
        as return_pct
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by product_id
-- mistake: `sum(quantity)` is what is left after the returns. Divide by the units sold before them.
select
    product_id,
    round(-100 * coalesce(sum(quantity) filter (where quantity < 0), 0) / sum(quantity), 2) as return_pct
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by product_id
-- mistake: The rate is empty for products without returns. It should be 0: `coalesce(…, 0)`.
select
    product_id,
    round(
        -100 * sum(quantity) filter (where quantity < 0) / sum(quantity) filter (where quantity > 0), 2
    ) as return_pct
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by product_id
-- answer:
select
    dim_product.product_id,
    round(
        -100 * coalesce(sum(fact_sales.quantity) filter (where fact_sales.quantity < 0), 0)
        / sum(fact_sales.quantity) filter (where fact_sales.quantity > 0),
        2
    ) as return_pct
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
group by dim_product.product_id
