"""Whatever a file holds and however it is mapped, each line is loaded, in quarantine or left out."""

import csv
import io
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from conftest import sql_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mart_helpers.loading import Loader
from mart_helpers.mart import create_candidate
from mart_helpers.raw import RawFiles
from mart_helpers.session import Session
from mart_helpers.texts import quoted

DAY_STYLES = ("%d.%m.%Y", "%m/%d/%Y", "%Y%m%d", "%d %b %y")
UNREADABLE = st.sampled_from(
    ["?", "31.02.2024", "1,2,3", "1.2.3", "12:00", "-", "1e3", "NaN", "²", "5 x"]
)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
CUSTOMERS = "customer_id,customer_name,segment,city,country,signup_date\nC1,One,,,,\nC2,Two,,,,\n"
PRODUCTS = "product_id,product_name,category,unit_cost,list_price\nP1,Pen,Desk,1,2\n"

Line = tuple[list[str], tuple | str | None]


def as_number(amount: Decimal, sign: str) -> str:
    grouped = f"{amount:,.2f}"
    return grouped.translate({ord(","): ".", ord("."): ","}) if sign == "," else grouped


@st.composite
def lines(draw: st.DrawFn, style: str, sign: str, number: int) -> Line:
    """The fields of a line, and what becomes of it: the row that is loaded, "bad", or None."""
    day = date(2024, 1, 1) + timedelta(days=draw(st.integers(0, 700)))
    price = Decimal(draw(st.integers(0, 10**8))) / 100
    customer = draw(st.sampled_from(["C1", "C2", "", "C9"]))
    quantity = draw(st.integers(-99, 9999))
    share = draw(st.integers(0, 1000))
    note = draw(st.text(st.sampled_from('ab ";\n'), max_size=6))
    kind = draw(st.sampled_from(["sale", "sale", "sale", "total"]))
    fields = [
        f"A{number}",
        kind,
        day.strftime(style),
        customer,
        str(quantity),
        as_number(price, sign),
        note,
        f"{as_number(Decimal(share) / 10, sign)} %" if share else "",
    ]
    row = (f"A{number}-{kind}", day, customer or None, quantity, price, Decimal(share) / 1000)
    spoilt = draw(st.sampled_from([None, None, None, None, 2, 4, 5, 7]))
    if spoilt:
        fields[spoilt] = draw(UNREADABLE)
    if kind == "total":
        return fields, None
    return fields, "bad" if spoilt or customer == "C9" else row


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, list[Line]]:
    """A mapping, the header of its file, and the lines."""
    style, sign = draw(st.sampled_from(DAY_STYLES)), draw(st.sampled_from(",."))
    names = draw(st.lists(NAMES, min_size=8, max_size=8, unique_by=str.lower))
    number, kind, day, customer, quantity, price, _, share = map(quoted, names)
    outputs = f"""
        {number} || '-' || {kind} as sale_id, date_from({day}, '{style}') as sale_date,
        {customer} as customer_id, 'P1' as product_id, {quantity} as quantity,
        number_from({price}, '{sign}') as unit_price, percent_from({share}, '{sign}') as discount
    """
    shape = draw(st.sampled_from(["plain", "distinct", "steps", "window"]))
    source = "source.orders"
    if shape == "steps":
        source = "(select * from source.orders)"
    if shape == "window":
        source = "(select *, row_number() over (order by line desc) as n from source.orders)"
    sql = (
        f"select {'distinct' if shape == 'distinct' else ''} "
        f"{'line, ' if source != 'source.orders' else ''}{outputs} from {source} where {kind} <> 'total'"
    )
    count = draw(st.integers(1, 30))
    text = io.StringIO()
    csv.writer(text, delimiter=";", lineterminator="\n").writerow(names)
    return sql, text.getvalue(), [draw(lines(style, sign, number)) for number in range(count)]


@pytest.fixture(scope="module")
def loaded_dimensions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Path]:
    folder = tmp_path_factory.mktemp("mapped")
    (folder / "dim_customer.csv").write_text(CUSTOMERS)
    (folder / "dim_product.csv").write_text(PRODUCTS)
    session = create_candidate(folder / "mart.duckdb")
    for sql in sql_of(
        "01_build", "create schema contract", "create table contract.", "create macro date_from"
    ):
        session.execute(sql, shows=False)
    session.raw_files = RawFiles(session, folder)
    loader = Loader(session, folder, 1.0)
    loader.load("dim_customer", from_seed=False)
    loader.load("dim_product", from_seed=False)
    yield session, folder
    session.close()


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(files())
def test_each_line_is_loaded_quarantined_or_left_out(loaded_dimensions, file):
    session, folder = loaded_dimensions
    sql, header, expected = file
    text, places = io.StringIO(header), []
    text.seek(0, io.SEEK_END)
    writer = csv.writer(text, delimiter=";", lineterminator="\n")
    for fields, _ in expected:
        places.append(1 + text.getvalue().count("\n"))
        writer.writerow(fields)
    (folder / "orders.csv").write_text(text.getvalue(), "utf-8", newline="")
    if all(fate is None or fate == "bad" for _, fate in expected):
        return  # a table without a good row is refused
    ask = session.connection.execute
    session.execute(f"create or replace view mapping.fact_sales as {sql}")
    Loader(session, folder, 1.0).load("fact_sales", from_seed=False)
    columns = "sale_id, sale_date, customer_id, quantity, unit_price, discount"
    staged = ask(f"select {columns} from staging.fact_sales")
    assert staged.fetchall() == [fate for _, fate in expected if isinstance(fate, tuple)]
    bad = {place for place, (_, fate) in zip(places, expected, strict=True) if fate == "bad"}
    found = ask("select line from quarantine where table_name = 'fact_sales'").fetchall()
    assert {line for (line,) in found} == bad
    counts = ask(
        "select rows_read, rows_loaded, rows_quarantined, rows_left_out from build_inputs "
        "where table_name = 'fact_sales'"
    ).fetchone()
    left_out = sum(fate is None for _, fate in expected)
    assert counts == (len(expected), len(expected) - len(bad) - left_out, len(bad), left_out)
