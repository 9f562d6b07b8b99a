"""Table rows of a report. Checks of one group with the same finding share a row."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from vllm_adapters.doctor.model import Finding, Report, Result, Verdict

__all__ = ["MARKS", "Row", "flag_lists", "heading", "report_rows", "summary"]

MARKS = {
    Verdict.WORKS: "✓",
    Verdict.LACKS: "○",
    Verdict.BROKEN: "✗",
    Verdict.ABSENT: "–",
    Verdict.UNCLEAR: "?",
    Verdict.UNTRIED: "·",
}


class Row(NamedTuple):
    """One table row.

    Args:
        group: Group of the checks.
        names: Names of the checks that share the finding.
        finding: The finding.
        tone: Style: ``good``, ``fault``, ``option`` (does not affect the exit code) or ``quiet``.
    """

    group: str
    names: tuple[str, ...]
    finding: Finding
    tone: str


def report_rows(report: Report) -> list[Row]:
    """Return the rows of a report, in order. Unsupported features come last in each group.

    Skipped checks of an unusable server are left out.
    """
    rows: list[Row] = []
    for group, results in groupby(_visible_results(report), key=lambda result: result.check.group):
        names: dict[tuple[Finding, str], list[str]] = {}
        for result in results:
            names.setdefault((_visible_part(result.finding), _tone(result)), []).append(result.check.name)
        group_rows = [Row(group, tuple(same), finding, tone) for (finding, tone), same in names.items()]
        rows += sorted(group_rows, key=lambda row: row.finding.verdict is Verdict.ABSENT)
    return rows


def _visible_results(report: Report) -> list[Result]:
    if report.usable:
        return list(report.results)
    return [result for result in report.results if result.finding.verdict is not Verdict.UNTRIED]


def _visible_part(finding: Finding) -> Finding:
    """Drop the data, and the route of an unsupported feature, so that equal findings share a row."""
    text = finding.text.partition(" (")[0] if finding.verdict is Verdict.ABSENT else finding.text
    return Finding(finding.verdict, text, finding.flags, finding.advice)


def _tone(result: Result) -> str:
    if result.finding.verdict is Verdict.WORKS:
        return "good"
    if result.at_fault:
        return "fault"
    return "option" if result.finding.verdict in (Verdict.LACKS, Verdict.BROKEN) else "quiet"


def flag_lists(report: Report) -> list[tuple[str, str]]:
    """Return the lists of flags for ``vllm serve``: a title, and one flag per line, ready to paste into a shell."""
    lists = (("Add to vllm serve", report.missing_flags), ("Optional for vllm serve", report.optional_flags))
    return [(title, " \\\n".join(flags)) for title, flags in lists if flags]


def heading(report: Report) -> str:
    """Return the address and version of the server."""
    version = f"vLLM {report.version}" if report.version else "vLLM of unknown version"
    return f"{report.address}: {version}" if report.usable else report.address


def summary(report: Report) -> str:
    """Return the overall result in one line."""
    if not report.usable:
        return "No usable vLLM server."
    faults = [result.check.name for result in report.results if result.at_fault]
    broken = [
        result.check.name
        for result in report.results
        if not result.at_fault and result.finding.verdict is Verdict.BROKEN
    ]
    no_faults = "Everything that this model supports works." if report.complete else "No other problem was found."
    sentences = [f"Missing or broken: {', '.join(faults)}." if faults else no_faults]
    if broken:
        sentences.append(f"Also broken, without effect on the exit code: {', '.join(broken)}.")
    if not report.complete:
        sentences.append("Not all checks could run.")
    sentences.append(f"Sent {report.requests} requests, which changed nothing on the server.")
    return " ".join(sentences)
