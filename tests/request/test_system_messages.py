"""System messages that a chat template refuses where they are: merged into the first, on request or after a refusal."""

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._request.system_messages import is_refused, merge_system_messages, needs_merging
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
REFUSED = faults.error(400, "System message must be at the beginning.")
USER = {"role": "user", "content": "Hello"}
FIRST, LATE = {"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be polite."}
LATE_MESSAGES = [FIRST, USER, LATE]
MERGED = [{"role": "system", "content": "Be brief.\n\nBe polite."}, USER]


@pytest.mark.parametrize(
    ("messages", "merged"),
    [
        (LATE_MESSAGES, MERGED),
        ([FIRST, LATE, USER], MERGED),
        ([USER, FIRST], [FIRST, USER]),
        ([FIRST, USER], [FIRST, USER]),
        ([USER], [USER]),
        (
            [FIRST, USER, {"role": "system", "content": [{"type": "text", "text": "Be polite."}]}],
            [{"role": "system", "content": [{"type": "text", "text": t} for t in ("Be brief.", "Be polite.")]}, USER],
        ),
        ([FIRST, USER, {"role": "system", "content": None}], [FIRST, USER]),
    ],
)
def test_contents_are_merged_in_order(messages, merged):
    before = [dict(message) for message in messages]
    assert merge_system_messages(messages) == merged
    assert messages == before


def test_only_late_messages_need_merging():
    assert [needs_merging(found) for found in (LATE_MESSAGES, [USER, FIRST], [FIRST, USER], [USER], [], None)] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("reason", "refused"),
    [
        ("System message must be at the beginning.", True),
        ("Only one system prompt is allowed", True),
        ("Conversation roles must alternate user/assistant/user/assistant/...", True),
        ("This model's maximum context length is 4 tokens.", False),
        ("The filesystem messages are full", False),
    ],
)
def test_refusals_are_recognised(reason, refused):
    assert is_refused(reason) is refused


def sent_messages(server):
    return [request.json["messages"] for request in server.posts(CHAT)]


# Stock: a 400 for every such conversation, in every agent that has one.
@pytest.mark.parametrize("stream", [False, True])
def test_refused_request_is_sent_again_merged_and_later_ones_at_once(fault_server, ask, stream):
    fault_server.script(CHAT, [REFUSED, faults.chat("Hi"), faults.chat("Hi")])
    assert ask(fault_server.url, messages=LATE_MESSAGES, stream=stream)
    assert sent_messages(fault_server) == [LATE_MESSAGES, MERGED]


def test_later_requests_are_merged_at_once_by_both_clients(fault_server):
    server = VLLMServer(fault_server.url, model="stub")
    fault_server.script(CHAT, [REFUSED, faults.chat("Hi"), faults.chat("Hi"), faults.chat("Hi")])
    for _ in range(2):
        server.client.chat.completions.create(model="stub", messages=LATE_MESSAGES)
    assert sent_messages(fault_server) == [LATE_MESSAGES, MERGED, MERGED]
    assert server.async_client.vllm.info.merge_system


def test_setting_of_the_request_holds(fault_server):
    client = VLLMClient(fault_server.url, max_retries=0)
    fault_server.reply(REFUSED, CHAT)
    for setting in (True, False):
        with pytest.raises(e.InvalidRequest) as caught:
            client.chat.completions.create(
                model="stub", messages=LATE_MESSAGES, extra_body={"merge_system_messages": setting}
            )
        assert ("merge_system_messages=True" in str(caught.value)) is not setting
    assert sent_messages(fault_server) == [MERGED, LATE_MESSAGES]
    assert all("merge_system_messages" not in request.json for request in fault_server.posts(CHAT))


@pytest.mark.parametrize("messages", [[FIRST, USER], [USER]])
def test_refusal_that_merging_cannot_mend_is_raised_at_once(fault_server, messages):
    fault_server.reply(REFUSED, CHAT)
    with pytest.raises(e.InvalidRequest, match="must be at the beginning"):
        VLLMClient(fault_server.url, max_retries=0).chat.completions.create(model="stub", messages=messages)
    assert len(fault_server.posts(CHAT)) == 1


async def test_second_refusal_is_raised_and_nothing_is_remembered(fault_server):
    fault_server.reply(REFUSED, CHAT)
    client = AsyncVLLMClient(fault_server.url, max_retries=0)
    with pytest.raises(e.InvalidRequest, match="must be at the beginning"):
        await client.chat.completions.create(model="stub", messages=LATE_MESSAGES)
    assert sent_messages(fault_server) == [LATE_MESSAGES, MERGED]
    assert not client.vllm.info.merge_system
