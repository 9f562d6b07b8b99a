# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters", "ray[data]>=2.50,<3"]
# ///
"""Answer many questions with Ray Data, on one machine or a cluster: whatever is killed, each answer is there once.

Needs:  pip install vllm-adapters 'ray[data]>=2.50,<3'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python answer_many_with_ray.py [FOLDER]
        VLLM_BASE_URL="http://gpu-1:8000 http://gpu-2:8000" ITEMS=10000 PART=100 python answer_many_with_ray.py
"""

from __future__ import annotations

import os
import sys
from typing import Any

from vllm_adapters import VLLMError, VLLMServer
from vllm_adapters.bulk import BulkChat

REPLICAS = (os.environ.get("VLLM_BASE_URL") or "http://localhost:8000").split()  # a router, or several servers
ITEMS, PART = int(os.environ.get("ITEMS", "5")), int(os.environ.get("PART", "2"))


def questions(part: int) -> list[str]:
    """Return the prompts of a part, the same in each run: here of numbers, else of a file or a row group."""
    return [f"What is {number} plus one?" for number in range(part * PART, min(ITEMS, part * PART + PART))]


class Answer:
    """Lives in a worker, and answers one part after the other. Each part has a file, from which it is resumed."""

    def __init__(self, replicas: list[str], model: str | None, folder: str) -> None:
        servers, parameters = [VLLMServer(url, model=model) for url in replicas], {"temperature": 0, "max_tokens": 20}
        self.replicas = [BulkChat(each, max_concurrency=16, parameters=parameters, patience=60) for each in servers]
        self.folder = folder

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        part = int(batch["id"][0])
        for attempt in range(len(self.replicas)):  # if a server is down, the next one goes on
            replica = self.replicas[(part + attempt) % len(self.replicas)]
            try:
                results = list(replica.run(questions(part), file=f"{self.folder}/part-{part:06}.jsonl"))
                break
            except VLLMError:
                if attempt + 1 == len(self.replicas):
                    raise
        answered = [each for each in results if each.error is None]  # those that failed at the server are asked again
        before = sum(each.resumed for each in answered)
        return {"before": [before], "now": [len(answered) - before], "failed": [len(results) - len(answered)]}


if __name__ == "__main__":
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # with `uv run`, too, workers have this environment
    import ray.data

    folder = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "answers")  # in a cluster, all machines share it
    os.makedirs(folder, exist_ok=True)
    parts, given = ray.data.range(-(-ITEMS // PART)), (REPLICAS, os.environ.get("VLLM_MODEL"), folder)
    workers = ray.data.ActorPoolStrategy(size=2)  # if one dies, Ray runs its part again in another
    rows = parts.map_batches(Answer, fn_constructor_args=given, batch_size=1, compute=workers, num_cpus=0.1).take_all()
    before, now, failed = (sum(row[name] for row in rows) for name in ("before", "now", "failed"))
    print(f"{before} answered before, {now} now, {failed} failed")
