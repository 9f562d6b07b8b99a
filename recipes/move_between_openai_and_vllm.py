# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Run one program on a hosted OpenAI-compatible API or on vLLM; vLLM's own parameters are dropped or rejected there.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000), or a hosted API
Run:    VLLM_BASE_URL=http://localhost:8000 python move_between_openai_and_vllm.py
        HOSTED_BASE_URL=https://api.openai.com/v1 HOSTED_API_KEY=... HOSTED_MODEL=... python ...
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from openai import OpenAI

from vllm_adapters import VLLMClient


@dataclass
class Model:
    """A model and its client; a ``VLLMClient`` is an ``openai.OpenAI``."""

    client: OpenAI
    name: str
    without_vllm: Literal["drop", "refuse"] = "drop"

    def ask(self, prompt: str, *, only_vllm: dict[str, Any] | None = None, **parameters: Any) -> str:
        extra = dict(only_vllm or {})
        if extra and not isinstance(self.client, VLLMClient):
            if self.without_vllm == "refuse":
                raise ValueError(f"Only vLLM supports {', '.join(extra)}")
            extra = {}
        messages: Any = [{"role": "user", "content": prompt}]
        reply: Any = self.client.chat.completions.create(
            model=self.name, messages=messages, extra_body=extra, **parameters
        )
        return str(reply.choices[0].message.content)


def from_environment() -> Model:
    if address := os.environ.get("HOSTED_BASE_URL"):
        # The stock client, so that the key of the hosted API stays out of code for another host.
        hosted = OpenAI(base_url=address, api_key=os.environ["HOSTED_API_KEY"])
        without_vllm: Any = os.environ.get("WITHOUT_VLLM", "drop")
        return Model(hosted, os.environ["HOSTED_MODEL"], without_vllm)
    return Model(VLLMClient(), os.environ.get("VLLM_MODEL", ""))


def main() -> None:
    model = from_environment()
    print(type(model.client).__name__, "says:", model.ask("Hello", only_vllm={"top_k": 1}, temperature=0))


if __name__ == "__main__":
    main()
