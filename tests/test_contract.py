import pytest

from mart_helpers.contract import declared_tables, read_comment, read_contract
from mart_helpers.errors import StateError
from mart_helpers.loading import Loader
from mart_helpers.star import unused_columns


def test_tables_come_in_the_order_of_their_declaration(candidate):
    names = ["dim_customer", "dim_product", "fact_sales", "fact_inventory"]
    assert declared_tables(candidate.connection) == names


def test_columns_types_and_defaults_are_read_from_the_catalog(candidate):
    table = read_contract(candidate.connection, "fact_sales")
    assert [(column.name, column.type, column.is_required) for column in table.columns] == [
        ("sale_id", "VARCHAR", True),
        ("sale_date", "DATE", True),
        ("customer_id", "VARCHAR", False),
        ("product_id", "VARCHAR", True),
        ("quantity", "BIGINT", True),
        ("unit_price", "DECIMAL(18,4)", True),
        ("discount", "DECIMAL(9,6)", True),
    ]
    assert [column.name for column in table.columns if column.default] == ["discount"]


def test_keys_and_references_are_read_from_the_catalog(candidate):
    table = read_contract(candidate.connection, "fact_sales")
    assert table.key == ("sale_id",)
    assert table.references == (
        (("customer_id",), "dim_customer", ("customer_id",)),
        (("product_id",), "dim_product", ("product_id",)),
    )


def test_a_rule_is_told_in_plain_words(candidate):
    table = read_contract(candidate.connection, "fact_sales")
    assert table.rules[0].words == "sale_date between 1900-01-01 and 2100-12-31"


def test_a_table_that_is_not_declared_is_named_with_those_that_are(candidate):
    with pytest.raises(StateError, match=r"contract.fact_sale is not declared.*dim_customer"):
        read_contract(candidate.connection, "fact_sale")


def test_a_misspelt_table_does_not_end_what_a_cell_has_begun(candidate):
    candidate.connection.execute("begin; create table kept as select 1")
    with pytest.raises(StateError, match="is not declared"):
        read_contract(candidate.connection, "fact_sale")
    candidate.connection.execute("commit")
    assert candidate.connection.execute("from kept").fetchall() == [(1,)]


def test_a_table_without_a_key_is_refused(candidate):
    candidate.connection.execute("create table contract.dim_store (store_id varchar)")
    with pytest.raises(StateError, match="dim_store needs a primary key"):
        read_contract(candidate.connection, "dim_store")


def test_a_length_of_text_is_refused_as_duckdb_forgets_it(candidate, tmp_path):
    candidate.execute("create table contract.dim_store (store_id char(3) primary key)")
    with pytest.raises(StateError, match=r"the length of char\(3\).* check \(length"):
        Loader(candidate, tmp_path, 1.0).load("dim_store", from_seed=False)


def test_names_are_declared_in_any_case(candidate):
    candidate.connection.execute(
        "create table contract.dim_store (Store_ID varchar primary key, Opened date, "
        "Near varchar references contract.dim_store (Store_ID), check (Opened > date '1900-01-01'))"
    )
    table = read_contract(candidate.connection, "dim_store")
    assert (table.column_names, table.key) == (("store_id", "opened", "near"), ("store_id",))
    assert table.references == ((("near",), "dim_store", ("store_id",)),)
    assert [rule.columns for rule in table.rules] == [("opened",)]


def test_a_prefix_of_a_comment_is_told_from_its_sentence():
    comment = read_comment("optional: inferred: one row per store: all", ["optional", "inferred"], "it")
    assert comment == ({"optional", "inferred"}, "one row per store: all")
    assert read_comment("natural key: as written", [], "it") == (set(), "natural key: as written")
    assert read_comment(None, [], "it") == (set(), "")


def test_a_prefix_that_means_nothing_is_refused(candidate, subtests):
    for statement, where in [
        ("table contract.fact_sales is 'History: one row'", 'contract.fact_sales: .*"History:"'),
        ("column contract.fact_sales.discount is 'maybe: x'", 'fact_sales.discount: .*"maybe:"'),
    ]:
        with subtests.test(where):
            candidate.connection.execute(f"comment on {statement}")
            with pytest.raises(StateError, match=where):
                read_contract(candidate.connection, "fact_sales")


def test_a_name_with_a_meaning_of_its_own_is_refused(candidate, subtests):
    for name in ["rowid", "found_in_words"]:
        with subtests.test(name):
            candidate.connection.execute(
                f"create or replace table contract.dim_a (id int primary key, {name} text)"
            )
            with pytest.raises(StateError, match=f"contract.dim_a: {name} has a meaning of its own"):
                read_contract(candidate.connection, "dim_a")


def test_a_declared_column_of_which_no_cell_makes_anything_is_told(candidate, tmp_path):
    header = "sale_id,sale_date,customer_id,product_id,quantity,unit_price,discount"
    (tmp_path / "dim_customer.csv").write_text(
        "customer_id,customer_name,segment,city,country,signup_date\nC1,,,,,\n"
    )
    (tmp_path / "dim_product.csv").write_text(
        "product_id,product_name,category,unit_cost,list_price\nP1,,,,\n"
    )
    (tmp_path / "fact_sales.csv").write_text(f"{header}\nS1,2024-01-01,C1,P1,1,1,0\n")
    candidate.execute("drop table contract.fact_inventory")
    loader = Loader(candidate, tmp_path, 1.0)
    for table in declared_tables(candidate.connection):
        loader.load(table, from_seed=False)
    candidate.execute("create table dim_product as select * from staging.dim_product")
    candidate.execute(
        "create table fact_sales as select sale_id, quantity * unit_price as amount, "
        "strftime(sale_date, '%Y%m%d')::int as date_key, customer_key, product_key "
        "from staging.fact_sales"
        " left join (select 1 as customer_key, 'C1' as customer_id) using (customer_id)"
        " left join (select 1 as product_key, 'P1' as product_id) using (product_id)"
    )
    assert unused_columns(candidate) == ["dim_customer", "fact_sales.discount"]
