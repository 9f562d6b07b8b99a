"""What is no answer is none, also in agents: truncated forms, calls that come as text, truncated and missing calls."""

import asyncio
from typing import Annotated

import pytest
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from pydantic import BaseModel

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMChatGenerator
from vllm_adapters.testing import faults, payloads

MARKUP = '<tool_call>\n{"name": "delete", "arguments": {"path": "/'
FORCED = {"type": "function", "function": {"name": "delete"}}
REFUSAL = "I would rather not."
PROMPT = [ChatMessage.from_user("hi")]
ran = []


class City(BaseModel):
    """A city."""

    name: str


@tool
def delete(path: Annotated[str, "The directory"] = "/") -> str:
    """Delete a directory."""
    ran.append(path)
    return "done"


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()
    yield
    assert not ran, "a call that was never finished was run"


@pytest.fixture
def limited(fault_server):
    return VLLMChatGenerator(api_base_url=fault_server.url, max_retries=0, generation_kwargs={"max_tokens": 8})


@pytest.fixture
def run_agent(limited, run):
    """Runs an agent in the way of ``run``; the parameters are those of its generator."""

    def run_it(**generation_kwargs):
        limited.generation_kwargs |= generation_kwargs
        agent = Agent(chat_generator=limited, tools=[delete], max_agent_steps=3)
        inputs = {"streaming_callback": run._append if run.is_async else run.chunks.append} if run.streams else {}
        return asyncio.run(agent.run_async(PROMPT, **inputs)) if run.is_async else agent.run(PROMPT, **inputs)

    return run_it


def cause(caught):
    """Return the package's error, which Haystack's agents wrap."""
    error = caught.value
    while error is not None and not isinstance(error, e.VLLMError):
        error = error.__cause__
    return error


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": City},
        {"structured_outputs": {"regex": r"\w+"}},
        {"structured_outputs": {"choice": ["positive", "negative"]}},
        {"extra_body": {"structured_outputs": {"json": City}}},
    ],
    ids=["json_object", "class", "regex", "choice", "extra_body"],
)
@pytest.mark.parametrize("of", ["constructor", "run"])
def test_truncated_form_raises(limited, fault_server, run, form, of):
    fault_server.reply(faults.chat("pos", finish_reason="length"))
    inputs = {"generation_kwargs": form}
    if of == "constructor":
        limited.generation_kwargs |= form
        inputs = {}
    with pytest.raises(e.TruncatedOutput, match="max_tokens"):
        run(limited, **inputs)


def test_truncated_form_raises_in_an_agent(fault_server, run_agent):
    fault_server.reply(faults.chat('{"name": "Ro', finish_reason="length"))
    with pytest.raises(Exception, match="max_tokens") as caught:
        run_agent(response_format=City)
    assert isinstance(cause(caught), e.TruncatedOutput)


def test_truncated_text_is_an_answer(limited, fault_server, run):
    fault_server.reply(faults.chat("pos", finish_reason="length"))
    (reply,) = run(limited)
    assert (reply.text, reply.meta["finish_reason"]) == ("pos", "length")


def test_truncated_call_that_comes_as_text_raises(limited, fault_server, run):
    fault_server.reply(faults.chat(MARKUP, finish_reason="length"))
    with pytest.raises(e.TruncatedOutput):
        run(limited, tools=[delete])


def test_truncated_call_that_comes_as_text_is_not_an_agents_answer(fault_server, run_agent):
    fault_server.reply(faults.chat(MARKUP, finish_reason="length"))
    with pytest.raises(Exception, match="max_tokens") as caught:
        run_agent()
    assert isinstance(cause(caught), e.TruncatedOutput)


def cut_as_complete(arguments):
    """Return a stream of vLLM 0.11 to 0.30: finish reason `tool_calls`, and as many tokens as max_tokens."""
    usage = {"prompt_tokens": 1, "completion_tokens": 8, "total_tokens": 9}
    calls = [payloads.tool_call("delete", arguments)]
    chunks = payloads.chat_chunks(None, tool_calls=calls, finish_reason="tool_calls")
    return faults.sse(*chunks, payloads.chunk(None, usage=usage))


cut_arguments = pytest.mark.parametrize("arguments", ["", "{}", '{"path": ""}'])


@cut_arguments
def test_streamed_call_that_an_older_server_ends_as_complete_is_invalid(limited, fault_server, stream, arguments):
    fault_server.reply(cut_as_complete(arguments))
    (reply,) = stream(limited, tools=[delete])
    assert reply.tool_calls == []
    assert reply.meta["finish_reason"] == "length"
    assert [call["name"] for call in reply.meta["invalid_tool_calls"]] == ["delete"]
    assert [chunk.finish_reason for chunk in stream.chunks if chunk.finish_reason] == ["length"]


@cut_arguments
@pytest.mark.parametrize("is_async", [False, True], ids=["run", "run_async"])
def test_agent_does_not_run_a_call_that_an_older_server_ends_as_complete(limited, fault_server, arguments, is_async):
    # Otherwise: the agent ran the tool, with arguments that the model had not finished.
    fault_server.reply(cut_as_complete(arguments))
    agent = Agent(chat_generator=limited, tools=[delete], max_agent_steps=3)
    inputs = {"streaming_callback": [].append}
    output = asyncio.run(agent.run_async(PROMPT, **inputs)) if is_async else agent.run(PROMPT, **inputs)
    assert output["exit_reason"] == "length"
    assert len(fault_server.posts("/v1/chat/completions")) == 1


@pytest.mark.parametrize("choice", ["required", FORCED], ids=["required", "named"])
@pytest.mark.parametrize(
    ("text", "reason"), [("No.", "stop"), ("", "stop"), ("", "tool_calls"), (MARKUP, "stop")], ids=str
)
def test_missing_forced_call_raises(limited, fault_server, run, choice, text, reason):
    fault_server.reply(faults.chat(text, finish_reason=reason))
    with pytest.raises(e.ConstraintNotEnforced, match="forced tool"):
        run(limited, tools=[delete], generation_kwargs={"tool_choice": choice})


@pytest.mark.parametrize(("text", "reason"), [("No.", "stop"), ("", "tool_calls")])
def test_missing_forced_call_raises_in_an_agent(fault_server, run_agent, text, reason):
    # Otherwise: the agent asks again until its last step.
    fault_server.reply(faults.chat(text, finish_reason=reason))
    with pytest.raises(Exception, match="forced tool") as caught:
        run_agent(tool_choice="required")
    assert isinstance(cause(caught), e.ConstraintNotEnforced)
    assert len(fault_server.posts("/v1/chat/completions")) == 1


def test_finish_reason_of_a_call_without_a_call_raises(limited, fault_server, run):
    fault_server.reply(faults.chat("", finish_reason="tool_calls"))
    with pytest.raises(e.ConstraintNotEnforced):
        run(limited, tools=[delete])


def test_refusal_is_the_text(limited, fault_server, run):
    if run.streams:
        words = [{"refusal": word} for word in ("I would", " rather not.")]
        fault_server.reply(faults.deltas({"role": "assistant", "content": ""}, *words))
    else:
        body = payloads.chat(None)
        body["choices"][0]["message"]["refusal"] = REFUSAL
        fault_server.reply(faults.json_reply(body))
    (reply,) = run(limited)
    assert reply.text == REFUSAL
    if run.streams:
        assert "".join(chunk.content for chunk in run.chunks) == REFUSAL
