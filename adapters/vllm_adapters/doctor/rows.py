"""The rows of a report for readers: what needs no line of its own stands together."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from vllm_adapters.doctor.findings import Finding, Verdict
from vllm_adapters.doctor.report import Report, Result

MARKS = {
    Verdict.WORKS: "✓",
    Verdict.LACKS: "○",
    Verdict.BROKEN: "✗",
    Verdict.ABSENT: "–",
    Verdict.UNCLEAR: "?",
    Verdict.UNTRIED: "·",
}


class Row(NamedTuple):
    """One row: the checks it stands for, what they found, and how it is to be seen.

    ``tone`` is ``good``, ``fault``, ``option`` (a lack that is no fault) or ``quiet``.
    """

    group: str
    names: tuple[str, ...]
    finding: Finding
    tone: str


def rows_of(report: Report) -> list[Row]:
    """Every finding, in order; in each group what this model has not is one row. Nothing that was not asked
    because the visit was over.
    """
    rows: list[Row] = []
    for group, results in groupby(_told(report), key=lambda result: result.check.group):
        gone: list[Result] = []
        for result in results:
            if result.finding.verdict is Verdict.ABSENT:
                gone.append(result)
            else:
                rows.append(Row(group, (result.check.name,), result.finding, _tone(result)))
        for text, same in groupby(sorted(gone, key=_absence), key=_absence):
            rows.append(Row(group, tuple(r.check.name for r in same), Finding(Verdict.ABSENT, text), "quiet"))
    return rows


def _told(report: Report) -> list[Result]:
    if report.usable:
        return list(report.results)
    return [result for result in report.results if result.finding.verdict is not Verdict.UNTRIED]


def _absence(result: Result) -> str:
    return result.finding.text.partition(" (")[0]


def _tone(result: Result) -> str:
    if result.finding.verdict is Verdict.WORKS:
        return "good"
    if result.at_fault:
        return "fault"
    return "option" if result.finding.verdict in (Verdict.LACKS, Verdict.BROKEN) else "quiet"


def heading(report: Report) -> str:
    """What was examined, in a line."""
    version = report.version or "of a version it does not tell"
    return f"{report.address}: vLLM {version}" if report.usable else report.address


def summary(report: Report) -> str:
    """How it stands, in a line."""
    if not report.usable:
        return "Nothing usable there."
    faults = [result.check.name for result in report.results if result.at_fault]
    traps = [
        result.check.name
        for result in report.results
        if not result.at_fault and result.finding.verdict is Verdict.BROKEN
    ]
    state = f"At fault: {', '.join(faults)}." if faults else "All that this model can do works."
    trap = f" But mind {', '.join(traps)}." if traps else ""
    return f"{state}{trap} {report.requests} requests, nothing changed."
