"""A dimension declared `inferred:` has a placeholder for each key that a row refers to."""

from contextlib import closing
from pathlib import Path

import pytest
from conftest import declare_contract, load, publish_checked, query, sql_of

from mart_helpers.checks import run_checks
from mart_helpers.contract import read_contract
from mart_helpers.derived import derive_checks
from mart_helpers.errors import StateError
from mart_helpers.mart import create_candidate
from mart_helpers.session import Session

CUSTOMERS = "customer_id,customer_name,segment,city,country,signup_date\nC1,One,,,,\n"
PRODUCTS = (
    "product_id,product_name,category,unit_cost,list_price\nP1,Pen,Desk,1,2\nP2,Pad,Desk,9.80 €,2\n"
)
SALES = """\
sale_id,sale_date,customer_id,product_id,quantity,unit_price,discount
S1,2024-01-01,C1,P1,1,2,0
S2,2024-01-02,C1,P9,1,2,0
S3,2024-01-02,C1,P2,1,2,0
S4,2024-01-02,C1,P9,1,2,0
S5,2024-01-02,C1,P8,one,2,0
S6,2024-01-03,C7,P1,1,2,0
"""
INFERRED = "comment on table contract.dim_product is 'inferred: one row per product'"


def build(folder: Path, products: str = PRODUCTS, also: str = INFERRED) -> Session:
    """A candidate with the star of 01_build, after these further declarations."""
    session = create_candidate(folder / "mart.duckdb", {})
    declare_contract(session)
    session.connection.execute(also)
    for table, text in (("dim_customer", CUSTOMERS), ("dim_product", products), ("fact_sales", SALES)):
        (folder / f"{table}.csv").write_text(text)
    load(session, folder)
    amounts = [f"create macro {name}_amount" for name in ("gross", "discount", "net")]
    makes = ("set variable history", "create view staging.", "create table staging.")
    for cell in sql_of("01_build", *amounts, *makes, "create table dim_", "create table fact_sales"):
        session.execute(cell)
    return session


def test_a_missing_member_is_inferred_and_told_until_it_arrives(tmp_path):
    with closing(build(tmp_path)) as session:
        derive_checks(session)
        results = run_checks(session).set_index("check_name")
        assert not results["status"].isin(["fail", "broken"]).any()
        assert results.loc["dim_product_has_no_inferred_member", ["status", "finding"]].tolist() == [
            "warn",
            '2 members of dim_product inferred, for example: product_id "P9" is not in dim_product '
            "(fact_sales.csv line 3)",
        ]
        publish_checked(session)
    mart = tmp_path / "mart.duckdb"
    assert query(mart, "select sale_id, product_key from fact_sales order by sale_id") == [
        ("S1", 1), ("S2", 2), ("S3", 3), ("S4", 2),
    ]  # fmt: skip
    assert query(mart, "select product_id, product_name from dim_product order by product_key") == [
        (None, "Unknown"), ("P1", "Pen"), ("P9", None), ("P2", None),
    ]  # fmt: skip
    assert query(mart, "select key, line, rows, reason from inferred_members order by line") == [
        ("P9", 3, 2, 'product_id "P9" is not in dim_product'),
        ("P2", 4, 1, 'product_id "P2" is not in dim_product: its row, dim_product.csv line 3, is in '
         'quarantine: unit_cost "9.80 €" is not a plain number (at most 14 digits before and 4 after '
         "the point)"),
    ]  # fmt: skip
    assert query(mart, "select line, column_name from quarantine where table_name = 'fact_sales'") == [
        (6, "quantity"),
        (7, "customer_id"),
    ]
    with closing(build(tmp_path, PRODUCTS.replace(" €", "") + "P9,Mug,Desk,1,2\n")) as session:
        derive_checks(session)
        results = run_checks(session).set_index("check_name")
        assert results.loc["dim_product_has_no_inferred_member", "status"] == "pass"
        names = session.execute("select product_name from dim_product order by product_key")
        assert names["product_name"].tolist() == ["Unknown", "Pen", "Pad", "Mug"]


def test_loading_again_infers_anew(tmp_path):
    with closing(build(tmp_path)) as session:
        for table in ("dim_date", "fact_sales"):
            session.connection.execute(f"drop table {table}")
        sales = SALES.replace("P9", "P7")
        (tmp_path / "fact_sales.csv").write_text(sales)
        load(session, tmp_path, "fact_sales")
        keys = session.connection.execute("select product_id from staging.dim_product").fetchall()
        assert keys == [("P1",), ("P7",), ("P2",)]


def test_a_fact_is_not_inferred(candidate):
    candidate.connection.execute("comment on table contract.fact_sales is 'inferred: x'")
    with pytest.raises(StateError, match="only members of a dimension can be inferred"):
        read_contract(candidate.connection, "fact_sales")
