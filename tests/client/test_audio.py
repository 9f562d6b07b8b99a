"""``/v1/audio/transcriptions`` and ``/translations``: parameters are checked, and streams are whole or an error."""

import io
import wave

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults

PATH = "/v1/audio/transcriptions"
HEARD = " I hear a sound."  # whatever it hears
ear = pytest.mark.vllm("ear")


def silence(seconds):
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000 * seconds))
    return ("sound.wav", content.getvalue())


@pytest.fixture
def client(vllm_url):
    with VLLMClient(vllm_url, max_retries=0) as client:
        yield client


class TestServer:
    pytestmark = ear

    def test_capabilities(self, client):
        assert VLLMServer(client.vllm.address).capabilities().tasks == {"transcriptions", "translations"}

    def test_transcription(self, client, sent):
        found = client.audio.transcriptions.create(
            model="ear", file=silence(1), language="en", extra_body={"max_completion_tokens": 40, "top_k": 1}
        )
        assert (found.text, found.usage.seconds) == (HEARD, 1)
        assert b'name="top_k"\r\n\r\n1\r\n' in sent.last.body

    async def test_transcription_async(self, vllm_url):
        async with AsyncVLLMClient(vllm_url) as client:
            assert (await client.audio.transcriptions.create(model="ear", file=silence(1))).text == HEARD
            stream = await client.audio.transcriptions.create(model="ear", file=silence(1), stream=True)
            assert [event async for event in stream][-1].text == HEARD

    def test_model_is_looked_up(self, client, sent):
        assert client.audio.transcriptions.create(model="", file=silence(1)).text == HEARD
        assert b'name="model"\r\n\r\near\r\n' in sent.last.body

    def test_segments(self, client):
        found = client.audio.transcriptions.create(model="ear", file=silence(1), response_format="verbose_json")
        (segment,) = found.segments
        assert (found.language, found.duration) == ("en", 1)
        assert (segment.text, segment.start, segment.end) == (HEARD, 0, 1)

    def test_translation(self, client):
        assert client.audio.translations.create(model="ear", file=silence(1)).text == HEARD

    def test_stream_of_a_transcript(self, client):
        stream = client.audio.transcriptions.create(
            model="ear", file=silence(1), stream=True, extra_body={"stream_include_usage": True}
        )
        *deltas, end = list(stream)
        assert "".join(event.delta for event in deltas) == HEARD
        assert {event.type for event in deltas} == {"transcript.text.delta"}
        assert (end.type, end.text) == ("transcript.text.done", HEARD)
        assert end.usage.output_tokens > len(HEARD)
        assert end.usage.total_tokens == end.usage.input_tokens + end.usage.output_tokens

    def test_stream_of_more_than_half_a_minute(self, client):
        sounds = silence(40)
        whole = client.audio.transcriptions.create(model="ear", file=sounds).text
        assert whole.count(HEARD.strip()) == 2
        *_, end = client.audio.transcriptions.create(model="ear", file=sounds, stream=True)
        assert end.text == whole

    def test_errors_of_audio(self, client):
        create = client.audio.transcriptions.create
        with pytest.raises(e.InvalidRequest, match="Invalid or corrupted audio"):
            create(model="ear", file=("a.wav", b"no sound"))
        with pytest.raises(e.InvalidRequest, match="Unsupported language: 'xx'"):
            create(model="ear", file=silence(1), language="xx")
        with pytest.raises(e.InvalidRequest, match="response_format"):
            create(model="ear", file=silence(1), response_format="srt")
        with pytest.raises(e.ModelNotServed, match="It serves: ear"):
            create(model="other", file=silence(1))


def chunk(text, finish_reason=None):
    choice = {"delta": {"content": text}, **({"finish_reason": finish_reason} if finish_reason else {})}
    return {"id": "t", "object": "transcription.chunk", "created": 1, "model": "stub", "choices": [choice]}


def read(server, **body):
    with VLLMClient(server.url, max_retries=0) as client:
        return list(client.audio.transcriptions.create(model="stub", file=silence(0), stream=True, **body))


async def aread(server):
    async with AsyncVLLMClient(server.url, max_retries=0) as client:
        stream = await client.audio.transcriptions.create(model="stub", file=silence(0), stream=True)
        return [event async for event in stream]


FIRST_HALF_MINUTE = (chunk("one"), chunk(" two", "stop"))


def test_stream_is_incomplete_until_its_end(fault_server):
    fault_server.reply(faults.sse(*FIRST_HALF_MINUTE, end="clean"), PATH)
    with pytest.raises(e.IncompleteStream) as caught:
        read(fault_server)
    assert caught.value.partial == "one two"


async def test_stream_is_incomplete_until_its_end_async(fault_server):
    fault_server.reply(faults.sse(*FIRST_HALF_MINUTE, end="clean"), PATH)
    with pytest.raises(e.IncompleteStream):
        await aread(fault_server)


def test_stream_has_one_end(fault_server):
    fault_server.reply(faults.sse(*FIRST_HALF_MINUTE, chunk(" three", "stop")), PATH)
    events = read(fault_server)
    assert [event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert events[-1].text == "one two three"


def test_stream_of_a_gateway_with_the_events_of_openai(fault_server):
    events = [{"type": "transcript.text.delta", "delta": "one"}, {"type": "transcript.text.done", "text": "one"}]
    fault_server.reply(faults.sse(*events, end="clean"), PATH)
    assert [event.type for event in read(fault_server)] == ["transcript.text.delta", "transcript.text.done"]
    fault_server.reply(faults.sse(events[0], end="clean"), PATH)
    with pytest.raises(e.IncompleteStream):
        read(fault_server)


def test_error_in_a_stream_raises(fault_server):
    fault_server.reply(faults.sse(chunk("one"), {"error": {"message": "EngineCore died", "code": 500}}), PATH)
    with pytest.raises(e.ServerFailed, match="EngineCore died") as caught:
        read(fault_server)
    assert caught.value.partial == "one"


def test_malformed_response_raises(fault_server):
    fault_server.reply(faults.html(), PATH)
    with VLLMClient(fault_server.url, max_retries=0) as client, pytest.raises(e.InvalidResponse):
        client.audio.transcriptions.create(model="stub", file=silence(0))


def test_unknown_name_is_refused(fault_server):
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        read(fault_server, extra_body={"topk": 1})
    assert fault_server.posts(PATH) == []


def test_file_is_sent_once_more_after_an_overload(fault_server):
    ready = faults.json_reply({"text": "heard", "usage": {"type": "duration", "seconds": 1}})
    fault_server.script(PATH, [faults.error(503), ready])
    with VLLMClient(fault_server.url, max_retries=1) as client:
        assert client.audio.transcriptions.create(model="stub", file=silence(1)).text == "heard"
    first, second = fault_server.posts(PATH)
    assert b"RIFF" in first.body
    assert len(first.body) == len(second.body)
