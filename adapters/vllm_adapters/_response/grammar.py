"""Whether a text matches a grammar, with llguidance (extra ``grammar``), or a structural tag."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

Matches = Callable[[str], bool]
Ends = Callable[[str, int], Iterable[int]]
"""Returns the positions where a match that begins at a position of a text may end."""


@lru_cache(maxsize=64)
def grammar_matcher(grammar: str) -> Matches | None:
    """Return what tells whether a text matches an EBNF or Lark grammar.

    Returns:
        ``None`` if llguidance is not installed or cannot compile the grammar.
    """
    if find_spec("llguidance") is None:
        return None
    from llguidance import LLMatcher, LLTokenizer
    from llguidance.gbnf_to_lark import any_to_lark

    tokenizer = LLTokenizer("byte")
    try:
        lark = any_to_lark(grammar)
    except Exception:  # which it raises itself, for an unknown rule
        return None
    if LLMatcher(tokenizer, lark).is_error():
        return None

    def matches(text: str) -> bool:
        matcher = LLMatcher(tokenizer, lark)
        tokens = tokenizer.tokenize_bytes(text.encode())
        return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())

    return matches


@lru_cache(maxsize=64)
def tag_matcher(tag: str) -> Matches | None:
    """Return what tells whether a text keeps to a structural tag, given as JSON.

    Returns:
        ``None`` if it cannot be checked: it contains formats other than constants, JSON schemas, regexes, tags, free
        text and combinations of these.
    """
    from jsonschema.exceptions import SchemaError

    try:
        parsed = json.loads(tag)
        ends = _compiled(_new_form(parsed))
    except (AttributeError, KeyError, TypeError, ValueError, SchemaError, re.error):
        return None
    return lambda text: len(text) in set(ends(text, 0))


def _new_form(tag: Mapping[str, Any]) -> Any:
    """Return the format of a structural tag; that of vLLM 0.11.0 and older has ``structures`` and ``triggers``."""
    if "structures" not in tag:
        return tag["format"]
    tags = [
        {"type": "tag", "begin": each["begin"], "content": {"json_schema": each["schema"]}, "end": each["end"]}
        for each in tag["structures"]
    ]
    return {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}


def _compiled(form: Any) -> Ends:
    kind = form.get("type", "json_schema" if "json_schema" in form else None)
    return _COMPILERS[kind](form)


def _constant(form: Any) -> Ends:
    value = str(form["value"])
    return lambda text, at: [at + len(value)] if text.startswith(value, at) else []


def _json_schema(form: Any) -> Ends:
    if form.get("style", "json") != "json":
        raise ValueError(form["style"])
    from jsonschema.validators import validator_for

    validator = validator_for(form["json_schema"])(form["json_schema"])
    decoder = json.JSONDecoder()

    def ends(text: str, at: int) -> list[int]:
        start = len(text) - len(text[at:].lstrip())
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return []
        if not validator.is_valid(value):
            return []
        return list(range(end, len(text) - len(text[end:].lstrip()) + 1))

    return ends


def _regex(form: Any) -> Ends:
    pattern = re.compile(form["pattern"])
    return lambda text, at: [end for end in range(at, len(text) + 1) if pattern.fullmatch(text, at, end)]


def _any_text(form: Any) -> Ends:
    return lambda text, at: range(at, len(text) + 1)


def _sequence(form: Any) -> Ends:
    parts = [_compiled(part) for part in form["elements"]]

    def ends(text: str, at: int) -> set[int]:
        places = {at}
        for part in parts:
            places = {end for place in places for end in part(text, place)}
        return places

    return ends


def _either(form: Any) -> Ends:
    parts = [_compiled(part) for part in form["elements"]]
    return lambda text, at: {end for part in parts for end in part(text, at)}


def _tag(form: Any) -> Ends:
    last = [form["end"]] if isinstance(form["end"], str) else list(form["end"])
    ends = {"elements": [{"type": "const_string", "value": value} for value in last], "type": "or"}
    begin = {"type": "const_string", "value": form["begin"]}
    return _sequence({"elements": [begin, form["content"], ends]})


def _triggered_tags(form: Any) -> Ends:
    trigger = re.compile("|".join(map(re.escape, form["triggers"])))
    tags = _either({"elements": form["tags"]})
    needed, once = bool(form.get("at_least_one")), bool(form.get("stop_after_first"))

    def ends(text: str, at: int) -> set[int]:
        found: set[int] = set()
        pending, seen = [(at, False)], set()
        while pending:
            place, tagged = pending.pop()
            if (place, tagged) in seen:
                continue
            seen.add((place, tagged))
            match = trigger.search(text, place)
            if tagged or not needed:
                found.update(range(place, (match.start() if match else len(text)) + 1))
            if match and not (tagged and once):
                pending += [(end, True) for end in tags(text, match.start())]
        return found

    return ends


def _tags_with_separator(form: Any) -> Ends:
    tags, separator = _either({"elements": form["tags"]}), str(form["separator"])
    needed, once = bool(form.get("at_least_one")), bool(form.get("stop_after_first"))

    def ends(text: str, at: int) -> set[int]:
        found = set() if needed else {at}
        pending = set(tags(text, at))
        while pending:
            place = pending.pop()
            if place not in found and not once and text.startswith(separator, place):
                pending.update(tags(text, place + len(separator)))
            found.add(place)
        return found

    return ends


_COMPILERS: dict[Any, Callable[[Any], Ends]] = {
    "const_string": _constant,
    "json_schema": _json_schema,
    "regex": _regex,
    "any_text": _any_text,
    "sequence": _sequence,
    "or": _either,
    "tag": _tag,
    "triggered_tags": _triggered_tags,
    "tags_with_separator": _tags_with_separator,
}
