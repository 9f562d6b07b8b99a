"""``with_structured_output`` for vLLM: whole objects or an error, streamed or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import Generation
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

from vllm_adapters.errors import ConstraintNotEnforced, TruncatedOutput

if TYPE_CHECKING:
    from vllm_adapters.langchain.chat import ChatVLLM

Schema = dict[str, Any] | type


class _WholePydantic(PydanticOutputParser[Any]):
    """One object, at the end: half of an object is not an instance of its class."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = getattr(result[0], "message", None)
        if partial and not (message is not None and message.response_metadata.get("finish_reason")):
            return None
        return super().parse_result(result)


class _Whole:
    """Passes messages on, and raises when one ends that is not whole."""

    def __init__(self, tool_name: str | None) -> None:
        self.tool_name = tool_name

    def check(self, message: AIMessage) -> None:
        if message.response_metadata.get("finish_reason") == "length":
            raise TruncatedOutput(
                "The token limit cut the reply before the object was whole",
                hint="Raise max_tokens, or leave it out",
                partial=str(message.text) or str(getattr(message, "tool_call_chunks", "") or message.tool_calls),
            )
        if self.tool_name and not message.tool_calls:
            raise ConstraintNotEnforced(
                f"The reply is not the forced call of `{self.tool_name}`: {str(message.text)[:200]!r}",
                hint="Use method='json_schema', which needs no tool parser, or check --tool-call-parser",
                reply=str(message.text),
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
        if chunk.response_metadata.get("finish_reason"):
            self.check(message)


def _add(message: Any, chunk: Any) -> Any:
    return message + chunk if isinstance(message, AIMessageChunk) and isinstance(chunk, AIMessageChunk) else chunk


def structured(
    llm: ChatVLLM, schema: Schema | None, *, method: str, include_raw: bool, strict: bool | None, **kwargs: Any
) -> Runnable[Any, Any]:
    """The chain of ``ChatVLLM.with_structured_output``; see there."""
    if schema is None and method != "json_mode":
        raise ValueError(f"method={method!r} needs a schema")
    tool_name: str | None = None
    how: dict[str, Any] = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    pydantic_class: Any = schema if isinstance(schema, type) and issubclass(schema, BaseModel) else None
    parser: Any = _WholePydantic(pydantic_object=pydantic_class) if pydantic_class else JsonOutputParser()
    if method == "json_schema":
        json_schema = convert_to_json_schema(schema)  # type: ignore[arg-type]
        how["schema"] = json_schema
        tools = kwargs.pop("tools", None)
        if tools:
            kwargs["tools"] = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        name = str(json_schema.get("title", "reply"))
        shape = {"type": "json_schema", "json_schema": {"name": name, "schema": json_schema, "strict": True}}
        bound: Any = llm.bind(response_format=shape, ls_structured_output_format=how, **kwargs)
    elif method == "json_mode":
        bound = llm.bind(response_format={"type": "json_object"}, ls_structured_output_format=how, **kwargs)
    elif method == "function_calling":
        tool_name = convert_to_openai_tool(schema)["function"]["name"]  # type: ignore[arg-type]
        bound = llm.bind_tools(
            [schema],  # type: ignore[list-item]
            tool_choice=tool_name,
            strict=strict,
            parallel_tool_calls=False,
            ls_structured_output_format=how,
            **kwargs,
        )
        parser = (
            PydanticToolsParser(tools=[pydantic_class], first_tool_only=True)
            if pydantic_class
            else JsonOutputKeyToolsParser(key_name=tool_name, first_tool_only=True)
        )
    else:
        raise ValueError(f"method is json_schema, function_calling or json_mode, not {method!r}")
    whole = _Whole(tool_name)
    read = RunnableGenerator(whole.sync, whole.async_) | parser
    if not include_raw:
        return bound | read  # type: ignore[no-any-return]
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | read, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")
