"""``VLLMEmbedding`` on a vLLM with an embedding model."""

import asyncio
import math
import time

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core import Document
from llama_index.core.extractors import SummaryExtractor
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.storage.kvstore import SimpleKVStore

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding
from vllm_adapters.testing import faults, payloads

EMBED = "/v1/embeddings"
TEXTS = ["A cat sleeps.", "A kitten naps.", "The central bank raised interest rates."]

recorded = pytest.mark.vllm("minilm")


def close(left, right):
    return math.dist(left, right) < 1e-3


@recorded
async def test_every_embedding_method(sent):
    model = VLLMEmbedding(model="minilm", max_retries=0)
    assert len(model.get_text_embedding("")) == 384
    one = model.get_text_embedding(TEXTS[0])
    assert len(one) == 384
    assert all(type(number) is float for number in one)
    others = [
        await model.aget_text_embedding(TEXTS[0]),
        model.get_query_embedding(TEXTS[0]),
        await model.aget_query_embedding(TEXTS[0]),
        model.get_text_embedding_batch(TEXTS)[0],
        (await model.aget_text_embedding_batch(TEXTS))[0],
    ]
    assert all(close(one, other) for other in others)
    cat, kitten, bank = model.get_text_embedding_batch(TEXTS)
    assert model.similarity(cat, kitten) > model.similarity(cat, bank)
    assert sent.bodies(EMBED)[1] == {"model": "minilm", "input": [TEXTS[0]], "encoding_format": "base64"}


@recorded
async def test_texts_are_sent_unchanged(sent):
    # Stock: newlines become spaces; there are no instructions.
    model = VLLMEmbedding(
        query_instruction="Instruct: find it\nQuery: ", text_instruction="passage: ", truncate_prompt_tokens=-1
    )
    model.get_query_embedding("a\nb")
    await model.aget_query_embedding("a\nb")
    model.get_text_embedding("def f():\n\treturn 1\n")
    await model.aget_text_embedding_batch(["x\n", "y"])
    model.get_text_embedding("word " * 400)
    assert [body["input"] for body in sent.bodies(EMBED)[:-1]] == [
        ["Instruct: find it\nQuery: a\nb"],
        ["Instruct: find it\nQuery: a\nb"],
        ["passage: def f():\n\treturn 1\n"],
        ["passage: x\n", "passage: y"],
    ]
    assert {body["truncate_prompt_tokens"] for body in sent.bodies(EMBED)} == {-1}


@recorded
async def test_batches(sent, capsys, events):
    model = VLLMEmbedding(embed_batch_size=2, num_workers=1)
    texts = [f"text {number}" for number in range(5)]
    vectors = model.get_text_embedding_batch(texts, show_progress=True)
    assert "Generating embeddings" in capsys.readouterr().err
    assert [len(body["input"]) for body in sent.bodies(EMBED)] == [2, 2, 1]
    again = await model.aget_text_embedding_batch(texts)
    assert all(close(left, right) for left, right in zip(vectors, again, strict=True))
    assert len(events.of("EmbeddingStartEvent")) == len(events.of("EmbeddingEndEvent")) == 2
    assert events.of("EmbeddingEndEvent")[0].chunks == texts
    assert model.get_text_embedding_batch([]) == []


@recorded
def test_usage_event(vllm_url, events):
    # Stock: not available.
    model = VLLMEmbedding()
    model.get_text_embedding_batch(TEXTS)
    model.get_query_embedding(TEXTS[0])
    many, one = events.of("EmbeddingUsageEvent")
    server = VLLMServer(vllm_url)
    assert (many.texts, many.model_name) == (3, "minilm")
    assert many.prompt_tokens == sum(server.count_tokens(text) for text in TEXTS)
    assert one.prompt_tokens == server.count_tokens(TEXTS[0])


@recorded
async def test_cache_separates_queries_and_texts(sent):
    # Stock: a query gets the text's vector, and one model gets another's.
    cache = SimpleKVStore()
    model = VLLMEmbedding(query_instruction="query: ", embeddings_cache=cache)
    text = model.get_text_embedding("a")
    assert model.get_text_embedding("a") == text
    assert await model.aget_text_embedding("a") == text
    assert len(sent.to(EMBED)) == 1
    query = await model.aget_query_embedding("a")
    assert not close(query, text)
    assert model.get_query_embedding("a") == query
    assert len(sent.to(EMBED)) == 2
    found = await model.aget_text_embedding_batch(["b", "a", "c"])
    assert found[1] == text
    assert sent.last.json["input"] == ["b", "c"]
    assert model.get_text_embedding_batch(["c", "a", "b"]) == [found[2], found[1], found[0]]
    assert len(sent.to(EMBED)) == 3
    other = VLLMEmbedding(truncate_prompt_tokens=4, embeddings_cache=cache)
    other.get_text_embedding("a")
    assert len(sent.to(EMBED)) == 4


@recorded
async def test_rate_limiter_counts_batches(sent):
    limiter = TokenBucketRateLimiter(requests_per_minute=6000)
    model = VLLMEmbedding(embed_batch_size=2, rate_limiter=limiter)
    texts = [f"text {number}" for number in range(3)]
    vectors = model.get_text_embedding_batch(texts)
    assert len(vectors) == 3
    model.num_workers = 1
    again = await model.aget_text_embedding_batch(texts)
    assert close(vectors[2], again[2])
    assert len(sent.to(EMBED)) == 4


@recorded
def test_server_errors(sent):
    model = VLLMEmbedding(max_retries=0)
    with pytest.raises(e.ContextLengthExceeded):
        model.get_text_embedding("word " * 400)
    with pytest.raises(e.InvalidRequest, match=r"(?i)matryoshka|dimension"):
        VLLMEmbedding(dimensions=64).get_text_embedding("a")
    assert sent.last.json["dimensions"] == 64
    with pytest.raises(e.ModelNotServed, match="minilm"):
        VLLMEmbedding("nope").get_text_embedding("a")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_concurrent_requests_are_bounded(make_fault_server, mode):
    server = make_fault_server(delay=0.05)
    model = VLLMEmbedding(base_url=server.url, embed_batch_size=2, num_workers=3)
    texts = [str(number) for number in range(20)]
    if mode == "sync":
        vectors = model.get_text_embedding_batch(texts)
    else:
        vectors = asyncio.run(model.aget_text_embedding_batch(texts))
    assert [len(request.json["input"]) for request in server.posts(EMBED)] == [2] * 10
    assert 1 < server.peak <= 3
    assert vectors == [model.get_text_embedding(text) for text in texts]


# Pipelines


def test_ingestion_cache_separates_models_that_are_not_named(make_fault_server):
    # Otherwise: both have an empty name, and the second model's documents get the first one's vectors.
    server = make_fault_server(models=("one",))
    cache, document = IngestionCache(), Document(text="text")

    def ingest():
        pipeline = IngestionPipeline(transformations=[VLLMEmbedding(base_url=server.url)], cache=cache)
        return pipeline.run(documents=[document])[0].embedding

    first = ingest()
    assert ingest() == first
    assert len(server.posts(EMBED)) == 1
    server.reply(faults.json_reply(payloads.models("two")), "/v1/models")
    ingest()
    assert [request.json["model"] for request in server.posts(EMBED)] == ["one", "two"]


async def test_ingestion_cache_in_an_event_loop(make_fault_server):
    server, cache = make_fault_server(), IngestionCache()
    for _ in range(2):
        model = VLLMEmbedding(base_url=server.url)
        await IngestionPipeline(transformations=[model], cache=cache).arun(documents=[Document(text="text")])
    assert len(server.posts(EMBED)) == 1


async def test_dump_does_not_block_the_event_loop(fault_server):
    # A model that is not known in time has a name that no other object has.
    fault_server.reply(faults.slow(1.0, faults.json_reply(payloads.models("stub"))), "/v1/models")
    model, other = (VLLMEmbedding(base_url=fault_server.url) for _ in range(2))
    before = time.monotonic()
    assert model.to_dict()["served_model"] != other.to_dict()["served_model"]
    assert time.monotonic() - before < 0.8
    await asyncio.sleep(1.2)
    assert model.to_dict() == other.to_dict()


def test_dump_names_the_model(make_fault_server):
    server = make_fault_server(models=("one",))
    named, unnamed = VLLMEmbedding("one", base_url=server.url), VLLMEmbedding(base_url=server.url)
    assert "served_model" not in named.to_dict()
    assert (unnamed.to_dict()["served_model"], unnamed.to_dict()["model_name"]) == ("one", "")
    assert VLLMEmbedding.from_dict(unnamed.to_dict()).model_name == ""
    down = [VLLMEmbedding(base_url="http://127.0.0.1:9", max_retries=0) for _ in range(2)]
    assert down[0].to_dict() == down[0].to_dict() != down[1].to_dict()
    # The language model of a transformation has no name either.
    extractors = [SummaryExtractor(llm=VLLM(base_url=server.url)) for _ in range(2)]
    assert len({get_transformation_hash([], extractor) for extractor in extractors}) == 2


def test_pipeline_of_two_processes_has_the_key(make_fault_server):
    # Otherwise: `Pass api_key=`, which was passed.
    server = make_fault_server(api_key="sk-there")
    pipeline = IngestionPipeline(transformations=[VLLMEmbedding(base_url=server.url, api_key="sk-there")])
    nodes = pipeline.run(documents=[Document(text=text) for text in TEXTS], num_workers=2)
    assert all(node.embedding for node in nodes)
    assert len(nodes) == 3


# Arguments that are no texts


@pytest.mark.parametrize("limited", [True, False])
def test_one_text_is_not_many(fault_server, limited):
    # Stock: a vector for each character.
    limiter = TokenBucketRateLimiter(requests_per_minute=6000) if limited else None
    model = VLLMEmbedding(base_url=fault_server.url, rate_limiter=limiter)
    for name in ("get_text_embedding_batch", "get_agg_embedding_from_queries", "_get_text_embeddings"):
        send = getattr(model, name)
        asend = getattr(model, name.replace("get", "aget", 1))
        with pytest.raises(TypeError, match="must be a sequence of str, not str"):
            send("abc")
        with pytest.raises(TypeError, match="must be a sequence of str, not str"):
            asyncio.run(asend("abc"))
        with pytest.raises(TypeError, match=r"\[1\]` must be a str, not NoneType"):
            send(["a", None])
    assert not fault_server.requests


@pytest.mark.parametrize("name", ["embed_dtype", "endianness"])
def test_number_formats_are_refused_by_the_constructor(name):
    # Otherwise: the first call refuses them.
    value = {"embed_dtype": "float16", "endianness": "big"}[name]
    with pytest.raises(e.InvalidRequest, match=f"`{name}` cannot be set"):
        VLLMEmbedding(**{name: value})
    with pytest.raises(e.InvalidRequest, match=f"`{name}` cannot be set"):
        setattr(VLLMEmbedding(), name, value)


def test_fields_of_plugins(fault_server):
    with pytest.raises(e.UnknownParameter, match="extra_body"):
        VLLMEmbedding(plugin=1)
    model = VLLMEmbedding(base_url=fault_server.url, extra_body={"plugin": 1}, allow_unknown=True)
    model.get_text_embedding("a")
    assert fault_server.posts()[0].json["plugin"] == 1
