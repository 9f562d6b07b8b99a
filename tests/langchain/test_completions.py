"""VLLM, the text completion model, on a real vLLM."""

import copy
import pickle

import pytest

pytest.importorskip("langchain_openai")

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM

pytestmark = pytest.mark.vllm("tiny")

HELLO = "user:Hello\nassistant:"
CAPITAL = "user:What is the capital of Japan?\nassistant:"
PATH = "/v1/completions"


@pytest.fixture
def llm(vllm_url):
    return VLLM(base_url=vllm_url, max_tokens=40, max_retries=0)


def test_only_what_is_given_is_sent(vllm_url, sent):
    # Stock: temperature 0.7, max_tokens 256, top_p 1, n 1, ... always, over the server's own defaults.
    assert VLLM(base_url=vllm_url).invoke(CAPITAL) == "The capital of Japan is Tokyo."
    assert sent.bodies(PATH) == [{"model": "tiny", "prompt": [CAPITAL]}]


def test_parameters_of_three_levels(vllm_url, sent):
    llm = VLLM(base_url=vllm_url, top_k=5, min_p=0.1, max_tokens=3, extra_body={"seed": 1})
    llm.bind(top_k=2).invoke(HELLO, max_tokens=2, min_p=None, stop=["."], extra_body={"priority": 0})
    assert sent.bodies(PATH)[-1] == {
        **{"model": "tiny", "prompt": [HELLO], "top_k": 2, "max_tokens": 2},
        **{"stop": ["."], "seed": 1, "priority": 0},
    }


def test_many_prompts_in_one_request(llm, sent):
    # Stock loses prompt_logprobs and stop_reason.
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


def test_batches(vllm_url, sent):
    llm = VLLM(base_url=vllm_url, max_tokens=2, batch_size=2)
    result = llm.generate([HELLO, CAPITAL, HELLO])
    assert [generations[0].text for generations in result.generations] == ["Hello!", "The ", "Hello!"]
    assert [len(body["prompt"]) for body in sent.bodies(PATH)] == [2, 1]
    assert result.llm_output["token_usage"]["completion_tokens"] == 6


def test_several_completions(llm):
    result = llm.generate([HELLO, CAPITAL], n=2, temperature=1.0, seed=7, max_tokens=3)
    assert [len(generations) for generations in result.generations] == [2, 2]


def test_echo_and_logprobs(llm):
    (generation,) = llm.generate([HELLO], echo=True, logprobs=1, max_tokens=1).generations[0]
    assert generation.text.startswith(HELLO)
    assert generation.generation_info["logprobs"]["tokens"][-1].strip() == "Hello"


def test_a_suffix_is_refused_with_the_servers_words(llm, sent):
    with pytest.raises(e.InvalidRequest, match="suffix is only supported"):
        llm.invoke("def f(x):", suffix="return y")
    assert sent.bodies(PATH)[-1]["suffix"] == "return y"


def test_all_the_room_there_is(vllm_url, sent):
    # Stock: needs tiktoken, then "Unknown model".
    llm = VLLM(base_url=vllm_url, max_tokens=-1)
    assert llm.invoke(CAPITAL) == "The capital of Japan is Tokyo."
    room = VLLMServer(vllm_url).tokenize(CAPITAL)
    assert sent.bodies(PATH)[-1]["max_tokens"] == room.max_model_len - room.count


class Heard(BaseCallbackHandler):
    def __init__(self):
        self.tokens, self.result = [], None

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)

    def on_llm_end(self, response, **kwargs):
        self.result = response


def test_stream(llm, sent):
    # Stock: no usage in a stream.
    heard = Heard()
    pieces = list(llm.stream(CAPITAL, config={"callbacks": [heard]}, logprobs=1))
    assert "".join(pieces) == "The capital of Japan is Tokyo."
    assert heard.tokens == pieces
    (generation,) = heard.result.generations[0]
    assert generation.generation_info["finish_reason"] == "stop"
    assert generation.generation_info["token_usage"]["completion_tokens"] >= len(pieces) - 1
    assert len(generation.generation_info["logprobs"]["tokens"]) >= 5
    assert sent.last.json["stream_options"] == {"include_usage": True}


async def test_async(llm):
    assert await llm.ainvoke(CAPITAL) == "The capital of Japan is Tokyo."
    assert "".join([piece async for piece in llm.astream(CAPITAL)]) == "The capital of Japan is Tokyo."


@pytest.mark.parametrize("life", ["sync", "async"])
async def test_streaming_for_whoever_only_invokes(vllm_url, life):
    llm = VLLM(base_url=vllm_url, streaming=True)
    result = llm.generate([CAPITAL, HELLO]) if life == "sync" else await llm.agenerate([CAPITAL, HELLO])
    assert result.generations[0][0].text == "The capital of Japan is Tokyo."
    assert result.llm_output["token_usage"]["prompt_tokens"] > 10


def test_one_stream_is_one_text(llm):
    with pytest.raises(e.InvalidRequest, match=r"n must be 1.*without streaming"):
        list(llm.stream(HELLO, n=2))


def test_the_cache_tells_calls_apart(vllm_url, sent):
    # Stock: the second call gets the answer of the first, LangChain's key has no call parameters.
    llm = VLLM(base_url=vllm_url, cache=InMemoryCache())
    assert llm.invoke(CAPITAL, max_tokens=1) == "The"
    assert llm.invoke(CAPITAL, max_tokens=20) == "The capital of Japan is Tokyo."
    assert llm.bind(max_tokens=1).invoke(CAPITAL) == "The"
    assert len(sent.bodies(PATH)) == 2


def test_an_ignored_constraint_is_no_answer(llm):
    # A server with a reasoning parser enforces none on this route.
    with pytest.raises(e.ConstraintNotEnforced, match="use chat"):
        llm.invoke(HELLO, structured_outputs={"choice": ["yes", "no"]})


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"topk": 1}, e.UnknownParameter, "Did you mean `top_k`"),
        ({"best_of": 3}, e.UnsupportedParameter, "Use n"),
        ({"top_k": "many"}, e.InvalidRequest, "top_k"),
    ],
)
def test_what_is_refused(vllm_url, llm, wrong, error, words):
    with pytest.raises(error, match=words):
        llm.invoke(HELLO, **wrong)


def test_an_unknown_constructor_argument():
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        VLLM(topk=1)


def test_token_counts(llm, sent):
    assert llm.get_num_tokens("Hello there") == len(llm.get_token_ids("Hello there")) > 0
    assert len(sent.bodies("/tokenize")) == 1


def test_travels_without_the_key(vllm_url):
    llm = VLLM(base_url=vllm_url, api_key="sk-canary", default_headers={"x-secret": "canary"}, max_tokens=2)
    dump = pickle.dumps(llm)
    assert b"canary" not in dump
    assert "canary" not in repr(llm) + str(llm) + llm.model_dump_json()
    assert pickle.loads(dump).invoke(HELLO) == copy.deepcopy(llm).invoke(HELLO) == "Hello!"


def test_another_model_of_a_shared_server(vllm_url, sent):
    server = VLLMServer(vllm_url, model="tiny")
    assert VLLM(server=server, max_tokens=2).invoke(HELLO) == "Hello!"
    with pytest.raises(e.ModelNotServed, match="It serves: tiny"):
        VLLM(server=server, model="other").invoke(HELLO)
    assert [body["model"] for body in sent.bodies(PATH)] == ["tiny", "other"]
