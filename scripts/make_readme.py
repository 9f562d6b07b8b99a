"""Makes the README's tables, between ``<!-- made: NAME -->`` and ``<!-- end -->``: ``make readme``."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from vllm_adapters import params

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PARTS = ("client", "LangChain", "LlamaIndex", "Haystack")
MADE = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.S)
SHOWN_ENDPOINTS = ("chat", "completions", "embeddings", "rerank")


def parity() -> str:
    """Capability by part; each mark leads to the file of the test that proves it."""
    table = tomllib.loads((ROOT / "tests" / "docs" / "parity.toml").read_text(encoding="utf-8"))
    rows = ["| | " + " | ".join(PARTS) + " |", "|---" * (len(PARTS) + 1) + "|"]
    for capability, tests in table.items():
        cells = [_proof(tests[part]) for part in PARTS]
        rows.append(f"| {capability} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _proof(test: str) -> str:
    if test == "-":
        return ""
    file, name = test.split("::")
    return f'[✓](tests/{file} "{name}")'


def parameters() -> str:
    """Every parameter that vLLM adds to the endpoints that frameworks ask."""
    rows = ["| Parameter | Type | Of | |", "|---|---|---|---|"]
    models = {endpoint: params.MODELS[endpoint] for endpoint in SHOWN_ENDPOINTS}
    names = dict.fromkeys(name for model in models.values() for name in model.model_fields)
    for name in sorted(names):
        having = [endpoint for endpoint, model in models.items() if name in model.model_fields]
        field = models[having[0]].model_fields[name]
        text = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {_type(field.annotation)} | {', '.join(having)} | {text} |")
    return "\n".join(rows)


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    if any(isinstance(kind, str) for kind in kinds):
        return "one of " + ", ".join(f"`{kind}`" for kind in kinds)
    if get_origin(annotation) in (dict, list):
        return str(get_origin(annotation).__name__)
    if len(kinds) == 1 and kinds[0] is annotation:
        return str(getattr(annotation, "__name__", annotation)).replace("|", "\\|")
    return " or ".join(dict.fromkeys(_type(kind) for kind in kinds))


def _measured(name: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((ROOT / "benchmarks" / "measured.json").read_text(encoding="utf-8"))[name]
    return figures


def cost() -> str:
    """What ``make bench ARGS=--save`` measured last, of what it promises."""
    figures = _measured("cost")
    rows = [f"| CPU time, on openai {figures['openai']} | ours / stock | promised, within 5 % |", "|---|---|---|"]
    rows += [f"| {title} | {ratio:.2f} | {most:.2f} |" for title, (ratio, most) in figures["ratios"].items()]
    return "\n".join(rows)


def soak() -> str:
    """What ``make soak ARGS=--save`` counted last."""
    figures = _measured("soak")
    rows = [
        "| Calls | |",
        "|---|---|",
        f"| made | {figures['calls']}, in {figures['minutes']:.0f} minutes |",
        f"| right | {figures['right']} |",
        f"| left or cancelled on purpose | {figures['left']} |",
        f"| ended in an error of ours | {sum(figures['errors'].values())} |",
        f"| wrong, hung, or in an error of another kind | {figures['failures']} |",
        f"| the longest, of {figures['limit']:.0f} s allowed | {figures['longest']} s |",
        "",
        "| Held by the process | when warm | at the end |",
        "|---|---|---|",
    ]
    rows += [f"| {name} | {figures['warm'][name]:.0f} | {figures['end'][name]:.0f} |" for name in figures["warm"]]
    return "\n".join(rows)


SECTIONS = {"parity": parity, "parameters": parameters, "cost": cost, "soak": soak}


def made(text: str) -> str:
    """``text`` with every section made anew."""
    return MADE.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]()}\n\n{match[3]}", text)


if __name__ == "__main__":
    README.write_text(made(README.read_text(encoding="utf-8")), encoding="utf-8")
