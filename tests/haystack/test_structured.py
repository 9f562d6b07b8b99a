"""Constraints on replies of VLLMChatGenerator: structured outputs, response formats, and replies that violate them."""

import json
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import pytest
from haystack.core.serialization import component_to_dict
from pydantic import BaseModel, Field
from version_marks import constraint_is_enforced, not_enforced_before

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMChatGenerator
from vllm_adapters.testing import faults


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int = Field(ge=0)


@pytest.mark.vllm("tiny")
@pytest.mark.parametrize(
    ("constraint", "matches"),
    [
        ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"regex": "[0-9]{4}"}, lambda text: len(text) == 4 and text.isdigit()),
        ({"grammar": 'root ::= "yes" | "no"'}, lambda text: text in ("yes", "no")),
        ({"json": City}, lambda text: City.model_validate_json(text)),
    ],
    ids=["choice", "regex", "grammar", "json"],
)
@pytest.mark.parametrize("streams", [False, True], ids=["run", "stream"])
@constraint_is_enforced
def test_structured_outputs(llm, sent, constraint, matches, streams):
    parameters = {"structured_outputs": constraint, "max_tokens": 40}
    reply = llm.run("Give me Rome as json", [].append if streams else None, parameters)["replies"][0]
    assert matches(reply.text)
    assert sent.last.json["structured_outputs"].keys() == constraint.keys()


@pytest.mark.vllm("tiny")
def test_pydantic_class_as_response_format(llm, run, sent):
    # vllm-haystack raises TypeError for the class, Haystack's own generator when it streams.
    (reply,) = run(llm, "Give me Rome as json", generation_kwargs={"response_format": City})
    assert City.model_validate_json(reply.text) == City(city="Rome", n=1)
    assert sent.last.json["response_format"]["json_schema"]["schema"]["required"] == ["city", "n"]


@pytest.mark.vllm("tiny")
def test_truncated_object_raises(llm, run, vllm_url):
    with pytest.raises(e.TruncatedOutput) as caught:
        run(llm, "Give me Rome as json", generation_kwargs={"response_format": City, "max_tokens": 3})
    assert caught.value.partial.startswith("{")
    assert (caught.value.address, caught.value.model) == (vllm_url, "tiny")


@pytest.mark.vllm("tiny")
@not_enforced_before("0.30", match="isalpha")
def test_truncated_text_raises_even_if_it_satisfies_its_constraint(llm, run):
    parameters = {"structured_outputs": {"regex": "[a-z]+"}, "max_tokens": 3}
    with pytest.raises(e.TruncatedOutput) as caught:
        run(llm, "Hello", generation_kwargs=parameters)
    assert caught.value.partial.isalpha()


def test_ignored_constraint_raises(stub_llm, fault_server, run):
    fault_server.reply(faults.chat("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced):
        run(stub_llm, generation_kwargs={"structured_outputs": {"choice": ["yes", "no"]}})


class Place(TypedDict):
    """A place."""

    city: str
    n: NotRequired[int]


@dataclass
class Point:
    """A point."""

    city: str
    n: int = 0


@pytest.mark.parametrize("cls", [Place, Point, City], ids=["TypedDict", "dataclass", "Pydantic"])
@pytest.mark.parametrize("way", ["flat", "extra_body", "structured_outputs", "structured_outputs in extra_body"])
def test_classes_are_sent_and_saved_as_their_schema(fault_server, run, cls, way):
    parameters = {"structured_outputs": {"json": cls}} if "structured" in way else {"response_format": cls}
    parameters = {"extra_body": parameters} if "extra_body" in way else parameters
    fault_server.reply(faults.chat('{"city": "Rome", "n": 1}'))
    llm = VLLMChatGenerator(api_base_url=fault_server.url, generation_kwargs=parameters)
    run(llm)
    saved = json.loads(json.dumps(component_to_dict(llm, "it")))
    run(VLLMChatGenerator.from_dict(saved))
    run(VLLMChatGenerator(api_base_url=fault_server.url), generation_kwargs=parameters)
    for body in (request.json for request in fault_server.posts()):
        if "structured" in way:
            schema = body["structured_outputs"]["json"]
        else:
            assert body["response_format"]["json_schema"]["name"] == cls.__name__
            schema = body["response_format"]["json_schema"]["schema"]
        assert schema["properties"].keys() == {"city", "n"}
        assert schema["required"] == ["city", "n"] if cls is City else ["city"]


def test_reply_is_checked_against_the_schema_of_a_class(stub_llm, fault_server, run):
    fault_server.reply(faults.chat('{"n": 1}'))
    with pytest.raises(e.ConstraintNotEnforced, match="city"):
        run(stub_llm, generation_kwargs={"response_format": Place})


@pytest.mark.vllm("tiny")
def test_typed_dict_as_response_format(llm, sent):
    (reply,) = llm.run("Give me Rome as json", generation_kwargs={"response_format": Place})["replies"]
    assert json.loads(reply.text)["city"]
