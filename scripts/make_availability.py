"""Update ``availability.json``: which vLLM versions support which parameter of which endpoint.

A new vLLM release needs one command with the OpenAPI document of its server: a file, or the address of the server,
which also reports its version:

    python scripts/make_availability.py http://localhost:8000
    python scripts/make_availability.py chat.json embed.json --version 0.33.0

A server describes only the endpoints of its model, and other endpoints are left unchanged. Pass one document per kind
of model (chat, embedding, classification, transcription). New fields get the version as ``first``, removed ones the
previous version as ``last``; types, bounds and defaults follow the document.

``--history FILE`` creates the table from data about past versions, before the documents are merged:
``{"_meta": {"versions": [...]}, "<request class>": {"<field>": {"type": "<annotation>", "default": ...,
"constraints": {"ge": ...}, "first_seen": "0.11.0", "last_seen": "0.17.1", "openai_standard": false}}}``.
Several files are combined. ``params_renamed.json``, beside this script, lists the renamed request classes.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from packaging.version import Version

from vllm_adapters.doctor.checks.schema import alternatives, properties, request_schemas

TABLE = Path(__file__).parent.parent / "adapters" / "vllm_adapters" / "_request" / "availability.json"

Field = dict[str, Any]
Fields = dict[str, Field]


class Endpoint(NamedTuple):
    """The paths of an endpoint, and the classes of its requests over time (only used in histories)."""

    paths: tuple[str, ...]
    classes: tuple[str, ...]


ENDPOINTS = {
    "chat": Endpoint(("/v1/chat/completions",), ("ChatCompletionRequest",)),
    "chat_batch": Endpoint(("/v1/chat/completions/batch",), ("BatchChatCompletionRequest",)),
    "classify": Endpoint(
        ("/classify",),
        ("ClassificationRequest", "ClassificationCompletionRequest", "ClassificationChatRequest"),
    ),
    "completions": Endpoint(("/v1/completions",), ("CompletionRequest",)),
    "decisions": Endpoint(("/v1/decisions",), ("DecisionRequest",)),
    "detokenize": Endpoint(("/detokenize",), ("DetokenizeRequest",)),
    "embeddings": Endpoint(("/v1/embeddings",), ("EmbeddingCompletionRequest", "EmbeddingChatRequest")),
    "load_lora_adapter": Endpoint(("/v1/load_lora_adapter",), ("LoadLoRAAdapterRequest",)),
    "pooling": Endpoint(
        ("/pooling",),
        (
            "EarlyPoolingCompletionRequest",
            "EarlyPoolingChatRequest",
            "PoolingCompletionRequest",
            "PoolingChatRequest",
            "IOProcessorRequest",
        ),
    ),
    "rerank": Endpoint(("/rerank", "/v1/rerank", "/v2/rerank"), ("RerankRequest",)),
    "score": Endpoint(
        ("/score", "/v1/score"),
        (
            "ScoreRequest",
            "ScoreTextRequest",
            "ScoreDataRequest",
            "ScoreQueriesDocumentsRequest",
            "ScoreQueriesItemsRequest",
        ),
    ),
    "tokenize": Endpoint(("/tokenize",), ("TokenizeCompletionRequest", "TokenizeChatRequest")),
    "transcriptions": Endpoint(("/v1/audio/transcriptions",), ("TranscriptionRequest",)),
    "translations": Endpoint(("/v1/audio/translations",), ("TranslationRequest",)),
    "unload_lora_adapter": Endpoint(("/v1/unload_lora_adapter",), ("UnloadLoRAAdapterRequest",)),
}

OBJECTS = {
    "repetition_detection": "RepetitionDetectionParams",
    "stream_options": "StreamOptions",
    "structured_outputs": "StructuredOutputsParams",
}

# OpenAI's fields that vLLM does not declare. If it does, they are standard, not additions.
OPENAI_ONLY = {
    "chat": {
        "audio", "function_call", "functions", "metadata", "modalities", "moderation", "prediction",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
        "service_tier", "store", "verbosity", "web_search_options",
    },
    "decisions": {"input", "model", "questions", "safety_identifier"},
    "transcriptions": {"chunking_strategy", "include", "known_speaker_names", "known_speaker_references"},
}  # fmt: skip

LOWER, UPPER = ("ge", "gt", "min_length"), ("le", "lt", "max_length")
SPEC_BOUNDS = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "minLength": "min_length",
    "minItems": "min_length",
    "maxLength": "max_length",
    "maxItems": "max_length",
}
INT64 = (-(2**63), 2**63 - 1)


def union_of(types: Iterable[str]) -> str:
    """Return the canonical form of a union, without null, which is never sent."""
    members = {member for member in types if member != "None"}
    return "Any" if "Any" in members or not members else " | ".join(sorted(members))


def union_members(type_: str) -> list[str]:
    """Return the top-level members of a union."""
    tree = ast.parse(type_, mode="eval").body
    members: list[str] = []
    while isinstance(tree, ast.BinOp):
        members.insert(0, ast.unparse(tree.right))
        tree = tree.left
    return [ast.unparse(tree), *members]


# --- from a history -------------------------------------------------------------------------------------


def type_of_annotation(annotation: str) -> str:
    """Return the type of an annotation: ``int`` for ``Annotated[int, Field(ge=1)] | None``."""

    def members(node: ast.expr) -> list[str]:
        if isinstance(node, ast.BinOp):
            return members(node.left) + members(node.right)
        if isinstance(node, ast.Subscript):
            head, args = ast.unparse(node.value), node.slice
            parts = args.elts if isinstance(args, ast.Tuple) else [args]
            if head == "Annotated":
                return members(parts[0])
            if head in ("Optional", "Union"):
                return [member for part in parts for member in members(part)]
            if head == "Literal":
                return [ast.unparse(part) for part in parts]
            return [f"{head}[{', '.join(union_of(members(part)) for part in parts)}]"]
        text = ast.unparse(node)
        return ["dict[str, Any]" if text == "dict" else text]

    return union_of(members(ast.parse(annotation, mode="eval").body))


def bound_of(value: Any) -> Any:
    """Return a bound as a number, also for ``2 ** 63 - 1`` and its names in vLLM's sources."""
    if isinstance(value, str):
        return INT64[0] if value.lower().endswith("min") or value.startswith("-") else INT64[1]
    return value


def field_of_history(entry: dict[str, Any]) -> Field:
    """Convert one field of a history file to the form of the table."""
    field: Field = {"type": type_of_annotation(entry["type"])}
    listed = "[" in field["type"]  # then the bounds apply to the members, not to the value
    for name, value in entry.get("constraints", {}).items():
        if name in LOWER + UPPER and not listed:
            field[name] = bound_of(value)
    default = entry.get("default")
    if default is not None and not str(default).startswith("<factory"):
        field["default"] = default
    field["first"] = entry["first_seen"]
    if entry.get("last_seen"):
        field["last"] = entry["last_seen"]
    if entry.get("openai_standard"):
        field["openai"] = True
    return field


def table_of_history(paths: Iterable[Path]) -> dict[str, Any]:
    """Return a complete table from history files."""
    versions: list[str] = []
    classes: dict[str, Fields] = {}
    for path in paths:
        for name, entries in json.loads(path.read_text()).items():
            if name == "_meta":
                versions += entries.get("versions", [])
            else:
                found = {n: field_of_history(e) for n, e in entries.items() if not n.startswith("_")}
                classes.setdefault(name, {}).update(found)
    versions.sort(key=Version)
    return {
        "newest": versions[-1],
        "oldest": versions[0],
        "versions": versions,
        "endpoints": {
            name: merged(classes.get(cls, {}) for cls in endpoint.classes) for name, endpoint in ENDPOINTS.items()
        },
        "objects": {name: merged([classes.get(cls, {})]) for name, cls in OBJECTS.items()},
    }


def merged(forms: Iterable[Fields]) -> Fields:
    """Merge the forms of one endpoint's request: a field exists in all versions in which any form has it."""
    forms = list(forms)
    result: Fields = {}
    for name in sorted({name for form in forms for name in form}):
        found = [form[name] for form in forms if name in form]
        live = [field for field in found if "last" not in field] or found
        field: Field = {"type": union_of(m for f in live for m in union_members(f["type"]))}
        for bound in LOWER + UPPER:
            if all(bound in f for f in live):
                loosest: Callable[..., Any] = min if bound in LOWER else max
                field[bound] = loosest(f[bound] for f in live)
        if all(f.get("default") == live[0].get("default") for f in live) and "default" in live[0]:
            field["default"] = live[0]["default"]
        firsts = [f["first"] for f in found if "first" in f]
        if firsts:
            field["first"] = min(firsts, key=Version)
        if all("last" in f for f in found):
            field["last"] = max((f["last"] for f in found), key=Version)
        if any(f.get("openai") for f in found):
            field["openai"] = True
        result[name] = field
    return result


# --- from an OpenAPI document ---------------------------------------------------------------------------


class Spec:
    """The requests in one OpenAPI document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._schemas: dict[str, Any] = document.get("components", {}).get("schemas", {})

    def endpoints(self) -> dict[str, list[Fields]]:
        """Return all forms of all requests, by endpoint."""
        return {
            name: [self._fields(form) for path in endpoint.paths for form in request_schemas(self._document, path)]
            for name, endpoint in ENDPOINTS.items()
        }

    def objects(self) -> dict[str, list[Fields]]:
        """Return the fields of the parameters that are objects."""
        return {name: [self._fields(self._schemas[c])] for name, c in OBJECTS.items() if c in self._schemas}

    def _fields(self, form: Mapping[str, Any]) -> Fields:
        return {name: self._field(schema) for name, schema in properties(form).items()}

    def _field(self, schema: dict[str, Any]) -> Field:
        kinds = [member for member in alternatives(self._document, schema) if member.get("type") != "null"]
        field: Field = {"type": self._type(schema)}
        if len(kinds) == 1:  # a bound of one member does not apply to the others
            for theirs, ours in SPEC_BOUNDS.items():
                if theirs in kinds[0]:
                    field[ours] = self._number(kinds[0][theirs], kinds[0].get("type"))
        if schema.get("default") is not None:
            field["default"] = schema["default"]
        return field

    @staticmethod
    def _number(value: float, kind: str | None) -> float:
        """Return a bound; OpenAPI writes integer bounds as floats, which rounds those of 64 bits."""
        return value if kind == "number" else min(max(int(value), INT64[0]), INT64[1])

    def _type(self, schema: dict[str, Any]) -> str:
        return union_of(name for member in alternatives(self._document, schema) for name in self._names(member))

    def _names(self, schema: Mapping[str, Any]) -> list[str]:
        if "const" in schema:
            return [repr(schema["const"])]
        if "enum" in schema:
            return [repr(value) for value in schema["enum"]]
        kind = schema.get("type")
        if kind == "array":
            return [f"list[{self._type(schema.get('items', {}))}]"]
        if kind == "object":
            if "properties" in schema:
                return ["object"]
            values = schema.get("additionalProperties")
            return [f"dict[str, {self._type(values) if isinstance(values, dict) else 'Any'}]"]
        if kind == "string" and schema.get("format") == "binary":
            return ["bytes"]
        plain = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
        return [plain.get(str(kind), "Any")]


def load(source: str) -> tuple[Spec, str | None]:
    """Load a document and, from a server, its version."""
    if not source.startswith(("http://", "https://")):
        return Spec(json.loads(Path(source).read_text())), None
    base = source.rstrip("/").removesuffix("/v1")

    def get(path: str) -> dict[str, Any]:
        with urllib.request.urlopen(base + path, timeout=60) as reply:
            answer: dict[str, Any] = json.load(reply)
            return answer

    return Spec(get("/openapi.json")), get("/version")["version"]


def merge_specs(table: dict[str, Any], specs: Iterable[Spec], version: str) -> None:
    """Update the table to ``version`` for all endpoints and objects in the documents."""
    if Version(version) < Version(table["newest"]):
        raise SystemExit(f"The table is at {table['newest']}, newer than {version}. Use documents of a newer version.")
    if version not in table["versions"]:
        table["versions"].append(version)
    table["newest"] = version
    before = table["versions"][max(table["versions"].index(version) - 1, 0)]
    specs = list(specs)
    for group, described in (("endpoints", Spec.endpoints), ("objects", Spec.objects)):
        forms: dict[str, list[Fields]] = {}
        for spec in specs:
            for name, found in described(spec).items():
                forms.setdefault(name, []).extend(found)
        for name, found in forms.items():
            if found:
                known = table[group].setdefault(name, {})
                refresh(known, merged(found), version, before, OPENAI_ONLY.get(name, set()))


def refresh(known: Fields, now: Fields, version: str, before: str, openai: Iterable[str]) -> None:
    """Update the fields of one endpoint in place."""
    for name, field in now.items():
        kept = {key: known[name][key] for key in ("first", "openai") if key in known.get(name, {})}
        known[name] = field | ({"openai": True} if name in openai else {}) | {"first": version} | kept
    for name in known.keys() - now.keys():
        known[name].setdefault("last", before)


# --- out ------------------------------------------------------------------------------------------------


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the changes, one line each."""
    lines = []
    for group in ("endpoints", "objects"):
        for name, fields in sorted(new[group].items()):
            past = old.get(group, {}).get(name, {})
            for field, entry in sorted(fields.items()):
                was = past.get(field)
                if was is None:
                    lines.append(f"+ {name}.{field}: {entry['type']}, since {entry['first']}")
                elif "last" in entry and "last" not in was:
                    lines.append(f"- {name}.{field}: until {entry['last']}")
                else:
                    keys = sorted(was.keys() | entry.keys())
                    changed = [f"{k} {was.get(k)!r} -> {entry.get(k)!r}" for k in keys if was.get(k) != entry.get(k)]
                    if changed:
                        lines.append(f"~ {name}.{field}: {', '.join(changed)}")
    return lines


def to_json(table: dict[str, Any]) -> str:
    """Return the table as JSON with one line per field, for readable diffs."""
    order = ("type", *LOWER, *UPPER, "default", "first", "last", "openai")

    def block(fields: Fields) -> str:
        rows = (
            f"   {json.dumps(name)}: {json.dumps({k: fields[name][k] for k in order if k in fields[name]})}"
            for name in sorted(fields)
        )
        return "{\n" + ",\n".join(rows) + "\n  }"

    parts = [f' "{key}": {json.dumps(table[key])}' for key in ("newest", "oldest", "versions")]
    paths = (f'  "{name}": {json.dumps(endpoint.paths)}' for name, endpoint in sorted(ENDPOINTS.items()))
    parts.append(' "paths": {\n' + ",\n".join(paths) + "\n }")
    for group in ("endpoints", "objects"):
        blocks = (f'  "{name}": {block(fields)}' for name, fields in sorted(table[group].items()))
        parts.append(f' "{group}": {{\n' + ",\n".join(blocks) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(argv: list[str] | None = None) -> int:
    """Read the documents, update the table, and print the changes."""
    about, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="OpenAPI file, or address of a vLLM server")
    parser.add_argument("--version", help="vLLM version of the documents; a server reports its own")
    parser.add_argument("--history", action="append", type=Path, default=[], metavar="FILE")
    parser.add_argument("--table", type=Path, default=TABLE, help="default: the table of the package")
    args = parser.parse_args(argv)

    loaded = [load(source) for source in args.specs]
    versions = {v for v in (args.version, *(version for _, version in loaded)) if v}
    if loaded and len(versions) != 1:
        parser.error(f"the documents must be of one version, found {sorted(versions) or 'none'}. Pass --version.")
    old = json.loads(args.table.read_text()) if args.table.exists() else {}
    if args.history:
        table = table_of_history(args.history)
    elif old:
        table = json.loads(json.dumps(old))
    else:
        parser.error(f"{args.table} does not exist. Create it with --history.")
    if loaded:
        merge_specs(table, (spec for spec, _ in loaded), Version(versions.pop()).base_version)
    args.table.write_text(to_json(table))
    print("\n".join(differences(old, table)) or "no changes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
