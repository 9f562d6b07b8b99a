"""``client.responses`` with our errors in the SDK's ``stream``; apart, because it takes time to import."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from openai.lib._parsing._responses import parse_response
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.resources.responses import AsyncResponses, Responses

from vllm_adapters._client.sdk_helpers import StreamManager, misfit, response_text


class _State(ResponseStreamState[Any]):
    """The state of the SDK's stream of a response, with our errors."""

    def __init__(self, stream: Any) -> None:
        state, self._raw = stream._state, stream._raw_stream
        super().__init__(input_tools=state._input_tools, text_format=state._text_format)

    def handle_event(self, event: Any) -> Any:
        try:
            return super().handle_event(event)
        except ValueError as error:
            if event.type == "response.output_text.done":  # only the last event tells whether it was truncated
                return [event]
            context = self._raw._client.vllm.context(self._raw._options)
            raise misfit(error, response_text(event.response)).add_context(
                address=context.address, model=context.model
            ) from error

    def accumulate_event(self, event: Any) -> Any:
        snapshot = super().accumulate_event(event)
        if event.type == "response.incomplete":
            self._completed_response = parse_response(
                text_format=self._text_format, response=event.response, input_tools=self._input_tools
            )
        return snapshot


class CheckedResponses(Responses):
    """``client.responses`` whose ``stream`` raises our errors."""

    if not TYPE_CHECKING:

        @wraps(Responses.stream)
        def stream(self, **request: Any) -> Any:
            return StreamManager(super().stream(**request), _State)


class AsyncCheckedResponses(AsyncResponses):
    """``CheckedResponses`` of the async client."""

    if not TYPE_CHECKING:

        @wraps(AsyncResponses.stream)
        def stream(self, **request: Any) -> Any:
            return StreamManager(super().stream(**request), _State)
