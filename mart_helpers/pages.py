"""The quality report as one page of HTML: to mail, to print, to read on a phone, by day and by night.

The page holds all it needs, its picture included, and forbids itself to load anything. What comes from
the data is escaped by the template engine.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from decimal import Decimal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from mart_helpers.drawing import Chart

# What neither XML 1.0 (section 2.2) nor HTML lets stand in a text, however it is escaped.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]"
)
_LONGEST_CELL, _LONGEST_TEXT = 80, 400
_NUMBER = Markup(' class="number"')

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
.checks { width: 100%; }
th { color: var(--soft); font-weight: 600; text-align: left; vertical-align: bottom; }
th, td { padding: .35rem 1.25rem .35rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; unicode-bidi: isolate; }
td.name { overflow-wrap: anywhere; min-width: 14rem; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.sample { margin: .5rem 0; }
.sample table { width: max-content; font-size: .8rem; }
.sample td { max-width: 18rem; overflow-wrap: break-word; white-space: pre-wrap; }
.sample th { white-space: nowrap; }
.failure { margin: 1rem 0; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .4rem; }
code { font: .85em/1.5 ui-monospace, Consolas, Menlo, monospace; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: auto; margin-bottom: .75rem; }
img { background: #ffffff; border-radius: .4rem; }
@media (max-width: 40rem) {
  .checks tr { display: grid; grid-template-columns: 5rem 1fr auto; }
  .checks tr { padding: .35rem 0; border-bottom: 1px solid var(--line); }
  .checks th, .checks td { padding: 0; border: 0; }
  .checks th.says { display: none; }
  .checks td.says { grid-column: 2 / -1; color: var(--soft); }
}
@media print {
  :root {
    --page: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --shade: #ffffff;
    --pass: #00634a; --warn: #8a5300; --fail: #a93400;
  }
  body { max-width: none; padding: 0; font-size: .8rem; }
  .wide { overflow: visible; }
  h2, h3 { break-after: avoid; }
  tr, .failure, img { break-inside: avoid; }
}
"""

_TEMPLATE = """
{%- macro records(rows, nothing) %}
{%- if rows %}
<div class="wide"><table>
<tr>
{%- for name in rows[0] %}<th{{ side(name, rows) }}>{{ name | words }}</th>{% endfor -%}
</tr>
{%- for row in rows %}
<tr>
{%- for name, value in row.items() %}<td{{ side(name, rows) }}>{{ value | figure }}</td>{% endfor -%}
</tr>
{%- endfor %}
</table></div>
{%- else %}
<p>{{ nothing }}</p>
{%- endif %}
{%- endmacro -%}

{%- macro word(check) %}
{%- set outcome = check | outcome -%}
<span class="word {{ outcome }}">{{ marks[outcome] }} {{ outcome }}</span>
{%- endmacro -%}

<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Quality of the data mart: {{ report.status }}</title>
<style>{{ style }}</style>
</head>
<body>
<h1>Quality of the data mart</h1>
<p class="verdict {{ report.status }}"><strong class="word">{{ marks[report.status] }}
{{ report.status | upper }}</strong> <span>{{ verdict }}</span></p>
<dl>
{%- for name, value in figures.items() %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{%- endfor %}
</dl>

{%- if report.failures %}
<h2>What did not pass</h2>
{%- for failure in report.failures %}
<section class="failure">
<h3>{{ word(failure) }} {{ failure.check_name | clean }}</h3>
{%- if failure.status == "broken" %}
<p>This check could not run, so it vouches for nothing: {{ failure.sentence | clean }}</p>
{%- else %}
<p>Expected: {{ failure.sentence | clean }}</p>
<p><strong>{{ failure.bad_rows | figure }} bad {{ "row" if failure.bad_rows == 1 else "rows" }}</strong>
{%- if failure.sample | length < failure.bad_rows %}, among them{% endif %}</p>
{%- if failure.sample %}
<div class="wide sample"><table>
<tr>{% for name in failure.sample[0] %}<th>{{ name | clean }}</th>{% endfor %}</tr>
{%- for row in failure.sample %}
<tr>{% for value in row.values() %}<td>{{ value | cell }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- endif %}
<p class="soft">{{ "The query" if failure.status == "broken" else "All of them" }}:
<code>{{ failure.query | clean }}</code></p>
{%- if failure.violations %}
<p class="soft">
{%- if failure.bad_rows > report.max_violations %}The first {{ report.max_violations | figure }} of them
{%- else %}Also{% endif %} in <code>{{ failure.violations }}</code>, beside this page</p>
{%- endif %}
</section>
{%- endfor %}
{%- endif %}

<h2>What is in quarantine</h2>
{{ records(report.quarantine, "Nothing: every row that was read is loaded.") }}

<h2>Checks</h2>
<img alt="{{ picture_words }}" width="{{ width }}" height="{{ height }}"
 src="data:image/png;base64,{{ picture }}">
{%- if report.checks %}
<div class="wide"><table class="checks">
<tr><th>status</th><th>check</th><th class="number">bad rows</th><th class="says">what it says</th></tr>
{%- for check in report.checks %}
<tr><td>{{ word(check) }}</td><td class="name">{{ check.check_name | clean | breakable }}</td>
<td class="number">{{ check.bad_rows | figure }}</td>
<td class="says">{{ check.sentence | clean }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}

<h2>Where the rows come from</h2>
<p class="soft">What was read is either loaded or in quarantine.</p>
{{ records(report.inputs, "No inputs are on record.") }}

<h2>What is in the mart</h2>
{{ records(report.row_counts, "There are no tables.") }}
</body>
</html>
"""

# A word and a mark beside each colour, so that none has to be told by the colour.
_MARKS = {"pass": "✓", "warn": "▲", "fail": "✗", "broken": "✗"}


def report_page(report: Mapping[str, object], chart: Chart) -> str:
    """The page for a report as `write_quality_report` gives it, with the chart of its checks."""
    inches = chart.figure.get_size_inches()
    width, height = (round(side * 96) for side in inches)
    return (
        _environment()
        .from_string(_TEMPLATE)
        .render(
            report=report,
            style=Markup(_STYLE),
            verdict=_verdict(report),
            figures=_figures(report),
            marks=_MARKS,
            side=_side,
            picture=b64encode(chart.png).decode("ascii"),
            picture_words=printable(chart.title),
            width=width,
            height=height,
        )
    )


def printable(text: str) -> str:
    """`text` with a replacement character (�) for each one that XML or HTML forbids."""
    return _FORBIDDEN.sub("\ufffd", text)


def cell_text(value: object, longest: int = _LONGEST_CELL) -> str:
    """A value of a row as it stands, cut at `longest` characters; nothing where it is missing."""
    text = printable("" if value is None else str(value))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def outcome(check: Mapping[str, object]) -> str:
    """One word for a check: pass, warn or fail by its severity, or broken."""
    is_warning = check["status"] == "fail" and check["severity"] == "warn"
    return "warn" if is_warning else str(check["status"])


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "clean": lambda text: printable(str(text)),
        "cell": cell_text,
        "figure": _figure,
        "words": lambda name: printable(name.replace("_", " ")),
        "breakable": lambda name: Markup("_<wbr>").join(map(escape, name.split("_"))),
        "outcome": outcome,
    }
    return environment


def _verdict(report: Mapping[str, object]) -> str:
    checks, passed = report["counts"]["checks"], report["counts"]["pass"]
    if not checks:
        return "There are no checks, so nothing vouches for the mart."
    said = f"All {checks:,} checks passed"
    if passed < checks:
        said = f"{checks - passed:,} of {checks:,} checks did not pass"
    aside = report["rows_quarantined"]
    return f"{said}; {_counted(aside, 'row')} in quarantine." if aside else f"{said}."


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word} is" if number == 1 else f"{number:,} {word}s are"


def _figures(report: Mapping[str, object]) -> dict[str, str]:
    """The figures at the head of the page; what the log of the builds does not know is left out."""
    figures = {
        "Mart": report["mart"],
        "Build": report["build_id"] and str(report["build_id"]),
        "Built (UTC)": (report["built_at"] or "").replace("T", " ")[:16] or None,
        "Rows loaded": report["rows_loaded"],
        "Rows in quarantine": report["rows_quarantined"],
        "Revenue loaded": _money(report["revenue_loaded"]),
        "Revenue in quarantine": _money(report["revenue_quarantined"]),
        "Sales checked": _days(report["start_date"], report["end_date"]),
    }
    return {name: _figure(value) for name, value in figures.items() if value is not None}


def _days(start_date: str | None, end_date: str | None) -> str | None:
    """The days that were checked; nothing where they were all."""
    if not (start_date or end_date):
        return None
    return f"{start_date or 'the first'} to {end_date or 'the last'}"


def _money(value: str | None) -> str | None:
    return None if value is None else f"{Decimal(value):,.2f}"


def _figure(value: object) -> str:
    """A value as people read it: separators in numbers, yes or no, the parts of a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(cell_text, value))
    return cell_text(value, _LONGEST_TEXT)


def _side(name: str, rows: list[Mapping[str, object]]) -> str:
    """The class of a column: numbers stand at the right."""
    values = {type(row[name]) for row in rows} - {type(None)}
    return _NUMBER if values and values <= {int, float} else ""
