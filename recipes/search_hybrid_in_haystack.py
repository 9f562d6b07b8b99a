# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]", "qdrant-haystack>=13.1,<14"]
# ///
"""Answer from documents in Haystack by hybrid search: vectors and words in Qdrant, fused, then reranked by vLLM.

Needs:  pip install 'vllm-adapters[haystack]' 'qdrant-haystack>=13.1,<14'
Server: vllm serve CHAT-MODEL, vllm serve EMBEDDING-MODEL
        (or: vllm-adapters serve --port 8000, vllm-adapters serve minilm --port 8001)
Run:    VLLM_BASE_URL=http://localhost:8000 VLLM_EMBED_BASE_URL=http://localhost:8001 \
        python search_hybrid_in_haystack.py
"""

from __future__ import annotations

import os
import re
import zlib

from haystack import Document
from haystack.dataclasses import ChatMessage, SparseEmbedding
from haystack_integrations.components.retrievers.qdrant import QdrantHybridRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker, VLLMTextEmbedder

EMBED = os.environ.get("VLLM_EMBED_BASE_URL", "http://localhost:8001")
RERANK = os.environ.get("VLLM_RERANK_BASE_URL", EMBED)  # a reranker is better than cosine similarity
FACTS = ["The price of Leo is 480.", "The owner of Leo is Maria.", "The password of Ada is sesame.", "Bread is baked."]
TRUNCATE = {"truncate_prompt_tokens": -1}  # truncate texts that are too long instead of rejecting them


def words(text: str) -> SparseEmbedding:
    """A sparse vector of the words in a text. FastembedSparseTextEmbedder of fastembed-haystack has models for it."""
    indices = sorted({zlib.crc32(word.encode()) for word in re.findall(r"\w{4,}", text.lower())})
    return SparseEmbedding(indices=indices, values=[1.0] * len(indices))


def main() -> None:
    embedder = VLLMDocumentEmbedder(api_base_url=EMBED, extra_parameters=TRUNCATE, progress_bar=False)
    documents = embedder.run([Document(content=fact, sparse_embedding=words(fact)) for fact in FACTS])["documents"]
    store = QdrantDocumentStore(  # Qdrant embedded in this process; url=... of a server
        ":memory:", embedding_dim=len(documents[0].embedding or []), use_sparse_embeddings=True, progress_bar=False
    )
    store.write_documents(documents)

    question = "What is the price of Leo?"
    vector = VLLMTextEmbedder(api_base_url=EMBED, extra_parameters=TRUNCATE).run(question)["embedding"]
    retriever = QdrantHybridRetriever(document_store=store, top_k=3)
    found = retriever.run(query_embedding=vector, query_sparse_embedding=words(question))["documents"]
    best = VLLMRanker(api_base_url=RERANK, extra_parameters=TRUNCATE, top_k=2).run(query=question, documents=found)[
        "documents"
    ]
    for document in best:
        print(f"{document.score:.3f}  {document.content}")
    context = "\n".join(document.content or "" for document in best)
    llm = VLLMChatGenerator(model=os.environ.get("VLLM_MODEL"), generation_kwargs={"temperature": 0, "max_tokens": 100})
    message = ChatMessage.from_user(f"Context:\n{context}\n\nQuestion: {question}\nAnswer:")
    print("answer:", llm.run([message])["replies"][0].text)


if __name__ == "__main__":
    main()
