-- the members of $table that were inferred
select
    key,
    file,
    line,
    rows,
    reason,
    format(
        '{:,} {} of {} inferred, for example: {} ({} line {})',
        count(*) over (),
        if(count(*) over () = 1, 'member', 'members'),
        table_name,
        first_value(reason) over places,
        first_value(file) over places,
        first_value(line) over places
    ) as found_in_words
from inferred_members
where table_name = $table
window places as (order by file, line, key rows between unbounded preceding and unbounded following)
