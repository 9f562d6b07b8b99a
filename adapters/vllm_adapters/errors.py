"""Every error of this package, in one tree.

::

    VLLMError                        (openai.OpenAIError)
    ├── ServerUnreachable            (openai.APIConnectionError)   refused, DNS, closed early
    ├── ServerTimeout                (openai.APITimeoutError)      connect, idle or total: which, and how long
    ├── ServerNotReady               (openai.InternalServerError)  503 while the model loads
    ├── ServerFailed                 (openai.InternalServerError)  any other 5xx, or an aborted reply
    ├── WrongAddress                 (openai.NotFoundError)        no such route there, or a redirect elsewhere
    ├── ModelNotServed               (openai.NotFoundError)        lists the served names
    ├── AuthenticationFailed         (openai.AuthenticationError)
    ├── PermissionDenied             (openai.PermissionDeniedError)
    ├── RateLimited                  (openai.RateLimitError)       .retry_after
    │   └── ServerOverloaded         (openai.InternalServerError)  503: the server's queue is full
    ├── InvalidRequest               (openai.BadRequestError)      .param
    │   ├── ContextLengthExceeded                                  .max_model_len .requested
    │   ├── UnknownParameter                                       refused before sending
    │   ├── UnsupportedParameter                                   refused before sending
    │   └── FeatureNotEnabled                                      .flags: what to add to `vllm serve`
    ├── IncompleteStream             (openai.APIConnectionError)   .partial: the text that had arrived
    ├── TruncatedOutput              (openai.LengthFinishReasonError)
    ├── FilteredOutput               (openai.ContentFilterFinishReasonError)
    ├── ConstraintNotEnforced                                      .reply .constraint
    ├── ModelRefusal                                               .refusal: a gateway's text in place of an answer
    ├── InvalidResponse              (openai.APIResponseValidationError)
    └── LocalVLLMError                                             the local server could not be set up or died

Each is also the openai error that callers of the SDK already catch. No text, attribute or pickle of these errors
holds an API key: the headers of requests kept on them are removed.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import quote

import openai

from vllm_adapters._compat import http

__all__ = [
    "AuthenticationFailed",
    "ConstraintNotEnforced",
    "ContextLengthExceeded",
    "FeatureNotEnabled",
    "FilteredOutput",
    "IncompleteStream",
    "InvalidRequest",
    "InvalidResponse",
    "LocalVLLMError",
    "ModelNotServed",
    "ModelRefusal",
    "PermissionDenied",
    "RateLimited",
    "ServerFailed",
    "ServerNotReady",
    "ServerOverloaded",
    "ServerTimeout",
    "ServerUnreachable",
    "TruncatedOutput",
    "UnknownParameter",
    "UnsupportedParameter",
    "VLLMError",
    "WrongAddress",
]

E = TypeVar("E", bound="VLLMError")

_HARMLESS_HEADERS = frozenset({"content-type", "content-length", "accept", "host"})


class VLLMError(openai.OpenAIError):
    """Base of every error raised by this package.

    >>> from vllm_adapters import VLLMError
    >>> try:
    ...     raise VLLMError("The server did not answer", hint="Is it running?", address="http://gpu:8000/v1")
    ... except VLLMError as error:
    ...     print(error)
    The server did not answer (server: http://gpu:8000/v1). Is it running?

    Args:
        reason: What is wrong.
        hint: How to fix it, one sentence; appended to the text.
        address: Base URL of the server concerned.
        model: Served model name concerned.
        response: The HTTP response, if there was one.
        request: The HTTP request, if there was no response.
        body: The error body as parsed JSON or text.
        details: Attributes of the class, such as ``param`` or ``partial``.
    """

    STATUS: ClassVar[int] = 400
    """HTTP status reported by errors that are raised without a response."""

    message: str
    """The whole text: what is wrong, where, and how to fix it."""
    request: http.Request
    body: object | None
    code: str | None = None
    param: str | None = None
    type: str | None = None
    request_id: str | None = None
    partial: str = ""
    """Text of the reply that had arrived, when the failure came in the middle of a stream."""
    status_code: Any  # each of openai's classes has another Literal

    def __init__(
        self,
        reason: str,
        *,
        hint: str | None = None,
        address: str | None = None,
        model: str | None = None,
        response: http.Response | None = None,
        request: http.Request | None = None,
        body: object | None = None,
        **details: Any,
    ) -> None:
        Exception.__init__(self, reason)
        self.reason = reason
        self.hint = hint
        self.address = address
        self.model = model
        self.body = body
        self._attach(response, request)
        if isinstance(body, Mapping):
            for name in ("code", "param", "type"):
                if body.get(name) is not None:
                    setattr(self, name, body[name])
        for name, value in details.items():
            setattr(self, name, value)
        self._compose()

    def _compose(self) -> None:
        """Set the text: what is wrong, where, and how to fix it."""
        where = ", ".join(
            f"{label}: {value}" for label, value in (("server", self.address), ("model", self.model)) if value
        )
        text = f"{self.reason} ({where})" if where else self.reason
        self.message = f"{text.rstrip('.')}. {self.hint}" if self.hint else text

    def __str__(self) -> str:
        return self.message

    def add_context(
        self,
        *,
        address: str | None = None,
        model: str | None = None,
        response: http.Response | None = None,
        request: http.Request | None = None,
    ) -> Self:
        """Fill in what is not known yet, and return the error.

        It is called where an error leaves the client or a stream, so that code further in needs no context.

        Args:
            address: Base URL of the server.
            model: Served model name.
            response: The HTTP response.
            request: The HTTP request, if there is no response.
        """
        self.address = self.address or address
        self.model = self.model or model
        if not self._has_exchange:
            status = self.status_code
            self._attach(response, request)
            if self.status_code < 300 and status >= 400:  # an error inside a 200
                self.status_code = status
        self._compose()
        return self

    def replace_hint(self, hint: str) -> Self:
        """Replace how to fix it, and return the error."""
        self.hint = hint
        self._compose()
        return self

    def _attach(self, response: http.Response | None, request: http.Request | None) -> None:
        self._has_exchange = response is not None or request is not None
        if response is None:
            # Code written for the SDK reads `.response` and `.request` of these classes unconditionally.
            self.request = request or http.Request("POST", self.address or "http://localhost:8000/v1")
            response = http.Response(self.STATUS, request=self.request)
        else:
            self.request = response.request
        for name in list(self.request.headers):
            if name.lower() not in _HARMLESS_HEADERS:
                del self.request.headers[name]
        if self.request.url.query:
            self.request.url = redact_query(self.request.url)
        response.next_request = None  # a refused redirect's request has the headers, too
        self.response = response
        self.status_code = response.status_code
        self.request_id = response.headers.get("x-request-id")

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("request", "response")}
        return _unpickle, (self.__class__, self.args, state)

    def recast(self, cls: builtins.type[E]) -> E:
        """Return the same error as an instance of the subclass ``cls``, e.g. one that is also a framework's error."""
        error: E = cls.__new__(cls, *self.args)
        error.args = self.args
        error.__dict__.update(self.__dict__)
        error.__cause__, error.__traceback__ = self.__cause__, self.__traceback__
        return error


def redact_query(url: http.URL) -> http.URL:
    """Return ``url`` with asterisks for the values of its query, where gateways take keys."""
    names = "&".join(f"{quote(name)}=***" for name in url.params)
    return http.URL(url).copy_with(query=names.encode())


def _unpickle(cls: type[VLLMError], args: tuple[Any, ...], state: dict[str, Any]) -> VLLMError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    error._attach(None, None)
    error.__dict__.update({k: state[k] for k in ("status_code", "request_id") if k in state})
    return error


class ServerUnreachable(VLLMError, openai.APIConnectionError):
    """No connection could be made, or it closed before the response."""

    STATUS = 503


class ServerTimeout(VLLMError, openai.APITimeoutError):
    """A time limit expired; ``.kind`` is ``"connect"``, ``"pool"``, ``"idle"`` or ``"total"``."""

    STATUS = 504
    kind: str = "total"
    seconds: float | None = None


class ServerNotReady(VLLMError, openai.InternalServerError):
    """The server responded with 503: it is loading the model, scaling or shutting down."""

    STATUS = 503


class ServerFailed(VLLMError, openai.InternalServerError):
    """The server responded with 5xx, or its engine failed in the middle of a stream, or aborted the reply."""

    STATUS = 500


class WrongAddress(VLLMError, openai.NotFoundError):
    """The server does not have this route: the base URL is wrong, or the served model has another task."""

    STATUS = 404


class ModelNotServed(VLLMError, openai.NotFoundError):
    """The server does not serve a model of this name; ``.served`` lists the names it does serve."""

    STATUS = 404
    served: tuple[str, ...] = ()


class AuthenticationFailed(VLLMError, openai.AuthenticationError):
    """The server rejected the API key."""

    STATUS = 401


class PermissionDenied(VLLMError, openai.PermissionDeniedError):
    """The server, or a gateway in front of it, responded with 403."""

    STATUS = 403


class RateLimited(VLLMError, openai.RateLimitError):
    """The server, or a gateway in front of it, responded with 429; ``.retry_after`` is in seconds, if given."""

    STATUS = 429
    retry_after: float | None = None


class ServerOverloaded(RateLimited, openai.InternalServerError):
    """The server responded with 503 because its queue is full, or because it is paused.

    vLLM does so with ``--max-num-queued-reqs`` and ``--max-num-queued-tokens``, and after ``/pause``.
    """

    STATUS = 503


class InvalidRequest(VLLMError, openai.BadRequestError):
    """The server rejected the request; ``.param`` names the parameter, if known."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt, or prompt and output together, exceed the model's context; counts in tokens."""

    max_model_len: int | None = None
    requested: int | None = None


class UnknownParameter(InvalidRequest, TypeError):
    """No version of vLLM has a parameter of this name on this endpoint. Refused before sending.

    Every vLLM version accepts unknown fields and ignores them, so a misspelt parameter would silently have no
    effect: https://github.com/vllm-project/vllm/issues/53975
    """

    suggestions: tuple[str, ...] = ()


class UnsupportedParameter(InvalidRequest):
    """The connected server's version does not have this parameter. Refused before sending.

    ``.since`` and ``.until`` are the first and last vLLM versions that have it (``None``: still there).
    """

    since: str | None = None
    until: str | None = None


class FeatureNotEnabled(InvalidRequest):
    """The server was started without this feature; ``.flags`` are to be added to ``vllm serve``."""

    flags: tuple[str, ...] = ()


class IncompleteStream(VLLMError, openai.APIConnectionError):
    """A stream ended before every choice had its finish reason; ``.partial`` is the text that had arrived.

    ``.partials`` has the text of each choice by index, ``.partial_reasoning`` the reasoning of the first.
    """

    STATUS = 502
    partial_reasoning: str = ""
    partials: Mapping[int, str] = {}


class TruncatedOutput(VLLMError, openai.LengthFinishReasonError):
    """The token limit, or vLLM's ``repetition_detection``, truncated a requested object or tool call.

    ``.partial`` is its text.
    """

    STATUS = 200
    finish_reason: str = "length"
    completion: Any = None


class FilteredOutput(VLLMError, openai.ContentFilterFinishReasonError):
    """A gateway's content filter truncated a requested object; ``.partial`` is its text."""

    STATUS = 200
    finish_reason: str = "content_filter"
    completion: Any = None


class ConstraintNotEnforced(VLLMError):
    """A finished reply violates the JSON schema, regex or choice that was requested.

    Some servers ignore constraints and respond with 200: ``.reply`` is the text, ``.constraint`` the kind.
    """

    STATUS = 200
    reply: str = ""
    constraint: str = ""


class ModelRefusal(VLLMError):
    """A refusal came in place of a requested object or tool call; ``.refusal`` is its text.

    vLLM has none: gateways and other servers put one into the ``refusal`` field of a message.
    """

    STATUS = 200
    refusal: str = ""


class InvalidResponse(VLLMError, openai.APIResponseValidationError):
    """The server responded with 200 and a malformed body; the text has its content type and first bytes."""

    STATUS = 200

    def _attach(self, response: http.Response | None, request: http.Request | None) -> None:
        super()._attach(response, request)
        if response is None:
            return
        content_type = response.headers.get("content-type", "none")
        self.reason = f"{self.reason}: HTTP {response.status_code}, content type {content_type}{_start_of(response)}"
        if self.hint is None and not any(kind in content_type for kind in ("json", "event-stream")):
            self.hint = "A proxy or another server may be responding in place of vLLM"


def _start_of(response: http.Response) -> str:
    try:
        return f", body starts {plain_text(response.text[:400])[:120]!r}"
    except http.StreamError:
        return ""  # a stream, whose bytes have gone to the caller


def plain_text(text: str) -> str:
    """Return a page's first 200 characters without markup, in one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()[:200]


class LocalVLLMError(VLLMError):
    """The local vLLM could not be set up, did not start, or died; ends with the last lines of its log."""

    STATUS = 503
