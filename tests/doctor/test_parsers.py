"""Parsers that fit a model."""

from __future__ import annotations

import pytest

from vllm_adapters.doctor.parsers import _BY_NAME, _BY_TOKEN, SINCE, by_name, by_tokens


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
        ("zai-org/GLM-5", "glm47", "glm45"),
        ("tencent/Hy3-Instruct", "hy_v3", "hy_v3"),
        ("tencent/Hunyuan-4", "hy_v4", "hy_v4"),
        ("tencent/Hunyuan-A13B-Instruct", "hunyuan_a13b", "hunyuan_a13b"),
        ("rednote-hilab/dots.llm2", "dots", None),
        ("inclusionAI/Ling-3-flash", "ling3", "ling3"),
        ("poolside/Laguna", "poolside_v1", "poolside_v1"),
        ("openbmb/MiniCPM5-8B", "minicpm5", None),
        ("stepfun-ai/Step-5", "step5", "step5"),
        ("CohereLabs/c4ai-command-a-03-2025", "cohere_command3", "cohere_command3"),
        ("CohereLabs/command-4", "cohere_command4", "cohere_command4"),
        ("meta-llama/Muse-Spark", "muse", "muse"),
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


def test_versions_are_of_parsers_in_the_table():
    used = {name for parsers in (*_BY_NAME.values(), *_BY_TOKEN.values()) for name in parsers}
    assert set(SINCE) <= used
