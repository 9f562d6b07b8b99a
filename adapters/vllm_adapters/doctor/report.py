"""What an examination found, as an object and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from vllm_adapters.doctor.findings import Check, Finding, Verdict

FORMAT = 1
"""Version of the JSON report: raised when a key changes its meaning or goes."""

_AT_FAULT = (Verdict.LACKS, Verdict.BROKEN)


@dataclass(frozen=True)
class Result:
    """One check and what it found."""

    check: Check
    finding: Finding

    @property
    def at_fault(self) -> bool:
        """Whether this makes the server one that lacks something."""
        return self.check.counts and self.finding.verdict in _AT_FAULT


@dataclass(frozen=True)
class Report:
    """What an examination found.

    Args:
        address: Base URL of the server.
        version: Its vLLM version, if it tells.
        models: The names it serves.
        routes: The paths it says it has mounted.
        results: Every check, in order.
        requests: How many requests it took.
        usable: Whether there is a vLLM that answers us.
        complete: Whether it was asked everything: it did not stop answering, and the time sufficed.
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
        """What the command line exits with.

        0: all that the model can do works; 1: something lacks or is broken, or not all could be asked;
        2: nothing usable there.
        """
        if not self.usable:
            return 2
        return int(not self.complete or any(result.at_fault for result in self.results))

    @property
    def missing_flags(self) -> tuple[str, ...]:
        """What to add to `vllm serve` so that what lacks is there."""
        return _flags(result for result in self.results if result.at_fault)

    @property
    def optional_flags(self) -> tuple[str, ...]:
        """What `vllm serve` could be given as well; a server without is whole."""
        found = _flags(result for result in self.results if not result.at_fault)
        return tuple(flag for flag in found if flag not in self.missing_flags)

    def __getitem__(self, name: str) -> Finding:
        """The finding of the check of that name."""
        return {result.check.name: result.finding for result in self.results}[name]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values; ``format`` tells the version of this form."""
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
            "checks": [_as_json(result) for result in self.results],
        }


def _as_json(result: Result) -> dict[str, Any]:
    check = {name: getattr(result.check, name) for name in ("name", "group", "asks", "counts")}
    finding = asdict(result.finding)
    return {**check, **finding, "verdict": result.finding.verdict.value, "flags": list(result.finding.flags)}


def _flags(results: Iterable[Result]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flag for result in results for flag in result.finding.flags))
