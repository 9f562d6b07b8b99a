"""Every failure is an error of one tree, with its cause and a fix in the text, and without credentials."""

import inspect
import pickle

import openai
import pytest

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._compat import http
from vllm_adapters._response import error_mapping
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
OVERFLOW = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
    "which exceeds this limit even without any output tokens."
)

# The tree

TREE = [cls for _, cls in inspect.getmembers(e, inspect.isclass) if issubclass(cls, e.VLLMError)]


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_every_error_has_text_status_and_survives_pickling(cls):
    error = cls("it broke.", hint="mend it", address="http://h:8000/v1", model="m", body={"param": "top_k"})
    assert str(error) == "it broke. (server: http://h:8000/v1, model: m). mend it"
    assert isinstance(error, openai.OpenAIError)
    assert (error.param, error.response.status_code) == ("top_k", cls.STATUS)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.param, copy.address) == (cls, str(error), "top_k", "http://h:8000/v1")
    assert cls.__name__ in e.__doc__


def test_add_context_fills_in_what_is_missing():
    request = http.Request("POST", "http://h:8000/v1/chat/completions")
    response = http.Response(200, request=request, headers={"x-request-id": "r-1"})
    error = e.ConstraintNotEnforced("it broke", hint="mend it", model="given")
    assert error.add_context(address="http://h:8000/v1", model="other", response=response) is error
    assert str(error) == "it broke (server: http://h:8000/v1, model: given). mend it"
    assert (error.response, error.request, error.request_id) == (response, request, "r-1")
    again = http.Response(500, request=request)
    assert error.add_context(address="http://other:8000/v1", response=again).response is response
    assert error.address == "http://h:8000/v1"


def test_add_context_keeps_the_status_of_an_error_within_a_200():
    request = http.Request("POST", "http://h:8000/v1")
    error = e.ServerFailed("it broke").add_context(response=http.Response(200, request=request))
    assert (error.status_code, error.response.status_code) == (500, 200)


def test_request_of_an_error_has_no_headers_of_the_user():
    request = http.Request("POST", "http://h/v1", headers={"Authorization": "Bearer sk-canary", "X-Token": "sk-canary"})
    error = e.ServerFailed("x", response=http.Response(500, request=request))
    assert "canary" not in str(error.request.headers)
    assert b"canary" not in pickle.dumps(error)


def test_recast_keeps_everything():
    class Both(e.ContextLengthExceeded, RuntimeError):
        pass

    cause = KeyError("x")
    error = e.ContextLengthExceeded("too long", max_model_len=4096)
    error.__cause__ = cause
    both = error.recast(Both)
    assert isinstance(both, RuntimeError)
    assert (str(both), both.max_model_len, both.__cause__) == ("too long", 4096, cause)


# Responses


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        (faults.html(200), e.InvalidResponse, "text/html"),
        (faults.html(502), e.ServerFailed, "HTTP 502: Gateway"),
        (faults.reply(b""), e.InvalidResponse, "cannot be parsed.*HTTP 200"),
        (faults.reply(b'{"id": "x", "cho'), e.InvalidResponse, "cannot be parsed.*HTTP 200"),
        (faults.truncate(faults.chat("hi"), after=40), e.ServerUnreachable, "did not respond"),
        (faults.json_reply(payloads.error("broken inside", code=500)), e.ServerFailed, "broken inside"),
        (faults.json_reply({"error": "just text"}), e.ServerFailed, "just text"),
        (faults.error(401, "Unauthorized", shape="string"), e.AuthenticationFailed, "VLLM_API_KEY"),
        (faults.error(403, "no entry"), e.PermissionDenied, "no entry"),
        (faults.error(404, "Not Found", shape="detail"), e.WrongAddress, "does not have this task"),
        (faults.error(405, "Method Not Allowed", shape="detail"), e.WrongAddress, "base_url must be the root"),
        (faults.error(404, "The model `z` does not exist.", param="model"), e.ModelNotServed, "It serves: stub"),
        (faults.error(400, OVERFLOW, param="input_tokens"), e.ContextLengthExceeded, "--max-model-len"),
        (faults.error(400, OVERFLOW, shape="flat"), e.ContextLengthExceeded, "--max-model-len"),
        (faults.error(400, "top_p must be in (0, 1]", param="top_p"), e.InvalidRequest, r"top_p must be in \(0, 1\]"),
        (
            faults.error(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'),
            e.FeatureNotEnabled,
            "Add --enable-auto-tool-choice --tool-call-parser to `vllm serve`",
        ),
        (faults.error(429, "slow down", retry_after=600), e.RateLimited, "slow down"),
        (faults.loading(), e.ServerNotReady, "wait_until_ready"),
        (faults.error(408, "too slow"), e.ServerFailed, "HTTP 408: too slow"),
        (faults.error(500, "EngineCore died"), e.ServerFailed, "HTTP 500: EngineCore died"),
        (faults.hang_up(), e.ServerUnreachable, "Is it running"),
        (faults.reset(), e.ServerUnreachable, "Is it running"),
    ],
)
def test_failure_is_a_typed_error_with_a_hint(ask, fault_server, behaviour, error, text):
    fault_server.reply(behaviour)
    with pytest.raises(error, match=text) as caught:
        ask(fault_server.url)
    assert type(caught.value) is error
    assert fault_server.url in str(caught.value)
    assert isinstance(caught.value, openai.OpenAIError)


def test_details_are_attributes(ask, fault_server):
    fault_server.reply(faults.error(400, OVERFLOW, param="input_tokens"))
    with pytest.raises(openai.BadRequestError) as overflow:
        ask(fault_server.url)
    assert (overflow.value.max_model_len, overflow.value.requested) == (4096, 4097)
    assert overflow.value.param == "input_tokens"
    older = (
        "'max_tokens' is too large: 100000. This model's maximum context length is 2048 tokens and your request has "
    )
    fault_server.reply(faults.error(400, f"{older}12 input tokens. (parameter=max_tokens, value=100000) None"))
    with pytest.raises(e.ContextLengthExceeded) as overflow:
        ask(fault_server.url)
    assert (overflow.value.max_model_len, overflow.value.requested) == (2048, 12)
    assert overflow.value.param == "max_tokens"
    fault_server.reply(faults.error(429, retry_after=600))
    with pytest.raises(openai.RateLimitError) as limited:
        ask(fault_server.url)
    assert limited.value.retry_after == 600


@pytest.mark.parametrize("param", [None, "truncate_prompt_tokens"])
def test_truncation_beyond_the_context_is_an_invalid_request(ask, fault_server, param):
    text = "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size."
    fault_server.reply(faults.error(400, text, param=param))
    with pytest.raises(e.InvalidRequest, match="truncate_prompt_tokens value is greater") as caught:
        ask(fault_server.url)
    assert type(caught.value) is e.InvalidRequest


def test_flag_quoted_from_the_request_is_not_a_missing_feature(ask, fault_server):
    fault_server.reply(faults.error(400, "Input should be a valid list, 'input': '--my-flag'", param="body.messages"))
    with pytest.raises(e.InvalidRequest, match="Input should be a valid list") as caught:
        ask(fault_server.url, messages=[{"role": "user", "content": "What does --my-flag do?"}])
    assert type(caught.value) is e.InvalidRequest


@pytest.mark.parametrize(
    ("message", "requested"),
    [
        ("However, you requested 0 output tokens and your prompt contains at least 2049 input tokens", 2049),
        (
            "However, you requested 64 output tokens and your prompt contains at least 1985 input tokens, "
            "for a total of at least 2049 tokens",
            2049,
        ),
        ("However, your request has 8010 input tokens", 8010),
    ],
)
def test_requested_tokens_are_those_of_prompt_and_reply(ask, fault_server, message, requested):
    fault_server.reply(faults.error(400, f"This model's maximum context length is 2048 tokens. {message}."))
    with pytest.raises(e.ContextLengthExceeded) as caught:
        ask(fault_server.url)
    assert (caught.value.max_model_len, caught.value.requested) == (2048, requested)


@pytest.mark.parametrize("task", ["Embeddings", "Chat Completions", "Rerank (Score)"])
def test_missing_task_of_an_older_server_is_no_invalid_request(ask, fault_server, task):
    fault_server.reply(faults.error(400, f"The model does not support {task} API"))
    with pytest.raises(e.WrongAddress, match="The served model must have this task"):
        ask(fault_server.url)


def test_server_of_another_task_names_the_method_for_tokens(fault_server):
    fault_server.reply(faults.error(501, "The model does not support Embeddings API"), "/v1/embeddings")
    with VLLMServer(fault_server.url, model="stub") as server:
        with pytest.raises(
            e.WrongAddress, match=r"If it is token_embed, use VLLMServer\(\.\.\.\)\.embed_tokens\(texts\)"
        ):
            server.embed(["one"])
        assert callable(server.embed_tokens)
    assert len(fault_server.posts("/v1/embeddings")) == 1


def test_missing_route_error_names_the_routes_of_the_server(ask, make_fault_server):
    server = make_fault_server(routes=["/version", "/openapi.json", "/v1/models", "/v1/embeddings"])
    with pytest.raises(e.WrongAddress, match=r"vLLM 0\.32\.0 has /v1/embeddings"):
        ask(server.url)


def test_errors_have_no_credentials(ask, fault_server):
    fault_server.reply(faults.error(400, "no"))
    with pytest.raises(e.InvalidRequest) as caught:
        ask(fault_server.url, client={"api_key": "sk-canary", "default_headers": {"X-Token": "sk-canary"}})
    error = caught.value
    assert "sk-canary" not in f"{error!r} {error.request.headers} {error.response.request.headers} {vars(error)}"


# httpx-aiohttp names every connection that failed a ConnectTimeout.
@pytest.mark.parametrize(
    ("cause", "error"),
    [(None, e.ServerTimeout), (TimeoutError(), e.ServerTimeout), (ConnectionRefusedError(), e.ServerUnreachable)],
)
def test_connection_that_failed_is_a_timeout_only_if_time_ran_out(cause, error):
    failure = http.ConnectTimeout("no connection")
    failure.__cause__ = cause
    assert type(error_mapping.from_transport(failure)) is error
