"""VLLMEmbedding and VLLMRerank on real vLLMs."""

import math

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import Field

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLMEmbedding, VLLMRerank

EMBED, RERANK = "/v1/embeddings", "/v1/rerank"
TEXTS = ["A cat sleeps.", "A kitten naps.", "The central bank raised interest rates."]
DOCUMENTS = ["Bread is baked from flour.", "Tokyo is the capital city of Japan.", "The train was late again."]
QUESTION = "Which city is the capital of Japan?"

minilm = pytest.mark.vllm("minilm")
reranker = pytest.mark.vllm("cross-encoder")


class Heard(BaseEventHandler):
    """Keeps LlamaIndex's events."""

    events: list = Field(default_factory=list)

    def handle(self, event, **kwargs):
        self.events.append(event)

    def of(self, name):
        return [event for event in self.events if event.class_name() == name]


@pytest.fixture
def heard():
    handler, root = Heard(), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


def close(left, right):
    return math.dist(left, right) < 1e-3


@minilm
async def test_every_way_to_embed(sent):
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


@minilm
async def test_texts_as_they_are(sent):
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


@minilm
async def test_batches(sent, capsys, heard):
    model = VLLMEmbedding(embed_batch_size=2, num_workers=1)
    texts = [f"text {number}" for number in range(5)]
    vectors = model.get_text_embedding_batch(texts, show_progress=True)
    assert "Generating embeddings" in capsys.readouterr().err
    assert [len(body["input"]) for body in sent.bodies(EMBED)] == [2, 2, 1]
    again = await model.aget_text_embedding_batch(texts)
    assert all(close(left, right) for left, right in zip(vectors, again, strict=True))
    assert len(heard.of("EmbeddingStartEvent")) == len(heard.of("EmbeddingEndEvent")) == 2
    assert heard.of("EmbeddingEndEvent")[0].chunks == texts
    assert model.get_text_embedding_batch([]) == []


@minilm
def test_what_it_cost(vllm_url, heard):
    # Stock: told nowhere.
    model = VLLMEmbedding()
    model.get_text_embedding_batch(TEXTS)
    model.get_query_embedding(TEXTS[0])
    many, one = heard.of("EmbeddingUsageEvent")
    server = VLLMServer(vllm_url)
    assert (many.texts, many.model_name) == (3, "minilm")
    assert many.prompt_tokens == sum(server.count_tokens(text) for text in TEXTS)
    assert one.prompt_tokens == server.count_tokens(TEXTS[0])


@minilm
async def test_a_cache_tells_queries_from_texts(sent):
    # Stock: a query gets the text's vector, and one model's vectors go to another.
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


@minilm
async def test_a_rate_limiter_counts_batches(sent):
    limiter = TokenBucketRateLimiter(requests_per_minute=6000)
    model = VLLMEmbedding(embed_batch_size=2, rate_limiter=limiter)
    texts = [f"text {number}" for number in range(3)]
    vectors = model.get_text_embedding_batch(texts)
    assert len(vectors) == 3
    model.num_workers = 1
    again = await model.aget_text_embedding_batch(texts)
    assert close(vectors[2], again[2])
    assert len(sent.to(EMBED)) == 4


@minilm
def test_embedding_errors(sent):
    model = VLLMEmbedding(max_retries=0)
    with pytest.raises(e.ContextLengthExceeded):
        model.get_text_embedding("word " * 400)
    with pytest.raises(e.InvalidRequest, match=r"(?i)matryoshka|dimension"):
        VLLMEmbedding(dimensions=64).get_text_embedding("a")
    assert sent.last.json["dimensions"] == 64
    with pytest.raises(e.ModelNotServed, match="minilm"):
        VLLMEmbedding("nope").get_text_embedding("a")


def nodes(*texts):
    return [NodeWithScore(node=TextNode(text=text, metadata={"place": n}), score=0.1) for n, text in enumerate(texts)]


@minilm
async def test_rerank(sent, heard):
    # Stock: LlamaIndex has no reranker for vLLM; its own change the nodes given.
    given = nodes(*DOCUMENTS)
    rerank = VLLMRerank(top_n=2, keep_retrieval_score=True, metadata_mode=MetadataMode.NONE)
    best = rerank.postprocess_nodes(given, query_str=QUESTION)
    assert best[0].text == DOCUMENTS[1]
    assert len(best) == 2
    assert best[0].score > best[1].score
    assert best[0].metadata == {"place": 1, "retrieval_score": 0.1}
    assert [(node.score, node.metadata) for node in given] == [(0.1, {"place": n}) for n in range(3)]
    assert sent.last.json == {"model": "minilm", "query": QUESTION, "documents": DOCUMENTS, "top_n": 2}
    again = await rerank.apostprocess_nodes(given, query_str=QUESTION)
    assert [node.node_id for node in again] == [node.node_id for node in best]
    start, _ = heard.of("ReRankStartEvent")
    assert (start.query.query_str, start.top_n, len(start.nodes)) == (QUESTION, 2, 3)
    assert [len(event.nodes) for event in heard.of("ReRankEndEvent")] == [2, 2]


@reranker
async def test_parameters_of_rerank(sent):
    rerank = VLLMRerank("cross-encoder", truncate_prompt_tokens=-1, max_tokens_per_doc=20)
    assert len(rerank.postprocess_nodes(nodes("word " * 900, "blue"), query_str="blue")) == 2
    assert (sent.last.json["truncate_prompt_tokens"], sent.last.json["max_tokens_per_doc"]) == (-1, 20)
    assert sent.last.json["documents"][1] == "place: 1\n\nblue"
    with pytest.raises(e.InvalidRequest):
        await VLLMRerank().apostprocess_nodes(nodes("word " * 900), query_str="blue")


def test_nothing_to_rerank(fault_server):
    rerank = VLLMRerank(base_url=fault_server.url)
    assert rerank.postprocess_nodes([], query_str="x") == []
    with pytest.raises(ValueError, match="query"):
        rerank.postprocess_nodes(nodes("a"))
    assert not fault_server.requests
