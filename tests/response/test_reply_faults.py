"""A reply that was not streamed is an answer or a typed error, with the way out in its text."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from vllm_adapters import VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._compat import http
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
OVERFLOW = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
    "which exceeds this limit even without any output tokens."
)


class Thing(BaseModel):
    """What replies are parsed into."""

    a: int


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        (faults.html(200), e.InvalidResponse, "text/html"),
        (faults.html(502), e.ServerFailed, "502.*Gateway"),
        (faults.reply(b""), e.InvalidResponse, "HTTP 200"),
        (faults.reply(b'{"id": "x", "cho'), e.InvalidResponse, "HTTP 200"),
        (faults.truncate(faults.chat("hi"), after=40), e.ServerUnreachable, "did not respond"),
        (faults.json_reply(payloads.error("broken inside", code=500)), e.ServerFailed, "broken inside"),
        (faults.json_reply({"error": "just text"}), e.ServerFailed, "just text"),
        (faults.empty_choices(), e.InvalidResponse, "no choices"),
        (faults.json_reply({"hello": "world"}), e.InvalidResponse, "no choices"),
        (faults.json_reply([1, 2]), e.InvalidResponse, "HTTP 200"),
        (faults.json_reply({"choices": ["Hi"]}), e.InvalidResponse, r"choices\[0\]"),
        (faults.json_reply({"choices": [{"message": "Hi"}]}), e.InvalidResponse, "message: Input should be"),
        (faults.json_reply({"choices": [{"message": {"content": 7}}]}), e.InvalidResponse, "content: Input should be"),
        (faults.reply(b"[" * 9999 + b"]" * 9999), e.InvalidResponse, "cannot be parsed|not a JSON object"),
        (faults.error(401, "Unauthorized", shape="string"), e.AuthenticationFailed, "VLLM_API_KEY"),
        (faults.error(403, "no"), e.PermissionDenied, "no"),
        (faults.error(404, "Not Found", shape="detail"), e.WrongAddress, "does not have this task"),
        (faults.error(405, "Method Not Allowed", shape="detail"), e.WrongAddress, "base_url"),
        (faults.error(404, "The model `z` does not exist.", param="model"), e.ModelNotServed, "It serves: stub"),
        (faults.error(400, OVERFLOW, param="input_tokens"), e.ContextLengthExceeded, "--max-model-len"),
        (faults.error(400, OVERFLOW, shape="flat"), e.ContextLengthExceeded, "--max-model-len"),
        (faults.error(400, "top_p must be in (0, 1]", param="top_p"), e.InvalidRequest, "top_p must be"),
        (
            faults.error(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'),
            e.FeatureNotEnabled,
            "Add --enable-auto-tool-choice --tool-call-parser to `vllm serve`",
        ),
        (faults.error(429, "slow down", retry_after=600), e.RateLimited, "slow down"),
        (faults.loading(), e.ServerNotReady, "wait_until_ready"),
        (faults.error(408, "too slow"), e.ServerFailed, "too slow"),
        (faults.error(500, "EngineCore died"), e.ServerFailed, "EngineCore died"),
        (faults.hang_up(), e.ServerUnreachable, "Is it running"),
        (faults.reset(), e.ServerUnreachable, "Is it running"),
    ],
)
def test_typed_and_with_the_way_out(ask, fault_server, behaviour, error, text):
    fault_server.reply(behaviour)
    with pytest.raises(error, match=text) as caught:
        ask(fault_server.url)
    assert fault_server.url in str(caught.value)
    assert isinstance(caught.value, openai.OpenAIError)


@pytest.mark.parametrize("param", [None, "truncate_prompt_tokens"])
def test_a_truncation_longer_than_the_context_is_no_long_prompt(ask, fault_server, param):
    text = "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size."
    fault_server.reply(faults.error(400, text, param=param))
    with pytest.raises(e.InvalidRequest) as caught:
        ask(fault_server.url)
    assert type(caught.value) is e.InvalidRequest


def test_details_are_attributes(ask, fault_server):
    fault_server.reply(faults.error(400, OVERFLOW, param="input_tokens"))
    with pytest.raises(openai.BadRequestError) as overflow:
        ask(fault_server.url)
    assert (overflow.value.max_model_len, overflow.value.requested) == (4096, 4097)
    assert overflow.value.param == "input_tokens"
    fault_server.reply(faults.error(429, retry_after=600))
    with pytest.raises(openai.RateLimitError) as limited:
        ask(fault_server.url)
    assert limited.value.retry_after == 600


@pytest.mark.parametrize(
    "first",
    [faults.error(500), faults.error(429, retry_after=0.1), faults.loading(), faults.hang_up()],
    ids=["500", "429", "503", "hang-up"],
)
def test_transient_failures_are_retried(ask, fault_server, first):
    fault_server.script(CHAT, [first])
    reply = ask(fault_server.url, client={"max_retries": 1})
    assert reply.choices[0].message.content == "one two three four five"
    assert len(fault_server.posts(CHAT)) == 2


@pytest.mark.parametrize("max_retries", [0, 2])
def test_at_most_one_plus_max_retries_requests(ask, fault_server, max_retries):
    fault_server.reply(faults.error(500))
    with pytest.raises(e.ServerFailed):
        ask(fault_server.url, client={"max_retries": max_retries})
    assert len(fault_server.posts(CHAT)) == 1 + max_retries


@pytest.mark.parametrize("asked", [{"choice": ["yes", "no"]}, {"regex": r"\d+"}, {"json": {"type": "object"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_breaks_its_constraint_raises(ask, fault_server, asked, stream):
    fault_server.reply(faults.chat("Certainly! Here you are."))
    with pytest.raises(e.ConstraintNotEnforced, match="reasoning parser") as caught:
        ask(fault_server.url, stream=stream, extra_body={"structured_outputs": asked})
    assert caught.value.reply == "Certainly! Here you are."
    assert caught.value.constraint == next(iter(asked))


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_keeps_its_constraint_passes(ask, fault_server, stream):
    fault_server.reply(faults.chat('{"a": 1}'))
    schema = {"type": "object", "required": ["a"]}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert ask(fault_server.url, stream=stream, response_format=format)


@pytest.mark.parametrize("stream", [False, True])
def test_cut_by_length_is_not_judged(ask, fault_server, stream):
    fault_server.reply(faults.chat('{"a', finish_reason="length"))
    assert ask(fault_server.url, stream=stream, response_format={"type": "json_object"})


def test_the_sdks_parse_helper_truncated(fault_server):
    fault_server.reply(faults.chat('{"a', finish_reason="length"))
    with VLLMClient(fault_server.url, max_retries=0) as client, pytest.raises(e.TruncatedOutput) as caught:
        client.chat.completions.parse(model="stub", messages=[{"role": "user", "content": "x"}], response_format=Thing)
    assert isinstance(caught.value, openai.LengthFinishReasonError)
    assert (caught.value.partial, caught.value.completion.choices[0].finish_reason) == ('{"a', "length")


def test_old_reasoning_name_is_read(ask, fault_server):
    fault_server.reply(faults.chat("six", reasoning="because", legacy_reasoning=True))
    assert ask(fault_server.url).choices[0].message.reasoning == "because"


def test_no_model_named_and_several_served(ask, make_fault_server):
    server = make_fault_server(models=("a", "b"))
    with pytest.raises(e.ModelNotServed, match="a, b"):
        ask(server.url, model="")
    lora = {"id": "lora", "object": "model", "parent": "base", "root": "/x", "max_model_len": None}
    alias = {"id": "alias", "object": "model", "parent": None, "root": "base", "max_model_len": 8}
    one = make_fault_server(models=("base", alias, lora))
    assert ask(one.url, model="")
    assert one.posts(CHAT)[0].json["model"] == "base"


def test_a_flag_that_the_request_holds_is_none_of_the_servers(ask, fault_server):
    fault_server.reply(faults.error(400, "Input should be a valid list, 'input': '--my-flag'", param="body.messages"))
    with pytest.raises(e.InvalidRequest) as caught:
        ask(fault_server.url, messages=[{"role": "user", "content": "What does --my-flag do?"}])
    assert type(caught.value) is e.InvalidRequest


@pytest.mark.parametrize("part", ["message", "text"])
def test_a_choice_without_a_reply(fault_server, part):
    reply = payloads.chat("hi") if part == "message" else payloads.completion("hi")
    del reply["choices"][0][part]
    fault_server.reply(faults.json_reply(reply))
    client = VLLMClient(fault_server.url, max_retries=0)
    with pytest.raises(e.InvalidResponse, match="has no message"):
        client.chat.completions.create(model="stub", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(e.InvalidResponse, match="has no message"):
        client.completions.create(model="stub", prompt="x")


def test_a_router_that_learns_of_its_servers(fault_server):
    fault_server.script("/v1/models", [faults.json_reply({"object": "list", "data": []})])
    client = VLLMClient(fault_server.url)
    with pytest.raises(e.ModelNotServed, match="it serves none"):
        client.vllm.served_model()
    assert client.vllm.served_model() == "stub"


def test_a_gateways_own_cards_do_not_hide_the_error(ask, fault_server):
    fault_server.reply(faults.error(404, "The model `stub` does not exist.", param="model"))
    fault_server.reply(faults.json_reply({"data": [{"name": "x"}]}), "/v1/models")
    with pytest.raises(e.ModelNotServed, match="does not exist"):
        ask(fault_server.url)


@pytest.mark.parametrize("cards", [5, "x", {"id": "x"}, [5], [{"name": "x"}], [{"id": None}]], ids=repr)
def test_a_list_of_models_of_another_shape_names_none(ask, fault_server, cards):
    fault_server.reply(faults.json_reply({"data": cards}), "/v1/models")
    with pytest.raises(e.ModelNotServed, match="it serves none"):
        ask(fault_server.url, model="")


def test_a_missing_route_tells_what_there_is(ask, make_fault_server):
    server = make_fault_server(routes=["/version", "/openapi.json", "/v1/models", "/v1/embeddings"])
    with pytest.raises(e.WrongAddress, match=r"vLLM 0\.32\.0.*has /v1/embeddings"):
        ask(server.url)


def test_errors_hold_no_key_and_no_headers(ask, fault_server):
    fault_server.reply(faults.error(400, "no"))
    with pytest.raises(e.InvalidRequest) as caught:
        ask(fault_server.url, client={"api_key": "sk-canary", "default_headers": {"X-Token": "sk-canary"}})
    error = caught.value
    assert "sk-canary" not in f"{error!r} {error.request.headers} {error.response.request.headers} {vars(error)}"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("missing", "2 results for 3"),
        ("extra", "4 results for 3"),
        ("nan", "NaN"),
        ("dims", "dimensions"),
        ("null", "missing or malformed|dimensions"),
    ],
)
def test_wrong_embeddings(fault_server, fault, text):
    fault_server.reply(faults.wrong_embeddings(fault))
    with pytest.raises(e.InvalidResponse, match=text):
        VLLMServer(fault_server.url, max_retries=0).embed(["a", "b", "c"])
    with pytest.raises(e.InvalidResponse):
        VLLMClient(fault_server.url, max_retries=0).embeddings.create(model="stub", input=["a", "b", "c"])


def test_shuffled_embeddings_are_put_in_order(fault_server):
    texts = ["a", "b", "c"]
    server = VLLMServer(fault_server.url, max_retries=0)
    right = server.embed(texts)
    fault_server.reply(faults.wrong_embeddings("shuffled"))
    assert (server.embed(texts) == right).all()
    made = server.client.embeddings.create(model="stub", input=texts)
    assert [item.embedding for item in made.data] == right.tolist()


@pytest.mark.parametrize("fault", ["short", "bad-index", "negative-index", "duplicate", "nan"])
def test_wrong_rankings(fault_server, fault):
    fault_server.reply(faults.wrong_rerank(fault))
    with pytest.raises(e.InvalidResponse):
        VLLMServer(fault_server.url, max_retries=0).rerank("q", ["a", "b", "c"])


def test_a_ranking_by_fractions(fault_server):
    results = [{"index": at + 0.9, "relevance_score": 0.5} for at in range(3)]
    fault_server.reply(faults.json_reply({"id": "r", "results": results}))
    with pytest.raises(e.InvalidResponse):
        VLLMServer(fault_server.url, max_retries=0).rerank("q", ["a", "b", "c"])


@pytest.mark.parametrize("encoded", [payloads.base64_vector, list], ids=["base64", "floats"])
def test_dimensions_that_the_server_ignored(fault_server, encoded):
    fault_server.reply(faults.json_reply(payloads.embeddings([encoded(payloads.vector("a", 8))])))
    server = VLLMServer(fault_server.url, model="stub", max_retries=0)
    for ask in (server.embed, lambda text, **how: server.client.embeddings.create(model="stub", input=text, **how)):
        with pytest.raises(e.InvalidResponse, match="not the requested 4"):
            ask("a", dimensions=4)


MESSAGES = [
    {"content": [{"type": "text", "text": "hi"}]},
    {"content": 5},
    {"content": "hi", "reasoning": {"text": "hm"}},
    {"content": "hi", "reasoning_content": ["hm"]},
    {"content": None, "tool_calls": ["add"]},
    {"content": None, "tool_calls": {"name": "add"}},
    {"content": None, "tool_calls": [{"id": "a", "function": {"name": "add", "arguments": {"a": 1}}}]},
    "hi",
]


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_a_message_of_another_shape(ask, fault_server, message):
    message = {"role": "assistant", **message} if isinstance(message, dict) else message
    fault_server.reply(faults.json_reply({**payloads.chat("x"), "choices": [{"index": 0, "message": message}]}))
    with pytest.raises(e.InvalidResponse, match="malformed"):
        ask(fault_server.url)


def test_fewer_choices_than_asked_for(ask, fault_server):
    # As from gateways that do not know `n`.
    with pytest.raises(e.InvalidResponse, match="1 choices, not 2"):
        ask(fault_server.url, n=2)


def test_own_http_clients_of_both_kinds(fault_server):
    with http.Client(headers={"x-mine": "sync"}) as client:
        own = {"http_client": client, "async_http_client": http.AsyncClient(headers={"x-mine": "async"})}
        server = VLLMServer(fault_server.url, **own)
        server.models()
        asyncio.run(server.amodels())
    assert [request.headers["x-mine"] for request in fault_server.requests] == ["sync", "async"]


def test_plain_completions(fault_server):
    plain = RawCompletions(VLLMServer(fault_server.url).client, path="/completions")
    assert plain.create(model="", prompt="one two")["choices"][0]["text"] == "one two"
    chunks = list(plain.create(model="", prompt="one two", stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]) == "one two"
    fault_server.reply(faults.sse(*payloads.completion_chunks("one two", finish_reason=None), end="clean"))
    with pytest.raises(e.IncompleteStream):
        list(plain.create(model="", prompt="one two", stream=True))


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (faults.html(), e.InvalidResponse),
        (faults.json_reply([1]), e.InvalidResponse),
        (faults.json_reply(payloads.error("dead", code=500)), e.ServerFailed),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_a_200_that_is_no_answer_does_not_reach_the_sdks_helpers(fault_server, behaviour, error, raw):
    fault_server.reply(behaviour)
    with VLLMClient(fault_server.url, max_retries=0) as client:
        embeddings, chat = client.embeddings, client.chat.completions
        if raw:
            embeddings, chat = embeddings.with_raw_response, chat.with_raw_response
        with pytest.raises(error):
            embeddings.create(model="stub", input=["a"])
        with pytest.raises(error):
            chat.parse(model="stub", messages=[{"role": "user", "content": "x"}], response_format=Thing)


def test_a_broken_constraint_is_told_before_the_sdk_parses(fault_server):
    fault_server.reply(faults.chat("Sure!"))
    with VLLMClient(fault_server.url, max_retries=0) as client, pytest.raises(e.ConstraintNotEnforced):
        client.chat.completions.parse(model="stub", messages=[{"role": "user", "content": "x"}], response_format=Thing)


@pytest.mark.parametrize("body", [[], [1], "x", 5, True, None], ids=repr)
def test_json_that_is_no_object_is_no_answer(ask, fault_server, body):
    fault_server.reply(faults.json_reply(body))
    with pytest.raises(e.InvalidResponse):
        ask(fault_server.url)


def test_prompts_as_text_and_as_embeddings_in_one_request(fault_server):
    fault_server.reply(faults.json_reply(payloads.completion("one", "two", "three")))
    reply = VLLMClient(fault_server.url).completions.create(
        model="stub", prompt=["a", "b"], extra_body={"prompt_embeds": ["AAAA"]}
    )
    assert len(reply.choices) == 3


def test_half_a_character(ask, fault_server):
    # What comes of a gateway that cuts UTF-16 in an emoji's middle.
    half, whole = "\\ud83d", "\\ud83d\\ude00"
    for text in (half, whole):
        body = json.dumps(payloads.chat("hi")).replace('"hi"', f'"{text}"')
        fault_server.reply(faults.reply(body))
        if text == whole:
            assert ask(fault_server.url).choices[0].message.content == "\N{GRINNING FACE}"
        else:
            with pytest.raises(e.InvalidResponse, match="surrogates"):
                ask(fault_server.url)
