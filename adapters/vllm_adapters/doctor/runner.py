"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import SecretStr

from vllm_adapters import errors
from vllm_adapters.doctor.checks import CHECKS
from vllm_adapters.doctor.model import Check, Finding, Report, Result, Unusable, absent, broken, lacks, untried
from vllm_adapters.doctor.probe import GONE, Visit

_MISREAD = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What comes of reading a reply whose parts are of other types than the API's; OpenAI's client does not check them."""

_NOT_MOUNTED = "its route is not mounted for this model"


def examine(
    base_url: str | None = None,
    *,
    api_key: str | SecretStr | None = None,
    model: str | None = None,
    time_limit: float = 300.0,
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
        time_limit: How long it may take in all, in seconds; what was not asked by then is in the report, too.
        before: Called before each check, for progress.

    Raises:
        WrongAddress: ``base_url`` is not an address. Whatever the server does is in the report, not raised.
    """
    with Visit(base_url, api_key, model, time_limit) as visit:
        results, over = [], ""
        for check in CHECKS:
            if over:
                results.append(Result(check, untried(over)))
                continue
            before(check)
            try:
                finding = _asked(check, visit)
            except Unusable as end:
                finding, over = end.finding, end.finding.text
            except GONE as error:
                finding = _cut_short(error, visit)
                over = "the time was up" if visit.is_over else f"it stopped answering in {check.name}"
            except errors.VLLMError as error:
                finding = _judged(error, visit)
            except _MISREAD as error:
                finding = broken(f"a reply of another form than vLLM's ({type(error).__name__}: {error})")
            results.append(Result(check, _fit_to_show(finding, visit)))
        return Report(
            address=visit.server.base_url,
            version=visit.fit_to_show(str(visit.version)) if visit.version else None,
            models=visit.fit_to_show(tuple(card.id for card in visit.cards)),
            routes=visit.fit_to_show(tuple(sorted(visit.paths))),
            results=tuple(results),
            requests=visit.requests,
            usable=bool(visit.cards),
            complete=not over,
        )


def _asked(check: Check, visit: Visit) -> Finding:
    if check.route and visit.paths and check.route not in visit.paths:
        return absent(f"{_NOT_MOUNTED} (no {check.route})")
    return check.examine(visit)


def _cut_short(error: errors.VLLMError, visit: Visit) -> Finding:
    if visit.is_over:
        return broken(
            f"the time limit of {visit.time_limit:g} s has passed", advice="--time-limit SECONDS gives it more"
        )
    return broken(f"it stopped answering: {_reason(error, visit)}")


def _judged(error: errors.VLLMError, visit: Visit) -> Finding:
    """What an error of the server says of what was tried."""
    if isinstance(error, errors.FeatureNotEnabled):
        return lacks(_reason(error, visit), *visit.with_parser_names(error.flags))
    if isinstance(error, errors.ContextLengthExceeded):
        return lacks(_reason(error, visit), "--max-model-len TOKENS")
    if isinstance(error, errors.UnsupportedParameter):
        return absent(_reason(error, visit))
    if isinstance(error, errors.WrongAddress):
        return absent(_NOT_MOUNTED)
    if isinstance(error, errors.InvalidRequest) and "does not support" in error.message:
        return absent(_reason(error, visit))  # 0.15.1 and older mount every route
    return broken(_reason(error, visit))


def _reason(error: errors.VLLMError, visit: Visit) -> str:
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return " ".join(visit.without_key(str(said or error.message.partition(" (server: ")[0])).split())[:300]


def _fit_to_show(finding: Finding, visit: Visit) -> Finding:
    said = {name: visit.fit_to_show(getattr(finding, name)) for name in ("text", "flags", "advice", "data")}
    return replace(finding, **said)
