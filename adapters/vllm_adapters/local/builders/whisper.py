"""Build a tiny Whisper that writes one sentence, whatever it hears, for the endpoints of audio.

Run with vLLM's environment: ``python whisper.py OUT``
Its layers add nothing, so what it writes depends on the position alone: each position embedding is that of the token
to write there. The weights come from a fixed seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.tokenization_whisper import LANGUAGES

SENTENCE = " I hear a sound."
END = "<|endoftext|>"
BEGINNING = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def build_tokenizer(out: Path) -> Tokenizer:
    """Write a tokenizer of bytes with Whisper's special tokens, each of them where its own has it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        *(END, "<|startoftranscript|>", *(f"<|{language}|>" for language in LANGUAGES)),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
        *(f"<|{step * 0.02:.2f}|>" for step in range(1501)),
    ]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(out / "tokenizer.json"))
    config = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 448}
    config |= dict.fromkeys(("eos_token", "bos_token", "unk_token", "pad_token"), END)
    (out / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (out / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return tokenizer


def build(out: Path) -> None:
    """Write tokenizer, feature extractor, config and weights."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(out)
    end, start = tokenizer.token_to_id(END), tokenizer.token_to_id(BEGINNING[0])
    ids = {"eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        num_mel_bins=80,
        d_model=128,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        bos_token_id=end,
        **ids,
    )
    model = WhisperForConditionalGeneration(config).float().eval()
    decoder = model.model.decoder
    written = [*BEGINNING[1:], *tokenizer.encode(SENTENCE).tokens, "<|1.00|>"]
    targets = [tokenizer.token_to_id(token) for token in written]
    with torch.no_grad():
        for layer in decoder.layers:
            for part in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                part.weight.zero_()
                part.bias.zero_()
        vectors = torch.nn.functional.normalize(torch.randn(config.vocab_size, config.d_model), dim=1)
        decoder.embed_tokens.weight.copy_(vectors)
        steps = torch.tensor(targets + [end] * (config.max_target_positions - len(targets)))
        decoder.embed_positions.weight.copy_(8 * vectors[steps])
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(out)
    path = out / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "processor_class": "WhisperProcessor"}), encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
