"""ChatVLLM with a vision model: images reach it from every part of a conversation, in order."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.content import create_image_block, create_text_block
from pydantic import BaseModel

from vllm_adapters.langchain import ChatVLLM

pytestmark = pytest.mark.vllm("eye")


class Picture(BaseModel):
    """What is to be seen."""

    colors: list[str]


@pytest.fixture
def llm():
    return ChatVLLM(temperature=0, max_retries=0)


@pytest.fixture
def image(pictures):
    return lambda color: {"type": "image", "base64": pictures[color], "mime_type": "image/png"}


def test_images_of_a_message(llm, image, sent, pictures):
    question = {"type": "text", "text": "What colors are these?"}
    assert llm.invoke([HumanMessage([question, image("red"), image("blue")])]).text == "red, blue"
    assert llm.invoke([HumanMessage([image("blue"), question, image("red")])]).text == "blue, red"
    parts = sent.last.json["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text", "image_url"]
    assert parts[0]["image_url"] == {"url": f"data:image/png;base64,{pictures['blue']}"}


def test_standard_blocks(llm, pictures):
    blocks = [create_text_block("What color is this?")]
    blocks.append(create_image_block(base64=pictures["green"], mime_type="image/png"))
    assert llm.invoke([HumanMessage(content_blocks=blocks)]).text == "green"


def test_images_of_a_conversation(llm, image):
    call = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "call-1"}])
    messages = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "Look at this."}, image("red")]),
        call,
        ToolMessage([image("green")], tool_call_id="call-1"),
        AIMessage("I see 2 images: red, green."),
        HumanMessage([image("blue"), {"type": "text", "text": "Name the colors."}]),
    ]
    assert llm.invoke(messages).text == "red, green, blue"
    assert "".join(chunk.text for chunk in llm.stream(messages)) == "red, green, blue"


async def test_object_from_an_image(llm, image):
    message = HumanMessage([{"type": "text", "text": "Name the colors as json."}, image("blue"), image("green")])
    found = await llm.with_structured_output(Picture, method="json_schema").ainvoke([message])
    assert found == Picture(colors=["blue", "green"])
