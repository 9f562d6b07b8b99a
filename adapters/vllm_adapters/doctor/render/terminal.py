"""Print a report to a terminal."""

from __future__ import annotations

from textwrap import indent

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_adapters.doctor.model import Report
from vllm_adapters.doctor.render.rows import MARKS, Row, flag_lists, heading, report_rows, summary

__all__ = ["print_report"]

_STYLE = {"good": "green", "fault": "bold red", "option": "yellow", "quiet": "dim"}
_TEXT_STYLE = {"good": "", "fault": "red", "option": "", "quiet": "dim"}
_NAMES_WIDTH = 24  # terminal columns


def print_report(report: Report, console: Console) -> None:
    """Print the table, the flags to add and the summary."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(max_width=_NAMES_WIDTH)
    table.add_column(overflow="fold")
    group = ""
    for row in report_rows(report):
        if row.group != group:
            group = row.group
            table.add_row("", "", "")
            table.add_row("", Text(group, "bold"), "")
        style = _STYLE[row.tone]
        table.add_row(Text(MARKS[row.finding.verdict], style), Text(", ".join(row.names)), _finding_text(row))
    console.print(Text(heading(report), "bold"))
    console.print(table)
    console.print()
    for title, flags in flag_lists(report):
        console.print(Text(f"{title}:", "bold"))
        console.print(Text(indent(flags, "  "), "cyan"), soft_wrap=True)
    console.print(Text(summary(report), "bold" if report.exit_code else "bold green"))


def _finding_text(row: Row) -> Text:
    lines = [(row.finding.text, _TEXT_STYLE[row.tone])]
    lines += [(f"add {flag}", "cyan") for flag in row.finding.flags]
    lines += [(row.finding.advice, "dim")] if row.finding.advice else []
    return Text("\n").join(Text(*line) for line in lines)
