"""The tour without a server: cells, table, exit code."""

from __future__ import annotations

import contextlib
import io
import json
from importlib import import_module
from typing import Any

import pytest
from rich.console import Console

from vllm_adapters._compat import http
from vllm_adapters._demo import jobs, on_client, show
from vllm_adapters._demo.jobs import City, Column, NotThere
from vllm_adapters._demo.servers import Place, by_task
from vllm_adapters._demo.show import Room
from vllm_adapters._demo.tape import TapedServer
from vllm_adapters.errors import FeatureNotEnabled

CHAT = Place("http://gpu:8000/v1", "VLLM_BASE_URL", "tiny", "0.32.0", frozenset({"chat"}), known=True)
POOL = Place("http://gpu:8001/v1", "here", "minilm", None, frozenset({"embeddings", "rerank"}), known=True)


class Right(Column):
    """Answers everything as the bundled models do, without asking."""

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


ROOM = Room("Right", "vllm_adapters._demo.on_client", "openai", "")


@pytest.fixture
def visit(monkeypatch):
    """Does one job in a room whose column is given."""

    def do(title: str, column: Column, *, known: bool = True, room: Room = ROOM):
        monkeypatch.setattr(on_client, "COLUMN", column)
        job = next(job for job in jobs.JOBS if job.title == title)
        place = Place("http://gpu:8000/v1", "", "m", None, frozenset({job.task}), known=known)
        return show.visit(job, room, by_task([place]))

    return do


@pytest.fixture
def tour(monkeypatch):
    """Runs the tour with a column and servers that are not asked; returns exit code and printed text."""

    def go(column: Column, places: list[Place], rooms: tuple[Room, ...] = (ROOM,)) -> tuple[int, str]:
        monkeypatch.setattr(on_client, "COLUMN", column)
        monkeypatch.setattr(show, "servers", lambda console: contextlib.nullcontext(places))
        console = Console(file=io.StringIO(), width=120)
        code = show.run(console, rooms)
        return code, console.file.getvalue()

    return go


def test_all_right(tour):
    code, printed = tour(Right(), [CHAT, POOL])
    assert code == 0
    assert "8 worked, 0 failed, 0 not there" in printed
    assert "✓ City(city='Rome', n=1)" in printed
    assert "✓ 3 x 2" in printed
    assert 'sent      {"messages": ["Tea or coffee?"], "top_k": 1}' in printed
    assert "answered  'tea'" in printed
    assert "chat: vLLM 0.32.0, model tiny, http://gpu:8000/v1 (VLLM_BASE_URL)" in printed
    assert "embeddings, rerank: vLLM (tells no version), model minilm" in printed


def test_a_failing_cell_shows_its_class_and_fails_the_tour(tour):
    class Wrong(Right):
        def chat(self, server, prompt):
            raise RuntimeError("the [bold] end\nof it")

    code, printed = tour(Wrong(), [CHAT, POOL])
    assert code == 1
    assert "✗ RuntimeError" in printed
    assert "Right, chat: RuntimeError: the [bold] end\nof it" in printed
    assert "7 worked, 1 failed" in printed


def test_what_is_not_there_is_no_failure(tour):
    class Little(Column):
        def chat(self, server, prompt):
            return "Tokyo"

    missing = Room("Haystack", "vllm_adapters._demo.on_haystack", "no_such_framework.of_any_kind", "haystack")
    code, printed = tour(Little(), [CHAT], (ROOM, missing))
    assert code == 0
    assert "—" in printed
    assert "not served there" in printed
    assert "1 worked, 0 failed, 15 not there" in printed
    assert printed.count("no_such_framework.of_any_kind is not installed: pip install 'vllm-adapters[haystack]'") == 1


def test_a_tour_of_nothing_is_a_failure(tour):
    code, printed = tour(Column(), [CHAT, POOL])
    assert code == 1
    assert "0 worked, 0 failed, 8 not there" in printed


def test_a_room_that_does_not_load_is_a_failure(visit):
    broken = Room("Broken", "vllm_adapters._demo.no_such_module", "openai", "")
    assert visit("chat", Right(), room=broken).text == "ModuleNotFoundError"


def with_(name: str, answer: Any) -> Column:
    """A right column with one other answer."""
    column = Right()
    setattr(column, name, lambda server, *asked: answer)
    return column


@pytest.mark.parametrize(
    ("job", "name", "answer"),
    [
        pytest.param("chat", "chat", "\n", id="empty"),
        pytest.param("stream", "stream", ["", ""], id="empty-stream"),
        pytest.param("reasoning", "reasoning", ("Hm.", ""), id="only-reasoning"),
        pytest.param("tool call", "tool_calls", [("get_time", {"city": "Rome"})], id="another-tool"),
        pytest.param("tool call", "tool_calls", [("get_weather", {"town": "Rome"})], id="another-argument"),
        pytest.param("structured output", "structured", ('{"city": "Oslo", "n": 2}', {"city": "Oslo"}), id="a-dict"),
        pytest.param(
            "structured output", "structured", ('{"city": "Oslo", "n": 2}', City(city="Oslo", n=1)), id="not-the-text"
        ),
        pytest.param("parameters", "choose", "water", id="no-choice"),
        pytest.param("embeddings", "embed", [[1.0, 0.0], [1.0], [0.0, 1.0]], id="ragged"),
        pytest.param("embeddings", "embed", [[float("nan")], [1.0], [0.0]], id="nan"),
        pytest.param("rerank", "rerank", [(0, 0.9), (0, 0.2), (2, 0.1)], id="a-document-twice"),
        pytest.param("rerank", "rerank", [(0, 0.1), (1, 0.2), (2, 0.3)], id="worst-first"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["bundled", "foreign"])
def test_wrong_from_any_model(visit, job, name, answer, known):
    cell = visit(job, with_(name, answer), known=known)
    assert (cell.state, cell.text) == ("failed", "WrongAnswer")


@pytest.mark.parametrize(
    ("job", "name", "answer"),
    [
        pytest.param("chat", "chat", "Kyoto, I think.", id="other-words"),
        pytest.param("stream", "stream", ["Kyoto"], id="one-piece"),
        pytest.param("reasoning", "reasoning", ("", "Tokyo"), id="no-thought"),
        pytest.param("tool call", "tool_calls", [], id="no-call"),
        pytest.param("tool call", "tool_calls", [("get_weather", {"city": "Rome, Italy"})], id="one-call"),
        pytest.param(
            "structured output", "structured", ('{"city": "Roma", "n": 3}', City(city="Roma", n=3)), id="other-city"
        ),
        pytest.param("embeddings", "embed", [[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], id="other-meaning"),
        pytest.param("rerank", "rerank", [(0, 0.9), (1, 0.2), (2, 0.1)], id="other-best"),
    ],
)
def test_words_count_only_where_the_model_is_known(visit, job, name, answer):
    assert visit(job, with_(name, answer), known=True).state == "failed"
    assert visit(job, with_(name, answer), known=False).state != "failed"


def test_a_parameter_that_is_not_sent_is_found_out(visit):
    class Forgetful(Right):
        def choose(self, server, prompt):
            server.sent.append({"messages": [prompt]})
            return "tea"

    cell = visit("parameters", Forgetful(), known=False)
    assert cell.text == "WrongAnswer"
    assert "top_k=1 was not sent" in cell.note


def test_a_flag_that_a_foreign_server_lacks_is_no_failure(visit):
    class NoTools(Right):
        def tool_calls(self, server, prompt):
            raise FeatureNotEnabled("no tools", hint="Add --enable-auto-tool-choice")

    assert visit("tool call", NoTools(), known=True).state == "failed"
    cell = visit("tool call", NoTools(), known=False)
    assert (cell.state, cell.text) == ("empty", "not switched on there")
    assert "--enable-auto-tool-choice" in cell.note


@pytest.mark.parametrize("room", show.ROOMS, ids=lambda room: room.title)
def test_a_room_and_its_column_have_one_name(room):
    pytest.importorskip(room.needs)
    assert import_module(room.module).COLUMN.title == room.title


def test_what_a_room_does_not_have_is_a_dash():
    with pytest.raises(NotThere, match="—"):
        Column().embed(TapedServer("http://gpu:8000"), ["a"])


def test_the_tape_has_the_body_that_was_sent_and_no_key():
    def answer(request):
        if request.method == "GET":
            return http.Response(200, json={"data": [{"id": "m", "root": "m"}], "version": "0.32.0"})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Tokyo"}}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return http.Response(200, json=reply)

    client = http.Client(transport=http.MockTransport(answer))
    server = TapedServer("http://gpu:8000", api_key="secret-key", http_client=client)
    assert on_client.COLUMN.chat(server, "Where?") == "Tokyo"
    body = {"model": "m", "messages": [{"role": "user", "content": "Where?"}], "temperature": 0}
    assert server.sent == [body]
    assert "secret-key" not in json.dumps(server.sent)
