"""Retrieval with all components, built in Python and loaded from YAML."""

import pytest
from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore

from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker, VLLMTextEmbedder

QUESTION = "What is the capital of Japan?"
TEXTS = ["Bread is baked from flour.", "Tokyo is the capital city of Japan.", "The train was late again."]
TEMPLATE = [
    ChatMessage.from_system("Answer from: {% for document in documents %}{{ document.content }} {% endfor %}"),
    ChatMessage.from_user("{{ question }}"),
]


def indexing_pipeline(url):
    pipe = Pipeline()
    pipe.add_component("embedder", VLLMDocumentEmbedder(api_base_url=url, max_retries=0, progress_bar=False))
    pipe.add_component("writer", DocumentWriter(InMemoryDocumentStore(index="rag")))
    pipe.connect("embedder.documents", "writer.documents")
    return pipe


def query_pipeline(urls):
    pipe = Pipeline()
    retriever = InMemoryEmbeddingRetriever(InMemoryDocumentStore(index="rag"), top_k=3)
    pipe.add_component("embedder", VLLMTextEmbedder(api_base_url=urls["minilm"], max_retries=0))
    pipe.add_component("retriever", retriever)
    pipe.add_component("ranker", VLLMRanker(api_base_url=urls["cross-encoder"], max_retries=0, top_k=1))
    pipe.add_component("prompt", ChatPromptBuilder(TEMPLATE, required_variables="*"))
    pipe.add_component("llm", VLLMChatGenerator(api_base_url=urls["tiny"], max_retries=0))
    pipe.connect("embedder.embedding", "retriever.query_embedding")
    pipe.connect("retriever.documents", "ranker.documents")
    pipe.connect("ranker.documents", "prompt.documents")
    pipe.connect("prompt.prompt", "llm.messages")
    return pipe


@pytest.mark.vllm("tiny", "minilm", "cross-encoder")
@pytest.mark.parametrize("loaded", [False, True], ids=["built", "loaded"])
def test_retrieval(vllm_urls, sent, loaded):
    pipes = [indexing_pipeline(vllm_urls["minilm"]), query_pipeline(vllm_urls)]
    indexing, query = [Pipeline.loads(pipe.dumps()) for pipe in pipes] if loaded else pipes
    store = indexing.get_component("writer").document_store
    store.delete_documents([document.id for document in store.filter_documents()])
    indexing.run({"embedder": {"documents": [Document(content=text) for text in TEXTS]}})
    inputs = {"embedder": {"text": QUESTION}, "ranker": {"query": QUESTION}, "prompt": {"question": QUESTION}}
    output = query.run(inputs, include_outputs_from={"ranker"})
    assert [document.content for document in output["ranker"]["documents"]] == [TEXTS[1]]
    assert output["llm"]["replies"][0].text == "The capital of Japan is Tokyo."
    assert sent.bodies("/v1/chat/completions")[0]["messages"][0]["content"] == f"Answer from: {TEXTS[1]} "
