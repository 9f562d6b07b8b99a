"""What no request can carry: refused with its place, and nothing is sent."""

import math

import pytest

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.embedder import Embedder

HALF = "an emoji cut in two: \ud83d"


def body(**fields):
    return {"messages": [{"role": "user", "content": "hi"}], "model": "stub"} | fields


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "place", "param"),
    [
        (
            body(messages=[{"role": "user", "content": HALF}]),
            r"messages\[0\].content` contains a lone surrogate \('\\ud83d' at index 21\)",
            "messages",
        ),
        (
            body(messages=[{"role": "user", "content": [{"type": "text", "text": HALF}]}]),
            r"messages\[0\].content\[0\].text` contains a lone surrogate",
            "messages",
        ),
        (body(temperature=math.nan), "temperature` is nan", "temperature"),
        (body(extra_body={"logit_bias": {"7": -math.inf}}), "logit_bias.7` is -inf", "logit_bias"),
        (
            body(extra_body={"chat_template_kwargs": {"names": {"Ada"}}}),
            "chat_template_kwargs.names` is of type set",
            "chat_template_kwargs",
        ),
    ],
)
def test_the_place_is_told_and_nothing_is_sent(ask, fault_server, asked, place, param, stream):
    with pytest.raises(e.InvalidRequest, match=place) as caught:
        ask(fault_server.url, stream=stream, **asked)
    assert caught.value.param == param
    assert not fault_server.posts()


def test_one_text_that_cannot_be_sent_takes_no_other_with_it(fault_server):
    found = Embedder(VLLMServer(fault_server.url)).embed(["one", HALF, "three"], keep_going=True)
    assert list(found.failures) == [1]
    assert not math.isnan(found.vectors[2][0])
    assert "`input[0]` contains a lone" in str(found.failures[1])


def test_a_body_that_holds_itself(fault_server):
    loop = {}
    loop["again"] = [loop]
    with pytest.raises(e.InvalidRequest, match="contains a circular reference"):
        VLLMServer(fault_server.url).client.post("/anything", body=loop, cast_to=object)


def test_what_the_encoder_says_of_anything_else(fault_server):
    with pytest.raises(e.InvalidRequest, match=r"keys must be str, .* not tuple"):
        VLLMServer(fault_server.url).client.post("/anything", body={"pairs": {(1, 2): 3}}, cast_to=object)
