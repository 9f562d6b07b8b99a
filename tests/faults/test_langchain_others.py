"""VLLM, VLLMEmbeddings and VLLMRerank against a server that fails as it is told to, sync and async."""

import asyncio

import pytest

pytest.importorskip("langchain_openai")

import langchain_core.exceptions as lc
from langchain_core.documents import Document

from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM, VLLMEmbeddings, VLLMRerank
from vllm_adapters.testing import faults, payloads

DOCUMENTS = [Document(text) for text in ("one", "two", "three")]


def complete(**options):
    return VLLM(**options).invoke("one two")


def acomplete(**options):
    return asyncio.run(VLLM(**options).ainvoke("one two"))


def stream(**options):
    return "".join(VLLM(**options).stream("one two"))


def astream(**options):
    async def run():
        return "".join([piece async for piece in VLLM(**options).astream("one two")])

    return asyncio.run(run())


def embed(**options):
    return VLLMEmbeddings(**options).embed_documents(["one", "two", "three"])


def aembed(**options):
    return asyncio.run(VLLMEmbeddings(**options).aembed_documents(["one", "two", "three"]))


def rerank(**options):
    return VLLMRerank(**options).compress_documents(DOCUMENTS, "two")


def arerank(**options):
    return asyncio.run(VLLMRerank(**options).acompress_documents(DOCUMENTS, "two"))


WAYS = [complete, acomplete, stream, astream, embed, aembed, rerank, arerank]
every_way = pytest.mark.parametrize("call", WAYS, ids=lambda f: f.__name__)


def ask(call, server, **options):
    return call(base_url=server.url, model="stub", timeout=5, **{"max_retries": 0, **options})


@every_way
@pytest.mark.parametrize(
    ("behaviour", "ours", "theirs"),
    [
        (faults.error(401, "Unauthorized", shape="string"), e.AuthenticationFailed, lc.ModelAuthenticationError),
        (faults.error(404, "Not Found", shape="detail"), e.WrongAddress, lc.ModelNotFoundError),
        (
            faults.error(400, "This model's maximum context length is 10 tokens.", param="input_tokens"),
            e.ContextLengthExceeded,
            lc.ContextOverflowError,
        ),
        (faults.error(500), e.ServerFailed, lc.ModelAPIError),
        (faults.hang_up(), e.ServerUnreachable, lc.ModelConnectionError),
        (faults.html(), e.InvalidResponse, lc.ModelAPIError),
        (faults.truncate(faults.json_reply({"choices": [], "data": [], "results": []}), after=9), e.VLLMError, None),
    ],
)
def test_failures_are_langchains_errors_too(fault_server, call, behaviour, ours, theirs):
    # Stock: bare openai errors from completions and embeddings.
    fault_server.reply(behaviour)
    with pytest.raises(ours) as caught:
        ask(call, fault_server)
    assert theirs is None or isinstance(caught.value, theirs)


@every_way
def test_retries_of_one_layer(fault_server, call):
    fault_server.reply(faults.error(500))
    with pytest.raises(e.ServerFailed):
        ask(call, fault_server, max_retries=2)
    assert len(fault_server.posts()) == 3


@every_way
def test_nothing_of_openai_is_read(fault_server, call, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("OPENAI_API_BASE", "http://canary.example")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://canary.example")
    monkeypatch.setenv("OPENAI_ORG_ID", "canary")
    monkeypatch.setenv("OPENAI_PROXY", "http://canary.example")
    ask(call, fault_server)
    (post,) = fault_server.posts()
    assert "canary" not in repr((post.path, dict(post.headers), post.body))


@every_way
def test_one_loop_after_the_other(fault_server, call):
    for _ in range(3):
        ask(call, fault_server)
    assert len(fault_server.posts()) == 3


@pytest.mark.parametrize("call", [stream, astream], ids=lambda f: f.__name__)
def test_a_cut_stream(fault_server, call):
    # Stock: the cut text, as if it were whole.
    fault_server.reply(faults.sse(*payloads.completion_chunks("one two three", finish_reason=None), end="clean"))
    with pytest.raises(lc.ModelConnectionError) as caught:
        ask(call, fault_server)
    assert isinstance(caught.value, e.IncompleteStream)
    assert caught.value.partial == "one two three"


@pytest.mark.parametrize("call", [complete, acomplete], ids=lambda f: f.__name__)
def test_a_stream_that_invoke_collects_is_whole_or_raises(fault_server, call):
    fault_server.reply(faults.sse(*payloads.completion_chunks("one two three", finish_reason=None), end="clean"))
    with pytest.raises(e.IncompleteStream):
        ask(call, fault_server, streaming=True)


def test_stops_of_a_call_are_sent_by_every_way_of_asking(fault_server):
    llm = VLLM(base_url=fault_server.url, model="stub")

    async def run():
        await llm.ainvoke("one", stop=["."])
        await llm.abatch(["one"], stop=["."])
        await llm.agenerate(["one"], ["."])
        return [piece async for piece in llm.astream("one", stop=["."])]

    llm.invoke("one", stop=["."])
    llm.batch(["one"], stop=["."])
    llm.generate(["one"], ["."])
    list(llm.stream("one", stop=["."]))
    asyncio.run(run())
    assert [request.json.get("stop") for request in fault_server.posts()] == [["."]] * 8


def test_choices_that_do_not_fit_the_prompts(fault_server):
    one = {"index": 0, "text": "only one", "finish_reason": "stop", "logprobs": None}
    fault_server.reply(faults.json_reply({"object": "text_completion", "choices": [one], "model": "stub"}))
    llm = VLLM(base_url=fault_server.url, model="stub", max_retries=0)
    with pytest.raises(e.InvalidResponse, match="1 results for 2 inputs"):
        llm.generate(["one", "two"])


def test_choices_out_of_order(fault_server):
    def choice(index, text):
        return {"index": index, "text": text, "finish_reason": "stop", "logprobs": None}

    shuffled = {"object": "text_completion", "choices": [choice(1, "second"), choice(0, "first")], "model": "stub"}
    fault_server.reply(faults.json_reply(shuffled))
    result = VLLM(base_url=fault_server.url, model="stub").generate(["one", "two"])
    assert [generations[0].text for generations in result.generations] == ["first", "second"]


@pytest.mark.parametrize("fault", ["missing", "extra", "nan", "dims", "null"])
@pytest.mark.parametrize("call", [embed, aembed], ids=lambda f: f.__name__)
def test_wrong_vectors(fault_server, call, fault):
    fault_server.reply(faults.wrong_embeddings(fault))
    with pytest.raises(e.InvalidResponse):
        ask(call, fault_server)


@pytest.mark.parametrize("call", [embed, aembed], ids=lambda f: f.__name__)
def test_shuffled_vectors_find_their_texts(fault_server, call):
    # Stock: each text gets another's vector.
    right = ask(call, fault_server)
    fault_server.reply(faults.wrong_embeddings("shuffled"))
    assert ask(call, fault_server) == right


@pytest.mark.parametrize("fault", ["short", "bad-index", "negative-index", "duplicate", "nan"])
@pytest.mark.parametrize("call", [rerank, arerank], ids=lambda f: f.__name__)
def test_wrong_rankings(fault_server, call, fault):
    fault_server.reply(faults.wrong_rerank(fault))
    with pytest.raises(e.InvalidResponse):
        ask(call, fault_server)


def test_an_old_server_gets_its_own_dialect(make_fault_server):
    old = make_fault_server(version="0.10.2")
    VLLM(base_url=old.url, model="stub").invoke("one", structured_outputs={"regex": "o.*"})
    assert old.posts()[-1].json["guided_regex"] == "o.*"
    with pytest.raises(e.UnsupportedParameter, match=r"0\.10\.2.*cache_salt"):
        VLLMEmbeddings(base_url=old.url, model="stub", cache_salt="pepper").embed_query("one")
