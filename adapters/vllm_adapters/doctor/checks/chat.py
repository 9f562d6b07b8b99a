"""Chat, completions, streams, usage, logprobs and reasoning."""

from __future__ import annotations

from openai.types.completion_usage import CompletionUsage

from vllm_adapters.doctor.model import Check, Finding, broken, missing, unknown, works
from vllm_adapters.doctor.parsers import THINKING_MARKS
from vllm_adapters.doctor.probe import (
    CHAT_ROUTE,
    QUESTION,
    REASONING_PARSER_MISMATCH,
    Probe,
    reasoning_of,
    text_of,
)

__all__ = ["CHECKS"]

_ENABLE_THINKING = {"enable_thinking": True, "thinking": True}  # Qwen's and DeepSeek's; templates ignore unknown names
_NO_THINKING_FLAG = """--default-chat-template-kwargs '{"enable_thinking": false}'"""
_PARSES_BEGUN_THINKING = "0.18.0"
_BEGUN_THINKING = (
    "Before 0.18.0 the parser qwen3 leaves thinking that the chat template has begun in the content. "
    "Update vLLM, or cut the text at </think>"
)
_STREAMED_AS_REASONING = (
    "vLLM 0.18 to 0.23 does so with thinking off. Update the server, or disable thinking in each request "
    "(chat_template_kwargs={'enable_thinking': False}): this package then returns such text as content"
)
_BUFFERED_RATE = 1000  # chunks per second; no model is as fast, so the stream was buffered
_BUFFERED_AFTER = 1.0  # seconds; a faster stream proves nothing


def _chat(probe: Probe) -> Finding:
    if probe.answers_in_reasoning:
        reasoning = probe.excerpt(reasoning_of(probe.default_reply))
        return broken(f"the answer is in `reasoning`, and the content is empty: {reasoning}")
    text = text_of(probe.default_reply) or reasoning_of(probe.default_reply)
    return works(probe.excerpt(text)) if text.strip() else broken("the reply is empty")


def _usage(probe: Probe) -> Finding:
    return _token_counts(probe.default_reply.usage)


def _stream_usage(probe: Probe) -> Finding:
    return _token_counts(probe.stream_stats.usage)


def _token_counts(usage: CompletionUsage | None) -> Finding:
    if usage is None or not usage.prompt_tokens or not usage.completion_tokens:
        return broken("the reply has no token counts")
    return works(f"{usage.prompt_tokens} prompt tokens, {usage.completion_tokens} completion tokens")


def _stream(probe: Probe) -> Finding:
    stats = probe.stream_stats
    if not stats.chunks:
        return broken("the stream has no text")
    if not stats.contents and text_of(probe.default_reply).strip() and not reasoning_of(probe.default_reply):
        return broken(
            "the whole answer is streamed as `reasoning`, and the content is empty, unlike without streaming",
            advice=_STREAMED_AS_REASONING,
        )
    if stats.last > _BUFFERED_AFTER and stats.chunks > _BUFFERED_RATE * (stats.last - stats.first):
        return broken(
            "the stream arrives all at once", advice="A proxy may buffer it. Disable buffering for this server"
        )
    return works(f"{stats.chunks} chunks")


def _speed(probe: Probe) -> Finding:
    stats = probe.stream_stats
    tokens = stats.usage.completion_tokens if stats.usage else stats.chunks
    if stats.last <= stats.first:
        return unknown("the stream is too short to measure")
    rate = (tokens - 1) / (stats.last - stats.first)
    return works(
        f"{rate:.0f} tokens/s, the first after {stats.first:.2f} s (one request, under the server's current load)",
        tokens_per_second=round(rate, 1),
        seconds_to_first_token=round(stats.first, 3),
    )


def _logprobs(probe: Probe) -> Finding:
    reply = probe.server.client.chat.completions.create(
        model=probe.model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=1,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    logprobs = reply.choices[0].logprobs
    if logprobs is None or not logprobs.content:
        return broken("the reply has no logprobs, although they were requested")
    token = logprobs.content[0]
    return works(f"{probe.excerpt(token.token)}: {token.logprob:.2f}, with {len(token.top_logprobs)} top logprobs")


def _completions(probe: Probe) -> Finding:
    reply = probe.server.client.completions.create(model=probe.model, prompt="Hello", max_tokens=4, temperature=0)
    return works(probe.excerpt(reply.choices[0].text))


def _reasoning(probe: Probe) -> Finding:
    if probe.answers_in_reasoning:
        if not probe.reasoning_parser_mismatch:
            return broken("the answer is in `reasoning` unless thinking is disabled", _NO_THINKING_FLAG)
        return broken(
            "the answer is in `reasoning`, even with thinking disabled",
            *probe.add_parser_names(("--reasoning-parser",)),
            advice=f"{REASONING_PARSER_MISMATCH}; without a parser, answers are in the content",
        )
    reply = probe.chat(QUESTION, chat_template_kwargs=_ENABLE_THINKING)
    text, reasoning = text_of(reply), reasoning_of(reply)
    if any(mark in text for mark in THINKING_MARKS):
        if probe.parsers.reasoning == "qwen3" and "<think>" not in text and probe.older_than(_PARSES_BEGUN_THINKING):
            return missing(f"thinking stays in the content: {probe.excerpt(text)}", advice=_BEGUN_THINKING)
        # Qwen's parser assumes that the model thinks. For a model that thinks only on request, the server must know.
        default = (_NO_THINKING_FLAG,) if probe.parsers.reasoning == "qwen3" and not probe.thinks_by_default else ()
        return missing(
            f"thinking stays in the content: {probe.excerpt(text)}",
            *probe.add_parser_names(("--reasoning-parser",)),
            *default,
            advice="" if probe.has_reasoning_parser is False else REASONING_PARSER_MISMATCH,
        )
    if reasoning.strip():
        return works(f"parsed into its own field: {probe.excerpt(reasoning)}")
    parser = {True: "; a reasoning parser is set", False: "; no reasoning parser is set", None: ""}
    return unknown(f"inconclusive: the model did not think{parser[probe.has_reasoning_parser]}")


CHECKS = (
    Check("chat", "chat", "Does it answer a question?", _chat, CHAT_ROUTE),
    Check("usage", "chat", "Does a reply have token counts?", _usage, CHAT_ROUTE),
    Check("stream", "chat", "Does a stream arrive in chunks?", _stream, CHAT_ROUTE),
    Check("stream-usage", "chat", "Does a stream have token counts?", _stream_usage, CHAT_ROUTE),
    Check("logprobs", "chat", "Are log probabilities available?", _logprobs, CHAT_ROUTE),
    Check("completions", "chat", "Does it complete a prompt without a chat template?", _completions, "/v1/completions"),
    Check("reasoning", "chat", "Is thinking parsed into its own field?", _reasoning, CHAT_ROUTE),
    Check("speed", "chat", "How fast is it?", _speed, CHAT_ROUTE),
)
