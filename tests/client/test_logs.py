"""Log lines of requests: what was sent where, sizes, times, retries and ids, but no credentials and no texts."""

import logging
import os
import subprocess
import sys

import pytest

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
SECRET = [{"role": "user", "content": "a secret question"}]


@pytest.fixture
def lines(caplog):
    """The log lines of this package."""
    caplog.set_level(logging.DEBUG, logger="vllm_adapters")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("vllm_adapters")]


def matching(lines, *parts):
    return [line for line in lines() if all(part in line for part in parts)]


def test_request_and_response_are_logged(ask, fault_server, lines):
    fault_server.reply(faults.json_reply(payloads.chat("a secret"), headers={"X-Request-Id": "abc"}), CHAT)
    ask(fault_server.url, messages=SECRET, client={"api_key": "sk-hidden"})
    address = f"POST {fault_server.url.removesuffix('/v1')}{CHAT}"
    size = fault_server.posts(CHAT)[0].headers["content-length"]
    assert matching(lines, address, f"sending {size} bytes")
    [line] = matching(lines, address, "HTTP 200", "bytes", "request id abc")
    assert " s (" in line
    text = "\n".join(lines())
    assert "secret" not in text
    assert "sk-hidden" not in text


def test_query_is_not_logged(ask, fault_server, lines):
    ask(fault_server.url, extra_query={"token": "sk-hidden"})
    assert matching(lines, "HTTP 200")
    assert not matching(lines, "sk-hidden")


def test_stream_and_its_end_are_logged(ask, fault_server, lines):
    fault_server.reply(faults.chat("a secret"), CHAT)
    ask(fault_server.url, stream=True)
    assert matching(lines, "a stream begins")
    assert matching(lines, "bytes, complete")
    assert not matching(lines, "secret")


def test_cut_stream_is_logged(ask, fault_server, lines):
    fault_server.reply(faults.truncate(faults.chat("one two three four five"), after=900), CHAT)
    with pytest.raises(e.IncompleteStream):
        ask(fault_server.url, stream=True)
    assert matching(lines, "bytes, IncompleteStream")


def test_stream_that_is_left_is_logged(fault_server, lines):
    with VLLMClient(fault_server.url) as client:
        stream = client.chat.completions.create(model="stub", messages=SECRET, stream=True)
        next(stream)
        stream.close()
        del stream
    assert matching(lines, "left by the caller")


def test_retry_is_logged(ask, fault_server, lines):
    fault_server.script(CHAT, [faults.error(500)])
    ask(fault_server.url, client={"max_retries": 1})
    assert matching(lines, CHAT, "500, retrying in")


def test_logged_failure_has_no_text(ask, fault_server, lines):
    fault_server.reply(faults.error(400, "a secret"), CHAT)
    with pytest.raises(e.InvalidRequest):
        ask(fault_server.url)
    assert matching(lines, CHAT, "InvalidRequest HTTP 400")
    assert not matching(lines, "secret")


def test_nothing_is_logged_by_default(ask, fault_server, caplog):
    fault_server.script(CHAT, [faults.error(500)])
    ask(fault_server.url, client={"max_retries": 1})
    assert not [record for record in caplog.records if record.name.startswith("vllm_adapters")]


def with_request_id(behaviour):
    async def reply(exchange):
        head = exchange.head

        async def head_with_id(*args, headers=None, **more):
            await head(*args, headers={**(headers or {}), "X-Request-Id": "abc"}, **more)

        exchange.head = head_with_id
        await behaviour(exchange)

    return reply


def test_error_of_a_stream_has_the_request_id(ask, fault_server, lines):
    fault_server.reply(with_request_id(faults.truncate(faults.chat("one two three four five"), after=900)), CHAT)
    with pytest.raises(e.IncompleteStream) as caught:
        ask(fault_server.url, stream=True)
    assert caught.value.request_id == "abc"
    assert matching(lines, "request id abc", "IncompleteStream")


@pytest.mark.parametrize("name", ["VLLM_ADAPTERS_LOG", "OPENAI_LOG"])
def test_environment_prints_lines(fault_server, name):
    program = (
        "from vllm_adapters import VLLMClient; "
        f"VLLMClient({fault_server.url!r}).chat.completions.create(model='stub', messages=[])"
    )
    environment = {**{key: value for key, value in os.environ.items() if not key.endswith("_LOG")}, name: "debug"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert run.returncode == 0, run.stderr
    [sent, received] = [line for line in run.stderr.splitlines() if "vllm_adapters._response.logs" in line]
    assert "POST http://127.0.0.1" in sent
    assert "HTTP 200" in received
    assert ("openai._base_client" in run.stderr) == (name == "OPENAI_LOG")
