"""Libraries that turn replies into objects: instructor and Outlines."""

from typing import Literal

import pytest
from pydantic import BaseModel

from vllm_adapters import errors

from .conftest import CITY


class City(BaseModel):
    city: str
    n: int


ROME = City(city="Rome", n=1)
MESSAGES = [{"role": "user", "content": "Rome as json"}]


class TestInstructor:
    @pytest.fixture(params=["TOOLS", "JSON", "JSON_SCHEMA"])
    def mode(self, request):
        return getattr(pytest.importorskip("instructor").Mode, request.param)

    @pytest.fixture
    def answer(self, server, mode):
        def answer(tool="City"):
            server.call(tool) if mode.name == "TOOLS" else server.answer(CITY)

        return answer

    @pytest.fixture
    def create(self, client, mode):
        import instructor

        completions = instructor.from_openai(client, mode=mode).chat.completions
        return {"model": "stub", "messages": MESSAGES, "response_model": City, "max_retries": 0}, completions

    def test_object(self, server, answer, create, mode):
        answer()
        request, completions = create
        assert completions.create(**request).model_dump() == ROME.model_dump()
        if mode.name == "TOOLS":
            assert server.sent[-1]["tools"][0]["function"]["strict"] is True
        else:
            assert server.sent[-1]["response_format"]["type"].startswith("json")

    def test_partial_objects(self, answer, create):
        answer("PartialCity")
        request, completions = create
        partial = list(completions.create_partial(**request))
        assert partial[-1].model_dump() == ROME.model_dump()

    def test_cut_stream_raises(self, server, create):
        server.cut(CITY)
        request, completions = create
        with pytest.raises(Exception, match="ended early") as caught:
            list(completions.create_partial(**request))
        assert isinstance(caught.value.__cause__, errors.IncompleteStream)

    async def test_async(self, answer, async_client, mode):
        import instructor

        answer()
        completions = instructor.from_openai(async_client, mode=mode).chat.completions
        city = await completions.create(model="stub", messages=MESSAGES, response_model=City, max_retries=0)
        assert city.model_dump() == ROME.model_dump()  # of a subclass of City

    def test_error_of_the_server_raises(self, server, create):
        server.fail(400)
        request, completions = create
        with pytest.raises(Exception, match="went wrong") as caught:
            completions.create(**request)
        assert isinstance(caught.value.__cause__, errors.InvalidRequest)


class TestOutlines:
    @pytest.fixture
    def model(self, client):
        return pytest.importorskip("outlines").from_vllm(client, "stub")

    def test_object(self, server, model):
        server.answer(CITY)
        assert City.model_validate_json(model("Rome as json", City)) == ROME
        assert set(server.sent[-1]["structured_outputs"]["json"]["properties"]) == {"city", "n"}

    def test_choice(self, server, model):
        server.answer("yes")
        assert model("Yes or no?", Literal["yes", "no"]) == "yes"
        assert server.sent[-1]["structured_outputs"] == {"regex": "(yes|no)"}

    def test_reply_that_violates_the_constraint_raises(self, server, model):
        server.answer("maybe")
        with pytest.raises(Exception, match="violates the requested regex") as caught:
            model("Yes or no?", Literal["yes", "no"])
        assert isinstance(caught.value.__cause__, errors.ConstraintNotEnforced)

    def test_stream(self, server, model):
        server.answer()
        assert "".join(model.stream("Count")) == "one two three"

    def test_cut_stream_raises(self, server, model):
        server.cut()
        with pytest.raises(Exception, match="ended early") as caught:
            list(model.stream("Count"))
        assert isinstance(caught.value.__cause__, errors.IncompleteStream)

    async def test_async(self, server, async_client):
        outlines = pytest.importorskip("outlines")
        server.answer(CITY)
        reply = await outlines.from_vllm(async_client, "stub")("Rome as json", City)
        assert City.model_validate_json(reply) == ROME

    def test_object_with_openai_dialect(self, server, client):
        server.answer(CITY)
        reply = pytest.importorskip("outlines").from_openai(client, "stub")("Rome as json", City)
        assert City.model_validate_json(reply) == ROME
        assert server.sent[-1]["response_format"]["json_schema"]["strict"] is True
