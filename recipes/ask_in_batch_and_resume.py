# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Answer many questions concurrently and resume after an interruption: each answer is written to disk at once.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python ask_in_batch_and_resume.py [ANSWERS.jsonl]
"""

from __future__ import annotations

import os
import sys

from vllm_adapters import VLLMServer
from vllm_adapters.bulk import BulkChat

AT_ONCE = int(os.environ.get("AT_ONCE", "8"))  # vLLM batches concurrent requests
COUNTRIES = ("Japan", "France", "Italy", "Norway", "Peru")  # a generator over millions of lines works as well


def main(file: str) -> None:
    server = VLLMServer(model=os.environ.get("VLLM_MODEL"))  # None: the served model
    bulk = BulkChat(server, max_concurrency=AT_ONCE, parameters={"temperature": 0, "max_tokens": 50})
    questions = ({"id": f"capital-{name}", "prompt": f"What is the capital of {name}?"} for name in COUNTRIES)
    before = now = failed = 0
    for result in bulk.run(questions, file=file):  # run again after a crash: the answers in the file are not asked for
        if result.error is not None:
            failed += 1
            print(f"{result.id}: {result.error}", file=sys.stderr)
        elif result.resumed:
            before += 1
        else:
            now += 1
    print(f"{before} answered before, {now} now, {failed} failed, in {file}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "answers.jsonl")
