"""The quality report as one page of HTML: to mail, to print, to read on a phone, by day and by night."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

import nbformat
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape
from nbconvert.filters import strip_ansi
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import InvalidNotebook, IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mart_helpers.books import build_facts as last_build
from mart_helpers.checks import verdict
from mart_helpers.files import whole_files
from mart_helpers.parameters import PATHS, home, notebook_parameters
from mart_helpers.session import open_published
from mart_helpers.sketching import SVG

_ON_THE_WEB = re.compile(r"(https?|mailto):", re.IGNORECASE)

_NUMBER = re.compile(r"[-+−]?[\d,]+(\.\d+)?")

_TEXT = Markup('<pre class="output">{}</pre>\n')

_PICTURE = Markup('<img{}\n src="data:{};base64,{}">\n')

_HEADING = Markup('<h{0} id="{1}">{2}</h{0}>\n')

_TEMPLATE = """
{% extends "frame" %}

{% block style %}
p:not(.verdict), ul, ol { max-width: 46rem; }
ul, ol { margin: .35rem 0; padding-left: 1.4rem; }
a { color: var(--link); }
:root { --link: #0a5a9c; --word: #8a2d6b; --text: #00634a; --digit: #8a5300; }
h2, h3, h4 { scroll-margin-top: .5rem; }
h1, h2 { overflow-wrap: anywhere; }
h3 { margin-top: 1.75rem; }
nav { margin: 1.25rem 0; padding: .75rem 1rem; background: var(--shade); border-radius: .4rem; }
nav p { color: var(--soft); font-size: .85rem; }
nav ul { list-style: none; padding: 0; max-width: none; }
nav .sections { columns: 19rem; }
nav li .sections { padding-left: 1.25rem; font-size: .9rem; }
nav li { break-inside: avoid; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
article { margin-top: 2rem; }
.many article { margin-top: 3rem; padding-top: 1.5rem; border-top: 2px solid var(--line); }
.many article > h2 { margin-top: 0; font-size: 1.35rem; }
.many h3 { font-size: 1.1rem; }
.wide { margin: .75rem 0; }
.wide td { white-space: nowrap; }
.wide th, .wide th.number { white-space: normal; }
.wide td.text { white-space: normal; min-width: 14rem; }
td:last-child, th:last-child { padding-right: 0; }
img { margin: 1rem 0; }
pre {
  margin: .75rem 0; padding: .6rem .8rem; overflow-x: auto; background: var(--shade);
  font: .8rem/1.5 ui-monospace, Consolas, Menlo, monospace; border-radius: .4rem;
}
pre code { font: inherit; overflow-wrap: normal; }
.highlight pre { border-left: 3px solid var(--line); }
.highlight [class^="k"], .highlight .ow { color: var(--word); }
.highlight [class^="s"] { color: var(--text); }
.highlight [class^="m"] { color: var(--digit); }
.highlight [class^="c"] { color: var(--soft); }
@media (prefers-color-scheme: dark) {
  :root { --link: #7cc0ff; --word: #f0a3d6; --text: #3fc79a; --digit: #f0b429; }
}
@media print {
  :root { --link: #000000; --word: #000000; --text: #000000; --digit: #000000; }
  .many article { break-before: page; border: 0; margin: 0; padding: 0; }
  .wide table { font-size: .7rem; }
  .wide td { white-space: normal; }
  .wide td, .wide th { padding-right: .6rem; }
  pre { white-space: pre-wrap; }
}
{% endblock %}

{%- macro sections(chapter) %}
<ul class="sections">
{%- for section in chapter.sections %}
<li><a href="#{{ section.id }}">{{ section.title }}</a></li>
{%- endfor %}
</ul>
{%- endmacro %}

{% block body %}
<nav aria-label="Contents">
<p>Contents</p>
{%- if chapters | length == 1 %}
{{- sections(chapters[0]) }}
{%- else %}
<ul>
{%- for chapter in chapters %}
<li><a href="#{{ chapter.id }}">{{ chapter.title }}</a>
{{- sections(chapter) }}
</li>
{%- endfor %}
</ul>
{%- endif %}
</nav>
<main{% if chapters | length > 1 %} class="many"{% endif %}>
{%- for chapter in chapters %}
<article id="{{ chapter.id }}">
{%- if chapters | length > 1 %}
<h2>{{ chapter.title }}</h2>
{%- endif %}
{{ chapter.body }}
</article>
{%- endfor %}
</main>
{% endblock %}
"""


class Section(NamedTuple):
    """A heading that the table of contents leads to."""

    id: str
    title: str


class Chapter(NamedTuple):
    """An executed notebook as HTML: its first heading, those below it, and all but the first heading.

    `values` are the parameters that were given, but for paths, in the order of the notebook.
    """

    id: str
    title: str
    sections: list[Section]
    body: Markup
    values: dict[str, object]


def write_pages(
    executed: Sequence[Path], folder: Path, database: Path, show_code: bool = False
) -> list[Path]:
    """Write `<notebook>.html` into `folder` for each executed notebook; the paths, in the same order.

    Links lead to the pages of other notebooks where there are such. All pages are written or none.
    Raises StateError where the folder cannot be written, or where there is no mart.
    """
    build = _build_of(database)
    pages = [folder / f"{path.stem}.html" for path in executed]
    there = {page.stem: page.name for page in (*pages, *folder.glob("*.html"))}
    texts = []
    for path in executed:
        chapter = _chapter(path, there | {path.stem: ""}, show_code)
        figures = build_figures(build) | _given([chapter])
        texts.append(render_page(_TEMPLATE, chapter.title, figures, chapters=[chapter]))
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
    chapters = [_chapter(path, here, show_code, below=1) for path in sorted(executed)]
    text = render_page(
        _TEMPLATE,
        "Report on the data mart",
        build_figures(build) | _given(chapters),
        status=quality["status"],
        verdict=verdict(quality),
        chapters=chapters,
    )
    _write([folder / REPORT], [text])
    return folder / REPORT


def _build_of(database: Path) -> dict[str, object]:
    with open_published(database) as connection:
        return {"mart": database.name, **last_build(connection)}


def _given(chapters: list[Chapter]) -> dict[str, str]:
    """The parameters that were given; those that are empty say nothing."""
    return {
        name: figure_text(value)
        for chapter in chapters
        for name, value in chapter.values.items()
        if value != ""
    }


def _write(pages: list[Path], texts: list[str]) -> None:
    with whole_files(pages) as parts:
        for part, text in zip(parts, texts, strict=True):
            part.write_text(text, encoding="utf-8", newline="\n")


def _chapter(path: Path, places: Mapping[str, str], show_code: bool, below: int = 0) -> Chapter:
    """The executed notebook at `path`, its headings `below` levels deeper than they are.

    `places` are the pages that other notebooks are on, by name, "" for the same page.
    """
    notebook = nbformat.read(path, as_version=4)
    prose = _Prose(path.stem, places, below)
    parts = [part for cell in notebook.cells for part in _parts(cell, prose, show_code)]
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    names = [each.name for each in notebook_parameters(path)]
    values = {name: given[name] for name in names if name in given and not name.endswith(PATHS)}
    return Chapter(path.stem, prose.title or path.stem, prose.sections, Markup().join(parts), values)


def _parts(cell: NotebookNode, prose: "_Prose", show_code: bool) -> Iterator[Markup]:
    """What of a cell is on the page, as HTML."""
    if cell.cell_type == "markdown":
        yield prose.of(cell)
    elif cell.cell_type == "code":
        if show_code and cell.source.strip():
            yield _code(cell.source)
        yield from map(_output, cell.outputs)


def _code(source: str) -> Markup:
    language = "sql" if source.startswith("%%sql") else "ipython3"
    return Markup(Highlight2HTML()(printable(source), language))


def _output(output: NotebookNode) -> Markup:
    """An output as HTML, in the richest form it has; text of any kind is escaped."""
    if output.output_type == "stream":
        return _text(output.text)
    if output.output_type == "error":
        return _text(f"{output.ename}: {output.evalue}")
    if "text/html" in output.data:
        return _table(output.data["text/html"])
    for kind in (SVG, "image/png", "image/jpeg"):
        if kind in output.data:
            return _picture(kind, output)
    return _text(output.data.get("text/plain", ""))


def _text(text: str) -> Markup:
    return _TEXT.format(printable(strip_ansi(text)))


def _picture(kind: str, output: NotebookNode) -> Markup:
    said = {"alt": output.data.get("text/plain", ""), **output.metadata.get(kind, {})}
    sizes = {name: said[name] for name in ("alt", "width", "height") if name in said}
    attributes = [Markup(' {}="{}"').format(*each) for each in sizes.items()]
    data = "".join(output.data[kind].split())
    if kind == SVG:  # within `img` it runs nothing, and its names are its own
        data = b64encode(printable(output.data[kind]).encode()).decode("ascii")
    return _PICTURE.format(Markup().join(attributes), kind, data)


def _table(html: str) -> Markup:
    """The HTML of an output, its tables with numbers at the right; what is no XML stays as it is."""
    html = f'<div class="wide">{printable(html)}</div>\n'
    try:
        tree = ElementTree.fromstring(html)
    except ElementTree.ParseError:
        return Markup(html)
    for table in tree.iter("table"):
        _align(table)
    for header in tree.iter("th"):
        _let_break(header)
    return Markup(ElementTree.tostring(tree, encoding="unicode", method="html"))


def _align(table: ElementTree.Element) -> None:
    """Mark the columns that hold mostly numbers, and the cells that hold long texts."""
    rows = list(table.iter("tr"))
    for row in rows:
        row.attrib.clear()
    if len({len(row) for row in rows}) != 1:
        return  # cells that span columns
    for column in zip(*rows, strict=True):
        texts = [cell.text or "" for cell in column if cell.tag == "td"]
        numbers = sum(bool(_NUMBER.fullmatch(text)) for text in texts)
        for cell in column:
            if 2 * numbers > len(list(filter(None, texts))):
                cell.set("class", "number")
            elif len(cell.text or "") > 40:
                cell.set("class", "text")


def _let_break(header: ElementTree.Element) -> None:
    """Let the name of a column break behind its underscores, so that wide tables are less wide."""
    first, *others = re.split("(?<=_)", header.text or "")
    header.text = first
    for other in others:
        ElementTree.SubElement(header, "wbr").tail = other


class _Prose(IPythonRenderer):
    """Renders the Markdown cells of one notebook, and remembers their headings."""

    def __init__(self, name: str, places: Mapping[str, str], below: int) -> None:
        super().__init__(escape=False, embed_images=True, path=str(home() / "notebooks"))
        self.title = ""
        self.sections: list[Section] = []
        self._name, self._places, self._below = name, places, below
        self._ids = {name}
        self._render = MarkdownWithMath(renderer=self).render

    def of(self, cell: NotebookNode) -> Markup:
        """The HTML of a Markdown cell, without the notebook's first heading."""
        self.attachments = cell.get("attachments", {})
        return Markup(self._render(printable(cell.source)))

    def heading(self, text: str, level: int, **attributes: object) -> str:
        """A heading with an anchor; the title of the notebook stands elsewhere."""
        title = Markup(text).striptags()
        if level == 1 and not self.title:
            self.title = title
            return ""
        section = Section(self._new_id(title), title)
        if level <= 2:
            self.sections.append(section)
        return _HEADING.format(min(level + self._below, 6), section.id, Markup(text))

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to the web, to this page, or to one beside it; of any other, its words."""
        target = self._target(url)
        return Markup('<a href="{}">{}</a>').format(target, Markup(text)) if target else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture as a part of the page; its words where it cannot be."""
        try:
            picture = super().image(text, url, title)
        except InvalidNotebook:
            return text
        return picture if 'src="data:' in picture else text

    def inline_html(self, html: str) -> str:
        """HTML within Markdown, as it stands."""
        return html

    block_html = inline_html

    def _target(self, url: str) -> str:
        if _ON_THE_WEB.match(url):
            return url
        path, _, heading = unquote(url).partition("#")
        name = path.removesuffix(".ipynb") if path else self._name
        if name not in self._places or path == name:
            return ""
        return f"{self._places[name]}#{_anchor(name, heading)}"

    def _new_id(self, heading: str) -> str:
        base = _anchor(self._name, heading)
        number = 1
        found = base
        while found in self._ids:
            number += 1
            found = f"{base}-{number}"
        self._ids.add(found)
        return found


def _anchor(notebook: str, heading: str) -> str:
    """The id of a heading: that of another notebook is another, also on one page."""
    words = re.sub(r"\W+", "-", heading.lower()).strip("-")
    return f"{notebook}-{words}" if words else notebook


REPORT = "report.html"

# What neither XML 1.0 (section 2.2) nor HTML lets stand in a text, however it is escaped.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]"
)

_LONGEST_CELL, _LONGEST_TEXT = 80, 400

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1f2328; --soft: #5b6470; --line: #d5dae0; --shade: #f4f6f8;
  --pass: #00634a; --warn: #8a5300; --fail: #a93400;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --ink: #e6e9ed; --soft: #a3adb8; --line: #363d46; --shade: #1f252c;
    --pass: #3fc79a; --warn: #f0b429; --fail: #ff8f5c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; background: var(--page);
  color: var(--ink);
  font: 1rem/1.5 -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, "DejaVu Sans", sans-serif;
}
h1 { margin: 0; font-size: 1.5rem; }
h2 { margin: 2.25rem 0 .5rem; font-size: 1.15rem; }
h3 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
p { margin: .35rem 0; }
.soft { color: var(--soft); }
.pass { color: var(--pass); } .warn { color: var(--warn); }
.fail, .broken { color: var(--fail); }
.word { font-weight: 700; white-space: nowrap; }
.verdict {
  margin: 1rem 0; padding: .75rem 1rem; border-left: .4rem solid; background: var(--shade);
  font-size: 1.15rem;
}
.verdict span { color: var(--ink); }
dl { display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; margin: 1rem 0; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th { color: var(--soft); font-weight: 600; text-align: left; vertical-align: bottom; }
th, td { padding: .35rem 1.25rem .35rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; unicode-bidi: isolate; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
code { font: .85em/1.5 ui-monospace, Consolas, Menlo, monospace; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: auto; margin-bottom: .75rem; }
img { background: #ffffff; border-radius: .4rem; }
@media print {
  :root {
    --page: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --shade: #ffffff;
    --pass: #00634a; --warn: #8a5300; --fail: #a93400;
  }
  body { max-width: none; padding: 0; font-size: .8rem; }
  .wide { overflow: visible; }
  h2, h3 { break-after: avoid; }
  tr, img { break-inside: avoid; }
}
"""

_FRAME = """
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}{% if status %}: {{ status }}{% endif %}</title>
<style>{{ style }}{% block style %}{% endblock %}</style>
</head>
<body>
<h1>{{ title }}</h1>
{%- if status %}
<p class="verdict {{ status }}"><strong class="word">{{ marks[status] }}
{{ status | upper }}</strong> <span>{{ verdict }}</span></p>
{%- endif %}
{%- if figures %}
<dl>
{%- for name, value in figures.items() %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{%- endfor %}
</dl>
{%- endif %}
{% block body %}{% endblock %}
</body>
</html>
"""

# A word and a mark beside each colour, so that none has to be told by the colour.
_MARKS = {"pass": "✓", "warn": "▲", "fail": "✗", "broken": "✗"}


def render_page(
    template: str,
    title: str,
    figures: Mapping[str, str],
    status: str = "",
    verdict: str = "",
    **values: object,
) -> str:
    """The page of a `template` that extends "frame" and fills its block `body`, and `style` if need be.

    At its head stand the title, a verdict where there is a `status` (pass, warn or fail), and the
    figures by their names. The template finds `values`, and filters for what comes from the data.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=DictLoader({"frame": _FRAME, "page": template}),
    )
    environment.filters |= {
        "clean": lambda text: printable(str(text)),
        "cell": cell_text,
        "figure": figure_text,
        "words": lambda name: printable(name.replace("_", " ")),
        "breakable": lambda name: Markup("_<wbr>").join(map(escape, name.split("_"))),
    }
    page = environment.get_template("page").render(
        title=title,
        figures=figures,
        status=status,
        verdict=verdict,
        style=Markup(_STYLE),
        marks=_MARKS,
        **values,
    )
    return f"{page.strip()}\n"


def page_names() -> set[str]:
    """Names of all files that notebooks become as pages: one each, and one for all."""
    return {REPORT, *(f"{path.stem}.html" for path in (home() / "notebooks").glob("*.ipynb"))}


def printable(text: str) -> str:
    """`text` with a replacement character (�) for each one that XML or HTML forbids."""
    return _FORBIDDEN.sub("\ufffd", text)


def cell_text(value: object, longest: int = _LONGEST_CELL) -> str:
    """A value of a row as it stands, cut at `longest` characters; nothing where it is missing."""
    text = printable("" if value is None else str(value))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def figure_text(value: object) -> str:
    """A value as people read it: separators in numbers, yes or no, the parts of a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(cell_text, value))
    return cell_text(value, _LONGEST_TEXT)


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
