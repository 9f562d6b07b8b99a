"""The faults: how the server behaves, and what may come of it."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Sequence
from typing import Any

from fault_matrix.grid import Fault
from fault_matrix.scene import CALLS, TEXTS, Answer, Scene
from vllm_adapters import errors as e
from vllm_adapters.testing import Behaviour, FaultServer, faults, payloads
from vllm_adapters.testing.faults import healthy

# Which scenes a fault can happen to.


def streams(scene: Scene) -> bool:
    return scene.streamed


def bodies(scene: Scene) -> bool:
    return not scene.streamed


def generates(scene: Scene) -> bool:
    return scene.generates


def only(*tasks: str) -> Callable[[Scene], bool]:
    return lambda scene: scene.task in tasks


def chat_streams(scene: Scene) -> bool:
    return scene.streamed and scene.task != "complete"


calls, says, counts = only("call"), only("say", "complete"), only("tokenize", "count")


def attempts(scene: Scene) -> int:
    """A stream that has begun is not asked for again."""
    return 1 if scene.streamed else 2


# What the right answer is.


def right(scene: Scene) -> Answer:
    return scene.right


def finished(reason: str) -> Callable[[Scene], Answer]:
    return lambda scene: scene.right._replace(finish=reason)


def cut_calls(reason: str) -> Callable[[Scene], Answer]:
    """The first call whole, the last marked as broken, its text kept."""
    return lambda scene: Answer(CALLS[:1], (json.dumps(CALLS[1][1]),), reason)


# How the server behaves.


def always(behaviour: Behaviour) -> Callable[[Scene], Behaviour]:
    return lambda scene: behaviour


def then_fine(*first: Behaviour) -> Callable[[Scene], Sequence[Behaviour]]:
    return lambda scene: [*first, scene.whole]


def events(change: Callable[[list[Any]], list[Any]], **how: Any) -> Callable[[Scene], Behaviour]:
    """The whole stream, changed."""
    return lambda scene: faults.sse(*change(scene.events()), **how)


def _cut(at: bytes, past: int, how: Any = "close") -> Callable[[Scene], Behaviour]:
    """Cut in the middle of something, although the headers promised more."""

    def behave(scene: Scene) -> Behaviour:
        if not scene.generates:
            return faults.truncate(healthy, 60, how)
        return faults.truncate(faults.reply(scene.data, 200, scene.content_type), scene.data.index(at) + past, how)

    return behave


def _shortened(at: bytes, past: int) -> Callable[[Scene], Behaviour]:
    """The same, but the headers agree: nothing shows on the transport."""

    def behave(scene: Scene) -> Behaviour:
        if not scene.generates:
            return faults.shorten(healthy, 60)
        return faults.reply(scene.data[: scene.data.index(at) + past], 200, scene.content_type)

    return behave


def _dripping(scene: Scene) -> Behaviour:
    """Something new all the time, but never enough of it."""
    if scene.streamed:
        return faults.sse(*scene.events()[:1] * 300, pause=0.1)
    return _slowly(scene.whole)


def _slowly(behaviour: Behaviour) -> Behaviour:
    async def run(exchange: Any) -> None:
        head = exchange.head

        async def then_slowly(*args: Any, **how: Any) -> None:
            await head(*args, **how)
            exchange.pace = (1, 0.15)

        exchange.head = then_slowly
        await behaviour(exchange)

    return run


def _slow_headers(scene: Scene) -> Behaviour:
    return faults.split(scene.whole, 1, 0.1)


def _pings_at_last(scene: Scene) -> Behaviour:
    """Comments as the gateways send them that keep a connection alive, whatever has become of the engine."""
    return faults.sse(*scene.events()[:3], *[": ping"] * 300, pause=0.05)


def _dying(chunks: list[Any]) -> list[Any]:
    return [*chunks[:3], payloads.error("EngineCore died", code=500)]


def _rows(change: Callable[[list[Any]], list[Any]]) -> Callable[[Scene], Behaviour]:
    """Scores or classes, changed."""

    def behave(scene: Scene) -> Behaviour:
        scored = scene.task == "score"
        body = payloads.score(scene.right.value) if scored else payloads.classification(["LABEL_0"] * len(TEXTS))
        return faults.json_reply({**body, "data": change(body["data"])})

    return behave


def _usage_only(chunks: list[Any]) -> list[Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    empty = {**chunks[0], "choices": [], "usage": usage}
    return [empty, chunks[0], empty, *chunks[1:], empty]


def _roles_again(chunks: list[Any]) -> list[Any]:
    return [
        {**chunk, "choices": [{**choice, "delta": {"role": "assistant", **choice["delta"]}}]}
        for chunk in chunks
        for choice in chunk["choices"]
    ]


def _letter_by_letter(interleaved: bool) -> Callable[[Scene], Behaviour]:
    def behave(scene: Scene) -> Behaviour:
        heads, letters = [], []
        for index, (name, given) in enumerate(CALLS):
            call = payloads.tool_call(name, "", index=index)
            heads.append({"tool_calls": [call]})
            text = json.dumps(given, ensure_ascii=False)
            letters.append([{"tool_calls": [{"index": index, "function": {"arguments": c}}]} for c in text])
        first, second = letters
        if not interleaved:
            return faults.deltas(heads[0], *first, heads[1], *second, finish_reason="tool_calls")
        longest = max(len(first), len(second))
        mixed = [part[at] for at in range(longest) for part in letters if at < len(part)]
        return faults.deltas(*heads, *mixed, finish_reason="tool_calls")

    return behave


def _arguments(text: str) -> tuple[Callable[[Scene], Behaviour], Callable[[Scene], Answer]]:
    """A second call with these arguments, and the answer that shows them as broken."""
    first = payloads.tool_call(CALLS[0][0], json.dumps(CALLS[0][1], ensure_ascii=False))
    made = [first, payloads.tool_call("delete_files", text)]
    return (lambda scene: scene.reply(tool_calls=made), lambda scene: Answer(CALLS[:1], (text,), "tool_calls"))


BIG = "x" * 10_000_000
HALF = '{"city": "Zü'


def _elsewhere(scene: Scene) -> Behaviour:
    return faults.redirect("http://127.0.0.1:9/v1/anything")


# Bound and never listening: whoever calls is refused, and nobody else gets the port.
_NOBODY = socket.socket()
_NOBODY.bind(("127.0.0.1", 0))
_NOBODY_AT = f"http://127.0.0.1:{_NOBODY.getsockname()[1]}/v1"


def _moved(scene: Scene) -> Behaviour:
    async def run(exchange: Any) -> None:
        moved = "moved" in exchange.request.path
        await (scene.whole if moved else faults.redirect(f"{exchange.request.path}?moved=1"))(exchange)

    return run


OVERFLOW = "This model's maximum context length is 10 tokens. However, you requested 20 tokens."
SAID = {"shape": "vllm", "param": "temperature"}
Unreachable, Timeout, Incomplete = e.ServerUnreachable, e.ServerTimeout, e.IncompleteStream
Invalid, Failed, NotReady = e.InvalidResponse, e.ServerFailed, e.ServerNotReady

CONNECTIONS = (
    Fault("nothing wrong", lambda scene: scene.whole, right=right),
    Fault("nobody there", lambda scene: None, (Unreachable,), requests=0, url=_NOBODY_AT),
    Fault("closed without a byte", always(faults.hang_up()), (Unreachable,), requests=2),
    Fault("reset", always(faults.reset()), (Unreachable,), requests=2),
    Fault("closed once, then fine", then_fine(faults.hang_up()), right=right, requests=2),
    Fault("idle connection gone stale", lambda scene: faults.stale(scene.whole), right=right, requests=2, between=bool),
    Fault("restarted between two calls", lambda s: s.whole, right=right, requests=2, between=FaultServer.restart),
    Fault("redirect within the origin", _moved, right=right, requests=2),
    Fault("redirect to another origin", _elsewhere, (e.WrongAddress,)),
)

WAITS = (
    Fault("hang before headers", always(faults.hang()), (Timeout,), waits=True, requests=2),
    Fault("hang in the middle", _cut(b'"', 40, "hang"), (Timeout,), waits=True, requests=attempts),
    Fault("headers byte by byte", _slow_headers, (Timeout,), limit="total", waits=True),
    Fault("drip of comments", always(faults.drip(0.05)), (Timeout,), limit="idle", waits=True, on=streams),
    Fault("comments after 3 chunks", _pings_at_last, (Timeout,), limit="idle", waits=True, on=streams),
    Fault("drip of spaces", always(faults.drip(0.05, sse=False)), (Timeout,), limit="total", waits=True, on=bodies),
    Fault("slow drip, for ever", _dripping, (Timeout,), limit="total", waits=True),
    Fault("slow, then fine", lambda scene: [faults.slow(1, scene.whole)], right=right, waits=True),
)

CUTS = (
    Fault("cut: connection closed", _cut(b'"', 50), (Incomplete, Unreachable), requests=attempts),
    Fault("cut: connection reset", _cut(b'"', 50, "reset"), (Incomplete, Unreachable), requests=attempts),
    Fault("cut: stream ends cleanly", events(lambda c: c[:-1], end="clean"), (Incomplete,), on=streams),
    Fault("cut: [DONE], no finish reason", events(lambda c: c[:-1]), (Incomplete,), on=streams),
    Fault("cut: no event at all", events(lambda c: []), (Incomplete,), on=streams),
    Fault("cut: truncated JSON or line", _shortened(b'"model"', 9), (Incomplete, Invalid)),
    Fault(
        "cut: inside a UTF-8 character",
        _cut("ü".encode()[1:], 0),
        (Incomplete, Unreachable),
        requests=attempts,
        on=calls,
    ),
    Fault("the same, ends cleanly", _shortened("ü".encode()[1:], 0), (Incomplete, Invalid), on=calls),
    Fault("finish reason, no [DONE]", events(lambda c: c, end="clean"), right=right, on=streams),
    Fault("error event first", always(faults.error_event("EngineCore died")), (Failed,), on=streams),
    Fault("error event after 3 chunks", events(_dying), (Failed,), on=streams),
    Fault("error event, a text", always(faults.error_event("dead", shape="string")), (Failed,), on=streams),
)

FINISHES = (
    Fault("finish length", lambda s: s.reply("length"), right=finished("length"), on=says),
    Fault("finish length in a call", lambda s: s.reply("length"), right=cut_calls("length"), on=calls),
    Fault(
        "finish length in an object",
        lambda s: s.reply("length", content=HALF),
        (e.TruncatedOutput,),
        right=lambda s: Answer(HALF, finish="length"),
        on=only("object"),
    ),
    Fault("finish repetition", lambda s: s.reply("repetition"), right=finished("repetition"), on=says),
    Fault("finish repetition in a call", lambda s: s.reply("repetition"), right=cut_calls("repetition"), on=calls),
    Fault("finish abort", lambda s: s.reply("abort"), (Failed,), on=generates),
    Fault("finish error", lambda s: s.reply("error"), (Failed,), on=generates),
)

NO_ANSWERS = (
    Fault("HTML, 200", always(faults.html()), (Invalid,)),
    Fault("nothing, 200", always(faults.reply(b"")), (Invalid,)),
    Fault("JSON of another shape", always(faults.json_reply({"hello": "world"})), (Invalid,)),
    Fault("a JSON list", always(faults.json_reply([1, 2])), (Invalid,)),
    Fault("an error, 200", always(faults.json_reply(payloads.error("no such thing", code=500))), (Failed,)),
    Fault("no choices", lambda s: _no_choices(s), (Invalid, Incomplete), on=generates),
    Fault("a number for the text", lambda s: _wrong_part(s, "content", 5), (Invalid,), on=generates),
    Fault("a list for the finish reason", lambda s: _wrong_part(s, "finish_reason", [1]), (Invalid,), on=generates),
    Fault("an object for the arguments", lambda s: _wrong_part(s, "arguments", {"path": "/"}), (Invalid,), on=calls),
    Fault("null content", lambda s: s.reply(content=None), right=lambda s: Answer("", finish="stop"), on=only("say")),
    Fault(
        "the object breaks its schema",
        lambda s: s.reply(content="Sure!"),
        (e.ConstraintNotEnforced,),
        on=only("object"),
    ),
)


def _wrong_part(scene: Scene, name: str, value: object) -> Behaviour:
    """In every choice, or in its call's function: ``content`` is what a completion calls ``text``."""
    whole = scene.events() if scene.streamed else [scene.body()]
    for choice in [choice for event in whole for choice in event["choices"]]:
        message = choice.get("delta") or choice.get("message") or {}
        holders = {
            "finish_reason": [choice],
            "content": [choice if scene.task == "complete" else message],
            "arguments": [call["function"] for call in message.get("tool_calls") or ()],
        }
        for holder in holders[name]:
            holder["text" if holder is choice and name == "content" else name] = value
    return faults.sse(*whole) if scene.streamed else faults.json_reply(whole[0])


def _no_choices(scene: Scene) -> Behaviour:
    if scene.streamed:
        return faults.sse(*[{**event, "choices": []} for event in scene.events()])
    return faults.json_reply({**scene.body(), "choices": []})


def refused(status: int, text: str = "went wrong", **how: Any) -> Callable[[Scene], Behaviour]:
    return always(faults.error(status, text, **how))


STATUSES = (
    Fault("400, 0.10.1 and later", refused(400, "bad", param="top_k"), (e.InvalidRequest,)),
    Fault("400, 0.8 to 0.10.0", refused(400, "bad", shape="flat", param="top_k"), (e.InvalidRequest,)),
    Fault("400, a text", refused(400, "bad", shape="string"), (e.InvalidRequest,)),
    Fault("400, detail", refused(400, "bad", shape="detail"), (e.InvalidRequest,)),
    Fault("400, context overflow", refused(400, OVERFLOW, param="input_tokens"), (e.ContextLengthExceeded,)),
    Fault("400, context overflow, 0.8", refused(400, OVERFLOW, shape="flat"), (e.ContextLengthExceeded,)),
    Fault("401, a text", refused(401, "Unauthorized", shape="string"), (e.AuthenticationFailed,)),
    Fault("403", refused(403), (e.PermissionDenied,)),
    Fault("404, no such route", refused(404, "Not Found", shape="detail"), (e.WrongAddress,)),
    Fault("404, no such model", refused(404, "The model `m` does not exist.", param="model"), (e.ModelNotServed,)),
    Fault("405", refused(405, "Method Not Allowed", shape="detail"), (e.WrongAddress,)),
    Fault("422", refused(422, "unprocessable"), (e.InvalidRequest,)),
    Fault("429, Retry-After 600", refused(429, retry_after=600), (e.RateLimited,)),
    Fault("429, Retry-After 0.1, then fine", then_fine(faults.error(429, retry_after=0.1)), right=right, requests=2),
    Fault("500, for ever", refused(500), (Failed,), requests=2),
    Fault("500, then fine", then_fine(faults.error(500)), right=right, requests=2),
    Fault("502, HTML", always(faults.html(502)), (Failed,), requests=2),
    Fault("503, HTML", always(faults.html(503)), (NotReady,), requests=2),
    Fault("503, loading", always(faults.loading()), (NotReady,), requests=2),
    Fault("503, then fine", then_fine(faults.loading()), right=right, requests=2),
    Fault("504, HTML", always(faults.html(504)), (Failed,), requests=2),
)

BYTES = (
    Fault("every byte a packet", lambda scene: faults.split(scene.whole), right=right),
    Fault("CRLF", events(lambda c: c, newline="\r\n"), right=right, on=streams),
    Fault(
        "CRLF, every byte a packet",
        lambda s: faults.split(faults.sse(*s.events(), newline="\r\n")),
        right=right,
        on=streams,
    ),
    Fault(
        "comments, retry, id", events(lambda c: [": ping", "retry: 10\nid: 3", *c, ": bye"]), right=right, on=streams
    ),
    Fault("usage-only chunks", events(_usage_only), right=right, on=streams),
    Fault("role in every chunk", events(_roles_again), right=right, on=chat_streams),
    Fault("10 MB", lambda s: s.reply(content=BIG), right=lambda s: Answer(BIG, finish="stop"), on=says),
)

TOOLS = (
    Fault("arguments split everywhere", _letter_by_letter(False), right=right, on=lambda s: calls(s) and s.streamed),
    Fault("interleaved calls", _letter_by_letter(True), right=right, on=lambda s: calls(s) and s.streamed),
    *(
        Fault(f"arguments {name}", _arguments(text)[0], right=_arguments(text)[1], on=calls)
        for name, text in {
            "cut": '{"path": "/home/u',
            "not JSON": "{path: /home/u}",
            "no object": '["/home/u"]',
            "null": "null",
        }.items()
    ),
)

ROWS = (
    *(
        Fault(f"embeddings: {name}", always(faults.wrong_embeddings(name)), (Invalid,), on=only("embed"))
        for name in ("missing", "extra", "nan", "dims", "null")
    ),
    Fault("embeddings: shuffled", always(faults.wrong_embeddings("shuffled")), right=right, on=only("embed")),
    Fault("embedding: NaN", always(faults.wrong_embeddings("nan")), (Invalid,), on=only("embed one")),
    Fault("scores: shuffled", _rows(lambda rows: rows[::-1]), right=right, on=only("score", "classify")),
    *(
        Fault(f"scores: {name}", _rows(change), (Invalid,), on=only("score", "classify"))
        for name, change in {
            "missing": lambda rows: rows[:-1],
            "extra": lambda rows: [*rows, {**rows[-1], "index": len(rows)}],
            "duplicate": lambda rows: [rows[0], rows[0], rows[2]],
            "nan": lambda rows: [{**rows[0], "score": math.nan, "probs": [math.nan]}, *rows[1:]],
        }.items()
    ),
    Fault("tokens: null", always(faults.json_reply({"tokens": None, "max_model_len": 1})), (Invalid,), on=counts),
    *(
        Fault(f"rerank: {name}", always(faults.wrong_rerank(name)), (Invalid,), on=only("rank"))
        for name in ("short", "bad-index", "negative-index", "duplicate", "nan")
    ),
)

FAULTS = (*CONNECTIONS, *WAITS, *CUTS, *FINISHES, *NO_ANSWERS, *STATUSES, *BYTES, *TOOLS, *ROWS)
