"""One client is safe to share: threads, event loops, forks, copies, and a thousand concurrent calls."""

import asyncio
import copy
import gc
import multiprocessing
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"


def hello(text="hi"):
    return {"model": "stub", "messages": [{"role": "user", "content": text}]}


def answer(client, text="hi"):
    return client.chat.completions.create(**hello(text)).choices[0].message.content


async def aanswer(client, text="hi"):
    return (await client.chat.completions.create(**hello(text))).choices[0].message.content


class WaitForAll:
    """A behaviour that answers no request before ``count`` of them have arrived."""

    def __init__(self, count):
        self.count, self.arrived, self.complete = count, 0, asyncio.Event()

    async def __call__(self, exchange):
        self.arrived += 1
        if self.arrived == self.count:
            self.complete.set()
        await asyncio.wait_for(self.complete.wait(), 300)
        await faults.chat()(exchange)


# Connections


def test_connections_are_reused(fault_server):
    with VLLMClient(fault_server.url) as client:
        for _ in range(5):
            answer(client)
    assert fault_server.connections == 1


def test_cancelled_calls_leave_no_connection_behind(fault_server):
    fault_server.reply(faults.slow(0.01, faults.chat("hi")))
    client = AsyncVLLMClient(
        fault_server.url, max_connections=32, max_retries=0, server_version="0.32.0", timeout=Timeouts(idle=30)
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
        return await aanswer(client)

    assert asyncio.run(run()) == "hi"


# Threads and event loops


def test_128_threads_share_a_client(fault_server):
    fault_server.reply(WaitForAll(128))
    client = VLLMClient(fault_server.url, max_retries=0)

    def run(name):
        return [answer(client, f"{name}-{turn}") == f"{name}-{turn}" for turn in range(3)]

    with ThreadPoolExecutor(128) as threads:
        assert list(threads.map(run, range(128))) == [[True] * 3] * 128
    client.close()
    assert fault_server.connections <= 128, "connections are reused"


def test_one_client_in_three_event_loops(fault_server):
    client = AsyncVLLMClient(fault_server.url, max_retries=0)
    assert [asyncio.run(aanswer(client)) for _ in range(3)] == ["hi"] * 3
    assert len(fault_server.posts(CHAT)) == 3


def test_connections_of_closed_event_loops_are_dropped(fault_server):
    client = AsyncVLLMClient(fault_server.url, max_retries=0)
    http_clients = weakref.WeakSet()

    async def run():
        await asyncio.gather(*(aanswer(client) for _ in range(3)))
        http_clients.add(client._client)

    for _ in range(10):
        asyncio.run(run())
    gc.collect()
    assert len(http_clients) == 1, "that of the last loop"


def test_one_client_in_two_concurrent_event_loops(fault_server):
    client = AsyncVLLMClient(fault_server.url, max_retries=0)
    found = []

    async def run(name):
        for turn in range(10):
            found.append(await aanswer(client, f"{name}{turn}") == f"{name}{turn}")

    threads = [threading.Thread(target=lambda n=name: asyncio.run(run(n))) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


def test_a_thousand_concurrent_calls(many_files, fault_server):
    fault_server.reply(WaitForAll(1000))
    client = AsyncVLLMClient(fault_server.url, max_retries=0)

    async def run():
        async with client:
            return await asyncio.gather(*(aanswer(client, str(number)) for number in range(1000)))

    assert asyncio.run(run()) == [str(number) for number in range(1000)]


# Forks, copies and pickles


def _child(client, name, queue):
    try:
        queue.put([answer(client, f"{name}-{turn}") == f"{name}-{turn}" for turn in range(5)])
    except Exception as error:  # the parent fails the test
        queue.put(repr(error))


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True], ids=["before-use", "after-use"])
def test_forked_processes_have_connections_of_their_own(fault_server, used):
    client = VLLMClient(fault_server.url, max_retries=0)
    if used:
        assert answer(client) == "hi"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(client, f"child{n}", queue)) for n in range(3)]
    for child in children:
        child.start()
    of_parent = [answer(client, f"parent-{turn}") == f"parent-{turn}" for turn in range(5)]
    assert [queue.get(timeout=60) for _ in children] == [[True] * 5] * 3
    assert of_parent == [True] * 5
    for child in children:
        child.join(30)
    assert len({request.connection for request in fault_server.posts(CHAT)}) == 4


@pytest.mark.parametrize(
    "make",
    [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_of_a_used_client_work(fault_server, make):
    client = VLLMClient(fault_server.url, max_retries=7)
    assert answer(client) == "hi"
    copied = make(client)
    assert answer(copied) == answer(client) == "hi"
    assert (copied.vllm.address, copied.max_retries) == (client.vllm.address, 7)


def test_with_options_shares_connections_and_server_info(fault_server):
    client = VLLMClient(fault_server.url, api_key="sk-1", default_headers={"X-A": "1"})
    answer(client)
    copied = client.with_options(max_retries=7, default_headers={"X-B": "2"})
    answer(copied)
    assert fault_server.connections == 1
    assert copied.vllm.info is client.vllm.info
    assert copied.max_retries == 7
    headers = fault_server.posts(CHAT)[-1].headers
    assert (headers["x-a"], headers["x-b"], headers["authorization"]) == ("1", "2", "Bearer sk-1")


def test_with_options_of_another_server_or_pool_shares_no_connections(fault_server):
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
