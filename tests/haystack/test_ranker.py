"""VLLMRanker on a real vLLM."""

import asyncio

import pytest

pytest.importorskip("haystack")

from haystack import Document

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMRanker

pytestmark = pytest.mark.vllm("cross-encoder")

QUESTION = "What is the capital of Japan?"
TEXTS = ["Bread is baked from flour.", "Tokyo is the capital city of Japan.", "The train was late again."]
TOO_LONG = "word " * 1000


@pytest.fixture(params=[False, True], ids=["run", "run_async"])
def out(request):
    def run(component, *args, **inputs):
        if request.param:
            return asyncio.run(component.run_async(*args, **inputs))
        return component.run(*args, **inputs)

    return run


@pytest.fixture
def documents():
    return [Document(content=text) for text in TEXTS]


def test_a_ranking(out, documents, sent):
    found = out(VLLMRanker(max_retries=0), QUESTION, documents)
    assert sent.last.json == {"model": "cross-encoder", "query": QUESTION, "documents": TEXTS}
    ranked = found["documents"]
    assert ranked[0].content == TEXTS[1]
    assert [document.score for document in ranked] == sorted((d.score for d in ranked), reverse=True)
    assert all(document.score is None for document in documents)
    assert (found["meta"]["model"], found["meta"]["usage"]["total_tokens"] > 0) == ("cross-encoder", True)


def test_top_k_and_threshold(out, documents, sent):
    ranker = VLLMRanker(max_retries=0, top_k=2)
    first, second = out(ranker, QUESTION, documents)["documents"]
    assert sent.last.json["top_n"] == 2
    least = (first.score + second.score) / 2
    assert [d.id for d in out(ranker, QUESTION, documents, score_threshold=least)["documents"]] == [first.id]
    assert len(out(ranker, QUESTION, documents, top_k=3)["documents"]) == 3


def test_documents_that_are_too_long(out, documents):
    many = [*documents, Document(content=TOO_LONG)]
    with pytest.raises(e.ContextLengthExceeded):
        out(VLLMRanker(max_retries=0), QUESTION, many)
    cut = VLLMRanker(max_retries=0, extra_parameters={"truncate_prompt_tokens": -1})
    assert out(cut, QUESTION, many)["documents"][0].content == TEXTS[1]


def test_a_model_that_is_not_served(out, documents):
    with pytest.raises(e.ModelNotServed, match="It serves: cross-encoder"):
        out(VLLMRanker(model="nope", max_retries=0), QUESTION, documents)


@pytest.mark.vllm("tiny")
def test_a_server_that_cannot_rank(out, documents):
    # vllm-haystack raises RuntimeError("Not Found").
    with pytest.raises(e.WrongAddress, match="/v1/chat/completions"):
        out(VLLMRanker(max_retries=0), QUESTION, documents)
