"""Executed notebooks as pages of HTML, to read or to mail: a page each, or all of them in one report.

A page has the prose, tables and pictures of its notebooks, their code where it is asked for, and a table
of contents. It loads nothing and runs nothing: pictures are a part of it. The same executed notebook and
the same mart give the same bytes.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

import nbformat
from markupsafe import Markup
from nbconvert.filters import strip_ansi
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import InvalidNotebook, IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mart_helpers.files import whole_files
from mart_helpers.inspecting import last_build
from mart_helpers.opening import open_published
from mart_helpers.page_frame import REPORT, build_figures, figure_text, printable, render_page
from mart_helpers.pages import verdict
from mart_helpers.parameters import PATHS, notebook_parameters
from mart_helpers.project import home
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
