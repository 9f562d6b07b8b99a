# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Answer from documents in a Haystack pipeline: embed, retrieve, rerank, generate. Each model has its own vLLM server.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve CHAT-MODEL, vllm serve EMBEDDING-MODEL
        (or: vllm-adapters serve --port 8000, vllm-adapters serve minilm --port 8001)
Run:    VLLM_BASE_URL=http://localhost:8000 VLLM_EMBED_BASE_URL=http://localhost:8001 \
        python answer_from_documents_in_haystack.py
"""

from __future__ import annotations

import os

from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore

from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker, VLLMTextEmbedder

EMBED = os.environ.get("VLLM_EMBED_BASE_URL", "http://localhost:8001")
RERANK = os.environ.get("VLLM_RERANK_BASE_URL", EMBED)  # a reranker is better than cosine similarity
TRUNCATE = {"truncate_prompt_tokens": -1}  # truncate texts that are too long for the model instead of rejecting them
FACTS = ["The price of Leo is 480.", "The owner of Leo is Maria.", "The password of Ada is sesame.", "Bread is baked."]
PROMPT = """Context:
{% for document in documents %}{{ document.content }}
{% endfor %}
Question: {{ query }}
Answer:"""


def main() -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    embedder = VLLMDocumentEmbedder(api_base_url=EMBED, extra_parameters=TRUNCATE, progress_bar=False)
    store.write_documents(embedder.run([Document(content=fact) for fact in FACTS])["documents"])

    rag = Pipeline()
    rag.add_component("embedder", VLLMTextEmbedder(api_base_url=EMBED, extra_parameters=TRUNCATE))
    rag.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=3))
    rag.add_component("ranker", VLLMRanker(api_base_url=RERANK, extra_parameters=TRUNCATE, top_k=2))
    rag.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user(PROMPT)], required_variables="*"))
    generation = {"temperature": 0, "max_tokens": 100}
    rag.add_component("llm", VLLMChatGenerator(model=os.environ.get("VLLM_MODEL"), generation_kwargs=generation))
    rag.connect("embedder.embedding", "retriever.query_embedding")
    rag.connect("retriever.documents", "ranker.documents")
    rag.connect("ranker.documents", "prompt.documents")
    rag.connect("prompt.prompt", "llm.messages")
    rag = Pipeline.loads(rag.dumps())  # as if the YAML came from a file
    query = "What is the price of Leo?"
    inputs = {"embedder": {"text": query}, "ranker": {"query": query}, "prompt": {"query": query}}
    result = rag.run(inputs, include_outputs_from={"ranker"})
    for document in result["ranker"]["documents"]:
        print(f"{document.score:.3f}  {document.content}")
    print("answer:", result["llm"]["replies"][0].text)


if __name__ == "__main__":
    main()
