"""Types and limits of sampling settings, the same for HTTP, configuration and Python.

A filter or a penalty is off at 0, as in mlx_lm; top-k also at -1, as in vLLM. [both]
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Unit = Annotated[float, msgspec.Meta(ge=0, le=1)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
TopP = Annotated[float, msgspec.Meta(ge=0, le=1)]
TopK = Annotated[int, msgspec.Meta(ge=-1, le=1 << 30)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, msgspec.Meta(ge=0, le=10)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
Seed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Tokens = Annotated[int, msgspec.Meta(ge=1)]
DefaultTokens = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
ReasoningTokens = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]
StopWord = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]

MOST_TOKENS = (1 << 63) - 1
"""Largest `max_tokens` of a request; clients send huge numbers to mean no limit."""

SEED_MASK = (1 << 64) - 1
"""Bits of a seed that the sampler uses: a negative seed is the same 64 bits without a sign."""
