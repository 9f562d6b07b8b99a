"""The report in a terminal."""

from __future__ import annotations

from textwrap import indent

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_adapters.doctor.model import Report
from vllm_adapters.doctor.render.rows import MARKS, Row, flag_lists, heading, rows_of, summary

_STYLE = {"good": "green", "fault": "bold red", "option": "yellow", "quiet": "dim"}
_TEXT_STYLE = {"good": "", "fault": "red", "option": "", "quiet": "dim"}
_NAMES = 24  # columns of the terminal


def show(report: Report, console: Console) -> None:
    """Print the table, the flags to add, and how it stands."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(max_width=_NAMES)
    table.add_column(overflow="fold")
    group = ""
    for row in rows_of(report):
        if row.group != group:
            group = row.group
            table.add_row("", "", "")
            table.add_row("", Text(group, "bold"), "")
        style = _STYLE[row.tone]
        table.add_row(Text(MARKS[row.finding.verdict], style), Text(", ".join(row.names)), _told(row))
    console.print(Text(heading(report), "bold"))
    console.print(table)
    console.print()
    for why, flags in flag_lists(report):
        console.print(Text(f"{why}:", "bold"))
        console.print(Text(indent(flags, "  "), "cyan"), soft_wrap=True)
    console.print(Text(summary(report), "bold" if report.exit_code else "bold green"))


def _told(row: Row) -> Text:
    lines = [(row.finding.text, _TEXT_STYLE[row.tone])]
    lines += [(f"add {flag}", "cyan") for flag in row.finding.flags]
    lines += [(row.finding.advice, "dim")] if row.finding.advice else []
    return Text("\n").join(Text(*line) for line in lines)
