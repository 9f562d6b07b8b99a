# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Run one program on a hosted OpenAI-compatible API or on vLLM; what only vLLM has is dropped or refused there.

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
    """A model, and the client that reaches it: a ``VLLMClient`` is an ``openai.OpenAI``."""

    client: OpenAI
    name: str
    without_vllm: Literal["drop", "refuse"] = "drop"

    def ask(self, prompt: str, *, only_vllm: dict[str, Any] | None = None, **parameters: Any) -> str:
        added = dict(only_vllm or {})
        if added and not isinstance(self.client, VLLMClient):
            if self.without_vllm == "refuse":
                raise ValueError(f"only vLLM knows {', '.join(added)}")
            added = {}
        messages: Any = [{"role": "user", "content": prompt}]
        reply: Any = self.client.chat.completions.create(
            model=self.name, messages=messages, extra_body=added, **parameters
        )
        return str(reply.choices[0].message.content)


def from_environment() -> Model:
    if address := os.environ.get("HOSTED_BASE_URL"):
        # The stock client: no key of a hosted API passes through code that speaks to another host.
        hosted = OpenAI(base_url=address, api_key=os.environ["HOSTED_API_KEY"])
        on_other: Any = os.environ.get("WITHOUT_VLLM", "drop")
        return Model(hosted, os.environ["HOSTED_MODEL"], on_other)
    return Model(VLLMClient(), os.environ.get("VLLM_MODEL", ""))


def main() -> None:
    model = from_environment()
    print(type(model.client).__name__, "says:", model.ask("Hello", only_vllm={"top_k": 1}, temperature=0))


if __name__ == "__main__":
    main()
