"""Malformed responses raise an error that names the part; all others are accepted and passed on unchanged."""

import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._response.stream import ChunkReader
from vllm_adapters._response.validate import (
    CHOICE_FIELDS,
    RESPONSE_FIELDS,
    pick_fields,
    validate_response,
    validate_types,
)
from vllm_adapters.testing import faults, payloads

HELLO = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}
CALLS = [payloads.tool_call("add", '{"a": 1}', index=0)]
REPLY = payloads.chat("hi", reasoning="hm", tool_calls=CALLS, finish_reason="tool_calls")
STREAMS = {
    "chat": payloads.chat_chunks("one two", reasoning="hm", tool_calls=CALLS, finish_reason="tool_calls", usage=True),
    "completions": payloads.completion_chunks("one two", usage=True),
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "name", "index"]), inner),
    max_leaves=4,
)


def paths(part, path=()):
    """Yield the path of every part of a response."""
    yield path
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def part_at(whole, path):
    for key in path:
        whole = whole[key]
    return whole


def with_part(whole, path, part):
    """Return a copy with another part at ``path``."""
    if not path:
        return part
    changed = copy.deepcopy(whole)
    part_at(changed, path[:-1])[path[-1]] = part
    return changed


def without_part(whole, path):
    """Return a copy without the part at ``path``."""
    changed = copy.deepcopy(whole)
    del part_at(changed, path[:-1])[path[-1]]
    return changed


def text_of(path):
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def event(chunk):
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


# Responses and chunks that must be accepted

LOGPROBS = {"content": [{"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": []}], "refusal": None}
TEXT_LOGPROBS = {"tokens": ["hi"], "token_logprobs": [-0.5], "top_logprobs": [None], "text_offset": [0]}
ADDED_TO_CHOICE = {
    "stop_reason": 5,
    "token_ids": [1, 2],
    "prompt_logprobs": [None, {"7": {"logprob": -1.0, "rank": 1, "decoded_token": "x"}}],
    "prompt_token_ids": [7],
    "routed_experts": [[[0, 1]]],
    "weight_versions": [{"version": "1", "start": 0}],
}
ADDED_TO_RESPONSE = {
    "prompt_logprobs": [None, {"7": {"logprob": -1.0, "rank": 1, "decoded_token": "x"}}],
    "prompt_token_ids": [7],
    "prompt_text": "<|user|>x",
    "kv_transfer_params": {"remote_host": "h"},
    "ec_transfer_params": {"a": 1},
    "metrics": {"queue_time_ms": 0.5},
    "system_fingerprint": "vllm-0.32.0-x",
}
OPENAI_MESSAGE = {
    "refusal": "no",
    "annotations": [{"type": "url_citation", "url_citation": {"url": "http://h"}}],
    "audio": {"id": "a", "data": "AAAA", "expires_at": 1, "transcript": "hi"},
    "function_call": {"name": "add", "arguments": "{}"},
}
OPENAI_RESPONSE = {
    "service_tier": "default",
    "usage": {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 1,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
}
ENVELOPE = {"id": "chatcmpl-1", "created": 1, "model": "stub", **OPENAI_RESPONSE, **ADDED_TO_RESPONSE}
MESSAGE = {
    "role": "assistant",
    "content": "hi",
    "reasoning": "hm",
    "reasoning_content": "hm",
    "tool_calls": CALLS,
    **OPENAI_MESSAGE,
}
CHOICE = {"index": 0, "finish_reason": "tool_calls", "logprobs": LOGPROBS, **ADDED_TO_CHOICE}
FULL_CHAT = {**ENVELOPE, "object": "chat.completion", "choices": [{**CHOICE, "message": MESSAGE}]}
FULL_COMPLETION = {
    **ENVELOPE,
    "object": "text_completion",
    "choices": [{**CHOICE, "finish_reason": "stop", "text": "hi", "logprobs": TEXT_LOGPROBS}],
}
FULL_CHAT_CHUNK = {**ENVELOPE, "object": "chat.completion.chunk", "choices": [{**CHOICE, "delta": MESSAGE}]}
FULL_COMPLETION_CHUNK = {**FULL_COMPLETION, "id": "cmpl-1"}

REQUIRED = {("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "text")}
"""Parts of a response that is not streamed without which there is no reply."""
ITEMS = {"tool_calls", "token_ids"}
"""Lists whose items cannot be null."""


def is_optional(path, *, streamed):
    if not path or (path in REQUIRED and not streamed):
        return False
    if path == ("choices", 0):
        return False
    return not (isinstance(path[-1], int) and path[-2] in ITEMS)


def variants(full, *, streamed):
    """Yield a name and a response for each part of ``full`` that is missing, null or empty."""
    yield "full", full
    for path in paths(full):
        if is_optional(path, streamed=streamed):
            yield f"null-{text_of(path)}", with_part(full, path, None)
            if isinstance(path[-1], str):
                yield f"missing-{text_of(path)}", without_part(full, path)
        if isinstance(part_at(full, path), str):
            yield f"empty-{text_of(path)}", with_part(full, path, "")


MINIMAL = {
    "chat": {
        "content": {"choices": [{"message": {"content": "hi"}}]},
        "empty-message": {"choices": [{"message": {}}]},
        "only-tool-calls": {"choices": [{"message": {"content": None, "tool_calls": [{"id": "a"}]}}]},
        "repetition": {"choices": [{"message": {"content": "hi"}, "finish_reason": "repetition"}]},
        "length": {"choices": [{"message": {"content": "hi"}, "finish_reason": "length"}]},
        "two-choices": {"choices": [{"index": n, "message": {"content": "hi"}} for n in (0, 1)]},
        "plain": payloads.chat("hi"),
        "old-reasoning": payloads.chat("hi", reasoning="hm", legacy_reasoning=True),
        "tool-call": payloads.chat(None, tool_calls=[payloads.tool_call("add", "{")], finish_reason="tool_calls"),
    },
    "completions": {
        "text": {"choices": [{"text": "hi"}]},
        "empty-text": {"choices": [{"text": ""}]},
        "plain": payloads.completion("hi"),
        "stop-token": {"choices": [{"text": "hi", "finish_reason": "stop", "stop_reason": 2}]},
    },
}
RESPONSES = {
    "chat": {**MINIMAL["chat"], **dict(variants(FULL_CHAT, streamed=False))},
    "completions": {**MINIMAL["completions"], **dict(variants(FULL_COMPLETION, streamed=False))},
}
MINIMAL_CHUNKS = {
    "chat": {
        "empty": {},
        "null-choices": {"choices": None},
        "no-choices": {"choices": []},
        "empty-choice": {"choices": [{}]},
        "null-index": {"choices": [{"index": None}]},
        "null-delta": {"choices": [{"index": 0, "delta": None}]},
        "role": {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        "finish": {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": None}]},
        "usage": {"choices": [], "usage": {"total_tokens": 3}},
    },
    "completions": {
        "empty": {},
        "null-choices": {"choices": None},
        "empty-choice": {"choices": [{}]},
        "null-text": {"choices": [{"index": 0, "text": None}]},
        "usage": {"choices": [], "usage": {"total_tokens": 3}},
    },
}
CHUNKS = {
    "chat": {**MINIMAL_CHUNKS["chat"], **dict(variants(FULL_CHAT_CHUNK, streamed=True))},
    "completions": {**MINIMAL_CHUNKS["completions"], **dict(variants(FULL_COMPLETION_CHUNK, streamed=True))},
}
RESPONSE_CLASS = {"chat": ChatCompletion, "completions": Completion}
CHUNK_CLASS = {"chat": ChatCompletionChunk, "completions": Completion}
CLIENT = VLLMClient("http://localhost:9")


def as_sdk_object(data, cls):
    """Return what the SDK's methods return for the JSON of a response."""
    return CLIENT._process_response_data(data=copy.deepcopy(data), cast_to=cls, response=None)


def read(endpoint, *chunks):
    """Return the chunks of a stream, or raise its error."""
    reader = ChunkReader({"n": 8}, endpoint)
    found = [part for chunk in chunks for part in reader.feed(event(chunk))]
    if reader.error is not None:
        raise reader.error
    return found


def refusals(cases, check):
    """Return the errors of the cases that ``check`` does not accept, by name."""
    found = {}
    for name, case in cases.items():
        try:
            check(case)
        except (AssertionError, e.VLLMError) as error:
            found[name] = repr(error)
    return found


def test_cases_cover_every_field():
    """A mistake in ``variants`` would make the tests below assert nothing."""
    for endpoint, cases in RESPONSES.items():
        assert len(cases) > 100
        assert {"null-usage", "missing-choices[0].finish_reason", "empty-id"} <= cases.keys()
        assert not {"null-choices", "missing-choices[0].message", "missing-choices[0].text"} & cases.keys()
        assert {"null-choices[0].delta", "null-choices[0].text"} & CHUNKS[endpoint].keys()
    assert {*MESSAGE, "tool_calls[0].function.arguments"} <= {
        name.removeprefix("null-choices[0].message.") for name in RESPONSES["chat"]
    }


@pytest.mark.parametrize("endpoint", RESPONSES)
def test_well_formed_responses_are_accepted_unchanged(endpoint):
    def check(response):
        found, expected = copy.deepcopy(response), copy.deepcopy(response)
        validate_response(found, {}, endpoint=endpoint, content=json.dumps(response).encode())
        message = expected["choices"][0].get("message", {})
        if message.get("reasoning_content") and not message.get("reasoning"):
            message["reasoning"] = message["reasoning_content"]  # its old name
        assert found == expected

    assert refusals(RESPONSES[endpoint], check) == {}


@pytest.mark.parametrize("endpoint", RESPONSES)
def test_well_formed_responses_are_accepted_as_objects_of_the_sdk(endpoint):
    def check(response):
        found = as_sdk_object(response, RESPONSE_CLASS[endpoint])
        validate_response(found, {}, endpoint=endpoint)
        assert len(found.choices) == len(response["choices"])

    assert refusals(RESPONSES[endpoint], check) == {}


@pytest.mark.parametrize("endpoint", CHUNKS)
def test_well_formed_chunks_are_accepted(endpoint):
    def check(chunk):
        found = read(endpoint, chunk)
        indices = {choice["index"] for part in found for choice in part["choices"]}
        assert indices == ({0} if chunk.get("choices") else set())
        for name, value in chunk.items():
            assert name in ("choices", "object") or found[-1][name] == value, name
        for part in found:
            assert isinstance(as_sdk_object(part, CHUNK_CLASS[endpoint]), CHUNK_CLASS[endpoint])

    assert refusals(CHUNKS[endpoint], check) == {}


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize(
    ("chunk", "choices"),
    [({}, 0), ({"choices": None}, 0), ({"choices": [{}]}, 1), ({"choices": [{"index": None}]}, 1)],
)
def test_missing_fields_of_a_chunk_are_filled_in(endpoint, chunk, choices):
    fields = {"text": ""} if endpoint == "completions" else {"delta": {}}
    assert [found["choices"] for found in read(endpoint, chunk)] == [[{"index": 0, **fields}] * choices]


def dicts_of(whole):
    return st.sampled_from([path for path in paths(whole) if isinstance(part_at(whole, path), dict)])


UNKNOWN_KEY = st.text(min_size=1, max_size=3).map("x_".__add__)


@given(path=dicts_of(FULL_CHAT), key=UNKNOWN_KEY, value=ANYTHING)
def test_unknown_keys_of_a_response_are_accepted(path, key, value):
    response = with_part(FULL_CHAT, (*path, key), value)
    validate_response(response, {}, endpoint="chat")
    assert part_at(response, (*path, key)) is value
    validate_response(as_sdk_object(response, ChatCompletion), {}, endpoint="chat")


@given(path=dicts_of(FULL_CHAT_CHUNK), key=UNKNOWN_KEY, value=ANYTHING.filter(lambda value: value == value))
def test_unknown_keys_of_a_chunk_are_accepted(path, key, value):
    found = read("chat", with_part(FULL_CHAT_CHUNK, (*path, key), value))
    # Reasoning, text and the tool call are split; the key stays with its part.
    assert json.dumps({key: value})[1:-1] in json.dumps(found)


UNCHECKED = [
    ("created",),
    ("object",),
    ("prompt_logprobs",),
    ("prompt_token_ids",),
    ("prompt_text",),
    ("kv_transfer_params",),
    ("ec_transfer_params",),
    ("metrics",),
    ("choices", 0, "stop_reason"),
    ("choices", 0, "prompt_logprobs"),
    ("choices", 0, "prompt_token_ids"),
    ("choices", 0, "routed_experts"),
    ("choices", 0, "weight_versions"),
    ("choices", 0, "logprobs", "content"),
    ("choices", 0, "message", "annotations"),
    ("choices", 0, "message", "audio"),
]


@given(path=st.sampled_from(UNCHECKED), value=ANYTHING)
def test_fields_that_are_not_read_may_have_any_value(path, value):
    response = with_part(FULL_CHAT, path, value)
    validate_response(response, {}, endpoint="chat")
    assert part_at(response, path) is value


def test_added_fields_are_those_of_the_full_response():
    assert pick_fields(FULL_CHAT, RESPONSE_FIELDS) == ADDED_TO_RESPONSE
    assert pick_fields(FULL_CHAT["choices"][0], CHOICE_FIELDS) == ADDED_TO_CHOICE


# Malformed responses


MALFORMED = [
    (("choices",), "x"),
    (("choices",), {"a": 1}),
    (("choices", 0), 5),
    (("choices", 0), None),
    (("choices", 0, "index"), -1),
    (("choices", 0, "index"), 0.0),
    (("choices", 0, "finish_reason"), ["stop"]),
    (("choices", 0, "message"), "hi"),
    (("choices", 0, "message", "role"), 5),
    (("choices", 0, "message", "content"), ["hi"]),
    (("choices", 0, "message", "content"), 5),
    (("choices", 0, "message", "reasoning"), 5),
    (("choices", 0, "message", "reasoning_content"), {"text": "hm"}),
    (("choices", 0, "message", "refusal"), True),
    (("choices", 0, "message", "tool_calls"), {"name": "add"}),
    (("choices", 0, "message", "tool_calls"), "x"),
    (("choices", 0, "message", "tool_calls", 0), "add"),
    (("choices", 0, "message", "tool_calls", 0), None),
    (("choices", 0, "message", "tool_calls", 0, "id"), 5),
    (("choices", 0, "message", "tool_calls", 0, "function"), "add"),
    (("choices", 0, "message", "tool_calls", 0, "function", "name"), 5),
    (("choices", 0, "message", "tool_calls", 0, "function", "arguments"), {"a": 1}),
    (("choices", 0, "logprobs"), 0.5),
    (("choices", 0, "token_ids"), ["1"]),
    (("usage",), 7),
    (("usage", "prompt_tokens"), "7"),
    (("model",), ["stub"]),
    (("id",), 5),
]


def path_id(value):
    return text_of(value) if isinstance(value, tuple) else repr(value)


@pytest.mark.parametrize(("path", "part"), [((), "x"), ((), [1]), *MALFORMED], ids=path_id)
def test_malformed_part_of_a_response_is_named(path, part):
    with pytest.raises(e.InvalidResponse) as caught:
        validate_types(with_part(REPLY, path, part))
    problem = caught.value.reason.removeprefix("The response is malformed (")
    where = text_of((*path, 0) if path[-1:] == ("token_ids",) else path)
    assert problem.startswith(f"{where}: Input should be" if where else "Input should be")


[WHOLE_CHOICE] = REPLY["choices"]
WHOLE_CHUNK = {**REPLY, "choices": [{**WHOLE_CHOICE, "delta": WHOLE_CHOICE["message"]}]}
del WHOLE_CHUNK["choices"][0]["message"]


@pytest.mark.parametrize(("path", "part"), MALFORMED, ids=path_id)
def test_malformed_part_of_a_chunk_is_named(path, part):
    path = tuple("delta" if key == "message" else key for key in path)
    with pytest.raises(e.InvalidResponse, match=re.escape(f"The response is malformed ({text_of(path)}")):
        read("chat", with_part(WHOLE_CHUNK, path, part))


@given(path=st.sampled_from(list(paths(REPLY))), part=ANYTHING)
def test_changed_response_is_well_formed_or_raises(path, part):
    response = with_part(REPLY, path, part)
    try:
        validate_response(response, {}, endpoint="chat")
    except e.VLLMError:
        return
    validate_types(response)
    assert all(choice["message"] is not None for choice in response["choices"])


@pytest.mark.parametrize("endpoint", STREAMS)
@given(data=st.data())
def test_changed_chunk_is_well_formed_or_raises(endpoint, data):
    chunks = STREAMS[endpoint]
    path = data.draw(st.sampled_from(list(paths(chunks))[1:]))
    reader, found = ChunkReader({}, endpoint), []
    for chunk in with_part(chunks, path, data.draw(ANYTHING)):
        found += reader.feed(event(chunk))
        if reader.error is not None:
            break
    for chunk in found:
        validate_types(chunk)
        for choice in chunk["choices"]:
            assert isinstance(choice["index"], int)
            assert isinstance(choice["delta"], dict) if endpoint == "chat" else isinstance(choice["text"], str)


NOT_AN_OBJECT = r"The response is not a JSON object|The response is malformed \(Input should be a valid dictionary"


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (faults.empty_choices(), "The response has no choices"),
        (faults.json_reply({"hello": "world"}), "The response has no choices"),
        (faults.json_reply({"choices": ["Hi"]}), r"malformed \(choices\[0\]: "),
        (faults.json_reply({"choices": [{"message": "Hi"}]}), "message: Input should be"),
        (faults.json_reply({"choices": [{"message": {"content": 7}}]}), "content: Input should be a valid string"),
        (faults.json_reply({"choices": [{"message": {"content": float("nan")}}]}), "content: Input should be a valid"),
        (faults.json_reply({"choices": [{"index": 0}]}), "A choice has no message"),
        (faults.reply(b"[" * 9999 + b"]" * 9999), f"cannot be parsed|{NOT_AN_OBJECT}"),
        *((faults.json_reply(body), NOT_AN_OBJECT) for body in ([], [1, 2], "x", 5, True, None)),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_malformed_response_raises(ask, fault_server, behaviour, text, raw):
    def ask_raw(url):
        with VLLMClient(url, max_retries=0) as client:
            RawCompletions(client).create(**HELLO)

    fault_server.reply(behaviour)
    with pytest.raises(e.InvalidResponse, match=f"({text}).*HTTP 200"):
        (ask_raw if raw else ask)(fault_server.url)


@pytest.mark.parametrize("part", ["message", "text"])
def test_choice_without_a_reply_raises(fault_server, part):
    response = payloads.chat("hi") if part == "message" else payloads.completion("hi")
    del response["choices"][0][part]
    fault_server.reply(faults.json_reply(response))
    client = VLLMClient(fault_server.url, max_retries=0)
    with pytest.raises(e.InvalidResponse, match="A choice has no message"):
        client.chat.completions.create(**HELLO)
    with pytest.raises(e.InvalidResponse, match="A choice has no message"):
        client.completions.create(model="stub", prompt="x")


def test_missing_choices_raise(ask, fault_server):
    with pytest.raises(e.InvalidResponse, match="1 choices, not 2"):
        ask(fault_server.url, n=2)


def test_prompt_embeds_count_as_prompts(fault_server):
    fault_server.reply(faults.json_reply(payloads.completion("one", "two", "three")))
    response = VLLMClient(fault_server.url).completions.create(
        model="stub", prompt=["a", "b"], extra_body={"prompt_embeds": ["AAAA"]}
    )
    assert len(response.choices) == 3


def test_choices_of_several_prompts_are_put_in_order(fault_server):
    response = payloads.completion("one", "two")
    response["choices"].reverse()
    fault_server.reply(faults.json_reply(response))
    client = VLLMClient(fault_server.url, max_retries=0)
    found = client.completions.create(model="stub", prompt=["a", "b"])
    assert [choice.text for choice in found.choices] == ["one", "two"]
    response["choices"][0]["index"] = 0
    fault_server.reply(faults.json_reply(response))
    with pytest.raises(e.InvalidResponse, match=r"indices are not 0 to 1: \[0, 0\]"):
        client.completions.create(model="stub", prompt=["a", "b"])


@pytest.mark.parametrize(
    ("escaped", "content"), [("\\ud83d\\ude00", "\N{GRINNING FACE}"), ("\\ud83d", None)], ids=["pair", "lone"]
)
def test_lone_surrogate_raises(ask, fault_server, escaped, content):
    # Gateways that truncate UTF-16 in the middle of an emoji send one.
    fault_server.reply(faults.reply(json.dumps(payloads.chat("hi")).replace('"hi"', f'"{escaped}"')))
    if content is None:
        with pytest.raises(e.InvalidResponse, match=r"invalid Unicode.*surrogates not allowed"):
            ask(fault_server.url)
    else:
        assert ask(fault_server.url).choices[0].message.content == content


def test_old_name_of_reasoning_is_read(ask, fault_server):
    fault_server.reply(faults.chat("six", reasoning="because", legacy_reasoning=True))
    assert ask(fault_server.url).choices[0].message.reasoning == "because"
    with VLLMClient(fault_server.url) as client:
        assert RawCompletions(client).create(**HELLO)["choices"][0]["message"]["reasoning"] == "because"
