"""Parsers that fit a model, by its name or by its special tokens."""

from __future__ import annotations

import re
from typing import NamedTuple

from packaging.version import Version

__all__ = ["SINCE", "THINKING_MARKS", "TOKENS", "TOOL_CALL_MARKS", "Parsers", "by_name", "by_tokens"]


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
    r"glm-(4\.7|5)": Parsers("glm47", "glm45"),
    r"glm-4": Parsers("glm45", "glm45"),
    r"mistral|ministral|magistral|mixtral|devstral": Parsers("mistral", "mistral"),
    r"muse-?glimmer": Parsers("muse_glimmer", "muse_glimmer"),
    r"\bmuse": Parsers("muse", "muse"),
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
    r"step-?5": Parsers("step5", "step5"),
    r"step-?3\.5": Parsers("step3p5", "step3p5"),
    r"step-?3": Parsers("step3", "step3"),
    r"lfm-?2": Parsers("lfm2"),
    r"\bhy-?4|hunyuan-?4": Parsers("hy_v4", "hy_v4"),
    r"\bhy-?3|hunyuan-?3": Parsers("hy_v3", "hy_v3"),
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
    r"minicpm-?5": Parsers("minicpm5"),
    r"\bling-?3": Parsers("ling3", "ling3"),
    r"poolside|laguna": Parsers("poolside_v1", "poolside_v1"),
    r"command-?4": Parsers("cohere_command4", "cohere_command4"),
    r"command-?[ar3]|c4ai": Parsers("cohere_command3", "cohere_command3"),
    r"inkling": Parsers("inkling", "inkling"),
    r"k2-horizon": Parsers("k2_horizon", "k2_horizon"),
    r"\bdots": Parsers("dots"),
}

_SINCE = {
    "0.11.2": "deepseek_v3 ernie45 kimi_k2 minimax_m2 olmo3",
    "0.13": "deepseek_v32 gigachat3",
    "0.14": "functiongemma glm47",
    "0.15.1": "step3p5",
    "0.18": "granite4 nemotron_v3",
    "0.23": "apertus cohere_command3 cohere_command4 deepseek_v4 gemma4 hy_v3 lfm2 mimo minicpm5 poolside_v1",
    "0.24": "minimax_m3",
    "0.27": "inkling kimi_k3",
    "0.28": "dots ling3 muse_glimmer",
    "0.32": "deepseek_v41 hy_v4 k2_horizon plamo3",
    "0.33": "muse step5",
}
SINCE = {name: Version(version) for version, names in _SINCE.items() for name in names.split()}
"""The first version that has a parser; those not named here are in 0.11.0 already.

Read from the registries of 0.11.0, 0.11.2, 0.12 to 0.15, 0.18, 0.23 to 0.25, 0.27, 0.28, 0.32 and 0.33.
"""

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
