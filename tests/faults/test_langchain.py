"""ChatVLLM against a server that fails as it is told to: LangChain's errors, whole streams, loops, bodies."""

import asyncio
import multiprocessing
import pickle

import pytest

pytest.importorskip("langchain_openai")

import langchain_core.exceptions as lc
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from pydantic import BaseModel, ValidationError

from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM, ChatVLLM
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


def invoke(llm, **kwargs):
    return llm.invoke("one two", **kwargs)


def ainvoke(llm, **kwargs):
    return asyncio.run(llm.ainvoke("one two", **kwargs))


def stream(llm, **kwargs):
    return list(llm.stream("one two", **kwargs))


def astream(llm, **kwargs):
    async def run():
        return [chunk async for chunk in llm.astream("one two", **kwargs)]

    return asyncio.run(run())


every_way = pytest.mark.parametrize("call", [invoke, ainvoke, stream, astream], ids=lambda f: f.__name__)


@every_way
@pytest.mark.parametrize(
    ("behaviour", "ours", "theirs"),
    [
        (faults.error(401, "Unauthorized", shape="string"), e.AuthenticationFailed, lc.ModelAuthenticationError),
        (faults.error(403, "no"), e.PermissionDenied, lc.ModelPermissionDeniedError),
        (faults.error(404, "Not Found", shape="detail"), e.WrongAddress, lc.ModelNotFoundError),
        (faults.error(404, "`m` does not exist.", param="model"), e.ModelNotServed, lc.ModelNotFoundError),
        (faults.error(400, "bad", param="x"), e.InvalidRequest, lc.ModelInvalidRequestError),
        (
            faults.error(400, "This model's maximum context length is 10 tokens.", param="input_tokens"),
            e.ContextLengthExceeded,
            lc.ContextOverflowError,
        ),
        (faults.error(429), e.RateLimited, lc.ModelRateLimitError),
        (faults.error(500), e.ServerFailed, lc.ModelAPIError),
        (faults.loading(), e.ServerNotReady, lc.ModelAPIError),
        (faults.hang_up(), e.ServerUnreachable, lc.ModelConnectionError),
        (faults.html(), e.InvalidResponse, lc.ModelAPIError),
    ],
)
def test_failures_are_langchains_errors_too(llm, fault_server, call, behaviour, ours, theirs):
    fault_server.reply(behaviour)
    with pytest.raises(ours) as caught:
        call(llm)
    assert isinstance(caught.value, theirs)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@every_way
def test_an_ignored_constraint(llm, fault_server, call):
    fault_server.reply(faults.chat("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced):
        call(llm, structured_outputs={"choice": ["yes", "no"]})


@pytest.mark.parametrize("call", [stream, astream], ids=lambda f: f.__name__)
def test_chunks_with_several_kinds_lose_nothing(llm, fault_server, call):
    tools = [payloads.tool_call("add", '{"a": 1}', index=0), payloads.tool_call("add", '{"a": 2}', index=1)]
    fault_server.reply(faults.deltas({"reasoning": "because", "content": "six"}, {"content": "!", "tool_calls": tools}))
    message = None
    for chunk in call(llm):
        message = chunk if message is None else message + chunk
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text", "tool_call", "tool_call"]
    assert message.content_blocks[0]["reasoning"] == "because"
    assert message.text == "six!"
    assert [tool["args"] for tool in message.tool_calls] == [{"a": 1}, {"a": 2}]


def test_a_break_disconnects_within_a_second(llm, fault_server):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))
    for _ in llm.stream("x"):
        break
    assert fault_server.wait_for(lambda: fault_server.posts(CHAT)[0].disconnected_at is not None, timeout=1)


def test_an_async_break_disconnects_within_a_second(llm, fault_server):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))

    async def run():
        async for _ in llm.astream("x"):
            break
        await asyncio.sleep(0.3)

    asyncio.run(run())
    assert fault_server.posts(CHAT)[0].disconnected_at is not None


def test_three_event_loops(llm, fault_server):
    assert [ainvoke(llm).text for _ in range(3)] == ["one two"] * 3
    assert len(fault_server.posts(CHAT)) == 3


def _ask(llm, queue):
    queue.put(llm.invoke("from the child").text)


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork_after_use(llm, fault_server):
    invoke(llm)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_ask, args=(llm, queue))
    child.start()
    assert invoke(llm).text == "one two"
    assert queue.get(timeout=20) == "from the child"
    child.join(10)


def test_five_hundred_at_once(make_fault_server):
    server = make_fault_server(delay=1.0)
    llm = ChatVLLM(base_url=server.url, max_retries=0)

    async def run():
        return await asyncio.gather(*(llm.ainvoke(str(number)) for number in range(500)))

    assert [message.text for message in asyncio.run(run())] == [str(number) for number in range(500)]


def test_bound_parameters_reach_every_way_of_asking(llm, fault_server):
    bound = llm.bind(top_k=1, stop=["x"])

    async def ways():
        await bound.ainvoke("hi")
        await bound.abatch(["hi"])
        await bound.agenerate([[HumanMessage("hi")]], seed=1)
        async for _ in bound.astream("hi"):
            pass
        async for _ in bound.astream_events("hi", version="v2"):
            pass

    asyncio.run(ways())
    bound.invoke("hi")
    bound.batch(["hi"])
    list(bound.stream("hi"))
    bound.generate([[HumanMessage("hi")]], seed=1)
    assert bound.stream_events("hi", version="v3").output.text == "hi"
    bound.with_config(tags=["a"]).with_retry().invoke("hi")
    requests = fault_server.posts(CHAT)
    assert len(requests) == 11
    assert all((request.json["top_k"], request.json["stop"]) == (1, ["x"]) for request in requests)


def test_dicts_merge_in_every_way_of_asking_and_in_chains(llm, fault_server):
    bound = llm.bind(chat_template_kwargs={"a": 1})
    call = {"chat_template_kwargs": {"b": 2}}

    async def ways(asked):
        await asked.ainvoke("hi", **call)
        await asked.abatch(["hi"], **call)
        async for _ in asked.abatch_as_completed(["hi"], **call):
            pass
        async for _ in asked.astream("hi", **call):
            pass
        async for _ in asked.astream_events("hi", version="v2", **call):
            pass

    for asked in (bound, bound | StrOutputParser()):
        asyncio.run(ways(asked))
        asked.invoke("hi", **call)
        asked.batch(["hi"], **call)
        list(asked.batch_as_completed(["hi"], **call))
        list(asked.stream("hi", **call))
    assert bound.stream_events("hi", version="v3", **call).output.text == "hi"
    requests = fault_server.posts(CHAT)
    assert len(requests) == 19
    assert [request.json["chat_template_kwargs"] for request in requests] == [{"a": 1, "b": 2}] * 19


def test_binding_more_keeps_listeners(llm):
    heard = []
    llm.bind(top_k=1).with_listeners(on_end=lambda run: heard.append(run.id)).bind(seed=1).invoke("hi")
    assert len(heard) == 1


def test_bound_parameters_survive_bind_tools(llm, fault_server):
    bound = llm.bind(top_k=1, stop=["x"], chat_template_kwargs={"a": 1}).bind_tools([add], tool_choice="any")
    bound.invoke("hi", chat_template_kwargs={"b": 2})
    body = fault_server.posts(CHAT)[0].json
    assert (body["top_k"], body["stop"], body["chat_template_kwargs"]) == (1, ["x"], {"a": 1, "b": 2})
    assert body["tools"][0]["function"]["name"] == "add"
    assert body["tools"][0]["function"]["strict"] is True
    assert body["tool_choice"] == "required"


def test_call_beats_bind_beats_constructor(fault_server):
    llm = ChatVLLM(
        base_url=fault_server.url,
        top_k=1,
        min_p=0.1,
        chat_template_kwargs={"enable_thinking": False, "deep": {"a": 1, "b": 1}},
        extra_body={"repetition_penalty": 1.1},
    )
    bound = llm.bind(top_k=2, chat_template_kwargs={"deep": {"b": 2}}).bind(seed=7)
    bound.invoke("hi", top_k=3, chat_template_kwargs={"deep": {"c": 3}}, extra_body={"min_tokens": 1})
    body = fault_server.posts(CHAT)[0].json
    assert {k: v for k, v in body.items() if k not in ("messages", "model", "stream")} == {
        "top_k": 3,
        "min_p": 0.1,
        "seed": 7,
        "repetition_penalty": 1.1,
        "min_tokens": 1,
        "chat_template_kwargs": {"enable_thinking": False, "deep": {"a": 1, "b": 2, "c": 3}},
    }


@pytest.mark.parametrize("cls", [ChatVLLM, VLLM])
def test_the_call_beats_what_the_constructor_says_in_extra_body(fault_server, cls):
    llm = cls(base_url=fault_server.url, extra_body={"temperature": 1, "top_k": 5})
    llm.invoke("hi", temperature=0, top_k=1)
    body = fault_server.requests[-1].json
    assert (body["temperature"], body["top_k"]) == (0, 1)


def test_none_takes_back(fault_server):
    ChatVLLM(base_url=fault_server.url, top_k=5, min_p=0.1).invoke("hi", top_k=None)
    body = fault_server.posts(CHAT)[0].json
    assert (body["min_p"], "top_k" in body) == (0.1, False)


def test_zero_and_false_are_sent(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, top_k=0, min_p=0.0, skip_special_tokens=False, temperature=0)
    llm.invoke("hi", priority=0)
    body = fault_server.posts(CHAT)[0].json
    assert (body["top_k"], body["min_p"], body["skip_special_tokens"]) == (0, 0.0, False)
    assert (body["temperature"], body["priority"]) == (0, 0)


@pytest.mark.parametrize("name", ["o1-mini", "gpt-5", "gpt-5.2-pro", "codex"])
def test_served_names_that_remind_of_openai_change_nothing(make_fault_server, name):
    server = make_fault_server(models=(name,))
    ChatVLLM(base_url=server.url, model=name, temperature=0.3).invoke([("system", "be brief"), ("user", "hi")])
    body = server.posts(CHAT)[0].json
    assert (body["temperature"], body["messages"][0]["role"]) == (0.3, "system")


def test_an_old_server_gets_its_own_names(make_fault_server):
    server = make_fault_server(version="0.10.2")
    llm = ChatVLLM(base_url=server.url, max_retries=0)
    llm.invoke("yes", guided_choice=["yes", "no"])
    llm.invoke("yes", structured_outputs={"choice": ["yes", "no"]})
    for request in server.posts(CHAT):
        assert request.json["guided_choice"] == ["yes", "no"]
        assert "structured_outputs" not in request.json


def test_refused_before_sending(llm, fault_server):
    for call in (invoke, stream, ainvoke, astream):
        with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`") as caught:
            call(llm, topk=1)
        assert isinstance(caught.value, lc.ModelInvalidRequestError)
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        ChatVLLM(topk=1)
    with pytest.raises(ValidationError):
        ChatVLLM(top_k="x")
    with pytest.raises(e.InvalidRequest, match="top_k"):
        invoke(llm, top_k="x")
    with pytest.raises(e.UnknownParameter):
        invoke(llm, extra_body={"plugin": 1})
    assert not fault_server.requests
    invoke(llm, extra_body={"plugin": 1}, allow_unknown=True)
    ChatVLLM(base_url=fault_server.url, extra_body={"plugin": 1}, allow_unknown=True).invoke("hi")
    assert [request.json["plugin"] for request in fault_server.posts(CHAT)] == [1, 1]
    assert "allow_unknown" not in fault_server.posts(CHAT)[0].json


def test_reasoning_is_replayed_on_request(fault_server):
    fault_server.reply(faults.chat("six", reasoning="because"))
    for replay in (False, True):
        llm = ChatVLLM(base_url=fault_server.url, replay_reasoning=replay)
        llm.invoke([("user", "why?"), llm.invoke("why?"), ("user", "really?")])
    quiet, replayed = (request.json["messages"][1] for request in fault_server.posts(CHAT)[1::2])
    assert "reasoning" not in quiet
    assert replayed["reasoning"] == "because"
