"""Any number of texts: every vector belongs to its text, and every failure has its position."""

import asyncio

import numpy as np
import pytest

from vllm_adapters import VLLMServer
from vllm_adapters.embedder import Embedder
from vllm_adapters.errors import ContextLengthExceeded, InvalidRequest, InvalidResponse, ServerFailed
from vllm_adapters.testing import faults, payloads

EMBEDDINGS = "/v1/embeddings"
TEXTS = [f"text number {n}" for n in range(7)]
MANY = [f"text {n}" for n in range(40)]
TOO_LONG = "word " * 400


@pytest.fixture(params=["sync", "async"])
def embed(request):
    def run(embedder, texts, **options):
        if request.param == "sync":
            return embedder.embed(texts, **options)
        return asyncio.run(embedder.aembed(texts, **options))

    return run


def server_of(fault_server):
    return VLLMServer(fault_server.url, model="stub", max_retries=0)


# With a real server


@pytest.mark.vllm("minilm")
def test_batches_in_order(vllm_url, sent, embed):
    server = VLLMServer(vllm_url)
    found = embed(Embedder(server, batch_size=3, parameters={"truncate_prompt_tokens": -1}), TEXTS)
    bodies = sent.bodies(EMBEDDINGS)
    assert sorted(body["input"] for body in bodies) == [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    assert all((body["encoding_format"], body["truncate_prompt_tokens"]) == ("base64", -1) for body in bodies)
    one_by_one = np.vstack([server.embed(text, truncate_prompt_tokens=-1) for text in TEXTS])
    assert found.vectors.shape == (7, 384)
    np.testing.assert_allclose(found.vectors, one_by_one, atol=1e-5)
    assert found.prompt_tokens == sum(server.count_tokens(text) for text in TEXTS)
    assert not found.failures


@pytest.mark.vllm("minilm")
def test_rejected_text_does_not_fail_its_batch(vllm_url, embed):
    texts = [*TEXTS[:4], TOO_LONG, *TEXTS[4:], TOO_LONG]
    embedder = Embedder(VLLMServer(vllm_url), batch_size=6)
    found = embed(embedder, texts, keep_going=True)
    assert list(found.failures) == [4, 8]
    assert isinstance(found.failures[4], ContextLengthExceeded)
    assert np.isnan(found.vectors[[4, 8]]).all()
    right = embed(embedder, TEXTS).vectors
    np.testing.assert_allclose(found.vectors[[0, 1, 2, 3, 5, 6, 7]], right, atol=1e-5)


@pytest.mark.vllm("minilm")
def test_rejected_text_raises(vllm_url, embed):
    with pytest.raises(ContextLengthExceeded, match="truncate_prompt_tokens=-1"):
        embed(Embedder(VLLMServer(vllm_url)), ["short", TOO_LONG])


# Arguments


def test_no_texts_send_nothing(embed):
    found = embed(Embedder(VLLMServer("http://localhost:9")), [])
    assert found.vectors.shape == (0, 0)
    assert found.prompt_tokens == 0


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_concurrency": 0}])
def test_options_below_one_raise(options):
    with pytest.raises(ValueError, match="at least 1"):
        Embedder(VLLMServer("http://localhost:9"), **options)


def test_single_str_raises(embed):
    with pytest.raises(TypeError, match="sequence of str"):
        embed(Embedder(VLLMServer("http://localhost:9")), "one")


# Concurrency


class LastFirst:
    """Keeps ``size`` requests waiting while there are more to come, and always answers the last to arrive first."""

    def __init__(self, size, total):
        self.size, self.total, self.arrived, self.most = size, total, 0, 0
        self.waiting = []

    async def __call__(self, exchange):
        turn = asyncio.Event()
        self.waiting.append(turn)
        self.arrived += 1
        self.most = max(self.most, len(self.waiting))
        self.answer_next()
        await asyncio.wait_for(turn.wait(), 60)
        await faults.healthy(exchange)
        if self.arrived == self.total:
            self.answer_next()

    def answer_next(self):
        if self.waiting and (len(self.waiting) == self.size or self.arrived == self.total):
            self.waiting.pop().set()


def test_concurrency_is_bounded_and_order_restored(fault_server, embed):
    last_first = LastFirst(3, 10)
    fault_server.reply(last_first, EMBEDDINGS)
    found = embed(Embedder(server_of(fault_server), batch_size=4, max_concurrency=3), MANY)
    assert (last_first.arrived, last_first.most) == (10, 3)
    assert (found.vectors == np.array([payloads.vector(text, found.vectors.shape[1]) for text in MANY], "f4")).all()


def test_cancelling_disconnects(fault_server):
    fault_server.reply(faults.hang(), EMBEDDINGS)

    async def run():
        task = asyncio.ensure_future(Embedder(server_of(fault_server), batch_size=1, max_concurrency=2).aembed(MANY))
        while len(fault_server.posts(EMBEDDINGS)) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert fault_server.wait_for(lambda: all(post.disconnected_at for post in fault_server.posts(EMBEDDINGS)), 30)
    assert len(fault_server.posts(EMBEDDINGS)) == 2


def test_progress_is_shown(fault_server, embed, capsys):
    embed(Embedder(server_of(fault_server), batch_size=4), MANY, progress="Embedding texts")
    shown = capsys.readouterr().err
    assert "Embedding texts: 100%" in shown
    assert "40/40" in shown


# Failures


def test_nothing_is_sent_after_a_failure(fault_server, embed):
    fault_server.reply(faults.error(500), EMBEDDINGS)
    with pytest.raises(ServerFailed, match="HTTP 500"):
        embed(Embedder(server_of(fault_server), batch_size=1, max_concurrency=2), MANY)
    assert len(fault_server.posts(EMBEDDINGS)) <= 4


def test_keep_going_reports_failures_and_does_not_split_their_batch(fault_server, embed):
    fault_server.script(EMBEDDINGS, [faults.error(500)])
    found = embed(Embedder(server_of(fault_server), batch_size=10, max_concurrency=1), MANY, keep_going=True)
    assert list(found.failures) == list(range(10))
    assert isinstance(found.failures[0], ServerFailed)
    assert np.isnan(found.vectors[:10]).all()
    assert np.isfinite(found.vectors[10:]).all()
    assert len(fault_server.posts(EMBEDDINGS)) == 4


@pytest.mark.parametrize("failure", [faults.error(401, "Unauthorized", shape="string"), faults.hang_up()])
def test_keep_going_gives_up_after_three_errors_of_the_server(fault_server, embed, failure):
    fault_server.reply(failure, EMBEDDINGS)
    found = embed(Embedder(server_of(fault_server), batch_size=1, max_concurrency=1), MANY, keep_going=True)
    assert len(fault_server.posts(EMBEDDINGS)) == 3
    assert list(found.failures) == list(range(40))


def test_keep_going_raises_what_is_rejected_for_every_text(fault_server, embed):
    fault_server.reply(faults.error(400, "truncate_prompt_tokens is too large"), EMBEDDINGS)
    with pytest.raises(InvalidRequest, match="truncate_prompt_tokens is too large"):
        embed(Embedder(server_of(fault_server), max_concurrency=1), MANY, keep_going=True)
    assert len(fault_server.posts(EMBEDDINGS)) == 2


def test_keep_going_without_any_success_returns_empty_vectors(fault_server, embed):
    fault_server.reply(faults.error(500), EMBEDDINGS)
    found = embed(Embedder(server_of(fault_server)), ["a", "b"], keep_going=True)
    assert found.vectors.shape == (2, 0)
    assert list(found.failures) == [0, 1]


def test_vectors_of_two_models_raise(fault_server, embed):
    fault_server.script(EMBEDDINGS, [faults.json_reply(payloads.embeddings([[1.0, 2.0]]))])
    with pytest.raises(InvalidResponse, match=r"8 dimensions after 2 in another batch.*several servers"):
        embed(Embedder(server_of(fault_server), batch_size=1, max_concurrency=1), ["a", "b"])
