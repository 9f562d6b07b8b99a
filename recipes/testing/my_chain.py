# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain,testing]"]
# ///
"""A project that tests its own chain: recorded once from a real vLLM, then replayed without one.

Needs:  pip install 'vllm-adapters[langchain,testing]'
Server: none; a local one is started to record the tests (Linux)
Run:    pytest                    replays the cassettes, offline
        pytest --live             runs the same tests against a real vLLM: VLLM_BASE_URL, or a local one
        pytest --live --record    also records the cassettes again
"""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from vllm_adapters.langchain import ChatVLLM


def capital_chain(llm: ChatVLLM) -> Runnable[dict[str, str], str]:
    """Build the chain to test; replace it by your own."""
    prompt = ChatPromptTemplate.from_template("What is the capital of {country}?")
    return prompt | llm | StrOutputParser()
