"""Objects of a Pydantic class: requested with their schema, and parsed completely or rejected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictStartEvent
from llama_index.core.program.utils import FlexibleModel
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index_instrumentation import get_dispatcher
from pydantic import AliasChoices, BaseModel, Field, ValidationError, create_model
from pydantic_core import from_json

from vllm_adapters._response.structured import Constraint, check_constraint, missing_tool_call, truncation_error
from vllm_adapters.llamaindex._messages import tool_selections
from vllm_adapters.params import class_schema

dispatcher = get_dispatcher(__name__)


@dataclass(frozen=True)
class ObjectRequest:
    """A request for one object, and the parser of its reply.

    Args:
        output_cls: The object's class.
        arguments: Arguments for ``VLLM.chat``.
        by_tool_call: Whether the object is requested as the arguments of a tool call.
    """

    output_cls: type[BaseModel]
    arguments: dict[str, Any]
    by_tool_call: bool

    @cached_property
    def flexible_cls(self) -> type[BaseModel]:
        """The class with all fields optional, and of any type."""
        fields: dict[str, Any] = {}
        for name, field in self.output_cls.model_fields.items():
            # LlamaIndex's own function forgets aliases, under which the reply has the values.
            alias = field.validation_alias or field.alias
            given = AliasChoices(*(alias.choices if isinstance(alias, AliasChoices) else [alias]), name)
            fields[name] = (Any, Field(default=None, validation_alias=given) if alias else None)
        return create_model(f"Flexible{self.output_cls.__name__}", __base__=FlexibleModel, **fields)

    def parse_partial(self, response: ChatResponse, previous: BaseModel | None) -> BaseModel:
        """Return the object so far, its missing fields ``None``.

        Args:
            response: The reply so far.
            previous: The object at the chunk before.
        """
        text = response.message.content or ""
        if self.by_tool_call:
            calls = [block.tool_kwargs for block in response.message.blocks if isinstance(block, ToolCallBlock)]
            text = calls[0] if calls and isinstance(calls[0], str) else ""
        try:
            # LlamaIndex's own parser of partial objects loses fields that it had parsed before.
            return self.flexible_cls.model_validate(from_json(text.strip() or "{}", allow_partial="trailing-strings"))
        except ValueError:  # the end of a value is still to come
            return previous or self.flexible_cls()

    def parse(self, response: ChatResponse) -> Any:
        """Return the complete object.

        Raises:
            TruncatedOutput, FilteredOutput: The reply was truncated.
            ConstraintNotEnforced: The forced tool call is missing, or the object violates its schema.
            pydantic.ValidationError: It matches the schema, but violates what the class checks beyond that.
        """
        if self.by_tool_call:
            for call in tool_selections(response):
                return self._validate(json.dumps(call.tool_kwargs))
        text = response.message.content or ""
        if error := truncation_error(response.additional_kwargs.get("finish_reason"), text):
            raise error
        if self.by_tool_call:
            raise missing_tool_call(self.output_cls.__name__, text)
        return self._validate(text)

    def _validate(self, text: str) -> Any:
        try:
            return self.output_cls.model_validate_json(text)
        except ValidationError:
            # The server may have ended the reply for a reason of its own, or not enforce the schemas of tools.
            check_constraint(Constraint("json", class_schema(self.output_cls)), text, finish_reason="stop")
            raise


def without_tool_options(llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return parameters of a call without what LlamaIndex's own classes add for their way of requesting objects."""
    return {name: value for name, value in (llm_kwargs or {}).items() if name not in ("tool_choice", "tool_required")}


def tool_of(output_cls: type[BaseModel]) -> FunctionTool:
    """Return a tool whose arguments are an object of ``output_cls``."""
    # LlamaIndex's own would describe a class without a docstring by the signature of its constructor.
    description = (output_cls.__doc__ or "").strip()
    metadata = ToolMetadata(name=output_cls.__name__, description=description, fn_schema=output_cls)
    return FunctionTool(fn=output_cls, metadata=metadata)


def emit_start(output_cls: type[BaseModel], prompt: PromptTemplate, prompt_args: dict[str, Any]) -> None:
    """Emit LlamaIndex's event for the start of a structured prediction."""
    dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args))
