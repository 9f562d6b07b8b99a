"""``VLLMTokenCounter``: how many tokens the served model makes of messages, for Haystack's compaction hooks."""

from __future__ import annotations

from typing import Any

from haystack.dataclasses import ChatMessage
from haystack.tools import ToolsType
from haystack.utils import Secret

from vllm_adapters.haystack._component import API_KEY, NAMESPACE, Connected, refuse_own
from vllm_adapters.haystack._messages import messages_to_wire, tools_to_wire
from vllm_adapters.server import VLLMServer
from vllm_adapters.tokenizer import VLLMTokenizer

_OWN = ("model", "messages", "tools", "prompt")


class VLLMTokenCounter(Connected):
    """Counts tokens as the served model does, messages by its chat template and tools as it shows them.

    >>> from haystack.dataclasses import ChatMessage
    >>> from vllm_adapters.haystack import VLLMTokenCounter
    >>> counter = VLLMTokenCounter(api_base_url="http://localhost:8000")  # vllm serve MODEL
    >>> counter.count([ChatMessage.from_user("Hello")])
    12

    The same conversation is asked for once. Give it to ``CompactionHook`` as its ``token_counter``.

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        api_base_url: The server, with or without ``/v1``; default ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``.
        timeout: Seconds, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``, whose
            values may be Secrets; those that are not are neither saved nor pickled.
        extra_parameters: Of ``/tokenize``, such as ``{"chat_template_kwargs": {"enable_thinking": False}}``.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries. It is not saved: a loaded
            counter has its address and its own key.
        server_version: The server's vLLM version, where ``/version`` does not tell it.
    """

    __module__ = NAMESPACE

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        api_base_url: str | None = None,
        timeout: float | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        http_client_kwargs: dict[str, Any] | None = None,
        extra_parameters: dict[str, Any] | None = None,
        server: VLLMServer | None = None,
        server_version: str | None = None,
    ) -> None:
        self._place(model, server, api_key, api_base_url, timeout, max_retries, http_client_kwargs, server_version)
        refuse_own(extra_parameters, _OWN)
        self.extra_parameters = extra_parameters
        self._tokenizer: VLLMTokenizer | None = None

    def close(self) -> None:
        """Close the client's connections, and forget what was counted."""
        super().close()
        self._tokenizer = None

    def count(self, messages: list[ChatMessage], tools: ToolsType | None = None) -> int:
        """How many tokens messages take.

        Args:
            messages: A conversation, or a part of one: a part without a user's message is counted as what it adds.
            tools: Tools that are sent with them.

        Raises:
            VLLMError: On every failure, see ``vllm_adapters.errors``.
        """
        if not messages and not tools:
            return 0
        if self._tokenizer is None:
            self.warm_up()
            self._tokenizer = VLLMTokenizer(self._connect())
        sent, offered = messages_to_wire(messages), tools_to_wire(tools)
        return self._tokenizer.count_messages(sent, offered, **(self.extra_parameters or {}))
