-- task: The grain of a table is what one row of it stands for. In `fact_sales` that is one sale line.
-- Make a coarser table: one row per customer and day on which the customer has a sale line, without the
-- unknown member.
-- Columns: `customer_key`, `date_key`, `lines` (how many sale lines) and `revenue` (their net amount).
-- hint: A query has the grain of its `group by`: one row for each combination of the columns named there.
-- hint: Group by `customer_key` and `date_key`; everything else must be an aggregate: `count(*)`, `sum(…)`.
-- hint: The unknown member has the key -1. `where customer_key <> -1` leaves it out.
-- mistake: There is more than one row per customer and day. Group by `customer_key` and `date_key`, and by
-- nothing else.
select customer_key, date_key, count(*) as lines, sum(net_amount) as revenue
from fact_sales
where customer_key <> -1
group by customer_key, date_key, product_key
-- mistake: The key -1 is not a customer. It stands for every buyer whose name is unknown, so its rows mix
-- different people.
select customer_key, date_key, count(*) as lines, sum(net_amount) as revenue
from fact_sales
group by customer_key, date_key
-- mistake: `lines` counts units. A sale line of five units is one line: use `count(*)`.
select customer_key, date_key, sum(quantity) as lines, sum(net_amount) as revenue
from fact_sales
where customer_key <> -1
group by customer_key, date_key
-- answer:
select
    customer_key,
    date_key,
    count(*) as lines,
    sum(net_amount) as revenue
from fact_sales
where customer_key <> -1
group by customer_key, date_key
