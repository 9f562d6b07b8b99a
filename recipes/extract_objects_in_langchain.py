# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Extract Pydantic objects from texts in LangChain, several texts at once; vLLM enforces the schema.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python extract_objects_in_langchain.py
"""

from __future__ import annotations

import os

from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, Field

from vllm_adapters.langchain import ChatVLLM

TEXTS = ["Maria is 34 years old and lives in Lisbon.", "Omar is 51 and lives in Cairo."]


class Person(BaseModel):
    """A person that a text tells of."""

    name: str
    age: int = Field(ge=0, le=150)
    city: str


def main() -> None:
    llm = ChatVLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=200)
    prompt = ChatPromptTemplate.from_template("Extract the person: {text}")
    chain = prompt | llm.with_structured_output(Person)
    # Raises TruncatedOutput if max_tokens truncates the reply, ConstraintNotEnforced if the server ignores the schema.
    people = chain.batch([{"text": text} for text in TEXTS], return_exceptions=True)
    for text, person in zip(TEXTS, people, strict=True):
        print(f"{text}  ->  {person!r}")


if __name__ == "__main__":
    main()
