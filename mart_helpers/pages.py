"""Makes HTML pages from executed notebooks, to mail, to print or to read on a phone.

A page is one file that loads nothing and runs no script. Templates and stylesheets are in `templates/`.
"""

import json
import re
from collections import ChainMap, Counter
from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mart_helpers.books import build_facts as last_build
from mart_helpers.books import money_aside
from mart_helpers.files import write_files
from mart_helpers.parameters import PLACES, home, notebook_parameters
from mart_helpers.session import open_published
from mart_helpers.texts import in_words

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

REPORT = "report.html"

# The notebooks whose answers make up the report, in its order.
REPORTED = ("05_dashboard", "02_explore")

# A report leaves out cells with these tags, since they show something about the notebook itself.
_ASIDE = ["aside", "summary"]

_TEMPLATES = Path(__file__).parent / "templates"

# A word and a mark for each colour, so that nobody depends on the colour alone.
_MARKS = {"pass": "✓", "skipped": "–", "warn": "▲", "fail": "✗", "broken": "✗"}

# Characters that XML 1.0 (section 2.2) or HTML forbids in a text, even escaped.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]"
)

# If an output has several formats, the first of these is shown.
_KINDS = ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]

_ON_THE_WEB = re.compile(r"(https?|mailto):", re.IGNORECASE)

_NUMBER = re.compile(r"[-+−]?[\d,]+(\.\d+)?( %)?")

_LONGEST_CELL, _LONGEST_FIGURE, _LONG_TEXT = 80, 400, 40


def write_pages(
    executed: Sequence[Path], folder: Path, database: Path, show_code: bool = False
) -> list[Path]:
    """Write `<notebook>.html` into `folder` for each executed notebook; the paths, in the same order.

    The code is folded or shown. Links to other notebooks lead to their pages if these are written too.
    All pages are written or none. Raises StateError if the folder cannot be written, or if there is no
    mart.
    """
    build, pages = _build(database), {}
    there = {page.stem for page in (*executed, *folder.glob("*.html"))}
    for path in executed:
        body = _html(path, code="open" if show_code else "folded")
        first = body.select_one(".prose h1")
        title = first.extract().get_text() if first else path.stem
        sections = _anchored(body)
        for link in body("a"):
            _lead(link, there)
        values = {"title": title, "sections": sections, "body": Markup(body)}
        page = render_page("notebooks.html.j2", build=build, given=_given(path), **values)
        pages[folder / f"{path.stem}.html"] = page
    return write_files(pages)


def write_report(executed: Sequence[Path], folder: Path, database: Path, quality_report: Path) -> Path:
    """Write the results of the executed notebooks, without code, as one page into `folder`; its path.

    First come the figures of 05_dashboard, then the answers of 02_explore, then the findings of
    `quality_report`, the JSON file that 04_quality wrote. Raises StateError if the folder cannot be
    written, or if there is no mart.
    """
    quality = json.loads(quality_report.read_text(encoding="utf-8"))
    named = {path.stem: path for path in executed}
    text = render_page(
        "report.html.j2",
        title="Report on the data mart",
        build=_build(database),
        given=ChainMap(*map(_given, executed)),
        report=quality,
        sections=[section for name in REPORTED for section in _answers(named[name])],
    )
    (page,) = write_files({folder / REPORT: text})
    return page


def render_page(template: str, **values: object) -> str:
    """The page of a template with these values; `frame.html.j2` says which each page needs.

    The template has filters for text from the data. A replacement character (�) replaces each character
    that HTML forbids.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    environment.filters |= {"cell": cell_text, "figure": figure_text}
    environment.filters |= {"decimal": Decimal, "money_aside": money_aside}
    return printable(environment.get_template(template).render(marks=_MARKS, **values))


def printable(text: str) -> str:
    """`text` with a replacement character (�) for each character that XML or HTML forbids."""
    return _FORBIDDEN.sub("\ufffd", text)


def cell_text(value: object, longest: int = _LONGEST_CELL) -> str:
    """A value of a row as text, cut at `longest` characters; empty if the value is missing."""
    text = "" if value is None else str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def figure_text(value: object) -> str:
    """A value as people read it: numbers with separators, yes or no, the parts of a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(cell_text, value))
    return cell_text(value, _LONGEST_FIGURE)


def _build(database: Path) -> dict[str, object]:
    """What the pages say about the mart's last build."""
    with open_published(database) as connection:
        return {"mart": database.name, **last_build(connection)}


def _given(path: Path) -> dict[str, str]:
    """The parameters that an executed notebook was given, except paths, in its order."""
    metadata = json.loads(path.read_bytes())["metadata"]
    values = metadata.get("papermill", {}).get("parameters", {})
    names = [each.name for each in notebook_parameters(path) if not each.name.endswith(PLACES)]
    return {
        in_words(name).capitalize(): figure_text(values[name])
        for name in names
        if values.get(name, "") != ""
    }


def _html(path: Path, code: str) -> "BeautifulSoup":
    """The executed notebook at `path` as HTML. `code` is "open", "folded", or "" for a report."""
    import nbformat  # these imports take two seconds
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
        if not image["src"].startswith("data:"):  # a page loads no files
            image.replace_with(image.get("alt", ""))
    for table in body("table"):
        _lay(table, says_words=not code)
    return body


def _answers(path: Path) -> list[list]:
    """The sections of an executed notebook with charts or tables: id, heading, and these outputs."""
    body = _html(path, code="")
    _anchored(body)
    found = [(path.stem, path.stem, [])]
    for each in body.select(".prose h2, .wide"):
        if each.name == "h2":
            found.append((each["id"], each.get_text(), []))
        else:
            found[-1][2].append(Markup(each))
    if path.stem != REPORTED[0]:  # charts first, since they are easier to take in
        for *_, shown in found:
            shown.sort(key=lambda each: "<img" not in each)
    return [section for section in found if section[-1]]


def _anchored(body: "BeautifulSoup") -> list[tuple[str, str]]:
    """Give every heading a unique id; returns those of the sections, with their titles."""
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
    """Keep links to the web, to this page and to pages in its folder; leave only the text of others."""
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
    """Align numbers right, and let long texts and the names of columns wrap.

    If it `says_words`, names become words, and columns without a value are left out.
    """
    for each in (table, *table(["tr", "th", "td"])):
        each.attrs.pop("style", None)  # meant for JupyterLab
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
