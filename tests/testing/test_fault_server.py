"""``FaultServer``: the bytes it sends for each fault, and what it records of requests and connections."""

import asyncio
import base64
import json
import math
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import pytest

from vllm_adapters.testing import FaultServer, faults, payloads

CHAT = "/v1/chat/completions"


def exchange_bytes(server, path=CHAT, body=None, *, method="POST", headers=""):
    """Send one request over a plain socket; return all bytes received, and how the connection ended."""
    data = json.dumps(body if body is not None else chat_body()).encode()
    with socket.create_connection(("127.0.0.1", int(server.root.rpartition(":")[2])), timeout=5) as sock:
        sock.sendall(
            f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}"
            f"content-length: {len(data)}\r\n\r\n".encode()
            + data
        )
        received = b""
        try:
            while piece := sock.recv(65536):
                received += piece
        except ConnectionResetError:
            return received, "reset"
        except TimeoutError:
            return received, "silent"
    return received, "closed"


def chat_body(text="hi", **more):
    return {"model": "stub", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
def client(fault_server):
    with openai.OpenAI(base_url=fault_server.url, api_key="x", max_retries=1, timeout=5) as client:
        yield client


def ask(client, text="hi", **more):
    return client.chat.completions.create(model="stub", messages=[{"role": "user", "content": text}], **more)


def test_healthy_server_responds_as_vllm(fault_server, client):
    assert ask(client, "What is up?").choices[0].message.content == "What is up?"
    assert [m.id for m in client.models.list()] == ["stub"]
    stream = list(ask(client, "a b", stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "a b"
    assert stream[-1].choices == []
    assert stream[-1].usage.prompt_tokens
    assert client.completions.create(model="stub", prompt=["x", "y"]).choices[1].text == "y"
    plain = client.embeddings.create(model="stub", input=["x"], encoding_format="float").data[0].embedding
    packed = client.embeddings.create(model="stub", input=["x"], encoding_format="base64").data[0].embedding
    assert plain == list(struct.unpack("<8f", base64.b64decode(packed)))
    get = {"cast_to": dict[str, object]}
    ranked = client.post("/rerank", body={"query": "q", "documents": ["a", "b"]}, **get)
    assert sorted(r["index"] for r in ranked["results"]) == [0, 1]
    assert client.get(f"{fault_server.root}/version", **get) == {"version": "0.32.0"}
    assert client.post(f"{fault_server.root}/tokenize", body={"prompt": "a b"}, **get)["count"] == 2


def test_requests_and_connections_are_recorded(fault_server, client):
    ask(client, "one", extra_body={"top_k": 3})
    ask(client, "two")
    first, second = fault_server.posts(CHAT)
    assert first.json["top_k"] == 3
    assert first.headers["authorization"] == "Bearer x"
    assert "Bearer" not in repr(first)
    assert first.connection == second.connection
    assert first.at <= second.at


def test_script_runs_once(fault_server, client):
    fault_server.script(CHAT, [faults.error(429, retry_after=0), faults.chat("second")])
    assert ask(client).choices[0].message.content == "second"
    assert ask(client, "third").choices[0].message.content == "third"
    assert len(fault_server.posts(CHAT)) == 3


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        ("vllm", {"error": {"message": "no", "type": "NotFoundError", "param": None, "code": 404}}),
        ("flat", {"object": "error", "message": "no", "type": "NotFoundError", "param": None, "code": 404}),
        ("detail", {"detail": "no"}),
        ("string", {"error": "no"}),
    ],
)
def test_error_has_each_of_four_shapes(fault_server, shape, body):
    fault_server.reply(faults.error(404, "no", shape=shape, type="NotFoundError"))
    received, _ = exchange_bytes(fault_server)
    head, _, sent = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found")
    assert json.loads(sent) == body


@pytest.mark.parametrize(
    ("behaviour", "end", "tail"),
    [
        pytest.param(faults.sse("data: 1", end="done"), "closed", b"data: [DONE]\n\n\r\n0\r\n\r\n", id="done"),
        pytest.param(faults.sse("data: 1", end="clean"), "closed", b"data: 1\n\n\r\n0\r\n\r\n", id="clean"),
        pytest.param(faults.sse("data: 1", end="close"), "closed", b"data: 1\n\n\r\n", id="no terminator"),
        pytest.param(faults.sse("data: 1", end="clean", framing="close"), "closed", b"data: 1\n\n", id="eof"),
        pytest.param(faults.sse("data: 1", newline="\r\n"), "closed", b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n", id="crlf"),
        pytest.param(faults.reset(), "reset", b"", id="reset at once"),
        pytest.param(faults.hang_up(), "closed", b"", id="hang up"),
        pytest.param(faults.truncate(faults.json_reply({"a": 1}), after=3), "closed", b'\r\n\r\n{"a', id="short body"),
        pytest.param(faults.split(faults.reply("häh"), size=1), "closed", "\r\n\r\nhäh".encode(), id="split"),
    ],
)
def test_body_and_end_of_connection(fault_server, behaviour, end, tail):
    fault_server.reply(behaviour)
    received, ended = exchange_bytes(fault_server)
    assert ended == end
    assert received.endswith(tail)


def test_stream_can_be_reset(fault_server, client):
    fault_server.reply(faults.sse(*payloads.chat_chunks("a b c")[:3], end="reset"))
    with pytest.raises(Exception, match=r"(?i)reset|connection|closed"):
        list(ask(client, stream=True))


def test_deltas_and_error_events_are_sent(fault_server, client):
    two = [payloads.tool_call("f", "{}", index=0), payloads.tool_call("g", "{}", index=1)]
    fault_server.reply(faults.deltas({"reasoning": "r", "content": "c"}, {"tool_calls": two}, finish_reason=None))
    both, calls = list(ask(client, stream=True))
    assert (both.choices[0].delta.reasoning, both.choices[0].delta.content) == ("r", "c")
    assert [c.function.name for c in calls.choices[0].delta.tool_calls] == ["f", "g"]
    fault_server.reply(faults.error_event("dead", after=2))
    with pytest.raises(openai.APIError, match="dead"):
        list(ask(client, stream=True))


def test_embeddings_and_rankings_have_the_chosen_defect(fault_server, client):
    def rows(fault):
        fault_server.reply(faults.wrong_embeddings(fault))
        received, _ = exchange_bytes(fault_server, "/v1/embeddings", {"input": ["a", "b", "c"]})
        return json.loads(received.partition(b"\r\n\r\n")[2])["data"]

    assert len(rows("missing")) == 2
    assert len(rows("extra")) == 4
    assert [r["index"] for r in rows("shuffled")] == [2, 1, 0]
    assert math.isnan(rows("nan")[-1]["embedding"][0])
    assert len(rows("dims")[-1]["embedding"]) == 7
    assert rows("null")[-1]["embedding"] is None

    def ranks(fault):
        fault_server.reply(faults.wrong_rerank(fault))
        received, _ = exchange_bytes(fault_server, "/rerank", {"query": "q", "documents": ["a", "b", "c"]})
        return json.loads(received.partition(b"\r\n\r\n")[2])["results"]

    assert len(ranks("short")) == 2
    assert ranks("bad-index")[0]["index"] == 3
    assert ranks("negative-index")[0]["index"] == -1
    assert len({r["index"] for r in ranks("duplicate")}) == 2
    assert math.isnan(ranks("nan")[0]["relevance_score"])


def test_disconnection_of_the_client_is_recorded(fault_server):
    fault_server.reply(faults.drip(0.01))
    with socket.create_connection(("127.0.0.1", int(fault_server.root.rpartition(":")[2]))) as sock:
        sock.sendall(b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        assert b": ping" in sock.recv(4096) + sock.recv(4096)
        assert fault_server.requests[-1].disconnected_at is None
    assert fault_server.requests[-1].wait_disconnected()


def test_hanging_ends_when_the_client_disconnects(fault_server):
    fault_server.reply(faults.hang())
    with openai.OpenAI(base_url=fault_server.url, api_key="x", max_retries=0, timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            ask(client)
        assert fault_server.posts(CHAT)[0].wait_disconnected()


def test_stale_connection_is_closed_after_the_response(fault_server, client):
    fault_server.script(CHAT, [faults.stale(faults.chat("a"))])
    ask(client)
    time.sleep(0.05)
    ask(client)
    first, second = fault_server.posts(CHAT)
    assert first.connection != second.connection


def test_redirect_is_sent(fault_server, make_fault_server):
    other = make_fault_server()
    fault_server.reply(faults.redirect(f"{other.url}/chat/completions"))
    received, _ = exchange_bytes(fault_server)
    assert b"307 Temporary Redirect" in received
    assert f"location: {other.url}/chat/completions".encode() in received


def test_version_routes_and_key_are_configurable(make_fault_server):
    assert b'{"version":"0.10.2"}' in exchange_bytes(make_fault_server(version="0.10.2"), "/version", method="GET")[0]
    assert b"404 Not Found" in exchange_bytes(make_fault_server(version=None), "/version", method="GET")[0]
    pooling = make_fault_server(routes=["/v1/embeddings"])
    assert b'{"detail":"Not Found"}' in exchange_bytes(pooling)[0]
    assert b'{"detail":"Method Not Allowed"}' in exchange_bytes(pooling, "/v1/embeddings", method="GET")[0]
    guarded = make_fault_server(api_key="k")
    assert b"401 Unauthorized" in exchange_bytes(guarded)[0]
    assert b"200 OK" in exchange_bytes(guarded, headers="authorization: Bearer k\r\n")[0]


def test_responses_go_to_their_requests(fault_server, client):
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda i: ask(client, f"question {i}").choices[0].message.content, range(64))
    assert list(answers) == [f"question {i}" for i in range(64)]


async def test_a_thousand_concurrent_requests(many_files, make_fault_server):
    server = make_fault_server(delay=1.5)
    port = int(server.root.rpartition(":")[2])

    async def one(i):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(chat_body(f"number {i}")).encode()
        writer.write(
            b"POST %b HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body))
        )
        writer.write(body)
        answer = await reader.read()
        writer.close()
        return f'"number {i}"'.encode() in answer

    assert all(await asyncio.gather(*map(one, range(1000))))
    assert server.peak > 500


def test_error_of_a_behaviour_is_raised_on_stop():
    async def broken(exchange):
        raise ZeroDivisionError

    server = FaultServer().start()
    server.reply(broken)
    exchange_bytes(server)
    with pytest.raises(ZeroDivisionError):
        server.stop()


def test_stopping_ends_open_requests():
    with FaultServer() as server:
        server.reply(faults.hang())
        waiting = threading.Thread(target=exchange_bytes, args=(server,))
        waiting.start()
        assert server.wait_for(lambda: len(server.requests) == 1)
    waiting.join(timeout=5)
    assert not waiting.is_alive()
    with pytest.raises(RuntimeError, match="not running"):
        server.url  # noqa: B018


def test_connections_are_accepted_during_a_restart():
    def calls():
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return time.sleep(0.001)

    with FaultServer() as server, ThreadPoolExecutor() as callers:
        port = urlsplit(server.url).port
        calling = [callers.submit(calls) for _ in range(200)]
        for _ in range(20):
            server.restart()
        for call in calling:
            call.result()
        assert urlsplit(server.url).port == port
    with pytest.raises(ConnectionRefusedError):
        calls()
