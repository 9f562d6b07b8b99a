"""Train the ``tiny`` chat model that ``LocalVLLM`` serves, and check its expected replies.

It is a test double with real weights: about a million parameters, trained on generated dialogues (``tiny_dialogues``).
Run it with a Python that has torch and transformers, such as that of the local vLLM:

    train_tiny.py --minutes 20                               train and write the weights
    train_tiny.py --resume --minutes 20                      continue from the existing weights
    train_tiny.py --check                                    check the expected replies with transformers
    train_tiny.py --check --url http://127.0.0.1:8000/v1     ... with a running vLLM
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny_dialogues import Author, Dialogue

MODEL_DIR = Path(__file__).resolve().parents[1] / "adapters" / "vllm_adapters" / "local" / "models" / "tiny"
END, PAD = "<|im_end|>", "<pad>"
SPECIAL = ["<|endoftext|>", END, PAD]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
# One token per space, digit and mark, so that a word has the same tokens everywhere: this makes it easy for so small a
# model to copy an argument from the question.
SPLIT = r"[A-Za-z]+|\p{L}|\p{N}|\s|[^\s\p{L}\p{N}]"
SHAPE = {
    "vocab_size": 1152,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}
LONGEST = 420


def make_tokenizer(model_dir: Path) -> None:
    """Train the byte-level BPE on the dialogues, and write it with its configuration."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    author = Author(0)
    texts = []
    for dialogue in (author.write() for _ in range(6000)):
        reply = "".join(text for text, _ in dialogue.reply)
        texts.append(json.dumps(dialogue.messages, ensure_ascii=False) + reply + (dialogue.thought or ""))
    trainer = trainers.BpeTrainer(
        vocab_size=1100,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    tokenizer.save(str(model_dir / "tokenizer.json"))
    # PreTrainedTokenizerFast exists in transformers 4 and 5.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "bos_token": None,
        "unk_token": None,
        "model_max_length": SHAPE["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    (model_dir / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_config(model_dir: Path, end: int, pad: int) -> None:
    """Write a ``config.json`` for transformers 4 and 5 (rope and dtype under both names)."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **SHAPE,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    (model_dir / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # vLLM reads its defaults from here: without a temperature, replies are deterministic.
    generation = {"eos_token_id": end, "pad_token_id": pad, "temperature": 0.0}
    (model_dir / "generation_config.json").write_text(json.dumps(generation) + "\n", encoding="utf-8")


class Encoder:
    """Encodes dialogues as token ids, with a mask of the positions to learn."""

    def __init__(self, model_dir: Path) -> None:
        import jinja2.sandbox
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        # A grammar may force an unusual tokenization of a key.
        self.shuffled = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self.shuffled.model.dropout = 0.25
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self.template = environment.from_string((model_dir / "chat_template.jinja").read_text(encoding="utf-8"))
        self.end = self.tokenizer.token_to_id(END)
        self.pad = self.tokenizer.token_to_id(PAD)

    def encode(self, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
        """Return the ids, and for each whether the model must learn it."""
        thinks = dialogue.thought is not None
        prompt = dialogue.prompt
        if prompt is None:
            prompt = self.template.render(
                messages=dialogue.messages,
                tools=dialogue.tools,
                add_generation_prompt=True,
                enable_thinking=thinks,
            )
        ids = self.tokenizer.encode(prompt).ids
        learn = [False] * len(ids)
        thought = [(f"{dialogue.thought}\n</think>\n\n", True)] if thinks else []
        for text, said in [*thought, *dialogue.reply]:
            piece = (self.tokenizer if said else self.shuffled).encode(text).ids
            ids += piece
            learn += [said] * len(piece)
        return [*ids, self.end], [*learn, True]


def batches(author: Author, encoder: Encoder, tokens: int) -> Iterator[list[tuple[list[int], list[bool]]]]:
    """Yield batches of about ``tokens`` tokens, of dialogues of similar length to reduce padding."""
    while True:
        examples = [encoder.encode(author.write()) for _ in range(1500)]
        examples = sorted((e for e in examples if len(e[0]) <= LONGEST), key=lambda e: len(e[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for example in examples:
            if (len(groups[-1]) + 1) * len(example[0]) > tokens:
                groups.append([])
            groups[-1].append(example)
        author.r.shuffle(groups)
        yield from groups


def orthogonal(matrices: Any) -> Any:
    """Return the nearest semi-orthogonal matrices, by Newton-Schulz iterations: the step of Muon.

    torch's own Muon computes it in bfloat16, which is twenty times slower on a CPU without such instructions.
    """
    flat = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    flat = flat / (flat.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in [
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
    ]:
        gram = flat @ flat.mT
        flat = a * flat + (b * gram + c * gram @ gram) @ flat
    return flat if matrices.shape[1] <= matrices.shape[2] else flat.mT


class Muon:
    """Momentum with orthogonal steps: trains matrices in about half the steps of AdamW."""

    def __init__(self, parameters: list[Any]) -> None:
        import torch

        shapes = {tuple(p.shape) for p in parameters}
        self.groups = [[p for p in parameters if tuple(p.shape) == shape] for shape in sorted(shapes)]
        self.momenta = [torch.zeros(len(group), *group[0].shape) for group in self.groups]

    def step(self, rate: float) -> None:
        """Take one step, scaled for the learning rate of AdamW."""
        import torch

        with torch.no_grad():
            for group, momentum in zip(self.groups, self.momenta, strict=True):
                gradients = torch.stack([p.grad for p in group])
                momentum.lerp_(gradients, 0.05)
                update = orthogonal(gradients.lerp(momentum, 0.95)) * (0.2 * math.sqrt(max(group[0].shape)))
                for parameter, change in zip(group, update, strict=True):
                    parameter.sub_(change, alpha=rate)
                    parameter.grad = None


def train(model_dir: Path, minutes: float, resume: bool, seed: int, peak: float) -> None:
    """Train for a number of minutes, and write config, tokenizer and weights."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    if not resume:
        make_tokenizer(model_dir)
    encoder = Encoder(model_dir)
    write_config(model_dir, encoder.end, encoder.pad)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(model_dir)).float()
    if resume:
        model.load_state_dict(load_file(model_dir / "model.safetensors"), strict=False)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    print(f"{model.num_parameters():,} parameters, {encoder.tokenizer.get_vocab_size()} tokens")
    started, step, seen, shown = time.monotonic(), 0, 0, 0.0
    model.train()
    for batch in batches(Author(seed + 1), encoder, 4096):
        done = (time.monotonic() - started) / (minutes * 60)
        if done >= 1:
            break
        rate = peak * min(1.0, (step + 1) / 60) * min(1.0, max(1e-3, (1 - done) / 0.6))
        adam.param_groups[0]["lr"] = rate
        length = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [encoder.pad] * (length - len(ids)) for ids, _ in batch])
        learn = torch.tensor([learn + [False] * (length - len(learn)) for _, learn in batch])[:, 1:]
        # The padding follows the learnt tokens, so the causal mask is sufficient.
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = hidden[learn] @ model.model.embed_tokens.weight.T
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][learn])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step(rate)
        adam.step()
        adam.zero_grad()
        seen += ids.numel()
        shown = loss.item() if step == 0 else 0.98 * shown + 0.02 * loss.item()
        if step % 100 == 0:
            now = time.monotonic() - started
            print(f"step {step}  loss {shown:.4f}  {now:.0f} s  {seen / now:.0f} tokens/s", flush=True)
        if math.isnan(shown):
            raise SystemExit("The loss is NaN. Lower --peak.")
        step += 1
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
    print(f"{step} steps, {seen:,} tokens; wrote {model_dir}")


def replies_of_transformers(model_dir: Path) -> Any:
    """Return a function that generates the raw reply to a request."""
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    encoder = Encoder(model_dir)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(model_dir)).float().eval()
    model.load_state_dict(load_file(model_dir / "model.safetensors"), strict=False)

    def reply(promise: dict[str, Any]) -> str:
        prompt = promise.get("prompt") or encoder.template.render(
            messages=promise["messages"],
            tools=promise.get("tools"),
            add_generation_prompt=True,
            enable_thinking=promise.get("thinking", False),
        )
        ids = torch.tensor([encoder.tokenizer.encode(prompt).ids])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=450,
            do_sample=False,
            eos_token_id=encoder.end,
            pad_token_id=encoder.pad,
        )
        return str(encoder.tokenizer.decode(out[0, ids.shape[1] :].tolist(), skip_special_tokens=True))

    return reply


def parse(text: str) -> dict[str, Any]:
    """Parse a raw reply as vLLM's qwen3 and hermes parsers do."""
    thought, mark, rest = text.rpartition("</think>")
    content, *calls = rest.split("<tool_call>")
    found = []
    for body in calls:
        try:
            found.append(json.loads(body.partition("</tool_call>")[0]))
        except json.JSONDecodeError:
            found.append({"broken": body})
    calls_made = [[c.get("name"), c.get("arguments")] for c in found]
    return {"content": content.strip(), "calls": calls_made, "reasoning": thought.strip() if mark else ""}


def replies_of_server(url: str) -> Any:
    """Return a function that gets the parsed reply to a request from a running vLLM."""

    def post(path: str, body: dict[str, Any]) -> Any:
        data = json.dumps({"model": "tiny", "temperature": 0, "max_tokens": 450, **body}).encode()
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)["choices"][0]

    def reply(promise: dict[str, Any]) -> dict[str, Any]:
        body = dict(promise.get("request", {}))
        if "prompt" in promise:
            return {
                "content": post("/completions", {"prompt": promise["prompt"], **body})["text"].strip(),
                "calls": [],
                "reasoning": "",
            }
        if "thinking" in promise:
            body["chat_template_kwargs"] = {"enable_thinking": promise["thinking"]}
        if promise.get("tools"):
            body["tools"] = promise["tools"]
        message = post("/chat/completions", {"messages": promise["messages"], **body})["message"]
        calls = [
            [c["function"]["name"], json.loads(c["function"]["arguments"])] for c in message.get("tool_calls") or []
        ]
        content, reasoning = message.get("content") or "", message.get("reasoning") or ""
        return {"content": content.strip(), "calls": calls, "reasoning": reasoning.strip()}

    return reply


def check(model_dir: Path, url: str | None) -> int:
    """Print one line per expected reply; return the number of wrong ones."""
    promises = json.loads((model_dir / "promises.json").read_text(encoding="utf-8"))
    answer = replies_of_server(url) if url else replies_of_transformers(model_dir)
    wrong = tried = 0
    for name, promise in promises.items():
        if not url and "request" in promise:
            continue  # grammars need the server
        tried += 1
        found = answer(promise) if url else parse(answer(promise))
        expected = {"content": "", "calls": [], "reasoning": "", **promise["expect"]}
        if "json" in expected:
            try:
                found["json"], found["content"] = json.loads(found["content"]), ""
            except json.JSONDecodeError:
                found["json"] = "not JSON"
        correct = all(found.get(key) == value for key, value in expected.items())
        wrong += not correct
        print(f"{'ok   ' if correct else 'WRONG'} {name}")
        if not correct:
            print(f"       expected {json.dumps(expected, ensure_ascii=False)}")
            print(f"       found    {json.dumps(found, ensure_ascii=False)}")
    print(f"{tried - wrong} of {tried} replies correct")
    return wrong


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model-dir", type=Path, default=MODEL_DIR, help="folder of chat_template.jinja and of the weights"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="training time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--resume", action="store_true", help="continue from the existing weights")
    parser.add_argument("--check", action="store_true", help="check the expected replies instead of training")
    parser.add_argument("--url", help="with --check: use this vLLM instead of transformers")
    args = parser.parse_args()
    if args.check:
        return 1 if check(args.model_dir, args.url) else 0
    train(args.model_dir, args.minutes, args.resume, args.seed, args.peak)
    return 0


if __name__ == "__main__":
    sys.exit(main())
