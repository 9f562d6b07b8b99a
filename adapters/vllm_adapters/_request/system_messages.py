"""Merge system messages, for chat templates that take one, at the beginning, and refuse all others.

Agents and middleware add system messages wherever they like; the templates of Qwen3.5, Mistral and others end such a
request with a 400.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MERGE_SYSTEM_MESSAGES = "merge_system_messages"
"""Key of a request body: true merges its system messages, false never does. It is never sent."""

_REFUSAL = re.compile(r"\bsystem (?:message|role|prompt)s?\b|\broles must alternate\b", re.IGNORECASE)


def is_refused(reason: str) -> bool:
    """Return whether the text of a 400 is that of a chat template that refuses a system message where it is."""
    return _REFUSAL.search(reason) is not None


def needs_merging(messages: object) -> bool:
    """Return whether there are several system messages, or one that is not the first message."""
    return isinstance(messages, Sequence) and any(_is_system(message) for message in messages[1:])


def merge_system_messages(messages: Sequence[Any]) -> list[Any]:
    r"""Return messages with the contents of all system messages in one, the first.

    >>> from vllm_adapters._request.system_messages import merge_system_messages
    >>> merge_system_messages([
    ...     {"role": "user", "content": "Hello"},
    ...     {"role": "system", "content": "Be brief."},
    ...     {"role": "system", "content": "Be polite."},
    ... ])
    [{'role': 'system', 'content': 'Be brief.\n\nBe polite.'}, {'role': 'user', 'content': 'Hello'}]

    Args:
        messages: As for chat completions; they are not changed.
    """
    system = [message for message in messages if _is_system(message)]
    others = [message for message in messages if not _is_system(message)]
    contents = [content for message in system if (content := message.get("content"))]
    if all(isinstance(content, str) for content in contents):
        merged: Any = "\n\n".join(contents)
    else:
        merged = [part for content in contents for part in _parts(content)]
    return [{**system[0], "content": merged}, *others] if system else others


def _is_system(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "system"


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
