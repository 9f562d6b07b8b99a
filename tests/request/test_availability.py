"""The table of parameters by vLLM version, and the script that makes it from OpenAPI documents."""

import importlib.util
import json
from pathlib import Path

import pytest
from packaging.version import Version

from vllm_adapters._request.availability import (
    _FOREIGN_NAMES,
    additions,
    endpoint_of,
    lookup,
    names,
    newest,
    oldest,
    suggest,
)

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "make_availability.py"
TABLE = json.loads((ROOT / "adapters" / "vllm_adapters" / "_request" / "availability.json").read_text())

KNOWN = [
    ("chat", "structured_outputs", "0.11.0", None),
    ("chat", "guided_choice", "0.8.5", "0.11.2"),
    ("chat", "best_of", "0.8.5", "0.11.2"),
    ("chat", "logits_processors", "0.8.5", "0.16.0"),
    ("chat", "bad_words", "0.9.2", None),
    ("completions", "bad_words", "0.26.0", None),
    ("chat", "thinking_token_budget", "0.19.0", None),
    ("completions", "thinking_token_budget", "0.22.0", None),
    ("chat", "reasoning_effort", "0.10.1", None),
    ("embeddings", "normalize", "0.10.1", "0.16.0"),
    ("embeddings", "additional_data", "0.8.5", "0.9.2"),
    ("rerank", "instruction", "0.22.0", None),
    ("rerank", "activation", "0.10.1", "0.15.1"),
    ("score", "text_1", "0.8.5", None),
    ("score", "queries", "0.15.0", None),
    ("score", "items", "0.16.0", None),
    ("classify", "input", "0.9.0.1", None),
    ("pooling", "truncate_prompt_tokens", "0.8.5", None),
    ("tokenize", "return_token_strs", "0.9.1", None),
    ("chat_batch", "priority", "0.25.0", None),
    ("structured_outputs", "disable_fallback", "0.11.0", "0.17.1"),
    ("stream_options", "continuous_usage_stats", "0.8.5", None),
    ("load_lora_adapter", "load_inplace", "0.15.0", None),
]


@pytest.mark.parametrize(("endpoint", "name", "first", "last"), KNOWN)
def test_availability(endpoint, name, first, last):
    assert lookup(endpoint, name) == (Version(first), Version(last) if last else None)


@pytest.mark.parametrize("name", ["store", "metadata", "functions", "service_tier", "return_documents", "topk"])
def test_parameters_that_vllm_never_had_are_unknown(name):
    assert all(lookup(endpoint, name) is None for endpoint in TABLE["endpoints"])


def test_names_include_openai_fields_and_additions_do_not():
    assert {"messages", "temperature", "top_k"} <= names("chat")
    assert "top_k" in additions("chat")
    assert not {"messages", "temperature"} & additions("chat")


def test_table_is_consistent():
    assert newest() == Version(TABLE["newest"]) == Version(TABLE["versions"][-1])
    assert oldest() == Version("0.8.5") == Version(TABLE["versions"][0])
    assert TABLE["versions"] == sorted(TABLE["versions"], key=Version)
    assert TABLE["paths"].keys() == TABLE["endpoints"].keys()
    paths = [path for known in TABLE["paths"].values() for path in known]
    assert len(paths) == len(set(paths))
    for rows in [*TABLE["endpoints"].values(), *TABLE["objects"].values()]:
        assert list(rows) == sorted(rows)
        for row in rows.values():
            assert row["first"] in TABLE["versions"]
            assert Version(row.get("last", TABLE["newest"])) >= Version(row["first"])
            bounds = {"ge", "gt", "le", "lt", "min_length", "max_length"}
            assert row.keys() <= {"type", "default", "first", "last", "openai"} | bounds


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/chat/completions", "chat"),
        ("chat/completions", "chat"),
        ("/v1/chat/completions", "chat"),
        ("/v1/chat/completions/", "chat"),
        ("/v1/chat/completions/batch", "chat_batch"),
        ("/completions", "completions"),
        ("/embeddings", "embeddings"),
        ("http://h:8000/v1/rerank", "rerank"),
        ("http://h:8000/rerank?a=1", "rerank"),
        ("/v2/rerank", "rerank"),
        ("https://proxy/team/v1/completions", "completions"),
        ("/score", "score"),
        ("/v1/audio/transcriptions", "transcriptions"),
        ("/tokenize", "tokenize"),
        ("/v1/models", None),
        ("/v1/chat/completions/render", None),
        ("", None),
    ],
)
def test_endpoint_of(path, endpoint):
    assert endpoint_of(path) == endpoint


@pytest.mark.parametrize(
    ("endpoint", "name", "first"),
    [
        ("chat", "topk", "top_k"),
        ("chat", "topK", "top_k"),
        ("chat", "top-k", "top_k"),
        ("chat", "min_pp", "min_p"),
        ("chat", "max_new_tokens", "max_tokens"),
        ("completions", "n_predict", "max_tokens"),
        ("chat", "repeat_penalty", "repetition_penalty"),
        ("chat", "repetion_penalty", "repetition_penalty"),
        ("chat", "stop_sequences", "stop"),
        ("chat", "enable_thinking", 'chat_template_kwargs={"enable_thinking": ...}'),
        ("chat", "regex", 'structured_outputs={"regex": ...}'),
        ("chat", "structured_output", "structured_outputs"),
        ("rerank", "top_k", "top_n"),
        ("embeddings", "texts", "input"),
        ("chat", "base_url", "the client's base_url"),
    ],
)
def test_suggest_returns_the_closest_name_first(endpoint, name, first):
    assert suggest(endpoint, name)[0] == first


@pytest.mark.parametrize(
    ("endpoint", "name"), [("completions", "enable_thinking"), ("tokenize", "regex"), ("chat", "zzz")]
)
def test_suggest_returns_only_names_of_the_endpoint(endpoint, name):
    assert suggest(endpoint, name) == []


def test_every_foreign_name_maps_to_a_name_of_some_endpoint():
    known = frozenset[str]().union(*(names(endpoint) for endpoint in TABLE["endpoints"]))
    for name in _FOREIGN_NAMES.values():
        assert name.split("=")[0] in known, name


# The script


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_availability", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def openapi(**requests):
    """An OpenAPI document as FastAPI writes it: ``openapi(Chat=("/v1/chat/completions", {...}))``."""
    paths, schemas = {}, {}
    for name, (path, properties) in requests.items():
        schemas[name] = {"type": "object", "properties": properties}
        refs = paths.setdefault(path, [])
        refs.append({"$ref": f"#/components/schemas/{name}"})
    return {
        "paths": {
            path: {"post": {"requestBody": {"content": {"application/json": {"schema": {"anyOf": refs}}}}}}
            for path, refs in paths.items()
        },
        "components": {"schemas": schemas},
    }


NULL = {"type": "null"}
CHAT = "/v1/chat/completions"


@pytest.fixture
def run(script, tmp_path, capsys):
    """Run the script on documents given as dicts; the table starts from a small history."""
    table = tmp_path / "table.json"
    history = tmp_path / "history.json"
    history.write_text(
        json.dumps(
            {
                "_meta": {"versions": ["0.8.5", "0.9.0"]},
                "ChatCompletionRequest": {
                    "_class": {"first_seen": "0.8.5"},
                    "top_k": {"type": "int | None", "first_seen": "0.8.5"},
                    "guided_json": {"type": "str | dict | None", "first_seen": "0.8.5"},
                    "seed": {
                        "type": "Optional[Annotated[int, Field(ge=_INT64_MIN)]]",
                        "constraints": {"ge": "_INT64_MIN", "le": "2 ** 63 - 1"},
                        "default": "<factory random>",
                        "first_seen": "0.9.0",
                        "openai_standard": True,
                    },
                },
                "EmbeddingCompletionRequest": {
                    "normalize": {"type": "bool", "first_seen": "0.8.5", "last_seen": "0.8.5"},
                    "add_special_tokens": {"type": "bool", "default": True, "first_seen": "0.9.0"},
                },
                "EmbeddingChatRequest": {
                    "normalize": {"type": "bool", "first_seen": "0.9.0"},
                    "add_special_tokens": {"type": "bool", "default": False, "first_seen": "0.8.5"},
                },
            }
        )
    )
    assert script.main(["--table", str(table), "--history", str(history)]) == 0
    capsys.readouterr()

    def call(*documents, version):
        paths = []
        for index, document in enumerate(documents):
            path = tmp_path / f"spec{index}.json"
            path.write_text(json.dumps(document))
            paths.append(str(path))
        assert script.main([*paths, "--version", version, "--table", str(table)]) == 0
        return json.loads(table.read_text()), capsys.readouterr().out

    call.table = table
    return call


def test_script_makes_the_table_from_a_history(run):
    table = json.loads(run.table.read_text())
    assert (table["oldest"], table["newest"]) == ("0.8.5", "0.9.0")
    assert table["endpoints"]["chat"] == {
        "guided_json": {"type": "dict[str, Any] | str", "first": "0.8.5"},
        "seed": {"type": "int", "ge": -(2**63), "le": 2**63 - 1, "first": "0.9.0", "openai": True},
        "top_k": {"type": "int", "first": "0.8.5"},
    }


def test_field_exists_as_long_as_one_form_of_the_endpoint_has_it(run):
    assert json.loads(run.table.read_text())["endpoints"]["embeddings"] == {
        "add_special_tokens": {"type": "bool", "first": "0.8.5"},  # no default: the forms differ
        "normalize": {"type": "bool", "first": "0.8.5"},
    }


def test_release_adds_removes_and_changes_fields(run):
    spec = openapi(
        Chat=(
            CHAT,
            {
                "top_k": {"anyOf": [{"type": "integer", "minimum": -1.0}, NULL]},
                "seed": {"anyOf": [{"type": "integer", "maximum": 9.223372036854776e18}, NULL]},
                "structured_outputs": {"anyOf": [{"$ref": "#/components/schemas/StructuredOutputsParams"}, NULL]},
                "store": {"type": "boolean", "default": False},
            },
        )
    )
    spec["components"]["schemas"]["StructuredOutputsParams"] = {
        "type": "object",
        "properties": {"regex": {"anyOf": [{"type": "string"}, NULL]}, "_backend": {"type": "string"}},
    }
    table, printed = run(spec, version="0.10.0")
    assert table["newest"] == "0.10.0"
    assert table["versions"] == ["0.8.5", "0.9.0", "0.10.0"]
    assert table["endpoints"]["chat"] == {
        "guided_json": {"type": "dict[str, Any] | str", "first": "0.8.5", "last": "0.9.0"},
        "seed": {"type": "int", "le": 2**63 - 1, "first": "0.9.0", "openai": True},
        "store": {"type": "bool", "default": False, "first": "0.10.0", "openai": True},
        "structured_outputs": {"type": "object", "first": "0.10.0"},
        "top_k": {"type": "int", "ge": -1, "first": "0.8.5"},
    }
    assert table["objects"]["structured_outputs"] == {"regex": {"type": "str", "first": "0.10.0"}}
    assert printed.splitlines() == [
        "- chat.guided_json: until 0.9.0",
        f"~ chat.seed: ge {-(2**63)} -> None",
        "+ chat.store: bool, since 0.10.0",
        "+ chat.structured_outputs: object, since 0.10.0",
        "~ chat.top_k: ge None -> -1",
        "+ structured_outputs.regex: str, since 0.10.0",
    ]


def test_endpoints_without_a_document_are_kept(run):
    before = json.loads(run.table.read_text())["endpoints"]["embeddings"]
    table, _ = run(openapi(Chat=(CHAT, {"top_k": {"type": "integer"}})), version="0.10.0")
    assert table["endpoints"]["embeddings"] == before


def test_second_document_of_a_release_can_be_added_later(run):
    run(openapi(Chat=(CHAT, {"top_k": {"type": "integer"}})), version="0.10.0")
    embed = openapi(Embed=("/v1/embeddings", {"add_special_tokens": {"type": "boolean"}}))
    table, _ = run(embed, version="0.10.0")
    assert table["endpoints"]["embeddings"]["normalize"]["last"] == "0.9.0"


def test_forms_of_one_endpoint_are_merged(run):
    spec = openapi(
        Text=("/score", {"text_1": {"type": "string"}, "top": {"type": "integer", "minimum": 0}}),
        Data=("/score", {"data_1": {"type": "string"}, "top": {"type": "integer", "minimum": -1}}),
    )
    table, _ = run(spec, openapi(Chat=(CHAT, {"top_k": {"type": "integer"}})), version="0.10.0")
    assert table["endpoints"]["score"] == {
        "data_1": {"type": "str", "first": "0.10.0"},
        "text_1": {"type": "str", "first": "0.10.0"},
        "top": {"type": "int", "ge": -1, "first": "0.10.0"},
    }


def test_running_twice_changes_nothing(run):
    spec = openapi(Chat=(CHAT, {"top_k": {"type": "integer"}, "new": {"enum": ["a", "b"]}}))
    first, _ = run(spec, version="0.10.0")
    before = run.table.read_bytes()
    again, printed = run(spec, version="0.10.0")
    assert again == first
    assert printed == "no changes\n"
    assert run.table.read_bytes() == before


def test_field_that_returns_has_no_last_version(run):
    chat = {"top_k": {"type": "integer"}}
    run(openapi(Chat=(CHAT, chat)), version="0.10.0")
    table, printed = run(openapi(Chat=(CHAT, chat | {"guided_json": {"type": "string"}})), version="0.11.0")
    assert table["endpoints"]["chat"]["guided_json"] == {"type": "str", "first": "0.8.5"}
    assert "chat.guided_json: last '0.9.0' -> None" in printed


def test_release_older_than_the_table_raises(script, run):
    with pytest.raises(SystemExit, match=r"newer than 0\.8\.9"):
        run(openapi(Chat=(CHAT, {})), version="0.8.9")


def test_documents_without_a_version_raise(script, tmp_path, capsys):
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(openapi(Chat=(CHAT, {}))))
    with pytest.raises(SystemExit):
        script.main([str(spec)])
    assert "--version" in capsys.readouterr().err


def test_shipped_table_is_what_the_script_writes(script):
    assert script.to_json(TABLE) == script.TABLE.read_text()
    assert {name: list(endpoint.paths) for name, endpoint in script.ENDPOINTS.items()} == TABLE["paths"]


@pytest.mark.parametrize(
    ("endpoint", "foreign", "ours"),
    [
        ("chat", "max_new_tokens", "max_tokens"),
        ("chat", "maxTokens", "max_tokens"),
        ("chat", "n_predict", "max_tokens"),
        ("chat", "min_new_tokens", "min_tokens"),
        ("chat", "topK", "top_k"),
        ("chat", "repeat_penalty", "repetition_penalty"),
        ("chat", "eos_token_id", "stop_token_ids"),
        ("chat", "bad_words_ids", "bad_words"),
        ("chat", "num_beams", "use_beam_search=True, n"),
        ("chat", "function_call", "tool_choice"),
        ("chat", "thinking", 'chat_template_kwargs={"thinking": ...}'),
        ("chat", "thinking_budget", "thinking_token_budget"),
        ("chat", "ebnf", 'structured_outputs={"grammar": ...}'),
        ("chat", "choices", 'structured_outputs={"choice": ...}'),
        ("chat", "guided_decoding", "structured_outputs"),
        ("chat", "lora_name", "model"),
        ("embeddings", "texts", "input"),
        ("rerank", "top_k", "top_n"),
        ("embeddings", "truncate", "truncate_prompt_tokens"),
    ],
)
def test_names_of_other_servers_are_suggested_by_ours(endpoint, foreign, ours):
    assert suggest(endpoint, foreign)[0] == ours
