"""Checks, findings and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_adapters.doctor.probe import Probe

__all__ = [
    "FORMAT",
    "Check",
    "Finding",
    "Report",
    "Result",
    "UnusableServer",
    "Verdict",
    "broken",
    "missing",
    "skipped",
    "unknown",
    "unsupported",
    "works",
]

FORMAT = 1
"""Version of the JSON report. Raised when the meaning of a key changes or a key is removed."""


class Verdict(StrEnum):
    """Outcome of a check."""

    WORKS = "works"
    LACKS = "lacks"
    """Missing, but available: the finding names the flags or gives advice."""
    BROKEN = "broken"
    """Available, but the result is wrong."""
    ABSENT = "absent"
    """Not supported by the model or the version: no flag adds it."""
    UNCLEAR = "unclear"
    """Tried, with an inconclusive result."""
    UNTRIED = "untried"
    """Skipped."""


_FAULTS = (Verdict.LACKS, Verdict.BROKEN)

_PARSER_NAMES = {
    "--tool-call-parser NAME": "`vllm serve --help=tool-call-parser` lists the names",
    "--reasoning-parser NAME": "`vllm serve MODEL --reasoning-parser list` fails and lists the names",
}


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        verdict: The outcome.
        text: Summary in one line.
        flags: Flags to add to ``vllm serve``, each with its value.
        advice: What to do instead of, or besides, adding flags.
        data: Measurements, as JSON values.
    """

    verdict: Verdict
    text: str
    flags: tuple[str, ...] = ()
    advice: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Check:
    """One check of a server.

    Args:
        name: Stable name, such as ``"tools-auto"``.
        group: Group it belongs to, such as ``"tools"``.
        asks: The question it answers, in one line.
        run: Performs the check. The caller converts server errors into findings.
        route: Route it needs. Without it in the server's list of routes, the check does not run.
        counts: Whether a missing or broken feature affects the exit code.
    """

    name: str
    group: str
    asks: str
    run: Callable[[Probe], Finding]
    route: str | None = None
    counts: bool = True


@dataclass(frozen=True)
class Result:
    """A check with its finding."""

    check: Check
    finding: Finding

    @property
    def at_fault(self) -> bool:
        """Whether this result makes the exit code nonzero."""
        return self.check.counts and self.finding.verdict in _FAULTS


@dataclass(frozen=True)
class Report:
    """Results of all checks of one server.

    Args:
        address: Base URL of the server.
        version: vLLM version, if the server reports it.
        models: Served model names.
        routes: Paths that the server lists as mounted.
        results: One result per check, in order.
        requests: Number of requests sent.
        usable: Whether a vLLM server responded and gave access.
        complete: Whether all checks ran, without a lost connection or the time limit ending them early.
    """

    address: str
    version: str | None
    models: tuple[str, ...]
    routes: tuple[str, ...]
    results: tuple[Result, ...]
    requests: int
    usable: bool
    complete: bool

    @property
    def exit_code(self) -> int:
        """Exit code of the command line.

        0: everything that the model supports works. 1: a feature is missing or broken, or the report is
        incomplete. 2: no usable vLLM server.
        """
        if not self.usable:
            return 2
        return int(not self.complete or any(result.at_fault for result in self.results))

    @property
    def missing_flags(self) -> tuple[str, ...]:
        """Flags for ``vllm serve`` that fix what affects the exit code."""
        return _unique_flags(result for result in self.results if result.at_fault)

    @property
    def optional_flags(self) -> tuple[str, ...]:
        """Further flags for ``vllm serve``, for features that do not affect the exit code."""
        flags = _unique_flags(result for result in self.results if not result.at_fault)
        return tuple(flag for flag in flags if flag not in self.missing_flags)

    def __getitem__(self, name: str) -> Finding:
        """Return the finding of the check with this name."""
        return {result.check.name: result.finding for result in self.results}[name]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values. ``format`` is the version of this structure."""
        return {
            "format": FORMAT,
            "address": self.address,
            "usable": self.usable,
            "complete": self.complete,
            "exit_code": self.exit_code,
            "version": self.version,
            "models": list(self.models),
            "routes": list(self.routes),
            "requests": self.requests,
            "missing_flags": list(self.missing_flags),
            "optional_flags": list(self.optional_flags),
            "checks": [_result_as_json(result) for result in self.results],
        }


def _result_as_json(result: Result) -> dict[str, Any]:
    check = {name: getattr(result.check, name) for name in ("name", "group", "asks", "counts")}
    finding = asdict(result.finding)
    return {**check, **finding, "verdict": result.finding.verdict.value, "flags": list(result.finding.flags)}


def _unique_flags(results: Iterable[Result]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flag for result in results for flag in result.finding.flags))


class UnusableServer(Exception):
    """Raised by a check that makes all further checks pointless. Holds the last finding."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.finding = Finding(Verdict.BROKEN, text, advice=advice)


def works(text: str, **data: Any) -> Finding:
    """Return a finding for a feature that works."""
    return Finding(Verdict.WORKS, text, data=data)


def missing(text: str, *flags: str, advice: str = "") -> Finding:
    """Return a finding for a feature that these flags would add. ``NAME`` stands for an unknown value."""
    return Finding(Verdict.LACKS, text, flags, _add_parser_names(advice, flags))


def broken(text: str, *flags: str, advice: str = "") -> Finding:
    """Return a finding for a feature with a wrong result."""
    return Finding(Verdict.BROKEN, text, flags, _add_parser_names(advice, flags))


def _add_parser_names(advice: str, flags: tuple[str, ...]) -> str:
    """Extend the advice by how to find the value of a flag that ends with ``NAME``."""
    return ". ".join(filter(None, (advice, *(_PARSER_NAMES[flag] for flag in flags if flag in _PARSER_NAMES))))


def unsupported(text: str) -> Finding:
    """Return a finding for a feature that no flag would add."""
    return Finding(Verdict.ABSENT, text)


def unknown(text: str, advice: str = "") -> Finding:
    """Return a finding for an inconclusive check."""
    return Finding(Verdict.UNCLEAR, text, advice=advice)


def skipped(text: str) -> Finding:
    """Return a finding for a check that did not run."""
    return Finding(Verdict.UNTRIED, text)
