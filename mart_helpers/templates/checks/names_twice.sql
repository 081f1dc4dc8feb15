-- the columns that DuckDB renamed in a view, since two tables have the name
select
    first.table_name as view_name,
    first.column_name,
    second.column_name as second_column
from duckdb_columns() as first
inner join duckdb_columns() as second
    on first.table_oid = second.table_oid
    and first.database_oid = second.database_oid
    and second.column_name = first.column_name || '_1'
inner join duckdb_views() as views
    on first.table_oid = views.view_oid and first.database_oid = views.database_oid
where views.database_name = current_database() and views.schema_name = 'main' and not views.internal
order by view_name, first.column_index
