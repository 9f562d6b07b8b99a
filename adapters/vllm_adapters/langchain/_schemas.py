"""Schemas and tools of requests: as the user wrote them, in every form that LangChain takes.

LangChain's own conversion drops a JSON schema that has a title and no properties (an array, an enum, a map), expands
references until a recursive schema is empty, and rewrites the schemas of strict tools for OpenAI: no additional
properties anywhere, which empties dict arguments. vLLM enforces any schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, TypeAdapter
from typing_extensions import is_typeddict

from vllm_adapters.params import class_schema, enforceable

Schema: TypeAlias = Any
"""A Pydantic, TypedDict or Enum class, a JSON schema, a ``Literal``, a list of choices, a regex or grammar."""

Tool: TypeAlias = Mapping[str, Any] | type | Callable[..., Any] | BaseTool

ROOT = "root"
"""The argument of a tool that stands for a schema that is no object; Pydantic's name for it in ``RootModel``."""

_RESPONSE_FORMATS = frozenset({"json_schema", "json_object", "structural_tag", "text"})
_KEYWORDS = frozenset(
    [
        "$defs",
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "enum",
        "items",
        "not",
        "oneOf",
        "pattern",
        "patternProperties",
        "prefixItems",
        "properties",
        "required",
        "type",
    ]
)
_DEFINITIONS = ("$defs", "definitions")


def convert_response_format(value: Any, strict: bool | None = None) -> Any:
    """Return a ``response_format`` in OpenAI's form, from one, a class, or a JSON schema.

    Args:
        value: Anything that ``with_structured_output`` takes for ``json_schema``, or OpenAI's or vLLM's form.
        strict: The user's setting; ``None`` for what the schema says, else true.
    """
    if isinstance(value, Mapping) and value.get("type") in _RESPONSE_FORMATS:
        return value
    if isinstance(value, Mapping) and value.keys() >= {"name", "schema"}:
        return {"type": "json_schema", "json_schema": value if strict is None else {**value, "strict": strict}}
    schema = convert_schema(value)
    own = _own_strict(value)
    return {
        "type": "json_schema",
        "json_schema": {
            "name": schema_name(value, schema),
            "schema": schema,
            "strict": strict if strict is not None else own if own is not None else True,
        },
    }


def convert_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON schema of a class, a function, a tool, or of a schema in any form that LangChain takes."""
    if isinstance(schema, Mapping):
        return _of_mapping(schema)
    if isinstance(schema, BaseTool):
        function = _convert_tool(schema)["function"]
        return {"title": function["name"], "description": function["description"], **function["parameters"]}
    whole = _whole_schema(schema) if _has_fields(schema) else None
    return enforceable(convert_to_json_schema(schema) if whole is None else whole)  # type: ignore[no-any-return]


def schema_name(schema: Schema, converted: Mapping[str, Any]) -> str:
    """Return the name of a schema, for a response format or a tool.

    Args:
        schema: As the user gave it.
        converted: Its JSON schema.
    """
    name = schema.get("name") if isinstance(schema, Mapping) else getattr(schema, "__name__", None)
    return str(converted.get("title") or name or "reply")


def convert_tools(tools: Iterable[Tool], strict: bool | None) -> list[dict[str, Any]]:
    """Return tools in OpenAI's form, their schemas as the user wrote them.

    Args:
        tools: Functions, classes, schemas or LangChain tools.
        strict: The user's setting; ``None`` leaves it to the client, which marks forced tools as strict.

    Raises:
        ValueError: A tool's schema does not describe an object, which tool calls always are.
    """
    converted = [_convert_tool(tool) for tool in tools]
    for tool in converted:
        function = tool.get("function")
        if isinstance(function, dict) and not is_object(function.get("parameters") or {}):
            raise ValueError(
                f"The schema of tool {function.get('name')!r} must describe an object, not {_described(function)}. "
                "Put it in a property, or pass it to with_structured_output."
            )
    if strict is None:
        return converted
    return [
        {**tool, "function": {"strict": strict, **tool["function"]}} if "function" in tool else tool
        for tool in converted
    ]


def convert_tool_choice(choice: Any, tools: Iterable[Mapping[str, Any]]) -> Any:
    """Return a tool choice in OpenAI's form, from one, a tool's name, ``"any"`` or a bool.

    Args:
        choice: The user's.
        tools: The tools, in OpenAI's form.
    """
    if isinstance(choice, bool):
        return "required" if choice else None
    if choice == "any":
        return "required"
    if isinstance(choice, str) and any((tool.get("function") or {}).get("name") == choice for tool in tools):
        return {"type": "function", "function": {"name": choice}}
    return choice


def forced_tool(schema: Schema, strict: bool | None) -> tuple[dict[str, Any], bool]:
    """Return the tool whose arguments are an instance of ``schema``.

    Args:
        schema: As for ``with_structured_output``.
        strict: The user's setting.

    Returns:
        The tool, and whether its only argument, ``ROOT``, is the instance: that of a schema that is not an object.
    """
    if isinstance(schema, Mapping) and not (_is_tool(schema) or schema.keys() & {"title", "name"}):
        schema = {"title": "reply", **schema}
    tool = _convert_tool(schema)
    function = tool.get("function") or {}
    parameters = function.get("parameters") or {}
    wrapped = not is_object(parameters)
    if wrapped:
        definitions = {name: parameters[name] for name in _DEFINITIONS if name in parameters}
        inner = {name: value for name, value in parameters.items() if name not in definitions}
        whole = {"type": "object", "properties": {ROOT: inner}, "required": [ROOT], "additionalProperties": False}
        tool = {**tool, "function": {**function, "parameters": {**whole, **definitions}}}
    return convert_tools([tool], strict)[0], wrapped


def is_object(schema: Mapping[str, Any]) -> bool:
    """Return whether every instance of a JSON schema is an object, as far as its keywords tell."""
    return _is_object(schema, schema, frozenset())


def _is_object(schema: Any, root: Mapping[str, Any], seen: frozenset[str]) -> bool:
    if not isinstance(schema, Mapping):
        return schema is not False
    if "type" in schema:
        return bool(schema["type"] == "object")
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        return _is_object(_resolve(reference, root), root, seen | {reference})
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return all(isinstance(value, Mapping) for value in values)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and not all(_is_object(branch, root, seen) for branch in schema[keyword]):
            return False
    if "allOf" in schema and not all(_is_object(branch, root, seen) for branch in schema["allOf"]):
        return False
    return not schema.keys() & {"items", "prefixItems", "pattern"}


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            found = found.get(step, {}) if isinstance(found, Mapping) else {}
    return found


def _of_mapping(schema: Mapping[str, Any]) -> dict[str, Any]:
    function = schema.get("function")
    if isinstance(function, Mapping) and "name" in function:
        schema = function
    elif "toolSpec" in schema:
        return convert_to_json_schema(dict(schema))
    if schema.keys() >= {"name", "schema"}:
        return dict(schema["schema"])
    for key in ("parameters", "input_schema"):
        if "name" in schema and isinstance(schema.get(key), Mapping):
            described = {name: schema[name] for name in ("description",) if name in schema}
            return {"title": schema["name"], **described, **schema[key]}
    if "name" in schema and not schema.keys() & _KEYWORDS:  # a tool without arguments
        return convert_to_json_schema(dict(schema))
    # `strict` and `name` are of the response format or the tool, no keywords of a schema.
    return {name: value for name, value in schema.items() if name not in ("strict", "name")}


def _own_strict(schema: Schema) -> bool | None:
    if not isinstance(schema, Mapping):
        return None
    function = schema.get("function")
    strict = (function if isinstance(function, Mapping) else schema).get("strict")
    return strict if isinstance(strict, bool) else None


def _is_tool(schema: Mapping[str, Any]) -> bool:
    """Return whether a mapping is a tool in some provider's form rather than a JSON schema."""
    if "function" in schema or "toolSpec" in schema:
        return True
    if "name" in schema:
        return bool(schema.keys() & {"parameters", "input_schema"} or not schema.keys() & _KEYWORDS)
    return not schema.keys() & (_KEYWORDS | {"title"})


def _convert_tool(tool: Tool) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        if isinstance(schema := tool.get("schema"), Mapping) and "name" in tool:  # OpenAI's form of a json_schema
            own = {name: tool[name] for name in ("name", "description", "strict") if name in tool}
            return {"type": "function", "function": {**own, "parameters": dict(schema)}}
        if _is_tool(tool) or not tool.keys() & {"title", "name"} or str(tool.get("type")).startswith("web_search"):
            return convert_to_openai_tool(dict(tool))
        parameters = dict(tool)
        title, name = parameters.pop("title", None), parameters.pop("name", None)
        function = {"name": str(name or title)}
        for key in ("description", "strict"):
            if key in parameters:
                function[key] = parameters.pop(key)
        return {"type": "function", "function": {**function, "parameters": parameters}}
    converted = None if _has_fields(tool) else convert_to_openai_tool(tool)
    schema = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    whole = _whole_schema(schema) if isinstance(schema, Mapping) or _has_fields(schema) else None
    if converted is None:
        if whole is None:
            return enforceable(convert_to_openai_tool(tool))  # type: ignore[no-any-return]
        title = getattr(tool, "model_config", {}).get("title")
        function = {"name": str(title or getattr(tool, "__name__", "")), "description": whole.get("description", "")}
        converted = {"type": "function", "function": function}
    if whole is None:
        return converted if isinstance(schema, Mapping) else enforceable(converted)
    parameters = {name: value for name, value in whole.items() if name not in ("title", "description")}
    return {**converted, "function": {**converted["function"], "parameters": parameters}}


def _has_fields(schema: Any) -> bool:
    return (isinstance(schema, type) and is_basemodel_subclass(schema)) or is_typeddict(schema)


def _whole_schema(schema: Any) -> dict[str, Any] | None:
    """Return the JSON schema of what LangChain cannot convert: recursive schemas, and fields that may be missing."""
    if isinstance(schema, Mapping):
        return dict(schema) if _is_recursive(schema) else None
    if is_typeddict(schema):
        found = enforceable(TypeAdapter(schema).json_schema())
        optional = bool(getattr(schema, "__optional_keys__", ()))
        return found if optional or _is_recursive(found) else None
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        found = class_schema(schema)
        return found if _is_recursive(found) else None
    return None


def _is_recursive(schema: Mapping[str, Any]) -> bool:
    """Return whether a definition of a JSON schema refers to itself, directly or by way of others."""
    definitions = {
        f"#/{place}/{name}": value for place in _DEFINITIONS for name, value in (schema.get(place) or {}).items()
    }
    graph = {name: set(_references(value)) for name, value in definitions.items()}
    for start in graph:
        seen: set[str] = set()
        pending = list(graph[start])
        while pending:
            step = pending.pop()
            if step == start:
                return True
            if step not in seen:
                seen.add(step)
                pending += graph.get(step, ())
    return "#" in _references(schema)


def _references(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        found = [str(value["$ref"])] if isinstance(value.get("$ref"), str) else []
        return found + [reference for item in value.values() for reference in _references(item)]
    if isinstance(value, list):
        return [reference for item in value for reference in _references(item)]
    return []


def _described(function: Mapping[str, Any]) -> str:
    parameters = function["parameters"]
    return str(parameters["type"]) if isinstance(parameters.get("type"), str) else "other values"
