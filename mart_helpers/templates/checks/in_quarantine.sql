-- the rows of $table in quarantine, one per line of a file
with set_aside as (
    select
        file,
        line,
        string_agg(reason, '; ' order by reason) as reasons
    from quarantine
    where table_name = $table
    group by file, line
),
read as (
    select sum(rows_read - rows_left_out) as rows
    from build_inputs
    where table_name = $table and build_id = (select max(build_id) from build_log)
)
select
    set_aside.*,
    format(
        '{:,} {} ({} %) of {} {} in quarantine',
        count(*) over (),
        if(count(*) over () = 1, 'row', 'rows'),
        if(
            1000 * count(*) over () < read.rows,
            'under 0.1',
            format('{:.1f}', 100 * count(*) over () / read.rows)
        ),
        $table,
        if(count(*) over () = 1, 'is', 'are')
    ) as found_in_words
from set_aside
cross join read
