"""LlamaIndex's messages as vLLM gets them: thinking, media, and messages of other LLM classes."""

import io
import json

import openai
import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.tools import FunctionTool
from version_marks import reasoning_is_parsed

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM
from vllm_adapters.testing import faults

recorded = pytest.mark.vllm("tiny")

CHAT = "/v1/chat/completions"
PNG = b"\x89PNG\r\n\x1a\n"


def user(content):
    return ChatMessage(role="user", content=content)


@recorded
@reasoning_is_parsed
def test_replay_reasoning(llm, sent):
    # Stock: never sent.
    question = user("What is the capital of Japan?")
    turn = llm.chat([question], chat_template_kwargs={"enable_thinking": True}).message
    for replay in (False, True):
        VLLM(temperature=0, replay_reasoning=replay).chat([question, turn, user("Hello")])
    without, replayed = (body["messages"][1] for body in sent.bodies(CHAT)[1:])
    assert "reasoning" not in without
    assert replayed["reasoning"] == turn.blocks[0].content


@recorded
def test_text_only_model_rejects_an_image(llm, sent):
    image = ImageBlock(image=PNG, image_mimetype="image/png")
    with pytest.raises(openai.BadRequestError, match=r"(?i)image|multimodal"):
        llm.chat([user([TextBlock(text="What is this?"), image])])
    assert sent.last.json["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_media_urls_are_not_fetched(fault_llm, fault_server):
    # Stock: audio is downloaded, video refused, images outside user messages are dropped.
    fault_server.reply(faults.chat("ok"))
    blocks = [
        TextBlock(text="look"),
        ImageBlock(url="http://nowhere.invalid/a.png", detail="low"),
        AudioBlock(url="http://nowhere.invalid/a.wav"),
        VideoBlock(url="http://nowhere.invalid/a.mp4"),
        ImageBlock(image=PNG, image_mimetype="image/png"),
        AudioBlock(audio=b"RIFF\x00\x00", format="wav"),
        CachePoint(cache_control={"type": "ephemeral"}),
    ]
    result = ChatMessage(
        role="tool",
        blocks=[TextBlock(text="a map"), ImageBlock(url="http://nowhere.invalid/b.png")],
        additional_kwargs={"tool_call_id": "call-1"},
    )
    fault_llm.chat([user(blocks), result])
    first, second = fault_server.posts(CHAT)[0].json["messages"]
    assert first["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "http://nowhere.invalid/a.png", "detail": "low"}},
        {"type": "audio_url", "audio_url": {"url": "http://nowhere.invalid/a.wav"}},
        {"type": "video_url", "video_url": {"url": "http://nowhere.invalid/a.mp4"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRgAA", "format": "wav"}},
    ]
    assert second == {
        "role": "tool",
        "tool_call_id": "call-1",
        "content": [
            {"type": "text", "text": "a map"},
            {"type": "image_url", "image_url": {"url": "http://nowhere.invalid/b.png"}},
        ],
    }


def test_media_in_open_files(fault_llm, fault_server):
    # Stock: raw audio labelled as base64, a UnicodeDecodeError for images.
    fault_server.reply(faults.chat("ok"))
    message = user(
        [
            ImageBlock(image=io.BytesIO(PNG), image_mimetype="image/png"),
            AudioBlock(audio=io.BytesIO(b"RIFF\x00\x00"), format="wav"),
            VideoBlock(video=io.BytesIO(b"\x00\x01\xff"), video_mimetype="video/mp4"),
        ]
    )
    for _ in range(2):  # retries and token counts read them again
        fault_llm.chat([message])
        assert fault_server.posts(CHAT)[-1].json["messages"][0]["content"] == [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            {"type": "input_audio", "input_audio": {"data": "UklGRgAA", "format": "wav"}},
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAH/"}},
        ]


def test_document_is_refused(fault_llm, fault_server):
    # Stock: a part with `data:None`.
    document = DocumentBlock(data=b"x", document_mimetype="application/pdf")
    with pytest.raises(e.InvalidRequest, match="does not support a DocumentBlock"):
        fault_llm.chat([user([document])])
    assert not fault_server.requests


def test_completions_endpoint_refuses_media_and_tools(fault_server):
    # Stock: images are dropped, tools are a TypeError from the SDK.
    llm = VLLM(base_url=fault_server.url, is_chat_model=False)
    with pytest.raises(e.InvalidRequest, match="is_chat_model=True"):
        llm.chat([user([ImageBlock(url="http://nowhere.invalid/a.png")])])
    tool = FunctionTool.from_defaults(lambda a: a, name="same", description="Return it.")
    with pytest.raises(e.UnknownParameter, match="tools"):
        llm.chat_with_tools([tool], "hi")
    assert not fault_server.requests


def test_messages_of_other_llm_classes(fault_llm, fault_server):
    from openai.types.chat import ChatCompletionMessageToolCall

    fault_server.reply(faults.chat("ok"))
    call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    legacy_call = ChatCompletionMessageToolCall.model_validate(call)
    block = ToolCallBlock(tool_call_id="y", tool_name="add", tool_kwargs={"a": "é"})
    fault_llm.chat(
        [
            ChatMessage(role=MessageRole.MODEL, blocks=[ThinkingBlock(content="hm"), TextBlock(text="yes")]),
            ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [legacy_call]}),
            ChatMessage(role="assistant", blocks=[block]),
        ]
    )
    model, legacy, current = fault_server.posts(CHAT)[0].json["messages"]
    assert model == {"role": "assistant", "content": "yes"}
    assert legacy == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert current["tool_calls"][0]["id"] == "y"
    assert json.loads(current["tool_calls"][0]["function"]["arguments"]) == {"a": "é"}


# Several system messages


@pytest.fixture
def strict_template(fault_server):
    """A server whose chat template takes one system message, the first."""

    async def refuse(exchange):
        roles = [message["role"] for message in exchange.request.json["messages"]]
        refused = "system" in roles[1:]
        answer = faults.error(400, "System message must be at the beginning.") if refused else faults.chat("yes")
        await answer(exchange)

    fault_server.reply(refuse)
    return fault_server


TWO = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="hi"),
    ChatMessage(role="system", content="Be kind."),
]


@pytest.mark.parametrize(("setting", "requests"), [(None, [2, 1]), (True, [1, 1])])
def test_system_messages_are_merged(strict_template, setting, requests):
    # Stock: 400.
    llm = VLLM(base_url=strict_template.url, merge_system_messages=setting)
    for count in requests:
        before = len(strict_template.posts())
        assert llm.chat(TWO).message.content == list(llm.stream_chat(TWO))[-1].message.content == "yes"
        assert len(strict_template.posts()) - before == count + 1
    last = strict_template.posts()[-1].json
    assert last["messages"][0] == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert "merge_system_messages" not in last


def test_system_messages_are_not_merged(strict_template):
    llm = VLLM(base_url=strict_template.url, merge_system_messages=False)
    with pytest.raises(e.InvalidRequest, match="merge_system_messages=True"):
        llm.chat(TWO)
    assert llm.chat(TWO, merge_system_messages=True).message.content == "yes"
    assert len(strict_template.posts()) == 2


async def test_agents_system_messages_are_merged(strict_template):
    history = [ChatMessage(role="system", content="Be kind.")]
    agent = FunctionAgent(tools=[], llm=VLLM(base_url=strict_template.url), system_prompt="Be brief.")
    assert str(await agent.run("hi", chat_history=history)) == "yes"
    assert strict_template.posts()[-1].json["messages"][0]["content"] == "Be brief.\n\nBe kind."
