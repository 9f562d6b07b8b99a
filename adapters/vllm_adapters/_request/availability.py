"""Parameter availability: which vLLM version has which parameter of which endpoint, from availability.json."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from packaging.version import Version

# The name in other servers and libraries -> vLLM's name.
_FOREIGN_NAMES = {
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_length": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "maxtokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "topk": "top_k",
    "topp": "top_p",
    "minp": "min_p",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "eos_token_id": "stop_token_ids",
    "bad_words_ids": "bad_words",
    "num_return_sequences": "n",
    "num_beams": "use_beam_search=True, n",
    "random_seed": "seed",
    "functions": "tools",
    "function_call": "tool_choice",
    "enable_thinking": 'chat_template_kwargs={"enable_thinking": ...}',
    "thinking": 'chat_template_kwargs={"thinking": ...}',
    "thinking_budget": "thinking_token_budget",
    "grammar": 'structured_outputs={"grammar": ...}',
    "ebnf": 'structured_outputs={"grammar": ...}',
    "regex": 'structured_outputs={"regex": ...}',
    "choice": 'structured_outputs={"choice": ...}',
    "choices": 'structured_outputs={"choice": ...}',
    "json_object": 'structured_outputs={"json_object": True}',
    "json_schema": 'structured_outputs={"json": ...}',
    "guided_decoding": "structured_outputs",
    "adapter_name": "model",
    "lora_name": "model",
    "texts": "input",
    "top_k": "top_n",
    "truncate": "truncate_prompt_tokens",
}
# Settings of the client. No endpoint has them.
_CLIENT_SETTINGS = frozenset(
    {"api_base", "api_base_url", "api_key", "base_url", "default_headers", "http_client", "max_retries"}
)


class Availability(NamedTuple):
    """The first and last vLLM version that have a parameter; ``last`` is ``None`` if the newest has it."""

    first: Version
    last: Version | None


@cache
def _table() -> dict[str, Any]:
    text = files("vllm_adapters._request").joinpath("availability.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


@cache
def fields(endpoint: str) -> dict[str, dict[str, Any]]:
    """Return the table's rows for an endpoint, or for a parameter that is an object (``structured_outputs``, ...)."""
    group: dict[str, dict[str, Any]] = _table()["endpoints"]
    return group[endpoint] if endpoint in group else _table()["objects"][endpoint]


@cache
def names(endpoint: str) -> frozenset[str]:
    """Return every name that some version of the endpoint (or object) has, OpenAI's own and removed ones included."""
    return frozenset(fields(endpoint))


@cache
def additions(endpoint: str) -> frozenset[str]:
    """Return the names that vLLM adds to those of the OpenAI SDK."""
    return frozenset(name for name, row in fields(endpoint).items() if not row.get("openai"))


@cache
def lookup(endpoint: str, name: str) -> Availability | None:
    """Return the versions that have a parameter, or ``None`` if none has it.

    A ``first`` equal to ``oldest()`` means that version or any before it.
    """
    row = fields(endpoint).get(name)
    if row is None:
        return None
    return Availability(Version(row["first"]), Version(row["last"]) if "last" in row else None)


@cache
def route(endpoint: str) -> str:
    """Return the path of an endpoint."""
    return str(_table()["paths"][endpoint][0])


@cache
def since(endpoint: str) -> Version:
    """Return the first vLLM version that has an endpoint."""
    return min(Version(row["first"]) for row in fields(endpoint).values())


@cache
def newest() -> Version:
    """Return the newest vLLM version of the table."""
    return Version(_table()["newest"])


@cache
def oldest() -> Version:
    """Return the oldest vLLM version of the table."""
    return Version(_table()["oldest"])


@cache
def endpoint_of(path: str) -> str | None:
    """Return the endpoint of a path or URL, with or without ``/v1``, behind any path prefix of a proxy."""
    parts = [part for part in urlsplit(path).path.split("/") if part]
    tails = ("/" + "/".join(parts[start:]) for start in range(len(parts)))
    return next((endpoint for tail in tails if (endpoint := _by_path().get(tail))), None)


@lru_cache(maxsize=256)
def path_of(url: str) -> str:
    """Return the path of a request to ``url``, which the SDK gives whole or relative to the server's ``/v1``."""
    parts = urlsplit(url)
    return parts.path if parts.netloc else "/v1/" + parts.path.lstrip("/")


def is_responses(url: str) -> bool:
    """Return whether a request to ``url`` is for the Responses API."""
    return path_of(url).endswith("/responses")


@cache
def paths(endpoint: str) -> tuple[str, ...]:
    """Return the paths of an endpoint."""
    return tuple(_table()["paths"][endpoint])


@cache
def _by_path() -> dict[str, str]:
    paths: dict[str, list[str]] = _table()["paths"]
    full = {path: endpoint for endpoint, known in paths.items() for path in known}
    return {path.removeprefix("/v1"): endpoint for path, endpoint in full.items()} | full


def suggest(endpoint: str, name: str) -> list[str]:
    """Return names of the endpoint that are close to ``name``, best first; often none."""
    if name in _CLIENT_SETTINGS:
        return [f"the client's {name}"]
    return suggest_among(names(endpoint), name)


def suggest_among(known: frozenset[str], name: str) -> list[str]:
    """Return names of ``known`` that are close to ``name``, best first; often none."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", name).lower()
    found = [_FOREIGN_NAMES[plain]] if plain in _FOREIGN_NAMES else []
    if plain != name:
        found.append(plain)
    found = [text for text in found if re.split(r"\W", text, maxsplit=1)[0] in known]
    close = get_close_matches(plain, sorted(known), n=3, cutoff=0.75)
    return list(dict.fromkeys([*found, *close]))
