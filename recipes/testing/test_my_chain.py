"""Tests that replay their cassettes by default, and talk to a real vLLM with --live."""

from __future__ import annotations

import pytest
from my_chain import capital_chain

from vllm_adapters import VLLMServer
from vllm_adapters.errors import IncompleteStream
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import FaultServer, Sent, faults


@pytest.mark.vllm("tiny")
def test_answers_and_sends_top_k(vllm_server: VLLMServer, sent: Sent) -> None:
    chain = capital_chain(ChatVLLM(server=vllm_server, temperature=0, top_k=1))
    assert "Tokyo" in chain.invoke({"country": "Japan"})
    assert sent.last.json["top_k"] == 1  # the request, because the reply is recorded


@pytest.mark.vllm("tiny")
def test_streams(vllm_server: VLLMServer) -> None:
    chain = capital_chain(ChatVLLM(server=vllm_server, temperature=0))
    assert len(list(chain.stream({"country": "France"}))) > 1


def test_truncated_stream_raises(fault_server: FaultServer) -> None:
    fault_server.reply(faults.truncate(faults.chat("one two three"), after=300))
    chain = capital_chain(ChatVLLM(base_url=fault_server.url, max_retries=0))
    with pytest.raises(IncompleteStream):
        list(chain.stream({"country": "Japan"}))
