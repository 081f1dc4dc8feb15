"""The dashboard: one page that filters in the browser and loads nothing from the network.

It draws cubes and knows nothing else about the mart. A cube is a table with one row per month and choice
of filters. It has the columns

- `month`, its first day, and optionally `previous_month`, the month of the same people's previous visit
- `choice`, a list: a member of each filter, in the order of the filters, null for all members
- optionally `is_left_out`: days that are left out of a comparison with an unfinished last month
- any texts: members that are only ranked, for example products
- any numbers: its figures; those with decimals are amounts, the others counts
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from platformdirs import user_cache_path

from mart_helpers.books import build_facts
from mart_helpers.errors import StateError
from mart_helpers.files import write_files
from mart_helpers.pages import render_page
from mart_helpers.parameters import resolve, shown
from mart_helpers.session import Session
from mart_helpers.texts import quoted
from mart_helpers.verdict import vouched

LARGEST_PAGE = 2_000_000  # bytes
AMOUNT = 10_000  # amounts are whole ten-thousandths, so that the browser adds them exactly

_TEMPLATES = Path(__file__).parent / "templates"
_RANKED_PER_BAR = 6  # a filter removes many of a ranking, so the page holds more than it shows


class Cube(NamedTuple):
    """The rows of a cube in whole numbers, the scale of each figure, and the columns that it ranks.

    `month` counts from the first month shown. `previous` is 0 for none, 1 for a month before the first
    one shown, otherwise its number plus 2. A missing member means all members.
    """

    rows: pd.DataFrame
    scales: dict[str, int]
    ranked: list[str]


def write_dashboard(
    mart: Session,
    cubes: Sequence[str],
    filters: Sequence[str],
    cards: Mapping[str, tuple[str, str]],
    days: Sequence[date],
    data_dir: str,
    *,
    title: str = "Sales",
    months: int = 60,
    bars: int = 9,
    currency: str = "",
) -> str:
    """Write `<data_dir>/pages/dashboard.html`, completely or not at all; returns its path to show.

    `cubes` are tables of the session, as described above; the first has the figure of the first card.
    `cards` map the name of a figure to its formula (a column of a cube, or the ratio of two in percent)
    and its definition. `days` are the first and the last with data. The page shows the latest `months`
    and up to `bars` members of each filter, as many as fit in 2 MB; the others share a line. Cards and
    charts without data are left out. The same mart gives the same bytes. Raises StateError if the folder
    cannot be written.
    """
    first, last = mart.connection.execute(_bounds(cubes[0])).fetchone()
    start = 0 if last is None else max(first, last - months + 1)
    read = [_read(mart, cube, filters, start) for cube in cubes if last is not None]
    page = {"title": title, "currency": currency, "start": start, "months": (last or 0) - start + 1}
    page |= {"isUnfinished": bool(read) and (days[1] + timedelta(1)).day != 1}
    page |= _drawn(read, filters, cards)
    words = {
        **_build(mart, resolve(data_dir) / "quality" / "quality_report.json"),
        "days": [_words(day) for day in days] if read else [],
        "definitions": {card["name"]: cards[card["name"]][1] for card in page["cards"]},
    }
    target = resolve(data_dir) / "pages" / "dashboard.html"
    write_files({target: _fitted(page, read, filters, words, bars)})
    return shown(target)


def _bounds(cube: str) -> str:
    """SQL for the first and the last month of a cube, as numbers."""
    return f"select min({_number('month')}), max({_number('month')}) from {quoted(cube)}"


def _number(month: str) -> str:
    """SQL for a month as a number, counted from the year 0."""
    return f"(12 * year({month}) + month({month}) - 1)"


def _read(mart: Session, cube: str, filters: Sequence[str], start: int) -> Cube:
    described = mart.connection.execute(f"describe {quoted(cube)}").fetchall()
    kinds = {column: kind for column, kind, *_ in described}
    ranked = [column for column, kind in kinds.items() if kind == "VARCHAR" and column not in filters]
    others = ("month", "previous_month", "is_left_out", "choice", *ranked)
    figures = [name for name in kinds if name not in others]
    scales = {name: AMOUNT if re.match("DECIMAL|DOUBLE|FLOAT", kinds[name]) else 1 for name in figures}
    previous = f"greatest({_number('previous_month')} - {start}, -1) + 2"
    columns = {
        "month": f"{_number('month')} - {start}",
        "previous": f"if(previous_month is null, 0, {previous})" if "previous_month" in kinds else "0",
        "left_out": "is_left_out::integer" if "is_left_out" in kinds else "0",
        **{name: f"choice[{place}]" for place, name in enumerate(filters, start=1)},
        **{column: quoted(column) for column in ranked},
    }
    sums = [f"coalesce(sum({quoted(name)}) * {size}, 0)::hugeint" for name, size in scales.items()]
    rows = mart.connection.execute(
        f"select {', '.join([*columns.values(), *sums])} from {quoted(cube)} "
        f"where {_number('month')} >= {start} group by all"
    ).df()
    rows = rows.set_axis([*columns, *scales], axis="columns")
    # pandas keeps sums this large as floats, and JavaScript could not hold them exactly anyway
    whole = {name: "int64" for name in scales if rows[name].abs().max() < 2**53}
    return Cube(rows.astype(whole), scales, ranked)


def _drawn(cubes: Sequence[Cube], filters: Sequence[str], cards: Mapping) -> dict[str, object]:
    """The cards, the members of all filters and rankings (largest first), and returning customers."""
    holds = {figure: cube for cube in reversed(cubes) for figure in cube.scales}
    found = []
    for name, (formula, _) in cards.items():
        of, _, per = formula.partition(" / ")
        if of in holds and (base := per or of) in holds and holds[base].rows[base].any():
            found.append(
                {"name": name, "of": of, "per": per, "isAmount": holds[of].scales[of] == AMOUNT}
            )
    if not found:
        return {"cards": [], "filters": {}, "ranked": {}, "people": ""}
    headline = found[0]["of"]
    members = {name: _members(holds[headline], name, filters, headline) for name in filters}
    ranked = {name: cube for cube in cubes for name in cube.ranked if headline in cube.scales}
    repeated = [figure for figure, cube in holds.items() if cube.rows["previous"].any()]
    return {
        "cards": found,
        "filters": {name: listed for name, listed in members.items() if len(listed) > 1},
        "ranked": {name: _members(cube, name, filters, headline) for name, cube in ranked.items()},
        "people": repeated[0] if repeated else "",
    }


def _members(cube: Cube, name: str, filters: Sequence[str], figure: str) -> list[str]:
    rows, others = cube.rows, [each for each in filters if each != name]
    sums = rows[rows[others].isna().all(axis=1)].groupby(name, as_index=False)[figure].sum()
    return sums.sort_values([figure, name], ascending=[False, True])[name].tolist()


def _fitted(page: dict, cubes: Sequence[Cube], filters: Sequence[str], words: dict, bars: int) -> str:
    """The page with as many of the `bars` as fit; it folds the cubes without reading the mart again."""
    if not page["cards"]:
        return render_page("dashboard.html.j2", page=page, **words)
    vega = _vega()
    for most in range(bars, 0, -1):
        kept = {name: listed[:most] for name, listed in page["filters"].items()}
        ranked = {name: listed[: _RANKED_PER_BAR * most] for name, listed in page["ranked"].items()}
        packed = [_packed(cube, kept | ranked, filters, page["months"]) for cube in cubes]
        drawn = page | {"filters": kept, "ranked": ranked, "cubes": packed, "charts": vega["charts"]}
        text = render_page("dashboard.html.j2", page=drawn, engine=vega["engine"], **words)
        if len(text.encode()) <= LARGEST_PAGE:
            break
    return text


def _packed(cube: Cube, kept: Mapping[str, list[str]], filters: Sequence[str], months: int) -> dict:
    """The cube as columns of numbers: the step from each row's position to the next one's, and figures.

    The digits of a position are the choice, the ranked member, the month, the previous month, and
    whether the row is left out of comparisons. Rows of members that are not `kept` are dropped: the page
    has the rows of all members together.
    """
    place, is_kept, sizes = 0, True, []
    for name in (*filters, *cube.ranked):
        places = {member: place for place, member in enumerate(kept.get(name, []))}
        digit = cube.rows[name].map(places).where(cube.rows[name].notna(), len(places))
        sizes.append((name, len(places) + (name in filters)))
        place, is_kept = place * sizes[-1][1] + digit, is_kept & digit.notna()
    for name, size in (
        ("month", months),
        ("previous", months + 2 if cube.rows["previous"].any() else 1),
        ("left_out", 1 + int(cube.rows["left_out"].any())),
    ):
        place = place * size + cube.rows[name]
        sizes.append((name, size))
    places = place[is_kept].astype("int64").sort_values(kind="stable")
    steps = places.diff().fillna(places).astype("int64").tolist()
    figures = {name: cube.rows.loc[places.index, name].tolist() for name in cube.scales}
    return {"sizes": sizes[len(filters) :], "steps": steps, "figures": figures, "scales": cube.scales}


def _build(mart: Session, report: Path) -> dict[str, str]:
    """What the page says about the build and about its quality report."""
    build = build_facts(mart.connection)
    status, said = vouched(report, build)
    day = _words(date.fromisoformat(build["built_at"][:10]))
    return {"build": f"Build {build['build_id']} of {day}", "status": status, "verdict": said}


def _words(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _vega() -> dict[str, object]:
    """Vega as a script and the charts compiled for it; this takes seconds, once per installation."""
    charts = _TEMPLATES / "dashboard.charts.json"
    made_by = version("vl-convert-python").encode() + Path(__file__).read_bytes() + charts.read_bytes()
    name = f"vega-{hashlib.sha256(made_by).hexdigest()[:16]}.json"
    places = [
        Path(sys.prefix, "share", "mini-data-mart", name),
        user_cache_path("mini-data-mart") / name,
    ]
    for place in places:
        with suppress(OSError, ValueError):
            return json.loads(place.read_text(encoding="utf-8"))
    made = _compiled(**json.loads(charts.read_text(encoding="utf-8")))
    for place in places:
        with suppress(StateError):
            write_files({place: json.dumps(made)})
            break
    return made


def _compiled(shared: dict, **charts: dict) -> dict[str, object]:
    import vl_convert as vl

    # vl-convert bundles Vega without Vega-Lite, so nothing is downloaded
    vega = f"https://cdn.jsdelivr.net/npm/vega@{vl.get_vega_version()}/+esm"
    engine = vl.javascript_bundle(
        f"import {{parse, View}} from '{vega}'; window.vega = {{parse, View}};"
    )
    compiled = {name: vl.vegalite_to_vega(shared | chart) for name, chart in charts.items()}
    return {"engine": engine.replace("</script", "<\\/script"), "charts": compiled}
