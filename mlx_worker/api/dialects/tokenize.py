"""The bodies of `POST /tokenize` and `POST /detokenize`. [front]"""

from __future__ import annotations

from typing import Annotated

import msgspec

from mlx_worker.api.dialects.base import decode
from mlx_worker.api.dialects.fields import ModelName, refuse_unsupported
from mlx_worker.config.sampler_types import TokenId
from mlx_worker.wire.request import ChatRequest, Sampling

MAX_TEXT = 4_000_000
"""Characters of a text: its tokens come back one by one."""
MAX_TOKENS = 1_000_000
"""Token ids of a text."""


class TokenizeBody(msgspec.Struct, frozen=True):
    """A text, read as a completion's prompt is."""

    prompt: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
    model: ModelName | None = None
    add_special_tokens: bool | None = None


class DetokenizeBody(msgspec.Struct, frozen=True):
    """Token ids."""

    tokens: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_TOKENS)]
    model: ModelName | None = None


def parse_to_tokenize(body: bytes) -> tuple[str | None, ChatRequest | None]:
    """For which model, and what; None where there is no text.

    Raises InvalidRequest, which names the field.
    """
    asked = decode(body, TokenizeBody)
    refuse_unsupported({"add_special_tokens": asked.add_special_tokens is False})
    if not asked.prompt:
        return asked.model, None
    return asked.model, ChatRequest([], Sampling(seed=0), prompt=asked.prompt)


def parse_to_detokenize(body: bytes) -> tuple[str | None, list[int]]:
    """For which model, and which tokens. Raises InvalidRequest, which names the field."""
    asked = decode(body, DetokenizeBody)
    return asked.model, asked.tokens
