"""VLLMEmbeddings, and LangChain's own suites for embeddings."""

import asyncio
import copy
import pickle

import numpy as np
import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from packaging.version import Version

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLMEmbeddings

pytestmark = pytest.mark.smoke

PATH = "/v1/embeddings"

recorded = pytest.mark.vllm("minilm")


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return VLLMEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": "minilm", "base_url": "http://localhost:8000"}

    @property
    def init_from_env_params(self):
        env = {"VLLM_BASE_URL": "http://gpu:8000", "VLLM_API_KEY": "from-env"}
        return env, {"model": "minilm"}, {"base_url": "http://gpu:8000/v1"}


@recorded
class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return VLLMEmbeddings

    @property
    def embedding_model_params(self):
        return {"max_retries": 0}


# Stock: token ids of an OpenAI tokenizer, which are other texts to the served model.
@recorded
@pytest.mark.parametrize("life", ["sync", "async"])
async def test_texts_are_sent_as_they_are(vllm_url, sent, life):
    embeddings = VLLMEmbeddings(
        base_url=vllm_url, query_instruction="Instruct: find\nQuery: ", document_instruction="passage:\n", batch_size=2
    )
    texts = ["def f():\n    return 1", "two  spaces", "dritter"]
    if life == "sync":
        vectors, query = embeddings.embed_documents(texts), embeddings.embed_query("a\nb")
    else:
        vectors, query = await embeddings.aembed_documents(texts), await embeddings.aembed_query("a\nb")
    bodies = sent.bodies(PATH)
    assert [body["input"] for body in bodies if len(body["input"]) == 2] == [[f"passage:\n{t}" for t in texts[:2]]]
    assert bodies[-1]["input"] == ["Instruct: find\nQuery: a\nb"]
    assert all(body["encoding_format"] == "base64" for body in bodies)
    right = VLLMServer(vllm_url).embed([f"passage:\n{t}" for t in texts])
    np.testing.assert_allclose(vectors, right, atol=1e-5)
    assert len(query) == 384
    assert isinstance(query[0], float)


@recorded
def test_parameters(vllm_url, vllm_version, sent):
    usage = []
    embeddings = VLLMEmbeddings(
        base_url=vllm_url, truncate_prompt_tokens=-1, use_activation=False, on_usage=usage.append
    )
    assert embeddings.embed_documents(["word " * 500])
    assert sent.bodies(PATH)[-1]["truncate_prompt_tokens"] == -1
    name = "use_activation" if vllm_version >= Version("0.16") else "normalize"
    assert sent.bodies(PATH)[-1][name] is False
    assert usage == [256]


def test_older_server_lacks_a_parameter(make_fault_server):
    server = make_fault_server(version="0.10.2")
    with pytest.raises(e.UnsupportedParameter, match=r"0\.10\.2.*cache_salt"):
        VLLMEmbeddings(base_url=server.url, model="stub", cache_salt="pepper").embed_query("one")


@recorded
def test_too_long_text_raises(vllm_url):
    with pytest.raises(e.ContextLengthExceeded, match="truncate_prompt_tokens=-1"):
        VLLMEmbeddings(base_url=vllm_url).embed_documents(["short", "word " * 500])


@recorded
def test_dimensions_of_a_model_without_matryoshka_raise(vllm_url, sent):
    with pytest.raises(e.FeatureNotEnabled, match="matryoshka"):
        VLLMEmbeddings(base_url=vllm_url, dimensions=64).embed_query("a")
    assert sent.bodies(PATH)[-1]["dimensions"] == 64


@recorded
def test_progress(vllm_url, capsys):
    VLLMEmbeddings(base_url=vllm_url, show_progress=True).embed_documents(["a", "b"])
    assert "Embedding documents: 100%" in capsys.readouterr().err


def test_no_texts():
    assert VLLMEmbeddings().embed_documents([]) == []


@pytest.mark.parametrize("wrong", [{"truncate": True}, {"chunk_size": 10}, {"encoding_format": "float"}])
def test_unknown_arguments_are_rejected(wrong):
    with pytest.raises(e.InvalidRequest, match=f"`{next(iter(wrong))}` is not"):
        VLLMEmbeddings(**wrong)


@recorded
def test_copies_and_pickles(vllm_url):
    embeddings = VLLMEmbeddings(base_url=vllm_url, api_key="canary", default_headers={"x": "canary"}, batch_size=3)
    packed = pickle.dumps(embeddings)
    assert b"canary" not in packed
    assert "canary" not in repr(embeddings) + str(embeddings) + embeddings.model_dump_json()
    for other in (pickle.loads(packed), copy.deepcopy(embeddings)):
        assert (other.batch_size, len(other.embed_query("a"))) == (3, 384)


@pytest.mark.parametrize("texts", [["a", None], ["a", 1], [["a"]], "abc", [b"a"]])
def test_texts_of_other_types_are_rejected(fault_server, texts):
    embeddings = VLLMEmbeddings(base_url=fault_server.url, model="stub", document_instruction="d: ")
    with pytest.raises(e.InvalidRequest, match="must be a"):
        embeddings.embed_documents(texts)
    with pytest.raises(e.InvalidRequest, match="must be a"):
        asyncio.run(embeddings.aembed_documents(texts))
    for call in (embeddings.embed_query, lambda text: asyncio.run(embeddings.aembed_query(text))):
        with pytest.raises(e.InvalidRequest, match="`text` must be a str, not NoneType"):
            call(None)
    assert not fault_server.requests
