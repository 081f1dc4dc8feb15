-- The synthetic extracts of `generator`, as views. The variables sales, customers, products (how many there
-- are) and seed are set before.

-- 31 random bits for a number. The functions of an engine may change from one version to the next.
create temp macro stirred(value) as (xor(value, value >> 16) * 73244475) & 4294967295;
create temp macro folded(value) as xor(value, value >> 16) & 2147483647;
create temp macro drawn(number, seed) as folded(stirred(stirred(xor(number, seed) & 4294967295)));

set variable sale_seed = drawn(0, getvariable('seed'));
set variable change_seed = drawn(1, getvariable('seed'));
set variable stock_seed = drawn(2, getvariable('seed'));

-- The same for sale n and one of its 16 questions.
create temp macro chance(n, question) as folded(
    stirred(stirred(xor(16 * n + question, getvariable('sale_seed'))))
);

-- 0 to choices - 1, low numbers far more often: the product of two uniform draws is mostly small.
create temp macro skewed(n, question, choices) as
    (((chance(n, question) * chance(n, question + 1)) >> 31) * choices) >> 31;

-- An id whose width fits all of them.
create temp macro id(letter, number, least, most) as
    letter || lpad(number::varchar, greatest(least, length(most::varchar))::integer, '0');

-- Base customers; the share of all lines is in percent.
create temp table base_customer as
select row_number() over () - 1 as base, *
from (
    values
        ('Harbour Street Café', 'Cafe', 'Hamburg', 'Germany', date '2021-03-15', 12),
        ('Old Mill Bakery Café', 'Cafe', 'Leipzig', 'Germany', date '2021-09-06', 8),
        ('North Quay Offices', 'Office', 'Hamburg', 'Germany', date '2022-01-10', 5),
        ('Market Hall Grocers', 'Retail', 'Vienna', 'Austria', date '2021-05-03', 9),
        ('Ringside Coffee Bar', 'Cafe', 'Vienna', 'Austria', date '2022-04-19', 6),
        ('Castle Hill Tea Room', 'Cafe', 'Graz', 'Austria', date '2022-08-01', 3),
        ('Lakeside Coworking', 'Office', 'Zürich', 'Switzerland', date '2021-11-22', 7),
        ('Old Town Delicatessen', 'Retail', 'Zürich', 'Switzerland', date '2022-06-13', 4),
        ('Two Rivers Bistro', 'Cafe', 'Lyon', 'France', date '2021-07-12', 7),
        ('Silk Quarter Pantry', 'Retail', 'Lyon', 'France', date '2022-10-03', 3),
        ('Canal House Coffee', 'Cafe', 'Utrecht', 'Netherlands', date '2022-02-28', 6),
        ('Dockside Roast Shop', 'Retail', 'Rotterdam', 'Netherlands', date '2021-06-21', 5),
        ('Harbour Tower Services', 'Office', 'Rotterdam', 'Netherlands', date '2022-09-12', 3),
        ('Linden Park Library Café', 'Cafe', 'Leipzig', 'Germany', date '2022-11-07', 2),
        ('Warehouse 9 Studios', 'Office', 'Hamburg', 'Germany', date '2022-12-05', 2),
        ('Kettle, Cup & Co.', 'Retail', 'Vienna', 'Austria', date '2022-03-07', 4),
        ('Stadium Corner Kiosk', 'Retail', 'Leipzig', 'Germany', date '2023-01-16', 3),
        ('Alpine View Guesthouse', 'Cafe', 'Graz', 'Austria', date '2023-02-13', 2),
        ('Station Arcade Espresso', 'Cafe', 'Zürich', 'Switzerland', date '2023-03-06', 3),
        ('Riverside Design Office', 'Office', 'Lyon', 'France', date '2023-04-17', 1),
        ('Windmill Organic Shop', 'Retail', 'Utrecht', 'Netherlands', date '2023-05-08', 2),
        ('University Square Office', 'Office', 'Utrecht', 'Netherlands', date '2023-06-19', 1),
        ('Glasshouse Garden Shop', 'Retail', 'Rotterdam', 'Netherlands', date '2023-09-04', 1),
        ('Hilltop Software Office', 'Office', 'Graz', 'Austria', date '2023-10-02', 1)
) as customers (name, segment, city, country, signup_date, share);

-- Base products: amounts in cents, the most units on a line, the share of all lines in percent.
create temp table base_product as
select row_number() over () - 1 as base, *
from (
    values
        ('House Espresso 1 kg', 'Coffee', 980, 1850, 24, 24),
        ('Breakfast Blend 1 kg', 'Coffee', 920, 1690, 20, 17),
        ('Highland Single Origin 500 g', 'Coffee', 740, 1450, 12, 9),
        ('Decaf Blend 1 kg', 'Coffee', 1010, 1890, 8, 6),
        ('Black Breakfast Tea 100 bags', 'Tea', 410, 890, 16, 11),
        ('Green Sencha 250 g', 'Tea', 630, 1350, 8, 6),
        ('Peppermint Tea 100 bags', 'Tea', 360, 790, 12, 4),
        ('French Press 1 l', 'Equipment', 1350, 2900, 4, 4),
        ('Pour Over Kettle', 'Equipment', 2400, 4900, 3, 2),
        ('Burr Grinder', 'Equipment', 7800, 14900, 2, 1),
        ('Paper Filters 500 pieces', 'Supplies', 320, 650, 20, 9),
        ('Takeaway Cups 100 pieces', 'Supplies', 540, 990, 30, 7)
) as products (name, category, cost_cents, list_cents, most_units, share);

-- One row per customer. A variant never signs up after its base customer: the sales look at that one only.
create temp view customer as
select
    n,
    id('C', n + 1, 3, getvariable('customers')) as customer_id,
    name || if(n < 24, '', ' ' || n // 24 + 1) as customer_name,
    segment,
    city,
    country,
    signup_date - (n // 24 * 37 % 900)::integer as signup_date
from range(getvariable('customers')) as numbers (n)
inner join base_customer on base_customer.base = n % 24;

create temp view dim_customer as
select * exclude (n)
from customer
order by n;

-- One row per customer and quarterly extract in which it is: some customers change, some are left out.
create temp view dated_customer as
with drawn_changes as (
    select
        customer.*,
        extract_number,
        drawn(8 * n + extract_number, getvariable('change_seed')) as chance,
        if(extract_number > 0, chance % 100, null) as change,
        chance // 100 % 24 as other_base
    from customer
    cross join range(8) as extracts (extract_number)
)

select
    n,
    extract_number,
    customer_id,
    customer_name || if(bool_or(change = 3) over so_far, ' & Sons', '') as customer_name,
    coalesce(
        last_value(case when change = 2 then other.segment end ignore nulls) over so_far, now.segment
    ) as segment,
    coalesce(
        last_value(case when change < 2 then other.city end ignore nulls) over so_far, now.city
    ) as city,
    coalesce(
        last_value(case when change < 2 then other.country end ignore nulls) over so_far, now.country
    ) as country,
    now.signup_date
from drawn_changes as now
inner join base_customer as other on now.other_base = other.base
window so_far as (partition by n order by extract_number)
qualify
    now.signup_date <= date '2023-01-01' + to_months(3 * extract_number::integer)
    and change is distinct from 4;

create temp view dim_product as
select
    id('P', n + 1, 2, getvariable('products')) as product_id,
    name || if(n < 12, '', ' ' || n // 12 + 1) as product_name,
    category,
    ((cost_cents + n // 12 % 40 * 5) * 0.01)::decimal(12, 2) as unit_cost,
    ((list_cents + n // 12 % 40 * 10) * 0.01)::decimal(12, 2) as list_price
from range(getvariable('products')) as numbers (n)
inner join base_product on base_product.base = n % 12
order by n;

-- The day number of each of 20,000 equal parts of the sales; busy days have more. The weight of a day: trend,
-- season from January to December, weekday from Monday to Sunday, and a random variation within 40 percent.
set variable calendar = (
    with weights as (
        select
            n as day_number,
            date '2023-01-01' + n::integer as day,
            (2000 + n)
            * [94, 92, 98, 100, 98, 88, 76, 78, 100, 108, 132, 146][month(day)]
            * [106, 108, 110, 114, 122, 80, 36][isodow(day)]
            * (60 + drawn(n, getvariable('sale_seed')) % 81) as weight
        from range(731) as days (n)
    ),

    ends as (
        select day_number, (sum(weight) over (order by day_number))::bigint as until
        from weights
    ),

    slots as (
        select slot, slot * total // 20_000 as place
        from range(20_000) as slots (slot)
        cross join (select max(until) as total from ends)
    )

    select list(ends.day_number order by slots.slot)
    from slots
    asof inner join ends on slots.place < ends.until
);

-- Lists to draw from: each value as often as its share.
set variable signup_days = (select list(signup_date - date '2023-01-01' order by base) from base_customer);
set variable buyers = (
    select list(base + 1 order by base) from (select base, unnest(range(share)) from base_customer)
);
set variable founders = (
    select list(base + 1 order by base)
    from (select base, unnest(range(share)) from base_customer where signup_date <= date '2023-01-01')
);
set variable articles = (
    select list(base + 1 order by base) from (select base, unnest(range(share)) from base_product)
);
set variable most_units = (select list(most_units order by base) from base_product);
set variable list_cents = (select list((100 * list_price)::bigint order by product_id) from dim_product);
set variable prices = (
    select repeat([100], 94) || repeat([96], 1) || repeat([97], 2) || repeat([98], 2) || repeat([103], 1)
);
set variable discounts = (
    select repeat(['0'], 87) || repeat(['0.05'], 5) || repeat(['0.1'], 4) || repeat(['0.15'], 2)
    || repeat(['0.2'], 2)
);

-- Each row depends only on its own number, so any number of threads writes the same file.
create temp view fact_sales as
with drawn_base as (
    select
        n,
        getvariable('calendar')[1 + n * 20_000 // getvariable('sales')] as day,
        getvariable('buyers')[1 + chance(n, 0) % len(getvariable('buyers'))] as usual_buyer,
        getvariable('founders')[1 + chance(n, 0) % len(getvariable('founders'))] as founder,
        getvariable('articles')[1 + chance(n, 1) % len(getvariable('articles'))] as article
    from range(getvariable('sales')) as numbers (n)
),

drawn_rows as (
    select
        n,
        day,
        -- a customer cannot buy before its signup, so one of the first customers buys instead
        if(day < getvariable('signup_days')[usual_buyer], founder, usual_buyer) as buyer,
        article + 12 * skewed(n, 2, (getvariable('products') - article) // 12 + 1) as product,
        1 + skewed(n, 6, getvariable('most_units')[article]) as units
    from drawn_base
)

select
    id('S', n + 1, 6, getvariable('sales')) as sale_id,
    date '2023-01-01' + day::integer as sale_date,
    case
        when chance(n, 8) % 50 > 0 then id(
            'C',
            buyer + 24 * skewed(n, 4, (getvariable('customers') - buyer) // 24 + 1),
            3,
            getvariable('customers')
        )
    end as customer_id,
    id('P', product, 2, getvariable('products')) as product_id,
    case when chance(n, 9) % 50 = 0 then -((units + 3) // 4) else units end as quantity,
    (
        getvariable('list_cents')[product] * getvariable('prices')[1 + chance(n, 10) % 100] // 100
    )::decimal(12, 0) * 0.01 as unit_price,
    getvariable('discounts')[1 + chance(n, 11) % 100] as discount
from drawn_rows;

-- The stock of each product at each month end. An order covers half a month to four and a half months of
-- sales, and comes when less than a quarter of a month's sales is left.
create temp view fact_inventory as
with months as (
    select product_id, last_day(sale_date) as month_end, sum(quantity)::bigint as units
    from fact_sales
    group by all
),

sold as (
    select
        product_id,
        month_end,
        sum(coalesce(units, 0)) over (partition by product_id order by month_end) as units_so_far,
        greatest(sum(units) over products, 0) // count(*) over products + 1 as usual_units,
        dense_rank() over (order by product_id) - 1 as product_number
    from (select distinct month_end from months)
    cross join (select distinct product_id from months)
    left join months using (product_id, month_end)
    window products as (partition by product_id)
),

orders as (
    select
        *,
        usual_units // 4 as least,
        greatest(
            usual_units // 2 + drawn(product_number, getvariable('stock_seed')) % (4 * usual_units), 1
        ) as ordered
    from sold
)

select
    product_id,
    month_end,
    (least + ordered - units_so_far + ordered * max(
        (greatest(units_so_far - ordered, 0) + ordered - 1) // ordered
    ) over (partition by product_id order by month_end))::bigint as units_on_hand
from orders
order by product_id, month_end;
