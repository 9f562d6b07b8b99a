"""Cassettes: recorded requests and responses of vLLM as readable YAML, and the files that hold them.

JSON bodies are stored parsed, event streams as a list of events. A cassette names the vLLM version it was recorded
from, keeps only meaningful headers, and contains nothing of the recording machine. A restored body parses to the same
values as the recorded one.
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

__all__ = [
    "CassetteStore",
    "Interaction",
    "Origin",
    "Scrubber",
    "audit",
    "dump",
    "find_cassettes",
    "load",
    "recorded_version",
    "recorded_versions",
    "replay_url",
    "request_key",
]

_HOST = "http://localhost:8000"
_LOOPBACK = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}  # noqa: S104 (compared, not bound)
_KEPT_HEADERS = ("content-type", "retry-after", "x-request-id", "location", "allow")
_BOUNDARY = "cassette-boundary"
_NAME_LIMIT = 200  # bytes of a file name, of 255 that file systems allow
_WIDTH = 1 << 15  # keeps an event of a stream on one line

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Interaction:
    """One request and its response.

    Attributes:
        method: Method of the request.
        path: Path and query, relative to the root of the server.
        request_body: Body of the request.
        content_type: Content type of the request; ``""`` if it had none.
        status: Status of the response.
        headers: Headers of the response, with names in lower case.
        response_body: Body of the response.
    """

    method: str
    path: str
    request_body: bytes
    content_type: str
    status: int
    headers: Mapping[str, str]
    response_body: bytes


@dataclass(frozen=True)
class Origin:
    """The live server that a test talks to.

    Attributes:
        url: Base URL, ending in ``/v1``.
        version: Version at ``/version``; ``None`` if the server does not tell it.
        spec: Model and options that it serves.
        replacements: Texts that must not be recorded, and the text recorded instead of each.
        mount: Path prefix in the cassette: ``""``, or ``/minilm`` for the second server of a test.
    """

    url: str
    version: str | None = None
    spec: str = ""
    replacements: Mapping[str, str] = field(default_factory=dict, repr=False)
    mount: str = ""

    @property
    def prefix(self) -> str:
        """The path before ``/v1``, for a server that is not mounted at the root."""
        return urlsplit(self.url).path.removesuffix("/v1").rstrip("/")

    def serves(self, uri: str) -> bool:
        """Return whether a request to ``uri`` goes to this server."""
        path = urlsplit(uri).path
        return _address(uri) == _address(self.url) and f"{path}/".startswith(f"{self.prefix}/")


def replay_url(mount: str) -> str:
    """Return the base URL at which a replayed test finds the server with this ``mount``."""
    return f"{_HOST}{mount}/v1"


def _address(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    host = "localhost" if parts.hostname in _LOOPBACK else parts.hostname or ""
    return host, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


_REDACTED = "<redacted>"
_SECRET_FIELDS = frozenset({"cache_salt", "api_key", "authorization", "access_token", "password"})
"""Fields of JSON whose value is a secret if it is a str."""
_HARMLESS = re.compile(r"true|false|[\d.:-]*", re.I)
"""Values of a query that are no secrets: numbers, dates and versions."""
_HARMLESS_NAMES = frozenset({"after", "before", "include", "model", "order", "purpose", "stream"})
"""Names of query parameters of the OpenAI API, whose values are no secrets."""
_SECRETS_IN_TEXT = (
    (re.compile(r"(?<=://)[^/\s:@\"'<>]+:[^/\s@\"'<>]+(?=@)"), _REDACTED),
    (
        re.compile(
            r"(https?://[^\s\"'<>?]*\?[^\s\"'<>]*?\b[\w.-]*(?:key|token|secret|passw|sig|auth|credential)[\w.-]*=)"
            r"[^&\s\"'<>]+",
            re.I,
        ),
        rf"\1{_REDACTED}",
    ),
)
"""Passwords and signatures in URLs within texts, such as those of images."""


class Scrubber:
    """Removes secrets, and traces of the recording machine: given texts, paths below its home and temporary folders.

    Args:
        replacements: Exact texts, and the replacement of each.
    """

    def __init__(self, replacements: Mapping[str, str] | None = None) -> None:
        self._replacements = sorted((replacements or {}).items(), key=lambda pair: -len(pair[0]))
        self._paths = _machine_paths()

    @classmethod
    def for_origins(cls, origins: Iterable[Origin]) -> Scrubber:
        """Return a scrubber with the replacements of all ``origins``."""
        return cls({text: other for origin in origins for text, other in origin.replacements.items()})

    def text(self, text: str) -> str:
        """Return ``text`` with the replacements made and paths reduced to their last part."""
        for original, replacement in self._replacements:
            text = text.replace(original, replacement)
        if "://" in text:
            for pattern, replacement in _SECRETS_IN_TEXT:
                text = pattern.sub(replacement, text)
        return self._paths.sub(lambda match: match.group().rstrip("/").rpartition("/")[2], text)

    def tree(self, value: Any) -> Any:
        """Return parsed JSON with every string scrubbed."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.tree(item) for item in value]
        if isinstance(value, dict):
            scrubbed = {
                key: _REDACTED if key in _SECRET_FIELDS and isinstance(item, str) else self.tree(item)
                for key, item in value.items()
            }
            headers = value.get("headers")
            if value.get("type") == "mcp" and isinstance(headers, dict):  # a tool of /v1/responses
                scrubbed["headers"] = dict.fromkeys(headers, _REDACTED)
            return scrubbed
        return value

    def path(self, path: str) -> str:
        """Return a path with the values of its query redacted, except those that are not secret."""
        path, mark, query = self.text(path).partition("?")
        pairs = [part.partition("=") for part in query.split("&")]
        parts = (
            f"{name}{equals}{value if name in _HARMLESS_NAMES or _HARMLESS.fullmatch(value) else _REDACTED}"
            for name, equals, value in pairs
        )
        return path + mark + "&".join(parts)


def _machine_paths() -> re.Pattern[str]:
    folders = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(sys.prefix)}
    folders |= {Path(os.environ[name]) for name in ("XDG_CACHE_HOME", "HF_HOME") if os.environ.get(name)}
    folders |= {folder.resolve() for folder in folders}
    # A home of "/", as in some containers, would match every path.
    roots = sorted((re.escape(str(f)) for f in folders if f != f.parent), key=len, reverse=True)
    # Base64 contains slashes too: a path must not follow a letter or a base64 character.
    return re.compile(rf"(?<![\w+/.])(?:{'|'.join(roots)})(?![\w.-])(?:/[^\s\"'<>|:,;()\[\]{{}}]*)?")


def dump(interactions: Sequence[Interaction], *origins: Origin) -> str:
    """Return the cassette of interactions with one or more servers.

    Raises:
        ValueError: No response tells the version of vLLM, so the server may be something else.
    """
    scrubber = Scrubber.for_origins(origins)
    version = origins[0].version or _fingerprint(interactions)
    if version is None:
        where = origins[0].url
        raise ValueError(
            f"{where} tells no version, neither at /version nor in a system_fingerprint. Record from a real vLLM."
        )
    specs = ", ".join(origin.spec for origin in origins)
    server = {"server": specs} if specs else {}
    cassette = {
        "recorded_with": {"vllm": version, **server},
        "interactions": [_to_yaml(interaction, scrubber) for interaction in interactions],
    }
    text: str = yaml.dump(cassette, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
    if _canonical(yaml.load(text, Loader=_Loader)) != _canonical(cassette):  # noqa: S506 (a safe loader)
        raise ValueError("The interactions cannot be represented in YAML without loss.")
    return text


def load(text: str) -> list[Interaction]:
    """Return the interactions of a cassette that ``dump`` wrote."""
    cassette = yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)
    return [_from_yaml(item) for item in cassette["interactions"]]


def request_key(method: str, path: str, body: bytes, content_type: str, scrubber: Scrubber) -> tuple[str, str, Any]:
    """Return what identical requests have in common: method, path with query, and the parsed or raw body."""
    parsed, path = _parse(body, content_type), scrubber.path(path)
    if parsed is not None:
        return method, path, _canonical(scrubber.tree(parsed))
    return method, path, _fix_boundary(body, content_type)[0]


def audit(text: str, secrets: Iterable[str] = ()) -> list[str]:
    """Return the reasons not to share a cassette, one line each.

    Args:
        text: The cassette.
        secrets: Texts that it must not contain.
    """
    problems = [f"{what}: {match.group()!r}" for what, p in _FORBIDDEN.items() for match in p.finditer(text)]
    problems += [f"path of this machine: {match.group()!r}" for match in _machine_paths().finditer(text)]
    problems += ["a secret" for secret in secrets if secret in text]
    cassette = yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)
    version = str((cassette.get("recorded_with") or {}).get("vllm", ""))
    if not re.match(r"\d+\.\d+", version):
        problems.append("missing version of the vLLM it was recorded from")
    prints = set(re.findall(r"vllm-(\d+\.\d+\.\d+[\w.+]*)-", text))
    problems += [
        f"fingerprint of vLLM {p}, recorded with {version}"
        for p in prints
        if _base_version(p) != _base_version(version)
    ]
    return problems


_FORBIDDEN = {
    "authorization": re.compile(
        r"(?i)authorization[ \t]*:[ \t]*[^\s{]|bearer\s+[a-z0-9]"
    ),  # not a property of a JSON schema
    "client header": re.compile(r"(?i)x-stainless-|user-agent:"),
    "path": re.compile(r"(?<![\w+/.])/(?:home|Users|root|tmp|var/folders)/"),
    "address": re.compile(r"127\.0\.0\.1|localhost:(?!8000\b)\d+"),
    "key": re.compile(r"\b(?:sk-[\w-]{16,}|hf_\w{20,})"),
}


def recorded_versions(folder: Path) -> dict[str, int]:
    """Return the number of cassettes below ``folder`` by vLLM version; reads only their first lines."""
    counts: dict[str, int] = {}
    for _, head in find_cassettes(folder):
        version = _version_in(head) or "unknown"
        counts[version] = counts.get(version, 0) + 1
    return counts


def recorded_version(path: Path) -> str | None:
    """Return the vLLM version of a cassette; ``None`` if there is no cassette. Reads only its first lines."""
    return _version_in(_head(path)) if path.exists() else None


def _version_in(head: str) -> str | None:
    match = re.search(r"^  vllm: '?([^'\s]+)", head, re.MULTILINE)
    return match.group(1) if match else None


def _head(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(200)


def find_cassettes(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each cassette below ``folder`` with its first lines; YAML files of other tools are skipped."""
    for path in sorted(folder.rglob("*.yaml")):
        head = _head(path)
        if head.startswith("recorded_with:"):
            yield path, head


def _fingerprint(interactions: Sequence[Interaction]) -> str | None:
    """Return the vLLM version in the first ``system_fingerprint``."""
    texts = (interaction.response_body.decode("utf-8", "replace") for interaction in interactions)
    match = next((m for m in (re.search(r'"vllm-(\d[\w.+]*)-', text) for text in texts) if m), None)
    return match.group(1) if match else None


def _base_version(version: str) -> str:
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
        return None  # not JSON despite its content type, or an unpaired surrogate: stored and compared as bytes
    return parsed


def _fix_boundary(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Replace the boundary of a multipart body, which clients choose at random, by a constant."""
    match = re.search(r'boundary="?([^";]+)', content_type)
    if not match:
        return body, content_type
    boundary = match.group(1)
    return body.replace(boundary.encode(), _BOUNDARY.encode()), content_type.replace(boundary, _BOUNDARY)


def _to_yaml(interaction: Interaction, scrubber: Scrubber) -> dict[str, Any]:
    body, content_type = _fix_boundary(interaction.request_body, interaction.content_type)
    request: dict[str, Any] = {
        "method": interaction.method,
        "uri": _HOST + scrubber.path(interaction.path),
        **_body_to_yaml(body, content_type, scrubber),
    }
    if body and "json" not in request:
        request["content-type"] = content_type
    headers = {n: scrubber.text(interaction.headers[n]) for n in _KEPT_HEADERS if n in interaction.headers}
    response = {
        "status": interaction.status,
        "headers": headers,
        **_body_to_yaml(interaction.response_body, headers.get("content-type", ""), scrubber),
    }
    return {"request": request, "response": response}


def _body_to_yaml(body: bytes, content_type: str, scrubber: Scrubber) -> dict[str, Any]:
    if not body:
        return {}
    parsed = _parse(body, content_type)
    if parsed is not None:
        return {"json": scrubber.tree(parsed)}
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode("ascii")}
    if "event-stream" in content_type and text.endswith("\n\n") and "\r" not in text:
        return {"sse": [_event_to_yaml(block, scrubber) for block in text[:-2].split("\n\n")]}
    return {"text": scrubber.text(text)}


def _event_to_yaml(block: str, scrubber: Scrubber) -> Any:
    """Return an event as parsed JSON if it holds nothing else; otherwise as text (``data: [DONE]``, comments)."""
    if block.startswith("data: {") and "\n" not in block:
        parsed = _parse(block[6:].encode(), "json")
        if parsed is not None:
            return _Event(scrubber.tree(parsed))
    return scrubber.text(block)


def _from_yaml(item: dict[str, Any]) -> Interaction:
    request, response = item["request"], item["response"]
    uri = urlsplit(request["uri"])
    return Interaction(
        method=request["method"],
        path=f"{uri.path}?{uri.query}" if uri.query else uri.path,
        request_body=_body_from_yaml(request),
        content_type=request.get("content-type", "application/json" if "json" in request else ""),
        status=int(response["status"]),
        headers=response["headers"],
        response_body=_body_from_yaml(response),
    )


def _body_from_yaml(item: dict[str, Any]) -> bytes:
    if "json" in item:
        return _line(item["json"]).encode()
    if "sse" in item:
        events = (e if isinstance(e, str) else f"data: {_line(e)}" for e in item["sse"])
        return "".join(f"{event}\n\n" for event in events).encode()
    if "base64" in item:
        return base64.b64decode(item["base64"])
    return str(item.get("text", "")).encode()


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Event(dict[str, Any]):
    """An event of a stream, written on one line."""


class _Dumper(_BaseDumper):  # type: ignore[misc]
    """Readable YAML: lists of numbers on one line, texts with several lines as blocks, no anchors."""

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


class CassetteStore:
    """The folder of all cassettes, which mirrors the folder of the tests.

    Args:
        root: The folder of the cassettes.
        sources: Folders of tests. The first one that contains a test is the one mirrored.
    """

    def __init__(self, root: Path, sources: Sequence[Path]) -> None:
        self.root = root
        self._sources = sources

    def path(self, item: pytest.Item) -> Path:
        """Return the cassette of a test.

        ``tests/rag/test_chat.py::TestX::test_y[1]`` has the cassette ``rag/test_chat/TestX.test_y[1].yaml``.
        """
        classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
        name = ".".join([*classes, item.name])
        for character in r"<>?%*:|\"'/":
            name = name.replace(character, "-")
        if len(name.encode()) > _NAME_LIMIT:
            name = f"{name[: _NAME_LIMIT // 4]}...{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self._folder(item.path) / f"{name}.yaml"

    def orphans(self, owned: Collection[Path], modules: Collection[Path]) -> list[Path]:
        """Return the cassettes without a test.

        Args:
            owned: The cassettes of all collected tests.
            modules: The test modules that were collected in full. A cassette of any other module counts as an orphan
                only if that module does not exist.
        """
        folders = {self._folder(module) for module in modules}
        orphans = []
        for cassette, _ in find_cassettes(self.root):
            folder = cassette.parent
            gone = not any(self._module(folder, source).is_file() for source in self._sources)
            if cassette not in owned and (gone or folder in folders):
                orphans.append(cassette)
        return orphans

    def _folder(self, module: Path) -> Path:
        source = next((source for source in self._sources if module.is_relative_to(source)), None)
        if source is None:
            raise pytest.UsageError(
                f"{module} is outside of {self._sources[-1]}, so it has no folder for cassettes. Move it inside."
            )
        return self.root / module.relative_to(source).with_suffix("")

    def _module(self, folder: Path, source: Path) -> Path:
        return (source / folder.relative_to(self.root)).with_suffix(".py")
