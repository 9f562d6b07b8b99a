"""Libraries of agents: Pydantic AI and OpenAI's Agents SDK."""

import pytest
from pydantic import BaseModel

from vllm_adapters import errors

from .conftest import CITY


class City(BaseModel):
    city: str
    n: int


ROME = City(city="Rome", n=1)


class TestPydanticAI:
    @pytest.fixture
    def model(self, async_client):
        pytest.importorskip("pydantic_ai")
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIChatModel("stub", provider=OpenAIProvider(openai_client=async_client))

    @pytest.fixture
    def agent(self, model):
        from pydantic_ai import Agent

        return Agent(model)

    async def test_answer_and_usage(self, server, agent):
        server.answer()
        result = await agent.run("Count")
        assert result.output == "one two three"
        usage = result.usage() if callable(result.usage) else result.usage
        assert (usage.input_tokens, usage.output_tokens) == (7, 3)

    async def test_stream(self, server, agent):
        server.answer()
        async with agent.run_stream("Count") as result:
            assert [text async for text in result.stream_text(debounce_by=None)][-1] == "one two three"

    async def test_cut_stream_raises(self, server, agent):
        server.cut()
        with pytest.raises(Exception, match="ended early") as caught:
            async with agent.run_stream("Count") as result:
                await result.get_output()
        assert isinstance(caught.value.__cause__, errors.IncompleteStream)

    async def test_tool_is_called(self, server, agent):
        cities = []

        @agent.tool_plain
        def weather(city: str, n: int) -> str:
            cities.append(city)
            return "sunny"

        server.call_then_answer("weather", text="It is sunny.")
        assert (await agent.run("Weather in Rome?")).output == "It is sunny."
        assert cities == ["Rome"]
        assert server.sent[-1]["messages"][-1]["content"] == "sunny"

    async def test_truncated_tool_call_is_not_run(self, server, agent):
        cities = []

        @agent.tool_plain(retries=0)
        def weather(city: str, n: int) -> str:
            cities.append(city)
            return "sunny"

        server.call_then_answer("weather", '{"city": "Ro')
        with pytest.raises(Exception, match="weather"):
            await agent.run("Weather in Rome?")
        assert not cities

    async def test_output_by_tool(self, server, model):
        from pydantic_ai import Agent

        server.call("final_result")
        assert (await Agent(model, output_type=City).run("Rome")).output == ROME
        assert server.sent[-1]["tool_choice"] == "required"
        assert server.sent[-1]["tools"][0]["function"]["strict"] is True

    async def test_output_by_schema(self, server, model):
        from pydantic_ai import Agent, NativeOutput

        server.answer(CITY)
        assert (await Agent(model, output_type=NativeOutput(City)).run("Rome")).output == ROME
        assert server.sent[-1]["response_format"]["type"] == "json_schema"

    async def test_server_error_raises(self, server, agent):
        server.fail(500)
        with pytest.raises(Exception, match="500") as caught:
            await agent.run("Count")
        assert isinstance(caught.value.__cause__, errors.ServerFailed)


class TestOpenAIAgents:
    @pytest.fixture
    def model(self, async_client):
        return pytest.importorskip("agents").OpenAIChatCompletionsModel("stub", async_client)

    async def test_answer(self, server, model):
        from agents import Agent, Runner

        server.answer()
        result = await Runner.run(Agent(name="counter", model=model), "Count")
        assert result.final_output == "one two three"
        assert result.context_wrapper.usage.output_tokens == 3

    async def test_stream(self, server, model):
        from agents import Agent, Runner

        server.answer()
        result = Runner.run_streamed(Agent(name="counter", model=model), "Count")
        events = [event async for event in result.stream_events()]
        deltas = [event.data.delta for event in events if getattr(event, "data", None) and hasattr(event.data, "delta")]
        assert "".join(deltas) == result.final_output == "one two three"

    async def test_cut_stream_raises(self, server, model):
        from agents import Agent, Runner

        server.cut()
        result = Runner.run_streamed(Agent(name="counter", model=model), "Count")
        with pytest.raises(errors.IncompleteStream):
            async for _ in result.stream_events():
                pass

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_tool_is_called(self, server, model, streamed):
        from agents import Agent, Runner, function_tool

        cities = []

        @function_tool
        def weather(city: str, n: int) -> str:
            """The weather in a city."""
            cities.append(city)
            return "sunny"

        agent = Agent(name="weather", model=model, tools=[weather])
        server.call_then_answer("weather", text="It is sunny.")
        if streamed:
            result = Runner.run_streamed(agent, "Weather in Rome?")
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(agent, "Weather in Rome?")
        assert result.final_output == "It is sunny."
        assert cities == ["Rome"]

    async def test_output_type(self, server, model):
        from agents import Agent, Runner

        server.answer(CITY)
        assert (await Runner.run(Agent(name="city", model=model, output_type=City), "Rome")).final_output == ROME
        assert server.sent[-1]["response_format"]["type"] == "json_schema"
