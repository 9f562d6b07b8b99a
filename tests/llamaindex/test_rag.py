"""Retrieval with three vLLM servers: embeddings, a reranker and a chat model."""

from pathlib import Path

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core import Document, PromptTemplate, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from pydantic import BaseModel, Field
from version_marks import constraint_is_enforced

import vllm_adapters
from vllm_adapters import VLLMServer, VLLMTokenizer
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank

TINY = Path(vllm_adapters.__file__).parent / "local" / "models" / "tiny"
TEXTS = [
    "Tokyo is the capital city of Japan.",
    "Bread is baked from flour, water and salt.",
    "The train to Kyoto was late again.",
    "Mount Fuji is the highest mountain of Japan.",
]
QUESTION = "What is the capital of Japan?"


class Place(BaseModel):
    """A place."""

    city: str = Field(max_length=6)
    n: int = Field(ge=0, le=9)


@pytest.fixture
def rag(vllm_urls):
    llm = VLLM(base_url=vllm_urls["tiny"], temperature=0, max_tokens=60)
    embed_model = VLLMEmbedding(base_url=vllm_urls["minilm"])
    rerank = VLLMRerank(base_url=vllm_urls["cross-encoder"], top_n=2)
    return llm, embed_model, rerank


@pytest.mark.vllm("tiny", "minilm", "cross-encoder")
@pytest.mark.parametrize("mode", ["sync", "async", "stream"])
async def test_query_engine(rag, sent, mode):
    llm, embed_model, rerank = rag
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embed_model)
    engine = index.as_query_engine(
        llm=llm, node_postprocessors=[rerank], similarity_top_k=3, streaming=mode == "stream"
    )
    reply = await engine.aquery(QUESTION) if mode == "async" else engine.query(QUESTION)
    text = "".join(reply.response_gen) if mode == "stream" else str(reply)
    assert text
    found = reply.source_nodes
    assert len(found) == 2
    assert [node.score for node in found] == sorted((node.score for node in found), reverse=True)
    assert sent.bodies("/minilm/v1/embeddings")[0]["input"] == TEXTS
    assert sent.bodies("/minilm/v1/embeddings")[1]["input"] == [QUESTION]
    body = sent.bodies("/cross-encoder/v1/rerank")[0]
    assert (body["query"], body["top_n"], len(body["documents"])) == (QUESTION, 2, 3)
    prompt = sent.bodies("/v1/chat/completions")[-1]["messages"][-1]["content"]
    assert all(node.text in prompt for node in found)


@pytest.mark.vllm("tiny", "minilm", "cross-encoder")
def test_global_settings_and_chat_engine(rag, sent, monkeypatch):
    llm, embed_model, rerank = rag
    for name in ("_llm", "_embed_model", "_tokenizer"):
        monkeypatch.setattr(Settings, name, None)
    Settings.llm, Settings.embed_model = llm, embed_model
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS])
    engine = index.as_chat_engine(
        chat_mode="context", node_postprocessors=[rerank], context_template=PromptTemplate("{context_str}")
    )
    assert "Tokyo" in str(engine.chat(QUESTION))
    system, user = sent.bodies("/v1/chat/completions")[-1]["messages"]
    assert TEXTS[0] in system["content"]
    assert user["content"] == QUESTION


@pytest.mark.vllm("tiny", "minilm")
def test_token_counts_are_exact(vllm_urls, sent):
    # Stock: counts of another model's tokenizer.
    server = VLLMServer(vllm_urls["minilm"])
    counter = TokenCountingHandler(tokenizer=VLLMTokenizer(server))
    manager = CallbackManager([counter])
    embed_model = VLLMEmbedding(server=server, callback_manager=manager)
    embed_model.get_text_embedding_batch(TEXTS)
    assert counter.total_embedding_token_count == sum(server.count_tokens(text) for text in TEXTS)
    llm = VLLM(base_url=vllm_urls["tiny"], temperature=0, callback_manager=manager)
    response = llm.complete(QUESTION)
    streamed = list(llm.stream_complete(QUESTION))[-1]
    for name, count in (("prompt", counter.prompt_llm_token_count), ("completion", counter.completion_llm_token_count)):
        usage = [found.additional_kwargs[f"{name}_tokens"] for found in (response, streamed)]
        assert count == sum(usage)


@pytest.mark.vllm("minilm")
def test_splitter_counts_with_the_server(vllm_url, sent):
    tokenizer = VLLMTokenizer(VLLMServer(vllm_url), add_special_tokens=False)
    splitter = SentenceSplitter(chunk_size=24, chunk_overlap=0, tokenizer=tokenizer)
    pipeline = IngestionPipeline(transformations=[splitter, VLLMEmbedding(base_url=vllm_url)])
    nodes = pipeline.run(documents=[Document(text=" ".join(TEXTS))])
    assert len(nodes) > 1
    assert all(len(tokenizer(node.text)) <= 24 for node in nodes)
    assert all(len(node.embedding) == 384 for node in nodes)
    assert len(sent.to("/tokenize")) < 20


@pytest.mark.vllm("tiny")
def test_splitter_counts_with_a_local_tokenizer(vllm_url, sent):
    pytest.importorskip("tokenizers")
    tokenizer = VLLMTokenizer(VLLMServer(vllm_url), tokenizer=TINY / "tokenizer.json", add_special_tokens=False)
    splitter = SentenceSplitter(chunk_size=24, chunk_overlap=0, tokenizer=tokenizer)
    chunks = splitter.split_text(" ".join(TEXTS * 10))
    assert len(chunks) > 10
    assert all(len(tokenizer(chunk)) <= 24 for chunk in chunks)
    assert len(sent.to("/tokenize")) == 1


@pytest.mark.vllm("tiny", "minilm")
@constraint_is_enforced
async def test_query_engine_returns_objects(vllm_urls, sent):
    llm = VLLM(base_url=vllm_urls["tiny"], temperature=0, max_tokens=60)
    embed_model = VLLMEmbedding(base_url=vllm_urls["minilm"])
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embed_model)
    engine = index.as_query_engine(llm=llm, output_cls=Place)
    for reply in (engine.query(QUESTION), await engine.aquery(QUESTION)):
        assert isinstance(reply.response, Place)
    schemas = [body["response_format"]["json_schema"]["schema"] for body in sent.bodies("/v1/chat/completions")]
    assert schemas == [Place.model_json_schema()] * 2
