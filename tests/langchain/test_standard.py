"""LangChain's own standard suites, unchanged."""

import itertools
import sys
import uuid

import pytest

pytest.importorskip("langchain_tests")

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from version_marks import not_enforced_before

from vllm_adapters.langchain import ChatVLLM


class TestChatVLLMUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self):
        return ChatVLLM

    @property
    def chat_model_params(self):
        return {"model": "tiny"}

    @property
    def init_from_env_params(self):
        env = {"VLLM_API_KEY": "key-of-the-environment", "VLLM_BASE_URL": "http://gpu:8000"}
        return env, {"model": "tiny"}, {"openai_api_base": "http://gpu:8000/v1"}


@pytest.fixture
def same_ids(monkeypatch):
    """Make the suite's random ids, which are sent to the server, the same as in the recording."""
    numbers = itertools.count(1)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=next(numbers)))


@pytest.fixture
def recorded_docstrings(request):
    """Skip tests whose tools are described by docstrings, which Python 3.13 sends without their indentation."""
    affected = ("tool_message", "few_shot", "unicode_tool_call")
    recorded = not request.config.getoption("--live")
    if recorded and sys.version_info >= (3, 13) and any(word in request.node.name for word in affected):
        pytest.skip("recorded with the docstrings of an older Python; runs with --live")


@pytest.mark.usefixtures("same_ids", "recorded_docstrings")
@pytest.mark.vllm("tiny")
@not_enforced_before("0.30", match=r"isinstance\(None, int\)")  # which is a reply without reasoning
class TestChatVLLM(ChatModelIntegrationTests):
    """Not declared: images and audio, which the tiny model cannot read; PDFs, which vLLM has no content part for."""

    @property
    def chat_model_class(self):
        return ChatVLLM

    @property
    def chat_model_params(self):
        return {"temperature": 0, "max_retries": 0, "max_tokens": 200}

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_anthropic_inputs(self):
        return True

    @property
    def model_override_value(self):
        return "tiny"

    @property
    def supported_usage_metadata_details(self):
        return {way: ["reasoning_output", "cache_read_input"] for way in ("invoke", "stream")}

    def invoke_with_reasoning_output(self, *, stream=False):
        return self._reply("What is the capital of Japan?", stream, chat_template_kwargs={"enable_thinking": True})

    def invoke_with_cache_read_input(self, *, stream=False):
        long = "The sea is blue and wide. " * 60  # vLLM caches whole blocks of 128 tokens
        self._reply(long, stream)
        return self._reply(long, stream)

    def _reply(self, text, stream, **parameters):
        llm = ChatVLLM(**self.chat_model_params, **parameters)
        if not stream:
            return llm.invoke(text)
        chunks = list(llm.stream(text))
        message = chunks[0]
        for chunk in chunks[1:]:
            message += chunk
        return message
