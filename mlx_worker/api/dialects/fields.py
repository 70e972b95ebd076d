"""The fields that the bodies of several dialects share, and how their values are resolved.

The samplers are OpenAI's, and others (top_k, min_p, repetition_penalty, and the template's own
arguments) as mlx_lm.server names them; every dialect of this node accepts all of them.

[front]
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from mlx_worker.config.sampler_types import (
    MOST_TOKENS,
    SEED_MASK,
    Bias,
    Penalty,
    ReasoningTokens,
    RepetitionPenalty,
    Seed,
    Temperature,
    TokenId,
    TopK,
    TopP,
    Unit,
)
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.limits import check_depth, check_values
from mlx_worker.wire.request import EndConditions, PromptScoring, Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_worker.config.schema import Defaults

T = TypeVar("T")

ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
StopStrings = ShortText | list[ShortText]

MAX_STOP_BYTES = 16 << 10
"""Of all stop strings of a request together: each is searched for at every character of output."""

ModelName = Annotated[str, msgspec.Meta(max_length=1000)]
"""Limited, because every event of a stream repeats the name."""

GrammarText = Annotated[str, msgspec.Meta(min_length=1)]
"""A regex or grammar; `limits.check_constraint` bounds its bytes."""

Verbosity = Literal["low", "medium", "high"]
"""How long an answer is to be. No template has a place for the value, so it changes no answer."""

_GENERATED_SEED_BITS = 53
"""A generated seed is in the response: as many bits as every JSON parser keeps."""


ChoiceTexts = Annotated[list[ShortText], msgspec.Meta(min_length=1, max_length=10_000)]

SchemaOrText = dict[str, Any] | str
"""A JSON schema, or the text of one."""

StopTokenIds = Annotated[list[TokenId], msgspec.Meta(max_length=1000)]

AlternativeCount = Annotated[int, msgspec.Meta(ge=0, le=20)]
"""The number of alternatives that are reported with each token."""

MinTokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 30)]


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A constraint of the content by one of the first five fields, named as in vLLM.

    The other fields are vLLM's too, and refused unless they ask for nothing.
    """

    json: SchemaOrText | None = None
    regex: GrammarText | None = None
    choice: ChoiceTexts | None = None
    grammar: GrammarText | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None


class CommonFields(msgspec.Struct, frozen=True, kw_only=True):
    """Samplers, the budget of reasoning, the template's arguments, and constraints of the content.

    The last eight fields are other names of the constraints in `structured_outputs`.
    """

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    ignore_eos: bool | None = None
    min_tokens: MinTokens | None = None
    stop_token_ids: StopTokenIds | None = None
    max_reasoning_tokens: ReasoningTokens | None = None
    thinking_token_budget: ReasoningTokens | None = None
    thinking_budget: ReasoningTokens | None = None
    thinking_budget_tokens: ReasoningTokens | None = None
    reasoning_budget: ReasoningTokens | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: GrammarText | None = None
    guided_choice: ChoiceTexts | None = None
    guided_grammar: GrammarText | None = None
    json_schema: SchemaOrText | None = None
    regex: GrammarText | None = None
    grammar: GrammarText | None = None
    ebnf: GrammarText | None = None


def resolve_seed(body: CommonFields, defaults: Defaults) -> int:
    """Return the request's seed, else the model's default, else a generated seed."""
    seed = first_not_none(body.seed, defaults.seed)
    return secrets.randbits(_GENERATED_SEED_BITS) if seed is None else seed


def resolve_sampling(body: CommonFields, defaults: Defaults, seed: int) -> Sampling:
    """Return the request's samplers, else the model's defaults, else those of mlx_lm."""
    values: dict[str, float | None] = {
        name: first_not_none(getattr(body, name), getattr(defaults, name, None))
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
    }
    return Sampling(
        seed=seed & SEED_MASK,
        logit_bias=body.logit_bias or {},
        **{name: value for name, value in values.items() if value is not None},  # type: ignore[arg-type]
    )


def resolve_ends(body: CommonFields) -> EndConditions:
    """Return which tokens end the answer."""
    return EndConditions(bool(body.ignore_eos), body.min_tokens or 0, body.stop_token_ids or [])


def resolve_prompt_scoring(
    prompt_logprobs: int | None, echoed: int | None, *, stream: bool
) -> PromptScoring | None:
    """Return how the prompt's own tokens are scored. Raises InvalidRequest.

    A stream has no place for vLLM's form, and vLLM refuses `prompt_logprobs` there too.
    """
    if prompt_logprobs is not None and stream:
        raise InvalidRequest(
            "prompt_logprobs: cannot be combined with stream: true", param="prompt_logprobs"
        )
    if prompt_logprobs is None and echoed is None:
        return None
    return PromptScoring(echoed, prompt_logprobs)


def build_template_kwargs(body: CommonFields, effort: str | None) -> dict[str, Any]:
    """Return the template's arguments, with a reasoning effort by the names that templates use.

    The request's own `chat_template_kwargs` go first.
    """
    kwargs: dict[str, Any] = {}
    if effort == "none":
        kwargs["enable_thinking"] = False
    elif effort is not None:
        kwargs["reasoning_effort"] = effort
    if body.enable_thinking is not None:
        kwargs["enable_thinking"] = body.enable_thinking
    return kwargs | (body.chat_template_kwargs or {})


def resolve_stop_strings(stop: str | list[str] | None, field: str = "stop") -> list[str]:
    """Return one stop string or several as a list. Raises InvalidRequest for too many bytes."""
    strings = [stop] if isinstance(stop, str) else stop or []
    size = sum(len(string.encode("utf-8", "replace")) for string in strings)
    if size > MAX_STOP_BYTES:
        raise InvalidRequest(
            f"{field}: the strings have {size} bytes; the limit is {MAX_STOP_BYTES}",
            param=field,
        )
    return strings


def require_field(value: T | None, field: str) -> T:
    """Return a value that is not None. Raises InvalidRequest for a field that is not given."""
    if value is None:
        raise InvalidRequest(f"{field}: is required", param=field)
    return value


def first_not_none(*values: T | None) -> T | None:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def resolve_max_tokens(*limits: int | None) -> int | None:
    """Return the first given limit on the answer's tokens; None if none is given.

    The model's process cuts a limit to the room that the prompt leaves.
    """
    limit = first_not_none(*limits)
    return None if limit is None else min(limit, MOST_TOKENS)


def refuse_unsupported(used: Mapping[str, bool]) -> None:
    """Raise UnsupportedField for the first used field that this node cannot honour."""
    for field, is_used in used.items():
        if is_used:
            raise UnsupportedField(f"{field}: this node cannot honour this field", param=field)


def check_free_form(field: str, value: Any, max_values: int) -> None:
    """Raise InvalidRequest if a free-form value has too many values, or cannot be encoded."""
    check_values(value, max_values, field)
    check_encodable(field, value)


def check_encodable(field: str, value: Any) -> None:
    """Raise InvalidRequest if the pipe to a model cannot carry a value.

    JSON has no largest integer and no deepest nesting, the pipe has.
    """
    check_depth(value, field)
    try:
        msgspec.msgpack.encode(value)
    except OverflowError as error:
        raise InvalidRequest(
            f"{field}{_path_of_large_number(value)}: an integer beyond 64 bits; the limits are"
            " -2^63 and 2^64 - 1",
            param=field,
        ) from error


def is_beyond_64_bits(value: Any) -> bool:
    """Return True if the value is an integer that the pipe to a model cannot carry."""
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def _path_of_large_number(value: Any) -> str:
    """Return the path of an integer beyond 64 bits in a JSON value, as ".a.b[0]"; "" for none."""
    if isinstance(value, dict):
        members = ((f".{name}", inner) for name, inner in value.items())
    elif isinstance(value, list):
        members = ((f"[{i}]", inner) for i, inner in enumerate(value))
    else:
        return ""
    for step, inner in members:
        if is_beyond_64_bits(inner):
            return step
        if rest := _path_of_large_number(inner):
            return step + rest
    return ""
