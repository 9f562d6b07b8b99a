"""The training data of the ``tiny`` model: generated dialogues, without end.

Each ``Dialogue`` has OpenAI-style messages and tools, and the reply as a list of pieces. A piece that vLLM's grammar
forces on the model (the keys of a JSON schema, the start of a required tool call) is marked as given: the model learns
to continue after it, but not to generate it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tiny_dialogues.material import FALLBACK, Dialogue, user
from tiny_dialogues.structured import StructuredDialogues

__all__ = ["Author", "Dialogue"]


class Author(StructuredDialogues):
    """Generates dialogues; the same seed generates the same ones, on the same Python.

    Args:
        seed: Seed of the random choices.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(Random(seed))
        self.kinds: list[tuple[float, Callable[[], Dialogue]]] = [
            (10, self.weather), (15, self.arithmetic), (22, self.explicit_call), (10, self.search),
            (4, self.no_arguments), (4, self.customer), (3, self.special_calls), (9, self.tool_results),
            (6, self.two_steps), (10, self.follow_up), (6, self.small_talk), (3, self.capital),
            (4, self.counting), (8, self.echo), (4, self.json_reply), (9, self.forced_json),
            (8, self.forced_call), (5, self.facts),
            (1, self.sums), (8, self.unknown), (1.5, self.completion), (2, self.joke), (4, self.sentiment),
            (2, self.person_tool), (2, self.endless),
        ]  # fmt: skip

    def write(self) -> Dialogue:
        """Return the next dialogue."""
        weights = [weight for weight, _ in self.kinds]
        dialogue = self.r.choices([write for _, write in self.kinds], weights)[0]()
        if dialogue.prompt is None:
            if self.r.random() < 0.15:
                dialogue.messages.insert(0, {"role": "system", "content": "You are helpful."})
            if len(dialogue.messages) == 1 and self.r.random() < 0.06:
                dialogue.messages = [
                    user(self.any_line()),
                    {"role": "assistant", "content": FALLBACK},
                    *dialogue.messages,
                ]
            if self.r.random() > 0.25:
                dialogue.thought = None
        return dialogue
