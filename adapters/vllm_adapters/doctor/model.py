"""What a check is, and what can come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_adapters.doctor.probe import Visit


class Verdict(StrEnum):
    """What came of a check."""

    WORKS = "works"
    LACKS = "lacks"
    """It could be there: the finding's flags or advice say how."""
    BROKEN = "broken"
    """It answers, but not what was asked for."""
    ABSENT = "absent"
    """Not there for this model: no flag would help."""
    UNCLEAR = "unclear"
    """Tried, but it cannot be told."""
    UNTRIED = "untried"


_NAMES = {
    "--tool-call-parser NAME": "`vllm serve --help=tool-call-parser` lists the names",
    "--reasoning-parser NAME": "`vllm serve MODEL --reasoning-parser list` ends with the names, as there is no `list`",
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        verdict: What came of it.
        text: The finding, in a line.
        flags: What to add to `vllm serve`, each with its value.
        advice: The way out where it is no flag, or what else there is to say of it.
        data: What was measured, as JSON values.
    """

    verdict: Verdict
    text: str
    flags: tuple[str, ...] = ()
    advice: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Check:
    """One question to a server.

    Args:
        name: Its stable name, such as ``"tools-auto"``.
        group: What it belongs to, such as ``"tools"``.
        asks: The question, in a line.
        examine: Asks it. Errors of the server are judged by whoever calls this.
        route: The route it needs: a server that lists its routes without this one is not asked.
        counts: Whether a lack is a fault of the server, and not just something left switched off.
    """

    name: str
    group: str
    asks: str
    examine: Callable[[Visit], Finding]
    route: str | None = None
    counts: bool = True


class Unusable(Exception):
    """There is nothing at this address that could be examined further; holds the last finding."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.finding = Finding(Verdict.BROKEN, text, advice=advice)


def works(text: str, **data: Any) -> Finding:
    """It works."""
    return Finding(Verdict.WORKS, text, data=data)


def lacks(text: str, *flags: str, advice: str = "") -> Finding:
    """It could be there, with these flags; a value that cannot be told is ``NAME``."""
    return Finding(Verdict.LACKS, text, flags, _with_names(advice, flags))


def broken(text: str, *flags: str, advice: str = "") -> Finding:
    """It answers, but not what was asked for."""
    return Finding(Verdict.BROKEN, text, flags, _with_names(advice, flags))


def _with_names(advice: str, flags: tuple[str, ...]) -> str:
    return ". ".join(filter(None, (advice, *(_NAMES[flag] for flag in flags if flag in _NAMES))))


def absent(text: str) -> Finding:
    """No flag would help."""
    return Finding(Verdict.ABSENT, text)


def unclear(text: str, advice: str = "") -> Finding:
    """It cannot be told."""
    return Finding(Verdict.UNCLEAR, text, advice=advice)


def untried(text: str) -> Finding:
    """It was not asked."""
    return Finding(Verdict.UNTRIED, text)


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
