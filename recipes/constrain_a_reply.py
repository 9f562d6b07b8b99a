# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Constrain a reply to a choice, a regex, a grammar or a JSON schema. vLLM enforces it during generation.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python constrain_a_reply.py
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel

from vllm_adapters import VLLMClient
from vllm_adapters.errors import ConstraintNotEnforced, TruncatedOutput

MODEL = os.environ.get("VLLM_MODEL", "")  # empty: the served model
QUERY = 'root ::= "SELECT " column " FROM " table\ncolumn ::= "name" | "city"\ntable ::= "users" | "orders"'


class City(BaseModel):
    city: str
    n: int


def ask(client: VLLMClient, prompt: str, **constraint: Any) -> str:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=100,
        extra_body={"structured_outputs": constraint},
    )
    return reply.choices[0].message.content or ""


def main() -> None:
    client = VLLMClient()
    try:
        print("choice:", ask(client, "Tea or coffee?", choice=["tea", "coffee"]))
        print("regex:", ask(client, "In which year did the war end?", regex=r"(18|19)\d\d"))
        print("grammar:", ask(client, "Write SQL for the names of all users.", grammar=QUERY))
        text = ask(client, "Give me Rome as json", json=City.model_json_schema())
        print("json:", repr(City.model_validate_json(text)))
    except ConstraintNotEnforced as error:  # some servers ignore constraints and respond with 200
        print("not enforced:", error)
    except TruncatedOutput as error:
        print("truncated:", error)


if __name__ == "__main__":
    main()
