# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Answer from documents in LlamaIndex: embed, retrieve, rerank, generate. Each model has its own vLLM server.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve CHAT-MODEL, vllm serve EMBEDDING-MODEL
        (or: vllm-adapters serve --port 8000, vllm-adapters serve minilm --port 8001)
Run:    VLLM_BASE_URL=http://localhost:8000 VLLM_EMBED_BASE_URL=http://localhost:8001 \
        python answer_from_documents_in_llamaindex.py
"""

from __future__ import annotations

import os

from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.schema import TextNode

from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank

EMBED = os.environ.get("VLLM_EMBED_BASE_URL", "http://localhost:8001")
RERANK = os.environ.get("VLLM_RERANK_BASE_URL", EMBED)  # a reranker is better than cosine similarity
FACTS = [
    "The price of Leo is 480.",
    "The owner of Leo is Maria.",
    "The password of Ada is sesame.",
    "Bread is baked from flour, water and salt.",
]
PROMPT = PromptTemplate("Context:\n{context_str}\n\nQuestion: {query_str}\nAnswer:")


def main() -> None:
    # truncate_prompt_tokens=-1: truncate texts that are too long for the model instead of rejecting them.
    embed_model = VLLMEmbedding(base_url=EMBED, truncate_prompt_tokens=-1)
    rerank = VLLMRerank(base_url=RERANK, truncate_prompt_tokens=-1, top_n=2)
    llm = VLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=100)

    index = VectorStoreIndex([TextNode(text=fact) for fact in FACTS], embed_model=embed_model)
    engine = index.as_query_engine(llm=llm, similarity_top_k=3, node_postprocessors=[rerank], text_qa_template=PROMPT)
    answer = engine.query("What is the price of Leo?")
    for node in answer.source_nodes:
        print(f"{node.score:.3f}  {node.text}")
    print("answer:", answer)


if __name__ == "__main__":
    main()
