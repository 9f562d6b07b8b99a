"""Content blocks of LangChain's messages as they go to vLLM."""

import base64

import pytest

pytest.importorskip("langchain_openai")

import langchain_core.exceptions as lc
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from vllm_adapters.langchain import ChatVLLM

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


@pytest.fixture
def llm(fault_server):
    return ChatVLLM(base_url=fault_server.url, max_retries=0, timeout=5)


@pytest.mark.parametrize(("block", "part"), PARTS, ids=lambda block: block["type"])
def test_a_block_is_the_part_that_vllm_reads(llm, fault_server, block, part):
    called = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "call-1"}])
    llm.invoke([SystemMessage("Be brief."), HumanMessage([block]), called, ToolMessage([block], tool_call_id="call-1")])
    _, asked, _, told = fault_server.posts("/v1/chat/completions")[0].json["messages"]
    assert asked == {"role": "user", "content": [part]}
    assert told == {"role": "tool", "tool_call_id": "call-1", "content": [part]}


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
def test_what_vllm_cannot_read_is_refused(llm, fault_server, block):
    with pytest.raises(lc.ModelInvalidRequestError, match=f"no content block of type '{block['type']}'") as caught:
        llm.invoke([HumanMessage([block])])
    assert DATA not in str(caught.value)
    assert not fault_server.posts("/v1/chat/completions")


def test_the_callers_messages_stay_as_they_were(llm):
    message = HumanMessage([{"type": "video", "url": "http://x/a.mp4"}])
    llm.invoke([message])
    assert message.content == [{"type": "video", "url": "http://x/a.mp4"}]
