"""Pages of the recipes: what a recipe does, what it needs, its program, and what it printed in a recorded run."""

from __future__ import annotations

import json
import re
from pathlib import Path

from vllm_adapters._cli.recipes import Recipe, all_recipes

__all__ = ["RECIPES", "all_recipes", "content", "find", "groups", "path"]

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
OUTPUTS = ROOT / "tests" / "recipes" / "outputs.json"
GROUPS = ("The client", "LangChain", "LlamaIndex", "Haystack", "Folders")
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh"}


def groups() -> dict[str, list[Recipe]]:
    """Return the recipes by heading."""
    found = all_recipes()
    return {group: [recipe for recipe in found if recipe.group == group] for group in GROUPS}


def find(source: Path) -> Recipe | None:
    """Return the recipe of a file or folder."""
    return next((recipe for recipe in all_recipes() if recipe.path == source), None)


def path(recipe: Recipe) -> str:
    """Return the path of its page in the site."""
    return f"recipes/{recipe.name}.md"


def title(recipe: Recipe) -> str:
    """Return its name in words."""
    names = {"langchain": "LangChain", "llamaindex": "LlamaIndex", "haystack": "Haystack", "openai": "OpenAI"}
    names |= {"vllm": "vLLM", "chatopenai": "ChatOpenAI", "openaichatgenerator": "OpenAIChatGenerator"}
    names |= {"openailike": "OpenAILike"}
    words = [names.get(word, word) for word in recipe.name.split("_")]
    return " ".join([words[0].capitalize(), *words[1:]])


def _needs(lines: list[str]) -> str:
    """Return what a recipe needs as a list; its commands are in the program, too."""
    items: list[list[str]] = []
    for line in lines:
        title, colon, text = line.partition(":")
        if colon and title.isalpha():
            items.append([f"**{title}:** {text.strip()}"])
        elif items:
            items[-1].append(line.strip())
        else:
            items.append([line.strip()])
    return "\n".join("- " + " ".join(item).replace("\\ ", "") for item in items)


def _notebook(file: Path) -> str:
    """Return the Markdown of a notebook: its cells, and what they printed."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"^#", "##", source, flags=re.M))
            continue
        parts.append(f"````python\n{source}\n````")
        for output in cell["outputs"]:
            parts.append("```text\n" + "".join(output["text"]).rstrip("\n") + "\n```")
    return "\n\n".join(parts)


def content(recipe: Recipe) -> str:
    """Return the Markdown of its page."""
    summary, *needs = recipe.header
    parts = [f"---\ntitle: {title(recipe)}\n---\n\n# {title(recipe)}", summary]
    if needs := [line for line in needs if line.strip()]:
        parts.append(_needs(needs))
    parts.append(f"```sh\nvllm-adapters recipes copy {recipe.name}\n```")
    for file in recipe.files:
        name = file.name if recipe.path.is_file() else f"{recipe.name}/{file.name}"
        if file.suffix == ".ipynb":
            parts.append(_notebook(file))
            continue
        if file.name == "README.md":  # its first lines are the header
            continue
        language = LANGUAGES.get(file.suffix, "text")
        parts.append(f'````{language} title="{name}"\n{file.read_text(encoding="utf-8")}````')
    outputs = json.loads(OUTPUTS.read_text(encoding="utf-8")) if OUTPUTS.exists() else {}
    if lines := outputs.get(recipe.name):
        parts.append("It printed, with the small test models:")
        parts.append("```text\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts) + "\n"
