"""Haystack's messages as vLLM gets them."""

import base64

import pytest
from haystack.dataclasses import ChatMessage, FileContent, ImageContent, TextContent, ToolCall

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMChatGenerator
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
CAPITAL = "What is the capital of Japan?"
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def test_images_audio_and_video(stub_llm, fault_server):
    file = {"base64_data": PIXEL, "validation": False}
    parts = [
        TextContent("What is this?"),
        ImageContent(base64_image=PIXEL, mime_type="image/png", validation=False),
        FileContent(mime_type="audio/wav", **file),
        FileContent(mime_type="video/mp4", **file),
        FileContent(mime_type="image/webp", **file),
    ]
    stub_llm.run([ChatMessage.from_user(content_parts=parts)])
    assert fault_server.posts(CHAT)[0].json["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{PIXEL}"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{PIXEL}"}},
    ]


def test_other_files_are_rejected(stub_llm, fault_server):
    file = FileContent(mime_type="application/pdf", base64_data=PIXEL, validation=False)
    with pytest.raises(e.InvalidRequest, match="must be an image, audio or video, not application/pdf"):
        stub_llm.run([ChatMessage.from_user(content_parts=[file])])
    assert not fault_server.requests


def test_tool_result_with_an_image(stub_llm, fault_server):
    image = ImageContent(base64_image=PIXEL, mime_type="image/png", validation=False)
    call = ToolCall(id="1", tool_name="camera", arguments={})
    messages = [
        ChatMessage.from_user("look"),
        ChatMessage.from_assistant(tool_calls=[call]),
        ChatMessage.from_tool([TextContent("here"), image], origin=call),
    ]
    stub_llm.run(messages)
    assert fault_server.posts(CHAT)[0].json["messages"][2] == {
        "role": "tool",
        "tool_call_id": "1",
        "content": [
            {"type": "text", "text": "here"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        ],
    }


def test_reasoning_is_replayed_on_request(fault_server):
    messages = [
        ChatMessage.from_user("why?"),
        ChatMessage.from_assistant("six", reasoning="because"),
        ChatMessage.from_user("really?"),
    ]
    for replay in (False, True):
        VLLMChatGenerator(api_base_url=fault_server.url, replay_reasoning=replay).run(messages)
    without, replayed = (request.json["messages"][1] for request in fault_server.posts(CHAT))
    assert without == {"role": "assistant", "content": "six"}
    assert replayed == {"role": "assistant", "content": "six", "reasoning": "because"}


@pytest.mark.vllm("tiny")
def test_trailing_empty_assistant_messages_are_dropped(llm, sent):
    empty = [ChatMessage.from_assistant(text=None), ChatMessage.from_assistant(reasoning="only thoughts")]
    for last in empty:
        llm.run([ChatMessage.from_user(CAPITAL), last])
    assert [len(body["messages"]) for body in sent.bodies(CHAT)] == [1, 1]


def test_prefilled_assistant_messages_are_sent(stub_llm, fault_server):
    messages = [ChatMessage.from_user("one"), ChatMessage.from_assistant("two")]
    stub_llm.run(messages, generation_kwargs={"continue_final_message": True, "add_generation_prompt": False})
    assert fault_server.posts(CHAT)[0].json["messages"][1] == {"role": "assistant", "content": "two"}


@pytest.mark.parametrize("messages", [[1], None, {"role": "user"}], ids=repr)
def test_other_types_are_rejected(stub_llm, fault_server, messages):
    with pytest.raises(TypeError, match="`messages` must be a str or a list of ChatMessage"):
        stub_llm.run(messages)
    assert not fault_server.requests


SYSTEM = [
    ChatMessage.from_system("Be brief."),
    ChatMessage.from_user("Hello"),
    ChatMessage.from_system("Be polite."),
    ChatMessage.from_user("one two"),
]
MERGED = [
    {"role": "system", "content": "Be brief.\n\nBe polite."},
    {"role": "user", "content": "Hello"},
    {"role": "user", "content": "one two"},
]


@pytest.mark.parametrize("at", ["constructor", "generation_kwargs", "run"])
def test_system_messages_are_merged_on_request(fault_server, run, at):
    parameters = {"merge_system_messages": True}
    of_constructor = {"constructor": parameters, "generation_kwargs": {"generation_kwargs": parameters}}.get(at, {})
    llm = VLLMChatGenerator(api_base_url=fault_server.url, **of_constructor)
    run(llm, SYSTEM, **({"generation_kwargs": parameters} if at == "run" else {}))
    body = fault_server.posts()[0].json
    assert body["messages"] == MERGED
    assert "merge_system_messages" not in body


def test_system_messages_that_a_template_refuses_are_merged(fault_server, stub_llm, run):
    fault_server.script(CHAT, [faults.error(400, "System message must be at the beginning.")])
    (reply,) = run(stub_llm, SYSTEM)
    assert reply.text == "one two"
    run(stub_llm, SYSTEM)
    sent = [len(request.json["messages"]) for request in fault_server.posts()]
    assert sent == [4, 3, 3]


def test_system_messages_are_not_merged_if_that_is_off(fault_server):
    fault_server.reply(faults.error(400, "System message must be at the beginning."))
    llm = VLLMChatGenerator(api_base_url=fault_server.url, merge_system_messages=False, max_retries=0)
    with pytest.raises(e.InvalidRequest, match="at the beginning"):
        llm.run(SYSTEM)
    assert len(fault_server.posts()) == 1
