"""What is tried through each gateway. A check returns what to write into the table, or raises."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gateways.sessions import in_haystack, in_langchain, in_llamaindex, keeps_sessions
from gateways.start import KEY, Gateway
from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import FaultServer, faults, payloads

OK = "ok"
CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
Check = Callable[[Gateway, FaultServer], str]


def server(url: str, model: str, **options: Any) -> VLLMServer:
    """Return a server that makes no retries of its own."""
    return VLLMServer(url, model=model, api_key=KEY, max_retries=0, timeout=60, **options)


def chat(gateway: Gateway, **request: Any) -> Any:
    """Ask the real model."""
    request = {"messages": QUESTION, "temperature": 0, "max_tokens": 40, **request}
    return server(gateway.chat, "tiny").client.chat.completions.create(model="tiny", **request)


def text_of(chunks: Any) -> str:
    """Return the text of a stream."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def expect(condition: object) -> str:
    """Return ``ok``, or raise what makes the run fail."""
    if not condition:
        raise AssertionError("a wrong result")
    return OK


# With real servers


def models(gateway: Gateway, stub: FaultServer) -> str:
    return expect("tiny" in {card.id for card in server(gateway.chat, "tiny").models()})


def context_length(gateway: Gateway, stub: FaultServer) -> str:
    return expect(server(gateway.chat, "tiny").context_length() == 2048)


def version(gateway: Gateway, stub: FaultServer) -> str:
    return expect(server(gateway.chat, "tiny").version)


def capabilities(gateway: Gateway, stub: FaultServer) -> str:
    found = server(gateway.chat, "tiny").capabilities()
    return f"falls back: without {', '.join(sorted(found.hidden))}" if found.hidden else expect("chat" in found.tasks)


def ready(gateway: Gateway, stub: FaultServer) -> str:
    return expect(server(gateway.chat, "tiny").wait_until_ready(120))


def answer(gateway: Gateway, stub: FaultServer) -> str:
    return expect("Tokyo" in chat(gateway).choices[0].message.content)


def stream(gateway: Gateway, stub: FaultServer) -> str:
    return expect("Tokyo" in text_of(chat(gateway, stream=True)))


def strict_stream(gateway: Gateway, stub: FaultServer) -> str:
    return expect("Tokyo" in text_of(chat(gateway, stream=True, extra_body={"strict_completion": True})))


def reasoning(gateway: Gateway, stub: FaultServer) -> str:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    reply = chat(gateway, max_tokens=200, extra_body=thinking).choices[0].message
    return expect(getattr(reply, "reasoning", None) or getattr(reply, "reasoning_content", None))


def parameters(gateway: Gateway, stub: FaultServer) -> str:
    reply = chat(
        gateway, temperature=2.0, extra_body={"top_k": 1, "min_tokens": 1}
    )  # of one token: greedy all the same
    return expect("Tokyo" in reply.choices[0].message.content)


def constraint(gateway: Gateway, stub: FaultServer) -> str:
    reply = chat(gateway, extra_body={"structured_outputs": {"choice": ["Zebra", "Yak"]}})
    return expect(reply.choices[0].message.content in ("Zebra", "Yak"))


def forced_tool(gateway: Gateway, stub: FaultServer) -> str:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    reply = chat(gateway, tools=[TOOL], tool_choice=choice, max_tokens=100).choices[0].message
    return expect(reply.tool_calls[0].function.name == "get_weather")


def mistake(gateway: Gateway, stub: FaultServer) -> str:
    try:
        chat(gateway, messages=[{"role": "user", "content": "word " * 5000}])
    except e.ContextLengthExceeded as error:
        return f"typed: {type(error).__name__}"
    raise AssertionError("no error")


def count_tokens(gateway: Gateway, stub: FaultServer) -> str:
    found = server(gateway.chat, "tiny")
    direct = server(os.environ["GATEWAYS_REPLICAS"].split()[0], "tiny")
    same = found.count_tokens(messages=QUESTION) == direct.count_tokens(messages=QUESTION)
    expect(same and found.count_tokens("Hello there") == direct.count_tokens("Hello there"))
    try:
        found.tokenize("Hello")
    except e.WrongAddress:
        return "falls back: the model counts"
    return OK


def tokenize(gateway: Gateway, stub: FaultServer) -> str:
    return expect(server(gateway.chat, "tiny").tokenize("Hello there").count)


def embeddings(gateway: Gateway, stub: FaultServer) -> str:
    return expect(server(gateway.embed, "minilm").embed(["one", "two"]).shape == (2, 384))


def rerank(gateway: Gateway, stub: FaultServer) -> str:
    found = server(gateway.embed, "minilm")
    expect(len(found.rerank("capital of Japan", ["Tokyo", "a zebra"])) == 2)
    return "falls back: /v2/rerank" if found.client.vllm.info.needs_rerank_v2 else OK


def score(gateway: Gateway, stub: FaultServer) -> str:
    return expect(len(server(gateway.embed, "minilm").score("a", ["b", "c"])) == 2)


def metrics(gateway: Gateway, stub: FaultServer) -> str:
    names = {family.name for family in server(gateway.chat, "tiny").metrics()}
    return OK if any(name.startswith("vllm:") for name in names) else "the gateway's own"


# With faults


def stub_chat(gateway: Gateway, **request: Any) -> Any:
    """Ask the fault server behind the gateway."""
    request = {"messages": [{"role": "user", "content": "one two three four"}], **request}
    return server(gateway.faults, "stub").client.chat.completions.create(model="stub", **request)


def session(gateway: Gateway, stub: FaultServer) -> str:
    stub_chat(gateway, extra_body={"session_id": "s-1"})
    post = stub.posts(CHAT)[-1]
    got = [
        name
        for name, there in (("body", "session_id" in post.json), ("header", "x-session-id" in post.headers))
        if there
    ]
    return OK if len(got) == 2 else f"{got[0] if got else 'nothing'} only"


def refused(gateway: Gateway, stub: FaultServer, behaviour: Any, **request: Any) -> str:
    """Return the error of a request that must fail."""
    stub.reply(behaviour, CHAT)
    try:
        reply = stub_chat(gateway, **request)
        if request.get("stream"):
            text = text_of(reply)
            return f"NOT NOTICED: {text!r} looks complete"
    except e.VLLMError as error:
        wait = getattr(error, "retry_after", None)
        return f"typed: {type(error).__name__}" + (f", retry_after={wait:g}" if wait else "")
    finally:
        stub.heal()
    raise AssertionError("no error")


CUT = faults.truncate(faults.chat("one two three four five six seven"), after=900, how="reset")
CLEAN = faults.sse(*payloads.chat_chunks("one two three four five six seven")[:4], end="clean")
BUSY = "The engine is currently busy and cannot accept new requests"


def fault(behaviour: Any, **request: Any) -> Check:
    """Return the check of a fault."""
    return lambda gateway, stub: refused(gateway, stub, behaviour, **request)


def slow(gateway: Gateway, stub: FaultServer) -> str:
    stub.reply(faults.slow(2, faults.chat()), CHAT)
    try:
        return expect(stub_chat(gateway).choices[0].message.content)
    finally:
        stub.heal()


def dead(gateway: Gateway, stub: FaultServer) -> str:
    return refused(gateway, stub, faults.chat())


def dead_not_ready(gateway: Gateway, stub: FaultServer) -> str:
    return expect(not server(gateway.faults, "stub").is_ready(probe="chat")) and "ok: not ready"


def dead_not_ready_by_default(gateway: Gateway, stub: FaultServer) -> str:
    return expect(not server(gateway.faults, "stub").is_ready()) and "ok: not ready"


STRICT = {"stream": True, "extra_body": {"strict_completion": True}}
REAL: dict[str, Check] = {
    "`models()`": models,
    "`context_length()`": context_length,
    "`version`": version,
    "`capabilities()`": capabilities,
    "`wait_until_ready()`": ready,
    "chat": answer,
    "stream": stream,
    "stream, `strict_completion`": strict_stream,
    "reasoning, `chat_template_kwargs`": reasoning,
    "`top_k`, `min_tokens`": parameters,
    "`structured_outputs`": constraint,
    "forced tool call": forced_tool,
    "prompt too long": mistake,
    "`count_tokens()`": count_tokens,
    "`tokenize()`": tokenize,
    "`embed()`": embeddings,
    "`rerank()`": rerank,
    "`score()`": score,
    "`metrics()`": metrics,
    "`session_id` arrives": session,
    "same session, same replica, cached tokens: LangChain": keeps_sessions(in_langchain),
    "same session, same replica, cached tokens: LlamaIndex": keeps_sessions(in_llamaindex),
    "same session, same replica, cached tokens: Haystack": keeps_sessions(in_haystack),
}
FAULTS: dict[str, Check] = {
    "backend killed mid-stream": fault(CUT, stream=True),
    "stream ends early": fault(CLEAN, stream=True),
    "stream ends early, `strict_completion`": fault(CLEAN, **STRICT),
    "backend killed mid-request": fault(faults.slow(0.3, faults.reset())),
    "slow backend": slow,
    "gateway's time limit": fault(faults.hang()),
    "gateway's time limit, stream": fault(faults.hang(), stream=True),
    "429 with `Retry-After: 7`": fault(faults.error(429, "too many", retry_after=7)),
    "503 with `Retry-After: 7`": fault(faults.error(503, BUSY, retry_after=7)),
    "400": fault(faults.error(400, "bad value", param="top_k")),
}
DEAD: dict[str, Check] = {
    "all backends dead": dead,
    "all backends dead, `is_ready()`": dead_not_ready_by_default,
    'all backends dead, `is_ready(probe="chat")`': dead_not_ready,
}
