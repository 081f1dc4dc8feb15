-- compares with the median of the earlier builds of this stage, once there are five
with builds as (
    select
        build_log.*,
        inputs.rows
    from build_log
    left join (
        select
            build_id,
            sum(rows_loaded) as rows
        from build_inputs
        group by build_id
    ) as inputs on build_log.build_id = inputs.build_id
),
this_build as (
    select *
    from builds
    where build_id = (select max(build_id) from builds)
),
compared as (
    select
        count(*) as earlier_builds,
        unnest(['rows_loaded', 'revenue_loaded']) as what,
        unnest([median(earlier.rows_loaded), median(earlier.revenue_loaded)]) as usual,
        unnest([any_value(this_build.rows), any_value(this_build.revenue_loaded)]) as found,
        any_value(this_build.volume_tolerance) as tolerance,
        any_value(this_build.drops_only) as drops_only
    from this_build
    inner join builds as earlier
        on this_build.stage = earlier.stage and this_build.build_id > earlier.build_id
)
select
    what,
    usual::decimal(38, 2) as usual,
    found::decimal(38, 2) as found,
    tolerance,
    if(earlier_builds < 5, 'fewer than 5 builds came before', null) as skipped_because,
    format('{} is {:,.2f}, usual is {:,.2f}', what, found::double, usual::double) as found_in_words
from compared
where
    earlier_builds < 5
    or found is null and usual is not null
    or found <= usual * (1 - tolerance)
    or (not drops_only and found >= usual * (1 + tolerance))
