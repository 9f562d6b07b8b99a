"""Every vector and score belongs to its text: counts, indices, dimensions and values are checked."""

import pytest

from vllm_adapters import VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads

TEXTS = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("fault", "by_server", "by_client"),
    [
        ("missing", "2 results for 3 inputs", "2 results for 3 inputs"),
        ("extra", "4 results for 3 inputs", "4 results for 3 inputs"),
        ("nan", "NaN or infinity", "NaN or infinity"),
        ("dims", "vectors of different dimensions", "different lengths: 40, 44"),
        ("null", "missing or malformed", "different lengths: 0, 44"),
    ],
)
def test_wrong_embeddings_raise(fault_server, fault, by_server, by_client):
    fault_server.reply(faults.wrong_embeddings(fault))
    with pytest.raises(e.InvalidResponse, match=by_server):
        VLLMServer(fault_server.url, max_retries=0).embed(TEXTS)
    with pytest.raises(e.InvalidResponse, match=by_client):
        VLLMClient(fault_server.url, max_retries=0).embeddings.create(model="stub", input=TEXTS)


def test_shuffled_embeddings_are_put_in_order(fault_server):
    server = VLLMServer(fault_server.url, max_retries=0)
    right = server.embed(TEXTS)
    fault_server.reply(faults.wrong_embeddings("shuffled"))
    assert (server.embed(TEXTS) == right).all()
    response = server.client.embeddings.create(model="stub", input=TEXTS)
    assert [item.embedding for item in response.data] == right.tolist()


@pytest.mark.parametrize("encoded", [payloads.base64_vector, list], ids=["base64", "floats"])
def test_ignored_dimensions_raise(fault_server, encoded):
    fault_server.reply(faults.json_reply(payloads.embeddings([encoded(payloads.vector("a", 8))])))
    server = VLLMServer(fault_server.url, model="stub", max_retries=0)
    with pytest.raises(e.InvalidResponse, match="have 8 dimensions, not the requested 4"):
        server.embed("a", dimensions=4)
    with pytest.raises(e.InvalidResponse, match="have 8 dimensions, not the requested 4"):
        server.client.embeddings.create(model="stub", input="a", dimensions=4)


# With the SDK alone, float16 or big-endian vectors are decoded as float32: wrong numbers, without an error.
@pytest.mark.parametrize("parameter", [{"embed_dtype": "float16"}, {"endianness": "big"}])
def test_vectors_of_another_type_are_requested_as_numbers(fault_server, parameter):
    def embed(client, **request):
        response = client.embeddings.create(model="stub", input=["a", "b"], **request)
        return [item.embedding for item in response.data]

    with VLLMClient(fault_server.url, max_retries=0) as client:
        assert embed(client, extra_body=parameter) == [payloads.vector("a"), payloads.vector("b")]
        assert fault_server.posts("/v1/embeddings")[-1].json["encoding_format"] == "float"
        embed(client, encoding_format="base64", extra_body=parameter)
        assert fault_server.posts("/v1/embeddings")[-1].json["encoding_format"] == "base64"
        embed(client)
        assert fault_server.posts("/v1/embeddings")[-1].json["encoding_format"] == "base64"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("short", "2 different documents in 2 results, not 3"),
        ("bad-index", "index is out of range for 3 documents"),
        ("negative-index", "index is out of range for 3 documents"),
        ("duplicate", "2 different documents in 3 results, not 3"),
        ("nan", "A score is nan"),
    ],
)
def test_wrong_rankings_raise(fault_server, fault, text):
    fault_server.reply(faults.wrong_rerank(fault))
    with pytest.raises(e.InvalidResponse, match=text):
        VLLMServer(fault_server.url, max_retries=0).rerank("q", TEXTS)


def test_fractional_indices_raise(fault_server):
    results = [{"index": at + 0.9, "relevance_score": 0.5} for at in range(3)]
    fault_server.reply(faults.json_reply({"id": "r", "results": results}))
    with pytest.raises(e.InvalidResponse, match=r"missing or malformed.*float"):
        VLLMServer(fault_server.url, max_retries=0).rerank("q", TEXTS)


@pytest.mark.parametrize(
    ("path", "body", "call", "text"),
    [
        ("/pooling", {"data": [{"index": 0, "data": [float("nan")]}]}, "pooling", "An output is empty or contains NaN"),
        ("/pooling", {"data": [{"index": 0, "data": []}]}, "pooling", "An output is empty or contains NaN"),
        ("/classify", {"data": [{"index": 0, "label": "a", "probs": []}]}, "classify", "not a classification"),
        ("/classify", {"data": [{"index": 0, "label": 5, "probs": [1.0]}]}, "classify", "not a classification"),
        ("/classify", {"data": ["a"]}, "classify", "A result is not a JSON object"),
        ("/tokenize", {"tokens": ["a"], "max_model_len": 8}, "tokenize", "not a list of int"),
        ("/tokenize", {"tokens": [1]}, "tokenize", "missing or malformed.*max_model_len"),
        ("/tokenize", [1], "tokenize", "is not a JSON object"),
    ],
)
def test_malformed_results_of_vllms_endpoints_raise(fault_server, path, body, call, text):
    fault_server.reply(faults.json_reply(body), path)
    server = VLLMServer(fault_server.url, model="stub", max_retries=0)
    with pytest.raises(e.InvalidResponse, match=text):
        getattr(server, call)("a")


@pytest.mark.parametrize(
    ("vector", "text"),
    [
        ([], "The vectors are empty"),
        (["x"], "contains NaN"),
        ([1e400], "contains NaN"),
        ([[0.5, 0.25]], r"returned a matrix for a text.*pooling\(texts, task='token_embed'\)"),
    ],
)
def test_vectors_that_are_not_finite_numbers_raise(fault_server, vector, text):
    fault_server.reply(faults.json_reply(payloads.embeddings([vector])))
    with VLLMClient(fault_server.url, max_retries=0) as client, pytest.raises(e.InvalidResponse, match=text):
        client.embeddings.create(model="stub", input="a", encoding_format="float")
