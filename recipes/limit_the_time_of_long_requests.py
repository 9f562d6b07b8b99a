# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Limit the time of a long request: to connect, between two pieces of the reply, and in total.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python limit_the_time_of_long_requests.py
        TIME_LIMIT=0.3 VLLM_BASE_URL=... python ...   exceeds the limit
"""

from __future__ import annotations

import os

from vllm_adapters import Timeouts, VLLMClient
from vllm_adapters.errors import ServerTimeout, VLLMError

MODEL = os.environ.get("VLLM_MODEL", "")  # empty: the served model
LIMITS = Timeouts(
    connect=10,  # seconds to connect
    idle=120,  # seconds between two pieces of the reply, and in the server's queue
    total=float(os.environ.get("TIME_LIMIT", "3600")),  # seconds of the whole call, including retries
)


def main() -> None:
    client = VLLMClient(timeout=LIMITS)
    text = ""
    try:
        # Streamed, because otherwise `idle` would have to cover the generation of the whole reply.
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me a long story"}],
            temperature=0,
            max_tokens=300,
            stream=True,
        )
        with stream:  # leaving the block, also by an error, closes the connection, and vLLM stops generating
            for chunk in stream:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        print(f"{text}\ncomplete: {len(text)} characters")
    except ServerTimeout as error:
        print(f"{text}\ntimeout: {error}")
    except VLLMError as error:
        print(f"failed: {error}")


if __name__ == "__main__":
    main()
