"""The errors of this package that are LangChain's own as well.

Middleware and fallbacks that catch ``ContextOverflowError`` or read ``is_retryable`` work with vLLM through these
classes. Code that catches ``vllm_adapters.errors`` or openai's classes keeps working.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import openai
from langchain_core import exceptions as lc

from vllm_adapters import errors as e

__all__ = [
    "AuthenticationFailed",
    "ConstraintNotEnforced",
    "ContextLengthExceeded",
    "FeatureNotEnabled",
    "FilteredOutput",
    "IncompleteStream",
    "InvalidRequest",
    "InvalidResponse",
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
    "WrongAddress",
]


if TYPE_CHECKING:
    _RefusalError = lc.ModelRefusalError
else:
    _RefusalError = getattr(lc, "ModelRefusalError", lc.ModelError)  # since langchain-core 1.7.5


class ServerUnreachable(e.ServerUnreachable, lc.ModelConnectionError):
    """No connection could be made, or it closed before the response."""


class IncompleteStream(e.IncompleteStream, lc.ModelConnectionError):
    """A stream ended before the reply was complete; ``.partial`` is the text that had arrived."""


class ServerTimeout(e.ServerTimeout, lc.ModelTimeoutError):
    """A time limit expired; ``.kind`` tells which."""


class ServerNotReady(e.ServerNotReady, lc.ModelAPIError):
    """The server responded with 503: it is loading the model, scaling or shutting down."""


class ServerFailed(e.ServerFailed, lc.ModelAPIError):
    """The server responded with 5xx, failed in the middle of a stream, or aborted the reply."""


class InvalidResponse(e.InvalidResponse, lc.ModelAPIError):
    """The server responded with 200 and a malformed body."""


class WrongAddress(e.WrongAddress, lc.ModelNotFoundError):
    """The server does not have the route: the base URL is wrong, or the served model has another task."""


class ModelNotServed(e.ModelNotServed, lc.ModelNotFoundError):
    """The server does not serve a model of this name; ``.served`` lists those it serves."""


class AuthenticationFailed(e.AuthenticationFailed, lc.ModelAuthenticationError):
    """The server rejected the API key."""


class PermissionDenied(e.PermissionDenied, lc.ModelPermissionDeniedError):
    """The server, or a gateway in front of it, responded with 403."""


class RateLimited(e.RateLimited, lc.ModelRateLimitError):
    """The server, or a gateway in front of it, responded with 429."""


class ServerOverloaded(e.ServerOverloaded, lc.ModelRateLimitError):
    """The server responded with 503 because its queue is full, or because it is paused."""


class InvalidRequest(e.InvalidRequest, lc.ModelInvalidRequestError):
    """The server rejected the request, or it was rejected before it was sent; ``.param`` names the parameter."""


class ContextLengthExceeded(e.ContextLengthExceeded, lc.ContextOverflowError):
    """Prompt, or prompt and output together, exceed the model's context."""


class UnknownParameter(e.UnknownParameter, lc.ModelInvalidRequestError):
    """No version of vLLM has a parameter of this name. Refused before sending."""


class UnsupportedParameter(e.UnsupportedParameter, lc.ModelInvalidRequestError):
    """The connected server's version does not have this parameter. Refused before sending."""


class FeatureNotEnabled(e.FeatureNotEnabled, lc.ModelInvalidRequestError):
    """The server was started without this feature; ``.flags`` are to be added to ``vllm serve``."""


class TruncatedOutput(e.TruncatedOutput, lc.ModelError):
    """The token limit truncated what was requested; ``.partial`` is its text. The same request is truncated again."""


class FilteredOutput(e.FilteredOutput, _RefusalError):
    """A gateway's content filter truncated what was requested; ``.partial`` is its text."""

    raw_message = None


class ModelRefusal(e.ModelRefusal, _RefusalError):
    """A refusal came in place of what was requested; ``.refusal`` is its text."""

    raw_message = None


class ConstraintNotEnforced(e.ConstraintNotEnforced, lc.ModelError):
    """A finished reply violates what was requested; ``.reply`` is its text."""


_CLASSES: dict[type[e.VLLMError], type[e.VLLMError]] = {
    e.ServerUnreachable: ServerUnreachable,
    e.IncompleteStream: IncompleteStream,
    e.ServerTimeout: ServerTimeout,
    e.ServerNotReady: ServerNotReady,
    e.ServerFailed: ServerFailed,
    e.InvalidResponse: InvalidResponse,
    e.WrongAddress: WrongAddress,
    e.ModelNotServed: ModelNotServed,
    e.AuthenticationFailed: AuthenticationFailed,
    e.PermissionDenied: PermissionDenied,
    e.RateLimited: RateLimited,
    e.ServerOverloaded: ServerOverloaded,
    e.InvalidRequest: InvalidRequest,
    e.ContextLengthExceeded: ContextLengthExceeded,
    e.UnknownParameter: UnknownParameter,
    e.UnsupportedParameter: UnsupportedParameter,
    e.FeatureNotEnabled: FeatureNotEnabled,
    e.TruncatedOutput: TruncatedOutput,
    e.FilteredOutput: FilteredOutput,
    e.ModelRefusal: ModelRefusal,
    e.ConstraintNotEnforced: ConstraintNotEnforced,
}
"""The class of this module for each error that LangChain has a class for."""


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise the errors of this package as the classes of this module, also where LangChain's code has wrapped them."""
    try:
        yield
    except (openai.OpenAIError, lc.LangChainException) as failure:
        error = failure if isinstance(failure, e.VLLMError) else failure.__cause__
        if not isinstance(error, e.VLLMError):
            raise
        cls = _CLASSES.get(type(error))
        raise (error.recast(cls) if cls else error) from error.__cause__
