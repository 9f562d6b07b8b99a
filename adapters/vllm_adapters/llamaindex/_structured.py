"""Objects of a Pydantic class from a ``VLLM``, whose schema the server enforces: whole, or an error."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.types import PydanticProgramMode
from llama_index.llms.openai import OpenAI
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from vllm_adapters._response import error_mapping
from vllm_adapters._response.structured import Constraint
from vllm_adapters.errors import ConstraintNotEnforced
from vllm_adapters.llamaindex.tools import ToolCalling

M = TypeVar("M", bound=BaseModel)

dispatcher = get_dispatcher(__name__)


@dataclass(frozen=True)
class _Plan:
    """How one object is asked for, and read: all that a sync and an async method share."""

    llm: StructuredPredict
    output_cls: type[BaseModel]
    asking: dict[str, Any]
    by_call: bool

    @cached_property
    def flexible_cls(self) -> type[BaseModel]:
        """The class with all fields optional."""
        return create_flexible_model(self.output_cls)

    def text(self, response: ChatResponse) -> str:
        """The object's JSON, as far as it has come."""
        if not self.by_call:
            return response.message.content or ""
        calls = [block.tool_kwargs for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        return calls[0] if calls and isinstance(calls[0], str) else ""

    def grown(self, response: ChatResponse, before: Any) -> Any:
        """The object so far, its missing fields None."""
        # LlamaIndex's own reader of half an object loses fields that it had already.
        try:
            so_far = from_json(self.text(response).strip() or "{}", allow_partial="trailing-strings")
            return self.flexible_cls.model_validate(so_far)
        except ValueError:  # the end of a value is still to come
            return before or self.flexible_cls()

    def read(self, response: ChatResponse) -> Any:
        """The whole object.

        Raises:
            TruncatedOutput, FilteredOutput: The reply was cut.
            ConstraintNotEnforced: The forced call did not come, or the object breaks its schema.
            pydantic.ValidationError: It keeps to the schema, but not to what the class checks beyond that.
        """
        if self.by_call:
            for call in self.llm.get_tool_calls_from_response(response, error_on_no_tool_call=False):
                return self._made(json.dumps(call.tool_kwargs))
        text = response.message.content or ""
        if error := error_mapping.truncation_error(response.additional_kwargs.get("finish_reason"), text):
            raise error
        if not self.by_call:
            return self._made(text)
        raise ConstraintNotEnforced(
            f"The reply is not the forced call of `{self.output_cls.__name__}`: {text[:200]!r}",
            hint="Use PydanticProgramMode.DEFAULT, which needs no tool parser, or check --tool-call-parser",
            reply=text,
            constraint="tool_choice",
        )

    def _made(self, text: str) -> Any:
        try:
            return self.output_cls.model_validate_json(text)
        except ValidationError:
            # The server may have ended the reply for a reason of its own, or not enforce the schemas of tools.
            broken = Constraint("json", self.output_cls.model_json_schema()).broken_by(text)
            if broken is None:
                raise
        raise ConstraintNotEnforced(
            f"The reply is no {self.output_cls.__name__}: {broken}; reply: {text[:200]!r}",
            hint="Look at its finish_reason, and whether the server enforces the schema",
            reply=text,
            constraint="json",
        )


class StructuredPredict(ToolCalling):
    """``structured_predict`` and its three twins, which ``as_structured_llm`` and programs stand on.

    ``pydantic_program_mode`` says how: ``DEFAULT`` by JSON schema, ``FUNCTION`` by a forced strict tool call,
    others by LlamaIndex's own programs.
    """

    def _plan(
        self, output_cls: type[BaseModel], prompt: PromptTemplate, llm_kwargs: dict[str, Any] | None, args: Any
    ) -> _Plan | None:
        """How to ask for an object; ``None`` to leave it to LlamaIndex's own programs."""
        default = self.pydantic_program_mode == PydanticProgramMode.DEFAULT
        if default and self.should_use_structured_outputs:
            messages = self._extend_messages(prompt.format_messages(llm=self, **args))
            asking = {"messages": messages, **_without_tools(llm_kwargs), "response_format": output_cls}
            return _Plan(self, output_cls, asking, by_call=False)
        by_call = self.pydantic_program_mode == PydanticProgramMode.FUNCTION
        if by_call or (default and self.is_function_calling_model):
            messages = self._extend_messages(prompt.format_messages(llm=self, **args))
            kwargs = {"strict": True, "tool_required": True, **_without_tools(llm_kwargs)}
            asking = self._prepare_chat_with_tools([_tool_of(output_cls)], chat_history=messages, **kwargs)
            return _Plan(self, output_cls, asking, by_call=True)
        return None

    def structured_predict(
        self,
        output_cls: type[M],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> M:
        """An object of ``output_cls``, which vLLM enforces while it generates.

        Args:
            output_cls: A Pydantic class.
            prompt: The prompt; the system prompt goes before it.
            llm_kwargs: Parameters of this call.
            prompt_args: What the prompt's variables stand for.

        Raises:
            TruncatedOutput: The token limit cut the object.
            ConstraintNotEnforced: The server ignored the schema.
        """
        plan = self._plan(output_cls, prompt, llm_kwargs, prompt_args)
        if plan is None:
            # Past OpenAI's class, which forces a tool choice on programs that have no tools; a copy of the
            # prompt, since programs that read text attach their parser to it.
            by_program: M = super(OpenAI, self).structured_predict(
                output_cls, prompt.model_copy(), llm_kwargs=llm_kwargs, **prompt_args
            )
            return by_program
        _started(output_cls, prompt, prompt_args)
        found: M = plan.read(self.chat(**plan.asking))
        dispatcher.event(LLMStructuredPredictEndEvent(output=found))
        return found

    async def astructured_predict(
        self,
        output_cls: type[M],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> M:
        """``structured_predict``, to await."""
        plan = self._plan(output_cls, prompt, llm_kwargs, prompt_args)
        if plan is None:
            by_program: M = await super(OpenAI, self).astructured_predict(
                output_cls, prompt.model_copy(), llm_kwargs=llm_kwargs, **prompt_args
            )
            return by_program
        _started(output_cls, prompt, prompt_args)
        found: M = plan.read(await self.achat(**plan.asking))
        dispatcher.event(LLMStructuredPredictEndEvent(output=found))
        return found

    def _structured_stream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        plan = self._plan(output_cls, prompt, llm_kwargs, prompt_args)
        if plan is None:
            yield from super(OpenAI, self)._structured_stream_call(
                output_cls, prompt.model_copy(), llm_kwargs, **prompt_args
            )
            return
        so_far, response = None, ChatResponse(message=ChatMessage())
        for response in self.stream_chat(**plan.asking):
            if response.additional_kwargs.get("finish_reason") is None:
                so_far = plan.grown(response, so_far)
                yield so_far
        yield plan.read(response)

    async def _structured_astream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        plan = self._plan(output_cls, prompt, llm_kwargs, prompt_args)
        if plan is None:
            return await super(OpenAI, self)._structured_astream_call(
                output_cls, prompt.model_copy(), llm_kwargs, **prompt_args
            )

        async def grow() -> AsyncGenerator[Any, None]:
            so_far, response = None, ChatResponse(message=ChatMessage())
            async for response in await self.astream_chat(**plan.asking):
                if response.additional_kwargs.get("finish_reason") is None:
                    so_far = plan.grown(response, so_far)
                    yield so_far
            yield plan.read(response)

        return grow()


def _without_tools(llm_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    # What the base class adds for its own way to ask.
    return {k: v for k, v in (llm_kwargs or {}).items() if k not in ("tool_choice", "tool_required")}


def _tool_of(output_cls: type[BaseModel]) -> FunctionTool:
    # LlamaIndex's own would describe a class without a docstring by the signature of its constructor.
    metadata = ToolMetadata(
        name=output_cls.__name__, description=(output_cls.__doc__ or "").strip(), fn_schema=output_cls
    )
    return FunctionTool(fn=output_cls, metadata=metadata)


def _started(output_cls: type[BaseModel], prompt: PromptTemplate, args: dict[str, Any]) -> None:
    dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=args))
