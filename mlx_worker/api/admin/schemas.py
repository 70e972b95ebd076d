"""The answers that are always of one shape, as `openapi.json` describes them too. [front]"""

from __future__ import annotations

from typing import Literal

import msgspec

from mlx_worker.supervisor.process.states import State


class TokenCount(msgspec.Struct, frozen=True):
    """What the model would read, special tokens and all."""

    input_tokens: int


class TokenizeResponse(msgspec.Struct, frozen=True):
    """Token ids, and how many."""

    tokens: list[int]
    count: int


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """A text."""

    prompt: str


class Readiness(msgspec.Struct, frozen=True):
    """A word for probes, which read the status code."""

    status: Literal["live", "ready", "not ready"]


class ModelEntry(msgspec.Struct, frozen=True):
    """A name that requests may use: of which model, its context length in tokens, its state.

    `created` is when this node started, in seconds since the epoch.
    """

    id: str
    created: int
    root: str
    context_length: int | None
    state: State
    object: Literal["model"] = "model"
    owned_by: Literal["mlx-worker"] = "mlx-worker"


class ModelList(msgspec.Struct, frozen=True):
    """All names."""

    data: list[ModelEntry]
    object: Literal["list"] = "list"


class AnthropicModel(msgspec.Struct, frozen=True):
    """The same name in Anthropic's words; `created_at` is when this node started, in RFC 3339.

    `max_input_tokens` and `max_tokens` are the context length: prompt and answer share it.
    """

    id: str
    display_name: str
    created_at: str
    max_input_tokens: int | None
    max_tokens: int | None
    lifecycle: Literal["active"] = "active"
    type: Literal["model"] = "model"


class AnthropicModelList(msgspec.Struct, frozen=True):
    """A page of all names."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


class WarmResponse(msgspec.Struct, frozen=True):
    """A prompt that is resident: its SHA-256 in hex, in tokens, since when in ms of the epoch."""

    hash: str
    systemPromptHash: str  # noqa: N815  (the router's spelling)
    tokens: int
    lastUpdated: float  # noqa: N815
    model: str
    success: Literal[True] = True


class ClearResponse(msgspec.Struct, frozen=True):
    """The models whose caches are empty now."""

    cleared: list[str]
    success: Literal[True] = True


class Restarting(msgspec.Struct, frozen=True):
    """The model that gets a new process."""

    model: str
    restarting: Literal[True] = True


class Loading(msgspec.Struct, frozen=True):
    """The model that is to run."""

    model: str
    loading: Literal[True] = True


class Unloading(msgspec.Struct, frozen=True):
    """The model whose process is to end."""

    model: str
    unloading: Literal[True] = True
