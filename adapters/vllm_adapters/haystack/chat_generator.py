"""``VLLMChatGenerator``: Haystack's chat generator on vLLM."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from haystack import component
from haystack.components.generators.utils import _normalize_messages
from haystack.dataclasses import ChatMessage, ComponentInfo, StreamingCallbackT
from haystack.dataclasses.streaming_chunk import select_streaming_callback
from haystack.tools import ToolsType, deserialize_tools_or_toolset_inplace, serialize_tools_or_toolset
from haystack.utils import Secret, deserialize_callable, serialize_callable

from vllm_adapters._request import compat
from vllm_adapters._request.body import deep_merge, merge_and_drop_none, reject_streamed_n, sdk_and_body
from vllm_adapters._response import structured
from vllm_adapters._response.error_mapping import truncation_error
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.haystack._component import API_KEY, NAMESPACE, Connected
from vllm_adapters.haystack._messages import messages_to_wire, tools_to_wire
from vllm_adapters.haystack.reading import StreamedReply, read_reply
from vllm_adapters.server import VLLMServer

_ASKED_BY_RUN = {"messages": "its messages", "stream": "a streaming_callback"}


@component
class VLLMChatGenerator(Connected):
    """Haystack's chat generator for a vLLM server, with everything that vLLM adds to OpenAI's API.

    >>> from vllm_adapters.haystack import VLLMChatGenerator
    >>> llm = VLLMChatGenerator(  # vllm serve MODEL
    ...     api_base_url="http://localhost:8000", generation_kwargs={"temperature": 0, "top_k": 20}
    ... )
    >>> llm.run("What is the capital of France?")["replies"][0].text
    'The capital of France is Paris.'
    >>> constrained = {"structured_outputs": {"choice": ["yes", "no"]}}
    >>> llm.run("Yes or no?", generation_kwargs=constrained)["replies"][0].text
    'no'

    Every parameter of vLLM is given flat, under vLLM's own name, in ``generation_kwargs``, here and per run. Run
    beats constructor; ``chat_template_kwargs``, ``extra_body`` and other dicts merge deeply; None takes back. A
    name that no vLLM version has is refused; one that the connected server's version does not have is translated
    or refused. Sockets and parameters are those of vllm-haystack, so pipelines move over by changing ``type`` to
    ``haystack_integrations.components.vllm_adapters.VLLMChatGenerator``.

    Tool calls need ``vllm serve --enable-auto-tool-choice --tool-call-parser ...``, reasoning needs
    ``--reasoning-parser ...``; errors name the flag that is missing.

    A reply's ``meta`` has ``finish_reason``, ``usage`` and all that vLLM adds, such as ``stop_reason``, ``logprobs``
    and ``token_ids``; tool calls that are cut or malformed are in ``meta["invalid_tool_calls"]``, never repaired.

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        streaming_callback: Called with each ``StreamingChunk``; makes the replies stream.
        api_base_url: The server, with or without ``/v1``; default ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``.
        generation_kwargs: Parameters of each run, OpenAI's and vLLM's; ``response_format`` may be a Pydantic class.
        timeout: Seconds, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        tools: Tools and toolsets that the model may call.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``, whose
            values may be Secrets; those that are not are neither saved nor pickled.
        tools_strict: Have vLLM enforce the tools' schemas; it does so for forced calls (``tool_choice``) anyway.
        replay_reasoning: Send the reasoning of earlier replies back with them, for models trained to think on
            across tool calls.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries. It is not saved: a loaded
            component has its address and its own key.
        server_version: The server's vLLM version, where ``/version`` does not tell it.
    """

    __module__ = NAMESPACE
    _left_out: ClassVar[frozenset[str]] = frozenset({"tools_strict", "replay_reasoning", "server_version"})

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        streaming_callback: StreamingCallbackT | None = None,
        api_base_url: str | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        timeout: float | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        tools: ToolsType | None = None,
        http_client_kwargs: dict[str, Any] | None = None,
        tools_strict: bool = False,
        replay_reasoning: bool = False,
        server: VLLMServer | None = None,
        server_version: str | None = None,
    ) -> None:
        self._place(model, server, api_key, api_base_url, timeout, max_retries, http_client_kwargs, server_version)
        self.streaming_callback = streaming_callback
        self.generation_kwargs = dict(generation_kwargs or {})
        self.tools = tools
        self.tools_strict = tools_strict
        self.replay_reasoning = replay_reasoning
        tools_to_wire(tools)
        _sorted(self.generation_kwargs)

    def _saved(self) -> dict[str, Any]:
        shape = self.generation_kwargs.get("response_format")
        formatted = {"response_format": compat.response_format(shape)} if shape else {}
        callback = self.streaming_callback
        return {
            **Connected._saved(self),
            "generation_kwargs": {**compat.replace_classes(self.generation_kwargs), **formatted},
            "streaming_callback": serialize_callable(callback) if callback else None,
            "tools": serialize_tools_or_toolset(self.tools),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VLLMChatGenerator:
        """The component that ``to_dict`` saved."""
        parameters = data.setdefault("init_parameters", {})
        deserialize_tools_or_toolset_inplace(parameters, key="tools")
        if parameters.get("streaming_callback"):
            parameters["streaming_callback"] = deserialize_callable(parameters["streaming_callback"])
        loaded: VLLMChatGenerator = cls._load(data)
        return loaded

    def _request(
        self,
        messages: Sequence[ChatMessage],
        streams: bool,
        generation_kwargs: dict[str, Any] | None,
        tools: ToolsType | None,
    ) -> dict[str, Any]:
        """The arguments of ``client.chat.completions.create``."""
        arguments, body = map(merge_and_drop_none, _sorted(self.generation_kwargs, generation_kwargs or {}))
        options = arguments.pop("stream_options", None)
        if streams:
            reject_streamed_n({**arguments, "extra_body": body})
            arguments["stream_options"] = deep_merge({"include_usage": True}, options)
        if "response_format" in arguments:
            arguments["response_format"] = compat.response_format(arguments["response_format"])
        if offered := tools_to_wire(self.tools if tools is None else tools, strict=self.tools_strict):
            arguments["tools"] = offered
        return {
            "model": self.model or "",
            "messages": messages_to_wire(messages, replay_reasoning=self.replay_reasoning),
            "stream": streams,
            **arguments,
            **({"extra_body": body} if body else {}),
        }

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """Reply to messages.

        Args:
            messages: The conversation, or a user's one message.
            streaming_callback: Called with each ``StreamingChunk``; in place of the constructor's.
            generation_kwargs: Parameters of this run; merged into the constructor's, over which they win.
            tools: In place of the constructor's; ``[]`` for none.

        Returns:
            ``{"replies": [...]}``, one message for each of ``n``.

        Raises:
            VLLMError: On every failure, see ``vllm_adapters.errors``. A stream that breaks off raises
                ``IncompleteStream``, a constrained reply that ``max_tokens`` cuts ``TruncatedOutput``.
        """
        asked = _normalize_messages(messages)
        if not asked:
            return {"replies": []}
        callback = select_streaming_callback(self.streaming_callback, streaming_callback, requires_async=False)
        request = self._request(asked, callback is not None, generation_kwargs, tools)
        answer: Any = self._sync().chat.completions.create(**request)
        if callback is None:
            return _whole(read_reply(answer), request)
        reply = StreamedReply(ComponentInfo.from_component(self))
        try:
            for chunk in answer:
                callback(reply.read(chunk))
        except BaseException:
            answer.close()  # or vLLM would go on generating for a callback that has failed
            raise
        return _whole([reply.message()], request)

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """``run``, to await; the callback may be a coroutine function."""
        asked = _normalize_messages(messages)
        if not asked:
            return {"replies": []}
        callback = select_streaming_callback(self.streaming_callback, streaming_callback, requires_async=True)
        request = self._request(asked, callback is not None, generation_kwargs, tools)
        answer: Any = await (await self._async()).chat.completions.create(**request)
        if callback is None:
            return _whole(read_reply(answer), request)
        reply = StreamedReply(ComponentInfo.from_component(self))
        try:
            async for chunk in answer:
                shown = callback(reply.read(chunk))
                if inspect.isawaitable(shown):
                    await shown
        except BaseException:
            await answer.close()
            raise
        return _whole([reply.message()], request)


def _sorted(*levels: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    for name, instead in _ASKED_BY_RUN.items():
        if any(name in given for given in levels):
            raise InvalidRequest(f"`{name}` is no generation parameter here", hint=f"Give run {instead}", param=name)
    return sdk_and_body(*levels)


def _whole(replies: list[ChatMessage], request: Mapping[str, Any]) -> dict[str, list[ChatMessage]]:
    """The component's output, unless the token limit cut an object that was asked for."""
    constraint = structured.requested_constraint({**request, **request.get("extra_body", {})})
    for reply in replies:
        text = reply.text or ""
        error = truncation_error(reply.meta["finish_reason"], text)
        if error and constraint is not None and not reply.tool_calls and constraint.broken_by(text):
            raise error
    return {"replies": replies}
