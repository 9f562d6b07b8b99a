"""Render a report as one self-contained HTML page, without scripts or external resources."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from itertools import groupby
from string import Template

from vllm_adapters._version import __version__
from vllm_adapters.doctor.model import Report
from vllm_adapters.doctor.render.rows import MARKS, Row, flag_lists, heading, report_rows, summary

__all__ = ["render_html"]

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --page: #f6f8fa; --card: #fff; --line: #d8dee4; --text: #1f2328; --quiet: #656d76;
  --good: #1a7f37; --fault: #cf222e; --option: #9a6700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --card: #161b22; --line: #30363d; --text: #e6edf3; --quiet: #8b949e;
    --good: #3fb950; --fault: #ff7b72; --option: #d29922;
  }
}
* { box-sizing: border-box; }
body {
  font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem;
  background: var(--page); color: var(--text); overflow-wrap: anywhere;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { margin: 0; }
section, .state { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.state { padding: .8rem 1rem; border-left: .3rem solid var(--good); }
.state.fault { border-left-color: var(--fault); }
.state p { font-weight: 600; }
pre { margin: .2rem 0 0; white-space: pre-wrap; }
.flags { margin-top: .8rem; }
code, pre { font: .87em/1.6 ui-monospace, Menlo, Consolas, monospace; }
dl { margin: 0; }
dl > div { display: grid; grid-template-columns: 1rem 11.5rem 1fr; gap: 0 .8rem; padding: .4rem .9rem; }
dl > div + div { border-top: 1px solid var(--line); }
dd { margin: 0; }
.mark { font-weight: bold; }
.good .mark { color: var(--good); }
.fault .mark, .fault .text { color: var(--fault); }
.option .mark { color: var(--option); }
.quiet, .advice, footer { color: var(--quiet); }
.advice, footer { font-size: .9rem; }
footer { margin-top: 1.6rem; }
@media (max-width: 40rem) {
  dl > div { grid-template-columns: 1rem 1fr; }
  dl > div > dd { grid-column: 2; }
  dt { font-weight: 600; }
}
</style>
</head>
<body>
<h1>$title</h1>
<div class="state $state">
<p>$summary</p>
$flags
</div>
$groups
<footer>$legend<br>vllm-adapters $package_version doctor, $time</footer>
</body>
</html>
""")


def render_html(report: Report) -> str:
    """Return the HTML page of a report."""
    return _PAGE.substitute(
        title=escape(heading(report)),
        state="fault" if report.exit_code else "",
        summary=escape(summary(report)),
        flags="\n".join(
            f'<div class="flags">{escape(title)}:\n<pre>{escape(flags)}</pre></div>'
            for title, flags in flag_lists(report)
        ),
        groups="\n".join(
            f"<h2>{escape(group)}</h2>\n<section><dl>\n{''.join(map(_row, rows))}</dl></section>"
            for group, rows in groupby(report_rows(report), key=lambda row: row.group)
        ),
        legend=" &nbsp; ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items()),
        package_version=__version__,
        time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _row(row: Row) -> str:
    finding = row.finding
    parts = [f'<span class="text">{escape(finding.text)}</span>']
    parts += [f"<br>add <code>{escape(flag)}</code>" for flag in finding.flags]
    if finding.advice:
        parts.append(f'<br><span class="advice">{escape(finding.advice)}</span>')
    return (
        f'<div class="{row.tone}"><dt class="mark" title="{finding.verdict.value}">{MARKS[finding.verdict]}</dt>'
        f"<dt>{escape(', '.join(row.names))}</dt><dd>{''.join(parts)}</dd></div>\n"
    )
