"""Embeddings of images and conversations, and one vector per token."""

import asyncio
import base64
import io

import numpy as np
import pytest

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._request.media import image_url
from vllm_adapters.testing import faults

images = pytest.mark.vllm("eye", flags=("--runner", "pooling", "--convert", "embed"))
tokens = pytest.mark.vllm("minilm", flags=("--pooler-config", '{"task": "token_embed"}'))
TEXTS = ["The sea is blue.", "Rome is in Italy.", "Water is wet."]


@pytest.fixture
def server(vllm_url):
    with VLLMServer(vllm_url, max_retries=0) as server:
        yield server


def part(picture):
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}


class TestImages:
    pytestmark = images

    def test_vector_of_an_image(self, server, sent, pictures, tmp_path):
        content = base64.b64decode(pictures["red"])
        (tmp_path / "red.png").write_bytes(content)
        vector = server.embed_image(content)
        assert (vector.shape, vector.dtype) == ((128,), np.float32)
        assert np.isclose(np.linalg.norm(vector), 1, atol=1e-4)
        assert sent.last.json == {
            "model": "eye",
            "messages": [{"role": "user", "content": [part(pictures["red"])]}],
            "encoding_format": "base64",
        }
        for same in (tmp_path / "red.png", str(tmp_path / "red.png"), io.BytesIO(content), image_url(content)):
            assert np.allclose(server.embed_image(same), vector, atol=1e-5)
        assert not np.allclose(server.embed_image(base64.b64decode(pictures["blue"])), vector, atol=1e-3)

    async def test_vector_of_an_image_async(self, server, pictures):
        red, blue = (base64.b64decode(pictures[color]) for color in ("red", "blue"))
        vectors = await asyncio.gather(server.aembed_image(red), server.aembed_image(blue, text="What color?"))
        assert [vector.shape for vector in vectors] == [(128,), (128,)]

    def test_vector_of_a_conversation(self, server, sent, pictures):
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "What color is this?"}, part(pictures["green"])]},
            {"role": "assistant", "content": "green"},
        ]
        assert server.embed_messages(messages, add_generation_prompt=False).shape == (128,)
        assert sent.last.json["messages"] == messages
        assert sent.last.json["add_generation_prompt"] is False

    def test_too_many_images_raise(self, server, pictures):
        with pytest.raises(e.InvalidRequest, match=r"At most 4 image\(s\)"):
            server.embed_messages([{"role": "user", "content": [part(pictures["red"])] * 5}])


class TestTokens:
    pytestmark = tokens

    def test_one_vector_for_each_token(self, server, sent):
        found = server.embed_tokens(TEXTS)
        assert sent.last.json == {"model": "minilm", "input": TEXTS, "task": "token_embed"}
        assert [vectors.shape for vectors in found] == [(server.count_tokens(text), 384) for text in TEXTS]
        assert {vectors.dtype for vectors in found} == {np.dtype(np.float32)}
        assert np.allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-4)

    async def test_one_vector_for_each_token_async(self, server):
        (vectors,) = await server.aembed_tokens(TEXTS[0])
        assert np.allclose(vectors, server.embed_tokens(TEXTS[0])[0], atol=1e-5)

    def test_rerank_by_late_interaction(self, server):
        query = "Which city is in Italy?"
        best = server.rerank(query, TEXTS)[0]
        assert best.text == "Rome is in Italy."
        (asked,), documents = server.embed_tokens(query), server.embed_tokens(TEXTS)
        by_hand = [float((asked @ vectors.T).max(axis=1).sum()) for vectors in documents]
        assert np.allclose(server.score(query, TEXTS), by_hand, atol=1e-3)

    def test_too_long_text_raises(self, server):
        with pytest.raises(e.ContextLengthExceeded):
            server.embed_tokens("word " * 600)
        assert server.embed_tokens("word " * 600, truncate_prompt_tokens=8)[0].shape == (8, 384)

    def test_vectors_of_texts_are_not_there(self, server):
        with pytest.raises(e.WrongAddress, match=r"does not support Embeddings API.*\.embed_tokens\("):
            server.embed(TEXTS)


@pytest.mark.vllm("minilm")
def test_vectors_of_tokens_need_a_flag(server):
    with pytest.raises(e.FeatureNotEnabled, match="--pooler-config"):
        server.embed_tokens(TEXTS)


@pytest.mark.vllm("minilm")
def test_messages_need_a_chat_template(server):
    with pytest.raises(e.InvalidRequest, match="chat template"):
        server.embed_messages([{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize("data", [[[0.1, 0.2]], [[[0.1, 0.2]], [[0.1, 0.2, 0.3]]], [[[0.1, float("nan")]]], [[[]]]])
def test_malformed_token_vectors_raise(fault_server, data):
    items = [{"index": index, "data": item} for index, item in enumerate(data)]
    fault_server.reply(faults.json_reply({"data": items}), "/pooling")
    with VLLMServer(fault_server.url, model="stub", max_retries=0) as server, pytest.raises(e.InvalidResponse):
        server.embed_tokens(["a"] * len(data))


def test_wrong_number_of_vectors_of_an_image_raises(fault_server, pictures):
    fault_server.reply(faults.json_reply({"data": []}), "/v1/embeddings")
    with VLLMServer(fault_server.url, model="stub", max_retries=0) as server, pytest.raises(e.InvalidResponse):
        server.embed_image(base64.b64decode(pictures["red"]))


def test_nothing_is_sent_of_no_texts_or_wrong_images(fault_server):
    with VLLMServer(fault_server.url, model="stub") as server:
        assert server.embed_tokens([]) == []
        with pytest.raises(e.InvalidRequest, match="`messages` is empty"):
            server.embed_messages([])
        with pytest.raises(e.InvalidRequest, match="`encoding_format` cannot be set"):
            server.embed_image("http://host/a.png", encoding_format="float")
        with pytest.raises(ValueError, match="unknown format"):
            server.embed_image(b"no image")
        with pytest.raises(TypeError, match="`image` must be a URL, a path, bytes or an open file, not int"):
            server.embed_image(3)
        with pytest.raises(FileNotFoundError):
            server.embed_image("missing.png")
    assert fault_server.requests == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n", "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"GIF89a", "gif"),
        (b"RIFF....WEBPVP8", "webp"),
        (b"BM..", "bmp"),
        (b"II*\0", "tiff"),
    ],
)
def test_format_of_an_image_is_recognized(content, kind):
    assert image_url(content).startswith(f"data:image/{kind};base64,")
