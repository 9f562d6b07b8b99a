"""``VLLMTranscriber``: audio to documents."""

import pytest
from haystack import Pipeline
from haystack.dataclasses import ByteStream

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMTranscriber
from vllm_adapters.testing import faults

PATH = "/v1/audio/transcriptions"
HEARD = " I hear a sound."  # whatever it hears


@pytest.fixture
def audio(silence):
    return ByteStream(data=silence, meta={"title": "A talk"})


@pytest.mark.vllm("ear")
async def test_document_for_each_source(vllm_url, sent, audio, tmp_path):
    path = tmp_path / "talk.wav"
    path.write_bytes(audio.data)
    transcriber = VLLMTranscriber(api_base_url=vllm_url, extra_parameters={"language": "en", "top_k": 1})
    found = transcriber.run(sources=[audio, path])["documents"]
    assert [document.content for document in found] == [HEARD, HEARD]
    assert [document.meta for document in found] == [{"title": "A talk"}, {"file_path": str(path)}]
    assert b'name="top_k"\r\n\r\n1\r\n' in sent.last.body
    (document,) = (await transcriber.run_async(sources=[audio]))["documents"]
    assert document.content == HEARD


@pytest.mark.vllm("ear")
def test_translation(vllm_url, sent, audio):
    found = VLLMTranscriber(api_base_url=vllm_url, translate=True).run(sources=[audio])["documents"]
    assert found[0].content == HEARD
    assert sent.last.path == "/v1/audio/translations"


def test_saved_and_loaded():
    pipeline = Pipeline()
    transcriber = VLLMTranscriber(api_base_url="http://gpu:8000", extra_parameters={"language": "en"}, translate=True)
    pipeline.add_component("transcriber", transcriber)
    loaded = Pipeline.loads(pipeline.dumps()).get_component("transcriber")
    assert isinstance(loaded, VLLMTranscriber)
    assert (loaded.extra_parameters, loaded.translate) == ({"language": "en"}, True)


def test_malformed_response_raises(fault_server, audio):
    fault_server.reply(faults.html(), PATH)
    with pytest.raises(e.InvalidResponse):
        VLLMTranscriber(api_base_url=fault_server.url, model="stub", max_retries=0).run(sources=[audio])


def test_wrong_arguments_raise(fault_server, audio):
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        VLLMTranscriber(extra_parameters={"topk": 1})
    with pytest.raises(e.InvalidRequest, match="`stream` cannot be set"):
        VLLMTranscriber(extra_parameters={"stream": True})
    transcriber = VLLMTranscriber(api_base_url=fault_server.url)
    with pytest.raises(TypeError, match="list of sources"):
        transcriber.run(sources=audio)
    with pytest.raises(FileNotFoundError):
        transcriber.run(sources=["missing.wav"])
    assert transcriber.run(sources=[]) == {"documents": []}
    assert fault_server.requests == []
