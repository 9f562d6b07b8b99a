"""A vcrpy cassette that plays each response once, keeps the requests, and fails the test if none matches."""

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

__all__ = ["CassettePlayer", "differences", "use_cassette"]

_BODY_LIMIT = 2000  # characters of a body in a message


class CassettePlayer(Cassette):  # type: ignore[misc]
    """The requests and responses of one test: replayed from a file, or recorded from live servers.

    Args:
        name: Path of the cassette in messages.
        origins: The live servers; none to replay.
        options: Options of vcrpy's ``Cassette``.

    Attributes:
        name: Path of the cassette in messages.
        sent: The requests so far.
        unmatched: A message for each request without a response. They fail the test, whatever the code under test
            does with the exception.
        reported: Number of ``unmatched`` messages that have been reported.
        test_ended: Whether the test function has returned. Later requests are refused.
    """

    def __init__(self, *, name: str, origins: Sequence[Origin], **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self.sent = Sent()
        self.unmatched: list[str] = []
        self.reported = 0
        self.test_ended = False
        self._origins = tuple(origins)
        self._scrubber = Scrubber.for_origins(origins)
        self._last_request: Any = None
        self._lock = threading.RLock()

    def can_play_response_for(self, request: Any) -> bool:
        """Keep the request; fail if the cassette has no response to it.

        vcrpy calls this before each request, replayed or live. The failure is pytest's own ``Failed``, which no
        ``except Exception`` of a client catches or retries.
        """
        if request is not self._last_request:  # vcrpy's http.client stub calls this twice
            self._last_request = request
            self._keep(request)
        if self._origins:
            return False
        with self._lock:
            if not super().can_play_response_for(request):
                self._fail(self._explain(request))
            return True

    def play_response(self, request: Any) -> Any:
        """Return the next response to ``request`` and mark it as played; thread-safe."""
        with self._lock:
            return super().play_response(request)

    def unplayed(self) -> list[str]:
        """Return the recorded requests that were not sent; none in a live run."""
        if self._origins:
            return []
        missing = [i for i in range(len(self.data)) if not self.play_counts[i]]
        return [f"#{i + 1} {self._title(self.data[i][0])}" for i in missing]

    def write(self, path: Path) -> None:
        """Write the recorded interactions to ``path``, or remove the file if nothing was sent.

        Raises:
            ValueError: The server is not vLLM, or nothing was recorded because this is a replay. The file stays.
        """
        if not self._origins:
            raise ValueError("A replayed test has nothing to record. Run it with --live.")
        if not self.data:
            path.unlink(missing_ok=True)
            return
        interactions = [_interaction(request, response, self._origins) for request, response in self.data]
        text = dump(interactions, *self._origins)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)

    def _keep(self, request: Any) -> None:
        path = _path(request, self._origins)
        headers = {name.lower(): str(value) for name, value in request.headers.items()}
        if self.test_ended:
            self._fail(
                f"{self._title(request)} was sent after the test had ended, so no cassette can hold it.\n"
                f"Send it in the test or in the set-up of a fixture."
            )
        if self._origins and _origin_of(request, self._origins) is None:
            urls = ", ".join(origin.url for origin in self._origins)
            uri = self._scrubber.path(request.uri)
            self._fail(f"{request.method} {uri} does not go to this test's vLLM, {urls}")
        self.sent.add(SentRequest(request.method, path, headers, _body(request)))

    def _fail(self, message: str) -> NoReturn:
        self.unmatched.append(message)
        raise pytest.fail.Exception(message, pytrace=False)

    def _explain(self, request: Any) -> str:
        title = self._title(request)
        if not self.data:
            return (
                f"The cassette {self.name} does not exist. Record it with pytest --live --record.\n"
                f"  needed for {title}{self._format_body(request)}"
            )
        best = min(
            range(len(self.data)),
            key=lambda i: (
                self._title(self.data[i][0]) != title,
                len(self._compare(i, request)),
                self.play_counts[i],
            ),
        )
        recorded = self.data[best][0]
        played = "already played" if self.play_counts[best] else "not played yet"
        lines = [f"{title} has no response in {self.name}", f"  sent:{self._format_body(request)}"]
        lines.append(f"  closest: #{best + 1} of {len(self.data)}, {self._title(recorded)}, {played}")
        found = self._compare(best, request)
        lines += [f"    {line}" for line in found[:20]] or ["    identical, but recorded fewer times than it was sent"]
        return "\n".join(lines)

    def _title(self, request: Any) -> str:
        return f"{request.method} {self._scrubber.path(_path(request))}"

    def _format_body(self, request: Any) -> str:
        parsed = self._scrubber.tree(_parsed(request))
        return "" if parsed is None else f" {_short(parsed, _BODY_LIMIT)}"

    def _compare(self, index: int, request: Any) -> list[str]:
        recorded = self.data[index][0]
        before, now = self._title(recorded), self._title(request)
        found = [] if before == now else [f"recorded {before}, sent {now}"]
        old, new = (self._scrubber.tree(_parsed(r)) for r in (recorded, request))
        return found + differences(old, new)


def differences(recorded: Any, sent: Any, where: str = "body") -> list[str]:
    """Return the differences between two parsed bodies, one line each."""
    if isinstance(recorded, dict) and isinstance(sent, dict):
        lines = []
        for key in [*recorded, *(k for k in sent if k not in recorded)]:
            path = f"{where}.{key}"
            if key not in sent:
                lines.append(f"{path}: recorded {_short(recorded[key])}, not sent")
            elif key not in recorded:
                lines.append(f"{path}: not recorded, sent {_short(sent[key])}")
            else:
                lines += differences(recorded[key], sent[key], path)
        return lines
    if isinstance(recorded, list) and isinstance(sent, list) and len(recorded) == len(sent):
        pairs = enumerate(zip(recorded, sent, strict=True))
        return [line for i, (old, new) in pairs for line in differences(old, new, f"{where}[{i}]")]
    if _short(recorded, None) == _short(sent, None):
        return []
    return [f"{where}: recorded {_short(recorded)}, sent {_short(sent)}"]


@contextmanager
def use_cassette(path: Path, name: str, origins: Sequence[Origin] = ()) -> Iterator[CassettePlayer]:
    """Intercept every HTTP client of this process: replay a cassette, or record the live servers.

    Args:
        path: The cassette.
        name: Path of the cassette in messages.
        origins: The live servers; none to replay.
    """
    mode = RecordMode.ALL if origins else RecordMode.NONE
    scrubber = Scrubber()

    def same_request(one: Any, other: Any) -> bool:
        return _key(one, scrubber) == _key(other, scrubber)

    with CassettePlayer.use(
        path=os.devnull if origins else str(path),  # a recording starts from scratch
        name=name,
        origins=origins,
        persister=_Persister(),
        record_mode=mode,
        match_on=(same_request,),
        before_record_response=decode_response,
    ) as player:
        yield player


class _Persister:
    """Reads cassettes for vcrpy. It writes none: ``CassettePlayer.write`` does, after the test has passed."""

    def load_cassette(self, path: str, serializer: object = None) -> tuple[list[Any], list[Any]]:
        if not Path(path).is_file():
            raise CassetteNotFoundError(path)
        interactions = load(Path(path).read_text(encoding="utf-8"))
        return [_vcr_request(i) for i in interactions], [_vcr_response(i) for i in interactions]

    def save_cassette(self, path: str, cassette_dict: dict[str, Any], serializer: object = None) -> None:
        """Do nothing: an error here would leave vcrpy's patches in place."""


def _key(request: Any, scrubber: Scrubber) -> tuple[str, str, Any]:
    return request_key(request.method, _path(request), _body(request), _content_type(request), scrubber)


def _origin_of(request: Any, origins: Sequence[Origin]) -> Origin | None:
    return next((origin for origin in origins if origin.serves(request.uri)), None)


def _path(request: Any, origins: Sequence[Origin] = ()) -> str:
    parts = urlsplit(request.uri)
    origin = _origin_of(request, origins)
    path = f"{origin.mount}{parts.path.removeprefix(origin.prefix)}" if origin else parts.path
    return f"{path}?{parts.query}" if parts.query else path


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


def _short(value: Any, limit: int | None = 120) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=limit is None)
    return text if limit is None or len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _vcr_request(interaction: Interaction) -> Any:
    uri = f"http://localhost:8000{interaction.path}"
    return Request(interaction.method, uri, interaction.request_body, {"content-type": interaction.content_type})


def _vcr_response(interaction: Interaction) -> dict[str, Any]:
    return {
        "status": {"code": interaction.status, "message": HTTPStatus(interaction.status).phrase},
        "headers": {name: [value] for name, value in interaction.headers.items()},
        "body": {"string": interaction.response_body},
    }


def _interaction(request: Any, response: dict[str, Any], origins: Sequence[Origin]) -> Interaction:
    headers = {name.lower(): ", ".join(values) for name, values in response["headers"].items()}
    return Interaction(
        method=request.method,
        path=_path(request, origins),
        request_body=_body(request),
        content_type=_content_type(request),
        status=response["status"]["code"],
        headers=headers,
        response_body=response["body"]["string"],
    )
