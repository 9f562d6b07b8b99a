"""Compare the CPU time of the adapters with that of the stock classes, in one interleaved run.

    python benchmarks/run.py [--quick] [--rounds N] [--only WORD] [--save]

Both sides talk to the same stub server, which is a process of its own. Each round runs every pair, stock and ours in
turn; a pair's ratio is the median of the ratios of its passes. Only the CPU time of this process counts
(``time.process_time``): on a busy machine the ratios are stable, wall times are not. The exit code is 1 if a ratio
exceeds its limit by more than 5 %, the difference between two runs:

* streaming takes at most a third of ``ChatOpenAI``'s CPU time per chunk (when chunks arrive in a burst),
* a reply that is not streamed takes no more than stock,
* streaming through Haystack takes at most half of ``OpenAIChatGenerator``'s CPU time per chunk,
* embedding 1,000 documents takes at most a tenth of vllm-haystack's CPU time (``pip install vllm-haystack``).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import measured
import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from stub import CHUNKS, DIMENSIONS, Stub

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters._compat import http
from vllm_adapters.langchain import ChatVLLM

NOISE = 1.05
OTHERS = ("OPENAI_", "VLLM_", "LANGSMITH_", "LANGCHAIN_")
QUESTION = "What is the capital of France?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
Work = Callable[[], object]


@dataclass
class Pair:
    """The same work done by a stock class and by ours.

    Args:
        title: The work.
        unit: Unit of the cost.
        count: Number of units in one pass.
        stock: One pass with the stock class.
        ours: One pass with our class.
        limit: Ratio that must not be exceeded.
        rounds: Maximum number of rounds.
        passes: Passes per round; many short, alternating passes are less noisy than a long one.
    """

    title: str
    unit: str
    count: int
    stock: Work
    ours: Work
    limit: float | None = None
    rounds: int | None = None
    passes: int = 1
    costs: dict[str, list[float]] = field(default_factory=lambda: {"stock": [], "ours": []})

    def run(self, turn: int) -> None:
        """Run one round: both sides in turn, alternating which one starts."""
        for number in range(self.passes):
            for side in ("stock", "ours") if (turn + number) % 2 else ("ours", "stock"):
                gc.collect()
                start = time.process_time()
                getattr(self, side)()
                self.costs[side].append((time.process_time() - start) / self.count * 1e6)

    @property
    def ratio(self) -> float:
        return median(ours / stock for ours, stock in zip(self.costs["ours"], self.costs["stock"], strict=True))

    @property
    def within_limit(self) -> bool:
        return self.limit is None or self.ratio <= self.limit * NOISE

    def row(self) -> str:
        stock, ours = (median(self.costs[side]) for side in ("stock", "ours"))
        verdict = "" if self.limit is None else f"  <= {self.limit:.2f} {'ok' if self.within_limit else 'EXCEEDED'}"
        return f"{self.title:<52} {stock:9.0f} {ours:9.0f}  us/{self.unit:<8} {self.ratio:5.2f}{verdict}"


def count(chunks: Iterable[Any], texts: Callable[[Any], str]) -> None:
    """Read a stream to its end and check that no chunk is missing."""
    assert sum(1 for chunk in chunks if texts(chunk)) == CHUNKS


async def acount(chunks: AsyncIterable[Any], texts: Callable[[Any], str]) -> None:
    """Async version of ``count``."""
    total = 0
    async for chunk in chunks:
        total += bool(texts(chunk))
    assert total == CHUNKS


def text_of_message(chunk: Any) -> str:
    return str(chunk.content)


def text_of_chunk(chunk: Any) -> str:
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


def times(calls: int, call: Work) -> Work:
    def work() -> None:
        for _ in range(calls):
            assert call()

    return work


def atimes(loop: asyncio.AbstractEventLoop, calls: int, call: Callable[[], Awaitable[object]]) -> Work:
    async def work() -> None:
        for _ in range(calls):
            assert await call()

    return lambda: loop.run_until_complete(work())


def streams(url: str, loop: asyncio.AbstractEventLoop) -> Iterator[Pair]:
    """Chunks of a stream, through LangChain and through the client."""
    for arrival in ("burst", "paced"):
        common: dict[str, Any] = {"model": arrival, "base_url": url, "api_key": "none", "temperature": 0}
        stock, ours = ChatOpenAI(**common, stream_usage=True), ChatVLLM(**common)
        yield Pair(
            f"ChatVLLM.stream / ChatOpenAI.stream, {arrival}",
            "chunk",
            CHUNKS,
            lambda m=stock: count(m.stream(QUESTION), text_of_message),
            lambda m=ours: count(m.stream(QUESTION), text_of_message),
            limit=1 / 3 if arrival == "burst" else None,
        )
        yield Pair(
            f"ChatVLLM.astream / ChatOpenAI.astream, {arrival}",
            "chunk",
            CHUNKS,
            lambda m=stock: loop.run_until_complete(acount(m.astream(QUESTION), text_of_message)),
            lambda m=ours: loop.run_until_complete(acount(m.astream(QUESTION), text_of_message)),
            limit=1 / 3 if arrival == "burst" else None,
        )
        create: dict[str, Any] = {
            "model": arrival,
            "messages": MESSAGES,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        stock_client, our_client = openai.OpenAI(base_url=url, api_key="none"), VLLMClient(url)
        yield Pair(
            f"VLLMClient / openai.OpenAI, stream, {arrival}",
            "chunk",
            CHUNKS,
            lambda c=stock_client, a=create: count(c.chat.completions.create(**a), text_of_chunk),
            lambda c=our_client, a=create: count(c.chat.completions.create(**a), text_of_chunk),
        )
        stock_async, our_async = openai.AsyncOpenAI(base_url=url, api_key="none"), AsyncVLLMClient(url)

        async def read(client: Any, request: dict[str, Any]) -> None:
            await acount(await client.chat.completions.create(**request), text_of_chunk)

        yield Pair(
            f"AsyncVLLMClient / AsyncOpenAI, stream, {arrival}",
            "chunk",
            CHUNKS,
            lambda c=stock_async, a=create: loop.run_until_complete(read(c, a)),
            lambda c=our_async, a=create: loop.run_until_complete(read(c, a)),
        )


def replies(url: str, loop: asyncio.AbstractEventLoop, calls: int) -> Iterator[Pair]:
    """Replies that are not streamed, through LangChain and through the client."""
    common: dict[str, Any] = {"model": "burst", "base_url": url, "api_key": "none", "temperature": 0}
    stock, ours = ChatOpenAI(**common), ChatVLLM(**common)
    yield Pair(
        "ChatVLLM.invoke / ChatOpenAI.invoke",
        "reply",
        calls,
        times(calls, lambda: stock.invoke(QUESTION).content),
        times(calls, lambda: ours.invoke(QUESTION).content),
        limit=1.0,
        passes=5,
    )
    yield Pair(
        "ChatVLLM.ainvoke / ChatOpenAI.ainvoke",
        "reply",
        calls,
        atimes(loop, calls, lambda: stock.ainvoke(QUESTION)),
        atimes(loop, calls, lambda: ours.ainvoke(QUESTION)),
        limit=1.0,
        passes=5,
    )
    stock_client, our_client = openai.OpenAI(base_url=url, api_key="none"), VLLMClient(url)
    yield Pair(
        "VLLMClient / openai.OpenAI, create",
        "reply",
        calls,
        times(calls, lambda: stock_client.chat.completions.create(model="burst", messages=MESSAGES).choices),
        times(calls, lambda: our_client.chat.completions.create(model="burst", messages=MESSAGES).choices),
        limit=1.0,
        passes=5,
    )
    stock_async, our_async = openai.AsyncOpenAI(base_url=url, api_key="none"), AsyncVLLMClient(url)
    yield Pair(
        "AsyncVLLMClient / AsyncOpenAI, create",
        "reply",
        calls,
        atimes(loop, calls, lambda: stock_async.chat.completions.create(model="burst", messages=MESSAGES)),
        atimes(loop, calls, lambda: our_async.chat.completions.create(model="burst", messages=MESSAGES)),
        limit=1.0,
        passes=5,
    )


def embeddings(url: str) -> Iterator[Pair]:
    """Vectors of 1,000 texts in one request."""
    texts = [f"Text number {place}" for place in range(1000)]
    stock = OpenAIEmbeddings(
        model="stub", base_url=url, api_key="none", check_embedding_ctx_length=False, chunk_size=len(texts)
    )
    server = VLLMServer(url, model="stub")

    def block() -> None:
        assert server.embed(texts).shape == (len(texts), DIMENSIONS)

    def lists(vectors: list[list[float]]) -> None:
        assert (len(vectors), len(vectors[0])) == (len(texts), DIMENSIONS)

    for title, ours in (
        ("VLLMServer.embed / OpenAIEmbeddings, one block", block),
        ("VLLMServer.embed / OpenAIEmbeddings, lists of floats", lambda: lists(server.embed(texts).tolist())),
    ):
        yield Pair(title, "text", len(texts), lambda: lists(stock.embed_documents(texts)), ours)


def generators(url: str) -> Iterator[Pair]:
    """Chunks of a stream through Haystack."""
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.utils import Secret

    from vllm_adapters.haystack import VLLMChatGenerator

    stock = OpenAIChatGenerator(Secret.from_token("none"), model="burst", api_base_url=url)
    ours = VLLMChatGenerator(model="burst", api_base_url=url)

    def run(generator: Any) -> None:
        chunks: list[Any] = []
        generator.run(QUESTION, streaming_callback=chunks.append)
        count(chunks, text_of_message)

    yield Pair(
        "VLLMChatGenerator.run / OpenAIChatGenerator.run, burst",
        "chunk",
        CHUNKS,
        lambda: run(stock),
        lambda: run(ours),
        limit=1 / 2,
    )


def documents(url: str, loop: asyncio.AbstractEventLoop) -> Iterator[Pair]:
    """Embeddings of Haystack documents, compared with vllm-haystack, deepset's package for vLLM."""
    try:
        from haystack_integrations.components.embedders.vllm import VLLMDocumentEmbedder as Stock
    except ImportError:
        print("vllm-haystack is not installed, so the Haystack embedders are not compared.")
        return
    from haystack import Document

    from vllm_adapters.haystack import VLLMDocumentEmbedder

    texts = [Document(content=f"Text number {place}") for place in range(1000)]
    common: dict[str, Any] = {"model": "stub", "api_base_url": url, "progress_bar": False}
    stock, ours = Stock(**common), VLLMDocumentEmbedder(**common)

    def whole(found: dict[str, Any]) -> None:
        assert [len(document.embedding) for document in found["documents"]] == [DIMENSIONS] * len(texts)

    ways: dict[str, Callable[[Any], dict[str, Any]]] = {
        "run": lambda embedder: embedder.run(texts),
        "run_async": lambda embedder: loop.run_until_complete(embedder.run_async(texts)),
    }
    for name, way in ways.items():
        title = f"VLLMDocumentEmbedder.{name} / vllm-haystack's"
        sides: list[Work] = [lambda e=e, way=way: whole(way(e)) for e in (stock, ours)]  # type: ignore[misc]
        yield Pair(title, "text", len(texts), *sides, limit=0.1)


class Crowd:
    """Many concurrent calls, each answered after a second; counts the failed ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop, model: Any, size: int) -> None:
        self._loop, self._model, self._size = loop, model, size
        self.failed = 0

    def __call__(self) -> None:
        self._loop.run_until_complete(self._all())

    async def _all(self) -> None:
        calls = (self._model.ainvoke(QUESTION) for _ in range(self._size))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        self.failed += sum(isinstance(answer, BaseException) for answer in answers)


def crowds(url: str, loop: asyncio.AbstractEventLoop, size: int) -> Iterator[Pair]:
    common: dict[str, Any] = {"model": "slow", "base_url": url, "api_key": "none", "max_retries": 0}
    stock = Crowd(loop, ChatOpenAI(**common), size)
    ours = Crowd(loop, ChatVLLM(**common), size)
    yield Pair(f"ChatVLLM.ainvoke / ChatOpenAI.ainvoke, {size} at once", "reply", size, stock, ours, rounds=3)


IMPORTS = (
    "pass",
    "import vllm_adapters",
    "import openai",
    "from vllm_adapters import VLLMClient",
    "from langchain_openai import ChatOpenAI",
    "from vllm_adapters.langchain import ChatVLLM",
)


def imports(rounds: int) -> None:
    """Print the CPU time and the number of modules of an import in a fresh process."""
    costs: dict[str, list[float]] = {statement: [] for statement in IMPORTS}
    modules: dict[str, int] = {}
    for _ in range(rounds + 1):  # the first one compiles the modules
        for statement in IMPORTS:
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            code = f"{statement}\nimport sys; print(len(sys.modules))"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            costs[statement].append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
            modules[statement] = int(done.stdout)
    base = median(costs["pass"][1:])
    print("\nimport in a fresh process                                      CPU ms  x `pass`  modules")
    for statement, spent in costs.items():
        cost = median(spent[1:])
        print(f"{statement:<56} {cost * 1e3:12.0f} {cost / base:9.1f} {modules[statement]:8}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU time compared with the stock classes.")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the interleaved run (default 9)")
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--only", default="", metavar="WORD", help="only pairs with this word in their title")
    parser.add_argument(
        "--save", action="store_true", help="save the ratios that have a limit for the documentation (make readme)"
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    rounds = 3 if args.quick else args.rounds
    for name in [name for name in os.environ if name.upper().startswith(OTHERS) or name.upper().endswith("_PROXY")]:
        del os.environ[name]
    print(f"openai {openai.__version__} on {http.__name__}, Python {sys.version.split()[0]}, {rounds} rounds")
    loop = asyncio.new_event_loop()
    with Stub() as url:
        pairs = [
            *streams(url, loop),
            *replies(url, loop, 20),
            *embeddings(url),
            *generators(url),
            *documents(url, loop),
            *crowds(url, loop, 500),
        ]
        pairs = [pair for pair in pairs if args.only in pair.title]
        for pair in pairs:  # warm-up of connections and caches
            pair.run(0)
            pair.costs = {"stock": [], "ours": []}
        for turn in range(rounds):
            for pair in pairs:
                if turn < (pair.rounds or rounds):
                    pair.run(turn)
        print(f"\n{'ours / stock':<52} {'stock':>9} {'ours':>9}  {'':<11} ratio")
        for pair in pairs:
            print(pair.row())
            for side in (pair.stock, pair.ours):
                if isinstance(side, Crowd):
                    print(f"    {'stock' if side is pair.stock else 'ours'}: {side.failed} failed")
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    if args.save:
        ratios = {p.title: (round(p.ratio, 2), round(p.limit, 2)) for p in pairs if p.limit}
        measured.save("cost", {"openai": openai.__version__, "ratios": ratios})
    if not args.only:
        imports(1 if args.quick else 5)
    return 0 if all(pair.within_limit for pair in pairs) else 1


if __name__ == "__main__":
    sys.exit(main())
