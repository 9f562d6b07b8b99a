# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Extract Pydantic objects from texts in Haystack, several texts at once; vLLM enforces the schema.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python extract_objects_in_haystack.py
"""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel, Field

from vllm_adapters.haystack import VLLMChatGenerator

TEXTS = ["Maria is 34 years old and lives in Lisbon.", "Omar is 51 and lives in Cairo."]


class Person(BaseModel):
    """A person that a text tells of."""

    name: str
    age: int = Field(ge=0, le=150)
    city: str


async def main() -> None:
    llm = VLLMChatGenerator(
        model=os.environ.get("VLLM_MODEL"),
        generation_kwargs={"temperature": 0, "max_tokens": 200, "response_format": Person},
    )
    # Raises TruncatedOutput if max_tokens truncates the reply, ConstraintNotEnforced if the server ignores the schema.
    results = await asyncio.gather(*(llm.run_async(f"Extract the person: {text}") for text in TEXTS))
    for text, result in zip(TEXTS, results, strict=True):
        print(f"{text}  ->  {Person.model_validate_json(result['replies'][0].text or '')!r}")


if __name__ == "__main__":
    asyncio.run(main())
