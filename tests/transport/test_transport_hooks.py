"""Canary: what ``_transport/http.py`` relies on in httpx and httpcore without being documented there.

A failure says that a release changed it.
"""

import asyncio

import pytest

from vllm_adapters._compat import http, httpcore


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


def changed(what):
    return f"{http.__name__} {http.__version__} changed {what}: adapt vllm_adapters/_transport/http.py"


def test_connections_of_a_transport_are_found():
    backend = http.HTTPTransport()._pool._network_backend
    assert isinstance(backend, httpcore.NetworkBackend), changed("_pool._network_backend")
    backend = http.AsyncHTTPTransport()._pool._network_backend
    assert isinstance(backend, httpcore.AsyncNetworkBackend), changed("_pool._network_backend")
    for client in (http.Client(), http.AsyncClient()):
        assert {"_transport", "_mounts"} <= set(vars(client)), changed("the attributes of its client")


class Limit(float):
    """As ``_transport.http._Limit``: a limit that must reach each read and write as the same object."""


LIMITS = {"connect": Limit(1), "read": Limit(2), "write": Limit(3), "pool": Limit(4)}
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class Recorder(httpcore.NetworkBackend, httpcore.NetworkStream):
    """A backend and its connection; it records the time limit of each operation."""

    def __init__(self):
        self.limits, self.response = [], [RESPONSE]

    def connect_tcp(self, *args, **options):
        self.limits.append(("connect", options["timeout"]))
        return self

    def start_tls(self, *args, **options):
        self.limits.append(("connect", options["timeout"]))
        return self

    def read(self, max_bytes, timeout=None):
        self.limits.append(("read", timeout))
        return self.response.pop() if self.response else b""

    def write(self, buffer, timeout=None):
        self.limits.append(("write", timeout))

    def close(self):
        pass

    def get_extra_info(self, info):
        return None


class AsyncRecorder(httpcore.AsyncNetworkBackend, httpcore.AsyncNetworkStream):
    """Async version of ``Recorder``."""

    def __init__(self):
        self.sync = Recorder()
        self.limits = self.sync.limits

    async def connect_tcp(self, *args, **options):
        self.sync.connect_tcp(*args, **options)
        return self

    async def start_tls(self, *args, **options):
        self.sync.start_tls(*args, **options)
        return self

    async def read(self, max_bytes, timeout=None):
        return self.sync.read(max_bytes, timeout)

    async def write(self, buffer, timeout=None):
        self.sync.write(buffer, timeout)

    async def aclose(self):
        pass

    def get_extra_info(self, info):
        return None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_time_limits_reach_reads_and_writes_unchanged(kind, scheme):
    # The deadline of a call travels as an attribute of these numbers.
    recorder = Recorder() if kind == "sync" else AsyncRecorder()
    transport = http.HTTPTransport() if kind == "sync" else http.AsyncHTTPTransport()
    transport._pool._network_backend = recorder
    request = http.Request("POST", f"{scheme}://h/x", content=b"body", extensions={"timeout": dict(LIMITS)})

    async def run():
        response = await transport.handle_async_request(request)
        return await response.aread()

    content = transport.handle_request(request).read() if kind == "sync" else asyncio.run(run())
    assert content == b"hi", changed("how a response is read")
    operations = [operation for operation, _ in recorder.limits]
    expected = ["connect"] * (1 if scheme == "http" else 2)
    assert operations[: len(expected) + 1] == [*expected, "write"], changed("the order of operations")
    assert "read" in operations, changed("how a response is read")
    for operation, limit in recorder.limits:
        assert limit is LIMITS[operation], changed(f"the time limit of {operation}")


def test_client_passes_the_time_limits_of_a_request_to_its_transport(kind):
    requests = []

    def reply(request):
        requests.append(request)
        return http.Response(200)

    transport = http.MockTransport(reply)
    request = http.Request("GET", "http://h/x", extensions={"timeout": LIMITS})

    async def run():
        await http.AsyncClient(transport=transport).send(request)

    if kind == "sync":
        http.Client(transport=transport).send(request)
    else:
        asyncio.run(run())
    found = requests[0].extensions["timeout"]
    assert all(found[name] is limit for name, limit in LIMITS.items()), changed("extensions['timeout']")


def test_redirect_has_its_next_request():
    def reply(request):
        return http.Response(307, headers={"location": "http://other/x"})

    client = http.Client(transport=http.MockTransport(reply))
    response = client.send(http.Request("GET", "http://h/x"), follow_redirects=False)
    assert str(response.next_request.url) == "http://other/x", changed("response.next_request")
