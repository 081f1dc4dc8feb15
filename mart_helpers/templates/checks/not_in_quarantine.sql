-- the files of the last build of which rows are neither loaded nor in quarantine
with set_aside as (
    select
        table_name,
        file,
        count(distinct line) as rows_in_quarantine
    from quarantine
    group by all
)
select
    build_inputs.table_name,
    build_inputs.file,
    build_inputs.rows_quarantined,
    coalesce(set_aside.rows_in_quarantine, 0) as rows_in_quarantine
from build_inputs
left join set_aside
    on build_inputs.table_name = set_aside.table_name and build_inputs.file = set_aside.file
where
    build_inputs.build_id = (select max(build_id) from build_log)
    and build_inputs.rows_quarantined <> coalesce(set_aside.rows_in_quarantine, 0)
