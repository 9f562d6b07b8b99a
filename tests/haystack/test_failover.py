"""Haystack's fall-back with our errors, and a session in a header."""

import pytest
from haystack.components.generators.chat import FallbackChatGenerator
from haystack.dataclasses import ChatMessage

from vllm_adapters.haystack import VLLMChatGenerator
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "failure",
    [faults.hang_up(), faults.hang(), faults.error(429, retry_after=60), faults.loading(), faults.error(500)],
    ids=["dead", "slow", "429", "loading", "500"],
)
def test_server_that_fails_leads_to_the_second(make_fault_server, failure):
    first, second = make_fault_server(), make_fault_server()
    first.reply(failure)
    second.reply(faults.chat("from the second"), CHAT)
    generators = [
        VLLMChatGenerator(model="stub", api_base_url=server.url, timeout=1, max_retries=0) for server in (first, second)
    ]
    found = FallbackChatGenerator(generators).run([ChatMessage.from_user("x")])
    assert found["replies"][0].text == "from the second"
    assert (len(first.posts(CHAT)), len(second.posts(CHAT))) == (1, 1)


def test_session_is_sent_as_a_header(fault_server):
    generator = VLLMChatGenerator(model="stub", api_base_url=fault_server.url, generation_kwargs={"session_id": "s-1"})
    generator.run([ChatMessage.from_user("x")])
    (post,) = fault_server.posts(CHAT)
    assert (post.json["session_id"], post.headers["x-session-id"]) == ("s-1", "s-1")
