# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Fail over to a second server in LangChain: if the first is dead, slow or overloaded, not if the request is wrong.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 FIRST_URL=http://localhost:9 python fail_over_in_langchain.py
"""

import os

from vllm_adapters.errors import RateLimited, ServerFailed, ServerNotReady, ServerTimeout, ServerUnreachable
from vllm_adapters.langchain import ChatVLLM

SERVER = (ServerUnreachable, ServerTimeout, ServerNotReady, ServerFailed, RateLimited)  # others are of the request


if __name__ == "__main__":
    dead = ChatVLLM(base_url=os.environ.get("FIRST_URL", "http://localhost:9"), max_retries=0)  # nothing listens there
    llm = dead.with_fallbacks([ChatVLLM(temperature=0, max_tokens=30)], exceptions_to_handle=SERVER)
    print(llm.invoke("What is the capital of France?").text)
