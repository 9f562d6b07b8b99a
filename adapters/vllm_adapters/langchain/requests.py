"""From LangChain's messages and parameters to vLLM's requests."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_openai.chat_models.base import BaseChatOpenAI

from vllm_adapters._request import compat
from vllm_adapters._request.body import deep_merge, merge_and_drop_none, reject_streamed_n, sdk_and_body
from vllm_adapters.langchain._connection import OpenAIConnection
from vllm_adapters.langchain._messages import for_vllm
from vllm_adapters.params import ChatParams, wire


class ChatRequests(ChatParams, OpenAIConnection, BaseChatOpenAI):  # type: ignore[misc]  # fewer types of key
    """The half of ``ChatVLLM`` that asks: every parameter of vLLM, from every place where it can be given."""

    replay_reasoning: bool = False

    def _use_responses_api(self, payload: dict[str, Any]) -> bool:
        return False

    @property
    def _default_params(self) -> dict[str, Any]:
        defaults = {k: v for k, v in super()._default_params.items() if k not in self.model_kwargs}
        sdk, added = sdk_and_body(self.model_kwargs)
        body = deep_merge(wire(self, ChatParams), self.extra_body, added)
        return {**defaults, **sdk, **({"extra_body": body} if body else {})}

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        given = {"extra_body": self._default_params.get("extra_body")}
        sdk, body = sdk_and_body(given, kwargs)
        messages = [for_vllm(message) for message in self._convert_input(input_).to_messages()]
        payload = super()._get_request_payload(messages, stop=stop, **sdk)
        body = merge_and_drop_none(body)
        if "response_format" in payload:
            # Out of the SDK's parsing helpers, which lose reasoning and the text of a reply that is cut short.
            body["response_format"] = compat.response_format(payload.pop("response_format"))
        if self.allow_unknown:
            body[compat.ALLOW_UNKNOWN] = True
        payload.pop("extra_body", None)
        if self.replay_reasoning:
            for message, sent in zip(messages, payload["messages"], strict=True):
                if thought := _reasoning_of(message):
                    sent["reasoning"] = thought
        request = {**payload, "extra_body": body} if body else payload
        if request.get("stream"):
            reject_streamed_n(request)
        return request


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
