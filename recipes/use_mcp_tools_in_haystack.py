# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]", "mcp-haystack>=2,<3"]
# ///
"""Give Haystack's agent the tools of an MCP server, which this program also is, and enforce their schemas.

Needs:  pip install 'vllm-adapters[haystack]' 'mcp-haystack>=2,<3'
Server: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python use_mcp_tools_in_haystack.py
"""

from __future__ import annotations

import json
import os
import sys

from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage
from haystack_integrations.tools.mcp import MCPTool, StdioServerInfo
from mcp.server.fastmcp import FastMCP

from vllm_adapters.haystack import VLLMChatGenerator

server = FastMCP("weather", log_level="ERROR")


@server.tool()
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def main() -> None:
    tool = MCPTool(name="get_weather", server_info=StdioServerInfo(command=sys.executable, args=[__file__, "serve"]))
    # tools_strict: vLLM makes every call fit the schema that the MCP server declares.
    llm = VLLMChatGenerator(
        model=os.environ.get("VLLM_MODEL"), generation_kwargs={"temperature": 0, "max_tokens": 200}, tools_strict=True
    )
    result = Agent(chat_generator=llm, tools=[tool]).run(
        messages=[ChatMessage.from_user("What is the weather in Rome?")]
    )
    for message in result["messages"]:
        for call in message.tool_calls:
            print(f"tool call: {call.tool_name}({call.arguments})")
        for tool_result in message.tool_call_results:
            print("result:", json.loads(str(tool_result.result))["content"][0]["text"])
    print("answer:", result["last_message"].text)
    tool.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        server.run()
    else:
        main()
