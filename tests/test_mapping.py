from datetime import datetime
from pathlib import Path

import pytest
import xlsxwriter
from conftest import load, sql_of
from golden import assert_as_kept

from mart_helpers.errors import InputError, QueryError, StateError
from mart_helpers.raw import RawFiles
from mart_helpers.session import Session
from mart_helpers.trace import origins

CUSTOMERS = "Kd-Nr;Name\nC1;One\nC2;Two\n"
PRODUCTS = "product_id,product_name,category,unit_cost,list_price\nP1,Pen,Desk,1,2\nP2,Pad,Desk,2,3.5\n"
HEADER = "Auftrag;Pos;Datum;Kunde;Artikel;Menge;Preis;Rabatt\n"
GOOD = "A1;1;31.12.2024;C1;P1;2;1.234,50;7,5 %\n"
CUSTOMERS_MAPPED = """
create view mapping.dim_customer as
select
    "Kd-Nr" as customer_id, "Name" as customer_name, null as segment, null as city, null as country,
    null as signup_date
from source.kunden
"""
COLUMNS = """
    "Auftrag" || '-' || "Pos" as sale_id,
    date_from("Datum", '%d.%m.%Y') as sale_date,
    "Kunde" as customer_id,
    "Artikel" as product_id,
    "Menge" as quantity,
    number_from("Preis", ',') as unit_price,
    percent_from("Rabatt", ',') as discount
"""
SALES_MAPPED = f"create view mapping.fact_sales as select {COLUMNS} from source.orders"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "kunden.csv").write_text(CUSTOMERS)
    (folder / "dim_product.csv").write_text(PRODUCTS)
    return folder


@pytest.fixture
def mapped(candidate: Session, inputs: Path) -> Session:
    """A candidate that reads `inputs`, with the readers of 01_build and a mapping of customers."""
    candidate.raw_files = RawFiles(candidate, inputs)
    for sql in [*sql_of("01_build", "create macro date_from"), CUSTOMERS_MAPPED]:
        candidate.execute(sql)
    return candidate


def load_sales(mapped: Session, inputs: Path, rows: str, mapping: str = SALES_MAPPED) -> None:
    (inputs / "orders.csv").write_text(HEADER + rows)
    mapped.execute("drop view if exists mapping.fact_sales; drop view if exists mapping.fact_sale")
    mapped.execute(mapping)
    load(mapped, inputs)


def staged(mapped: Session, columns: str = "sale_id") -> list[tuple]:
    return mapped.connection.execute(f"select {columns} from staging.fact_sales").fetchall()


def quarantined(mapped: Session, columns: str = "line, column_name, value, reason") -> list[tuple]:
    return mapped.connection.execute(f"select {columns} from quarantine order by all").fetchall()


def counts(mapped: Session, table: str = "fact_sales") -> tuple[int, int, int, int]:
    """Rows read, loaded, quarantined and left out."""
    return mapped.connection.execute(
        "select rows_read, rows_loaded, rows_quarantined, rows_left_out from build_inputs "
        "where table_name = ?",
        [table],
    ).fetchone()


def mapped_with(old: str, new: str) -> str:
    """The mapping of sales with one expression in place of another."""
    assert old in SALES_MAPPED
    return SALES_MAPPED.replace(old, new, 1)


DAY, PRICE = """date_from("Datum", '%d.%m.%Y')""", """number_from("Preis", ',')"""
SHARE = """percent_from("Rabatt", ',')"""
EITHER = mapped_with(DAY, f"""coalesce({DAY}, date_from("Datum", '%Y-%m-%d'))""")
MAPPINGS = [  # what is to be seen, the lines below a good one, the mapping
    ("columns are renamed, read and joined", "", SALES_MAPPED),
    ("a day that is none", "A2;1;31.02.2024;C1;P1;2;1,50;0 %", SALES_MAPPED),
    ("a number written in another way", "A2;1;31.12.2024;C1;P1;2;1,234.50;0 %", SALES_MAPPED),
    ("a value that the contract refuses", "A2;1;31.12.2024;C1;P1;2,5;1,50;0 %", SALES_MAPPED),
    ("an orphan", "A2;1;31.12.2024;C1;P9;2;1,50;0 %", SALES_MAPPED),
    ("too few fields", "A2;1;31.12.2024;C1;P1;2;1,50", SALES_MAPPED),
    ("each unreadable value is told", "A2;1;gestern;C1;P1;viel;teuer;0 %", SALES_MAPPED),
    ("an unreadable value of an optional column is not an empty one",
        "A2;1;31.12.2024;C1;P1;2;1,50;halb\nA3;1;31.12.2024;C1;P1;2;1,50;", SALES_MAPPED),
    ("nor is one with a default", "A2;1;31.12.2024;C1;P1;2;1,50;\nA3;1;31.12.2024;C1;P1;2;1,50;halb",
        mapped_with(SHARE, f"coalesce({SHARE}, 0)")),
    *((f"{cast}: a cast that fails is a bad row", "A2;1;31.12.2024;C1;P1;zwei;1,50;0 %",
        mapped_with('"Menge"', cast)) for cast in ('"Menge"::integer', 'try_cast("Menge" as integer)',
        'round("Menge"::double * 2)::integer')),
    ("only the branch that is looked at can fail",
        "A2;2;2024-12-31;C1;P1;2;frei;\nA3;1;31/12/2024;C1;P1;2;frei;",
        EITHER.replace(PRICE, f"""case when "Pos" = '2' then '0' else {PRICE} end""")),
    ("where leaves lines out", "Summe;;;\n\nSumme;;;;;;17;",
        f"""{SALES_MAPPED} where "Auftrag" <> 'Summe'"""),
    ("a line that where cannot judge is bad",
        "A2;1;01.01.2020;C1;P1;2;1,50;0 %\nA3;1;??;C1;P1;2;1,50;0 %",
        f"{SALES_MAPPED} where {DAY} >= '2024-01-01'"),
    ("an equal repeat of a fact is bad", GOOD.strip(), SALES_MAPPED),
    ("unless it is left out by distinct", GOOD.strip(), mapped_with("select", "select distinct")),
]  # fmt: skip


def test_what_a_mapping_loads_and_sets_aside_is_as_it_was_written_down(mapped, inputs):
    """In golden/mapping.txt, which KEEP=1 writes anew."""
    told = []
    for words, rows, mapping in MAPPINGS:
        load_sales(mapped, inputs, f"{GOOD}{rows}\n" if rows else GOOD, mapping)
        told += [f"=== {words}", *rows.splitlines(), ""]
        told += ["read {}, loaded {}, set aside {}, left out {}".format(*counts(mapped))]
        told += [", ".join(map(str, row)) for row in staged(mapped, "*")]
        told += [f"line {line}: {reason}" for line, _, _, reason in quarantined(mapped)]
        told += [f"as in {file}: {raw}" for file, raw in quarantined(mapped, "distinct file, raw_row")]
        told += [""]
    assert_as_kept("mapping.txt", "\n".join(told))


def test_one_flat_file_feeds_several_tables(mapped, inputs):
    rows = GOOD + GOOD.replace("A1", "A2")
    (inputs / "orders.csv").write_text(HEADER + rows)
    mapped.execute(
        "drop view mapping.dim_customer; create view mapping.dim_customer as "
        'select "Kunde" as customer_id, null as customer_name, null as segment, null as city, '
        "null as country, null as signup_date from source.orders"
    )
    load_sales(mapped, inputs, rows)
    assert counts(mapped, "dim_customer") == (2, 1, 0, 1)
    assert counts(mapped) == (2, 2, 0, 0)


def test_a_key_with_other_values_is_a_conflict_that_names_both_lines(mapped, inputs):
    (inputs / "kunden.csv").write_text(f"{CUSTOMERS}C1;One\nC1;Uno\nC1;Uno\n")
    load_sales(mapped, inputs, GOOD)
    assert counts(mapped, "dim_customer") == (5, 2, 1, 2)
    assert quarantined(mapped, "line, reason") == [
        (5, 'customer_id "C1" has another customer_name than that of line 2')
    ]


def test_order_fields_on_the_first_line_only_are_filled_down(mapped, inputs):
    mapping = f"""
        create view mapping.fact_sales as
        with filled as (
            select
                * replace (
                    last_value("Auftrag" ignore nulls) over (order by line) as "Auftrag",
                    last_value("Datum" ignore nulls) over (order by line) as "Datum"
                )
            from source.orders
        )
        select line, {COLUMNS} from filled
    """
    load_sales(mapped, inputs, GOOD + ";2;;C1;P2;1;3,50;\nA2;1;nie;C1;P2;1;3,50;\n", mapping)
    assert staged(mapped) == [("A1-1",), ("A1-2",)]
    assert quarantined(mapped, "line, value") == [(4, "nie")]


def test_lines_are_physical_ones_behind_line_ends_in_quotes_and_unreadable_records(mapped, inputs):
    rows = (
        b'"A1";1;31.12.2024;C1;P1;2;"1,50";0 %\n"A\n2";1;31.12.2024;C1;P1;2;1,50;0 %\n\n'
        b"\xff;1;31.12.2024;C1;P1;2;1,50;0 %\nA4;1;31.02.2024;C1;P1;2;1,50;0 %\n"
        + "Ä5;1;31.12.2024;C1;P1;2;1,50;0 %\n".encode()
    )
    (inputs / "orders.csv").write_bytes(HEADER.encode() + rows)
    mapped.execute(SALES_MAPPED)
    lines = mapped.connection.execute('select line, "Auftrag" from source.orders').fetchall()
    assert lines == [(2, "A1"), (3, "A\n2"), (7, "A4"), (8, "Ä5")]
    load(mapped, inputs)
    assert quarantined(mapped, "line, column_name") == [(6, None), (7, "Datum")]
    assert counts(mapped) == (5, 3, 2, 0)


def test_a_folder_is_one_source_whose_rows_keep_their_file(mapped, inputs):
    (inputs / "orders").mkdir()
    (inputs / "orders" / "01.csv").write_text(HEADER + GOOD)
    (inputs / "orders" / "02.csv").write_text(
        "Pos;Auftrag;Datum;Kunde;Artikel;Menge;Preis\n1;A2;nie;C1;P1;1;2,00\n1;A3;31.12.2024;C1;P1;1;2,00\n"
    )
    mapped.execute(SALES_MAPPED)
    load(mapped, inputs)
    assert staged(mapped) == [("A1-1",), ("A3-1",)]
    assert quarantined(mapped, "file, line") == [("orders/02.csv", 2)]
    found = mapped.connection.execute('select file, line, "Rabatt" from source.orders').fetchall()
    assert found[0] == ("orders/01.csv", 2, "7,5 %")
    assert found[2] == ("orders/02.csv", 3, None)


def test_the_origin_of_a_built_key_is_found_again(mapped, inputs):
    load_sales(mapped, inputs, GOOD + GOOD.replace("A1", "A2"))
    assert origins(mapped.connection, "fact_sales", [("A2-1",)], inputs) == {
        ("A2-1",): ("orders.csv", 3)
    }


def test_what_is_no_mapping_is_refused_with_a_sentence(mapped, inputs, subtests):
    for mapping, message in [
        (
            SALES_MAPPED.replace("fact_sales", "fact_sale"),
            "not named after a declared table. Did you mean fact_sales",
        ),
        (
            SALES_MAPPED.replace("as quantity", "as quantitty"),
            "gives quantitty, which contract.fact_sales",
        ),
        (SALES_MAPPED.replace('"Menge" as quantity,', ""), "gives no quantity. Add it"),
        (f"{SALES_MAPPED} group by all", "groups rows"),
        (f"{SALES_MAPPED} limit 3", "has a limit"),
        (
            f"{SALES_MAPPED} union all select {COLUMNS} from source.orders",
            "puts several selects together",
        ),
        (
            f"create view mapping.fact_sales as select {COLUMNS} from (from source.orders)",
            "gives no line",
        ),
        (
            f"create view mapping.fact_sales as select o.line, {COLUMNS} from source.orders as o "
            "inner join (values (1), (2)) as twice on true",
            "makes two rows from orders.csv line 2",
        ),
        (
            "create view mapping.fact_sales as with steps as (select * replace "
            f'(number_from("Preis", \',\') as "Preis") from source.orders) '
            f"select line, {COLUMNS} from steps",
            "Move it to the columns",
        ),
    ]:
        with subtests.test(message), pytest.raises(StateError, match=message):
            load_sales(mapped, inputs, GOOD, mapping)


def test_a_source_that_is_not_there_is_named(mapped):
    with pytest.raises(InputError, match="holds no bestellungen"):
        mapped.execute("from source.bestellungen")


def test_a_column_that_is_not_there_is_named(mapped, inputs):
    with pytest.raises(QueryError, match="Bestellung"):
        load_sales(mapped, inputs, GOOD, SALES_MAPPED.replace('"Auftrag"', '"Bestellung"'))


def test_a_file_that_no_statement_names_is_not_read(mapped, inputs):
    (inputs / "notes.csv").write_bytes(b"\0")
    load_sales(mapped, inputs, GOOD)
    assert counts(mapped) == (1, 1, 0, 0)


def test_a_sheet_is_mapped_as_a_file_is(mapped, inputs):
    with xlsxwriter.Workbook(inputs / "accounting.xlsx") as book:
        day = book.add_format({"num_format": "dd.mm.yyyy"})
        sheet = book.add_worksheet("Aufträge")
        sheet.write_row(0, 0, HEADER.strip().split(";"))
        sheet.write_row(1, 0, ["A1", 1, "", "C1", "P1", 2, 1234.5, 0.075])
        sheet.write_datetime(1, 2, datetime(2024, 12, 31), day)
        sheet.write_row(2, 0, ["A2", 1, "31.02.2024", "C1", "P1", 2, "1.234,50", 0])
        sheet.write_row(4, 0, ["Summe", "", "", "", "", 4])
        book.add_worksheet("Notizen")
    mapped.execute("""
        create view mapping.fact_sales as
        select
            "Auftrag" || '-' || "Pos" as sale_id, date_from("Datum", '%Y-%m-%d') as sale_date,
            "Kunde" as customer_id, "Artikel" as product_id, "Menge" as quantity,
            number_from("Preis", '.') as unit_price, "Rabatt" as discount
        from source."Aufträge" where "Auftrag" <> 'Summe'
    """)
    load(mapped, inputs)
    assert staged(mapped, "sale_id, sale_date::varchar") == [("A1-1", "2024-12-31")]
    assert counts(mapped) == (3, 1, 1, 1)
    assert quarantined(mapped, "file, line, reason") == [
        (
            "accounting.xlsx, sheet Aufträge",
            3,
            'Datum "31.02.2024" is not a date written as %Y-%m-%d (cell C3)',
        ),
        (
            "accounting.xlsx, sheet Aufträge",
            3,
            'Preis "1.234,50" is not a number with the decimal sign . (cell G3)',
        ),
    ]


def test_a_file_in_which_values_are_looked_up_is_in_the_books(mapped, inputs):
    (inputs / "prices.csv").write_text("Nr;Wert\nP1;4,00\n")
    mapping = SALES_MAPPED.replace('"Preis"', 'prices."Wert"').replace(
        "from source.orders",
        'from source.orders as orders inner join source.prices on orders."Artikel" = prices."Nr"',
    )
    load_sales(mapped, inputs, GOOD, mapping.replace("select", "select orders.line,", 1))
    assert staged(mapped, "unit_price::varchar") == [("4.0000",)]
    books = (
        "select file, bytes, rows_read, rows_loaded from build_inputs where table_name = 'fact_sales'"
    )
    assert sorted(mapped.connection.execute(books).fetchall()) == [
        ("orders.csv", len(HEADER + GOOD), 1, 1),
        ("prices.csv", 16, 0, 0),
    ]
