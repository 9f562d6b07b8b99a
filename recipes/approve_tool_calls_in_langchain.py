# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]", "langchain>=1.4,<2", "langgraph-checkpoint-sqlite>=3,<4"]
# ///
"""Let a person approve an agent's tool calls with LangGraph: it is interrupted, kept in SQLite, and goes on later.

Needs:  pip install 'vllm-adapters[langchain]' 'langchain>=1.4,<2' 'langgraph-checkpoint-sqlite>=3,<4'
Server: vllm serve MODEL --enable-auto-tool-choice --tool-call-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python approve_tool_calls_in_langchain.py [FILE]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from vllm_adapters.langchain import ChatVLLM

THREAD: RunnableConfig = {"configurable": {"thread_id": "1"}}


def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def run(file: Path, request: Any) -> dict[str, Any]:
    """Start or continue the agent's work, as a new process would: all it knows is in the file."""
    llm = ChatVLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=200)
    approval = HumanInTheLoopMiddleware(interrupt_on={"get_weather": True})
    with SqliteSaver.from_conn_string(str(file)) as saver:
        agent = create_agent(llm, tools=[get_weather], middleware=[approval], checkpointer=saver)
        state: dict[str, Any] = agent.invoke(request, THREAD)
        return state


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "agent.sqlite"
    state = run(file, {"messages": [{"role": "user", "content": "What is the weather in Rome?"}]})
    for action in state["__interrupt__"][0].value["action_requests"]:
        print(f"to approve: {action['name']}({action['args']})")

    state = run(file, Command(resume={"decisions": [{"type": "approve"}]}))
    print("result:", state["messages"][-2].text)
    print("answer:", state["messages"][-1].text)

    state = run(file, {"messages": [{"role": "user", "content": "Hello"}]})
    print("messages in the file:", len(state["messages"]))


if __name__ == "__main__":
    main()
