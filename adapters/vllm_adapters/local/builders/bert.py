"""A tiny BERT with random weights, for the endpoints that need a model with a classification head.

Runs inside the environment of vLLM: `python bert.py TOKENIZER_DIR OUT LABEL [LABEL ...]`
One label makes a cross-encoder (/rerank, /score), several a classifier (/classify). The weights come from a
fixed seed: what it says is always the same, and means nothing.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification


def make(tokenizer_dir: Path, out: Path, labels: list[str]) -> None:
    """Writes weights and config, and the tokenizer of another BERT beside them."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=256,
        # Large enough that different texts get visibly different scores.
        initializer_range=0.4,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    BertForSequenceClassification(config).float().eval().save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (tokenizer_dir / name).is_file():
            shutil.copy(tokenizer_dir / name, out / name)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
