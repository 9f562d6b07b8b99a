"""VLLM, the text completion model."""

import asyncio
import copy
import pickle

import langchain_core.exceptions as lc
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from version_marks import fingerprint_is_sent

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM
from vllm_adapters.testing import faults, payloads

HELLO = "user:Hello\nassistant:"
CAPITAL = "user:What is the capital of Japan?\nassistant:"
TOKYO = "The capital of Japan is Tokyo."
PATH = "/v1/completions"

recorded = pytest.mark.vllm("tiny")


@pytest.fixture
def llm(vllm_url):
    return VLLM(base_url=vllm_url, max_tokens=40, max_retries=0)


@pytest.fixture
def faulty_llm(fault_server):
    return VLLM(base_url=fault_server.url, model="stub", max_retries=0, timeout=5)


# Parameters


# Stock: temperature 0.7, max_tokens 256, top_p 1, n 1, ... always, over the server's own defaults.
@recorded
def test_only_given_parameters_are_sent(vllm_url, sent):
    assert VLLM(base_url=vllm_url).invoke(CAPITAL) == TOKYO
    assert sent.bodies(PATH) == [{"model": "tiny", "prompt": [CAPITAL]}]


@recorded
def test_parameters_of_every_level(vllm_url, sent):
    llm = VLLM(base_url=vllm_url, top_k=5, min_p=0.1, max_tokens=3, extra_body={"seed": 1})
    llm.bind(top_k=2).invoke(HELLO, max_tokens=2, min_p=None, stop=["."], extra_body={"priority": 0})
    assert sent.bodies(PATH)[-1] == {
        **{"model": "tiny", "prompt": [HELLO], "top_k": 2, "max_tokens": 2},
        **{"stop": ["."], "seed": 1, "priority": 0},
    }


@recorded
@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"topk": 1}, e.UnknownParameter, "Did you mean `top_k`"),
        ({"best_of": 3}, e.UnsupportedParameter, "Use `n`"),
        ({"top_k": "many"}, e.InvalidRequest, "top_k"),
    ],
    ids=["unknown", "unsupported", "invalid"],
)
def test_wrong_parameter_is_rejected(llm, wrong, error, words):
    with pytest.raises(error, match=words):
        llm.invoke(HELLO, **wrong)


def test_unknown_constructor_argument_is_rejected():
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        VLLM(topk=1)


def test_stop_is_sent_by_every_method(fault_server, faulty_llm):
    async def run():
        await faulty_llm.ainvoke("one", stop=["."])
        await faulty_llm.abatch(["one"], stop=["."])
        await faulty_llm.agenerate(["one"], ["."])
        return [piece async for piece in faulty_llm.astream("one", stop=["."])]

    faulty_llm.invoke("one", stop=["."])
    faulty_llm.batch(["one"], stop=["."])
    faulty_llm.generate(["one"], ["."])
    list(faulty_llm.stream("one", stop=["."]))
    asyncio.run(run())
    assert [request.json.get("stop") for request in fault_server.posts()] == [["."]] * 8


def test_older_server_gets_its_own_names(make_fault_server):
    server = make_fault_server(version="0.10.2")
    VLLM(base_url=server.url, model="stub").invoke("one", structured_outputs={"regex": "o.*"})
    assert server.posts()[-1].json["guided_regex"] == "o.*"


# Stock: needs tiktoken, then "Unknown model".
@recorded
def test_max_tokens_of_the_whole_context(vllm_url, sent):
    assert VLLM(base_url=vllm_url, max_tokens=-1).invoke(CAPITAL) == TOKYO
    tokens = VLLMServer(vllm_url).tokenize(CAPITAL)
    assert sent.bodies(PATH)[-1]["max_tokens"] == tokens.max_model_len - tokens.count


def test_whole_context_is_that_of_the_requested_model(make_fault_server):
    server = make_fault_server(models=("one", "two"))
    llm = VLLM(base_url=server.url, model="one", max_tokens=-1)
    llm.invoke("a b", model="two")
    asyncio.run(llm.ainvoke("a b", model="two"))
    list(llm.stream("a b", model="two"))
    assert [request.json["model"] for request in server.posts("/tokenize")] == ["two"] * 3


@recorded
def test_suffix_error_is_the_servers(llm, sent):
    with pytest.raises(e.InvalidRequest, match=r"suffix is (only|not currently) supported"):
        llm.invoke("def f(x):", suffix="return y")
    assert sent.bodies(PATH)[-1]["suffix"] == "return y"


# Completions


# Stock loses prompt_logprobs and stop_reason.
@recorded
@fingerprint_is_sent
def test_many_prompts_in_one_request(llm, sent):
    result = llm.generate([HELLO, CAPITAL], stop=["Tokyo"], prompt_logprobs=1)
    (hello,), (capital,) = result.generations
    assert hello.text.startswith("Hello!")
    assert capital.text == "The capital of Japan is "
    assert capital.generation_info["stop_reason"] == "Tokyo"
    assert capital.generation_info["finish_reason"] == "stop"
    assert len(capital.generation_info["prompt_logprobs"]) > 5
    assert len(sent.bodies(PATH)) == 1
    assert result.llm_output["model_name"] == "tiny"
    assert result.llm_output["system_fingerprint"].startswith("vllm-")
    usage = result.llm_output["token_usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@recorded
def test_batches(vllm_url, sent):
    llm = VLLM(base_url=vllm_url, max_tokens=2, batch_size=2)
    result = llm.generate([HELLO, CAPITAL, HELLO])
    assert [generations[0].text for generations in result.generations] == ["Hello!", "The ", "Hello!"]
    assert [len(body["prompt"]) for body in sent.bodies(PATH)] == [2, 1]
    assert result.llm_output["token_usage"]["completion_tokens"] == 6


@recorded
def test_several_completions(llm):
    result = llm.generate([HELLO, CAPITAL], n=2, temperature=1.0, seed=7, max_tokens=3)
    assert [len(generations) for generations in result.generations] == [2, 2]


@recorded
def test_echo_and_logprobs(llm):
    (generation,) = llm.generate([HELLO], echo=True, logprobs=1, max_tokens=1).generations[0]
    assert generation.text.startswith(HELLO)
    assert generation.generation_info["logprobs"]["tokens"][-1].strip() == "Hello"


def test_too_few_choices_raise(fault_server, faulty_llm):
    one = {"index": 0, "text": "only one", "finish_reason": "stop", "logprobs": None}
    fault_server.reply(faults.json_reply({"object": "text_completion", "choices": [one], "model": "stub"}))
    with pytest.raises(e.InvalidResponse, match="1 results for 2 inputs"):
        faulty_llm.generate(["one", "two"])


def test_choices_are_sorted_by_index(fault_server, faulty_llm):
    def choice(index, text):
        return {"index": index, "text": text, "finish_reason": "stop", "logprobs": None}

    shuffled = {"object": "text_completion", "choices": [choice(1, "second"), choice(0, "first")], "model": "stub"}
    fault_server.reply(faults.json_reply(shuffled))
    result = faulty_llm.generate(["one", "two"])
    assert [generations[0].text for generations in result.generations] == ["first", "second"]


# A server with a reasoning parser enforces no constraint on this route.
@recorded
def test_ignored_constraint_raises(llm):
    with pytest.raises(e.ConstraintNotEnforced, match="use chat"):
        llm.invoke(HELLO, structured_outputs={"choice": ["yes", "no"]})


# Streams


class Recorder(BaseCallbackHandler):
    def __init__(self):
        self.tokens, self.result = [], None

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)

    def on_llm_end(self, response, **kwargs):
        self.result = response


# Stock: no usage in a stream.
@recorded
def test_stream(llm, sent):
    recorder = Recorder()
    pieces = list(llm.stream(CAPITAL, config={"callbacks": [recorder]}, logprobs=1))
    assert "".join(pieces) == TOKYO
    assert recorder.tokens == pieces
    (generation,) = recorder.result.generations[0]
    assert generation.generation_info["finish_reason"] == "stop"
    assert generation.generation_info["token_usage"]["completion_tokens"] >= len(pieces) - 1
    assert len(generation.generation_info["logprobs"]["tokens"]) >= 5
    assert sent.last.json["stream_options"] == {"include_usage": True}


@recorded
async def test_async(llm):
    assert await llm.ainvoke(CAPITAL) == TOKYO
    assert "".join([piece async for piece in llm.astream(CAPITAL)]) == TOKYO


@recorded
@pytest.mark.parametrize("life", ["sync", "async"])
async def test_generate_with_streaming(vllm_url, life):
    llm = VLLM(base_url=vllm_url, streaming=True)
    result = llm.generate([CAPITAL, HELLO]) if life == "sync" else await llm.agenerate([CAPITAL, HELLO])
    assert result.generations[0][0].text == TOKYO
    assert result.llm_output["token_usage"]["prompt_tokens"] > 10


def test_streaming_several_completions_raises(faulty_llm, fault_server):
    with pytest.raises(e.InvalidRequest, match="`n` must be 1"):
        list(faulty_llm.stream(HELLO, n=2))
    assert not fault_server.posts()


# Stock: the truncated text, as if it were complete.
@pytest.mark.parametrize("run", ["invoke", "ainvoke", "stream", "astream"])
def test_truncated_stream_raises(fault_server, run):
    llm = VLLM(base_url=fault_server.url, model="stub", max_retries=0, streaming="invoke" in run)
    fault_server.reply(faults.sse(*payloads.completion_chunks("one two three", finish_reason=None), end="clean"))

    async def drain():
        return [piece async for piece in llm.astream("one")]

    runs = {
        "invoke": lambda: llm.invoke("one"),
        "ainvoke": lambda: asyncio.run(llm.ainvoke("one")),
        "stream": lambda: list(llm.stream("one")),
        "astream": lambda: asyncio.run(drain()),
    }
    with pytest.raises(lc.ModelConnectionError) as caught:
        runs[run]()
    assert isinstance(caught.value, e.IncompleteStream)
    assert caught.value.partial == "one two three"


def test_break_closes_the_connection(faulty_llm, fault_server):
    fault_server.reply(faults.sse(*payloads.completion_chunks("word " * 400), pause=0.05))
    for _ in faulty_llm.stream("x"):
        break
    assert fault_server.wait_for(lambda: fault_server.posts()[0].disconnected_at is not None, timeout=5)


# As an object


# Stock: the second call gets the completion of the first, as LangChain's key has no call parameters.
@recorded
def test_cache_distinguishes_parameters_of_calls(vllm_url, sent):
    llm = VLLM(base_url=vllm_url, cache=InMemoryCache())
    assert llm.invoke(CAPITAL, max_tokens=1) == "The"
    assert llm.invoke(CAPITAL, max_tokens=20) == TOKYO
    assert llm.bind(max_tokens=1).invoke(CAPITAL) == "The"
    assert len(sent.bodies(PATH)) == 2


@recorded
def test_token_counts(llm, sent):
    assert llm.get_num_tokens("Hello there") == len(llm.get_token_ids("Hello there")) > 0
    assert len(sent.bodies("/tokenize")) == 1


@recorded
def test_copies_and_pickles(vllm_url):
    llm = VLLM(base_url=vllm_url, api_key="sk-canary", default_headers={"x-secret": "canary"}, max_tokens=2)
    packed = pickle.dumps(llm)
    assert b"canary" not in packed
    assert "canary" not in repr(llm) + str(llm) + llm.model_dump_json()
    assert pickle.loads(packed).invoke(HELLO) == copy.deepcopy(llm).invoke(HELLO) == "Hello!"


@recorded
def test_another_model_of_a_shared_server(vllm_url, sent):
    server = VLLMServer(vllm_url, model="tiny")
    assert VLLM(server=server, max_tokens=2).invoke(HELLO) == "Hello!"
    with pytest.raises(e.ModelNotServed, match="It serves: tiny"):
        VLLM(server=server, model="other").invoke(HELLO)
    assert [body["model"] for body in sent.bodies(PATH)] == ["tiny", "other"]


# Stock: a bare KeyError; streamed, four empty texts.
@pytest.mark.parametrize("run", ["invoke", "stream"])
def test_reply_in_the_shape_of_chat_raises(faulty_llm, fault_server, run):
    chunks = payloads.chat_chunks("one two")
    fault_server.reply(faults.sse(*chunks) if run == "stream" else faults.json_reply(payloads.chat("one two")))
    with pytest.raises(e.InvalidResponse) as caught:
        list(getattr(faulty_llm, run)("x"))
    assert isinstance(caught.value, lc.ModelAPIError)


def test_bound_parameters_merge(faulty_llm, fault_server):
    bound = faulty_llm.bind(top_k=1, vllm_xargs={"a": 1}).bind(vllm_xargs={"b": 2})
    bound.invoke("x", vllm_xargs={"c": 3})
    list(bound.stream("x"))
    first, second = (request.json for request in fault_server.posts())
    assert (first["top_k"], first["vllm_xargs"]) == (1, {"a": 1, "b": 2, "c": 3})
    assert (second["top_k"], second["vllm_xargs"]) == (1, {"a": 1, "b": 2})
