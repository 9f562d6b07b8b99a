"""Transient failures are retried, with at most ``1 + max_retries`` requests per call and within its total limit."""

import time
from email.utils import formatdate

import pytest
from openai._models import FinalRequestOptions

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._transport.http import DEADLINE, Deadline
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "first",
    [faults.error(500), faults.error(429, retry_after=0.1), faults.loading(), faults.hang_up()],
    ids=["500", "429", "503", "hang-up"],
)
def test_transient_failure_is_retried(ask, fault_server, first):
    fault_server.script(CHAT, [first])
    reply = ask(fault_server.url, client={"max_retries": 1})
    assert reply.choices[0].message.content == "one two three four five"
    assert len(fault_server.posts(CHAT)) == 2


@pytest.mark.parametrize("max_retries", [0, 2])
def test_at_most_one_plus_max_retries_requests_are_sent(ask, fault_server, max_retries):
    fault_server.reply(faults.error(500))
    with pytest.raises(e.ServerFailed, match="HTTP 500"):
        ask(fault_server.url, client={"max_retries": max_retries})
    assert len(fault_server.posts(CHAT)) == 1 + max_retries


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_other_statuses_are_not_retried(ask, fault_server, status):
    fault_server.reply(faults.error(status, "no"))
    with pytest.raises(e.VLLMError, match="no"):
        ask(fault_server.url, client={"max_retries": 2})
    assert len(fault_server.posts(CHAT)) == 1


# Within the total limit


def test_total_limit_covers_all_attempts(ask, fault_server):
    fault_server.reply(faults.hang())
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout, match="total limit of 1 s"):
        ask(fault_server.url, client={"timeout": Timeouts(idle=0.4, total=1), "max_retries": 50})
    assert time.monotonic() - started < 15, "fifty attempts would take minutes"


def test_total_limit_covers_the_wait_between_attempts(ask, fault_server):
    fault_server.reply(faults.hang_up())
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout, match="total limit of 2 s"):
        ask(fault_server.url, client={"timeout": Timeouts(total=2), "max_retries": 50})
    assert time.monotonic() - started < 30, "fifty attempts would take minutes"


@pytest.mark.parametrize("client_class", [VLLMClient, AsyncVLLMClient])
def test_wait_between_attempts_ends_with_the_call(client_class):
    client = client_class("http://127.0.0.1:9")
    tenth_attempt = 1, FinalRequestOptions.construct(method="post", url="/x", max_retries=10), None
    assert client._calculate_retry_timeout(*tenth_attempt) > 5
    token = DEADLINE.set(Deadline.start(Timeouts(total=2)))
    try:
        assert 0 < client._calculate_retry_timeout(*tenth_attempt) <= 2
    finally:
        DEADLINE.reset(token)


def test_no_wait_beyond_the_total_limit(ask, fault_server):
    fault_server.reply(faults.error(429, "busy", retry_after=30))
    with pytest.raises(e.RateLimited, match="busy") as caught:
        ask(fault_server.url, client={"timeout": Timeouts(total=5), "max_retries": 2})
    assert caught.value.retry_after == 30
    assert len(fault_server.posts(CHAT)) == 1


# Retry-After


def test_retry_after_may_be_a_date(ask, fault_server):
    date = formatdate(time.time() + 60, usegmt=True)
    fault_server.reply(faults.reply(b"{}", 429, headers={"retry-after": date}))
    with pytest.raises(e.RateLimited, match="Too many requests") as caught:
        ask(fault_server.url, client={"timeout": Timeouts(total=5), "max_retries": 2})
    assert 20 < caught.value.retry_after <= 60
    assert len(fault_server.posts(CHAT)) == 1


@pytest.mark.parametrize(("header", "seconds"), [("-5", 0), ("nan", None), ("inf", None), ("soon", None)])
def test_invalid_retry_after_is_ignored(ask, fault_server, header, seconds):
    fault_server.reply(faults.reply(b"{}", 429, headers={"retry-after": header}))
    with pytest.raises(e.RateLimited, match="Too many requests") as caught:
        ask(fault_server.url, client={"max_retries": 1})
    assert caught.value.retry_after == seconds
    assert len(fault_server.posts(CHAT)) == 2


def test_stale_connection_is_replaced(fault_server):
    fault_server.script(CHAT, [faults.stale(faults.chat("hi"))])
    with VLLMClient(fault_server.url) as client:
        for _ in range(2):
            reply = client.chat.completions.create(model="stub", messages=[{"role": "user", "content": "hi"}])
            assert reply.choices[0].message.content == "hi"
