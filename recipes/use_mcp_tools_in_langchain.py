# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]", "langchain>=1.4,<2", "langchain-mcp-adapters>=0.3,<0.4"]
# ///
"""Give LangChain's agent the tools of an MCP server, which this program also is, and enforce their schemas.

Needs:  pip install 'vllm-adapters[langchain]' 'langchain>=1.4,<2' 'langchain-mcp-adapters>=0.3,<0.4'
Server: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python use_mcp_tools_in_langchain.py
"""

from __future__ import annotations

import asyncio
import os
import sys

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_mcp_adapters.client import MultiServerMCPClient
from mcp.server.fastmcp import FastMCP

from vllm_adapters.langchain import ChatVLLM

server = FastMCP("weather", log_level="ERROR")


@server.tool()
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


async def main() -> None:
    client = MultiServerMCPClient(
        {"weather": {"transport": "stdio", "command": sys.executable, "args": [__file__, "serve"]}}
    )
    tools = await client.get_tools()
    # tools_strict: vLLM makes every call fit the schema that the MCP server declares.
    llm = ChatVLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=200, tools_strict=True)
    agent = create_agent(llm, tools=tools)
    result = await agent.ainvoke({"messages": [{"role": "user", "content": "What is the weather in Rome?"}]})
    for message in result["messages"]:
        if isinstance(message, AIMessage):
            for call in message.tool_calls:
                print(f"tool call: {call['name']}({call['args']})")
        elif isinstance(message, ToolMessage):
            print("result:", message.text)
    print("answer:", result["messages"][-1].text)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        server.run()
    else:
        asyncio.run(main())
