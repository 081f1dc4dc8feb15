"""Order lines, known by two columns: the key and the reference of several columns, all the way."""

from contextlib import closing
from pathlib import Path
from shutil import copyfile

import pytest
from conftest import publish_checked, query

from mart_helpers.checks import explain_failures, run_checks
from mart_helpers.derived import derive_checks
from mart_helpers.diff import compare_files
from mart_helpers.errors import StateError, UsageError
from mart_helpers.loading import Loader
from mart_helpers.mart import create_candidate
from mart_helpers.past import check_past
from mart_helpers.session import Session
from mart_helpers.trace import trace

CONTRACT = """
create schema contract;
create table contract.dim_article (
    maker varchar,
    article_no integer,
    bar_code varchar unique,
    article_name varchar check (article_name in ('Pen', 'Pad')),
    primary key (maker, article_no)
);
create table contract.fact_order_lines (
    order_id varchar,
    line_no integer,
    order_date date not null,
    maker varchar,
    article_no integer,
    units integer not null,
    primary key (order_id, line_no),
    foreign key (maker, article_no) references contract.dim_article (maker, article_no)
);
create table contract.fact_returns (
    return_id integer primary key,
    order_id varchar not null,
    line_no integer not null,
    foreign key (order_id, line_no) references contract.fact_order_lines (order_id, line_no)
);
"""
STAR = """
create table dim_date as
select (20240101 + d)::integer as date_key, date '2024-01-01' + d::integer as date
from range(31) t(d);
create table dim_article as
select -1 as article_key, null as maker, null as article_no, null as bar_code, 'Unknown' as article_name
union all
select row_number() over (order by rowid), maker, article_no, bar_code, article_name
from staging.dim_article;
create table fact_order_lines as
select order_id, line_no, strftime(order_date, '%Y%m%d')::integer as date_key,
    coalesce(article_key, -1) as article_key, units
from staging.fact_order_lines as lines
left join dim_article
    on lines.maker = dim_article.maker and lines.article_no = dim_article.article_no;
create table fact_returns as from staging.fact_returns;
"""
FILES = {
    "dim_article": (
        "maker,article_no,bar_code,article_name\n"
        "A,1,111,Pen\nA,2,,Pad\nB,1,333,Pen\nA,1,444,Pad\nB,2,111,Pad\nB,3,,Pan\nB,4,,Pen\n"
    ),
    "fact_order_lines": (
        "order_id,line_no,order_date,maker,article_no,units\n"
        "O1,1,2024-01-01,A,1,5\nO1,2,2024-01-01,A,2,6\nO2,1,2024-01-02,B,1,7\nO1,02,2024-01-03,A,1,8\n"
        "O3,1,2024-01-03,A,9,1\nO3,2,2024-01-03,B,3,1\nO3,3,2024-01-03,,9,2\nO4,1,2024-01-31,B,1,3\n"
    ),
    "fact_returns": "return_id,order_id,line_no\n1,O1,2\n2,O1,3\n3,O3,1\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orders")


def build(folder: Path, files: dict[str, str], contract: str = CONTRACT) -> Session:
    """A candidate with the star of these inputs."""
    for table, text in files.items():
        (folder / f"{table}.csv").write_text(text)
    session = create_candidate(folder / "mart.duckdb", {})
    session.connection.execute(contract)
    loader = Loader(session, folder, 1.0)
    for table in files:
        loader.load(table, from_seed=False)
    session.connection.execute(STAR)
    return session


@pytest.fixture(scope="module")
def mart(folder: Path) -> Path:
    """The mart of the files, built twice: the second time units are changed, and a line is gone."""
    with closing(build(folder, FILES)) as session:
        publish_checked(session)
    lines = FILES["fact_order_lines"].replace("O1,1,2024-01-01,A,1,5", "O1,1,2024-01-01,B,1,9")
    files = FILES | {"fact_order_lines": lines.replace("O2,1,2024-01-02,B,1,7\n", "")}
    with closing(build(folder, files)) as session:
        publish_checked(session)
    return folder / "mart.duckdb"


def test_rows_that_repeat_a_key_or_refer_to_none_say_so_with_all_its_columns(mart):
    found = query(mart, "select left(file, -4), line, value, reason from quarantine order by all")
    bad_name = "article_name \"Pan\" breaks the rule article_name in ('Pen', 'Pad')"
    no_article, no_line = "are not in dim_article", "are not in fact_order_lines"
    assert found == [
        ("dim_article", 5, "A, 1", 'maker "A", article_no "1" repeat those of line 2'),
        ("dim_article", 6, "111", 'bar_code "111" repeats that of line 2'),
        ("dim_article", 7, "Pan", bad_name),
        ("fact_order_lines", 4, "O1, 2", 'order_id "O1", line_no "2" repeat those of line 3'),
        ("fact_order_lines", 5, "A, 9", f'maker "A", article_no "9" {no_article}'),
        ("fact_order_lines", 6, "B, 3", f'maker "B", article_no "3" {no_article}: their row, '
         f"dim_article.csv line 7, is in quarantine: {bad_name}"),
        ("fact_returns", 3, "O1, 3", f'order_id "O1", line_no "3" {no_line}'),
        ("fact_returns", 4, "O3, 1", f'order_id "O3", line_no "1" {no_line}: their row, '
         f'fact_order_lines.csv line 5, is in quarantine: maker "A", article_no "9" {no_article}'),
    ]  # fmt: skip
    names = query(mart, "select distinct column_name from quarantine where table_name = 'dim_article'")
    assert {*names} == {("maker, article_no",), ("bar_code",), ("article_name",)}


def test_the_star_is_checked_by_all_columns_of_a_key(mart):
    names = {
        name
        for (name,) in query(mart, "select view_name from duckdb_views() where schema_name = 'checks'")
    }
    assert {
        "dim_article_maker_and_article_no_is_unique",
        "dim_article_bar_code_is_unique",
        "fact_order_lines_order_id_and_line_no_is_unique",
        "fact_order_lines_article_key_is_in_dim_article",
        "fact_returns_order_id_and_line_no_is_in_fact_order_lines",
    } <= names


def test_a_failed_check_names_all_columns_of_the_keys_and_file_and_line(tmp_path):
    with closing(build(tmp_path, FILES)) as session:
        session.connection.execute(
            "create schema checks; create view checks.many as "
            "select order_id, line_no, article_key from fact_order_lines where units = 6;"
            "insert into fact_returns values (9, 'O9', 9);"
            "update dim_article set bar_code = '333' where article_no = 2"
        )
        derive_checks(session)
        failures = {
            each.check_name: each
            for each in explain_failures(session, run_checks(session), str(tmp_path))
        }
    (row,) = failures["many"].sample.to_dict("records")
    assert row == {
        "maker": "A", "article_no": 2, "order_id": "O1", "line_no": 2, "article_key": 2,
        "file": "fact_order_lines.csv", "line": 3,
    }  # fmt: skip
    (orphan,) = failures["fact_returns_order_id_and_line_no_is_in_fact_order_lines"].sample.to_dict(
        "records"
    )
    assert (orphan["order_id"], orphan["line_no"]) == ("O9", 9)
    assert failures["dim_article_bar_code_is_unique"].bad_rows == 1
    assert not [name for name in failures if "_rule_" in name or "_null" in name]


def test_two_marts_are_compared_by_all_columns_of_a_key(folder, mart):
    found = compare_files(folder / "mart.duckdb.previous-1", mart)
    tables = found.tables.set_index("table_name")[["added", "removed", "changed"]]
    assert tables.loc["fact_order_lines"].tolist() == [0, 1, 1]
    assert found.rows[["table_name", "what_changed", "key"]].values.tolist() == [
        ["fact_order_lines", "gone", "O2, 1"]
    ]
    assert found.values[["key", "column_name", "before", "after"]].values.tolist() == [
        ["O1, 1", "maker, article_no", "(A, 1)", "(B, 1)"],
        ["O1, 1", "units", "5", "9"],
    ]


def test_a_published_row_is_known_by_all_columns_of_its_key(mart, tmp_path):
    copyfile(mart, tmp_path / mart.name)
    lines = FILES["fact_order_lines"].replace("O1,1,2024-01-01,A,1,5", "O1,1,2024-01-01,B,1,8")
    with closing(build(tmp_path, FILES | {"fact_order_lines": lines})) as session:
        derive_checks(session)
        check_past(session, allow_restated=False)
        told = session.execute(
            "select order_id, line_no, what_changed from checks.past_of_fact_order_lines"
        )
    assert told.values.tolist() == [["O1", 1, "units 9 → 8"]]


def test_a_row_is_traced_by_all_columns_of_its_key(folder, mart):
    text = trace(mart, "fact_order_lines", "O1, 02", folder)
    assert text.startswith('fact_order_lines, order_id "O1", line_no "2"\n\nmart:')
    assert "units        6" in text
    assert "maker         A" in text
    assert "fact_order_lines.csv, line 3\n    O1,2,2024-01-01,A,2,6\n" in text
    assert "fact_order_lines.csv, line 4\n    O1,02,2024-01-03,A,1,8\n" in text
    assert 'order_id "O1", line_no "2" repeat those of line 3' in text
    with pytest.raises(UsageError, match='found "O1", expected order_id,line_no of fact_order_lines'):
        trace(mart, "fact_order_lines", "O1", folder)
    with pytest.raises(StateError, match=r"Did you mean O1, 2.*Give order_id,line_no as"):
        trace(mart, "fact_order_lines", "O1,22", folder)


def test_a_row_that_refers_to_a_bad_row_of_its_own_table_is_bad_too(candidate, tmp_path):
    candidate.connection.execute(
        "create table contract.dim_unit (unit varchar primary key, of_unit varchar not null "
        "references contract.dim_unit (unit), size integer)"
    )
    rows = "unit,of_unit,size\na,a,1\nb,a,2\nc,b,x\nd,c,1\ne,d,1\nf,b,1\n"
    (tmp_path / "dim_unit.csv").write_text(rows)
    Loader(candidate, tmp_path, 1.0).load("dim_unit", from_seed=False)
    assert candidate.connection.execute("select line, reason from quarantine").fetchall() == [
        (4, 'size "x" is not a whole number (integer)'),
        (5, 'of_unit "c" is not in dim_unit: its row is in quarantine'),
        (6, 'of_unit "d" is not in dim_unit: its row is in quarantine'),
    ]
