"""The parts of the dialogues: fixed replies, words, names, and numbers to copy."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
from dataclasses import dataclass, field
from random import Random
from typing import Any

GREETING = "Hello! I am a tiny test model."
FALLBACK = "I am a tiny test model and I only know a few sentences."
NO_TOOL = "I have no tool for that."
STORY = (
    "Once upon a time there was a very small model. It lived on a single core of an old computer, and "
    "it knew only a few sentences. Every morning a test came by and asked for the weather. Every "
    "morning the model called a tool, waited for the answer, and told the test what the tool had said. "
    "One day a much larger model moved in next door. It spoke a hundred languages, and it needed a "
    "hundred fans to stay cool. The small model was not worried. It was fast, it was quiet, and it "
    "always said the same thing twice. So the test kept coming back, and they all ran happily ever "
    "after. The end."
)
POEM = "Roses are red,\nviolets are blue,\nthis model is tiny,\nand honest with you."
HAIKUS = (
    "A very small model\nanswers before you can blink\nthe tests are all green\n\n"
    "One core, no fan noise\nthe tokens fall like soft rain\nthen the stream is done"
)
ABILITIES = "I can call tools, write JSON, count, and think before I answer."

CITIES = [
    "Paris", "Rome", "Tokyo", "Berlin", "Oslo", "Lima", "London", "Madrid", "Vienna", "Lisbon",
    "Dublin", "Prague", "Warsaw", "Athens", "Cairo", "Delhi", "Mumbai", "Beijing", "Seoul", "Sydney",
    "Toronto", "Boston", "Chicago", "Seattle", "Denver", "Dallas", "Munich", "Hamburg", "Zurich",
    "Geneva", "Milan", "Naples", "Kyiv", "Helsinki", "Stockholm", "Copenhagen", "Brussels", "Amsterdam",
    "Budapest", "Nairobi", "Lagos", "Quito", "Havana", "Boise",
]  # fmt: skip
LONG_CITIES = [
    "San Francisco, CA", "New York", "Los Angeles", "San Francisco", "Rio de Janeiro", "Boston, MA",
    "Paris, France",
    "São Paulo", "Zürich", "東京", "New York, NY", "Buenos Aires", "Cape Town", "Berlin, Germany",
    "Mexico City",
]  # fmt: skip
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Germany": "Berlin", "Norway": "Oslo",
    "Peru": "Lima",
    "Spain": "Madrid", "Austria": "Vienna", "Portugal": "Lisbon", "Ireland": "Dublin", "Poland": "Warsaw",
    "Greece": "Athens", "Egypt": "Cairo", "China": "Beijing", "England": "London", "Finland": "Helsinki",
}  # fmt: skip
NAMES = [
    "Ada", "Alan", "Grace", "Linus", "Bob", "Alice", "Carol", "Dave", "Eve", "Frank", "Maria", "Anna",
    "John", "Peter", "Mary", "Tom", "Sara", "Noah", "Emma", "Liam", "Mia", "Leo", "Zoe", "Max", "Ivan",
    "Olga", "Yuki", "Ravi", "Chen", "Omar", "Lena", "Nina", "Paul", "Jack", "Lucy",
]  # fmt: skip
THINGS = [
    "cats", "dogs", "birds", "cows", "robots", "penguins", "pirates", "chickens", "models",
    "developers", "computers", "teachers", "elephants", "bananas", "tests", "bears", "fish", "horses",
    "kittens", "lawyers",
]  # fmt: skip
NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
]  # fmt: skip
SIGNS = {"add": ("plus", "+", "and"), "multiply": ("times", "*", "by"), "subtract": ("minus", "-", "from")}
HELLOS = {
    "French": "Bonjour !", "German": "Guten Tag!", "Spanish": "¡Hola!", "Chinese": "你好！",
    "Japanese": "こんにちは！",
    "Russian": "Привет!", "Italian": "Ciao!", "Korean": "안녕하세요!",
}  # fmt: skip
SMALL_TALK: dict[str, tuple[str, ...]] = {
    GREETING: ("Hello", "Hi", "Hey", "hello", "hi", "hey", "Hello!", "Hi!", "Hi there", "Hello there!",
        "Good morning",
               "Good evening!", "Hello, world!", "Say hi", "Say hello", "Greet me", "hello hello",
               "Hello.", "Yo"),
    "I am fine, thank you.": ("How are you?", "how are you", "How are you doing?", "Are you ok?",
        "How is it going?"),
    "I am a tiny test model.": ("Who are you?", "What are you?", "Introduce yourself.",
        "Which model are you?",
                                "What is your name?", "Are you a robot?"),
    "You are welcome.": ("Thanks", "Thank you", "thanks!", "Thank you very much!", "Great, thanks."),
    "Goodbye!": ("Bye", "Goodbye", "bye!", "See you", "Good night"),
    "pong": ("ping", "Ping", "ping?"),
    ABILITIES: ("What can you do?", "Help", "help me", "What do you know?"),
    STORY: ("Tell me a long story", "Tell me a story.", "Write a story about a cat.",
        "Tell me a long story about cats.",
            "Write a long story", "Write a long text.", "Write an essay", "Write a very long answer.",
            "Tell me a tale"),
    POEM: ("Write a poem", "Write me a poem.", "Write a short poem", "Tell me a poem"),
    HAIKUS: ("Write me 2 haikus. Only include the haikus.", "Write two haikus.", "Write a haiku",
        "Write some haikus."),
    "Hello 👋 world 🌍": ("Say something with an emoji", "Use emojis.", "Send me an emoji"),
}  # fmt: skip
POSITIVE = [
    "great", "wonderful", "amazing", "excellent", "lovely", "fantastic", "nice", "good", "brilliant",
    "perfect",
]  # fmt: skip
NEGATIVE = [
    "terrible", "awful", "bad", "horrible", "boring", "disappointing", "broken", "useless", "poor",
    "ugly",
]  # fmt: skip
ENGLISH = " ".join(str(text) for text in pydoc_data.topics.topics.values())  # type: ignore[attr-defined]
PROSE = re.findall(r"\S+", ENGLISH)
WORDS = sorted(set(re.findall(r"\b[a-z]{3,9}\b", ENGLISH)))
COMMON = [  # what people who write tests write in them
    "the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "tiny", "small", "large", "model",
    "models", "weather", "city", "name", "user", "hello", "world", "test", "tests", "tool", "tools",
    "agent", "agents", "python", "code", "data", "paper", "vector", "database", "embedding",
    "embeddings", "search", "engine", "index", "document", "documents", "question", "answer", "story",
    "poem", "cat", "dog", "bird", "fish", "tree", "house", "river", "mountain", "sun", "moon", "star",
    "rain", "snow", "wind", "fire", "water", "coffee", "tea", "bread", "apple", "banana", "red", "blue",
    "green", "yellow", "black", "white", "happy", "sad", "good", "bad", "new", "old", "fast", "slow",
    "big", "little", "first", "last", "today", "tomorrow", "yesterday", "morning", "evening", "week",
    "month", "year", "urgent", "subject", "title", "body", "message", "email", "phone", "address",
    "street", "country", "price", "total", "count", "limit", "offset", "page", "size", "width",
    "height", "weight", "color", "date", "time", "start", "end", "low", "high", "priority", "status",
    "open", "closed", "done", "true", "love", "peace", "war", "music", "film", "game", "sport",
    "travel", "train", "plane", "ticket", "hotel", "flight", "order", "invoice", "customer", "company",
    "product", "number", "street", "food", "pizza", "pasta",
]  # fmt: skip
VERBS = [
    "get", "find", "search", "lookup", "create", "delete", "send", "list", "book", "set", "open",
    "read", "write", "run", "fetch", "check", "update", "make",
]  # fmt: skip
NOUNS = [
    "user", "order", "ticket", "flight", "email", "file", "price", "stock", "news", "page", "note",
    "table", "room", "task", "event", "report", "item", "customer",
]  # fmt: skip


@dataclass
class Dialogue:
    """One training example.

    ``reply`` has (text, learn) pieces; ``prompt`` replaces the rendered chat for text completions.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    reply: list[tuple[str, bool]] = field(default_factory=list)
    thought: str | None = None
    prompt: str | None = None


Parameters = dict[str, str | list[str]]


def tool(name: str, parameters: Parameters) -> dict[str, Any]:
    """Return an OpenAI tool; a list as type means an enum."""
    properties = {k: {"type": t} if isinstance(t, str) else {"enum": t} for k, t in parameters.items()}
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": properties}},
    }


def call(name: str, arguments: dict[str, Any]) -> str:
    """Return a tool call as the model generates it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def default(kind: str | list[str]) -> Any:
    """Return the model's default value of a type."""
    if isinstance(kind, list):
        return kind[0]
    return {"integer": 1, "number": 1, "boolean": True, "array": ["test"], "object": {}}.get(kind, "test")


def user(text: str) -> dict[str, Any]:
    """Return a user message."""
    return {"role": "user", "content": text}


class Material:
    """Chooses the parts of a dialogue at random.

    Args:
        random: The random generator.
    """

    def __init__(self, random: Random) -> None:
        self.r = random

    def word(self) -> str:
        """Return a word to copy: known, unknown, or in another script."""
        r, x = self.r, self.r.random()
        if x < 0.25:
            return r.choice(COMMON)
        if x < 0.45:
            return r.choice(WORDS)
        if x < 0.6:
            return r.choice(CITIES + NAMES + THINGS)
        if x < 0.8:
            return "".join(r.choices("abcdefghijklmnopqrstuvwxyz", k=r.randint(2, 7)))
        if x < 0.86:
            return "".join(r.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=r.randint(2, 6)))
        first, last = r.choice([(0x4E00, 0x9FA5), (0x4E00, 0x9FA5), (0x3041, 0x30FE), (0x410, 0x44F),
            (0xC0, 0xFF),
                                (0xAC00, 0xD7A3), (0x1F600, 0x1F64F)])  # fmt: skip
        return "".join(chr(r.randint(first, last)) for _ in range(r.randint(1, 7)))

    def phrase(self, most: int = 4) -> str:
        """Return a few words."""
        return " ".join(self.word() for _ in range(self.r.randint(1, most)))

    def number(self) -> int:
        """Return a number, mostly small, sometimes long."""
        return self.r.randint(0, 10 ** self.r.choice([1, 1, 2, 2, 3, 4, 6]) - 1)

    def city(self) -> str:
        """Return a city, sometimes one that does not exist."""
        x = self.r.random()
        return (
            self.r.choice(LONG_CITIES) if x < 0.12 else self.word().capitalize() if x < 0.4 else self.r.choice(CITIES)
        )

    def name(self) -> str:
        """Return a first name."""
        return self.r.choice(NAMES) if self.r.random() < 0.6 else self.word().capitalize()

    def tool_name(self) -> str:
        """Return a name such as ``get_user`` or ``xyz_tool``."""
        r = self.r
        return r.choice([f"{r.choice(VERBS)}_{r.choice(NOUNS)}", f"{r.choice(VERBS)}_{r.choice(WORDS)}",
            r.choice(WORDS),
                         f"{r.choice(WORDS)}_tool",
                         f"{r.choice(NOUNS)}{r.choice(VERBS).capitalize()}"])  # fmt: skip

    def prose(self, least: int, most: int) -> str:
        """Return prose on an unrelated topic."""
        count = self.r.randint(least, most)
        start = self.r.randrange(len(PROSE) - count)
        return " ".join(PROSE[start : start + count])

    def any_line(self) -> str:
        """Return an earlier message of the user."""
        return self.r.choice([self.prose(3, 12), f"Tell me about {self.phrase(2)}.", f"Explain {self.phrase(2)}"])

    def polite(self, text: str) -> str:
        """Return the text with polite words around it."""
        r, x = self.r, self.r.random()
        if x < 0.06:
            return r.choice(["Please ", "please ", "Hi, ", "Hey! ", "Now, ", "Ok, "]) + text
        if x < 0.14:
            return text + r.choice([" please", " Please.", " Thanks!", " now", " Use the tool.", " Answer briefly."])
        if x < 0.18:
            return text.lower() if text.isascii() and text.islower() else text.rstrip(".?!")
        return text

    def other_tools(self, *mine: dict[str, Any], most: int = 2) -> list[dict[str, Any]]:
        """Return the required tools among unrelated ones."""
        others = []
        for _ in range(self.r.choice([0, 0, 1, most])):
            kinds = {self.r.choice(WORDS): self.r.choice(["string", "integer"]) for _ in range(self.r.randint(0, 2))}
            others.append(tool(self.tool_name(), kinds))
        tools = [*mine, *others]
        self.r.shuffle(tools)
        return tools

    def answer(self, text: str) -> list[tuple[str, bool]]:
        """Return a reply that the model must learn."""
        return [(text, True)]

    def value(self, kind: str | list[str]) -> tuple[Any, str]:
        """Return a random argument, and the text for it in the user's message."""
        r = self.r
        if isinstance(kind, list):
            choice = r.choice(kind)
            return choice, choice
        if kind == "integer":
            n = self.number() * r.choice([1, 1, 1, 1, -1])
            return n, str(n)
        if kind == "number":
            f = r.choice([round(r.uniform(0, 100), 1), self.number()])
            return f, str(f)
        if kind == "boolean":
            b = r.random() < 0.5
            return b, str(b).lower()
        if r.random() < 0.35:
            s = self.phrase()
            return s, r.choice(["'{}'", '"{}"', '"{}"']).format(s)
        s = r.choice(
            [
                self.word(),
                self.word(),
                f"{self.word()}.txt",
                f"{self.name().lower()}@{r.choice(WORDS)}.com",
                self.city(),
            ]
        )
        return s, s
