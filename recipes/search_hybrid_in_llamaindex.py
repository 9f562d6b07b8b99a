# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]", "llama-index-vector-stores-qdrant>=0.10,<0.11"]
# ///
"""Answer from documents in LlamaIndex by hybrid search: vectors and words in Qdrant, fused, then reranked by vLLM.

Needs:  pip install 'vllm-adapters[llamaindex]' 'llama-index-vector-stores-qdrant>=0.10,<0.11'
Server: vllm serve CHAT-MODEL, vllm serve EMBEDDING-MODEL
        (or: vllm-adapters serve --port 8000, vllm-adapters serve minilm --port 8001)
Run:    VLLM_BASE_URL=http://localhost:8000 VLLM_EMBED_BASE_URL=http://localhost:8001 \
        python search_hybrid_in_llamaindex.py
"""

from __future__ import annotations

import os
import re
import zlib

from llama_index.core import Document, PromptTemplate, StorageContext, VectorStoreIndex
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank

EMBED = os.environ.get("VLLM_EMBED_BASE_URL", "http://localhost:8001")
RERANK = os.environ.get("VLLM_RERANK_BASE_URL", EMBED)  # a reranker is better than cosine similarity
FACTS = ["The price of Leo is 480.", "The owner of Leo is Maria.", "The password of Ada is sesame.", "Bread is baked."]
PROMPT = PromptTemplate("Context:\n{context_str}\n\nQuestion: {query_str}\nAnswer:")


def words(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
    """Sparse vectors of the words in texts. QdrantVectorStore(fastembed_sparse_model=...) has models."""
    indices = [sorted({zlib.crc32(word.encode()) for word in re.findall(r"\w{4,}", text.lower())}) for text in texts]
    return indices, [[1.0] * len(each) for each in indices]


def main() -> None:
    embedding = VLLMEmbedding(base_url=EMBED, truncate_prompt_tokens=-1)
    rerank = VLLMRerank(base_url=RERANK, truncate_prompt_tokens=-1, top_n=2)
    llm = VLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=100)
    store = QdrantVectorStore(  # Qdrant embedded in this process; QdrantClient(url) for a server
        "facts", client=QdrantClient(":memory:"), enable_hybrid=True, sparse_doc_fn=words, sparse_query_fn=words
    )
    storage = StorageContext.from_defaults(vector_store=store)
    documents = [Document(text=fact) for fact in FACTS]
    index = VectorStoreIndex.from_documents(documents, storage_context=storage, embed_model=embedding)
    engine = index.as_query_engine(
        llm=llm,
        text_qa_template=PROMPT,
        vector_store_query_mode="hybrid",
        similarity_top_k=3,
        node_postprocessors=[rerank],
    )
    answer = engine.query("What is the price of Leo?")
    for node in answer.source_nodes:
        print(f"{node.score:.3f}  {node.text}")
    print("answer:", answer)


if __name__ == "__main__":
    main()
