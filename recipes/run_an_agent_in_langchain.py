# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]", "langchain>=1.4,<2"]
# ///
"""Run LangChain's agent with tools on vLLM, and print each tool call and its result.

Needs:  pip install 'vllm-adapters[langchain]' 'langchain>=1.4,<2'
Server: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python run_an_agent_in_langchain.py
"""

from __future__ import annotations

import os

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage

from vllm_adapters.langchain import ChatVLLM


def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def main() -> None:
    llm = ChatVLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=200)
    agent = create_agent(llm, tools=[get_weather])
    result = agent.invoke({"messages": [{"role": "user", "content": "What is the weather in Rome?"}]})
    for message in result["messages"]:
        if isinstance(message, AIMessage):
            for call in message.tool_calls:
                print(f"tool call: {call['name']}({call['args']})")
            for (
                broken
            ) in message.invalid_tool_calls:  # truncated or malformed; such tool calls are never repaired or run
                print(f"broken tool call: {broken['error']}")
        elif isinstance(message, ToolMessage):
            print("result:", message.text)
    print("answer:", result["messages"][-1].text)


if __name__ == "__main__":
    main()
