"""Compare the throughput of many streams at once with that of a raw aiohttp client, on a real vLLM.

    python benchmarks/live.py [--streams N] [--rounds N] [--save]

The server is ``VLLM_BASE_URL``, or the bundled model `tiny`, started here on the same cores. Each contender reads N
streams of 64 tokens at once; the rounds are interleaved. The share is the median of aiohttp's wall time divided by the
contender's. The exit code is 1 if a share is below its target.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from contextlib import ExitStack
from statistics import median
from time import perf_counter

import contenders
import measured
from contenders import Contender

TOKENS = 64
TARGET = 0.93
OURS = ("VLLMClient", "ChatVLLM", "VLLM", "VLLMChatGenerator")
NAMES = ("raw aiohttp", *OURS, "ChatOpenAI")


async def read_all(contender: Contender, streams: int) -> None:
    """Read the streams at once."""
    found = await asyncio.gather(*(contender.astream() for _ in range(streams)))
    assert all(chunks > 1 for chunks in found)  # vLLM joins the tokens that a slow reader keeps waiting


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, default=64, help="streams at once (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--save", action="store_true", help="save the shares for the documentation (then: make readme)")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # that replies end at the token limit
    with ExitStack() as stack:
        url = os.environ.get("VLLM_BASE_URL")
        if url is None:
            from vllm_adapters.local import LocalVLLM

            url = stack.enter_context(LocalVLLM("tiny")).base_url
        loop = asyncio.new_event_loop()
        who = contenders.make(url.rstrip("/").removesuffix("/v1") + "/v1", "tiny", loop, NAMES)
        seconds: dict[str, list[float]] = {}
        for one in who.values():
            one.limit(TOKENS)
            loop.run_until_complete(read_all(one, args.streams))  # connections and caches
        for turn in range(args.rounds):
            for name, one in list(who.items())[:: 1 if turn % 2 else -1]:
                began = perf_counter()
                loop.run_until_complete(read_all(one, args.streams))
                seconds.setdefault(name, []).append(perf_counter() - began)
        loop.run_until_complete(contenders.close())
    shares = {
        name: median(raw / own for raw, own in zip(seconds["raw aiohttp"], spent, strict=True))
        for name, spent in seconds.items()
    }
    print(f"{args.streams} streams of {TOKENS} tokens at once, {args.rounds} rounds\n")
    print("| class | throughput, of aiohttp's | tokens per second | target |\n| --- | ---: | ---: | ---: |")
    for name, share in shares.items():
        rate = args.streams * TOKENS / median(seconds[name])
        print(f"| {name} | {share:.2f} | {rate:,.0f} | {TARGET if name in OURS else ''} |")
    if args.save:
        measured.save("live", {"streams": args.streams, "tokens": TOKENS, "rounds": args.rounds, "shares": shares})
    return 0 if all(shares[name] >= TARGET for name in OURS if name in shares) else 1


if __name__ == "__main__":
    sys.exit(main())
