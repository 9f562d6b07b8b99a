"""Train the ``eye`` vision model that ``LocalVLLM`` serves, and check its answers.

A test double with real weights, like ``tiny``: it names the colors of plain images, in order, and counts the images.
Run it with a Python that has torch and transformers, such as that of the local vLLM:

    train_eye.py --minutes 20                               train and write the weights
    train_eye.py --check --url http://127.0.0.1:8000/v1     check its answers with a running vLLM
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from eye_questions import COLORS, QuestionGenerator
from train_tiny import END, PAD, SPLIT, Muon
from train_tiny import MODEL_DIR as TINY_DIR

MODEL_DIR = TINY_DIR.with_name("eye")
IMAGE = "<image>"
SIDE, PATCH = 32, 16  # pixels; an image has four tokens
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 64,
    "hidden_act": "quick_gelu",
}
TEXT = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "dtype": "float32",
}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(model_dir: Path) -> Any:
    """Train the byte-level BPE on questions and answers, and write it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    generator = QuestionGenerator(0)
    lines = [f"user:{text}\nassistant:{reply}" for _, text, reply in (generator.example() for _ in range(4000))]
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT["vocab_size"] - 1,
        special_tokens=["<|endoftext|>", END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,  # rarer words are nonsense, and stay single letters
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    tokenizer.save(str(model_dir / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "LlavaProcessor",
        "eos_token": END,
        "pad_token": PAD,
        "bos_token": None,
        "unk_token": None,
        "model_max_length": TEXT["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    write_json(model_dir / "tokenizer_config.json", settings)
    return tokenizer


def write_config(model_dir: Path, tokenizer: Any) -> None:
    """Write the configuration of the model, its image processor and its sampling."""
    end, pad, image = (tokenizer.token_to_id(token) for token in (END, PAD, IMAGE))
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_config": VISION,
        "text_config": {**TEXT, "eos_token_id": end, "pad_token_id": pad},
        "image_token_index": image,
        "image_token_id": image,
        "image_seq_length": (SIDE // PATCH) ** 2,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": True,
        "eos_token_id": end,
        "pad_token_id": pad,
        "dtype": "float32",
    }
    write_json(model_dir / "config.json", config)
    write_json(model_dir / "generation_config.json", {"eos_token_id": end, "pad_token_id": pad, "temperature": 0.0})
    images = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 3,
        "do_center_crop": False,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    write_json(model_dir / "preprocessor_config.json", images)
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": IMAGE,
    }
    write_json(model_dir / "processor_config.json", processor)


def draw(generator: QuestionGenerator, colors: list[str]) -> Any:
    """Return preprocessed images of these colors: plain, noisy, or with a spot of another color."""
    import torch

    images = torch.empty(len(colors), 3, SIDE, SIDE)
    for image, color in zip(images, colors, strict=True):
        image[:] = torch.tensor(generator.shade(color)).view(3, 1, 1)
        if generator.r.random() < 0.25:
            width, height = generator.r.randint(2, SIDE // 2), generator.r.randint(2, SIDE // 2)
            left, top = generator.r.randint(0, SIDE - width), generator.r.randint(0, SIDE - height)
            spot = generator.shade(generator.r.choice(list(COLORS)))
            image[:, top : top + height, left : left + width] = torch.tensor(spot).view(3, 1, 1)
        if generator.r.random() < 0.25:
            image += torch.randn(image.shape) * generator.r.uniform(0, 0.06)
    return (images.clamp(0, 1) - 0.5) / 0.5


def train(model_dir: Path, minutes: float, seed: int, peak: float) -> None:
    """Train for a number of minutes, and write config, tokenizer and weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(seed)
    tokenizer = write_tokenizer(model_dir)
    write_config(model_dir, tokenizer)
    end, pad = (tokenizer.token_to_id(token) for token in (END, PAD))
    model = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(model_dir)).float().train()
    learnt = {n: p for n, p in model.named_parameters() if "post_layernorm" not in n}  # unused
    matrices = [p for n, p in learnt.items() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    others = [p for n, p in learnt.items() if not any(p is m for m in matrices)]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    print(f"{sum(p.numel() for p in learnt.values()):,} parameters, {tokenizer.get_vocab_size()} tokens")
    generator, started, step, shown = QuestionGenerator(seed + 1), time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - started) / (minutes * 60)) < 1:
        rate = peak * min(1.0, (step + 1) / 60) * min(1.0, max(1e-3, (1 - done) / 0.6))
        adam.param_groups[0]["lr"] = rate
        rows, learn, pictures = [], [], []
        for colors, text, reply in (generator.example() for _ in range(64)):
            seen = "".join(f"{n}:{IMAGE * (SIDE // PATCH) ** 2}\n" for n in range(1, len(colors) + 1))
            prompt = tokenizer.encode(f"{seen}user:{text}\nassistant:").ids
            answer = [*tokenizer.encode(reply).ids, end]
            rows.append(prompt + answer)
            learn.append([False] * len(prompt) + [True] * len(answer))
            pictures.append(draw(generator, colors))
        length = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
        wanted = torch.tensor([row + [False] * (length - len(row)) for row in learn])[:, 1:]
        # The padding follows the learnt tokens, so the causal mask is sufficient.
        logits = model(input_ids=ids, pixel_values=torch.cat(pictures), use_cache=False).logits[:, :-1][wanted]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(learnt.values()), 1.0)
        muon.step(rate)
        adam.step()
        adam.zero_grad()
        shown = loss.item() if step == 0 else 0.98 * shown + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"step {step}  loss {shown:.4f}  {time.monotonic() - started:.0f} s", flush=True)
        step += 1
    # Half precision is enough. The names are those of LLaVA's checkpoints, which vLLM reads.
    weights = {
        checkpoint_name(name): tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if name in learnt and name != "lm_head.weight"
    }
    save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
    print(f"{step} steps; wrote {model_dir}")


def checkpoint_name(name: str) -> str:
    """Return the name of a weight in LLaVA's checkpoints; transformers 5 names the vision tower differently."""
    name = name.removeprefix("model.")
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name.replace("language_model.", "language_model.model.", 1)


def data_url(shade: tuple[float, float, float], size: tuple[int, int]) -> str:
    """Return a PNG of one color as a data URL."""
    from PIL import Image

    file = io.BytesIO()
    red, green, blue = (round(255 * part) for part in shade)
    Image.new("RGB", size, (red, green, blue)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def check(url: str, rounds: int) -> int:
    """Send questions about plain images of any size to a running vLLM; return the number of wrong answers."""
    generator, wrong = QuestionGenerator(4321), 0
    for _ in range(rounds):
        colors, text, wanted = generator.example()
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for color in colors:
            image = data_url(generator.shade(color), generator.r.choice([(8, 8), (64, 64), (300, 100), (30, 700)]))
            parts.append({"type": "image_url", "image_url": {"url": image}})
        body = {"model": "eye", "temperature": 0, "max_tokens": 60, "messages": [{"role": "user", "content": parts}]}
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{url}/chat/completions", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            reply = json.load(response)["choices"][0]["message"]["content"]
        if reply != wanted:
            wrong += 1
            print(f"{text!r} about {colors}: expected {wanted!r}, got {reply!r}")
    print(f"{rounds - wrong} of {rounds} answers right")
    return wrong


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=MODEL_DIR, help="folder of the weights")
    parser.add_argument("--minutes", type=float, default=20.0, help="training time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--check", action="store_true", help="check the answers instead of training")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="with --check: address of the vLLM server")
    parser.add_argument("--rounds", type=int, default=300, help="with --check: number of questions")
    args = parser.parse_args()
    if args.check:
        return 1 if check(args.url, args.rounds) else 0
    train(args.model_dir, args.minutes, args.seed, args.peak)
    return 0


if __name__ == "__main__":
    sys.exit(main())
