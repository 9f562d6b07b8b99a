"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from pydantic import SecretStr

from vllm_adapters import errors
from vllm_adapters.doctor import access, basics, chat, pooling, running, schema, structured, tools
from vllm_adapters.doctor.findings import Check, Finding, Hopeless, absent, broken, lacks, untried
from vllm_adapters.doctor.report import Report, Result
from vllm_adapters.doctor.visit import Visit

CHECKS: tuple[Check, ...] = tuple(
    check for room in (basics, schema, access, chat, tools, structured, pooling, running) for check in room.CHECKS
)


def examine(
    base_url: str | None = None,
    *,
    api_key: str | SecretStr | None = None,
    model: str | None = None,
    before: Callable[[Check], None] = lambda check: None,
) -> Report:
    """Find out by trying what a server can do. It is asked a few dozen small requests, and nothing on it changes.

    >>> from vllm_adapters.doctor import examine
    >>> report = examine("http://localhost:8000")  # vllm serve an embedding model
    >>> report["embeddings"].text
    '2 vectors of 384 dimensions'
    >>> report["chat"].verdict.value, report.missing_flags  # no flag would give this model a chat
    ('absent', ())

    Args:
        base_url: As for ``VLLMServer``.
        api_key: As for ``VLLMServer``.
        model: The served model to ask; default: the first base model.
        before: Called before each check, for progress.

    Raises:
        WrongAddress: ``base_url`` is not an address. Whatever the server does is in the report, not raised.
    """
    with closing(Visit(base_url, api_key, model)) as visit:
        results, usable, over = [], True, ""
        for check in CHECKS:
            if over:
                results.append(Result(check, untried(over)))
                continue
            before(check)
            try:
                finding = _asked(check, visit)
            except Hopeless as end:
                finding, usable, over = end.finding, False, end.finding.text
            except (errors.ServerUnreachable, errors.ServerTimeout) as error:
                finding, over = broken(f"it stopped answering: {error}"), f"it stopped answering in {check.name}"
            except errors.VLLMError as error:
                finding = _judged(error, visit)
            results.append(Result(check, _without_key(finding, visit.key)))
        return Report(
            address=visit.server.base_url,
            version=str(visit.version) if visit.version else None,
            models=tuple(card.id for card in visit.cards),
            routes=tuple(sorted(visit.paths)),
            results=tuple(results),
            requests=visit.requests,
            usable=usable,
        )


def _asked(check: Check, visit: Visit) -> Finding:
    if check.route and visit.paths and check.route not in visit.paths:
        return absent(f"the served model has no such task (no {check.route})")
    return check.examine(visit)


def _judged(error: errors.VLLMError, visit: Visit) -> Finding:
    """What an error of the server says of what was tried."""
    if isinstance(error, errors.FeatureNotEnabled):
        return lacks(_reason(error), *visit.with_parser_names(error.flags))
    if isinstance(error, errors.UnsupportedParameter):
        return absent(_reason(error))
    if isinstance(error, errors.WrongAddress):
        return absent("the served model has no such task")
    if isinstance(error, errors.InvalidRequest) and "does not support" in error.message:
        return absent(_reason(error))  # 0.15.1 and older mount every route
    return broken(_reason(error))


def _reason(error: errors.VLLMError) -> str:
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return " ".join(str(said or error.message).split())[:300]


def _without_key(finding: Finding, key: str | None) -> Finding:
    """A server may say the key it was sent; nobody else gets to read it."""
    if not key:
        return finding
    return replace(finding, text=finding.text.replace(key, "***"), advice=finding.advice.replace(key, "***"))
