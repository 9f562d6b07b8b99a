"""What older versions of vLLM do, as markers of tests.

Each fact was measured on real servers of the versions in ``version_matrix.VERSIONS``. A version in a marker is the
first of these that has the behaviour. ``CONTRIBUTING.md`` describes how to mark a test.
"""

import pytest

not_enforced_before = pytest.mark.not_enforced_before
vllm_since = pytest.mark.vllm_since

constraint_is_enforced = not_enforced_before("0.30")
"""Older servers with a reasoning parser ignore constraints, because they wait for the end of thinking.

The reply is checked, so that the user gets ``ConstraintNotEnforced`` unless the model happens to keep to it.
"""

_BROKEN_CALL = r"assert \[\] ==|list index out of range|DID NOT RAISE|uniqueItems|'get_weather', '\{\"city"

forced_call_is_enforced = not_enforced_before("0.30", match=_BROKEN_CALL)
"""The same for forced tool calls. Malformed calls are kept apart as invalid, and are not among the tool calls.

A schema with ``uniqueItems`` is refused there, and a call may be cut at another token.
"""

grammar_is_accepted = vllm_since("0.30", before=AssertionError, match="vLLM [0-9.]+ ignores a grammar when")
"""A grammar that the server would ignore, and whose reply cannot be checked, is refused before it is sent."""

reasoning_is_parsed = vllm_since(
    "0.18",
    before=(AssertionError, AttributeError, LookupError),
    match="</think>|This is an e|I have the t|easy question|reasoning|thinking|NoneType|TextBlock|None, int|assert ''",
)
"""The qwen3 parser of older servers leaves thinking that the chat template has begun in the text."""

streamed_call_is_parsed = vllm_since(
    "0.23",
    before=(AssertionError, LookupError, ValueError),
    match=r"<tool_call>|assert \[\] ==|more items?|list index out of range|Expecting value: line 1",
)
"""The hermes parser of older servers leaves a streamed call in the text if thinking is off."""

fingerprint_is_sent = vllm_since("0.23", before=(AttributeError, LookupError), match="system_fingerprint|startswith")
"""Replies of older servers do not tell the version."""

cached_tokens_are_sent = vllm_since(
    "0.28", before=(AssertionError, LookupError), match="prompt_tokens_details|unknown", sometimes=True
)
"""Older servers count cached tokens only when there are any, whatever their flags."""

metrics_are_sent = vllm_since("0.25", before=(AssertionError, LookupError), match="metrics")
"""Older servers have no ``--enable-per-request-metrics``."""

output_is_that_of_the_docs = vllm_since("0.30", reason="the documentation states what this and newer versions print")
