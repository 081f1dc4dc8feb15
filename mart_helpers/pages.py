"""Pages of HTML, to mail, to print, to read on a phone: what notebooks have shown, and their frame.

A page is one file. It loads nothing and runs nothing; its templates and stylesheets are in `templates/`.
"""

import json
import re
from collections import ChainMap, Counter
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mart_helpers.books import build_facts as last_build
from mart_helpers.books import money_aside
from mart_helpers.files import whole_files
from mart_helpers.parameters import PATHS, home, notebook_parameters
from mart_helpers.session import open_published
from mart_helpers.texts import in_words

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

REPORT = "report.html"

# The notebooks whose answers are the report, in its order.
REPORTED = ("05_dashboard", "02_explore")

# Cells with these tags show something about the notebook itself, which a report leaves out.
_ASIDE = ["aside", "summary"]

_TEMPLATES = Path(__file__).parent / "templates"

# A word and a mark beside each colour, so that none has to be told by the colour.
_MARKS = {"pass": "✓", "skipped": "–", "warn": "▲", "fail": "✗", "broken": "✗"}

# What neither XML 1.0 (section 2.2) nor HTML lets stand in a text, however it is escaped.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]"
)

# Of several forms of an output, the first of these that it has is shown.
_KINDS = ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]

_ON_THE_WEB = re.compile(r"(https?|mailto):", re.IGNORECASE)

_NUMBER = re.compile(r"[-+−]?[\d,]+(\.\d+)?( %)?")

_LONGEST_CELL, _LONGEST_FIGURE, _LONG_TEXT = 80, 400, 40


def write_pages(
    executed: Sequence[Path], folder: Path, database: Path, show_code: bool = False
) -> list[Path]:
    """Write `<notebook>.html` into `folder` for each executed notebook; the paths, in the same order.

    The code is folded away, or shown. Links lead to the pages of other notebooks if there are such.
    All pages are written or none. Raises StateError if the folder cannot be written, or if there is no
    mart.
    """
    figures = _figures_of(database)
    pages = [folder / f"{path.stem}.html" for path in executed]
    there = {page.stem for page in (*pages, *folder.glob("*.html"))}
    texts = []
    for path in executed:
        body = _html(path, code="open" if show_code else "folded")
        first = body.select_one(".prose h1")
        title = first.extract().get_text() if first else path.stem
        sections = _anchored(body)
        for link in body("a"):
            _lead(link, there)
        values = {"sections": sections, "body": Markup(body)}
        texts.append(render_page("notebooks.html.j2", title, figures | _given(path), **values))
    _write(pages, texts)
    return pages


def write_report(executed: Sequence[Path], folder: Path, database: Path, quality_report: Path) -> Path:
    """Write what the executed notebooks answer as one page into `folder`, without their code; its path.

    First come the figures of 05_dashboard, then the answers of 02_explore, then the findings of
    `quality_report`, the JSON file that 04_quality has written. Raises StateError if the folder cannot
    be written, or if there is no mart.
    """
    quality = json.loads(quality_report.read_text(encoding="utf-8"))
    named = {path.stem: path for path in executed}
    given = {
        in_words(name).capitalize(): value for name, value in ChainMap(*map(_given, executed)).items()
    }
    text = render_page(
        "report.html.j2",
        "Report on the data mart",
        _figures_of(database) | given,
        status=quality["status"],
        verdict=f"{quality['headline']}.",
        report=quality,
        sections=[section for name in REPORTED for section in _answers(named[name])],
    )
    _write([folder / REPORT], [text])
    return folder / REPORT


def page_names() -> set[str]:
    """Names of all files that notebooks become as pages: one each, and one for all."""
    return {REPORT, *(f"{path.stem}.html" for path in (home() / "notebooks").glob("*.ipynb"))}


def render_page(
    template: str,
    title: str,
    figures: Mapping[str, str],
    status: str = "",
    verdict: str = "",
    **values: object,
) -> str:
    """The page of a `template` that extends `frame.html.j2`.

    At its head stand the title, a verdict if there is a `status` (pass, warn or fail), and the figures
    by their names. The template finds `values`, and filters for what comes from the data. A
    replacement character (�) stands for each one that HTML forbids.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": cell_text, "figure": figure_text}
    head = {"title": title, "figures": figures, "status": status, "verdict": verdict, "marks": _MARKS}
    return printable(environment.get_template(template).render(head | values))


def printable(text: str) -> str:
    """`text` with a replacement character (�) for each one that XML or HTML forbids."""
    return _FORBIDDEN.sub("\ufffd", text)


def cell_text(value: object, longest: int = _LONGEST_CELL) -> str:
    """A value of a row as it stands, cut at `longest` characters; nothing if it is missing."""
    text = "" if value is None else str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def figure_text(value: object) -> str:
    """A value as people read it: separators in numbers, yes or no, the parts of a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(cell_text, value))
    return cell_text(value, _LONGEST_FIGURE)


def build_figures(build: Mapping[str, object]) -> dict[str, str]:
    """The figures of a mart's last build by their names; what its log does not have is left out."""
    loaded = build["revenue_loaded"]
    figures = {
        "Mart": build["mart"],
        "Build": build["build_id"] and str(build["build_id"]),
        "Built (UTC)": (build["built_at"] or "").replace("T", " ")[:16] or None,
        "Rows loaded": build["rows_loaded"],
        "Rows in quarantine": build["rows_quarantined"],
        "Revenue loaded": loaded and f"{Decimal(loaded):,.2f}",
        "Revenue in quarantine": money_aside(build),
    }
    return {name: figure_text(value) for name, value in figures.items() if value is not None}


def _figures_of(database: Path) -> dict[str, str]:
    with open_published(database) as connection:
        return build_figures({"mart": database.name, **last_build(connection)})


def _given(path: Path) -> dict[str, str]:
    """The parameters given to an executed notebook, but for paths, in its order."""
    metadata = json.loads(path.read_bytes())["metadata"]
    values = metadata.get("papermill", {}).get("parameters", {})
    names = [each.name for each in notebook_parameters(path) if not each.name.endswith(PATHS)]
    return {name: figure_text(values[name]) for name in names if values.get(name, "") != ""}


def _write(pages: list[Path], texts: list[str]) -> None:
    with whole_files(pages) as parts:
        for part, text in zip(parts, texts, strict=True):
            part.write_text(text, encoding="utf-8", newline="\n")


def _html(path: Path, code: str) -> "BeautifulSoup":
    """What the executed notebook at `path` shows. `code` is "open", "folded", or "" for a report."""
    import nbformat  # all this takes two seconds
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    exporter = HTMLExporter(
        extra_template_basedirs=[str(_TEMPLATES)],
        template_name="notebook",
        exclude_anchor_links=True,
        embed_images=True,
        config=Config(
            NbConvertBase={"display_data_priority": _KINDS},
            TagRemovePreprocessor={"enabled": not code, "remove_cell_tags": _ASIDE},
        ),
    )
    resources = {"code": code, "metadata": {"path": str(home() / "notebooks")}}
    html, _ = exporter.from_notebook_node(nbformat.read(path, as_version=4), resources)
    body = BeautifulSoup(html, "html.parser")
    for image in body("img"):
        if not image["src"].startswith("data:"):  # a page loads nothing
            image.replace_with(image.get("alt", ""))
    for table in body("table"):
        _lay(table, says_words=not code)
    return body


def _answers(path: Path) -> list[list]:
    """Id and heading of each section of an executed notebook that shows charts or tables, and those."""
    body = _html(path, code="")
    _anchored(body)
    found = [(path.stem, path.stem, [])]
    for each in body.select(".prose h2, .wide"):
        if each.name == "h2":
            found.append((each["id"], each.get_text(), []))
        else:
            found[-1][2].append(Markup(each))
    if path.stem != REPORTED[0]:  # a chart first: looking is easier than reading
        for *_, shown in found:
            shown.sort(key=lambda each: "<img" not in each)
    return [section for section in found if section[-1]]


def _anchored(body: "BeautifulSoup") -> list[tuple[str, str]]:
    """Give all headings ids of their own; those of the sections, with their titles."""
    seen, sections = Counter(), []
    for heading in body.select(".prose :is(h1, h2, h3, h4, h5, h6)"):
        anchor = _anchor(heading.get_text())
        seen[anchor] += 1
        heading["id"] = anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}"
        if heading.name in ("h1", "h2"):
            sections.append((heading["id"], heading.get_text()))
    return sections


def _anchor(heading: str) -> str:
    return re.sub(r"\W+", "-", heading.lower()).strip("-") or "section"


def _lead(link: "Tag", there: Collection[str]) -> None:
    """Let a link lead to the web, to this page or to one beside it; of any other, leave the words."""
    url = link.get("href", "")
    path, _, heading = unquote(url).partition("#")
    notebook = path.removesuffix(".ipynb")
    if _ON_THE_WEB.match(url):
        link.attrs = {"href": url}
    elif not path or (notebook in there and notebook != path):
        page = f"{notebook}.html" if notebook else ""
        link.attrs = {"href": f"{page}#{_anchor(heading)}" if heading else page}
    else:
        link.unwrap()


def _lay(table: "Tag", says_words: bool) -> None:
    """Put numbers at the right, let long texts and the names of columns break.

    If it `says_words`, names become words, and columns without a value are left out.
    """
    for each in (table, *table(["tr", "th", "td"])):
        each.attrs.pop("style", None)  # which is for JupyterLab
    for header in table("th"):
        if says_words:
            header.string = in_words(header.get_text())
        else:
            first, *others = header.get_text().split("_")
            header.string = first
            for other in others:
                header.extend(["_", table.new_tag("wbr"), other])
    rows = [row(["td", "th"]) for row in table("tr")]
    if len({len(row) for row in rows}) != 1:
        return  # cells that span columns
    for column in zip(*rows, strict=True):
        texts = [cell.get_text() for cell in column if cell.name == "td"]
        filled = list(filter(None, texts))
        numbers = sum(bool(_NUMBER.fullmatch(text)) for text in texts)
        for cell in column:
            if says_words and texts and not filled:
                cell.extract()
            elif 2 * numbers > len(filled):
                cell["class"] = "number"
            elif len(cell.get_text()) > _LONG_TEXT:
                cell["class"] = "text"
