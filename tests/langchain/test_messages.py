"""Messages as they are sent to vLLM: content blocks and reasoning."""

import base64

import langchain_core.exceptions as lc
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from version_marks import reasoning_is_parsed

from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
DATA = base64.b64encode(b"bytes").decode()
PARTS = [
    ({"type": "text", "text": "Look."}, {"type": "text", "text": "Look."}),
    ({"type": "text", "text": "Look.", "id": "lc_drawn-at-random"}, {"type": "text", "text": "Look."}),
    ({"type": "image", "url": "http://x/a.png"}, {"type": "image_url", "image_url": {"url": "http://x/a.png"}}),
    (
        {"type": "image", "base64": DATA, "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
    ),
    (
        {"type": "audio", "base64": DATA, "mime_type": "audio/wav"},
        {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}},
    ),
    # Stock ChatOpenAI raises ValueError for the following, except for vLLM's own parts.
    ({"type": "audio", "url": "http://x/a.wav"}, {"type": "audio_url", "audio_url": {"url": "http://x/a.wav"}}),
    ({"type": "video", "url": "http://x/a.mp4"}, {"type": "video_url", "video_url": {"url": "http://x/a.mp4"}}),
    (
        {"type": "video", "base64": DATA, "mime_type": "video/webm"},
        {"type": "video_url", "video_url": {"url": f"data:video/webm;base64,{DATA}"}},
    ),
    ({"type": "text-plain", "text": "Notes.", "mime_type": "text/plain"}, {"type": "text", "text": "Notes."}),
    ({"type": "text-plain", "base64": DATA, "mime_type": "text/plain"}, {"type": "text", "text": "bytes"}),
    (
        {"type": "video", "source_type": "base64", "data": DATA, "mime_type": "video/mp4"},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{DATA}"}},
    ),
    *(
        (part, part)
        for part in (
            {"type": "image_url", "image_url": {"url": "http://x/a.png"}, "uuid": "seen-before"},
            {"type": "audio_url", "audio_url": {"url": "http://x/a.wav"}},
            {"type": "video_url", "video_url": {"url": "http://x/a.mp4"}},
            {"type": "image_embeds", "image_embeds": DATA},
        )
    ),
]

recorded = pytest.mark.vllm("tiny")


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


# Content blocks


@pytest.mark.parametrize(("block", "part"), PARTS, ids=lambda block: block["type"])
def test_content_block_becomes_a_part_of_vllm(faulty_llm, fault_server, block, part):
    call = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "call-1"}])
    faulty_llm.invoke(
        [SystemMessage("Be brief."), HumanMessage([block]), call, ToolMessage([block], tool_call_id="call-1")]
    )
    _, question, _, result = fault_server.posts(CHAT)[0].json["messages"]
    assert question == {"role": "user", "content": [part]}
    assert result == {"role": "tool", "tool_call_id": "call-1", "content": [part]}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "file", "base64": DATA, "mime_type": "application/pdf"},
        {"type": "file", "url": "http://x/a.pdf"},
        {"type": "image", "file_id": "file-1"},
        {"type": "audio", "file_id": "file-1"},
        {"type": "video", "file_id": "file-1"},
        {"type": "text-plain", "url": "http://x/a.txt", "mime_type": "text/plain"},
    ],
    ids=lambda block: f"{block['type']}-{[*block][1]}",
)
def test_unreadable_content_block_is_rejected(faulty_llm, fault_server, block):
    with pytest.raises(
        lc.ModelInvalidRequestError, match=f"cannot read a content block of type '{block['type']}'"
    ) as caught:
        faulty_llm.invoke([HumanMessage([block])])
    assert DATA not in str(caught.value)
    assert not fault_server.posts(CHAT)


def test_callers_messages_are_not_changed(faulty_llm):
    message = HumanMessage([{"type": "video", "url": "http://x/a.mp4"}])
    messages = [message]
    faulty_llm.invoke(messages)
    assert messages == [message]
    assert messages[0] is message
    assert message.content == [{"type": "video", "url": "http://x/a.mp4"}]


# Stock ChatOpenAI: a raw openai.BadRequestError with the same text; also in tool messages.
@recorded
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_media_for_a_text_model_is_a_typed_error(llm, sent, kind):
    block = {"type": kind, "base64": "aGk=", "mime_type": {"image": "image/png", "audio": "audio/wav"}.get(kind)}
    call = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "call-1"}])
    for messages in (
        [HumanMessage([block])],
        [HumanMessage("Look"), call, ToolMessage([block], tool_call_id="call-1")],
    ):
        with pytest.raises(lc.ModelInvalidRequestError, match="tiny is not a multimodal model"):
            llm.invoke(messages)
    part = {"image": "image_url", "audio": "input_audio", "video": "video_url"}[kind]
    assert sent.last.json["messages"][-1]["content"][0]["type"] == part


# Reasoning. Stock ChatOpenAI never sends it back.


@recorded
@reasoning_is_parsed
def test_reasoning_of_a_tool_loop_is_replayed(sent, call):
    llm = ChatVLLM(temperature=0, replay_reasoning=True, chat_template_kwargs={"enable_thinking": True})
    bound = llm.bind_tools([get_weather])
    messages = [HumanMessage("What is the weather in Tokyo?")]
    messages.append(call("stream", bound, messages))
    reasoning = messages[-1].additional_kwargs["reasoning_content"]
    messages.append(ToolMessage("sunny", tool_call_id=messages[-1].tool_calls[0]["id"]))
    messages[1].tool_calls[0]["id"] = messages[2].tool_call_id = "call-1"  # recordings need the same request
    last = bound.invoke(messages)
    assert "sunny" in last.text
    assert sent.last.json["messages"][1]["reasoning"] == reasoning
    assert reasoning.strip()


def test_reasoning_is_replayed_on_request_only(fault_server):
    fault_server.reply(faults.chat("six", reasoning="because"))
    for replay in (False, True):
        llm = ChatVLLM(base_url=fault_server.url, replay_reasoning=replay)
        llm.invoke([("user", "why?"), llm.invoke("why?"), ("user", "really?")])
    quiet, replayed = (request.json["messages"][1] for request in fault_server.posts(CHAT)[1::2])
    assert "reasoning" not in quiet
    assert replayed["reasoning"] == "because"


def test_reasoning_of_standard_content_blocks_is_replayed(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, replay_reasoning=True)
    blocks = [{"type": "reasoning", "reasoning": "because"}, {"type": "text", "text": "six"}]
    llm.invoke([("user", "why?"), AIMessage(content=blocks), ("user", "really?")])
    assert fault_server.posts(CHAT)[0].json["messages"][1]["reasoning"] == "because"
