"""Any number of texts: every vector with its text, every failure with its position."""

import asyncio

import numpy as np
import pytest

from vllm_adapters import VLLMServer
from vllm_adapters.embedder import Embedder
from vllm_adapters.errors import ContextLengthExceeded

TEXTS = [f"text number {n}" for n in range(7)]
TOO_LONG = "word " * 400


@pytest.fixture(params=["sync", "async"])
def embed(request):
    def run(embedder, texts, **how):
        if request.param == "sync":
            return embedder.embed(texts, **how)
        return asyncio.run(embedder.aembed(texts, **how))

    return run


@pytest.mark.vllm("minilm")
def test_batches_in_order(vllm_url, sent, embed):
    server = VLLMServer(vllm_url)
    found = embed(Embedder(server, batch_size=3, parameters={"truncate_prompt_tokens": -1}), TEXTS)
    asked = sent.bodies("/v1/embeddings")
    assert sorted(body["input"] for body in asked) == [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    assert all((body["encoding_format"], body["truncate_prompt_tokens"]) == ("base64", -1) for body in asked)
    one_by_one = np.vstack([server.embed(text, truncate_prompt_tokens=-1) for text in TEXTS])
    assert found.vectors.shape == (7, 384)
    np.testing.assert_allclose(found.vectors, one_by_one, atol=1e-5)
    assert found.prompt_tokens == sum(server.count_tokens(text) for text in TEXTS)
    assert not found.failures


@pytest.mark.vllm("minilm")
def test_a_text_that_is_refused_does_not_take_its_batch_with_it(vllm_url, embed):
    texts = [*TEXTS[:4], TOO_LONG, *TEXTS[4:], TOO_LONG]
    embedder = Embedder(VLLMServer(vllm_url), batch_size=6)
    found = embed(embedder, texts, keep_going=True)
    assert list(found.failures) == [4, 8]
    assert isinstance(found.failures[4], ContextLengthExceeded)
    assert np.isnan(found.vectors[[4, 8]]).all()
    right = embed(embedder, TEXTS).vectors
    np.testing.assert_allclose(found.vectors[[0, 1, 2, 3, 5, 6, 7]], right, atol=1e-5)


@pytest.mark.vllm("minilm")
def test_a_text_that_is_refused_raises(vllm_url, embed):
    with pytest.raises(ContextLengthExceeded, match="truncate_prompt_tokens=-1"):
        embed(Embedder(VLLMServer(vllm_url)), ["short", TOO_LONG])


def test_no_texts(embed):
    found = embed(Embedder(VLLMServer("http://localhost:9")), [])
    assert found.vectors.shape == (0, 0)
    assert found.prompt_tokens == 0


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_concurrency": 0}])
def test_senseless_options(options):
    with pytest.raises(ValueError, match="at least 1"):
        Embedder(VLLMServer("http://localhost:9"), **options)


def test_one_str_is_not_a_list_of_texts(embed):
    with pytest.raises(TypeError, match="sequence of str"):
        embed(Embedder(VLLMServer("http://localhost:9")), "one")
