"""VLLMRanker: rankings of a real server, what is sent, and what is rejected."""

import pytest
from haystack import Document

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMRanker

RERANK = "/v1/rerank"
QUESTION = "What is the capital of Japan?"
TEXTS = ["Bread is baked from flour.", "Tokyo is the capital city of Japan.", "The train was late again."]
TOO_LONG = "word " * 1000
SHORT = [Document(content="a", meta={"t": "T"}), Document(content="bb"), Document(content="ccc")]

cross_encoder = pytest.mark.vllm("cross-encoder")


@pytest.fixture
def documents():
    return [Document(content=text) for text in TEXTS]


@cross_encoder
def test_ranking(run_component, documents, sent):
    output = run_component(VLLMRanker(max_retries=0), QUESTION, documents)
    assert sent.last.json == {"model": "cross-encoder", "query": QUESTION, "documents": TEXTS}
    ranked = output["documents"]
    assert ranked[0].content == TEXTS[1]
    assert [document.score for document in ranked] == sorted((d.score for d in ranked), reverse=True)
    assert all(document.score is None for document in documents)
    assert (output["meta"]["model"], output["meta"]["usage"]["total_tokens"] > 0) == ("cross-encoder", True)


@cross_encoder
def test_top_k_and_score_threshold(run_component, documents, sent):
    ranker = VLLMRanker(max_retries=0, top_k=2)
    first, second = run_component(ranker, QUESTION, documents)["documents"]
    assert sent.last.json["top_n"] == 2
    threshold = (first.score + second.score) / 2
    above = run_component(ranker, QUESTION, documents, score_threshold=threshold)["documents"]
    assert [document.id for document in above] == [first.id]
    assert len(run_component(ranker, QUESTION, documents, top_k=3)["documents"]) == 3


@cross_encoder
def test_too_long_documents(run_component, documents):
    many = [*documents, Document(content=TOO_LONG)]
    with pytest.raises(e.ContextLengthExceeded):
        run_component(VLLMRanker(max_retries=0), QUESTION, many)
    truncating = VLLMRanker(max_retries=0, extra_parameters={"truncate_prompt_tokens": -1})
    assert run_component(truncating, QUESTION, many)["documents"][0].content == TEXTS[1]


@cross_encoder
def test_model_that_is_not_served(run_component, documents):
    with pytest.raises(e.ModelNotServed, match="It serves: cross-encoder"):
        run_component(VLLMRanker(model="nope", max_retries=0), QUESTION, documents)


@pytest.mark.vllm("tiny")
def test_server_that_cannot_rank(run_component, documents):
    # vllm-haystack raises RuntimeError("Not Found").
    with pytest.raises(e.WrongAddress, match=r"/v1/chat/completions|does not support Rerank"):
        run_component(VLLMRanker(max_retries=0), QUESTION, documents)


@pytest.mark.parametrize("path", ["", "/v1", "/v1/"])
def test_request_body(fault_server, run_component, path):
    ranker = VLLMRanker(
        api_base_url=fault_server.url.removesuffix("/v1") + path,
        top_k=2,
        meta_fields_to_embed=["t"],
        meta_data_separator=": ",
        query_prefix="<q>",
        query_suffix="</q>",
        document_prefix="<d>",
        document_suffix="</d>",
        extra_parameters={"truncate_prompt_tokens": -1, "instruction": "find"},
    )
    output = run_component(ranker, "q", SHORT)
    assert fault_server.posts(RERANK)[0].json == {
        "model": "stub",
        "query": "<q>q</q>",
        "documents": ["<d>T: a</d>", "<d>bb</d>", "<d>ccc</d>"],
        "top_n": 2,
        "truncate_prompt_tokens": -1,
        "instruction": "find",
    }
    scores = [document.score for document in output["documents"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 2
    assert all(document.score is None for document in SHORT)
    best = run_component(ranker, "q", SHORT, top_k=3, score_threshold=scores[0])
    assert [document.score for document in best["documents"]] == scores[:1]


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_below_1_is_rejected(fault_server, run_component, top_k):
    with pytest.raises(ValueError, match="top_k must be > 0"):
        VLLMRanker(top_k=top_k)
    with pytest.raises(ValueError, match="top_k must be > 0"):
        run_component(VLLMRanker(api_base_url=fault_server.url), "q", SHORT, top_k=top_k)
    assert not fault_server.requests


def test_no_documents_send_no_request(fault_server, run_component):
    ranker = VLLMRanker(api_base_url=fault_server.url)
    assert run_component(ranker, "q", []) == {"documents": [], "meta": {}}
    assert not fault_server.requests


@pytest.mark.parametrize("name", ["model", "query", "documents", "top_n"])
def test_reserved_parameters_are_rejected(name):
    with pytest.raises(e.InvalidRequest, match=f"`{name}` cannot be set in `extra_parameters`"):
        VLLMRanker(extra_parameters={name: 1})


@pytest.mark.parametrize(
    ("query", "documents", "error"),
    [
        (None, SHORT, "`query` must be a str, not NoneType"),
        (["q"], SHORT, "`query` must be a str, not list"),
        ("q", "abc", "expects a list of Documents"),
        ("q", None, "expects a list of Documents"),
        ("q", SHORT[0], "expects a list of Documents"),
        ("q", ["a"], "expects a list of Documents"),
    ],
)
def test_inputs_of_the_wrong_type_are_rejected(fault_server, run_component, query, documents, error):
    ranker = VLLMRanker(api_base_url=fault_server.url)
    with pytest.raises(TypeError, match=error):
        run_component(ranker, query, documents)
    assert not fault_server.requests


def test_top_k_of_the_wrong_type_is_rejected():
    with pytest.raises(TypeError, match="`top_k` must be an int, not str"):
        VLLMRanker(top_k="2")
