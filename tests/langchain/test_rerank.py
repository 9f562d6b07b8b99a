"""VLLMRerank."""

import copy
import pickle

import pytest
from langchain_core.documents import Document

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLMRerank

PATH = "/v1/rerank"
QUERY = "Where is Rome?"
TEXTS = ["Water is wet.", "Rome is in Italy.", "The sea is blue."]

recorded = pytest.mark.vllm("cross-encoder")


@pytest.fixture
def documents():
    return [Document(text, id=f"doc-{n}", metadata={"n": n}) for n, text in enumerate(TEXTS)]


@recorded
@pytest.mark.parametrize("life", ["sync", "async"])
async def test_order_and_scores(vllm_url, sent, documents, life):
    rerank = VLLMRerank(base_url=vllm_url, truncate_prompt_tokens=-1)
    if life == "sync":
        ranked = rerank.compress_documents(documents, QUERY)
    else:
        ranked = await rerank.acompress_documents(documents, QUERY)
    right = VLLMServer(vllm_url).rerank(QUERY, TEXTS)
    assert [(d.metadata["n"], d.metadata["relevance_score"]) for d in ranked] == [
        (r.index, pytest.approx(r.score, abs=1e-4)) for r in right
    ]
    assert ranked[0].id == f"doc-{ranked[0].metadata['n']}"
    assert [d.metadata for d in documents] == [{"n": 0}, {"n": 1}, {"n": 2}], "the caller's documents are unchanged"
    assert sent.bodies(PATH)[0] == {
        "model": "cross-encoder",
        "query": QUERY,
        "documents": TEXTS,
        "truncate_prompt_tokens": -1,
    }


@recorded
def test_top_n(vllm_url, sent, documents):
    assert len(VLLMRerank(base_url=vllm_url, top_n=2).compress_documents(documents, QUERY)) == 2
    assert sent.last.json["top_n"] == 2


@pytest.mark.vllm_since("0.22", before=e.UnsupportedParameter)
@recorded
def test_instruction_is_sent(vllm_url, sent, documents):
    assert VLLMRerank(base_url=vllm_url, instruction="Towns").compress_documents(documents, QUERY)
    assert sent.last.json["instruction"] == "Towns"


@pytest.mark.vllm("minilm")
def test_embedding_models_rank_as_well(vllm_url, documents):
    best = VLLMRerank(base_url=vllm_url, top_n=1).compress_documents(documents, QUERY)
    assert best[0].page_content == "Rome is in Italy."


@recorded
def test_too_long_document_raises(vllm_url):
    with pytest.raises(e.ContextLengthExceeded, match="truncate_prompt_tokens=-1"):
        VLLMRerank(base_url=vllm_url).compress_documents([Document("word " * 3000)], QUERY)


@pytest.mark.vllm("tiny")
def test_chat_server_has_no_rerank_route(vllm_url, documents):
    with pytest.raises(e.WrongAddress, match=r"has /v1/chat/completions|does not support Rerank"):
        VLLMRerank(base_url=vllm_url, model="tiny").compress_documents(documents, QUERY)


async def test_no_documents():
    rerank = VLLMRerank(base_url="http://localhost:9")
    assert rerank.compress_documents([], QUERY) == await rerank.acompress_documents([], QUERY) == []


@recorded
def test_copies_and_pickles(vllm_url, documents):
    rerank = VLLMRerank(base_url=vllm_url, api_key="canary", default_headers={"x": "canary"}, top_n=1)
    packed = pickle.dumps(rerank)
    assert b"canary" not in packed
    assert "canary" not in repr(rerank) + str(rerank) + rerank.model_dump_json()
    for other in (pickle.loads(packed), copy.deepcopy(rerank)):
        assert len(other.compress_documents(documents, QUERY)) == 1


def test_unknown_argument_is_rejected():
    with pytest.raises(e.UnknownParameter, match="top_n"):
        VLLMRerank(topn=1)
