"""pytest plugin: servers as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from vllm_adapters.testing.fault_server import FaultServer


@pytest.fixture
def make_fault_server() -> Iterator[Callable[..., FaultServer]]:
    """Starts a `FaultServer` with the given options; stopped when the test ends."""
    with ExitStack() as running:
        yield lambda **options: running.enter_context(FaultServer(**options))


@pytest.fixture
def fault_server(make_fault_server: Callable[..., FaultServer]) -> FaultServer:
    """A healthy `FaultServer`, to be told how to fail."""
    return make_fault_server()
