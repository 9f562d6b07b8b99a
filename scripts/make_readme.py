"""Make the tables of the README, between ``<!-- made: NAME -->`` and ``<!-- end -->``: ``make readme``."""

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
SECTION = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.S)
SHOWN_ENDPOINTS = ("chat", "completions", "embeddings", "rerank")


def parity() -> str:
    """Return the table of capabilities; each mark links to the test that proves it."""
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
    """Return the table of the parameters that vLLM adds to the endpoints of the frameworks."""
    rows = ["| Parameter | Type | Of | |", "|---|---|---|---|"]
    models = {endpoint: params.MODELS[endpoint] for endpoint in SHOWN_ENDPOINTS}
    names = dict.fromkeys(name for model in models.values() for name in model.model_fields)
    for name in sorted(names):
        endpoints = [endpoint for endpoint, model in models.items() if name in model.model_fields]
        field = models[endpoints[0]].model_fields[name]
        text = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {_type(field.annotation)} | {', '.join(endpoints)} | {text} |")
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
    results: dict[str, Any] = json.loads((ROOT / "benchmarks" / "measured.json").read_text(encoding="utf-8"))[name]
    return results


def cost() -> str:
    """Return the table of the last ``make bench ARGS=--save``: the ratios that have a limit."""
    results = _measured("cost")
    rows = [f"| CPU time, on openai {results['openai']} | ours / stock | limit, within 5 % |", "|---|---|---|"]
    rows += [f"| {title} | {ratio:.2f} | {limit:.2f} |" for title, (ratio, limit) in results["ratios"].items()]
    return "\n".join(rows)


def soak() -> str:
    """Return the tables of the last ``make soak ARGS=--save``."""
    results = _measured("soak")
    rows = [
        "| Calls | |",
        "|---|---|",
        f"| total | {results['calls']}, in {results['minutes']:.0f} minutes |",
        f"| correct | {results['correct']} |",
        f"| cancelled on purpose | {results['cancelled']} |",
        f"| ended in a VLLMError | {sum(results['errors'].values())} |",
        f"| wrong, hung, or ended in another error | {results['failures']} |",
        f"| longest, with a limit of {results['limit']:.0f} s | {results['longest']} s |",
        "",
        "| Resources of the process | after warm-up | at the end |",
        "|---|---|---|",
    ]
    rows += [f"| {name} | {results['warm'][name]:.0f} | {results['end'][name]:.0f} |" for name in results["warm"]]
    return "\n".join(rows)


SECTIONS = {"parity": parity, "parameters": parameters, "cost": cost, "soak": soak}


def make_sections(text: str) -> str:
    """Return ``text`` with every section made anew."""
    return SECTION.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]()}\n\n{match[3]}", text)


if __name__ == "__main__":
    README.write_text(make_sections(README.read_text(encoding="utf-8")), encoding="utf-8")
