"""`inspect` describes any mart on the terminal."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from conftest import CHECKOUT, query

from mart_helpers.books import describe_mart
from mart_helpers.cli import main
from mart_helpers.errors import StateError
from mart_helpers.star import inherit_comments

MART = """
    create table fact_sales (sale_id varchar primary key, "net amount" decimal(18, 4));
    comment on table fact_sales is 'one row per sale line';
    comment on column fact_sales.sale_id is 'key of the source';
    insert into fact_sales select range, 1 from range(1234);
    create table build_log (
        build_id integer, built_at timestamp,
        rows_read bigint, rows_loaded bigint, rows_quarantined bigint
    );
    insert into build_log values
        (1, '2025-01-01', 7, 7, 0), (2, '2024-05-06 07:08:09.5', 1240, 1234, 6);
    create table quarantine (
        table_name varchar, file varchar, line bigint, column_name varchar, reason varchar
    );
    insert into quarantine values
        ('fact_sales', 'fact_sales.csv', 7, 'sale_id', 'sale_id is missing'),
        ('fact_sales', 'fact_sales.csv', 9, 'quantity', 'quantity "two" is not a whole number'),
        ('fact_sales', 'fact_sales.csv', 8, 'quantity', 'quantity "one" is not a whole number');
"""


@pytest.fixture
def mart(tmp_path: Path) -> Path:
    path = tmp_path / "mart.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute(MART)
    return path


def test_the_last_build_and_every_table_are_shown(mart):
    assert describe_mart(mart) == (
        f"{mart} ({mart.stat().st_size / 1e6:.1f} MB)\n\n"
        "last build\n"
        "  build_id          2\n"
        "  built_at          2024-05-06 07:08:09\n"
        "  rows_read         1,240\n"
        "  rows_loaded       1,234\n"
        "  rows_quarantined  6\n\n"
        "fact_sales: 1,234 rows. one row per sale line\n"
        "  sale_id     varchar        key of the source\n"
        "  net amount  decimal(18,4)\n\n"
        "build_log: 2 rows\n"
        "  build_id          integer\n"
        "  built_at          timestamp\n"
        "  rows_read         bigint\n"
        "  rows_loaded       bigint\n"
        "  rows_quarantined  bigint\n\n"
        "quarantine: 3 rows\n"
        "  table_name   varchar\n"
        "  file         varchar\n"
        "  line         bigint\n"
        "  column_name  varchar\n"
        "  reason       varchar"
    )


def test_where_there_is_no_mart_the_command_says_how_to_get_one(home, capsys):
    assert main(["inspect"]) == 1
    assert capsys.readouterr() == (
        "",
        "mart: There is no mart at data/mini_data_mart.duckdb yet. Run 01_build, or `mart build`.\n",
    )


def test_what_cannot_be_opened_as_a_mart_is_named(tmp_path, mart):
    damaged = tmp_path / "damaged.duckdb"
    damaged.write_bytes(mart.read_bytes()[:5000])
    for path, message in {
        tmp_path: "as a mart.",
        damaged: "as a mart. Go back to the previous one",
    }.items():
        with pytest.raises(StateError, match=f"^{path} cannot be opened {message}"):
            describe_mart(path)


def test_a_mart_that_another_process_writes_is_not_described(mart):
    command = [sys.executable, "-m", "mart", "inspect", "--database", mart]
    with duckdb.connect(mart):
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is open for writing in another program. Close it there" in done.stderr


def test_the_command_stops_quietly_when_its_reader_does(mart):
    with duckdb.connect(mart) as connection:
        for number in range(40):
            columns = ", ".join(f"{'c' * 60}_{each} integer" for each in range(40))
            connection.execute(f"create table wide_{number} ({columns})")
    piped = f'"{sys.executable}" -m mart inspect --database "{mart}" | head -n 1'
    done = subprocess.run(piped, shell=True, cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.stderr, done.stdout[: len(str(mart))]) == ("", str(mart))


def test_the_last_build_is_that_of_the_highest_number(tmp_path):
    path = tmp_path / "mart.duckdb"
    with duckdb.connect(path) as connection:  # the clock was set back between two builds
        connection.execute(
            "create table build_log as "
            "select * from (values (1, timestamp '2030-01-01'), (2, timestamp '2024-01-01')) "
            "as builds(build_id, built_at)"
        )
    assert "build_id  2\n  built_at  2024-01-01 00:00:00\n" in describe_mart(path)


def test_the_star_comes_first(tmp_path):
    path = tmp_path / "mart.duckdb"
    with duckdb.connect(path) as connection:
        for table in ("build_log", "fact_sales", "quarantine", "dim_date"):
            connection.execute(f"create table {table} as select 1 as build_id")
    lines = describe_mart(path).splitlines()
    tables = [line.partition(":")[0] for line in lines if line.endswith(": 1 row")]
    assert tables == ["dim_date", "fact_sales", "build_log", "quarantine"]


def test_names_and_comments_of_any_characters_are_shown_on_one_line(tmp_path):
    path = tmp_path / "mart.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute(
            "create table build_log as select 1 as build_id;"
            'create table "Sales ""by"" month\x1b[31m" as select 1 as "a\x07";'
            'comment on table "Sales ""by"" month\x1b[31m" is \'two\nlines\''
        )
    assert 'Sales "by" month\\x1b[31m: 1 row. two\\nlines\n  a\\x07  integer' in describe_mart(path)


def test_every_column_of_a_published_table_says_what_it_means(sample_mart):
    silent = (
        "select table_name, column_name from duckdb_columns() "
        "where schema_name in ('main', 'contract') and not internal and comment is null "
        "and table_name not in (select view_name from duckdb_views())"
    )
    assert query(sample_mart, silent) == []
    text = describe_mart(sample_mart)
    for line in (
        "  customer_key          integer  surrogate key of dim_customer; -1 is the unknown member",
        "  customer_key     integer        refers to dim_customer",
        "  quantity         bigint         units sold, negative for a return",
        "dim_product: 9 rows. one row per product; key -1 is the unknown member",
    ):
        assert line in text


def test_the_star_has_the_sentence_of_the_contract_without_its_prefix(candidate):
    candidate.connection.execute(
        "comment on table contract.dim_product is 'inferred: one row per product';"
        "create table dim_product (product_key int, product_id text, unit_cost decimal(18, 4), m int);"
        "comment on column dim_product.unit_cost is 'said here'"
    )
    inherit_comments(candidate.connection)
    columns = (
        "select comment from duckdb_columns() where table_name = 'dim_product' and schema_name = 'main'"
    )
    assert candidate.connection.execute(f"{columns} order by column_index").fetchall() == [
        ("surrogate key of dim_product; -1 is the unknown member",),
        ("natural key, as the source writes it",),
        ("said here",),
        (None,),
    ]
    table = (
        "select comment from duckdb_tables() where table_name = 'dim_product' and schema_name = 'main'"
    )
    assert candidate.connection.execute(table).fetchall() == [("one row per product",)]
