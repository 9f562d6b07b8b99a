"""Copied chunks are what LangChain's own conversion makes."""

import pytest

pytest.importorskip("langchain_openai")

from langchain_core.messages import AIMessageChunk, HumanMessageChunk
from langchain_openai.chat_models.base import BaseChatOpenAI

from vllm_adapters.langchain import ChatVLLM, _chunks
from vllm_adapters.langchain._chunks import ReplyChunk


def chunk_of(delta, **choice):
    return {"id": "chatcmpl-1", "model": "tiny", "choices": [{"index": 0, "delta": delta, **choice}]}


@pytest.mark.parametrize("version", [None, "v0", "v1"])
@pytest.mark.parametrize("text", ["", " Paris", "\n", None])
def test_a_copied_chunk_is_langchains_own(version, text):
    model = ChatVLLM(model="tiny", output_version=version)
    chunk = chunk_of({"content": text}, finish_reason=None, logprobs=None, token_ids=None)
    copied = model._convert_chunk_to_generation_chunk(chunk, AIMessageChunk, {})
    made = BaseChatOpenAI._convert_chunk_to_generation_chunk(model, chunk, AIMessageChunk, {})
    made.message = ReplyChunk.of(made.message, None)
    made.message.response_metadata["model_provider"] = "vllm"

    assert copied == made
    assert copied.model_dump() == made.model_dump()
    assert copied.message.model_fields_set == made.message.model_fields_set
    assert copied.message.content_blocks == made.message.content_blocks


def test_copied_chunks_share_nothing():
    model = ChatVLLM(model="tiny")
    first, second = (
        model._convert_chunk_to_generation_chunk(chunk_of({"content": text}), AIMessageChunk, {}) for text in "ab"
    )
    for name, value in first.message.__dict__.items():
        if isinstance(value, dict | list):
            assert value is not second.message.__dict__[name], name
    first.message.additional_kwargs["seen"] = True
    first.message.id = "run-1"
    assert (first.text, second.text) == ("a", "b")
    assert second.message.additional_kwargs == {}
    assert second.message.id is None


def test_reasoning_is_copied_too():
    made = ChatVLLM(model="tiny")._convert_chunk_to_generation_chunk(chunk_of({"reasoning": "Hm"}), AIMessageChunk, {})
    assert made.message.additional_kwargs == {"reasoning_content": "Hm"}
    assert made.text == ""


@pytest.mark.parametrize(
    ("chunk", "cls"),
    [
        (chunk_of({"role": "assistant", "content": ""}), AIMessageChunk),
        (chunk_of({"content": "."}, finish_reason="stop"), AIMessageChunk),
        (chunk_of({"content": "."}, logprobs={"content": []}), AIMessageChunk),
        (chunk_of({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}), AIMessageChunk),
        ({**chunk_of({"content": "."}), "usage": {"prompt_tokens": 1}}, AIMessageChunk),
        (chunk_of({"content": "."}), HumanMessageChunk),
    ],
)
def test_whatever_says_more_than_text_is_langchains_to_convert(chunk, cls):
    assert not _chunks.is_text_only(chunk, chunk["choices"][0], cls)
