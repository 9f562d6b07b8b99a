"""A canary: the places of the OpenAI SDK that the clients stand on. When one moves, this says so first."""

import inspect

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream

from vllm_adapters._compat import OPENAI_MAJOR, http, httpcore

MOVED = f"openai {openai.__version__} moved a hook that client.py, streaming.py, asking.py or helpers.py overrides: "


@pytest.mark.parametrize("client", [OpenAI, AsyncOpenAI])
@pytest.mark.parametrize(
    ("hook", "parameters"),
    [
        ("request", {"cast_to", "options", "stream", "stream_cls"}),
        ("_prepare_options", {"options"}),
        ("_build_request", {"options", "retries_taken"}),
        ("_process_response", {"cast_to", "options", "response", "stream", "stream_cls", "retries_taken"}),
        ("_make_status_error", {"err_msg", "body", "response"}),
        ("_process_response_data", {"data", "cast_to", "response"}),
        ("_should_retry", {"response"}),
        ("_calculate_retry_timeout", {"remaining_retries", "options", "response_headers"}),
    ],
)
def test_hooks(client, hook, parameters):
    method = getattr(client, hook, None)
    assert method is not None, MOVED + hook
    found = set(inspect.signature(method).parameters) - {"self"}
    assert found == parameters, f"{MOVED}{hook} has {sorted(found)}"
    assert inspect.iscoroutinefunction(method) == (
        client is AsyncOpenAI and hook in ("request", "_prepare_options", "_process_response")
    )


@pytest.mark.parametrize("stream", [Stream, AsyncStream])
def test_streams(stream):
    assert "__stream__" in vars(stream), MOVED + "__stream__"
    assert {"cast_to", "response", "client", "options"} <= set(inspect.signature(stream).parameters)


def test_the_stream_helpers():
    from openai.lib.streaming.chat import AsyncChatCompletionStream, ChatCompletionStream, ChatCompletionStreamState

    for helper in (ChatCompletionStream, AsyncChatCompletionStream):
        made = inspect.getsource(helper)
        for name in ("_raw_stream", "_state.handle_chunk(", "_state.get_final_completion("):
            assert f"self.{name}" in made, f"{MOVED}{helper.__name__}.{name}"
    assert {"_input_tools", "_response_format"} <= set(vars(ChatCompletionStreamState())), MOVED + "stream's state"


def test_what_is_imported_from_private_modules():
    from openai._constants import RAW_RESPONSE_HEADER
    from openai._legacy_response import LegacyAPIResponse
    from openai._models import FinalRequestOptions
    from openai._types import NotGiven

    assert RAW_RESPONSE_HEADER
    assert not inspect.iscoroutinefunction(LegacyAPIResponse.parse), MOVED + "LegacyAPIResponse.parse"
    assert {"json_data", "extra_json", "url", "method", "timeout"} <= set(FinalRequestOptions.model_fields)
    assert NotGiven


def test_the_transport_of_this_major():
    assert http.__name__ == ("httpx2" if OPENAI_MAJOR >= 3 else "httpx")
    assert issubclass(openai.DefaultHttpxClient, http.Client)


def test_the_connections_of_a_transport():
    moved = "transport.timed() has to find it elsewhere"
    assert isinstance(http.HTTPTransport()._pool._network_backend, httpcore.NetworkBackend), moved
    assert isinstance(http.AsyncHTTPTransport()._pool._network_backend, httpcore.AsyncNetworkBackend), moved
    assert {"_transport", "_mounts"} <= set(vars(http.Client()))
