# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Give a long request its time, and no more: limits for connecting, for silence and for the whole call.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python limit_the_time_of_long_requests.py
        TIME_LIMIT=0.3 VLLM_BASE_URL=... python ...   shows what a limit that passes looks like
"""

from __future__ import annotations

import os

from vllm_adapters import Timeouts, VLLMClient
from vllm_adapters.errors import ServerTimeout, VLLMError

MODEL = os.environ.get("VLLM_MODEL", "")  # empty: the one that is served
LIMITS = Timeouts(
    connect=10,  # until the connection stands
    idle=120,  # between two pieces of the reply: covers the wait in the server's queue
    total=float(os.environ.get("TIME_LIMIT", "3600")),  # from the call to the last byte, retries included
)


def main() -> None:
    client = VLLMClient(timeout=LIMITS)
    said = ""
    try:
        # Streamed, or the reply would come in one piece and `idle` would have to cover all of it.
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me a long story"}],
            temperature=0,
            max_tokens=300,
            stream=True,
        )
        with stream:  # leaving it, also by an error, closes the connection: vLLM stops generating
            for chunk in stream:
                said += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        print(f"{said}\nwhole: {len(said)} characters")
    except ServerTimeout as error:
        print(f"{said}\nout of time: {error}")
    except VLLMError as error:
        print(f"failed: {error}")


if __name__ == "__main__":
    main()
