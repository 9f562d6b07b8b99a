"""Which vLLM version knows which parameter of which endpoint, as the generated availability.json has it."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from packaging.version import Version

# How other servers and libraries call it -> how vLLM does.
_FOREIGN = {
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
# The client's own settings: no endpoint has them.
_OF_THE_CLIENT = frozenset(
    {"api_base", "api_base_url", "api_key", "base_url", "default_headers", "http_client", "max_retries"}
)


class Availability(NamedTuple):
    """The vLLM versions that know a parameter; ``last`` is None while the newest still does."""

    first: Version
    last: Version | None


@cache
def _table() -> dict[str, Any]:
    text = files("vllm_adapters._request").joinpath("availability.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


@cache
def fields(endpoint: str) -> dict[str, dict[str, Any]]:
    """The table's rows for an endpoint, or for a parameter that is an object: ``structured_outputs``, ..."""
    group: dict[str, dict[str, Any]] = _table()["endpoints"]
    return group[endpoint] if endpoint in group else _table()["objects"][endpoint]


@cache
def names(endpoint: str) -> frozenset[str]:
    """Every name that some version of this endpoint (or object) knows, OpenAI's own and removed ones too."""
    return frozenset(fields(endpoint))


@cache
def additions(endpoint: str) -> frozenset[str]:
    """The names that vLLM adds to what the OpenAI SDK knows."""
    return frozenset(name for name, row in fields(endpoint).items() if not row.get("openai"))


@cache
def availability(endpoint: str, name: str) -> Availability | None:
    """Since when, and until when, vLLM knows a parameter; None if it never did.

    The table begins with ``oldest()``: a ``first`` equal to it means that version or any before it.
    """
    row = fields(endpoint).get(name)
    if row is None:
        return None
    return Availability(Version(row["first"]), Version(row["last"]) if "last" in row else None)


@cache
def newest() -> Version:
    """The newest vLLM version the table describes."""
    return Version(_table()["newest"])


@cache
def oldest() -> Version:
    """The oldest vLLM version the table describes."""
    return Version(_table()["oldest"])


@cache
def endpoint_of(path: str) -> str | None:
    """The endpoint behind a path or URL, with or without ``/v1`` and whatever a proxy puts in front."""
    parts = [part for part in urlsplit(path).path.split("/") if part]
    tails = ("/" + "/".join(parts[start:]) for start in range(len(parts)))
    return next((endpoint for tail in tails if (endpoint := _by_path().get(tail))), None)


@cache
def paths(endpoint: str) -> tuple[str, ...]:
    """The paths an endpoint answers at."""
    return tuple(_table()["paths"][endpoint])


@cache
def _by_path() -> dict[str, str]:
    paths: dict[str, list[str]] = _table()["paths"]
    full = {path: endpoint for endpoint, known in paths.items() for path in known}
    return {path.removeprefix("/v1"): endpoint for path, endpoint in full.items()} | full


def suggest(endpoint: str, name: str) -> list[str]:
    """What the user may have meant by a name this endpoint does not know, best first; often nothing."""
    if name in _OF_THE_CLIENT:
        return [f"the client's own {name}"]
    known = names(endpoint)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", name).lower()
    found = [_FOREIGN[plain]] if plain in _FOREIGN else []
    if plain != name:
        found.append(plain)
    found = [text for text in found if re.split(r"\W", text, maxsplit=1)[0] in known]
    close = get_close_matches(plain, sorted(known), n=3, cutoff=0.75)
    return list(dict.fromkeys([*found, *close]))
