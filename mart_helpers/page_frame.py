"""What our pages share: a frame that holds all it needs, and a quiet style for screen, phone and paper.

A page forbids itself to load anything, and to run anything. What comes from the data is escaped by the
template engine.
"""

import re
from collections.abc import Mapping
from decimal import Decimal

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from mart_helpers.project import home

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
