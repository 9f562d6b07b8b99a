"""Structured output on a real vLLM, by the constraints that are vLLM's own, and what streams of it yield."""

import enum
import functools
import json
import operator
import re
from typing import Literal

import pytest

pytest.importorskip("langchain_openai")

from pydantic import BaseModel, Field

from vllm_adapters import errors as e
from vllm_adapters.langchain import ChatVLLM

pytestmark = pytest.mark.vllm("tiny")

QUESTION = "Yes or no?"
SQL = 'root ::= "SELECT " ("a" | "b") " FROM t"'
TAG = {
    "type": "structural_tag",
    "format": {
        "type": "tag",
        "begin": "<city>",
        "content": {
            "type": "json_schema",
            "json_schema": {"type": "object", "properties": {"city": {"const": "Rome"}}},
        },
        "end": "</city>",
    },
}


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int = Field(ge=0)


@pytest.fixture
def llm():
    return ChatVLLM(temperature=0, max_retries=0, max_tokens=60)


@pytest.mark.parametrize(
    ("schema", "choices", "results"),
    [
        (Literal["yes", "no"], ["yes", "no"], {"yes", "no"}),
        (Literal[1, 2], ["1", "2"], {1, 2}),
        (Mood, ["good", "bad"], set(Mood)),
        (["red", "blue"], ["red", "blue"], {"red", "blue"}),
    ],
    ids=["literal", "numbers", "enum", "list"],
)
def test_a_choice(llm, sent, schema, choices, results):
    chooses = llm.with_structured_output(schema)
    found = chooses.invoke(QUESTION)
    assert found in results
    assert list(chooses.stream(QUESTION)) == [found]
    assert sent.last.json["structured_outputs"] == {"choice": choices}
    assert "response_format" not in sent.last.json


async def test_a_choice_async_after_thinking_with_raw(llm):
    chooses = llm.bind(chat_template_kwargs={"enable_thinking": True}).with_structured_output(Mood, include_raw=True)
    found = await chooses.ainvoke(QUESTION)
    assert found["parsed"] in set(Mood)
    assert found["raw"].additional_kwargs["reasoning_content"].strip()
    assert found["parsing_error"] is None


@pytest.mark.parametrize("schema", [re.compile(r"[0-9]{4}"), r"[0-9]{4}"], ids=["compiled", "text"])
def test_a_regex(llm, sent, schema):
    dated = llm.with_structured_output(schema, method=None if isinstance(schema, re.Pattern) else "regex")
    found = dated.invoke("When?")
    assert re.fullmatch(r"[0-9]{4}", found)
    assert list(dated.stream("When?")) == [found]
    assert sent.last.json["structured_outputs"] == {"regex": "[0-9]{4}"}


def test_a_grammar(llm, sent):
    query = llm.with_structured_output(SQL, method="grammar")
    found = query.invoke("A query, please.")
    assert found in ("SELECT a FROM t", "SELECT b FROM t")
    pieces = list(query.stream("A query, please."))
    assert "".join(pieces) == found
    assert len([piece for piece in pieces if piece]) > 2
    assert sent.last.json["structured_outputs"] == {"grammar": SQL}


@pytest.mark.parametrize("schema", [TAG, json.dumps(TAG)], ids=["dict", "text"])
def test_a_structural_tag(llm, sent, schema):
    found = llm.with_structured_output(schema, method="structural_tag").invoke("Which city?")
    assert json.loads(re.fullmatch(r"<city>(.*)</city>", found)[1]).get("city", "Rome") == "Rome"
    assert json.loads(sent.last.json["structured_outputs"]["structural_tag"]) == TAG


@pytest.mark.parametrize("method", ["choice", "regex", "grammar"])
def test_a_text_that_is_cut_raises(llm, method):
    schema = {"choice": ["indivisibilities", "institutionalised"], "regex": "[a-z]{300}", "grammar": SQL}[method]
    with pytest.raises(e.TruncatedOutput) as caught:
        llm.with_structured_output(schema, method=method).invoke(QUESTION, max_tokens=2)
    assert caught.value.partial


# Stock ChatOpenAI yields City(n=1) objects while the number is still on its way.
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_a_stream_has_one_whole_object(llm, method):
    city = llm.with_structured_output(City, method=method)
    assert list(city.stream("Give me Rome as json")) == [City(city="Rome", n=1)]
    assert [found async for found in city.astream("Give me Rome as json")] == [City(city="Rome", n=1)]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_a_stream_of_dicts_grows(llm, method):
    schema = {**City.model_json_schema(), "title": "City", "description": "A city."}
    growing = [
        found async for found in llm.with_structured_output(schema, method=method).astream("Give me Rome as json")
    ]
    assert growing[-1] == {"city": "Rome", "n": 1}
    assert len(growing) > 2
    assert all(set(found) <= {"city", "n"} for found in growing)


# Stock ChatOpenAI: "it must have a top-level 'title' key".
def test_a_json_schema_without_a_title(llm, sent):
    schema = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 2}
    found = llm.with_structured_output(schema).invoke("Which colours?")
    assert set(found) <= {"red", "blue"}
    assert sent.last.json["response_format"]["json_schema"]["schema"] == schema


# Stock ChatOpenAI loses it; integrations that read the SDK's parsed stream have it twice.
@pytest.mark.parametrize("schema", [City, City.model_json_schema()], ids=["pydantic", "dict"])
def test_reasoning_once_beside_a_streamed_object(llm, schema):
    thinking = llm.bind(chat_template_kwargs={"enable_thinking": True})
    raw = thinking.invoke("Give me Rome as json").additional_kwargs["reasoning_content"]
    pieces = list(thinking.with_structured_output(schema, include_raw=True).stream("Give me Rome as json"))
    message = functools.reduce(operator.add, (piece["raw"] for piece in pieces if "raw" in piece))
    assert message.additional_kwargs["reasoning_content"] == raw
    assert json.loads(message.text) == {"city": "Rome", "n": 1}


def test_a_tool_offered_beside_a_schema_can_be_called(llm, sent):
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return "sunny"

    either = llm.with_structured_output(City, tools=[get_weather], include_raw=True)
    called = either.invoke("What is the weather in Rome?")
    assert called["parsed"] is None
    assert called["raw"].tool_calls[0]["args"] == {"city": "Rome"}
    assert either.invoke("Give me Rome as json")["parsed"] == City(city="Rome", n=1)
    assert sent.last.json["tools"][0]["function"]["strict"] is True
