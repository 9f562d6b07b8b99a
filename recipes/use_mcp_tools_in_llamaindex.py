# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]", "llama-index-tools-mcp>=0.4,<0.5"]
# ///
"""Give an AgentWorkflow of LlamaIndex the tools of an MCP server, which this program also is.

Needs:  pip install 'vllm-adapters[llamaindex]' 'llama-index-tools-mcp>=0.4,<0.5'
Server: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python use_mcp_tools_in_llamaindex.py
"""

from __future__ import annotations

import asyncio
import os
import sys

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec
from mcp.server.fastmcp import FastMCP

from vllm_adapters.llamaindex import VLLM

server = FastMCP("weather", log_level="ERROR")


@server.tool()
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


async def main() -> None:
    client = BasicMCPClient(sys.executable, args=[__file__, "serve"])
    tools = await McpToolSpec(client=client).to_tool_list_async()
    llm = VLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=200)
    agent = FunctionAgent(name="weather", description="Knows the weather.", tools=[*tools], llm=llm)
    run = AgentWorkflow(agents=[agent], root_agent="weather").run("What is the weather in Rome?")
    async for event in run.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"tool call: {event.tool_name}({event.tool_kwargs})")
            print("result:", event.tool_output.raw_output.content[0].text)
    print("answer:", await run)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        server.run()
    else:
        asyncio.run(main())
