"""VLLMChatGenerator with a model that sees: images from every place of a conversation, in order."""

import base64

import pytest
from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.dataclasses import ChatMessage, ImageContent, TextContent, ToolCall

pytestmark = pytest.mark.vllm("eye")


@pytest.fixture
def image(pictures):
    return lambda color: ImageContent(base64_image=pictures[color], mime_type="image/png")


def user(*parts):
    return ChatMessage.from_user(content_parts=list(parts))


def text_of(output):
    return output["replies"][0].text


def test_images_of_a_message(llm, image, sent, pictures):
    question = "What colors are these?"
    assert text_of(llm.run([user(question, image("red"), image("blue"))])) == "red, blue"
    assert text_of(llm.run([user(image("blue"), question, image("red"))])) == "blue, red"
    parts = sent.last.json["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text", "image_url"]
    assert parts[0]["image_url"] == {"url": f"data:image/png;base64,{pictures['blue']}"}


def test_images_of_a_conversation(llm, image):
    call = ToolCall(id="call-1", tool_name="look", arguments={})
    messages = [
        ChatMessage.from_system("Be brief."),
        user("Look at this.", image("red")),
        ChatMessage.from_assistant(tool_calls=[call]),
        ChatMessage.from_tool([TextContent("here"), image("green")], origin=call),
        ChatMessage.from_assistant("I see 2 images: red, green."),
        user(image("blue"), "Name the colors."),
    ]
    assert text_of(llm.run(messages)) == "red, green, blue"
    pieces = []
    output = llm.run(messages, streaming_callback=lambda chunk: pieces.append(chunk.content))
    assert "".join(pieces) == text_of(output) == "red, green, blue"


async def test_image_in_a_pipeline(llm, pictures, tmp_path):
    path = tmp_path / "green.png"
    path.write_bytes(base64.b64decode(pictures["green"]))
    template = """{% message role="user" %}
    What color is this? {{ image | templatize_part }}
    {% endmessage %}"""
    pipe = Pipeline()
    pipe.add_component("prompt", ChatPromptBuilder(template=template, required_variables="*"))
    pipe.add_component("llm", llm)
    pipe.connect("prompt.prompt", "llm.messages")
    output = await pipe.run_async({"prompt": {"image": ImageContent.from_file_path(path)}})
    assert text_of(output["llm"]) == "green"
