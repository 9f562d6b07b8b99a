# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain,testing]"]
# ///
"""A project that tests its own chain: recorded from a real vLLM once, replayed without one ever after.

Needs:  pip install 'vllm-adapters[langchain,testing]'
Server: none to replay the tests, and none to record them either: one is started (Linux)
Run:    pytest                    replays the cassettes, offline
        pytest --live             the same tests against a real vLLM: VLLM_BASE_URL, or one started here
        pytest --live --record    and writes the cassettes anew
"""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from vllm_adapters.langchain import ChatVLLM


def capital_chain(llm: ChatVLLM) -> Runnable[dict[str, str], str]:
    """What is tested: replace it by yours."""
    prompt = ChatPromptTemplate.from_template("What is the capital of {country}?")
    return prompt | llm | StrOutputParser()
