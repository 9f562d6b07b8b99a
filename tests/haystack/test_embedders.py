"""VLLMTextEmbedder and VLLMDocumentEmbedder on a real vLLM."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("haystack")

from haystack import Document

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMDocumentEmbedder, VLLMTextEmbedder

pytestmark = pytest.mark.vllm("minilm")

TEXTS = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The central bank raised interest rates."]
TOO_LONG = "word " * 400


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


def test_a_text(out, vllm_url, sent):
    found = out(VLLMTextEmbedder(max_retries=0, prefix="query: "), TEXTS[0])
    assert sent.last.json == {"model": "minilm", "input": ["query: " + TEXTS[0]], "encoding_format": "base64"}
    assert found["meta"]["model"] == "minilm"
    assert found["meta"]["usage"]["prompt_tokens"] == found["meta"]["usage"]["total_tokens"] > 0
    assert all(isinstance(number, float) for number in found["embedding"])
    np.testing.assert_allclose(found["embedding"], VLLMServer(vllm_url).embed("query: " + TEXTS[0])[0], atol=1e-6)


def test_documents(out, documents, vllm_url, sent):
    embedder = VLLMDocumentEmbedder(max_retries=0, batch_size=2, progress_bar=False)
    found = out(embedder, documents)
    assert sorted(len(body["input"]) for body in sent.bodies("/v1/embeddings")) == [1, 2]
    assert [document.content for document in found["documents"]] == TEXTS
    assert all(document.embedding is None for document in documents)
    vectors = np.array([document.embedding for document in found["documents"]])
    np.testing.assert_allclose(vectors, VLLMServer(vllm_url).embed(TEXTS), atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert "failures" not in found["meta"]


def test_a_document_that_is_too_long_fails_alone(out, documents):
    embedder = VLLMDocumentEmbedder(max_retries=0, progress_bar=False)
    found = out(embedder, [documents[0], Document(content=TOO_LONG), documents[1]])
    assert [len(document.embedding or []) for document in found["documents"]] == [384, 0, 384]
    (failure,) = found["meta"]["failures"]
    assert failure["index"] == 1
    assert "maximum context length is 256" in failure["error"]


def test_texts_that_are_too_long(out):
    with pytest.raises(e.ContextLengthExceeded, match="truncate_prompt_tokens"):
        out(VLLMTextEmbedder(max_retries=0), TOO_LONG)
    with pytest.raises(e.ContextLengthExceeded):
        out(
            VLLMDocumentEmbedder(max_retries=0, progress_bar=False, raise_on_failure=True),
            [Document(content=TOO_LONG)],
        )


def test_nothing_but_documents_that_are_too_long(out):
    found = out(VLLMDocumentEmbedder(max_retries=0, progress_bar=False), [Document(content=TOO_LONG)])
    assert found["documents"][0].embedding is None
    assert [failure["index"] for failure in found["meta"]["failures"]] == [0]


def test_truncation(out):
    cut = {"extra_parameters": {"truncate_prompt_tokens": -1}, "max_retries": 0}
    text = out(VLLMTextEmbedder(**cut), TOO_LONG)
    assert text["meta"]["usage"]["prompt_tokens"] == 256
    (document,) = out(VLLMDocumentEmbedder(**cut, progress_bar=False), [Document(content=TOO_LONG)])["documents"]
    np.testing.assert_allclose(document.embedding, text["embedding"], atol=1e-5)


def test_a_model_that_is_not_served(out, documents):
    embedder = VLLMDocumentEmbedder(model="nope", max_retries=0, progress_bar=False)
    with pytest.raises(e.ModelNotServed, match="It serves: minilm"):
        out(embedder, documents)
