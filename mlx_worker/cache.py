"""The prompt cache of a model in this process: its state, warming it, clearing it.

The functions a Python program calls; the cache itself is the engine's (`engine.prompt_cache`), the
same one that serves in a child. All safe under threads. [child]
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from mlx_worker import inference
from mlx_worker.engine.prompt_cache import CacheFacts, compute_prompt_hash
from mlx_worker.errors import CacheError, ModelNotFoundError

if TYPE_CHECKING:
    import os

__all__ = [
    "CacheManager",
    "clear_cache",
    "compute_prompt_hash",
    "get_cache_state",
    "warm_cache",
]

_guard = threading.Lock()


def get_cache_state() -> dict[str, Any]:
    """A fresh `{"tokens", "systemPromptHash", "lastUpdated"}` (ms); 0, "", 0 before any use."""
    runtimes = inference.loaded()
    return _state(runtimes[-1].engine.cache.facts if runtimes else CacheFacts())


def _state(facts: CacheFacts) -> dict[str, Any]:
    return {
        "tokens": facts.tokens,
        "systemPromptHash": facts.system_prompt_hash,
        "lastUpdated": facts.last_updated,
    }


def warm_cache(system_prompt: str, *, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Prefill a system prompt into the KV cache and keep it; returns the state after it.

    An empty prompt is 0 tokens and the hash of the empty text. Raises ModelNotFoundError where no
    model is meant or none is at the path, and CacheError with the cause for any other failure, that
    of loading the model included.
    """
    try:
        return _state(inference.runtime(path).warm(system_prompt))
    except ModelNotFoundError:
        raise
    except Exception as error:
        raise CacheError(f"warming failed: {error}") from error


def clear_cache() -> None:
    """Forget every cached prompt of every model; `lastUpdated` is then the moment of that."""
    for runtime in inference.loaded():
        runtime.clear()


class CacheManager:
    """The same three functions as an object; there is only one."""

    _instance: Self | None = None

    def __new__(cls) -> Self:
        """The one instance."""
        with _guard:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
            return cls._instance

    def get_state(self) -> dict[str, Any]:
        """See `get_cache_state`."""
        return get_cache_state()

    def warm(self, system_prompt: str) -> dict[str, Any]:
        """See `warm_cache`."""
        return warm_cache(system_prompt)

    def clear(self) -> None:
        """See `clear_cache`."""
        clear_cache()
