# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]", "langchain-qdrant>=1.1,<2"]
# ///
"""Answer from documents in LangChain by hybrid search: vectors and words in Qdrant, fused, then reranked by vLLM.

Needs:  pip install 'vllm-adapters[langchain]' 'langchain-qdrant>=1.1,<2'
Server: vllm serve CHAT-MODEL, vllm serve EMBEDDING-MODEL
        (or: vllm-adapters serve --port 8000, vllm-adapters serve minilm --port 8001)
Run:    VLLM_BASE_URL=http://localhost:8000 VLLM_EMBED_BASE_URL=http://localhost:8001 \
        python search_hybrid_in_langchain.py
"""

from __future__ import annotations

import os
import re
import zlib

from langchain_core.prompts import ChatPromptTemplate
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector

from vllm_adapters.langchain import ChatVLLM, VLLMEmbeddings, VLLMRerank

EMBED = os.environ.get("VLLM_EMBED_BASE_URL", "http://localhost:8001")
RERANK = os.environ.get("VLLM_RERANK_BASE_URL", EMBED)  # a reranker is better than cosine similarity
FACTS = ["The price of Leo is 480.", "The owner of Leo is Maria.", "The password of Ada is sesame.", "Bread is baked."]
PROMPT = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}\nAnswer:")


class Words(SparseEmbeddings):
    """A sparse vector of the words in a text. FastEmbedSparse of langchain-qdrant has models for it, such as BM25."""

    def embed_query(self, text: str) -> SparseVector:
        indices = sorted({zlib.crc32(word.encode()) for word in re.findall(r"\w{4,}", text.lower())})
        return SparseVector(indices=indices, values=[1.0] * len(indices))

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        return [self.embed_query(text) for text in texts]


def main() -> None:
    embeddings = VLLMEmbeddings(base_url=EMBED, truncate_prompt_tokens=-1)
    rerank = VLLMRerank(base_url=RERANK, truncate_prompt_tokens=-1, top_n=2)
    llm = ChatVLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=100)
    store = QdrantVectorStore.from_texts(  # location: Qdrant embedded in this process; url=... of a server
        FACTS, embeddings, location=":memory:", sparse_embedding=Words(), retrieval_mode=RetrievalMode.HYBRID
    )
    question = "What is the price of Leo?"
    best = rerank.compress_documents(store.similarity_search(question, k=3), question)
    for document in best:
        print(f"{document.metadata['relevance_score']:.3f}  {document.page_content}")
    context = "\n".join(document.page_content for document in best)
    print("answer:", (PROMPT | llm).invoke({"context": context, "question": question}).text)


if __name__ == "__main__":
    main()
