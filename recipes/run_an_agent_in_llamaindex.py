# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Run LlamaIndex's agent with tools on vLLM, and print tool calls, results and the answer as they are streamed.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python run_an_agent_in_llamaindex.py
"""

from __future__ import annotations

import asyncio
import os

from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCall, ToolCallResult

from vllm_adapters.llamaindex import VLLM


def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


async def main() -> None:
    llm = VLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=200)
    agent = FunctionAgent(llm=llm, tools=[get_weather])
    handler = agent.run("What is the weather in Rome?")
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            print("result:", event.tool_output.content)
        elif isinstance(event, ToolCall):
            print(f"tool call: {event.tool_name}({event.tool_kwargs})")
        elif isinstance(event, AgentStream):
            print(event.delta, end="", flush=True)
    print("\nanswer:", await handler)


if __name__ == "__main__":
    asyncio.run(main())
