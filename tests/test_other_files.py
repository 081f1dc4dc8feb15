"""The examples of docs/other_files.md, from the files that it shows to a mart."""

import re
from pathlib import Path

import pytest
import xlsxwriter
from conftest import CHECKOUT, load, sql_of

from mart_helpers.books import account_of
from mart_helpers.raw import RawFiles
from mart_helpers.session import Session

PAGE = (CHECKOUT / "docs" / "other_files.md").read_text("utf-8")
GERMAN, SHOP = PAGE.split("\n## Example: ")[1:]


def block(text: str, kind: str) -> str:
    """The one block of code of this kind."""
    (found,) = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    return found


def write_workbook(path: Path) -> None:
    """The tables of the first example as sheets, each cell as text."""
    sheets = re.findall(r"\*(\w+)\*:\n\n((?:\|.*\n)+)", GERMAN)
    with xlsxwriter.Workbook(path) as book:
        for name, table in sheets:
            sheet = book.add_worksheet(name)
            lines = [line for line in table.splitlines() if not line.startswith("|---")]
            for number, line in enumerate(lines):
                for column, text in enumerate(line.strip("|").split("|")):
                    sheet.write_string(number, column, text.strip())


@pytest.mark.parametrize("text", [GERMAN, SHOP], ids=["german", "shop"])
def test_an_example_ends_as_the_page_says(candidate: Session, tmp_path: Path, text: str):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    if text == GERMAN:
        write_workbook(inputs / "auftraege.xlsx")
    else:
        (inputs / "shop_orders.csv").write_text(block(SHOP, "csv"), "utf-8")
    candidate.raw_files = RawFiles(candidate, inputs)
    amounts = ("create macro gross", "create macro discount", "create macro net")
    for sql in [*sql_of("01_build", "create macro date_from", *amounts), block(text, "sql")]:
        candidate.execute(sql, shows=False)
    load(candidate, inputs, share=0.5)
    candidate.execute("""
        update build_log
        set
            rows_read = inputs.read, rows_loaded = inputs.loaded, rows_quarantined = inputs.bad,
            revenue_quarantined = coalesce(set_aside.revenue, 0),
            rows_of_unknown_amount = set_aside.unknown
        from (
            select sum(rows_read) as read, sum(rows_loaded) as loaded, sum(rows_quarantined) as bad
            from build_inputs
        ) as inputs, (
            select
                sum(net_amount(quantity, unit_price, discount)) as revenue,
                count(*) - count(revenue) as unknown
            from (
                from staging.fact_sales_quarantined
                select *, net_amount(quantity, unit_price, discount) as revenue
            )
        ) as set_aside
    """)
    assert account_of(candidate.connection) == block(text, "text").splitlines()
