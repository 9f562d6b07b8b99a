import asyncio
import os
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

from vllm_adapters import AsyncVLLMClient, VLLMClient

# Before the frameworks are imported: what they would report home is a request that no cassette has.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"

# The tests of a framework that is not installed here are none of this run's.
ROOMS = {"langchain": "langchain_openai", "llamaindex": "llama_index", "haystack": "haystack"}
ABSENT = [room for room, needs in ROOMS.items() if find_spec(needs) is None]
collect_ignore_glob = [pattern for room in ABSENT for pattern in (f"{room}/*", f"faults/test_{room}*")]

pytest_plugins = ["vllm_adapters.testing.plugin", "pytester"]

# Addresses of this machine, and Unix sockets (paths, or names that begin with a zero byte).
THIS_MACHINE = [r"127\.", r"localhost$", r"::1$", r"/", r"\x00"]

# The same examples in every run, however slow the machine; servers of a test stay up from one example to the next.
settings.register_profile(
    "here",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("here")


def pytest_collection_modifyitems(config, items):
    """Tests that talk to a vLLM are guarded by the plugin; the others reach this machine only."""
    live = config.getoption("--live") or "live" in config.option.markexpr
    for item in items:
        if item.get_closest_marker("live") and not live:
            item.add_marker(pytest.mark.skip(reason="starts a real vLLM: --live or -m live"))
        if not item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.block_network(allowed_hosts=THIS_MACHINE))


@pytest.fixture
def pictures():
    """Plain PNGs by their color, as base64: the same bytes whatever zlib is here."""
    return {
        "red": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII=",
        "blue": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mNkYPjPgA0wMeAAg1MCAMtDAQ9w2TiCAAAAAElFTkSu"
        "QmCC",
        "green": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAE0lEQVR42mNkaGDACpgYGIaSBABqCACQdB1jOgAAAABJRU5ErkJg"
        "gg==",
    }


HELLO = [{"role": "user", "content": "one two three four five"}]


class Asker:
    """Asks a server for a chat completion, streamed or not, with the sync or the async client."""

    def __init__(self, life):
        self.life = life

    def __call__(self, url, *, chunks=None, client=None, messages=HELLO, **request):
        options = {"max_retries": 0, "timeout": 5, **(client or {})}
        request = {"model": "stub", "messages": messages, **request}
        run = self._sync if self.life == "sync" else self._async
        return run(url, options, request, chunks)

    def _sync(self, url, options, request, chunks):
        with VLLMClient(url, **options) as client:
            reply = client.chat.completions.create(**request)
            if not request.get("stream"):
                return reply
            chunks = [] if chunks is None else chunks
            for chunk in reply:
                chunks.append(chunk)
            return chunks

    def _async(self, url, options, request, chunks):
        async def run():
            async with AsyncVLLMClient(url, **options) as client:
                reply = await client.chat.completions.create(**request)
                if not request.get("stream"):
                    return reply
                found = [] if chunks is None else chunks
                async for chunk in reply:
                    found.append(chunk)
                return found

        return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def ask(request):
    return Asker(request.param)


@pytest.fixture
def many_files():
    """Both ends of a thousand connections are in this process."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, 4096)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} open files allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
