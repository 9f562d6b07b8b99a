"""Dialogues with tools: tool calls, results, and agents with several turns."""

from __future__ import annotations

import json
import re
from typing import Any

from tiny_dialogues.material import (
    COMMON,
    NO_TOOL,
    NOUNS,
    SIGNS,
    WORDS,
    Dialogue,
    Material,
    Parameters,
    call,
    default,
    tool,
    user,
)


class ToolDialogues(Material):
    """Generates dialogues with tools."""

    def weather_tool(self) -> tuple[str, Parameters]:
        """Return name and parameters of a weather tool."""
        r = self.r
        name = r.choice(
            ["get_weather"] * 5 + ["weather", "get_current_weather", "weather_tool", "fetch_weather", "forecast"]
        )
        place = r.choice(["city"] * 4 + ["location"] * 3 + ["place", "town"])
        parameters: Parameters = {place: "string"}
        if r.random() < 0.4:
            units = r.choice([["celsius", "fahrenheit"], ["c", "f"], ["metric", "imperial"], ["fahrenheit", "celsius"]])
            extras: list[tuple[str, str | list[str]]] = [
                ("days", "integer"),
                ("unit", units),
                ("date", "string"),
            ]
            r.shuffle(extras)
            parameters.update(dict(extras[: r.randint(1, 2)]))
        return name, parameters

    def weather_question(self, cities: list[str]) -> str:
        """Return a question about the weather."""
        r, listed = self.r, cities[0] if len(cities) == 1 else ", ".join(cities[:-1]) + " and " + cities[-1]
        return r.choice([
            "What is the weather in {}?", "What is the weather in {}?", "What's the weather in {}?",
            "Weather in {}?",
            "How is the weather in {}?", "Tell me the weather in {}.", "What is the weather like in {}?",
            "Get the weather in {}.", "What is the weather in {} today?", "Is it raining in {}?",
            "Compare the weather in {}.",
            "What's the weather like in {} right now?", "What is the temperature in {}?",
            "Do I need an umbrella in {}?",
            "What is the weather in {} and should I take a coat?", "Check the weather for {}",
            "what is the weather in {}",
        ]).format(listed)  # fmt: skip

    def weather(self) -> Dialogue:
        """The weather in one or more cities, with or without a tool for it."""
        r = self.r
        name, parameters = self.weather_tool()
        cities = [self.city() for _ in range(r.choices([1, 2, 3], [6, 3, 1])[0])]
        question = self.polite(self.weather_question(cities))
        days, unit = 3, None
        if "days" in parameters and r.random() < 0.6:
            days = r.randint(1, 14)
            question = question.rstrip("?.") + f" for {r.choice(['', 'the next '])}{days} days?"
        units = parameters.get("unit")
        if isinstance(units, list) and r.random() < 0.5:
            unit = r.choice(units)
            question = question.rstrip("?.") + f" in {unit}?"
        if r.random() < 0.14:  # no tool for the weather
            return Dialogue([user(question)], self.other_tools(), self.answer(NO_TOOL), "There is no weather tool.")

        def arguments(city: str) -> dict[str, Any]:
            known = {"days": days, "unit": unit or default(units or "string"), "date": "today"}
            return {key: known.get(key, city) for key in parameters}

        calls = "".join(call(name, arguments(city)) for city in cities)
        tools = self.other_tools(tool(name, parameters))
        return Dialogue([user(question)], tools, self.answer(calls), "I need the weather tool.")

    def arithmetic(self) -> Dialogue:
        """Arithmetic with a tool: the model must copy the digits exactly."""
        r = self.r
        x, y = r.choice([("a", "b"), ("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"), ("num1", "num2")])
        names = {
            "add": ["add", "add", "add", "add_numbers", "my_adder_tool"],
            "multiply": ["multiply", "multiply", "multiply_numbers"],
            "subtract": ["subtract"],
        }
        todo = [(r.choice(["add", "multiply", "subtract"]), self.number(), self.number())]
        if r.random() < 0.2:
            todo.append((r.choice(["add", "multiply"]), self.number(), self.number()))
        chosen = {verb: r.choice(names[verb]) for verb, *_ in todo}
        kinds: Parameters = dict.fromkeys([x, y], r.choice(["integer", "integer", "number"]))
        parts, calls = [], ""
        for verb, a, b in todo:
            word, sign, link = SIGNS[verb]
            if verb == "subtract" and r.random() < 0.4:
                parts.append(f"subtract {b} from {a}")
            elif verb != "subtract" and r.random() < 0.4:
                parts.append(f"{verb} {a} {link} {b}")
            else:
                parts.append(f"what is {a} {r.choice([word, sign])} {b}")
            calls += call(chosen[verb], {x: a, y: b})
        text = " and ".join(parts)
        text = text[0].upper() + text[1:] + ("?" if "hat is" in text and r.random() < 0.8 else r.choice(["", ".", "."]))
        mine = [tool(name, kinds) for name in sorted(set(chosen.values()))]
        if r.random() < 0.4:
            mine.append(tool("get_weather", {"city": "string"}))
            if len(todo) == 1 and r.random() < 0.5:
                city = self.city()
                text, calls = (
                    f"{text.rstrip('.?')} and what is the weather in {city}?",
                    calls + call("get_weather", {"city": city}),
                )
        elif len(todo) == 1 and r.random() < 0.6:
            other = {"add": "multiply", "multiply": "add", "subtract": "add"}[todo[0][0]]
            if other not in chosen.values():
                mine.append(tool(other, kinds))
        return Dialogue(
            [user(self.polite(text))],
            self.other_tools(*mine, most=1),
            self.answer(calls),
            "I need to calculate.",
        )

    def explicit_call(self) -> Dialogue:
        """``Call NAME with key=value``: any tool and arguments, so that tests can request any tool call."""
        r = self.r
        todo, tools = [], []
        for _ in range(r.choices([1, 2], [5, 1])[0]):
            name = self.tool_name()
            kinds: Parameters = {}
            for _ in range(r.choice([0, 1, 1, 2, 2, 3])):
                key = r.choice(
                    [
                        r.choice(WORDS),
                        r.choice(COMMON),
                        r.choice("abcdnxyz"),
                        f"{r.choice(NOUNS)}_id",
                        r.choice(["query", "input", "name"]),
                    ]
                )
                kinds[key] = r.choice(
                    ["string", "string", "integer", "number", "boolean", [r.choice(WORDS) for _ in range(3)]]
                )
            tools.append(tool(name, kinds))
            todo.append((name, {key: self.value(kind) for key, kind in kinds.items()}))
        texts = []
        for name, values in todo:
            written = {key: text for key, (_, text) in values.items()}
            pairs = ", ".join(f"{key}={text}" for key, text in written.items())
            spoken = " and ".join(f"{key} {text}" for key, text in written.items())
            plain = ", ".join(written.values())
            if not values:
                texts.append(r.choice([f"call {name}", f"run {name}", f"use {name}", f"what is the value of {name}()"]))
            else:
                texts.append(r.choice([
                    f"call {name} with {pairs}", f"call {name} with {pairs}", f"use {name} with {spoken}",
                    f"run {name}({pairs})",
                    f"call {name}({plain})", f"what is the value of {name}({plain})",
                    f"call the tool {name} with {spoken}",
                ]))  # fmt: skip
        text = " and ".join(texts)
        text = text[0].upper() + text[1:] + r.choice([".", "", "? Use the tool.", ". Use the tool."])
        calls = "".join(call(name, {key: value for key, (value, _) in values.items()}) for name, values in todo)
        if r.random() < 0.06:
            return Dialogue([user(text)], [], self.answer(NO_TOOL), "There is no such tool.")
        return Dialogue([user(text)], self.other_tools(*tools), self.answer(calls), "I was told which tool to call.")

    def search(self) -> Dialogue:
        """A search tool with its query."""
        r, about = self.r, self.phrase(3)
        name = r.choice(
            [
                "search",
                "search",
                "web_search",
                "lookup",
                "retriever",
                "search_documents",
                "search_docs",
                "query_engine",
            ]
        )
        key = r.choice(["query", "query", "q", "input", "text", "question"])
        text = r.choice(["Search for {}.", "Search {}", "Look up {}.", "Find documents about {}.",
            "What do the documents say about {}?",
                         "Search the web for {}", "Find {}"]).format(about)  # fmt: skip
        tools = self.other_tools(tool(name, {key: "string"}))
        return Dialogue([user(self.polite(text))], tools, self.answer(call(name, {key: about})), "I need to search.")

    def no_arguments(self) -> Dialogue:
        """Tools without parameters."""
        r = self.r
        name, text = r.choice([
            ("get_time", "What time is it?"), ("get_time", "What is the time now?"), ("get_current_time",
                "What time is it now?"),
            ("now", "What time is it?"), ("magic_function_no_args",
                "What is the value of magic_function_no_args()? Use the tool."),
            ("get_date", "What is the date today?"), ("roll_dice", "Roll the dice."), ("random_image",
                "Get a random image."),
        ])  # fmt: skip
        known = [tool(*self.weather_tool()), tool("add", {"a": "integer", "b": "integer"})]
        tools = self.other_tools(tool(name, {}), *r.sample(known, r.randint(0, 2)))
        return Dialogue([user(text)], tools, self.answer(call(name, {})), "I need the tool.")

    def customer(self) -> Dialogue:
        """Names in other scripts, which the model must copy exactly."""
        r = self.r
        name, about = r.choice([self.word(), self.phrase(2)]), f"a {self.phrase(2)} company"
        text = f"Create a customer named '{name}' ({self.phrase(2).title()}) - {about}"
        which = r.choice(["unicode_customer", "create_customer"])
        arguments = {"customer_name": name, "description": about}
        tools = self.other_tools(tool(which, dict.fromkeys(arguments, "string")), most=1)
        return Dialogue([user(text)], tools, self.answer(call(which, arguments)), "I need to create a customer.")

    def special_calls(self) -> Dialogue:
        """Tools with a style, an expression, or a magic number."""
        r = self.r
        if r.random() < 0.4:
            style = r.choice(["Pirate", "Cowboy", "formal", self.word()])
            text = f"Using the tool, generate a {style} greeting."
            tools = [tool("greeting_generator", {"answer_style": "string"})]
            reply = call("greeting_generator", {"answer_style": style})
        elif r.random() < 0.5:
            expression = f"{self.number()} {r.choice('+-*/')} {self.number()}"
            text, reply = f"What is {expression}?", call("calculator", {"expression": expression})
            tools = self.other_tools(tool("calculator", {"expression": "string"}))
        else:
            n = self.number()
            text = r.choice([f"What is the value of magic_function({n})? Use the tool.",
                f"Call magic_function with {n}",
                             f"What is magic_function of {n}?"])  # fmt: skip
            tools, reply = (
                self.other_tools(tool("magic_function", {"input": "integer"})),
                call("magic_function", {"input": n}),
            )
        return Dialogue([user(text)], tools, self.answer(reply), "I need the tool.")

    def result(self) -> str:
        """Return a tool's result."""
        r = self.r
        return r.choice([
            r.choice(["sunny", "rainy", "cloudy", "It's sunny.", "22 degrees", "sunny in Rome",
                "rain, 10 C", "snow"]),
            str(self.number()), json.dumps({r.choice(["result", "temp", self.word()]): self.number()}),
            self.phrase(6),
            f"{r.randint(-10, 40)} degrees and {r.choice(['sunny', 'windy', 'wet'])}",
            f"{self.phrase(3)}: {self.value('number')[1]}",
            f"Error: {self.phrase(4)}.", self.prose(3, 9)[:110].strip(),
        ])  # fmt: skip

    def report(self, name: str, result: str) -> str:
        """Return the model's report of a result."""
        short = "weather" if "weather" in name else name
        return f"The {short} tool says: {result}" + ("" if result.endswith((".", "!", "?")) else ".")

    def with_results(self, question: Dialogue, results: list[str]) -> list[tuple[str, str]]:
        """Append the first tool calls of the reply, and their results, to the messages of the question."""
        found = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", question.reply[0][0])[: len(results)]
        calls = [json.loads(body) for body in found]
        for i, each in enumerate(calls):
            function = {"name": each["name"], "arguments": json.dumps(each["arguments"])}
            part = {"id": f"call_{len(question.messages)}_{i}", "type": "function", "function": function}
            question.messages.append({"role": "assistant", "content": None, "tool_calls": [part]})
            question.messages.append({"role": "tool", "tool_call_id": part["id"], "content": results[i]})
        return [(each["name"], results[i]) for i, each in enumerate(calls)]

    def tool_results(self) -> Dialogue:
        """The answer after a tool result."""
        r = self.r
        question = r.choice([self.weather, self.weather, self.arithmetic, self.explicit_call, self.search,
            self.no_arguments,
                             self.special_calls])()  # fmt: skip
        if "<tool_call>" not in question.reply[0][0]:
            return question
        pairs = self.with_results(question, [self.result() for _ in range(3)])
        question.reply = self.answer(" ".join(self.report(*pair) for pair in pairs))
        question.thought = "I have the tool result."
        return question

    def endless(self) -> Dialogue:
        """An agent that never ends, for tests of limits."""
        city = self.city()
        again = call("get_weather", {"city": city})
        tools = [tool("get_weather", {"city": "string"})]
        dialogue = Dialogue(
            [user(f"Keep asking for the weather in {city}.")], tools, self.answer(again), "I must ask again."
        )
        result = self.result()
        for _ in range(self.r.randint(0, 6)):
            self.with_results(dialogue, [result])
        return dialogue

    def two_steps(self) -> Dialogue:
        """An agent with two turns: a tool call, its result, another one, its result, the answer."""
        a, b, city = self.number(), self.number(), self.city()
        place = self.r.choice(["city", "city", "location"])
        weather = (
            tool("get_weather", {place: "string"}),
            f"get the weather in {city}",
            call("get_weather", {place: city}),
        )
        add = tool("add", {"a": "integer", "b": "integer"}), f"add {a} and {b}", call("add", {"a": a, "b": b})
        steps = [weather, add] if self.r.random() < 0.6 else [add, weather]
        dialogue = Dialogue(
            [user(f"First {steps[0][1]}, then {steps[1][1]}.")], self.other_tools(weather[0], add[0], most=1)
        )
        results: list[tuple[str, str]] = []
        for step in range(self.r.randint(0, 2)):
            dialogue.reply = self.answer(steps[step][2])
            results += self.with_results(dialogue, [self.result()])
        done = len(results) == 2
        dialogue.reply = self.answer(
            " ".join(self.report(*pair) for pair in results) if done else steps[len(results)][2]
        )
        dialogue.thought = "I have the tool result." if done else "One step after the other."
        return dialogue
