"""A vcrpy cassette that plays each answer once, knows what was sent, and cannot be ignored when none fits."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
from vcr.cassette import Cassette
from vcr.filters import decode_response
from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.record_mode import RecordMode
from vcr.request import Request

from vllm_adapters.testing.cassettes import Interaction, Origin, Scrubber, dump, load, request_key
from vllm_adapters.testing.sent import Sent, SentRequest

__all__ = ["Tape", "differences", "open_tape"]

_SHOWN = 2000


class Tape(Cassette):  # type: ignore[misc]
    """The conversation of one test: played from a file, or taken from a live server.

    Attributes:
        name: the cassette's path, as shown to people.
        sent: every request so far.
        unmatched: what was said about each request that had no answer; whatever the code under test did with
            the exception, these make the test fail.
        reported: how many of them have made a test fail already.
        over: set when the test body has ended: nothing may be sent after that.
    """

    def __init__(self, *, name: str, origins: Sequence[Origin], **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self.sent = Sent()
        self.unmatched: list[str] = []
        self.reported = 0
        self.over = False
        self._origins = tuple(origins)
        self._scrub = Scrubber({name: stands for origin in origins for name, stands in origin.names.items()})
        self._last: Any = None
        self._lock = threading.RLock()

    def can_play_response_for(self, request: Any) -> bool:
        """Called by vcrpy before each request, recorded or live: note it, and refuse it when nothing fits.

        The refusal is pytest's own ``Failed``, which no ``except Exception`` of a client swallows or retries.
        """
        if request is not self._last:  # http.client asks twice
            self._last = request
            self._note(request)
        if self._origins:
            return False
        with self._lock:
            if not super().can_play_response_for(request):
                self._refuse(self._explain(request))
            return True

    def play_response(self, request: Any) -> Any:
        """One answer, marked as played; threads may ask at the same time."""
        with self._lock:
            return super().play_response(request)

    def unplayed(self) -> list[str]:
        """The recorded requests that were not sent; empty in a live run."""
        if self._origins:
            return []
        missing = [i for i in range(len(self.data)) if not self.play_counts[i]]
        return [f"#{i + 1} {_title(self.data[i][0])}" for i in missing]

    def write(self, path: Path) -> None:
        """Make the live conversation the new cassette, or remove the old one if nothing was sent.

        Raises:
            ValueError: the server is not a vLLM; the old cassette stays.
        """
        if not self._origins:
            raise ValueError("only a live conversation can be written down")
        if not self.data:
            path.unlink(missing_ok=True)
            return
        interactions = [_interaction(request, response, self._origins) for request, response in self.data]
        text = dump(interactions, *self._origins)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)

    def _note(self, request: Any) -> None:
        path = _path(request, self._origins)
        headers = {name.lower(): str(value) for name, value in request.headers.items()}
        if self.over:
            self._refuse(
                f"{request.method} {path} was sent after the test had ended: no cassette can hold it.\n"
                f"Send it in the test or in the set-up of a fixture."
            )
        if self._origins and _origin_of(request, self._origins) is None:
            asked = ", ".join(origin.url for origin in self._origins)
            self._refuse(f"{request.method} {request.uri} does not go to this test's vLLM, {asked}")
        self.sent.add(SentRequest(request.method, path, headers, _body(request)))

    def _refuse(self, message: str) -> NoReturn:
        self.unmatched.append(message)
        raise pytest.fail.Exception(message, pytrace=False)

    def _explain(self, request: Any) -> str:
        asked = _title(request)
        if not self.data:
            return (
                f"no cassette {self.name}: record it with pytest --live --record\n  needed by {asked}{_shown(request)}"
            )
        best = min(
            range(len(self.data)),
            key=lambda i: (
                _title(self.data[i][0]) != asked,
                len(self._compare(i, request)),
                self.play_counts[i],
            ),
        )
        recorded = self.data[best][0]
        played = "already played" if self.play_counts[best] else "not played yet"
        lines = [f"{asked} has no answer in {self.name}", f"  sent:{_shown(request)}"]
        lines.append(f"  nearest: #{best + 1} of {len(self.data)}, {_title(recorded)}, {played}")
        found = self._compare(best, request)
        lines += [f"    {line}" for line in found[:20]] or ["    the same request: it was recorded fewer times"]
        return "\n".join(lines)

    def _compare(self, index: int, request: Any) -> list[str]:
        recorded = self.data[index][0]
        before, now = _title(recorded), _title(request)
        found = [] if before == now else [f"recorded {before}, sent {now}"]
        old, new = (self._scrub.tree(_parsed(r)) for r in (recorded, request))
        return found + differences(old, new)


def differences(recorded: Any, sent: Any, where: str = "body") -> list[str]:
    """Where two parsed bodies differ, one line each."""
    if isinstance(recorded, dict) and isinstance(sent, dict):
        lines = []
        for key in [*recorded, *(k for k in sent if k not in recorded)]:
            inside = f"{where}.{key}"
            if key not in sent:
                lines.append(f"{inside}: recorded {_short(recorded[key])}, not sent")
            elif key not in recorded:
                lines.append(f"{inside}: not recorded, sent {_short(sent[key])}")
            else:
                lines += differences(recorded[key], sent[key], inside)
        return lines
    if isinstance(recorded, list) and isinstance(sent, list) and len(recorded) == len(sent):
        pairs = enumerate(zip(recorded, sent, strict=True))
        return [line for i, (old, new) in pairs for line in differences(old, new, f"{where}[{i}]")]
    if _short(recorded, None) == _short(sent, None):
        return []
    return [f"{where}: recorded {_short(recorded)}, sent {_short(sent)}"]


@contextmanager
def open_tape(path: Path, name: str, origins: Sequence[Origin] = ()) -> Iterator[Tape]:
    """Put every HTTP client of this process behind a tape: of a file, or of the live servers ``origins``."""
    mode = RecordMode.ALL if origins else RecordMode.NONE
    scrub = Scrubber()

    def same_request(one: Any, other: Any) -> bool:
        return _key(one, scrub) == _key(other, scrub)

    with Tape.use(
        path=os.devnull if origins else str(path),  # a live conversation starts from scratch
        name=name,
        origins=origins,
        persister=_Shelf(),
        record_mode=mode,
        match_on=(same_request,),
        before_record_response=decode_response,
    ) as tape:
        yield tape


class _Shelf:
    """vcrpy's persister, for playing only: what is kept is decided after the test, see `Tape.write`."""

    def load_cassette(self, path: str, serializer: object = None) -> tuple[list[Any], list[Any]]:
        if not Path(path).is_file():
            raise CassetteNotFoundError(path)
        interactions = load(Path(path).read_text(encoding="utf-8"))
        return [_vcr_request(i) for i in interactions], [_vcr_response(i) for i in interactions]

    def save_cassette(self, path: str, tape: dict[str, Any], serializer: object = None) -> None:
        """Nothing: an error here would leave vcrpy's patches in place."""


def _key(request: Any, scrub: Scrubber) -> tuple[str, str, Any]:
    return request_key(request.method, _path(request), _body(request), _content_type(request), scrub)


def _origin_of(request: Any, origins: Sequence[Origin]) -> Origin | None:
    return next((origin for origin in origins if origin.serves(request.uri)), None)


def _path(request: Any, origins: Sequence[Origin] = ()) -> str:
    parts = urlsplit(request.uri)
    origin = _origin_of(request, origins)
    path = f"{origin.mount}{parts.path.removeprefix(origin.prefix)}" if origin else parts.path
    return f"{path}?{parts.query}" if parts.query else path


def _title(request: Any) -> str:
    return f"{request.method} {_path(request)}"


def _body(request: Any) -> bytes:
    body = request.body_bytes
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _content_type(request: Any) -> str:
    return str(request.headers.get("content-type", ""))


def _parsed(request: Any) -> Any:
    body = _body(request)
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode("utf-8", "backslashreplace")


def _shown(request: Any) -> str:
    parsed = _parsed(request)
    return "" if parsed is None else f" {_short(parsed, _SHOWN)}"


def _short(value: Any, limit: int | None = 120) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=limit is None)
    return text if limit is None or len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _vcr_request(interaction: Interaction) -> Any:
    uri = f"http://localhost:8000{interaction.path}"
    return Request(interaction.method, uri, interaction.body, {"content-type": interaction.content_type})


def _vcr_response(interaction: Interaction) -> dict[str, Any]:
    return {
        "status": {"code": interaction.status, "message": HTTPStatus(interaction.status).phrase},
        "headers": {name: [value] for name, value in interaction.headers.items()},
        "body": {"string": interaction.answer},
    }


def _interaction(request: Any, response: dict[str, Any], origins: Sequence[Origin]) -> Interaction:
    headers = {name.lower(): ", ".join(values) for name, values in response["headers"].items()}
    return Interaction(
        method=request.method,
        path=_path(request, origins),
        body=_body(request),
        content_type=_content_type(request),
        status=response["status"]["code"],
        headers=headers,
        answer=response["body"]["string"],
    )
