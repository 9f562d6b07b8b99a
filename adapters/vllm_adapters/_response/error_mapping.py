"""Map failures of any shape to the errors of ``vllm_adapters.errors``.

vLLM 0.8 to 0.32 has four error bodies (``{"error": {...}}``, the flat ``{"object": "error", ...}`` until 0.10.0,
``{"error": "text"}`` from middleware, ``{"detail": ...}`` from the router), and gateways add HTML. The ``type``
inside says little ("BadRequestError" and "Bad Request" mean different things), so errors are told apart by
status, ``param`` and message.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz

from vllm_adapters import errors as e
from vllm_adapters._compat import http
from vllm_adapters._request import constraints
from vllm_adapters._request.availability import endpoint_of

_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9]+(?:-[a-z0-9]+)*")

# Messages that name no flag, though one would change the response.
_FLAG_FOR_MESSAGE = (
    ("does not support matryoshka", """--hf-overrides '{"is_matryoshka": true}'"""),
    ("lora is not enabled", "--enable-lora"),
    ("max allowed: ", "--max-logprobs"),
    ("default chat template is no longer allowed", "--chat-template"),
    ("may be provided in one prompt", "--limit-mm-per-prompt"),
    ("reasoning_config is not configured", "--reasoning-parser"),
)
_FLAG_FOR_ROUTE = (
    ("lora_adapter", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora"),
    ("/tokenizer_info", "--enable-tokenizer-info-endpoint"),
)
_TLS = (
    (
        "certificate is not valid for",
        "The server's certificate is for another host",
        "Use a host that the certificate names in base_url",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "The server's certificate is not trusted",
        "Set SSL_CERT_FILE to a file of trusted certificates, or pass http_options={'verify': ssl_context}",
    ),
    ("WRONG_VERSION_NUMBER", "The server does not speak TLS", "Use http:// in base_url"),
    ("RECORD_LAYER_FAILURE", "The server does not speak TLS", "Use http:// in base_url"),
)
"""Failures of TLS: part of the transport's text, what is wrong, and how to fix it."""
_OVERLOADED = re.compile(r"engine is currently busy|queue is full|generation is paused|overloaded|at capacity", re.I)
_UNPARSED_CALLS = re.compile(
    r"validation errors? for list\[function-wrap"
)  # of vLLM 0.11 and 0.14, tool_choice=required
_MISSING_TASK = re.compile(r"^The model does not support .+ API")
"""Of vLLM 0.15.1 and older with 400, which have all routes; of newer ones with 501, for decisions."""
_OTHER_TASK = (
    "The model embeds, but the server was started with another task. If it is token_embed, use "
    "VLLMServer(...).embed_tokens(texts) for one vector per token; for one per text, start it without that task"
)
"""For embeddings that are answered with 501: only a model that embeds has their route."""
_CONTEXT = re.compile(
    r"maximum context length|max_model_len|longer than the maximum model length|context length is only", re.I
)
_PARAMETER = re.compile(r"\(parameter=(\w+)")  # in the message, where the body of an older server has no `param`
_LIMIT = re.compile(r"(?:maximum context length is|max_model_len\s*=\s*|model length of)\D{0,12}(\d+)", re.I)
_REQUESTED = re.compile(
    r"(?:you requested|prompt contains at least|your request has|total of at least|max_(?:completion_)?tokens="
    r"|prompt \(length|passed)\D{0,4}(\d+)",
    re.I,
)


@dataclass(frozen=True)
class RequestContext:
    """The request an error belongs to.

    Args:
        address: Base URL of the server, ending in ``/v1``.
        path: Path of the request, e.g. ``/v1/chat/completions``.
        model: Served model name in the request, if any.
    """

    address: str | None = None
    path: str = ""
    model: str | None = None

    @property
    def endpoint(self) -> str | None:
        """The endpoint of the path, as the availability table names it."""
        return endpoint_of(self.path)


@dataclass(frozen=True)
class ErrorBody:
    """A server's error body, parsed from any of its shapes."""

    message: str
    param: str | None = None
    code: int | None = None
    from_vllm: bool = True
    """False for the router's own ``{"detail": ...}`` and for bodies that are not vLLM's."""

    @classmethod
    def parse(cls, body: object) -> ErrorBody:
        """Parse any of vLLM's four error bodies, or a gateway's text."""
        if isinstance(body, str):
            try:
                body = json.loads(body)
            except (ValueError, RecursionError):
                return cls(e.plain_text(str(body)), from_vllm=False)
        if not isinstance(body, Mapping):
            return cls(e.plain_text(str(body)), from_vllm=False)
        error = body.get("error", body)
        if isinstance(error, str):
            return cls(error)
        if isinstance(error, Mapping) and "message" in error:
            code = error.get("code")
            param = error.get("param")
            return cls(
                str(error["message"]),
                param=str(param) if param is not None else None,
                code=int(code) if isinstance(code, int | str) and str(code).isdecimal() else None,
            )
        if "detail" in body:
            return cls(str(body["detail"]), from_vllm=False)
        return cls(e.plain_text(json.dumps(body)), from_vllm=False)


def from_status(status: int, body: object, context: RequestContext, response: http.Response | None) -> e.VLLMError:
    """Return the error for an HTTP response of 3xx, 4xx or 5xx.

    Args:
        status: HTTP status.
        body: Parsed JSON, or text.
        context: The request.
        response: The response, kept on the error with its request's headers removed.
    """
    parsed = ErrorBody.parse(body)
    message = parsed.message or f"HTTP {status} without a body"
    flags = _flags(message, response) or tuple(
        flag for part, flag in _FLAG_FOR_ROUTE if part in context.path and status == 404
    )
    error = (
        _constraint_error(status, message, response)
        or _connection_error(status, message, context, response)
        or _route_error(status, parsed, message, flags, context)
        or _request_error(status, parsed, message, flags)
    )
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    error.body = inner
    if isinstance(inner, Mapping):
        error.code, error.type = inner.get("code", error.code), inner.get("type", error.type)
    named = _PARAMETER.search(message)
    error.param = parsed.param or (named[1] if named else error.param)
    return error.add_context(address=context.address, model=context.model, response=response)


def unsupported_construct(response: http.Response | None) -> str | None:
    """Return what a server that responds with 500 cannot compile in a regex of the request; ``None`` if nothing."""
    if response is None or response.status_code != 500:
        return None
    try:
        body = json.loads(response.request.content)
    except (ValueError, http.StreamError):
        return None
    return constraints.unsupported_construct(body) if isinstance(body, dict) else None


def _constraint_error(status: int, message: str, response: http.Response | None) -> e.VLLMError | None:
    """Return the error for a constraint that the server cannot compile, or a reply of its own that it cannot parse."""
    if status == 500 and (construct := unsupported_construct(response)):
        return e.InvalidRequest(
            f"The server failed with HTTP 500 on a regex that contains `{construct}`: {message}",
            hint="vLLM's structured-output backends cannot compile this construct: rewrite the regex without it",
        )
    if status == 400 and _UNPARSED_CALLS.search(message):
        return e.ConstraintNotEnforced(
            f"The server could not parse the tool calls that the model generated: {message}",
            hint="The reply may have been truncated: raise max_tokens; or the reasoning parser keeps the server from "
            "enforcing the form of a forced call: update vLLM",
            constraint="tool_choice",
        )
    return None


def _connection_error(
    status: int, message: str, context: RequestContext, response: http.Response | None
) -> e.VLLMError | None:
    """Return the error for a response that is independent of the request's content."""
    if 300 <= status < 400:
        target = response.headers.get("x-refused-location", "elsewhere") if response is not None else "elsewhere"
        return e.WrongAddress(
            f"The server redirects to {target}",
            hint="Set base_url to the final address: requests carry prompts and credentials, "
            "so they are not redirected to another origin",
        )
    if status == 401:
        return e.AuthenticationFailed(
            f"The server rejected the API key: {message}",
            hint="Pass api_key= or set VLLM_API_KEY to the key the server was started with (vllm serve --api-key)",
        )
    if status == 429:
        return e.RateLimited(f"Too many requests: {message}", retry_after=retry_after(response))
    if status == 503 and _OVERLOADED.search(message):
        return e.ServerOverloaded(
            f"The server is overloaded or paused: {message}",
            hint="Try again later, send fewer requests at once, or use another replica",
            retry_after=retry_after(response),
        )
    if status == 503:
        return e.ServerNotReady(
            f"The server is not ready: {message}",
            hint="It may still be loading the model: VLLMServer(...).wait_until_ready() waits for it",
        )
    return None


def _route_error(
    status: int, parsed: ErrorBody, message: str, flags: tuple[str, ...], context: RequestContext
) -> e.VLLMError | None:
    """Return the error for a missing route, task or model."""
    if status in (400, 501) and _MISSING_TASK.search(message):
        return e.WrongAddress(
            f"The server has no route {context.path or 'of this path'} for this model: {message}",
            hint=_OTHER_TASK
            if status == 501 and context.endpoint == "embeddings"
            else "The served model must have this task: an embedding model does not chat, "
            "and a chat model does not embed",
        )
    if status == 404 and not parsed.from_vllm and flags:
        return e.FeatureNotEnabled(
            f"The server has no route {context.path}: it is disabled by default",
            hint=f"Start the server with {' '.join(flags)}",
            flags=flags,
        )
    if (status == 404 and not parsed.from_vllm) or status == 405:
        if context.endpoint is None and "/v1/" in context.path and context.path != "/v1/models":
            return e.WrongAddress(
                f"The server has no route {context.path}: HTTP {status} {message}",
                hint="vLLM does not have all of OpenAI's API: VLLMServer(...).capabilities() lists the routes of the "
                f"server at {context.address}",
            )
        return e.WrongAddress(
            f"The server has no route {context.path or 'of this path'}: HTTP {status} {message}",
            hint=f"base_url must be the root of a vLLM server or its /v1 (it is {context.address}), "
            "and the served model must have this task: an embedding model has no chat route, "
            "a chat model no embeddings route",
        )
    if status == 404 and (parsed.param == "model" or "does not exist" in message) and "lora" not in context.path:
        served = tuple(re.findall(r"[^\s,]+(?=[,.]|$)", message.partition("aliases:")[2].rstrip(".")))
        names = f"It serves: {', '.join(served)}" if served else "GET /v1/models lists what it serves"
        return e.ModelNotServed(message.partition(" Valid aliases")[0], hint=names, served=served)
    return None


def _request_error(status: int, parsed: ErrorBody, message: str, flags: tuple[str, ...]) -> e.VLLMError:
    """Return the error for a request that the server could not or would not process."""
    if flags and parsed.from_vllm and status in (400, 403, 404, 500, 501):
        return e.FeatureNotEnabled(message, hint=f"Add {' '.join(flags)} to `vllm serve`", flags=flags)
    if status >= 500 or status == 408:  # a gateway's time limit
        return e.ServerFailed(f"The server failed with HTTP {status}: {message}")
    if status == 403:
        return e.PermissionDenied(message)
    truncation = "truncate_prompt_tokens"  # must not exceed the context, either
    about_truncation = parsed.param == truncation or message.startswith(truncation)
    if parsed.param == "input_tokens" or (not about_truncation and _CONTEXT.search(message)):
        return _context_length_error(message)
    return e.InvalidRequest(message)


def from_event(
    body: object, context: RequestContext | None = None, response: http.Response | None = None
) -> e.VLLMError:
    """Return the error for an ``{"error": ...}`` event inside a stream, or in the body of a 200."""
    parsed = ErrorBody.parse(body)
    status = parsed.code or (503 if _OVERLOADED.search(parsed.message) else 500)
    error = from_status(status, body, context or RequestContext(), response)
    error.status_code = status
    return error


def from_transport(failure: BaseException, request: http.Request | None = None) -> e.VLLMError:
    """Return the error for a connection that could not be made, timed out, or broke before the response.

    Args:
        failure: The transport's exception (httpx or httpx2), or the SDK's around it.
        request: The HTTP request, kept on the error with its headers removed.
    """
    name = type(failure).__name__
    # httpx-aiohttp names every connection that failed a ConnectTimeout; its cause tells.
    timed_out = "Timeout" in name and (
        name != "ConnectTimeout" or "Timeout" in type(failure.__cause__ or failure).__name__
    )
    if timed_out:
        kind = {"ConnectTimeout": "connect", "PoolTimeout": "pool", "TotalTimeout": "total"}.get(name, "idle")
        seconds = getattr(failure, "seconds", None)
        spent = f" of {seconds:g} s" if seconds is not None else ""
        what = {
            "connect": "No connection was made within the connect limit",
            "pool": "No connection was free within the idle limit",
            "idle": "Nothing but keep-alive comments arrived within the idle limit",
            "total": "The call did not end within the total limit",
        }[kind]
        return e.ServerTimeout(
            f"{what}{spent}",
            hint=f"Raise it with timeout=Timeouts({kind if kind != 'pool' else 'idle'}=...) in seconds, "
            "or request fewer tokens",
            kind=kind,
            seconds=seconds,
            request=request,
        )
    reason = str(failure) or name
    for part, what, hint in _TLS:
        if part in reason:
            return e.ServerUnreachable(f"{what}: {reason}", hint=hint, request=request)
    return e.ServerUnreachable(
        f"The server did not respond: {reason}",
        hint="Is it running, and is base_url (or VLLM_BASE_URL) its address?",
        request=request,
    )


def raise_if_aborted(finish_reason: object, partial: str) -> None:
    """Raise if the server aborted a reply.

    Args:
        finish_reason: The choice's. ``"repetition"`` and ``"length"`` are ends that were requested.
        partial: The text of the choice, as far as it was generated.

    Raises:
        ServerFailed: It is ``"abort"`` or ``"error"``.
    """
    if finish_reason in ("abort", "error"):
        raise e.ServerFailed(
            f"The server aborted the reply (finish_reason={finish_reason!r})",
            hint="Read what had been generated from .partial",
            partial=partial,
        )


def _flags(message: str, response: http.Response | None) -> tuple[str, ...]:
    sent = _sent_text(response)  # vLLM quotes what it refuses: flags in there are the user's own text
    named = tuple(dict.fromkeys(flag for flag in _FLAG.findall(message) if flag not in sent))
    lowered = message.lower()
    return named or tuple(flag for text, flag in _FLAG_FOR_MESSAGE if text in lowered)


def _sent_text(response: http.Response | None) -> str:
    try:
        return response.request.content.decode(errors="replace") if response is not None else ""
    except http.StreamError:
        return ""  # an uploaded file


def _context_length_error(message: str) -> e.ContextLengthExceeded:
    limit = _LIMIT.search(message)
    requested = [int(count) for count in _REQUESTED.findall(message)]  # of the prompt, the reply and both
    return e.ContextLengthExceeded(
        message,
        hint="Shorten the prompt or max_tokens, cut it with truncate_prompt_tokens=-1, "
        "or start the server with a larger --max-model-len",
        max_model_len=int(limit[1]) if limit else None,
        requested=max(requested, default=None),
    )


def retry_after(response: http.Response | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header, given as a number or as a date; ``None`` without one."""
    value = response.headers.get("retry-after", "") if response is not None else ""
    try:
        date = parsedate_tz(value)
        seconds = float(value) if date is None else mktime_tz(date) - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
