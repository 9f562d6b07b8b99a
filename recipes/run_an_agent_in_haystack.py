# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Run Haystack's agent with tools on vLLM, and print each tool call and its result.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python run_an_agent_in_haystack.py
"""

from __future__ import annotations

import os

from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage
from haystack.tools import tool

from vllm_adapters.haystack import VLLMChatGenerator


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def main() -> None:
    llm = VLLMChatGenerator(model=os.environ.get("VLLM_MODEL"), generation_kwargs={"temperature": 0, "max_tokens": 200})
    agent = Agent(chat_generator=llm, tools=[get_weather])
    result = agent.run(messages=[ChatMessage.from_user("What is the weather in Rome?")])
    for message in result["messages"]:
        for call in message.tool_calls:
            print(f"tool call: {call.tool_name}({call.arguments})")
        for tool_result in message.tool_call_results:
            print("result:", tool_result.result)
        for broken in message.meta.get(
            "invalid_tool_calls", []
        ):  # truncated or malformed; such tool calls are never repaired or run
            print("broken tool call:", broken["error"])
    print("answer:", result["last_message"].text)


if __name__ == "__main__":
    main()
