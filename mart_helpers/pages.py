"""The quality report as one page of HTML: to mail, to print, to read on a phone, by day and by night."""

from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from mart_helpers.page_frame import build_figures, printable, render_page

if TYPE_CHECKING:
    from mart_helpers.drawing import Chart

_NUMBER = Markup(' class="number"')

_TEMPLATE = """
{% extends "frame" %}

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
{%- set word = outcome(check) -%}
<span class="word {{ word }}">{{ marks[word] }} {{ word }}</span>
{%- endmacro -%}

{% block style %}
.checks { width: 100%; }
td.name { overflow-wrap: anywhere; min-width: 14rem; }
.sample { margin: .5rem 0; }
.sample table { width: max-content; font-size: .8rem; }
.sample td { max-width: 18rem; overflow-wrap: break-word; white-space: pre-wrap; }
.sample th { white-space: nowrap; }
.failure { margin: 1rem 0; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .4rem; }
@media (max-width: 40rem) {
  .checks tr { display: grid; grid-template-columns: 5rem 1fr auto; }
  .checks tr { padding: .35rem 0; border-bottom: 1px solid var(--line); }
  .checks th, .checks td { padding: 0; border: 0; }
  .checks th.says { display: none; }
  .checks td.says { grid-column: 2 / -1; color: var(--soft); }
}
@media print {
  .failure { break-inside: avoid; }
}
{% endblock %}

{% block body %}
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
{% endblock %}
"""


def report_page(report: Mapping[str, object], chart: "Chart") -> str:
    """The page for a report as `write_quality_report` gives it, with the chart of its checks."""
    inches = chart.figure.get_size_inches()
    width, height = (round(side * 96) for side in inches)
    return render_page(
        _TEMPLATE,
        "Quality of the data mart",
        _figures(report),
        status=report["status"],
        verdict=verdict(report),
        report=report,
        outcome=outcome,
        side=_side,
        picture=b64encode(chart.png).decode("ascii"),
        picture_words=printable(chart.title),
        width=width,
        height=height,
    )


def verdict(report: Mapping[str, object]) -> str:
    """What a quality report says of its checks and of the quarantine, in a sentence."""
    checks, passed = report["counts"]["checks"], report["counts"]["pass"]
    if not checks:
        return "There are no checks, so nothing vouches for the mart."
    said = f"All {checks:,} checks passed"
    if passed < checks:
        said = f"{checks - passed:,} of {checks:,} checks did not pass"
    aside = report["rows_quarantined"]
    return f"{said}; {_counted(aside, 'row')} in quarantine." if aside else f"{said}."


def outcome(check: Mapping[str, object]) -> str:
    """One word for a check: pass, warn or fail by its severity, or broken."""
    is_warning = check["status"] == "fail" and check["severity"] == "warn"
    return "warn" if is_warning else str(check["status"])


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word} is" if number == 1 else f"{number:,} {word}s are"


def _figures(report: Mapping[str, object]) -> dict[str, str]:
    """The figures at the head of the page, the days that were checked where they were not all."""
    start, end = report["start_date"], report["end_date"]
    days = {"Sales checked": f"{start or 'the first'} to {end or 'the last'}"} if start or end else {}
    return build_figures(report) | days


def _side(name: str, rows: list[Mapping[str, object]]) -> str:
    """The class of a column: numbers stand at the right."""
    values = {type(row[name]) for row in rows} - {type(None)}
    return _NUMBER if values and values <= {int, float} else ""
