"""Convert SmolLM2-135M-Instruct from GGUF to a Hugging Face directory.

Run with vLLM's environment, which has numpy, safetensors and tokenizers:
``python smollm2.py DIRECTORY_OF_THE_GGUF_PACKAGE FILE.gguf OUT``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

GLOBAL_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
BLOCK_TENSORS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # GGUF's type of control tokens


def unpermute(weight: Any, heads: int) -> Any:
    """Separate the two halves of each rotary head, which GGUF interleaves and Hugging Face does not."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def convert(source: Path, out: Path) -> None:
    """Write weights, config, tokenizer and chat template."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(source)

    def read(key: str) -> Any:
        return reader.fields[key].contents()

    arch = read("general.architecture")
    heads, kv_heads = read(f"{arch}.attention.head_count"), read(f"{arch}.attention.head_count_kv")
    tensors = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            if parts[2] in ("attn_q", "attn_k"):
                weight = unpermute(weight, heads if parts[2] == "attn_q" else kv_heads)
            name = f"model.layers.{parts[1]}.{BLOCK_TENSORS[parts[2]]}.weight"
        else:
            name = f"{GLOBAL_TENSORS[parts[0]]}.weight"
        # The weights in the file have 4 bits: half precision is lossless.
        tensors[name] = np.ascontiguousarray(weight.astype(np.float16))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})

    tokens, types, merges = (read(f"tokenizer.ggml.{part}") for part in ("tokens", "token_type", "merges"))
    theta = float(read(f"{arch}.rope.freq_base"))
    hidden = read(f"{arch}.embedding_length")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokens),
        "hidden_size": hidden,
        "intermediate_size": read(f"{arch}.feed_forward_length"),
        "num_hidden_layers": read(f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": read(f"{arch}.context_length"),
        "rms_norm_eps": float(read(f"{arch}.attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})

    tokenizer = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ", 1)) for m in merges])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, type_ in zip(tokens, types, strict=True) if type_ == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    write_json(out / "tokenizer_config.json", settings)
    (out / "chat_template.jinja").write_text(read("tokenizer.chat_template"), encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    convert(Path(sys.argv[2]), Path(sys.argv[3]))
