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

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from vllm_adapters import AsyncVLLMClient, VLLMError

MODEL = os.environ.get("VLLM_MODEL", "")  # empty: the served model
AT_ONCE = int(os.environ.get("AT_ONCE", "8"))  # vLLM batches concurrent requests
QUESTIONS = {f"capital-{c}": f"What is the capital of {c}?" for c in ("Japan", "France", "Italy", "Norway", "Peru")}


def answered(text: str) -> set[str]:
    done = set()
    for line in text.splitlines():
        with suppress(ValueError):  # a line truncated by a crash: answered again
            done.add(json.loads(line)["id"])
    return done


async def answer(client: AsyncVLLMClient, limit: asyncio.Semaphore, name: str, out: TextIO) -> bool:
    async with limit:
        try:
            reply = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": QUESTIONS[name]}], temperature=0, max_tokens=50
            )
        except VLLMError as error:  # after all retries; left for the next run
            print(f"{name}: {error}", file=sys.stderr)
            return False
    out.write(json.dumps({"id": name, "answer": reply.choices[0].message.content}) + "\n")
    out.flush()
    return True


async def main(file: Path) -> None:
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    done = answered(before)
    todo = [name for name in QUESTIONS if name not in done]
    limit = asyncio.Semaphore(AT_ONCE)
    with file.open("a", encoding="utf-8") as out:
        out.write("\n" if before[-1:] not in ("", "\n") else "")
        async with AsyncVLLMClient() as client:
            successes = await asyncio.gather(*(answer(client, limit, name, out) for name in todo))
    print(f"{len(done)} answered before, {sum(successes)} now, {len(todo) - sum(successes)} left, in {file}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "answers.jsonl")))
