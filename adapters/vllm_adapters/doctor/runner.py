"""Run all checks and collect their findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from packaging.version import Version
from pydantic import SecretStr

from vllm_adapters import errors
from vllm_adapters.doctor.checks import CHECKS
from vllm_adapters.doctor.model import (
    Check,
    Finding,
    Report,
    Result,
    UnusableServer,
    broken,
    missing,
    skipped,
    unsupported,
)
from vllm_adapters.doctor.parsers import SINCE
from vllm_adapters.doctor.probe import CONNECTION_ERRORS, Probe
from vllm_adapters.local.releases import FLAG_SINCE

__all__ = ["examine", "run_checks"]

_PARSE_ERRORS = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Raised while reading a reply whose fields have unexpected types, which the OpenAI client does not validate."""

_NOT_MOUNTED = "the route is not mounted for this model"


def examine(
    base_url: str | None = None,
    *,
    api_key: str | SecretStr | None = None,
    model: str | None = None,
    time_limit: float = 300.0,
    before: Callable[[Check], None] = lambda check: None,
) -> Report:
    """Check what a server supports. Sends a few dozen small requests, and changes nothing on the server.

    >>> from vllm_adapters.doctor import examine
    >>> report = examine("http://localhost:8000")  # vllm serve an embedding model
    >>> report["embeddings"].text
    '2 vectors of 384 dimensions'
    >>> report["chat"].verdict.value, report.missing_flags  # an embedding model does not chat, and no flag changes that
    ('absent', ())

    Args:
        base_url: As for ``VLLMServer``.
        api_key: As for ``VLLMServer``.
        model: Served model to use. Default: the first base model.
        time_limit: Time limit for all checks together, in seconds. The report lists the checks that it skipped.
        before: Called before each check, to show progress.

    Raises:
        WrongAddress: ``base_url`` is not a valid address. Errors of the server are findings and are not raised.
    """
    with Probe(base_url, api_key, model, time_limit) as probe:
        results, complete = run_checks(probe, before)
        return Report(
            address=probe.server.base_url,
            version=probe.sanitize(str(probe.version)) if probe.version else None,
            models=probe.sanitize(tuple(card.id for card in probe.cards)),
            routes=probe.sanitize(tuple(sorted(probe.routes))),
            results=results,
            requests=probe.requests,
            usable=bool(probe.cards),
            complete=complete,
        )


def run_checks(probe: Probe, before: Callable[[Check], None]) -> tuple[tuple[Result, ...], bool]:
    """Run the checks in order, and skip the remaining ones once the server stops responding.

    Args:
        probe: Connection to the server, entered.
        before: Called before each check.

    Returns:
        One result per check, and whether none was skipped for this reason.
    """
    results, stopped = [], ""
    for check in CHECKS:
        if stopped:
            results.append(Result(check, skipped(stopped)))
            continue
        before(check)
        try:
            finding = _run(check, probe)
        except UnusableServer as error:
            finding, stopped = error.finding, error.finding.text
        except CONNECTION_ERRORS as error:
            finding = _connection_lost(error, probe)
            stopped = "time limit reached" if probe.timed_out else f"the server stopped responding in {check.name}"
        except errors.VLLMError as error:
            finding = _from_error(error, probe)
        except _PARSE_ERRORS as error:
            finding = broken(f"malformed reply ({type(error).__name__}: {error})")
        results.append(Result(check, _sanitize(_for_version(finding, probe.version), probe)))
    return tuple(results), not stopped


def _run(check: Check, probe: Probe) -> Finding:
    if check.route and probe.routes and check.route not in probe.routes:
        return unsupported(f"{_NOT_MOUNTED} (no {check.route})")
    return check.run(probe)


def _connection_lost(error: errors.VLLMError, probe: Probe) -> Finding:
    if probe.timed_out:
        return broken(f"time limit of {probe.time_limit:g} s exceeded", advice="Extend it with --time-limit SECONDS")
    return broken(f"the server stopped responding: {_reason(error, probe)}")


def _from_error(error: errors.VLLMError, probe: Probe) -> Finding:
    """Convert an error of the server into the finding of the check that caused it."""
    if isinstance(error, errors.FeatureNotEnabled):
        return missing(_reason(error, probe), *probe.add_parser_names(error.flags))
    if isinstance(error, errors.ContextLengthExceeded):
        return missing(_reason(error, probe), "--max-model-len TOKENS")
    if isinstance(error, errors.UnsupportedParameter):
        return unsupported(_reason(error, probe))
    if isinstance(error, errors.WrongAddress):
        return unsupported(_NOT_MOUNTED)
    if isinstance(error, errors.InvalidRequest) and "does not support" in error.message:
        return unsupported(_reason(error, probe))
    return broken(_reason(error, probe))


def _reason(error: errors.VLLMError, probe: Probe) -> str:
    """Return the server's own message, or the reason of the error."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return " ".join(probe.redact(str(message or error.reason)).split())[:300]


def _for_version(finding: Finding, version: Version | None) -> Finding:
    """Remove flags that the server's version does not have: with them it would not start."""
    if version is None:
        return finding
    flags, advice = [], [finding.advice] if finding.advice else []
    for flag in finding.flags:
        name, _, value = flag.partition(" ")
        since = FLAG_SINCE.get(name) or (SINCE.get(value) if name.endswith("-parser") else None)
        if since is None or version >= since:
            flags.append(flag)
        else:
            advice.append(f"vLLM {since} or newer has {flag}")
    return replace(finding, flags=tuple(flags), advice=". ".join(advice))


def _sanitize(finding: Finding, probe: Probe) -> Finding:
    fields = {name: probe.sanitize(getattr(finding, name)) for name in ("text", "flags", "advice", "data")}
    return replace(finding, **fields)
