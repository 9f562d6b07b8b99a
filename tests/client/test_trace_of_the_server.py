"""vLLM's own spans are children of ours: a real vLLM sends them to a collector in this process."""

import gzip
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.local import LocalVLLM

pytestmark = pytest.mark.live

HELLO = [{"role": "user", "content": "What is the capital of France?"}]


def fields(message):
    """Yield the numbers and values of a protobuf message: bytes, or integers."""
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        length = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield number, message[position : position + length]
        position += length


def spans_of(export):
    """Return the spans of an OTLP export, as dicts of ids and the name."""
    names = {1: "trace_id", 2: "span_id", 4: "parent_id", 5: "name"}
    spans = []
    for _, resource in fields(export):
        for number, scope in fields(resource):
            if number == 2:
                spans += [
                    {names[key]: value for key, value in fields(span) if key in names}
                    for key, span in fields(scope)
                    if key == 2
                ]
    return spans


@pytest.fixture(scope="module")
def collected():
    """The spans that a collector has received, and its address."""
    spans = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            spans.extend(spans_of(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=server.serve_forever, daemon=True).start()
    yield spans, f"http://127.0.0.1:{server.server_port}/v1/traces"
    server.shutdown()


@pytest.fixture(scope="module")
def server(collected):
    env = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with LocalVLLM("tiny", flags=["--otlp-traces-endpoint", collected[1]], env=env, quiet=True) as server:
        yield server


def child_of(span, collected):
    """Return the server's span below ``span``, once it has arrived."""
    parent = span.context.span_id.to_bytes(8, "big")
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for found in collected[0]:
            if found.get("parent_id") == parent:
                return found
        time.sleep(0.1)
    raise AssertionError(f"no child of {span.name} in {collected[0]}")


@pytest.mark.parametrize("how", ["whole", "streamed", "async", "LangChain"])
async def test_span_of_the_server_is_a_child_of_ours(server, collected, recorded, how):
    url = server.base_url
    if how == "LangChain":
        assert ChatVLLM(base_url=url).invoke("What is the capital of France?").text
    elif how == "async":
        async with AsyncVLLMClient(url) as client:
            await client.chat.completions.create(model="tiny", messages=HELLO)
    else:
        with VLLMClient(url) as client:
            reply = client.chat.completions.create(model="tiny", messages=HELLO, stream=how == "streamed")
            if how == "streamed":
                assert list(reply)
    span = recorded.span()
    child = child_of(span, collected)
    assert child["name"] == b"llm_request"
    assert child["trace_id"] == span.context.trace_id.to_bytes(16, "big")
