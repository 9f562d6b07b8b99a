"""Tokens, metrics, the prefix cache, request ids and timings."""

from __future__ import annotations

import re

from vllm_adapters.doctor.model import Check, Finding, broken, missing, skipped, unknown, unsupported, works
from vllm_adapters.doctor.probe import CHAT_ROUTE, CONNECTION_ERRORS, Probe, count_of
from vllm_adapters.errors import VLLMError

__all__ = ["CHECKS"]

_SENTENCE = "The zebra looks at the river, and the river looks at the moon. "
_TOKENS_PER_SENTENCE = 40  # at most, even with a vocabulary of a few hundred tokens
_SENTENCES = 40  # several cache blocks: 16 tokens each on a GPU, 128 on a CPU
_METRIC = re.compile(r"^# TYPE (vllm:\w+)", re.M)
_CACHING_DISABLED = re.compile(r'^vllm:cache_config_info\{.*enable_prefix_caching="False"', re.M)


def _tokenize(probe: Probe) -> Finding:
    text = "zebra"
    tokens = probe.server.tokenize(text, add_special_tokens=False)
    decoded = probe.server.detokenize(tokens.ids)
    if decoded.strip() != text and CHAT_ROUTE in probe.routes:
        return broken(f"{text!r} is decoded as {decoded!r}")
    return works(f"{text!r} has {count_of(tokens.count, 'token')} and is decoded as {decoded.strip()!r}")


def _tokenizer_info(probe: Probe) -> Finding:
    if not probe.routes:
        return skipped("the server does not list its routes")
    if "/tokenizer_info" in probe.routes:
        return works("chat template and special tokens are available")
    if probe.older_than("0.10.0"):
        return unsupported("available since 0.10.0")
    return missing("chat template and special tokens are not available", "--enable-tokenizer-info-endpoint")


def _prefix_cache(probe: Probe) -> Finding:
    prompt = _SENTENCE * max(1, min(_SENTENCES, (probe.context_length or 4096) // _TOKENS_PER_SENTENCE - 1))
    usages = [probe.chat(prompt, max_tokens=1).usage for _ in range(2)]
    details = [usage.prompt_tokens_details for usage in usages if usage and usage.prompt_tokens_details]
    cached = [detail.cached_tokens or 0 for detail in details]
    if any(cached):
        total = usages[-1].prompt_tokens if usages[-1] else 0
        return works(f"{cached[-1]} of {total} prompt tokens cached, and reported in the reply")
    if _CACHING_DISABLED.search(_metrics_text(probe)):
        flags = ("--enable-prefix-caching", *(() if details else ("--enable-prompt-tokens-details",)))
        return missing("prompts are not cached", *flags)
    if details:
        return unknown(
            "replies report no cached tokens", "The cache may be full, or the prompt shorter than a cache block"
        )
    return missing("replies do not report cached tokens", "--enable-prompt-tokens-details")


def _metrics(probe: Probe) -> Finding:
    names = set(_METRIC.findall(probe.get("/metrics").text))
    if not names:
        return missing("/metrics has no vLLM metrics", advice="Remove --disable-log-stats from the server's flags")
    return works(f"{len(names)} vLLM metrics", metrics=len(names))


def _metrics_text(probe: Probe) -> str:
    try:
        return probe.get("/metrics").text
    except CONNECTION_ERRORS:
        raise
    except VLLMError:
        return ""


def _request_ids(probe: Probe) -> Finding:
    if getattr(probe.default_reply, "_request_id", None):
        return works("replies have an x-request-id header")
    return missing("replies have no x-request-id header", "--enable-request-id-headers")


def _request_metrics(probe: Probe) -> Finding:
    metrics = (probe.default_reply.model_extra or {}).get("metrics")
    if metrics:
        return works("replies have timings")
    if probe.older_than("0.25.0"):
        return unsupported("available since 0.25.0")
    return missing("replies have no timings", "--enable-per-request-metrics")


CHECKS = (
    Check("tokenize", "operations", "Does it tokenize and detokenize?", _tokenize, "/tokenize"),
    Check("metrics", "operations", "Does it publish metrics?", _metrics, "/metrics"),
    Check("prefix-cache", "operations", "Are prompts cached and reported?", _prefix_cache, CHAT_ROUTE, counts=False),
    Check("request-ids", "operations", "Do replies have an id?", _request_ids, CHAT_ROUTE, counts=False),
    Check("request-metrics", "operations", "Do replies have timings?", _request_metrics, CHAT_ROUTE, counts=False),
    Check("tokenizer-info", "operations", "Is the chat template available?", _tokenizer_info, counts=False),
)
