"""`inspect` describes any mart on the terminal."""

import duckdb

from mart_helpers.inspect import describe_mart


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
