"""The training data of the ``eye`` model: named shades of color, questions about them, and the answers."""

from __future__ import annotations

import colorsys
import json
import random
import re

MOST = 4  # maximum number of images in a prompt
Range = tuple[float, float]

# Ranges of hue in degrees, saturation and value. The gaps between two colors are never used.
COLORS: dict[str, list[tuple[Range, Range, Range]]] = {
    "black": [((0, 360), (0, 1), (0, 0.1))],
    "white": [((0, 360), (0, 0.04), (0.95, 1))],
    "gray": [((0, 360), (0, 0.06), (0.35, 0.75))],
    "red": [((-8, 8), (0.8, 1), (0.8, 1))],
    "orange": [((24, 40), (0.8, 1), (0.85, 1))],
    "yellow": [((52, 63), (0.65, 1), (0.85, 1))],
    "green": [((95, 145), (0.5, 1), (0.35, 1))],
    "cyan": [((174, 187), (0.5, 1), (0.75, 1))],
    "blue": [((215, 248), (0.65, 1), (0.45, 1))],
    "purple": [((268, 302), (0.5, 1), (0.35, 0.75))],
    "pink": [((325, 352), (0.22, 0.55), (0.92, 1)), ((322, 334), (0.55, 0.95), (0.92, 1))],
    "brown": [((0, 5), (0.7, 0.8), (0.5, 0.66)), ((14, 32), (0.6, 0.9), (0.35, 0.6))],
}

# One of the words in parentheses is chosen; lower case, as the chat template produces.
_COLOR, _IMAGE, _NTH = "(color|color|colour)", "(image|image|picture|photo|square)", "(first|second|third|fourth|last)"
QUESTIONS = {
    "colors": [
        f"(what|which) {_COLOR} is (this|it|that|the {_IMAGE}|this {_IMAGE})",
        f"(what|which) {_COLOR}s are (these|they|the {_IMAGE}s|these {_IMAGE}s)",
        f"(name|tell me|what is|say) the {_COLOR}(| of the {_IMAGE}| of this {_IMAGE})",
        f"(name|tell me|what are|list) the {_COLOR}s(| of the {_IMAGE}s| of the {_IMAGE}s in order)",
    ],
    "count": [
        f"how many {_IMAGE}s (are there|do you see|did you get|are these|did i send)",
        f"count the {_IMAGE}s",
    ],
    "nth": [f"(what|which) {_COLOR} (is|has|was) the {_NTH} ({_IMAGE}|one)"],
    "json": [
        f"(name|tell me|give me|list) the {_COLOR}(|s|s of the {_IMAGE}s| of the {_IMAGE}) (as|in) json",
        f"what {_COLOR} is (this|the {_IMAGE}) (as|in) json",
    ],
    "other": [
        "describe (the|this) (image|picture)",
        "describe (the|these) (images|pictures)",
        "what (do you see|is this|is in this picture|is the weather in rome)",
        "(hello|hi|who are you|and now|look at this|compare the two images|)",
        *["BABBLE"] * 4,
    ],
}
_AT = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
_WEIGHTS = {"colors": 3, "count": 2, "nth": 3, "json": 2, "other": 2}


class QuestionGenerator:
    """Generates shades, questions and answers.

    Args:
        seed: Seed of the random choices.
    """

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)

    def shade(self, color: str) -> tuple[float, float, float]:
        """Return red, green and blue, from 0 to 1, of a random shade of a color."""
        hue, saturation, value = (self.r.uniform(*limits) for limits in self.r.choice(COLORS[color]))
        return colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)

    def example(self) -> tuple[list[str], str, str]:
        """Return the colors of the images, the question, and the answer."""
        colors = self.r.choices(list(COLORS), k=self.r.choices(range(MOST + 1), (1, 5, 4, 3, 3))[0])
        (kind,) = self.r.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        text = self._choose(self.r.choice(QUESTIONS[kind])).replace("BABBLE", self._nonsense())
        if kind != "other":
            text = self._choose("(||||hello. |please, |here: )") + text + self._choose("(?|?|.|)")
            text += self._choose("(||||| answer with one word.| be brief.)")
        return colors, text, answer(colors, kind, text)

    def _choose(self, pattern: str) -> str:
        while "(" in pattern:
            pattern = re.sub(r"\(([^()]*)\)", lambda match: self.r.choice(match[1].split("|")), pattern)
        return pattern

    def _nonsense(self) -> str:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return " ".join("".join(self.r.choices(letters, k=self.r.randint(1, 8))) for _ in range(self.r.randint(1, 9)))


def answer(colors: list[str], kind: str, text: str) -> str:
    """Return the expected answer."""
    if kind == "colors":
        return ", ".join(colors) or "no image"
    if kind == "count":
        return str(len(colors))
    if kind == "json":
        return json.dumps({"colors": colors})
    if kind == "nth":
        at = next(at for word, at in _AT.items() if word in text)
        return colors[at] if colors and at < len(colors) else "no such image"
    seen = {0: "no image", 1: "1 image"}.get(len(colors), f"{len(colors)} images")
    return f"I see {seen}: {', '.join(colors)}." if colors else f"I see {seen}."
