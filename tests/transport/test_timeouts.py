"""Every call ends: limits for connecting, for silence and for the whole call, look-ups and attempts included."""

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._transport.http import Deadline
from vllm_adapters.testing import faults, payloads

HELLO = {"model": "stub", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("timeout", "limits"),
    [
        (5, Timeouts(5, 5, 5)),
        (math.inf, Timeouts(30, None, None)),
        (60, Timeouts(30, 60, 60)),
        ((3, 60), Timeouts(3, 60)),
        (openai.Timeout(7, read=8), Timeouts(7, 8)),
        (None, Timeouts(None, None, None)),
    ],
)
def test_timeout_may_have_any_form(timeout, limits):
    assert VLLMClient(timeout=timeout).vllm.timeouts == limits


@pytest.mark.parametrize("timeout", ["60", {"connect": 1}, (5,)])
def test_timeout_of_another_type_raises(timeout):
    with pytest.raises(TypeError, match=f"`timeout` must be a number or Timeouts, not {type(timeout).__name__}"):
        VLLMClient(timeout=timeout)


@pytest.mark.parametrize(
    ("behaviour", "timeout", "kind"),
    [
        (faults.hang(), Timeouts(idle=0.4), "idle"),
        (faults.hang(), 0.4, "total"),
        (faults.drip(0.05, sse=False), Timeouts(idle=30, total=0.5), "total"),
        (faults.drip(0.05, sse=False), 0.5, "total"),
        (faults.split(faults.chat("hi"), 1, 0.1), Timeouts(idle=30, total=0.5), "total"),  # headers byte by byte
    ],
    ids=["hang-idle", "hang-total", "drip-idle-total", "drip-total", "slow-headers"],
)
def test_every_limit_ends_a_call(ask, fault_server, behaviour, timeout, kind):
    fault_server.reply(behaviour)
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout, match=f"the {kind} limit of 0\\.[45] s") as caught:
        ask(fault_server.url, client={"timeout": timeout})
    assert isinstance(caught.value, openai.APITimeoutError)
    assert caught.value.kind == kind
    assert time.monotonic() - started < 15


def late_piece(stream):
    """Return a behaviour that sends one piece after a while, and then nothing."""

    async def behave(exchange):
        await exchange.head(200, "text/event-stream" if stream else "application/json")
        await asyncio.sleep(0.5)
        await exchange.data(b": \n\n" if stream else b" ")
        await exchange.end("hang")

    return behave


SLOW_WORDS = faults.sse(*payloads.chat_chunks("one two three"), pause=0.2, end="hang")
SLOW_BODY = faults.truncate(faults.split(faults.chat("hi"), 100, 0.2), 300, "hang")


@pytest.mark.parametrize(
    ("stream", "behaviour"),
    [(True, late_piece(True)), (False, late_piece(False)), (True, SLOW_WORDS), (False, SLOW_BODY)],
    ids=["comment", "space", "words", "body"],
)
def test_silence_that_begins_late_ends_at_the_total_limit(ask, fault_server, stream, behaviour):
    fault_server.reply(behaviour)
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout, match="the total limit of 2 s") as caught:
        ask(fault_server.url, stream=stream, client={"timeout": Timeouts(idle=60, total=2)})
    assert caught.value.kind == "total"
    assert time.monotonic() - started < 30, "the idle limit alone would end it after a minute"


def test_limit_of_one_request(fault_server):
    fault_server.reply(faults.hang())
    with (
        pytest.raises(e.ServerTimeout, match=r"limit of 0\.3 s"),
        VLLMClient(fault_server.url, max_retries=0) as client,
    ):
        client.chat.completions.create(**HELLO, timeout=0.3)


def test_limit_of_one_request_covers_its_look_ups(ask, fault_server):
    fault_server.reply(faults.hang(), "/v1/models")
    with pytest.raises(e.ServerTimeout, match=r"total limit of 0\.3 s"):
        ask(fault_server.url, model="", timeout=0.3)


def test_total_limit_covers_the_wait_for_look_ups_of_other_calls(fault_server):
    fault_server.reply(faults.hang(), "/v1/models")
    limits = {"timeout": Timeouts(idle=1, total=2), "max_retries": 0}
    client, aclient = VLLMClient(fault_server.url, **limits), AsyncVLLMClient(fault_server.url, **limits)
    request = {**HELLO, "model": ""}

    def seconds(_):
        started = time.monotonic()
        with pytest.raises(e.ServerTimeout, match=r"limit of [12] s"):
            client.chat.completions.create(**request)
        return time.monotonic() - started

    async def aseconds():
        started = time.monotonic()
        with pytest.raises(e.ServerTimeout, match=r"limit of [12] s"):
            await aclient.chat.completions.create(**request)
        return time.monotonic() - started

    async def together():
        return await asyncio.gather(*(aseconds() for _ in range(32)))

    # One after the other they would take half a minute.
    with ThreadPoolExecutor(32) as threads:
        assert max(threads.map(seconds, range(32))) < 15
    assert max(asyncio.run(together())) < 15


def test_unreachable_server_raises(ask):
    with pytest.raises(e.ServerUnreachable, match=r"http://127\.0\.0\.1:9/v1.*Is it running"):
        ask("http://127.0.0.1:9")


# Deadlines


def test_inner_deadline_ends_no_later_than_the_outer_one():
    outer = Deadline.start(Timeouts(idle=1, total=5))
    assert Deadline.start(Timeouts(idle=2, total=50), outer) == Deadline(Timeouts(idle=2, total=5), outer.at)
    inner = Deadline.start(Timeouts(total=1), outer)
    assert (inner.limits, inner.at < outer.at) == (Timeouts(total=1), True)
    assert Deadline.start(Timeouts(total=None), outer).at == outer.at


def test_deadline_without_a_limit_has_nothing_left_to_count():
    assert Deadline.start(Timeouts(total=None)).left() is None


def test_expired_deadline_raises():
    with pytest.raises(e.ServerTimeout, match="total limit of 5 s"):
        Deadline(Timeouts(total=5), time.monotonic() - 1).left()
