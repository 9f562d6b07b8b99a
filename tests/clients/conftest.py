"""Other people's libraries on our clients. ``make clients`` installs them; if one is missing, its tests are skipped."""

import os

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters.testing import faults, payloads

# Before the libraries are imported: each would call home.
os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

CHAT = "/v1/chat/completions"
CITY = '{"city": "Rome", "n": 1}'


class Server:
    """The fault-injection server, with the replies that these tests need."""

    def __init__(self, server):
        self._server = server
        self.url = server.url

    @property
    def sent(self):
        """The bodies of the chat completions that were requested."""
        return [request.json for request in self._server.requests if request.path == CHAT]

    def answer(self, text="one two three"):
        self._server.reply(faults.chat(text), CHAT)

    def cut(self, text="one two three four five"):
        """End streams after some of the answer."""
        self._server.reply(faults.truncate(faults.chat(text), after=900), CHAT)

    def call(self, name, arguments=CITY):
        self._server.reply(faults.chat(tool_calls=[payloads.tool_call(name, arguments)]), CHAT)

    def call_then_answer(self, name, arguments=CITY, text="done"):
        """Call a tool, and answer once its result has been sent back."""
        call, answer = faults.chat(tool_calls=[payloads.tool_call(name, arguments)]), faults.chat(text)

        async def run(exchange):
            results = [message for message in exchange.request.json["messages"] if message["role"] == "tool"]
            await (answer if results else call)(exchange)

        self._server.reply(run, CHAT)

    def fail(self, status=500):
        self._server.reply(faults.error(status), CHAT)


@pytest.fixture
def server(fault_server):
    return Server(fault_server)


@pytest.fixture
def client(server):
    with VLLMClient(server.url, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server):
    async with AsyncVLLMClient(server.url, max_retries=0) as client:
        yield client
