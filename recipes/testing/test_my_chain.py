"""One test, two lives: replayed from its cassette by default, against a real vLLM with --live."""

from __future__ import annotations

import pytest
from my_chain import capital_chain

from vllm_adapters import VLLMServer
from vllm_adapters.errors import IncompleteStream
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import FaultServer, Sent, faults


@pytest.mark.vllm("tiny")
def test_answers_and_sends_what_it_should(vllm_server: VLLMServer, sent: Sent) -> None:
    chain = capital_chain(ChatVLLM(server=vllm_server, temperature=0, top_k=1))
    assert "Tokyo" in chain.invoke({"country": "Japan"})
    assert sent.last.json["top_k"] == 1  # a replay alone would go on passing if this were no longer sent


@pytest.mark.vllm("tiny")
def test_streams(vllm_server: VLLMServer) -> None:
    chain = capital_chain(ChatVLLM(server=vllm_server, temperature=0))
    assert len(list(chain.stream({"country": "France"}))) > 1


def test_a_cut_stream_is_no_answer(fault_server: FaultServer) -> None:
    fault_server.reply(faults.truncate(faults.chat("one two three"), after=300))
    chain = capital_chain(ChatVLLM(base_url=fault_server.url, max_retries=0))
    with pytest.raises(IncompleteStream):
        list(chain.stream({"country": "Japan"}))
