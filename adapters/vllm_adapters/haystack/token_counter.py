"""``VLLMTokenCounter``: exact token counts of the served model, for Haystack's compaction hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from haystack.dataclasses import ChatMessage
from haystack.tools import ToolsType, warm_up_tools, warm_up_tools_async
from haystack.utils import Secret

from vllm_adapters.haystack._component import API_KEY, VLLMComponent
from vllm_adapters.haystack._messages import messages_to_dicts, tool_items, tools_to_dicts
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.tokenizer import VLLMTokenizer

_RESERVED = ("model", "messages", "tools", "prompt")


class VLLMTokenCounter(VLLMComponent):
    """Counts tokens as the served model does: messages and tools as its chat template renders them.

    >>> from haystack.dataclasses import ChatMessage
    >>> from vllm_adapters.haystack import VLLMTokenCounter
    >>> counter = VLLMTokenCounter(api_base_url="http://localhost:8000")  # vllm serve MODEL
    >>> counter.count([ChatMessage.from_user("Hello")])
    12

    Counts are cached: the same conversation is sent to the server once. Pass it to ``CompactionHook`` as its
    ``token_counter``, and give it the ``replay_reasoning`` and ``tools_strict`` of the chat generator. In async code
    await ``count_async``; ``count`` waits for the server, in an event loop, too.

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        api_base_url: The server, with or without ``/v1``; default: ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``. The default is saved as null: a loaded component has that of its place.
        timeout: Seconds, ``Timeouts``, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection errors, 429 and 5xx; default 2.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``. Credentials
            among them may be Secrets; those that are not are neither saved nor pickled.
        tools_strict: Count tools as the chat generator sends them with ``tools_strict=True``.
        replay_reasoning: Count the reasoning of earlier replies, as the chat generator sends it.
        extra_parameters: Parameters of ``/tokenize``, such as ``{"chat_template_kwargs": {"enable_thinking": False}}``.
        default_headers: Headers of every request; values may be Secrets, as in ``http_client_kwargs``.
        default_query: Query parameters of every request; keys among them may be Secrets, too.
        server: A ``VLLMServer`` to use in place of address, key, timeout and retries. It is not saved: a loaded
            counter has its address, timeout and retries, and its own key.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let parameters pass that no vLLM version has, for servers with plugins.
        validate_model_on_init: Have ``warm_up`` ask the server whether it serves the model: one request, and an error
            that names what it serves.
    """

    _saved_if_set: ClassVar[frozenset[str]] = VLLMComponent._saved_if_set | {"tools_strict", "replay_reasoning"}

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        api_base_url: str | None = None,
        timeout: float | Timeouts | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        http_client_kwargs: dict[str, Any] | None = None,
        extra_parameters: dict[str, Any] | None = None,
        tools_strict: bool = False,
        replay_reasoning: bool = False,
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
        self._check_parameters("tokenize", extra_parameters, _RESERVED)
        self.extra_parameters = extra_parameters
        self.tools_strict = tools_strict
        self.replay_reasoning = replay_reasoning
        self._tokenizer: VLLMTokenizer | None = None

    def close(self) -> None:
        """Close the client's connections, and forget the counts."""
        super().close()
        self._tokenizer = None

    def count(self, messages: list[ChatMessage], tools: ToolsType | None = None) -> int:
        """Return the number of tokens of messages.

        Args:
            messages: A conversation or a part of one: a part without a user message is counted as what it adds.
            tools: Tools that are sent with them.

        Raises:
            VLLMError: On every failure, see ``vllm_adapters.errors``.
        """
        if not messages and not tools:
            return 0
        self.warm_up()
        warm_up_tools(tool_items(tools))
        dicts, offered = self._as_sent(messages, tools)
        return self._warm_tokenizer().count_messages(dicts, offered, **self._parameters(self.extra_parameters))

    async def count_async(self, messages: list[ChatMessage], tools: ToolsType | None = None) -> int:
        """Async version of ``count``."""
        if not messages and not tools:
            return 0
        await self.warm_up_async()
        await warm_up_tools_async(tool_items(tools))
        dicts, offered = self._as_sent(messages, tools)
        return await self._warm_tokenizer().acount_messages(dicts, offered, **self._parameters(self.extra_parameters))

    def _as_sent(
        self, messages: list[ChatMessage], tools: ToolsType | None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return messages and tools as the chat generator sends them."""
        dicts = messages_to_dicts(messages, replay_reasoning=self.replay_reasoning)
        return dicts, tools_to_dicts(tools, strict=self.tools_strict)

    def _warm_tokenizer(self) -> VLLMTokenizer:
        server = self._connected_server()
        if self._tokenizer is None or self._tokenizer.server is not server:
            self._tokenizer = VLLMTokenizer(server)
        return self._tokenizer
