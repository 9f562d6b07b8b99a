# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]", "hayhooks>=2.1,<3"]
# ///
"""Serve a pipeline of Haystack with Hayhooks, and stream from it with any client of OpenAI's API.

Needs:  pip install 'vllm-adapters[haystack]' 'hayhooks>=2.1,<3'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python serve_a_pipeline_in_haystack.py
        To serve it alone: save this file as pipelines/ask/pipeline_wrapper.py, and start `hayhooks run`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hayhooks  # type: ignore[import-untyped]
from hayhooks.server.utils.deploy_utils import deploy_pipeline_files  # type: ignore[import-untyped]
from haystack import Pipeline
from haystack.dataclasses import ChatMessage
from openai import OpenAI

from vllm_adapters.haystack import VLLMChatGenerator

PORT = os.environ.get("HAYHOOKS_PORT", "1416")


class PipelineWrapper(hayhooks.BasePipelineWrapper):  # type: ignore[misc]
    def setup(self) -> None:
        settings = {"temperature": 0, "max_tokens": 100}
        llm = VLLMChatGenerator(model=os.environ.get("VLLM_MODEL"), generation_kwargs=settings)
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", llm)

    # Hayhooks joins the chunks for a request that is not streamed.
    async def run_chat_completion_async(self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]) -> Any:
        history = [ChatMessage.from_openai_dict_format(message) for message in messages]
        return hayhooks.async_streaming_generator(self.pipeline, pipeline_run_args={"llm": {"messages": history}})


def main() -> None:
    client = OpenAI(base_url=f"http://localhost:{PORT}/v1", api_key="none", max_retries=10)  # until it has started
    print("models:", *(model.id for model in client.models.list()))
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    print("answer:", client.chat.completions.create(model="ask", messages=question).choices[0].message.content)
    for chunk in client.chat.completions.create(model="ask", messages=question, stream=True):
        print(chunk.choices[0].delta.content or "", end="|", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        app = hayhooks.create_app()
        deploy_pipeline_files("ask", {"pipeline_wrapper.py": Path(__file__).read_text()}, app=app, save_files=False)
        hayhooks.run_app(app)
    else:
        with subprocess.Popen([sys.executable, __file__, "serve"], stderr=subprocess.DEVNULL) as server:  # noqa: S603
            try:
                main()
            finally:
                server.terminate()
