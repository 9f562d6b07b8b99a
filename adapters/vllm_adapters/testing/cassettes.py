"""How a recorded conversation with vLLM is written down: readable, and free of the recording machine.

A cassette is YAML: JSON bodies parsed, event streams as a list of events. It says which vLLM it was recorded
from, and keeps only the headers that mean something. What is restored from it parses to the same values.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

__all__ = ["Interaction", "Origin", "Scrubber", "audit", "cassettes", "dump", "load", "recorded_versions", "replay_url"]

_HOST = "http://localhost:8000"
_LOOPBACK = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}  # noqa: S104 (names to compare, nothing is bound)
_KEPT_HEADERS = ("content-type", "retry-after", "x-request-id", "location", "allow")
_BOUNDARY = "cassette-boundary"
_WIDTH = 1 << 15  # an event of a stream in one line

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Interaction:
    """One request and its answer, as bytes.

    Attributes:
        method: of the request.
        path: path and query, on a server mounted at the root.
        body: of the request.
        content_type: of the request, ``""`` if it had none.
        status: of the answer.
        headers: of the answer, names in lower case.
        answer: the body of the answer.
    """

    method: str
    path: str
    body: bytes
    content_type: str
    status: int
    headers: Mapping[str, str]
    answer: bytes


@dataclass(frozen=True)
class Origin:
    """The live server that a test talks to.

    Attributes:
        url: its base URL, ending in ``/v1``.
        version: what ``/version`` says; None if it does not say.
        kind: which model and options it serves.
        names: what must not be written down, mapped to what is written instead.
        mount: where the cassette has it: ``""``, or ``/minilm`` for a test's second server.
    """

    url: str
    version: str | None = None
    kind: str = ""
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
    mount: str = ""

    @property
    def prefix(self) -> str:
        """The path in front of ``/v1``, for servers that are not mounted at the root."""
        return urlsplit(self.url).path.removesuffix("/v1").rstrip("/")

    def serves(self, uri: str) -> bool:
        """Whether a request to ``uri`` goes to this server."""
        path = urlsplit(uri).path
        return _address(uri) == _address(self.url) and f"{path}/".startswith(f"{self.prefix}/")


def replay_url(mount: str) -> str:
    """Where a replayed test finds the server that the cassette has at ``mount``."""
    return f"{_HOST}{mount}/v1"


def _address(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    host = "localhost" if parts.hostname in _LOOPBACK else parts.hostname or ""
    return host, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class Scrubber:
    """Replaces what belongs to one machine: given names, and paths under its home, temporary folders.

    Args:
        names: exact texts and what stands for them.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = sorted((names or {}).items(), key=lambda pair: -len(pair[0]))
        self._paths = _machine_paths()

    def text(self, text: str) -> str:
        """``text`` with names replaced, and paths cut to their last part."""
        for name, stands in self._names:
            text = text.replace(name, stands)
        return self._paths.sub(lambda found: found.group().rstrip("/").rpartition("/")[2], text)

    def tree(self, value: Any) -> Any:
        """The same for every string in parsed JSON."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.tree(item) for item in value]
        if isinstance(value, dict):
            return {key: self.tree(item) for key, item in value.items()}
        return value


def _machine_paths() -> re.Pattern[str]:
    folders = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(sys.prefix)}
    folders |= {Path(os.environ[name]) for name in ("XDG_CACHE_HOME", "HF_HOME") if os.environ.get(name)}
    folders |= {folder.resolve() for folder in folders}
    # A home of "/" (some containers) would make every path a machine's path.
    roots = sorted((re.escape(str(f)) for f in folders if f != f.parent), key=len, reverse=True)
    # Base64 has slashes too: a path starts after something that is neither a letter nor base64.
    return re.compile(rf"(?<![\w+/.])(?:{'|'.join(roots)})(?![\w.-])(?:/[^\s\"'<>|:,;()\[\]{{}}]*)?")


def dump(interactions: Sequence[Interaction], *origins: Origin) -> str:
    """Write interactions with one or more servers down.

    Raises:
        ValueError: nothing says which vLLM answered, so this is no recording of a vLLM.
    """
    scrub = Scrubber({name: stands for origin in origins for name, stands in origin.names.items()})
    version = origins[0].version or _fingerprint(interactions)
    if version is None:
        where = origins[0].url
        raise ValueError(f"{where} gives no /version and no system_fingerprint: only a real vLLM can be recorded")
    kinds = ", ".join(origin.kind for origin in origins)
    server = {"server": kinds} if kinds else {}
    recorded = {"recorded_with": {"vllm": version, **server}}
    tape = {**recorded, "interactions": [_write(interaction, scrub) for interaction in interactions]}
    text: str = yaml.dump(tape, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
    if _canonical(yaml.load(text, Loader=_Loader)) != _canonical(tape):  # noqa: S506 (a safe loader)
        raise ValueError("the conversation does not survive being written as YAML")
    return text


def load(text: str) -> list[Interaction]:
    """Read what `dump` wrote."""
    tape = yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)
    return [_read(written) for written in tape["interactions"]]


def request_key(method: str, path: str, body: bytes, content_type: str, scrub: Scrubber) -> tuple[str, str, Any]:
    """What two requests must share to be the same: method, path with query, and the parsed or raw body."""
    parsed = _parse(body, content_type)
    if parsed is not None:
        return method, path, _canonical(scrub.tree(parsed))
    return method, path, _unbounded(body, content_type)[0]


def audit(text: str, secrets: Iterable[str] = ()) -> list[str]:
    """What is wrong with a cassette, one line each; none if it may be shared.

    Args:
        text: the cassette.
        secrets: texts that must not be in it.
    """
    found = [f"{what}: {match.group()!r}" for what, p in _FORBIDDEN.items() for match in p.finditer(text)]
    found += [f"path of this machine: {match.group()!r}" for match in _machine_paths().finditer(text)]
    found += ["a secret" for secret in secrets if secret in text]
    tape = yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)
    version = str((tape.get("recorded_with") or {}).get("vllm", ""))
    if not re.match(r"\d+\.\d+", version):
        found.append("it does not say which vLLM it was recorded from")
    prints = set(re.findall(r"vllm-(\d+\.\d+\.\d+[\w.+]*)-", text))
    found += [f"fingerprint of vLLM {p}, recorded with {version}" for p in prints if _base(p) != _base(version)]
    return found


_FORBIDDEN = {
    "authorization": re.compile(r"(?i)authorization[ \t]*:[ \t]*[^\s{]|bearer\s+[a-z0-9]"),  # not a name in a schema
    "noise of a client": re.compile(r"(?i)x-stainless-|user-agent:"),
    "path": re.compile(r"(?<![\w+/.])/(?:home|Users|root|tmp|var/folders)/"),
    "address": re.compile(r"127\.0\.0\.1|localhost:(?!8000\b)\d+"),
    "key": re.compile(r"\b(?:sk-[\w-]{16,}|hf_\w{20,})"),
}


def recorded_versions(folder: Path) -> dict[str, int]:
    """The vLLM versions of all cassettes under ``folder``, with their number; reads only the first lines."""
    counts: dict[str, int] = {}
    for _, head in cassettes(folder):
        found = re.search(r"^  vllm: '?([^'\s]+)", head, re.MULTILINE)
        version = found.group(1) if found else "unknown"
        counts[version] = counts.get(version, 0) + 1
    return counts


def cassettes(folder: Path) -> Iterator[tuple[Path, str]]:
    """The cassettes under ``folder`` and how each begins; YAML files of others may lie between them."""
    for path in sorted(folder.rglob("*.yaml")):
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(200)
        if head.startswith("recorded_with:"):
            yield path, head


def _fingerprint(interactions: Sequence[Interaction]) -> str | None:
    texts = (interaction.answer.decode("utf-8", "replace") for interaction in interactions)
    found = next((m for m in (re.search(r'"vllm-(\d[\w.+]*)-', text) for text in texts) if m), None)
    return found.group(1) if found else None


def _base(version: str) -> str:
    return version.partition("+")[0]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _parse(body: bytes, content_type: str) -> Any:
    if "json" not in content_type or not body:
        return None
    try:
        parsed = json.loads(body)
        _line(parsed).encode()
    except ValueError:
        return None  # not JSON, whatever it claims, or half a character: kept and compared as bytes
    return parsed


def _unbounded(body: bytes, content_type: str) -> tuple[bytes, str]:
    """A multipart body with a fixed boundary: clients draw a random one for each request."""
    found = re.search(r'boundary="?([^";]+)', content_type)
    if not found:
        return body, content_type
    boundary = found.group(1)
    return body.replace(boundary.encode(), _BOUNDARY.encode()), content_type.replace(boundary, _BOUNDARY)


def _write(interaction: Interaction, scrub: Scrubber) -> dict[str, Any]:
    body, content_type = _unbounded(interaction.body, interaction.content_type)
    request: dict[str, Any] = {
        "method": interaction.method,
        "uri": _HOST + scrub.text(interaction.path),
        **_write_body(body, content_type, scrub),
    }
    if body and "json" not in request:
        request["content-type"] = content_type
    headers = {n: scrub.text(interaction.headers[n]) for n in _KEPT_HEADERS if n in interaction.headers}
    response = {
        "status": interaction.status,
        "headers": headers,
        **_write_body(interaction.answer, headers.get("content-type", ""), scrub),
    }
    return {"request": request, "response": response}


def _write_body(body: bytes, content_type: str, scrub: Scrubber) -> dict[str, Any]:
    if not body:
        return {}
    parsed = _parse(body, content_type)
    if parsed is not None:
        return {"json": scrub.tree(parsed)}
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode("ascii")}
    if "event-stream" in content_type and text.endswith("\n\n") and "\r" not in text:
        return {"sse": [_write_event(block, scrub) for block in text[:-2].split("\n\n")]}
    return {"text": scrub.text(text)}


def _write_event(block: str, scrub: Scrubber) -> Any:
    """An event as parsed JSON if that is all it is; else (``data: [DONE]``, comments) as its text."""
    if block.startswith("data: {") and "\n" not in block:
        parsed = _parse(block[6:].encode(), "json")
        if parsed is not None:
            return _Event(scrub.tree(parsed))
    return scrub.text(block)


def _read(written: dict[str, Any]) -> Interaction:
    request, response = written["request"], written["response"]
    uri = urlsplit(request["uri"])
    return Interaction(
        method=request["method"],
        path=f"{uri.path}?{uri.query}" if uri.query else uri.path,
        body=_read_body(request),
        content_type=request.get("content-type", "application/json" if "json" in request else ""),
        status=int(response["status"]),
        headers=response["headers"],
        answer=_read_body(response),
    )


def _read_body(written: dict[str, Any]) -> bytes:
    if "json" in written:
        return _line(written["json"]).encode()
    if "sse" in written:
        events = (e if isinstance(e, str) else f"data: {_line(e)}" for e in written["sse"])
        return "".join(f"{event}\n\n" for event in events).encode()
    if "base64" in written:
        return base64.b64decode(written["base64"])
    return str(written.get("text", "")).encode()


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Event(dict[str, Any]):
    """An event of a stream: written in one line, since streams have many that are alike."""


class _Dumper(_BaseDumper):  # type: ignore[misc]
    """YAML for people: rows of numbers in one line, long texts as blocks, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: Any, items: list[Any]) -> Any:
    numbers = bool(items) and all(isinstance(item, int | float) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=numbers)


def _represent_str(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _represent_event(dumper: Any, event: _Event) -> Any:
    return dumper.represent_mapping("tag:yaml.org,2002:map", event.items(), flow_style=True)


_Dumper.add_representer(_Event, _represent_event)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_str)

_NAME_LIMIT = 200


class Library:
    """The folder of cassettes and its mirror.

    Args:
        root: the folder of the cassettes.
        sources: folders of tests, the first that holds a test is the one mirrored.
    """

    def __init__(self, root: Path, sources: Sequence[Path]) -> None:
        self.root = root
        self._sources = sources

    def path(self, item: pytest.Item) -> Path:
        """``tests/rag/test_chat.py::TestX::test_y[1]`` -> ``rag/test_chat/TestX.test_y[1].yaml``."""
        classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
        name = ".".join([*classes, item.name])
        for character in r"<>?%*:|\"'/":
            name = name.replace(character, "-")
        if len(name.encode()) > _NAME_LIMIT:
            name = f"{name[: _NAME_LIMIT // 4]}...{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self._folder(item.path) / f"{name}.yaml"

    def orphans(self, owned: Collection[Path], modules: Collection[Path]) -> list[Path]:
        """Cassettes that no test owns: their module is gone, or is among ``modules`` without owning them."""
        folders = {self._folder(module) for module in modules}
        found = []
        for cassette, _ in cassettes(self.root):
            folder = cassette.parent
            gone = not any(self._module(folder, source).is_file() for source in self._sources)
            if cassette not in owned and (gone or folder in folders):
                found.append(cassette)
        return found

    def _folder(self, module: Path) -> Path:
        source = next((source for source in self._sources if module.is_relative_to(source)), None)
        if source is None:
            raise pytest.UsageError(f"{module} lies outside of {self._sources[-1]}: its cassettes have no place")
        return self.root / module.relative_to(source).with_suffix("")

    def _module(self, folder: Path, source: Path) -> Path:
        return (source / folder.relative_to(self.root)).with_suffix(".py")
