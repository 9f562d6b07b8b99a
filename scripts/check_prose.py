"""Check the prose of documentation and docstrings: ``make lint``.

proselint's checks, this project's own words, and the length of sentences. Code, tables' borders and links are left out.
The own words are those of an earlier vocabulary, each with what to write instead.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from proselint.checks import __register__
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [*sorted((ROOT / "adapters").rglob("*.py")), *sorted((ROOT / "recipes").rglob("*.py"))]

WORDS = {
    r"twins?": "async version",
    r"to\s+await": "async",
    r"rooms?|house": "framework package",
    r"tours?": "demo",
    r"(?<!there )(?:is|are) no (?!longer|more|less|\w+ing\b)\w+": "is not a ..., or invalid, unsupported, malformed",
    r"on order": "on demand; a fault-injection server",
    r"what must be": "the expected type",
    r"mend(?:s|ed|ing)?": "fix",
    r"worn|lanes?": "tainted, shard",
    r"(?:is|was|has been) said": "reported, documented",
    r"taken back": "dropped",
    r"of its own accord|by and by|withal": "a plain word",
}
"""What not to write, as patterns, and what to write instead."""

LONGEST_SENTENCE = 50
"""Words."""

CONFIG = {"max_errors": 1000, "checks": {**DEFAULT["checks"], "typography": False}}
"""proselint's; quotation marks and ellipses are those of code."""

CODE_BLOCK = re.compile(r"^( *)(`{3,}).*?^\1\2`*$", re.M | re.S)
DOCTEST = re.compile(r"^ *(?:>>>|\.\.\. ).*(?:\n(?! *$).*)*", re.M)


LITERAL = re.compile(r"::\n\n(?:(?: {4}.*)?\n)+")


def blank(match: re.Match[str]) -> str:
    """Return the line breaks of a match, so that the numbers of later lines stay."""
    return "\n" * match[0].count("\n")


def prose(text: str) -> str:
    """Return the text of Markdown or of a docstring without code, comments, tables and the targets of links."""
    text = LITERAL.sub(blank, text)
    for pattern in (CODE_BLOCK, DOCTEST, re.compile(r"<!--.*?-->|\A---\n.*?\n---\n", re.S)):
        text = pattern.sub(blank, text)
    text = re.sub(r"^ *\|.*$|^///.*$|^#+ .*$|^ +\S+::$|^ {4,}\S.*::\n", "", text, flags=re.M)
    text = re.sub(r"``.*?``|`[^`\n]*`", lambda match: "`" + blank(match) + "`", text, flags=re.S)
    return re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)


def own_style(text: str) -> Iterator[tuple[int, str]]:
    """Yield position and message of what the own style does not allow."""
    for pattern, instead in WORDS.items():
        for match in re.finditer(rf"\b(?:{pattern})\b", text, re.I):
            yield match.start(), f"{match[0]!r}: write {instead}."
    for match in re.finditer(
        r"(?:^|\n\s*\n|(?<=[.:!?])\s+|\n *[-*] )(\S[^.:!?]*(?:[.:!?](?!\s)[^.:!?]*)*[.:!?])", text
    ):
        if (count := len(match[1].split())) > LONGEST_SENTENCE and not re.search(r"\n *(?:[-*] |\w+: |\n)", match[1]):
            yield match.start(1), f"{count} words in a sentence: write at most {LONGEST_SENTENCE}."


def texts() -> Iterator[tuple[Path, int, str]]:
    """Yield file, first line and text of all prose."""
    for page in PAGES:
        yield page, 1, page.read_text(encoding="utf-8")
    for module in MODULES:
        tree = ast.parse(module.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node, clean=False)
                if text:
                    yield module, node.body[0].lineno, text


def main() -> None:
    """Print what to change, and exit with 1 if there is something."""
    registry = CheckRegistry()
    registry.register_many(__register__)
    found = 0
    for file, first, text in texts():
        plain = prose(text)
        problems = [(plain.count("\n", 0, position), message) for position, message in own_style(plain)]
        for result in LintFile(str(file), plain).lint(CONFIG):
            problems.append((result.pos[0] - 1, result.check_result.message))
        for line, message in sorted(problems):
            found += 1
            print(f"{file.relative_to(ROOT)}:{first + line}: {message}")
    if found:
        sys.exit(f"{found} sentences to change.")


if __name__ == "__main__":
    main()
