"""Chat, streams, usage, logprobs and reasoning."""

from __future__ import annotations

from openai.types.completion_usage import CompletionUsage

from vllm_adapters.doctor.model import Check, Finding, broken, lacks, unclear, works
from vllm_adapters.doctor.parsers import THOUGHT_MARKS
from vllm_adapters.doctor.probe import CAPITAL, CHAT, UNFIT_REASONING, Visit, text_of, thought_of

_THINKING = {"enable_thinking": True, "thinking": True}  # Qwen's and DeepSeek's; templates ignore what is not theirs
_THINK_WHEN_ASKED = """--default-chat-template-kwargs '{"enable_thinking": false}'"""
_AT_ONCE = 1000  # pieces per second that no model makes: they were held back
_SOON = 1.0  # seconds; nothing that comes so soon was held back


def _chat(visit: Visit) -> Finding:
    if visit.hides_answers:
        return broken(f"its answer is in `reasoning`, and its text is empty: {visit.shown(thought_of(visit.plain))}")
    text = text_of(visit.plain) or thought_of(visit.plain)
    return works(visit.shown(text)) if text.strip() else broken("it answers with nothing")


def _usage(visit: Visit) -> Finding:
    return _tokens(visit.plain.usage)


def _streamed_usage(visit: Visit) -> Finding:
    return _tokens(visit.streamed.usage)


def _tokens(usage: CompletionUsage | None) -> Finding:
    if usage is None or not usage.prompt_tokens or not usage.completion_tokens:
        return broken("it does not say how many tokens it took")
    return works(f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out")


def _stream(visit: Visit) -> Finding:
    streamed = visit.streamed
    if not streamed.pieces:
        return broken("a stream without text")
    if streamed.last > _SOON and streamed.pieces > _AT_ONCE * (streamed.last - streamed.first):
        return broken(
            "a stream that arrives all at once", advice="A proxy before the server may buffer it: switch that off"
        )
    return works(f"{streamed.pieces} pieces")


def _speed(visit: Visit) -> Finding:
    streamed = visit.streamed
    tokens = streamed.usage.completion_tokens if streamed.usage else streamed.pieces
    if streamed.last <= streamed.first:
        return unclear("too short a stream to measure")
    rate = (tokens - 1) / (streamed.last - streamed.first)
    return works(
        f"{rate:.0f} tokens/s, the first after {streamed.first:.2f} s (one request, beside what else it does)",
        tokens_per_second=round(rate, 1),
        seconds_to_first_token=round(streamed.first, 3),
    )


def _logprobs(visit: Visit) -> Finding:
    reply = visit.server.client.chat.completions.create(
        model=visit.model,
        messages=[{"role": "user", "content": CAPITAL}],
        max_tokens=1,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    found = reply.choices[0].logprobs
    if found is None or not found.content:
        return broken("a reply without logprobs, although they were asked for")
    best = found.content[0]
    return works(f"{visit.shown(best.token)}: {best.logprob:.2f}, and {len(best.top_logprobs)} best")


def _completions(visit: Visit) -> Finding:
    reply = visit.server.client.completions.create(model=visit.model, prompt="Hello", max_tokens=4, temperature=0)
    return works(visit.shown(reply.choices[0].text))


def _reasoning(visit: Visit) -> Finding:
    if visit.hides_answers:
        if not visit.misread:
            return broken("where nobody asks it to think, the whole answer lands in `reasoning`", _THINK_WHEN_ASKED)
        return broken(
            "the whole answer lands in `reasoning`",
            *visit.with_parser_names(("--reasoning-parser",)),
            advice=f"{UNFIT_REASONING}; without a parser none is lost",
        )
    reply = visit.chat(CAPITAL, chat_template_kwargs=_THINKING)
    text, thought = text_of(reply), thought_of(reply)
    if any(mark in text for mark in THOUGHT_MARKS):
        # Qwen's parser takes thinking for the rule; a model that thinks only when asked to needs it said.
        rule = (_THINK_WHEN_ASKED,) if visit.parsers.reasoning == "qwen3" and not visit.thinks else ()
        return lacks(
            f"thinking stays in the text: {visit.shown(text)}",
            *visit.with_parser_names(("--reasoning-parser",)),
            *rule,
            advice="" if visit.reasoning_parser is False else UNFIT_REASONING,
        )
    if thought.strip():
        return works(f"parsed into its own field: {visit.shown(thought)}")
    parser = {True: "; a reasoning parser is set", False: "; no reasoning parser is set", None: ""}
    return unclear(f"cannot tell: the model did not think{parser[visit.reasoning_parser]}")


CHECKS = (
    Check("chat", "chat", "Does it answer a question?", _chat, CHAT),
    Check("usage", "chat", "Does a reply say how many tokens it took?", _usage, CHAT),
    Check("stream", "chat", "Does a stream come piece by piece?", _stream, CHAT),
    Check("stream-usage", "chat", "Does a stream say how many tokens it took?", _streamed_usage, CHAT),
    Check("logprobs", "chat", "Are there log probabilities?", _logprobs, CHAT),
    Check("completions", "chat", "Does it complete a prompt without a chat template?", _completions, "/v1/completions"),
    Check("reasoning", "chat", "Is thinking parsed into its own field?", _reasoning, CHAT),
    Check("speed", "chat", "How fast is it?", _speed, CHAT),
)
