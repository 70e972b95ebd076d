"""What bodies of several dialects have in common: samplers, stop words, and what is refused.

The samplers are OpenAI's, and those beyond it (top_k, min_p, repetition_penalty, and the template's
own arguments) as mlx_lm.server names them; every dialect of this node takes all of them. [front]
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
    RepetitionPenalty,
    Seed,
    Temperature,
    TokenId,
    TopK,
    TopP,
    Unit,
)
from mlx_worker.config.schema import Defaults
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.limits import check_depth, check_values
from mlx_worker.wire.request import EndConditions, PromptScoring, Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Stop = Word | list[Word]

MOST_STOP_BYTES = 16 << 10
"""Of all stop strings of a request together: each is looked for in every character said."""

ModelName = Annotated[str, msgspec.Meta(max_length=1000)]
"""Every event of a stream repeats the name."""

Language = Annotated[str, msgspec.Meta(min_length=1)]
"""A regex or grammar; `limits.check_constraint` bounds its bytes."""

Verbosity = Literal["low", "medium", "high"]
"""How long an answer is to be. No template has a place for it, so that it changes no answer."""

_MADE_SEED_BITS = 53
"""A seed made here is told to the caller: as many bits as every reader of JSON keeps."""


Choices = Annotated[list[Word], msgspec.Meta(min_length=1, max_length=10_000)]

Schema = dict[str, Any] | str
"""A JSON schema, or the text of one."""

StopTokens = Annotated[list[TokenId], msgspec.Meta(max_length=1000)]

Alternatives = Annotated[int, msgspec.Meta(ge=0, le=20)]
"""How many alternatives are told with a token."""

LeastTokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 30)]


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the content is to be, by one of the first five; named as vLLM names them.

    The others are vLLM's too, and refused unless they ask for nothing.
    """

    json: Schema | None = None
    regex: Language | None = None
    choice: Choices | None = None
    grammar: Language | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None


class Samplers(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen, what the model's template is told, and what the content has to be.

    The last eight fields are other names of the shapes in `structured_outputs`.
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
    min_tokens: LeastTokens | None = None
    stop_token_ids: StopTokens | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Language | None = None
    guided_choice: Choices | None = None
    guided_grammar: Language | None = None
    json_schema: Schema | None = None
    regex: Language | None = None
    grammar: Language | None = None
    ebnf: Language | None = None


def no_defaults(_model: str | None) -> Defaults:
    """For a model that has none."""
    return Defaults()


def seed_of(asked: Samplers, defaults: Defaults) -> int:
    """The caller's own, else the model's, else one that is made."""
    given = first_given(asked.seed, defaults.seed)
    return secrets.randbits(_MADE_SEED_BITS) if given is None else given


def sampling(asked: Samplers, defaults: Defaults, seed: int) -> Sampling:
    """What is asked for, else what the model means by itself, else what mlx_lm does."""
    said: dict[str, float | None] = {
        name: first_given(getattr(asked, name), getattr(defaults, name, None))
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
        logit_bias=asked.logit_bias or {},
        **{name: value for name, value in said.items() if value is not None},  # type: ignore[arg-type]
    )


def ends_of(asked: Samplers) -> EndConditions:
    """Return which tokens end the answer."""
    return EndConditions(bool(asked.ignore_eos), asked.min_tokens or 0, asked.stop_token_ids or [])


def scoring_of(
    prompt_logprobs: int | None, echoed: int | None, *, stream: bool
) -> PromptScoring | None:
    """Return how the prompt's own tokens are scored. Raises InvalidRequest.

    A stream has no place for vLLM's form, and vLLM refuses it there too.
    """
    if prompt_logprobs is not None and stream:
        raise InvalidRequest(
            "prompt_logprobs: told only where the answer is not streamed", param="prompt_logprobs"
        )
    if prompt_logprobs is None and echoed is None:
        return None
    return PromptScoring(echoed, prompt_logprobs)


def template_kwargs(asked: Samplers, effort: str | None) -> dict[str, Any]:
    """The template's arguments: an effort of reasoning by the names that templates give it.

    What the request tells the template itself goes before it.
    """
    told: dict[str, Any] = {}
    if effort == "none":
        told["enable_thinking"] = False
    elif effort is not None:
        told["reasoning_effort"] = effort
    if asked.enable_thinking is not None:
        told["enable_thinking"] = asked.enable_thinking
    return told | (asked.chat_template_kwargs or {})


def stop_words(stop: str | list[str] | None, field: str = "stop") -> list[str]:
    """Return one or several as several. Raises InvalidRequest where they are too much text."""
    words = [stop] if isinstance(stop, str) else stop or []
    length = sum(len(word.encode("utf-8", "replace")) for word in words)
    if length > MOST_STOP_BYTES:
        raise InvalidRequest(
            f"{field}: the strings have {length} bytes; at most {MOST_STOP_BYTES} are taken",
            param=field,
        )
    return words


def required(value: T | None, field: str) -> T:
    """What a type could not say of a field: it has to be there. Raises InvalidRequest."""
    if value is None:
        raise InvalidRequest(f"{field}: is required", param=field)
    return value


def first_given(*values: T | None) -> T | None:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def answer_tokens(*given: int | None) -> int | None:
    """Return the first limit on the answer's tokens that is given; None: no limit is.

    The model's process cuts a limit to the room that the prompt leaves.
    """
    asked = first_given(*given)
    return None if asked is None else min(asked, MOST_TOKENS)


def refuse_unsupported(asked: Mapping[str, bool]) -> None:
    """Raise UnsupportedField for the first known field that asks for what this node has not."""
    for field, is_asked in asked.items():
        if is_asked:
            raise UnsupportedField(f"{field}: this node cannot honour this field", param=field)


def refuse_unsayable(field: str, value: Any, most: int) -> None:
    """Raise InvalidRequest for what is free in form and has too many values, or too large ones."""
    check_values(value, most, field)
    check_portable(field, value)


def check_portable(field: str, value: Any) -> None:
    """Raise InvalidRequest: JSON has no largest integer and no deepest nest, the pipe has."""
    check_depth(value, field)
    try:
        msgspec.msgpack.encode(value)
    except OverflowError as error:
        raise InvalidRequest(
            f"{field}{_place_of_large_number(value)}: a number beyond 64 bits, which are from -2^63"
            " to 2^64 - 1",
            param=field,
        ) from error


def is_beyond_64_bits(value: Any) -> bool:
    """Return True for an integer that the pipe to a model cannot carry."""
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def _place_of_large_number(value: Any) -> str:
    """Return where in a JSON value a number beyond 64 bits is, as ".a.b[0]"."""
    if isinstance(value, dict):
        inner = ((f".{name}", it) for name, it in value.items())
    elif isinstance(value, list):
        inner = ((f"[{place}]", it) for place, it in enumerate(value))
    else:
        return ""
    for step, it in inner:
        if is_beyond_64_bits(it):
            return step
        if rest := _place_of_large_number(it):
            return step + rest
    return ""
