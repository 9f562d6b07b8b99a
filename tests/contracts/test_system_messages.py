"""A chat template of a real server that refuses a late system message, in every framework."""

import asyncio

import pytest

from chats import CHATS
from vllm_adapters.errors import InvalidRequest

CHAT = "/v1/chat/completions"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"
)
LATE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "system", "content": "Be polite."},
]
MERGED = [{"role": "system", "content": "Be brief.\n\nBe polite."}, {"role": "user", "content": "Hello"}]
OPTIONS = {"chat_template": TEMPLATE, "max_tokens": 5, "temperature": 0}

each_chat = pytest.mark.parametrize("chat", CHATS, ids=lambda chat: chat.__name__)
pytestmark = pytest.mark.vllm("tiny", flags=("--trust-request-chat-template",))


def sent_messages(sent):
    """The messages of each request, with contents as texts."""
    return [
        [{"role": message["role"], "content": text_of(message["content"])} for message in body["messages"]]
        for body in sent.bodies(CHAT)
    ]


def text_of(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@each_chat
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_late_system_message_is_merged_after_the_first_refusal(vllm_url, sent, chat, mode):
    chat = chat(vllm_url)

    async def send_twice():
        return [await chat.asend(LATE, **OPTIONS) for _ in range(2)]

    replies = [chat.send(LATE, **OPTIONS) for _ in range(2)] if mode == "sync" else asyncio.run(send_twice())
    assert all(replies)
    assert sent_messages(sent) == [LATE, MERGED, MERGED]
    assert all("merge_system_messages" not in body for body in sent.bodies(CHAT))


@each_chat
def test_late_system_message_is_merged_on_request(vllm_url, sent, chat):
    assert chat(vllm_url).send(LATE, merge_system_messages=True, **OPTIONS)
    assert sent_messages(sent) == [MERGED]


@each_chat
def test_refusal_of_the_template_says_how_to_merge(vllm_url, sent, chat):
    with pytest.raises(InvalidRequest, match=r"must be at the beginning.*merge_system_messages=True"):
        chat(vllm_url).send(LATE, merge_system_messages=False, **OPTIONS)
    assert sent_messages(sent) == [LATE]
