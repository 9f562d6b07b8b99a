"""From a server's failure, in whatever shape it came, to one of the errors of ``errors``.

vLLM 0.8 to 0.32 speaks four error bodies (``{"error": {...}}``, the flat ``{"object": "error", ...}`` until
0.10.0, ``{"error": "text"}`` from middleware, ``{"detail": ...}`` from the router), and gateways add HTML.
The ``type`` inside says little ("BadRequestError" and "Bad Request" mean different things), so errors are
told apart by status, ``param`` and message.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import Any, cast

import openai
from openai.types.chat import ChatCompletion

from vllm_adapters import errors as e
from vllm_adapters._compat import http

_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9]+(?:-[a-z0-9]+)*")

# Refusals whose text names no flag, though one would change the answer.
_FLAG_FOR = (
    ("does not support matryoshka", """--hf-overrides '{"is_matryoshka": true}'"""),
    ("lora is not enabled", "--enable-lora"),
    ("max allowed: ", "--max-logprobs"),
    ("default chat template is no longer allowed", "--chat-template"),
    ("may be provided in one prompt", "--limit-mm-per-prompt"),
    ("reasoning_config is not configured", "--reasoning-parser"),
)
_FLAG_OF_ROUTE = (
    ("lora_adapter", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora"),
    ("/tokenizer_info", "--enable-tokenizer-info-endpoint"),
)
_CONTEXT = re.compile(
    r"maximum context length|max_model_len|longer than the maximum model length|context length is only", re.I
)
_LIMIT = re.compile(r"(?:maximum context length is|max_model_len\s*=\s*|model length of)\D{0,12}(\d+)", re.I)
_REQUESTED = re.compile(
    r"(?:you requested|prompt contains at least|max_(?:completion_)?tokens=|prompt \(length|passed)\D{0,4}(\d+)",
    re.I,
)


@dataclass(frozen=True)
class RequestContext:
    """What was asked, for the texts of errors.

    Args:
        address: Base URL of the server, ending in ``/v1``.
        path: Path of the request, e.g. ``/v1/chat/completions``.
        model: Served model name in the request, if any.
    """

    address: str
    path: str = ""
    model: str | None = None


@dataclass(frozen=True)
class ErrorBody:
    """A server's error body, whatever its shape was."""

    message: str
    param: str | None = None
    code: int | None = None
    routed: bool = True
    """False for the router's own ``{"detail": ...}`` and for bodies that are not vLLM's."""

    @classmethod
    def read(cls, body: object) -> ErrorBody:
        """Read any of vLLM's four error bodies, or a gateway's text."""
        if isinstance(body, str):
            try:
                body = json.loads(body)
            except (ValueError, RecursionError):
                return cls(_plain(str(body)), routed=False)
        if not isinstance(body, Mapping):
            return cls(_plain(str(body)), routed=False)
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
            return cls(str(body["detail"]), routed=False)
        return cls(_plain(json.dumps(body)), routed=False)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()[:200]


def from_status(
    status: int, body: object, *, call: RequestContext, response: http.Response | None = None
) -> e.VLLMError:
    """The error for an HTTP reply of 3xx, 4xx or 5xx.

    Args:
        status: HTTP status.
        body: Parsed JSON, or text.
        call: What was asked.
        response: The reply itself, kept on the error with its request's headers removed.
    """
    said = ErrorBody.read(body)
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    known: dict[str, Any] = {
        "address": call.address,
        "model": call.model,
        "response": response,
        "body": inner,
    }
    if said.param:
        known["param"] = said.param
    message = said.message or f"HTTP {status} without a body"
    flags = _flags(message, response) or tuple(
        flag for part, flag in _FLAG_OF_ROUTE if part in call.path and status == 404
    )
    return (
        _on_the_way(status, message, response, known)
        or _of_the_route(status, said, message, flags, call, known)
        or _of_the_request(status, said, message, flags, known)
    )


def _on_the_way(status: int, message: str, response: http.Response | None, known: dict[str, Any]) -> e.VLLMError | None:
    """The error for a reply that tells nothing of the request itself."""
    if 300 <= status < 400:
        target = response.headers.get("x-refused-location", "elsewhere") if response is not None else "elsewhere"
        return e.WrongAddress(
            f"The server redirects to {target}",
            hint="Requests are not followed to another origin, they carry prompts and keys: "
            "give the final address as base_url",
            **known,
        )
    if status == 401:
        return e.AuthenticationFailed(
            f"The server refused the API key: {message}",
            hint="Pass api_key= or set VLLM_API_KEY to the key the server was started with (vllm serve --api-key)",
            **known,
        )
    if status == 429:
        return e.RateLimited(f"Too many requests: {message}", retry_after=retry_after(response), **known)
    if status == 503:
        return e.ServerNotReady(
            f"The server is not ready: {message}",
            hint="It may still be loading the model: VLLMServer(...).wait_until_ready() waits for it",
            **known,
        )
    return None


def _of_the_route(
    status: int, said: ErrorBody, message: str, flags: tuple[str, ...], call: RequestContext, known: dict[str, Any]
) -> e.VLLMError | None:
    """The error for a route or model that is not there."""
    if status == 404 and not said.routed and flags:
        return e.FeatureNotEnabled(
            f"The server has no route {call.path}: it is off by default",
            hint=f"Start the server with {' '.join(flags)}",
            flags=flags,
            **known,
        )
    if (status == 404 and not said.routed) or status == 405:
        return e.WrongAddress(
            f"There is no route {call.path or 'like this'}: HTTP {status} {message}",
            hint=f"base_url should be the root of a vLLM server or its /v1 (it is {call.address}), "
            "and the served model must have this task: an embedding model has no chat route, "
            "a chat model no embeddings route",
            **known,
        )
    if status == 404 and (said.param == "model" or "does not exist" in message) and "lora" not in call.path:
        served = tuple(re.findall(r"[^\s,]+(?=[,.]|$)", message.partition("aliases:")[2].rstrip(".")))
        names = f"It serves: {', '.join(served)}" if served else "GET /v1/models lists what it serves"
        return e.ModelNotServed(message.partition(" Valid aliases")[0], hint=names, served=served, **known)
    return None


def _of_the_request(
    status: int, said: ErrorBody, message: str, flags: tuple[str, ...], known: dict[str, Any]
) -> e.VLLMError:
    """The error for a request that the server could not or would not answer."""
    if flags and said.routed and status in (400, 403, 404, 500, 501):
        return e.FeatureNotEnabled(message, hint=f"Add {' '.join(flags)} to `vllm serve`", flags=flags, **known)
    if status >= 500 or status == 408:  # of a gateway that has waited long enough
        return e.ServerFailed(f"The server failed with HTTP {status}: {message}", **known)
    if status == 403:
        return e.PermissionDenied(message, **known)
    truncation = "truncate_prompt_tokens"  # may not be longer than the context, either
    of_truncation = said.param == truncation or message.startswith(truncation)
    if said.param == "input_tokens" or (not of_truncation and _CONTEXT.search(message)):
        return _context_length(message, known)
    return e.InvalidRequest(message, **known)


def from_event(body: object, *, call: RequestContext, response: http.Response) -> e.VLLMError:
    """The error for an ``{"error": ...}`` event inside a stream, or in the body of a 200."""
    status = ErrorBody.read(body).code or 500
    error = from_status(status, body, call=call, response=response)
    error.status_code = status
    return error


def from_transport(failure: BaseException, *, call: RequestContext, request: http.Request | None = None) -> e.VLLMError:
    """The error for a connection that could not be made, timed out, or broke before the answer.

    Args:
        failure: The transport's exception (httpx or httpx2), or the SDK's around it.
        call: What was asked.
        request: The request, kept on the error with its headers removed.
    """
    known: dict[str, Any] = {"address": call.address, "model": call.model, "request": request}
    name = type(failure).__name__
    if "Timeout" in name:
        kind = {"ConnectTimeout": "connect", "PoolTimeout": "pool", "TotalTimeout": "total"}.get(name, "idle")
        seconds = getattr(failure, "seconds", None)
        spent = f" of {seconds:g} s" if seconds is not None else ""
        what = {
            "connect": "No connection within the connect limit",
            "pool": "No free connection within the idle limit",
            "idle": "Nothing arrived, or only keep-alive comments, within the idle limit",
            "total": "The call was not over within the total limit",
        }[kind]
        return e.ServerTimeout(
            f"{what}{spent}",
            hint=f"Raise it with timeout=Timeouts({kind if kind != 'pool' else 'idle'}=...) in seconds, "
            "or ask for fewer tokens",
            kind=kind,
            seconds=seconds,
            **known,
        )
    reason = str(failure) or name
    return e.ServerUnreachable(
        f"No answer from the server: {reason}",
        hint="Is it running, and is base_url (or VLLM_BASE_URL) its address?",
        **known,
    )


def invalid_response(reason: str, *, call: RequestContext, response: http.Response) -> e.InvalidResponse:
    """The error for a 200 whose body is not the answer it should be."""
    content_type = response.headers.get("content-type", "none")
    try:
        start = f", body starts {_plain(response.text[:400])[:120]!r}"
    except http.StreamError:
        start = ""  # a stream, whose bytes have gone to the caller
    return e.InvalidResponse(
        f"{reason}: HTTP {response.status_code}, content type {content_type}{start}",
        hint="Something between here and vLLM may be answering in its place",
        address=call.address,
        model=call.model,
        response=response,
    )


def raise_if_aborted(reason: object, partial: str, *, call: RequestContext, response: http.Response) -> None:
    """Raise for a finish reason that says that the server gave a reply up: what there is of it is no reply.

    Args:
        reason: The choice's finish reason. ``"repetition"`` and ``"length"`` are ends that were asked for.
        partial: The text of the choice, as far as it was made.
        call: What was asked.
        response: The HTTP reply.

    Raises:
        ServerFailed: It is ``"abort"`` or ``"error"``.
    """
    if reason in ("abort", "error"):
        raise e.ServerFailed(
            f"The server gave the reply up: its finish reason is {reason!r}",
            hint="What there is of it is in .partial",
            address=call.address,
            model=call.model,
            response=response,
            partial=partial,
        )


def truncation_error(
    reason: object, partial: str, *, call: RequestContext | None = None, completion: Any = None
) -> e.TruncatedOutput | e.FilteredOutput | None:
    """The error for a whole object that was asked for, if a reply's finish reason says that its end is missing.

    Half an object may read as a whole one, with a shorter path or a smaller number than the model was about to write.
    """
    if reason not in _CUT:
        return None
    error, who, hint = _CUT[str(reason)]
    return error(
        f"{who} cut the reply before the object was whole",
        hint=hint,
        address=call.address if call else None,
        model=call.model if call else None,
        partial=partial,
        completion=completion,
    )


_CUT: dict[str, tuple[type[e.TruncatedOutput | e.FilteredOutput], str, str]] = {
    "length": (e.TruncatedOutput, "The token limit", "Raise max_tokens, or leave it out"),
    "repetition": (e.TruncatedOutput, "repetition_detection", "The model went in circles: try a repetition_penalty"),
    "content_filter": (e.FilteredOutput, "A content filter", "vLLM has none: it is the gateway's before it"),
}


@contextmanager
def sdk_parse_errors(completion: Callable[[], Any], call: RequestContext) -> Iterator[None]:
    """The errors of the SDK's helpers ``parse`` and ``stream``, which make objects of replies, as ours.

    Args:
        completion: Tells the reply, as far as it has arrived.
        call: What was asked.

    Raises:
        TruncatedOutput: The token limit cut the reply.
        FilteredOutput: A content filter did.
        InvalidResponse: Its parts have indices with gaps.
        ConstraintNotEnforced: It does not fit the class, or a call's arguments do not fit their tool.
    """
    try:
        yield
    except openai.LengthFinishReasonError as error:
        fields: Any = error.completion.to_dict()
        plain = ChatCompletion.construct(**fields)  # a stream's own is of a class that pickle does not find
        raise cast(
            e.VLLMError, truncation_error("length", _said(error.completion), call=call, completion=plain)
        ) from None
    except openai.ContentFilterFinishReasonError:
        raise cast(e.VLLMError, truncation_error("content_filter", _said(completion()), call=call)) from None
    except IndexError as error:  # of the SDK's lists
        raise e.InvalidResponse(
            f"The choices or tool calls of the stream do not count from 0 ({error})",
            hint="client.chat.completions.create(..., stream=True) reads them as they are",
            address=call.address,
            model=call.model,
        ) from error
    except ValueError as error:  # Pydantic's is one
        said = _said(completion())
        raise e.ConstraintNotEnforced(
            f"The reply does not fit what it should be parsed into: {error}; reply: {said[:200]!r}",
            hint="A schema says less than a class with validators of its own, "
            "and the arguments of tools keep to theirs only where the tool is strict and forced",
            address=call.address,
            model=call.model,
            reply=said,
            constraint="json",
        ) from error


def _said(completion: Any) -> str:
    message = completion.choices[0].message
    return message.content or (message.tool_calls[-1].function.arguments if message.tool_calls else "")


def _flags(message: str, response: http.Response | None) -> tuple[str, ...]:
    sent = _sent(response)  # vLLM quotes what it refuses: flags in there are the user's own text
    named = tuple(dict.fromkeys(flag for flag in _FLAG.findall(message) if flag not in sent))
    lowered = message.lower()
    return named or tuple(flag for text, flag in _FLAG_FOR if text in lowered)


def _sent(response: http.Response | None) -> str:
    try:
        return response.request.content.decode(errors="replace") if response is not None else ""
    except http.StreamError:
        return ""  # a file that was streamed up


def _context_length(message: str, known: Mapping[str, Any]) -> e.ContextLengthExceeded:
    limit = _LIMIT.search(message)
    requested = _REQUESTED.search(message)
    return e.ContextLengthExceeded(
        message,
        hint="Shorten the prompt or max_tokens, cut it with truncate_prompt_tokens=-1, "
        "or start the server with a larger --max-model-len",
        max_model_len=int(limit[1]) if limit else None,
        requested=int(requested[1]) if requested else None,
        **known,
    )


def retry_after(response: http.Response | None) -> float | None:
    """Seconds until the server wants to be asked again, if it says so, as a number or as a date."""
    said = response.headers.get("retry-after", "") if response is not None else ""
    try:
        date = parsedate_tz(said)
        seconds = float(said) if date is None else mktime_tz(date) - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
