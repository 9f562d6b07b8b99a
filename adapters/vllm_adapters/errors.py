"""Every error of this package, in one tree.

::

    VLLMError                        (openai.OpenAIError)
    ├── ServerUnreachable            (openai.APIConnectionError)   refused, DNS, closed early
    ├── ServerTimeout                (openai.APITimeoutError)      connect, idle or total: which, and how long
    ├── ServerNotReady               (openai.InternalServerError)  503 while the model loads
    ├── ServerFailed                 (openai.InternalServerError)  any other 5xx, or a reply that was given up
    ├── WrongAddress                 (openai.NotFoundError)        no such route there, or a redirect elsewhere
    ├── ModelNotServed               (openai.NotFoundError)        lists the served names
    ├── AuthenticationFailed         (openai.AuthenticationError)
    ├── PermissionDenied             (openai.PermissionDeniedError)
    ├── RateLimited                  (openai.RateLimitError)       .retry_after
    ├── InvalidRequest               (openai.BadRequestError)      .param
    │   ├── ContextLengthExceeded                                  .max_model_len .requested
    │   ├── UnknownParameter                                       refused before sending
    │   ├── UnsupportedParameter                                   refused before sending
    │   └── FeatureNotEnabled                                      .flags: what to add to `vllm serve`
    ├── IncompleteStream             (openai.APIConnectionError)   .partial: the text that had arrived
    ├── TruncatedOutput              (openai.LengthFinishReasonError)
    ├── FilteredOutput               (openai.ContentFilterFinishReasonError)
    ├── ConstraintNotEnforced                                      .reply .constraint
    ├── InvalidResponse              (openai.APIResponseValidationError)
    └── LocalVLLMError                                             the local server could not be set up or died

Each also is the openai error that callers of the SDK already catch. No text, attribute or pickle of these
errors holds an API key: requests kept on them have their headers removed.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import openai

from vllm_adapters._compat import http

E = TypeVar("E", bound="VLLMError")

_HARMLESS_HEADERS = frozenset({"content-type", "content-length", "accept", "host"})


class VLLMError(openai.OpenAIError):
    """Base of every error raised by this package.

    >>> from vllm_adapters import VLLMError
    >>> try:
    ...     raise VLLMError("no answer", hint="is the server up?", address="http://gpu:8000/v1")
    ... except VLLMError as error:
    ...     print(error)
    no answer (server: http://gpu:8000/v1). is the server up?

    Args:
        message: What happened.
        hint: The way out, one sentence; appended to the text.
        address: Base URL of the server concerned.
        model: Served model name concerned.
        response: The HTTP response, if there was one.
        request: The HTTP request, if there was no response.
        body: The error body as parsed JSON or text.
        details: Attributes particular to the class, such as ``param`` or ``partial``.
    """

    STATUS: ClassVar[int] = 400
    """HTTP status reported by errors that are raised without a response."""

    message: str
    request: http.Request
    body: object | None
    code: str | None = None
    param: str | None = None
    type: str | None = None
    request_id: str | None = None
    partial: str = ""
    """Text of the reply that had arrived, when the failure came in the middle of a stream."""
    status_code: Any  # openai's classes each say another Literal

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        address: str | None = None,
        model: str | None = None,
        response: http.Response | None = None,
        request: http.Request | None = None,
        body: object | None = None,
        **details: Any,
    ) -> None:
        where = ", ".join(f"{label}: {value}" for label, value in (("server", address), ("model", model)) if value)
        text = f"{message} ({where})" if where else message
        if hint:
            text = f"{text.rstrip('.')}. {hint}"
        Exception.__init__(self, text)
        self.message = text
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

    def _attach(self, response: http.Response | None, request: http.Request | None) -> None:
        if response is None:
            # Code written for the SDK reads `.response` and `.request` of these classes without asking.
            self.request = request or http.Request("POST", self.address or "http://localhost:8000/v1")
            response = http.Response(self.STATUS, request=self.request)
        else:
            self.request = response.request
        for name in list(self.request.headers):
            if name.lower() not in _HARMLESS_HEADERS:
                del self.request.headers[name]
        response.next_request = None  # of a refused redirect: it would have the headers, too
        self.response = response
        self.status_code = response.status_code
        self.request_id = response.headers.get("x-request-id")

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("request", "response")}
        return _revive, (self.__class__, self.args, state)

    def recast(self, cls: builtins.type[E]) -> E:
        """The same error as a subclass ``cls``, e.g. one that is also a framework's own error."""
        error: E = cls.__new__(cls, *self.args)
        error.args = self.args
        error.__dict__.update(self.__dict__)
        error.__cause__, error.__traceback__ = self.__cause__, self.__traceback__
        return error


def _revive(cls: type[VLLMError], args: tuple[Any, ...], state: dict[str, Any]) -> VLLMError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    error._attach(None, None)
    error.__dict__.update({k: state[k] for k in ("status_code", "request_id") if k in state})
    return error


class ServerUnreachable(VLLMError, openai.APIConnectionError):
    """Nothing answers at the address, or the connection closed before the answer."""

    STATUS = 503


class ServerTimeout(VLLMError, openai.APITimeoutError):
    """A time limit passed: ``.kind`` is ``"connect"``, ``"pool"``, ``"idle"`` or ``"total"``."""

    STATUS = 504
    kind: str = "total"
    seconds: float | None = None


class ServerNotReady(VLLMError, openai.InternalServerError):
    """The server answers 503: it is loading the model, scaling or shutting down."""

    STATUS = 503


class ServerFailed(VLLMError, openai.InternalServerError):
    """The server answered 5xx, or gave a reply up: its engine failed in the middle of a stream, or aborted it."""

    STATUS = 500


class WrongAddress(VLLMError, openai.NotFoundError):
    """There is a server, but not this route: the base URL or the served model's task is another one."""

    STATUS = 404


class ModelNotServed(VLLMError, openai.NotFoundError):
    """The server does not serve a model of this name; ``.served`` lists the names it does serve."""

    STATUS = 404
    served: tuple[str, ...] = ()


class AuthenticationFailed(VLLMError, openai.AuthenticationError):
    """The server wants another API key."""

    STATUS = 401


class PermissionDenied(VLLMError, openai.PermissionDeniedError):
    """The server, or a gateway before it, answers 403."""

    STATUS = 403


class RateLimited(VLLMError, openai.RateLimitError):
    """The server, or a gateway before it, answers 429; ``.retry_after`` in seconds, if it said so."""

    STATUS = 429
    retry_after: float | None = None


class InvalidRequest(VLLMError, openai.BadRequestError):
    """The server refused the request; ``.param`` names the parameter when it said which."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt, or prompt and output together, exceed the model's context; counts in tokens."""

    max_model_len: int | None = None
    requested: int | None = None


class UnknownParameter(InvalidRequest, TypeError):
    """No version of vLLM has a parameter of this name on this endpoint. Refused before sending.

    Every vLLM version accepts unknown fields and ignores them, so a misspelt parameter would be lost
    without a word: https://github.com/vllm-project/vllm/issues/53975
    """

    suggestions: tuple[str, ...] = ()


class UnsupportedParameter(InvalidRequest):
    """The connected server's version does not have this parameter. Refused before sending.

    ``.since`` and ``.until`` are the first and last vLLM versions that have it (``None``: still there).
    """

    since: str | None = None
    until: str | None = None


class FeatureNotEnabled(InvalidRequest):
    """The server was started without something; ``.flags`` are what to add to ``vllm serve``."""

    flags: tuple[str, ...] = ()


class IncompleteStream(VLLMError, openai.APIConnectionError):
    """A stream ended before every choice had its finish reason; ``.partial`` is the text that had arrived.

    ``.partials`` has the text of each choice by index, ``.partial_reasoning`` the reasoning of the first.
    """

    STATUS = 502
    partial_reasoning: str = ""
    partials: Mapping[int, str] = {}


class TruncatedOutput(VLLMError, openai.LengthFinishReasonError):
    """The token limit, or vLLM's ``repetition_detection``, cut an object that was asked for; ``.partial`` is left."""

    STATUS = 200
    completion: Any = None


class FilteredOutput(VLLMError, openai.ContentFilterFinishReasonError):
    """A gateway's content filter cut the reply where a whole object was asked for; ``.partial`` is what there is."""

    STATUS = 200
    completion: Any = None


class ConstraintNotEnforced(VLLMError):
    """A finished reply breaks the JSON schema, regex or choice that was asked for.

    Some servers ignore constraints and answer 200: ``.reply`` is the text, ``.constraint`` what it breaks.
    """

    STATUS = 200
    reply: str = ""
    constraint: str = ""


class InvalidResponse(VLLMError, openai.APIResponseValidationError):
    """The server answered 200 with something that is not an answer; says content type and first bytes."""

    STATUS = 200


class LocalVLLMError(VLLMError):
    """The local vLLM could not be set up, did not start, or died; ends with the last lines of its log."""

    STATUS = 503
