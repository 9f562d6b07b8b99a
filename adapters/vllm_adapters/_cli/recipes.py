"""``vllm-adapters recipes``: list, show and copy the recipes, which are part of the package."""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INSTALLED = Path(__file__).parent.parent / "_recipes"
_CHECKOUT = Path(__file__).parent.parent.parent.parent / "recipes"
_FRAMEWORKS = {"langchain": "LangChain", "llamaindex": "LlamaIndex", "haystack": "Haystack"}
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*")


@dataclass(frozen=True)
class Recipe:
    """One recipe: a program, or a folder of files.

    Args:
        path: The program or the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return self.path.stem

    @property
    def files(self) -> list[Path]:
        """Its files, in order."""
        if self.path.is_file():
            return [self.path]
        return [file for file in sorted(self.path.iterdir()) if file.is_file()]

    @property
    def text(self) -> str:
        """Text of the program, or of the first file."""
        return self.files[0].read_text(encoding="utf-8")

    @property
    def header(self) -> list[str]:
        """Lines of its header: a summary first, then what it needs and how to run it."""
        if self.files[0].suffix == ".py":
            return (ast.get_docstring(ast.parse(self.text)) or "").splitlines()
        return [line.removeprefix("#").strip() for line in self.text.split("\n\n")[0].splitlines()]

    @property
    def group(self) -> str:
        """Heading under which it is listed."""
        if self.path.is_dir():
            return "Folders"
        needs = re.search(r"vllm-adapters\[(\w+)", self.text)
        return _FRAMEWORKS[needs[1]] if needs else "The client"


def all_recipes() -> list[Recipe]:
    """Return all recipes, sorted by name."""
    return [Recipe(path) for path in sorted(_paths())]


def _paths() -> Iterator[Path]:
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    for path in folder.iterdir():
        if path.suffix == ".py" or (path.is_dir() and not path.name.startswith(("_", "."))):
            yield path


def find(name: str) -> Recipe:
    """Return the recipe with this name, with or without ``.py``.

    Raises:
        VLLMError: No recipe has this name. The error suggests similar names.
    """
    from vllm_adapters.errors import VLLMError

    known = {recipe.name: recipe for recipe in all_recipes()}
    name = name.removesuffix(".py").rstrip("/")
    if name in known:
        return known[name]
    similar = [known_name for known_name in known if name in known_name] or difflib.get_close_matches(name, known)
    *others, last = similar or [""]
    suggestion = f"{', '.join(others)} or {last}" if others else last
    hint = f"Did you mean {suggestion}?" if similar else "Run vllm-adapters recipes list to see all names"
    raise VLLMError(f"The recipe {name!r} does not exist", hint=hint)


def add_recipes_parser(subparsers: Any) -> None:
    """Add the ``recipes`` command.

    Args:
        subparsers: Result of ``ArgumentParser.add_subparsers()``.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "recipes",
        help="short example programs to copy",
        description="Short example programs to copy, one task each. They read the server from VLLM_BASE_URL, "
        "VLLM_API_KEY and VLLM_MODEL. The header of each says what it needs.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="list all recipes").set_defaults(run=_list)
    show = actions.add_parser("show", help="print a recipe")
    show.set_defaults(run=_show)
    copy = actions.add_parser("copy", help="copy a recipe into a folder")
    copy.set_defaults(run=_copy)
    for action in (show, copy):
        action.add_argument("name", metavar="NAME", help="name of the recipe")
    copy.add_argument("folder", metavar="DIR", nargs="?", default=".", help="target folder (default: the current one)")


def _list(args: argparse.Namespace) -> int:
    recipes = all_recipes()
    margin = max(len(recipe.name) for recipe in recipes) + 2
    if not sys.stdout.isatty():  # one line per recipe, for grep
        for recipe in recipes:
            print(f"{recipe.name:<{margin}}{recipe.header[0]}")  # noqa: T201
        return 0
    width = shutil.get_terminal_size().columns
    wide = width > margin + 30
    for group in ["The client", *_FRAMEWORKS.values(), "Folders"]:
        print(group)  # noqa: T201
        for recipe in recipes:
            if recipe.group == group:
                line = (
                    f"  {recipe.name:<{margin}}{recipe.header[0]}" if wide else f"  {recipe.name}: {recipe.header[0]}"
                )
                print(textwrap.fill(line, width, subsequent_indent=" " * (margin + 2 if wide else 4)))  # noqa: T201
        print()  # noqa: T201
    print("vllm-adapters recipes show NAME, or copy NAME [DIR]")  # noqa: T201
    return 0


def _show(args: argparse.Namespace) -> int:
    recipe = find(args.name)
    for file in recipe.files:
        if recipe.path.is_dir():
            print(f"# --- {recipe.name}/{file.name}")  # noqa: T201
        print(file.read_text(encoding="utf-8"), end="")  # noqa: T201
    return 0


def _copy(args: argparse.Namespace) -> int:
    from vllm_adapters.errors import VLLMError

    recipe, target = find(args.name), Path(args.folder)
    if recipe.path.suffix != target.suffix or target.is_dir():
        target /= recipe.path.name
    if target.exists():
        raise VLLMError(f"{target} already exists", hint="Choose another folder; existing files are not overwritten")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if recipe.path.is_dir():
            shutil.copytree(recipe.path, target, ignore=_NOT_COPIED)
        else:
            shutil.copyfile(recipe.path, target)
    except OSError as error:
        raise VLLMError(f"Cannot copy to {target}: {error.strerror}") from error
    print(target)  # noqa: T201
    if sys.stdout.isatty():
        print("\n".join(recipe.header[1:]).rstrip())  # noqa: T201
    return 0
