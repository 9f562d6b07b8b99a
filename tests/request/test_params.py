"""params.py, _request/availability.py and the table's generator agree with each other and with what vLLM accepts."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from packaging.version import Version
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from vllm_adapters._request.availability import (
    _FOREIGN_NAMES,
    additions,
    endpoint_of,
    fields,
    lookup,
    names,
    newest,
    oldest,
    suggest,
)
from vllm_adapters.params import (
    CONSTRAINTS,
    MODELS,
    ChatParams,
    CompletionParams,
    EmbeddingParams,
    PoolingParams,
    RepetitionDetection,
    RerankParams,
    StructuredOutputs,
    set_fields,
    validated,
)

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "make_availability.py"
TABLE = json.loads((ROOT / "adapters" / "vllm_adapters" / "_request" / "availability.json").read_text())

# What a request is about, not how it is answered: arguments of our methods, so no fields.
PAYLOAD = {
    "embeddings": frozenset({"messages"}),
    "pooling": frozenset({"model", "input", "messages", "data"}),
    "classify": frozenset({"model", "input", "messages"}),
    "score": frozenset({"model", "text_1", "text_2", "data_1", "data_2", "queries", "documents", "items"}),
    "rerank": frozenset({"model", "query", "documents"}),
    "tokenize": frozenset({"model", "prompt", "messages", "tools"}),
}


class Person(BaseModel):
    name: str
    age: int = Field(ge=0)


# --- the models and the table -------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", MODELS)
def test_a_model_declares_what_vllm_adds_to_its_endpoint_and_nothing_else(endpoint):
    assert set(MODELS[endpoint].model_fields) == additions(endpoint) - PAYLOAD.get(endpoint, frozenset())


@pytest.mark.parametrize("endpoint", PAYLOAD)
def test_payload_names_only_what_the_endpoint_takes(endpoint):
    assert PAYLOAD[endpoint] <= additions(endpoint)


@pytest.mark.parametrize("endpoint", MODELS)
def test_every_parameter_is_optional_and_explained_in_one_line(endpoint):
    for name, field in MODELS[endpoint].model_fields.items():
        assert field.default is None, name
        assert field.description, name
        assert field.description.endswith("."), name
        assert "\n" not in field.description, name


# Versions that changed what a parameter accepts, not whether it exists.
OTHER_VERSIONS = {"top_k": {"0.9.0.1"}, "vllm_xargs": {"0.11.1"}, "encoding_format": {"0.11.1"}}


@pytest.mark.parametrize("endpoint", MODELS)
def test_versions_named_in_the_documentation_are_those_of_the_table(endpoint):
    for name, field in MODELS[endpoint].model_fields.items():
        rows = [fields(other)[name] for other in MODELS if name in MODELS[other].model_fields]
        known = {row[key] for row in rows for key in ("first", "last") if key in row}
        named = set(re.findall(r"\d+\.\d+\.\d+(?:\.\d+)?", field.description))
        assert named <= known | OTHER_VERSIONS.get(name, set()), name
        if "last" in fields(endpoint)[name]:
            assert fields(endpoint)[name]["last"] in named, f"{name} was removed: say until when"


@pytest.mark.parametrize("endpoint", MODELS)
def test_bounds_are_at_least_as_tight_as_the_servers(endpoint):
    for name, row in fields(endpoint).items():
        if name not in MODELS[endpoint].model_fields:
            continue
        outside = [row["ge"] - 1] if "ge" in row else []
        outside += [row["le"] + 1] if "le" in row else []
        outside += ["x" * (row["min_length"] - 1)] if "min_length" in row else []
        outside += ["x" * (row["max_length"] + 1)] if "max_length" in row else []
        for value in outside:
            with pytest.raises(ValidationError):
                validated(MODELS[endpoint], {name: value})
        inside = [row[key] for key in ("ge", "le") if key in row]
        for value in inside:
            assert validated(MODELS[endpoint], {name: value}) == {name: value}


@pytest.mark.parametrize("endpoint", MODELS)
def test_server_defaults_are_valid_values(endpoint):
    for name, row in fields(endpoint).items():
        if name in MODELS[endpoint].model_fields and "default" in row:
            assert validated(MODELS[endpoint], {name: row["default"]}) == {name: row["default"]}


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [("structured_outputs", StructuredOutputs), ("repetition_detection", RepetitionDetection)],
    ids=["structured_outputs", "repetition_detection"],
)
def test_parameters_that_are_objects_have_the_keys_of_the_table(endpoint, kind):
    assert set(kind.__annotations__) == names(endpoint)


# --- values -------------------------------------------------------------------------------------------

WRONG = {
    "text for a number": {"top_k": "x"},
    "top_k below off": {"top_k": -5},
    "min_p above 1": {"min_p": 2},
    "min_p nan": {"min_p": float("nan")},
    "repetition_penalty 0": {"repetition_penalty": 0},
    "repetition_penalty inf": {"repetition_penalty": float("inf")},
    "priority beyond 64 bits": {"priority": 2**63},
    "truncate below -1": {"truncate_prompt_tokens": -2},
    "stream_interval 0": {"stream_interval": 0},
    "cache_salt empty": {"cache_salt": ""},
    "cache_salt too long": {"cache_salt": "x" * 1025},
    "no allowed token": {"allowed_token_ids": []},
    "empty bad word": {"bad_words": [""]},
    "truncation_side": {"truncation_side": "middle"},
    "misspelt name": {"topk": 1},
    "OpenAI's own name": {"temperature": 0.5},
    "misspelt key": {"structured_outputs": {"jsonn": {}}},
    "two constraints": {"structured_outputs": {"regex": "a", "choice": ["a"]}},
    "no choice": {"structured_outputs": {"choice": []}},
    "negative count": {"repetition_detection": {"min_count": -1}},
    "nested vllm_xargs": {"vllm_xargs": {"a": {"b": 1}}},
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_refuses(values):
    with pytest.raises(ValidationError) as caught:
        validated(ChatParams, values)
    assert caught.value.errors()[0]["loc"][0] == next(iter(values))
    assert caught.value.title == "ChatParams"


def test_a_refusal_names_every_wrong_parameter():
    with pytest.raises(ValidationError) as caught:
        validated(ChatParams, {"top_k": "x", "topk": 1, "min_p": 2})
    assert {error["loc"][0] for error in caught.value.errors()} == {"top_k", "topk", "min_p"}


@pytest.mark.parametrize("off", [-1, 0])
def test_top_k_can_be_switched_off_both_ways(off):
    assert validated(ChatParams, {"top_k": off}) == {"top_k": off}


def test_only_what_is_set_is_sent():
    assert set_fields(ChatParams(), ChatParams) == {}
    assert set_fields(ChatParams(top_k=5, min_p=None, skip_special_tokens=False), ChatParams) == {
        "top_k": 5,
        "skip_special_tokens": False,
    }
    assert validated(ChatParams, {"top_k": None, "min_tokens": 0}) == {"min_tokens": 0}


@pytest.mark.parametrize(
    "values",
    [{"structured_outputs": {"json": Person}}, {"guided_json": Person}],
    ids=["structured_outputs", "guided_json"],
)
def test_a_pydantic_class_stands_for_its_schema(values):
    schema = Person.model_json_schema()
    sent = validated(ChatParams, values)
    assert sent in ({"structured_outputs": {"json": schema}}, {"guided_json": schema})
    assert validated(ChatParams, set_fields(ChatParams(**values), ChatParams)) == sent
    assert json.loads(json.dumps(sent)) == sent


def test_values_become_json_data():
    given = {"chat_template_kwargs": {"a": {"x"}, "b": (1, 2), "c": Person(name="Ada", age=36), "d": Person}}
    assert validated(ChatParams, given)["chat_template_kwargs"] == {
        "a": ["x"],
        "b": [1, 2],
        "c": {"name": "Ada", "age": 36},
        "d": Person.model_json_schema(),
    }
    with pytest.raises(TypeError, match="a value of type object"):
        validated(ChatParams, {"chat_template_kwargs": {"a": object()}})


def test_numbers_keep_their_type():
    given = {"vllm_xargs": {"a": 1, "b": 1.5, "c": "1", "d": [1, "x"]}}
    assert json.dumps(validated(ChatParams, given)) == json.dumps(given)


def test_every_model_has_a_json_schema():
    for model in MODELS.values():
        assert model.model_json_schema()["properties"].keys() == model.model_fields.keys()


def test_constraints_are_keys_of_structured_outputs():
    assert set(StructuredOutputs.__annotations__) > CONSTRAINTS
    adapter = TypeAdapter(StructuredOutputs)
    assert adapter.validate_python({"regex": "a", "whitespace_pattern": " "})


# --- in front of a framework's class --------------------------------------------------------------------


def _own_names(cls):
    aliases = {str(field.alias) for field in cls.model_fields.values() if field.alias}
    return set(dir(cls)) | set(cls.model_fields) | aliases


@pytest.mark.parametrize(
    ("module", "base", "model"),
    [
        ("langchain_openai.chat_models.base", "BaseChatOpenAI", ChatParams),
        ("langchain_openai.llms.base", "BaseOpenAI", CompletionParams),
        ("langchain_openai", "OpenAIEmbeddings", EmbeddingParams),
        ("langchain_core.documents.compressor", "BaseDocumentCompressor", RerankParams),
        ("llama_index.llms.openai_like", "OpenAILike", ChatParams),
        ("llama_index.embeddings.openai_like", "OpenAILikeEmbedding", EmbeddingParams),
        ("llama_index.core.postprocessor.types", "BaseNodePostprocessor", RerankParams),
    ],
)
def test_no_parameter_hides_a_name_of_the_framework(module, base, model):
    framework = getattr(pytest.importorskip(module), base)
    assert not set(model.model_fields) & (_own_names(framework) - set(dir(BaseModel)))
    mixed = create_model("Mixed", __base__=(model, framework))
    assert {k: v for k, v in mixed.model_config.items() if k in framework.model_config} == framework.model_config


def test_set_fields_takes_only_the_parameters_of_a_mixed_class():
    langchain = pytest.importorskip("langchain_openai.chat_models.base")
    mixed = create_model("Mixed", __base__=(ChatParams, langchain.BaseChatOpenAI))
    llm = mixed(model="m", api_key="none", base_url="http://localhost:8000/v1", temperature=0.5, top_k=3)
    assert set_fields(llm, ChatParams) == {"top_k": 3}
    with pytest.raises(ValidationError, match="top_k"):
        mixed(model="m", api_key="none", base_url="http://localhost:8000/v1", top_k=-5)


# --- the table ------------------------------------------------------------------------------------------

SEEN = [
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


@pytest.mark.parametrize(("endpoint", "name", "first", "last"), SEEN)
def test_availability(endpoint, name, first, last):
    assert lookup(endpoint, name) == (Version(first), Version(last) if last else None)


@pytest.mark.parametrize("name", ["store", "metadata", "functions", "service_tier", "return_documents", "topk"])
def test_what_vllm_never_declared_is_unknown(name):
    assert all(lookup(endpoint, name) is None for endpoint in TABLE["endpoints"])


def test_names_include_openai_fields_and_additions_do_not():
    assert {"messages", "temperature", "top_k"} <= names("chat")
    assert "top_k" in additions("chat")
    assert not {"messages", "temperature"} & additions("chat")


def test_the_table_is_sound():
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
def test_suggest(endpoint, name, first):
    assert suggest(endpoint, name)[0] == first


@pytest.mark.parametrize(
    ("endpoint", "name"), [("completions", "enable_thinking"), ("tokenize", "regex"), ("chat", "zzz")]
)
def test_suggests_nothing_the_endpoint_does_not_take(endpoint, name):
    assert suggest(endpoint, name) == []


def test_every_suggestion_is_a_name_of_some_endpoint():
    known = frozenset[str]().union(*(names(endpoint) for endpoint in TABLE["endpoints"]))
    for meant in _FOREIGN_NAMES.values():
        assert TypeAdapter(str).validate_python(meant).split("=")[0] in known, meant


# --- the generator --------------------------------------------------------------------------------------


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
    """Run the generator on documents given as dicts; the table starts from a small history."""
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


def test_a_history_becomes_a_table(run):
    table = json.loads(run.table.read_text())
    assert (table["oldest"], table["newest"]) == ("0.8.5", "0.9.0")
    assert table["endpoints"]["chat"] == {
        "guided_json": {"type": "dict[str, Any] | str", "first": "0.8.5"},
        "seed": {"type": "int", "ge": -(2**63), "le": 2**63 - 1, "first": "0.9.0", "openai": True},
        "top_k": {"type": "int", "first": "0.8.5"},
    }


def test_an_endpoint_knows_a_field_as_long_as_one_of_its_forms_does(run):
    assert json.loads(run.table.read_text())["endpoints"]["embeddings"] == {
        "add_special_tokens": {"type": "bool", "first": "0.8.5"},  # no default: the forms differ
        "normalize": {"type": "bool", "first": "0.8.5"},
    }


def test_a_release_adds_removes_and_changes(run):
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
    table, said = run(spec, version="0.10.0")
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
    assert said.splitlines() == [
        "- chat.guided_json: until 0.9.0",
        f"~ chat.seed: ge {-(2**63)} -> None",
        "+ chat.store: bool, since 0.10.0",
        "+ chat.structured_outputs: object, since 0.10.0",
        "~ chat.top_k: ge None -> -1",
        "+ structured_outputs.regex: str, since 0.10.0",
    ]


def test_endpoints_that_no_document_describes_stay_as_they_are(run):
    before = json.loads(run.table.read_text())["endpoints"]["embeddings"]
    table, _ = run(openapi(Chat=(CHAT, {"top_k": {"type": "integer"}})), version="0.10.0")
    assert table["endpoints"]["embeddings"] == before


def test_the_other_server_of_a_release_can_come_later(run):
    run(openapi(Chat=(CHAT, {"top_k": {"type": "integer"}})), version="0.10.0")
    embed = openapi(Embed=("/v1/embeddings", {"add_special_tokens": {"type": "boolean"}}))
    table, _ = run(embed, version="0.10.0")
    assert table["endpoints"]["embeddings"]["normalize"]["last"] == "0.9.0"


def test_forms_in_one_document_or_in_two_are_merged(run):
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


def test_running_again_changes_nothing(run):
    spec = openapi(Chat=(CHAT, {"top_k": {"type": "integer"}, "new": {"enum": ["a", "b"]}}))
    first, _ = run(spec, version="0.10.0")
    before = run.table.read_bytes()
    again, said = run(spec, version="0.10.0")
    assert again == first
    assert said == "no changes\n"
    assert run.table.read_bytes() == before


def test_a_field_that_comes_back_is_known_again(run):
    chat = {"top_k": {"type": "integer"}}
    run(openapi(Chat=(CHAT, chat)), version="0.10.0")
    table, said = run(openapi(Chat=(CHAT, chat | {"guided_json": {"type": "string"}})), version="0.11.0")
    assert table["endpoints"]["chat"]["guided_json"] == {"type": "str", "first": "0.8.5"}
    assert "chat.guided_json: last '0.9.0' -> None" in said


def test_a_release_must_not_be_older_than_the_table(script, run):
    with pytest.raises(SystemExit, match=r"older 0\.8\.9"):
        run(openapi(Chat=(CHAT, {})), version="0.8.9")


def test_documents_need_a_version(script, tmp_path, capsys):
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(openapi(Chat=(CHAT, {}))))
    with pytest.raises(SystemExit):
        script.main([str(spec)])
    assert "--version" in capsys.readouterr().err


def test_the_shipped_table_is_as_the_generator_writes_it(script):
    assert script.written(TABLE) == script.TABLE.read_text()
    assert {name: list(endpoint.paths) for name, endpoint in script.ENDPOINTS.items()} == TABLE["paths"]


def test_pooling_takes_what_its_parents_take():
    assert set(EmbeddingParams.model_fields) < set(PoolingParams.model_fields)
