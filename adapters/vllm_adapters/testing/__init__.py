"""A pytest plugin for code that talks to vLLM: cassettes, real servers, and a fault-injection server.

Install it with ``pip install 'vllm-adapters[testing]'`` and enable it in ``pyproject.toml``::

    [tool.pytest.ini_options]
    vllm_cassettes = "tests/cassettes"

Without this setting, the package adds no option, no fixture and no network block to a project. With it, a test that
talks to vLLM is written once::

    @pytest.mark.vllm("tiny")
    def test_chain(vllm_server, sent):
        chain = my_chain(ChatVLLM(server=vllm_server, temperature=0))
        assert chain.invoke("Hello")
        assert sent.last.json["temperature"] == 0

``pytest --live --record``
    Talks to a real vLLM and, if the test passes, records the requests and responses in ``tests/cassettes``. Commit the
    cassettes; they contain no API key and no name of your machine. The server is a ``LocalVLLM``, a real vLLM on this
    machine's CPU with a model of a few megabytes, or your own: ``VLLM_BASE_URL`` (with ``VLLM_API_KEY``),
    ``VLLM_EMBED_BASE_URL`` for ``minilm``, ``VLLM_RERANK_BASE_URL`` for ``cross-encoder``.
``pytest --live``
    Talks to a real vLLM and records nothing.
``pytest``
    Replays the cassettes. It needs no server, and the network is blocked in marked tests. A request that was not
    recorded fails the test, and so does a recorded request that is no longer sent.

Marker ``vllm(*models, **options)``
    Selects the server of a test: ``"tiny"`` (chat with tools, reasoning and JSON; the default), ``"eye"`` (images),
    ``"smollm2"``, ``"minilm"`` (embeddings), ``"cross-encoder"``, ``"classifier"``, a directory, or a Hugging Face
    name. Options are those of ``LocalVLLM``: ``lora=True``, ``flags=[...]``, ``api_key="..."``. Several models select
    several servers. ``VLLM_BASE_URL`` is set to the test's server.

Fixtures of marked tests
    ``vllm_server``: a ``VLLMServer``. ``vllm_url``: its address. ``vllm_urls``: the addresses of several, by model.
    ``sent``: the requests of the test: ``sent.last.json``, ``sent.bodies("/v1/chat/completions")``.
    ``vllm_version``: the version of the first server, as a ``packaging.version.Version``.

Markers ``vllm_since(version, before=Error)`` and ``not_enforced_before(version)``
    State how a test must end on an older server: ``pytest --live --vllm-version 0.14.1``.

Fixtures of any test
    ``fault_server`` and ``make_fault_server``: a fault-injection server, for what no cassette can hold:
    ``fault_server.reply(faults.truncate(faults.chat("Hello"), after=40))``.

Requests must be identical in each run. Fix whatever your code chooses at random, such as message ids and seeds.
A renamed test has no cassette: record it. Its old cassette is reported at the end of the run and removed by
``--record``. Send requests from the test or from function-scoped fixtures: requests of module- or session-scoped
fixtures belong to no test and are not recorded.

Async tests need a plugin that runs them, such as pytest-asyncio with ``asyncio_mode = "auto"``. pytest-xdist
(``-n 4``) works; in live runs each worker starts its own servers, unless their addresses are set.

If plugins are not loaded automatically (``PYTEST_DISABLE_PLUGIN_AUTOLOAD``), add
``pytest_plugins = ["vllm_adapters.testing.plugin"]`` to the root ``conftest.py``. ``vllm-adapters recipes copy
testing`` creates a small example project. Importing this package loads the standard library only.
"""

from vllm_adapters.testing._exchange import Behaviour, Exchange, Received
from vllm_adapters.testing.fault_server import FaultServer
from vllm_adapters.testing.sent import Sent, SentRequest

__all__ = ["Behaviour", "Exchange", "FaultServer", "Received", "Sent", "SentRequest", "faults", "payloads"]
