"""Markers of tests whose result depends on the version of vLLM.

A marked test runs on every version. On an older one, it must end with the error that its marker names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from packaging.version import Version

from vllm_adapters.errors import ConstraintNotEnforced, InvalidResponse, TruncatedOutput

__all__ = ["MARKERS", "Expectation", "check_end", "expectation"]

MARKERS = (
    "vllm_since(version, *, before, match='', sometimes=False, reason='', only=''): on a vLLM before this version, the "
    "test must end with the error `before`, whose text matches `match`; `sometimes`: or pass. An AssertionError shows "
    "what an older server does. With `reason` alone, the test has no meaning there, and is skipped. "
    "`only`: of a parametrized test, the parameters whose id matches.",
    "not_enforced_before(version, *, match='', only=''): a vLLM before this version does not enforce the constraint of "
    "this test. There the test must pass, because the model happens to keep to it, or end with an error that says so: "
    "ConstraintNotEnforced, InvalidResponse or TruncatedOutput; or with another error whose text matches `match`. "
    "`only`: of a parametrized test, the parameters whose id matches.",
)
"""The markers' descriptions, as pytest registers them."""

_NOT_ENFORCED = (ConstraintNotEnforced, InvalidResponse, TruncatedOutput)


@dataclass(frozen=True)
class Expectation:
    """How a test must end on a server that is older than the test requires.

    Args:
        since: The first version on which the test passes.
        errors: The errors that end it before.
        match: Regular expression that the text of the error must match.
        or_match: Regular expression; any error whose text matches it may end the test, too.
        may_pass: Whether it may pass, too.
        skip: Reason to skip it.
    """

    since: str
    errors: tuple[type[BaseException], ...]
    match: str = ""
    or_match: str = ""
    may_pass: bool = False
    skip: str = ""

    def accepts(self, error: BaseException) -> bool:
        """Return whether a test may end with this error."""
        text = str(error)
        return (isinstance(error, self.errors) and re.search(self.match, text) is not None) or (
            bool(self.or_match) and re.search(self.or_match, text) is not None
        )


def expectation(item: pytest.Item, version: Version) -> Expectation | None:
    """Return how a test must end on this version; ``None`` if it must pass.

    Raises:
        pytest.UsageError: A marker is malformed.
    """
    older = [found for found in _expectations(item) if version < Version(found.since)]
    # The nearest marker is the first: that of a parameter, of the function, of the class.
    return older[0] if older else None


def _expectations(item: pytest.Item) -> Iterator[Expectation]:
    parameters = item.callspec.id if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ""
    makers = {"vllm_since": _since, "not_enforced_before": _not_enforced}
    for marker in item.iter_markers():
        options = dict(marker.kwargs)
        if marker.name in makers and re.search(options.pop("only", ""), parameters):
            yield makers[marker.name](*marker.args, **options)


def _since(
    version: str,
    *,
    before: type[BaseException] | tuple[type[BaseException], ...] = (),
    match: str = "",
    sometimes: bool = False,
    reason: str = "",
) -> Expectation:
    errors = before if isinstance(before, tuple) else (before,)
    if not errors and not reason:
        raise pytest.UsageError(f"vllm_since({version!r}) must state what happens before. Pass before= or reason=.")
    return Expectation(version, errors, match, may_pass=sometimes, skip="" if errors else reason)


def _not_enforced(version: str, *, match: str = "") -> Expectation:
    return Expectation(version, _NOT_ENFORCED, may_pass=True, or_match=match)


def check_end(expected: Expectation, version: Version, error: BaseException | None) -> None:
    """Fail unless a test ended as expected.

    Args:
        expected: How it must end.
        version: Version of the server.
        error: What ended it; ``None`` if it passed.

    Raises:
        AssertionError: It ended in another way.
    """
    names = " or ".join(error_class.__name__ for error_class in expected.errors)
    text = f"{names} that matches {expected.match!r}" if expected.match else names
    text += f", or an error that matches {expected.or_match!r}" if expected.or_match else ""
    if error is None:
        if expected.may_pass:
            return
        raise AssertionError(
            f"The test passed on vLLM {version}, although before {expected.since} it must end with {text}. "
            "Correct its marker."
        )
    if not expected.accepts(error):
        raise AssertionError(
            f"On vLLM {version}, before {expected.since}, the test must end with {text}, "
            f"not with {type(error).__name__}: {error}"
        ) from error
