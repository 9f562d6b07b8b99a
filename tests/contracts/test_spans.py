"""Each class of each framework is one span: provider vLLM, the served model from the first call on, and tokens."""

import asyncio
from importlib.util import find_spec

import pytest

from vllm_adapters.testing import faults

pytestmark = pytest.mark.usefixtures("recorded")

TEXTS = ["one", "two three"]


def langchain(url):
    from langchain_core.documents import Document

    from vllm_adapters.langchain import VLLM, ChatVLLM, VLLMEmbeddings, VLLMRerank

    chat, llm = ChatVLLM(base_url=url), VLLM(base_url=url)
    embeddings, reranker = VLLMEmbeddings(base_url=url), VLLMRerank(base_url=url)
    documents = [Document(text) for text in TEXTS]
    return {
        "chat": (lambda: chat.invoke("Hello"), lambda: chat.ainvoke("Hello")),
        "text_completion": (lambda: llm.invoke("Hello"), lambda: llm.ainvoke("Hello")),
        "embeddings": (lambda: embeddings.embed_documents(TEXTS), lambda: embeddings.aembed_documents(TEXTS)),
        "rerank": (
            lambda: reranker.compress_documents(documents, "one"),
            lambda: reranker.acompress_documents(documents, "one"),
        ),
    }


def llamaindex(url):
    from llama_index.core.schema import NodeWithScore, TextNode

    from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank

    llm = VLLM(api_base=url, context_window=4096)
    completion = VLLM(api_base=url, context_window=4096, is_chat_model=False)
    embedding, reranker = VLLMEmbedding(api_base=url), VLLMRerank(api_base=url)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
    return {
        "chat": (lambda: llm.complete("Hello"), lambda: llm.acomplete("Hello")),
        "text_completion": (lambda: completion.complete("Hello"), lambda: completion.acomplete("Hello")),
        "embeddings": (
            lambda: embedding.get_text_embedding_batch(TEXTS),
            lambda: embedding.aget_text_embedding_batch(TEXTS),
        ),
        "rerank": (
            lambda: reranker.postprocess_nodes(nodes, query_str="one"),
            lambda: reranker.apostprocess_nodes(nodes, query_str="one"),
        ),
    }


def haystack(url):
    from haystack import Document
    from haystack.dataclasses import ChatMessage

    from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker

    generator, embedder = VLLMChatGenerator(api_base_url=url), VLLMDocumentEmbedder(api_base_url=url)
    ranker = VLLMRanker(api_base_url=url)
    messages, documents = [ChatMessage.from_user("Hello")], [Document(content=text) for text in TEXTS]
    return {
        "chat": (lambda: generator.run(messages), lambda: generator.run_async(messages)),
        "embeddings": (lambda: embedder.run(documents), lambda: embedder.run_async(documents)),
        "rerank": (lambda: ranker.run("one", documents), lambda: ranker.run_async("one", documents)),
    }


FRAMEWORKS = {"langchain_openai": langchain, "llama_index": llamaindex, "haystack": haystack}
OPERATIONS = [
    (package, operation)
    for package in FRAMEWORKS
    for operation in ("chat", "text_completion", "embeddings", "rerank")
    if (package, operation) != ("haystack", "text_completion")
]


@pytest.mark.parametrize(("package", "operation"), OPERATIONS)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_call_is_one_span_with_model_and_tokens(fault_server, recorded, package, operation, mode):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    call, acall = FRAMEWORKS[package](fault_server.url)[operation]
    if mode == "sync":
        call()
    else:
        asyncio.run(awaited(acall))
    span = recorded.span()
    found = dict(span.attributes)
    assert span.name == f"{operation} stub"
    assert (found["gen_ai.provider.name"], found["gen_ai.request.model"]) == ("vllm", "stub")
    assert found["gen_ai.response.model"] == "stub"
    assert found["gen_ai.usage.input_tokens"] > 0
    if operation in ("chat", "text_completion"):
        assert found["gen_ai.usage.output_tokens"] > 0
        assert found["gen_ai.response.finish_reasons"] == ("stop",)
    [request] = [request for request in fault_server.requests if request.method == "POST"]
    assert request.headers["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"


async def awaited(call):
    return await call()


def test_batches_of_the_embedder_are_children_of_the_callers_span(fault_server, recorded):
    from vllm_adapters import Embedder, VLLMServer

    with VLLMServer(fault_server.url) as server, recorded.tracer.start_as_current_span("outer") as outer:
        Embedder(server, batch_size=2).embed(["a", "b", "c", "d", "e"])
    batches = [span for span in recorded.spans() if span.name != "outer"]
    assert [span.name for span in batches] == ["embeddings stub"] * 3
    assert {span.parent.span_id for span in batches} == {outer.get_span_context().span_id}


def test_retry_of_a_framework_is_an_event(fault_server, recorded):
    pytest.importorskip("langchain_openai")
    from vllm_adapters.langchain import ChatVLLM

    fault_server.script("/v1/chat/completions", [faults.error(500)])
    ChatVLLM(base_url=fault_server.url, max_retries=1).invoke("Hello")
    assert [event.name for event in recorded.span().events] == ["retry"]
