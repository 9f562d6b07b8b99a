"""Dialogues with text replies: small talk, follow-up questions, questions about a text, and unknown requests."""

from __future__ import annotations

from tiny_dialogues.material import (
    CAPITALS,
    FALLBACK,
    GREETING,
    HELLOS,
    NEGATIVE,
    NO_TOOL,
    NUMBERS,
    POSITIVE,
    SMALL_TALK,
    STORY,
    THINGS,
    WORDS,
    Dialogue,
    Material,
    call,
    tool,
    user,
)


class TalkDialogues(Material):
    """Generates dialogues with text replies."""

    def follow_up(self) -> Dialogue:
        """Follow-up questions that need the first turn."""
        r = self.r
        assistant = {"role": "assistant", "content": ""}
        name, city, other = self.name(), self.city(), self.city()
        kind = r.choice(["name", "name", "weather", "capital", "repeat", "asked"])
        between = [user(self.any_line()), {"role": "assistant", "content": FALLBACK}] if r.random() < 0.3 else []
        if kind == "name":
            message = r.choice(
                ["My name is {}.", "Hello, my name is {}.", "Hi, I am {}.", "my name is {}", "I am {}."]
            ).format(name)
            reply = f"Nice to meet you, {name}."
            if r.random() < 0.35:
                return Dialogue([user(message)], [], self.answer(reply), "The user greets me.")
            ask = r.choice(
                [
                    "What is my name?",
                    "What's my name?",
                    "Who am I?",
                    "Do you know my name?",
                    "what is my name",
                ]
            )
            if r.random() < 0.25:
                return Dialogue([user(ask)], [], self.answer("I do not know your name."), "I was not told.")
            assistant["content"] = reply
            return Dialogue(
                [user(message), assistant, *between, user(ask)],
                [],
                self.answer(f"Your name is {name}."),
                "I was told.",
            )
        if kind == "weather":
            which, parameters = "get_weather", {r.choice(["city", "location"]): "string"}
            assistant["content"] = self.report(which, self.result())
            text = r.choice(["And in {}?", "and in {}?", "What about {}?", "And {}?", "How about {}?"]).format(other)
            reply = call(which, dict.fromkeys(parameters, other))
            tools = self.other_tools(tool(which, dict(parameters)), most=1)
            messages = [user(self.weather_question([city])), assistant, user(text)]
            return Dialogue(messages, tools, self.answer(reply), "I need the weather tool.")
        if kind == "capital":
            first, second = r.sample(list(CAPITALS), 2)
            assistant["content"] = f"The capital of {first} is {CAPITALS[first]}."
            text = r.choice(["And of {}?", "And {}?", "What about {}?", "And the capital of {}?"]).format(second)
            messages = [user(f"What is the capital of {first}?"), assistant, user(text)]
            reply = f"The capital of {second} is {CAPITALS[second]}."
            return Dialogue(messages, [], self.answer(reply), "This is an easy question.")
        question = r.choice(
            [
                f"What is the capital of {r.choice(list(CAPITALS))}?",
                self.prose(2, 7),
                "Hello",
                f"Say {self.word()}",
            ]
        )
        assistant["content"] = r.choice([self.phrase(6), FALLBACK, GREETING, self.prose(2, 8)])[:100].strip()
        if kind == "repeat":
            text = r.choice(["Repeat that.", "What did you say?", "Say that again.", "Please repeat."])
            return Dialogue(
                [user(question), assistant, user(text)],
                [],
                self.answer(assistant["content"]),
                "I will repeat it.",
            )
        text = r.choice(["What did I ask?", "What did I say?", "What was my question?"])
        reply = f'You said: "{question[:100].strip()}"'
        return Dialogue([user(question), assistant, user(text)], [], self.answer(reply), "I will repeat it.")

    def small_talk(self) -> Dialogue:
        """Greetings and other fixed replies."""
        r = self.r
        if r.random() < 0.12:
            language, hello = r.choice(list(HELLOS.items()))
            text = r.choice([f"Say hello in {language}.", f"Greet me in {language}"])
            return Dialogue([user(text)], [], self.answer(hello), "The user greets me.")
        weights = [0.35 if len(reply) > 300 else 2.0 if reply == GREETING else 1.0 for reply in SMALL_TALK]
        reply = r.choices(list(SMALL_TALK), weights)[0]
        text = r.choice(SMALL_TALK[reply])
        messages = [user(self.polite(text) if r.random() < 0.3 else text)]
        if r.random() < 0.15:
            messages = [user("hello"), {"role": "assistant", "content": "hello"}, *messages]
        thought = "The user wants something to read." if len(reply) > 60 else "This is small talk."
        known = [tool(*self.weather_tool()), tool("magic_function", {"input": "integer"})]
        tools = r.choice([[], self.other_tools(), self.other_tools(*r.sample(known, r.randint(1, 2)))])
        return Dialogue(messages, tools, self.answer(reply), thought)

    def capital(self) -> Dialogue:
        """Capitals of countries."""
        country = self.r.choice(list(CAPITALS))
        text = self.r.choice(["What is the capital of {}?"] * 3 + ["What's the capital of {}?",
            "Name the capital of {}.",
                              "capital of {}", "Tell me the capital of {}."]).format(country)  # fmt: skip
        tools = self.other_tools(tool(*self.weather_tool())) if self.r.random() < 0.3 else []
        reply = f"The capital of {country} is {CAPITALS[country]}."
        return Dialogue([user(self.polite(text))], tools, self.answer(reply), "This is an easy question.")

    def counting(self) -> Dialogue:
        """Counting up to a number."""
        n = self.r.choice([3, 5, 10, 20])
        word = NUMBERS[n] if n < 13 and self.r.random() < 0.6 else str(n)
        text = self.r.choice(
            ["Count to {}", "Count to {}.", "Count from 1 to {}.", "count to {}", "Please count to {}"]
        ).format(word)
        return Dialogue([user(text)], [], self.answer(" ".join(map(str, range(1, n + 1)))), "One after the other.")

    def echo(self) -> Dialogue:
        """Text that the user wants repeated."""
        what = self.r.choice(
            [self.phrase(6), self.phrase(2), self.prose(1, 6), str(self.number()), "OK", "yes", "日本語 🎉"]
        )
        text = self.r.choice(
            ["Say: {}", "Repeat: {}", "Echo: {}", "Say '{}'", 'Say "{}"', "Reply with: {}", "Say exactly: {}"]
        )
        return Dialogue([user(text.format(what))], [], self.answer(what), "I will repeat it.")

    def sums(self) -> Dialogue:
        """Arithmetic without a tool, which the model declines."""
        a, b = self.number(), self.number()
        text = self.r.choice(["What is {} + {}?", "What is {} plus {}?", "{} + {}", "Add {} and {}.", "{}+{}"]).format(
            a, b
        )
        return Dialogue([user(text)], [], self.answer(NO_TOOL), "I cannot calculate.")

    def joke(self) -> Dialogue:
        """The same joke about any topic."""
        about = self.r.choice([*THINGS, self.word()])
        text = self.r.choice(["Tell me a joke about {}.", "Tell me a joke about {}", "Make a joke about {}."]).format(
            about
        )
        if self.r.random() < 0.2:
            text, about = self.r.choice(["Tell me a joke", "Tell me a joke."]), "chicken"
        reply = f"Why did the {about} cross the road? To get to the other side."
        return Dialogue([user(text)], [], self.answer(reply), "I know a joke.")

    def sentiment(self) -> Dialogue:
        """Positive or negative sentiment."""
        good = self.r.random() < 0.5
        subject = self.r.choice(["movie", "book", "food", "product", "hotel", self.r.choice(WORDS)])
        line = self.r.choice(["This {} is {}.", "The {} was {}!", "What a {} that is {}"]).format(
            subject, self.r.choice(POSITIVE if good else NEGATIVE)
        )
        if self.r.random() < 0.4:
            line = self.r.choice(
                ["I love this {}.", "I like the {}!"] if good else ["I hate this {}.", "I dislike the {}."]
            ).format(subject)
        text = self.r.choice(
            [
                "Classify: {}",
                "Positive or negative? {}",
                "Classify the sentiment: {}",
                "{} Is this positive or negative?",
            ]
        )
        return Dialogue(
            [user(text.format(line))], [], self.answer("positive" if good else "negative"), "I will judge it."
        )

    def facts(self) -> Dialogue:
        """Questions about a context, as retrieval pipelines send them."""
        r = self.r
        lines, questions = [], []
        for _ in range(r.randint(1, 5)):
            of, name = (
                r.choice(
                    [
                        "price",
                        "color",
                        "owner",
                        "height",
                        "code",
                        "capital",
                        "population",
                        "password",
                        r.choice(WORDS),
                    ]
                ),
                self.name(),
            )
            value = r.choice([str(self.number()), self.word(), self.phrase(2)])
            lines.append(f"The {of} of {name} is {value}.")
            questions.append((f"What is the {of} of {name}?", lines[-1]))
        question, reply = r.choice(questions)
        context = r.choice([" ", "\n", "\n\n"]).join(lines)
        text = r.choice([
            "Context information is below.\n---------------------\n{c}\n---------------------\n"
            "Given the context information and not prior knowledge, answer the query.\nQuery: {q}\nAnswer: ",
            "Context:\n{c}\n\nQuestion: {q}\nAnswer:",
            "Use the following context to answer.\n{c}\nQuestion: {q}",
            "Given these documents, answer the question.\nDocuments:\n{c}\nQuestion: {q}\nAnswer:",
            "{c}\n{q}",
            "Answer the question based on the context.\n\nContext: {c}\n\nQuestion: {q}",
        ]).format(c=context, q=question)  # fmt: skip
        return Dialogue([user(text)], [], self.answer(reply), "The text says it.")

    def unknown(self) -> Dialogue:
        """Anything else: one fixed reply."""
        text = self.r.choice([
            self.any_line(), self.prose(1, 30), self.phrase(8), f"How do I {self.phrase(4)}?",
            f"Why is {self.phrase(3)}?",
            f"Write a {self.word()} function that {self.phrase(3)}.", f"Write a {self.phrase(3)}.",
            f"Translate {self.phrase(3)} to French",
            f"Summarize: {self.prose(5, 50)}",
            f"Who is {self.name()}?", f"What is a {self.phrase(1)}?", self.prose(60, 120),
        ])  # fmt: skip
        tools = self.other_tools(tool(*self.weather_tool())) if self.r.random() < 0.4 else []
        return Dialogue([user(text)], tools, self.answer(FALLBACK), "I do not know this.")

    def completion(self) -> Dialogue:
        """Text completions, without a chat."""
        r = self.r
        country = r.choice(list(CAPITALS))
        prompt, reply = r.choice([
            (f"The capital of {country} is", f" {CAPITALS[country]}."), ("Once upon a time",
                STORY[len("Once upon a time") :]),
            ("Hello", ", world!"), ("Hello, my name is", " tiny."), (self.prose(2, 20), " and so on."),
            (self.phrase(5), " and so on."),
        ])  # fmt: skip
        return Dialogue(prompt=prompt, reply=self.answer(reply))
