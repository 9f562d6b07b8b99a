"""``ChatVLLM.with_structured_output``: complete objects or an error, streamed or not."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser, StrOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.output_parsers.transform import BaseCumulativeTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import is_basemodel_subclass

from vllm_adapters._response.structured import (
    check_constraint,
    missing_tool_call,
    model_refusal,
    requested_constraint,
    truncation_error,
)
from vllm_adapters.errors import FilteredOutput, ModelRefusal, TruncatedOutput, VLLMError
from vllm_adapters.langchain._messages import original_arguments, refusal_content
from vllm_adapters.langchain._schemas import ROOT, Schema, convert_response_format, convert_tools, forced_tool
from vllm_adapters.langchain.errors import langchain_errors

if TYPE_CHECKING:
    from vllm_adapters.langchain._binding import BoundChatVLLM
    from vllm_adapters.langchain.chat_models import ChatVLLM

Method = Literal["json_schema", "function_calling", "json_mode", "choice", "regex", "grammar", "structural_tag"]

_TEXT_METHODS = ("choice", "regex", "grammar", "structural_tag")


def structured_output(
    llm: ChatVLLM, schema: Schema, *, method: Method | None, include_raw: bool, strict: bool | None, **kwargs: Any
) -> Runnable[Any, Any]:
    """Return the chain of ``ChatVLLM.with_structured_output``: the bound model, the checks and the parser."""
    method = _checked_method(schema, method)
    if tools := kwargs.pop("tools", None):
        kwargs["tools"] = convert_tools(tools, strict)
    request = _request(schema, method, strict, llm, kwargs)
    check = _ReplyCheck(llm, request)
    parse = RunnableGenerator(check.transform, check.atransform, name="ReplyCheck") | request.parser
    if not include_raw:
        return request.llm | parse  # type: ignore[no-any-return]
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parse, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    # The model comes first, not in a map: a sequence passes the parameters of a call to its first step only.
    raw = RunnableMap(raw=RunnablePassthrough())
    return _FailedToo(request.llm) | raw | parsed.with_fallbacks([failed], exception_key="parsing_error")


# Requests


@dataclass(frozen=True)
class _Request:
    """How an object is requested.

    Args:
        llm: The model, bound to the schema.
        parser: The parser of its replies.
        forced_tool: The name of the tool that it is forced to call, if any.
    """

    llm: BoundChatVLLM
    parser: Any
    forced_tool: str | None = None


def _checked_method(schema: Schema, method: Method | None) -> Method:
    """Return the method, by default that of the schema's type.

    Raises:
        ValueError: The method does not exist, or needs a schema of another type.
    """
    if method is None:
        method = (
            "choice" if _choices(schema) is not None else "regex" if isinstance(schema, re.Pattern) else "json_schema"
        )
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {', '.join(get_args(Method))}, not {method!r}.")
    if schema is None and method != "json_mode":
        raise ValueError(f"`schema` must be given for method={method!r}.")
    if isinstance(schema, str) and method in ("json_schema", "function_calling"):
        raise ValueError("`schema` is a str. Pass method='regex', 'grammar' or 'structural_tag' to tell which it is.")
    return method


def _request(schema: Schema, method: Method, strict: bool | None, llm: ChatVLLM, kwargs: dict[str, Any]) -> _Request:
    traced: dict[str, Any] = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    if method in _TEXT_METHODS:
        constraint, parser = _text_constraint(schema, method)
        traced["schema"] = {"title": method, "type": "string", **constraint}
        return _Request(llm.bind(structured_outputs=constraint, ls_structured_output_format=traced, **kwargs), parser)
    cls: Any = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    if method == "function_calling":
        tool, wrapped = forced_tool(schema, strict)
        name = tool["function"]["name"]
        forced = llm.bind_tools(
            [tool],
            tool_choice=name,
            parallel_tool_calls=False,
            ls_structured_output_format=traced,
            **kwargs,
        )
        tool_parser: Any
        if cls:
            tool_parser = _PydanticToolParser(tools=[cls], first_tool_only=True, name="PydanticToolsParser")
        else:
            parser_class = _RootToolParser if wrapped else JsonOutputKeyToolsParser
            tool_parser = parser_class(key_name=name, first_tool_only=True, name="JsonOutputKeyToolsParser")
        return _Request(forced, tool_parser, name)
    if method == "json_schema":
        form = convert_response_format(schema, strict)
        traced["schema"] = form.get("json_schema", {}).get("schema", schema)
    else:
        form = {"type": "json_object"}
    bound = llm.bind(response_format=form, ls_structured_output_format=traced, **kwargs)
    if cls:
        return _Request(bound, _PydanticParser(pydantic_object=cls, name="PydanticOutputParser"))
    return _Request(bound, _JsonParser(name="JsonOutputParser"))


def _text_constraint(schema: Schema, method: str) -> tuple[dict[str, Any], Any]:
    """Return vLLM's constraint for a method whose result is not an object, and the parser of its replies.

    Raises:
        ValueError: The schema does not fit the method.
    """
    if method == "choice":
        choices = _choices(schema)
        if not choices:
            raise ValueError(
                f"`schema` must be an Enum class, a Literal or a list for method='choice', not {schema!r}."
            )
        return {"choice": list(choices)}, _TextParser(convert=_choice_converter(choices), name="ChoiceParser")
    if method == "regex":
        pattern = schema.pattern if isinstance(schema, re.Pattern) else schema
        if not isinstance(pattern, str):
            raise ValueError(f"`schema` must be a pattern for method='regex', not {schema!r}.")
        return {"regex": pattern}, _TextParser(convert=_match_converter(pattern), name="RegexParser")
    text = json.dumps(schema) if method == "structural_tag" and isinstance(schema, Mapping) else schema
    if not isinstance(text, str):
        raise ValueError(f"`schema` must be a str for method={method!r}, not {schema!r}.")
    return {method: text}, _StreamedTextParser(name="StrOutputParser")


def _choices(schema: Schema) -> dict[str, Any] | None:
    """Return each text that the model may generate and the value it stands for; ``None`` for other schemas."""
    if isinstance(schema, type) and issubclass(schema, Enum):
        return {str(member.value): member for member in schema}
    origin: Any = get_origin(schema)
    if origin is Literal:
        return {str(value): value for value in get_args(schema)}
    if isinstance(schema, list | tuple):
        return {str(value): value for value in schema}
    return None


def _choice_converter(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    # Whitespace around a reply is the chat template's.
    return lambda text: choices[text if text in choices else text.strip()]


def _match_converter(pattern: str) -> Callable[[str], Any]:
    def convert(text: str) -> str:
        try:
            return text if re.fullmatch(pattern, text) else text.strip()
        except re.error:  # vLLM's engines have syntax that Python lacks
            return text.strip()

    return convert


# Checks


_FAILURES = (TruncatedOutput, FilteredOutput, ModelRefusal)


class _FailedToo(Runnable[Any, Any]):
    """The bound model, with a reply that failed as a message: ``include_raw`` returns it, and the check reports it."""

    def __init__(self, llm: BoundChatVLLM) -> None:
        self._llm: Any = llm

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        try:
            return self._llm.invoke(input, config, **kwargs)
        except _FAILURES as error:
            return _failed_message(AIMessage, error)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        try:
            return await self._llm.ainvoke(input, config, **kwargs)
        except _FAILURES as error:
            return _failed_message(AIMessage, error)

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[Any]:
        text = ""
        try:
            for chunk in self._llm.stream(input, config, **kwargs):
                text += str(chunk.text)
                yield chunk
        except _FAILURES as error:
            yield _failed_message(AIMessageChunk, error, text)

    async def astream(self, input: Any, config: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        text = ""
        try:
            async for chunk in self._llm.astream(input, config, **kwargs):
                text += str(chunk.text)
                yield chunk
        except _FAILURES as error:
            yield _failed_message(AIMessageChunk, error, text)


def _failed_message(cls: type[AIMessage], error: VLLMError, received: str = "") -> AIMessage:
    """Return the message of a reply that failed, without the text that has been received already."""
    if isinstance(error, ModelRefusal):
        refusal: dict[str, Any] = {"content": refusal_content(error.refusal)}
        return cls(**refusal, additional_kwargs={"refusal": error.refusal}, response_metadata={"finish_reason": "stop"})
    assert isinstance(error, TruncatedOutput | FilteredOutput)  # noqa: S101  # the only others
    text = error.partial.removeprefix(received)
    return cls(content=text, response_metadata={"finish_reason": error.finish_reason})


class _ReplyCheck:
    """Passes messages on, and raises at the end of one that is truncated or not what was requested.

    It comes before the parser, which closes the brackets of a truncated object.
    """

    def __init__(self, llm: ChatVLLM, request: _Request) -> None:
        self._llm = llm
        self._constraint = requested_constraint(request.llm.kwargs)
        self._forced_tool = request.forced_tool

    def transform(self, chunks: Iterator[Any]) -> Iterator[Any]:
        """Yield the chunks, each before the parser gets it."""
        message = None
        for chunk in chunks:
            message = self._add(message, chunk)
            yield chunk

    async def atransform(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Async version of ``transform``."""
        message = None
        async for chunk in chunks:
            message = self._add(message, chunk)
            yield chunk

    def _add(self, message: Any, chunk: AIMessage) -> AIMessage:
        """Return the message with one more chunk, or the whole message that ``chunk`` is; checked at its end."""
        streamed = isinstance(chunk, AIMessageChunk)
        whole = message + chunk if message is not None and streamed else chunk
        if not streamed or chunk.response_metadata.get("finish_reason"):
            with langchain_errors():
                try:
                    self._check(whole)
                except VLLMError as error:
                    error.add_context(address=self._llm.openai_api_base, model=self._llm._model_name)
                    raise
        return whole

    def _check(self, message: AIMessage) -> None:
        invalid = [original_arguments(call["args"])[0] for call in message.invalid_tool_calls]
        arguments = [*(call["args"] for call in message.tool_calls), *invalid]
        text = str(message.text) or str(arguments[-1] if arguments else "")
        finish_reason = message.response_metadata.get("finish_reason")
        if refusal := message.additional_kwargs.get("refusal"):
            raise model_refusal(refusal)
        if error := truncation_error(finish_reason, text):
            raise error
        if not arguments and finish_reason != "stop":  # else the client has checked it
            # A gateway may call the end of a complete reply otherwise.
            stop_reason = message.response_metadata.get("stop_reason")
            check_constraint(self._constraint, text, finish_reason="stop", stop_reason=stop_reason)
        if self._forced_tool and not message.tool_calls:
            raise missing_tool_call(self._forced_tool, text)


# Parsers


class _AtEnd:
    """Parses whole replies only: a part of an object is not an instance of its class."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = _message(result)
        if (partial and not message.response_metadata.get("finish_reason")) or self._calls_other_tool(message):
            return None
        return super().parse_result(result)  # type: ignore[misc]

    def _calls_other_tool(self, message: AIMessage) -> bool:
        return bool(message.tool_calls)  # tools offered beside the schema


class _PydanticParser(_AtEnd, PydanticOutputParser[Any]):
    """Parses the text to an instance of a class."""


class _PydanticToolParser(_AtEnd, PydanticToolsParser):
    """Parses the arguments of the forced tool call to an instance of a class."""

    def _calls_other_tool(self, message: AIMessage) -> bool:
        return False


class _RootToolParser(JsonOutputKeyToolsParser):
    """Parses the arguments of the forced tool call to the only one, which stands for the whole."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        arguments = super().parse_result(result, partial=partial)
        return arguments.get(ROOT) if isinstance(arguments, Mapping) else arguments


class _JsonParser(JsonOutputParser):
    """Parses the text to a dict, which grows while the reply streams."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return None if _message(result).tool_calls else super().parse_result(result, partial=partial)


class _TextParser(_AtEnd, BaseCumulativeTransformOutputParser[Any]):
    """Parses the text to the value it stands for: a choice, or the match of a regex."""

    convert: Callable[[str], Any]

    def parse(self, text: str) -> Any:
        return self.convert(str(text))  # the text of a message is of a subclass, which YAML refuses


class _StreamedTextParser(StrOutputParser):
    """Returns the text, piece by piece while the reply streams."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = _message(result)
        calls_tool = message.tool_calls and not isinstance(message, AIMessageChunk)
        return None if calls_tool else str(super().parse_result(result, partial=partial))


def _message(result: list[Generation]) -> AIMessage:
    return cast(AIMessage, cast(ChatGeneration, result[0]).message)
