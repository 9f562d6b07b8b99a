# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]", "deepagents>=0.7,<0.8"]
# ///
"""Run a deep agent on vLLM: it plans, keeps files and has subagents, and every tool call fits its schema.

Needs:  pip install 'vllm-adapters[langchain]' 'deepagents>=0.7,<0.8'
Server: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python run_a_deep_agent_in_langchain.py
"""

from __future__ import annotations

import os

from deepagents import create_deep_agent
from langchain_core.messages import AIMessage, ToolMessage

from vllm_adapters.langchain import ChatVLLM


def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def main() -> None:
    llm = ChatVLLM(
        model=os.environ.get("VLLM_MODEL", ""),
        temperature=0,
        max_tokens=200,
        tools_strict=True,  # a deep agent offers many tools: vLLM makes every call fit the schema of its tool
    )  # with validate_model_on_init=True it compacts by the context length, of which its tools alone take thousands
    agent = create_deep_agent(llm, tools=[get_weather])
    result = agent.invoke({"messages": [{"role": "user", "content": "What is the weather in Rome?"}]})
    for message in result["messages"]:
        if isinstance(message, AIMessage):
            for call in message.tool_calls:
                print(f"tool call: {call['name']}({call['args']})")
        elif isinstance(message, ToolMessage):
            print("result:", message.text)
    print("answer:", result["messages"][-1].text)


if __name__ == "__main__":
    main()
