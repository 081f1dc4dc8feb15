-- task: A row that cannot be loaded is not lost. It is in `quarantine`, with its file, line, column and reason.
-- How many bad values are there of each column of each table, and on which line is the first?
-- Columns: `table_name`, `column_name`, `bad_values` and `first_line`.
-- hint: Look at some rows first: `select * from quarantine order by table_name, line limit 5`.
-- hint: The answer has one row per table and column: group by these two.
-- hint: `count(*)` and `min(line)`.
-- mistake: All columns of a table are counted together. Group by `table_name` and `column_name`.
select table_name, min(column_name) as column_name, count(*) as bad_values, min(line) as first_line
from quarantine
group by table_name
-- mistake: `first_line` is the last one. Use `min(line)`.
select table_name, column_name, count(*) as bad_values, max(line) as first_line
from quarantine
group by table_name, column_name
-- answer:
select
    table_name,
    column_name,
    count(*) as bad_values,
    min(line) as first_line
from quarantine
group by table_name, column_name
