"""The job that is killed: answers numbered prompts into a file, and reports its memory."""

from __future__ import annotations

import sys

from processes import rss

from vllm_adapters import VLLMServer
from vllm_adapters.bulk import BulkChat


def main(url: str, file: str, count: int, concurrency: int, model: str) -> None:
    """Answer ``count`` prompts; print the memory after each tenth of them."""
    parameters = {"temperature": 0, "max_tokens": 8}
    bulk = BulkChat(VLLMServer(url, model=model), max_concurrency=concurrency, parameters=parameters)
    prompts = (f"What is the capital of country {number}?" for number in range(count))
    asked = 0
    for done, result in enumerate(bulk.run(prompts, file=file, in_order=False), 1):
        if result.error is not None:
            print(f"failed {result.index} {result.error}", flush=True)
        asked += not result.resumed
        if done % max(1, count // 10) == 0:
            print(f"rss {done} {rss()}", flush=True)
    print(f"asked {asked}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
