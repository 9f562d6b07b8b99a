"""Checks of responses, before the SDK's own helpers convert them, and the errors of reading them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args, get_origin

import openai
from openai._models import FinalRequestOptions
from openai._streaming import extract_stream_chunk_type
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from vllm_adapters._compat import http
from vllm_adapters._request import availability
from vllm_adapters._response import error_mapping
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters._response.validate import validate_response, validate_vectors
from vllm_adapters._transport.http import CALL
from vllm_adapters.errors import InvalidResponse, VLLMError

if TYPE_CHECKING:
    from vllm_adapters._client.base import ClientState


def is_event_stream(response: http.Response) -> bool:
    """Return whether a response is what a streamed request should get."""
    return "text/event-stream" in response.headers.get("content-type", "").lower()


def is_checked(url: str, cast_to: Any) -> bool:
    """Return whether a response is checked: not texts, files, and what users request by ``post``."""
    return cast_to is not str and bool(
        availability.endpoint_of(url) or (isinstance(cast_to, type) and issubclass(cast_to, BaseModel))
    )


def sent_context(state: ClientState, response: http.Response) -> RequestContext:
    """Return the request of ``response``, for errors."""
    try:
        model = json.loads(response.request.content).get("model")
    except (ValueError, AttributeError, http.StreamError):
        model = None  # a GET, or an uploaded file
    return RequestContext(state.address, response.request.url.path, model)


@contextmanager
def response_errors(state: ClientState, response: http.Response) -> Iterator[None]:
    """Map errors while a response is read: malformed ones, those of the transport, and add the response."""
    try:
        yield
    except VLLMError as error:
        context = sent_context(state, response)
        error.add_context(address=context.address, model=context.model, response=response)
        raise
    except http.RequestError as error:
        context = sent_context(state, response)
        raise error_mapping.from_transport(error, response.request).add_context(
            address=context.address, model=context.model
        ) from None
    except (ValueError, RecursionError) as error:
        raise malformed(state, f"The response cannot be parsed ({error})", response) from None


def malformed(state: ClientState, reason: str, response: http.Response) -> InvalidResponse:
    context = sent_context(state, response)
    return InvalidResponse(reason, address=context.address, model=context.model, response=response)


def not_a_stream(state: ClientState, response: http.Response) -> VLLMError:
    """Return the error for a 200 that should have been an event stream; its body has been read."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, Mapping) and body.get("error"):
        return error_mapping.from_event(body, sent_context(state, response), response)
    return malformed(state, "The response is not an event stream", response)


def checked_parser(state: ClientState, options: FinalRequestOptions, response: http.Response) -> Callable[[Any], Any]:
    """Return the SDK's parser of a response that was not streamed, behind our checks."""
    body, parser, call = options.json_data, options.post_parser, CALL.get()
    endpoint = availability.endpoint_of(options.url) or (
        "responses" if availability.is_responses(options.url) else None
    )

    def parse(parsed: Any) -> Any:
        fields = parsed if isinstance(parsed, Mapping) else vars(parsed) if isinstance(parsed, BaseModel) else {}
        state.info.update(fields.get("system_fingerprint"))
        if call is not None:
            call.received(parsed, response)
        extra = fields if isinstance(parsed, Mapping) else getattr(parsed, "model_extra", None) or {}
        error = extra.get("error")
        if endpoint == "responses" and not error:  # a field of the SDK's class
            error = fields.get("error")
            error = error.to_dict() if isinstance(error, openai.BaseModel) else error
        if error:
            raise error_mapping.from_event({"error": error}, sent_context(state, response), response)
        validate_response(parsed, body, endpoint=endpoint, content=response.content)
        if not callable(parser):
            return parsed
        if isinstance(parsed, ChatCompletion) or endpoint == "responses":
            from vllm_adapters._client.sdk_helpers import parse_errors  # with all of the SDK's resources

            with parse_errors(lambda: parsed):
                return parser(parsed)
        converted = parser(parsed)
        if isinstance(converted, CreateEmbeddingResponse):
            dimensions = body.get("dimensions") if isinstance(body, Mapping) else None
            validate_vectors([item.embedding for item in converted.data], dimensions)  # decoded from base64
        return converted

    return parse


def checked_stream_class(stream_cls: Any, checked: Any, base: Any) -> Any:
    """Return our stream class for the type of chunk that the SDK's resource requested.

    Args:
        stream_cls: The class that was requested, such as ``Stream[ChatCompletionChunk]``. Logfire and others pass a
            subclass of their own, which then iterates over our stream.
        checked: ``CheckedStream`` or its async version.
        base: The SDK's stream class.
    """
    if get_origin(stream_cls) is base:
        return checked[get_args(stream_cls)[0]]
    if stream_cls is None or issubclass(get_origin(stream_cls) or stream_cls, checked):
        return stream_cls
    # The SDK finds the type of chunk in the base that is its own class.
    members = {"__orig_bases__": (base[extract_stream_chunk_type(stream_cls)],), "__module__": stream_cls.__module__}
    return type(stream_cls.__name__, (stream_cls, checked), members)
