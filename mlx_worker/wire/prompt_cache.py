"""The messages about cached prompts: warm, clear and trim them, and what is cached now.

[both]
"""

from __future__ import annotations

from typing import Any

from mlx_worker.wire.base import WireMessage

# --- front → child ------------------------------------------------------------------------


class Warm(WireMessage, frozen=True):
    """Prefill a system prompt into the KV cache and keep its KV there.

    `template_kwargs` are those of the chats that will use the prompt.
    """

    id: int
    system_prompt: str
    template_kwargs: dict[str, Any] = {}


class ClearCache(WireMessage, frozen=True):
    """Forget every cached prompt, in memory and on disk."""

    id: int


class TrimCache(WireMessage, frozen=True):
    """Forget cached prompts of at least `nbytes` bytes, the least worth keeping first."""

    id: int
    nbytes: int


# --- child → front ------------------------------------------------------------------------


class PromptWarmed(WireMessage, frozen=True):
    """End a `Warm`: this many tokens of the system prompt are resident."""

    id: int
    tokens: int


class CacheCleared(WireMessage, frozen=True):
    """End a `ClearCache` or a `TrimCache`."""

    id: int


class CacheState(WireMessage, frozen=True):
    """Tell the state of the prompt cache after a change. `last_updated` in ms since the epoch.

    `tokens` and `system_prompt_hash` belong to the prompt last warmed or used; `entries`, `warmed`
    (prompts) and `bytes` of everything resident; `capacity` is the limit on `bytes`.
    """

    tokens: int
    system_prompt_hash: str
    last_updated: float
    entries: int
    warmed: int
    bytes: int
    capacity: int


class DiskState(WireMessage, frozen=True):
    """Tell the state of the KV on disk after a change, at most once a second.

    Counts are those of this process. `records` and `bytes` belong to the model, `total_bytes` and
    `written_today` to the whole folder; `quarantined` records are set aside; `seconds_saved` is
    prefill less reading. `off` is why the disk is not used now, "" where the disk is used.
    """

    records: int
    bytes: int
    total_bytes: int
    capacity: int
    written_today: int
    hits: int
    misses: int
    hit_tokens: int
    seconds_saved: float
    quarantined: int
    corrupt: int
    evicted_segments: int
    dropped: int
    off: str
