"""From vLLM's replies to LangChain's messages, whole and in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai.chat_models.base import BaseChatOpenAI

from vllm_adapters._response.tool_calls import parse_tool_calls
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS, pick_fields
from vllm_adapters.langchain import _chunks
from vllm_adapters.langchain.calls import ReplyChunk, set_calls
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.langchain.events import aprotocol_events, protocol_events


class ChatReplies(BaseChatOpenAI):
    """The half of ``ChatVLLM`` that reads: reasoning, tool calls, usage and what vLLM adds to replies."""

    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        reply = response if isinstance(response, dict) else response.model_dump(warnings=False)
        result = super()._create_chat_result(_readable(reply), generation_info)
        for generation, choice in zip(result.generations, reply["choices"], strict=True):
            reason, said = choice.get("finish_reason"), choice["message"]
            info = {"finish_reason": reason, **pick_fields(choice, CHOICE_FIELDS | {"logprobs"})}
            generation.generation_info = {**(generation.generation_info or {}), **info}
            message = cast(AIMessage, generation.message)
            message.additional_kwargs.setdefault("refusal", said.get("refusal"))
            if thought := said.get("reasoning"):
                message.additional_kwargs["reasoning_content"] = thought
            if calls := said.get("tool_calls"):
                set_calls(message, parse_tool_calls(calls, reason))
            if generation is not result.generations[0]:
                message.usage_metadata = None  # one request, one usage: tracers add up all generations
        added = {k: v for k, v in (result.llm_output or {}).items() if v not in (None, "")}
        result.llm_output = {**added, **pick_fields(reply, RESPONSE_FIELDS), "model_provider": "vllm"}
        if len(result.generations) > 1:  # of one choice alone LangChain puts this on the message
            told = {k: v for k, v in result.llm_output.items() if k != "token_usage"}
            for generation in result.generations:
                generation.message.response_metadata.update(told)
        return result

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        served = {name: True for output in llm_outputs if output and (name := output.get("model_name"))}
        return {**super()._combine_llm_outputs(llm_outputs), **({"model_name": next(iter(served))} if served else {})}

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        choice = chunk["choices"][0] if chunk.get("choices") else {}
        if choice and choice.get("delta") is None:
            return None
        if choice and choice["delta"].get("role"):
            choice["delta"]["role"] = "assistant"  # whatever `vllm serve --response-role` says
        if issubclass(default_chunk_class, ReplyChunk):
            default_chunk_class = AIMessageChunk  # the name that the base class looks for
        made: ChatGenerationChunk
        if choice and not base_generation_info and _chunks.is_text_only(chunk, choice, default_chunk_class):
            made = _chunks.like(self._text_chunk, choice["delta"].get("content") or "")
        else:
            made = self._made(chunk, default_chunk_class, base_generation_info)
        if added := pick_fields(choice, CHOICE_FIELDS) | pick_fields(chunk, RESPONSE_FIELDS):
            made.generation_info = {**(made.generation_info or {}), **added}
        if made.generation_info and choice and (self.stream_usage or not choice.get("finish_reason")):
            # Chunks are added up, text to text: what every chunk repeats may stand on one of them only,
            # the usage chunk behind the choice's last if there is one.
            made.generation_info.pop("system_fingerprint", None)
        if thought := (choice.get("delta") or {}).get("reasoning"):
            made.message.additional_kwargs["reasoning_content"] = thought
        made.message.response_metadata["model_provider"] = "vllm"
        return made

    def _made(self, *chunk: Any) -> ChatGenerationChunk:
        made = cast(ChatGenerationChunk, super()._convert_chunk_to_generation_chunk(*chunk))
        if isinstance(made.message, AIMessageChunk):
            made.message = ReplyChunk.of(made.message, (made.generation_info or {}).get("finish_reason"))
        return made

    @property
    def _text_chunk(self) -> ChatGenerationChunk:
        if self.output_version not in _TEXT_CHUNKS:
            _TEXT_CHUNKS[self.output_version] = self._made(_chunks.PATTERN, AIMessageChunk, None)
        return _TEXT_CHUNKS[self.output_version]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            return super()._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            return await super()._agenerate(messages, stop, run_manager, **kwargs)

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            yield from super()._stream(*args, **kwargs)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk

    def _stream_chat_model_events(
        self, messages: list[BaseMessage], *, run_manager: CallbackManagerForLLMRun, **kwargs: Any
    ) -> Iterator[Any]:
        return protocol_events(self._stream(messages, run_manager=run_manager, **kwargs), run_manager)

    def _astream_chat_model_events(
        self, messages: list[BaseMessage], *, run_manager: AsyncCallbackManagerForLLMRun, **kwargs: Any
    ) -> AsyncIterator[Any]:
        return aprotocol_events(self._astream(messages, run_manager=run_manager, **kwargs), run_manager)


def _readable(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply as LangChain's own reading takes it.

    That fails on tool calls whose arguments are no object, and on `vllm serve --response-role`.
    """
    told = {"tool_calls": None, "role": "assistant"}
    choices = [{**choice, "message": {**choice["message"], **told}} for choice in reply["choices"]]
    return {**reply, "choices": choices}


_TEXT_CHUNKS: dict[str | None, ChatGenerationChunk] = {}
