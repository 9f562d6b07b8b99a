"""The report as one self-contained page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from html import escape
from string import Template

from vllm_adapters.doctor.report import Report
from vllm_adapters.doctor.rows import MARKS, Row, heading, rows_of, summary

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --good: #1a7f37; --fault: #cf222e; --option: #9a6700; --quiet: #6e7781; }
@media (prefers-color-scheme: dark) {
  :root { --good: #3fb950; --fault: #ff7b72; --option: #d29922; --quiet: #8b949e; }
}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; padding: 1.2rem 0 .3rem; font-size: 1.05rem; }
td { vertical-align: top; padding: .25rem .8rem .25rem 0; border-top: 1px solid #8884; overflow-wrap: anywhere; }
td.mark { width: 1.2rem; font-weight: bold; }
td.name { width: 12rem; }
.good .mark { color: var(--good); } .fault .mark, .fault .text { color: var(--fault); }
.option .mark { color: var(--option); } .quiet td, .advice { color: var(--quiet); }
.advice { font-size: .9rem; }
code { font: .9em ui-monospace, monospace; }
pre { padding: .8rem; background: #8882; white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>$title</h1>
<p><strong>$summary</strong> $models</p>
$flags
<table>
$rows
</table>
</body>
</html>
""")


def page(report: Report) -> str:
    """The whole page."""
    lines, group = [], ""
    for row in rows_of(report):
        if row.group != group:
            group = row.group
            lines.append(f'<tr><th colspan="3">{escape(group)}</th></tr>')
        lines.append(_row(row))
    return _PAGE.substitute(
        title=escape(heading(report)),
        summary=escape(summary(report)),
        models=escape(f"Models: {', '.join(report.models)}." if report.models else ""),
        flags="\n".join(
            f"<p>{said}:</p>\n<pre>{escape(' '.join(flags))}</pre>"
            for said, flags in (
                ("Add to <code>vllm serve</code>", report.missing_flags),
                ("Could be added", report.optional_flags),
            )
            if flags
        ),
        rows="\n".join(lines),
    )


def _row(row: Row) -> str:
    finding = row.finding
    told = [f'<span class="text">{escape(finding.text)}</span>']
    if finding.flags:
        told.append(f"<br>add <code>{escape(' '.join(finding.flags))}</code>")
    if finding.advice:
        told.append(f'<br><span class="advice">{escape(finding.advice)}</span>')
    return (
        f'<tr class="{row.tone}"><td class="mark" title="{finding.verdict.value}">{MARKS[finding.verdict]}</td>'
        f'<td class="name">{escape(", ".join(row.names))}</td><td>{"".join(told)}</td></tr>'
    )
