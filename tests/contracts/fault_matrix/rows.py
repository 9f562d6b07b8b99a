"""The faults: how the server behaves, and which outcomes are right."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Sequence
from typing import Any

from fault_matrix.grid import Fault
from fault_matrix.operations import CALLS, LIMIT, TEXT, TEXTS, Answer, Operation
from vllm_adapters import errors as e
from vllm_adapters.testing import Behaviour, FaultServer, faults, payloads

# Operations in which a fault can occur


def streams(op: Operation) -> bool:
    return op.streamed and not op.narrow


def bodies(op: Operation) -> bool:
    return not op.streamed and not op.narrow


def generates(op: Operation) -> bool:
    return op.generates and not op.narrow


def tasks(*names: str) -> Callable[[Operation], bool]:
    return lambda op: op.task in names


def chat_streams(op: Operation) -> bool:
    return streams(op) and op.task != "complete"


tool_calls, texts, token_counts = tasks("call"), tasks("say", "complete"), tasks("tokenize", "count")


def tool_call_streams(op: Operation) -> bool:
    return op.streamed and op.task == "call"


def _with_fallback(op: Operation) -> int:
    """Return the requests where a route is missing: of a gateway without ``/tokenize``, the model counts the tokens."""
    return 2 if op.task == "count" else 1


def attempts(op: Operation) -> int:
    """Return the number of requests: a stream that has begun is not retried."""
    return 1 if op.streamed else 2


# Right answers


def right_answer(op: Operation) -> Answer:
    return op.right


def finished(reason: str) -> Callable[[Operation], Answer]:
    """The right answer with another finish reason."""
    return lambda op: op.right._replace(finish=reason)


def broken_call(reason: str) -> Callable[[Operation], Answer]:
    """The first tool call is valid; the last one is marked as broken and keeps its text."""
    return lambda op: Answer(CALLS[:1], (json.dumps(CALLS[1][1]),), reason)


# Behaviours of the server


def always(behaviour: Behaviour) -> Callable[[Operation], Behaviour]:
    return lambda op: behaviour


def then_healthy(*first: Behaviour) -> Callable[[Operation], Sequence[Behaviour]]:
    return lambda op: [*first, op.healthy]


def events(change: Callable[[list[Any]], list[Any]], **options: Any) -> Callable[[Operation], Behaviour]:
    """The complete stream with changed events."""
    return lambda op: faults.sse(*change(op.events()), **options)


def status(code: int, text: str = "went wrong", **options: Any) -> Callable[[Operation], Behaviour]:
    return always(faults.error(code, text, **options))


def _truncated(at: bytes, past: int, how: Any = "close") -> Callable[[Operation], Behaviour]:
    """End the connection ``past`` bytes after the first ``at``, although the headers announced more."""

    def behaviour(op: Operation) -> Behaviour:
        if not op.generates:
            return faults.truncate(faults.healthy, 60, how)
        return faults.truncate(faults.reply(op.data, 200, op.content_type), op.data.index(at) + past, how)

    return behaviour


def _shortened(at: bytes, past: int) -> Callable[[Operation], Behaviour]:
    """Send the body until ``past`` bytes after the first ``at``; the headers agree, so the transport sees no error."""

    def behaviour(op: Operation) -> Behaviour:
        if not op.generates:
            return faults.shorten(faults.healthy, 60)
        return faults.reply(op.data[: op.data.index(at) + past], 200, op.content_type)

    return behaviour


def _endless(op: Operation) -> Behaviour:
    """Send something new all the time without ever completing the response."""
    if op.streamed:
        return faults.sse(*op.events()[:1] * 300, pause=0.1)
    return _slow_body(op.healthy)


def _slow_body(behaviour: Behaviour) -> Behaviour:
    async def run(exchange: Any) -> None:
        head = exchange.head

        async def head_then_slow(*args: Any, **options: Any) -> None:
            await head(*args, **options)
            exchange.pace = (1, 0.15)

        exchange.head = head_then_slow
        await behaviour(exchange)

    return run


def _slow_headers(op: Operation) -> Behaviour:
    return faults.split(op.healthy, 1, 0.1)


def _comments_after_chunks(op: Operation) -> Behaviour:
    """Send comments as gateways do to keep a connection alive, whatever the state of the engine."""
    return faults.sse(*op.events()[:3], *[": ping"] * 300, pause=0.05)


def _dying_engine(chunks: list[Any]) -> list[Any]:
    return [*chunks[:3], payloads.error("EngineCore died", code=500)]


def _rows(change: Callable[[list[Any]], list[Any]]) -> Callable[[Operation], Behaviour]:
    """Scores or classes with changed rows."""

    def behaviour(op: Operation) -> Behaviour:
        scored = op.task == "score"
        body = payloads.score(op.right.value) if scored else payloads.classification(["LABEL_0"] * len(TEXTS))
        return faults.json_reply({**body, "data": change(body["data"])})

    return behaviour


def _at_the_limit(op: Operation) -> Behaviour:
    """Two calls that end as complete, and as many tokens as were allowed: vLLM 0.11 to 0.30."""
    usage = {"prompt_tokens": 1, "completion_tokens": LIMIT, "total_tokens": 1 + LIMIT}
    if op.streamed:
        return faults.sse(*op.events(), payloads.chunk(None, usage=usage))
    return faults.json_reply({**op.body(), "usage": usage})


def _in_the_shape_of_chat(op: Operation) -> Behaviour:
    chat = Operation("say", op.streamed)
    return chat.healthy


def _answer_in_the_reasoning(op: Operation) -> Behaviour:
    deltas = [{"role": "assistant", "content": ""}, *({"reasoning": word} for word in (TEXT[:5], TEXT[5:]))]
    return faults.deltas(*deltas)


def _refusal(op: Operation) -> Behaviour:
    if op.streamed:
        return faults.deltas({"role": "assistant"}, {"refusal": REFUSAL[:9]}, {"refusal": REFUSAL[9:]})
    body = payloads.chat(None)
    body["choices"][0]["message"]["refusal"] = REFUSAL
    return faults.json_reply(body)


def _usage_chunks(chunks: list[Any]) -> list[Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    empty = {**chunks[0], "choices": [], "usage": usage}
    return [empty, chunks[0], empty, *chunks[1:], empty]


def _repeated_roles(chunks: list[Any]) -> list[Any]:
    return [
        {**chunk, "choices": [{**choice, "delta": {"role": "assistant", **choice["delta"]}}]}
        for chunk in chunks
        for choice in chunk["choices"]
    ]


def _single_characters(interleaved: bool) -> Callable[[Operation], Behaviour]:
    """Two tool calls whose arguments are streamed one character per chunk."""

    def behaviour(op: Operation) -> Behaviour:
        heads, characters = [], []
        for index, (name, arguments) in enumerate(CALLS):
            heads.append({"tool_calls": [payloads.tool_call(name, "", index=index)]})
            text = json.dumps(arguments, ensure_ascii=False)
            characters.append([{"tool_calls": [{"index": index, "function": {"arguments": c}}]} for c in text])
        first, second = characters
        if not interleaved:
            return faults.deltas(heads[0], *first, heads[1], *second, finish_reason="tool_calls")
        longest = max(len(first), len(second))
        mixed = [part[at] for at in range(longest) for part in characters if at < len(part)]
        return faults.deltas(*heads, *mixed, finish_reason="tool_calls")

    return behaviour


def _second_arguments(text: str) -> tuple[Callable[[Operation], Behaviour], Callable[[Operation], Answer]]:
    """A second tool call with these arguments, and the answer in which it is marked as broken."""
    first = payloads.tool_call(CALLS[0][0], json.dumps(CALLS[0][1], ensure_ascii=False))
    calls = [first, payloads.tool_call("delete_files", text)]
    finish = "tool_calls" if text else "length"  # no byte of required arguments: it was truncated
    return (lambda op: op.reply(tool_calls=calls), lambda op: Answer(CALLS[:1], (text,), finish))


def _wrong_type(op: Operation, name: str, value: object) -> Behaviour:
    """Replace a field in every choice or tool call; ``content`` is called ``text`` in a completion."""
    parts = op.events() if op.streamed else [op.body()]
    for choice in [choice for part in parts for choice in part["choices"]]:
        message = choice.get("delta") or choice.get("message") or {}
        holders = {
            "finish_reason": [choice],
            "content": [choice if op.task == "complete" else message],
            "arguments": [call["function"] for call in message.get("tool_calls") or ()],
        }
        for holder in holders[name]:
            holder["text" if holder is choice and name == "content" else name] = value
    return faults.sse(*parts) if op.streamed else faults.json_reply(parts[0])


def _no_choices(op: Operation) -> Behaviour:
    if op.streamed:
        return faults.sse(*[{**event, "choices": []} for event in op.events()])
    return faults.json_reply({**op.body(), "choices": []})


def _other_origin(op: Operation) -> Behaviour:
    return faults.redirect("http://127.0.0.1:9/v1/anything")


def _same_origin(op: Operation) -> Behaviour:
    async def run(exchange: Any) -> None:
        redirected = "moved" in exchange.request.path
        await (op.healthy if redirected else faults.redirect(f"{exchange.request.path}?moved=1"))(exchange)

    return run


# Bound but never listening: connections are refused, and no other process gets the port.
_CLOSED = socket.socket()
_CLOSED.bind(("127.0.0.1", 0))
_CLOSED_URL = f"http://127.0.0.1:{_CLOSED.getsockname()[1]}/v1"

BIG = "x" * 10_000_000
MARKUP = '<tool_call>\n{"name": "delete_files", "argu'
REFUSAL = "I cannot help with that."
HALF = '{"city": "Zü'
OVERFLOW = "This model's maximum context length is 10 tokens. However, you requested 20 tokens."
Unreachable, Timeout, Incomplete = e.ServerUnreachable, e.ServerTimeout, e.IncompleteStream
Invalid, Failed, NotReady = e.InvalidResponse, e.ServerFailed, e.ServerNotReady

CONNECTIONS = (
    Fault("healthy", lambda op: op.healthy, right=right_answer, on=lambda op: not op.refused),
    Fault("connection refused", lambda op: None, (Unreachable,), requests=0, url=_CLOSED_URL),
    Fault("closed without a response", always(faults.hang_up()), (Unreachable,), requests=2),
    Fault("reset without a response", always(faults.reset()), (Unreachable,), requests=2),
    Fault("closed once, then healthy", then_healthy(faults.hang_up()), right=right_answer, requests=2),
    Fault("stale idle connection", lambda op: faults.stale(op.healthy), right=right_answer, requests=2, between=bool),
    Fault(
        "restart between two calls", lambda op: op.healthy, right=right_answer, requests=2, between=FaultServer.restart
    ),
    Fault("redirect to the same origin", _same_origin, right=right_answer, requests=2),
    Fault("redirect to another origin", _other_origin, (e.WrongAddress,)),
)

TIMEOUTS = (
    Fault("hang before the headers", always(faults.hang()), (Timeout,), limit="idle", waits=True, requests=2),
    Fault("hang in the body", _truncated(b'"', 40, "hang"), (Timeout,), limit="idle", waits=True, requests=attempts),
    Fault("slow headers", _slow_headers, (Timeout,), limit="total", waits=True),
    Fault("endless comments", always(faults.drip(0.05)), (Timeout,), limit="idle", waits=True, on=streams),
    Fault("endless comments after 3 chunks", _comments_after_chunks, (Timeout,), limit="idle", waits=True, on=streams),
    Fault("endless spaces", always(faults.drip(0.05, sse=False)), (Timeout,), limit="total", waits=True, on=bodies),
    Fault("endless body", _endless, (Timeout,), limit="total", waits=True),
    Fault("slow, then healthy", lambda op: [faults.slow(1, op.healthy)], right=right_answer, waits=True),
)

TRUNCATED = (
    Fault("truncated: closed", _truncated(b'"', 50), (Incomplete, Unreachable), requests=attempts),
    Fault("truncated: reset", _truncated(b'"', 50, "reset"), (Incomplete, Unreachable), requests=attempts),
    Fault("truncated: clean end of the stream", events(lambda c: c[:-1], end="clean"), (Incomplete,), on=streams),
    Fault("truncated: [DONE] without finish reason", events(lambda c: c[:-1]), (Incomplete,), on=streams),
    Fault("truncated: stream without events", events(lambda c: []), (Incomplete,), on=streams),
    Fault("truncated: JSON or event, clean end", _shortened(b'"model"', 9), (Incomplete, Invalid)),
    Fault(
        "truncated: inside a character",
        _truncated("ü".encode()[1:], 0),
        (Incomplete, Unreachable),
        requests=attempts,
        on=tool_calls,
    ),
    Fault(
        "truncated: inside a character, clean end",
        _shortened("ü".encode()[1:], 0),
        (Incomplete, Invalid),
        on=tool_calls,
    ),
    Fault("finish reason without [DONE]", events(lambda c: c, end="clean"), right=right_answer, on=streams),
    Fault("error event first", always(faults.error_event("EngineCore died")), (Failed,), on=streams),
    Fault("error event after 3 chunks", events(_dying_engine), (Failed,), on=streams),
    Fault("error event, string", always(faults.error_event("dead", shape="string")), (Failed,), on=streams),
)

FINISH_REASONS = (
    Fault("finish reason length", lambda op: op.reply("length"), right=finished("length"), on=texts),
    Fault("finish reason length, tool call", lambda op: op.reply("length"), right=broken_call("length"), on=tool_calls),
    Fault(
        "finish reason length, object",
        lambda op: op.reply("length", content=HALF),
        (e.TruncatedOutput,),
        on=tasks("object"),
    ),
    Fault(
        "finish reason repetition, object",
        lambda op: op.reply("repetition", content=HALF),
        (e.TruncatedOutput,),
        on=tasks("object"),
    ),
    Fault(
        "finish reason content_filter, object",
        lambda op: op.reply("content_filter", content=HALF),
        (e.FilteredOutput,),
        on=tasks("object"),
    ),
    *(
        Fault(
            f"finish reason {reason}, choice or tag",
            lambda op, reason=reason: op.reply(reason, content=TEXT[:9]),
            (error,),
            on=tasks("choose", "complete choice"),
        )
        for reason, error in {
            "length": e.TruncatedOutput,
            "repetition": e.TruncatedOutput,
            "content_filter": e.FilteredOutput,
        }.items()
    ),
    Fault(
        "finish reason length, tool call as text",
        lambda op: op.reply("length", content=MARKUP, tool_calls=()),
        (e.TruncatedOutput,),
        on=tasks("call", "force"),
    ),
    Fault(
        "finish reason stop, tool call as text",
        lambda op: op.reply("stop", content=f'{MARKUP}ments": {{}}}}\n</tool_call>', tool_calls=()),
        (e.ConstraintNotEnforced,),
        on=tasks("call", "force"),
    ),
    Fault("finish reason tool_calls at the token limit", _at_the_limit, right=broken_call("length"), on=tool_calls),
    Fault(
        "finish reason tool_calls, no call",
        lambda op: op.reply("tool_calls", content="", tool_calls=()),
        (e.ConstraintNotEnforced,),
        on=tasks("call", "force"),
    ),
    Fault(
        "finish reason length, no forced call",
        lambda op: op.reply("length", content="Well", tool_calls=()),
        (e.TruncatedOutput,),
        on=tasks("force"),
    ),
    Fault("finish reason repetition", lambda op: op.reply("repetition"), right=finished("repetition"), on=texts),
    Fault(
        "finish reason repetition, tool call",
        lambda op: op.reply("repetition"),
        right=broken_call("repetition"),
        on=tool_calls,
    ),
    Fault("finish reason abort", lambda op: op.reply("abort"), (Failed,), on=generates),
    Fault("finish reason error", lambda op: op.reply("error"), (Failed,), on=generates),
)

INVALID = (
    Fault("200: HTML", always(faults.html()), (Invalid,)),
    Fault("200: empty body", always(faults.reply(b"")), (Invalid,)),
    Fault("200: another JSON object", always(faults.json_reply({"hello": "world"})), (Invalid,)),
    Fault("200: JSON array", always(faults.json_reply([1, 2])), (Invalid,)),
    Fault("200: error object", always(faults.json_reply(payloads.error("no such thing", code=500))), (Failed,)),
    Fault("200: no choices", _no_choices, (Invalid, Incomplete), on=generates),
    Fault("200: number as content", lambda op: _wrong_type(op, "content", 5), (Invalid,), on=generates),
    Fault("200: array as finish reason", lambda op: _wrong_type(op, "finish_reason", [1]), (Invalid,), on=generates),
    Fault(
        "200: object as arguments", lambda op: _wrong_type(op, "arguments", {"path": "/"}), (Invalid,), on=tool_calls
    ),
    Fault(
        "200: null content",
        lambda op: op.reply(content=None),
        right=lambda op: Answer("", finish="stop"),
        on=tasks("say"),
    ),
    Fault("200: chat's shape", _in_the_shape_of_chat, (Invalid,), on=tasks("complete")),
    Fault(
        "200: no forced call",
        lambda op: op.reply(content="Sure!", tool_calls=()),
        (e.ConstraintNotEnforced,),
        on=tasks("force"),
    ),
    Fault(
        "200: choice or tag violated",
        lambda op: op.reply(content="Sure!"),
        (e.ConstraintNotEnforced,),
        on=tasks("choose", "complete choice"),
    ),
    Fault("200: answer in the reasoning", _answer_in_the_reasoning, right=right_answer, on=tasks("calm")),
    Fault(
        "200: refusal",
        _refusal,
        right=lambda op: Answer(REFUSAL, finish="stop"),
        on=tasks("say"),
    ),
    Fault(
        "200: refusal of what was requested",
        _refusal,
        (e.ModelRefusal,),
        right=lambda op: Answer(REFUSAL, finish="stop"),
        on=tasks("object", "choose", "force"),
    ),
    Fault("request that stops a server", lambda op: op.healthy, (e.InvalidRequest,), on=tasks("harm"), requests=0),
    Fault(
        "200: schema violated",
        lambda op: op.reply(content="Sure!"),
        (e.ConstraintNotEnforced,),
        on=tasks("object"),
    ),
)

STATUSES = (
    Fault("400, 0.10.1 and later", status(400, "bad", param="top_k"), (e.InvalidRequest,)),
    Fault("400, 0.8 to 0.10.0", status(400, "bad", shape="flat", param="top_k"), (e.InvalidRequest,)),
    Fault("400, string", status(400, "bad", shape="string"), (e.InvalidRequest,)),
    Fault("400, detail", status(400, "bad", shape="detail"), (e.InvalidRequest,)),
    Fault("400, context overflow", status(400, OVERFLOW, param="input_tokens"), (e.ContextLengthExceeded,)),
    Fault("400, context overflow, 0.8", status(400, OVERFLOW, shape="flat"), (e.ContextLengthExceeded,)),
    Fault("401, string", status(401, "Unauthorized", shape="string"), (e.AuthenticationFailed,)),
    Fault("403", status(403), (e.PermissionDenied,)),
    Fault("404, unknown route", status(404, "Not Found", shape="detail"), (e.WrongAddress,), requests=_with_fallback),
    Fault("404, unknown model", status(404, "The model `m` does not exist.", param="model"), (e.ModelNotServed,)),
    Fault("405", status(405, "Method Not Allowed", shape="detail"), (e.WrongAddress,), requests=_with_fallback),
    Fault("422", status(422, "unprocessable"), (e.InvalidRequest,)),
    Fault("429, Retry-After 600", status(429, retry_after=600), (e.RateLimited,)),
    Fault(
        "429, Retry-After 0.1, then healthy",
        then_healthy(faults.error(429, retry_after=0.1)),
        right=right_answer,
        requests=2,
    ),
    Fault("500, always", status(500), (Failed,), requests=2),
    Fault("500, then healthy", then_healthy(faults.error(500)), right=right_answer, requests=2),
    Fault("502, HTML", always(faults.html(502)), (Failed,), requests=2),
    Fault("503, HTML", always(faults.html(503)), (NotReady,), requests=2),
    Fault("503, loading", always(faults.loading()), (NotReady,), requests=2),
    Fault("503, then healthy", then_healthy(faults.loading()), right=right_answer, requests=2),
    Fault("504, HTML", always(faults.html(504)), (Failed,), requests=2),
)

BYTES = (
    Fault("one byte per packet", lambda op: faults.split(op.healthy), right=right_answer),
    Fault("CRLF", events(lambda c: c, newline="\r\n"), right=right_answer, on=streams),
    Fault(
        "CRLF, one byte per packet",
        lambda op: faults.split(faults.sse(*op.events(), newline="\r\n")),
        right=right_answer,
        on=streams,
    ),
    Fault(
        "comments, retry, id",
        events(lambda c: [": ping", "retry: 10\nid: 3", *c, ": bye"]),
        right=right_answer,
        on=streams,
    ),
    Fault("chunks with usage only", events(_usage_chunks), right=right_answer, on=streams),
    Fault("role in every chunk", events(_repeated_roles), right=right_answer, on=chat_streams),
    Fault(
        "10 MB",
        lambda op: op.reply(content=BIG),
        right=lambda op: Answer(BIG, finish="stop"),
        heavy=True,
        on=texts,
    ),
)

TOOL_CALLS = (
    Fault("arguments by character", _single_characters(False), right=right_answer, on=tool_call_streams),
    Fault("interleaved tool calls", _single_characters(True), right=right_answer, on=tool_call_streams),
    *(
        Fault(f"arguments: {name}", _second_arguments(text)[0], right=_second_arguments(text)[1], on=tool_calls)
        for name, text in {
            "truncated": '{"path": "/home/u',
            "none": "",
            "not JSON": "{path: /home/u}",
            "array": '["/home/u"]',
            "null": "null",
        }.items()
    ),
)

POOLING = (
    *(
        Fault(f"embeddings: {name}", always(faults.wrong_embeddings(name)), (Invalid,), on=tasks("embed"))
        for name in ("missing", "extra", "nan", "dims", "null")
    ),
    Fault("embeddings: shuffled", always(faults.wrong_embeddings("shuffled")), right=right_answer, on=tasks("embed")),
    Fault("embedding: nan", always(faults.wrong_embeddings("nan")), (Invalid,), on=tasks("embed one")),
    Fault("scores: shuffled", _rows(lambda rows: rows[::-1]), right=right_answer, on=tasks("score", "classify")),
    *(
        Fault(f"scores: {name}", _rows(change), (Invalid,), on=tasks("score", "classify"))
        for name, change in {
            "missing": lambda rows: rows[:-1],
            "extra": lambda rows: [*rows, {**rows[-1], "index": len(rows)}],
            "duplicate": lambda rows: [rows[0], rows[0], rows[2]],
            "nan": lambda rows: [{**rows[0], "score": math.nan, "probs": [math.nan]}, *rows[1:]],
        }.items()
    ),
    Fault("tokens: null", always(faults.json_reply({"tokens": None, "max_model_len": 1})), (Invalid,), on=token_counts),
    *(
        Fault(f"rerank: {name}", always(faults.wrong_rerank(name)), (Invalid,), on=tasks("rank"))
        for name in ("short", "bad-index", "negative-index", "duplicate", "nan")
    ),
)

FAULTS = (
    *CONNECTIONS,
    *TIMEOUTS,
    *TRUNCATED,
    *FINISH_REASONS,
    *INVALID,
    *STATUSES,
    *BYTES,
    *TOOL_CALLS,
    *POOLING,
)
