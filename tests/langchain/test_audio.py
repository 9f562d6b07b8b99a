"""``VLLMAudioParser``: blobs of audio to documents."""

import pytest
from langchain_core.documents.base import Blob

from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLMAudioParser
from vllm_adapters.testing import faults

HEARD = " I hear a sound."  # whatever it hears


@pytest.mark.vllm("ear")
def test_document(vllm_url, sent, silence, tmp_path):
    path = tmp_path / "talk.wav"
    path.write_bytes(silence)
    parser = VLLMAudioParser(base_url=vllm_url, language="en", extra_body={"top_k": 1})
    (document,) = parser.parse(Blob.from_path(path, metadata={"title": "A talk"}))
    assert document.page_content == HEARD
    assert document.metadata == {"title": "A talk", "source": str(path)}
    assert b'name="language"\r\n\r\nen\r\n' in sent.last.body
    assert b'name="top_k"\r\n\r\n1\r\n' in sent.last.body


@pytest.mark.vllm("ear")
def test_translation(vllm_url, sent, silence):
    parser = VLLMAudioParser(base_url=vllm_url, translate=True)
    assert parser.parse(Blob.from_data(silence))[0].page_content == HEARD
    assert sent.last.path == "/v1/audio/translations"


def test_malformed_response_raises(fault_server, silence):
    fault_server.reply(faults.html(), "/v1/audio/transcriptions")
    parser = VLLMAudioParser(base_url=fault_server.url, model="stub", max_retries=0)
    with pytest.raises(e.InvalidResponse):
        parser.parse(Blob.from_data(silence))


def test_unknown_names_are_refused(fault_server, silence):
    with pytest.raises(e.UnknownParameter, match="`lang`"):
        VLLMAudioParser(lang="en")
    with pytest.raises(e.UnknownParameter, match="`topk`"):
        VLLMAudioParser(base_url=fault_server.url, model="stub", extra_body={"topk": 1}).parse(Blob.from_data(silence))
    assert fault_server.requests == []
