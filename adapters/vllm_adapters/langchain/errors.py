"""vLLM's failures as LangChain's own errors too: each class here is both.

Middleware and fallbacks that catch ``ContextOverflowError`` or look at ``is_retryable`` work with vLLM through
these; code that catches ``vllm_adapters.errors`` or openai's classes goes on working.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import openai
from langchain_core import exceptions as lc

from vllm_adapters import errors as e


class ServerUnreachable(e.ServerUnreachable, lc.ModelConnectionError):
    """See ``vllm_adapters.errors``."""


class IncompleteStream(e.IncompleteStream, lc.ModelConnectionError):
    """See ``vllm_adapters.errors``."""


class ServerTimeout(e.ServerTimeout, lc.ModelTimeoutError):
    """See ``vllm_adapters.errors``."""


class ServerNotReady(e.ServerNotReady, lc.ModelAPIError):
    """See ``vllm_adapters.errors``."""


class ServerFailed(e.ServerFailed, lc.ModelAPIError):
    """See ``vllm_adapters.errors``."""


class InvalidResponse(e.InvalidResponse, lc.ModelAPIError):
    """See ``vllm_adapters.errors``."""


class WrongAddress(e.WrongAddress, lc.ModelNotFoundError):
    """See ``vllm_adapters.errors``."""


class ModelNotServed(e.ModelNotServed, lc.ModelNotFoundError):
    """See ``vllm_adapters.errors``."""


class AuthenticationFailed(e.AuthenticationFailed, lc.ModelAuthenticationError):
    """See ``vllm_adapters.errors``."""


class PermissionDenied(e.PermissionDenied, lc.ModelPermissionDeniedError):
    """See ``vllm_adapters.errors``."""


class RateLimited(e.RateLimited, lc.ModelRateLimitError):
    """See ``vllm_adapters.errors``."""


class InvalidRequest(e.InvalidRequest, lc.ModelInvalidRequestError):
    """See ``vllm_adapters.errors``."""


class ContextLengthExceeded(e.ContextLengthExceeded, lc.ContextOverflowError):
    """See ``vllm_adapters.errors``."""


class UnknownParameter(e.UnknownParameter, lc.ModelInvalidRequestError):
    """See ``vllm_adapters.errors``."""


class UnsupportedParameter(e.UnsupportedParameter, lc.ModelInvalidRequestError):
    """See ``vllm_adapters.errors``."""


class FeatureNotEnabled(e.FeatureNotEnabled, lc.ModelInvalidRequestError):
    """See ``vllm_adapters.errors``."""


_BOTH: dict[type[e.VLLMError], type[e.VLLMError]] = {
    base: cls
    for cls in tuple(globals().values())
    if isinstance(cls, type) and issubclass(cls, e.VLLMError) and cls.__module__ == __name__
    for base in cls.__bases__
    if issubclass(base, e.VLLMError)
}


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise vLLM's failures as the classes of this module, also where the base class has wrapped them."""
    try:
        yield
    except (openai.OpenAIError, lc.LangChainException) as error:
        ours = error if isinstance(error, e.VLLMError) else error.__cause__
        if not isinstance(ours, e.VLLMError):
            raise
        both = _BOTH.get(type(ours))
        raise (ours.recast(both) if both else ours) from ours.__cause__
