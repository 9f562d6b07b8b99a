"""Is there a server, is it vLLM, and does it accept the API key?"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from vllm_adapters import errors
from vllm_adapters._client.endpoint import parse_models
from vllm_adapters._compat import http
from vllm_adapters.doctor.model import Check, Finding, UnusableServer, works
from vllm_adapters.doctor.probe import CONNECTION_ERRORS, Probe, parse_json

__all__ = ["CHECKS"]

_OWNERS = ("vllm", "vllm-frontend-rs")  # the Python and the Rust HTTP server
_NOT_READY = ("HTTP 503: the server may still be loading the model", "Try again in a minute")
_KEY_ADVICE = "Set VLLM_API_KEY, or name the variable that holds the key with --api-key-env NAME"


def _reachable(probe: Probe) -> Finding:
    try:
        answer = parse_json(probe.get("/version"))
    except CONNECTION_ERRORS as error:
        raise _connection_failed(error) from error
    except errors.ServerNotReady as error:
        raise UnusableServer(*_NOT_READY) from error
    except errors.VLLMError as error:
        return works(f"the server responds (HTTP {error.status_code} on /version)")
    version = answer.get("version") if isinstance(answer, dict) else None
    probe.reported_version = str(version) if version else None
    return works("the server responds")


def _connection_failed(error: errors.VLLMError) -> UnusableServer:
    """Explain a failed connection by the transport's own error."""
    cause = error.__cause__
    reason = str(cause or "") or type(cause).__name__
    match error, cause:
        case errors.ServerTimeout(kind="connect"), _:
            return UnusableServer(
                f"connection timed out after {error.seconds:g} s",
                "Check the host, http or https, and firewalls in between",
            )
        case errors.ServerTimeout(kind="total"), _:
            return UnusableServer(
                f"no complete response within {error.seconds:g} s", "Extend the limit with --time-limit SECONDS"
            )
        case errors.ServerTimeout(), _:
            return UnusableServer(f"connected, but no response for {error.seconds:g} s", "Check the port")
        case _, http.ConnectError() if "CERTIFICATE" in reason:
            return UnusableServer(
                f"the server's certificate is not trusted: {reason}",
                "Set SSL_CERT_FILE to a file of trusted certificates",
            )
        case _, http.ConnectError() if "SSL" in reason:
            return UnusableServer("the server does not support HTTPS", "Try the same address with http://")
        case _, http.ConnectError():
            return UnusableServer(
                f"connection failed: {reason}", "Check the address, and whether the server has finished loading"
            )
    return UnusableServer(f"no valid HTTP response: {reason}", "Check the port, and whether it expects https://")


def _vllm(probe: Probe) -> Finding:
    try:
        response = probe.get("/v1/models")
    except errors.VLLMError as error:
        raise _models_failed(probe, error) from error
    answer = parse_json(response)
    cards = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(cards, list) or not all(map(_is_card, cards)):
        raise UnusableServer(f"not a vLLM server: /v1/models returned {probe.excerpt(response.text)}")
    if not cards:
        raise UnusableServer("the server has no models")
    names = [card["id"] for card in cards]
    if probe.server.model and probe.server.model not in names:
        raise UnusableServer(
            f"model {probe.excerpt(probe.server.model)} is not served", f"Served models: {', '.join(names)}"
        )
    if not any(card.get("owned_by") in _OWNERS for card in cards):
        owners = ", ".join(sorted({str(card.get("owned_by")) for card in cards}))
        raise UnusableServer(
            f"an OpenAI-compatible server, but not vLLM (its models are owned by {owners})",
            "Use the address of vLLM itself, not of a gateway in front of it",
        )
    probe.set_models(parse_models(answer))
    return works("a vLLM server that grants access")


def _is_card(card: Any) -> bool:
    name = card.get("id") if isinstance(card, dict) else None
    return isinstance(name, str) and bool(name) and name.isprintable()


def _models_failed(probe: Probe, error: errors.VLLMError) -> UnusableServer:
    """Explain why the list of models could not be fetched."""
    status = error.status_code
    server = f"vLLM {probe.reported_version}" if probe.version else "the server"
    match error:
        case errors.AuthenticationFailed():
            problem = "rejected the API key" if probe.api_key else "requires an API key, and none was given"
            return UnusableServer(f"{server} {problem}", _KEY_ADVICE)
        case errors.PermissionDenied():
            return UnusableServer(f"{server} denied access: /v1/models returned HTTP 403", _KEY_ADVICE)
        case errors.ServerNotReady():
            return UnusableServer(*_NOT_READY)
        case errors.RateLimited():
            return UnusableServer(f"{server} limits requests: /v1/models returned HTTP 429", "Try again later")
        case errors.ServerFailed() if status in (502, 504):
            return UnusableServer(f"a gateway returned HTTP {status}: the server behind it does not respond")
        case errors.ServerFailed():
            return UnusableServer(f"{server} failed: /v1/models returned HTTP {status}")
        case errors.ServerUnreachable() | errors.ServerTimeout():
            return _connection_failed(error)
        case errors.WrongAddress() if 300 <= error.response.status_code < 400:
            location = error.response.headers.get("x-refused-location", "another address")
            return UnusableServer(f"the server redirects to {location}", "Use the address that it redirects to")
    return UnusableServer(f"not a vLLM server: /v1/models returned HTTP {status}", _root_advice(probe))


def _root_advice(probe: Probe) -> str:
    """Suggest the server's root if vLLM responds there and the address has a path."""
    root = http.URL(probe.server.base_url).copy_with(path="/")
    if root == http.URL(probe.server.at_root("/")):
        return ""
    with suppress(errors.VLLMError):
        answer = parse_json(probe.anonymous.client.get(str(root.join("/version")), cast_to=http.Response))
        if isinstance(answer, dict) and "version" in answer:
            return f"The address has an extra path. Try {str(root).rstrip('/')}"
    return ""


CHECKS = (
    Check("reachable", "server", "Does a server respond at this address?", _reachable),
    Check("vllm", "server", "Is it vLLM, and does it grant access?", _vllm),
)
