"""``with_structured_output`` for vLLM: whole objects or an error, streamed or not."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from enum import Enum
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args, get_origin

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser, StrOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.output_parsers.transform import BaseCumulativeTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from vllm_adapters._response import structured
from vllm_adapters._response.error_mapping import RequestContext, truncation_error
from vllm_adapters.errors import ConstraintNotEnforced

if TYPE_CHECKING:
    from vllm_adapters.langchain.chat_models import ChatVLLM

Schema: TypeAlias = Any
"""A Pydantic, TypedDict or Enum class, a JSON schema, a ``Literal``, a list of choices, a regex or grammar."""

Method = Literal["json_schema", "function_calling", "json_mode", "choice", "regex", "grammar", "structural_tag"]


class _AtTheEnd:
    """Makes objects of whole replies: half of an object is not an instance of its class."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = _message(result)
        if (partial and not message.response_metadata.get("finish_reason")) or self.is_something_else(message):
            return None
        return super().parse_result(result)  # type: ignore[misc]

    def is_something_else(self, message: AIMessage) -> bool:
        return bool(message.tool_calls)  # of tools that were offered as well


class _WholePydantic(_AtTheEnd, PydanticOutputParser[Any]):
    """An object from the text."""


class _WholePydanticCall(_AtTheEnd, PydanticToolsParser):
    """An object from the arguments of a tool call."""

    def is_something_else(self, message: AIMessage) -> bool:
        return False


class _Json(JsonOutputParser):
    """A dict from the text, which grows while it streams."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return None if _message(result).tool_calls else super().parse_result(result, partial=partial)


class _WholeText(_AtTheEnd, BaseCumulativeTransformOutputParser[Any]):
    """What a text stands for: one of the choices, or what matches a regex."""

    read: Callable[[str], Any]

    def parse(self, text: str) -> Any:
        return self.read(text)


class _Text(StrOutputParser):
    """The text itself, piece by piece while it streams."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = _message(result)
        called = message.tool_calls and not isinstance(message, AIMessageChunk)
        return None if called else super().parse_result(result, partial=partial)


def _message(result: list[Generation]) -> AIMessage:
    return cast(AIMessage, cast(ChatGeneration, result[0]).message)


class _Whole:
    """Passes messages on, and raises when one ends that is not whole."""

    def __init__(self, call: RequestContext, asked: Mapping[str, Any], tool_name: str | None) -> None:
        self.call, self.constraint, self.tool_name = call, structured.requested_constraint(asked), tool_name

    def check(self, message: AIMessage) -> None:
        calls = message.tool_calls or message.invalid_tool_calls
        arguments = [call["args"] for call in (*message.tool_calls, *message.invalid_tool_calls)]
        partial = str(message.text) or str(arguments[-1] if arguments else "")
        reason = message.response_metadata.get("finish_reason")
        if error := truncation_error(reason, partial, call=self.call):
            raise error
        if not calls and reason != "stop":  # then the client has judged it
            # Whatever a gateway calls the end: LangChain's parsers close the brackets of half an object.
            stop = message.response_metadata.get("stop_reason")
            structured.check_constraint(
                self.constraint, partial, finish_reason="stop", stop_reason=stop, call=self.call
            )
        if self.tool_name and not message.tool_calls:
            said = str(message.text) or str(calls[0]["args"] if calls else "")
            raise ConstraintNotEnforced(
                f"The reply is not the forced call of `{self.tool_name}`: {said[:200]!r}",
                hint="Use method='json_schema', which needs no tool parser, or check --tool-call-parser",
                reply=said,
                constraint="tool_choice",
            )

    def sync(self, chunks: Iterator[Any]) -> Iterator[Any]:
        message = None
        for chunk in chunks:
            message = _add(message, chunk)
            self.check_if_finished(chunk, message)
            yield chunk

    async def async_(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        message = None
        async for chunk in chunks:
            message = _add(message, chunk)
            self.check_if_finished(chunk, message)
            yield chunk

    def check_if_finished(self, chunk: AIMessage, message: AIMessage) -> None:
        # Before the chunk goes on to the parser, which would report half an object in its own way.
        if chunk.response_metadata.get("finish_reason") or not isinstance(chunk, AIMessageChunk):
            self.check(message)


def _add(message: Any, chunk: Any) -> Any:
    return message + chunk if isinstance(message, AIMessageChunk) and isinstance(chunk, AIMessageChunk) else chunk


def _choices(schema: Schema) -> dict[str, Any] | None:
    """What the model may write, and what it stands for; ``None`` for a schema of another kind."""
    if isinstance(schema, type) and issubclass(schema, Enum):
        return {str(member.value): member for member in schema}
    origin: Any = get_origin(schema)
    if origin is Literal:
        return {str(value): value for value in get_args(schema)}
    if isinstance(schema, list | tuple):
        return {str(value): value for value in schema}
    return None


def _choice(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    # Whitespace around a reply is the chat template's.
    return lambda text: choices[text if text in choices else text.strip()]


def _match(pattern: str) -> Callable[[str], Any]:
    def read(text: str) -> str:
        try:
            return text if re.fullmatch(pattern, text) else text.strip()
        except re.error:  # vLLM's engines know syntax that Python does not
            return text.strip()

    return read


def _bound_by_text(schema: Schema, method: str) -> tuple[dict[str, Any], Any]:
    """vLLM's constraint for a method whose result is no object, and the parser of what it makes."""
    if method == "choice":
        choices = _choices(schema)
        if not choices:
            raise ValueError(f"method='choice' needs an Enum class, a Literal or a list of choices, not {schema!r}")
        return {"choice": list(choices)}, _WholeText(read=_choice(choices))
    if method == "regex":
        pattern = schema.pattern if isinstance(schema, re.Pattern) else schema
        if not isinstance(pattern, str):
            raise ValueError(f"method='regex' needs a pattern, not {schema!r}")
        return {"regex": pattern}, _WholeText(read=_match(pattern))
    text = json.dumps(schema) if method == "structural_tag" and isinstance(schema, Mapping) else schema
    if not isinstance(text, str):
        raise ValueError(f"method={method!r} needs its text, not {schema!r}")
    return {method: text}, _Text()


def _json_schema(schema: Schema) -> Mapping[str, Any]:
    # LangChain asks for a title, to name a tool with; vLLM needs none.
    named = isinstance(schema, Mapping) and {"title", "name", "function", "input_schema"} & schema.keys()
    return schema if isinstance(schema, Mapping) and not named else convert_to_json_schema(schema)


def _asking(
    llm: ChatVLLM, schema: Schema, method: str | None, strict: bool | None, kwargs: dict[str, Any]
) -> tuple[Any, Any, str | None]:
    """The model bound to ``schema``, the parser of its replies, and the tool that it is forced to call, if any."""
    bound: Any
    tool_name: str | None = None
    how: dict[str, Any] = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    pydantic_class: Any = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    parser: Any = _WholePydantic(pydantic_object=pydantic_class) if pydantic_class else _Json()
    if method == "json_schema":
        json_schema = _json_schema(schema)
        how["schema"] = json_schema
        name = str(json_schema.get("title", "reply"))
        shape = {"type": "json_schema", "json_schema": {"name": name, "schema": json_schema, "strict": True}}
        bound = llm.bind(response_format=shape, ls_structured_output_format=how, **kwargs)
    elif method == "json_mode":
        bound = llm.bind(response_format={"type": "json_object"}, ls_structured_output_format=how, **kwargs)
    elif method == "function_calling":
        tool_name = convert_to_openai_tool(schema)["function"]["name"]
        bound = llm.bind_tools(
            [schema],
            tool_choice=tool_name,
            strict=strict,
            parallel_tool_calls=False,
            ls_structured_output_format=how,
            **kwargs,
        )
        parser = (
            _WholePydanticCall(tools=[pydantic_class], first_tool_only=True)
            if pydantic_class
            else JsonOutputKeyToolsParser(key_name=tool_name, first_tool_only=True)
        )
    elif method in ("choice", "regex", "grammar", "structural_tag"):
        constraint, parser = _bound_by_text(schema, method)
        how["schema"] = {"title": method, "type": "string", **constraint}
        bound = llm.bind(structured_outputs=constraint, ls_structured_output_format=how, **kwargs)
    else:
        raise ValueError(f"method is one of {', '.join(get_args(Method))}, not {method!r}")
    return bound, parser, tool_name


def structured_output(
    llm: ChatVLLM, schema: Schema, *, method: Method | None, include_raw: bool, strict: bool | None, **kwargs: Any
) -> Runnable[Any, Any]:
    """The chain of ``ChatVLLM.with_structured_output``; see there."""
    if method is None:
        by_schema = "choice" if _choices(schema) is not None else "regex" if isinstance(schema, re.Pattern) else None
        method = by_schema or "json_schema"  # type: ignore[assignment]
    if schema is None and method != "json_mode":
        raise ValueError(f"method={method!r} needs a schema")
    if isinstance(schema, str) and method in ("json_schema", "function_calling"):
        raise ValueError("A text needs method='regex', 'grammar' or 'structural_tag': say which it is")
    if tools := kwargs.pop("tools", None):
        kwargs["tools"] = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
    bound, parser, tool_name = _asking(llm, schema, method, strict, kwargs)
    whole = _Whole(RequestContext(llm.root_client.address, model=llm.model_name or None), bound.kwargs, tool_name)
    read = RunnableGenerator(whole.sync, whole.async_) | parser
    if not include_raw:
        return bound | read  # type: ignore[no-any-return]
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | read, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")
