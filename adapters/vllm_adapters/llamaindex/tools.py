"""Tool calls for LlamaIndex: enforced by the server, whole or an error, never repaired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.llms.openai_like import OpenAILike

from vllm_adapters._response import error_mapping
from vllm_adapters.errors import InvalidResponse
from vllm_adapters.llamaindex.responses import INVALID
from vllm_adapters.types import ToolCall

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool


class ToolCalling(OpenAILike):
    """How tools are offered, and their calls read."""

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        prepared = super()._prepare_chat_with_tools(
            tools,
            user_msg=user_msg,
            chat_history=list(chat_history or ()),  # the base class appends to it
            verbose=verbose,
            allow_parallel_tool_calls=allow_parallel_tool_calls,
            tool_required=tool_required,
            tool_choice=tool_choice,
            strict=strict,
            **kwargs,
        )
        if tools:  # whatever OpenAI model the served name reminds of
            prepared["parallel_tool_calls"] = allow_parallel_tool_calls
        return prepared

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls of a response; while it streams, those that are whole already.

        Raises:
            TruncatedOutput: The token limit cut a call, or the reply before any.
            InvalidResponse: The arguments of a call are not a JSON object.
            ValueError: There is none, and ``error_on_no_tool_call``.
        """
        reason = response.additional_kwargs.get("finish_reason")
        for broken in response.message.additional_kwargs.get(INVALID, ()):
            raise _broken(broken["name"], broken["arguments"], broken["error"], reason)
        found = []
        for block in response.message.blocks:
            if not isinstance(block, ToolCallBlock):
                continue
            arguments = block.tool_kwargs
            if isinstance(arguments, str):
                call = ToolCall.read(0, block.tool_call_id, block.tool_name, arguments, cut=reason is None)
                if call.arguments is None:
                    continue
                arguments = call.arguments
            found.append(
                ToolSelection(tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=arguments)
            )
        if not found and error_on_no_tool_call:
            if error := error_mapping.truncation_error(reason, response.message.content or ""):
                raise error
            raise ValueError(f"The reply is no tool call: {(response.message.content or '')[:200]!r}")
        return found


def _broken(name: str, text: str, error: str, reason: str | None) -> Exception:
    return error_mapping.truncation_error(reason, text) or InvalidResponse(
        f"The model's call of `{name}` is broken: {error}; its arguments: {text[:200]!r}",
        hint="Offer the tool with strict=True, or force it with tool_choice: vLLM then enforces its schema",
    )
