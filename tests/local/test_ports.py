"""The port of a local server is free, and stays so until the server has started."""

import socket

from vllm_adapters.local import ports


def test_port_is_free_and_below_those_of_outgoing_connections():
    found = {ports.free_port() for _ in range(20)}
    assert len(found) > 1
    assert all(20_000 <= port < 32_000 and not ports.is_taken(port) for port in found)


def test_ports_in_use_are_passed_over(monkeypatch):
    with socket.socket() as first, socket.socket() as second:
        for server in (first, second):
            server.bind(("127.0.0.1", 0))
            server.listen()
        taken = [server.getsockname()[1] for server in (first, second)]
        monkeypatch.setattr(ports, "_PORTS", taken * 50)
        assert all(ports.is_taken(port) for port in taken)
        assert ports.free_port() not in taken
