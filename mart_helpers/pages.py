"""Pages of HTML, to mail, to print, to read on a phone: what a notebook has shown, and their frame.

A page is one file. It loads nothing and runs nothing; its templates and stylesheets are in `templates/`.
"""

import json
import re
from base64 import b64encode
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mart_helpers.books import build_facts as last_build
from mart_helpers.files import whole_files
from mart_helpers.parameters import PATHS, home, notebook_parameters
from mart_helpers.session import open_published

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

REPORT = "report.html"

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

_NUMBER = re.compile(r"[-+−]?[\d,]+(\.\d+)?")

_LONGEST_CELL, _LONGEST_FIGURE, _LONG_TEXT = 80, 400, 40


class Chapter(NamedTuple):
    """An executed notebook: its first heading, ids and titles of the sections, and the rest as HTML.

    `given` are the parameters that were given, but for paths, in the order of the notebook.
    """

    id: str
    title: str
    sections: list[tuple[str, str]]
    body: Markup
    given: dict[str, str]


def write_pages(
    executed: Sequence[Path], folder: Path, database: Path, show_code: bool = False
) -> list[Path]:
    """Write `<notebook>.html` into `folder` for each executed notebook; the paths, in the same order.

    The code is folded away, or shown. Links lead to the pages of other notebooks where there are such.
    All pages are written or none. Raises StateError where the folder cannot be written, or where there
    is no mart.
    """
    build = _build_of(database)
    pages = [folder / f"{path.stem}.html" for path in executed]
    there = {page.stem: page.name for page in (*pages, *folder.glob("*.html"))}
    texts = []
    for path in executed:
        chapter = _chapter(path, there | {path.stem: ""}, "open" if show_code else "folded")
        figures = build_figures(build) | chapter.given
        texts.append(render_page("notebooks.html.j2", chapter.title, figures, chapters=[chapter]))
    _write(pages, texts)
    return pages


def write_report(
    executed: Sequence[Path], folder: Path, database: Path, quality_report: Path, show_code: bool = False
) -> Path:
    """Write all the executed notebooks, by their names, as one page into `folder`; its path.

    The verdict at its head is that of `quality_report`, the JSON file that 04_quality has written.
    Raises StateError where the folder cannot be written, or where there is no mart.
    """
    build, quality = _build_of(database), json.loads(quality_report.read_text(encoding="utf-8"))
    here = {path.stem: "" for path in executed}
    code = "open" if show_code else ""
    chapters = [_chapter(path, here, code, below=1) for path in sorted(executed)]
    text = render_page(
        "notebooks.html.j2",
        "Report on the data mart",
        dict(ChainMap(*(chapter.given for chapter in reversed(chapters)), build_figures(build))),
        status=quality["status"],
        verdict=f"{quality['headline']}.",
        chapters=chapters,
    )
    _write([folder / REPORT], [text])
    return folder / REPORT


def render_page(
    template: str,
    title: str,
    figures: Mapping[str, str],
    status: str = "",
    verdict: str = "",
    **values: object,
) -> str:
    """The page of a `template` that extends `frame.html.j2`.

    At its head stand the title, a verdict where there is a `status` (pass, warn or fail), and the
    figures by their names. The template finds `values`, and filters for what comes from the data. A
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
    environment.filters |= {
        "cell": cell_text,
        "figure": figure_text,
        "breakable": lambda name: Markup("_<wbr>").join(map(escape, name.split("_"))),
    }
    head = {"title": title, "figures": figures, "status": status, "verdict": verdict, "marks": _MARKS}
    return printable(environment.get_template(template).render(head | values))


def printable(text: str) -> str:
    """`text` with a replacement character (�) for each one that XML or HTML forbids."""
    return _FORBIDDEN.sub("\ufffd", text)


def cell_text(value: object, longest: int = _LONGEST_CELL) -> str:
    """A value of a row as it stands, cut at `longest` characters; nothing where it is missing."""
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
    figures = {
        "Mart": build["mart"],
        "Build": build["build_id"] and str(build["build_id"]),
        "Built (UTC)": (build["built_at"] or "").replace("T", " ")[:16] or None,
        "Rows loaded": build["rows_loaded"],
        "Rows in quarantine": build["rows_quarantined"],
        "Revenue loaded": _money(build["revenue_loaded"]),
        "Revenue in quarantine": _money(build["revenue_quarantined"]),
    }
    return {name: figure_text(value) for name, value in figures.items() if value is not None}


def _money(value: str | None) -> str | None:
    return None if value is None else f"{Decimal(value):,.2f}"


def _build_of(database: Path) -> dict[str, object]:
    with open_published(database) as connection:
        return {"mart": database.name, **last_build(connection)}


def _write(pages: list[Path], texts: list[str]) -> None:
    with whole_files(pages) as parts:
        for part, text in zip(parts, texts, strict=True):
            part.write_text(text, encoding="utf-8", newline="\n")


def _chapter(path: Path, places: Mapping[str, str], code: str, below: int = 0) -> Chapter:
    """The executed notebook at `path`, its headings `below` levels deeper than they are.

    `places` are the pages that other notebooks are on, by name, "" for the same page. `code` is
    "open", "folded", or "" for none.
    """
    import nbformat  # all this takes two seconds
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    exporter = HTMLExporter(
        extra_template_basedirs=[str(_TEMPLATES)],
        template_name="notebook",
        exclude_anchor_links=True,
        config=Config({"NbConvertBase": {"display_data_priority": _KINDS}}),
    )
    notebook = nbformat.read(path, as_version=4)
    html, _ = exporter.from_notebook_node(notebook, {"code": code})
    body = BeautifulSoup(html, "html.parser")
    first = body.select_one(".prose h1")
    title = first.extract().get_text() if first else path.stem
    sections = _anchored(body, path.stem, below)
    for link in body("a"):
        _lead(link, path.stem, places)
    for image in body("img"):
        _embed(image)
    for table in body("table"):
        _align(table)
    values = notebook.metadata.get("papermill", {}).get("parameters", {})
    names = [each.name for each in notebook_parameters(path) if not each.name.endswith(PATHS)]
    given = {name: figure_text(values[name]) for name in names if values.get(name, "") != ""}
    return Chapter(path.stem, title, sections, Markup(body), given)


def _anchored(body: "BeautifulSoup", name: str, below: int) -> list[tuple[str, str]]:
    """Give all headings ids of their own; those of the sections, with their titles."""
    seen, sections = Counter([name]), []
    for heading in body.select(".prose :is(h1, h2, h3, h4, h5, h6)"):
        title, level = heading.get_text(), int(heading.name[1])
        anchor = _anchor(name, title)
        seen[anchor] += 1
        heading["id"] = anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}"
        heading.name = f"h{min(level + below, 6)}"
        if level <= 2:
            sections.append((heading["id"], title))
    return sections


def _anchor(notebook: str, heading: str) -> str:
    """The id of a heading: that of another notebook is another, also on one page."""
    words = re.sub(r"\W+", "-", heading.lower()).strip("-")
    return f"{notebook}-{words}" if words else notebook


def _lead(link: "Tag", name: str, places: Mapping[str, str]) -> None:
    """Let a link lead to the web, to this page or to one beside it; of any other, leave the words."""
    url = link.get("href", "")
    path, _, heading = unquote(url).partition("#")
    target = path.removesuffix(".ipynb") if path else name
    if _ON_THE_WEB.match(url):
        link.attrs = {"href": url}
    elif target in places and target != path:
        link.attrs = {"href": f"{places[target]}#{_anchor(target, heading)}"}
    else:
        link.unwrap()


def _embed(image: "Tag") -> None:
    """Make a picture that lies beside the notebooks part of the page; of any other, leave the words."""
    file = home() / "notebooks" / unquote(image["src"])
    if image["src"].startswith("data:"):
        return
    if file.is_file() and (kind := guess_type(file)[0]):
        image["src"] = f"data:{kind};base64,{b64encode(file.read_bytes()).decode()}"
    else:
        image.replace_with(image.get("alt", ""))


def _align(table: "Tag") -> None:
    """Put numbers at the right, let long texts and the names of columns break."""
    rows = [row(["td", "th"]) for row in table("tr")]
    for row in table("tr"):
        row.attrs = {}
    for header in table("th"):
        first, *others = header.get_text().split("_")
        header.string = first
        for other in others:
            header.extend(["_", table.new_tag("wbr"), other])
    if len({len(row) for row in rows}) != 1:
        return  # cells that span columns
    for column in zip(*rows, strict=True):
        texts = [cell.get_text() for cell in column if cell.name == "td"]
        numbers = sum(bool(_NUMBER.fullmatch(text)) for text in texts)
        for cell in column:
            if 2 * numbers > len(list(filter(None, texts))):
                cell["class"] = "number"
            elif len(cell.get_text()) > _LONG_TEXT:
                cell["class"] = "text"
