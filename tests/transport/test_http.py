"""How requests travel: limits, pools, loops, forks, redirects, proxies, the environment."""

import asyncio
import copy
import gc
import math
import multiprocessing
import pickle
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import openai
import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads
from vllm_adapters.timeouts import Timeouts

CHAT = "/v1/chat/completions"


def hello(text="hi"):
    return {"model": "stub", "messages": [{"role": "user", "content": text}]}


def answer(client, text="hi"):
    return client.chat.completions.create(**hello(text)).choices[0].message.content


@pytest.mark.parametrize(
    ("behaviour", "timeout", "kind"),
    [
        (faults.hang(), Timeouts(idle=0.4), "idle"),
        (faults.hang(), 0.4, "total"),
        (faults.drip(0.05, sse=False), Timeouts(idle=5, total=0.5), "total"),
        (faults.drip(0.05, sse=False), 0.5, "total"),
        (faults.split(faults.chat("hi"), 1, 0.1), Timeouts(idle=5, total=0.5), "total"),  # headers byte by byte
    ],
)
def test_every_limit_ends_a_call(ask, fault_server, behaviour, timeout, kind):
    fault_server.reply(behaviour)
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout) as caught:
        ask(fault_server.url, client={"timeout": timeout})
    assert isinstance(caught.value, openai.APITimeoutError)
    assert caught.value.kind == kind
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("stream", [True, False])
def test_silence_after_a_late_piece_ends_at_the_total_limit(ask, fault_server, stream):
    async def run(exchange):
        await exchange.head(200, "text/event-stream" if stream else "application/json")
        await asyncio.sleep(0.7)
        await exchange.data(b": \n\n" if stream else b" ")
        await asyncio.sleep(5)

    fault_server.reply(run)
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout) as caught:
        ask(fault_server.url, stream=stream, client={"timeout": 1})
    assert caught.value.kind == "total"
    assert time.monotonic() - started < 1.6  # the idle limit alone would end it at 1.7 s


@pytest.mark.parametrize(
    ("stream", "behaviour"),
    [
        (True, faults.sse(*payloads.chat_chunks("one two three"), pause=0.4, end="hang")),
        (False, faults.truncate(faults.split(faults.chat("hi"), 100, 0.4), 300, "hang")),
    ],
)
def test_a_silence_that_begins_late_ends_with_the_total_limit(ask, fault_server, stream, behaviour):
    ask(fault_server.url)  # what is loaded by the first call takes its time
    fault_server.reply(behaviour)
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout) as caught:
        ask(fault_server.url, stream=stream, client={"timeout": Timeouts(idle=1.9, total=2)})
    assert caught.value.kind == "total"
    assert time.monotonic() - started < 2.8


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        (5, Timeouts(5, 5, 5)),
        (math.inf, Timeouts(30, None, None)),
        (60, Timeouts(30, 60, 60)),
        ((3, 60), Timeouts(3, 60)),
        (openai.Timeout(7, read=8), Timeouts(7, 8)),
        (None, Timeouts(None, None, None)),
    ],
)
def test_forms_of_limits(given, limits):
    assert VLLMClient(timeout=given).vllm.timeouts == limits


@pytest.mark.parametrize("given", ["60", {"connect": 1}, (5,)])
def test_what_is_no_limit(given):
    with pytest.raises(TypeError, match="Timeouts"):
        VLLMClient(timeout=given)


def test_total_limit_covers_all_attempts(ask, fault_server):
    fault_server.reply(faults.hang())
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout):
        ask(fault_server.url, client={"timeout": Timeouts(idle=0.4, total=1.0), "max_retries": 50})
    assert time.monotonic() - started < 4


def test_total_limit_covers_the_wait_for_what_another_call_asks(fault_server):
    fault_server.reply(faults.hang(), "/v1/models")
    limits = {"timeout": Timeouts(idle=0.5, total=1), "max_retries": 0}
    client, aclient = VLLMClient(fault_server.url, **limits), AsyncVLLMClient(fault_server.url, **limits)
    request = {**hello(), "model": ""}

    def timed(_):
        started = time.monotonic()
        with pytest.raises(e.ServerTimeout):
            client.chat.completions.create(**request)
        return time.monotonic() - started

    async def atimed():
        started = time.monotonic()
        with pytest.raises(e.ServerTimeout):
            await aclient.chat.completions.create(**request)
        return time.monotonic() - started

    async def together():
        return await asyncio.gather(*(atimed() for _ in range(8)))

    with ThreadPoolExecutor(8) as threads:
        assert max(threads.map(timed, range(8))) < 2.5
    assert max(asyncio.run(together())) < 2.5


def test_total_limit_covers_the_wait_before_another_attempt(ask, fault_server):
    fault_server.reply(faults.hang_up())
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout) as caught:
        ask(fault_server.url, client={"timeout": Timeouts(total=2), "max_retries": 5})
    assert caught.value.kind == "total"
    assert time.monotonic() - started < 2.5  # the attempts would be at 0, 0.5, 1.5 and 3.5 s, or a little earlier


def test_a_date_to_ask_again_at(ask, fault_server):
    at = formatdate(time.time() + 30, usegmt=True)
    fault_server.reply(faults.reply(b"{}", 429, headers={"retry-after": at}))
    started = time.monotonic()
    with pytest.raises(e.RateLimited) as caught:
        ask(fault_server.url, client={"timeout": Timeouts(total=5), "max_retries": 2})
    assert 25 < caught.value.retry_after <= 30
    assert time.monotonic() - started < 3
    assert len(fault_server.posts(CHAT)) == 1


@pytest.mark.parametrize(("said", "seconds"), [("-5", 0), ("nan", None), ("inf", None), ("soon", None)])
def test_what_is_no_time_to_wait(ask, fault_server, said, seconds):
    fault_server.reply(faults.reply(b"{}", 429, headers={"retry-after": said}))
    with pytest.raises(e.RateLimited) as caught:
        ask(fault_server.url, client={"max_retries": 1})
    assert caught.value.retry_after == seconds
    assert len(fault_server.posts(CHAT)) == 2


def test_no_wait_for_longer_than_the_total_limit(ask, fault_server):
    fault_server.reply(faults.error(429, retry_after=30))
    with pytest.raises(e.RateLimited) as caught:
        ask(fault_server.url, client={"timeout": Timeouts(total=5), "max_retries": 2})
    assert caught.value.retry_after == 30
    assert len(fault_server.posts(CHAT)) == 1


@pytest.mark.parametrize("limits", [{"max_connections": 2}, None])
def test_options_of_the_http_client(fault_server, limits):
    options = {"headers": {"x-team": "search"}, **({"limits": limits} if limits else {})}
    assert answer(VLLMClient(fault_server.url, http_options=options)) == "hi"
    aclient = AsyncVLLMClient(fault_server.url, http_options=options)

    async def run():
        return (await aclient.chat.completions.create(**hello())).choices[0].message.content

    assert [asyncio.run(run()) for _ in range(3)] == ["hi"] * 3
    assert [request.headers["x-team"] for request in fault_server.posts(CHAT)] == ["search"] * 4
    with pytest.raises(e.ServerUnreachable):
        answer(VLLMClient(fault_server.url, max_retries=0, http_options={"proxy": "http://127.0.0.1:9"}))


def test_a_closed_client_connects_anew(fault_server):
    client, aclient = VLLMClient(fault_server.url), AsyncVLLMClient(fault_server.url)

    async def run():
        for _ in range(2):
            assert (await aclient.chat.completions.create(**hello())).choices
            await aclient.close()

    for _ in range(2):
        assert answer(client) == "hi"
        client.close()
    asyncio.run(run())


def test_limit_of_one_request(fault_server):
    fault_server.reply(faults.hang())
    with pytest.raises(e.ServerTimeout), VLLMClient(fault_server.url, max_retries=0) as client:
        client.chat.completions.create(**hello(), timeout=0.3)


def test_the_limit_of_a_request_holds_for_what_is_asked_on_its_way(ask, fault_server):
    fault_server.reply(faults.hang(), "/v1/models")
    began = time.monotonic()
    with pytest.raises(e.ServerTimeout, match=r"total limit of 0\.3 s"):
        ask(fault_server.url, model="", timeout=0.3)
    assert time.monotonic() - began < 3


def test_nobody_there(ask):
    with pytest.raises(e.ServerUnreachable, match=r"http://127\.0\.0\.1:9/v1.*Is it running"):
        ask("http://127.0.0.1:9")


def test_redirect_to_another_origin_is_refused(ask, fault_server, make_fault_server):
    other = make_fault_server()
    fault_server.reply(faults.redirect(f"{other.url}/chat/completions?token=secret"))
    with pytest.raises(e.WrongAddress, match="redirects to") as caught:
        ask(fault_server.url)
    assert "secret" not in str(caught.value)
    assert not other.requests


def test_redirect_within_the_origin_is_followed(ask, fault_server):
    fault_server.script(CHAT, [faults.redirect(f"{fault_server.url}/chat/completions?moved=1")])
    assert ask(fault_server.url).choices[0].message.content == "one two three four five"


def test_no_proxy_of_the_environment_for_loopback(ask, fault_server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(fault_server.url)


def test_nothing_of_openais_environment_reaches_the_wire(ask, fault_server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "sk-canary")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Canary: sk-canary")
    monkeypatch.setenv("VLLM_BASE_URL", fault_server.url)
    ask(None)
    request = fault_server.posts(CHAT)[0]
    assert "canary" not in str(dict(request.headers))
    assert request.headers["authorization"] == "Bearer EMPTY"
    assert not {name for name in request.headers if name.startswith("openai")}


def test_key_of_the_environment(ask, make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-right")
    monkeypatch.setenv("VLLM_API_KEY", "sk-right\n")
    assert ask(server.url)
    with pytest.raises(e.AuthenticationFailed, match="VLLM_API_KEY"):
        ask(server.url, client={"api_key": "sk-wrong"})


def test_a_key_no_header_can_carry_is_not_shown():
    with pytest.raises(e.AuthenticationFailed) as caught:
        VLLMClient("http://h:1", api_key="sk-canary\r\nX-Evil: 1")
    assert "canary" not in str(caught.value)


def test_one_client_in_three_event_loops(fault_server):
    client = AsyncVLLMClient(fault_server.url, max_retries=0)

    async def run():
        return (await client.chat.completions.create(**hello())).choices[0].message.content

    assert [asyncio.run(run()) for _ in range(3)] == ["hi"] * 3
    assert len(fault_server.posts(CHAT)) == 3


def test_loops_that_are_over_leave_no_connections(fault_server):
    client = AsyncVLLMClient(fault_server.url, max_retries=0)
    made = weakref.WeakSet()

    async def run():
        await asyncio.gather(*(client.chat.completions.create(**hello()) for _ in range(3)))
        made.add(client._client)

    for _ in range(10):
        asyncio.run(run())
    gc.collect()
    assert len(made) == 1, "the last one's"


def test_one_client_in_two_loops_at_once(fault_server):
    client = AsyncVLLMClient(fault_server.url, max_retries=0)
    found = []

    async def run(name):
        for turn in range(10):
            reply = await client.chat.completions.create(**hello(f"{name}{turn}"))
            found.append(reply.choices[0].message.content == f"{name}{turn}")

    threads = [threading.Thread(target=lambda n=name: asyncio.run(run(n))) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


def test_128_threads_share_a_client(make_fault_server):
    server = make_fault_server(delay=0.3)
    client = VLLMClient(server.url, max_retries=0)
    together = threading.Barrier(128)

    def run(name):
        together.wait()
        return [answer(client, f"{name}-{turn}") == f"{name}-{turn}" for turn in range(3)]

    with ThreadPoolExecutor(128) as threads:
        assert list(threads.map(run, range(128))) == [[True] * 3] * 128
    assert server.peak > 64, "they were at the server together"
    assert server.connections <= 128, "and kept their connections"


def _child(client, name, queue):
    try:
        queue.put([answer(client, f"{name}-{turn}") == f"{name}-{turn}" for turn in range(5)])
    except Exception as error:  # told to the parent, which fails the test
        queue.put(repr(error))


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True], ids=["before-use", "after-use"])
def test_fork(fault_server, used):
    client = VLLMClient(fault_server.url, max_retries=0)
    if used:
        assert answer(client) == "hi"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(client, f"child{n}", queue)) for n in range(3)]
    for child in children:
        child.start()
    mine = [answer(client, f"parent-{turn}") == f"parent-{turn}" for turn in range(5)]
    assert [queue.get(timeout=20) for _ in children] == [[True] * 5] * 3
    assert mine == [True] * 5
    for child in children:
        child.join(10)
    assert len({request.connection for request in fault_server.posts(CHAT)}) == 4


def test_a_thousand_calls_at_once(many_files, make_fault_server):
    server = make_fault_server(delay=2.0)
    client = AsyncVLLMClient(server.url, max_retries=0)

    async def run():
        calls = [client.chat.completions.create(**hello(str(number))) for number in range(1000)]
        return [reply.choices[0].message.content for reply in await asyncio.gather(*calls)]

    assert asyncio.run(run()) == [str(number) for number in range(1000)]
    assert server.peak > 500, "they were at the server together"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))])
def test_copies_of_a_client_in_use(fault_server, make):
    client = VLLMClient(fault_server.url, max_retries=7)
    assert answer(client) == "hi"
    copied = make(client)
    assert answer(copied) == answer(client) == "hi"
    assert (copied.vllm.address, copied.max_retries) == (client.vllm.address, 7)


def test_connections_are_reused(fault_server):
    with VLLMClient(fault_server.url) as client:
        for _ in range(5):
            answer(client)
    assert fault_server.connections == 1


def test_a_connection_that_went_stale(fault_server):
    fault_server.script(CHAT, [faults.stale(faults.chat("hi"))])
    with VLLMClient(fault_server.url) as client:
        assert [answer(client), answer(client)] == ["hi", "hi"]


def test_facts_are_asked_once_and_only_when_needed(fault_server):
    client = VLLMClient(fault_server.url, max_retries=0)
    for _ in range(3):
        client.chat.completions.create(**hello(), extra_body={"top_k": 1})
    assert [request.route for request in fault_server.requests] == [CHAT] * 3
    fault_server.requests.clear()
    client = VLLMClient(fault_server.url, max_retries=0)
    for _ in range(3):
        client.chat.completions.create(
            model="", messages=hello("yes")["messages"], extra_body={"structured_outputs": {"choice": ["yes"]}}
        )
    asked = [request.route for request in fault_server.requests]
    assert asked == ["/v1/models", "/version", CHAT, CHAT, CHAT]


def test_calls_cancelled_at_any_moment_leave_no_connection_behind(fault_server):
    fault_server.reply(faults.slow(0.01, faults.chat("hi")))
    client = AsyncVLLMClient(
        fault_server.url, max_connections=32, max_retries=0, server_version="0.32.0", timeout=Timeouts(idle=5)
    )

    async def cancelled(steps):
        task = asyncio.ensure_future(client.chat.completions.create(**hello()))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def run():
        for steps in range(40):
            for _ in range(4):
                await asyncio.gather(*(cancelled(steps) for _ in range(8)))
        return (await client.chat.completions.create(**hello())).choices[0].message.content

    assert asyncio.run(run()) == "hi"


def test_calls_at_once_ask_once(fault_server):
    sync, several = VLLMClient(fault_server.url), AsyncVLLMClient(fault_server.url)
    request = {**hello("yes"), "model": "", "extra_body": {"structured_outputs": {"choice": ["yes"]}}}
    threads = [threading.Thread(target=lambda: sync.chat.completions.create(**request)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def run():
        await asyncio.gather(*(several.chat.completions.create(**request) for _ in range(8)))

    asyncio.run(run())
    asked = [received.route for received in fault_server.requests]
    assert (asked.count("/v1/models"), asked.count("/version"), asked.count(CHAT)) == (2, 2, 16)


def test_a_reply_tells_when_the_server_was_replaced(fault_server):
    versions = ("0.10.2", "0.10.2", "0.32.0", "0.32.0")
    replies = [{**payloads.chat("hi"), "system_fingerprint": f"vllm-{version}-x"} for version in versions]
    fault_server.script(CHAT, [faults.json_reply(reply) for reply in replies])
    fault_server.script("/version", [faults.json_reply({"version": v}) for v in ("0.10.2", "0.32.0")])
    client = VLLMClient(fault_server.url, max_retries=0)
    for _ in versions:
        client.chat.completions.create(**hello(), extra_body={"structured_outputs": {"choice": ["hi"]}})
    asked = [set(request.json) & {"guided_choice", "structured_outputs"} for request in fault_server.posts(CHAT)]
    assert asked == [{"guided_choice"}] * 3 + [{"structured_outputs"}]
    assert [request.route for request in fault_server.requests].count("/version") == 2


def test_a_gateway_that_tells_no_version_is_judged_by_its_replies(make_fault_server):
    server = make_fault_server(version=None)
    server.reply(faults.json_reply({**payloads.chat("hi"), "system_fingerprint": "vllm-0.21.0-x"}), CHAT)
    client = VLLMClient(server.url, max_retries=0)
    client.chat.completions.create(**hello(), extra_body={"stop_token_ids": [1]})
    with pytest.raises(e.UnsupportedParameter, match=r"vLLM 0\.21\.0"):
        client.chat.completions.create(**hello(), extra_body={"session_id": "x"})


def test_copies_share_connections_and_facts(fault_server):
    client = VLLMClient(fault_server.url, api_key="sk-1", default_headers={"X-A": "1"})
    answer(client)
    copy = client.with_options(max_retries=7, default_headers={"X-B": "2"})
    answer(copy)
    assert fault_server.connections == 1
    assert copy.max_retries == 7
    headers = fault_server.posts(CHAT)[-1].headers
    assert (headers["x-a"], headers["x-b"], headers["authorization"]) == ("1", "2", "Bearer sk-1")


def test_copies_with_other_connections(fault_server):
    client = VLLMClient(
        "http://127.0.0.1:9",
        max_connections=64,
        default_query={"a": "1"},
        http_options={"headers": {"x-team": "search"}},
    )
    assert client.with_options(max_connections=1).vllm.http_clients is not client.vllm.http_clients
    answer(client.with_options(base_url=fault_server.url, default_query={"b": "2"}))
    request = fault_server.posts(CHAT)[0]
    assert request.headers["x-team"] == "search"
    assert request.path == f"{CHAT}?a=1&b=2"


async def test_a_server_closes_its_connections(fault_server):
    async with VLLMServer(fault_server.url) as server:
        assert await server.amodels()
        connections = server.async_client._client
    assert connections.is_closed


@pytest.mark.parametrize("version", [None, "0.32.0"])
def test_the_clients_of_a_server_share_what_they_learn(fault_server, version):
    server = VLLMServer(fault_server.url, server_version=version)
    assert asyncio.run(server.async_client.vllm.served_model()) == server.client.vllm.served_model() == "stub"
    assert [request.route for request in fault_server.requests] == ["/v1/models"]


def test_wait_until_ready(fault_server):
    server = VLLMServer(fault_server.url)
    fault_server.script("/health", [faults.loading(), faults.hang_up()])
    assert server.wait_until_ready(10, every=0.05) is server
    assert len(fault_server.requests) == 3
    fault_server.reply(faults.loading(), "/health")
    with pytest.raises(e.ServerTimeout, match=r"0\.3 s"):
        asyncio.run(server.await_until_ready(0.3, every=0.05))
