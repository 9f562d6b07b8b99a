"""Servers for bulk jobs: one that echoes its prompts, and two replicas of a small model behind vllm-router."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from gateways.start import router

from vllm_adapters import LocalVLLM
from vllm_adapters.testing import FaultServer, faults


def _serve(pipe: Connection) -> None:
    with FaultServer() as server:
        overloaded = faults.error(429, "too many", retry_after=0.2)
        server.script("/v1/chat/completions", [*[faults.chat()] * 500, *[overloaded] * 50])
        pipe.send(server.url)
        while not pipe.poll(1):
            server.requests.clear()  # in memory; the file is what counts


@contextmanager
def stub() -> Iterator[str]:
    """Run a fault server in a process of its own. It replies 429 to 50 of its requests."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(there,))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


@contextmanager
def replicas() -> Iterator[str]:
    """Run vllm-router in front of two `tiny`: those of ``VLLM_REPLICAS``, or started here."""
    urls = os.environ.get("VLLM_REPLICAS", "").split()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        while len(urls) < 2:
            urls.append(stack.enter_context(LocalVLLM("tiny")).client.vllm.root)
        yield stack.enter_context(router([url.rstrip("/").removesuffix("/v1") for url in urls], folder))
