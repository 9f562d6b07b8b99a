"""``VLLMRerank`` on a vLLM with a reranker or an embedding model."""

import asyncio

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, TextNode

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLMRerank

DOCUMENTS = ["Bread is baked from flour.", "Tokyo is the capital city of Japan.", "The train was late again."]
QUESTION = "Which city is the capital of Japan?"


def nodes(*texts):
    return [NodeWithScore(node=TextNode(text=text, metadata={"place": n}), score=0.1) for n, text in enumerate(texts)]


@pytest.mark.vllm("minilm")
async def test_best_nodes_first(sent, events):
    # Stock: LlamaIndex has no reranker for vLLM; its others change the nodes that are passed in.
    retrieved = nodes(*DOCUMENTS)
    rerank = VLLMRerank(top_n=2, keep_retrieval_score=True, metadata_mode=MetadataMode.NONE)
    best = rerank.postprocess_nodes(retrieved, query_str=QUESTION)
    assert best[0].text == DOCUMENTS[1]
    assert len(best) == 2
    assert best[0].score > best[1].score
    assert best[0].metadata == {"place": 1, "retrieval_score": 0.1}
    assert [(node.score, node.metadata) for node in retrieved] == [(0.1, {"place": n}) for n in range(3)]
    assert sent.last.json == {"model": "minilm", "query": QUESTION, "documents": DOCUMENTS, "top_n": 2}
    again = await rerank.apostprocess_nodes(retrieved, query_str=QUESTION)
    assert [node.node_id for node in again] == [node.node_id for node in best]
    start, _ = events.of("ReRankStartEvent")
    assert (start.query.query_str, start.top_n, len(start.nodes)) == (QUESTION, 2, 3)
    assert [len(event.nodes) for event in events.of("ReRankEndEvent")] == [2, 2]


@pytest.mark.vllm_since("0.20", before=e.UnsupportedParameter)
@pytest.mark.vllm("cross-encoder")
async def test_parameters(sent):
    rerank = VLLMRerank("cross-encoder", truncate_prompt_tokens=-1, max_tokens_per_doc=20)
    assert len(rerank.postprocess_nodes(nodes("word " * 900, "blue"), query_str="blue")) == 2
    assert (sent.last.json["truncate_prompt_tokens"], sent.last.json["max_tokens_per_doc"]) == (-1, 20)
    assert sent.last.json["documents"][1] == "place: 1\n\nblue"
    with pytest.raises(e.InvalidRequest):
        await VLLMRerank().apostprocess_nodes(nodes("word " * 900), query_str="blue")


def test_no_nodes_and_no_query(fault_server):
    rerank = VLLMRerank(base_url=fault_server.url)
    assert rerank.postprocess_nodes([], query_str="x") == []
    with pytest.raises(ValueError, match="query is missing"):
        rerank.postprocess_nodes(nodes("a"))
    assert not fault_server.requests


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_nodes_without_text_are_left_out(fault_server, caplog, mode):
    # The text of an image is empty, and a model ranks an empty text anywhere, also first.
    image = NodeWithScore(node=ImageNode(image="aGk="), score=0.9)
    captioned = NodeWithScore(node=ImageNode(image="aGk=", text="a caption"), score=0.9)
    retrieved = [image, *nodes("one"), NodeWithScore(node=TextNode(text=" \n")), captioned]
    rerank = VLLMRerank(base_url=fault_server.url, metadata_mode=MetadataMode.NONE, top_n=4)

    def call(retrieved):
        if mode == "async":
            return asyncio.run(rerank.apostprocess_nodes(retrieved, query_str="q"))
        return rerank.postprocess_nodes(retrieved, query_str="q")

    best = call(retrieved)
    assert fault_server.posts()[0].json["documents"] == ["one", "a caption"]
    assert {node.node_id for node in best} == {retrieved[1].node_id, captioned.node_id}
    assert "2 of 4 nodes have no text" in caplog.text
    assert call([image]) == []
    assert len(fault_server.posts()) == 1


def test_fields_of_plugins(fault_server):
    VLLMRerank(base_url=fault_server.url, extra_body={"plugin": 1}, allow_unknown=True).postprocess_nodes(
        nodes("a"), query_str="q"
    )
    assert fault_server.posts()[0].json["plugin"] == 1


def test_async_calls_are_concurrent(make_fault_server):
    # Stock postprocessors: a thread for each call.
    server = make_fault_server(delay=0.3)
    rerank = VLLMRerank(base_url=server.url)

    async def run():
        await asyncio.gather(*(rerank.apostprocess_nodes(nodes("a", "b"), query_str="q") for _ in range(20)))

    asyncio.run(run())
    assert server.peak > 10
