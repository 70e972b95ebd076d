"""The body of `POST /cache/warm`. [front]"""

from __future__ import annotations

from typing import Any

import msgspec

from mlx_worker.api.dialects.base import decode
from mlx_worker.api.dialects.fields import ModelName
from mlx_worker.errors import MissingField, UnsupportedField


class WarmBody(msgspec.Struct, frozen=True):
    """Both spellings of the one required field are in the field."""

    system_prompt: str | None = None
    systemPrompt: str | None = None  # noqa: N815  (the router's spelling)
    model: ModelName | None = None
    tools: list[dict[str, Any]] | None = None


def parse_to_warm(body: bytes) -> tuple[str | None, str]:
    """For which model, and which system prompt. Raises InvalidRequest, which names the field."""
    asked = decode(body, WarmBody)
    prompt = asked.system_prompt if asked.systemPrompt is None else asked.systemPrompt
    if prompt is None:
        raise MissingField("system_prompt (or systemPrompt): is required", param="system_prompt")
    if asked.tools:
        raise UnsupportedField("tools: this node cannot warm with tools", param="tools")
    return asked.model, prompt
