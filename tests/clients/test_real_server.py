"""The libraries on a real vLLM: ``make clients ARGS="--live"``."""

import pytest
from pydantic import BaseModel

from vllm_adapters import AsyncVLLMClient, VLLMClient

pytestmark = pytest.mark.vllm("tiny", recorded=False)


class City(BaseModel):
    city: str
    n: int


ROME = {"city": "Rome", "n": 1}
PROMPT = "Give me Rome as json"


def test_instructor():
    instructor = pytest.importorskip("instructor")
    with VLLMClient() as client:
        completions = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).chat.completions
        messages = [{"role": "user", "content": PROMPT}]
        assert isinstance(completions.create(model="tiny", messages=messages, response_model=City), City)


def test_outlines():
    outlines = pytest.importorskip("outlines")
    with VLLMClient() as client:
        assert City.model_validate_json(outlines.from_vllm(client, "tiny")(PROMPT, City)).model_dump() == ROME


async def test_pydantic_ai():
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async with AsyncVLLMClient() as client:
        model = OpenAIChatModel("tiny", provider=OpenAIProvider(openai_client=client))
        assert (await Agent(model, output_type=NativeOutput(City)).run(PROMPT)).output.model_dump() == ROME
        async with Agent(model).run_stream("What is the capital of France?") as result:
            assert await result.get_output() == "The capital of France is Paris."


async def test_openai_agents_call_a_tool():
    agents = pytest.importorskip("agents")
    cities = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        return "sunny"

    async with AsyncVLLMClient() as client:
        model = agents.OpenAIChatCompletionsModel("tiny", client)
        agent = agents.Agent(name="weather", model=model, tools=[get_weather])
        result = await agents.Runner.run(agent, "What is the weather in Rome?")
    assert cities == ["Rome"]
    assert result.final_output


def test_litellm():
    litellm = pytest.importorskip("litellm")
    with VLLMClient() as client:
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        chunks = litellm.completion("openai/tiny", messages, client=client, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The capital of France is Paris."
