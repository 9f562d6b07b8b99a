# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Extract Pydantic objects from texts in LlamaIndex, several texts at once; vLLM enforces the schema.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python extract_objects_in_llamaindex.py
"""

from __future__ import annotations

import asyncio
import os

from llama_index.core import PromptTemplate
from pydantic import BaseModel, Field

from vllm_adapters.llamaindex import VLLM

TEXTS = ["Maria is 34 years old and lives in Lisbon.", "Omar is 51 and lives in Cairo."]
PROMPT = PromptTemplate("Extract the person: {text}")


class Person(BaseModel):
    """A person that a text tells of."""

    name: str
    age: int = Field(ge=0, le=150)
    city: str


async def main() -> None:
    llm = VLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=200)
    # Raises TruncatedOutput if max_tokens truncates the reply, ConstraintNotEnforced if the server ignores the schema.
    calls = [llm.astructured_predict(Person, PROMPT, text=text) for text in TEXTS]
    people = await asyncio.gather(*calls, return_exceptions=True)
    for text, person in zip(TEXTS, people, strict=True):
        print(f"{text}  ->  {person!r}")


if __name__ == "__main__":
    asyncio.run(main())
