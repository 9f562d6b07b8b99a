"""ChatVLLM: every schema is sent as the user wrote it, by every route."""

import asyncio
import json
from typing import Annotated, Literal, NotRequired

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from vllm_adapters import errors as e
from vllm_adapters.langchain._schemas import convert_schema, is_object
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"


class Colours(RootModel[list[Literal["red", "blue"]]]):
    """Some colours."""


class Counts(BaseModel):
    """Numbers by name."""

    counts: dict[str, int]
    nested: dict[str, dict[str, list[int]]] = {}


class Node(BaseModel):
    """A tree."""

    name: str
    children: list["Node"] = []


class Trip(TypedDict):
    """A trip."""

    city: Annotated[str, ..., "Where to"]
    days: NotRequired[int]


ARRAY = {"title": "Colours", "type": "array", "items": {"enum": ["red", "blue"]}}
# Each with a reply that is an instance.
SCHEMAS = {
    "array": (ARRAY, ["red"]),
    "named array": ({"name": "Colours", "type": "array", "items": {"enum": ["red", "blue"]}}, ["red"]),
    "enum": ({"title": "Colour", "enum": ["red", "blue"]}, "red"),
    "string": ({"title": "Word", "type": "string", "maxLength": 3}, "red"),
    "integer": ({"title": "Number", "type": "integer", "minimum": 3}, 4),
    "anyOf": ({"title": "Value", "anyOf": [{"type": "integer"}, {"type": "string"}]}, 4),
    "oneOf of objects": (
        {
            "title": "Shape",
            "oneOf": [
                {"type": "object", "properties": {"radius": {"type": "integer"}}, "required": ["radius"]},
                {"type": "object", "properties": {"side": {"type": "integer"}}, "required": ["side"]},
            ],
        },
        {"side": 2},
    ),
    "map": ({"title": "Counts", "type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}),
    "patterns": (
        {"title": "Counts", "type": "object", "patternProperties": {"^a": {"type": "integer"}}},
        {"a": 1},
    ),
    "root model": (Colours.model_json_schema(), ["red"]),
    "reference": (
        {"title": "Tree", "$ref": "#/$defs/Leaf", "$defs": {"Leaf": {"type": "array", "items": {"type": "integer"}}}},
        [1],
    ),
    "no title": ({"type": "array", "items": {"type": "integer"}}, [1]),
}
each_schema = pytest.mark.parametrize(("schema", "instance"), SCHEMAS.values(), ids=SCHEMAS)


def written(schema):
    return {name: value for name, value in schema.items() if name != "name"}


def last(fault_server):
    return fault_server.posts(CHAT)[-1].json


def sent_schema(fault_server):
    return last(fault_server)["response_format"]["json_schema"]["schema"]


# Stock: {"title": "Colours"}, which permits anything.
@each_schema
@pytest.mark.parametrize("include_raw", [False, True])
def test_json_schema(faulty_llm, fault_server, schema, instance, include_raw):
    fault_server.reply(faults.chat(json.dumps(instance)))
    chain = faulty_llm.with_structured_output(schema, include_raw=include_raw)
    reply = chain.invoke("x")
    assert (reply["parsed"] if include_raw else reply) == instance
    assert sent_schema(fault_server) == written(schema)


@each_schema
def test_function_calling(faulty_llm, fault_server, schema, instance):
    wrapped = not is_object(schema)
    arguments = json.dumps({"root": instance} if wrapped else instance)
    name = schema.get("title") or schema.get("name") or "reply"
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call(name, arguments)], finish_reason="stop"))
    chain = faulty_llm.with_structured_output(schema, method="function_calling")
    assert chain.invoke("x") == instance
    assert list(chain.stream("x"))[-1] == instance
    function = last(fault_server)["tools"][0]["function"]
    assert function["name"] == name
    assert function["strict"] is True
    sent = function["parameters"]["properties"]["root"] if wrapped else function["parameters"]
    kept = {key: value for key, value in written(schema).items() if key not in ("title", "description", "$defs")}
    assert {key: value for key, value in sent.items() if key != "$defs"} == kept
    assert function["parameters"].get("$defs") == schema.get("$defs")


@each_schema
def test_response_format_of_every_level(faulty_llm, fault_server, schema, instance):
    fault_server.reply(faults.chat(json.dumps(instance)))
    constructed = type(faulty_llm)(base_url=fault_server.url, model="m", response_format=schema)
    calls = [
        lambda: faulty_llm.invoke("x", response_format=schema),
        lambda: list(faulty_llm.stream("x", response_format=schema)),
        lambda: asyncio.run(faulty_llm.ainvoke("x", response_format=schema)),
        lambda: faulty_llm.bind(response_format=schema).invoke("x"),
        lambda: faulty_llm.bind_tools([], response_format=schema).invoke("x"),
        lambda: constructed.invoke("x"),
        lambda: faulty_llm.invoke("x", extra_body={"response_format": schema}),
    ]
    for call in calls:
        call()
        assert sent_schema(fault_server) == written(schema)


@each_schema
def test_agent_with_a_provider_strategy(faulty_llm, fault_server, schema, instance):
    fault_server.reply(faults.chat(json.dumps(instance)))
    for response_format in (ProviderStrategy(schema), schema):
        state = create_agent(faulty_llm, tools=[], response_format=response_format).invoke({"messages": ["x"]})
        assert state["structured_response"] == instance
        assert sent_schema(fault_server) == schema


def test_tool_that_takes_no_object_is_rejected(faulty_llm, fault_server):
    with pytest.raises(ValueError, match="The schema of tool 'Colours' must describe an object, not array"):
        faulty_llm.bind_tools([ARRAY])
    with pytest.raises(ValueError, match="must describe an object"):
        create_agent(faulty_llm, tools=[], response_format=ToolStrategy(ARRAY)).invoke({"messages": ["x"]})
    assert not fault_server.posts(CHAT)


def test_map_is_a_tool(faulty_llm, fault_server):
    schema, instance = SCHEMAS["map"]
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("Counts", json.dumps(instance))]))
    for response_format in (ToolStrategy(schema),):
        state = create_agent(faulty_llm, tools=[], response_format=response_format).invoke({"messages": ["x"]})
        assert state["structured_response"] == instance
    assert last(fault_server)["tools"][0]["function"]["parameters"] == {
        "type": "object",
        "additionalProperties": {"type": "integer"},
    }


# Stock: the dict's additional properties are refused, so that it is always empty.
@pytest.mark.parametrize("strict", [None, True, False])
@pytest.mark.parametrize("route", ["tool", "function_calling", "ToolStrategy", "agent", "ProviderStrategy"])
def test_dict_fields_stay_open(faulty_llm, fault_server, route, strict):
    @tool
    def count(counts: dict[str, int]) -> str:
        """Count."""
        return ""

    arguments = {"counts": {"a": 1}}
    call = faults.chat(tool_calls=[payloads.tool_call("Counts", json.dumps(arguments))], finish_reason="stop")
    fault_server.reply(faults.chat(json.dumps(arguments)) if route in ("agent", "ProviderStrategy") else call)
    if route == "tool":
        faulty_llm.bind_tools([Counts], tool_choice="any", strict=strict).invoke("x")
    elif route == "function_calling":
        made = faulty_llm.with_structured_output(Counts, method="function_calling", strict=strict).invoke("x")
        assert made == Counts(counts={"a": 1})
    elif route == "ToolStrategy":
        create_agent(faulty_llm, [count], response_format=ToolStrategy(Counts)).invoke({"messages": ["x"]})
    else:
        form = Counts if route == "agent" else ProviderStrategy(Counts, strict=strict)
        create_agent(faulty_llm, [count], response_format=form).invoke({"messages": ["x"]})
    body = last(fault_server)
    for function in (found["function"] for found in body["tools"]):
        assert function["strict"] is (strict is not False or route not in ("tool", "function_calling"))
        assert function["parameters"]["properties"]["counts"]["additionalProperties"] == {"type": "integer"}
        assert "additionalProperties" not in function["parameters"]
    if "response_format" in body:
        schema = body["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["counts"]["additionalProperties"] == {"type": "integer"}


# Stock: {"items": {}}, and for a TypedDict a RecursionError.
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_recursive_schema_stays_whole(faulty_llm, fault_server, method):
    arguments = {"name": "a", "children": [{"name": "b", "children": []}]}
    calls = [payloads.tool_call("Node", json.dumps(arguments))]
    fault_server.reply(
        faults.chat(json.dumps(arguments))
        if method == "json_schema"
        else faults.chat(tool_calls=calls, finish_reason="stop")
    )
    made = faulty_llm.with_structured_output(Node, method=method).invoke("x")
    assert made == Node(name="a", children=[Node(name="b")])
    body = last(fault_server)
    sent = body["tools"][0]["function"]["parameters"] if "tools" in body else sent_schema(fault_server)
    assert sent["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}


def test_recursive_argument_of_a_tool_stays_whole(faulty_llm):
    def plant(tree: Node) -> str:
        """Plant a tree."""
        return tree.name

    for given in (
        tool(plant),
        StructuredTool(name="plant", description="Plant.", args_schema=Node.model_json_schema()),
    ):
        parameters = faulty_llm.bind_tools([given]).kwargs["tools"][0]["function"]["parameters"]
        assert parameters["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}


def test_typed_dict_with_an_optional_key(faulty_llm, fault_server):
    fault_server.reply(faults.chat('{"city": "Rome"}'))
    assert faulty_llm.with_structured_output(Trip).invoke("x") == {"city": "Rome"}
    assert sent_schema(fault_server)["required"] == ["city"]
    assert "days" in sent_schema(fault_server)["properties"]


@pytest.mark.parametrize(
    "schema",
    [
        {"title": "City", "strict": False, "type": "object", "properties": {"n": {"type": "integer"}}},
        {"name": "City", "strict": False, "schema": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        {"name": "City", "strict": False, "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    ],
    ids=["title", "schema", "parameters"],
)
def test_strict_of_a_schema_wins(faulty_llm, fault_server, schema):
    fault_server.reply(faults.chat('{"n": 1}'))
    faulty_llm.with_structured_output(schema).invoke("x")
    sent = last(fault_server)["response_format"]["json_schema"]
    assert sent["strict"] is False
    assert sent["schema"]["properties"] == {"n": {"type": "integer"}}
    assert "strict" not in sent["schema"]
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("City", '{"n": 1}')], finish_reason="stop"))
    faulty_llm.with_structured_output(schema, method="function_calling").invoke("x")
    faulty_llm.bind_tools([schema], tool_choice="any").invoke("x")
    for request in fault_server.posts(CHAT)[1:]:
        assert request.json["tools"][0]["function"]["strict"] is False
        assert request.json["tools"][0]["function"]["parameters"]["properties"] == {"n": {"type": "integer"}}


def test_strict_of_the_call_is_sent(faulty_llm, fault_server):
    fault_server.reply(faults.chat('{"counts": {}}'))
    for strict in (True, False):
        faulty_llm.with_structured_output(Counts, strict=strict).invoke("x")
        assert last(fault_server)["response_format"]["json_schema"]["strict"] is strict


def test_root_model_class(faulty_llm, fault_server):
    fault_server.reply(faults.chat('["red"]'))
    assert faulty_llm.with_structured_output(Colours).invoke("x") == Colours(["red"])
    call = payloads.tool_call("Colours", '{"root": ["red"]}')
    fault_server.reply(faults.chat(tool_calls=[call], finish_reason="stop"))
    assert faulty_llm.with_structured_output(Colours, method="function_calling").invoke("x") == Colours(["red"])


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_sets_and_bytes_are_sent_without_what_vllm_refuses(faulty_llm, fault_server, method):
    class Bag(BaseModel):
        words: set[str]
        data: bytes = b""

    call = payloads.tool_call("Bag", '{"words": ["a", "a"]}')
    whole = method == "json_schema"
    fault_server.reply(
        faults.chat('{"words": ["a", "a"]}') if whole else faults.chat(tool_calls=[call], finish_reason="stop")
    )
    assert faulty_llm.with_structured_output(Bag, method=method).invoke("x") == Bag(words={"a"})
    assert "uniqueItems" not in str(last(fault_server))
    assert "'binary'" not in str(last(fault_server))


def test_fields_of_any_name_stay():
    class Page(BaseModel):
        title: str
        name: str = Field(description="A name")
        strict: bool = False

    assert set(convert_schema(Page)["properties"]) == {"title", "name", "strict"}
    assert convert_schema({"type": "object", "properties": {"strict": {"type": "boolean"}}})["properties"]


# Parameters of single calls


WAYS = {
    "invoke": lambda chain, **params: chain.invoke("x", **params),
    "ainvoke": lambda chain, **params: asyncio.run(chain.ainvoke("x", **params)),
    "stream": lambda chain, **params: list(chain.stream("x", **params)),
    "astream": lambda chain, **params: asyncio.run(_astream(chain, **params)),
    "batch": lambda chain, **params: chain.batch(["x"], **params),
    "abatch": lambda chain, **params: asyncio.run(chain.abatch(["x"], **params)),
    "bind": lambda chain, **params: chain.bind(**params).invoke("x"),
}


async def _astream(chain, **params):
    return [part async for part in chain.astream("x", **params)]


# Stock: include_raw drops them, and stream fails with a TypeError.
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize(
    ("schema", "method"),
    [(Counts, None), (Counts, "function_calling"), (None, "json_mode"), (["yes", "no"], None), ("y|n", "regex")],
)
def test_parameters_of_calls_are_sent(faulty_llm, fault_server, way, include_raw, schema, method):
    text = {"json_mode": "{}", "regex": "y"}.get(method, "yes" if isinstance(schema, list) else '{"counts": {}}')
    calls = [payloads.tool_call("Counts", '{"counts": {}}')]
    fault_server.reply(
        faults.chat(tool_calls=calls, finish_reason="stop") if method == "function_calling" else faults.chat(text)
    )
    chain = faulty_llm.with_structured_output(schema, method=method, include_raw=include_raw, min_p=0.5)
    WAYS[way](chain, top_k=2)
    assert (last(fault_server)["top_k"], last(fault_server)["min_p"]) == (2, 0.5)
    count = len(fault_server.posts(CHAT))
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        WAYS[way](chain, topk=2)
    assert len(fault_server.posts(CHAT)) == count
