"""Structured output of ChatVLLM: whole objects or an error, whatever the server sends."""

import pytest

pytest.importorskip("langchain_openai")

from pydantic import BaseModel

from vllm_adapters import errors as e
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def llm(fault_server):
    return ChatVLLM(base_url=fault_server.url, max_retries=0, timeout=5)


def test_bound_parameters_survive_with_structured_output(llm, fault_server):
    fault_server.reply(faults.chat('{"name": "Ada", "age": 36}'))
    person = llm.bind(top_k=1, stop=["x"]).with_structured_output(Person)
    assert person.invoke("who?") == Person(name="Ada", age=36)
    assert list(person.stream("who?")) == [Person(name="Ada", age=36)]
    for request in fault_server.posts(CHAT):
        assert (request.json["top_k"], request.json["stop"]) == (1, ["x"])
        assert request.json["response_format"]["json_schema"]["schema"]["required"] == ["name", "age"]


def test_tools_survive_with_structured_output(llm, fault_server):
    fault_server.reply(faults.chat('{"name": "Ada", "age": 36}'))
    llm.bind_tools([add]).with_structured_output(Person).invoke("who?")
    body = fault_server.posts(CHAT)[0].json
    assert body["tools"][0]["function"]["name"] == "add"
    assert body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
@pytest.mark.parametrize("call", ["invoke", "stream"])
def test_truncated_objects_raise(llm, fault_server, method, call):
    call_ = payloads.tool_call("Person", '{"name": "A', index=None if call == "invoke" else 0)
    reply = {"tool_calls": [call_]} if method == "function_calling" else {"content": '{"name": "Ada", "a'}
    fault_server.reply(faults.chat(**reply, finish_reason="length"))
    structured = llm.with_structured_output(Person, method=method)
    with pytest.raises(e.TruncatedOutput, match="max_tokens"):
        structured.invoke("x") if call == "invoke" else list(structured.stream("x"))


# LangChain's parsers close the brackets of what there is: Person(name="Ada", age=3) of an age that was to be 36.
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
@pytest.mark.parametrize("call", ["invoke", "stream"])
def test_no_object_is_made_of_a_reply_that_something_else_cut(llm, fault_server, schema, reason, error, call):
    fault_server.reply(faults.chat('{"name": "Ada", "age": 3', finish_reason=reason))
    structured = llm.with_structured_output(schema)
    with pytest.raises(error) as caught:
        structured.invoke("x") if call == "invoke" else list(structured.stream("x"))
    assert '"age": 3' in (caught.value.partial or caught.value.reply)


def test_no_object_is_made_of_a_reply_that_does_not_say_that_it_ended(llm, fault_server):
    fault_server.reply(faults.chat('{"name": "Ada", "age": 3', finish_reason=None))
    with pytest.raises(e.ConstraintNotEnforced):
        llm.with_structured_output(Person).invoke("x")


def test_brackets_without_end(llm, fault_server):
    text = '{"name": ' + "[" * 5000
    fault_server.reply(faults.chat(text))
    for method in ("json_schema", "json_mode"):
        with pytest.raises(e.ConstraintNotEnforced, match="not JSON"):
            llm.with_structured_output(Person, method=method).invoke("x")
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("Person", text)]))
    with pytest.raises(e.ConstraintNotEnforced, match="forced call"):
        llm.with_structured_output(Person, method="function_calling").invoke("x")


# Stock ChatOpenAI yields Person(age=3), then Person(age=33).
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_no_object_from_half_a_number(llm, fault_server, method):
    halves = ['{"name": "Ada", "age": 3', "3}"]
    if method == "function_calling":
        first = {**payloads.tool_call("Person", halves[0], index=0)}
        said = [{"tool_calls": [first]}, {"tool_calls": [{"index": 0, "function": {"arguments": halves[1]}}]}]
    else:
        said = [{"content": half} for half in halves]
    fault_server.reply(faults.deltas(*said))
    assert list(llm.with_structured_output(Person, method=method).stream("x")) == [Person(name="Ada", age=33)]


@pytest.mark.parametrize("method", ["choice", "regex", "grammar", "structural_tag"])
@pytest.mark.parametrize("call", ["invoke", "stream"])
@pytest.mark.parametrize("reason", ["length", "repetition"])
def test_truncated_texts_raise(llm, fault_server, method, call, reason):
    fault_server.reply(faults.chat("ye", finish_reason=reason))
    chain = llm.with_structured_output(["yes", "no"] if method == "choice" else "yes", method=method)
    with pytest.raises(e.TruncatedOutput) as caught:
        chain.invoke("x") if call == "invoke" else list(chain.stream("x"))
    assert caught.value.partial == "ye"


def test_schemas_that_do_not_fit_the_method(llm, fault_server):
    for schema, method in ((Person, "choice"), ([], "choice"), (Person, "regex"), (Person, "grammar"), (None, None)):
        with pytest.raises(ValueError, match="needs"):
            llm.with_structured_output(schema, method=method)
    with pytest.raises(ValueError, match="say which"):
        llm.with_structured_output("yes|no")
    with pytest.raises(ValueError, match="method is one of"):
        llm.with_structured_output(Person, method="json")
    assert not fault_server.requests


def test_include_raw_reports_instead_of_raising(llm, fault_server):
    fault_server.reply(faults.chat('{"name": "Ada", "a', finish_reason="length"))
    found = llm.with_structured_output(Person, include_raw=True).invoke("x")
    assert isinstance(found["parsing_error"], e.TruncatedOutput)
    assert found["raw"].text == '{"name": "Ada", "a'


def test_a_forced_call_that_does_not_come(llm, fault_server):
    fault_server.reply(faults.chat("I would rather not."))
    with pytest.raises(e.ConstraintNotEnforced, match="forced call of `Person`"):
        llm.with_structured_output(Person, method="function_calling").invoke("x")
