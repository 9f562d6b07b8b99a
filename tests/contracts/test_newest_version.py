"""What vLLM 0.33 added, on a real server of that version."""

import numpy as np
import pytest
from version_marks import vllm_since

from chats import CHATS
from vllm_adapters import VLLMClient, VLLMServer
from vllm_adapters.errors import InvalidResponse, UnsupportedParameter

HELLO = [{"role": "user", "content": "Hello"}]
TEXT = "A cat sleeps on the sofa. A dog barks. A bird sings."
TOKEN_EMBEDDINGS = pytest.mark.vllm("minilm", flags=("--pooler-config", '{"task": "token_embed"}'))


@pytest.mark.vllm("tiny")
@pytest.mark.parametrize("chat", CHATS, ids=lambda chat: chat.__name__)
@vllm_since("0.33", before=UnsupportedParameter, match="return_weight_versions")
def test_weight_versions_are_requested(vllm_url, sent, chat):
    assert chat(vllm_url).send(HELLO, return_weight_versions=True, temperature=0)
    assert sent.last.json["return_weight_versions"] is True


@TOKEN_EMBEDDINGS
@vllm_since("0.33", reason="/v1/embeddings does not serve token embeddings")
def test_late_chunks_are_a_matrix_and_no_vector(vllm_url, sent):
    chunked = {"late_chunking_params": {"chunk_size": 8}}
    with VLLMClient(vllm_url, max_retries=0) as client:
        with pytest.raises(InvalidResponse, match=r"returned a matrix.*pooling\(texts, task='token_embed'\)"):
            client.embeddings.create(model="minilm", input=TEXT, encoding_format="float", extra_body=chunked)
        assert sent.last.json["late_chunking_params"] == {"chunk_size": 8}
    with VLLMServer(vllm_url, max_retries=0) as server:
        (matrix,) = server.pooling([TEXT], task="token_embed")
    assert matrix.ndim == 2
    assert matrix.shape[1] == 384
    assert np.isfinite(matrix).all()
