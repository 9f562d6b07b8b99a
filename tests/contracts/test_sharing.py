"""One object of each room, shared: by threads, event loops, processes, copies and a thousand calls."""

import asyncio
import copy
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

CHAT = "/v1/chat/completions"


class LangChain:
    """Asks ``ChatVLLM``."""

    def __init__(self, url):
        chat = pytest.importorskip("vllm_adapters.langchain")
        self.part = chat.ChatVLLM(base_url=url, model="stub", max_retries=0)

    def ask(self, text):
        return self.part.invoke(text).text

    async def aask(self, text):
        return (await self.part.ainvoke(text)).text


class LlamaIndex:
    """Asks ``VLLM``."""

    def __init__(self, url):
        llamaindex = pytest.importorskip("vllm_adapters.llamaindex")
        self.part = llamaindex.VLLM(api_base=url, model="stub", max_retries=0)

    def ask(self, text):
        return self.part.complete(text).text

    async def aask(self, text):
        return (await self.part.acomplete(text)).text


class Haystack:
    """Asks ``VLLMChatGenerator``."""

    def __init__(self, url):
        haystack = pytest.importorskip("vllm_adapters.haystack")
        self.part = haystack.VLLMChatGenerator(api_base_url=url, model="stub", max_retries=0)

    def ask(self, text):
        return self.part.run(text)["replies"][0].text

    async def aask(self, text):
        return (await self.part.run_async(text))["replies"][0].text


@pytest.fixture(params=[LangChain, LlamaIndex, Haystack], ids=lambda room: room.__name__)
def room(request):
    needs = {"LangChain": "langchain_openai", "LlamaIndex": "llama_index", "Haystack": "haystack"}
    pytest.importorskip(needs[request.param.__name__])
    return request.param


def rightly(shared, name, turns=3):
    """Whether each answer is to its question: the server says what it was asked."""
    return [shared.ask(f"{name}-{turn}") == f"{name}-{turn}" for turn in range(turns)]


def test_128_threads(room, make_fault_server):
    server = make_fault_server(delay=0.3)
    shared, together = room(server.url), threading.Barrier(128)

    def run(name):
        together.wait()
        return rightly(shared, name)

    with ThreadPoolExecutor(128) as threads:
        assert list(threads.map(run, range(128))) == [[True] * 3] * 128
    assert len(server.posts(CHAT)) == 3 * 128
    assert server.peak > 32, "they were at the server together"


def test_three_event_loops_in_a_row_and_two_at_once(room, fault_server):
    shared = room(fault_server.url)

    async def run(name):
        return [await shared.aask(f"{name}-{turn}") == f"{name}-{turn}" for turn in range(5)]

    assert [asyncio.run(run(name)) for name in "abc"] == [[True] * 5] * 3
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda name: asyncio.run(run(name)), "de")) == [[True] * 5] * 2
    assert len(fault_server.posts(CHAT)) == 25, "none was asked again"


def _child(shared, name, queue):
    try:
        queue.put(rightly(shared, name, 5))
    except Exception as error:  # told to the parent, which fails the test
        queue.put(repr(error))


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True], ids=["before-use", "after-use"])
def test_fork(room, fault_server, used):
    shared = room(fault_server.url)
    if used:
        assert shared.ask("hi") == "hi"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(shared, f"child{n}", queue)) for n in range(3)]
    for child in children:
        child.start()
    assert rightly(shared, "parent", 5) == [True] * 5
    assert [queue.get(timeout=60) for _ in children] == [[True] * 5] * 3
    for child in children:
        child.join(10)
    assert len({request.connection for request in fault_server.posts(CHAT)}) == 4


@pytest.mark.parametrize("used", [False, True], ids=["before-use", "after-use"])
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_copies_and_pickles(room, fault_server, make, used):
    shared = room(fault_server.url)
    if used:
        assert shared.ask("hi") == "hi"
    twin = copy.copy(shared)
    twin.part = make(shared.part)
    assert rightly(twin, "twin") == rightly(shared, "shared") == [True] * 3
    assert asyncio.run(twin.aask("hi")) == asyncio.run(shared.aask("hi")) == "hi"


def test_a_thousand_calls_at_once(room, many_files, make_fault_server):
    server = make_fault_server(delay=2.0)
    shared = room(server.url)

    async def run():
        return await asyncio.gather(*(shared.aask(str(number)) for number in range(1000)))

    assert asyncio.run(run()) == [str(number) for number in range(1000)]
    assert len(server.posts(CHAT)) == 1000
    assert server.peak > 500, "they were at the server together"
