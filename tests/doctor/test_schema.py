"""The server's schema beside our table."""

from __future__ import annotations

from packaging.version import Version

from vllm_adapters._request import availability
from vllm_adapters.doctor.checks.schema import described, differences, properties, request_forms

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
        "/v9/unheard_of": {"post": {}},
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


def test_every_form_of_a_request_is_read():
    assert [set(properties(form)) for form in request_forms(DOCUMENT, "/tokenize")] == [{"prompt"}, {"messages"}]
    assert not list(request_forms(DOCUMENT, "/metrics"))
    assert not list(request_forms(DOCUMENT, "/not/there"))


def test_endpoints_and_the_parameters_that_are_objects():
    assert described(DOCUMENT) == {
        "chat": {"model", "structured_outputs"},
        "structured_outputs": {"json", "sonnet"},
        "tokenize": {"prompt", "messages"},
    }


def test_what_is_new_and_what_is_gone():
    unknown, gone = differences(described(DOCUMENT), Version("0.32.0"))
    assert unknown == {"structured_outputs": ["sonnet"]}
    assert "top_k" in gone["chat"]
    assert "guided_choice" not in gone["chat"], "0.12.0 took it away"


def test_an_older_server_is_held_to_its_own_version():
    _, gone = differences({"chat": frozenset()}, Version("0.11.0"))
    assert "guided_choice" in gone["chat"]
    assert "session_id" not in gone["chat"], "born in 0.28.0"


def test_a_newer_server_is_compared_with_the_newest_we_know():
    newer = Version("99")
    ours = {name for name in availability.names("chat") if availability.availability("chat", name).last is None}
    assert differences({"chat": frozenset(ours | {"teleport"})}, newer) == ({"chat": ["teleport"]}, {})
