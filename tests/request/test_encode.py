"""Values that JSON cannot encode raise an error with their place, and nothing is sent."""

import math

import pytest

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.embedder import Embedder

SURROGATE = "half of an emoji: \ud83d"


def body(**fields):
    return {"messages": [{"role": "user", "content": "hi"}], "model": "stub"} | fields


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("request_", "place", "param"),
    [
        (
            body(messages=[{"role": "user", "content": SURROGATE}]),
            r"messages\[0\]\.content` contains a lone surrogate \('\\ud83d' at index 18\)",
            "messages",
        ),
        (
            body(messages=[{"role": "user", "content": [{"type": "text", "text": SURROGATE}]}]),
            r"messages\[0\]\.content\[0\]\.text` contains a lone surrogate",
            "messages",
        ),
        (body(temperature=math.nan), "`temperature` is nan, which JSON cannot encode", "temperature"),
        (body(extra_body={"logit_bias": {"7": -math.inf}}), r"`logit_bias\.7` is -inf", "logit_bias"),
        (
            body(extra_body={"chat_template_kwargs": {"names": {"Ada"}}}),
            r"`chat_template_kwargs\.names` is of type set",
            "chat_template_kwargs",
        ),
    ],
    ids=["surrogate", "surrogate-in-part", "nan", "infinity", "set"],
)
def test_unencodable_value_raises_with_its_place(ask, fault_server, request_, place, param, stream):
    with pytest.raises(e.InvalidRequest, match=place) as caught:
        ask(fault_server.url, stream=stream, **request_)
    assert caught.value.param == param
    assert not fault_server.posts(), "nothing is sent"


def test_unencodable_text_does_not_fail_the_other_texts(fault_server):
    found = Embedder(VLLMServer(fault_server.url)).embed(["one", SURROGATE, "three"], keep_going=True)
    assert list(found.failures) == [1]
    assert not math.isnan(found.vectors[2][0])
    assert "`input[0]` contains a lone" in str(found.failures[1])


def test_circular_reference_raises(fault_server):
    loop = {}
    loop["again"] = [loop]
    with pytest.raises(e.InvalidRequest, match=r"`again\[0\]\.again` contains a circular reference"):
        VLLMServer(fault_server.url).client.post("/anything", body=loop, cast_to=object)


def test_other_errors_of_the_encoder_are_passed_on(fault_server):
    with pytest.raises(e.InvalidRequest, match=r"keys must be str, .* not tuple"):
        VLLMServer(fault_server.url).client.post("/anything", body={"pairs": {(1, 2): 3}}, cast_to=object)
