"""Constraints on replies of VLLMChatGenerator: structured outputs, response formats, and replies that violate them."""

import pytest
from pydantic import BaseModel, Field

from vllm_adapters import errors as e
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
def test_truncated_text_raises_even_if_it_satisfies_its_constraint(llm, run):
    parameters = {"structured_outputs": {"regex": "[a-z]+"}, "max_tokens": 3}
    with pytest.raises(e.TruncatedOutput) as caught:
        run(llm, "Hello", generation_kwargs=parameters)
    assert caught.value.partial.isalpha()


def test_ignored_constraint_raises(stub_llm, fault_server, run):
    fault_server.reply(faults.chat("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced):
        run(stub_llm, generation_kwargs={"structured_outputs": {"choice": ["yes", "no"]}})
