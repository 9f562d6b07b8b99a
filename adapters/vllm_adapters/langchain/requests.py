"""From LangChain's messages and parameters to vLLM's requests."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_openai.chat_models.base import BaseChatOpenAI
from openai.resources.chat.completions import Completions

from vllm_adapters import dialect
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.langchain.content import for_vllm
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.merging import merged
from vllm_adapters.params import ChatParams, wire


class ChatRequests(ChatParams, BaseChatOpenAI):
    """The half of ``ChatVLLM`` that asks: every parameter of vLLM, from every place where it can be given."""

    allow_unknown: bool = False
    replay_reasoning: bool = False

    def _use_responses_api(self, payload: dict[str, Any]) -> bool:
        return False

    @property
    def _default_params(self) -> dict[str, Any]:
        defaults = {k: v for k, v in super()._default_params.items() if k not in self.model_kwargs}
        sdk, added = _sort(self.model_kwargs)
        body = merged(wire(self, ChatParams), self.extra_body, added)
        return {**defaults, **sdk, **({"extra_body": body} if body else {})}

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        sdk, added = _sort(kwargs)
        messages = [for_vllm(message) for message in self._convert_input(input_).to_messages()]
        payload = super()._get_request_payload(messages, stop=stop, **sdk)
        body = merged(self._default_params.get("extra_body"), added)
        if "response_format" in payload:
            # Out of the SDK's parsing helpers, which lose reasoning and the text of a reply that is cut short.
            body["response_format"] = dialect.response_format(payload.pop("response_format"))
        if self.allow_unknown:
            body[dialect.ALLOW_UNKNOWN] = True
        payload.pop("extra_body", None)
        if self.replay_reasoning:
            for message, sent in zip(messages, payload["messages"], strict=True):
                if thought := _reasoning_of(message):
                    sent["reasoning"] = thought
        return {**payload, "extra_body": body} if body else payload


@functools.cache
def _sdk_parameters() -> frozenset[str]:
    return frozenset(inspect.signature(Completions.create).parameters) - {"self"}


def one_limit(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that name the limit of the reply ``max_tokens``, whichever of its two names was used.

    Raises:
        InvalidRequest: Both were given, and differ.
    """
    limits = {given[name] for name in ("max_tokens", "max_completion_tokens") if given.get(name) is not None}
    if len(limits) > 1:
        with langchain_errors():
            raise InvalidRequest(
                "`max_tokens` and `max_completion_tokens` are the same limit and were given different values",
                hint="Give one of them",
                param="max_tokens",
            )
    rest = {k: v for k, v in given.items() if k not in ("max_tokens", "max_completion_tokens")}
    return {**rest, "max_tokens": next(iter(limits), None)}


def _sort(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of a call: those that the SDK's method takes, and those that go into ``extra_body``."""
    if "max_completion_tokens" in given:
        given = one_limit(given)
    sdk = {k: v for k, v in given.items() if k in _sdk_parameters() and k != "extra_body"}
    added = {k: v for k, v in given.items() if k not in _sdk_parameters()}
    allowed = {k: added.pop(k) for k in (dialect.ALLOW_UNKNOWN,) if k in added}
    return sdk, merged(dialect.checked(ChatParams, added, endpoint="chat"), given.get("extra_body"), allowed)


def _reasoning_of(message: BaseMessage) -> str:
    if not isinstance(message, AIMessage):
        return ""
    if thought := message.additional_kwargs.get("reasoning_content"):
        return str(thought)
    blocks = message.content if isinstance(message.content, list) else []
    return "".join(
        str(block.get("reasoning") or "")
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "reasoning"
    )
