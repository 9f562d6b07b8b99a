"""The demo's runner without a server: results, table, exit code."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from rich.console import Console

from vllm_adapters._compat import http
from vllm_adapters._demo import on_client, runner
from vllm_adapters._demo.recording_client import RecordingServer
from vllm_adapters._demo.runner import Framework, Result
from vllm_adapters._demo.scenarios import SCENARIOS, City, FrameworkDemo
from vllm_adapters._demo.servers import DemoServer, servers_by_task
from vllm_adapters.errors import FeatureNotEnabled

CHAT = DemoServer("http://gpu:8000/v1", "VLLM_BASE_URL", "tiny", "0.32.0", frozenset({"chat"}), known=True)
POOLING = DemoServer("http://gpu:8001/v1", "here", "minilm", None, frozenset({"embeddings", "rerank"}), known=True)


class Correct(FrameworkDemo):
    """Returns the answers of the bundled models, without a server."""

    title = "Correct"
    supports = frozenset(scenario.name for scenario in SCENARIOS)

    def chat(self, server, prompt):
        return "The capital of Japan is Tokyo."

    def stream(self, server, prompt):
        return ["The capital of Japan", " is Tokyo.", ""]

    def reasoning(self, server, prompt):
        return "This is easy.\n", "\n\nTokyo."

    def tool_calls(self, server, prompt):
        return [("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})]

    def structured(self, server, prompt):
        return '{"city": "Rome", "n": 1}', City(city="Rome", n=1)

    def choose(self, server, prompt):
        server.sent.append({"messages": [prompt], "top_k": 1})
        return "tea"

    def embed(self, server, texts):
        return [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]

    def rerank(self, server, query, documents):
        return [(1, 0.9), (0, 0.2), (2, 0.1)]


FRAMEWORK = Framework("Correct", "vllm_adapters._demo.on_client", "openai", "")


@pytest.fixture
def run_scenario(monkeypatch):
    """Runs one scenario in a framework with the given demo."""

    def run(name: str, demo: FrameworkDemo, *, known: bool = True, framework: Framework = FRAMEWORK) -> Result:
        monkeypatch.setattr(on_client, "DEMO", demo)
        scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
        server = DemoServer("http://gpu:8000/v1", "", "m", None, frozenset({scenario.task}), known=known)
        return runner.run_scenario(scenario, framework, servers_by_task([server]))

    return run


@pytest.fixture
def run_demo(monkeypatch):
    """Runs the whole demo with the given demo and servers; returns the exit code and the printed text."""

    def run(
        demo: FrameworkDemo, running: list[DemoServer], frameworks: tuple[Framework, ...] = (FRAMEWORK,)
    ) -> tuple[int, str]:
        monkeypatch.setattr(on_client, "DEMO", demo)
        monkeypatch.setattr(runner, "servers", lambda console: contextlib.nullcontext(running))
        console = Console(file=io.StringIO(), width=120)
        code = runner.run_demo(console, frameworks)
        return code, console.file.getvalue()

    return run


def test_all_scenarios_pass(run_demo):
    code, printed = run_demo(Correct(), [CHAT, POOLING])
    assert code == 0
    assert "8 passed, 0 failed, 0 skipped" in printed
    assert "✓ City(city='Rome', n=1)" in printed
    assert "✓ 3 x 2" in printed
    assert 'request  {"messages": ["Tea or coffee?"], "top_k": 1}' in printed
    assert "reply    'tea'" in printed
    assert "chat: vLLM 0.32.0, model tiny, http://gpu:8000/v1 (VLLM_BASE_URL)" in printed
    assert "embeddings, rerank: vLLM (unknown version), model minilm" in printed


def test_a_failed_scenario_shows_its_error_and_fails_the_demo(run_demo):
    class Failing(Correct):
        def chat(self, server, prompt):
            raise RuntimeError("the [bold] end\nof it")

    code, printed = run_demo(Failing(), [CHAT, POOLING])
    assert code == 1
    assert "✗ RuntimeError" in printed
    assert "Correct, chat: RuntimeError: the [bold] end\nof it" in printed
    assert "7 passed, 1 failed" in printed


def test_skipped_scenarios_do_not_fail_the_demo(run_demo):
    class ChatOnly(Correct):
        supports = frozenset({"chat", "rerank"})

    missing = Framework("Haystack", "vllm_adapters._demo.on_haystack", "no_such_framework.of_any_kind", "haystack")
    code, printed = run_demo(ChatOnly(), [CHAT], (FRAMEWORK, missing))
    assert code == 0
    assert "—" in printed
    assert "not served" in printed
    assert "1 passed, 0 failed, 15 skipped" in printed
    note = "no_such_framework.of_any_kind is not installed. Run pip install 'vllm-adapters[haystack]'."
    assert printed.count(note) == 1


def test_a_demo_without_a_passed_scenario_fails(run_demo):
    class Empty(FrameworkDemo):
        supports = frozenset()

    code, printed = run_demo(Empty(), [CHAT, POOLING])
    assert code == 1
    assert "0 passed, 0 failed, 8 skipped" in printed


def test_a_supported_scenario_without_an_implementation_fails(run_scenario):
    class Incomplete(FrameworkDemo):
        supports = frozenset({"chat"})

    result = run_scenario("chat", Incomplete())
    assert (result.state, result.text) == ("failed", "NotImplementedError")
    assert run_scenario("stream", Incomplete()) == Result("—", "skipped")


def test_a_scenario_that_is_not_supported_is_not_run(run_scenario):
    class Undeclared(Correct):
        supports = Correct.supports - {"chat"}

    assert run_scenario("chat", Undeclared()) == Result("—", "skipped")


def test_a_framework_that_cannot_be_imported_fails(run_scenario):
    broken = Framework("Broken", "vllm_adapters._demo.no_such_module", "openai", "")
    assert run_scenario("chat", Correct(), framework=broken).text == "ModuleNotFoundError"


def correct_except(method: str, answer: Any) -> FrameworkDemo:
    """A correct demo with one other answer."""
    demo = Correct()
    setattr(demo, method, lambda server, *arguments: answer)
    return demo


@pytest.mark.parametrize(
    ("scenario", "method", "answer"),
    [
        pytest.param("chat", "chat", "\n", id="empty"),
        pytest.param("stream", "stream", ["", ""], id="empty-stream"),
        pytest.param("reasoning", "reasoning", ("Hm.", ""), id="only-reasoning"),
        pytest.param("tool call", "tool_calls", [("get_time", {"city": "Rome"})], id="another-tool"),
        pytest.param("tool call", "tool_calls", [("get_weather", {"town": "Rome"})], id="another-argument"),
        pytest.param("structured output", "structured", ('{"city": "Oslo", "n": 2}', {"city": "Oslo"}), id="dict"),
        pytest.param(
            "structured output", "structured", ('{"city": "Oslo", "n": 2}', City(city="Oslo", n=1)), id="not-the-text"
        ),
        pytest.param("parameters", "choose", "water", id="not-a-choice"),
        pytest.param("embeddings", "embed", [[1.0, 0.0], [1.0], [0.0, 1.0]], id="ragged"),
        pytest.param("embeddings", "embed", [[float("nan")], [1.0], [0.0]], id="nan"),
        pytest.param("rerank", "rerank", [(0, 0.9), (0, 0.2), (2, 0.1)], id="duplicate-document"),
        pytest.param("rerank", "rerank", [(0, 0.1), (1, 0.2), (2, 0.3)], id="worst-first"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["bundled", "other"])
def test_invalid_answers_fail_for_any_model(run_scenario, scenario, method, answer, known):
    result = run_scenario(scenario, correct_except(method, answer), known=known)
    assert (result.state, result.text) == ("failed", "WrongAnswer")


@pytest.mark.parametrize(
    ("scenario", "method", "answer"),
    [
        pytest.param("chat", "chat", "Kyoto, I think.", id="other-words"),
        pytest.param("stream", "stream", ["Kyoto"], id="one-chunk"),
        pytest.param("reasoning", "reasoning", ("", "Tokyo"), id="no-reasoning"),
        pytest.param("tool call", "tool_calls", [], id="no-call"),
        pytest.param("tool call", "tool_calls", [("get_weather", {"city": "Rome, Italy"})], id="one-call"),
        pytest.param(
            "structured output", "structured", ('{"city": "Roma", "n": 3}', City(city="Roma", n=3)), id="other-city"
        ),
        pytest.param("embeddings", "embed", [[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], id="other-meaning"),
        pytest.param("rerank", "rerank", [(0, 0.9), (1, 0.2), (2, 0.1)], id="other-best"),
    ],
)
def test_unexpected_answers_fail_for_a_bundled_model_only(run_scenario, scenario, method, answer):
    assert run_scenario(scenario, correct_except(method, answer), known=True).state == "failed"
    assert run_scenario(scenario, correct_except(method, answer), known=False).state != "failed"


def test_a_parameter_that_is_not_sent_fails(run_scenario):
    class Forgetful(Correct):
        def choose(self, server, prompt):
            server.sent.append({"messages": [prompt]})
            return "tea"

    result = run_scenario("parameters", Forgetful(), known=False)
    assert result.text == "WrongAnswer"
    assert "top_k=1 was not sent" in result.note


def test_a_missing_server_flag_fails_for_a_bundled_model_only(run_scenario):
    class WithoutTools(Correct):
        def tool_calls(self, server, prompt):
            raise FeatureNotEnabled("no tools", hint="Add --enable-auto-tool-choice")

    assert run_scenario("tool call", WithoutTools(), known=True).state == "failed"
    result = run_scenario("tool call", WithoutTools(), known=False)
    assert (result.state, result.text) == ("skipped", "not enabled")
    assert "--enable-auto-tool-choice" in result.note


def test_the_recording_client_keeps_bodies_and_no_key():
    def respond(request):
        if request.method == "GET":
            return http.Response(200, json={"data": [{"id": "m", "root": "m"}], "version": "0.32.0"})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Tokyo"}}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return http.Response(200, json=reply)

    client = http.Client(transport=http.MockTransport(respond))
    server = RecordingServer("http://gpu:8000", api_key="secret-key", http_client=client)
    assert on_client.DEMO.chat(server, "Where?") == "Tokyo"
    body = {"model": "m", "messages": [{"role": "user", "content": "Where?"}], "temperature": 0}
    assert server.sent == [body]
    assert "secret-key" not in json.dumps(server.sent)
