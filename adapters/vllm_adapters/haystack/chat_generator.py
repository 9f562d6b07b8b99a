"""``VLLMChatGenerator``: Haystack's chat generator for vLLM."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from operator import is_
from typing import Any, ClassVar

from haystack import component
from haystack.dataclasses import ChatMessage, ComponentInfo, StreamingCallbackT, select_streaming_callback
from haystack.tools import (
    Toolset,
    ToolsType,
    deserialize_tools_or_toolset_inplace,
    serialize_tools_or_toolset,
    warm_up_tools,
    warm_up_tools_async,
)
from haystack.tools.tool import Tool
from haystack.tracing.tracer import tracer
from haystack.utils import Secret, deserialize_callable, serialize_callable

from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._request import compat
from vllm_adapters._request.body import SEND_OPTIONS, request_body
from vllm_adapters._request.system_messages import MERGE_SYSTEM_MESSAGES
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.haystack import _credentials
from vllm_adapters.haystack._component import API_KEY, VLLMComponent
from vllm_adapters.haystack._messages import StreamedReply, messages_to_dicts, read_replies, tool_items, tools_to_dicts
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts

log = logging.getLogger(__name__)

_ARGUMENTS_OF_RUN = {"messages": "`messages`", "stream": "a `streaming_callback`"}


@component
class VLLMChatGenerator(VLLMComponent):
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

    Pass any vLLM parameter in ``generation_kwargs``, flat, under vLLM's own name, to the constructor or to ``run``.
    ``run`` overrides the constructor; ``chat_template_kwargs``, ``extra_body`` and other dicts are merged deeply;
    ``None`` drops what the constructor set. A name that no vLLM version has is refused; one that the server's version
    does not have is translated or refused.

    Sockets and parameters are those of vllm-haystack. To move a pipeline, change ``type`` to
    ``haystack_integrations.components.vllm_adapters.VLLMChatGenerator``.

    Tool calls need ``vllm serve --enable-auto-tool-choice --tool-call-parser ...``, reasoning needs
    ``--reasoning-parser ...``; errors name the missing flag.

    The ``meta`` of a reply has ``finish_reason``, ``usage`` and everything that vLLM adds, such as ``stop_reason``,
    ``logprobs`` and ``token_ids``. Truncated or malformed tool calls are in ``meta["invalid_tool_calls"]``; they are
    never repaired.

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        streaming_callback: Called with each ``StreamingChunk``; if given, replies are streamed.
        api_base_url: The server, with or without ``/v1``; default: ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``. The default is saved as null: a loaded component has that of its place.
        generation_kwargs: Parameters of each run, OpenAI's and vLLM's; ``response_format`` may be a Pydantic class, a
            dataclass or a TypedDict. Credentials (values of ``extra_headers``, keys in ``extra_query``, ``cache_salt``)
            may be Secrets, as in ``http_client_kwargs``; content traces show those that are not.
        timeout: Seconds, ``Timeouts``, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection errors, 429 and 5xx; default 2.
        tools: Tools and toolsets that the model may call. ``warm_up`` warms them up too; it does not own them, so
            ``close`` leaves them open.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``. Credentials
            among them may be Secrets; those that are not are neither saved nor pickled.
        tools_strict: Have vLLM enforce the schemas of all tools, also where the model may choose whether to call one,
            as in agents; it does so for forced tool calls (``tool_choice``) anyway.
        replay_reasoning: Send the reasoning of earlier replies back with them, for models trained to continue their
            reasoning across tool calls.
        merge_system_messages: Send the contents of all system messages in one, the first, for chat templates that
            refuse others. Default: after such a refusal.
        default_headers: Headers of every request; values may be Secrets, as in ``http_client_kwargs``.
        default_query: Query parameters of every request; keys among them may be Secrets, too.
        server: A ``VLLMServer`` to use in place of address, key, timeout and retries. It is not saved: a loaded
            component has its address, timeout and retries, and its own key.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let parameters pass that no vLLM version has, for servers with plugins.
        validate_model_on_init: Have ``warm_up`` ask the server whether it serves the model: one request, and an error
            that names what it serves.
    """

    _saved_if_set: ClassVar[frozenset[str]] = VLLMComponent._saved_if_set | {
        "tools_strict",
        "replay_reasoning",
        "merge_system_messages",
    }

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        streaming_callback: StreamingCallbackT | None = None,
        api_base_url: str | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        timeout: float | Timeouts | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        tools: ToolsType | None = None,
        http_client_kwargs: dict[str, Any] | None = None,
        tools_strict: bool = False,
        replay_reasoning: bool = False,
        merge_system_messages: bool | None = None,
        default_headers: Mapping[str, str | Secret] | None = None,
        default_query: dict[str, Any] | None = None,
        server: VLLMServer | None = None,
        server_version: str | None = None,
        allow_unknown: bool = False,
        validate_model_on_init: bool = False,
    ) -> None:
        VLLMComponent.__init__(
            self,
            model=model,
            api_key=api_key,
            api_base_url=api_base_url,
            timeout=timeout,
            max_retries=max_retries,
            http_client_kwargs=http_client_kwargs,
            default_headers=default_headers,
            default_query=default_query,
            server=server,
            server_version=server_version,
            allow_unknown=allow_unknown,
            validate_model_on_init=validate_model_on_init,
        )
        self.streaming_callback = streaming_callback
        self.generation_kwargs = dict(generation_kwargs or {})
        self.tools = tools
        self.tools_strict = tools_strict
        self.replay_reasoning = replay_reasoning
        self.merge_system_messages = merge_system_messages
        self._warm_tools: list[Any] | None = None
        self._async_warm_tools: list[Any] | None = None
        items = tool_items(tools)
        tools_to_dicts(
            [item for item in items if isinstance(item, Tool) or type(item) is Toolset]
        )  # others load theirs
        _reject_arguments_of_run(self.generation_kwargs)
        body = request_body(_credentials.change(self.generation_kwargs, _credentials.stand_in))
        if not self._allows_unknown():
            compat.reject_unknown("chat", {name: body[name] for name in body.keys() - SEND_OPTIONS})

    def warm_up(self) -> None:
        """Warm up the tools, read the API key and create the client.

        No request is sent, unless the model is to be validated or a tool sends one.
        """
        if not _same(tools := tool_items(self.tools), self._warm_tools):
            warm_up_tools(self.tools)
            self._warm_tools = tools
        VLLMComponent.warm_up(self)

    async def warm_up_async(self) -> None:
        """Async version of ``warm_up``, for ``run_async``."""
        if not _same(tools := tool_items(self.tools), self._async_warm_tools):
            await warm_up_tools_async(self.tools)
            self._async_warm_tools = tools
        await VLLMComponent.warm_up_async(self)

    def close(self) -> None:
        """Close the client's connections; the next ``warm_up`` makes new ones. A given ``server`` stays open."""
        VLLMComponent.close(self)
        self._warm_tools = None

    async def close_async(self) -> None:
        """Async version of ``close``, for the client of ``run_async``."""
        await VLLMComponent.close_async(self)
        self._async_warm_tools = None

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
        tools_strict: bool | None = None,
        session_id: str | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """Reply to messages.

        Args:
            messages: The conversation, or a user's one message.
            streaming_callback: Called with each ``StreamingChunk``; overrides the constructor's.
            generation_kwargs: Parameters of this run; they are merged into the constructor's and override them.
            tools: Override the constructor's; ``[]`` for none.
            tools_strict: Overrides the constructor's.
            session_id: Id that all requests of a conversation share: routers keep a session on one replica. It
                overrides that of ``generation_kwargs``. Haystack's Agent passes ``generation_kwargs`` only.

        Returns:
            ``{"replies": [...]}``, with one message for each of ``n``.

        Raises:
            VLLMError: On every failure, see ``vllm_adapters.errors``. An incomplete stream raises
                ``IncompleteStream``, a constrained reply that ``max_tokens`` truncates ``TruncatedOutput``.
        """
        if messages == []:
            return {"replies": []}
        callback = select_streaming_callback(self.streaming_callback, streaming_callback, requires_async=False)
        client = self._warm_client()
        if tools is not None:
            warm_up_tools(tool_items(tools))
        elif self.tools is not None and not _same(tool_items(self.tools), self._warm_tools):  # they were set since
            self.warm_up()
        body = self._request_body(messages, callback is not None, generation_kwargs, tools, tools_strict, session_id)
        response: Any = RawCompletions(client).create(**body)
        if callback is None:
            return {"replies": read_replies(response)}
        reply = StreamedReply(ComponentInfo(self._type(), getattr(self, "__component_name__", None)))
        with response:  # closed when the callback fails, so that vLLM stops generating
            for chunk in response:
                callback(reply.add(chunk))
        return {"replies": [reply.message()]}

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
        tools_strict: bool | None = None,
        session_id: str | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """Async version of ``run``; the callback may be a coroutine function."""
        if messages == []:
            return {"replies": []}
        callback = select_streaming_callback(self.streaming_callback, streaming_callback, requires_async=True)
        client = await self._warm_async_client()
        if tools is not None:
            await warm_up_tools_async(tool_items(tools))
        elif self.tools is not None and not _same(tool_items(self.tools), self._async_warm_tools):
            await self.warm_up_async()
        body = self._request_body(messages, callback is not None, generation_kwargs, tools, tools_strict, session_id)
        response: Any = await RawCompletions(client).create(**body)
        if callback is None:
            return {"replies": read_replies(response)}
        reply = StreamedReply(ComponentInfo(self._type(), getattr(self, "__component_name__", None)))
        async with response:
            async for chunk in response:
                result = callback(reply.add(chunk))
                if inspect.isawaitable(result):
                    await result
        return {"replies": [reply.message()]}

    def _request_body(
        self,
        messages: list[ChatMessage] | str,
        stream: bool,
        generation_kwargs: Mapping[str, Any] | None,
        tools: ToolsType | None,
        tools_strict: bool | None,
        session_id: str | None,
    ) -> dict[str, Any]:
        """Return the arguments of ``RawCompletions.create``."""
        defaults: dict[str, Any] = {
            "model": self.model or "",
            "messages": messages_to_dicts(messages, replay_reasoning=self.replay_reasoning),
            "stream": stream,
            "stream_options": {"include_usage": True},
        }
        if self.merge_system_messages is not None:
            defaults[MERGE_SYSTEM_MESSAGES] = self.merge_system_messages
        if self.allow_unknown:
            defaults[compat.ALLOW_UNKNOWN] = True
        levels: list[Mapping[str, Any]] = [defaults]
        for given in (self.generation_kwargs, generation_kwargs):
            if given:
                if not _credentials.PLACES.isdisjoint(given):
                    given = _credentials.change(given, _credentials.resolve)
                levels.append(given)
        if session_id is not None:
            levels.append({compat.SESSION_ID: session_id})
        if generation_kwargs:
            _reject_arguments_of_run(generation_kwargs)
            _warn_of_traced_credentials(generation_kwargs)
        body = request_body(*levels)
        if not stream:
            body.pop("stream_options", None)
        tools = self.tools if tools is None else tools
        strict = self.tools_strict if tools_strict is None else tools_strict
        if tools and (dicts := tools_to_dicts(tools, strict=strict)):
            body["tools"] = dicts
        return body

    def _init_parameters(self) -> dict[str, Any]:
        """Return the constructor's arguments as they are saved: classes as their JSON schemas."""
        saved = VLLMComponent._init_parameters(self)
        if "generation_kwargs" in saved:
            saved["generation_kwargs"] = compat.replace_classes(saved["generation_kwargs"])
        if saved.get("streaming_callback"):
            saved["streaming_callback"] = serialize_callable(saved["streaming_callback"])
        if "tools" in saved:
            saved["tools"] = serialize_tools_or_toolset(saved["tools"])
        return saved

    @staticmethod
    def _load_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments of what ``_init_parameters`` has serialized."""
        loaded = VLLMComponent._load_parameters(parameters)
        deserialize_tools_or_toolset_inplace(loaded, key="tools")
        if loaded.get("streaming_callback"):
            loaded["streaming_callback"] = deserialize_callable(loaded["streaming_callback"])
        return loaded


def _same(tools: list[Any], warm: list[Any] | None) -> bool:
    return warm is not None and len(tools) == len(warm) and all(map(is_, tools, warm))


def _reject_arguments_of_run(generation_kwargs: Mapping[str, Any]) -> None:
    """Raise for what is an argument of ``run`` instead of a generation parameter.

    Raises:
        InvalidRequest: There is one.
    """
    for name, argument in _ARGUMENTS_OF_RUN.items():
        if name in generation_kwargs:
            raise InvalidRequest(
                f"`{name}` cannot be set in `generation_kwargs`", hint=f"Pass {argument} to run", param=name
            )


def _warn_of_traced_credentials(generation_kwargs: Mapping[str, Any]) -> None:
    """Log a warning if a trace of the inputs shows credentials, which Haystack has written already."""
    if tracer.is_content_tracing_enabled and (names := _credentials.secret_texts(generation_kwargs)):
        log.warning(
            "`%s` in the generation_kwargs of run is in the content trace. Pass its value as Secret.from_env_var(...), "
            "or to the constructor.",
            names[0],
        )
