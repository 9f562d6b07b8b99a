"""Images with a real vLLM and a model that reads them: which, how many, and in what order."""

from itertools import pairwise

import pytest

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e

pytestmark = pytest.mark.vllm("eye")


@pytest.fixture
def client(vllm_url):
    with VLLMClient(vllm_url, max_retries=0) as client:
        yield client


def image(data, **more):
    return {"type": "image_url", "image_url": data and {"url": f"data:image/png;base64,{data}"}, **more}


def ask(client, text, *images, **request):
    messages = [{"role": "user", "content": [{"type": "text", "text": text}, *images]}]
    return client.chat.completions.create(model="", messages=messages, temperature=0, **request)


def text_of(reply):
    return reply.choices[0].message.content


def test_colors_in_order(client, sent, pictures):
    red, blue, green = (image(pictures[color]) for color in ("red", "blue", "green"))
    assert text_of(ask(client, "What color is this?", red)) == "red"
    assert text_of(ask(client, "What colors are these?", red, blue, green)) == "red, blue, green"
    assert text_of(ask(client, "What colors are these?", green, blue, red)) == "green, blue, red"
    assert text_of(ask(client, "What color is the second image?", red, blue, green)) == "blue"
    assert sent.last.json["messages"][0]["content"][1:] == [red, blue, green]


def test_images_are_counted_in_usage(client, pictures):
    replies = [ask(client, "How many images are there?", *[image(pictures["red"])] * n) for n in range(5)]
    assert [text_of(reply) for reply in replies] == ["0", "1", "2", "3", "4"]
    tokens = [reply.usage.prompt_tokens for reply in replies]
    assert {after - before for before, after in pairwise(tokens)} == {7}


def test_too_many_images_raise(client, pictures):
    with pytest.raises(e.InvalidRequest, match=r"At most 4 image\(s\) may be provided"):
        ask(client, "How many images are there?", *[image(pictures["red"])] * 5)


def test_image_is_referenced_by_its_uuid(client, sent, pictures):
    ask(client, "What color is this?", image(pictures["blue"], uuid="square-1"))
    assert text_of(ask(client, "What color is this?", image(None, uuid="square-1"))) == "blue"
    assert sent.last.json["messages"][0]["content"][1] == {"type": "image_url", "image_url": None, "uuid": "square-1"}


def test_streamed_and_constrained_replies_to_images(client, pictures):
    chunks = ask(client, "Describe the images.", image(pictures["red"]), image(pictures["green"]), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        "I see 2 images: red, green."
    )
    choice = {"structured_outputs": {"choice": ["green", "blue", "red"]}}
    assert text_of(ask(client, "What color is this?", image(pictures["blue"]), extra_body=choice)) == "blue"


def test_invalid_image_raises(client):
    with pytest.raises(e.InvalidRequest, match=r"(?i)(cannot identify|failed to load|invalid).*image"):
        ask(client, "What color is this?", image("aGk="))
