"""VLLMTextEmbedder and VLLMDocumentEmbedder: vectors, batches, and documents that fail."""

import time

import numpy as np
import pytest
from haystack import Document

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMDocumentEmbedder, VLLMRanker, VLLMTextEmbedder, VLLMTokenCounter
from vllm_adapters.testing import faults, payloads

EMBEDDINGS = "/v1/embeddings"
TEXTS = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The central bank raised interest rates."]
TOO_LONG = "word " * 400

minilm = pytest.mark.vllm("minilm")


@pytest.fixture
def documents():
    return [Document(content=text) for text in TEXTS]


def document_embedder(server, **options):
    return VLLMDocumentEmbedder(api_base_url=server.url, progress_bar=False, **options)


@minilm
def test_text(run_component, vllm_url, sent):
    output = run_component(VLLMTextEmbedder(max_retries=0, prefix="query: "), TEXTS[0])
    assert sent.last.json == {"model": "minilm", "input": ["query: " + TEXTS[0]], "encoding_format": "base64"}
    assert output["meta"]["model"] == "minilm"
    assert output["meta"]["usage"]["prompt_tokens"] == output["meta"]["usage"]["total_tokens"] > 0
    assert all(isinstance(number, float) for number in output["embedding"])
    np.testing.assert_allclose(output["embedding"], VLLMServer(vllm_url).embed("query: " + TEXTS[0])[0], atol=1e-6)


@minilm
def test_documents(run_component, documents, vllm_url, sent):
    embedder = VLLMDocumentEmbedder(max_retries=0, batch_size=2, progress_bar=False)
    output = run_component(embedder, documents)
    assert sorted(len(body["input"]) for body in sent.bodies(EMBEDDINGS)) == [1, 2]
    assert [document.content for document in output["documents"]] == TEXTS
    assert all(document.embedding is None for document in documents)
    vectors = np.array([document.embedding for document in output["documents"]])
    np.testing.assert_allclose(vectors, VLLMServer(vllm_url).embed(TEXTS), atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert "failures" not in output["meta"]


@minilm
def test_too_long_document_fails_alone(run_component, documents):
    embedder = VLLMDocumentEmbedder(max_retries=0, progress_bar=False)
    output = run_component(embedder, [documents[0], Document(content=TOO_LONG), documents[1]])
    assert [len(document.embedding or []) for document in output["documents"]] == [384, 0, 384]
    (failure,) = output["meta"]["failures"]
    assert failure["index"] == 1
    assert "maximum context length is 256" in failure["error"]


@minilm
def test_too_long_texts_raise(run_component):
    with pytest.raises(e.ContextLengthExceeded, match="truncate_prompt_tokens"):
        run_component(VLLMTextEmbedder(max_retries=0), TOO_LONG)
    with pytest.raises(e.ContextLengthExceeded):
        run_component(
            VLLMDocumentEmbedder(max_retries=0, progress_bar=False, raise_on_failure=True),
            [Document(content=TOO_LONG)],
        )


@minilm
def test_only_too_long_documents(run_component):
    output = run_component(VLLMDocumentEmbedder(max_retries=0, progress_bar=False), [Document(content=TOO_LONG)])
    assert output["documents"][0].embedding is None
    assert [failure["index"] for failure in output["meta"]["failures"]] == [0]


@minilm
def test_truncation(run_component):
    truncating = {"extra_parameters": {"truncate_prompt_tokens": -1}, "max_retries": 0}
    text = run_component(VLLMTextEmbedder(**truncating), TOO_LONG)
    assert text["meta"]["usage"]["prompt_tokens"] == 256
    embedder = VLLMDocumentEmbedder(**truncating, progress_bar=False)
    (document,) = run_component(embedder, [Document(content=TOO_LONG)])["documents"]
    np.testing.assert_allclose(document.embedding, text["embedding"], atol=1e-5)


@minilm
def test_model_that_is_not_served(run_component, documents):
    embedder = VLLMDocumentEmbedder(model="nope", max_retries=0, progress_bar=False)
    with pytest.raises(e.ModelNotServed, match="It serves: minilm"):
        run_component(embedder, documents)


def test_request_bodies(fault_server, capsys):
    parameters = {"truncate_prompt_tokens": -1}
    shared = {"api_base_url": fault_server.url, "prefix": "[", "suffix": "]", "dimensions": 4}
    VLLMTextEmbedder(**shared, extra_parameters=parameters).run("hi")
    documents = [Document(content="hi", meta={"title": "A", "year": 0, "no": None}), Document(content=None)]
    output = VLLMDocumentEmbedder(
        **shared, extra_parameters=parameters, meta_fields_to_embed=["title", "year", "no"], embedding_separator=" | "
    ).run(documents)
    assert output["meta"]["model"] == "stub"
    one, many = (request.json for request in fault_server.posts(EMBEDDINGS))
    same = {"model": "stub", "encoding_format": "base64", "dimensions": 4, "truncate_prompt_tokens": -1}
    assert one == {**same, "input": ["[hi]"]}
    assert many == {**same, "input": ["[A | 0 | hi]", "[]"]}
    assert "Calculating embeddings" in capsys.readouterr().err


def test_invalid_inputs_are_rejected(fault_server):
    with pytest.raises(TypeError, match="VLLMTextEmbedder expects a string as an input"):
        VLLMTextEmbedder(api_base_url=fault_server.url).run(["a"])
    embedder = document_embedder(fault_server)
    for invalid in ("a", [1], [Document(content="a"), "b"]):
        with pytest.raises(TypeError, match="VLLMDocumentEmbedder expects a list of Documents as input"):
            embedder.run(invalid)
    assert embedder.run([]) == {"documents": [], "meta": {}}
    assert not fault_server.requests


@pytest.mark.parametrize("cls", [VLLMTextEmbedder, VLLMDocumentEmbedder])
@pytest.mark.parametrize("name", ["model", "input", "encoding_format"])
def test_reserved_parameters_are_rejected(cls, name):
    with pytest.raises(e.InvalidRequest, match=f"`{name}` cannot be set in `extra_parameters`"):
        cls(extra_parameters={name: "x"})


def test_batches_are_concurrent_and_stay_in_order(make_fault_server, run_component):
    # vllm-haystack sends one batch after the other, also in run_async.
    server = make_fault_server(delay=0.3)
    documents = [Document(content=f"text {number}") for number in range(16)]
    started = time.monotonic()
    embedded = run_component(document_embedder(server, batch_size=2, max_concurrency=8), documents)["documents"]
    assert time.monotonic() - started < 8 * 0.3
    assert server.peak > 4
    for document in embedded:
        assert document.embedding == pytest.approx(payloads.vector(document.content, 8), abs=1e-6)


def test_max_concurrency(make_fault_server, run_component):
    server = make_fault_server(delay=0.05)
    embedder = document_embedder(server, batch_size=1, max_concurrency=2)
    run_component(embedder, [Document(content=str(number)) for number in range(9)])
    assert server.peak == 2


def test_documents_with_the_same_id(fault_server, run_component):
    # vllm-haystack gives both the vector of the last.
    documents = [Document(id="a", content="one"), Document(id="a", content="two")]
    first, second = run_component(document_embedder(fault_server), documents)["documents"]
    assert first.embedding != second.embedding


def refuse(word):
    async def reply(exchange):
        refused = any(word in text for text in exchange.request.json["input"])
        await (faults.error(400, f"no {word} here") if refused else faults.healthy)(exchange)

    return reply


def test_refused_document_fails_alone(fault_server, run_component, caplog):
    # vllm-haystack gives no embedding to any document of its batch, and logs a line.
    fault_server.reply(refuse("bad"))
    documents = [Document(content="one"), Document(content="bad"), Document(content="three")]
    embedder = document_embedder(fault_server, max_retries=0)
    output = run_component(embedder, documents)
    assert [document.embedding is None for document in output["documents"]] == [False, True, False]
    (failure,) = output["meta"]["failures"]
    assert (failure["index"], failure["id"]) == (1, documents[1].id)
    assert "no bad here" in failure["error"]
    assert documents[1].id in caplog.text
    embedder.raise_on_failure = True
    with pytest.raises(e.InvalidRequest, match="no bad here"):
        run_component(embedder, documents)


def test_document_that_cannot_be_encoded_fails_alone(fault_server, run_component):
    documents = [Document(content="one"), Document(id="broken", content="tw\ud83d")]
    output = run_component(document_embedder(fault_server), documents)
    assert [document.embedding is None for document in output["documents"]] == [False, True]
    assert [failure["id"] for failure in output["meta"]["failures"]] == ["broken"]


def test_unreachable_server_raises(run_component):
    # vllm-haystack returns documents without embeddings.
    embedder = VLLMDocumentEmbedder(api_base_url="http://127.0.0.1:9", progress_bar=False, max_retries=0)
    with pytest.raises(e.ServerUnreachable):
        run_component(embedder, [Document(content="one")])


def test_parameter_that_the_model_does_not_support_raises(fault_server, run_component):
    fault_server.reply(faults.error(400, "Model does not support matryoshka representation", param="dimensions"))
    embedder = document_embedder(fault_server, dimensions=3, max_retries=0)
    with pytest.raises(e.InvalidRequest, match="matryoshka"):
        run_component(embedder, [Document(content=str(number)) for number in range(4)])


def test_document_that_fails_keeps_its_embedding(fault_server, run_component):
    fault_server.reply(refuse("bad"))
    documents = [Document(content="one", embedding=[9.0]), Document(content="bad", embedding=[9.0])]
    output = run_component(document_embedder(fault_server, max_retries=0), documents)
    one, bad = output["documents"]
    assert len(one.embedding) == 8
    assert bad.embedding == documents[0].embedding == [9.0]
    assert bad is not documents[1]
    assert [failure["index"] for failure in output["meta"]["failures"]] == [1]


def test_many_failures_are_one_line_of_the_log(fault_server, run_component, caplog):
    fault_server.reply(refuse("bad"))
    documents = [Document(content="one"), *(Document(content=f"bad {number}") for number in range(20))]
    output = run_component(document_embedder(fault_server, max_retries=0), documents)
    assert len(output["meta"]["failures"]) == 20
    (record,) = [record for record in caplog.records if record.name == "vllm_adapters.haystack.embedders"]
    assert record.getMessage().startswith("20 of 21 documents were not embedded")
    assert documents[1].id in record.getMessage()
    assert "no bad here" in record.getMessage()


@pytest.mark.parametrize("name", ["batch_size", "max_concurrency"])
def test_sizes_are_checked_by_the_constructor(name):
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
            VLLMDocumentEmbedder(**{name: size})
    with pytest.raises(TypeError, match=f"`{name}` must be an int, not str"):
        VLLMDocumentEmbedder(**{name: "3"})


def test_text_where_a_list_of_fields_is_expected_is_rejected():
    # Its characters would be the fields.
    with pytest.raises(TypeError, match="`meta_fields_to_embed` must be a list of str, not str"):
        VLLMDocumentEmbedder(meta_fields_to_embed="title")
    with pytest.raises(TypeError, match="`meta_fields_to_embed` must be a list of str, not str"):
        VLLMRanker(meta_fields_to_embed="title")


@pytest.mark.parametrize("cls", [VLLMTextEmbedder, VLLMDocumentEmbedder, VLLMRanker, VLLMTokenCounter])
def test_parameters_are_checked_by_the_constructor(cls):
    with pytest.raises(e.UnknownParameter):
        cls(extra_parameters={"truncate_promt_tokens": 1})
    with pytest.raises(e.InvalidRequest, match=r"priority|add_special_tokens"):
        cls(extra_parameters={"add_special_tokens" if cls is VLLMTokenCounter else "priority": "x"})
    assert cls(extra_parameters={"plugin": 1}, allow_unknown=True).extra_parameters == {"plugin": 1}
    assert cls(extra_parameters={"plugin": 1}, server=VLLMServer("http://a:1", allow_unknown=True))


def test_dimensions_of_the_wrong_type_are_rejected():
    with pytest.raises(TypeError, match="`dimensions` must be an int, not str"):
        VLLMTextEmbedder(dimensions="4")
