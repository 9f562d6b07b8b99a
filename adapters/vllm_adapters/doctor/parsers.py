"""Parsers that fit a model, by its name or by its special tokens."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["THINKING_MARKS", "TOKENS", "TOOL_CALL_MARKS", "Parsers", "by_name", "by_tokens"]


class Parsers(NamedTuple):
    """Names for ``--tool-call-parser`` and ``--reasoning-parser``; ``None`` where no parser is known."""

    tools: str | None = None
    reasoning: str | None = None


# Patterns for the model's name or path. The first match wins.
_BY_NAME = {
    r"xlam": Parsers("xlam"),
    r"gpt-?oss": Parsers("openai", "openai_gptoss"),
    r"deepseek-r1|qwq": Parsers("hermes", "deepseek_r1"),
    r"deepseek-v3\.1": Parsers("deepseek_v31", "deepseek_v3"),
    r"deepseek-v3\.2": Parsers("deepseek_v32", "deepseek_v3"),
    r"deepseek-v4\.1": Parsers("deepseek_v41", "deepseek_v41"),
    r"deepseek-v4": Parsers("deepseek_v4", "deepseek_v4"),
    r"deepseek": Parsers("deepseek_v3", "deepseek_r1"),
    r"qwen-?3-coder": Parsers("qwen3_coder"),
    r"qwen-?3\.[5-9]": Parsers("qwen3_coder", "qwen3"),
    r"qwen": Parsers("hermes", "qwen3"),
    r"glm-4\.7": Parsers("glm47", "glm45"),
    r"glm-4": Parsers("glm45", "glm45"),
    r"mistral|ministral|magistral|mixtral|devstral": Parsers("mistral", "mistral"),
    r"llama-?4": Parsers("llama4_pythonic"),
    r"llama": Parsers("llama3_json"),
    r"granite-4": Parsers("granite4", "granite"),
    r"granite": Parsers("granite", "granite"),
    r"kimi-k3": Parsers("kimi_k3", "kimi_k3"),
    r"kimi": Parsers("kimi_k2", "kimi_k2"),
    r"minimax-m3": Parsers("minimax_m3", "minimax_m3"),
    r"minimax-m2": Parsers("minimax_m2", "minimax_m2"),
    r"mimo": Parsers("mimo", "mimo"),
    r"nemotron-3": Parsers("qwen3_coder", "nemotron_v3"),
    r"step-?3\.5": Parsers("step3p5", "step3p5"),
    r"step-?3": Parsers("step3", "step3"),
    r"lfm-?2": Parsers("lfm2"),
    r"hunyuan": Parsers("hunyuan_a13b", "hunyuan_a13b"),
    r"seed-oss": Parsers("seed_oss", "seed_oss"),
    r"olmo-?3": Parsers("olmo3", "olmo3"),
    r"ernie-?4\.5": Parsers("ernie45", "ernie45"),
    r"gemma-?4": Parsers("gemma4", "gemma4"),
    r"functiongemma": Parsers("functiongemma"),
    r"internlm-?2": Parsers("internlm"),
    r"jamba": Parsers("jamba"),
    r"longcat": Parsers("longcat"),
    r"apertus": Parsers("apertus"),
    r"gigachat-?3": Parsers("gigachat3"),
    r"plamo-?3": Parsers("plamo3", "plamo3"),
    r"phi-4-mini": Parsers("phi4_mini_json"),
}

_BY_TOKEN = {
    "<|tool_calls_section_begin|>": Parsers(tools="kimi_k2"),
    "<minimax:tool_call>": Parsers(tools="minimax_m2"),
    "<seed:tool_call>": Parsers(tools="seed_oss"),
    "<seed:think>": Parsers(reasoning="seed_oss"),
    "[TOOL_CALLS]": Parsers(tools="mistral"),
    "[THINK]": Parsers(reasoning="mistral"),
    "<|python_tag|>": Parsers(tools="llama3_json"),
    "<tool_call>": Parsers(tools="hermes"),
    "<think>": Parsers(reasoning="qwen3"),
}
TOKENS = tuple(_BY_TOKEN)

THINKING_MARKS = ("<think>", "</think>", "[THINK]", "[/THINK]", "<seed:think>", "<|channel|>analysis")
"""Traces of unparsed thinking in a reply. The opening mark is missing if the chat template puts it in the prompt."""

TOOL_CALL_MARKS = (
    *("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function=", "<minimax:tool_call>", "<seed:tool_call>"),
    *("<|tool_calls_section_begin|>", "<｜tool▁calls▁begin｜>"),
)
"""Traces of unparsed tool calls in a reply."""


def by_name(*names: str) -> Parsers:
    """Return the parsers for a model with these names."""
    text = " ".join(names).lower().replace("_", "-")
    return next((parsers for pattern, parsers in _BY_NAME.items() if re.search(pattern, text)), Parsers())


def by_tokens(strings: list[str]) -> Parsers:
    """Return the parsers for a model whose tokenizer splits the concatenated ``TOKENS`` into these strings."""
    found = [parsers for token, parsers in _BY_TOKEN.items() if token in strings]
    return Parsers(
        next((parsers.tools for parsers in found if parsers.tools), None),
        next((parsers.reasoning for parsers in found if parsers.reasoning), None),
    )
