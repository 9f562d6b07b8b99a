"""The parameter models declare what the table of parameters has, with bounds that vLLM accepts."""

import json
import re

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from vllm_adapters import errors as e
from vllm_adapters._request.availability import (
    additions,
    fields,
    names,
)
from vllm_adapters._request.body import request_body, set_fields
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
    adapter,
    schema_or_error,
)

# The inputs of a request. They are arguments of methods, so the models do not have them.
INPUTS = {
    "embeddings": frozenset({"messages"}),
    "pooling": frozenset({"model", "input", "messages", "data"}),
    "classify": frozenset({"model", "input", "messages"}),
    "score": frozenset({"model", "text_1", "text_2", "data_1", "data_2", "queries", "documents", "items"}),
    "rerank": frozenset({"model", "query", "documents"}),
    "tokenize": frozenset({"model", "prompt", "messages", "tools"}),
}


def validated(model, values):
    """Validate parameters as a request does."""
    given = {name: value for name, value in values.items() if value is not None}
    found = adapter(model).validate_python(given)
    return adapter(model).dump_python(found, mode="json", fallback=schema_or_error)


class Person(BaseModel):
    name: str
    age: int = Field(ge=0)


# Declarations


@pytest.mark.parametrize("endpoint", MODELS)
def test_model_declares_exactly_what_vllm_adds_to_its_endpoint(endpoint):
    assert set(MODELS[endpoint].model_fields) == additions(endpoint) - INPUTS.get(endpoint, frozenset())


@pytest.mark.parametrize("endpoint", INPUTS)
def test_inputs_are_fields_of_their_endpoint(endpoint):
    assert INPUTS[endpoint] <= additions(endpoint)


@pytest.mark.parametrize("endpoint", MODELS)
def test_every_parameter_is_optional_and_described_in_one_line(endpoint):
    for name, field in MODELS[endpoint].model_fields.items():
        assert field.default is None, name
        assert field.description, name
        assert field.description.endswith("."), name
        assert "\n" not in field.description, name


# Versions that changed which values a parameter has, not whether it exists.
OTHER_VERSIONS = {"top_k": {"0.9.0.1"}, "vllm_xargs": {"0.11.1"}, "encoding_format": {"0.11.1"}}


@pytest.mark.parametrize("endpoint", MODELS)
def test_versions_in_descriptions_are_those_of_the_table(endpoint):
    for name, field in MODELS[endpoint].model_fields.items():
        rows = [fields(other)[name] for other in MODELS if name in MODELS[other].model_fields]
        known = {row[key] for row in rows for key in ("first", "last") if key in row}
        named = set(re.findall(r"\d+\.\d+\.\d+(?:\.\d+)?", field.description))
        assert named <= known | OTHER_VERSIONS.get(name, set()), name
        if "last" in fields(endpoint)[name]:
            assert fields(endpoint)[name]["last"] in named, (
                f"{name} was removed: its description must have the last version"
            )


@pytest.mark.parametrize("endpoint", MODELS)
def test_bounds_are_at_least_as_tight_as_those_of_vllm(endpoint):
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
def test_defaults_of_vllm_are_valid(endpoint):
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


# Values

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
    "empty grammar": {"structured_outputs": {"grammar": ""}},
    "empty structural tag": {"structured_outputs": {"structural_tag": ""}},
    "negative count": {"repetition_detection": {"min_count": -1}},
    "nested vllm_xargs": {"vllm_xargs": {"a": {"b": 1}}},
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_invalid_values_raise(values):
    with pytest.raises(ValidationError) as caught:
        validated(ChatParams, values)
    assert caught.value.errors()[0]["loc"][0] == next(iter(values))
    assert caught.value.title == "ChatParams"


def test_error_names_every_invalid_parameter():
    with pytest.raises(ValidationError) as caught:
        validated(ChatParams, {"top_k": "x", "topk": 1, "min_p": 2})
    assert {error["loc"][0] for error in caught.value.errors()} == {"top_k", "topk", "min_p"}


@pytest.mark.parametrize("off", [-1, 0])
def test_both_values_that_disable_top_k_are_valid(off):
    assert validated(ChatParams, {"top_k": off}) == {"top_k": off}


def test_parameters_that_are_none_are_dropped():
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
def test_pydantic_class_becomes_its_schema(values):
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
    value = {"regex": "a", "whitespace_pattern": " "}
    assert TypeAdapter(StructuredOutputs).validate_python(value) == value


# Mixed into a framework's class


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
        ("llama_index.core.base.embeddings.base", "BaseEmbedding", EmbeddingParams),
        ("llama_index.core.postprocessor.types", "BaseNodePostprocessor", RerankParams),
    ],
)
def test_parameters_do_not_shadow_names_of_the_framework(module, base, model):
    framework = getattr(pytest.importorskip(module), base)
    assert not set(model.model_fields) & (_own_names(framework) - set(dir(BaseModel)))
    mixed = create_model("Mixed", __base__=(model, framework))
    assert {k: v for k, v in mixed.model_config.items() if k in framework.model_config} == framework.model_config


def test_set_fields_returns_only_the_parameters_of_the_mixin():
    langchain = pytest.importorskip("langchain_openai.chat_models.base")
    mixed = create_model("Mixed", __base__=(ChatParams, langchain.BaseChatOpenAI))
    llm = mixed(model="m", api_key="none", base_url="http://localhost:8000/v1", temperature=0.5, top_k=3)
    assert set_fields(llm, ChatParams) == {"top_k": 3}
    with pytest.raises(ValidationError, match="top_k"):
        mixed(model="m", api_key="none", base_url="http://localhost:8000/v1", top_k=-5)


def test_pooling_has_every_parameter_of_embeddings():
    assert set(EmbeddingParams.model_fields) - {"late_chunking_params"} < set(PoolingParams.model_fields)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_inside_a_dict_is_refused_with_its_place(number):
    # Pydantic's JSON has null in its place.
    with pytest.raises(e.InvalidRequest, match=r"`chat_template_kwargs.a\[0\]` is (nan|inf)") as caught:
        request_body({"chat_template_kwargs": {"a": [number]}})
    assert caught.value.param == "chat_template_kwargs"
