"""Parsers that fit a model."""

from __future__ import annotations

import pytest

from vllm_adapters.doctor.parsers import by_name, by_tokens


@pytest.mark.parametrize(
    ("name", "tools", "reasoning"),
    [
        ("Qwen/Qwen3-8B", "hermes", "qwen3"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_coder", None),
        ("Qwen/Qwen2.5-7B-Instruct", "hermes", "qwen3"),
        ("openai/gpt-oss-20b", "openai", "openai_gptoss"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "hermes", "deepseek_r1"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek_v31", "deepseek_v3"),
        ("deepseek-ai/DeepSeek-V3.2", "deepseek_v32", "deepseek_v3"),
        ("deepseek-ai/DeepSeek-V4.1", "deepseek_v41", "deepseek_v41"),
        ("moonshotai/Kimi-K3", "kimi_k3", "kimi_k3"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", "qwen3_coder", "nemotron_v3"),
        ("stepfun-ai/Step-3.5-Flash", "step3p5", "step3p5"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json", None),
        ("meta-llama/Llama-4-Scout-17B-16E", "llama4_pythonic", None),
        ("mistralai/Mistral-Small-3.2-24B", "mistral", "mistral"),
        ("zai-org/GLM-4.5-Air", "glm45", "glm45"),
        ("ibm-granite/granite_4.0-h", "granite4", "granite"),
        ("Salesforce/Llama-xLAM-2-8b-fc-r", "xlam", None),
        ("ai21labs/AI21-Jamba-Mini-1.7", "jamba", None),
        ("a-model", None, None),
    ],
)
def test_parsers_by_name(name, tools, reasoning):
    assert by_name(name) == (tools, reasoning)


def test_model_path_is_matched_too():
    assert by_name("chat", "/models/Qwen3-8B").reasoning == "qwen3"


def test_parsers_by_special_tokens():
    assert by_tokens(["<think>", "<tool_call>", "[", "TOOL"]) == ("hermes", "qwen3")
    assert by_tokens(["[TOOL_CALLS]", "[THINK]", "<"]) == ("mistral", "mistral")
    assert by_tokens(["<", "think", ">"]) == (None, None)
