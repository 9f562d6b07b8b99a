"""Compare this package with the stock classes and with raw HTTP clients, in one interleaved run.

    python benchmarks/run.py [--quick] [--concurrent] [--rounds N] [--only WORD] [--save]

All contenders talk to the same stub server, which is a process of its own and sends vLLM's bytes. Each round runs every
contender in turn. A ratio is the median of the ratios of the passes, with its quartiles. CPU time is that of this
process (``time.process_time``): on a busy machine its ratios are stable, those of the clock are not. The exit code is 1
if a ratio exceeds its target by more than 5 %, the difference between two runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import contenders
import measured
import openai
from cases import NOISE, Case, Target, measure, table
from contenders import Contender, acalls, astream, calls, stream
from stub import CHUNKS, DIMENSIONS, Stub

from vllm_adapters import VLLMServer
from vllm_adapters._compat import http

OTHERS = ("OPENAI_", "VLLM_", "LANGSMITH_", "LANGCHAIN_")
CALLS = 20

STREAM_TARGETS = {
    "VLLMClient": [Target(1.5, "raw httpx")],
    "ChatVLLM": [Target(0.24, "ChatOpenAI")],
    "VLLM": [Target(0.22, "OpenAILike")],
    "VLLMChatGenerator": [Target(0.20, "OpenAIChatGenerator"), Target(0.20, "vllm-haystack")],
}
ASYNC_STREAM_TARGETS = {**STREAM_TARGETS, "ChatVLLM": [Target(0.22, "ChatOpenAI")]}
OTHER_STREAM_TARGETS = {
    "ChatVLLM": [Target(0.35, "ChatOpenAI")],
    "VLLM": [Target(0.35, "OpenAILike")],
    "VLLMChatGenerator": [Target(0.35, "OpenAIChatGenerator")],
}
CALL_TARGETS = {
    "VLLMClient": [Target(0.80, "openai")],
    "ChatVLLM": [Target(0.70, "ChatOpenAI")],
    "VLLM": [Target(0.60, "OpenAILike")],
    "VLLMChatGenerator": [Target(0.80, "OpenAIChatGenerator")],
}


def case(
    title: str, unit: str, number: int, works: dict[str, Any], targets: dict[str, list[Target]], **how: Any
) -> Case:
    """Return a case with the targets whose contenders are there."""
    present = {
        name: [target for target in of if target.reference in works] for name, of in targets.items() if name in works
    }
    return Case(title, unit, number, works, {name: of for name, of in present.items() if of}, **how)


def streams(url: str, loop: asyncio.AbstractEventLoop) -> Iterator[Case]:
    """Chunks of streams of texts, of reasoning and of tool calls."""
    titles = {
        "burst": "Stream of text, in a burst",
        "paced": "Stream of text, 2,000 events per second",
        "reasoning": "Stream of reasoning",
        "tools": "Stream of a tool call",
    }
    for model, title in titles.items():
        who = contenders.make(url, model, loop)
        who.pop("raw aiohttp", None)
        targets = {"burst": STREAM_TARGETS, "paced": {}}.get(model, OTHER_STREAM_TARGETS)
        works = {name: stream(one) for name, one in who.items()}
        yield case(title, "chunk", CHUNKS, works, targets, rounds=2 if model == "paced" else None)
        if model == "burst":
            who |= contenders.make(url, model, loop, ["raw aiohttp"])
            works = {name: astream(one) for name, one in who.items()}
            yield case(f"{title}, async", "chunk", CHUNKS, works, ASYNC_STREAM_TARGETS)


def replies(url: str, loop: asyncio.AbstractEventLoop) -> Iterator[Case]:
    """Replies that are not streamed."""
    who = contenders.make(url, "burst", loop)
    works = {name: calls(one, CALLS) for name, one in who.items() if name != "raw aiohttp"}
    yield case("Chat", "call", CALLS, works, CALL_TARGETS, passes=2)
    works = {name: acalls(one, CALLS) for name, one in who.items()}
    yield case("Chat, async", "call", CALLS, works, CALL_TARGETS, passes=2)


OURS = ("VLLMClient", "ChatVLLM", "VLLM", "VLLMChatGenerator")
SPANS, BY_HAND = "with spans", "spans by hand"


def spans(url: str, loop: asyncio.AbstractEventLoop) -> Iterator[Case]:
    """What OpenTelemetry's spans and metrics add: to a call, to what its SDK costs anyway, and to a chunk."""
    try:
        from spans import Recorder
    except ImportError as missing:
        print(f"Spans are left out: {missing}")
        return
    recorder, who = Recorder(), contenders.make(url, "burst", loop, OURS)
    works: dict[str, Any] = {}
    for name, one in who.items():
        works |= {name: calls(one, CALLS), f"{name}, {BY_HAND}": recorder.by_hand(one.call, CALLS)}
        works[f"{name} {SPANS}"] = recorder.during(calls(one, CALLS))
    targets = {f"{name} {SPANS}": [Target(1.05, f"{name}, {BY_HAND}")] for name in who}
    found = case("Chat with OpenTelemetry", "call", CALLS, works, targets, passes=6)
    found.compared = {f"{name} {SPANS}": name for name in who} | {f"{name}, {BY_HAND}": name for name in who}
    yield found
    works = {}
    for name, one in who.items():
        works |= {name: stream(one), f"{name} {SPANS}": recorder.during(stream(one))}
    targets = {f"{name} {SPANS}": [Target(1.02, name)] for name in who}
    yield case("Stream of text with OpenTelemetry", "chunk", CHUNKS, works, targets, passes=6)


def embeddings(url: str, number: int) -> Iterator[Case]:
    """Vectors of many texts, as each framework wants them."""
    texts = [f"Text number {place}" for place in range(number)]
    works = dict(_embedders(url, texts))
    if number > 1000:
        works.pop("vllm-haystack", None)  # it would take most of the benchmark's time
    targets = {
        "VLLMEmbeddings": [Target(0.25, "OpenAIEmbeddings")],
        "VLLMEmbedding": [Target(0.25, "OpenAILikeEmbedding")],
        "VLLMDocumentEmbedder": [Target(0.05, "vllm-haystack")],
    }
    rounds = None if number <= 1000 else 1
    yield case(f"Embedding of {number:,} texts", "text", number, works, targets, rounds=rounds)


def _embedders(url: str, texts: list[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    def check(vectors: Any) -> None:
        assert (len(vectors), len(vectors[0])) == (len(texts), DIMENSIONS)

    server = VLLMServer(url, model="stub")

    def embed_block() -> None:
        for start in range(0, len(texts), 1000):  # requests of the size of the stock classes'
            assert server.embed(texts[start : start + 1000]).shape[1] == DIMENSIONS

    yield "VLLMServer.embed", embed_block
    common: dict[str, Any] = {"model": "stub", "base_url": url, "api_key": "none"}
    try:
        from langchain_openai import OpenAIEmbeddings

        from vllm_adapters.langchain import VLLMEmbeddings

        stock = OpenAIEmbeddings(**common, check_embedding_ctx_length=False, chunk_size=1000)
        yield "OpenAIEmbeddings", lambda: check(stock.embed_documents(texts))
        ours = VLLMEmbeddings(**common)
        yield "VLLMEmbeddings", lambda: check(ours.embed_documents(texts))
    except ImportError as missing:
        print(f"LangChain's embeddings are left out: {missing}")
    common = {"api_base": url, "api_key": "none"}
    try:
        from llama_index.embeddings.openai_like import OpenAILikeEmbedding

        from vllm_adapters.llamaindex import VLLMEmbedding

        like = OpenAILikeEmbedding(model_name="stub", embed_batch_size=1000, **common)
        yield "OpenAILikeEmbedding", lambda: check(like.get_text_embedding_batch(texts))
        index = VLLMEmbedding(model="stub", **common)
        yield "VLLMEmbedding", lambda: check(index.get_text_embedding_batch(texts))
    except ImportError as missing:
        print(f"LlamaIndex' embeddings are left out: {missing}")
    try:
        from haystack import Document
        from haystack_integrations.components.embedders.vllm import VLLMDocumentEmbedder as StockEmbedder

        from vllm_adapters.haystack import VLLMDocumentEmbedder

        documents = [Document(content=text) for text in texts]
        settings: dict[str, Any] = {"model": "stub", "api_base_url": url, "progress_bar": False}
        for name, component in (
            ("vllm-haystack", StockEmbedder(**settings)),
            ("VLLMDocumentEmbedder", VLLMDocumentEmbedder(**settings)),
        ):
            yield name, lambda c=component: check([d.embedding for d in c.run(documents)["documents"]])  # type: ignore[misc]
    except ImportError as missing:
        print(f"Haystack's embedders are left out: {missing}")


class ConcurrentCalls:
    """Many calls at once, each answered after a second: failures and times."""

    def __init__(self, contender: Contender, size: int) -> None:
        self.contender, self.size = contender, size
        self.failed = 0
        self.seconds: list[float] = []

    def __call__(self) -> None:
        self.contender.loop.run_until_complete(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(self.size)))

    async def _one(self) -> None:
        began = perf_counter()
        try:
            await self.contender.acall()
        except Exception:
            self.failed += 1
        self.seconds.append(perf_counter() - began)

    def note(self) -> str:
        """Return failures and percentiles in words."""
        cuts = quantiles(self.seconds, n=100)
        name = self.contender.name
        return f"- {name}: {self.failed} of {len(self.seconds)} failed, p50 {cuts[49]:.1f} s, p99 {cuts[98]:.1f} s"


def concurrent(url: str, loop: asyncio.AbstractEventLoop, sizes: list[int]) -> Iterator[Case]:
    """Many calls at once."""
    names = ("raw aiohttp", "openai", "VLLMClient", "VLLMClient on aiohttp", "ChatOpenAI", "ChatVLLM")
    targets = {"VLLMClient": [Target(0.5, "openai")], "ChatVLLM": [Target(0.5, "openai")]}
    for size in sizes:
        who = contenders.make(url, "slow", loop, names)
        works: dict[str, Any] = {name: ConcurrentCalls(one, size) for name, one in who.items()}
        yield case(f"{size:,} calls at once", "call", size, works, targets if size == 2000 else {}, rounds=1)


def growth(url: str, loop: asyncio.AbstractEventLoop) -> Iterator[Case]:
    """Streams of 10 and 100 times the length: the cost per chunk must stay."""
    for times in (1, 10, 100):
        # LlamaIndex's chunks have the whole text so far, which costs more the longer it is.
        names = ("raw httpx", "VLLMClient", "ChatVLLM", "VLLMChatGenerator", *(("VLLM",) if times < 100 else ()))
        who = contenders.make(url, f"long-{times}", loop, names)
        works = {name: stream(one) for name, one in who.items()}
        yield case(f"Stream of {CHUNKS * times:,} chunks", "chunk", CHUNKS * times, works, {}, rounds=1)


IMPORTS = (
    "pass",
    "import vllm_adapters",
    "import openai",
    "from vllm_adapters import VLLMClient",
    "from langchain_openai import ChatOpenAI",
    "from vllm_adapters.langchain import ChatVLLM",
)
IMPORT_TARGET = 1.05


def imports(rounds: int) -> tuple[str, list[str]]:
    """Return CPU time and number of modules of imports in fresh processes, and the broken target."""
    costs: dict[str, list[float]] = {statement: [] for statement in IMPORTS}
    modules: dict[str, str] = {}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(rounds + 1):  # the first one compiles the modules
        for statement in IMPORTS:
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            command = [sys.executable, "-c", f"{statement}\nimport sys; print(len(sys.modules))"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            costs[statement].append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
            modules[statement] = done.stdout.strip()
    lines = ["| Import in a fresh process | CPU, ms | modules |", "| --- | ---: | ---: |"]
    for statement, spent in costs.items():
        lines.append(f"| `{statement}` | {median(spent[1:]) * 1e3:.0f} | {modules[statement]} |")
    stock, ours = (median(costs[statement][1:]) for statement in IMPORTS[-2:])
    lines.append(
        f"\n`vllm_adapters.langchain` takes {ours / stock:.2f} of `langchain_openai` (target {IMPORT_TARGET})."
    )
    broken = [f"import: {ours / stock:.2f} of langchain_openai"] if ours / stock > IMPORT_TARGET * NOISE else []
    return "\n".join(lines), broken


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the interleaved run (default 5)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, and no long streams")
    parser.add_argument("--concurrent", action="store_true", help="also up to 2,000 calls at once, for many minutes")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases with this word in their title")
    parser.add_argument("--save", action="store_true", help="save the tables for the documentation (then: make readme)")
    return parser.parse_args()


def machine() -> str:
    """Return what the figures depend on."""
    return f"openai {openai.__version__} on {http.__name__}, {measured.machine()}"


def main() -> int:
    args = arguments()
    rounds = 3 if args.quick else args.rounds
    for name in [name for name in os.environ if name.upper().startswith(OTHERS) or name.upper().endswith("_PROXY")]:
        del os.environ[name]
    print(f"{machine()}, {rounds} rounds\n")
    loop = asyncio.new_event_loop()
    with Stub() as url:
        found = [*streams(url, loop), *replies(url, loop), *spans(url, loop), *embeddings(url, 1000)]
        if not args.quick:
            found += [*embeddings(url, 20_000), *growth(url, loop)]
        if args.concurrent:
            found += concurrent(url, loop, [100, 500, 2000])
        found = [one for one in found if args.only.lower() in one.title.lower()]
        measure(found, rounds)
    for one in found:
        one.notes += [work.note() for work in one.works.values() if isinstance(work, ConcurrentCalls)]
        print(table(one), end="\n\n")
    loop.run_until_complete(contenders.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    broken = [problem for one in found for problem in one.broken()]
    failed = [f"{one.title}: calls failed" for one in found if _failures(one)]
    if not args.only:
        text, problems = imports(1 if args.quick else 5)
        print(text, end="\n\n")
        broken += problems
    if args.save:
        major = openai.__version__.partition(".")[0]
        rows = [row for one in found for row in one.verdicts()]
        measured.save(f"cost on openai {major}", {"machine": machine(), "rounds": rounds, "rows": rows})
    for problem in broken + failed:
        print(f"EXCEEDED  {problem}")
    return 1 if broken or failed else 0


def _failures(one: Case) -> int:
    ours = (work for name, work in one.works.items() if name in ("VLLMClient", "ChatVLLM"))
    return sum(work.failed for work in ours if isinstance(work, ConcurrentCalls))


if __name__ == "__main__":
    sys.exit(main())
