"""What a check is, and what can come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_adapters.doctor.visit import Visit


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
