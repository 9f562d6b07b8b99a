"""Count the calls of this package's functions on the way of a request and of a stream chunk.

    python scripts/trace_calls.py [--list]

Every ``call`` event of ``sys.setprofile`` counts whose code lies in the package: functions, comprehensions and each
resumption of a generator. The client, the model's name and the server's version are known already. A request is
counted until it is handed to httpx, a chunk from the socket to the framework's object. Exits 1 above a limit.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import vllm_adapters
from vllm_adapters.testing import FaultServer, faults

PACKAGE = str(Path(vllm_adapters.__file__).parent) + os.sep
LIMITS = {"LangChain": (50, 10), "LlamaIndex": (40, 9), "Haystack": (40, 9)}  # calls and files to the wire
CHUNK_LIMIT = 16
FEW, MANY = 20, 120  # chunks of the two streams that are compared


class Tracer:
    """Counts calls by function, until the request reaches httpx if ``to_wire``."""

    def __init__(self, *, to_wire: bool) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self._to_wire = to_wire
        self._stopped = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Take one event of ``sys.setprofile``."""
        if event != "call" or self._stopped:
            return
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            self.calls[(code.co_filename.removeprefix(PACKAGE), code.co_qualname)] += 1
        elif self._to_wire and code.co_name == "send" and f"{os.sep}httpx" in code.co_filename:
            self._stopped = True


@contextmanager
def traced(*, to_wire: bool) -> Iterator[Tracer]:
    """Trace this thread inside the block."""
    tracer = Tracer(to_wire=to_wire)
    sys.setprofile(tracer)
    try:
        yield tracer
    finally:
        sys.setprofile(None)


def frameworks(url: str) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return for each framework what sends a chat, and what reads a whole stream."""
    from haystack.dataclasses import ChatMessage as HaystackMessage
    from llama_index.core.llms import ChatMessage

    from vllm_adapters.haystack import VLLMChatGenerator
    from vllm_adapters.langchain import ChatVLLM
    from vllm_adapters.llamaindex import VLLM

    known: dict[str, Any] = {"model": "stub", "server_version": "0.32.0"}
    chat = ChatVLLM(base_url=url, top_k=20, **known)
    llm = VLLM(api_base=url, top_k=20, context_window=2048, **known)
    generator = VLLMChatGenerator(api_base_url=url, generation_kwargs={"top_k": 20}, **known)
    return {
        "LangChain": (
            lambda: chat.invoke("Hello"),
            lambda: [chunk.text for chunk in chat.stream("Hello")],
        ),
        "LlamaIndex": (
            lambda: llm.chat([ChatMessage("Hello")]),
            lambda: [response.delta for response in llm.stream_chat([ChatMessage("Hello")])],
        ),
        "Haystack": (
            lambda: generator.run([HaystackMessage.from_user("Hello")]),
            lambda: generator.run([HaystackMessage.from_user("Hello")], streaming_callback=lambda chunk: None),
        ),
    }


def calls_of_stream(server: FaultServer, read: Callable[[], Any], chunks: int) -> Counter[tuple[str, str]]:
    """Return the calls of reading one stream of so many words, each in a packet of its own."""
    server.reply(faults.chat("word " * chunks, pause=0.002))
    with traced(to_wire=False) as tracer:
        read()
    server.reply(faults.chat("Hello"))
    return tracer.calls


def main() -> int:
    """Print the table; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the functions, with their calls")
    args = parser.parse_args()
    exceeded = False
    with FaultServer() as server:
        for name, (send, read) in frameworks(server.url).items():
            for warm_up in (send, read):
                warm_up()
            with traced(to_wire=True) as tracer:
                send()
            few, many = (calls_of_stream(server, read, chunks) for chunks in (FEW, MANY))
            total, files = sum(tracer.calls.values()), len({file for file, _ in tracer.calls})
            chunk = {call: (many[call] - few[call]) / (MANY - FEW) for call in many if many[call] > few[call]}
            per_chunk = sum(chunk.values())
            most, most_files = LIMITS[name]
            exceeded |= total > most or files > most_files or per_chunk > CHUNK_LIMIT + 0.5
            print(
                f"{name:12} request: {total} calls (at most {most}) in {files} files (at most {most_files}); "
                f"chunk: {per_chunk:.1f} calls (at most {CHUNK_LIMIT})"
            )
            if args.list:
                for (file, function), count in sorted(tracer.calls.items()):
                    print(f"    {count:4} {file}: {function}")
                for (file, function), calls in sorted(chunk.items()):
                    print(f"  chunk {calls:5.2f} {file}: {function}")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
