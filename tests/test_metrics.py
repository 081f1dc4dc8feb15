"""The metrics are defined in one cell of 01_build; what follows from them agrees with plain Python."""

import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from shutil import copytree

import plain
import pytest
from conftest import CHECKOUT, query

from mart_helpers.run import answer_questions, run_notebook
from mart_helpers.session import Session, open_published

DIMENSIONS = (
    *("customer_id", "customer_name", "segment", "city", "country"),
    *("product_id", "product_name", "category", "discount", "date"),
)
Figure = Callable[[list[plain.Row]], Decimal | int | None]


def total(name: str) -> Figure:
    return lambda rows: sum(row[name] for row in rows)


def share(part: Decimal | int, whole: Decimal | int) -> Decimal | None:
    return 100 * Decimal(part) / Decimal(whole) if whole else None


def bought(rows: list[plain.Row]) -> list[plain.Row]:
    return [row for row in rows if row["quantity"] > 0]


def orders(rows: list[plain.Row]) -> int:
    return len({(row["customer_id"] or row["sale_id"], row["date"]) for row in bought(rows)})


def return_rate(rows: list[plain.Row]) -> Decimal | None:
    sold = sum(row["quantity"] for row in bought(rows))
    if not sold:
        return None
    return share(sold - sum(row["quantity"] for row in rows), sold)


METRICS: dict[str, Figure] = {
    "revenue": total("revenue"),
    "cost": total("cost"),
    "margin": total("margin"),
    "margin_pct": lambda rows: share(total("margin")(rows), total("revenue")(rows)),
    "units": total("quantity"),
    "orders": orders,
    "customers": lambda rows: len({row["customer_id"] for row in bought(rows)} - {None}),
    "return_rate": return_rate,
}


def test_each_metric_is_published_with_what_it_is_and_whether_it_adds_up(sample_mart: Path) -> None:
    comments = dict(
        query(
            sample_mart,
            "select function_name, comment from duckdb_functions() "
            "where database_name = current_database() and parameters = ['sales']",
        )
    )
    assert comments.keys() == METRICS.keys()
    assert all("add" in comment for comment in comments.values())


@pytest.mark.parametrize("seed", range(20))
def test_any_metrics_by_any_dimensions_agree_with_plain_python(sample_mart: Path, seed: int) -> None:
    chance = random.Random(seed)
    dimensions = chance.sample(DIMENSIONS, chance.randint(1, 3))
    metrics = chance.sample(sorted(METRICS), chance.randint(1, 4))
    day = chance.choice(plain.sales())["date"]
    groups: dict[tuple, list[plain.Row]] = {}
    for row in plain.sales():
        if row["date"] >= day:
            groups.setdefault(tuple(row[name] for name in dimensions), []).append(row)
    calls = ", ".join(f"{name}(sales)" for name in metrics)
    found = query(
        sample_mart,
        f"select {', '.join(dimensions)}, {calls} from all_sales as sales "
        f"where date >= date '{day}' group by {', '.join(dimensions)}",
    )
    assert len(found) == len(groups)
    for row in found:
        rows = groups[row[: len(dimensions)]]
        for name, figure in zip(metrics, row[len(dimensions) :], strict=True):
            expected = METRICS[name](rows)
            if isinstance(figure, float):
                assert figure == pytest.approx(float(expected), abs=1e-9), name
            else:
                assert figure == expected, name


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mart of the sample in whose metrics, and nowhere else, revenue is twice as much."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = tmp_path_factory.mktemp("doubled")
        for part in ("notebooks", "inputs"):
            copytree(CHECKOUT / part, home / part)
        monkeypatch.setenv("MART_HOME", str(home))
        notebook = home / "notebooks" / "01_build.ipynb"
        cells = json.loads(notebook.read_text())
        (metrics,) = [
            cell for cell in cells["cells"] if "create macro revenue" in "".join(cell["source"])
        ]
        source = "".join(metrics["source"])
        assert source.count("net_amount as revenue,") == 1
        metrics["source"] = source.replace("net_amount as revenue,", "2 * net_amount as revenue,")
        notebook.write_text(json.dumps(cells))
        (home / "runs").mkdir()
        run_notebook("01_build", {}, home / "runs")
    return home / "data" / "mini_data_mart.duckdb"


def test_revenue_that_is_doubled_there_is_doubled_in_every_answer(
    sample_mart: Path, doubled: Path
) -> None:
    """Each column of revenue in each answer of 02_explore, whose rows stay what they were."""
    once, twice = (answers_of(mart) for mart in (sample_mart, doubled))
    seen = set()
    for name, rows in once.items():
        for before, after in zip(rows, twice[name], strict=True):
            for column, value in before.items():
                if column.startswith("revenue") and not column.endswith("_pct") and value is not None:
                    assert float(after[column]) == pytest.approx(
                        2 * float(value), abs=0.011, nan_ok=True
                    ), (
                        name,
                        column,
                    )
                    seen.add(name)
    assert seen >= {"revenue_over_time", "top_products", "country_revenue", "segment_revenue"}


def answers_of(mart: Path) -> dict[str, list[dict]]:
    session = Session(open_published(mart), mart, {})
    names = answer_questions(session, "02_explore")
    frames = {name: session.connection.execute(f"from {name}").df() for name in names}
    session.close()
    return {name: frame.to_dict("records") for name, frame in frames.items()}
