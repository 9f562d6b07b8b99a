"""A real server that is full, or paused: every framework says so, and never that the model may be loading."""

import asyncio
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from version_marks import vllm_since

from chats import CHATS
from vllm_adapters.errors import RateLimited, ServerOverloaded, VLLMError

CHAT = "/v1/chat/completions"
COUNT = [{"role": "user", "content": "Count to 10"}]
LONG = {"max_tokens": 300, "ignore_eos": True, "temperature": 0}
CALLS = 16

each_chat = pytest.mark.parametrize("chat", CHATS, ids=lambda chat: chat.__name__)


def outcome(error):
    """The error's class by its name in ``errors``: a framework's own class is derived from it."""
    assert isinstance(error, ServerOverloaded), error
    assert isinstance(error, RateLimited)
    assert error.status_code == 503
    assert "is overloaded or paused" in str(error)
    assert "loading" not in str(error)
    return "overloaded"


@each_chat
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.vllm("tiny", flags=("--max-num-queued-reqs", "1", "--max-num-seqs", "1"))
@vllm_since("0.32", reason="has no --max-num-queued-reqs: its queue has no limit")
def test_full_queue_is_overload(vllm_url, sent, chat, mode):
    chat = chat(vllm_url)

    def send(_):
        try:
            return "ok" if chat.send(COUNT, **LONG) else "empty"
        except VLLMError as error:
            return outcome(error)

    async def send_all():
        replies = await asyncio.gather(*(chat.asend(COUNT, **LONG) for _ in range(CALLS)), return_exceptions=True)
        return [outcome(reply) if isinstance(reply, Exception) else "ok" for reply in replies]

    if mode == "sync":
        with ThreadPoolExecutor(CALLS) as threads:
            outcomes = Counter(threads.map(send, range(CALLS)))
    else:
        outcomes = Counter(asyncio.run(send_all()))
    assert outcomes.keys() == {"ok", "overloaded"}
    assert outcomes.total() == len(sent.bodies(CHAT)) == CALLS, "no call is repeated"


def post(url, path):
    """Send a request to one of the server's routes for its developers."""
    root = url.removesuffix("/v1")
    with urllib.request.urlopen(urllib.request.Request(root + path, method="POST")) as response:
        return response.status


@each_chat
@pytest.mark.vllm("tiny", env={"VLLM_SERVER_DEV_MODE": "1"})
@vllm_since("0.33", reason="holds requests back while it is paused, and answers them later")
def test_paused_server_is_overload_and_serves_again(vllm_url, chat):
    chat = chat(vllm_url)
    assert post(vllm_url, "/pause") == 200
    with pytest.raises(ServerOverloaded) as caught:
        chat.send(COUNT, temperature=0)
    assert outcome(caught.value)
    assert "paused" in str(caught.value)
    assert post(vllm_url, "/resume") == 200
    assert chat.send(COUNT, temperature=0).startswith("1 2 3")
