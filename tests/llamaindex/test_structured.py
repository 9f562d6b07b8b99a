"""Objects, tools and agents' calls through VLLM, enforced by the server."""

from typing import Literal

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM

pytestmark = pytest.mark.vllm("tiny")

CHAT = "/v1/chat/completions"
PROMPT = PromptTemplate("Give me {name} as json")
ROME = {"name": "Rome"}
MODES = pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION])


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


class Heard(BaseEventHandler):
    """Keeps the names of LlamaIndex's events."""

    names: list[str] = Field(default_factory=list)

    def handle(self, event, **kwargs):
        self.names.append(event.class_name())


@pytest.fixture
def heard():
    handler, root = Heard(), get_dispatcher()
    root.add_event_handler(handler)
    yield handler.names
    root.event_handlers.remove(handler)


@pytest.fixture
def llm():
    return VLLM(temperature=0, max_retries=0, max_tokens=120, system_prompt="You are a map.")


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def tool(function=get_weather):
    return FunctionTool.from_defaults(function)


async def every_way(llm, output_cls, prompt, **args):
    """The object of each of the four ways to ask for one."""
    return [
        llm.structured_predict(output_cls, prompt, **args),
        await llm.astructured_predict(output_cls, prompt, **args),
        list(llm.stream_structured_predict(output_cls, prompt, **args))[-1],
        [found async for found in await llm.astream_structured_predict(output_cls, prompt, **args)][-1],
    ]


@MODES
async def test_structured_predict(llm, sent, mode):
    # Stock, as it comes: 400 `tools must be set`; by function calls: junk, or an empty object when streamed;
    # async by function calls: without the system prompt.
    llm.pydantic_program_mode = mode
    assert await every_way(llm, City, PROMPT, **ROME) == [City(city="Rome", n=1)] * 4
    for body in sent.bodies(CHAT):
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        if mode == PydanticProgramMode.DEFAULT:
            assert body["response_format"]["json_schema"]["schema"] == City.model_json_schema()
            assert "tools" not in body
        else:
            assert body["tool_choice"] == "required"
            assert body["tools"][0]["function"]["strict"] is True
            assert body["tools"][0]["function"]["name"] == "City"


@MODES
def test_nested_objects_grow(llm, mode):
    llm.pydantic_program_mode = mode
    growing = list(llm.stream_structured_predict(Trip, PROMPT, **ROME))
    assert growing[-1].place == Place(city="Rome", n=1)
    assert set(growing[-1].days) <= {1, 2}
    partial = [found for found in growing if type(found) is not Trip]
    assert len(partial) > 3
    named = [found.place is not None for found in partial]
    assert named == sorted(named), "what has been read is not lost again"


async def test_as_structured_llm(llm, sent):
    structured = llm.as_structured_llm(City)
    assert structured.complete("Give me Rome as json").raw == City(city="Rome", n=1)
    assert (await structured.achat([ChatMessage(role="user", content="Give me Rome as json")])).raw.city == "Rome"
    streamed = list(structured.stream_chat([ChatMessage(role="user", content="Give me Rome as json")]))
    assert streamed[-1].raw == City(city="Rome", n=1)
    assert all(body["messages"][0]["role"] == "system" for body in sent.bodies(CHAT))


@MODES
@pytest.mark.parametrize("streamed", [False, True])
def test_a_cut_object_raises(llm, mode, streamed):
    llm.pydantic_program_mode = mode
    predict = llm.stream_structured_predict if streamed else llm.structured_predict
    with pytest.raises(e.TruncatedOutput, match="max_tokens"):
        list(predict(City, PROMPT, llm_kwargs={"max_tokens": 4}, **ROME))


def test_parameters_of_one_object(llm, sent):
    given = {"top_k": 1, "tool_choice": "none"}
    llm.structured_predict(City, PROMPT, llm_kwargs=given, **ROME)
    assert sent.last.json["top_k"] == 1
    assert "tool_choice" not in sent.last.json
    assert given == {"top_k": 1, "tool_choice": "none"}


def test_llamaindexs_own_programs(llm, sent):
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


def test_a_function_program(llm, sent):
    program = FunctionCallingProgram.from_defaults(output_cls=City, llm=llm, prompt=PROMPT)
    assert program(**ROME) == City(city="Rome", n=1)
    assert list(program.stream_call(**ROME))[-1] == City(city="Rome", n=1)


def test_a_chat_prompt(llm, sent):
    prompt = ChatPromptTemplate([ChatMessage(role="user", content="Give me {name} as json")])
    assert llm.structured_predict(City, prompt, **ROME).city == "Rome"


def test_a_class_without_words_is_not_described_by_its_constructor(llm, sent):
    # Stock: `Place(*args: Any, **kwargs: Any) -> ~Model`.
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    llm.structured_predict(Place, PROMPT, **ROME)
    assert sent.last.json["tools"][0]["function"]["description"] == ""


async def test_events(llm, heard):
    await every_way(llm, City, PROMPT, **ROME)
    for name in ("LLMStructuredPredict", "LLMChat"):
        assert (heard.count(f"{name}StartEvent"), heard.count(f"{name}EndEvent")) == (4, 4)
    assert heard.count("LLMStructuredPredictInProgressEvent") > 4


async def test_events_of_each_call(heard):
    for chat_model, kind in ((True, "Chat"), (False, "Completion")):
        llm = VLLM(temperature=0, max_tokens=2, is_chat_model=chat_model)
        llm.chat([ChatMessage(content="Hello")])
        await llm.achat([ChatMessage(content="Hello")])
        list(llm.stream_chat([ChatMessage(content="Hello")]))
        [found async for found in await llm.astream_chat([ChatMessage(content="Hello")])]
        assert (heard.count("LLMChatStartEvent"), heard.count("LLMChatEndEvent")) == (4, 4), kind
        heard.clear()
        llm.complete("Hello")
        await llm.acomplete("Hello")
        list(llm.stream_complete("Hello"))
        [found async for found in await llm.astream_complete("Hello")]
        assert (heard.count("LLMCompletionStartEvent"), heard.count("LLMCompletionEndEvent")) == (4, 4)
        assert not [name for name in heard if name.startswith("LLMChat")]
        heard.clear()


def test_tools(llm, sent):
    # Stock: appends to the caller's history.
    history = [ChatMessage(role="user", content="Hello")]
    response = llm.chat_with_tools(
        [tool()], "What is the weather in Rome and Oslo?", chat_history=history, allow_parallel_tool_calls=True
    )
    calls = llm.get_tool_calls_from_response(response)
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [
        ("get_weather", {"city": "Rome"}),
        ("get_weather", {"city": "Oslo"}),
    ]
    assert len(history) == 1
    body = sent.last.json
    assert body["tools"][0]["function"]["strict"] is True
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", True)
    assert [call["function"]["name"] for call in response.message.additional_kwargs["tool_calls"]] == [
        "get_weather"
    ] * 2


def test_one_tool_call_at_a_time(llm, sent):
    response = llm.chat_with_tools([tool()], "What is the weather in Rome and Oslo?")
    assert len(llm.get_tool_calls_from_response(response)) == 1
    assert sent.last.json["parallel_tool_calls"] is False


def test_no_tools_at_all(llm, sent):
    assert llm.chat_with_tools([], "Hello").message.content
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & sent.last.json.keys()


def test_tools_streamed(llm):
    responses = list(
        llm.stream_chat_with_tools([tool()], "What is the weather in Rome and Oslo?", allow_parallel_tool_calls=True)
    )
    counts = [len(llm.get_tool_calls_from_response(found, error_on_no_tool_call=False)) for found in responses]
    assert counts == sorted(counts)
    assert [call.tool_kwargs for call in llm.get_tool_calls_from_response(responses[-1])] == [
        {"city": "Rome"},
        {"city": "Oslo"},
    ]


@pytest.mark.parametrize("choice", ["required", "add"])
def test_a_forced_tool_keeps_to_its_schema(llm, sent, choice):
    # Stock: strict is always sent as false, and the arguments are junk.
    forced = {"tool_required": True} if choice == "required" else {"tool_choice": choice}
    response = llm.chat_with_tools([tool(add)], "Tell me a joke", **forced)
    arguments = llm.get_tool_calls_from_response(response)[0].tool_kwargs
    assert {type(value) for value in arguments.values()} == {int}
    assert arguments.keys() == {"a", "b"}


async def test_predict_and_call(llm):
    assert llm.predict_and_call([tool(add)], "Add 17 and 4").response == "21"
    assert (await llm.apredict_and_call([tool(add)], "Add 17 and 4")).response == "21"


def test_a_cut_call_is_an_error(llm):
    # Stock: `Expected at least one tool call`.
    with pytest.raises(e.TruncatedOutput):
        llm.predict_and_call([tool()], "What is the weather in Rome?", max_tokens=8)


def test_no_call_is_an_error(llm):
    with pytest.raises(ValueError, match="no tool call"):
        llm.predict_and_call([tool()], "Hello")


def test_a_tool_loop(llm, sent):
    messages = [ChatMessage(role="user", content="What is the weather in Tokyo?")]
    messages.append(llm.chat_with_tools([tool()], chat_history=messages).message)
    call = llm.get_tool_calls_from_response(llm.chat_with_tools([tool()], chat_history=messages[:1]))[0]
    messages.append(ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id}))
    messages[1].blocks[-1].tool_call_id = call.tool_id
    assert "sunny" in llm.chat_with_tools([tool()], chat_history=messages).message.content
    assistant, result = sent.last.json["messages"][1:]
    assert assistant["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Tokyo"}'}
    assert assistant["content"] is None
    assert result == {"role": "tool", "content": "sunny", "tool_call_id": call.tool_id}


async def test_spans(llm):
    spans, root = SimpleSpanHandler(), get_dispatcher()
    root.add_span_handler(spans)
    llm.complete("Hello")
    await llm.achat([ChatMessage(content="Hello")])
    list(llm.stream_chat([ChatMessage(content="Hello")]))
    [found async for found in await llm.astream_complete("Hello")]
    with pytest.raises(e.ModelNotServed):
        llm.complete("Hello", model="nope")
    root.span_handlers.remove(spans)
    names = [span.id_.partition("-")[0] for span in spans.completed_spans]
    assert sorted(names) == ["VLLM.achat", "VLLM.astream_complete", "VLLM.complete", "VLLM.stream_chat"]
    assert [span.id_.partition("-")[0] for span in spans.dropped_spans] == ["VLLM.complete"]
    assert not spans.open_spans
