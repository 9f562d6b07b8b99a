"""Images in messages of every role, on a vLLM with a vision model."""

import base64
import io

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock

from vllm_adapters.llamaindex import VLLM

pytestmark = pytest.mark.vllm("eye")


@pytest.fixture
def llm():
    return VLLM(temperature=0, max_retries=0)


@pytest.fixture
def image(pictures):
    return lambda color: ImageBlock(image=base64.b64decode(pictures[color]), image_mimetype="image/png")


def user(*blocks):
    return ChatMessage(role="user", blocks=[TextBlock(text=b) if isinstance(b, str) else b for b in blocks])


def test_images_in_a_message(llm, image, sent, pictures):
    question = "What colors are these?"
    assert llm.chat([user(question, image("red"), image("blue"))]).message.content == "red, blue"
    assert llm.chat([user(image("blue"), question, image("red"))]).message.content == "blue, red"
    parts = sent.last.json["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text", "image_url"]
    assert parts[0]["image_url"] == {"url": f"data:image/png;base64,{pictures['blue']}"}


def test_images_by_path_file_and_url(llm, pictures, tmp_path):
    png = {color: base64.b64decode(data) for color, data in pictures.items()}
    (tmp_path / "red.png").write_bytes(png["red"])
    blocks = [
        ImageBlock(path=tmp_path / "red.png"),
        ImageBlock(image=io.BytesIO(png["green"])),
        ImageBlock(url=f"data:image/png;base64,{pictures['blue']}"),
    ]
    assert llm.chat([user("Name the colors.", *blocks)]).message.content == "red, green, blue"


def test_images_in_every_role(llm, image):
    call = ToolCallBlock(tool_call_id="call-1", tool_name="look", tool_kwargs={})
    messages = [
        ChatMessage(role="system", content="Be brief."),
        user("Look at this.", image("red")),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", blocks=[image("green")], additional_kwargs={"tool_call_id": "call-1"}),
        ChatMessage(role="assistant", content="I see 2 images: red, green."),
        user(image("blue"), "Name the colors."),
    ]
    assert llm.chat(messages).message.content == "red, green, blue"
    assert "".join(chunk.delta or "" for chunk in llm.stream_chat(messages)) == "red, green, blue"


async def test_image_in_an_async_call(llm, image):
    reply = await llm.achat([user("What color is this?", image("green"))])
    assert reply.message.content == "green"
