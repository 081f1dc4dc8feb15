"""What a build says of the past that was published: what is gone, changed, new, or restated."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_home, mart_command, query

from mart_helpers.diff import compare_files
from mart_helpers.kept import previous_path
from mart_helpers.restated import restated_notes

Edit = Callable[[list[str]], list[str]]


class Nightly:
    """A home with the sample's mart, whose extracts are edited before the next build."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.mart = home / "data" / "mini_data_mart.duckdb"

    def edit(self, table: str, edit: Edit) -> "Nightly":
        path = self.home / "inputs" / f"{table}.csv"
        path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")
        return self

    def build(self, *options: str) -> subprocess.CompletedProcess:
        return mart_command("build", *options, cwd=self.home)


@pytest.fixture
def nightly(sample_mart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nightly:
    home = make_home(tmp_path / "home", monkeypatch)
    (home / "data").mkdir()
    shutil.copy(sample_mart, home / "data")
    return Nightly(home)


def day_of(line: str) -> str:
    return line.split(",")[1]


def with_field(line: str, place: int, text: str) -> str:
    fields = line.split(",")
    return ",".join([*fields[:place], text, *fields[place + 1 :]])


def assert_refused(done: subprocess.CompletedProcess, check: str, nightly: Nightly) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert check in done.stderr
    assert query(nightly.mart, "select max(build_id) from build_log") == [(1,)]


def test_a_closed_month_that_lost_changed_or_moved_a_row_stops_the_build_unless_that_is_allowed(nightly):
    def edit(lines: list[str]) -> list[str]:
        gone, changed, comma = [n for n, line in enumerate(lines) if day_of(line)[:7] == "2024-05"][2:5]
        lines[changed] = with_field(lines[changed], 4, "77")
        lines[1] = with_field(lines[1], 1, "2024-12-31")  # a sale that moves out of its month
        lines[comma] = with_field(lines[comma], 5, '"1,50"')  # is set aside, so it is gone
        return lines[:gone] + lines[gone + 1 :]

    done = nightly.edit("fact_sales", edit).build()
    assert_refused(done, "fact_sales_keeps_its_closed_months", nightly)
    assert "gone" in done.stderr
    assert "→ 77" in done.stderr
    assert "20230102 → 20241231" in done.stderr
    assert "mart reset --database data/mini_data_mart.duckdb" in done.stderr, "for other data"
    allowed = nightly.build("--allow-restated")
    assert allowed.returncode == 0, allowed.stderr
    assert "4 published rows of closed months are gone or have other amounts" in allowed.stdout
    bad = "select what_changed from checks.fact_sales_keeps_its_closed_months"
    assert len(query(nightly.mart, bad)) == 4, "the published mart knows it too"


def test_a_late_return_and_a_few_rows_gone_from_the_newest_month_are_told_and_published(nightly):
    def edit(lines: list[str]) -> list[str]:
        kept = [each for each in lines if day_of(each) != "2024-12-31"]
        return [*kept, "X1,2024-03-05,C001,P01,-1,18.50,0"]

    done = nightly.edit("fact_sales", edit).build()
    assert done.returncode == 0, done.stderr
    assert "past      fact_sales: 1 new in closed months, revenue -18.50" in done.stdout
    assert "published rows of the newest month are gone" in done.stdout
    assert "X1" in mart_command("diff", cwd=nightly.home).stdout


def test_an_extract_that_holds_every_sale_twice_stops_the_build(nightly):
    done = nightly.edit(
        "fact_sales", lambda lines: [*lines, *(f"D{line}" for line in lines[1:])]
    ).build()
    assert_refused(done, "closed months have 4,", nightly)


def test_an_extract_that_starts_later_is_one_warning(nightly):
    done = nightly.edit(
        "fact_sales",
        lambda lines: [lines[0], *(each for each in lines[1:] if day_of(each) >= "2023-06")],
    ).build()
    assert done.returncode == 0, done.stderr
    assert re.search(r"the extract now starts on 2023-06-\d\d; 5 months before it are gone", done.stdout)


def test_a_newest_month_cut_in_half_and_a_header_with_two_names_swapped_stop_the_build(nightly):
    def edit(lines: list[str]) -> list[str]:
        december = [line for line in lines if day_of(line).startswith("2024-12")]
        return [line for line in lines if line not in december[::2]]

    def swap(lines: list[str]) -> list[str]:
        return ["product_id,product_name,category,list_price,unit_cost", *lines[1:]]

    nightly.edit("dim_product", swap)
    done = nightly.edit("fact_sales", edit).build()
    assert_refused(done, "fact_sales_keeps_most_of_its_newest_month", nightly)
    assert "most_sales_are_plausible" in done.stderr, "costs and prices are swapped"
    assert re.search(r"\d+ of \d+ published rows of the newest month are gone", done.stderr)


def test_what_a_dimension_restates_is_a_warning_in_money_and_by_year(nightly):
    of_sales = "select year, {} from all_sales as sales where {} group by year"
    units = dict(query(nightly.mart, of_sales.format("units(sales)", "product_id = 'P01'")))
    moved = dict(query(nightly.mart, of_sales.format("revenue(sales)", "customer_id = 'C001'")))
    nightly.edit("dim_product", lambda lines: [lines[0], with_field(lines[1], 3, "12.80"), *lines[2:]])
    nightly.edit("dim_customer", lambda lines: [lines[0], with_field(lines[1], 4, "France"), *lines[2:]])
    done = nightly.build()
    assert done.returncode == 0, done.stderr
    assert "dimensions_restate_no_metric" not in done.stdout, "it has better words"
    assert re.search(r"^checks +5 warnings: dim_\w+.\w+ restates ", done.stdout, re.MULTILINE)
    notes = [*restated_notes(compare_files(previous_path(nightly.mart, 1), nightly.mart).restated)]
    revenue = [
        f"{year} (France {amount:+,.2f}, Germany {-amount:+,.2f})"
        for year, amount in sorted(moved.items())
    ]
    costs = [
        f"{metric} of {' and '.join(f'{year} ({sign * units[year]:+,.2f})' for year in (2023, 2024))}"
        for metric, sign in (("cost", 2), ("margin", -2))
    ]
    assert notes == [
        f"dim_customer.country restates revenue of {' and '.join(revenue)}; "
        "cost, margin, units likewise",
        f"dim_product.unit_cost restates {'; '.join(costs)}",
    ]
    assert all(note in done.stdout for note in notes)
    shown = [line.split() for line in mart_command("diff", cwd=nightly.home).stdout.splitlines()]
    assert ["margin", "2023", "dim_product", "unit_cost", f"{-2 * units[2023]:+,.2f}"] in shown
    assert " restates " not in nightly.build().stdout, "it is of one night"


def test_a_late_version_restates_the_sales_since_its_day_and_the_same_versions_nothing(nightly):
    history = ["--inputs-dir", "inputs/history", "--database", "data/history.duckdb"]
    mart = nightly.home / "data" / "history.duckdb"
    built = [nightly.build(*history) for _ in range(2)]
    assert "past  " not in built[1].stdout, built[1].stdout + built[1].stderr
    since = "revenue(s) from all_sales as s where customer_id = 'C001' and date >= '2024-10-01'"
    ((moved,),) = query(mart, f"select {since}")
    nightly.edit(
        "history/dim_customer/2024-10-01",
        lambda lines: [line.replace("Café,Cafe,Hamburg", "Café,Office,Hamburg") for line in lines],
    )
    told = f"segment restates revenue of 2024 (Cafe {-moved:+,.2f}, Office {moved:+,.2f})"
    assert told in nightly.build(*history).stdout


def test_columns_that_are_new_or_gone_are_a_warning_once(nightly):
    nightly.edit(
        "fact_sales", lambda lines: [f"{lines[0]},channel", *(f"{each},web" for each in lines[1:])]
    )
    seen = [nightly.build().stdout for _ in range(2)]
    nightly.edit("fact_sales", lambda lines: [each.rsplit(",", 2)[0] for each in lines])
    seen.append(nightly.build("--allow-restated").stdout)
    warned = ["fact_sales: column channel is" in each for each in seen]
    assert warned == [True, False, True]
    found = "select column_name, what_changed from checks.inputs_have_the_columns_of_the_last_build"
    assert query(nightly.mart, f"{found} order by 1") == [("channel", "gone"), ("discount", "gone")]


def test_seed_rows_promise_nothing(nightly):
    done = nightly.build("--stage", "1", "--database", nightly.mart)
    assert done.returncode == 0, done.stderr
    assert "keeps" not in done.stdout
