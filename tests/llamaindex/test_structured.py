"""Objects of a Pydantic class through ``VLLM``: vLLM enforces their schema, and they are complete or raise."""

import json
from typing import Literal

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import AliasChoices, BaseModel, Field, SecretStr, field_validator
from pydantic import ValidationError as PydanticError
from version_marks import forced_call_is_enforced

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM
from vllm_adapters.testing import faults, payloads

recorded = pytest.mark.vllm("tiny")
streamed_or_not = pytest.mark.parametrize("streamed", [False, True])
modes = pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION])

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PROMPT = PromptTemplate("Give me {name} as json")
ROME = {"name": "Rome"}
WHO = PromptTemplate("who?")


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int = Field(ge=0, le=9)


class Place(BaseModel):
    city: str = Field(max_length=6)
    n: int = Field(ge=0, le=9)


class Trip(BaseModel):
    """A journey."""

    place: Place
    days: list[Literal[1, 2]] = Field(min_length=1, max_length=2)


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@pytest.fixture
def llm():
    return VLLM(temperature=0, max_retries=0, max_tokens=120, system_prompt="You are a map.")


@recorded
@modes
@forced_call_is_enforced
async def test_structured_predict(llm, sent, mode):
    # Stock, with defaults: 400 `tools must be set`; by function calls: junk, or an empty object when streamed;
    # async by function calls: without the system prompt.
    llm.pydantic_program_mode = mode
    found = [
        llm.structured_predict(City, PROMPT, **ROME),
        await llm.astructured_predict(City, PROMPT, **ROME),
        list(llm.stream_structured_predict(City, PROMPT, **ROME))[-1],
        [city async for city in await llm.astream_structured_predict(City, PROMPT, **ROME)][-1],
    ]
    assert found == [City(city="Rome", n=1)] * 4
    for body in sent.bodies(CHAT):
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        if mode == PydanticProgramMode.DEFAULT:
            assert body["response_format"]["json_schema"]["schema"] == City.model_json_schema()
            assert "tools" not in body
        else:
            assert body["tool_choice"] == "required"
            assert body["tools"][0]["function"]["strict"] is True
            assert body["tools"][0]["function"]["name"] == "City"


@recorded
@modes
@forced_call_is_enforced
def test_partial_objects_grow(llm, mode):
    llm.pydantic_program_mode = mode
    growing = list(llm.stream_structured_predict(Trip, PROMPT, **ROME))
    assert growing[-1].place == Place(city="Rome", n=1)
    assert set(growing[-1].days) <= {1, 2}
    partial = [found for found in growing if type(found) is not Trip]
    assert len(partial) > 3
    named = [found.place is not None for found in partial]
    assert named == sorted(named), "a field that was parsed is not lost again"


@recorded
async def test_as_structured_llm(llm, sent):
    structured = llm.as_structured_llm(City)
    assert structured.complete("Give me Rome as json").raw == City(city="Rome", n=1)
    assert (await structured.achat([ChatMessage(role="user", content="Give me Rome as json")])).raw.city == "Rome"
    streamed = list(structured.stream_chat([ChatMessage(role="user", content="Give me Rome as json")]))
    assert streamed[-1].raw == City(city="Rome", n=1)
    assert all(body["messages"][0]["role"] == "system" for body in sent.bodies(CHAT))


@recorded
@modes
@streamed_or_not
@forced_call_is_enforced
def test_truncated_object_raises(llm, mode, streamed):
    llm.pydantic_program_mode = mode
    predict = llm.stream_structured_predict if streamed else llm.structured_predict
    with pytest.raises(e.TruncatedOutput, match="max_tokens"):
        list(predict(City, PROMPT, llm_kwargs={"max_tokens": 4}, **ROME))


@recorded
def test_llm_kwargs(llm, sent):
    given = {"top_k": 1, "tool_choice": "none"}
    llm.structured_predict(City, PROMPT, llm_kwargs=given, **ROME)
    assert sent.last.json["top_k"] == 1
    assert "tool_choice" not in sent.last.json
    assert given == {"top_k": 1, "tool_choice": "none"}


@recorded
def test_llamaindex_program(llm, sent):
    # Stock: 400, and the prompt keeps the schema for later calls.
    llm.pydantic_program_mode = PydanticProgramMode.LLM
    prompt = PromptTemplate("Give me Rome as json")
    with pytest.raises(ValueError, match="json"):
        # The schema is part of the prompt then, and this model has not learned that prompt.
        llm.structured_predict(City, prompt)
    assert "tool_choice" not in sent.last.json
    assert prompt.output_parser is None
    llm.pydantic_program_mode = PydanticProgramMode.DEFAULT
    assert llm.structured_predict(City, prompt) == City(city="Rome", n=1)
    assert sent.last.json["messages"][-1]["content"] == "Give me Rome as json"


@recorded
@forced_call_is_enforced
def test_function_calling_program(llm, sent):
    program = FunctionCallingProgram.from_defaults(output_cls=City, llm=llm, prompt=PROMPT)
    assert program(**ROME) == City(city="Rome", n=1)
    assert list(program.stream_call(**ROME))[-1] == City(city="Rome", n=1)


@recorded
def test_chat_prompt(llm, sent):
    prompt = ChatPromptTemplate([ChatMessage(role="user", content="Give me {name} as json")])
    assert llm.structured_predict(City, prompt, **ROME).city == "Rome"


@recorded
@forced_call_is_enforced
def test_class_without_docstring_has_no_description(llm, sent):
    # Stock: `Place(*args: Any, **kwargs: Any) -> ~Model`.
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    llm.structured_predict(Place, PROMPT, **ROME)
    assert sent.last.json["tools"][0]["function"]["description"] == ""


class Files(BaseModel):
    """Fields whose schema vLLM does not know."""

    numbers: set[int] = Field(max_length=3)
    names: frozenset[Literal["a", "b"]] = Field(max_length=2)
    content: bytes = Field(max_length=4)
    secret: SecretStr = Field(max_length=4)


@recorded
@modes
@forced_call_is_enforced
def test_sets_and_bytes(llm, sent, mode):
    # Otherwise: 400, `Unimplemented keys: ["uniqueItems"]`, `Unknown format: binary`.
    llm.pydantic_program_mode = mode
    files = llm.structured_predict(Files, PROMPT, llm_kwargs={"max_tokens": 400}, **ROME)
    assert type(files.numbers) is set
    assert files.names <= {"a", "b"}
    assert type(files.content) is bytes
    if mode == PydanticProgramMode.DEFAULT:
        assert not {"uniqueItems", "binary", "password"} & set(json.dumps(sent.last.json).split('"'))


def test_partial_objects_have_aliased_fields(fault_server):
    # Stock: `None` until the object is complete.
    class Aliased(BaseModel):
        first: str = Field(alias="firstName")
        second: str = Field(validation_alias=AliasChoices("secondName", "second_name"))
        third: int

    llm = VLLM(base_url=fault_server.url)
    fault_server.reply(faults.chat('{"firstName": "Ada", "secondName": "Byron", "third": 3}'))
    *partial, last = llm.stream_structured_predict(Aliased, WHO)
    assert (last.first, last.second, last.third) == ("Ada", "Byron", 3)
    assert [(found.first, found.second) for found in partial][-1] == ("Ada", "Byron")
    assert type(partial[-1]) is not Aliased


# Objects that are truncated, missing or invalid


def predict(llm, streamed, output_cls=Person):
    """Return the object, complete or as the last one of a stream."""
    if streamed:
        return list(llm.stream_structured_predict(output_cls, WHO))[-1]
    return llm.structured_predict(output_cls, WHO)


@streamed_or_not
@modes
@pytest.mark.parametrize(("reason", "text"), [("length", "max_tokens"), ("repetition", "repetition_detection")])
def test_finish_reason_truncates_an_object(fault_server, streamed, mode, reason, text):
    # Stock: a pydantic error that does not name the limit; streamed, half an object as the last one.
    llm = VLLM(base_url=fault_server.url, pydantic_program_mode=mode)
    call = payloads.tool_call("Person", '{"name": "A')
    reply = {"tool_calls": [call]} if mode == PydanticProgramMode.FUNCTION else {"content": '{"name": "Ada", "age": 3'}
    fault_server.reply(faults.chat(**reply, finish_reason=reason))
    with pytest.raises(e.TruncatedOutput, match=text) as caught:
        predict(llm, streamed)
    assert caught.value.partial.startswith('{"name": "A')


@streamed_or_not
@pytest.mark.parametrize(
    ("reason", "error"),
    [("repetition", e.TruncatedOutput), ("content_filter", e.FilteredOutput), ("eos", e.ConstraintNotEnforced)],
)
def test_incomplete_object_raises(fault_llm, fault_server, streamed, reason, error):
    # Otherwise: Pydantic's error, which names neither the cause nor a fix.
    fault_server.reply(faults.chat('{"name": "A', finish_reason=reason))
    with pytest.raises(error) as caught:
        predict(fault_llm, streamed)
    assert '{"name": "A' in (caught.value.partial, getattr(caught.value, "reply", None))


@streamed_or_not
def test_forced_tool_call_that_violates_its_schema(fault_server, streamed):
    llm = VLLM(base_url=fault_server.url, pydantic_program_mode=PydanticProgramMode.FUNCTION)
    call = payloads.tool_call("Person", '{"name": "Ada", "age": "old"}')
    fault_server.reply(faults.chat(tool_calls=[call], finish_reason="tool_calls"))
    with pytest.raises(e.ConstraintNotEnforced, match="age"):
        predict(llm, streamed)


@streamed_or_not
def test_missing_forced_tool_call(fault_server, streamed):
    llm = VLLM(base_url=fault_server.url, pydantic_program_mode=PydanticProgramMode.FUNCTION)
    fault_server.reply(faults.chat("I would rather not."))
    with pytest.raises(e.ConstraintNotEnforced, match="does not call the forced tool `Person`"):
        predict(llm, streamed)


@streamed_or_not
@modes
def test_object_that_the_class_itself_rejects(fault_server, streamed, mode):
    class Adult(Person):
        @field_validator("age")
        @classmethod
        def check_age(cls, age):
            if age < 18:
                raise ValueError("too young")
            return age

    llm = VLLM(base_url=fault_server.url, pydantic_program_mode=mode)
    text = '{"name": "Ada", "age": 3}'
    by_call = mode == PydanticProgramMode.FUNCTION
    reply = {"tool_calls": [payloads.tool_call("Adult", text)]} if by_call else {"content": text}
    fault_server.reply(faults.chat(**reply))
    with pytest.raises(PydanticError, match="too young"):
        predict(llm, streamed, Adult)


def test_object_from_the_completions_endpoint(fault_server):
    # Stock: a TypeError from the SDK.
    llm = VLLM(base_url=fault_server.url, is_chat_model=False)
    fault_server.reply(faults.completion('{"name": "Ada", "age": 36}'))
    assert predict(llm, streamed=False) == predict(llm, streamed=True) == Person(name="Ada", age=36)
    assert fault_server.posts(TEXT)[0].json["response_format"]["type"] == "json_schema"
    fault_server.reply(faults.completion("Ada, 36"))
    with pytest.raises(e.ConstraintNotEnforced):
        predict(llm, streamed=False)
