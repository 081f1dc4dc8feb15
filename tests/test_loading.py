import os
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from time import process_time

import duckdb
import pytest
from conftest import SALES_HEADER, load, sql_of

from mart_helpers import staging
from mart_helpers.checks import run_checks
from mart_helpers.derived import derive_checks
from mart_helpers.errors import InputError, StateError, UsageError
from mart_helpers.loading import Loader
from mart_helpers.session import Session

CUSTOMERS = (
    "customer_id,customer_name,segment,city,country,signup_date\nC1,One,,,,2023-01-01\nC2,Two,,,,\n"
)
PRODUCTS = "product_id,product_name,category,unit_cost,list_price\nP1,Pen,Desk,1,2\nP2,Pad,Desk,2,3.5\n"
GOOD_SALE = "2024-01-01,C1,P1,1,2.00,0"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "dim_customer.csv").write_text(CUSTOMERS)
    (folder / "dim_product.csv").write_text(PRODUCTS)
    return folder


def load_sales(candidate: Session, inputs: Path, text: str, share: float = 1.0) -> None:
    (inputs / "fact_sales.csv").write_text(text)
    load(candidate, inputs, share=share)


def rows_of(candidate: Session, sql: str) -> list[tuple]:
    return candidate.connection.execute(sql).fetchall()


def sales(*rows: str, header: str = SALES_HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def staged(candidate: Session, columns: str = "sale_id") -> list:
    rows = rows_of(candidate, f"select {columns} from staging.fact_sales")
    return [row[0] if len(row) == 1 else row for row in rows]


def quarantined(candidate: Session, columns: str = "line, column_name, value") -> list[tuple]:
    return rows_of(candidate, f"select {columns} from quarantine where table_name = 'fact_sales'")


def counts(candidate: Session) -> tuple[int, int, int]:
    return candidate.connection.execute(
        "select rows_read, rows_loaded, rows_quarantined from build_inputs "
        "where table_name = 'fact_sales'"
    ).fetchone()


def test_good_rows_are_staged_in_file_order_with_their_types(candidate, inputs):
    load_sales(candidate, inputs, sales("S2,2024-01-02,C1,P1,-3,2.5,0.25", f"S1,{GOOD_SALE}"))
    assert staged(candidate, "sale_id, sale_date::varchar, quantity, unit_price::varchar") == [
        ("S2", "2024-01-02", -3, "2.5000"),
        ("S1", "2024-01-01", 1, "2.0000"),
    ]
    assert counts(candidate) == (2, 2, 0)


PLAIN = [
    ("sale_date", "2024-01-05 23:59:59.5", "2024-01-05"),
    ("sale_date", "2024-01-05T08:30", "2024-01-05"),
    ("sale_date", " 2024-01-05 ", "2024-01-05"),
    ("quantity", "12.0", "12"),
    ("quantity", "-9223372036854775807", "-9223372036854775807"),
    ("quantity", "+7", "7"),
    ("unit_price", "1.50000000", "1.5000"),
    ("unit_price", ".5", "0.5000"),
    ("unit_price", "0.0001", "0.0001"),
    ("discount", "0.123456", "0.123456"),
    ("discount", "", "0.000000"),
    ("discount", "  ", "0.000000"),
    ("customer_id", "", None),
    ("customer_id", "   ", None),
    ("sale_id", " 007 ", "007"),
    ("sale_id", "1e3", "1e3"),
]


def test_values_that_are_plain_are_loaded_as_they_are(candidate, inputs):
    names = SALES_HEADER.split(",")
    good = dict(zip(names, ["", *GOOD_SALE.split(",")], strict=True)) | {"unit_price": "0"}
    rows = [good | {"sale_id": f"S{n}", column: value} for n, (column, value, _) in enumerate(PLAIN)]
    load_sales(candidate, inputs, sales(*(",".join(row.values()) for row in rows)))
    loaded = staged(candidate, ", ".join(f"{name}::varchar" for name in names))
    found = [row[names.index(column)] for row, (column, _, _) in zip(loaded, PLAIN, strict=True)]
    assert found == [value for _, _, value in PLAIN]


def test_white_space_around_an_id_does_not_count_and_alone_it_is_none(candidate, inputs):
    blanks, sale = (" ", "\r\n", "\u3000"), '"S{}{}",2024-01-01,"{}","{}P1",1,2.00,0'
    rows = [sale.format(n, blank, f"{blank}C1{blank}", blank) for n, blank in enumerate(blanks)]
    rows += [sale.format(n, blank, blank, blank) for n, blank in enumerate(blanks, 3)]
    load_sales(candidate, inputs, sales(*rows))
    found = staged(candidate, "sale_id, customer_id, product_id")
    assert found == [(f"S{n}", "C1" if n < 3 else None, "P1") for n in range(6)]


def test_ids_that_look_like_numbers_or_differ_in_case_stay_apart(candidate, inputs):
    ids = ["7", "007", "7.0", "a", "A", "1e3", "1000"]
    load_sales(candidate, inputs, sales(*(f"{name},{GOOD_SALE}" for name in ids)))
    assert staged(candidate) == ids


def test_of_keys_in_any_order_the_first_good_row_stays(candidate, inputs):
    for keys in ("AAABBC", "ABACAB", "BAABCA", "BCAABA", "CBAABA", "CABABA"):
        quantities = ["one", *map(str, range(1, len(keys)))]  # the first row is bad, and uses up no key
        rows = [f"{key},2024-01-01,C1,P1,{n},2,0" for key, n in zip(keys, quantities, strict=True)]
        load_sales(candidate, inputs, sales(*rows))
        good = dict(reversed(list(zip(keys, range(len(keys)), strict=True))[1:]))
        first = sorted(good.items(), key=lambda item: item[1])
        assert staged(candidate, "sale_id, quantity") == first, keys


BAD_ROWS = {
    "S2,2024-01-01,C3,P1,1,2,0": 'customer_id "C3" is not in dim_customer: its row, dim_customer.csv '
    'line 4, is in quarantine: signup_date "never" is not a date (yyyy-mm-dd)',
    "S3,2024-01-01,C1\u200b,P1,1,2,0": 'customer_id "C1\u200b" is not in dim_customer (it holds the '
    "invisible character U+200B)",
    "S4,2024-03-04T10:00:00Z,C1,P1,1,2,0": 'sale_date "2024-03-04T10:00:00Z" has a time zone, so its '
    "day is ambiguous: give a date (yyyy-mm-dd)",
    "S5,2024-03-04 10:00+01,C1,P1,1,2,0": 'sale_date "2024-03-04 10:00+01" has a time zone, so its '
    "day is ambiguous: give a date (yyyy-mm-dd)",
    "S6,2024-01-01": "the row has fewer fields than the header",
    f"S7,{GOOD_SALE},x,y": "the row has more fields than the header",
}


def test_a_bad_row_stands_in_quarantine_with_its_line_its_reason_and_its_text(candidate, inputs):
    (inputs / "dim_customer.csv").write_text(CUSTOMERS + "C3,Three,,,,never\n")
    load_sales(candidate, inputs, sales(f"S1,{GOOD_SALE}", *BAD_ROWS))
    assert staged(candidate) == ["S1"]
    assert [line for (line,) in quarantined(candidate, "line")] == [*range(3, 9)]
    assert dict(quarantined(candidate, "raw_row, reason")) == BAD_ROWS
    assert counts(candidate) == (7, 1, 6)
    with pytest.raises(InputError, match=r"its row, dim_customer\.csv line 4, is in quarantine: signup"):
        load_sales(candidate, inputs, sales(next(iter(BAD_ROWS))))


def test_a_file_of_which_most_is_bad_is_refused_among_many_good_ones(candidate, inputs):
    (inputs / "fact_sales").mkdir()
    for month in range(1, 31):
        rows = [f"S{min(month, 29)}-{number},{GOOD_SALE}" for number in range(20)]
        (inputs / "fact_sales" / f"{month:02}.csv").write_text(sales(*rows))
    with pytest.raises(
        InputError, match=r"fact_sales/30.csv: none of its 20 rows is good(.|\n)*of line 2"
    ):
        load(candidate, inputs, share=0.1)


def test_three_years_of_daily_files_load_in_seconds_each_with_its_own_account(candidate, inputs):
    (inputs / "fact_sales").mkdir()
    for number in range(1095):
        day = date(2022, 1, 1) + timedelta(number)
        rows = [f"S{number}-{line},{day},C1,P1,1,2.00,0" for line in range(1 + number % 3)]
        if number == 1000:
            rows.append("S,soon,C1,P1,1,2,0")
        (inputs / "fact_sales" / f"{day}.csv").write_text(sales(*rows))
    began = process_time()
    load(candidate, inputs, share=0.1)
    assert process_time() - began < 6  # 12 one by one, 1 together
    books = rows_of(
        candidate,
        "select rows_loaded, rows_quarantined from build_inputs "
        "where table_name = 'fact_sales' order by file",
    )
    assert books == [(1 + number % 3, int(number == 1000)) for number in range(1095)]
    assert quarantined(candidate, "file, line") == [("fact_sales/2024-09-27.csv", 4)]


def test_columns_may_come_in_any_order_and_case_and_unknown_ones_are_named(candidate, inputs):
    header = "Unit_Price, QUANTITY ,colour,product_id,customer_id,sale_date,SALE_ID"
    load_sales(candidate, inputs, sales("2.50,3,red,P1,C1,2024-01-01,S1", header=header))
    assert staged(candidate, "sale_id, quantity, unit_price::varchar, discount::varchar") == [
        ("S1", 3, "2.5000", "0.000000")
    ]
    ignored = candidate.connection.execute(
        "select ignored_columns from build_inputs where table_name = 'fact_sales'"
    )
    assert ignored.fetchone() == ("colour",)


def test_more_bad_rows_than_allowed_refuse_the_file_and_say_which_are_commonest(candidate, inputs):
    rows = [f"S{number},{GOOD_SALE}" for number in (1, 2, 1, 2, 2)]  # repeats are one reason
    rows += ["S2,soon,C1,P1,1,2,0"] * 2
    with pytest.raises(InputError) as refusal:
        load_sales(candidate, inputs, sales(*rows), share=0.5)
    assert "5 of its 7 rows are bad" in str(refusal.value)
    assert '3 rows, the first at line 4: sale_id "S1" repeats that of line 2' in str(refusal.value)
    assert '2 rows, the first at line 7: sale_date "soon" is not a date' in str(refusal.value)


def test_a_share_of_bad_rows_outside_0_to_1_is_refused(candidate, inputs):
    for share in (-0.1, 10):
        with pytest.raises(UsageError, match="expected a share from 0 to 1"):
            Loader(candidate, inputs, share)


def test_sales_cannot_be_loaded_before_the_tables_they_refer_to(candidate, inputs):
    (inputs / "fact_sales.csv").write_text(sales(f"S1,{GOOD_SALE}"))
    with pytest.raises(StateError, match="Load dim_customer before fact_sales"):
        Loader(candidate, inputs, 0.1).load("fact_sales", from_seed=False)


@pytest.fixture
def seeded(candidate: Session, inputs: Path) -> Callable[[str, str], None]:
    """Loads the sales of the seed rows of 01_build with one text replaced by another."""

    def load(old: str, new: str) -> None:
        for cell in sql_of("01_build", "create table seed."):
            candidate.connection.execute(cell.replace(old, new))
        for table in ("dim_customer", "dim_product", "fact_sales"):
            Loader(candidate, inputs, 0.5).load(table, from_seed=True)

    return load


def test_a_seed_row_of_the_wrong_type_is_in_quarantine_with_its_place_in_the_cell(candidate, seeded):
    seeded("'P08', '2',", "'P08', 'two',")
    found = rows_of(candidate, "select file, line, reason from quarantine")
    assert found == [("seed rows", 2, 'quantity "two" is not a whole number (bigint)')]


def test_seed_rows_that_are_too_bad_are_to_be_mended_in_their_cell_not_in_a_file(seeded):
    with pytest.raises(InputError) as error:
        seeded("'2024-", "'2O24-")
    assert "Correct the rows in the cell of 01_build that makes seed.fact_sales." in str(error.value)
    assert "Correct the file" not in str(error.value)


def test_a_column_added_to_the_contract_needs_no_other_change(candidate, inputs):
    candidate.connection.execute(
        "create table contract.dim_store (store_id varchar primary key, opened date not null, "
        "floor_area decimal(9, 1) check (floor_area > 0))"
    )
    (inputs / "dim_store.csv").write_text("store_id,opened,floor_area\nA,2020-01-01,10.5\nB,,-1\n")
    load(candidate, inputs, "dim_store")
    rows = rows_of(candidate, "select column_name, reason from quarantine")
    assert rows == [
        ("opened", "opened is missing"),
        ("floor_area", 'floor_area "-1" breaks the rule floor_area > 0'),
    ]


def put_as(kind: str, folder: Path, *rows: str) -> None:
    """Dimensions, and sales as a file of the kind, in a new folder."""
    folder.mkdir(parents=True)
    (folder / "dim_customer.csv").write_text(CUSTOMERS)
    (folder / "dim_product.csv").write_text(PRODUCTS)
    path = folder.parents[1] / "fact_sales.csv"  # else duckdb would take the name for a value here
    path.write_text(sales(*rows))
    if kind == "parquet":
        made = duckdb.read_csv(str(path), all_varchar=True).project("""*, 'x' as "of 12"" width" """)
        made.write_parquet(str(path.with_suffix(".parquet")))
    shutil.move(path.with_suffix(f".{kind}"), folder / f"fact_sales.{kind}")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_name_of_a_folder_is_no_value_and_no_pattern(candidate, tmp_path, kind):
    put_as(kind, tmp_path / "drops" / "quantity=9", "S9,2024-01-01,C1,P1,9,2.00,0")
    for name in ("quantity=99", "customer_id=C2", "quantity=[9]", "quantity=*"):
        folder = tmp_path / "drops" / name
        put_as(kind, folder, f"S1,{GOOD_SALE}", "S2,2024-01-01,C9,P1,1,2.00,0")
        load(candidate, folder)
        assert staged(candidate, "sale_id, customer_id, quantity") == [("S1", "C1", 1)], name
        assert [column for _, column, _ in quarantined(candidate)] == ["customer_id"], name


def test_a_column_may_be_declared_in_capitals(candidate, inputs):
    candidate.connection.execute("alter table contract.dim_product add column Shelf varchar")
    (inputs / "dim_product.csv").write_text(
        "product_id,product_name,category,unit_cost,list_price,Shelf\nP1,,,,,A\n"
    )
    load(candidate, inputs, "dim_product")
    assert rows_of(candidate, "select shelf from staging.dim_product") == [("A",)]


def test_what_is_odd_late_in_a_large_file_is_told_from_its_good_rows(candidate, inputs):
    rows = [f'P{number},"Pen, {number}",,1,2' for number in range(200_000)]
    good = [(f"P{number}", f"Pen, {number}") for number in range(200_000)]
    for value in ('"two\rlines"', '"a" b', "\udce9", '"two\nlines"'):
        rows[190_000] = f"P190000,{value},,1,2"
        good[190_000:190_001] = [("P190000", value.strip('"'))] if "two" in value else []
        text = "\n".join([PRODUCTS.splitlines()[0], *rows])
        (inputs / "dim_product.csv").write_text(text, errors="surrogateescape")
        load(candidate, inputs, "dim_product")
        staged = rows_of(candidate, "select product_id, product_name from staging.dim_product")
        assert staged == good, value
        bad = rows_of(candidate, "select line from quarantine")
        assert bad == ([] if "two" in value else [(190_002,)]), value
        good[190_000:] = [(f"P{number}", f"Pen, {number}") for number in range(190_000, 200_000)]


def test_a_file_where_the_folder_of_extracts_should_be_is_refused_as_such(candidate, inputs):
    path = inputs / "dim_product.csv"
    with pytest.raises(
        InputError, match=r"dim_product.csv: is a file, not a folder. Name the folder of"
    ):
        Loader(candidate, path, 1.0).load("dim_product", from_seed=False)


def test_a_rule_is_asked_of_the_default_where_a_value_or_its_column_is_missing(candidate, inputs):
    candidate.connection.execute(
        "create table contract.dim_thing (thing_id varchar primary key, "
        "share decimal(9, 6) not null default 0.5, check (share is not null and share < 1))"
    )
    for text in ("thing_id\nT1\n", "thing_id,share\nT1,\n", "thing_id,share\nT1,  \n"):
        (inputs / "dim_thing.csv").write_text(text)
        load(candidate, inputs, "dim_thing")
        rows = rows_of(candidate, "select thing_id, share::varchar from staging.dim_thing")
        assert rows == [("T1", "0.500000")], text
        assert rows_of(candidate, "from quarantine") == [], text


def test_a_rule_that_missing_values_break_has_a_reason_too(candidate, inputs):
    candidate.connection.execute(
        "create table contract.dim_thing (thing_id varchar primary key, a varchar, b varchar, "
        "check (a is not null or b is not null))"
    )
    (inputs / "dim_thing.csv").write_text("thing_id,a,b\nT1,x,\nT2,,\n")
    load(candidate, inputs, "dim_thing")
    found = candidate.connection.execute("select line, value, reason from quarantine")
    ((line, value, reason),) = found.fetchall()
    assert (line, value) == (3, None)
    assert reason.startswith('a "" breaks the rule ')


def test_columns_may_have_names_that_sql_must_quote_and_names_that_loading_uses(candidate, inputs):
    names = ["order", "a b", 'say "hi"', "it's", "suspect", "row_fault", "text_order"]
    declared = ", ".join('"' + name.replace('"', '""') + '" date' for name in names)
    candidate.connection.execute(
        f'create table contract."Select" ("group" varchar primary key, {declared}, '
        'check ("order" is not null))'
    )
    header = ",".join('"' + name.replace('"', '""') + '"' for name in ["group", *names])
    days = ",".join(["2024-01-01"] * len(names))
    bad = ",".join(["2024-01-01", *["soon"] * (len(names) - 1)])
    (inputs / "Select.csv").write_text(f"{header}\nA,{days}\nB,{bad}\nA,{days}\n")
    load(candidate, inputs, "Select")
    assert rows_of(candidate, 'select count(*) from staging."Select"') == [(1,)]
    found = rows_of(candidate, "select line, column_name from quarantine")
    assert found == [*((3, name) for name in names[1:]), (4, "group")]


def test_fewer_than_twenty_bad_rows_pass_unless_they_are_more_than_half(candidate, inputs):
    bad = [f"B{number},soon,C1,P1,1,2,0" for number in range(20)]
    good = [f"S{number},{GOOD_SALE}" for number in range(19)]
    load_sales(candidate, inputs, sales(*good, *bad[:19]), share=0.1)
    assert counts(candidate) == (38, 19, 19)
    with pytest.raises(InputError, match="20 of its 39 rows are bad"):
        load_sales(candidate, inputs, sales(*good, *bad), share=0.1)
    with pytest.raises(InputError, match="2 of its 3 rows are bad"):
        load_sales(candidate, inputs, sales(*good[:1], *bad[:2]), share=0.1)


def test_one_bad_row_in_a_small_file_of_a_folder_does_not_refuse_the_table(candidate, inputs):
    (inputs / "fact_sales").mkdir()
    (inputs / "fact_sales" / "1.csv").write_text(
        sales(*(f"S{number},{GOOD_SALE}" for number in range(9)))
    )
    (inputs / "fact_sales" / "2.csv").write_text(sales("S10,soon,C1,P1,1,2,0"))
    load(candidate, inputs, share=0.1)
    assert len(staged(candidate)) == 9


@pytest.mark.parametrize("keeps_its_times", [True, False])
def test_a_file_that_is_overwritten_while_it_is_read_is_refused(
    candidate, inputs, monkeypatch, keeps_its_times
):
    path = inputs / "dim_product.csv"
    fill = staging.fill_staging

    def fill_and_overwrite(*arguments):
        added = fill(*arguments)
        other = path.with_name("other.csv")
        other.write_text(PRODUCTS.replace("Pen", "Pan"))
        if keeps_its_times:
            os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
            other.replace(path)
        else:
            path.write_text(other.read_text())
        return added

    monkeypatch.setattr(staging, "fill_staging", fill_and_overwrite)
    with pytest.raises(InputError, match=r"dim_product\.csv: changed while it was read\. Run the build"):
        load(candidate, inputs, "dim_product")


def test_few_of_many_unknown_columns_are_named(candidate, inputs):
    header = ",".join([SALES_HEADER, *(f"extra_{number}" for number in range(300)), ""])
    load_sales(candidate, inputs, sales(f"S1,{GOOD_SALE}" + "," * 301, header=header))
    (told,) = candidate.connection.execute(
        "select ignored_columns from build_inputs where table_name = 'fact_sales'"
    ).fetchone()
    assert told == "extra_0, extra_1, extra_2, extra_3, extra_4, 296 more"


OPTIONAL = """
create table contract.fact_count (count_id varchar primary key, counted date not null, units int);
comment on table contract.fact_count is 'optional: one row per count'
"""


def test_an_optional_table_without_a_file_is_empty_and_its_checks_pass(candidate, inputs):
    load_sales(candidate, inputs, sales(f"S1,{GOOD_SALE}", "S2,bad,C1,P1,1,2.00,0"))
    candidate.connection.execute(OPTIONAL)
    for from_seed in (True, False):
        Loader(candidate, inputs, 1.0).load("fact_count", from_seed=from_seed)
        assert rows_of(candidate, "from staging.fact_count") == []
    candidate.connection.execute("create table fact_count as from staging.fact_count")
    derive_checks(candidate)
    checks = run_checks(candidate).set_index("check_name")["status"].filter(like="fact_count")
    assert "fact_count_has_every_loaded_row" in checks
    assert {*checks} == {"pass"}
    candidate.connection.execute("insert into fact_count values ('1', '2024-01-01', 2)")
    results = run_checks(candidate).set_index("check_name")
    assert results.loc["fact_count_has_every_loaded_row", "status"] == "fail"


def test_an_optional_table_with_a_file_is_loaded_from_it(candidate, inputs):
    candidate.connection.execute(OPTIONAL)
    (inputs / "fact_count.csv").write_text("count_id,counted,units\n1,2024-01-31,2\n2,2024-01-31,x\n")
    load(candidate, inputs, "fact_count")
    (inputs / "fact_count.csv").rename(inputs / "Fact_Count.CSV")
    with pytest.raises(InputError, match=r"but Fact_Count\.CSV\. Rename it"):
        load(candidate, inputs, "fact_count")
    rows = rows_of(candidate, "from staging.fact_count")
    assert rows == [("1", date(2024, 1, 31), 2)]
