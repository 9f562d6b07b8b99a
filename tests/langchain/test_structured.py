"""ChatVLLM.with_structured_output: complete objects or an error, by every method, streamed or not."""

import enum
import functools
import json
import operator
import re
from typing import Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict
from version_marks import constraint_is_enforced, forced_call_is_enforced, reasoning_is_parsed

from vllm_adapters import errors as e
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
QUESTION = "Yes or no?"
ROME = "Give me Rome as json"
THINK = {"enable_thinking": True}
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

recorded = pytest.mark.vllm("tiny")
every_object_method = pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
invoked_or_streamed = pytest.mark.parametrize("run", ["invoke", "stream"])


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int = Field(ge=0)


class CityDict(TypedDict):
    """A city with a number."""

    city: str
    n: int


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def short_llm():
    return ChatVLLM(temperature=0, max_retries=0, max_tokens=60)


def results(chain, run, question="x", **kwargs):
    return [chain.invoke(question, **kwargs)] if run == "invoke" else list(chain.stream(question, **kwargs))


# Objects


@recorded
@every_object_method
@pytest.mark.parametrize("schema", [City, CityDict], ids=["pydantic", "typeddict"])
@forced_call_is_enforced
def test_object(llm, sent, schema, method):
    found = llm.with_structured_output(schema, method=method).invoke(ROME)
    assert (found.model_dump() if isinstance(found, City) else found) == {"city": "Rome", "n": 1}
    body = sent.last.json
    if method == "json_schema":
        assert body["response_format"]["json_schema"]["schema"]["required"] == ["city", "n"]
    elif method == "json_mode":
        assert body["response_format"] == {"type": "json_object"}
    else:
        assert body["tools"][0]["function"]["strict"] is True
        assert "additionalProperties" not in body["tools"][0]["function"]["parameters"]


# Stock ChatOpenAI yields City(n=1) objects while the number is still being generated.
@recorded
@every_object_method
@forced_call_is_enforced
async def test_stream_yields_one_complete_object(short_llm, method):
    city = short_llm.with_structured_output(City, method=method)
    assert list(city.stream(ROME)) == [City(city="Rome", n=1)]
    assert [found async for found in city.astream(ROME)] == [City(city="Rome", n=1)]


@recorded
@every_object_method
@forced_call_is_enforced
async def test_stream_yields_growing_dicts(short_llm, method):
    schema = {**City.model_json_schema(), "title": "City", "description": "A city."}
    growing = [found async for found in short_llm.with_structured_output(schema, method=method).astream(ROME)]
    assert growing[-1] == {"city": "Rome", "n": 1}
    assert len(growing) > 2
    assert all(set(found) <= {"city", "n"} for found in growing)


# Stock ChatOpenAI: "it must have a top-level 'title' key".
@recorded
@constraint_is_enforced
def test_json_schema_without_a_title(short_llm, sent):
    schema = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 2}
    found = short_llm.with_structured_output(schema).invoke("Which colours?")
    assert set(found) <= {"red", "blue"}
    assert sent.last.json["response_format"]["json_schema"]["schema"] == schema


@recorded
@constraint_is_enforced
async def test_object_with_reasoning_and_raw_message(llm):
    city = llm.bind(chat_template_kwargs=THINK).with_structured_output(City, include_raw=True)
    found = await city.ainvoke(ROME)
    assert found["parsed"] == City(city="Rome", n=1)
    assert found["raw"].additional_kwargs["reasoning_content"].strip()


# Stock ChatOpenAI loses it; integrations that read the SDK's parsed stream have it twice.
@recorded
@pytest.mark.parametrize("schema", [City, City.model_json_schema()], ids=["pydantic", "dict"])
@reasoning_is_parsed
def test_streamed_object_has_its_reasoning_once(short_llm, schema):
    thinking = short_llm.bind(chat_template_kwargs=THINK)
    raw = thinking.invoke(ROME).additional_kwargs["reasoning_content"]
    pieces = list(thinking.with_structured_output(schema, include_raw=True).stream(ROME))
    message = functools.reduce(operator.add, (piece["raw"] for piece in pieces if "raw" in piece))
    assert message.additional_kwargs["reasoning_content"] == raw
    assert json.loads(message.text) == {"city": "Rome", "n": 1}


@recorded
def test_tool_beside_a_schema_can_be_called(short_llm, sent):
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return "sunny"

    either = short_llm.with_structured_output(City, tools=[get_weather], include_raw=True)
    called = either.invoke("What is the weather in Rome?")
    assert called["parsed"] is None
    assert called["raw"].tool_calls[0]["args"] == {"city": "Rome"}
    assert either.invoke(ROME)["parsed"] == City(city="Rome", n=1)
    assert sent.last.json["tools"][0]["function"]["strict"] is True


# gpt-4 and gpt-3: stock with_structured_output silently becomes a tool call; gpt-5: the temperature is dropped.
@pytest.mark.parametrize("name", ["gpt-4", "gpt-3.5-turbo", "gpt-5", "o1-mini"])
def test_method_does_not_depend_on_the_models_name(make_fault_server, name):
    server = make_fault_server(models=(name,))
    server.reply(faults.chat('{"name": "Ada", "age": 36}'))
    llm = ChatVLLM(base_url=server.url, model=name, temperature=0.3)
    assert llm.with_structured_output(Person).invoke("who?") == Person(name="Ada", age=36)
    body = server.posts(CHAT)[0].json
    assert body["response_format"]["type"] == "json_schema"
    assert body["temperature"] == 0.3
    assert "tools" not in body


def test_bound_parameters_stay(faulty_llm, fault_server):
    fault_server.reply(faults.chat('{"name": "Ada", "age": 36}'))
    person = faulty_llm.bind(top_k=1, stop=["x"]).with_structured_output(Person)
    assert person.invoke("who?") == Person(name="Ada", age=36)
    assert list(person.stream("who?")) == [Person(name="Ada", age=36)]
    for request in fault_server.posts(CHAT):
        assert (request.json["top_k"], request.json["stop"]) == (1, ["x"])
        assert request.json["response_format"]["json_schema"]["schema"]["required"] == ["name", "age"]


def test_bound_tools_stay(faulty_llm, fault_server):
    fault_server.reply(faults.chat('{"name": "Ada", "age": 36}'))
    faulty_llm.bind_tools([add]).with_structured_output(Person).invoke("who?")
    body = fault_server.posts(CHAT)[0].json
    assert body["tools"][0]["function"]["name"] == "add"
    assert body["response_format"]["type"] == "json_schema"


# vLLM's own constraints


@recorded
@pytest.mark.parametrize(
    ("schema", "choices", "expected"),
    [
        (Literal["yes", "no"], ["yes", "no"], {"yes", "no"}),
        (Literal[1, 2], ["1", "2"], {1, 2}),
        (Mood, ["good", "bad"], set(Mood)),
        (["red", "blue"], ["red", "blue"], {"red", "blue"}),
    ],
    ids=["literal", "numbers", "enum", "list"],
)
@constraint_is_enforced
def test_choice(short_llm, sent, schema, choices, expected):
    chooses = short_llm.with_structured_output(schema)
    found = chooses.invoke(QUESTION)
    assert found in expected
    assert list(chooses.stream(QUESTION)) == [found]
    assert sent.last.json["structured_outputs"] == {"choice": choices}
    assert "response_format" not in sent.last.json


@recorded
@constraint_is_enforced
async def test_choice_with_reasoning_and_raw_message(short_llm):
    chooses = short_llm.bind(chat_template_kwargs=THINK).with_structured_output(Mood, include_raw=True)
    found = await chooses.ainvoke(QUESTION)
    assert found["parsed"] in set(Mood)
    assert found["raw"].additional_kwargs["reasoning_content"].strip()
    assert found["parsing_error"] is None


@recorded
@pytest.mark.parametrize("schema", [re.compile(r"[0-9]{4}"), r"[0-9]{4}"], ids=["compiled", "text"])
@constraint_is_enforced
def test_regex(short_llm, sent, schema):
    dated = short_llm.with_structured_output(schema, method=None if isinstance(schema, re.Pattern) else "regex")
    found = dated.invoke("When?")
    assert re.fullmatch(r"[0-9]{4}", found)
    assert list(dated.stream("When?")) == [found]
    assert sent.last.json["structured_outputs"] == {"regex": "[0-9]{4}"}


@recorded
@constraint_is_enforced
def test_grammar(short_llm, sent):
    query = short_llm.with_structured_output(SQL, method="grammar")
    found = query.invoke("A query, please.")
    assert found in ("SELECT a FROM t", "SELECT b FROM t")
    pieces = list(query.stream("A query, please."))
    assert "".join(pieces) == found
    assert len([piece for piece in pieces if piece]) > 2
    assert sent.last.json["structured_outputs"] == {"grammar": SQL}


@recorded
@pytest.mark.parametrize("schema", [TAG, json.dumps(TAG)], ids=["dict", "text"])
@constraint_is_enforced
def test_structural_tag(short_llm, sent, schema):
    found = short_llm.with_structured_output(schema, method="structural_tag").invoke("Which city?")
    assert json.loads(re.fullmatch(r"<city>(.*)</city>", found)[1]).get("city", "Rome") == "Rome"
    assert json.loads(sent.last.json["structured_outputs"]["structural_tag"]) == TAG


# Truncated and violated


# Stock ChatOpenAI: openai.LengthFinishReasonError without the text; function_calling: None, and no error.
@recorded
@every_object_method
@invoked_or_streamed
@forced_call_is_enforced
def test_token_limit_raises(llm, method, run):
    limit = {"max_tokens": 24 if method == "function_calling" else 6}
    with pytest.raises(e.TruncatedOutput) as caught:
        results(llm.with_structured_output(City, method=method), run, ROME, **limit)
    assert caught.value.partial


@recorded
@pytest.mark.parametrize("method", ["choice", "regex", "grammar"])
def test_token_limit_raises_for_texts(short_llm, method):
    schema = {"choice": ["indivisibilities", "institutionalised"], "regex": "[a-z]{300}", "grammar": SQL}[method]
    with pytest.raises(e.TruncatedOutput) as caught:
        short_llm.with_structured_output(schema, method=method).invoke(QUESTION, max_tokens=2)
    assert caught.value.partial


@every_object_method
@invoked_or_streamed
def test_truncated_object_raises(faulty_llm, fault_server, method, run):
    call = payloads.tool_call("Person", '{"name": "A', index=None if run == "invoke" else 0)
    reply = {"tool_calls": [call]} if method == "function_calling" else {"content": '{"name": "Ada", "a'}
    fault_server.reply(faults.chat(**reply, finish_reason="length"))
    with pytest.raises(e.TruncatedOutput, match="max_tokens") as caught:
        results(faulty_llm.with_structured_output(Person, method=method), run)
    assert (caught.value.address, caught.value.model) == (fault_server.url, "stub")


# LangChain's parsers close brackets: Person(name="Ada", age=3) of an age that was to be 36.
@pytest.mark.parametrize("schema", [Person, Person.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("repetition", e.TruncatedOutput),
        ("content_filter", e.FilteredOutput),
        ("eos", e.ConstraintNotEnforced),
        ("tool_calls", e.ConstraintNotEnforced),
    ],
)
@invoked_or_streamed
def test_object_truncated_by_another_reason_raises(faulty_llm, fault_server, schema, reason, error, run):
    fault_server.reply(faults.chat('{"name": "Ada", "age": 3', finish_reason=reason))
    with pytest.raises(error) as caught:
        results(faulty_llm.with_structured_output(schema), run)
    assert '"age": 3' in (caught.value.partial or caught.value.reply)


def test_truncated_object_without_a_finish_reason_raises(faulty_llm, fault_server):
    fault_server.reply(faults.chat('{"name": "Ada", "age": 3', finish_reason=None))
    with pytest.raises(e.ConstraintNotEnforced):
        faulty_llm.with_structured_output(Person).invoke("x")


@pytest.mark.parametrize("method", ["choice", "regex", "grammar", "structural_tag"])
@invoked_or_streamed
@pytest.mark.parametrize("reason", ["length", "repetition"])
def test_truncated_text_raises(faulty_llm, fault_server, method, run, reason):
    fault_server.reply(faults.chat("ye", finish_reason=reason))
    chain = faulty_llm.with_structured_output(["yes", "no"] if method == "choice" else "yes", method=method)
    with pytest.raises(e.TruncatedOutput) as caught:
        results(chain, run)
    assert caught.value.partial == "ye"


def test_object_with_endless_brackets_raises(faulty_llm, fault_server):
    text = '{"name": ' + "[" * 5000
    fault_server.reply(faults.chat(text))
    for method in ("json_schema", "json_mode"):
        with pytest.raises(e.ConstraintNotEnforced, match="not JSON"):
            faulty_llm.with_structured_output(Person, method=method).invoke("x")
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("Person", text)]))
    with pytest.raises(e.ConstraintNotEnforced, match="does not call the forced tool"):
        faulty_llm.with_structured_output(Person, method="function_calling").invoke("x")


# Stock ChatOpenAI yields Person(age=3), then Person(age=33).
@every_object_method
def test_partial_number_is_not_an_object(faulty_llm, fault_server, method):
    halves = ['{"name": "Ada", "age": 3', "3}"]
    if method == "function_calling":
        first = payloads.tool_call("Person", halves[0], index=0)
        deltas = [{"tool_calls": [first]}, {"tool_calls": [{"index": 0, "function": {"arguments": halves[1]}}]}]
    else:
        deltas = [{"content": half} for half in halves]
    fault_server.reply(faults.deltas(*deltas))
    assert list(faulty_llm.with_structured_output(Person, method=method).stream("x")) == [Person(name="Ada", age=33)]


@invoked_or_streamed
def test_missing_forced_call_raises(faulty_llm, fault_server, run):
    fault_server.reply(faults.chat("I would rather not."))
    with pytest.raises(e.ConstraintNotEnforced, match="does not call the forced tool `Person`") as caught:
        results(faulty_llm.with_structured_output(Person, method="function_calling"), run)
    assert (caught.value.address, caught.value.reply) == (fault_server.url, "I would rather not.")


def test_include_raw_reports_the_error(faulty_llm, fault_server):
    fault_server.reply(faults.chat('{"name": "Ada", "a', finish_reason="length"))
    found = faulty_llm.with_structured_output(Person, include_raw=True).invoke("x")
    assert isinstance(found["parsing_error"], e.TruncatedOutput)
    assert found["raw"].text == '{"name": "Ada", "a'


def test_schema_that_does_not_fit_the_method_is_rejected(faulty_llm, fault_server):
    for schema, method in ((Person, "choice"), ([], "choice"), (Person, "regex"), (Person, "grammar"), (None, None)):
        with pytest.raises(ValueError, match="`schema` must be"):
            faulty_llm.with_structured_output(schema, method=method)
    with pytest.raises(ValueError, match="`schema` is a str"):
        faulty_llm.with_structured_output("yes|no")
    with pytest.raises(ValueError, match="`method` must be one of"):
        faulty_llm.with_structured_output(Person, method="json")
    assert not fault_server.requests
