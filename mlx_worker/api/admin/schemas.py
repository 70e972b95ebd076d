"""Type the responses that always have the same shape, also for `openapi.json`.

[front]
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mlx_worker.supervisor.process.states import State


class Readiness(msgspec.Struct, frozen=True):
    """The status in a word, for probes that read the status code."""

    status: Literal["live", "ready", "not ready"]


class Version(msgspec.Struct, frozen=True):
    """The version of mlx-worker."""

    version: str


class ModelEntry(msgspec.Struct, frozen=True):
    """A name that requests may use, with its model, the model's context length and state.

    `created` is when this node started, in seconds since the epoch. `max_model_len` is the context
    length under the name that clients of vLLM read.
    """

    id: str
    created: int
    root: str
    context_length: int | None
    max_model_len: int | None
    state: State
    object: Literal["model"] = "model"
    owned_by: Literal["mlx-worker"] = "mlx-worker"


class ModelList(msgspec.Struct, frozen=True):
    """All names that requests may use."""

    data: list[ModelEntry]
    object: Literal["list"] = "list"


class AnthropicModel(msgspec.Struct, frozen=True):
    """The same in Anthropic's shape; `created_at` is when this node started, in RFC 3339.

    `max_input_tokens` and `max_tokens` are the context length: prompt and response share it.
    """

    id: str
    display_name: str
    created_at: str
    max_input_tokens: int | None
    max_tokens: int | None
    lifecycle: Literal["active"] = "active"
    type: Literal["model"] = "model"


class AnthropicModelList(msgspec.Struct, frozen=True):
    """A page of the names that requests may use."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


class WarmResponse(msgspec.Struct, frozen=True):
    """A prompt that is in the cache: its SHA-256 in hex, its tokens, the time in epoch ms."""

    hash: str
    systemPromptHash: str  # noqa: N815  (the router's spelling)
    tokens: int
    lastUpdated: float  # noqa: N815
    model: str
    success: Literal[True] = True


class ClearResponse(msgspec.Struct, frozen=True):
    """The models whose caches were cleared."""

    cleared: list[str]
    success: Literal[True] = True


class StoredKv(msgspec.Struct, frozen=True, rename="camel"):
    """The KV on disk of the same weights, versions and settings.

    `models` had them, the latest first. `last_used` is in ms since the epoch.
    """

    identity: str
    models: list[str]
    records: int
    tokens: int
    bytes: int
    last_used: float


class DiskContents(msgspec.Struct, frozen=True):
    """The folder of the KV on disk and what is in it; `off` says why there is no folder."""

    path: str | None
    off: str
    stored: list[StoredKv]


class Restarting(msgspec.Struct, frozen=True):
    """The model whose process is restarted."""

    model: str
    restarting: Literal[True] = True


class Loading(msgspec.Struct, frozen=True):
    """The model whose process is started."""

    model: str
    loading: Literal[True] = True


class Unloading(msgspec.Struct, frozen=True):
    """The model whose process is ended."""

    model: str
    unloading: Literal[True] = True


class Cancelled(msgspec.Struct, frozen=True):
    """The request that was cancelled, by the id of its row in the table of requests."""

    id: str
    cancelled: Literal[True] = True
