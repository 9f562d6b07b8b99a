"""One object of each framework, shared by threads, event loops, processes, copies and a thousand calls."""

import asyncio
import copy
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

CHAT = "/v1/chat/completions"


class LangChain:
    """Sends prompts with ``ChatVLLM``."""

    def __init__(self, url):
        chat = pytest.importorskip("vllm_adapters.langchain")
        self.llm = chat.ChatVLLM(base_url=url, model="stub", max_retries=0)

    def send(self, text):
        return self.llm.invoke(text).text

    async def asend(self, text):
        return (await self.llm.ainvoke(text)).text


class LlamaIndex:
    """Sends prompts with ``VLLM``."""

    def __init__(self, url):
        llamaindex = pytest.importorskip("vllm_adapters.llamaindex")
        self.llm = llamaindex.VLLM(api_base=url, model="stub", max_retries=0)

    def send(self, text):
        return self.llm.complete(text).text

    async def asend(self, text):
        return (await self.llm.acomplete(text)).text


class Haystack:
    """Sends prompts with ``VLLMChatGenerator``."""

    def __init__(self, url):
        haystack = pytest.importorskip("vllm_adapters.haystack")
        self.llm = haystack.VLLMChatGenerator(api_base_url=url, model="stub", max_retries=0)

    def send(self, text):
        return self.llm.run(text)["replies"][0].text

    async def asend(self, text):
        return (await self.llm.run_async(text))["replies"][0].text


@pytest.fixture(params=[LangChain, LlamaIndex, Haystack], ids=lambda framework: framework.__name__)
def framework(request):
    needs = {"LangChain": "langchain_openai", "LlamaIndex": "llama_index", "Haystack": "haystack"}
    pytest.importorskip(needs[request.param.__name__])
    return request.param


def send_all(shared, name, turns=3):
    """Send several prompts; return for each whether the server, which echoes them, answered the right one."""
    return [shared.send(f"{name}-{turn}") == f"{name}-{turn}" for turn in range(turns)]


def test_128_threads(framework, make_fault_server):
    server = make_fault_server(delay=0.3)
    shared, together = framework(server.url), threading.Barrier(128)

    def run(name):
        together.wait()
        return send_all(shared, name)

    with ThreadPoolExecutor(128) as threads:
        assert list(threads.map(run, range(128))) == [[True] * 3] * 128
    assert len(server.posts(CHAT)) == 3 * 128
    assert server.peak > 32, "the requests were not sent at the same time"


def test_three_event_loops_in_a_row_and_two_at_once(framework, fault_server):
    shared = framework(fault_server.url)

    async def run(name):
        return [await shared.asend(f"{name}-{turn}") == f"{name}-{turn}" for turn in range(5)]

    assert [asyncio.run(run(name)) for name in "abc"] == [[True] * 5] * 3
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda name: asyncio.run(run(name)), "de")) == [[True] * 5] * 2
    assert len(fault_server.posts(CHAT)) == 25, "a request was sent twice"


def _child(shared, name, queue):
    try:
        queue.put(send_all(shared, name, 5))
    except Exception as error:  # reported to the parent, which fails the test
        queue.put(repr(error))


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True], ids=["before-use", "after-use"])
def test_fork(framework, fault_server, used):
    shared = framework(fault_server.url)
    if used:
        assert shared.send("hi") == "hi"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(shared, f"child{n}", queue)) for n in range(3)]
    for child in children:
        child.start()
    assert send_all(shared, "parent", 5) == [True] * 5
    assert [queue.get(timeout=60) for _ in children] == [[True] * 5] * 3
    for child in children:
        child.join(10)
    assert len({request.connection for request in fault_server.posts(CHAT)}) == 4


@pytest.mark.parametrize("used", [False, True], ids=["before-use", "after-use"])
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm))])
def test_copies_and_pickles(framework, fault_server, make, used):
    shared = framework(fault_server.url)
    if used:
        assert shared.send("hi") == "hi"
    other = copy.copy(shared)
    other.llm = make(shared.llm)
    assert send_all(other, "copy") == send_all(shared, "shared") == [True] * 3
    assert asyncio.run(other.asend("hi")) == asyncio.run(shared.asend("hi")) == "hi"


def test_a_thousand_calls_at_once(framework, many_files, make_fault_server):
    server = make_fault_server(delay=2.0)
    shared = framework(server.url)

    async def run():
        return await asyncio.gather(*(shared.asend(str(number)) for number in range(1000)))

    assert asyncio.run(run()) == [str(number) for number in range(1000)]
    assert len(server.posts(CHAT)) == 1000
    assert server.peak > 500, "the requests were not sent at the same time"
