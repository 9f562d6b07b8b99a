"""Embedding on servers that fail, answer slowly, or are not one server."""

import asyncio

import numpy as np
import pytest

from vllm_adapters import VLLMServer
from vllm_adapters.embedder import Embedder
from vllm_adapters.errors import InvalidRequest, InvalidResponse, ServerFailed
from vllm_adapters.testing import faults, payloads
from vllm_adapters.testing.faults import healthy

TEXTS = [f"text {n}" for n in range(40)]


@pytest.fixture(params=["sync", "async"])
def embed(request):
    def run(embedder, texts, **how):
        if request.param == "sync":
            return embedder.embed(texts, **how)
        return asyncio.run(embedder.aembed(texts, **how))

    return run


def server_of(fault_server):
    return VLLMServer(fault_server.url, model="stub", max_retries=0)


class Slowest:
    """Answers the earlier the later a request came, and notes how many were under way at once."""

    def __init__(self):
        self.came = self.running = self.most = 0

    async def __call__(self, exchange):
        self.came += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.2 / self.came)
        await healthy(exchange)
        self.running -= 1


def test_bounded_concurrency_and_the_order_restored(fault_server, embed):
    slowest = Slowest()
    fault_server.reply(slowest, "/v1/embeddings")
    found = embed(Embedder(server_of(fault_server), batch_size=4, max_concurrency=3), TEXTS)
    assert slowest.came == 10
    assert slowest.most == 3
    assert (found.vectors == np.array([payloads.vector(text, found.vectors.shape[1]) for text in TEXTS], "f4")).all()


def test_after_a_failure_nothing_more_is_sent(fault_server, embed):
    fault_server.reply(faults.error(500), "/v1/embeddings")
    with pytest.raises(ServerFailed):
        embed(Embedder(server_of(fault_server), batch_size=1, max_concurrency=2), TEXTS)
    assert len(fault_server.posts("/v1/embeddings")) <= 4


def test_keep_going_tells_what_failed_and_does_not_split_what_no_text_is_to_blame_for(fault_server, embed):
    fault_server.script("/v1/embeddings", [faults.error(500)])
    found = embed(Embedder(server_of(fault_server), batch_size=10, max_concurrency=1), TEXTS, keep_going=True)
    assert list(found.failures) == list(range(10))
    assert isinstance(found.failures[0], ServerFailed)
    assert np.isnan(found.vectors[:10]).all()
    assert np.isfinite(found.vectors[10:]).all()
    assert len(fault_server.posts("/v1/embeddings")) == 4


@pytest.mark.parametrize("failure", [faults.error(401, "Unauthorized", shape="string"), faults.hang_up()])
def test_keep_going_gives_a_dead_server_up(fault_server, embed, failure):
    fault_server.reply(failure, "/v1/embeddings")
    found = embed(Embedder(server_of(fault_server), batch_size=1, max_concurrency=1), TEXTS, keep_going=True)
    assert len(fault_server.posts("/v1/embeddings")) == 3
    assert list(found.failures) == list(range(40))


def test_keep_going_does_not_ask_for_each_text_what_is_refused_for_any(fault_server, embed):
    fault_server.reply(faults.error(400, "truncate_prompt_tokens is too large"), "/v1/embeddings")
    with pytest.raises(InvalidRequest, match="too large"):
        embed(Embedder(server_of(fault_server), max_concurrency=1), TEXTS, keep_going=True)
    assert len(fault_server.posts("/v1/embeddings")) == 2


def test_all_failed(fault_server, embed):
    fault_server.reply(faults.error(500), "/v1/embeddings")
    found = embed(Embedder(server_of(fault_server)), ["a", "b"], keep_going=True)
    assert found.vectors.shape == (2, 0)
    assert list(found.failures) == [0, 1]


def test_two_models_behind_one_address(fault_server, embed):
    fault_server.script("/v1/embeddings", [faults.json_reply(payloads.embeddings([[1.0, 2.0]]))])
    with pytest.raises(InvalidResponse, match="several servers with different models"):
        embed(Embedder(server_of(fault_server), batch_size=1, max_concurrency=1), ["a", "b"])


def test_cancelling_frees_the_server(fault_server):
    fault_server.reply(faults.hang(), "/v1/embeddings")

    async def run():
        task = asyncio.ensure_future(Embedder(server_of(fault_server), batch_size=1, max_concurrency=2).aembed(TEXTS))
        while len(fault_server.posts("/v1/embeddings")) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert fault_server.wait_for(lambda: all(post.disconnected_at for post in fault_server.posts("/v1/embeddings")))
    assert len(fault_server.posts("/v1/embeddings")) == 2


def test_progress(fault_server, embed, capsys):
    embed(Embedder(server_of(fault_server), batch_size=4), TEXTS, progress="Embedding texts")
    shown = capsys.readouterr().err
    assert "Embedding texts: 100%" in shown
    assert "40/40" in shown
