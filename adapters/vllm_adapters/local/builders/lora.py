"""Build a small LoRA adapter with random weights for a Llama model, to try vLLM's adapter endpoints.

Run with vLLM's environment: ``python lora.py MODEL_DIR OUT SEED``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

RANK = 8
SCALE = 0.4  # large enough to change the replies even of an overfitted model


def build(model_dir: Path, out: Path, seed: int) -> None:
    """Write the adapter in PEFT's format."""
    generator = torch.Generator().manual_seed(seed)
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    widths = {"q_proj": heads * head, "v_proj": config["num_key_value_heads"] * head}
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, width in widths.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = SCALE * torch.randn(RANK, hidden, generator=generator)
            tensors[f"{prefix}.lora_B.weight"] = SCALE * torch.randn(width, RANK, generator=generator)
    save_file(tensors, out / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model_dir.name,
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(widths),
        "inference_mode": True,
    }
    (out / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
