"""The types of keys of `[[models]]`, with the limits that msgspec checks while the file is read.

[both]
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

ContextLength = Annotated[int, Meta(ge=8, le=1 << 24)]

ReasoningBudget = Annotated[int, Meta(ge=-1, le=1 << 30)]

LoopRepeats = Annotated[int, Meta(ge=2, le=100)]

Speculation = Literal["auto", "on", "off"]

WeightType = Literal["auto", "float32", "bfloat16"]

SplitKind = Literal["tensor", "pipeline"]

Transport = Literal["ring", "jaccl"]

ToolMode = Literal["refuse", "ignore", "prompt"]

HeadLine = Annotated[str, Meta(max_length=200, pattern=r"^[^*\r\n]+\*?$")]
"""A whole line, or the beginning of one with `*` behind it."""

DROPPED_LINES = ("x-anthropic-billing-header:*",)
"""The line of accounting that Claude Code's system prompt begins with."""

EventEndpoint = Annotated[
    str, Meta(pattern=r"^tcp://([0-9.]{7,15}|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}$")
]

SystemPrompt = Annotated[str, Meta(min_length=1, max_length=1_000_000)]
