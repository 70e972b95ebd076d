"""The body of `POST /cache/warm`.

[front]
"""

from __future__ import annotations

from typing import Any

import msgspec

from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.api.dialects.fields import ModelName
from mlx_worker.errors import MissingField, UnsupportedField


class WarmRequest(msgspec.Struct, frozen=True):
    """The system prompt to warm, in either of two spellings that clients use."""

    system_prompt: str | None = None
    systemPrompt: str | None = None  # noqa: N815  (the router's spelling)
    model: ModelName | None = None
    tools: list[dict[str, Any]] | None = None


def parse_warm_body(data: bytes) -> tuple[str | None, str]:
    """Return the model's name and the system prompt. Raises InvalidRequest."""
    body = decode_body(data, WarmRequest)
    prompt = body.system_prompt if body.systemPrompt is None else body.systemPrompt
    if prompt is None:
        raise MissingField("system_prompt (or systemPrompt): is required", param="system_prompt")
    if body.tools:
        raise UnsupportedField(
            "tools: warming a system prompt with tools is not supported", param="tools"
        )
    return body.model, prompt
