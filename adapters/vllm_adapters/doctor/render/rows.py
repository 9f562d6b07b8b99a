"""The rows of a report for readers: what needs no line of its own stands together."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from vllm_adapters.doctor.model import Finding, Report, Result, Verdict

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
    """Every finding, in order; in each group, checks that found the same are one row, and what this model has
    not comes last. Of a server that is not usable nothing that was not asked.
    """
    rows: list[Row] = []
    for group, results in groupby(_told(report), key=lambda result: result.check.group):
        alike: dict[tuple[Finding, str], list[str]] = {}
        for result in results:
            alike.setdefault((_read(result.finding), _tone(result)), []).append(result.check.name)
        found = [Row(group, tuple(names), finding, tone) for (finding, tone), names in alike.items()]
        rows += sorted(found, key=lambda row: row.finding.verdict is Verdict.ABSENT)
    return rows


def _told(report: Report) -> list[Result]:
    if report.usable:
        return list(report.results)
    return [result for result in report.results if result.finding.verdict is not Verdict.UNTRIED]


def _read(finding: Finding) -> Finding:
    """What of a finding is read: no data, and no route where there is none."""
    text = finding.text.partition(" (")[0] if finding.verdict is Verdict.ABSENT else finding.text
    return Finding(finding.verdict, text, finding.flags, finding.advice)


def _tone(result: Result) -> str:
    if result.finding.verdict is Verdict.WORKS:
        return "good"
    if result.at_fault:
        return "fault"
    return "option" if result.finding.verdict in (Verdict.LACKS, Verdict.BROKEN) else "quiet"


def flag_lists(report: Report) -> list[tuple[str, str]]:
    """What to add to `vllm serve`: why, and the flags, a line each, to be pasted into a shell."""
    lists = (("Add to vllm serve", report.missing_flags), ("Could be added", report.optional_flags))
    return [(why, " \\\n".join(flags)) for why, flags in lists if flags]


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
    whole = "All that this model can do works." if report.complete else "Nothing else was found at fault."
    state = f"At fault: {', '.join(faults)}." if faults else whole
    rest = "" if report.complete else " Not all could be asked."
    trap = f" But mind {', '.join(traps)}." if traps else ""
    return f"{state}{trap}{rest} {report.requests} requests, nothing changed."
