"""The places that all objects have in common, and those of errors."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.pretty import pretty_repr
from rich.traceback import Traceback

from vllm_adapters import Timeouts, VLLMError
from vllm_adapters.testing import FaultServer, faults, payloads

KEY = "sk-canary-0123456789"
TOKEN = "canary-token-of-a-gateway"
HEADERS = {"X-Gateway-Token": TOKEN}
SETTINGS: dict[str, Any] = {"max_retries": 0, "timeout": Timeouts(idle=0.5)}
"""Connection settings besides key and headers."""

Places = Iterator[tuple[str, str]]
"""Names of places, and their contents."""

OBJECT_PLACES: Mapping[str, Callable[[Any], object]] = {
    "repr": repr,
    "str": str,
    "format": "{}".format,
    "rich's repr": lambda part: pretty_repr(part, expand_all=True),
    "pickle": lambda part: repr(pickle.dumps(part)),
    "pickle of a copy": lambda part: repr(pickle.dumps(copy.copy(part))),
    "pickle of a deep copy": lambda part: repr(pickle.dumps(copy.deepcopy(part))),
    "repr of a deep copy": lambda part: repr(copy.deepcopy(part)),
    "an error with it as argument": lambda part: str(ValueError(part)) + repr(KeyError(part)),
    "a log record": lambda part: logging.LogRecord("x", 10, "f", 1, "%s %r", (part, part), None).getMessage(),
    "JSON with default=repr": lambda part: json.dumps({"part": part}, default=repr),
}
"""The places in which any object may be shown."""

FAULTS = {
    "401": (faults.error(401, "Unauthorized", shape="string"), False),
    "404": (faults.error(404, "Not Found", shape="detail"), False),
    "500": (faults.error(500), False),
    "HTML": (faults.html(), False),
    "redirect": (faults.redirect("http://127.0.0.1:9/v1/chat/completions"), False),
    "timeout": (faults.hang(), False),
    "closed": (faults.hang_up(), False),
    "truncated JSON": (faults.reply(b'{"id": '), False),
    "cut body": (faults.truncate(faults.chat("one two three"), 60), False),
    "error event": (faults.error_event("dead", after=1), True),
    "cut stream": (faults.sse(*payloads.chat_chunks("one two", finish_reason=None), end="clean"), True),
    "reset stream": (faults.sse(*payloads.chat_chunks("one two", finish_reason=None), end="reset"), True),
    "hanging stream": (faults.sse(*payloads.chat_chunks("one two", finish_reason=None), end="hang"), True),
}
"""Behaviours of the server, and whether the request is streamed."""


def object_places(objects: Mapping[str, Any], places: Mapping[str, Callable[[Any], object]] = OBJECT_PLACES) -> Places:
    """Yield every place of every object."""
    for name, thing in objects.items():
        for place, show in places.items():
            yield f"{place} of {name}", str(show(thing))


MALFORMED = {
    "a list as key": {"api_key": [KEY]},
    "a dict as key": {"api_key": {"key": KEY}},
    "white space in the key": {"api_key": f"{KEY} x"},
    "a string as headers": {"default_headers": TOKEN},
    "a line break in a header": {"default_headers": {"X-Gateway-Token": f"{TOKEN}\nx: y"}},
}


def constructor_error_places(classes: Sequence[Callable[..., object]], settings: Mapping[str, Any]) -> Places:
    """Yield the places of the errors that constructors raise for malformed keys and headers."""
    for cls in classes:
        for name, malformed in MALFORMED.items():
            try:
                cls(**{**settings, **malformed})
            except Exception as error:
                for place, text in _places_of_error(error, locals=False):  # the caller's locals hold the key
                    yield f"{place} after {name} for {cls.__name__}", text
            else:
                raise AssertionError(f"{name} raised nothing in {cls.__name__}")


def error_places(server: FaultServer, request: Callable[[bool], object]) -> Places:
    """Yield the places of the errors of failed requests.

    Args:
        server: The server with the faults.
        request: Sends a request; the argument tells whether it is streamed.
    """
    for name, (behaviour, streamed) in FAULTS.items():
        server.reply(behaviour)
        try:
            request(streamed)
        except Exception as error:
            for place, text in _places_of_error(error):
                yield f"{place} after {name}", text
        else:
            raise AssertionError(f"{name} raised nothing")
    server.heal()


def _places_of_error(error: BaseException, locals: bool = True) -> Places:
    for link in chain(error):
        kind = type(link).__name__
        yield f"text of {kind}", f"{link} {link!r} {getattr(link, '__notes__', '')}"
        yield f"attributes of {kind}", repr(vars(link))
        for holder in ("request", "response"):
            try:
                held = getattr(link, holder)
            except (AttributeError, RuntimeError):  # errors of the transport may have none
                continue
            headers = [held.headers, *([held.request.headers] if holder == "response" else [])]
            if following := getattr(held, "next_request", None):
                headers.append(following.headers)
            yield f"headers of the {holder} of {kind}", repr([list(h.raw) for h in headers])
    if isinstance(error, VLLMError):
        yield "pickle of the error", repr(pickle.dumps(error))
    yield "traceback", "".join(traceback.format_exception(error))
    if not locals:
        repr_of_frames = [repr(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__)]
        yield "partly constructed objects in a traceback", "".join(repr_of_frames)
        return
    yield "traceback with locals", _with_locals(error)
    trace = Traceback.extract(type(error), error, _below_the_test(error), show_locals=True)
    locals_ = [frame.locals for stack in trace.stacks for frame in stack.frames]
    yield "rich's traceback with locals", "\n".join(str(node) for nodes in locals_ for node in (nodes or {}).values())


def _below_the_test(error: BaseException) -> Any:
    """Return the traceback without the frames of the test, whose locals hold the key."""
    frames = error.__traceback__
    while frames is not None and "/tests/" in frames.tb_frame.f_code.co_filename:
        frames = frames.tb_next
    return frames


def _with_locals(error: BaseException) -> str:
    exception = traceback.TracebackException(type(error), error, _below_the_test(error), capture_locals=True)
    return "".join(exception.format())


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
