"""What is no answer raises, also in agents: truncated forms, calls that come as text, truncated and missing calls."""

import asyncio

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM
from vllm_adapters.testing import faults, payloads

MARKUP = '<tool_call>\n{"name": "delete", "arguments": {"path": "/'
ran = []


class City(BaseModel):
    """A city."""

    name: str


def delete(path: str = "/") -> str:
    """Delete a directory."""
    ran.append(path)
    return "done"


TOOL = FunctionTool.from_defaults(delete)


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()
    yield
    assert not ran, "a call that was never finished was run"


@pytest.fixture
def llm(fault_server):
    return VLLM(base_url=fault_server.url, max_retries=0, max_tokens=8)


def by_chat(llm, **options):
    return llm.get_tool_calls_from_response(llm.chat_with_tools([TOOL], "hi", **options))


def by_stream(llm, **options):
    return llm.get_tool_calls_from_response(list(llm.stream_chat_with_tools([TOOL], "hi", **options))[-1])


def by_async_chat(llm, **options):
    return asyncio.run(llm.achat_with_tools([TOOL], "hi", **options))


def by_async_stream(llm, **options):
    async def run():
        return [_ async for _ in await llm.astream_chat_with_tools([TOOL], "hi", **options)][-1]

    return llm.get_tool_calls_from_response(asyncio.run(run()))


def by_predict_and_call(llm, **options):
    return llm.predict_and_call([TOOL], "hi", **options)


def by_agent(llm, *, streaming=False, tool_required=False):
    async def run():
        choice = {"initial_tool_choice": "required"} if tool_required else {}
        return await FunctionAgent(tools=[TOOL], llm=llm, streaming=streaming, **choice).run("hi")

    return asyncio.run(run())


def by_streaming_agent(llm, **options):
    return by_agent(llm, streaming=True, **options)


WHOLE = [by_chat, by_async_chat, by_predict_and_call, by_agent]
STREAMED = [by_stream, by_async_stream, by_streaming_agent]

every_way = pytest.mark.parametrize("call", [*WHOLE, *STREAMED])
every_stream = pytest.mark.parametrize("call", STREAMED)


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": City},
        {"structured_outputs": {"regex": r"\w+"}},
        {"structured_outputs": {"choice": ["positive", "negative"]}},
    ],
    ids=["json_object", "class", "regex", "choice"],
)
def test_truncated_form_raises(llm, fault_server, method, form):
    fault_server.reply(faults.chat("pos", finish_reason="length"))
    with pytest.raises(e.TruncatedOutput, match="max_tokens"):
        method(llm, **form)


def test_truncated_form_of_the_constructor_raises(fault_server, method):
    llm = VLLM(base_url=fault_server.url, structured_outputs={"regex": "[a-z]+"})
    fault_server.reply(faults.chat("pos", finish_reason="length"))
    with pytest.raises(e.TruncatedOutput):
        method(llm)


def test_truncated_text_is_an_answer(llm, fault_server, method):
    fault_server.reply(faults.chat("pos", finish_reason="length"))
    assert method(llm).additional_kwargs["finish_reason"] == "length"


@pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION])
@pytest.mark.parametrize("streamed", [True, False])
def test_truncated_object_of_a_structured_llm_raises(llm, fault_server, mode, streamed):
    llm.pydantic_program_mode = mode
    text = '{"name": "Ro' if mode == PydanticProgramMode.DEFAULT else '<tool_call>\n{"name": "City", "argu'
    fault_server.reply(faults.chat(text, finish_reason="length"))
    structured, messages, prompt = llm.as_structured_llm(City), [ChatMessage(content="hi")], PromptTemplate("hi")
    with pytest.raises(e.TruncatedOutput):
        list(structured.stream_chat(messages)) if streamed else structured.chat(messages)
    with pytest.raises(e.TruncatedOutput):
        list(llm.stream_structured_predict(City, prompt)) if streamed else llm.structured_predict(City, prompt)


@every_way
def test_truncated_call_that_comes_as_text_raises(llm, fault_server, call):
    # Otherwise: the markup is the agent's answer.
    fault_server.reply(faults.chat(MARKUP, finish_reason="length"))
    with pytest.raises(e.TruncatedOutput):
        call(llm)


@every_stream
@pytest.mark.parametrize("arguments", ["", "{}", '{"path": ""}'])
def test_streamed_call_that_an_older_server_ends_as_complete_raises(llm, fault_server, call, arguments):
    # vLLM 0.11 to 0.30: finish reason `tool_calls`, and as many tokens as max_tokens.
    usage = {"prompt_tokens": 1, "completion_tokens": 8, "total_tokens": 9}
    chunks = payloads.chat_chunks(
        None, tool_calls=[payloads.tool_call("delete", arguments)], finish_reason="tool_calls"
    )
    fault_server.reply(faults.sse(*chunks, payloads.chunk(None, usage=usage)))
    with pytest.raises(e.TruncatedOutput):
        call(llm)


@every_way
@pytest.mark.parametrize(
    ("text", "reason"), [("No.", "stop"), ("", "stop"), ("", "tool_calls"), (MARKUP, "stop")], ids=str
)
def test_missing_forced_call_raises(llm, fault_server, call, text, reason):
    fault_server.reply(faults.chat(text, finish_reason=reason))
    with pytest.raises(e.ConstraintNotEnforced, match="forced tool"):
        call(llm, tool_required=True)


@every_way
def test_finish_reason_of_a_call_without_a_call_raises(llm, fault_server, call):
    fault_server.reply(faults.chat("", finish_reason="tool_calls"))
    with pytest.raises(e.ConstraintNotEnforced):
        call(llm)


@pytest.mark.parametrize("streaming", [True, False])
async def test_react_agent_has_no_tools_to_check(llm, fault_server, streaming):
    fault_server.reply(faults.chat("Thought: I can answer without using any more tools.\nAnswer: yes"))
    assert str(await ReActAgent(tools=[TOOL], llm=llm, streaming=streaming).run("hi")) == "yes"


REFUSAL = "I would rather not."


def refuse(fault_server, mode):
    """Answer with a refusal, as gateways do: OpenAI's models have such a field."""
    if mode == "whole":
        body = payloads.chat(None)
        body["choices"][0]["message"]["refusal"] = REFUSAL
        fault_server.reply(faults.json_reply(body))
    else:
        words = [{"refusal": word} for word in ("I would", " rather not.")]
        fault_server.reply(faults.deltas({"role": "assistant", "content": ""}, *words))


@pytest.mark.parametrize("mode", ["whole", "streamed"])
def test_refusal_is_the_text(llm, fault_server, mode):
    # Stock: an empty answer.
    refuse(fault_server, mode)
    if mode == "whole":
        chat, completion = llm.chat([ChatMessage(content="hi")]), llm.complete("hi")
    else:
        *_, chat = streamed = list(llm.stream_chat([ChatMessage(content="hi")]))
        assert "".join(response.delta for response in streamed) == REFUSAL
        *_, completion = llm.stream_complete("hi")
    assert chat.message.content == completion.text == REFUSAL
    assert chat.additional_kwargs["refusal"] == completion.additional_kwargs["refusal"] == REFUSAL


@pytest.mark.parametrize("mode", ["whole", "streamed"])
def test_refusal_in_place_of_an_object_raises(llm, fault_server, mode):
    refuse(fault_server, mode)
    predict = llm.structured_predict if mode == "whole" else llm.stream_structured_predict
    with pytest.raises(e.ModelRefusal, match=REFUSAL):
        list(predict(City, PromptTemplate("hi")))
