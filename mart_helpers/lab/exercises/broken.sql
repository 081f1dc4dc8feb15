-- task: In the second mart a till sent cents in place of euros for a whole month. Every value is a valid
-- number, so no row is in quarantine for it.
-- Find such months in any mart: those in which more than half of the sale lines have a `unit_price` above
-- five times the `list_price`. In a good mart the view is empty.
-- Columns: `month_start` and `dear_lines` (how many lines are so dear).
-- hint: You need three tables: the price is in `fact_sales`, the list price in `dim_product`, the month in
-- `dim_date`.
-- hint: Count the dear lines with `filter (where unit_price > 5 * list_price)`, by month.
-- hint: A condition on a whole month goes into `having`: twice the dear lines must exceed `count(*)`.
-- mistake: Here a single typing error is enough to list a month. Require more than half of its lines.
select month_start, count(*) as dear_lines
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
inner join dim_date on fact_sales.date_key = dim_date.date_key
where unit_price > 5 * list_price
group by month_start
-- mistake: The good months are listed, too. Use `having` to keep only those in which more than half of the
-- lines are dear.
select month_start, count(*) filter (where unit_price > 5 * list_price) as dear_lines
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
inner join dim_date on fact_sales.date_key = dim_date.date_key
group by month_start
-- answer:
select
    dim_date.month_start,
    count(*) filter (where fact_sales.unit_price > 5 * dim_product.list_price) as dear_lines
from fact_sales
inner join dim_product on fact_sales.product_key = dim_product.product_key
inner join dim_date on fact_sales.date_key = dim_date.date_key
group by dim_date.month_start
having 2 * dear_lines > count(*)
