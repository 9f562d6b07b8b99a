"""Retrieval from end to end: split, embed, store, rerank, reply with citations."""

from pathlib import Path

import pytest

pytest.importorskip("langchain_text_splitters")
pytest.importorskip("langchain_classic")

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from pydantic import BaseModel, Field
from version_marks import constraint_is_enforced

import vllm_adapters.local
from vllm_adapters import VLLMServer, VLLMTokenizer
from vllm_adapters.langchain import ChatVLLM, VLLMEmbeddings, VLLMRerank

TINY = Path(vllm_adapters.local.__file__).parent / "models" / "tiny"
GUIDE = """Rome is the capital of Italy. The Colosseum stands in Rome, and millions of people come to see it.

Oslo is the capital of Norway. It lies at the end of a long fjord, and in winter people ski to work.

Tokyo is the capital of Japan. It is the largest city in the world, and its trains are never late.

Water boils at a hundred degrees at sea level; on high mountains it boils earlier, and tea tastes worse.
"""


class Cited(BaseModel):
    """An answer, and which passages it stands on."""

    answer: str = Field(max_length=40)
    passages: list[int] = Field(max_length=2)


def numbered(documents):
    return "\n".join(f"[{n}] {document.page_content}" for n, document in enumerate(documents))


@pytest.mark.vllm("tiny", "minilm", "cross-encoder")
@pytest.mark.parametrize("life", ["sync", "async"])
@constraint_is_enforced
async def test_cited_answer_from_a_text(vllm_urls, sent, life):
    tokenizer = VLLMTokenizer(VLLMServer(vllm_urls["tiny"]), tokenizer=TINY)
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=0, length_function=tokenizer.count)
    passages = splitter.split_documents([Document(GUIDE, metadata={"source": "guide"})])
    assert len(passages) >= 4
    assert len(sent.bodies("/tokenize")) == 1, "one request for all chunks"

    store = InMemoryVectorStore(VLLMEmbeddings(base_url=vllm_urls["minilm"], document_instruction="passage: "))
    retriever = ContextualCompressionRetriever(
        base_retriever=store.as_retriever(search_kwargs={"k": 3}),
        base_compressor=VLLMRerank(base_url=vllm_urls["cross-encoder"], top_n=2),
    )
    prompt = ChatPromptTemplate.from_messages([("system", "Answer from:\n{passages}"), ("human", "{question}")])
    llm = ChatVLLM(base_url=vllm_urls["tiny"], max_tokens=80, temperature=0)
    chain = (
        {"passages": retriever | numbered, "question": RunnablePassthrough()}
        | prompt
        | llm.with_structured_output(Cited)
    )
    question = "What is the capital of Japan?"
    if life == "sync":
        store.add_documents(passages)
        assert store.similarity_search(question, k=1)[0].page_content.startswith("Tokyo")
        found = chain.invoke(question)
    else:
        await store.aadd_documents(passages)
        assert (await store.asimilarity_search(question, k=1))[0].page_content.startswith("Tokyo")
        found = await chain.ainvoke(question)
    assert isinstance(found, Cited)
    (request,) = sent.bodies("/v1/chat/completions")
    assert "Tokyo is the capital of Japan" in request["messages"][0]["content"]
    assert request["response_format"]["json_schema"]["name"] == "Cited"
    assert sent.bodies("/minilm/v1/embeddings")[0]["input"][0].startswith("passage: Rome")
    (ranked,) = sent.bodies("/cross-encoder/v1/rerank")
    assert len(ranked["documents"]) == 3
    assert ranked["top_n"] == 2


@pytest.mark.vllm("tiny")
def test_splitter_requests_each_text_once(vllm_url, sent):
    tokenizer = VLLMTokenizer(VLLMServer(vllm_url), add_special_tokens=False)
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=0, length_function=tokenizer.count)
    chunks = splitter.split_text(GUIDE)
    assert all(tokenizer.count(chunk) <= 60 for chunk in chunks)
    texts = [body["prompt"] for body in sent.bodies("/tokenize")]
    assert len(texts) == len(set(texts))
    assert splitter.split_text(GUIDE) == chunks
    assert len(sent.bodies("/tokenize")) == len(texts)
