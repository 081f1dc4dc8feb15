-- task: A check is a view of bad rows: if the view is empty, the check passes.
-- Write a check that finds sale lines that earn too little: those whose margin is below 35 per cent of their
-- revenue. Returns are not asked. The view `all_sales` has revenue and margin of each line.
-- Columns: `sale_id`, `revenue` and `margin`.
-- hint: A check selects rows; it neither counts nor sums.
-- hint: `from all_sales where …`, with a condition on `margin` and `revenue`.
-- hint: Multiply instead of dividing: `margin < 0.35 * revenue`. The revenue of a return is negative, so
-- keep only lines with a revenue above 0.
-- mistake: Returns are in the answer. Their revenue is negative, which reverses the comparison: add
-- `revenue > 0`.
select sale_id, revenue, margin
from all_sales
where margin < 0.35 * revenue
-- mistake: These are the good rows. A check lists those that break the rule.
select sale_id, revenue, margin
from all_sales
where revenue > 0 and margin >= 0.35 * revenue
-- mistake: This compares with the amount before the discount. Revenue is what is left after it.
select sale_id, revenue, margin
from all_sales
where revenue > 0 and margin < 0.35 * gross_amount
-- answer:
select
    sale_id,
    revenue,
    margin
from all_sales
where revenue > 0 and margin < 0.35 * revenue
