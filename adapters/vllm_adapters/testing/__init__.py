"""For tests of code that talks to vLLM: cassettes, real servers, a server that fails on order.

In a project of yours, ``pip install 'vllm-adapters[testing]'`` and two lines in ``pyproject.toml``::

    [tool.pytest.ini_options]
    vllm_cassettes = "tests/cassettes"

Without them nothing changes: no option, no fixture, no blocked network. With them, a test that talks to a vLLM is
written once::

    @pytest.mark.vllm("tiny")
    def test_chain(vllm_server, sent):
        chain = my_chain(ChatVLLM(server=vllm_server, temperature=0))
        assert chain.invoke("Hello")
        assert sent.last.json["temperature"] == 0

``pytest --live --record``
    talks to a real vLLM and writes the conversation to ``tests/cassettes``, if the test passes. Commit it; it holds
    no key and no name of your machine. The server is a ``LocalVLLM``, a real vLLM on this machine's CPU with a model
    of a few megabytes, or yours: ``VLLM_BASE_URL`` (with ``VLLM_API_KEY``), ``VLLM_EMBED_BASE_URL`` for ``minilm``,
    ``VLLM_RERANK_BASE_URL`` for ``cross-encoder``.
``pytest --live``
    talks to it and writes nothing.
``pytest``
    replays the cassette: no server, and the network is blocked in marked tests. A request that was not recorded
    fails the test, and so does a recorded one that is no longer sent.

The marker: ``vllm(*models, **options)``
    Which server the test wants: ``"tiny"`` (chat with tools, reasoning and JSON; the default), ``"eye"`` (images),
    ``"smollm2"``, ``"minilm"`` (embeddings), ``"cross-encoder"``, ``"classifier"``, a directory or a Hugging Face
    name. Options are those of ``LocalVLLM``: ``lora=True``, ``flags=[...]``, ``api_key="..."``. Several models are
    several servers.
    Code that finds its server by ``VLLM_BASE_URL`` finds the test's.

Fixtures of marked tests
    ``vllm_server``: a ``VLLMServer``. ``vllm_url``: its address. ``vllm_urls``: those of several, by model.
    ``sent``: what the test sent: ``sent.last.json``, ``sent.bodies("/v1/chat/completions")``.

Fixtures of any test
    ``fault_server`` and ``make_fault_server``: a server that fails on order, for what no recording can hold:
    ``fault_server.reply(faults.truncate(faults.chat("Hello"), after=40))``.

Requests must be the same in each run: fix what your code draws at random, such as message ids and seeds. A test that
came to stand under another name has no cassette: record it; the old one is named at the end of the run, and removed
by ``--record``. Send requests from the test or from fixtures of its own: what a fixture of a module or session sends
belongs to no test, and is not recorded.

Async tests need a plugin that runs them, such as pytest-asyncio with ``asyncio_mode = "auto"``. With pytest-xdist
(``-n 4``) recordings are played as ever; live, each worker starts its own servers, unless their addresses are given.

Where plugins are not loaded by themselves (``PYTEST_DISABLE_PLUGIN_AUTOLOAD``), say
``pytest_plugins = ["vllm_adapters.testing.plugin"]`` in the root ``conftest.py``. ``vllm-adapters recipes copy
testing`` makes a small project that works this way. What is imported from here needs the standard library only.
"""

from vllm_adapters.testing.fault_server import FaultServer, Received
from vllm_adapters.testing.sent import Sent, SentRequest

__all__ = ["FaultServer", "Received", "Sent", "SentRequest", "faults", "payloads"]
