"""Build a tiny BERT with random weights, for endpoints that need a model with a classification head.

Run with vLLM's environment: ``python bert.py TOKENIZER_DIR OUT LABEL [LABEL ...]``
With one label it is a cross-encoder (/rerank, /score), with several a classifier (/classify). The weights come from
a fixed seed, so the outputs are reproducible, and meaningless.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification


def build(tokenizer_dir: Path, out: Path, labels: list[str]) -> None:
    """Write weights and config, and copy the tokenizer of another BERT."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=256,
        # Large enough for clearly different scores of different texts.
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
    build(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
