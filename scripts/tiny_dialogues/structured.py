"""Dialogues with JSON replies, requested by the user or forced by a grammar."""

from __future__ import annotations

import json
from typing import Any

from tiny_dialogues.material import (
    CAPITALS,
    NOUNS,
    THINGS,
    WORDS,
    Dialogue,
    Parameters,
    call,
    default,
    tool,
    user,
)
from tiny_dialogues.talk import TalkDialogues
from tiny_dialogues.tools import ToolDialogues


class StructuredDialogues(ToolDialogues, TalkDialogues):
    """Generates dialogues with JSON replies."""

    def person(self) -> tuple[str, dict[str, Any]]:
        """Return a sentence about a person, and the fields to extract from it."""
        r, name, age, city = self.r, self.name(), self.r.randint(1, 99), self.city().replace(", ", " ")
        text = r.choice(["{n} is {a} years old and lives in {c}.", "{n} is {a} and lives in {c}.",
            "{n} from {c} is {a} years old.",
                         "My name is {n}, I am {a} years old and I live in {c}."]).format(n=name, a=age,
                         c=city)  # fmt: skip
        ask = r.choice(
            [
                "Extract the person: {}",
                "Extract the person.\n{}",
                "Extract: {}",
                "{} Return JSON.",
                "Extract the data from: {}",
            ]
        )
        return ask.format(text), {"name": name, "age": age, "city": city}

    def json_reply(self) -> Dialogue:
        """JSON that the user requests in the message."""
        r, x = self.r, self.r.random()
        if x < 0.45:
            city = self.city()
            text = r.choice(
                [
                    "Give me {} as json",
                    "Give me {} as JSON",
                    "Give me {} as json.",
                    "Give me {} in JSON.",
                    "{} as json",
                ]
            )
            text, reply = text.format(city), {"city": city, "n": 1}
        elif x < 0.65:
            about = r.choice(THINGS)
            text = (
                f"Tell me a joke about {about}. Return the result as a JSON with 'setup' and 'punchline' "
                "keys. Return nothing other than JSON."
            )
            text = text if r.random() < 0.6 else f"Tell me a joke about {about} as json"
            reply = {
                "setup": f"Why did the {about} cross the road?",
                "punchline": "To get to the other side.",
            }
        else:
            text, reply = self.person()
        return Dialogue([user(text)], [], self.answer(json.dumps(reply, ensure_ascii=False)), "I will write JSON.")

    def known_values(self) -> tuple[Dialogue, dict[str, Any], str]:
        """Return a question, its value for each key of a schema, and the value for any other string."""
        r, x = self.r, self.r.random()
        if x < 0.3:
            about = r.choice([*THINGS, r.choice(WORDS)])
            text = r.choice(["Tell me a joke about {}.", "Give me a joke about {}, include the punchline.",
                "Tell me a joke about {}",
                "Give me the setup to a joke about {}, no punchline."]).format(about)  # fmt: skip
            setup, punchline = f"Why did the {about} cross the road?", "To get to the other side."
            known = {
                "setup": setup,
                "punchline": punchline,
                "question": setup,
                "answer": punchline,
                "rating": 7,
                "topic": about,
            }
            return Dialogue([user(text)], thought="I know a joke."), known, "test"
        if x < 0.55:
            text, known = self.person()
            known |= {"full_name": known["name"], "years": known["age"], "location": known["city"]}
            return Dialogue([user(text)], thought="I will write JSON."), known, "test"
        if x < 0.7:
            dialogue = self.json_reply()
            return dialogue, json.loads(dialogue.reply[0][0]), "test"
        if x < 0.8:
            dialogue = self.tool_results()
            if dialogue.messages[-1]["role"] == "tool":
                return dialogue, {}, str(dialogue.messages[-1]["content"]).replace("\n", " ")
        if x < 0.9:
            country = r.choice(list(CAPITALS))
            known = {
                "country": country,
                "capital": CAPITALS[country],
                "city": CAPITALS[country],
                "answer": CAPITALS[country],
            }
            question = user(f"What is the capital of {country}?")
            return Dialogue([question], thought="This is an easy question."), known, "test"
        return r.choice([self.unknown, self.small_talk, self.sums, self.weather])(), {}, "test"

    def value_pieces(self, kind: str, value: Any) -> list[tuple[str, bool]]:
        """Return a JSON value after a key that the grammar forced.

        The grammar forces its first character too; it is learnt all the same, or the model would prefer
        spaces, of which grammars allow any number.
        """
        text = json.dumps(value, ensure_ascii=False)
        if kind == "array":
            return [("[", True), *self.value_pieces("string", value), ("]", True)]
        if kind == "object":
            key = self.r.choice(WORDS)
            return [
                ('{"', True),
                (key, False),
                ('": ', True),
                *self.value_pieces("string", value),
                ("}", True),
            ]
        return [(text, True)]

    def schema_pieces(self, known: dict[str, Any], text: str) -> list[tuple[str, bool]]:
        """Return an object as a JSON schema forces it."""
        r = self.r
        keys = [key for key in known if r.random() < 0.75]
        for _ in range(r.choice([0, 0, 1, 2]) if keys else r.randint(1, 3)):
            keys.append(r.choice([r.choice(WORDS), f"{r.choice(NOUNS)}_{r.choice(WORDS)}", r.choice("abnxyz")]))
        if r.random() < 0.4:
            r.shuffle(keys)
        pieces: list[tuple[str, bool]] = [("{", False)]
        for i, key in enumerate(dict.fromkeys(keys)):
            pieces += [(", " if i else "", True), ('"', True), (key, False), ('": ', True)]
            if key in known:
                pieces += self.value_pieces("string" if isinstance(known[key], str) else "integer", known[key])
            else:
                kind = r.choice(["string", "string", "integer", "boolean", "array", "object"])
                pieces += self.value_pieces(kind, {"integer": 1, "boolean": True}.get(kind, text))
        return [*pieces, ("}", True)]

    def forced_json(self) -> Dialogue:
        """JSON that a schema forces."""
        dialogue, known, text = self.known_values()
        dialogue.reply = self.schema_pieces(known, text)
        if dialogue.thought is None:
            dialogue.thought = "I will write JSON."
        return dialogue

    def forced_call(self) -> Dialogue:
        """A required or named ``tool_choice``: the grammar starts the tool call, whatever the message says."""
        r = self.r
        if r.random() < 0.35:
            dialogue = r.choice([self.weather, self.arithmetic, self.explicit_call])()
            reply = dialogue.reply[0][0]
            if reply.startswith("<tool_call>"):
                dialogue.reply = [("<tool_call>", False), (reply.removeprefix("<tool_call>"), True)]
            return dialogue
        dialogue = r.choice([self.small_talk, self.unknown, self.capital, self.small_talk])()
        kinds: list[tuple[str, Parameters]] = []
        for _ in range(r.randint(1, 3)):
            parameters: Parameters = {}
            for _ in range(r.randint(0, 3)):
                key = r.choice([r.choice(WORDS), "input", "query", "location", "city"])
                parameters[key] = r.choice(
                    [
                        "string",
                        "string",
                        "integer",
                        "number",
                        "boolean",
                        ["low", "high"],
                        [r.choice(WORDS), "no"],
                    ]
                )
            kinds.append((self.tool_name(), parameters))
        if r.random() < 0.5:
            known: list[tuple[str, Parameters]] = [
                ("magic_function", {"input": "integer"}),
                ("add", {"a": "integer", "b": "integer"}),
                self.weather_tool(),
            ]
            kinds[r.randrange(len(kinds))] = r.choice(known)
            kinds.append(r.choice(known))
        kinds = list(dict(kinds).items())  # one of each name
        dialogue.tools = [tool(*kind) for kind in kinds]
        named = r.random() < 0.4
        name, parameters = r.choice(kinds) if named else kinds[0]
        arguments = json.dumps({key: default(kind) for key, kind in parameters.items()}, ensure_ascii=False)
        head = [('<tool_call>\n{"name": "', False), (name, not named), ('", "arguments": ', not named)]
        dialogue.reply = [*head, (arguments + "}\n</tool_call>", True)]
        return dialogue

    def person_tool(self) -> Dialogue:
        """Structured output through a tool with the name of the class."""
        r = self.r
        if r.random() < 0.5:
            text, known = self.person()
            name = r.choice(["Person", "person", "User", "extract_person"])
        else:
            about = r.choice(THINGS)
            text, name = f"Tell me a joke about {about}.", "Joke"
            known = {
                "setup": f"Why did the {about} cross the road?",
                "punchline": "To get to the other side.",
                "rating": 7,
            }
        keys = [key for key in known if r.random() < 0.8] or list(known)[:1]
        kinds: Parameters = {key: "string" if isinstance(known[key], str) else "integer" for key in keys}
        reply = call(name, {key: known[key] for key in keys})
        forced = r.random() < 0.5
        pieces = [("<tool_call>", not forced), (reply.removeprefix("<tool_call>"), True)]
        return Dialogue([user(text)], [tool(name, kinds)], pieces, "I need the tool.")
