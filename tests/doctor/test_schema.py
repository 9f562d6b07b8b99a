"""Comparison of the server's request schema with our table."""

from __future__ import annotations

from packaging.version import Version

from vllm_adapters._request import availability
from vllm_adapters.doctor.checks.schema import compare_fields, properties, request_schemas, server_fields

DOCUMENT = {
    "paths": {
        "/v1/chat/completions": {
            "post": {
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Chat"}}}}
            }
        },
        "/tokenize": {
            "post": {
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "anyOf": [
                                    {"properties": {"prompt": {}}},
                                    {"properties": {"messages": {}, "_private": {}}},
                                ]
                            }
                        }
                    }
                }
            }
        },
        "/metrics": {"get": {}},
        "/v9/unknown": {"post": {}},
    },
    "components": {
        "schemas": {
            "Chat": {
                "properties": {
                    "model": {},
                    "structured_outputs": {"anyOf": [{"$ref": "#/components/schemas/Outputs"}, {"type": "null"}]},
                }
            },
            "Outputs": {"properties": {"json": {}, "sonnet": {}, "_backend": {}}},
        }
    },
}


def test_alternatives_of_a_request_are_separate_schemas():
    assert [set(properties(schema)) for schema in request_schemas(DOCUMENT, "/tokenize")] == [{"prompt"}, {"messages"}]
    assert not list(request_schemas(DOCUMENT, "/metrics"))
    assert not list(request_schemas(DOCUMENT, "/not/there"))


def test_fields_of_endpoints_and_object_parameters():
    assert server_fields(DOCUMENT) == {
        "chat": {"model", "structured_outputs"},
        "structured_outputs": {"json", "sonnet"},
        "tokenize": {"prompt", "messages"},
    }


def test_lists_of_a_form_have_the_name_of_the_table():
    form = {"properties": {"model": {}, "timestamp_granularities[]": {}, "_internal": {}}}
    assert set(properties(form)) == {"model", "timestamp_granularities"}


def test_unknown_and_missing_fields():
    unknown, gone = compare_fields(server_fields(DOCUMENT), Version("0.32.0"))
    assert unknown == {"structured_outputs": ["sonnet"]}
    assert "top_k" in gone["chat"]
    assert "guided_choice" not in gone["chat"], "removed in 0.12.0"


def test_older_server_is_compared_with_its_own_version():
    _, gone = compare_fields({"chat": frozenset()}, Version("0.11.0"))
    assert "guided_choice" in gone["chat"]
    assert "session_id" not in gone["chat"], "added in 0.28.0"


def test_newer_server_is_compared_with_the_newest_version_of_the_table():
    newer = Version("99")
    ours = {name for name in availability.names("chat") if availability.lookup("chat", name).last is None}
    assert compare_fields({"chat": frozenset(ours | {"teleport"})}, newer) == ({"chat": ["teleport"]}, {})
