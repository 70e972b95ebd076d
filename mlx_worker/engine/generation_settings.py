"""The settings of a generation in a Python program, with the same limits as over HTTP.

[child]
"""

from __future__ import annotations

import math
from secrets import randbits
from typing import Annotated, Any, Final

import msgspec

from mlx_worker.config.sampler_types import (
    SEED_MASK,
    Bias,
    Penalty,
    ReasoningTokens,
    RepetitionPenalty,
    Seed,
    StopWord,
    Temperature,
    TokenId,
    Tokens,
    TopK,
    TopP,
    Unit,
)
from mlx_worker.errors import InvalidSetting
from mlx_worker.validation import explain
from mlx_worker.wire.request import ChatRequest, Sampling

TOLERATED: Final = frozenset({"cache_prompt", "metadata", "stream", "user"})
"""Settings that are accepted and have no effect: every prompt is cached, and every answer comes in
pieces."""


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the settings, checked against their limits; None: not given."""

    max_tokens: Tokens | None = None
    max_reasoning_tokens: ReasoningTokens | None = None
    stop: Annotated[list[StopWord], msgspec.Meta(max_length=16)] | None = None
    seed: Seed | None = None
    template_kwargs: dict[str, Any] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Bias] | None = None


_OF_REQUEST: Final = ("max_tokens", "max_reasoning_tokens", "stop", "seed", "template_kwargs")


def chat_request(messages: list[dict[str, Any]], settings: dict[str, Any]) -> ChatRequest:
    """Return a request for the engine; without a seed, a random one is made.

    Raises InvalidSetting, a ValueError, for a value outside its limits, and TypeError for an
    unknown setting.
    """
    known = {name: value for name, value in settings.items() if name not in TOLERATED}
    for name in known:
        if name not in _Settings.__struct_fields__:
            raise TypeError(f"unknown setting {name!r}")
    asked = _checked(known)
    sampling = {
        name: value
        for name in asked.__struct_fields__
        if name not in _OF_REQUEST and (value := getattr(asked, name)) is not None
    }
    return ChatRequest(
        messages=messages,
        sampling=Sampling(
            seed=randbits(64) if asked.seed is None else asked.seed & SEED_MASK, **sampling
        ),
        max_tokens=asked.max_tokens,
        stop=asked.stop or [],
        template_kwargs=asked.template_kwargs or {},
        thinking_budget=None if asked.max_reasoning_tokens == -1 else asked.max_reasoning_tokens,
    )


def _checked(settings: dict[str, Any]) -> _Settings:
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidSetting(f"{name}: {value} is not a finite number", param=name)
    try:
        return msgspec.convert(settings, _Settings)
    except msgspec.ValidationError as error:
        path, problem = explain(error, settings, _Settings)
        raise InvalidSetting(f"{path}: {problem}", param=path) from error
