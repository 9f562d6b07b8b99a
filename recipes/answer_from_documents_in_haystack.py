# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Answer from your documents with Haystack: embed, retrieve, rank and generate on vLLM; the pipeline as YAML.

Servers: vllm serve EMBEDDING_MODEL, vllm serve RERANKER, vllm serve MODEL
Run:     VLLM_EMBED_BASE_URL=... VLLM_RERANK_BASE_URL=... VLLM_BASE_URL=... python answer_from_documents_in_haystack.py
"""

from __future__ import annotations

import os

from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore

from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker, VLLMTextEmbedder

TEXTS = ["Bread is baked from flour.", "Tokyo is the capital city of Japan.", "The train was late again."]
PROMPT = [
    ChatMessage.from_system("Answer from this: {% for d in documents %}{{ d.content }} {% endfor %}"),
    ChatMessage.from_user("{{ question }}"),
]


def main() -> None:
    embed, rerank = os.environ["VLLM_EMBED_BASE_URL"], os.environ["VLLM_RERANK_BASE_URL"]
    store = InMemoryDocumentStore()
    found = VLLMDocumentEmbedder(api_base_url=embed, progress_bar=False).run([Document(content=text) for text in TEXTS])
    store.write_documents(found["documents"])

    pipe = Pipeline()
    pipe.add_component("embedder", VLLMTextEmbedder(api_base_url=embed))
    pipe.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=3))
    pipe.add_component("ranker", VLLMRanker(api_base_url=rerank, top_k=1))
    pipe.add_component("prompt", ChatPromptBuilder(PROMPT, required_variables="*"))
    pipe.add_component("llm", VLLMChatGenerator(generation_kwargs={"temperature": 0, "top_k": 20}))
    pipe.connect("embedder.embedding", "retriever.query_embedding")
    pipe.connect("retriever.documents", "ranker.documents")
    pipe.connect("ranker.documents", "prompt.documents")
    pipe.connect("prompt.prompt", "llm.messages")

    loaded = Pipeline.loads(pipe.dumps())  # what you would keep in a file; nothing has to be allowed first
    question = "What is the capital of Japan?"
    asked = {"embedder": {"text": question}, "ranker": {"query": question}, "prompt": {"question": question}}
    answer = loaded.run(asked, include_outputs_from={"ranker"})
    print("from:", answer["ranker"]["documents"][0].content)
    print("answer:", answer["llm"]["replies"][0].text)


if __name__ == "__main__":
    main()
