"""A client span and metrics of each call, by OpenTelemetry's conventions for generative AI."""

import asyncio
import gc
import json
import subprocess
import sys
from urllib.parse import urlsplit

import openai
import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "one two three"}]
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}

pytestmark = pytest.mark.usefixtures("recorded")


def attributes(span):
    return dict(span.attributes)


def events(span):
    return [(event.name, dict(event.attributes)) for event in span.events]


class TestSpan:
    @pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "streamed"])
    def test_call_is_one_client_span(self, ask, fault_server, recorded, how):
        ask(fault_server.url, temperature=0, max_tokens=9, stop="x", seed=3, extra_body={"top_k": 5}, **how)
        span = recorded.span()
        found = attributes(span)
        assert (span.name, span.kind.name, span.status.status_code.name) == ("chat stub", "CLIENT", "UNSET")
        expected = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": "stub",
            "gen_ai.request.temperature": 0.0,
            "gen_ai.request.max_tokens": 9,
            "gen_ai.request.stop_sequences": ("x",),
            "gen_ai.request.seed": 3,
            "gen_ai.request.top_k": 5,
            "gen_ai.response.model": "stub",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.usage.output_tokens": 5,
            "server.address": "127.0.0.1",
            "server.port": urlsplit(fault_server.url).port,
        }
        assert {name: found.get(name) for name in expected} == expected
        assert found["gen_ai.response.id"].startswith("chatcmpl-")
        assert found.get("gen_ai.request.stream", False) is bool(how)

    def test_cached_and_reasoning_tokens(self, ask, fault_server, recorded):
        reply = payloads.chat("one")
        reply["usage"]["prompt_tokens_details"] = {"cached_tokens": 4}
        reply["usage"]["completion_tokens_details"] = {"reasoning_tokens": 2}
        fault_server.reply(faults.json_reply(reply), CHAT)
        ask(fault_server.url)
        found = attributes(recorded.span())
        assert found["gen_ai.usage.cache_read.input_tokens"] == 4
        assert found["gen_ai.usage.reasoning.output_tokens"] == 2

    def test_model_that_is_looked_up(self, ask, fault_server, recorded):
        ask(fault_server.url, model="")
        assert (recorded.span().name, attributes(recorded.span())["gen_ai.request.model"]) == ("chat stub", "stub")

    def test_time_to_the_first_token(self, ask, fault_server, recorded):
        fault_server.reply(faults.slow(0.2, faults.chat("one two", pause=0.05)), CHAT)
        ask(fault_server.url, **STREAM)
        span = recorded.span()
        waited = attributes(span)["gen_ai.response.time_to_first_chunk"]
        assert 0.2 <= waited < (span.end_time - span.start_time) / 1e9
        [(name, _)] = events(span)
        assert name == "gen_ai.first_token"
        assert span.events[0].timestamp - span.start_time == pytest.approx(waited * 1e9, abs=1e6)

    @pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "streamed"])
    def test_texts_are_not_recorded(self, ask, fault_server, recorded, how):
        fault_server.reply(faults.chat("a secret"), CHAT)
        ask(fault_server.url, messages=[{"role": "user", "content": "a secret"}], **how)
        assert "secret" not in recorded.span().to_json()

    @pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "streamed"])
    def test_texts_are_recorded_on_request(self, ask, fault_server, recorded, how, monkeypatch):
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
        call = payloads.tool_call("get_time", '{"zone": "UTC"}')
        fault_server.reply(
            faults.chat("Let me see", reasoning="Hm", tool_calls=[call], finish_reason="tool_calls"), CHAT
        )
        ask(fault_server.url, messages=HELLO, tools=[TOOL], **how)
        found = attributes(recorded.span())
        assert json.loads(found["gen_ai.input.messages"]) == [
            {"role": "user", "parts": [{"type": "text", "content": "one two three"}]}
        ]
        [message] = json.loads(found["gen_ai.output.messages"])
        assert message["finish_reason"] == "tool_calls"
        assert [part["type"] for part in message["parts"]] == ["reasoning", "text", "tool_call"]
        assert message["parts"][2]["arguments"] == '{"zone": "UTC"}'
        assert json.loads(found["gen_ai.tool.definitions"])[0]["function"]["name"] == "get_time"

    def test_endpoints_of_vllm(self, fault_server, recorded):
        with VLLMServer(fault_server.url, model="stub") as server:
            server.embed(["one", "two"])
            server.rerank("one", ["one", "two"])
            server.score("one", ["two"])
            server.count_tokens("one")
        assert [span.name for span in recorded.spans()] == ["embeddings stub", "rerank stub", "score stub"]
        embeddings, rerank, _ = map(attributes, recorded.spans())
        assert embeddings["gen_ai.usage.input_tokens"] == 2
        assert rerank["gen_ai.usage.input_tokens"] > 0

    def test_values_of_another_type_are_left_out(self, ask, fault_server, recorded):
        ask(fault_server.url, stop=5, top_p="high", extra_body={"top_k": None})
        names = {name.removeprefix("gen_ai.request.") for name in attributes(recorded.span())}
        assert names.isdisjoint(("stop_sequences", "top_p", "top_k"))

    @pytest.mark.parametrize(
        ("given", "kind"),
        [
            ({"response_format": {"type": "json_object"}}, "json"),
            ({"response_format": {"type": "text"}}, "text"),
            ({"extra_body": {"structured_outputs": {"choice": ["one two three"]}}}, "text"),
        ],
    )
    def test_output_type(self, ask, fault_server, recorded, given, kind):
        fault_server.reply(faults.chat("{}" if kind == "json" else "one two three"), CHAT)
        ask(fault_server.url, **given)
        assert attributes(recorded.span())["gen_ai.output.type"] == kind

    def test_completion(self, fault_server, recorded):
        with VLLMClient(fault_server.url) as client:
            client.completions.create(model="stub", prompt="one two")
        assert recorded.span().name == "text_completion stub"
        assert attributes(recorded.span())["gen_ai.response.finish_reasons"] == ("stop",)

    def test_look_ups_are_no_spans(self, fault_server, recorded):
        with VLLMServer(fault_server.url) as server:
            server.models()
            assert server.version
        assert recorded.spans() == []


class TestSampledOut:
    @pytest.fixture
    def sampled_out(self, monkeypatch):
        """A provider that samples no span; the attributes that its spans are given."""
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        from vllm_adapters._client import telemetry

        monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
        built = []
        for name in ("_request_attributes", "_error_attributes", "_content"):
            monkeypatch.setattr(telemetry, name, lambda *args, name=name, **how: built.append(name) or {})
        return built

    @pytest.mark.parametrize("how", [{}, STREAM], ids=["whole", "streamed"])
    def test_no_attributes_are_built(self, ask, fault_server, recorded, sampled_out, how, monkeypatch):
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
        ask(fault_server.url, temperature=0, **how)
        assert (sampled_out, recorded.spans()) == ([], [])

    def test_metrics_are_recorded(self, ask, fault_server, recorded, sampled_out):
        ask(fault_server.url)
        [duration] = recorded.metric("gen_ai.client.operation.duration")
        assert attributes(duration)["gen_ai.response.model"] == "stub"
        assert len(recorded.metric("gen_ai.client.token.usage")) == 2

    def test_server_is_told(self, ask, fault_server, sampled_out):
        ask(fault_server.url)
        *_, flags = fault_server.posts(CHAT)[0].headers["traceparent"].split("-")
        assert int(flags, 16) & 1 == 0

    def test_failure_is_a_metric(self, ask, fault_server, recorded, sampled_out):
        fault_server.reply(faults.error(400), CHAT)
        with pytest.raises(e.InvalidRequest):
            ask(fault_server.url)
        [duration] = recorded.metric("gen_ai.client.operation.duration")
        assert (attributes(duration)["error.type"], sampled_out) == ("InvalidRequest", [])


class TestFailure:
    def test_error_of_the_server(self, ask, fault_server, recorded):
        fault_server.reply(faults.error(400, "no secret"), CHAT)
        with pytest.raises(e.InvalidRequest):
            ask(fault_server.url)
        span = recorded.span()
        assert span.status.status_code.name == "ERROR"
        assert attributes(span)["error.type"] == "InvalidRequest"
        assert attributes(span)["http.response.status_code"] == 400
        assert "secret" not in span.to_json()

    def test_cut_stream(self, ask, fault_server, recorded):
        fault_server.reply(faults.truncate(faults.chat("one two three four five"), after=900), CHAT)
        with pytest.raises(e.IncompleteStream):
            ask(fault_server.url, **STREAM)
        assert recorded.span().status.status_code.name == "ERROR"
        assert attributes(recorded.span())["error.type"] == "IncompleteStream"

    def test_error_event(self, ask, fault_server, recorded):
        fault_server.reply(faults.error_event(500), CHAT)
        with pytest.raises(e.VLLMError) as caught:
            ask(fault_server.url, **STREAM)
        assert attributes(recorded.span())["error.type"] == type(caught.value).__name__

    def test_refused_parameter(self, ask, fault_server, recorded):
        with pytest.raises(e.UnknownParameter):
            ask(fault_server.url, extra_body={"topk": 1})
        assert attributes(recorded.span())["error.type"] == "UnknownParameter"
        assert "http.response.status_code" not in attributes(recorded.span())

    @pytest.mark.parametrize(
        ("first", "reason"), [(faults.error(500), "500"), (faults.hang_up(), "RemoteProtocolError")], ids=["500", "cut"]
    )
    def test_retry_is_an_event(self, ask, fault_server, recorded, first, reason):
        fault_server.script(CHAT, [first])
        ask(fault_server.url, client={"max_retries": 1})
        [(name, found)] = events(recorded.span())
        assert (name, found["http.request.resend_count"], found["error.type"]) == ("retry", 1, reason)
        assert recorded.span().status.status_code.name == "UNSET"

    def test_request_id(self, ask, fault_server, recorded):
        fault_server.reply(faults.json_reply(payloads.chat("one"), headers={"X-Request-Id": "abc"}), CHAT)
        ask(fault_server.url)
        assert attributes(recorded.span())["http.response.header.x-request-id"] == ("abc",)

    def test_stream_that_is_left(self, fault_server, recorded):
        with VLLMClient(fault_server.url) as client:
            stream = client.chat.completions.create(model="stub", messages=HELLO, stream=True)
            next(stream)
            assert recorded.spans() == []
            stream.close()
            del stream
            gc.collect()
        assert [name for name, _ in events(recorded.span())] == ["gen_ai.first_token", "cancelled"]
        assert recorded.span().status.status_code.name == "UNSET"

    def test_stream_that_is_never_read(self, fault_server, recorded):
        with VLLMClient(fault_server.url) as client:
            client.chat.completions.create(model="stub", messages=HELLO, stream=True)
            gc.collect()
        assert recorded.span().name == "chat stub"

    async def test_cancelled_call(self, fault_server, recorded):
        fault_server.reply(faults.hang(), CHAT)
        async with AsyncVLLMClient(fault_server.url) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.chat.completions.create(model="stub", messages=HELLO), 0.3)
        assert [name for name, _ in events(recorded.span())] == ["cancelled"]


class TestMetrics:
    def test_duration_and_tokens(self, ask, fault_server, recorded):
        ask(fault_server.url)
        [duration] = recorded.metric("gen_ai.client.operation.duration")
        assert duration.count == 1
        assert 0 < duration.sum < 5
        assert duration.explicit_bounds[0] == 0.01
        assert attributes(duration)["gen_ai.request.model"] == "stub"
        tokens = {
            point.attributes["gen_ai.token.type"]: point.sum for point in recorded.metric("gen_ai.client.token.usage")
        }
        assert tokens == {"input": 7, "output": 5}
        assert recorded.metric("gen_ai.client.operation.time_to_first_chunk") == []

    def test_time_to_first_chunk(self, ask, fault_server, recorded):
        ask(fault_server.url, **STREAM)
        [point] = recorded.metric("gen_ai.client.operation.time_to_first_chunk")
        assert point.count == 1

    def test_failure(self, ask, fault_server, recorded):
        fault_server.reply(faults.error(400), CHAT)
        with pytest.raises(e.InvalidRequest):
            ask(fault_server.url)
        [duration] = recorded.metric("gen_ai.client.operation.duration")
        assert attributes(duration)["error.type"] == "InvalidRequest"


class TestCost:
    """By calls of our functions: their number is the same on every machine."""

    @pytest.fixture
    def calls_of(self, fault_server):
        """A function that returns how many functions of the module are called for a chat with one reply."""
        from vllm_adapters._client import telemetry

        def count(words, **how):
            fault_server.reply(faults.chat(" ".join(["one"] * words)), CHAT)
            called = []

            def profile(frame, event, argument):
                if event == "call" and frame.f_code.co_filename == telemetry.__file__:
                    called.append(frame.f_code.co_qualname)

            with VLLMClient(fault_server.url) as client:
                for _ in range(2):  # the first call fills caches
                    called.clear()
                    sys.setprofile(profile)
                    try:
                        reply = client.chat.completions.create(model="stub", messages=HELLO, **how)
                        list(reply) if how else None
                    finally:
                        sys.setprofile(None)
            return [name for name in called if name != "Call.__del__"]  # of the call before, at any time

        return count

    def test_call(self, calls_of):
        called = calls_of(5)
        assert "Call.end" in called
        assert len(called) <= 30, called

    def test_chunks_cost_nothing(self, calls_of):
        few, many = calls_of(5, **STREAM), calls_of(50, **STREAM)
        assert "Call.end_stream" in few
        assert len(few) == len(many) <= 30, many

    def test_without_a_provider_nothing_is_called(self, calls_of, monkeypatch):
        from opentelemetry import metrics, trace

        monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
        monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", None)
        assert calls_of(5) == calls_of(5, **STREAM) == []


class TestTrace:
    def test_trace_context_is_sent(self, ask, fault_server, recorded):
        with recorded.tracer.start_as_current_span("outer") as outer:
            ask(fault_server.url)
        span = next(span for span in recorded.spans() if span.name == "chat stub")
        assert span.parent.span_id == outer.get_span_context().span_id
        [request] = fault_server.posts(CHAT)
        _, trace_id, span_id, _ = request.headers["traceparent"].split("-")
        assert (int(trace_id, 16), int(span_id, 16)) == (span.context.trace_id, span.context.span_id)

    def test_own_header_is_kept(self, ask, fault_server):
        header = "00-11111111111111111111111111111111-2222222222222222-01"
        ask(fault_server.url, extra_headers={"traceparent": header})
        assert fault_server.posts(CHAT)[0].headers["traceparent"] == header

    def test_span_is_not_current_while_a_stream_is_read(self, fault_server, recorded):
        from opentelemetry import trace

        with VLLMClient(fault_server.url) as client:
            for _ in client.chat.completions.create(model="stub", messages=HELLO, stream=True):
                assert not trace.get_current_span().is_recording()


class TestOneSpan:
    """A call that is recorded already gets no second span."""

    def test_span_that_names_the_model(self, ask, fault_server, recorded):
        with recorded.tracer.start_as_current_span("llm", attributes={"gen_ai.request.model": "stub"}) as outer:
            ask(fault_server.url)
        assert [span.name for span in recorded.spans()] == ["llm"]
        sent = fault_server.posts(CHAT)[0].headers["traceparent"]
        assert f"{outer.get_span_context().span_id:016x}" in sent

    @pytest.mark.parametrize("key", ["suppress_instrumentation", "suppress_language_model_instrumentation"])
    def test_suppression(self, ask, fault_server, recorded, key):
        from opentelemetry import context

        token = context.attach(context.set_value(key, True))
        try:
            VLLMClient(fault_server.url).chat.completions.create(model="stub", messages=HELLO)
        finally:
            context.detach(token)
        assert recorded.spans() == []

    def test_disabled(self, ask, fault_server, recorded, monkeypatch):
        monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "requests,vllm_adapters")
        ask(fault_server.url)
        assert recorded.spans() == []

    @pytest.mark.parametrize("patched", ["request of the SDK's class", "create of the SDK's resource", "of the client"])
    def test_instrumented_sdk(self, fault_server, recorded, monkeypatch, patched):
        """Whatever patches the SDK records the call itself."""
        from openai.resources.chat import Completions

        def wrapper(method):
            class Wrapped:
                def __get__(self, instance, owner=None):
                    return lambda *args, **kwargs: method(instance, *args, **kwargs)

            return Wrapped()

        if patched == "request of the SDK's class":
            monkeypatch.setattr(openai.OpenAI, "request", wrapper(openai.OpenAI.request), raising=False)
        elif patched == "create of the SDK's resource":
            monkeypatch.setattr(Completions, "create", wrapper(Completions.create))
        with VLLMClient(fault_server.url) as client:
            if patched == "of the client":
                request = client.request
                client.request = lambda *args, **kwargs: request(*args, **kwargs)
            client.chat.completions.create(model="stub", messages=HELLO)
        assert recorded.spans() == []

    def test_plain_dicts_of_frameworks_are_seen_where_the_sdk_is_instrumented(
        self, fault_server, recorded, monkeypatch
    ):
        from vllm_adapters._client.raw_completions import RawCompletions

        seen = []
        request = openai.OpenAI.request

        def patched(self, cast_to, *args, **kwargs):
            seen.append(cast_to)
            return request(self, cast_to, *args, **kwargs)

        monkeypatch.setattr(openai.OpenAI, "request", patched, raising=False)
        with VLLMClient(fault_server.url) as client:
            RawCompletions(client).create(model="stub", messages=HELLO)
        assert recorded.span().name == "chat stub"
        assert seen == []

    def test_repeated_request_is_an_event(self, ask, fault_server, recorded):
        refusal = faults.error(400, "System message must be at the beginning.")
        fault_server.script(CHAT, [refusal])
        system = {"role": "system", "content": "Be brief."}
        ask(fault_server.url, messages=[*HELLO, system])
        assert [name for name, _ in events(recorded.span())] == ["retry"]
        assert len(fault_server.posts(CHAT)) == 2


def test_sampler_sees_what_the_conventions_want_it_to(ask, fault_server, recorded, monkeypatch):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, StaticSampler

    class Sampler(StaticSampler):
        def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, *args, **kwargs):
            seen.update(attributes)
            return ALWAYS_ON.should_sample(parent_context, trace_id, name, kind, attributes, *args, **kwargs)

    seen = {}
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=Sampler(ALWAYS_ON._decision)))
    ask(fault_server.url)
    names = {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "server.address", "server.port"}
    assert seen.keys() >= names


def test_nothing_is_imported_without_a_provider(fault_server):
    program = (
        "import sys; from vllm_adapters import VLLMClient; "
        f"VLLMClient({fault_server.url!r}).chat.completions.create(model='stub', messages=[]); "
        "print('vllm_adapters._client.telemetry' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "False"


def test_provider_without_a_hash(ask, fault_server, recorded, monkeypatch):
    """Logfire's is one."""
    from opentelemetry import trace

    class Provider:
        __hash__ = None
        get_tracer = trace._TRACER_PROVIDER.get_tracer

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Provider())
    ask(fault_server.url)
    assert recorded.span().name == "chat stub"


def test_no_provider_no_span(ask, fault_server, recorded, monkeypatch):
    from opentelemetry import metrics, trace

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", None)
    ask(fault_server.url)
    assert recorded.spans() == []
    assert "traceparent" not in fault_server.posts(CHAT)[0].headers
