"""What a ``ChatVLLM`` asks its server beside replies: how long prompts may be, and how many tokens they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from langchain_core.language_models import ModelProfile
from langchain_core.messages import BaseMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai.chat_models.base import BaseChatOpenAI

from vllm_adapters.langchain._connection import OpenAIConnection
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.params import TokenizeParams
from vllm_adapters.types import ModelCard, context_length

EVERY_MODEL = ModelProfile(
    text_inputs=True,
    text_outputs=True,
    tool_calling=True,
    tool_choice=True,
    tool_call_streaming=True,
    structured_output=True,
    temperature=True,
)
"""What vLLM can do with every chat model; agents choose their ways by it."""


class ServedModel(OpenAIConnection, BaseChatOpenAI):  # type: ignore[misc]  # fewer types of key
    """The part of ``ChatVLLM`` that knows what its server counts and allows."""

    _counts_special_tokens = False  # the chat template adds them

    @classmethod
    def from_server(cls, base_url: str | None = None, **arguments: Any) -> Self:
        """Ask the server for its model's name and context length, and fill ``model`` and ``profile`` with them.

        Middleware that summarises at a share of the context needs the profile. The constructor never asks.

        Args:
            base_url: As for the constructor.
            arguments: The constructor's other arguments; ``model`` may name a LoRA adapter.

        Raises:
            ModelNotServed: The server does not serve ``model``, or several and none is named.
        """
        llm = cls(base_url=base_url, **arguments)
        with langchain_errors():
            llm.model_name = llm.model_name or llm.root_client.served_model()
            return llm._told(llm._vllm.models())

    @classmethod
    async def afrom_server(cls, base_url: str | None = None, **arguments: Any) -> Self:
        """``from_server``, to await."""
        llm = cls(base_url=base_url, **arguments)
        with langchain_errors():
            llm.model_name = llm.model_name or await llm.root_async_client.served_model()
            return llm._told(await llm._vllm.amodels())

    def _resolve_model_profile(self) -> ModelProfile:
        return EVERY_MODEL.copy()

    def _told(self, cards: Sequence[ModelCard]) -> Self:
        length = context_length(cards, self.model_name, self._vllm.base_url)
        told = ModelProfile(**EVERY_MODEL, name=self.model_name, **({"max_input_tokens": length} if length else {}))
        self.profile = ModelProfile(**{**told, **({} if self.profile == EVERY_MODEL else self.profile or {})})
        return self

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own token ids of a text, without those that its chat template adds. Asks the server once."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._tokenizer.encode(text)

    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
        **parameters: Any,
    ) -> int:
        """How many tokens the model's chat template makes of messages: what a reply's usage calls input tokens.

        Args:
            messages: The conversation.
            tools: Tools that are offered with it.
            parameters: As of a call; ``chat_template_kwargs`` and the like change the count.
        """
        offered = [convert_to_openai_tool(tool) for tool in tools or ()]
        with langchain_errors():
            payload = self._get_request_payload(list(messages), **parameters)
            given = payload.get("extra_body") or {}
            shown = {name: given[name] for name in TokenizeParams.model_fields if name in given}
            return self._tokenizer.count_messages(payload["messages"], offered, **shown)
