"""Is anything there, is it a vLLM, and does it let us in?"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn

from vllm_adapters import errors
from vllm_adapters._client.endpoint import parse_models
from vllm_adapters._compat import http
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters.doctor.model import Check, Finding, Unusable, works
from vllm_adapters.doctor.probe import GONE, Visit, json_of

_NOT_READY = ("it answers HTTP 503: it may still be loading the model", "Try again in a minute")
_OTHER_KEY = "Set VLLM_API_KEY, or name the variable that holds the key with --api-key-env NAME"


def _reachable(visit: Visit) -> Finding:
    try:
        answer = json_of(visit.get("/version"))
    except GONE as error:
        raise _no_answer(error) from error
    except errors.ServerNotReady as error:
        raise Unusable(*_NOT_READY) from error
    except errors.VLLMError as error:
        return works(f"it answers (HTTP {error.status_code} on /version)")
    told = answer.get("version") if isinstance(answer, dict) else None
    visit.told_version = str(told) if told else None
    return works("it answers")


def _no_answer(error: errors.VLLMError) -> Unusable:
    """Nothing there, or something that is no web server: the transport's own error tells."""
    cause = error.__cause__
    reason = str(cause or "") or type(cause).__name__
    match error, cause:
        case errors.ServerTimeout(kind="connect"), _:
            return Unusable(
                f"no connection within {error.seconds:g} s",
                "Is it the right host, http and not https, and no firewall between?",
            )
        case errors.ServerTimeout(kind="total"), _:
            return Unusable(f"no whole answer within {error.seconds:g} s", "--time-limit SECONDS gives it more")
        case errors.ServerTimeout(), _:
            return Unusable(
                f"it takes the connection, and then says nothing for {error.seconds:g} s", "Is it the right port?"
            )
        case _, http.ConnectError() if "CERTIFICATE" in reason:
            return Unusable(
                f"its certificate is not trusted here: {reason}", "SSL_CERT_FILE may name a file of trusted ones"
            )
        case _, http.ConnectError() if "SSL" in reason:
            return Unusable("no https is spoken there", "Try the same address with http://")
        case _, http.ConnectError():
            return Unusable(
                f"no connection: {reason}", "Is it the right address, and is the server up and done with loading?"
            )
    return Unusable(f"something is there that speaks no HTTP: {reason}", "Is it the right port? Does it want https://?")


def _vllm(visit: Visit) -> Finding:
    try:
        reply = visit.get("/v1/models")
    except errors.VLLMError as error:
        _give_up(visit, error)
    answer = json_of(reply)
    cards = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(cards, list) or not all(map(_is_card, cards)):
        raise Unusable(f"this is not a vLLM: /v1/models answers {visit.shown(reply.text)}")
    if not cards:
        raise Unusable("it serves no model")
    names = [card["id"] for card in cards]
    if visit.server.model and visit.server.model not in names:
        raise Unusable(f"it does not serve {visit.shown(visit.server.model)}", f"It serves {', '.join(names)}")
    if not any(card.get("owned_by") == "vllm" for card in cards):
        owners = ", ".join(sorted({str(card.get("owned_by")) for card in cards}))
        raise Unusable(
            f"this speaks OpenAI's API, but nothing in it says vLLM (its models are owned by {owners})",
            "Give the address of the vLLM itself, not of a gateway before it",
        )
    visit.serves(parse_models(answer, RequestContext(visit.server.base_url), reply))
    return works("its models are vLLM's")


def _is_card(card: Any) -> bool:
    name = card.get("id") if isinstance(card, dict) else None
    return isinstance(name, str) and bool(name) and name.isprintable()


def _give_up(visit: Visit, error: errors.VLLMError) -> NoReturn:
    """What it means that the list of models was not to be had."""
    status = error.status_code
    who = f"vLLM {visit.told_version}" if visit.version else "the server"
    match error:
        case errors.AuthenticationFailed():
            said = "refuses the API key" if visit.key else "asks for an API key, and none was given"
            raise Unusable(f"{who} {said}", _OTHER_KEY) from error
        case errors.PermissionDenied():
            raise Unusable(f"{who} refuses to say what it serves: HTTP 403", _OTHER_KEY) from error
        case errors.ServerNotReady():
            raise Unusable(*_NOT_READY) from error
        case errors.RateLimited():
            raise Unusable(f"{who} has too many requests: /v1/models answers HTTP 429", "Try again later") from error
        case errors.ServerFailed() if status in (502, 504):
            raise Unusable(f"a gateway answers HTTP {status}: the server behind it does not answer") from error
        case errors.ServerFailed():
            raise Unusable(f"{who} fails: /v1/models answers HTTP {status}") from error
        case errors.ServerUnreachable() | errors.ServerTimeout():
            raise _no_answer(error) from error
        case errors.WrongAddress() if 300 <= status < 400:
            to = error.response.headers.get("x-refused-location", "elsewhere")
            raise Unusable(f"it redirects to {to}", "Give the address it redirects to") from error
    raise Unusable(f"this is not a vLLM: /v1/models answers HTTP {status}", _elsewhere(visit)) from error


def _elsewhere(visit: Visit) -> str:
    """Where the server is, if the address has a path too many."""
    root = http.URL(visit.server.base_url).copy_with(path="/")
    if root == http.URL(visit.server.at_root("/")):
        return ""
    with suppress(errors.VLLMError):
        answer = json_of(visit.anonymous.client.get(str(root.join("/version")), cast_to=http.Response))
        if isinstance(answer, dict) and "version" in answer:
            return f"The address has a path too many: try {str(root).rstrip('/')}"
    return ""


CHECKS = (
    Check("reachable", "server", "Does anything answer at this address?", _reachable),
    Check("vllm", "server", "Is it a vLLM, and does it let us in?", _vllm),
)
