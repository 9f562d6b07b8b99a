"""What an operator asks: tokens, metrics, the prefix cache, ids."""

from __future__ import annotations

import re

from vllm_adapters.doctor.model import Check, Finding, absent, broken, lacks, unclear, untried, works
from vllm_adapters.doctor.probe import CHAT, GONE, Visit, counted
from vllm_adapters.errors import VLLMError

_SENTENCE = "The zebra looks at the river, and the river looks at the moon. "
_TOKENS_PER_SENTENCE = 40  # at most, even in a vocabulary of hundreds
_SENTENCES = 40  # several blocks of the cache: 16 tokens each on a GPU, 128 on a CPU
_METRIC = re.compile(r"^# TYPE (vllm:\w+)", re.M)
_CACHING_OFF = re.compile(r'^vllm:cache_config_info\{.*enable_prefix_caching="False"', re.M)


def _tokenize(visit: Visit) -> Finding:
    text = "zebra"
    tokens = visit.server.tokenize(text, add_special_tokens=False)
    back = visit.server.detokenize(tokens.ids)
    if back.strip() != text and not visit.paths.isdisjoint({CHAT}):
        return broken(f"{text!r} comes back as {back!r}")
    return works(f"{text!r} is {counted(tokens.count, 'token')}, and {back.strip()!r} again")


def _tokenizer_info(visit: Visit) -> Finding:
    if not visit.paths:
        return untried("it does not list its routes")
    if "/tokenizer_info" in visit.paths:
        return works("chat template and special tokens can be read")
    if visit.older_than("0.10.0"):
        return absent("there since 0.10.0")
    return lacks("chat template and special tokens cannot be read", "--enable-tokenizer-info-endpoint")


def _prefix_cache(visit: Visit) -> Finding:
    prompt = _SENTENCE * max(1, min(_SENTENCES, (visit.context or 4096) // _TOKENS_PER_SENTENCE - 1))
    usages = [visit.chat(prompt, max_tokens=1).usage for _ in range(2)]
    details = [usage.prompt_tokens_details for usage in usages if usage and usage.prompt_tokens_details]
    cached = [found.cached_tokens or 0 for found in details]
    if any(cached):
        total = usages[-1].prompt_tokens if usages[-1] else 0
        return works(f"{cached[-1]} of {total} tokens came from the cache, and the reply says so")
    if _CACHING_OFF.search(_metrics_of(visit)):
        flags = ("--enable-prefix-caching", *(() if details else ("--enable-prompt-tokens-details",)))
        return lacks("prompts are not cached", *flags)
    if details:
        return unclear(
            "replies say that nothing came from the cache", "It may be full, or the prompt shorter than a block of it"
        )
    return lacks("replies do not say what came from the cache", "--enable-prompt-tokens-details")


def _metrics(visit: Visit) -> Finding:
    found = set(_METRIC.findall(visit.get("/metrics").text))
    if not found:
        return lacks("/metrics says nothing of vLLM", advice="Serve without --disable-log-stats")
    return works(f"{len(found)} metrics of vLLM", metrics=len(found))


def _metrics_of(visit: Visit) -> str:
    try:
        return visit.get("/metrics").text
    except GONE:
        raise
    except VLLMError:
        return ""


def _request_ids(visit: Visit) -> Finding:
    if getattr(visit.plain, "_request_id", None):
        return works("replies bear the id of their request")
    return lacks("replies bear no x-request-id", "--enable-request-id-headers")


def _request_metrics(visit: Visit) -> Finding:
    measured = (visit.plain.model_extra or {}).get("metrics")
    if measured:
        return works("replies say how long they took")
    if visit.older_than("0.25.0"):
        return absent("there since 0.25.0")
    return lacks("replies do not say how long they took", "--enable-per-request-metrics")


CHECKS = (
    Check("tokenize", "operations", "Does it count and turn back tokens?", _tokenize, "/tokenize"),
    Check("metrics", "operations", "Does it tell its metrics?", _metrics, "/metrics"),
    Check("prefix-cache", "operations", "Does it cache prompts and say so?", _prefix_cache, CHAT, counts=False),
    Check("request-ids", "operations", "Do replies bear an id?", _request_ids, CHAT, counts=False),
    Check("request-metrics", "operations", "Do replies say how long they took?", _request_metrics, CHAT, counts=False),
    Check("tokenizer-info", "operations", "Can its chat template be read?", _tokenizer_info, counts=False),
)
