"""The parameters that vLLM adds to OpenAI's requests: name, type, bounds and description of each.

The models are mixed into a framework's class, ``class ChatVLLM(ChatParams, BaseChatOpenAI)``, and validate dicts of
per-call parameters. ``None`` means: not sent, the server's default applies. Parameters of OpenAI's API are declared
by the SDK and the framework. Which version has which name is data, in ``_request/availability.json``; names that
vLLM has removed are kept here, to be translated or refused.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict, is_typeddict  # Pydantic refuses typing's own before Python 3.12

__all__ = [
    "CONSTRAINTS",
    "MODELS",
    "ChatParams",
    "ClassifyParams",
    "CompletionParams",
    "DecisionParams",
    "EmbeddingParams",
    "MultiModalParams",
    "PoolerParams",
    "PoolingParams",
    "RepetitionDetection",
    "RequestParams",
    "RerankParams",
    "SamplingParams",
    "ScoreParams",
    "ScoringParams",
    "StructuredOutputs",
    "TemplateParams",
    "TextEmbeddingParams",
    "TokenizeParams",
    "TokenizerParams",
    "VectorParams",
]


_FORMATS = frozenset(["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"])
"""The formats of strings that vLLM can enforce."""


def is_schema_class(value: object) -> bool:
    """Return whether a value is a class that states a schema: Pydantic's, a dataclass or a TypedDict."""
    return isinstance(value, type) and (issubclass(value, BaseModel) or is_dataclass(value) or is_typeddict(value))


def class_schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON schema of a Pydantic class, a dataclass or a TypedDict.

    It is without what vLLM refuses and the class checks itself: vLLM knows neither ``uniqueItems``, which sets have,
    nor Pydantic's own formats, as of ``bytes`` and ``SecretStr``.
    """
    schema = cls.model_json_schema() if issubclass(cls, BaseModel) else TypeAdapter(_readable(cls)).json_schema()
    return enforceable(schema)  # type: ignore[no-any-return]


def _readable(type_: Any) -> Any:
    """Return a type in which Pydantic can read each TypedDict: before Python 3.12 it refuses those of ``typing``."""
    if is_typeddict(type_):
        fields = get_type_hints(type_, include_extras=True)
        hints = {
            name: (Required if name in type_.__required_keys__ else NotRequired)[_readable(_unwrapped(hint))]
            for name, hint in fields.items()
        }
        made = TypedDict(type_.__name__, hints)  # type: ignore[misc]
        made.__doc__ = type_.__doc__
        return made
    origin, arguments = get_origin(type_), get_args(type_)
    readable = tuple(_readable(argument) for argument in arguments)
    if origin is None or readable == arguments:
        return type_
    return reduce(or_, readable) if origin is UnionType else origin[readable]


def _unwrapped(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) in (Required, NotRequired) else hint


def enforceable(schema: Any) -> Any:
    """Return the JSON schema of a Python class without what vLLM refuses and the class checks itself."""
    if isinstance(schema, list):
        return [enforceable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: enforceable(value)
        for name, value in schema.items()
        if not (name == "uniqueItems" and value is True)
        and not (name == "format" and isinstance(value, str) and value not in _FORMATS)
    }


def _schema(value: Any) -> Any:
    """Return the JSON schema of a class that states one, and any other value unchanged."""
    return class_schema(value) if is_schema_class(value) else value


JsonSchema = Annotated[dict[str, Any] | str | type[BaseModel], BeforeValidator(_schema)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
TokenLimit = Annotated[int, Field(ge=-1, le=2**63 - 1)]
Count = Annotated[int, Field(ge=0)]
Task = Literal["embed", "classify", "score", "token_embed", "token_classify", "embed&token_classify", "plugin"]
Text = Annotated[str, Field(min_length=1)]
Scalar = str | int | float


class StructuredOutputs(TypedDict, total=False):
    """A constraint on the reply, and how it is enforced."""

    # vLLM silently drops unknown keys, so a misspelt one must be refused here.
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    json: JsonSchema
    regex: str
    choice: Annotated[list[str], Field(min_length=1)]
    grammar: Annotated[str, Field(min_length=1)]  # vLLM answers an empty one with a 500
    json_object: bool
    structural_tag: Annotated[str, Field(min_length=1)]
    disable_any_whitespace: bool
    disable_additional_properties: bool
    whitespace_pattern: str
    disable_fallback: bool


CONSTRAINTS = frozenset({"json", "regex", "choice", "grammar", "json_object", "structural_tag"})
"""The keys of ``structured_outputs`` that are a constraint: a request has at most one."""


def _one_constraint(value: StructuredOutputs) -> StructuredOutputs:
    given = sorted(CONSTRAINTS & value.keys())
    if len(given) > 1:
        raise ValueError(f"give one constraint, not {' and '.join(given)}")
    return value


class RepetitionDetection(TypedDict, total=False):
    """When a reply repeats itself: a pattern of so many tokens, ``min_count`` times in a row."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    max_pattern_size: Count
    min_pattern_size: Count
    min_count: Count


CacheSalt = Annotated[str, Field(min_length=1, max_length=1024)]


class RequestParams(BaseModel):
    """Parameters of every request that runs a model."""

    model_config = ConfigDict(defer_build=True)

    truncate_prompt_tokens: TokenLimit | None = Field(
        default=None, description="Truncate the prompt to this many tokens; -1: to the model's context length."
    )
    truncation_side: Literal["left", "right"] | None = Field(
        default=None, description="Side on which the prompt is truncated: left keeps its last tokens, right its first."
    )
    priority: Int64 | None = Field(
        default=None, description="Priority in the queue, lower first; needs `--scheduling-policy priority`."
    )
    request_id: str | None = Field(default=None, description="Id of the request in the response and the server's log.")
    cache_salt: CacheSalt | None = Field(
        default=None, repr=False, description="Secret that requests must have in common to share cached prompts."
    )


class MultiModalParams(BaseModel):
    """Parameters of images, audio and video."""

    model_config = ConfigDict(defer_build=True)

    mm_processor_kwargs: dict[str, Any] | None = Field(
        default=None, description="Arguments of the model's image, audio or video processor."
    )


class TokenizerParams(BaseModel):
    """Parameters of the tokenizer."""

    model_config = ConfigDict(defer_build=True)

    add_special_tokens: bool | None = Field(
        default=None, description="Let the tokenizer add its own tokens, such as BOS, to the prompt."
    )


class TemplateParams(MultiModalParams, TokenizerParams):
    """Parameters of the chat template."""

    add_generation_prompt: bool | None = Field(default=None, description="End the prompt by opening a reply.")
    continue_final_message: bool | None = Field(
        default=None, description="Continue the last message; needs `add_generation_prompt=False`."
    )
    chat_template: str | None = Field(
        default=None, description="Another Jinja chat template; needs `--trust-request-chat-template`."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description='Variables of the chat template, such as `{"enable_thinking": False}`.'
    )
    media_io_kwargs: dict[str, dict[str, Any]] | None = Field(
        default=None, description='Loading of media: `{"video": {"num_frames": 8}}`. Since 0.18.0.'
    )


class SamplingParams(RequestParams):
    """Sampling parameters of chat completions and completions."""

    top_k: Annotated[int, Field(ge=-1)] | None = Field(
        default=None, description="Sample from the k likeliest tokens; -1 is off, 0 too since 0.9.0.1."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Drop tokens below this share of the likeliest one's probability; 0 is off."
    )
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Above 1 avoids tokens of prompt and reply, below 1 favours them; 1 is off."
    )
    length_penalty: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        default=None, description="How beam search weighs length: above 1 favours longer replies."
    )
    use_beam_search: bool | None = Field(default=None, description="Search with `n` beams instead of sampling.")
    min_tokens: Count | None = Field(
        default=None, description="Minimum number of tokens before a stop or end token may end the reply."
    )
    stop_token_ids: list[int] | None = Field(default=None, description="Further token ids that end the reply.")
    include_stop_str_in_output: bool | None = Field(default=None, description="Keep the stop string in the text.")
    ignore_eos: bool | None = Field(default=None, description="Generate past the model's end token.")
    bad_words: list[Text] | None = Field(
        default=None, description="Words that are never generated; in completions since 0.26.0."
    )
    allowed_token_ids: Annotated[list[Count], Field(min_length=1)] | None = Field(
        default=None, description="The only token ids that may be generated."
    )
    skip_special_tokens: bool | None = Field(default=None, description="False shows special tokens in the text.")
    spaces_between_special_tokens: bool | None = Field(default=None, description="Add spaces between special tokens.")
    prompt_logprobs: Annotated[int, Field(ge=-1)] | None = Field(
        default=None,
        description="Number of log probabilities for each prompt token; -1: all. Not in a stream.",
    )
    logprob_token_ids: list[Count] | None = Field(
        default=None, description="Token ids whose log probability is always reported. Since 0.26.0."
    )
    return_tokens_as_token_ids: bool | None = Field(
        default=None, description="Write the tokens of log probabilities as `token_id:123`."
    )
    return_token_ids: bool | None = Field(
        default=None, description="Add the token ids of prompt and reply to the response. Since 0.10.2."
    )
    return_weight_versions: bool | None = Field(
        default=None,
        description="Add the versions of the weights that made the reply, after live updates. Since 0.33.0.",
    )
    structured_outputs: Annotated[StructuredOutputs, AfterValidator(_one_constraint)] | None = Field(
        default=None, description="Constrain the reply to a JSON schema, regex, choice or grammar. Since 0.11.0."
    )
    thinking_token_budget: Annotated[int, Field(ge=-1)] | None = Field(
        default=None, description="Maximum number of reasoning tokens, -1: no limit; in chat since 0.19.0, else 0.22.0."
    )
    repetition_detection: RepetitionDetection | None = Field(
        default=None, description="When to end a reply that repeats itself. Since 0.17.0."
    )
    watermarking: bool | None = Field(default=None, description="Watermark the text or not. Since 0.30.0.")
    stream_interval: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tokens per streamed chunk, at least the server's number. Since 0.27.0."
    )
    session_id: str | None = Field(
        default=None, description="Id that all requests of a conversation or agent run share. Since 0.28.0."
    )
    vllm_xargs: dict[str, Scalar | list[Scalar]] | None = Field(
        default=None, description="Arguments of the server's plugins. Since 0.9.2, lists since 0.11.1."
    )
    kv_transfer_params: dict[str, Any] | None = Field(
        default=None, description="How prefill and decode servers hand over the KV cache. Since 0.9.0.1."
    )
    ec_transfer_params: dict[str, Any] | None = Field(
        default=None, description="How encoder servers hand over their cache. Since 0.26.0."
    )
    routed_experts_prompt_start: Count | None = Field(
        default=None, description="Prompt token from which routed experts are reported. Since 0.28.0."
    )
    return_token_offsets: bool | None = Field(
        default=None, description="Render endpoints only: the position of each token in the text. Since 0.25.0."
    )
    mm_payload: Literal["tensors", "none"] | None = Field(
        default=None, description="Render endpoints only: with processed media, or without. Since 0.32.0."
    )
    return_mm_kwargs: bool | None = Field(
        default=None, description='Older spelling of `mm_payload`: false is "none". Since 0.32.0.'
    )
    guided_json: JsonSchema | None = Field(default=None, description="Until 0.11.2; now structured_outputs.")
    guided_regex: str | None = Field(default=None, description="Until 0.11.2; now structured_outputs.")
    guided_choice: list[str] | None = Field(default=None, description="Until 0.11.2; now structured_outputs.")
    guided_grammar: str | None = Field(default=None, description="Until 0.11.2; now structured_outputs.")
    structural_tag: str | None = Field(default=None, description="Until 0.11.2; now structured_outputs.")
    guided_whitespace_pattern: str | None = Field(
        default=None, description="Until 0.11.2: regex of the whitespace in JSON; now structured_outputs."
    )
    guided_decoding_backend: str | None = Field(
        default=None, description="Until 0.11.2: the backend of `guided_*`; now chosen by the server."
    )
    logits_processors: list[str | dict[str, Any]] | None = Field(
        default=None, description="Until 0.16.0: Python names of processors that the server runs."
    )


class ChatParams(SamplingParams, TemplateParams):
    """The parameters that vLLM adds to chat completions."""

    include_reasoning: bool | None = Field(default=None, description="False hides the reasoning. Since 0.10.1.")
    documents: list[dict[str, str]] | None = Field(
        default=None, description="Documents for a chat template that uses them, usually with title and text."
    )
    echo: bool | None = Field(default=None, description="Begin the reply with the last assistant message.")
    return_prompt_text: bool | None = Field(
        default=None, description="Add the rendered prompt to the response. Since 0.21.0."
    )
    return_assistant_tokens_mask: bool | None = Field(
        default=None, description="0.25.0 to 0.30.0, render endpoints only: which tokens an assistant wrote."
    )
    best_of: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Until 0.11.2: number of generated replies, of which `n` are returned."
    )


class CompletionParams(SamplingParams, TokenizerParams):
    """The parameters that vLLM adds to completions."""

    prompt_embeds: str | list[str] | None = Field(
        default=None, description="Torch tensors as prompts, in base64; needs `--enable-prompt-embeds`."
    )
    response_format: dict[str, Any] | None = Field(
        default=None, description="As in chat: text, any JSON object, or JSON of a schema."
    )


class PoolerParams(RequestParams, MultiModalParams):
    """Parameters of all endpoints that pool hidden states into vectors or scores."""

    use_activation: bool | None = Field(
        default=None, description="False: raw vectors or scores; in embeddings since 0.16.0, else 0.11.1."
    )
    padding: Literal["max_length", "do_not_pad"] | None = Field(
        default=None, description="Pad the prompt to the model's length, if it needs that. Since 0.29.0."
    )
    additional_data: Any | None = Field(default=None, description="Until 0.9.2: data for a custom pooler.")


class ScoringParams(PoolerParams):
    """Parameters of classification and scoring."""

    activation: bool | None = Field(default=None, description="Until 0.15.1; now use_activation.")
    softmax: bool | None = Field(default=None, description="0.11.1 to 0.15.1; now use_activation.")
    user: str | None = Field(default=None, description="Name of the end user; vLLM does not use it.")


class TextEmbeddingParams(PoolerParams, TokenizerParams):
    """Parameters of text embeddings, without the format of their numbers."""

    normalize: bool | None = Field(default=None, description="0.10.1 to 0.16.0; now use_activation.")


class VectorParams(TextEmbeddingParams):
    """Parameters of embeddings with the format of their numbers."""

    embed_dtype: Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"] | None = Field(
        default=None, description="Number format of vectors sent as base64 or bytes. Since 0.11.1."
    )
    endianness: Literal["native", "big", "little"] | None = Field(
        default=None, description="Byte order of vectors sent as base64 or bytes. Since 0.11.1."
    )


class LateChunkingParams(TypedDict, total=False):
    """How a server of token embeddings divides a long text: one vector for each ``chunk_size`` tokens."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    chunk_size: Annotated[int, Field(ge=1)]


class EmbeddingParams(VectorParams, TemplateParams):
    """The parameters that vLLM adds to embeddings; those of the template apply to messages."""

    late_chunking_params: LateChunkingParams | None = Field(
        default=None, description="Servers of token embeddings: one vector for each chunk of a text. Since 0.33.0."
    )


class PoolingParams(VectorParams, ScoringParams, TemplateParams):
    """The parameters of `/pooling`."""

    task: Task | None = Field(default=None, description="Pooling task. Since 0.11.1.")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Length of the vectors, for Matryoshka models."
    )
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] | None = Field(
        default=None, description="Format of the vectors; bytes since 0.11.1."
    )


class ClassifyParams(ScoringParams, TemplateParams):
    """The parameters of `/classify`."""


class ScoreParams(ScoringParams):
    """The parameters of `/score`."""

    max_tokens_per_query: Count | None = Field(
        default=None, description="Maximum number of tokens of the query; 0: all. Since 0.20.0."
    )
    max_tokens_per_doc: Count | None = Field(
        default=None, description="Maximum number of tokens of each document; 0: all. Since 0.20.0."
    )
    instruction: str | None = Field(
        default=None, description="Instruction that defines relevance, for models that use one. Since 0.22.0."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Variables of the template that combines query and document. Since 0.22.0."
    )


class RerankParams(ScoreParams):
    """The parameters of `/rerank`."""

    top_n: Count | None = Field(default=None, description="Number of documents to return; 0: all.")


class DecisionParams(BaseModel):
    """The parameters of `/v1/decisions`."""

    model_config = ConfigDict(defer_build=True)

    joint: bool | None = Field(default=None, description="Answer the questions together; diffusion models only.")
    cache_salt: CacheSalt | None = Field(
        default=None, repr=False, description="Secret that requests must have in common to share cached prompts."
    )


class TokenizeParams(TemplateParams):
    """The parameters of `/tokenize`."""

    return_token_strs: bool | None = Field(default=None, description="Also return each token's text. Since 0.9.1.")


MODELS: dict[str, type[BaseModel]] = {
    "chat": ChatParams,
    "completions": CompletionParams,
    "embeddings": EmbeddingParams,
    "pooling": PoolingParams,
    "classify": ClassifyParams,
    "score": ScoreParams,
    "rerank": RerankParams,
    "decisions": DecisionParams,
    "tokenize": TokenizeParams,
}
"""The parameters of each endpoint."""


@cache
def adapter(model: type[BaseModel]) -> TypeAdapter[dict[str, Any]]:
    """Return what validates and dumps parameters of a model that are given: the model would visit all its fields.

    Args:
        model: Their declaration, such as ``ChatParams``.
    """
    fields: Any = {
        name: Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        for name, field in model.model_fields.items()
    }
    make: Any = TypedDict
    given = make(model.__name__, fields, total=False)
    given.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(given)


def schema_or_error(value: Any) -> Any:
    """Return the JSON schema of a Pydantic class: what ``adapter(...)`` dumps in place of values it does not know.

    Raises:
        TypeError: The value cannot be JSON data.
    """
    if (schema := _schema(value)) is value:
        raise TypeError(f"a value of type {type(value).__name__} cannot be JSON data")
    return schema
