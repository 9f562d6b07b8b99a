# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Answer from documents in LangChain: embed, retrieve, rerank, generate. Each model has its own vLLM server.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve CHAT-MODEL, vllm serve EMBEDDING-MODEL
        (or: vllm-adapters serve --port 8000, vllm-adapters serve minilm --port 8001)
Run:    VLLM_BASE_URL=http://localhost:8000 VLLM_EMBED_BASE_URL=http://localhost:8001 \
        python answer_from_documents_in_langchain.py
"""

from __future__ import annotations

import os

from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from vllm_adapters.langchain import ChatVLLM, VLLMEmbeddings, VLLMRerank

EMBED = os.environ.get("VLLM_EMBED_BASE_URL", "http://localhost:8001")
RERANK = os.environ.get("VLLM_RERANK_BASE_URL", EMBED)  # a reranker is better than cosine similarity
FACTS = [
    "The price of Leo is 480.",
    "The owner of Leo is Maria.",
    "The password of Ada is sesame.",
    "Bread is baked from flour, water and salt.",
]
PROMPT = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}\nAnswer:")


def main() -> None:
    # truncate_prompt_tokens=-1: truncate texts that are too long for the model instead of rejecting them.
    embeddings = VLLMEmbeddings(base_url=EMBED, truncate_prompt_tokens=-1)
    rerank = VLLMRerank(base_url=RERANK, truncate_prompt_tokens=-1, top_n=2)
    llm = ChatVLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=100)

    store = InMemoryVectorStore.from_documents([Document(fact) for fact in FACTS], embeddings)
    question = "What is the price of Leo?"
    candidates = store.similarity_search(question, k=3)
    best = rerank.compress_documents(candidates, question)
    for document in best:
        print(f"{document.metadata['relevance_score']:.3f}  {document.page_content}")

    context = "\n".join(document.page_content for document in best)
    print("answer:", (PROMPT | llm).invoke({"context": context, "question": question}).text)


if __name__ == "__main__":
    main()
