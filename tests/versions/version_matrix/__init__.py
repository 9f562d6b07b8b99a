"""What a vLLM server can do for a client: one function per capability, and what each version makes of it.

A function uses the public API, and checks the answer strictly. Its outcome on a server is one word:

- ``ok``: the answer is right.
- ``translated``: right, and the request had to be written in another way for this version.
- ``refused``: an error before the request was sent, because this version cannot do it.
- ``detected``: the server ignored or broke the request, and the answer was an error.
- ``limit``: the server does less than newer ones, and the answer is what it said.
- ``not there``: the server said that it cannot do it, and the error says so.
- ``failed``: the server failed, and the error says so.
- ``WRONG``: a wrong answer without an error, or an error of another kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_adapters import VLLMServer, errors
from vllm_adapters.langchain import ChatVLLM

VERSIONS: dict[str, dict[str, Any]] = {
    **{
        version: {"version": version}
        for version in ("0.11.0", "0.14.1", "0.18.1", "0.23.0", "0.28.0", "0.32.0", "0.33.0")
    },
    "0.33.0 Rust": {"version": "0.33.0", "rust_frontend": True},
}
"""Options of ``LocalVLLM`` for each column of the table, oldest version first."""

OUTCOMES = ("ok", "translated", "refused", "detected", "limit", "not there", "failed", "WRONG")

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CITY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
WEATHER = "What is the weather in Rome and Oslo?"
CITIES = [{"city": "Rome"}, {"city": "Oslo"}]
CAPITAL = "What is the capital of Japan?"


class WrongAnswer(AssertionError):
    """The answer is wrong, and no error said so."""


class ServerLimit(Exception):
    """The server does less than newer ones do, and the answer is what it said."""


@dataclass(frozen=True)
class Capability:
    """One row of the table.

    Args:
        name: Name in the table.
        model: Bundled model of the server.
        run: Uses the capability; raises ``WrongAnswer`` or an error of this package.
    """

    name: str
    model: str
    run: Callable[[VLLMServer], None]


CAPABILITIES: list[Capability] = []


def capability(
    name: str, model: str = "tiny"
) -> Callable[[Callable[[VLLMServer], None]], Callable[[VLLMServer], None]]:
    """Add a function to ``CAPABILITIES``."""

    def add(run: Callable[[VLLMServer], None]) -> Callable[[VLLMServer], None]:
        CAPABILITIES.append(Capability(name, model, run))
        return run

    return add


def outcome(item: Capability, server: VLLMServer, sent_bodies: Callable[[], Sequence[Any]]) -> tuple[str, str]:
    """Return the outcome of a capability on a server, and a detail for the reader of a failure.

    Args:
        item: The capability.
        server: The server.
        sent_bodies: Returns the bodies of all requests so far.
    """
    before = len(sent_bodies())
    try:
        item.run(server)
    except (errors.UnsupportedParameter, errors.UnknownParameter) as error:
        return "refused", str(error)
    except (errors.ConstraintNotEnforced, errors.InvalidResponse, errors.TruncatedOutput) as error:
        return "detected", str(error)
    except ServerLimit as error:
        return "limit", str(error)
    except (errors.InvalidRequest, errors.WrongAddress) as error:
        return "not there", str(error)
    except errors.ServerFailed as error:
        return "failed", str(error)
    except Exception as error:
        return "WRONG", f"{type(error).__name__}: {error}"
    bodies = sent_bodies()[before:]
    return ("translated" if any(map(is_translated, bodies)) else "ok"), ""


OLD_NAMES = re.compile(r"guided_(json|regex|choice|grammar)|structural_tag|reasoning_content")
"""Names of parameters that only older versions have. No capability uses them."""


def is_translated(body: Any) -> bool:
    """Return whether a request has a parameter that the caller did not name so."""
    return isinstance(body, dict) and any(OLD_NAMES.fullmatch(name) for name in body)


def expect(condition: object, problem: str) -> None:
    """Raise ``WrongAnswer`` unless ``condition`` is true."""
    if not condition:
        raise WrongAnswer(problem)


def chat(server: VLLMServer, prompt: str, **parameters: Any) -> Any:
    """Return the choice of a chat completion."""
    messages = [{"role": "user", "content": prompt}]
    options = {"max_tokens": 64, "temperature": 0, **parameters}
    known = {"tools", "tool_choice", "n", "logprobs", "top_logprobs", "max_tokens", "temperature", "seed"}
    extra = {name: options.pop(name) for name in list(options) if name not in known}
    return server.client.chat.completions.create(model="tiny", messages=messages, extra_body=extra, **options)


def thinking(on: bool) -> dict[str, Any]:
    """Return the parameters that switch the reasoning on or off."""
    return {"chat_template_kwargs": {"enable_thinking": on}}


# Chat


@capability("chat")
def _chat(server: VLLMServer) -> None:
    text = chat(server, CAPITAL, **thinking(False)).choices[0].message.content
    expect(text == "The capital of Japan is Tokyo.", repr(text))


@capability("chat, streamed")
def _stream(server: VLLMServer) -> None:
    parts = [part.text for part in ChatVLLM(server=server, max_tokens=64, **thinking(False)).stream(CAPITAL)]
    expect("".join(parts) == "The capital of Japan is Tokyo.", repr(parts))
    expect(len(parts) > 3, f"only {len(parts)} chunks")


@capability("reasoning")
def _reasoning(server: VLLMServer) -> None:
    check_reasoning(ChatVLLM(server=server, max_tokens=64, **thinking(True)).invoke(CAPITAL))


@capability("reasoning, streamed")
def _reasoning_streamed(server: VLLMServer) -> None:
    check_reasoning(streamed(ChatVLLM(server=server, max_tokens=64, **thinking(True)), CAPITAL))


def check_reasoning(reply: Any) -> None:
    """Check text and reasoning of a message."""
    reasoning = reply.additional_kwargs.get("reasoning_content")
    if not reasoning and "easy question" in reply.text:
        raise ServerLimit(f"the server leaves the reasoning in the text: {reply.text!r}")
    expect("easy question" in (reasoning or ""), f"reasoning: {reasoning!r}, text: {reply.text!r}")
    expect(reply.text.strip() == "The capital of Japan is Tokyo.", repr(reply.text))


@capability("stop sequence")
def _stop(server: VLLMServer) -> None:
    text = ChatVLLM(server=server, **thinking(False)).invoke("Count to 10", stop=[" 5"]).text
    expect(text == "1 2 3 4", repr(text))


@capability("several choices")
def _choices(server: VLLMServer) -> None:
    reply = chat(server, CAPITAL, n=2, temperature=0.1, seed=1, **thinking(False))
    texts = [choice.message.content for choice in reply.choices]
    expect(len(texts) == 2 and all(texts), repr(texts))


@capability("log probabilities")
def _logprobs(server: VLLMServer) -> None:
    reply = chat(server, CAPITAL, logprobs=True, top_logprobs=2, **thinking(False))
    tokens = reply.choices[0].logprobs.content
    expect("".join(t.token for t in tokens).startswith("The capital"), repr(tokens)[:200])
    expect(len(tokens[0].top_logprobs) >= 2, repr(tokens[0]))


@capability("token ids")
def _token_ids(server: VLLMServer) -> None:
    reply = chat(server, CAPITAL, return_token_ids=True, **thinking(False)).choices[0]
    ids = reply.model_extra.get("token_ids")
    expect(ids, f"no token_ids: {reply.model_extra}")
    text = server.detokenize(ids)
    expect(text.startswith("The capital of Japan is Tokyo."), repr(text))


@capability("usage of a stream")
def _usage(server: VLLMServer) -> None:
    chunks = list(ChatVLLM(server=server, **thinking(False)).stream(CAPITAL))
    counts = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    expect(len(counts) == 1 and counts[0]["output_tokens"] > 5, repr(counts))


# Constraints

CONSTRAINTS: dict[str, tuple[str, dict[str, Any], Callable[[str], bool]]] = {
    "choice": (
        "Classify: I love this movie.",
        {"structured_outputs": {"choice": ["tea", "coffee"]}},
        lambda text: text in ("tea", "coffee"),
    ),
    "regex": (
        CAPITAL,
        {"structured_outputs": {"regex": "[a-c]{3}"}},
        lambda text: re.fullmatch("[a-c]{3}", text) is not None,
    ),
    "JSON schema": (
        "Say: something else",
        {"structured_outputs": {"json": CITY_SCHEMA}},
        lambda text: set(json.loads(text)) == {"city", "n"},
    ),
    "grammar": (
        CAPITAL,
        {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
        lambda text: text in ("yes", "no"),
    ),
    "structural tag": (
        "Say: something else",
        {
            "structured_outputs": {
                "structural_tag": json.dumps(
                    {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": CITY_SCHEMA}}
                )
            }
        },
        lambda text: set(json.loads(text)) == {"city", "n"},
    ),
}


def check_constraint(text: str | None, kept: Callable[[str], bool]) -> None:
    """Check a constrained text."""
    try:
        good = kept((text or "").strip())
    except ValueError:
        good = False
    expect(good, f"the constraint is not kept: {text!r}")


def _add_constraints() -> None:
    for name, (prompt, parameters, kept) in CONSTRAINTS.items():
        for on in (False, True):

            def run(
                server: VLLMServer,
                on: bool = on,
                prompt: str = prompt,
                parameters: dict[str, Any] = parameters,
                kept: Callable[[str], bool] = kept,
            ) -> None:
                reply = chat(server, prompt, max_tokens=128, **thinking(on), **parameters)
                check_constraint(reply.choices[0].message.content, kept)

            capability(f"{name}, thinking {'on' if on else 'off'}")(run)

        def complete(
            server: VLLMServer,
            parameters: dict[str, Any] = parameters,
            kept: Callable[[str], bool] = kept,
        ) -> None:
            reply = server.client.completions.create(
                model="tiny", prompt="The capital of Japan is", max_tokens=128, temperature=0, extra_body=parameters
            )
            check_constraint(reply.choices[0].text, kept)

        capability(f"{name}, completion")(complete)


_add_constraints()


# Tool calls


def tool_calls(reply: Any) -> list[dict[str, Any]]:
    """Return the arguments of the valid calls; raise ``ServerLimit`` if the reply openly has none."""
    if reply.invalid_tool_calls:
        raise ServerLimit(f"the server breaks the call, which is kept apart: {reply.invalid_tool_calls}")
    expect(all(call["name"] == "get_weather" for call in reply.tool_calls), repr(reply.tool_calls))
    return [call["args"] for call in reply.tool_calls]


def streamed(llm: Any, prompt: str) -> Any:
    """Return the message of a stream."""
    chunks = list(llm.stream(prompt))
    reply = chunks[0]
    for chunk in chunks[1:]:
        reply += chunk
    return reply


def with_tools(server: VLLMServer, **options: Any) -> Any:
    """Return a model with one tool."""
    return ChatVLLM(server=server, max_tokens=128, **thinking(False)).bind_tools([WEATHER_TOOL], **options)


@capability("tools, automatic")
def _tools(server: VLLMServer) -> None:
    calls = tool_calls(with_tools(server).invoke(WEATHER))
    expect(calls == CITIES, repr(calls))


@capability("tools, automatic, streamed")
def _tools_streamed(server: VLLMServer) -> None:
    reply = streamed(with_tools(server), WEATHER)
    calls = tool_calls(reply)
    expect(calls == CITIES, f"{calls!r}, text {reply.text!r}")


def _add_forced() -> None:
    for name, choice in (("named", "get_weather"), ("required", "required")):

        def whole(server: VLLMServer, choice: str = choice) -> None:
            calls = tool_calls(with_tools(server, tool_choice=choice).invoke(WEATHER))
            expect(calls and all(isinstance(c["city"], str) for c in calls), repr(calls))

        def stream(server: VLLMServer, choice: str = choice) -> None:
            calls = tool_calls(streamed(with_tools(server, tool_choice=choice), WEATHER))
            expect(calls and all(isinstance(c["city"], str) for c in calls), repr(calls))

        capability(f"tools, {name}")(whole)
        capability(f"tools, {name}, streamed")(stream)


_add_forced()


@capability("tool call cut by the token limit")
def _cut(server: VLLMServer) -> None:
    for limit in range(1, 40, 3):
        reply = None
        try:
            reply = with_tools(server, max_tokens=limit).invoke(WEATHER)
        except errors.TruncatedOutput:
            continue
        expect(all(call["args"] in CITIES for call in reply.tool_calls), f"{limit}: {reply.tool_calls}")
        expect(
            reply.tool_calls or reply.invalid_tool_calls or not reply.text.startswith("<tool_call>"),
            f"{limit}: markup as an answer: {reply.text!r}",
        )


@capability("tool call cut by the token limit, streamed")
def _cut_streamed(server: VLLMServer) -> None:
    for limit in range(1, 40, 3):
        try:
            reply = streamed(with_tools(server, max_tokens=limit), WEATHER)
        except errors.TruncatedOutput:
            continue
        expect(all(call["args"] in CITIES for call in reply.tool_calls), f"{limit}: {reply.tool_calls}")
        expect(
            reply.tool_calls or reply.invalid_tool_calls or not reply.text.startswith("<tool_call>"),
            f"{limit}: markup as an answer: {reply.text!r}",
        )


@capability("strict tools")
def _strict(server: VLLMServer) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Lima", "Bern"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "get_weather", "description": "", "parameters": schema}}
    llm = ChatVLLM(server=server, max_tokens=64, **thinking(False)).bind_tools([tool], tool_choice="get_weather")
    calls = tool_calls(llm.invoke("What is the weather in Rome?"))
    if calls and calls[0].get("city") not in ("Lima", "Bern"):
        raise WrongAnswer(f"not one of the enumerated cities: {calls}")
    expect(calls, "no call")


@capability("one tool call at most")
def _parallel(server: VLLMServer) -> None:
    calls = tool_calls(with_tools(server, parallel_tool_calls=False).invoke(WEATHER))
    if calls == CITIES:
        raise ServerLimit("the server ignores parallel_tool_calls: both calls are there")
    expect(calls == CITIES[:1], repr(calls))


# The server's other endpoints


@capability("tokenize")
def _tokenize(server: VLLMServer) -> None:
    tokens = server.tokenize("Hello world")
    expect(server.detokenize(tokens.ids).endswith("Hello world"), repr(tokens))


@capability("count tokens of messages")
def _count(server: VLLMServer) -> None:
    count = server.count_tokens(messages=[{"role": "user", "content": CAPITAL}])
    used = chat(server, CAPITAL, **thinking(True)).usage.prompt_tokens
    expect(abs(count - used) <= 8, f"{count} counted, {used} used")


@capability("metrics")
def _metrics(server: VLLMServer) -> None:
    names = {metric.name for metric in server.metrics()}
    expect(any(name.startswith("vllm:") for name in names), repr(sorted(names))[:200])


@capability("served models and context length")
def _models(server: VLLMServer) -> None:
    expect([card.id for card in server.models()] == ["tiny"], repr(server.models()))
    expect(server.context_length() == 2048, repr(server.context_length()))


@capability("too long a prompt")
def _too_long(server: VLLMServer) -> None:
    try:
        chat(server, "word " * 4000, **thinking(False))
    except errors.ContextLengthExceeded as error:
        expect(error.max_model_len == 2048, repr(error.max_model_len))
    else:
        raise WrongAnswer("no error")


@capability("embeddings", "minilm")
def _embed(server: VLLMServer) -> None:
    left, near, far = server.embed(["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose."])
    expect(len(left) == 384, f"{len(left)} dimensions")
    expect(float(left @ near) > float(left @ far), "a kitten is not nearer to a cat than interest rates")


@capability("embeddings as base64", "minilm")
def _base64(server: VLLMServer) -> None:
    floats = (
        server.client.embeddings.create(model="minilm", input=["A cat."], encoding_format="float").data[0].embedding
    )
    default = server.client.embeddings.create(model="minilm", input=["A cat."]).data[0].embedding
    expect(max(abs(a - b) for a, b in zip(floats, default, strict=True)) < 1e-4, "the vectors differ")


@capability("chat on an embedding server", "minilm")
def _no_chat(server: VLLMServer) -> None:
    server.client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "Hello"}])
    raise WrongAnswer("an embedding server chats")


@capability("rerank", "cross-encoder")
def _rerank(server: VLLMServer) -> None:
    ranked = server.rerank("Which city?", ["Bread.", "Tokyo is a city.", "A train."])
    scores = [item.score for item in ranked]
    expect(sorted(item.index for item in ranked) == [0, 1, 2], repr(ranked))
    expect(scores == sorted(scores, reverse=True), repr(scores))


@capability("score", "cross-encoder")
def _score(server: VLLMServer) -> None:
    scores = server.score("Which city?", ["Bread.", "Tokyo is a city."])
    expect(len(scores) == 2 and all(isinstance(score, float) for score in scores), repr(scores))


@capability("classify", "classifier")
def _classify(server: VLLMServer) -> None:
    (result,) = server.classify(["I love this movie."])
    expect(result.label in ("NEGATIVE", "NEUTRAL", "POSITIVE"), repr(result))


def of_model(model: str) -> Iterator[Capability]:
    """Return the capabilities of one model."""
    return (item for item in CAPABILITIES if item.model == model)
